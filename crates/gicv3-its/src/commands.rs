//! Runs each command of the owner.
//!
//! Every function checks first and then acts. `None` is a command error, after
//! which nothing has changed.

use crate::command::{Command, Event};
use crate::devices::{Device, Mapping};
use crate::ids::{CollectionId, DeviceId, EventId, FIRST_LPI, Lpi, RedistributorId, Target};
use crate::its::{AfterRelease, COLLECTIONS, Job};
use crate::lpis::Row;
use crate::owner_table::{DeviceEntry, collection_place, collection_word, device_place};
use crate::physical::collection_of;
use crate::platform::{Clock, Platform, Registers, Report, Share};
use crate::register_writes::ItsCall;
use portcullis_addr::Ipa;
use portcullis_owner_memory::Window;

impl<P, R, T, C, W> ItsCall<'_, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    /// Runs a command, or begins it: the ITS then has a job.
    #[inline]
    pub(crate) fn execute(&mut self, command: Command) -> Option<()> {
        match command {
            Command::Sync(target) => {
                self.common.redistributors.find(target)?;
                self.send_command(command);
                Some(())
            }
            Command::MapInterrupt(event, lpi, collection) => {
                self.map_interrupt(event, lpi, collection, OwnerTableWrite::Needed)
            }
            Command::Invalidate(event) => {
                let mapping = self.mapping_of(event)?.1;
                let at = self.destination(mapping);
                self.common.configure(self.platform, mapping.lpi, at);
                self.send_if_known(at, command)
            }
            Command::MoveInterrupt(event, collection) => self.move_interrupt(event, collection),
            Command::Discard(event) => self.discard(event),
            Command::Generate(event) | Command::Clear(event) => {
                let mapping = self.mapping_of(event)?.1;
                self.send_if_known(self.destination(mapping), command)
            }
            Command::MapDevice {
                device,
                itt,
                event_bits,
            } => self.map_device(device, Ipa::new(itt), event_bits),
            Command::UnmapDevice(device) => self.unmap_device(device),
            Command::MapCollection(collection, target) => self.map_collection(collection, target),
            Command::UnmapCollection(collection) => self.unmap_collection(collection),
            Command::InvalidateAll(collection) => {
                self.unit.route(collection)?;
                if self.none_is_mapped() {
                    return Some(());
                }
                self.unit.job = Some(Job::Configure {
                    collection,
                    from: Lpi(FIRST_LPI),
                });
                Some(())
            }
            Command::MoveAll(from, to) => {
                // What is pending moved with the mapping, when MAPC or MOVI
                // changed that. A physical MOVALL would take along what is not
                // the owner's.
                self.common.redistributors.find(from)?;
                self.common.redistributors.find(to)?;
                Some(())
            }
        }
    }

    /// Makes the physical ITS set the LPI of `event` pending, if the owner has
    /// mapped it and enabled its ITS. An earlier change by the owner may be
    /// half done; the LPI's row says what the physical ITS knows.
    pub(crate) fn send(&mut self, event: Event) {
        let mapped = self.mapping_of(event).filter(|_| self.unit.enabled);
        if mapped.is_some_and(|(_, mapping)| self.is_known(mapping.lpi)) {
            self.send_command(Command::Generate(event));
            self.wait();
        }
    }

    /// The device of an event, and the mapping of the event.
    #[inline(always)]
    fn mapping_of(&self, event: Event) -> Option<(Device, Mapping)> {
        let share = &self.common.share;
        let device = self.unit.devices.get(share, event.device)?;
        if !device.has(event.event) {
            return None;
        }
        Some((device, device.mapping(share, event.event)?))
    }

    /// The redistributor to which the physical ITS sends the LPI of a mapping.
    /// It is that of the collection, since between two commands every LPI has
    /// followed its collection.
    #[inline(always)]
    fn destination(&self, mapping: Mapping) -> Option<RedistributorId> {
        let at = self.unit.route(mapping.collection);
        debug_assert_eq!(
            self.common
                .lpis
                .row(&self.common.share, mapping.lpi)
                .map(|row| row.at),
            Some(at)
        );
        at
    }

    /// Sends the physical ITS a command about an event, if it knows the event,
    /// whose LPI goes to `at`.
    #[inline]
    fn send_if_known(&mut self, at: Option<RedistributorId>, command: Command) -> Option<()> {
        if at.is_some() {
            self.send_command(command);
        }
        Some(())
    }

    /// MAPTI and MAPI. A second one for the same event is UNPREDICTABLE on a
    /// real ITS; here the event is discarded first. An LPI has one event.
    #[inline(always)]
    pub(crate) fn map_interrupt(
        &mut self,
        event: Event,
        lpi: Lpi,
        collection: CollectionId,
        record: OwnerTableWrite,
    ) -> Option<()> {
        let share = self.common.share.clone();
        let device = self.unit.devices.get(&share, event.device)?;
        let known = usize::from(collection.0) < COLLECTIONS;
        if !device.has(event.event) || !known {
            return None;
        }
        // Truncation: fewer ITSs.
        let its = self.its as u8;
        if !self.common.lpis.is_free_for(&share, lpi, its, event) {
            return None;
        }
        let mapping = Mapping { lpi, collection };
        if record == OwnerTableWrite::Needed {
            let entry = device.owner_entry(event.event)?;
            self.platform.store(entry, mapping.word()).ok()?;
        }
        if let Some(before) = device.mapping(&share, event.event) {
            self.unmap_before_remap(event, &device, before);
        }
        let at = self.unit.route(collection);
        device.set(&share, event.event, Some(mapping));
        let row = Row {
            its,
            event,
            collection,
            at,
        };
        self.common.lpis.set_row(&share, lpi, Some(row));
        // The configuration is there before the interrupt is.
        let changed = self.common.configure(self.platform, lpi, at);
        if let Some(at) = at {
            let command = Command::MapInterrupt(event, lpi, collection_of(at));
            let physical = &mut self.unit.physical;
            physical.push(&share, &self.common.clock, command);
            if changed {
                self.send_command(Command::Invalidate(event));
                self.sync(at);
            }
        }
        Some(())
    }

    /// Unmaps an event before it is mapped again.
    #[cold]
    fn unmap_before_remap(&mut self, event: Event, device: &Device, before: Mapping) {
        let known = self.is_known(before.lpi);
        self.unmap(event, device, before.lpi, known);
    }

    /// Whether the physical ITS knows the event of `lpi`.
    pub(crate) fn is_known(&self, lpi: Lpi) -> bool {
        let row = self.common.lpis.row(&self.common.share, lpi);
        row.is_some_and(|row| row.at.is_some())
    }

    /// Unmaps an event from its LPI, but not in the owner's table. `known` says
    /// whether the physical ITS knows the event.
    pub(crate) fn unmap(&mut self, event: Event, device: &Device, lpi: Lpi, known: bool) {
        if known {
            self.send_command(Command::Discard(event));
        }
        let share = &self.common.share;
        self.common.lpis.set_row(share, lpi, None);
        device.set(share, event.event, None);
    }

    fn discard(&mut self, event: Event) -> Option<()> {
        let (device, mapping) = self.mapping_of(event)?;
        let entry = device.owner_entry(event.event)?;
        self.platform.store(entry, 0).ok()?;
        let known = self.destination(mapping).is_some();
        self.unmap(event, &device, mapping.lpi, known);
        Some(())
    }

    /// MOVI. A collection without a redistributor is a command error.
    fn move_interrupt(&mut self, event: Event, collection: CollectionId) -> Option<()> {
        let (device, before) = self.mapping_of(event)?;
        self.unit.route(collection)?;
        let lpi = before.lpi;
        let mapping = Mapping { lpi, collection };
        let entry = device.owner_entry(event.event)?;
        self.platform.store(entry, mapping.word()).ok()?;
        device.set(&self.common.share, event.event, Some(mapping));
        let row = Row {
            // Truncation: fewer ITSs.
            its: self.its as u8,
            event,
            collection,
            at: self.unit.route(before.collection),
        };
        self.move_to_collection(lpi, row);
        Some(())
    }

    /// Sends `lpi` to the redistributor of its collection. `row` is its new
    /// row, but `row.at` is still the old redistributor.
    #[inline]
    pub(crate) fn move_to_collection(&mut self, lpi: Lpi, row: Row) {
        let to = self.unit.route(row.collection);
        let share = &self.common.share;
        let after = Row { at: to, ..row };
        self.common.lpis.change_row(share, lpi, after);
        if row.at == to {
            return;
        }
        let changed = self.common.configure(self.platform, lpi, to);
        let event = row.event;
        match (row.at, to) {
            (Some(_), Some(to)) => {
                self.send_command(Command::MoveInterrupt(event, collection_of(to)))
            }
            (None, Some(to)) => {
                self.send_command(Command::MapInterrupt(event, lpi, collection_of(to)))
            }
            (_, None) => self.send_command(Command::Discard(event)),
        }
        if changed && let Some(to) = to {
            self.send_command(Command::Invalidate(event));
            // The owner waits for where it was, not for where it goes.
            self.sync(to);
        }
    }

    fn map_device(&mut self, device: DeviceId, itt: Ipa, event_bits: u8) -> Option<()> {
        if !self.unit.owns(device) {
            self.common.report = Some(Report::ForeignDevice {
                its: self.its,
                device,
            });
            return None;
        }
        if event_bits > self.unit.event_bits {
            return None;
        }
        // The table has to have the entry, whether or not memory is left.
        device_place(&self.unit.device_table, self.platform, device)?;
        if self.release(device, AfterRelease::Map { itt, event_bits }) {
            return Some(());
        }
        self.add_device(device, itt, event_bits, OwnerTableWrite::Needed)
    }

    /// Maps a device that is not mapped.
    pub(crate) fn add_device(
        &mut self,
        device: DeviceId,
        itt: Ipa,
        event_bits: u8,
        record: OwnerTableWrite,
    ) -> Option<()> {
        // To zero them takes longer than a command.
        let entry = self.unit.physical.typer().itt_entry();
        self.budget.spend(Device::pages(event_bits, entry));
        let Some(new) = self.build_device(device, itt, event_bits) else {
            self.common.report = Some(Report::NoMemory {
                its: self.its,
                device,
                event_bits,
            });
            return None;
        };
        if record == OwnerTableWrite::Needed {
            let entry = DeviceEntry { itt, event_bits };
            let stored = device_place(&self.unit.device_table, self.platform, device)
                .and_then(|at| self.platform.store(at, entry.word()).ok());
            if stored.is_none() {
                self.unit.devices.remove(&self.common.share, device);
                new.free(&self.common.share, self.unit.physical.typer().itt_entry());
                return None;
            }
        }
        self.send_command(Command::MapDevice {
            device,
            itt: new.itt.raw(),
            event_bits,
        });
        Some(())
    }

    fn build_device(&self, device: DeviceId, itt: Ipa, event_bits: u8) -> Option<Device> {
        let share = &self.common.share;
        self.unit.physical.devices().reach(share, device)?;
        let entry = self.unit.physical.typer().itt_entry();
        let new = Device::allocate(share, itt, event_bits, entry)?;
        if self.unit.devices.add(share, device, new).is_none() {
            new.free(share, entry);
            return None;
        }
        Some(new)
    }

    fn unmap_device(&mut self, device: DeviceId) -> Option<()> {
        if !self.unit.owns(device) {
            return None;
        }
        let at = device_place(&self.unit.device_table, self.platform, device)?;
        self.platform.store(at, 0).ok()?;
        self.release(device, AfterRelease::End);
        Some(())
    }

    /// Begins to release a device; `after_release` says what follows. `false`
    /// if it is not mapped.
    pub(crate) fn release(&mut self, device: DeviceId, after_release: AfterRelease) -> bool {
        let mapped = self.unit.devices.get(&self.common.share, device).is_some();
        if mapped {
            self.unit.job = Some(Job::Release {
                device,
                from: EventId(0),
                after_release,
            });
        }
        mapped
    }

    /// Unmaps `device` at the physical ITS, and waits until every redistributor
    /// has seen the commands before. `false` if the ITS failed; it may then
    /// still use the device's table.
    pub(crate) fn unmap_at_physical(&mut self, device: DeviceId) -> bool {
        self.send_command(Command::UnmapDevice(device));
        self.sync_all();
        self.wait()
    }

    /// Makes one redistributor see all earlier commands.
    fn sync(&mut self, at: RedistributorId) {
        if let Some(one) = self.common.redistributors.get(at) {
            self.send_command(Command::Sync(one.target));
        }
    }

    /// Makes every redistributor see all earlier commands.
    pub(crate) fn sync_all(&mut self) {
        let common = &*self.common;
        for (_, one) in common.redistributors.up() {
            let sync = Command::Sync(one.target);
            self.unit.physical.push(&common.share, &common.clock, sync);
        }
    }

    fn map_collection(&mut self, collection: CollectionId, target: Target) -> Option<()> {
        let to = self.common.redistributors.find(target)?;
        if usize::from(collection.0) >= COLLECTIONS {
            return None;
        }
        let at = collection_place(&self.unit.collection_table, self.platform, collection)?;
        self.platform.store(at, collection_word(target)).ok()?;
        if self.unit.route(collection) != Some(to) {
            self.unit.set_route(collection, Some(to));
            self.route(collection);
        }
        Some(())
    }

    fn unmap_collection(&mut self, collection: CollectionId) -> Option<()> {
        let at = collection_place(&self.unit.collection_table, self.platform, collection)?;
        self.platform.store(at, 0).ok()?;
        if self.unit.route(collection).is_some() {
            self.unit.set_route(collection, None);
            self.route(collection);
        }
        Some(())
    }

    /// Whether no LPI is mapped.
    fn none_is_mapped(&mut self) -> bool {
        let lpis = &self.common.lpis;
        // As for reading as many words anywhere else: at most 512.
        self.budget.spend(lpis.count().host / 64 / 8);
        lpis.none_is_mapped(&self.common.share)
    }

    /// Begins to move the LPIs of a collection to its redistributor, if any LPI
    /// is mapped.
    fn route(&mut self, collection: CollectionId) {
        if self.none_is_mapped() {
            return;
        }
        self.unit.job = Some(Job::Route {
            collection,
            from: Lpi(FIRST_LPI),
        });
    }
}

/// Whether the mapping has to be written to the owner's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnerTableWrite {
    /// The mapping is new and has to be written.
    Needed,
    /// The mapping was read from the table.
    AlreadyThere,
}

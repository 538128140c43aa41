//! What each command of the owner's does.
//!
//! Every function checks first and then acts; `None` is a command error, and
//! leaves everything as it was.

use crate::command::{Command, Event};
use crate::device::{Device, Mapping};
use crate::id::{CollectionId, DeviceId, EventId, FIRST_LPI, Lpi, RedistributorId, Target};
use crate::lpi::Row;
use crate::owner_table::{DeviceEntry, collection_place, collection_word, device_place};
use crate::physical::collection_of;
use crate::platform::{Clock, Platform, Registers, Report, Share};
use crate::run::Work;
use crate::unit::{COLLECTIONS, Job, Then};
use portcullis_addr::Ipa;
use portcullis_owner_memory::Window;

impl<P, R, T, C, W> Work<'_, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    /// Carries a command out, or begins to: the unit has a job then.
    #[inline]
    pub(crate) fn execute(&mut self, command: Command) -> Option<()> {
        match command {
            Command::Sync(target) => {
                self.common.redistributors.find(target)?;
                self.tell(command);
                Some(())
            }
            Command::MapInterrupt(event, lpi, collection) => {
                self.map_interrupt(event, lpi, collection, Record::InTable)
            }
            Command::Invalidate(event) => {
                let mapping = self.mapped(event)?.1;
                let at = self.destination(mapping);
                self.common.configure(self.platform, mapping.lpi, at);
                self.tell_mapped(at, command)
            }
            Command::MoveInterrupt(event, collection) => self.move_interrupt(event, collection),
            Command::Discard(event) => self.discard(event),
            Command::Generate(event) | Command::Clear(event) => {
                let mapping = self.mapped(event)?.1;
                self.tell_mapped(self.destination(mapping), command)
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

    /// A message: has the physical ITS make the LPI of `event` pending, if the owner
    /// mapped it and enabled its ITS. Another change of the owner's may be half done: what
    /// the physical ITS knows is what the LPI's row says.
    pub(crate) fn send(&mut self, event: Event) {
        let mapped = self.mapped(event).filter(|_| self.unit.enabled);
        if mapped.is_some_and(|(_, mapping)| self.is_known(mapping.lpi)) {
            self.tell(Command::Generate(event));
            self.complete();
        }
    }

    /// The device of an event, and what it is mapped to.
    #[inline(always)]
    fn mapped(&self, event: Event) -> Option<(Device, Mapping)> {
        let share = &self.common.share;
        let device = self.unit.devices.get(share, event.device)?;
        if !device.has(event.event) {
            return None;
        }
        Some((device, device.mapping(share, event.event)?))
    }

    /// Where the physical ITS sends what is mapped so: where the collection goes,
    /// since between two commands every LPI has followed its collection.
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

    /// Tells the physical ITS a command about an event, if it knows the event, which
    /// goes to `at`.
    #[inline]
    fn tell_mapped(&mut self, at: Option<RedistributorId>, command: Command) -> Option<()> {
        if at.is_some() {
            self.tell(command);
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
        record: Record,
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
        if record == Record::InTable {
            let entry = device.owner_entry(event.event)?;
            self.platform.store(entry, mapping.word()).ok()?;
        }
        if let Some(before) = device.mapping(&share, event.event) {
            self.unmap_again(event, &device, before);
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
                self.tell(Command::Invalidate(event));
                self.sync(at);
            }
        }
        Some(())
    }

    /// Unmaps an event that is to be mapped anew.
    #[cold]
    fn unmap_again(&mut self, event: Event, device: &Device, before: Mapping) {
        let known = self.is_known(before.lpi);
        self.unmap(event, device, before.lpi, known);
    }

    /// Whether the physical ITS knows the event of `lpi`.
    pub(crate) fn is_known(&self, lpi: Lpi) -> bool {
        let row = self.common.lpis.row(&self.common.share, lpi);
        row.is_some_and(|row| row.at.is_some())
    }

    /// Unmaps an event from its LPI, everywhere but in the owner's table. `known` is
    /// whether the physical ITS knows it.
    pub(crate) fn unmap(&mut self, event: Event, device: &Device, lpi: Lpi, known: bool) {
        if known {
            self.tell(Command::Discard(event));
        }
        let share = &self.common.share;
        self.common.lpis.set_row(share, lpi, None);
        device.set(share, event.event, None);
    }

    fn discard(&mut self, event: Event) -> Option<()> {
        let (device, mapping) = self.mapped(event)?;
        let entry = device.owner_entry(event.event)?;
        self.platform.store(entry, 0).ok()?;
        let known = self.destination(mapping).is_some();
        self.unmap(event, &device, mapping.lpi, known);
        Some(())
    }

    /// MOVI. A collection that goes nowhere is a command error.
    fn move_interrupt(&mut self, event: Event, collection: CollectionId) -> Option<()> {
        let (device, before) = self.mapped(event)?;
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
        self.follow(lpi, row);
        Some(())
    }

    /// Sends `lpi` where its collection goes; `row` is what is to be, but for
    /// `at`, which is where it goes now.
    #[inline]
    pub(crate) fn follow(&mut self, lpi: Lpi, row: Row) {
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
            (Some(_), Some(to)) => self.tell(Command::MoveInterrupt(event, collection_of(to))),
            (None, Some(to)) => self.tell(Command::MapInterrupt(event, lpi, collection_of(to))),
            (_, None) => self.tell(Command::Discard(event)),
        }
        if changed && let Some(to) = to {
            self.tell(Command::Invalidate(event));
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
        if self.release(device, Then::Map { itt, event_bits }) {
            return Some(());
        }
        self.add_device(device, itt, event_bits, Record::InTable)
    }

    /// Maps a device that is not mapped.
    pub(crate) fn add_device(
        &mut self,
        device: DeviceId,
        itt: Ipa,
        event_bits: u8,
        record: Record,
    ) -> Option<()> {
        // To zero them takes longer than a command.
        let entry = self.unit.physical.typer().itt_entry();
        self.budget.spend(Device::pages(event_bits, entry));
        let Some(new) = self.make_device(device, itt, event_bits) else {
            self.common.report = Some(Report::NoMemory {
                its: self.its,
                device,
                event_bits,
            });
            return None;
        };
        if record == Record::InTable {
            let entry = DeviceEntry { itt, event_bits };
            let stored = device_place(&self.unit.device_table, self.platform, device)
                .and_then(|at| self.platform.store(at, entry.word()).ok());
            if stored.is_none() {
                self.unit.devices.remove(&self.common.share, device);
                new.free(&self.common.share, self.unit.physical.typer().itt_entry());
                return None;
            }
        }
        self.tell(Command::MapDevice {
            device,
            itt: new.itt.raw(),
            event_bits,
        });
        Some(())
    }

    fn make_device(&self, device: DeviceId, itt: Ipa, event_bits: u8) -> Option<Device> {
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
        self.release(device, Then::End);
        Some(())
    }

    /// Begins to release a device, after which comes `then`. `false` when it is
    /// not mapped.
    pub(crate) fn release(&mut self, device: DeviceId, then: Then) -> bool {
        let mapped = self.unit.devices.get(&self.common.share, device).is_some();
        if mapped {
            self.unit.job = Some(Job::Release {
                device,
                from: EventId(0),
                then,
            });
        }
        mapped
    }

    /// Tells the physical ITS that `device` is unmapped, and waits until every
    /// redistributor has seen what came before. `false` when the ITS failed, which
    /// may go on using the device's table then.
    pub(crate) fn tell_released(&mut self, device: DeviceId) -> bool {
        self.tell(Command::UnmapDevice(device));
        self.sync_all();
        self.complete()
    }

    /// One redistributor has seen what came before.
    fn sync(&mut self, at: RedistributorId) {
        if let Some(one) = self.common.redistributors.get(at) {
            self.tell(Command::Sync(one.target));
        }
    }

    /// Every redistributor has seen what came before.
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

    /// Whether no LPI is mapped at all.
    fn none_is_mapped(&mut self) -> bool {
        let lpis = &self.common.lpis;
        // As for reading as many words anywhere else: at most 512.
        self.budget.spend(lpis.count().host / 64 / 8);
        lpis.none_is_mapped(&self.common.share)
    }

    /// Lets the LPIs of a collection follow it, if there are any at all.
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

/// Whether the owner's table is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The mapping is new.
    InTable,
    /// The mapping was read from the table.
    FromTable,
}

//! Jobs: work that takes longer than a command. Each step is short, and the
//! next call continues where the budget ended.

use crate::command::{Command, Event};
use crate::commands::OwnerTableWrite;
use crate::devices::Mapping;
use crate::ids::{CollectionId, DeviceId, EventId, Lpi};
use crate::its::{AfterRelease, COLLECTIONS, Job};
use crate::lpis::Row;
use crate::owner_table::{
    DeviceEntry, ENTRY, EntryPlace, collection_from_word, collection_place, device_place,
};
use crate::physical::collection_of;
use crate::platform::{Clock, Platform, Registers, Share};
use crate::register_writes::ItsCall;
use portcullis_owner_memory::Window;

/// An LPI with its row, and the LPI to continue with; `None` at the end.
type NextLpi = (Option<(Lpi, Row)>, Option<Lpi>);

const PAGE: u64 = 4096;

/// How many words of the owner's tables are read at a time: 512 bytes. They
/// never cross a page if the first index is a multiple of this.
const RUN: u32 = 64;

impl<P, R, T, C, W> ItsCall<'_, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    /// Does one step of the current job.
    #[cold]
    pub(crate) fn run_job_step(&mut self) {
        let Some(job) = self.unit.job.take() else {
            return;
        };
        match job {
            Job::Release {
                device,
                from,
                after_release,
            } => self.release_events(device, from, after_release),
            Job::Configure { collection, from } => self.configure_some(collection, from),
            Job::Route { collection, from } => self.route_some(collection, from),
            Job::RestoreCollections(from) => self.restore_collections(from),
            Job::RestoreDevices(from) => self.restore_devices(from),
            Job::RestoreEvents { device, from } => self.restore_events(device, from),
            Job::ReleaseAll(from) => self.release_all(from),
        }
    }

    /// Unmaps the events of a device, so that none of its interrupts is pending
    /// any more, then the device, and then frees its tables.
    fn release_events(&mut self, id: DeviceId, from: EventId, after_release: AfterRelease) {
        let Some(device) = self.unit.devices.get(&self.common.share, id) else {
            return;
        };
        let mut event = from;
        while device.has(event) {
            if !self.budget.spend(1) {
                self.unit.job = Some(Job::Release {
                    device: id,
                    from: event,
                    after_release,
                });
                return;
            }
            if event.0.is_multiple_of(RUN) {
                let skipped = device.unmapped(&self.common.share, event);
                if skipped != 0 {
                    // This costs as much as reading as many words elsewhere.
                    self.budget.spend(7);
                    event = EventId(event.0 + skipped);
                    continue;
                }
            }
            if let Some(mapping) = device.mapping(&self.common.share, event) {
                self.budget.spend(3);
                let event = Event { device: id, event };
                let known = self.is_known(mapping.lpi);
                self.unmap(event, &device, mapping.lpi, known);
            }
            event = EventId(event.0 + 1);
        }
        if !self.unmap_at_physical(id) {
            return;
        }
        let share = &self.common.share;
        self.unit.devices.remove(share, id);
        device.free(share, self.unit.physical.typer().itt_entry());
        match after_release {
            AfterRelease::End => {}
            AfterRelease::Map { itt, event_bits } => {
                let added = self.add_device(id, itt, event_bits, OwnerTableWrite::Needed);
                if added.is_none() {
                    self.unit.counts.refused += 1;
                    // The owner's table still has the released device.
                    if let Some(at) = device_place(&self.unit.device_table, self.platform, id) {
                        let _ = self.platform.store(at, 0);
                    }
                }
            }
            AfterRelease::Clear(Some(next)) => self.unit.job = Some(Job::ReleaseAll(next)),
            AfterRelease::Clear(None) => self.drop_tables(),
        }
    }

    /// The next mapped LPI of the collection from `from` on, and the LPI to
    /// continue with. `Err` if the budget ended first.
    fn next_lpi_of(&mut self, collection: CollectionId, from: Lpi) -> Result<NextLpi, Lpi> {
        let mut from = Some(from);
        while let Some(at) = from {
            let budget = &mut self.budget;
            let common = &*self.common;
            let spend = || budget.spend(1);
            let (found, next) = common.lpis.next_mapped(&common.share, at, spend);
            let Some(lpi) = found else {
                return next.map_or(Ok((None, None)), Err);
            };
            if let Some(row) = common.lpis.row(&common.share, lpi)
                && row.collection == collection
                && usize::from(row.its) == self.its
            {
                self.budget.spend(3);
                return Ok((Some((lpi, row)), next));
            }
            from = next;
        }
        Ok((None, None))
    }

    /// INVALL: reads the configuration of all mapped LPIs again, then informs
    /// the redistributor.
    fn configure_some(&mut self, collection: CollectionId, mut from: Lpi) {
        loop {
            match self.next_lpi_of(collection, from) {
                Err(from) => {
                    self.unit.job = Some(Job::Configure { collection, from });
                    return;
                }
                Ok((found, next)) => {
                    if let Some((lpi, row)) = found {
                        self.common.configure(self.platform, lpi, row.at);
                    }
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
        }
        if let Some(at) = self.unit.route(collection) {
            self.send_command(Command::InvalidateAll(collection_of(at)));
        }
    }

    /// MAPC: moves the LPIs of a collection to its redistributor.
    fn route_some(&mut self, collection: CollectionId, mut from: Lpi) {
        loop {
            match self.next_lpi_of(collection, from) {
                Err(from) => {
                    self.unit.job = Some(Job::Route { collection, from });
                    return;
                }
                Ok((found, next)) => {
                    if let Some((lpi, row)) = found {
                        self.move_to_collection(lpi, row);
                    }
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
        }
        // The old redistributors have then seen that the LPIs are gone, and
        // take no late message for one of them.
        self.sync_all();
    }

    fn restore_collections(&mut self, from: CollectionId) {
        self.budget.spend(8);
        let mut words = [0; RUN as usize];
        let count = RUN - u32::from(from.0) % RUN;
        let run = words.get_mut(..count as usize).unwrap_or_default();
        let table = &self.unit.collection_table;
        if let Some(at) = collection_place(table, self.platform, from)
            && self.platform.read(at, run).is_ok()
        {
            for (id, word) in (from.0..).map(CollectionId).zip(run.iter()) {
                if let Some(target) = collection_from_word(*word) {
                    let to = self.common.redistributors.find(target);
                    self.unit.set_route(id, to);
                }
            }
        }
        // At most 64.
        let next = CollectionId(from.0.saturating_add(count as u16));
        self.unit.job = Some(if usize::from(next.0) < COLLECTIONS {
            Job::RestoreCollections(next)
        } else {
            Job::RestoreDevices(DeviceId(0))
        });
    }

    /// Reads the device table from `from` on, up to the next multiple of
    /// [`RUN`].
    fn restore_devices(&mut self, from: DeviceId) {
        let highest = self.unit.devices.highest();
        let table = self.unit.device_table;
        let go_on = |next: Option<u32>| {
            let next = next.map(DeviceId).filter(|next| *next <= highest);
            next.map(Job::RestoreDevices)
        };
        let at = match table.entry(self.platform, from.0) {
            EntryPlace::At(at) => at,
            EntryPlace::NoPage => {
                self.unit.job = go_on(table.next_page(from.0));
                return;
            }
            EntryPlace::OutOfTable => return,
        };
        self.budget.spend(8);
        let mut words = [0; RUN as usize];
        let count = RUN - from.0 % RUN;
        let run = words.get_mut(..count as usize).unwrap_or_default();
        self.unit.job = go_on(from.0.checked_add(count));
        if self.platform.read(at, run).is_err() {
            return;
        }
        let found = (from.0..).zip(run.iter()).find_map(|(id, word)| {
            let id = DeviceId(id);
            let entry = DeviceEntry::from_word(*word)?;
            let right = self.unit.owns(id) && entry.event_bits <= self.unit.event_bits;
            right.then_some((id, entry))
        });
        let Some((id, entry)) = found else {
            return;
        };
        let added = self.add_device(
            id,
            entry.itt,
            entry.event_bits,
            OwnerTableWrite::AlreadyThere,
        );
        self.unit.job = match added {
            Some(()) => Some(Job::RestoreEvents {
                device: id,
                from: EventId(0),
            }),
            None => {
                self.unit.counts.refused += 1;
                go_on(id.0.checked_add(1))
            }
        };
    }

    fn restore_events(&mut self, id: DeviceId, from: EventId) {
        let highest = self.unit.devices.highest();
        let next = id.0.checked_add(1).map(DeviceId);
        self.unit.job = next
            .filter(|next| *next <= highest)
            .map(Job::RestoreDevices);
        let Some(device) = self.unit.devices.get(&self.common.share, id) else {
            return;
        };
        self.budget.spend(8);
        let end = 1u32.checked_shl(device.event_bits.into()).unwrap_or(0);
        let mut words = [0; RUN as usize];
        let at = device.owner_entry(from);
        // A table starts at a multiple of 256, so a run may reach beyond a
        // page. The truncation is intended: the value is at most 512.
        let in_page = at.map_or(RUN, |at| ((PAGE - at.raw() % PAGE) / ENTRY) as u32);
        let count = RUN.min(end.saturating_sub(from.0)).min(in_page);
        let run = words.get_mut(..count as usize).unwrap_or_default();
        if let Some(at) = at
            && self.platform.read(at, run).is_ok()
        {
            for (event, word) in (from.0..).map(EventId).zip(run.iter()) {
                let Some(mapping) = Mapping::from_word(*word) else {
                    continue;
                };
                self.budget.spend(4);
                let event = Event { device: id, event };
                let Mapping { lpi, collection } = mapping;
                if self
                    .map_interrupt(event, lpi, collection, OwnerTableWrite::AlreadyThere)
                    .is_none()
                {
                    self.unit.counts.refused += 1;
                }
            }
        }
        let from = EventId(from.0.saturating_add(count));
        if device.has(from) {
            self.unit.job = Some(Job::RestoreEvents { device: id, from });
        }
    }

    fn release_all(&mut self, from: DeviceId) {
        let share = &self.common.share;
        let (found, next) = self.unit.devices.next(share, from);
        match found {
            Some((device, _)) => {
                self.release(device, AfterRelease::Clear(next));
            }
            None => self.unit.job = next.map(Job::ReleaseAll),
        }
        if self.unit.job.is_none() {
            self.drop_tables();
        }
    }

    /// No device is left: frees the second level of the physical device table.
    fn drop_tables(&mut self) {
        let common = &*self.common;
        let physical = &mut self.unit.physical;
        if !physical.drop_second_level(&common.share, &common.clock) {
            return;
        }
        // The ITS was disabled and may have lost its collections, so they are
        // mapped again.
        for (id, one) in common.redistributors.up() {
            for command in [
                Command::MapCollection(collection_of(id), one.target),
                Command::Sync(one.target),
            ] {
                physical.push(&common.share, &common.clock, command);
            }
        }
    }
}

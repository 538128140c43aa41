//! What takes longer than a command: each step is short, and the next call goes
//! on where the budget ended.

use crate::command::{Command, Event};
use crate::commands::Record;
use crate::device::Mapping;
use crate::id::{CollectionId, DeviceId, EventId, Lpi};
use crate::lpi::Row;
use crate::owner_table::{
    DeviceEntry, ENTRY, Place, collection_from_word, collection_place, device_place,
};
use crate::physical::collection_of;
use crate::platform::{Clock, Platform, Registers, Share};
use crate::run::Work;
use crate::unit::{COLLECTIONS, Job, Then};
use portcullis_owner_memory::Window;

/// An LPI with its row, and where to go on; `None` at the end.
type Found = (Option<(Lpi, Row)>, Option<Lpi>);

const PAGE: u64 = 4096;

/// Words of the owner's tables that are read at a time: 512 bytes, which never
/// cross a page where the first index is a multiple.
const RUN: u32 = 64;

impl<P, R, T, C, W> Work<'_, P, R, T, C, W>
where
    P: Platform<Window = W>,
    R: Registers,
    T: Share,
    C: Clock,
    W: Window,
{
    /// One step of the job that there is.
    #[cold]
    pub(crate) fn step(&mut self) {
        let Some(job) = self.unit.job.take() else {
            return;
        };
        match job {
            Job::Release { device, from, then } => self.release_events(device, from, then),
            Job::Configure { collection, from } => self.configure_some(collection, from),
            Job::Route { collection, from } => self.route_some(collection, from),
            Job::RestoreCollections(from) => self.restore_collections(from),
            Job::RestoreDevices(from) => self.restore_devices(from),
            Job::RestoreEvents { device, from } => self.restore_events(device, from),
            Job::Clear(from) => self.clear(from),
        }
    }

    /// Unmaps the events of a device, so that none of its interrupts is pending any
    /// more, then the device; then its tables go back.
    fn release_events(&mut self, id: DeviceId, from: EventId, then: Then) {
        let Some(device) = self.unit.devices.get(&self.common.share, id) else {
            return;
        };
        let mut event = from;
        while device.has(event) {
            if !self.budget.spend(1) {
                self.unit.job = Some(Job::Release {
                    device: id,
                    from: event,
                    then,
                });
                return;
            }
            if event.0.is_multiple_of(RUN) {
                let skipped = device.unmapped(&self.common.share, event);
                if skipped != 0 {
                    // As for reading as many words anywhere else.
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
        if !self.tell_released(id) {
            return;
        }
        let share = &self.common.share;
        self.unit.devices.remove(share, id);
        device.free(share, self.unit.physical.typer().itt_entry());
        match then {
            Then::End => {}
            Then::Map { itt, event_bits } => {
                let added = self.add_device(id, itt, event_bits, Record::InTable);
                if added.is_none() {
                    self.unit.counts.refused += 1;
                    // The owner's table still has what was released.
                    if let Some(at) = device_place(&self.unit.device_table, self.platform, id) {
                        let _ = self.platform.store(at, 0);
                    }
                }
            }
            Then::Clear(Some(next)) => self.unit.job = Some(Job::Clear(next)),
            Then::Clear(None) => self.drop_tables(),
        }
    }

    /// The next mapped LPI of the collection from `from` on, and where to go on.
    /// `Err` when the budget ended first.
    fn next_of(&mut self, collection: CollectionId, from: Lpi) -> Result<Found, Lpi> {
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

    /// INVALL: the configuration of what is mapped is read again, then the
    /// redistributor is told.
    fn configure_some(&mut self, collection: CollectionId, mut from: Lpi) {
        loop {
            match self.next_of(collection, from) {
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
            self.tell(Command::InvalidateAll(collection_of(at)));
        }
    }

    /// MAPC: what is mapped follows its collection.
    fn route_some(&mut self, collection: CollectionId, mut from: Lpi) {
        loop {
            match self.next_of(collection, from) {
                Err(from) => {
                    self.unit.job = Some(Job::Route { collection, from });
                    return;
                }
                Ok((found, next)) => {
                    if let Some((lpi, row)) = found {
                        self.follow(lpi, row);
                    }
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
            }
        }
        // Where they went before has seen that they are gone, and takes no late
        // message for one of them.
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

    /// Looks at the device table from `from` on, up to the next multiple of a
    /// run.
    fn restore_devices(&mut self, from: DeviceId) {
        let highest = self.unit.devices.highest();
        let table = self.unit.device_table;
        let go_on = |next: Option<u32>| {
            let next = next.map(DeviceId).filter(|next| *next <= highest);
            next.map(Job::RestoreDevices)
        };
        let at = match table.entry(self.platform, from.0) {
            Place::At(at) => at,
            Place::NoPage => {
                self.unit.job = go_on(table.next_page(from.0));
                return;
            }
            Place::Beyond => return,
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
        let added = self.add_device(id, entry.itt, entry.event_bits, Record::FromTable);
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
        // A table starts at a multiple of 256, so that a run may reach beyond a
        // page. Truncation: at most 512.
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
                    .map_interrupt(event, lpi, collection, Record::FromTable)
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

    fn clear(&mut self, from: DeviceId) {
        let share = &self.common.share;
        let (found, next) = self.unit.devices.next(share, from);
        match found {
            Some((device, _)) => {
                self.release(device, Then::Clear(next));
            }
            None => self.unit.job = next.map(Job::Clear),
        }
        if self.unit.job.is_none() {
            self.drop_tables();
        }
    }

    /// No device is left: what the physical device table had for them goes back.
    fn drop_tables(&mut self) {
        let common = &*self.common;
        let physical = &mut self.unit.physical;
        if !physical.drop_second_level(&common.share, &common.clock) {
            return;
        }
        // An ITS may have held its collections itself, and have been disabled.
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

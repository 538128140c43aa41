//! What a step makes of what a side showed before it, as the architecture says
//! (IHI 0069) where both sides follow it, and as each side does where they differ.
//! Each such place has a name, which the README explains.

use super::case::{Step, VALID, op};
use super::layout::{
    CPUS, ITT_STRIDE, ITTS, OUR_COLLECTIONS, OUR_LPI_END, PER_PAGE, QUEUE_BYTES, RANGES,
};
use super::state::{ENABLED, Mapping, QUIESCENT, State};
use gicv3_its::{Size, reg};
use std::collections::BTreeMap;

/// Whose ways are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `gicv3_its::Emulator`'s.
    Ours,
    /// QEMU's.
    Qemu,
}

/// Names of the places where the sides differ that a step came by.
pub type Names = std::collections::BTreeSet<&'static str>;

/// What `side`, which showed `before`, shows after `step`.
#[must_use]
pub fn after(side: Side, before: &State, step: &Step) -> (State, Names) {
    let mut work = Work {
        side,
        state: before.clone(),
        names: Names::new(),
    };
    match step {
        Step::Commands(commands) => work.commands(commands),
        Step::Enable(enabled) => work.enable(*enabled),
        Step::Write(offset, size, value) => work.write(*offset, *size, *value),
        Step::EnableLpis(cpu, enabled) => work.state.redistributors[*cpu].enabled = *enabled,
        // As INT, while the ITS is enabled.
        Step::Message(event) if before.enabled() => work.set((0, *event), true),
        Step::Message(_) => {}
        Step::Renew(cpu) => work.renew(*cpu),
        Step::Zero(slot) => work.zero(*slot),
    }
    work.settle();
    (work.state, work.names)
}

struct Work {
    side: Side,
    state: State,
    names: Names,
}

/// An event of a device.
type Event = (u32, u32);

impl Work {
    fn ours(&self) -> bool {
        self.side == Side::Ours
    }

    /// What is in force is what the tables say, on QEMU always, in ours while the
    /// ITS is disabled.
    fn settle(&mut self) {
        if !self.ours() || !self.state.enabled() {
            self.state.events = self.state.in_tables();
        }
    }

    fn commands(&mut self, commands: &[[u64; 4]]) {
        let bytes = commands.len() as u64 * 32;
        self.state.cwriter = (self.state.cwriter + bytes) % QUEUE_BYTES;
        if !self.state.enabled() {
            return;
        }
        self.state.creadr = self.state.cwriter;
        for words in commands {
            self.command(words);
            self.settle();
        }
    }

    fn command(&mut self, words: &[u64; 4]) {
        // Truncation: the fields have 32 and 16 bits.
        let event = ((words[0] >> 32) as u32, words[1] as u32);
        let icid = words[2] as u16;
        let target = |word: u64| (word >> 16 & 0xf_ffff_ffff) as usize;
        match words[0] & 0xff {
            op::MAPD => self.map_device(event.0, words),
            op::MAPC => self.map_collection(icid, words[2] & VALID != 0, target(words[2])),
            op::MAPTI => self.map(event, ((words[1] >> 32) as u32, icid)),
            op::MAPI => self.map(event, (event.1, icid)),
            op::DISCARD => self.discard(event),
            op::INT => self.set(event, true),
            op::CLEAR => self.set(event, false),
            op::MOVI => self.move_event(event, icid),
            op::MOVALL => self.move_all(target(words[2]), target(words[3])),
            // Nothing that shows.
            _ => {}
        }
    }

    /// Where an event's interrupt goes.
    fn at(&self, event: Event) -> Option<(usize, u32)> {
        let (lpi, icid) = self.state.events.get(&event)?;
        Some((self.state.route(*icid)?, *lpi))
    }

    /// Ours: an event is no longer in force, and its interrupt not pending.
    fn drop_event(&mut self, event: Event, name: &'static str) {
        if let Some(at) = self.at(event)
            && self.state.pending.remove(&at)
        {
            self.names.insert(name);
        }
        self.state.events.remove(&event);
    }

    fn set(&mut self, event: Event, pending: bool) {
        let Some(at) = self.at(event) else {
            return;
        };
        if !self.state.redistributors[at.0].enabled {
            self.names.insert("lpis-disabled");
            if !self.ours() {
                return;
            }
        }
        if pending {
            self.state.pending.insert(at);
        } else {
            self.state.pending.remove(&at);
        }
    }

    fn events_of(&self, device: u32) -> Vec<Event> {
        let events = self.state.events.range((device, 0)..=(device, u32::MAX));
        events.map(|(event, _)| *event).collect()
    }

    fn map_device(&mut self, device: u32, words: &[u64; 4]) {
        let (size, valid) = (words[1] & 0x1f, words[2] & VALID != 0);
        // Truncation: 5 bits.
        let bits = size as u8 + 1;
        let owned = RANGES.iter().any(|range| range.contains(&device));
        // 16 bits of EventID.
        if device >= PER_PAGE {
            return;
        }
        if bits > 16 {
            if !valid && owned {
                self.names.insert("unmap-size");
            }
            if valid || !self.ours() {
                return;
            }
        }
        if !owned && (valid || self.state.devices.contains_key(&device)) {
            self.names.insert("foreign-device");
        }
        if !owned && self.ours() {
            return;
        }
        if self.ours() {
            for event in self.events_of(device) {
                self.drop_event(event, "device-pending");
            }
        }
        self.state.devices.remove(&device);
        if !valid {
            return;
        }
        let slot = (words[2] & 0x000f_ffff_ffff_ff00).wrapping_sub(ITTS) / ITT_STRIDE;
        self.state.devices.insert(device, (bits, slot));
        let end = 1 << bits;
        let mut old = self.state.tables.range((slot, 0)..(slot, end));
        if old.next().is_some() {
            self.names.insert("old-table");
        }
    }

    fn map(&mut self, event: Event, (lpi, icid): Mapping) {
        let Some((bits, slot)) = self.state.devices.get(&event.0).copied() else {
            return;
        };
        let end = 1u64 << bits;
        if u64::from(event.1) >= end || !(8192..65536).contains(&lpi) {
            return;
        }
        if u32::from(icid) >= PER_PAGE {
            return;
        }
        let taken = |(other, mapping): (&Event, &Mapping)| *other != event && mapping.0 == lpi;
        let refusals = [
            ("lpi-range", lpi >= OUR_LPI_END),
            ("collection-limit", icid >= OUR_COLLECTIONS),
            ("lpi-taken", self.state.events.iter().any(taken)),
        ];
        for (name, refused) in refusals {
            if refused {
                self.names.insert(name);
                if self.ours() {
                    return;
                }
            }
        }
        if self.ours() {
            self.drop_event(event, "map-again");
            self.state.events.insert(event, (lpi, icid));
        }
        self.state.tables.insert((slot, event.1), (lpi, icid));
    }

    /// Where the table of a mapped event is.
    fn entry(&self, event: Event) -> Option<(u64, u32)> {
        self.state.events.get(&event)?;
        let (_, slot) = self.state.devices.get(&event.0)?;
        Some((*slot, event.1))
    }

    fn discard(&mut self, event: Event) {
        let Some(entry) = self.entry(event) else {
            return;
        };
        if self.at(event).is_none() {
            self.names.insert("discard-nowhere");
            if !self.ours() {
                return;
            }
        }
        self.set(event, false);
        self.state.tables.remove(&entry);
        self.state.events.remove(&event);
    }

    fn move_event(&mut self, event: Event, icid: u16) {
        let (Some(entry), Some(to)) = (self.entry(event), self.state.route(icid)) else {
            return;
        };
        let from = self.at(event);
        if from.is_none() {
            self.names.insert("move-nowhere");
            if !self.ours() {
                return;
            }
        }
        let Some(mapping) = self.state.events.get_mut(&event) else {
            return;
        };
        mapping.1 = icid;
        let mapping = *mapping;
        self.state.tables.insert(entry, mapping);
        if let Some(from) = from {
            self.move_pending(from, to);
        }
    }

    /// What MOVI does with what is pending.
    fn move_pending(&mut self, from: (usize, u32), to: usize) {
        let rds = &self.state.redistributors;
        if from.0 == to || !self.state.pending.contains(&from) {
            return;
        }
        if !rds[from.0].enabled || !rds[to].enabled {
            self.names.insert("lpis-disabled");
            if !self.ours() {
                return;
            }
        }
        self.state.pending.remove(&from);
        self.state.pending.insert((to, from.1));
    }

    fn map_collection(&mut self, icid: u16, valid: bool, target: usize) {
        if u32::from(icid) >= PER_PAGE {
            return;
        }
        let mut target = target;
        if valid && target >= CPUS && target & 0xffff < CPUS {
            self.names.insert("target-bits");
            if !self.ours() {
                target &= 0xffff;
            }
        }
        if valid && target >= CPUS {
            return;
        }
        if valid && icid >= OUR_COLLECTIONS {
            self.names.insert("collection-limit");
            if self.ours() {
                return;
            }
        }
        let to = valid.then_some(target);
        let from = self.state.route(icid);
        if from != to {
            self.reroute(icid, to);
        }
        match to {
            Some(to) => self.state.collections.insert(icid, to),
            None => self.state.collections.remove(&icid),
        };
    }

    /// Ours: what is pending follows its collection.
    fn reroute(&mut self, icid: u16, to: Option<usize>) {
        let events = self.state.events.iter();
        let of = events.filter(|(_, mapping)| mapping.1 == icid);
        let lpis: Vec<u32> = of.map(|(_, mapping)| mapping.0).collect();
        let Some(from) = self.state.route(icid) else {
            return;
        };
        for lpi in lpis {
            if !self.state.pending.contains(&(from, lpi)) {
                continue;
            }
            self.names.insert("collection-pending");
            if self.ours() {
                self.state.pending.remove(&(from, lpi));
                self.state.pending.extend(to.map(|to| (to, lpi)));
            }
        }
    }

    fn move_all(&mut self, from: usize, to: usize) {
        if from >= CPUS || to >= CPUS || from == to {
            return;
        }
        let pending = self.state.pending.iter();
        let all: Vec<_> = pending.filter(|at| at.0 == from).copied().collect();
        if all.is_empty() {
            return;
        }
        self.names.insert("move-all");
        let rds = &self.state.redistributors;
        if self.ours() || !rds[from].enabled || !rds[to].enabled {
            return;
        }
        for at in all {
            self.state.pending.remove(&at);
            self.state.pending.insert((to, at.1));
        }
    }

    fn enable(&mut self, enabled: bool) {
        if self.state.enabled() == enabled {
            return;
        }
        if self.ours() {
            if enabled {
                self.restore();
            } else {
                for event in self.state.events.keys().copied().collect::<Vec<_>>() {
                    self.drop_event(event, "disable-pending");
                }
            }
        }
        let quiescent = if self.ours() && enabled { 0 } else { QUIESCENT };
        self.state.control = quiescent | if enabled { ENABLED } else { 0 };
    }

    /// Ours: what the tables say comes in force, if it may, in their order.
    fn restore(&mut self) {
        let mut events = BTreeMap::new();
        for (event, mapping) in self.state.in_tables() {
            let taken = |(_, other): (&Event, &Mapping)| other.0 == mapping.0;
            if events.iter().any(taken) {
                self.names.insert("lpi-taken");
            } else {
                events.insert(event, mapping);
            }
        }
        self.state.events = events;
    }

    fn zero(&mut self, slot: u64) {
        let mut devices = self.state.devices.iter();
        let used = devices.any(|(_, (_, used))| *used == slot);
        let mut old = self.state.tables.range((slot, 0)..(slot + 1, 0));
        if used && self.state.enabled() && old.next().is_some() {
            self.names.insert("zeroed-in-use");
        }
        self.state.tables.retain(|(of, _), _| *of != slot);
    }

    fn renew(&mut self, cpu: usize) {
        self.state.redistributors[cpu].enabled = true;
        self.state.pending.retain(|(at, _)| *at != cpu);
        if !self.ours() {
            self.state.redistributors[cpu].pendbaser |= reg::PENDBASER_PTZ;
        }
    }

    fn write(&mut self, offset: u32, size: Size, value: u64) {
        let merge = |old: u64| match (offset & 7, size) {
            (0, Size::Double) => value,
            (0, _) => old & !0xffff_ffff | value & 0xffff_ffff,
            _ => old & 0xffff_ffff | value << 32,
        };
        let low = offset & 7 == 0;
        let before = &self.state;
        let disabled = !before.enabled();
        match offset & !7 {
            reg::CBASER if disabled => {
                let raw = merge(before.cbaser);
                self.state.cbaser = self.either("reserved-bits", raw & CBASER, raw);
                self.state.creadr = 0;
            }
            reg::BASER | BASER_1 if disabled => {
                let index = usize::from(offset & !7 == BASER_1);
                let old = before.baser[index];
                let raw = old & FIXED | merge(old) & !FIXED;
                let ours = table(raw, index == 0);
                self.state.baser[index] = self.either("reserved-bits", ours, raw);
            }
            reg::CREADR => {
                let old = before.creadr;
                let stalled = if low { reg::CREADR_STALLED } else { 0 };
                let theirs = merge(old) & !stalled;
                self.state.creadr = self.either("creadr-writable", old, theirs);
            }
            reg::CWRITER => {
                let old = before.cwriter;
                let retry = if low { reg::CWRITER_RETRY } else { 0 };
                let theirs = merge(old) & !retry;
                let offset = theirs & reg::QUEUE_OFFSET;
                let inside = low && offset < reg::cbaser_bytes(before.cbaser);
                let ours = if inside { offset } else { old };
                self.state.cwriter = self.either("cwriter-bits", ours, theirs);
            }
            _ => {}
        }
    }

    /// What is so on one side and on the other.
    fn either(&mut self, name: &'static str, ours: u64, theirs: u64) -> u64 {
        if ours != theirs {
            self.names.insert(name);
        }
        if self.ours() { ours } else { theirs }
    }
}

const BASER_1: u32 = reg::BASER + 8;

/// What our `GITS_CBASER` keeps.
const CBASER: u64 =
    reg::VALID | reg::ITS_CACHEABILITY | reg::CBASER_ADDRESS | reg::SHAREABILITY | 0xff;

/// Type and Entry_Size of a `GITS_BASER<n>`.
const FIXED: u64 = 7 << 56 | 0x1f << 48;

/// What our `GITS_BASER<n>` keeps.
fn table(value: u64, indirect: bool) -> u64 {
    let kept = FIXED
        | reg::VALID
        | reg::ITS_CACHEABILITY
        | reg::SHAREABILITY
        | reg::PAGE_SIZE_FIELD
        | 0x0000_ffff_ffff_f0ff
        | if indirect { reg::INDIRECT } else { 0 };
    let value = value & kept;
    // The reserved page size is 64 KiB.
    let reserved = value & reg::PAGE_SIZE_FIELD == reg::PAGE_SIZE_FIELD;
    if reserved { value ^ 1 << 8 } else { value }
}

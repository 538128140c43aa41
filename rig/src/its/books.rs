//! What a real ITS would do for a host that does nothing UNPREDICTABLE, by books
//! that know nothing of the emulation.

use std::collections::{BTreeMap, BTreeSet};

/// An event that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) its: usize,
    /// Number of the device.
    pub(super) device: u8,
    pub(super) event: u32,
    pub(super) collection: u8,
}

/// What the host knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    /// Bits of EventID of what is mapped, by ITS and number of the device.
    pub(super) devices: BTreeMap<(usize, u8), u8>,
    /// By number of the LPI.
    pub(super) events: BTreeMap<u8, Mapped>,
    /// Where collections go, by ITS and ICID.
    pub(super) collections: BTreeMap<(usize, u8), usize>,
    /// ITSs that are enabled.
    pub(super) enabled: BTreeSet<usize>,
    /// CPUs whose LPIs are enabled.
    pub(super) lpis: BTreeSet<usize>,
    /// What redistributors must know of an LPI's configuration; nothing is said
    /// of one that was changed without INV.
    pub(super) known: BTreeMap<u8, u8>,
    /// What the host's table says.
    pub(super) table: BTreeMap<u8, u8>,
    /// What is pending, and where.
    pub(super) pending: BTreeSet<(u8, usize)>,
    /// What may be pending.
    pub(super) maybe: BTreeSet<(u8, usize)>,
}

impl Books {
    /// Where an LPI goes, if it does.
    pub(super) fn target(&self, lpi: u8) -> Option<usize> {
        let mapped = self.events.get(&lpi)?;
        let of = (mapped.its, mapped.collection);
        self.collections.get(&of).copied()
    }

    /// It is pending at `cpu`, or lost or kept where LPIs are off.
    pub(super) fn arrive(&mut self, lpi: u8, cpu: usize) {
        if self.lpis.contains(&cpu) {
            self.pending.insert((lpi, cpu));
        } else {
            self.maybe.insert((lpi, cpu));
        }
    }

    /// It is not pending at `cpu`.
    pub(super) fn clear(&mut self, lpi: u8, cpu: usize) {
        self.pending.remove(&(lpi, cpu));
        self.maybe.remove(&(lpi, cpu));
    }

    /// What is pending at one CPU moves to another.
    pub(super) fn move_to(&mut self, lpi: u8, from: usize, to: usize) {
        for list in [&mut self.pending, &mut self.maybe] {
            if list.remove(&(lpi, from)) {
                list.insert((lpi, to));
            }
        }
    }

    /// An LPI is mapped no more without DISCARD: what was pending may stay so.
    pub(super) fn orphan(&mut self, lpi: u8) {
        if self.events.remove(&lpi).is_some() {
            let of: Vec<_> = self
                .pending
                .iter()
                .filter(|(of, _)| *of == lpi)
                .copied()
                .collect();
            for one in of {
                self.pending.remove(&one);
                self.maybe.insert(one);
            }
        }
    }

    /// The events of a device, by LPI.
    pub(super) fn events_of(&self, its: usize, device: u8) -> Vec<u8> {
        let of = |mapped: &Mapped| mapped.its == its && mapped.device == device;
        let events = self.events.iter().filter(|(_, mapped)| of(mapped));
        events.map(|(lpi, _)| *lpi).collect()
    }

    /// Whether interrupts are mapped to a collection.
    pub(super) fn is_used(&self, its: usize, collection: u8) -> bool {
        let of = |mapped: &Mapped| mapped.its == its && mapped.collection == collection;
        self.events.values().any(of)
    }

    /// The configuration table's byte of an LPI.
    pub(super) fn byte(&self, lpi: u8) -> u8 {
        self.table.get(&lpi).copied().unwrap_or(0)
    }

    /// A SYNC after INV: what the table says is known.
    pub(super) fn invalidated(&mut self, lpi: u8) {
        self.known.insert(lpi, self.byte(lpi));
    }
}

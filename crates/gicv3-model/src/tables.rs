//! Where entries are, and what they look like: a format of the model's own.
//!
//! An entry's first word has a valid bit, its value, and a tag in the bits 63 to
//! 50 that depends on all of it, so that nothing but what the model wrote itself
//! is taken for an entry. Further bytes repeat the tag.

use crate::bus::Bus;
use crate::draw::mix;
use crate::inner::Inner;
use crate::its::{Device, Event, Key, VALID};
use crate::profile::TableKind;
use crate::violation::Violation;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In memory: where, and how many bytes.
    At(u64, u64),
    /// In the ITS.
    Held,
    /// Nowhere: the ID is out of range.
    Nowhere,
}

const VALUE: u64 = (1 << 50) - 1;

fn tag(its: usize, key: Key, value: u64) -> u64 {
    let (kind, a, b) = match key {
        Key::Device(id) => (1, id, 0),
        Key::Event(id, event) => (2, id, event),
        Key::Collection(id) => (3, u32::from(id), 0),
    };
    let key = mix(mix(u64::from(a) << 32 | u64::from(b)) ^ kind << 8 ^ its as u64);
    mix(key ^ value) >> 50
}

/// The bytes of an entry; all zero for what is not mapped.
pub(crate) fn encode(its: usize, key: Key, value: u64, bytes: u64) -> Vec<u8> {
    let mut out = vec![0; bytes as usize];
    if value != 0 {
        let tag = tag(its, key, value);
        out[..8].copy_from_slice(&(value | tag << 50).to_le_bytes());
        for byte in &mut out[8..] {
            *byte = tag as u8;
        }
    }
    out
}

/// What the bytes say: `None` if they are no entry.
pub(crate) fn decode(its: usize, key: Key, bytes: &[u8]) -> Option<u64> {
    let word = bytes
        .first_chunk::<8>()
        .map(|word| u64::from_le_bytes(*word))?;
    let value = word & VALUE;
    (encode(its, key, value, bytes.len() as u64) == bytes).then_some(value)
}

impl Device {
    pub(crate) fn value(self) -> u64 {
        1 | u64::from(self.bits - 1) << 1 | (self.itt >> 8) << 6
    }

    pub(crate) fn from_value(value: u64) -> Self {
        Self {
            itt: (value >> 6) << 8,
            bits: (value >> 1 & 0x1f) as u32 + 1,
        }
    }
}

impl Event {
    pub(crate) fn value(self) -> u64 {
        1 | u64::from(self.collection) << 1 | u64::from(self.lpi) << 17
    }

    pub(crate) fn from_value(value: u64) -> Self {
        Self {
            lpi: (value >> 17) as u32,
            collection: (value >> 1) as u16,
        }
    }
}

impl<B: Bus> Inner<B> {
    /// The valid register for tables of this kind.
    pub(crate) fn table_of(&self, its: usize, kind: TableKind) -> Option<usize> {
        let mut tables = self.profile.tables.iter().enumerate();
        let found = tables.find(|(_, table)| table.kind == kind)?.0;
        (self.units[its].baser[found] & VALID != 0).then_some(found)
    }

    /// Entries that the table of register `n` has room for, all levels full.
    pub(crate) fn table_entries(&self, its: usize, n: usize) -> u64 {
        let range = self.table_range(its, n);
        let (bytes, entry) = (range.end - range.start, self.entry_bytes(n));
        if self.is_indirect(its, n) {
            (bytes / 8).saturating_mul(self.page_bytes(its, n) / entry)
        } else {
            bytes / entry
        }
    }

    fn entry_bytes(&self, n: usize) -> u64 {
        self.profile.tables[n].entry_bytes.into()
    }

    /// How many collections there are.
    pub(crate) fn collection_count(&self, its: usize) -> u64 {
        let own = u64::from(self.profile.hcc);
        let table = self.table_of(its, TableKind::Collection);
        let table = table.map(|n| self.table_entries(its, n));
        let count = match table {
            Some(table) if self.profile.cct => own + table,
            Some(table) => table,
            None => own,
        };
        count.min(1 << self.profile.collection_bits.unwrap_or(16))
    }

    /// Where the entry of `key` is now. Reads first levels.
    pub(crate) fn place(&mut self, its: usize, key: Key) -> Place {
        match key {
            Key::Device(id) => {
                if u64::from(id) >> self.profile.device_bits != 0 {
                    return Place::Nowhere;
                }
                match self.table_of(its, TableKind::Device) {
                    Some(n) => self.place_in(its, n, id.into()),
                    None => Place::Nowhere,
                }
            }
            Key::Collection(id) => {
                if u64::from(id) >= self.collection_count(its) {
                    return Place::Nowhere;
                }
                let table = self.table_of(its, TableKind::Collection);
                let own = if self.profile.cct || table.is_none() {
                    self.profile.hcc.into()
                } else {
                    0
                };
                match (u64::from(id).checked_sub(own), table) {
                    (Some(index), Some(n)) => self.place_in(its, n, index),
                    _ => Place::Held,
                }
            }
            Key::Event(id, event) => match self.units[its].devices.get(&id) {
                Some(device) if u64::from(event) >> device.bits == 0 => {
                    let bytes = u64::from(self.profile.itt_entry_bytes);
                    let at = device.itt.saturating_add(u64::from(event) * bytes);
                    Place::At(at, bytes)
                }
                _ => Place::Nowhere,
            },
        }
    }

    fn place_in(&mut self, its: usize, n: usize, index: u64) -> Place {
        if index >= self.table_entries(its, n) {
            return Place::Nowhere;
        }
        let (table, entry) = (self.table_range(its, n), self.entry_bytes(n));
        if !self.is_indirect(its, n) {
            return Place::At(table.start + index * entry, entry);
        }
        let per_page = self.page_bytes(its, n) / entry;
        match self.level2(its, n, index / per_page) {
            Some(page) => Place::At(page + index % per_page * entry, entry),
            None => Place::Nowhere,
        }
    }

    /// The page that an entry of the first level points at (`GITS_BASER<n>`,
    /// Indirect). What was valid once must stay as it is.
    pub(crate) fn level2(&mut self, its: usize, n: usize, index: u64) -> Option<u64> {
        let at = self.table_range(its, n).start + index * 8;
        let seen = self.units[its].level1.get(&(n, index)).copied();
        if let Some(seen) = seen
            && self.holds()
        {
            return Some(seen & 0x000f_ffff_ffff_f000);
        }
        let bytes = self.read_bytes(at, 8, "level 1 table entry");
        let entry = bytes
            .first_chunk::<8>()
            .map_or(0, |word| u64::from_le_bytes(*word));
        if let Some(seen) = seen {
            if seen != entry {
                self.violate(Violation::Changed {
                    what: format!("level 1 entry {index} of GITS_BASER{n} of ITS {its}"),
                    at,
                    found: entry,
                    expected: seen,
                });
            }
            return Some(seen & 0x000f_ffff_ffff_f000);
        }
        if entry & VALID == 0 {
            return None;
        }
        let page = self.page_bytes(its, n);
        let address = entry & 0x000f_ffff_ffff_f000 & !(page - 1);
        if entry != VALID | address {
            self.violate(Violation::NotZero {
                what: format!(
                    "reserved bits of level 1 entry {index} of GITS_BASER{n} of ITS {its}"
                ),
                at,
                found: entry,
            });
        }
        let what = format!("level 2 of GITS_BASER{n}, {index}, of ITS {its}");
        self.check_overlap(&what, &(address..address.saturating_add(page)));
        self.units[its].level1.insert((n, index), VALID | address);
        self.adopt_page(
            its,
            n,
            index * (page / self.entry_bytes(n)),
            address..address + page,
        );
        Some(address)
    }

    /// Takes over what a page of entries, `first` and on, says: what this ITS
    /// wrote itself at another time. Anything else but zero is reported.
    pub(crate) fn adopt_page(
        &mut self,
        its: usize,
        n: usize,
        first: u64,
        range: std::ops::Range<u64>,
    ) {
        let table = self.profile.tables[n];
        let what = match table.kind {
            TableKind::Device => "device table",
            TableKind::Collection => "collection table",
            TableKind::Vpe => return,
        };
        let bytes = self.read_bytes(range.start, range.end - range.start, what);
        let own = if self.profile.cct {
            u64::from(self.profile.hcc)
        } else {
            0
        };
        for (index, entry) in (first..).zip(bytes.chunks_exact(table.entry_bytes as usize)) {
            if entry.iter().all(|byte| *byte == 0) {
                continue;
            }
            let key = match table.kind {
                TableKind::Device => Key::Device(index as u32),
                _ => Key::Collection((index + own) as u16),
            };
            let value = decode(its, key, entry).filter(|value| value & 1 == 1);
            match (key, value) {
                (Key::Device(id), Some(value)) => {
                    let device = Device::from_value(value);
                    self.units[its].devices.insert(id, device);
                    self.adopt_itt(its, id, device);
                }
                (Key::Collection(id), Some(value)) => {
                    let cpu = (value >> 1) as usize;
                    if cpu < self.rds.len() {
                        self.units[its].collections.insert(id, cpu);
                    }
                }
                _ => {
                    let found = entry.first_chunk::<8>();
                    self.violate(Violation::NotZero {
                        what: format!("{what} of ITS {its}, entry {index}"),
                        at: range.start + (index - first) * u64::from(table.entry_bytes),
                        found: found.map_or(0, |word| u64::from_le_bytes(*word)),
                    });
                    return;
                }
            }
        }
    }

    /// Takes over what an ITT says, as [`adopt_page`](Self::adopt_page) does.
    pub(crate) fn adopt_itt(&mut self, its: usize, id: u32, device: Device) {
        let range = self.itt_range(device.itt, device.bits);
        self.check_overlap(&format!("ITT of device {id:#x} of ITS {its}"), &range);
        let bytes = self.read_bytes(range.start, range.end - range.start, "ITT");
        let size = self.profile.itt_entry_bytes as usize;
        for (event, entry) in (0..).zip(bytes.chunks_exact(size)) {
            if entry.iter().all(|byte| *byte == 0) {
                continue;
            }
            let key = Key::Event(id, event);
            match decode(its, key, entry).filter(|value| value & 1 == 1) {
                Some(value) => {
                    let mapped = Event::from_value(value);
                    self.units[its].events.insert((id, event), mapped);
                }
                None => {
                    let found = entry.first_chunk::<8>();
                    self.violate(Violation::NotZero {
                        what: format!("ITT of device {id:#x} of ITS {its}"),
                        at: range.start + u64::from(event) * size as u64,
                        found: found.map_or(0, |word| u64::from_le_bytes(*word)),
                    });
                    return;
                }
            }
        }
    }
}

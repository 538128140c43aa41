//! What memory is the GIC's, and for what.

use crate::bus::Bus;
use crate::inner::Inner;
use crate::its::{INDIRECT, VALID};
use crate::violation::Violation;
use std::ops::Range;

impl<B: Bus> Inner<B> {
    /// Bytes of a page of the table of register `n`.
    pub(crate) fn page_bytes(&self, its: usize, n: usize) -> u64 {
        match self.units[its].baser[n] >> 8 & 3 {
            0 => 0x1000,
            1 => 0x4000,
            _ => 0x1_0000,
        }
    }

    /// What register `n` points at.
    pub(crate) fn table_range(&self, its: usize, n: usize) -> Range<u64> {
        let baser = self.units[its].baser[n];
        let page = self.page_bytes(its, n);
        let mut at = baser & 0x0000_ffff_ffff_f000 & !(page - 1);
        if page == 0x1_0000 {
            // Bits 15 to 12 are address bits 51 to 48.
            at |= (baser & 0xf000) << 36;
        }
        at..at.saturating_add(page * ((baser & 0xff) + 1))
    }

    /// What the device with this ITT and so many bits of EventID has.
    pub(crate) fn itt_range(&self, itt: u64, bits: u32) -> Range<u64> {
        let bytes = u64::from(self.profile.itt_entry_bytes) << bits;
        itt..itt.saturating_add(bytes)
    }

    /// The LPI configuration table of a redistributor.
    pub(crate) fn config_range(&self, cpu: usize) -> Range<u64> {
        let at = self.rds[cpu].propbaser & 0x000f_ffff_ffff_f000;
        let bytes = (1u64 << self.lpi_bits(cpu)).saturating_sub(8192);
        at..at.saturating_add(bytes)
    }

    /// The LPI pending table of a redistributor.
    pub(crate) fn pending_range(&self, cpu: usize) -> Range<u64> {
        let at = self.rds[cpu].pendbaser & 0x000f_ffff_ffff_0000;
        at..at.saturating_add((1u64 << self.lpi_bits(cpu)) / 8)
    }

    /// Bits of the INTIDs that a redistributor has tables for.
    pub(crate) fn lpi_bits(&self, cpu: usize) -> u32 {
        let bits = (self.rds[cpu].propbaser & 0x1f) as u32 + 1;
        bits.min(self.profile.id_bits)
    }

    /// All that is in force.
    pub(crate) fn regions(&self) -> Vec<(String, Range<u64>)> {
        let mut all = Vec::new();
        for (number, its) in self.units.iter().enumerate() {
            if its.is_quiescent() {
                continue;
            }
            if its.cbaser & VALID != 0 {
                let at = its.queue_at();
                let range = at..at.saturating_add(its.queue_bytes());
                all.push((format!("command queue of ITS {number}"), range));
            }
            for n in 0..self.profile.tables.len() {
                if its.baser[n] & VALID != 0 {
                    let kind = self.profile.tables[n].kind;
                    let what = format!("{kind:?} table of ITS {number}");
                    all.push((what, self.table_range(number, n)));
                }
            }
            for ((n, index), entry) in &its.level1 {
                let at = entry & 0x000f_ffff_ffff_f000;
                let range = at..at.saturating_add(self.page_bytes(number, *n));
                all.push((
                    format!("level 2 of GITS_BASER{n}, {index}, of ITS {number}"),
                    range,
                ));
            }
            for (id, device) in &its.devices {
                let range = self.itt_range(device.itt, device.bits);
                all.push((format!("ITT of device {id:#x} of ITS {number}"), range));
            }
        }
        for (cpu, rd) in self.rds.iter().enumerate() {
            if rd.in_use() {
                // One configuration table may serve all redistributors.
                let range = self.config_range(cpu);
                let shared = all
                    .iter()
                    .any(|(what, other)| what.starts_with("LPI configuration") && *other == range);
                if !shared {
                    all.push((format!("LPI configuration table of RD {cpu}"), range));
                }
                all.push((
                    format!("LPI pending table of RD {cpu}"),
                    self.pending_range(cpu),
                ));
            }
        }
        all
    }

    /// Reports what overlaps with what is given to the GIC now.
    pub(crate) fn check_overlap(&mut self, what: &str, range: &Range<u64>) {
        let hit = self.regions().into_iter().find(|(other, taken)| {
            let same_table = what.starts_with("LPI configuration")
                && other.starts_with("LPI configuration")
                && taken == range;
            other != what && !same_table && taken.start < range.end && range.start < taken.end
        });
        if let Some((other, taken)) = hit {
            self.violate(Violation::Overlap {
                what: what.to_owned(),
                range: range.clone(),
                other,
                taken,
            });
            self.garbage(range.clone());
        }
    }

    /// Whether the table of register `n` has two levels.
    pub(crate) fn is_indirect(&self, its: usize, n: usize) -> bool {
        self.units[its].baser[n] & INDIRECT != 0
    }
}

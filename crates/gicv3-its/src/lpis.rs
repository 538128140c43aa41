//! The LPIs: the owner of each, the event that it is mapped from, and its
//! configuration as the redistributors read it (IHI 0069, 5.1.1).
//!
//! An INTID is physical: the owner takes its LPIs without EL2, so the number that
//! it sees is the one that the CPU interface shows.

use crate::command::Event;
use crate::ids::{CollectionId, DeviceId, EventId, FIRST_LPI, Lpi, RedistributorId};
use crate::platform::TableMemory;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;

/// Bits of an INTID that are used at most: 57,344 LPIs.
const INTID_BITS: u8 = 16;

/// LPIs of the host's at least: tables of them are made of whole words, and
/// `GICD_TYPER.num_LPIs` cannot say 2.
const FEWEST: u32 = 64;

/// The priority that an owner may give an LPI at most; a lower number is a
/// higher priority. EL2's own interrupts are above it.
pub const HIGHEST_PRIORITY: u8 = 0x10;

/// A configuration that is never signalled: bit 1 is RES1, bit 0 is Enable.
const DISABLED: u8 = 0xa2;
const ENABLE: u8 = 1;
const RES1: u8 = 2;
const PRIORITY: u8 = 0xfc;

/// Bytes of a row.
const ROW: u64 = 16;

/// The owner of an LPI that EL2 keeps to itself.
const EL2: u8 = 0;
/// The host.
const HOST: u8 = 1;

/// How many LPIs the machine has, and how many of them an owner is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LpiCount {
    /// Bits of an INTID as the redistributors' tables are made for.
    pub intid_bits: u8,
    /// LPIs of the host's: a power of two, from [`FIRST_LPI`] on.
    pub host: u32,
}

impl LpiCount {
    /// From `GICD_TYPER.IDbits` + 1 and its `num_LPIs`, if that is not 0. `None`
    /// when there are too few to share out.
    #[must_use]
    pub fn new(gicd_typer: u32) -> Option<Self> {
        let intid_bits = crate::reg::intid_bits(gicd_typer).min(INTID_BITS);
        if intid_bits < 14 {
            return None;
        }
        let mut all = (1u32 << intid_bits) - FIRST_LPI;
        let limit = (gicd_typer & crate::reg::GICD_TYPER_NUM_LPIS) >> 11;
        if limit != 0 {
            // 2^(num_LPIs + 1), of which num_LPIs has 5 bits.
            all = all.min(u32::try_from(2u64 << limit).unwrap_or(u32::MAX));
        }
        // The largest power of two that leaves something: 32,768 of 57,344.
        let host = 1u32 << (all - 1).ilog2();
        (host >= FEWEST).then_some(Self { intid_bits, host })
    }

    /// `GICD_TYPER` for the host: it has LPIs, and `num_LPIs` says how many
    /// (2^(num_LPIs + 1)). Stock Linux obeys it.
    #[must_use]
    pub fn show(&self, gicd_typer: u32) -> u32 {
        let field = self.host.ilog2().saturating_sub(1) << 11;
        gicd_typer & !crate::reg::GICD_TYPER_NUM_LPIS | field | crate::reg::GICD_TYPER_LPIS
    }

    /// Bytes of the configuration table.
    #[must_use]
    pub fn configuration_bytes(&self) -> u64 {
        (1u64 << self.intid_bits) - u64::from(FIRST_LPI)
    }

    /// Bytes of memory that [`Emulator::new`](crate::Emulator::new) and
    /// [`add_redistributor`](crate::Emulator::add_redistributor) take for
    /// `redistributors`, with what the alignment may cost.
    #[must_use]
    pub fn table_bytes(&self, redistributors: u8) -> u64 {
        let page = |bytes: u64| bytes.next_multiple_of(4096);
        let host = u64::from(self.host);
        let own = page(host * ROW) + page(host / 8) + page(self.configuration_bytes());
        // The pages between pending tables are taken by others.
        own + 0x1_0000 + page(self.pending_bytes()) * u64::from(redistributors)
    }

    /// Bytes of a pending table: a bit for each INTID.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        (1 << self.intid_bits) / 8
    }
}

/// The event that an LPI is mapped from, and its collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index of the ITS.
    pub its: u8,
    /// The device and its event.
    pub event: Event,
    /// The collection, as the owner numbers it.
    pub collection: CollectionId,
    /// Where the physical ITS sends it; `None` while its collection has no
    /// redistributor, so that the physical ITS does not know of it.
    pub at: Option<RedistributorId>,
}

impl Row {
    const MAPPED: u64 = 1 << 63;

    fn words(self, owner: u8) -> [u64; 2] {
        let at = u64::from(RedistributorId::byte(self.at));
        let head = Self::MAPPED
            | u64::from(owner) << 48
            | u64::from(self.its) << 40
            | at << 16
            | u64::from(self.collection.0);
        [head, Self::tail(self.event)]
    }

    const fn tail(event: Event) -> u64 {
        (event.device.0 as u64) << 32 | event.event.0 as u64
    }

    const fn its_of(head: u64) -> u8 {
        (head >> 40) as u8
    }

    fn from_words([head, tail]: [u64; 2]) -> Option<Self> {
        (head & Self::MAPPED != 0).then(|| Self {
            its: Self::its_of(head),
            event: Event {
                device: DeviceId((tail >> 32) as u32),
                event: EventId(tail as u32),
            },
            collection: CollectionId(head as u16),
            // Truncation: bits 23:16.
            at: RedistributorId::from_byte((head >> 16) as u8),
        })
    }
}

/// The table of LPIs, and their configuration.
#[derive(Debug)]
pub(crate) struct Lpis {
    count: LpiCount,
    rows: PhysAddr,
    /// A bit for each LPI of the host's that is mapped.
    mapped: PhysAddr,
    configuration: PhysAddr,
}

impl Lpis {
    /// With every LPI unmapped and disabled. `None` when there is no memory.
    pub(crate) fn new(memory: &impl TableMemory, count: LpiCount) -> Option<Self> {
        const PAGE: u64 = 4096;
        let host = u64::from(count.host);
        let rows = memory.take((host * ROW).next_multiple_of(PAGE), PAGE)?;
        let mapped = memory.take((host / 8).next_multiple_of(PAGE), PAGE)?;
        let bytes = count.configuration_bytes().next_multiple_of(PAGE);
        let configuration = memory.take(bytes, PAGE)?;
        let fill = u64::from_ne_bytes([DISABLED; 8]);
        memory.store_run(configuration, bytes / 8, fill, 0);
        memory.publish(configuration, bytes);
        Some(Self {
            count,
            rows,
            mapped,
            configuration,
        })
    }

    pub(crate) fn count(&self) -> LpiCount {
        self.count
    }

    /// The address of the configuration table that the redistributors read.
    pub(crate) fn configuration(&self) -> PhysAddr {
        self.configuration
    }

    /// Whether `lpi` is one that the host may use.
    #[inline]
    pub(crate) fn is_host(&self, lpi: Lpi) -> bool {
        lpi.0.wrapping_sub(FIRST_LPI) < self.count.host
    }

    #[inline]
    fn index(&self, lpi: Lpi) -> Option<u64> {
        let index = lpi.0.wrapping_sub(FIRST_LPI);
        (index < self.count.host).then_some(index.into())
    }

    /// The row of `lpi`, if it is mapped.
    #[inline]
    pub(crate) fn row(&self, memory: &impl Memory, lpi: Lpi) -> Option<Row> {
        let at = self.rows.raw() + self.index(lpi)? * ROW;
        Row::from_words(memory.load_words(PhysAddr::new(at)))
    }

    /// Whether `event` of the ITS at index `its` may have `lpi`: it is the host's, and
    /// nothing else has it.
    #[inline]
    pub(crate) fn is_free_for(
        &self,
        memory: &impl Memory,
        lpi: Lpi,
        its: u8,
        event: Event,
    ) -> bool {
        let Some(index) = self.index(lpi) else {
            return false;
        };
        let at = self.rows.raw() + index * ROW;
        let [head, tail] = memory.load_words(PhysAddr::new(at));
        head & Row::MAPPED == 0 || (Row::its_of(head), tail) == (its, Row::tail(event))
    }

    /// Sets the row of `lpi`, which is the host's.
    #[inline(always)]
    pub(crate) fn set_row(&self, memory: &impl Memory, lpi: Lpi, row: Option<Row>) {
        let Some(index) = self.index(lpi) else {
            return;
        };
        let at = self.rows.raw() + index * ROW;
        let words = row.map_or([u64::from(EL2) << 48, 0], |row| row.words(HOST));
        memory.store_words(PhysAddr::new(at), words);
        let bits = PhysAddr::new(self.mapped.raw() + index / 64 * 8);
        let bit = 1 << (index % 64);
        let before = memory.load(bits);
        let after = if row.is_some() {
            before | bit
        } else {
            before & !bit
        };
        memory.store(bits, after);
    }

    /// Changes the row of `lpi`, which is mapped.
    #[inline(always)]
    pub(crate) fn change_row(&self, memory: &impl Memory, lpi: Lpi, row: Row) {
        if let Some(index) = self.index(lpi) {
            let at = self.rows.raw() + index * ROW;
            memory.store_words(PhysAddr::new(at), row.words(HOST));
        }
    }

    /// Whether no LPI is mapped.
    pub(crate) fn none_is_mapped(&self, memory: &impl Memory) -> bool {
        // At most 512 words.
        memory.is_clear(self.mapped, u64::from(self.count.host) / 64)
    }

    /// The first mapped LPI from `from` on, as far as `spend` allows another word
    /// of 64 to be looked at. The second value is where to go on; `None` at the
    /// end.
    #[inline]
    pub(crate) fn next_mapped(
        &self,
        memory: &impl Memory,
        from: Lpi,
        mut spend: impl FnMut() -> bool,
    ) -> (Option<Lpi>, Option<Lpi>) {
        let mut next = from;
        while let Some(index) = self.index(next) {
            if !spend() {
                return (None, Some(next));
            }
            let word = memory.load(PhysAddr::new(self.mapped.raw() + index / 64 * 8));
            let rest = word >> (index % 64);
            if rest != 0 {
                let found = Lpi(next.0 + rest.trailing_zeros());
                let next = Lpi(found.0 + 1);
                return (Some(found), self.is_host(next).then_some(next));
            }
            next = Lpi(FIRST_LPI + (index as u32 / 64 + 1) * 64);
        }
        (None, None)
    }

    /// Gives `lpi` the configuration that its owner wants, as far as it may have
    /// it, or none that is ever signalled where `wanted` is `None`. Whether a
    /// redistributor has to be told: it may hold an older one, and either of the two
    /// lets the LPI be signalled.
    #[inline(always)]
    pub(crate) fn configure(&self, memory: &impl Memory, lpi: Lpi, wanted: Option<u8>) -> bool {
        let Some(index) = self.index(lpi) else {
            return false;
        };
        let byte = wanted.map_or(DISABLED, |byte| {
            (byte & PRIORITY).max(HIGHEST_PRIORITY) | RES1 | byte & ENABLE
        });
        let at = PhysAddr::new(self.configuration.raw() + (index & !7));
        let shift = (index & 7) * 8;
        let before = memory.load(at);
        let after = before & !(0xff << shift) | u64::from(byte) << shift;
        if before == after {
            return false;
        }
        memory.store(at, after);
        memory.publish(at, 8);
        let either = (before | after) >> shift;
        either & u64::from(ENABLE) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_gets_a_power_of_two_of_the_lpis_and_leaves_some() {
        // GICD_TYPER.IDbits in 23:19, num_LPIs in 15:11.
        let count = |typer| LpiCount::new(typer).map(|count| (count.intid_bits, count.host));
        assert_eq!(count(0x0f << 19), Some((16, 32768)));
        assert_eq!(count(0x0d << 19), Some((14, 4096)));
        // More bits than there are tables for.
        assert_eq!(count(0x17 << 19), Some((16, 32768)));
        // The GIC itself has fewer: 2^(num_LPIs + 1).
        assert_eq!(count(0x0f << 19 | 12 << 11), Some((16, 4096)));
        assert_eq!(count(0x0f << 19 | 31 << 11), Some((16, 32768)));
        assert_eq!(count(0x0c << 19), None);
    }

    #[test]
    fn the_distributor_says_how_many_the_host_has() {
        let count = LpiCount::new(0x0f << 19).unwrap();
        assert_eq!(count.show(0x0078_0407), 0x007a_7407);
        assert_eq!(crate::reg::typer_without_lpis(0x007a_7c07), 0x0078_0407);
    }

    #[test]
    fn a_row_is_what_was_put_there() {
        let row = Row {
            its: 15,
            event: Event {
                device: DeviceId(u32::MAX),
                event: EventId(0x1_0001),
            },
            collection: CollectionId(255),
            at: Some(RedistributorId(254)),
        };
        for row in [row, Row { at: None, ..row }] {
            assert_eq!(Row::from_words(row.words(HOST)), Some(row));
        }
        assert_eq!(Row::from_words([0, u64::MAX]), None);
    }
}

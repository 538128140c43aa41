//! The host's memory: the ledger, and the tables of its CPUs and devices.

use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{FirmwareMemory, HostRegisters, Machine};
use portcullis_isolation::{HostSpace, HostTables, Ledger, input_bits};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Entry, LedgerError, Owner, TransferError};
use portcullis_pagetable::{Bbm, Geometry, GeometryError, Granule};
use std::sync::atomic::AtomicU32;

/// Bits of the addresses of CPUs and SMMUs.
pub(crate) const BITS: u8 = 48;

/// Why there is no host.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The shape of the tables.
    #[error("the host's tables: {0}")]
    Geometry(#[from] GeometryError),
    /// The tables.
    #[error("the host's tables: {0}")]
    Tables(#[from] portcullis_pagetable::Error<Ipa>),
    /// The ledger's banks.
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The first owners.
    #[error("the ledger: {0}")]
    Owners(#[from] TransferError),
    /// There is no memory for tables.
    #[error("there is no pool")]
    NoPool,
    /// Something is within reach that must not be.
    #[error("{who} reach {what} at {at}")]
    Reach {
        /// CPUs or devices.
        who: &'static str,
        /// What it is.
        what: &'static str,
        /// Where.
        at: PhysAddr,
    },
}

/// Makes the tables of a machine's host and looks at what they reach.
pub(crate) fn build(
    machine: &Machine,
    registers: &HostRegisters,
    protected: &[Range<PhysAddr>],
    firmware: &FirmwareMemory,
) -> Result<(), SpaceError> {
    let words = |count: u64, fill: u32| -> Vec<AtomicU32> {
        (0..count).map(|_| AtomicU32::new(fill)).collect()
    };
    let books: Vec<_> = machine
        .memory
        .iter()
        .map(|range| {
            let entries = words(range.size() / PAGE_SIZE, Entry::initial(Owner::HOST));
            (*range, entries, words(Bank::groups(*range), 0))
        })
        .collect();
    let mut banks = Vec::new();
    for (range, entries, groups) in &books {
        banks.push(Bank::new(*range, entries, groups)?);
    }
    let ledger = Ledger::new(&banks)?;
    for range in protected {
        ledger
            .begin(*range, Owner::HOST, Owner::HYPERVISOR)?
            .commit();
    }
    for range in firmware.ranges() {
        ledger.begin(range, Owner::HOST, Owner::FIRMWARE)?.commit();
    }
    let ends = machine.memory.iter().map(|bank| bank.end());
    let ram_end = ends.max().unwrap_or(PhysAddr::new(0));
    let bits = input_bits(ram_end.max(registers.end()), 48).min(BITS);
    let geometry = Geometry::stage2(Granule::Size4K, bits, bits)?;
    let tables = HostTables {
        geometry,
        cpu_geometry: geometry,
        cpu_bbm: Bbm::Level2,
        dma_bbm: Bbm::Level2,
    };
    // The tables are where they would be: in the pool.
    let pool = protected.last().ok_or(SpaceError::NoPool)?;
    let arena = Arena::new(pool.start(), pool.size());
    let space = HostSpace::new(
        ledger,
        tables,
        &arena,
        &arena,
        registers.pages(),
        machine.doorbells().map(|its| its.target),
    )?;
    let reaches = |range: &Range<PhysAddr>| {
        let pages = [range.start().raw(), range.end().raw() - 1];
        pages.map(|at| {
            let at = Ipa::new(at & !(PAGE_SIZE - 1));
            (space.cpu().walk(at).is_ok(), space.dma().walk(at).is_ok())
        })
    };
    let absent = |what, range: &Range<PhysAddr>| {
        let at = range.start();
        for (cpus, devices) in reaches(range) {
            for (reached, who) in [(cpus, "the host's CPUs"), (devices, "devices")] {
                if reached {
                    return Err(SpaceError::Reach { who, what, at });
                }
            }
        }
        Ok(())
    };
    for range in protected {
        absent("memory of the hypervisor's", range)?;
    }
    for range in firmware.ranges() {
        absent("memory of firmware's", &range)?;
    }
    for smmu in machine.smmus.iter() {
        absent("an SMMU", &smmu.registers)?;
    }
    Ok(())
}

//! The host's memory: the ledger, and the tables of its CPUs and devices.

use crate::dma::{self, Map};
use crate::memory::Pool;
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{FirmwareMemory, HostIommu, HostRegisters, Machine};
use portcullis_isolation::{OwnerSpace, TableShapes, input_bits};
use portcullis_ownership::{Allotment, Bank, Entry, LedgerError, Owner, TransferError};
use portcullis_pagetable::{Bbm, Geometry, GeometryError, Granule};
use smmuv3_driver::Stage2;
use smmuv3_spec::{StreamId, Vmid};
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
    /// The driver of an SMMU does not take it over.
    #[error("an SMMU: {0}")]
    TakeOver(#[from] smmuv3_driver::InitError),
    /// The driver of an SMMU does not attach a stream.
    #[error("a stream: {0}")]
    Attach(#[from] smmuv3_driver::Error),
    /// A device misses the host's memory, or reaches it before the host asked for that.
    #[error("StreamID {:#x}: {at} is {}", stream.0, if *attached { "not reached as it has to be" } else { "reached" })]
    Memory {
        /// The device.
        stream: StreamId,
        /// The page.
        at: PhysAddr,
        /// Whether it is to be reached.
        attached: bool,
    },
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
            (*range, entries, words(Bank::words(*range), 0))
        })
        .collect();
    let mut banks = Vec::new();
    for (range, entries, words) in &books {
        banks.push(Bank::new(*range, entries, words)?);
    }
    let mut at_first = Allotment::new(&banks)?;
    for range in protected {
        at_first = at_first.assign(*range, Owner::HOST, Owner::HYPERVISOR)?;
    }
    for range in firmware.ranges() {
        at_first = at_first.assign(range, Owner::HOST, Owner::FIRMWARE)?;
    }
    let ledger = at_first.ledger();
    let ends = machine.memory.iter().map(|bank| bank.end());
    let ram_end = ends.max().unwrap_or(PhysAddr::new(0));
    let bits = input_bits(ram_end.max(registers.end()), 48).min(BITS);
    let geometry = Geometry::stage2(Granule::Size4K, bits, bits)?;
    let tables = TableShapes {
        dma_geometry: geometry,
        cpu_geometry: geometry,
        cpu_bbm: Bbm::Level2,
        dma_bbm: Bbm::Level2,
    };
    // The tables are where they would be: in the pool.
    let pool = protected.last().ok_or(SpaceError::NoPool)?;
    let coherent = machine.smmus.iter().all(|smmu| smmu.coherent);
    let pool = Pool::new(*pool, coherent);
    let space = OwnerSpace::identity(
        ledger,
        Owner::HOST,
        Vmid(1),
        tables,
        &pool,
        &pool,
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
    let protected = protected.iter().map(|range| ("the hypervisor's", *range));
    let firmware = firmware.ranges().map(|range| ("firmware's", range));
    let smmus = machine.smmus.iter();
    let smmus = smmus.map(|smmu| ("an SMMU's registers", smmu.registers));
    let closed: Vec<_> = protected.chain(firmware).chain(smmus).collect();
    let mut open: Vec<_> = machine.memory.iter().copied().collect();
    for (_, range) in &closed {
        let parts = open.iter().flat_map(|part| part.subtract(range));
        open = parts.flatten().collect();
    }
    let root = space.dma().root();
    // As hypervisor/src/boot/owners.rs has it; all three are small.
    let stage2 = Stage2 {
        vmid: Vmid(1),
        root,
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        granule: smmuv3_driver::Granule::Size4K,
        ps: geometry.ps() as u8,
    };
    let doorbells: Vec<_> = machine.doorbells().map(|its| its.target).collect();
    let attached = machine.host_iommu != HostIommu::Paravirt;
    let map = Map {
        open: &open,
        doorbells: &doorbells,
        closed: &closed,
    };
    dma::try_streams(machine, &pool, attached.then_some(&stage2), &map)
}

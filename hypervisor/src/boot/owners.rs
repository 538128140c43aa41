//! Memory shared out: the pool, the ledger, and the host's view of the rest.

use super::devices::Common;
use crate::machine::Host;
use crate::memory::{self, Shared};
use crate::percpu::{AFFINITY, MAX_CPUS, PER_CPU};
use crate::refusal::Refusal;
use crate::smmu::platform::HostPlatform;
use crate::sysreg::read_sysreg;
use crate::{gic, its, machine, mmu, owner_memory, paravirt, smmu};
use core::sync::atomic::{AtomicU32, Ordering};
use portcullis_addr::{Address, Identity, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{
    BANK_LIMIT, BootError, FirmwareMemory, Gic, HostIommu, HostRegisters, Machine, ViommuStreams,
};
use portcullis_isolation::{Ledger, OwnerSpace, Sharing, TableShapes};
use portcullis_ownership::{Allotment, Bank, Entry, Owner};
use portcullis_pagetable::{Geometry, Granule};
use smmuv3_driver::Stage2;
use smmuv3_spec::ste::Ste;
use spin::Once;

/// Bytes of a CPU's stack.
pub const STACK: u64 = 16 << 10;
/// Bytes of the stack for a CPU's failure report.
pub const FATAL_STACK: u64 = 8 << 10;

/// Pool memory for translation tables and whatever grows later.
const POOL_BASE: u64 = 640 << 10;
/// Pool memory for each SMMU's queues and stream table.
const POOL_SMMU: u64 = 96 << 10;
/// Pool memory for what the host sees of each SMMU in nested mode: its register
/// pages, and EL2's tables for the host's queues.
const POOL_EMULATED: u64 = 96 << 10;
/// Pool memory for EL2's tables for the rings of one more virtio-iommu: six, of which each
/// may be in two tables.
const POOL_RINGS: u64 = 12 * PAGE_SIZE;
/// Pool memory for a hole in the host's RAM: at each end a table of level 2 and
/// one of level 3, for CPUs and for devices.
const POOL_HOLE: u64 = 8 * PAGE_SIZE;

static BANKS: Once<Banks> = Once::new();

struct Banks {
    /// The first `count` are meant.
    banks: [Bank<'static>; BANK_LIMIT],
    count: usize,
}

pub(super) fn ram_end(machine: &Machine) -> PhysAddr {
    machine
        .all_memory()
        .map(|bank| bank.end())
        .max()
        .unwrap_or(PhysAddr::new(0))
}

pub(super) fn ram_pages(machine: &Machine) -> u64 {
    machine
        .memory
        .iter()
        .map(|bank| bank.size() / PAGE_SIZE)
        .sum()
}

/// Bytes of the whole ledger.
pub(super) fn all_ledger_bytes(machine: &Machine) -> u64 {
    machine.all_memory().map(ledger_bytes).sum()
}

/// Bytes of the tables of level 1 for RAM: one for each 512 GiB that a bank is in,
/// for CPUs and for devices. The first ones are among [`POOL_BASE`].
fn upper_bytes(machine: &Machine) -> u64 {
    let spans = machine.all_memory().map(|bank| {
        let last = bank.end().raw().saturating_sub(1);
        (last >> 39) - (bank.start().raw() >> 39) + 1
    });
    spans.sum::<u64>() * 2 * PAGE_SIZE
}

/// Bytes of the pool but for the ledger.
pub(super) fn pool_bytes(machine: &Machine, common: &Common, firmware: &FirmwareMemory) -> u64 {
    let cpus = machine.cpus.len() as u64 * (STACK + FATAL_STACK + 2 * PAGE_SIZE);
    let smmus = machine.smmus.len() as u64;
    // What the host sees, and the entries of its streams.
    let seen = match machine.host_iommu {
        HostIommu::Identity => 0,
        HostIommu::Nested => smmus * POOL_EMULATED + entry_bytes(machine, common),
        HostIommu::Paravirt => {
            let more = machine.viommus.len().saturating_sub(1) as u64 * POOL_RINGS;
            let seen = POOL_EMULATED + more;
            seen + entry_bytes(machine, common) + machine.dma_tables + machine.trace
        }
    };
    let pieces = firmware.ranges().count() + machine.added.iter().count();
    let holes = pieces as u64 * POOL_HOLE;
    cpus + POOL_BASE + upper_bytes(machine) + smmus * POOL_SMMU + holes + seen
}

/// Bytes of the stream table entries when the host gives each stream of its
/// own another translation: 64 for each, in tables of 64 entries, or of up to
/// 1,024 where StreamIDs have more than 16 bits.
fn entry_bytes(machine: &Machine, common: &Common) -> u64 {
    let leaf: u64 = if common.stream_bits <= 16 { 64 } else { 1024 };
    let limit = (1u64 << common.stream_bits.min(32)) - 1;
    machine
        .streams
        .iter()
        .filter(|range| u64::from(range.first) <= limit)
        .map(|range| {
            let last = u64::from(range.last).min(limit);
            (last / leaf - u64::from(range.first) / leaf + 1) * leaf * Ste::SIZE
        })
        .fold(0, u64::saturating_add)
}

/// Bytes of a bank's ledger, in whole pages: of the entries and of the words.
fn ledger_bytes(bank: &Range<PhysAddr>) -> u64 {
    let whole = |words: u64| (words * 4).next_multiple_of(PAGE_SIZE);
    whole(bank.size() / PAGE_SIZE) + whole(Bank::words(*bank))
}

/// Gives each CPU but this one its block and stacks, each over a guard page.
pub(super) fn make_stacks(machine: &Machine) -> Result<(), Refusal> {
    let this = read_sysreg!("mpidr_el1") & AFFINITY;
    let others = machine.cpus.iter().filter(|cpu| cpu.affinity != this);
    let mut blocks = PER_CPU.iter().skip(1);
    for cpu in others {
        let block = blocks.next().ok_or(Refusal::TooManyCpus(MAX_CPUS))?;
        block
            .fatal_stack
            .store(stack(FATAL_STACK)?, Ordering::Relaxed);
        block.mpidr.store(cpu.affinity, Ordering::Relaxed);
        block.stack.store(stack(STACK)?, Ordering::Relaxed);
    }
    Ok(())
}

/// Top of a new stack.
fn stack(size: u64) -> Result<u64, Refusal> {
    let pages = usize::try_from(size / PAGE_SIZE + 1).map_err(|_| Refusal::PoolExhausted)?;
    let range = memory::take_pages(pages, 0).ok_or(Refusal::PoolExhausted)?;
    let guard = Range::from_size(range.start(), PAGE_SIZE).map_err(|_| Refusal::PoolExhausted)?;
    mmu::unmap(guard)?;
    Ok(range.end().raw())
}

/// Words of the ledger's, `fill` two by two.
fn ledger_words(count: u64, fill: u64) -> Result<&'static [AtomicU32], Refusal> {
    let count = usize::try_from(count).map_err(|_| Refusal::PoolExhausted)?;
    let pages = (count * 4).div_ceil(PAGE_SIZE as usize);
    let memory = memory::take_aside(pages, fill).ok_or(Refusal::PoolExhausted)?;
    // SAFETY: the pages are initialised, are given to nobody else and are never
    // given back; atomic words may be shared between CPUs.
    Ok(unsafe { core::slice::from_raw_parts(memory.start().raw() as *const AtomicU32, count) })
}

/// A ledger in which the hypervisor has `protected`, firmware its own, and the
/// host the rest.
pub(super) fn make_ledger(
    machine: &Machine,
    protected: &[Range<PhysAddr>],
    firmware: &FirmwareMemory,
) -> Result<Ledger<'static>, Refusal> {
    const HOST: u64 = Entry::initial(Owner::HOST) as u64;
    let mut banks = [None; BANK_LIMIT];
    for (slot, range) in banks.iter_mut().zip(machine.all_memory()) {
        let entries = ledger_words(range.size() / PAGE_SIZE, HOST << 32 | HOST)?;
        let words = ledger_words(Bank::words(*range), 0)?;
        *slot = Some(Bank::new(*range, entries, words)?);
    }
    let [Some(first), ..] = banks else {
        return Err(Refusal::PoolExhausted);
    };
    let banks = BANKS.call_once(|| Banks {
        count: banks.iter().flatten().count(),
        banks: banks.map(|bank| bank.unwrap_or(first)),
    });
    let mut at_first = Allotment::new(banks.banks.get(..banks.count).unwrap_or_default())?;
    for range in protected {
        at_first = at_first.assign(*range, Owner::HOST, Owner::HYPERVISOR)?;
    }
    for range in firmware.ranges() {
        at_first = at_first.assign(range, Owner::HOST, Owner::FIRMWARE)?;
    }
    Ok(at_first.ledger())
}

/// Builds the host's memory and gives its devices to the SMMUs.
pub(super) fn make_host(
    machine: &Machine,
    common: &Common,
    ledger: Ledger<'static>,
    instances: &ViommuStreams,
    registers: &mut HostRegisters,
) -> Result<Sharing, Refusal> {
    let geometry = Geometry::stage2(Granule::Size4K, common.bits, common.bits)?;
    let shapes = TableShapes {
        dma_geometry: geometry,
        cpu_geometry: Geometry::stage2(Granule::Size4K, common.cpu_bits, common.cpu_bits)?,
        cpu_bbm: mmu::bbm(),
        dma_bbm: common.bbm,
    };
    // A doorbell that is an SMMU's registers, or another thing that is withheld,
    // is no doorbell.
    registers.withhold_gic(machine, gic::takes_fiq())?;
    let mut result = Ok(());
    gic::filtered_pages(|range| result = result.and(registers.withhold(range)));
    result?;
    // The host takes the first, so that its VMID fits into the 8 bits of every CPU.
    machine::set_vmid_bits(vmid_bits(machine));
    let vmid = machine::take_vmids(1).ok_or(Refusal::NoVmid)?;
    let vmid = vmid.first();
    let mut space = OwnerSpace::identity(
        ledger,
        Owner::HOST,
        vmid,
        shapes,
        Shared::new(true),
        Shared::new(common.coherent),
        registers.pages(),
        // A frame is 64 KiB; devices get the page of the one register.
        machine.doorbells().map(|its| its.target),
    )?;
    let dma = space.dma();
    let stage2 = Stage2 {
        vmid: space.vmid(),
        root: dma.root(),
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        granule: smmuv3_driver::Granule::Size4K,
        ps: geometry.ps() as u8,
    };
    let sharing = space.sharing();
    show_its(machine, &mut space)?;
    // What the host shares with an SMMU is as coherent as that; rings are memory
    // of CPUs on both sides.
    prepare_owner_memory(machine.host_iommu != HostIommu::Nested || common.coherent)?;
    match machine.host_iommu {
        HostIommu::Identity => memory::let_tables_grow(),
        HostIommu::Nested => show_smmus(machine, common.coherent, &mut space)?,
        HostIommu::Paravirt => {
            memory::let_tables_grow();
            memory::DMA_TABLES.set(machine.dma_tables);
        }
    }
    machine::set_host(space);
    // In paravirt mode, what devices reach is for the host to ask for.
    let stage2 = (machine.host_iommu != HostIommu::Paravirt).then_some(&stage2);
    for (index, found) in machine.smmus.iter().enumerate() {
        smmu::bring_up(index, machine, common.coherent, stage2).map_err(|error| {
            Refusal::BringUp {
                smmu: found.registers.start(),
                error,
            }
        })?;
    }
    if machine.host_iommu == HostIommu::Paravirt {
        paravirt::create_viommus(machine, instances, common.bits, common.bbm, common.coherent)?;
    }
    Ok(sharing)
}

/// Bits of a VMID that every SMMU tells apart.
fn vmid_bits(machine: &Machine) -> u8 {
    let smmus = 0..machine.smmus.len();
    let bits = smmus.filter_map(|index| Some(smmu::probe(index).ok()?.vmid_bits()));
    bits.min().unwrap_or(8)
}

/// Puts the register pages of emulated SMMUs where the host looks for the
/// physical ones'.
fn show_smmus(machine: &Machine, coherent: bool, space: &mut Host) -> Result<(), Refusal> {
    for (index, (found, lines)) in machine
        .smmus
        .iter()
        .zip(machine.host_lines.iter())
        .enumerate()
    {
        let smmu = found.registers.start();
        if !coherent && lines.event().is_none() {
            // The registers of messages are there where SMMUs see the CPUs' caches, and
            // these do not, whatever the tree says.
            return Err(BootError::NoSpareInterrupt { node: found.path }.into());
        }
        let host = HostPlatform::new(*lines, coherent)?.ok_or(Refusal::PoolExhausted)?;
        for (offset, page) in host.pages() {
            let at = Identity
                .ipa(found.registers)
                .start()
                .checked_add(offset.into())
                .ok_or(Refusal::misplaced(found.registers))?;
            space
                .show(at, page)
                .map_err(|error| Refusal::Emulated { smmu, error })?;
        }
        smmu::create_emulated(index, host);
    }
    memory::let_tables_grow();
    Ok(())
}

/// Puts the registers of emulated ITSs where the host looks for the physical
/// ones'.
fn show_its(machine: &Machine, space: &mut Host) -> Result<(), Refusal> {
    let Gic::V3(v3) = &machine.gic else {
        return Ok(());
    };
    for (index, found) in v3.its.iter().enumerate() {
        let its = found.registers.start();
        for (at, page) in its::shown_pages(found, index).into_iter().flatten() {
            space
                .show(at, page)
                .map_err(|error| Refusal::EmulatedIts { its, error })?;
        }
    }
    Ok(())
}

/// Lets EL2 look at memory of the host's, as `coherent` as the host has it.
fn prepare_owner_memory(coherent: bool) -> Result<(), Refusal> {
    let anchor = memory::take_pages(1, 0).ok_or(Refusal::PoolExhausted)?;
    Ok(owner_memory::prepare(coherent, anchor.start())?)
}

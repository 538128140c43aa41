//! From the first Rust instruction to the host's first.
//!
//! The order matters: the SMMUs are fenced as soon as they are known and before
//! anything that a device could change is trusted, and the host's memory is
//! complete before any of them lets a stream through.

use crate::gic::Line;
use crate::log::{self, debug, error, info};
use crate::machine::HOST_VMID;
use crate::memory::{self, Shared};
use crate::mmio::Device;
use crate::percpu::{self, AFFINITY, MAX_CPUS, PER_CPU};
use crate::refusal::Refusal;
use crate::sysreg::read_sysreg;
use crate::{gic, host, image, machine, mmu, psci, smmu};
use core::sync::atomic::{AtomicU32, Ordering};
use portcullis_addr::{Address, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{
    BANK_LIMIT, BootError, Conduit, Console, Fdt, Gic, HostTreePlan, Interrupt, KernelHeader,
    Layout, Loaded, Machine, Occupant, SMMU_LIMIT, Smmu, TREE_HEADER_SIZE, Trigger, smmus_to_fence,
};
use portcullis_isolation::{HostSpace, HostTables, Ledger, Sharing};
use portcullis_ownership::{Bank, Entry, Owner};
use portcullis_pagetable::{Access, Bbm, Geometry, Granule, MemoryType};
use smmuv3_driver::{Features, Stage2};
use smmuv3_spec::Vmid;
use spin::Once;

/// Most redistributors of a region that are looked at.
const FRAME_LIMIT: usize = 512;

/// Bytes of the register pages 0 and 1 (IHI 0070, 6.2).
const SMMU_SIZE: u64 = 0x2_0000;

/// Bytes of a CPU's stack.
pub const STACK: u64 = 16 << 10;
/// Bytes of the stack for a CPU's failure report.
pub const FATAL_STACK: u64 = 8 << 10;

/// Pool memory for translation tables and whatever grows later.
const POOL_BASE: u64 = 640 << 10;
/// Pool memory for each SMMU's queues and stream table.
const POOL_SMMU: u64 = 96 << 10;

/// Ranges of memory that are the hypervisor's: image and pool.
const PROTECTED: usize = 2;

static MACHINE: Once<Machine> = Once::new();
static BANKS: Once<Banks> = Once::new();

struct Banks {
    /// The first `count` are meant.
    banks: [Bank<'static>; BANK_LIMIT],
    count: usize,
}

/// Called by `entry.rs` with the MMU off and the device tree's address.
pub extern "C" fn primary(tree: u64) -> ! {
    PER_CPU[0]
        .mpidr
        .store(psci::this_affinity(), Ordering::Relaxed);
    let result = match mmu::start() {
        Ok(()) => boot(PhysAddr::new(tree)),
        Err(error) => Err(Refusal::OwnMap(error)),
    };
    match result {
        Ok((entry, tree)) => host::enter(entry, tree),
        Err(refusal) => refuse(refusal, PhysAddr::new(tree)),
    }
}

/// Why the boot ended, once it has.
static REFUSAL: Once<Refusal> = Once::new();

/// Ends a boot that cannot go on: everything fenced, one line, power off.
fn refuse(refusal: Refusal, tree: PhysAddr) -> ! {
    let refusal = REFUSAL.call_once(|| refusal);
    fence_what_the_tree_names(tree);
    #[cfg(feature = "qemu-virt-fallback")]
    fallback::console();
    #[cfg(feature = "qemu-virt-fallback")]
    if open_tree(tree).map_or(true, |tree| smmus_to_fence(&tree).lost != 0) {
        fallback::fence();
    }
    end(refusal, smmu::fence_all())
}

/// Ends a boot that was being refused when something else failed: the
/// registers of a board that is not the one the fallback is for. `fenced` is
/// what became of the SMMUs. Returns when no boot was being refused.
pub fn end_refused(fenced: smmu::Fenced) {
    if let Some(refusal) = REFUSAL.get() {
        end(refusal, fenced);
    }
}

fn end(refusal: &Refusal, fenced: smmu::Fenced) -> ! {
    error!(
        "event=boot_error reason=\"{}\" fix=\"{}\" smmus_fenced={} smmus_silent={}",
        refusal.reason(),
        refusal.fix(),
        fenced.done,
        fenced.failed
    );
    psci::power_off()
}

fn open_tree(at: PhysAddr) -> Result<Fdt<'static>, Refusal> {
    let (_, blob) = map_tree(at)?;
    Ok(Fdt::new(blob)?)
}

/// Fences the SMMUs of a tree that can be read but not used; those that are
/// known keep their places. What goes wrong here shows in the count of the last
/// line.
fn fence_what_the_tree_names(at: PhysAddr) {
    let Ok(tree) = open_tree(at) else { return };
    for (index, registers) in smmus_to_fence(&tree).registers.iter().enumerate() {
        if mmu::map_missing(*registers, MemoryType::Device, Access::ReadWrite).is_ok() {
            let _ = smmu::adopt(index, Device::from_mapped(*registers), smmu::Lines::NONE);
        }
    }
}

/// When the tree did not even say where to print: QEMU's virt machine.
#[cfg(feature = "qemu-virt-fallback")]
mod fallback {
    use super::{
        Access, Device, MemoryType, PAGE_SIZE, PhysAddr, Range, SMMU_LIMIT, log, mmu, smmu,
    };

    /// The first UART, when there is no console yet.
    pub fn console() {
        if !log::has_console()
            && let Ok(uart) = Range::from_size(PhysAddr::new(0x0900_0000), PAGE_SIZE)
        {
            super::use_console(uart);
        }
    }

    /// The SMMU, if one answers: IDR0 says that there are AArch64 tables. Where
    /// nothing is, the read is an abort, and `end_refused` goes on from there.
    pub fn fence() {
        if let Ok(registers) = Range::from_size(PhysAddr::new(0x0905_0000), 0x2_0000)
            && mmu::map_missing(registers, MemoryType::Device, Access::ReadWrite).is_ok()
            && Device::from_mapped(registers).read32(0) & 1 << 3 != 0
        {
            // Fenced or not: the line that follows says it. The last place is
            // the one that the tree is least likely to have taken.
            let _ = smmu::adopt(
                SMMU_LIMIT - 1,
                Device::from_mapped(registers),
                smmu::Lines::NONE,
            );
        }
    }
}

/// Prints to the PL011 at `registers` from now on.
fn use_console(registers: Range<PhysAddr>) {
    if mmu::map_missing(registers, MemoryType::Device, Access::ReadWrite).is_ok() {
        log::set_console(Device::from_mapped(registers));
    }
}

fn boot(tree_at: PhysAddr) -> Result<(Ipa, u64), Refusal> {
    let (tree, blob) = map_tree(tree_at)?;
    if let Some(uart) = Console::for_errors(blob) {
        use_console(uart);
    }
    // Until the SMMUs are fenced a device may change the tree under our eyes.
    // So it is first read for nothing but to find them, and in earnest when
    // nothing can write it any longer.
    let found = smmus_to_fence(&Fdt::new(blob)?).registers;
    for registers in found.iter() {
        mmu::map_missing(*registers, MemoryType::Device, Access::ReadWrite)?;
        // One that does not answer is refused below, by name.
        let _ = smmu::stop(Device::from_mapped(*registers));
    }
    let machine = MACHINE.try_call_once(|| Machine::from_fdt(blob))?;
    adopt_smmus(machine)?;
    let registers = machine.smmus.iter().map(|smmu| &smmu.registers);
    if !registers.eq(found.iter()) {
        return Err(Refusal::TreeChanged);
    }
    start(machine, tree, blob)
}

fn start(
    machine: &'static Machine,
    tree: Range<PhysAddr>,
    blob: &'static [u8],
) -> Result<(Ipa, u64), Refusal> {
    let fdt = Fdt::new(blob)?;
    log::set_level(machine.log);
    if machine.psci.conduit != Conduit::Smc {
        return Err(Refusal::Conduit);
    }
    machine.require_smmu()?;
    check_registers(machine)?;
    if let Some(console) = machine.console {
        use_console(console.registers);
    }
    let features = check_smmus(machine)?;

    let kernel = machine.modules.kernel.range;
    if !machine.memory.iter().any(|bank| bank.covers(&kernel)) {
        return Err(Refusal::Boot(BootError::OutsideMemory {
            what: Occupant::Kernel,
            range: kernel,
        }));
    }
    mmu::map(kernel, MemoryType::Normal, Access::ReadOnly)?;
    let header = KernelHeader::parse(bytes(kernel))?;
    mmu::unmap(kernel)?;

    let loaded = Loaded {
        image: image::range(),
        tree,
        kernel: header,
    };
    // Where the pool goes does not matter for the size of the tree.
    let places = [loaded.image; PROTECTED];
    let tree_bytes = HostTreePlan::identity(machine, &places).bytes_needed(&fdt) as u64;
    let layout = Layout::plan(machine, &loaded, pool_bytes(machine), tree_bytes)?;
    mmu::map(layout.pool, MemoryType::Normal, Access::ReadWrite)?;
    memory::set_pool(layout.pool);
    make_stacks(machine)?;

    let protected: [_; PROTECTED] = [image::range(), layout.pool];
    let ledger = make_ledger(machine, &protected)?;
    take_gic(machine)?;
    let sharing = make_host(machine, &features, ledger)?;

    let tree_bytes = write_host_tree(machine, &fdt, &layout, &protected)?;
    report(machine, &protected, sharing);
    let entry = layout.kernel.start();
    info!(
        "event=host_start entry={entry} tree={} tree_bytes={tree_bytes} cpus={}",
        layout.host_tree.start(),
        machine.cpus.len()
    );
    mmu::unmap(tree)?;

    host::prepare(machine::stage2(), gic::takes_fiq());
    mmu::invalidate_host_tlb();
    gic::enter_cpu(percpu::this());
    Ok((Ipa::new(entry.raw()), layout.host_tree.start().raw()))
}

/// Maps the device tree: one page first, to learn its size.
fn map_tree(at: PhysAddr) -> Result<(Range<PhysAddr>, &'static [u8]), Refusal> {
    if at.raw() == 0 || !at.is_aligned(8) {
        return Err(Refusal::NoTree(at));
    }
    let head = Range::from_size(at, TREE_HEADER_SIZE as u64).map_err(|_| Refusal::NoTree(at))?;
    mmu::map_missing(head, MemoryType::Normal, Access::ReadOnly)?;
    let size = Fdt::size_from_header(bytes(head))?;
    let range = Range::from_size(at, size).map_err(|_| Refusal::NoTree(at))?;
    mmu::map_missing(range, MemoryType::Normal, Access::ReadOnly)?;
    Ok((range, bytes(range)))
}

/// Memory that is mapped read-only here, as bytes.
fn bytes(range: Range<PhysAddr>) -> &'static [u8] {
    let len = usize::try_from(range.size()).unwrap_or(0);
    // SAFETY: every caller has just mapped the range read-only, no CPU but this
    // one runs, and devices are fenced; before they are, the only use is to
    // find them, by code that is memory-safe for bytes that change. The slice is
    // not used any more when the range is unmapped.
    unsafe { core::slice::from_raw_parts(range.start().raw() as *const u8, len) }
}

/// Maps and fences every SMMU; one that cannot be does not keep the others from
/// it.
fn adopt_smmus(machine: &Machine) -> Result<(), Refusal> {
    let mut result = Ok(());
    for (index, found) in machine.smmus.iter().enumerate() {
        let adopted = adopt_smmu(machine, index, found);
        result = result.and(adopted);
    }
    result
}

fn adopt_smmu(machine: &Machine, index: usize, found: &Smmu) -> Result<(), Refusal> {
    let registers = found.registers;
    if registers.size() < SMMU_SIZE {
        return Err(Refusal::SmmuTooSmall(registers));
    }
    outside_memory(machine, registers)?;
    mmu::map_missing(registers, MemoryType::Device, Access::ReadWrite)?;
    let lines = &found.interrupts;
    let intid = |line: Option<Interrupt>| line.map(|line| line.intid);
    let lines = smmu::Lines {
        event: intid(lines.event.or(lines.combined)),
        error: intid(lines.gerror.or(lines.combined)),
    };
    smmu::adopt(index, Device::from_mapped(registers), lines).map_err(|error| Refusal::Fence {
        smmu: registers.start(),
        error,
    })
}

/// Refuses registers that the tree puts into RAM: EL2 would drive its own
/// memory, and the host would have as memory what is to be withheld.
fn outside_memory(machine: &Machine, registers: Range<PhysAddr>) -> Result<(), Refusal> {
    let pages = registers
        .page_outward()
        .ok_or(Refusal::RegistersInMemory(registers))?;
    if machine.memory.iter().any(|bank| bank.overlaps(&pages)) {
        return Err(Refusal::RegistersInMemory(registers));
    }
    Ok(())
}

/// Every range of registers that EL2 drives or withholds lies outside RAM.
fn check_registers(machine: &Machine) -> Result<(), Refusal> {
    let console = machine.console.iter().map(|console| console.registers);
    let unconfined = machine.unconfined.iter().map(|device| device.range);
    let hidden = machine.hidden.iter().copied();
    for range in console.chain(unconfined).chain(hidden) {
        outside_memory(machine, range)?;
    }
    if let Gic::V3(v3) = &machine.gic {
        let frames = v3.redistributors.iter().copied();
        for range in frames.chain([v3.distributor]) {
            outside_memory(machine, range)?;
        }
    }
    Ok(())
}

/// What the SMMUs have in common.
struct Common {
    bits: u8,
    bbm: Bbm,
    coherent: bool,
}

fn check_smmus(machine: &Machine) -> Result<Common, Refusal> {
    let ram_end = ram_end(machine);
    let need = portcullis_isolation::input_bits(ram_end, 48);
    let ram_bits = (64 - ram_end.raw().saturating_sub(1).leading_zeros()) as u8;
    let mut common = Common {
        bits: need,
        bbm: Bbm::Level2,
        coherent: true,
    };
    for (index, found) in machine.smmus.iter().enumerate() {
        let at = found.registers.start();
        let refused = |error| Refusal::Probe { smmu: at, error };
        let features = smmu::probe(index).map_err(refused)?;
        features.require_stage2(ram_bits).map_err(refused)?;
        common.bits = common.bits.min(features.output_bits());
        common.bbm = common.bbm.min(bbm(&features));
        common.coherent &= features.coherent() && found.coherent;
    }
    let cpu_bits = mmu::physical_bits();
    common.bits = common.bits.min(cpu_bits);
    if common.bits < ram_bits {
        return Err(Refusal::CpuReach {
            have: cpu_bits,
            need: ram_bits,
        });
    }
    Ok(common)
}

fn bbm(features: &Features) -> Bbm {
    match features.idr3.bbml() {
        0 => Bbm::Level0,
        1 => Bbm::Level1,
        _ => Bbm::Level2,
    }
}

fn ram_end(machine: &Machine) -> PhysAddr {
    machine
        .memory
        .iter()
        .map(|bank| bank.end())
        .max()
        .unwrap_or(PhysAddr::new(0))
}

fn ram_pages(machine: &Machine) -> u64 {
    machine
        .memory
        .iter()
        .map(|bank| bank.size() / PAGE_SIZE)
        .sum()
}

fn pool_bytes(machine: &Machine) -> u64 {
    let ledger: u64 = machine.memory.iter().map(ledger_bytes).sum();
    let cpus = machine.cpus.len() as u64 * (STACK + FATAL_STACK + 2 * PAGE_SIZE);
    ledger + cpus + POOL_BASE + machine.smmus.len() as u64 * POOL_SMMU
}

/// Bytes of a bank's ledger, in whole pages.
fn ledger_bytes(bank: &Range<PhysAddr>) -> u64 {
    (bank.size() / PAGE_SIZE * 4).next_multiple_of(PAGE_SIZE)
}

/// Gives each CPU but this one its block and stacks, each over a guard page.
fn make_stacks(machine: &Machine) -> Result<(), Refusal> {
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

/// A ledger in which the hypervisor has `protected` and the host the rest.
fn make_ledger(
    machine: &Machine,
    protected: &[Range<PhysAddr>],
) -> Result<Ledger<'static>, Refusal> {
    const HOST: u64 = Entry::initial(Owner::HOST) as u64;
    let mut banks = [None; BANK_LIMIT];
    for (slot, range) in banks.iter_mut().zip(machine.memory.iter()) {
        let pages =
            usize::try_from(ledger_bytes(range) / PAGE_SIZE).map_err(|_| Refusal::PoolExhausted)?;
        // Two entries a word.
        let memory = memory::take_pages(pages, HOST << 32 | HOST).ok_or(Refusal::PoolExhausted)?;
        let count =
            usize::try_from(range.size() / PAGE_SIZE).map_err(|_| Refusal::PoolExhausted)?;
        // SAFETY: the pages are initialised, are given to nobody else and are
        // never given back; atomic words may be shared between CPUs.
        let entries =
            unsafe { core::slice::from_raw_parts(memory.start().raw() as *const AtomicU32, count) };
        *slot = Some(Bank::new(*range, entries)?);
    }
    let [Some(first), ..] = banks else {
        return Err(Refusal::PoolExhausted);
    };
    let banks = BANKS.call_once(|| Banks {
        count: banks.iter().flatten().count(),
        banks: banks.map(|bank| bank.unwrap_or(first)),
    });
    let ledger = Ledger::new(banks.banks.get(..banks.count).unwrap_or_default())?;
    for range in protected {
        ledger
            .begin(*range, Owner::HOST, Owner::HYPERVISOR)?
            .commit();
    }
    Ok(ledger)
}

/// Takes the SMMUs' interrupts, where the GIC lets us.
fn take_gic(machine: &Machine) -> Result<(), Refusal> {
    let Gic::V3(v3) = &machine.gic else {
        info!("event=interrupts_polled reason=\"the GIC is no GICv3\"");
        return Ok(());
    };
    mmu::map_missing(v3.distributor, MemoryType::Device, Access::ReadWrite)?;
    let distributor = Device::from_mapped(v3.distributor);
    if !gic::can_be_taken(&distributor) {
        info!("event=interrupts_polled reason=\"the GIC has two security states\"");
        return Ok(());
    }
    let mut frames = [None; MAX_CPUS];
    for region in v3.redistributors.iter() {
        for_each_frame(*region, v3.stride, |frame| {
            if let Some(slot) = gic::cpu_of(&frame).and_then(|cpu| frames.get_mut(cpu)) {
                *slot = Some(frame);
            }
        })?;
    }
    for (cpu, frame) in PER_CPU.iter().zip(&frames) {
        if frame.is_none() && cpu.stack.load(Ordering::Relaxed) != 0 {
            let affinity = cpu.mpidr.load(Ordering::Relaxed);
            return Err(Refusal::NoRedistributor(affinity));
        }
    }
    let lines = machine.smmus.iter().flat_map(|found| {
        let lines = &found.interrupts;
        [lines.event, lines.gerror, lines.combined]
    });
    let lines = lines.flatten().map(|interrupt| Line {
        intid: interrupt.intid,
        edge: interrupt.trigger == Trigger::Edge,
    });
    gic::take(distributor, frames, lines);
    Ok(())
}

/// Calls `each` with the frames of every redistributor of a region, as far as
/// GICR_TYPER.Last says that there are more (IHI 0069, 12.11.34).
fn for_each_frame(
    region: Range<PhysAddr>,
    stride: Option<u64>,
    mut each: impl FnMut(Device),
) -> Result<(), Refusal> {
    const TWO_FRAMES: u64 = 0x2_0000;
    const TYPER: u64 = 0x8;
    const LAST: u64 = 1 << 4;
    const VLPIS: u64 = 1 << 1;
    let mut at = region.start();
    for _ in 0..FRAME_LIMIT {
        let Ok(frame) = Range::from_size(at, TWO_FRAMES) else {
            break;
        };
        if !region.covers(&frame) {
            break;
        }
        mmu::map_missing(frame, MemoryType::Device, Access::ReadWrite)?;
        let device = Device::from_mapped(frame);
        each(device);
        let typer = device.read64(TYPER);
        if typer & LAST != 0 {
            break;
        }
        let own = if typer & VLPIS != 0 {
            2 * TWO_FRAMES
        } else {
            TWO_FRAMES
        };
        match at.checked_add(stride.unwrap_or(own)) {
            Some(next) => at = next,
            None => break,
        }
    }
    Ok(())
}

/// Builds the host's memory and gives its devices to the SMMUs.
fn make_host(
    machine: &Machine,
    common: &Common,
    ledger: Ledger<'static>,
) -> Result<Sharing, Refusal> {
    let geometry = Geometry::stage2(Granule::Size4K, common.bits, common.bits)?;
    let tables = HostTables {
        geometry,
        cpu_bbm: mmu::bbm(),
        dma_bbm: common.bbm,
    };
    let mut withheld = [None; WITHHELD];
    let mut count = 0;
    let mut withhold = |range: Range<PhysAddr>| {
        if let Some(slot) = withheld.get_mut(count) {
            *slot = Some(range);
        }
        count += 1;
    };
    machine.smmus.iter().for_each(|s| withhold(s.registers));
    machine.hidden.iter().for_each(|range| withhold(*range));
    machine.unconfined.iter().for_each(|d| withhold(d.range));
    if let Some(console) = machine.console.filter(|console| console.dedicated) {
        withhold(console.registers);
    }
    if let (Gic::V3(v3), true) = (&machine.gic, gic::takes_fiq()) {
        // The memory-mapped CPU interface, which the system registers replace.
        v3.compatibility.iter().for_each(|range| withhold(*range));
    }
    gic::filtered_pages(withhold);
    if count > WITHHELD {
        return Err(Refusal::TooManyRanges(WITHHELD));
    }
    let space = HostSpace::new(
        ledger,
        tables,
        Shared::COHERENT,
        Shared::new(common.coherent),
        withheld.iter().flatten().copied(),
        // The frame is 64 KiB; devices get the page of the one register.
        machine
            .gic
            .doorbells()
            .filter_map(|its| Range::from_size(its.target, 4).ok()),
    )?;
    let dma = space.dma();
    let stage2 = Stage2 {
        vmid: Vmid(HOST_VMID),
        root: dma.root(),
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        granule: smmuv3_driver::Granule::Size4K,
        ps: geometry.ps() as u8,
    };
    let sharing = space.sharing();
    machine::set_host(space);
    for (index, found) in machine.smmus.iter().enumerate() {
        smmu::bring_up(index, machine, common.coherent, &stage2).map_err(|error| {
            Refusal::BringUp {
                smmu: found.registers.start(),
                error,
            }
        })?;
    }
    Ok(sharing)
}

/// Ranges of registers that can be withheld from the host.
const WITHHELD: usize = 256;

fn write_host_tree(
    machine: &Machine,
    fdt: &Fdt<'_>,
    layout: &Layout,
    protected: &[Range<PhysAddr>],
) -> Result<usize, Refusal> {
    let area = layout.host_tree;
    mmu::map(area, MemoryType::Normal, Access::ReadWrite)?;
    let len = usize::try_from(area.size()).unwrap_or(0);
    // SAFETY: the range was just mapped read-write; it is free memory of the
    // host's, which does not run yet, and no other reference to it exists.
    let out = unsafe { core::slice::from_raw_parts_mut(area.start().raw() as *mut u8, len) };
    let written = HostTreePlan::identity(machine, protected).write(fdt, out)?;
    // The host reads it with its caches off.
    mmu::clean_to_memory(area.start().raw(), written as u64);
    mmu::unmap(area)?;
    Ok(written)
}

fn report(machine: &Machine, protected: &[Range<PhysAddr>], sharing: Sharing) {
    for (range, what) in protected.iter().zip(["image", "pool"]) {
        info!(
            "event=memory_reserved base={} size={:#x} what={what}",
            range.start(),
            range.size()
        );
    }
    let (used, pages) = memory::pool_use();
    info!(
        "event=host_memory ram_pages={} pool_pages={pages} pool_used={used} tables={} \
         fault_reports={}",
        ram_pages(machine),
        match sharing {
            Sharing::Shared => "shared",
            Sharing::Separate => "separate",
        },
        if smmu::needs_polling() {
            "polled"
        } else {
            "fiq"
        },
    );
    // Neighbours, such as QEMU's 32 virtio-mmio transports, make one line.
    let mut withheld: Option<Range<PhysAddr>> = None;
    let ranges = machine.unconfined.iter().map(|device| device.range);
    for next in ranges.map(Some).chain([None]) {
        withheld = match (withheld, next) {
            (Some(run), Some(next)) if run.end() == next.start() => {
                Range::new(run.start(), next.end()).ok()
            }
            (Some(run), next) => {
                info!(
                    "event=device_withheld base={} size={:#x} reason=\"it does DMA that no SMMU \
                     translates\"",
                    run.start(),
                    run.size()
                );
                next
            }
            (None, next) => next,
        };
    }
    for bank in machine.memory.iter() {
        debug!(
            "event=memory_bank base={} size={:#x}",
            bank.start(),
            bank.size()
        );
    }
}

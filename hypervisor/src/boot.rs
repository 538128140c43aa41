//! From the first Rust instruction to the host's first.
//!
//! The order matters: the SMMUs are fenced as soon as they are known and before
//! anything that a device could change is trusted, and the host's memory is
//! complete before any of them lets a stream through.

mod devices;
mod owners;
mod pci;
mod refuse;

pub use owners::{FATAL_STACK, STACK};
pub use refuse::end_refused;

use crate::lock::Mutex;
use crate::log::{self, debug, info, warning};
use crate::mmio::Device;
use crate::percpu::{self, PER_CPU};
use crate::refusal::Refusal;
use crate::{gic, host, image, inherited, machine, memory, mmu, psci, smmu};
use core::sync::atomic::Ordering;
use portcullis_addr::{Address, Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{
    BootError, Console, DeviceNote, Fdt, FirmwareMemory, HostRegisters, HostTreePlan, Interrupts,
    KernelHeader, Layout, Loaded, Machine, Occupant, TREE_HEADER_SIZE, Verdict, ViommuStreams,
    smmus_to_fence,
};
use portcullis_isolation::Sharing;
use portcullis_pagetable::{Access, MemoryType};
use spin::Once;

/// Ranges of memory that are the hypervisor's: image and pool.
const PROTECTED: usize = 2;

static MACHINE: Once<Machine> = Once::new();

/// Which virtio-iommu has what.
static INSTANCES: Once<ViommuStreams> = Once::new();

/// Too large for a stack. Only the boot looks at it.
static REGISTERS: Mutex<HostRegisters> = Mutex::new(HostRegisters::new());

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
        Err(refusal) => refuse::refuse(refusal, PhysAddr::new(tree)),
    }
}

/// Prints to the PL011 at `registers` from now on.
fn use_console(registers: Range<PhysAddr>) {
    // A PL011 has one page, whatever the tree says.
    let Ok(registers) = Range::from_size(registers.start(), PAGE_SIZE) else {
        return;
    };
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
    let found = smmus_to_fence(&Fdt::new(blob)?);
    found.require()?;
    let found = found.registers;
    for (index, registers) in found.iter().enumerate() {
        let pages = devices::smmu_pages(*registers);
        mmu::map_missing(pages, MemoryType::Device, Access::ReadWrite)?;
        smmu::register(index, Device::from_mapped(pages));
    }
    // All are known before the first is touched, so that one that does not
    // answer does not save the others. It is refused below, by name.
    smmu::fence_all();
    let machine = MACHINE.try_call_once(|| Machine::from_fdt_on(blob, &devices::Board))?;
    devices::adopt_smmus(machine)?;
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
    inherited::set_options(machine.bhb, machine.mpam);
    machine.check_hardware()?;
    if let Some(console) = machine.console {
        use_console(console.registers);
    }
    if let Some(path) = &machine.console_unused {
        warning!(
            "event=console_unused node={path} reason=\"the host could switch it off\" \
             fix=\"trust-power=yes, or a UART with a fixed clock\""
        );
        log::drop_console();
    }
    report_oddities(machine, &fdt);
    let mut registers = REGISTERS.lock();
    registers.find(&fdt, machine)?;
    let features = devices::check_smmus(machine, &mut registers)?;
    pci::look(machine)?;
    let instances = INSTANCES.call_once(|| pci::divide(machine, &fdt));

    let kernel = machine.modules.kernel.range;
    if !machine.memory.iter().any(|bank| bank.covers(&kernel)) {
        return Err(Refusal::Boot(BootError::OutsideMemory {
            what: Occupant::Kernel,
            range: kernel,
        }));
    }
    mmu::map(kernel, MemoryType::Normal, Access::ReadOnly)?;
    let header = KernelHeader::parse(bytes(kernel))?;
    // It is entered with the MMU and caches off. Boot loaders clean what they enter
    // (Linux, booting.rst), and that is this image.
    mmu::clean_to_memory(kernel.start().raw(), kernel.size());
    mmu::unmap(kernel)?;

    let loaded = Loaded {
        image: image::range(),
        tree,
        kernel: header,
    };
    let firmware = FirmwareMemory::find(machine, &loaded)?;
    // Where the pool goes does not matter for the size of the tree.
    let places = [loaded.image; PROTECTED];
    let tree_bytes = HostTreePlan::new(machine, &places, true)
        .with_instances(machine, instances)
        .with_firmware(&firmware)
        .bytes_needed(&fdt) as u64;
    // Before anything is stored in memory that firmware may have given them.
    let its = devices::probe_its(machine)?;
    let lpis_coherent = devices::stop_lpis(machine)?;
    let its_bytes = its.map_or(0, |probed| probed.bytes);
    let ledger_bytes = owners::all_ledger_bytes(machine);
    let pool_bytes = ledger_bytes + owners::pool_bytes(machine, &features, &firmware) + its_bytes;
    let layout = Layout::plan(machine, &loaded, pool_bytes, tree_bytes)?;
    mmu::map(layout.pool, MemoryType::Normal, Access::ReadWrite)?;
    memory::set_pool(layout.pool, ledger_bytes)?;
    owners::make_stacks(machine)?;

    let protected: [_; PROTECTED] = [image::range(), layout.pool];
    let ledger = owners::make_ledger(machine, &protected, &firmware)?;
    devices::take_gic(machine, its, lpis_coherent)?;
    // The last look at the tree: it lies in the host's memory, which devices
    // reach from the next step on.
    let mut plan = HostTreePlan::new(machine, &protected, features.coherent)
        .with_instances(machine, instances)
        .with_firmware(&firmware);
    plan.interrupts = Interrupts::of(machine, gic::hides_virtual_lpis());
    let tree_bytes = write_host_tree(&fdt, &layout, &plan)?;
    report_devices(machine, &fdt, &registers, &features)?;
    mmu::unmap(tree)?;
    let sharing = owners::make_host(machine, &features, ledger, instances, &mut registers)?;
    report(machine, &protected, &firmware, sharing);
    let entry = Identity.ipa(layout.kernel).start();
    info!(
        "event=host_start entry={entry} tree={} tree_bytes={tree_bytes} cpus={}",
        layout.host_tree.start(),
        machine.cpus.len()
    );
    log::end_boot();

    host::prepare(machine::stage2(), gic::takes_fiq());
    mmu::invalidate_host_tlb();
    gic::enter_cpu(percpu::this());
    Ok((entry, layout.host_tree.start().raw()))
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

fn write_host_tree(
    fdt: &Fdt<'_>,
    layout: &Layout,
    plan: &HostTreePlan<'_>,
) -> Result<usize, Refusal> {
    let area = layout.host_tree;
    mmu::map(area, MemoryType::Normal, Access::ReadWrite)?;
    let len = usize::try_from(area.size()).unwrap_or(0);
    // SAFETY: the range was just mapped read-write; it is free memory of the
    // host's, which does not run yet, and no other reference to it exists.
    let out = unsafe { core::slice::from_raw_parts_mut(area.start().raw() as *mut u8, len) };
    let written = plan.write(fdt, out)?;
    // The host reads it with its caches off.
    mmu::clean_to_memory(area.start().raw(), written as u64);
    mmu::unmap(area)?;
    Ok(written)
}

fn report(
    machine: &Machine,
    protected: &[Range<PhysAddr>],
    firmware: &FirmwareMemory,
    sharing: Sharing,
) {
    let own = protected.iter().copied().zip(["image", "pool"]);
    let firmware = firmware.ranges().map(|range| (range, "firmware"));
    if machine.memory_lost > 0 {
        warning!(
            "event=memory_unreachable bytes={:#x} above={} reason=\"not all of the CPUs and SMMUs \
             reach it\" outcome=\"it is left out of the host's memory\"",
            machine.memory_lost,
            machine.memory_end
        );
    }
    for (range, what) in own.chain(firmware) {
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
        owners::ram_pages(machine),
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
    for bank in machine.memory.iter() {
        debug!(
            "event=memory_bank base={} size={:#x}",
            bank.start(),
            bank.size()
        );
    }
}

/// Says what is odd in the tree, and what was made of it.
fn report_oddities(machine: &Machine, fdt: &Fdt<'_>) {
    for (node, odd) in machine.odd.iter() {
        warning!(
            "event=tree_odd node={} reason=\"{odd}\" outcome=\"{}\"",
            fdt.path(node),
            odd.outcome()
        );
    }
    if machine.odd.more() > 0 {
        warning!("event=tree_odd more={}", machine.odd.more());
    }
}

/// Says which devices the host does not get, and which it gets on trust.
fn report_devices(
    machine: &Machine,
    fdt: &Fdt<'_>,
    registers: &HostRegisters,
    features: &devices::Common,
) -> Result<(), Refusal> {
    machine.for_each_note(fdt, |note| {
        let (base, size) = (note.range.start(), note.range.size());
        let DeviceNote { path, nodes, .. } = note;
        match note.verdict {
            Verdict::Withheld(why) => info!(
                "event=device_withheld node={path} nodes={nodes} base={base} size={size:#x} \
                 reason=\"{why}\" fix=\"allow-unconfined={path}\""
            ),
            _ => warning!(
                "event=device_unconfined node={path} base={base} size={size:#x} cost=\"the host can \
                 have it read and write all memory, the hypervisor's too\""
            ),
        }
    })?;
    let end = PhysAddr::new(1 << features.cpu_bits.min(63));
    registers.for_each_above(fdt, machine, end, |path, range| {
        warning!(
            "event=device_cut node={path} base={} size={:#x} reason=\"the CPUs' stage 2 ends at {end}\"",
            range.start(),
            range.size()
        );
    })?;
    registers.for_each_cut(fdt, machine, |path, range| {
        warning!(
            "event=device_cut node={path} base={} size={:#x} reason=\"it shares a page with \
             registers that are withheld\"",
            range.start(),
            range.size()
        );
    })?;
    Ok(())
}

//! The devices that EL2 drives: found, checked, and taken over.

use super::owners::ram_end;
use crate::gic::{self, Line, Others};
use crate::log::info;
use crate::mmio::Device;
use crate::percpu::{MAX_CPUS, PER_CPU};
use crate::refusal::Refusal;
use crate::{its, mmu, smmu};
use core::sync::atomic::Ordering;
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::{
    Gic, GicV3, Hardware, HostIommu, HostRegisters, Interrupt, Machine, SMMU_BYTES, Smmu, Trigger,
};
use portcullis_pagetable::{Access, Bbm, MemoryType};
use smmuv3_driver::{CommandPages, Features};

/// Most redistributors of a region that are looked at.
const FRAME_LIMIT: usize = 512;

/// Bytes of the distributor's frame (IHI 0069, 12.8).
const DISTRIBUTOR_SIZE: u64 = 0x1_0000;

/// Maps and fences every SMMU; one that cannot be does not keep the others from
/// it.
pub(super) fn adopt_smmus(machine: &Machine) -> Result<(), Refusal> {
    let mut result = Ok(());
    for (index, found) in machine.smmus.iter().enumerate() {
        let adopted = adopt_smmu(machine, index, found);
        result = result.and(adopted);
    }
    result
}

/// The part of an SMMU's registers that EL2 uses. What more the tree names is
/// withheld from the host, but EL2 has few tables for its own map.
pub(super) fn smmu_pages(registers: Range<PhysAddr>) -> Range<PhysAddr> {
    Range::from_size(registers.start(), registers.size().min(SMMU_BYTES)).unwrap_or(registers)
}

fn adopt_smmu(machine: &Machine, index: usize, found: &Smmu) -> Result<(), Refusal> {
    let registers = found.registers;
    machine.check_smmu(found)?;
    let pages = smmu_pages(registers);
    mmu::map_missing(pages, MemoryType::Device, Access::ReadWrite)?;
    let lines = &found.interrupts;
    let intid = |line: Option<Interrupt>| line.map(|line| line.intid);
    let lines = smmu::Lines {
        event: intid(lines.event.or(lines.combined)),
        error: intid(lines.gerror.or(lines.combined)),
    };
    let device = Device::from_mapped(pages);
    if let Some(how) = smmu::silence(device) {
        let smmu = registers.start();
        return Err(Refusal::SmmuSilent { smmu, how });
    }
    smmu::adopt(index, device, found.page_0_only, lines).map_err(|error| Refusal::Fence {
        smmu: registers.start(),
        error,
    })
}

/// What one table at level 1 translates: 512 GiB.
const ONE_ROOT: PhysAddr = PhysAddr::new(1 << 39);

/// Input bits with which a walk starts at level 0. With fewer it starts at level 1,
/// in tables side by side (DDI 0487, D8.2), of which QEMU's SMMUv3 reads the first
/// alone: it masks the address after it has added the table's offset (10.0,
/// `hw/arm/smmu-common.c`, `smmu_ptw_64_s2`).
const ROOT_AT_LEVEL_0: u8 = 44;

/// The machine that this runs on.
pub(super) struct Board;

impl Hardware for Board {
    /// What is above, not all of the CPUs and SMMUs reach: RAM there would be of use
    /// to nobody. What else is wrong with an SMMU is said later, by name.
    fn memory_end(&self) -> PhysAddr {
        let bits = smmu::output_bits().fold(mmu::physical_bits(), u8::min);
        PhysAddr::new(1 << bits.min(63))
    }

    fn spi_ends(&self, registers: Range<PhysAddr>) -> [u32; 2] {
        let Ok(first) = Range::from_size(registers.start(), PAGE_SIZE) else {
            return [0; 2];
        };
        if mmu::map_missing(first, MemoryType::Device, Access::ReadWrite).is_err() {
            return [0; 2];
        }
        gic::spi_ends(&Device::from_mapped(first))
    }
}

/// What the SMMUs have in common.
pub(super) struct Common {
    /// Address bits of the devices' tables.
    pub(super) bits: u8,
    /// Address bits of the CPUs' tables.
    pub(super) cpu_bits: u8,
    pub(super) bbm: Bbm,
    pub(super) coherent: bool,
    /// Bits of the largest StreamID.
    pub(super) stream_bits: u8,
}

/// Stops the command queues that an SMMU has beside the one that is driven, and
/// withholds them: whoever reaches one has the SMMU write anywhere.
fn stop_side_queues(
    machine: &Machine,
    (index, found): (usize, &Smmu),
    registers: &mut HostRegisters,
) -> Result<(), Refusal> {
    let smmu = found.registers.start();
    let refused = |error| Refusal::SideQueues { smmu, error };
    let Some(port) = smmu::port(index) else {
        return Ok(());
    };
    let Some(pages) = CommandPages::of(&port).map_err(refused)? else {
        return Ok(());
    };
    for offset in pages.offsets(&port) {
        let page = smmu.checked_add(offset.map_err(refused)?);
        let page = page.and_then(|at| Range::from_size(at, CommandPages::SIZE).ok());
        let page = page.ok_or(Refusal::misplaced(found.registers))?;
        machine.outside_memory(page)?;
        registers.withhold(page)?;
        mmu::map_missing(page, MemoryType::Device, Access::ReadWrite)?;
        let queues = smmu::Port::new(Device::from_mapped(page));
        pages.stop(&queues, &smmu::SystemCounter).map_err(refused)?;
        mmu::unmap(page)?;
    }
    Ok(())
}

/// What the SMMUs can do, once none has any other command queue; `registers` are
/// those that the host is to reach.
pub(super) fn check_smmus(
    machine: &Machine,
    registers: &mut HostRegisters,
) -> Result<Common, Refusal> {
    for found in machine.smmus.iter().enumerate() {
        stop_side_queues(machine, found, registers)?;
    }
    let ram_end = ram_end(machine);
    let cpu_bits = mmu::physical_bits();
    let mut need = portcullis_isolation::input_bits(ram_end.max(registers.end()), 48);
    if ram_end > ONE_ROOT {
        need = need.max(ROOT_AT_LEVEL_0);
    }
    let ram_bits = (64 - ram_end.raw().saturating_sub(1).leading_zeros()) as u8;
    let mut common = Common {
        bits: need,
        cpu_bits: need.min(cpu_bits),
        bbm: Bbm::Level2,
        coherent: true,
        stream_bits: 0,
    };
    for (index, found) in machine.smmus.iter().enumerate() {
        let at = found.registers.start();
        let refused = |error| Refusal::Probe { smmu: at, error };
        let features = smmu::probe(index).map_err(refused)?;
        features.require_stage2(ram_bits).map_err(refused)?;
        if machine.host_iommu == HostIommu::Nested && !features.nesting() {
            return Err(Refusal::NoNesting {
                smmu: at,
                unreliable: features.stage1(),
            });
        }
        common.stream_bits = common.stream_bits.max(features.stream_bits());
        common.bits = common.bits.min(features.output_bits());
        common.bbm = common.bbm.min(bbm(&features));
        common.coherent &= features.coherent() && found.coherent;
    }
    if common.bits.min(cpu_bits) < ram_bits {
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

/// Stops every ITS, and finds out what is needed to take them over. `None` when
/// the host gets none.
pub(super) fn probe_its(machine: &Machine) -> Result<Option<its::Probe>, Refusal> {
    let Gic::V3(v3) = &machine.gic else {
        return Ok(None);
    };
    its::probe(machine, &distributor(v3)?)
}

fn distributor(v3: &GicV3) -> Result<Device, Refusal> {
    let frame = Range::from_size(v3.distributor.start(), DISTRIBUTOR_SIZE)
        .map_err(|_| Refusal::misplaced(v3.distributor))?;
    mmu::map_missing(frame, MemoryType::Device, Access::ReadWrite)?;
    Ok(Device::from_mapped(frame))
}

/// Has every redistributor let go of the tables that an earlier kernel or firmware
/// gave it, also those of CPUs that the tree does not name: they may be in memory
/// that becomes the hypervisor's. The ITSs are stopped. Whether each of them sees the
/// caches.
pub(super) fn stop_lpis(machine: &Machine) -> Result<bool, Refusal> {
    let mut coherent = true;
    if let Gic::V3(v3) = &machine.gic {
        for region in v3.redistributors.iter() {
            for_each_frame(*region, v3.stride, |frame| {
                coherent &= its::quiesce_redistributor(&frame).map_err(|error| Refusal::Lpis {
                    redistributor: frame.range().start(),
                    error,
                })?;
                Ok(())
            })?;
        }
    }
    Ok(coherent)
}

/// Takes the SMMUs' interrupts, where the GIC lets us, and the LPIs and ITSs, of
/// which `probed` is known. `coherent` is whether the redistributors see the caches.
pub(super) fn take_gic(
    machine: &Machine,
    probed: Option<its::Probe>,
    coherent: bool,
) -> Result<(), Refusal> {
    if machine.host_iommu != HostIommu::Identity {
        // To raise the interrupts of what the host sees, whoever has the GIC.
        let registers = machine.gic.distributor();
        let first = Range::from_size(registers.start(), PAGE_SIZE)
            .map_err(|_| Refusal::misplaced(registers))?;
        mmu::map_missing(first, MemoryType::Device, Access::ReadWrite)?;
        gic::use_distributor(Device::from_mapped(first));
    }
    let Gic::V3(v3) = &machine.gic else {
        info!("event=interrupts_polled reason=\"the GIC is no GICv3\"");
        return Ok(());
    };
    let distributor = distributor(v3)?;
    let mut frames = [None; MAX_CPUS];
    let mut others = Others::new();
    for region in v3.redistributors.iter() {
        for_each_frame(*region, v3.stride, |frame| {
            match gic::cpu_of(&frame).and_then(|cpu| frames.get_mut(cpu)) {
                Some(slot) => *slot = Some(frame),
                None => others.add(frame),
            }
            Ok(())
        })?;
    }
    for (cpu, frame) in PER_CPU.iter().zip(&frames) {
        if frame.is_none() && cpu.stack.load(Ordering::Relaxed) != 0 {
            let affinity = cpu.mpidr.load(Ordering::Relaxed);
            return Err(Refusal::NoRedistributor(affinity));
        }
    }
    if gic::can_be_taken(&distributor) {
        let lines = machine.smmus.iter().flat_map(|found| {
            let lines = &found.interrupts;
            [lines.event, lines.gerror, lines.combined]
        });
        let lines = lines.flatten().map(|interrupt| Line {
            intid: interrupt.intid,
            edge: interrupt.trigger == Trigger::Edge,
        });
        gic::take(distributor, frames, others, lines);
    } else {
        info!("event=interrupts_polled reason=\"the GIC has two security states\"");
        gic::watch(distributor, frames, others);
    }
    match probed {
        Some(probed) => its::take_over(machine, probed, coherent),
        None => Ok(()),
    }
}

/// Calls `each` with the frames of every redistributor of a region, as far as
/// GICR_TYPER.Last says that there are more (IHI 0069, 12.11.34).
fn for_each_frame(
    region: Range<PhysAddr>,
    stride: Option<u64>,
    mut each: impl FnMut(Device) -> Result<(), Refusal>,
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
        each(device)?;
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

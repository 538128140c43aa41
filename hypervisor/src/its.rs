//! The interrupt translation services and the LPIs: the physical ones, which are
//! EL2's, and those that the host sees in their place.
//!
//! [`probe`] and [`take_over`] run once, at boot; [`store`] and the two functions
//! for redistributors are the host's accesses. `gicv3-its` decides all of it, under
//! one lock.

mod platform;

use crate::gic;
use crate::lock::{Mutex, MutexGuard};
use crate::log::{RateLimit, info, warning};
use crate::memory::{ITS_TABLES, Shared, Tables};
use crate::mmio::Device;
use crate::mmu::{self, MapError};
use crate::refusal::Refusal;
use crate::smmu::SystemCounter;
use gicv3_its::{
    DEVICE_RANGE_LIMIT, DeviceId, DeviceRange, Emulator, Event, EventId, LpiCount, Progress,
    RdWrite, RedistributorId, Registers, Report, Size, Target,
};
use platform::HostMachine;
use portcullis_addr::{Address, Identity, Ipa, PhysAddr, Range};
use portcullis_boot::{Gic, Its, Machine};
use portcullis_pagetable::{Access, MemoryType};
use spin::Once;

pub use platform::SHOWN_OFFSETS;

/// Bytes of the control frame of an ITS.
const FRAME: u64 = 0x1_0000;

/// How often the lock is tried before the host's CPU goes back and comes again.
const TRIES: u32 = 4096;

/// GICD_TYPER.
const GICD_TYPER: u64 = 0x0004;
/// GICR_TYPER.Processor_Number, bits 23:8.
const PROCESSOR_NUMBER: u64 = 8;
/// GITS_TYPER.PTA.
const PTA: u64 = 1 << 19;

/// One frame of registers of the GIC's.
#[derive(Clone, Copy, Debug)]
struct Frame(Device);

impl Registers for Frame {
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset.into())
    }
    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset.into(), value);
    }
    fn read64(&self, offset: u32) -> u64 {
        self.0.read64(offset.into())
    }
    fn write64(&self, offset: u32, value: u64) {
        self.0.write64(offset.into(), value);
    }
}

impl gicv3_its::Clock for SystemCounter {
    fn now_us(&self) -> u64 {
        crate::sysreg::now_us()
    }
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

type Host = Emulator<Frame, Tables, SystemCounter, crate::owner_memory::MappedMemory>;

static SERVICES: Once<Services> = Once::new();
static REPORTS: RateLimit = RateLimit::new();

/// What the host has in place of the ITSs.
struct Services {
    /// Every frame of each ITS, by index; the first is the control frame.
    frames: [Option<Range<PhysAddr>>; gicv3_its::ITS_LIMIT],
    emulator: Mutex<Host>,
}

fn emulator() -> Option<&'static Mutex<Host>> {
    SERVICES.get().map(|services| &services.emulator)
}

/// What is known of the ITSs before there is memory for them.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    count: LpiCount,
    coherent: bool,
    /// Bytes of memory that [`take_over`] takes.
    pub bytes: u64,
}

/// The ITSs that the host is to have; none without `gic-its=on` or a GICv3.
fn its(machine: &Machine) -> impl Iterator<Item = (usize, &Its)> {
    let its = match &machine.gic {
        Gic::V3(v3) if machine.gic_its => Some(v3.its.iter()),
        Gic::V3(_) | Gic::V2(_) => None,
    };
    its.into_iter().flatten().enumerate()
}

/// The devices of the host's at the ITS at index `its`, and how many ranges that
/// are.
fn ranges(machine: &Machine, its: usize) -> ([DeviceRange; DEVICE_RANGE_LIMIT], usize) {
    let none = DeviceRange {
        first: DeviceId(0),
        last: DeviceId(0),
    };
    let mut list = [none; DEVICE_RANGE_LIMIT];
    let own = machine.msis.iter().filter(|range| range.its == its);
    let mut count = 0;
    for (slot, range) in list.iter_mut().zip(own) {
        *slot = DeviceRange {
            first: DeviceId(range.first),
            last: DeviceId(range.last),
        };
        count += 1;
    }
    (list, count)
}

fn control_frame(its: &Its) -> Result<Frame, Refusal> {
    let refused = Refusal::misplaced(its.registers);
    let Ok(frame) = Range::from_size(its.registers.start(), FRAME) else {
        return Err(refused);
    };
    mmu::map_missing(frame, MemoryType::Device, Access::ReadWrite)?;
    Ok(Frame(Device::from_mapped(frame)))
}

/// Stops every ITS of the machine, also those that the host does not get, and
/// finds out how much memory they need. `None` when the host gets none.
///
/// # Errors
/// The ITS that does not stop, or cannot be used.
pub fn probe(machine: &Machine, distributor: &Device) -> Result<Option<Probe>, Refusal> {
    let Gic::V3(v3) = &machine.gic else {
        return Ok(None);
    };
    let mut coherent = true;
    for its in v3.its.iter() {
        let frame = control_frame(its)?;
        coherent &= gicv3_its::quiesce(&frame, &SystemCounter).map_err(|error| Refusal::Its {
            its: its.registers.start(),
            error,
        })?;
    }
    let typer = distributor.read32(GICD_TYPER);
    let count = LpiCount::new(typer).filter(|_| machine.gic_its);
    let Some(count) = count else {
        return Ok(None);
    };
    // At most the limit of the image.
    let cpus = machine.cpus.len() as u8;
    let mut bytes = count.table_bytes(cpus) + machine.its_tables;
    for (index, its) in self::its(machine) {
        let (ranges, given) = ranges(machine, index);
        let used = ranges.get(..given).unwrap_or_default();
        let highest = used.iter().map(|range| range.last).max();
        let frame = control_frame(its)?;
        let highest = highest.unwrap_or(DeviceId(0));
        let own = gicv3_its::table_bytes(&frame, highest, cpus);
        bytes += own.map_err(|error| Refusal::Its {
            its: its.registers.start(),
            error,
        })?;
        bytes += platform::SHOWN_BYTES;
    }
    Ok(Some(Probe {
        count,
        coherent,
        bytes,
    }))
}

/// Stops the LPIs of a redistributor. Whether it sees the CPUs' caches.
///
/// # Errors
/// See [`gicv3_its::LpiError`].
pub fn quiesce_redistributor(frame: &Device) -> Result<bool, gicv3_its::LpiError> {
    const PLPIS: u64 = 1 << 0;
    let frame = Frame(*frame);
    if frame.read64(gicv3_its::reg::RD_TYPER) & PLPIS == 0 {
        return Ok(true);
    }
    gicv3_its::quiesce_lpis(&frame, &SystemCounter)
}

/// Gives every ITS and redistributor tables of EL2's, and makes the host's.
/// `probed` is what [`probe`] found, `redistributors_coherent` whether each of
/// them sees the caches.
///
/// # Errors
/// The ITS that cannot be taken over, or no memory.
pub fn take_over(
    machine: &Machine,
    probed: Probe,
    redistributors_coherent: bool,
) -> Result<(), Refusal> {
    let coherent = probed.coherent && redistributors_coherent;
    let memory = Shared::new(coherent);
    ITS_TABLES.set(machine.its_tables);
    let share = Tables::new(&ITS_TABLES, coherent);
    let emulator = Host::new(&memory, share, SystemCounter, probed.count);
    let mut emulator = emulator.ok_or(Refusal::PoolExhausted)?;
    let mut frames = [None; gicv3_its::ITS_LIMIT];
    let mut redistributors = 0u8;
    let mut target_kind = false;
    for (index, its) in self::its(machine) {
        let frame = control_frame(its)?;
        target_kind |= frame.read64(gicv3_its::reg::TYPER) & PTA != 0;
        if let Some(slot) = frames.get_mut(index) {
            *slot = Some(its.registers);
        }
    }
    let mut room = true;
    gic::for_each_redistributor(|cpu, frame| {
        let typer = frame.read64(gicv3_its::reg::RD_TYPER.into());
        let target = if target_kind {
            Target::address(frame.range().start().raw())
        } else {
            Target::processor((typer >> PROCESSOR_NUMBER) as u16)
        };
        // At most the limit of the image.
        let id = RedistributorId(cpu as u8);
        redistributors = redistributors.max(id.0 + 1);
        room &= emulator.add_redistributor(&memory, id, target);
    });
    if !room {
        return Err(Refusal::PoolExhausted);
    }
    for (index, its) in self::its(machine) {
        let frame = control_frame(its)?;
        let (ranges, given) = ranges(machine, index);
        let used = ranges.get(..given).unwrap_or_default();
        emulator
            .add_its(&memory, index, frame, used, redistributors)
            .map_err(|error| Refusal::Its {
                its: its.registers.start(),
                error,
            })?;
        if its.id_in_address {
            emulator.show_product(index);
            warning!(
                "event=doorbell_open its={} window={} reason=\"the DeviceID is in the address that a \
                 device writes to\" cost=\"each of the host's devices can raise the interrupts of \
                 every other\"",
                its.registers.start(),
                its.doorbell,
            );
        }
        HostMachine::make_shown(index)?.ok_or(Refusal::PoolExhausted)?;
        emulator.start(&HostMachine, index);
    }
    info!(
        "event=its_taken its={} lpis={} host_lpis={} coherent={coherent}",
        self::its(machine).count(),
        probed.count.configuration_bytes(),
        probed.count.host,
    );
    SERVICES.call_once(|| Services {
        frames,
        emulator: Mutex::new(emulator),
    });
    Ok(())
}

/// The pages that the host reads the registers of the ITS at index `its` from,
/// and where it finds them.
pub fn shown_pages(its: &Its, index: usize) -> Option<[(Ipa, PhysAddr); 2]> {
    let pages = HostMachine::shown(index)?;
    // The host sees the registers where they are.
    let start = Identity.ipa(its.registers).start();
    let ipa = |offset: u32| start.checked_add(offset.into());
    Some([
        (ipa(SHOWN_OFFSETS[0])?, pages[0]),
        (ipa(SHOWN_OFFSETS[1])?, pages[1]),
    ])
}

/// `GICD_TYPER` as the host sees it.
#[must_use]
pub fn show_typer(physical: u32) -> u32 {
    match emulator() {
        Some(emulator) => emulator.lock().lpis().show(physical),
        None => gicv3_its::reg::typer_without_lpis(physical),
    }
}

/// This CPU, at index `cpu`, runs from now on, and may get LPIs.
pub fn enter_cpu(cpu: usize, frame: &Device) {
    let Some(emulator) = emulator() else {
        return;
    };
    // At most the limit of the image.
    let id = RedistributorId(cpu as u8);
    let enabled = emulator.lock().enable_redistributor(id, &Frame(*frame));
    if let Err(error) = enabled {
        warning!(
            "event=lpis_refused redistributor={} reason=\"{error}\"",
            frame.range().start()
        );
    }
}

fn at(services: &Services, ipa: u64) -> Option<(usize, u32)> {
    services
        .frames
        .iter()
        .enumerate()
        .find_map(|(index, frame)| {
            let offset = ipa.wrapping_sub(frame.as_ref()?.start().raw());
            // Truncation: below the size of a frame.
            (offset < FRAME).then_some((index, offset as u32))
        })
}

/// Whether `ipa` is in the frames of an ITS of the machine's, the doorbell among
/// them: only devices write there.
#[must_use]
pub fn is_register(ipa: u64) -> bool {
    SERVICES.get().is_some_and(|services| {
        let all = services.frames.iter().flatten();
        all.into_iter()
            .any(|frame| frame.contains(PhysAddr::new(ipa)))
    })
}

/// The host's write to a register of the emulated ITS at `ipa`; `None` when there
/// is none.
#[inline]
#[must_use]
pub fn store(ipa: u64, size: Size, value: u64) -> Option<Progress> {
    let services = SERVICES.get()?;
    let (its, offset) = at(services, ipa)?;
    let Some(mut emulator) = try_lock(&services.emulator) else {
        return Some(Progress::Again);
    };
    let progress = emulator.write(&HostMachine, its, offset, size, value);
    let report = emulator.take_report();
    drop(emulator);
    if let Some(report) = report {
        print(report);
    }
    Some(progress)
}

/// Sends the message `event` of an SMMU that EL2 emulates for the host, which is the device
/// `device` of the ITS at index `its`. `None` when `ipa` is not that ITS's doorbell; nothing
/// was sent then.
///
/// The caller may hold the lock of an SMMU. No function that holds the lock of the ITSs
/// takes one of an SMMU.
pub fn send(its: usize, device: u32, ipa: Ipa, event: u32) -> Option<()> {
    let services = SERVICES.get()?;
    let doorbell = at(services, ipa.raw().wrapping_sub(FRAME))?;
    if doorbell != (its, gicv3_its::reg::TRANSLATER) {
        return None;
    }
    let event = Event {
        device: DeviceId(device),
        event: EventId(event),
    };
    services.emulator.lock().send(&HostMachine, its, event);
    Some(())
}

#[inline]
fn try_lock(emulator: &'static Mutex<Host>) -> Option<MutexGuard<'static, Host>> {
    for _ in 0..TRIES {
        if let Some(guard) = emulator.try_lock() {
            return Some(guard);
        }
        core::hint::spin_loop();
    }
    None
}

/// What the host reads at `offset` of the RD frame of the CPU at index `cpu`,
/// where hardware gives `physical`.
#[must_use]
pub fn read_redistributor(cpu: usize, offset: u32, size: Size, physical: u64) -> Option<u64> {
    let Some(emulator) = emulator() else {
        return gicv3_its::read_without_lpis(offset, size, physical);
    };
    let id = RedistributorId(cpu as u8);
    let emulator = emulator.lock();
    emulator.read_redistributor(id, offset, size, physical)
}

/// The host's write at `offset` of the RD frame `frame` of the CPU at index `cpu`.
/// What `GICR_CTLR` gets is written under the lock: a CPU that comes up meanwhile
/// sets `EnableLPIs` there, and that stays.
pub fn write_redistributor(
    (cpu, frame): (usize, &Device),
    offset: u32,
    size: Size,
    value: u64,
) -> RdWrite {
    let mut emulator = match emulator().map(try_lock) {
        None => None,
        Some(None) => return RdWrite::Emulated(Progress::Again),
        Some(guard) => guard,
    };
    let written = match &mut emulator {
        None => gicv3_its::write_without_lpis(offset, size, value),
        Some(emulator) => {
            let id = RedistributorId(cpu as u8);
            emulator.write_redistributor(&HostMachine, id, offset, size, value)
        }
    };
    if let RdWrite::Control(value) = written {
        frame.write32(offset.into(), value);
    }
    written
}

#[cold]
fn print(report: Report) {
    let Some(dropped) = REPORTS.take() else {
        return;
    };
    match report {
        Report::NoMemory {
            its,
            device,
            event_bits,
        } => warning!(
            "event=its_memory its={its} device={device} event_bits={event_bits} \
             fix=\"use a larger its-tables=\" dropped={dropped}"
        ),
        Report::ForeignDevice { its, device } => {
            warning!("event=its_foreign_device its={its} device={device} dropped={dropped}");
        }
        Report::Failed { its, fault } => {
            warning!("event=its_failed its={its} reason=\"{fault}\" dropped={dropped}");
        }
    }
}

/// Prints what the emulated ITSs did.
pub fn report() {
    let Some(emulator) = emulator() else {
        return;
    };
    let (used, most) = ITS_TABLES.used();
    let emulator = emulator.lock();
    for its in 0..gicv3_its::ITS_LIMIT {
        if let Some(counts) = emulator.counts(its) {
            info!(
                "event=its_counts its={its} commands={} refused={} ignored_writes={} mapped={} \
                 tables={used} tables_most={most}",
                counts.commands,
                counts.refused,
                counts.ignored,
                emulator.mapped().count(),
            );
        }
    }
}

/// Why the pages that the host reads from could not be made.
pub(crate) type ShowError = MapError;

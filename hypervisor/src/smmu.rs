//! The physical SMMUs: bringing them up, their interrupts, and the fence.

use crate::gic;
use crate::log::{RateLimit, error, info, warning};
use crate::memory::Shared;
use crate::mmio::Device;
use crate::sysreg::now_us;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use portcullis_addr::PhysAddr;
use portcullis_boot::{Machine, SMMU_LIMIT};
use smmuv3_driver::{Clock, Config, Drained, Features, Registers, Smmu, Stage2};
use smmuv3_spec::StreamId;
use smmuv3_spec::reg::CR0ACK;
use spin::{Mutex, Once};

/// Records handled at once before the CPU goes back to the host.
const BATCH: u32 = 64;

/// How often a queue is looked at again while it fills up: all of it, once.
const ROUNDS: u32 = 2048 / BATCH + 1;

/// One SMMU's registers.
#[derive(Clone, Copy, Debug)]
pub struct Port(Device);

impl Registers for Port {
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

/// The system counter.
#[derive(Clone, Copy, Debug)]
pub struct SystemCounter;

impl Clock for SystemCounter {
    fn now_us(&self) -> u64 {
        now_us()
    }
    fn relax(&self) {
        core::hint::spin_loop();
    }
}

type Driver = Smmu<Port, Shared, SystemCounter>;

/// The wired interrupts of an SMMU that EL2 listens to, by INTID.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// The event queue is no longer empty.
    pub event: Option<u32>,
    /// A global error became active.
    pub error: Option<u32>,
}

impl Lines {
    /// No interrupt.
    pub const NONE: Self = Self {
        event: None,
        error: None,
    };

    /// Whether both are the hypervisor's, so that nothing is missed.
    fn suffice(&self) -> bool {
        [self.event, self.error]
            .iter()
            .all(|line| line.is_some_and(gic::owns))
    }
}

struct Instance {
    registers: Device,
    lines: Once<Lines>,
    driver: Once<Mutex<Driver>>,
    /// Somebody wants the queues looked at. Set before the lock is tried and
    /// looked at again after it is released, so that no interrupt is lost on a
    /// CPU that finds another at work.
    wanted: AtomicBool,
}

impl Instance {
    fn lines(&self) -> Lines {
        self.lines.get().copied().unwrap_or(Lines::NONE)
    }
}

static SMMUS: [Once<Instance>; SMMU_LIMIT] = [const { Once::new() }; SMMU_LIMIT];
static FAULTS: RateLimit = RateLimit::new();
static ERRORS: RateLimit = RateLimit::new();

fn instances() -> impl Iterator<Item = &'static Instance> {
    SMMUS.iter().filter_map(Once::get)
}

/// Outcome of [`fence_all`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Fenced {
    /// SMMUs that abort everything now.
    pub done: u32,
    /// SMMUs that did not answer.
    pub failed: u32,
}

/// The SMMU that [`fence_all`] turns to next.
static NEXT_TO_FENCE: AtomicUsize = AtomicUsize::new(0);

/// Makes every known SMMU abort everything, without waiting for any lock: for
/// when the hypervisor itself cannot go on.
pub fn fence_all() -> Fenced {
    NEXT_TO_FENCE.store(0, Ordering::Relaxed);
    fence_rest()
}

/// Goes on where [`fence_all`] was when it failed itself: with the SMMU after
/// the one whose registers cannot be reached.
pub fn fence_rest() -> Fenced {
    let mut fenced = Fenced::default();
    while let Some(slot) = SMMUS.get(NEXT_TO_FENCE.fetch_add(1, Ordering::Relaxed)) {
        let Some(instance) = slot.get() else { continue };
        match smmuv3_driver::fence(&Port(instance.registers), &SystemCounter) {
            Ok(()) => fenced.done += 1,
            Err(_) => fenced.failed += 1,
        }
    }
    fenced
}

/// Makes an SMMU known, so that [`fence_all`] reaches it from now on. Its
/// registers are mapped. One that is known already stays as it is.
pub fn register(index: usize, registers: Device) {
    if let Some(slot) = SMMUS.get(index) {
        slot.call_once(|| Instance {
            registers,
            lines: Once::new(),
            driver: Once::new(),
            wanted: AtomicBool::new(false),
        });
    }
}

/// Makes an SMMU known with its interrupts, and fences it.
///
/// # Errors
/// The SMMU did not answer in time.
pub fn adopt(
    index: usize,
    registers: Device,
    lines: Lines,
) -> Result<(), smmuv3_driver::FenceError> {
    register(index, registers);
    if let Some(instance) = SMMUS.get(index).and_then(Once::get) {
        instance.lines.call_once(|| lines);
    }
    smmuv3_driver::fence(&Port(registers), &SystemCounter)
}

/// Whether every SMMU that was taken over still translates, or is known to be
/// fenced: what firmware powers down may come back with its reset state, and
/// that can be bypass.
#[must_use]
pub fn still_guard() -> bool {
    instances().all(|instance| {
        // A driver that is busy on another CPU will see for itself.
        let Some(driver) = instance.driver.get().and_then(Mutex::try_lock) else {
            return true;
        };
        driver.is_fenced() || instance.registers.read32(CR0ACK.into()) & 1 != 0
    })
}

/// What an SMMU can do.
///
/// # Errors
/// As [`Features::probe`].
pub fn probe(index: usize) -> Result<Features, smmuv3_driver::ProbeError> {
    match SMMUS.get(index).and_then(Once::get) {
        Some(instance) => Features::probe(&Port(instance.registers)),
        None => Err(smmuv3_driver::ProbeError::NoStage2),
    }
}

/// Why an SMMU could not be brought up. It is fenced.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    /// The driver could not take it over.
    #[error(transparent)]
    Init(#[from] smmuv3_driver::InitError),
    /// A stream could not be given its translation.
    #[error("stream {0}: {1}")]
    Attach(StreamId, smmuv3_driver::Error),
}

/// Takes an SMMU over, with every stream in abort, and attaches to `stage2`
/// those that the device tree names.
///
/// # Errors
/// [`BringUpError`]; the SMMU is then fenced.
pub fn bring_up(
    index: usize,
    machine: &Machine,
    coherent: bool,
    stage2: &Stage2,
) -> Result<(), BringUpError> {
    let Some(instance) = SMMUS.get(index).and_then(Once::get) else {
        return Ok(());
    };
    let mut driver = Smmu::new(
        Port(instance.registers),
        Shared::new(coherent),
        SystemCounter,
        Config {
            // A transfer of 4 KiB that faults in pieces of 4 bytes, as QEMU
            // makes them, fits with room to spare.
            event_log2: 11,
            ..Config::default()
        },
    )?;
    let bits = driver.stream_bits();
    let mut attached = 0u64;
    for range in machine.streams.iter().filter(|range| range.smmu == index) {
        // What the SMMU cannot tell apart, no device can send.
        let limit = u32::try_from((1u64 << bits) - 1).unwrap_or(u32::MAX);
        if range.first > limit {
            continue;
        }
        let last = range.last.min(limit);
        let (first, last) = (StreamId(range.first), StreamId(last));
        if let Err(error) = driver.attach_range(first, last, stage2) {
            // The driver fences on what leaves it in doubt; the rest is ours.
            let _ = driver.fence();
            return Err(BringUpError::Attach(first, error));
        }
        attached += u64::from(last.0 - first.0) + 1;
    }
    info!(
        "event=smmu_ready smmu={} {} streams_attached={attached}",
        instance.registers.range().start(),
        driver.features(),
    );
    instance.driver.call_once(|| Mutex::new(driver));
    Ok(())
}

/// An interrupt of an SMMU arrived. `false` when its work is not finished and
/// the interrupt was made pending again.
#[must_use]
pub fn interrupt(intid: u32) -> bool {
    let mut finished = true;
    for instance in instances() {
        let lines = instance.lines();
        if [lines.event, lines.error].contains(&Some(intid)) {
            finished &= attend(instance);
        }
    }
    finished
}

/// Whether some SMMU has no interrupt that comes to EL2, so that it is looked
/// at whenever EL2 runs for another reason.
#[must_use]
pub fn needs_polling() -> bool {
    instances().any(|instance| !instance.lines().suffice())
}

/// Looks at every SMMU.
pub fn poll() {
    for instance in instances() {
        attend(instance);
    }
}

/// Looks at an SMMU; `false` when there was more than one turn's work.
fn attend(instance: &Instance) -> bool {
    let Some(mutex) = instance.driver.get() else {
        return true;
    };
    instance.wanted.store(true, Ordering::SeqCst);
    for _ in 0..ROUNDS {
        // Another CPU that holds the lock looks at `wanted` when it is done.
        let Some(mut driver) = mutex.try_lock() else {
            return true;
        };
        instance.wanted.store(false, Ordering::SeqCst);
        let more = look(instance, &mut driver);
        drop(driver);
        if !more && !instance.wanted.load(Ordering::SeqCst) {
            return true;
        }
    }
    // A queue that fills as fast as it is read raises no interrupt again,
    // since it is never empty (IHI 0070, 3.18.2). So the interrupt is made
    // pending: whoever faults that fast takes its own CPU's time.
    if let Some(intid) = instance.lines().event {
        gic::pend_again(intid);
    }
    false
}

/// Handles what an SMMU has to say, in a bounded amount; `true` when there was
/// something.
fn look(instance: &Instance, driver: &mut Driver) -> bool {
    let smmu = instance.registers.range().start();
    let was_fenced = driver.is_fenced();
    if let Some(errors) = driver.handle_gerror() {
        if let Some(dropped) = ERRORS.take() {
            error!("event=smmu_error smmu={smmu} {errors} dropped={dropped}");
        }
        if driver.is_fenced() && !was_fenced {
            error!("event=smmu_fenced smmu={smmu} reason=\"it stopped serving\"");
        }
    }
    let drained = driver.drain_events(BATCH, |event| {
        if let Some(dropped) = FAULTS.take() {
            warning!("event=dma_fault smmu={smmu} {event} dropped={dropped}");
        }
    });
    report_loss(smmu, &drained);
    drained.events != 0
}

fn report_loss(smmu: PhysAddr, drained: &Drained) {
    if drained.overflowed
        && let Some(dropped) = ERRORS.take()
    {
        warning!("event=smmu_events_lost smmu={smmu} dropped={dropped}");
    }
    if drained.inconsistent
        && let Some(dropped) = ERRORS.take()
    {
        error!("event=smmu_queue_inconsistent smmu={smmu} dropped={dropped}");
    }
}

/// Prints what each SMMU did.
pub fn report() {
    for instance in instances() {
        if let Some(driver) = instance.driver.get().and_then(Mutex::try_lock) {
            let stats = driver.stats();
            info!(
                "event=smmu_counts smmu={} commands={} syncs={} command_errors={} events={} \
                 overflows={} timeouts={} global_errors={} fenced={}",
                instance.registers.range().start(),
                stats.commands,
                stats.syncs,
                stats.command_errors,
                stats.events,
                stats.overflows,
                stats.timeouts,
                stats.global_errors,
                YesNo(driver.is_fenced()),
            );
        }
    }
}

/// A flag as the log writes it.
struct YesNo(bool);

impl Display for YesNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "yes" } else { "no" })
    }
}

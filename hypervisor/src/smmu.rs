//! The physical SMMUs: what is known of them, and the fence.
//!
//! [`bring_up`] takes one over, `serve` handles what it reports, and `host` what
//! the host does to the one it sees in its place.

mod bring_up;
mod host;
pub mod platform;
mod records;
mod serve;

pub use bring_up::{BringUpError, bring_up};
pub use host::{create_emulated, is_register, store};
pub use serve::{interrupt, needs_polling, poll, print_lines, report};

use crate::gic;
use crate::lock::Mutex;
use crate::memory::Shared;
use crate::mmio::Device;
use crate::sysreg::now_us;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use platform::{HostPlatform, PAGE_1};
use portcullis_boot::SMMU_LIMIT;
use smmuv3_driver::{Clock, Features, Registers, Smmu};
use smmuv3_spec::reg::{CR0ACK, IDR0};
use spin::Once;

/// One SMMU's registers.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    registers: Device,
    /// Whether what belongs in page 1 is in page 0.
    page_0_only: bool,
}

impl Port {
    /// The registers of an SMMU, or of one of its further pages.
    #[must_use]
    pub const fn new(registers: Device) -> Self {
        Self {
            registers,
            page_0_only: false,
        }
    }

    #[inline]
    fn at(&self, offset: u32) -> u64 {
        // Of offsets that are known when this is built, one below page 1 costs nothing.
        if offset >= PAGE_1 && self.page_0_only {
            return smmuv3_driver::in_page_0(offset).into();
        }
        offset.into()
    }
}

impl Registers for Port {
    fn read32(&self, offset: u32) -> u32 {
        self.registers.read32(self.at(offset))
    }
    fn write32(&self, offset: u32, value: u32) {
        self.registers.write32(self.at(offset), value);
    }
    fn read64(&self, offset: u32) -> u64 {
        self.registers.read64(self.at(offset))
    }
    fn write64(&self, offset: u32, value: u64) {
        self.registers.write64(self.at(offset), value);
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

/// What one lock holds together.
struct State {
    driver: Driver,
    /// What the host sees of it, in nested mode.
    emulated: Option<host::Emulated>,
}

/// One of them. CPUs that are at work with two write to no line of a cache in common.
#[repr(align(128))]
struct Instance {
    index: usize,
    registers: Device,
    /// Whether what belongs in page 1 is in page 0.
    page_0_only: AtomicBool,
    lines: Once<Lines>,
    state: Once<Mutex<State>>,
    /// The host's side of the emulated one, before there is a state.
    host: Once<HostPlatform>,
    /// Somebody wants the queues looked at. Set before the lock is tried and
    /// looked at again after it is released, so that no interrupt is lost on a
    /// CPU that finds another at work.
    wanted: AtomicBool,
}

impl Instance {
    fn port(&self) -> Port {
        Port {
            registers: self.registers,
            page_0_only: self.page_0_only.load(Ordering::Relaxed),
        }
    }

    fn lines(&self) -> Lines {
        self.lines.get().copied().unwrap_or(Lines::NONE)
    }
}

static SMMUS: [Once<Instance>; SMMU_LIMIT] = [const { Once::new() }; SMMU_LIMIT];

/// How many of [`SMMUS`] may be known: those behind are not looked at.
static KNOWN: AtomicUsize = AtomicUsize::new(0);

#[inline]
fn instances() -> impl Iterator<Item = &'static Instance> {
    let known = KNOWN.load(Ordering::Relaxed);
    SMMUS.iter().take(known).filter_map(Once::get)
}

/// Calls `with` with the driver of the SMMU at `index`, under its lock. `None`
/// before it was brought up. The caller may hold another lock, so that nothing is
/// printed here.
#[inline]
pub fn with_driver<T>(
    index: usize,
    with: impl FnOnce(&mut Smmu<Port, Shared, SystemCounter>) -> T,
) -> Option<T> {
    let instance = SMMUS.get(index)?.get()?;
    let mut state = instance.state.get()?.lock();
    let result = with(&mut state.driver);
    drop(state);
    // An interrupt that found the lock taken left its work.
    if instance.wanted.load(Ordering::SeqCst) {
        serve::attend_silently(instance);
    }
    Some(result)
}

/// Calls `each` with SMMU_STRTAB_BASE and its CFG, as each SMMU has them.
#[cfg(feature = "digest")]
pub fn stream_tables(mut each: impl FnMut(u64, u32)) {
    use smmuv3_spec::reg::{STRTAB_BASE, STRTAB_BASE_CFG};
    for instance in instances() {
        let port = instance.port();
        each(port.read64(STRTAB_BASE), port.read32(STRTAB_BASE_CFG));
    }
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
/// What became of those before it.
static DONE: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Makes every known SMMU abort everything, without waiting for any lock: for
/// when the hypervisor itself cannot go on.
pub fn fence_all() -> Fenced {
    for start in [&DONE, &FAILED] {
        start.store(0, Ordering::Relaxed);
    }
    NEXT_TO_FENCE.store(0, Ordering::Relaxed);
    fence_rest()
}

/// Goes on where [`fence_all`] was when it failed itself: with the SMMU after
/// the one whose registers cannot be reached. Says what became of all of them; of
/// that one nothing is known, so it is not counted.
pub fn fence_rest() -> Fenced {
    while let Some(slot) = SMMUS.get(NEXT_TO_FENCE.fetch_add(1, Ordering::Relaxed)) {
        let Some(instance) = slot.get() else { continue };
        match smmuv3_driver::fence(&instance.port(), &SystemCounter) {
            Ok(()) => DONE.fetch_add(1, Ordering::Relaxed),
            Err(_) => FAILED.fetch_add(1, Ordering::Relaxed),
        };
    }
    Fenced {
        done: DONE.load(Ordering::Relaxed),
        failed: FAILED.load(Ordering::Relaxed) + SILENT.load(Ordering::Relaxed).count_ones(),
    }
}

/// How registers answer that no SMMU has: one without power or clock, or nothing at
/// all. `None` for an SMMU; its IDR0 has a bit on, and none that is reserved.
#[must_use]
pub fn silence(registers: Device) -> Option<&'static str> {
    match registers.tolerant().read32(IDR0.into()) {
        None => Some("with an external abort"),
        Some(0) => Some("with zeros"),
        Some(u32::MAX) => Some("with ones"),
        Some(_) => None,
    }
}

/// One bit for each SMMU that does not answer.
static SILENT: AtomicU32 = AtomicU32::new(0);

/// Makes an SMMU known, so that [`fence_all`] reaches it from now on. Its
/// registers are mapped. One that is known already stays as it is; one that does not
/// answer is counted as one that was not fenced, and left alone.
pub fn register(index: usize, registers: Device) {
    if let Some(slot) = SMMUS.get(index) {
        if slot.get().is_none() && silence(registers).is_some() {
            SILENT.fetch_or(1 << index, Ordering::Relaxed);
            return;
        }
        KNOWN.fetch_max(index + 1, Ordering::Relaxed);
        slot.call_once(|| Instance {
            index,
            registers,
            page_0_only: AtomicBool::new(false),
            lines: Once::new(),
            state: Once::new(),
            host: Once::new(),
            wanted: AtomicBool::new(false),
        });
    }
}

/// Makes an SMMU known with its interrupts and where its registers are, and fences it.
///
/// # Errors
/// The SMMU did not answer in time.
pub fn adopt(
    index: usize,
    registers: Device,
    page_0_only: bool,
    lines: Lines,
) -> Result<(), smmuv3_driver::FenceError> {
    register(index, registers);
    if let Some(instance) = SMMUS.get(index).and_then(Once::get) {
        instance.page_0_only.store(page_0_only, Ordering::Relaxed);
        instance.lines.call_once(|| lines);
    }
    smmuv3_driver::fence(&Port::new(registers), &SystemCounter)
}

/// Whether every SMMU that was taken over still translates, or is known to be
/// fenced: what firmware powers down may come back with its reset state, and
/// that can be bypass.
#[must_use]
pub fn still_guard() -> bool {
    instances().all(|instance| {
        // A driver that is busy on another CPU will see for itself.
        let Some(state) = instance.state.get().and_then(Mutex::try_lock) else {
            return true;
        };
        state.driver.is_fenced() || instance.registers.read32(CR0ACK.into()) & 1 != 0
    })
}

/// Stops everything when an SMMU translates no longer: what has lost its power, its
/// clock or was reset lets DMA through as it pleases.
pub fn guard() {
    if !still_guard() {
        crate::fatal::fatal(format_args!(
            "an SMMU translates no longer: its power, clock or reset was not kept"
        ));
    }
}

/// The registers of an SMMU that is known.
#[must_use]
pub fn port(index: usize) -> Option<Port> {
    let instance = SMMUS.get(index)?.get()?;
    Some(instance.port())
}

/// Address bits that each SMMU that is known can output, as far as it says so.
pub fn output_bits() -> impl Iterator<Item = u8> {
    instances().filter_map(|instance| {
        let features = Features::probe(&instance.port()).ok()?;
        Some(features.output_bits())
    })
}

/// What an SMMU can do.
///
/// # Errors
/// As [`Features::probe`].
pub fn probe(index: usize) -> Result<Features, smmuv3_driver::ProbeError> {
    match SMMUS.get(index).and_then(Once::get) {
        Some(instance) => Features::probe(&instance.port()),
        None => Err(smmuv3_driver::ProbeError::NoStage2),
    }
}

#![doc = include_str!("../README.md")]
//!
//! Section numbers are those of virtio 1.2.
#![no_std]
#![forbid(unsafe_code)]

mod burst;
mod chain;
mod count;
mod event;
mod features;
mod held;
mod platform;
mod probe;
mod quick;
pub mod reg;
mod registers;
pub mod request;
mod ring;
mod serve;
mod status;

pub use chain::Broken;
pub use count::Counts;
pub use event::{Delivery, Fault, FaultFlags, FaultReason};
pub use features::{BadLimits, Config, Features, PROBE_SIZE};
pub use platform::{Outside, Platform, Size, Window};
pub use request::Status;
pub use ring::QUEUE_SIZE;
pub use status::DeviceStatus;

use burst::Burst;
use features::{CONFIG_SIZE, Terms};
use portcullis_dma_domain::{Iommu, Limits};
use registers::{Registers, USED_BUFFER};
use ring::{Layout, Rings};
use serve::{End, Pieces};
use status::Reset;

/// Whether a write to a register is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It took effect as a whole.
    Done,
    /// There is more work than one call does. The driver's CPU is to run its
    /// interrupts and then do the same write again, which carries on: the
    /// instruction must not be counted as executed yet. Whatever else is written
    /// in between, by another CPU, does no harm.
    Again,
}

/// One of the two queues.
#[derive(Debug)]
struct Queue<W> {
    layout: Layout,
    /// QueueReady.
    ready: bool,
    /// `None` while ready: it is no queue, and the device needs a reset.
    rings: Option<Rings<W>>,
}

/// A virtio-iommu device. `W` is memory of rings that is held.
///
/// There is one [`Iommu`] for each, and nobody else gives it requests. Every
/// call is bounded: at most [`Config::work`] requests and turns of the back end,
/// and a wait for invalidations for every 16 of them.
// The order is kept: what a notification uses is within reach of one load.
#[derive(Debug)]
#[repr(C)]
pub struct Device<W> {
    /// The request queue, the event queue.
    queues: [Queue<W>; 2],
    terms: Terms,
    counts: Counts,
    /// Requests may be processed.
    live: bool,
    registers: Registers,
    config: Config,
    burst: Burst,
    reset: Reset,
    /// The back end may still have what an earlier driver asked for.
    used: bool,
    /// The request that a reset came upon ended, but for a wait.
    unsynced: bool,
    broken: Option<Broken>,
    configuration: [u8; CONFIG_SIZE],
    pieces: Pieces,
}

impl<W: Window> Device<W> {
    /// A device after reset, on top of a back end with these limits, whose
    /// endpoints are all blocked and which has no domain.
    ///
    /// # Errors
    /// [`BadLimits`].
    pub fn new(limits: &Limits, config: &Config) -> Result<Self, BadLimits> {
        let queue = || Queue {
            layout: Layout::default(),
            ready: false,
            rings: None,
        };
        Ok(Self {
            live: false,
            config: *config,
            terms: Terms::new(limits)?,
            queues: [queue(), queue()],
            burst: Burst::new(),
            counts: Counts::default(),
            registers: Registers::new(),
            reset: Reset::None,
            used: false,
            unsynced: false,
            broken: None,
            configuration: features::configuration(limits),
            pieces: Pieces::new(),
        })
    }

    /// Writes the `size` lowest bits of `value`, `offset` bytes from the start
    /// of the registers. Any access is taken; one that no register has is
    /// counted and ignored.
    #[inline]
    pub fn write<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Progress {
        // Truncation: the access has 32 bits.
        if offset == reg::QUEUE_NOTIFY && size == Size::Word && value as u32 == 0 && self.live {
            return self.notified(platform, iommu);
        }
        self.register(platform, iommu, offset, size, value)
    }

    /// Processes the request queue, whatever is in it; `spent` of the work of
    /// this call was done before.
    #[cold]
    #[inline(never)]
    fn serve<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
        spent: u32,
    ) -> Progress {
        let work = self.config.work.max(1).saturating_sub(spent);
        let end = match self.server(platform, iommu, work) {
            Some(mut server) => server.run(),
            None => End::Empty,
        };
        match end {
            End::Empty => Progress::Done,
            End::Budget => {
                self.counts.again += 1;
                Progress::Again
            }
            End::Broken(broken) => {
                self.needs_reset(platform, broken);
                Progress::Done
            }
        }
    }

    /// What was done and refused so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Why the device needs a reset, if it does.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.broken
    }
}

#![doc = include_str!("../README.md")]
//!
//! Safety rests on the stage 2 below the owner's stage 1, which the owner of the
//! physical SMMU alone decides. The hypervisor and the test rig run the same code.
#![no_std]
#![forbid(unsafe_code)]

mod command_queue;
mod confined_smmu;
mod control;
mod counts;
mod id_registers;
mod interrupts;
mod output_queue;
mod physical;
mod platform;
mod queue_memory;
mod registers;
mod streams;

pub use confined_smmu::{Attached, Report};
pub use counts::Counts;
pub use id_registers::{IdConfig, Ids};
pub use output_queue::event_queue::Delivery;
pub use output_queue::event_record::{
    Translated, View, is_ours, offers_stalls, stalled, translate,
};
pub use output_queue::pri_queue::PageDelivery;
pub use output_queue::{EventQueue, OutputQueue, PriQueue, Pushed};
pub use physical::{Failure, Msi, Physical, Uniform, Wanted};
pub use platform::{Line, Outside, Platform, Size, Window};
pub use portcullis_owner_memory::Progress;
pub use streams::ste::{canonical, disabled};
pub use streams::stream_table::{Entries, Found, OwnerTable, Stretch, fetch};
pub use streams::updates::Shadow;
pub use streams::{Given, Streams};

use command_queue::state::QueueState;
use interrupts::Interrupts;
use registers::Registers;
use smmuv3_driver::Features;
use smmuv3_spec::control::Gerror;
use smmuv3_spec::reg;

/// An emulated SMMU. `W` is memory of the owner's that is held.
///
/// Every call is bounded: at most 256 commands and stream table entries, and three
/// times as many events as the physical queue holds.
#[derive(Debug)]
pub struct Emulator<W: Window> {
    /// Commands may be processed: the queue is enabled on memory of the
    /// owner's, no error stops it, nothing else comes first, and none was
    /// consumed since the last CMD_SYNC. `false` is always safe:
    /// [`resume`](Self::resume) looks again.
    queue_ready: bool,
    /// The updates has work left.
    streams_pending: bool,
    /// The physical SMMU works no longer.
    physical_failed: bool,
    ids: Ids,
    regs: Registers,
    queue: QueueState,
    /// The command queue's memory. `None` while enabled: not the owner's.
    command_window: Option<W>,
    updates: Shadow,
    /// Not enabled while `CR0.EVENTQEN`: its memory is not the owner's.
    events: EventQueue<W>,
    /// As [`events`](Self::events), for `CR0.PRIQEN`.
    pri: PriQueue<W>,
    irq: Interrupts,
    counts: Counts,
}

impl<W: Window> Emulator<W> {
    /// An SMMU after reset on top of a physical one with `features`: disabled,
    /// every stream of the owner's to pass through stage 2 alone, which is how
    /// the caller has to have left them.
    #[must_use]
    pub fn new(features: &Features, config: &IdConfig) -> Self {
        let ids = Ids::derive(features, config);
        Self {
            queue_ready: false,
            streams_pending: false,
            physical_failed: false,
            ids,
            regs: Registers::new(),
            queue: QueueState::new(features.idr0.msi(), ids.address_mask()),
            command_window: None,
            updates: Shadow::new(),
            events: EventQueue::new(),
            pri: PriQueue::new(),
            irq: Interrupts::default(),
            counts: Counts::default(),
        }
    }

    /// Shows what every register reads as. Call once, before the owner runs;
    /// offsets that are not shown must read as 0.
    pub fn start<P: Platform<Window = W>>(&self, platform: &P) {
        self.show_all(platform);
    }

    /// Writes the `size` lowest bits of `value` to the registers, `offset`
    /// bytes from the start of page 0. Any access is taken; one that no
    /// register has is counted and ignored.
    #[inline]
    pub fn write<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Progress {
        if offset == reg::CMDQ_PROD && size == Size::Word {
            // Truncation: the access has 32 bits.
            return self.write_cmdq_prod(platform, physical, value as u32);
        }
        self.write_register(platform, physical, offset, size, value)
    }

    /// The physical SMMU works no longer: its owner reads of service failure
    /// mode (`GERROR.SFM_ERR`), and nothing more is done for it.
    #[cold]
    pub fn failed<P: Platform<Window = W>>(&mut self, platform: &P) {
        self.physical_failed = true;
        self.queue_ready = false;
        // Whoever waits for an update waits no longer: nothing passes now.
        self.acknowledge_control(platform);
        self.raise_error(platform, Gerror::new().with_sfm_err(true));
    }

    /// The identification registers.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// What was done and refused so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Makes global errors active that are not, and tells the owner.
    pub(crate) fn raise_error<P: Platform<Window = W>>(&mut self, platform: &P, bits: Gerror) {
        self.irq.error(platform, bits, &mut self.counts);
    }
}

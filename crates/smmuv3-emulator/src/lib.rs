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

pub use confined_smmu::{ConfinedSmmu, EventReport};
pub use counts::Counts;
pub use id_registers::{IdConfig, Ids};
pub use output_queue::event_queue::Delivery;
pub use output_queue::event_record::{
    OwnerEvent, OwnerView, concerns_hypervisor, is_stalled, offers_stalls, translate_event,
};
pub use output_queue::pri_queue::PageDelivery;
pub use output_queue::{EventQueue, OutputQueue, PriQueue, Pushed};
pub use physical::{Failure, Msi, Physical, RangeConfig, StreamConfig};
pub use platform::{Line, Outside, Platform, Size, Window};
pub use portcullis_owner_memory::Progress;
pub use streams::ste::{gbpa_config, ste_config};
pub use streams::stream_table::{EntryLocation, EntryRun, OwnerTable, TableWalk, read_ste};
pub use streams::updates::StreamUpdates;
pub use streams::{AssignedStreams, StreamLookup};

use command_queue::state::QueueState;
use interrupts::Interrupts;
use registers::Registers;
use smmuv3_driver::Features;
use smmuv3_spec::control::Gerror;
use smmuv3_spec::reg;

/// An emulated SMMU. `W` is memory of the owner that is held.
///
/// Every call is bounded. It handles at most 256 commands and stream table
/// entries, and at most three times as many events as the physical queue holds.
#[derive(Debug)]
pub struct Emulator<W: Window> {
    /// Commands may run at once: the queue is enabled and its memory is the
    /// owner's, no error stops it, no stream is out of date, and no command was
    /// consumed after the last CMD_SYNC. `false` is always safe, since
    /// [`resume`](Self::resume) checks all of this.
    queue_ready: bool,
    /// `updates` has streams left to update.
    streams_pending: bool,
    /// The physical SMMU failed.
    physical_failed: bool,
    ids: Ids,
    regs: Registers,
    queue: QueueState,
    /// The memory of the command queue; `None` when the queue is off or its
    /// memory is not the owner's.
    command_window: Option<W>,
    updates: StreamUpdates,
    /// The event queue. It may be off although `CR0.EVENTQEN` is set, when its
    /// memory is not the owner's.
    events: EventQueue<W>,
    /// The same for `CR0.PRIQEN`.
    pri: PriQueue<W>,
    irq: Interrupts,
    counts: Counts,
}

impl<W: Window> Emulator<W> {
    /// An emulated SMMU after reset, on top of a physical one with `features`.
    /// It is disabled. The caller has set every stream of the owner to pass
    /// through stage 2 alone.
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
            updates: StreamUpdates::new(),
            events: EventQueue::new(),
            pri: PriQueue::new(),
            irq: Interrupts::default(),
            counts: Counts::default(),
        }
    }

    /// Shows the value of every register. The caller calls this once, before
    /// the owner runs. Offsets that are never shown must read as 0.
    pub fn show_registers<P: Platform<Window = W>>(&self, platform: &P) {
        self.show_all(platform);
    }

    /// Handles a write of the `size` lowest bits of `value` to the registers,
    /// `offset` bytes from the start of page 0. An access that no register
    /// allows is counted and ignored.
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
            // The truncation is intended: the access has 32 bits.
            return self.write_cmdq_prod(platform, physical, value as u32);
        }
        self.write_register(platform, physical, offset, size, value)
    }

    /// Notes that the physical SMMU failed. The owner sees service failure mode
    /// (`GERROR.SFM_ERR`), and all its later requests are ignored.
    #[cold]
    pub fn enter_service_failure<P: Platform<Window = W>>(&mut self, platform: &P) {
        self.physical_failed = true;
        self.queue_ready = false;
        // The owner must not wait for an update any more: all streams abort
        // now.
        self.acknowledge_control(platform);
        self.raise_error(platform, Gerror::new().with_sfm_err(true));
    }

    /// Returns the identification registers that the owner sees.
    #[must_use]
    pub fn ids(&self) -> &Ids {
        &self.ids
    }

    /// Returns the counters of commands, events and errors.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Makes those of `bits` active that are not, and signals the owner.
    pub(crate) fn raise_error<P: Platform<Window = W>>(&mut self, platform: &P, bits: Gerror) {
        self.irq.error(platform, bits, &mut self.counts);
    }
}

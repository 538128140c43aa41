//! Indices of the emulated command queue, and the CMD_SYNCs that are not
//! complete. The memory of the queue is `Emulator::command_window`.

use crate::command_queue::sync::{DeferredSync, MAX_DEFERRED, SinceSync};
use smmuv3_spec::command::CommandError;

/// The state of the command queue without its memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueState {
    /// Number of entries, a power of two; fixed while the queue is enabled.
    size: u32,
    /// `CMDQ_PROD`.
    pub(crate) prod: u32,
    /// `CMDQ_CONS.RD`: the first command that is not consumed yet. It may be a
    /// CMD_SYNC that waits.
    pub(crate) cons: u32,
    /// The `CMDQ_CONS.RD` that the owner reads now, or will read when the
    /// message of the physical SMMU arrives.
    pub(crate) shown_cons: u32,
    /// The value of `cons` at the last wait that completed. The physical SMMU
    /// has finished every command before it.
    pub(crate) completed_cons: u32,
    /// The physical SMMU may still store messages to `CMDQ_CONS` and to the
    /// queue.
    pub(crate) message_in_flight: bool,
    /// An error of a wait that belonged to no CMD_SYNC. The next CMD_SYNC
    /// reports it.
    pub(crate) unreported_error: Option<CommandError>,
    /// `CMDQ_CONS.ERR`: why the queue stopped last.
    pub(crate) last_error: CommandError,
    /// The physical SMMU can store messages (`IDR0.MSI`).
    pub(crate) physical_msi: bool,
    /// Mask of the address bits within `IDR5.OAS`.
    pub(crate) address_mask: u64,
    /// CMD_SYNCs that are taken and not complete.
    pub(crate) deferred: [DeferredSync; MAX_DEFERRED],
    /// Number of entries of `deferred` in use.
    pub(crate) deferred_count: usize,
    /// The value of `deferred_count` when the last ordering CMD_SYNC went to
    /// the physical SMMU.
    pub(crate) ordered_count: usize,
    /// What kind of command was consumed after the last CMD_SYNC.
    pub(crate) since_sync: SinceSync,
    /// At least one deferred CMD_SYNC is complete only after the events before
    /// it are in the owner's event queue.
    pub(crate) events_first: bool,
}

impl QueueState {
    pub(crate) fn new(physical_msi: bool, address_mask: u64) -> Self {
        Self {
            size: 1,
            prod: 0,
            cons: 0,
            shown_cons: 0,
            completed_cons: 0,
            message_in_flight: false,
            unreported_error: None,
            last_error: CommandError::NONE,
            physical_msi,
            address_mask,
            deferred: [DeferredSync::default(); MAX_DEFERRED],
            deferred_count: 0,
            ordered_count: 0,
            since_sync: SinceSync::Nothing,
            events_first: false,
        }
    }

    /// Sets the size to 2^`log2` entries, at most 2^19.
    pub(crate) fn resize(&mut self, log2: u8) {
        self.size = 1 << log2.min(19);
    }

    /// Number of entries, a power of two.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Mask of an index with its wrap bit.
    #[inline]
    pub(crate) fn wrap_mask(&self) -> u32 {
        2 * self.size - 1
    }

    #[inline]
    pub(crate) fn after(&self, index: u32) -> u32 {
        index.wrapping_add(1) & self.wrap_mask()
    }

    #[inline]
    pub(crate) fn before(&self, index: u32) -> u32 {
        index.wrapping_sub(1) & self.wrap_mask()
    }
}

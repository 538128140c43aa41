//! The state of the emulated command queue but for its memory.

use crate::command_queue::sync::{DEFERRED, Deferred, Since};
use smmuv3_spec::command::CommandError;

/// Indices of the command queue, and the CMD_SYNCs that are not complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    /// Entries while enabled, a power of two.
    size: u32,
    /// `CMDQ_PROD`.
    pub(crate) prod: u32,
    /// `CMDQ_CONS.RD`: the first command that is not consumed, or that waits.
    pub(crate) cons: u32,
    /// What the owner reads, or will once the physical SMMU wrote it.
    pub(crate) shown: u32,
    /// `cons` when the physical SMMU was last known to be done.
    pub(crate) confirmed: u32,
    /// The physical SMMU may still write `CMDQ_CONS` and to the queue.
    pub(crate) in_flight: bool,
    /// What the next CMD_SYNC ends in, if an earlier wait had no CMD_SYNC.
    pub(crate) owed: Option<CommandError>,
    /// Why the queue stopped last (`CMDQ_CONS.ERR`).
    pub(crate) reason: CommandError,
    /// The physical SMMU sends messages.
    pub(crate) messages: bool,
    /// Address bits of `IDR5.OAS`.
    pub(crate) address_mask: u64,
    /// CMD_SYNCs that wait.
    pub(crate) syncs: [Deferred; DEFERRED],
    /// How many.
    pub(crate) waiting: usize,
    /// `waiting` when the physical SMMU was last told to keep the order.
    pub(crate) separated: usize,
    /// What was consumed since the last CMD_SYNC.
    pub(crate) since: Since,
    /// One of those that wait promises that events are delivered before it.
    pub(crate) after_events: bool,
}

impl Queue {
    pub(crate) fn new(messages: bool, address_mask: u64) -> Self {
        Self {
            size: 1,
            prod: 0,
            cons: 0,
            shown: 0,
            confirmed: 0,
            in_flight: false,
            owed: None,
            reason: CommandError::NONE,
            messages,
            address_mask,
            syncs: [Deferred::default(); DEFERRED],
            waiting: 0,
            separated: 0,
            since: Since::Nothing,
            after_events: false,
        }
    }

    /// Makes it one of 2^`log2` entries, at most 2^19.
    pub(crate) fn resize(&mut self, log2: u8) {
        self.size = 1 << log2.min(19);
    }

    /// Entries, a power of two.
    #[inline]
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The bits of an index and its wrap bit.
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

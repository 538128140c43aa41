//! What the device did and refused, for reports and tests.

use crate::Status;

/// Counters since the start; each wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests taken from the ring.
    pub requests: u64,
    /// Requests answered with another status than OK.
    pub refused: u64,
    /// Requests returned without an answer: unknown, or without room for one.
    pub unanswered: u64,
    /// Buffers that are not, or no longer, memory of the driver's.
    pub outside: u64,
    /// Requests whose chain was not one readable and one writable descriptor,
    /// aligned as Linux has them, or that are neither MAP nor UNMAP.
    pub general: u64,
    /// Waits for invalidations, one for each burst that has any.
    pub syncs: u64,
    /// Waits that failed.
    pub failed_syncs: u64,
    /// Calls that ended with work left over.
    pub again: u64,
    /// Interrupts signalled.
    pub interrupts: u64,
    /// Resets begun.
    pub resets: u64,
    /// New drivers before which the back end could not forget all that an earlier one
    /// asked for.
    pub failed_resets: u64,
    /// Times the device came to need a reset, see [`Broken`](crate::Broken).
    pub broken: u64,
    /// Accesses ignored: a width, an alignment or an offset that no register
    /// has.
    pub illegal_accesses: u64,
    /// Writes ignored: read-only registers and the configuration; and reads of
    /// write-only registers.
    pub wrong_direction: u64,
    /// Writes ignored: registers that are fixed while a queue is ready or once
    /// features are agreed on, values that a register does not have, queues
    /// that there are not, bits of the status that are cleared or set too early.
    pub guarded: u64,
    /// Times FEATURES_OK was refused.
    pub features_refused: u64,
    /// Notifications of a queue that is not in use.
    pub idle_notifications: u64,
    /// Faults delivered.
    pub faults_delivered: u64,
    /// Faults dropped: no buffer, a buffer too small, or no queue.
    pub faults_dropped: u64,
    /// Reserved ranges that an endpoint has and an answer had no room for.
    pub properties_cut: u64,
}

impl Counts {
    /// `status`, of a request that is refused.
    #[cold]
    pub(crate) fn refuse(&mut self, status: Status) -> Status {
        self.refused += 1;
        status
    }
}

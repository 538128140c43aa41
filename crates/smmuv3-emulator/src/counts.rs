//! Counters of the emulated SMMU, for reports and tests.

/// Counters since the start. Each wraps at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes to registers that took effect.
    pub writes: u64,
    /// Writes that were ignored because no register has an access of this size
    /// or alignment (IHI 0070, 6.2).
    pub illegal_accesses: u64,
    /// Writes that were ignored because the register is read-only or reserved.
    pub read_only: u64,
    /// Writes that were ignored because the register is fixed while something
    /// is enabled.
    pub guarded: u64,
    /// Calls that ended with work left.
    pub again: u64,
    /// Commands that ran. A command that runs again after an error counts
    /// again.
    pub commands: u64,
    /// CMD_SYNCs that completed; part of [`commands`](Self::commands).
    pub syncs: u64,
    /// CMD_SYNCs that the physical SMMU completes by a message; part of
    /// [`syncs`](Self::syncs).
    pub signalled: u64,
    /// Commands that were issued to the physical SMMU.
    pub issued: u64,
    /// Commands refused with CERROR_ILL.
    pub illegal_commands: u64,
    /// Command fetches that ended in CERROR_ABT.
    pub fetch_aborts: u64,
    /// CMD_SYNCs that ended in an error of the physical SMMU.
    pub failed_syncs: u64,
    /// Commands without effect because they name a stream that is not the
    /// owner's.
    pub foreign_streams: u64,
    /// Commands without effect because their substream is out of range.
    pub bad_substreams: u64,
    /// Commands that are legal and have no effect: prefetches, and ATS commands
    /// while translation is disabled.
    pub no_effect: u64,
    /// How often a queue was not processed because its indices are inconsistent
    /// (3.5.1).
    pub inconsistent: u64,
    /// Queues that were enabled although their memory is not the owner's.
    pub bad_queues: u64,
    /// Interrupts that were signalled, by wire or by message.
    pub interrupts: u64,
    /// Messages that were lost because their address is not memory of the
    /// owner.
    pub aborted_messages: u64,
    /// Global errors that became active.
    pub errors: u64,
    /// How often the physical SMMU refused the configuration of a stream, or a
    /// command that the emulation built.
    pub refused: u64,
    /// Command queues whose memory stays pinned for ever because the physical
    /// SMMU may still write to it.
    pub unreleased_queues: u64,
    /// Entries of the owner's stream table that were read.
    pub entries_read: u64,
    /// Streams that abort because they could not be configured as their owner
    /// asked.
    pub streams_refused: u64,
    /// Events that were put into the owner's queue.
    pub events_delivered: u64,
    /// Events of the owner's streams that were not delivered: they are about
    /// stage 2, or unknown, or came while the owner's queue or translation was
    /// off.
    pub events_dropped: u64,
    /// Events that were lost because the owner's queue was full.
    pub events_overflowed: u64,
    /// Stalled transactions that were terminated because their event could not
    /// be delivered.
    pub stalls_terminated: u64,
    /// Page requests that were put into the owner's queue.
    pub pages_delivered: u64,
    /// Page requests that were dropped, or answered in the owner's place.
    pub pages_refused: u64,
}

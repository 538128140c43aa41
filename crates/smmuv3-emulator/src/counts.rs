//! What the emulation did and refused, for reports and tests.

/// Counters since the start; each wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes to registers that were taken.
    pub writes: u64,
    /// Writes ignored: an access of a size or alignment that no register has
    /// (IHI 0070, 6.2).
    pub illegal_accesses: u64,
    /// Writes ignored: read-only or reserved registers.
    pub read_only: u64,
    /// Writes ignored: registers that are fixed while something is enabled.
    pub guarded: u64,
    /// Calls that ended with work left over.
    pub again: u64,
    /// Commands processed; one that is repeated after an error counts again.
    pub commands: u64,
    /// CMD_SYNCs completed, of [`commands`](Self::commands).
    pub syncs: u64,
    /// CMD_SYNCs that the physical SMMU completes by itself, of
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
    /// Commands without effect: they name a stream that the owner was not
    /// given.
    pub foreign_streams: u64,
    /// Commands without effect: a substream out of range.
    pub bad_substreams: u64,
    /// Commands that are legal and have no effect: prefetches, and ATS
    /// commands while translation is disabled.
    pub no_effect: u64,
    /// Times a queue was left alone because its indices fit no state of a queue
    /// (3.5.1).
    pub inconsistent: u64,
    /// Queues enabled on memory that is not the owner's.
    pub bad_queues: u64,
    /// Interrupts signalled, by wire or message.
    pub interrupts: u64,
    /// Messages that had no memory of the owner's to go to.
    pub aborted_messages: u64,
    /// Global errors that became active.
    pub errors: u64,
    /// Times the physical SMMU refused a stream's configuration or a command of
    /// the emulation's own.
    pub refused: u64,
    /// Command queues whose memory stays held for good, because the physical
    /// SMMU may still write to it.
    pub kept: u64,
    /// Entries of the owner's stream table that were looked at.
    pub entries_read: u64,
    /// Streams that abort since they could not be given what their owner wants.
    pub streams_refused: u64,
    /// Events put into the owner's queue.
    pub events_delivered: u64,
    /// Events of the owner's streams that it was not told of: of stage 2 alone,
    /// unknown, or while its queue or translation was off.
    pub events_dropped: u64,
    /// Events lost because the owner's queue was full.
    pub events_overflowed: u64,
    /// Stalled transactions that were terminated, since the owner could not be
    /// told of them.
    pub stalls_terminated: u64,
    /// Page requests put into the owner's queue.
    pub pages_delivered: u64,
    /// Page requests that were not: dropped, or answered for the owner.
    pub pages_refused: u64,
}

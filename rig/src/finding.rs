//! What a run can find.

use smmuv3_model::{Misuse, Violation};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::Command;

/// Why a run is not right.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Finding {
    /// An SMMU could do what it must not.
    #[error("SMMU {0}: {1}")]
    Violation(usize, Violation),
    /// The CPUs could do what they must not; the stream stands for them.
    #[error("the CPUs: {0}")]
    Cpu(Violation),
    /// The code under test did what the architecture leaves open.
    #[error("{0}")]
    Misuse(Misuse),
    /// The driver gave up although the hardware is sound.
    #[error("{0} failed although the hardware is sound")]
    Failed(&'static str),
    /// A stream does not reach what it should.
    #[error("stream {0} does not reach {1:#x}, which it should")]
    Lost(u32, u64),
    /// The host's CPUs do not reach what they should.
    #[error("the CPUs do not reach {0:#x}, which they should")]
    CpuLost(u64),
    /// A transaction of this stream waits for software, which it must not: the
    /// stream may not stall, or was blocked.
    #[error("a transaction of {0} waits, which it must not")]
    Waits(StreamId),
    /// The ledger or the driver did not answer as the books of the oracle say.
    #[error("the answer to {0} at {1:#x} is wrong")]
    Answer(&'static str, u64),
    /// The ledger does not say what the books of the oracle say.
    #[error("the ledger is wrong about the page {0:#x}")]
    Ledger(u64),
    /// Events were read that differ from those recorded; the number of the
    /// first since the last time.
    #[error("event {0} is not the one that the SMMU recorded")]
    Events(usize),
    /// The code under test used memory that there is not, or gave memory back
    /// that it had not been given.
    #[error("access to {0:#x}, which is not the caller's")]
    Memory(u64),
    /// A message of an SMMU went where none may go.
    #[error("a message to {0:#x}, which nobody holds for it")]
    Message(u64),
    /// One write of a register of an emulated SMMU cost this many accesses, or
    /// one queue this many bytes.
    #[error("{0} accesses or bytes for one write of a register")]
    Unbounded(u64),
    /// A write of a register of an emulated SMMU is never done.
    #[error("the write to {0:#x} is never done")]
    Endless(u32),
    /// Commands in the queue of an emulated SMMU are never consumed.
    #[error("the emulated SMMU {0} does not go on with its commands")]
    Stuck(usize),
    /// A register of an emulated SMMU does not say what it should.
    #[error("the register at {0:#x} of an emulated SMMU is wrong")]
    Shown(u32),
    /// The emulation had the physical SMMU do what is not the host's to ask for.
    #[error("the emulation issued {0:?}")]
    Issued(Command),
    /// A CMD_SYNC of the host's is consumed before what came before it is done.
    #[error("CMDQ_CONS says {0:#x} too early")]
    Early(u32),
    /// A CMD_SYNC of the host's is complete before the host was told of events
    /// that come first.
    #[error("CMDQ_CONS says {0:#x} before the events that come first are told")]
    Untold(u32),
    /// An endpoint reaches at this address what its domain does not map there.
    #[error("endpoint {0:#x} reaches {2:#x} at {1:#x}, where its domain does not map it")]
    Mapped(u32, u64, u64),
    /// An endpoint reaches a page that the ledger does not hold for the host.
    #[error("endpoint {0:#x} reaches the page {1:#x}, which is not held")]
    Unheld(u32, u64),
    /// Domains use more memory for tables than what they map needs.
    #[error("{0:#x} bytes of tables, of which some are for nothing")]
    Tables(u64),
    /// `used.idx` says this, and not all elements are there, or done; or the
    /// element of this chain is not.
    #[error("the used ring says {0:#x} too early")]
    Used(u16),
    /// A ring is read before what says how far it is.
    #[error("{0:#x} is read in the wrong order")]
    Order(u64),
    /// The status of a request.
    #[error("the status of a request is {0} instead of {1}")]
    Status(u8, u8),
    /// Something of the world of interrupts, in words.
    #[error("{0}")]
    Gic(&'static str),
    /// An event that is none of the host's, or says too much.
    #[error("the host was told of {0}")]
    Told(StreamId),
}

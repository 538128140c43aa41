//! What a run can find.

use smmuv3_model::{Misuse, Violation};
use smmuv3_spec::StreamId;

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
}

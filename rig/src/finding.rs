//! What a run can find.

use smmuv3_model::{Misuse, Violation};

/// Why a run is not right.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Finding {
    /// The SMMU could do what it must not.
    #[error("{0}")]
    Violation(Violation),
    /// The code under test did what the architecture leaves open.
    #[error("{0}")]
    Misuse(Misuse),
    /// The driver gave up although the hardware is sound.
    #[error("{0} failed although the hardware is sound")]
    Failed(&'static str),
    /// A stream does not reach what it should.
    #[error("stream {0} does not reach {1:#x}, which it should")]
    Lost(u32, u64),
}

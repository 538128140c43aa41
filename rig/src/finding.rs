//! What a run can find.

use smmuv3_model::{Misuse, Violation};

/// Why a run is not right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Finding {
    /// The SMMU could do what it must not.
    Violation(Violation),
    /// The code under test did what the architecture leaves open.
    Misuse(Misuse),
    /// The driver gave up although the hardware is sound.
    Failed(&'static str),
    /// A stream does not reach what it should.
    Lost(u32, u64),
}

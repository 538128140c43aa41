//! What an A64 load or store does, for accesses that no syndrome describes.
//!
//! ESR_EL2 says which register a data abort was about, and how wide it is, only for
//! loads and stores of one general-purpose register without writeback (DDI 0487,
//! ESR_EL2: ISV). For the others EL2 reads the instruction. [`Access::decode`] says
//! what it does, [`Access::place`] whether that can be what the abort was about, and
//! [`Placed::perform`] does it, one access of a register of the device's after the
//! other.
//!
//! Another CPU of the owner's may have changed the instruction since it was executed.
//! So what it says is believed only as far as it agrees with what hardware said of the
//! abort, and a wrong answer concerns the owner's own registers alone.
#![no_std]
#![forbid(unsafe_code)]

mod access;
mod decode;
mod perform;
mod refused;

pub use access::{Access, Direction, Extend, File, Indexing, Offset, Width};
pub use perform::{Abort, Answer, Outcome, Placed, Registers, Single};
pub use refused::Refused;

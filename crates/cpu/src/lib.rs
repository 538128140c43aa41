//! What a processor's registers tell EL2.
//!
//! No register is read or written here: values come in, decisions go out, so that
//! each can be tested on the build machine.
#![no_std]
#![forbid(unsafe_code)]

mod syndrome;

pub use syndrome::{AbortAnswer, Class, Syndrome};

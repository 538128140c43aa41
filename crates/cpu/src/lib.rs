//! What a processor's registers tell EL2.
//!
//! No register is read or written here: values come in, decisions go out, so that
//! each can be tested on the build machine.
#![no_std]
#![forbid(unsafe_code)]

mod debug;
mod part;
mod serror;
mod syndrome;

pub use debug::DebugIds;
pub use part::{BranchHistory, HistoryIds, Midr};
pub use serror::{SError, SErrorAnswer};
pub use syndrome::{AbortAnswer, Class, Syndrome};

//! The rig: driver, page tables, ledger and host space, the code that runs at
//! EL2, on a model of the machine, driven by a hostile program, with an oracle
//! that is asked at every step.
#![forbid(unsafe_code)]

mod finding;
mod hunt;
mod machine;
mod map;
mod mutant;
mod op;
pub mod program;
mod seams;
mod setup;
mod world;

pub use finding::Finding;
pub use hunt::{Catch, Hunt, Outcome};
pub use map::STREAMS;
pub use mutant::Mutant;
pub use op::Op;
pub use setup::{Setup, Stopped, run};

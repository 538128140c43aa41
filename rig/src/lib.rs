//! The rig: driver, page tables, ledger and host space, the code that runs at
//! EL2, on a model of the machine, driven by a hostile program, with an oracle
//! that is asked at every step.
#![forbid(unsafe_code)]

mod action;
mod cpu;
mod earlier;
mod enable;
mod everywhere;
mod evidence;
mod expected;
mod finding;
mod host;
mod hunt;
mod its;
mod machine;
mod map;
mod memory;
mod mutant;
mod nested;
mod op;
mod paravirt;
mod perform;
mod plant;
mod policy;
mod port;
pub mod program;
mod recorded;
mod setup;
mod start;
mod world;

pub use action::Action;
pub use finding::Finding;
pub use host::{BringUp, Entry, HostOp, Width};
pub use hunt::{Catch, Hunt, Kind, Outcome};
pub use its::{Chaos, GicSetup, ItsOp, Stock};
pub use map::STREAMS;
pub use mutant::Mutant;
pub use op::Op;
pub use paravirt::{Ask, FrontOp, Para, ParaOp, Shape};
pub use setup::{Counts, Setup, Stopped};
pub use start::run;

//! The world of interrupts: a host with emulated ITSs on physical ones, which are
//! a model that does its worst, and an oracle with books of its own.
//!
//! What must hold whatever the host does:
//! - the physical GIC touches no memory but what was given out for it and is
//!   not yet taken back;
//! - nothing that reaches it is UNPREDICTABLE;
//! - what it has mapped are events of devices and LPIs of the host's, as the
//!   emulation says;
//! - no interrupt of a CPU that has its LPIs disabled comes, and none of a higher
//!   priority than the host may give;
//! - each call's work is bounded, and each write is done some time.
//!
//! A host that does nothing that is UNPREDICTABLE itself also gets the interrupts
//! that a real ITS would give it, and no others.

mod books;
mod check;
mod generate;
mod hostile;
mod layout;
mod machine;
mod op;
mod queue;
mod stock;
mod world;

pub use generate::{its_program, its_setup};
pub use op::{Chaos, GicSetup, ItsOp, Stock};

use crate::finding::Finding;
use crate::op::Op;
use crate::setup::Stopped;
use machine::Machine;
use world::World;

/// Runs a program.
pub(crate) fn run(setup: GicSetup, program: &[Op]) -> Result<(), Stopped> {
    let machine = Machine::new(setup);
    let mut world = World::new(&machine, setup)?;
    for (step, op) in program.iter().enumerate() {
        let Op::Its(op) = op else { continue };
        world
            .step(op)
            .map_err(|finding| Stopped { step, finding })?;
    }
    let step = program.len().saturating_sub(1);
    world.end().map_err(|finding| Stopped { step, finding })
}

/// A finding in words.
pub(crate) fn found(text: String) -> Finding {
    // Few, and each ends a program.
    Finding::Gic(Box::leak(text.into_boxed_str()))
}

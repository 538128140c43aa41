//! The SMMUv3 that a host or guest sees (IHI 0070): its registers, queues and
//! stream table, on top of a physical SMMU that somebody else owns.
//!
//! The owner of the emulated SMMU has stage 1 and nothing else: safety rests on
//! the stage 2 below it, which the owner of the physical SMMU alone decides.
//! Everything this crate touches goes through three traits: [`Platform`] is the
//! owner's machine (memory, interrupts, and the page where reads of registers
//! go without any help), [`Physical`] what may be done with the physical SMMU.
//! The hypervisor and the test rig run the same code.
#![no_std]
#![forbid(unsafe_code)]

mod count;
mod event;
mod ids;
mod output_queue;
mod physical;
mod platform;
mod shadow;
mod ste;
mod stream_table;

pub use count::Counts;
pub use event::{Translated, View, offers_stalls, stalled, translate};
pub use ids::{IdConfig, Ids};
pub use output_queue::{EventQueue, OutputQueue, PriQueue, Pushed};
pub use physical::{Failure, Msi, Physical, Uniform, Wanted};
pub use platform::{Line, Outside, Platform, Size, Window};
pub use shadow::Shadow;
pub use ste::{canonical, disabled};
pub use stream_table::{Entries, Found, OwnerTable, Stretch, fetch};

/// Whether a write to a register is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It took effect as a whole.
    Done,
    /// There is more work than one call does. The owner's CPU is to run its
    /// interrupts and then do the same write again, which carries on: the
    /// instruction must not be counted as executed yet.
    Again,
}

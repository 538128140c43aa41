//! Everything around the hypervisor: set-up, building, QEMU and checks.
//!
//! The commands of `cargo xtask` are thin wrappers of this crate, and the tests
//! that boot QEMU live beside it. Nothing here runs on the Arm machine; what
//! does is in `hypervisor` and `payloads`.

pub mod agent;
pub mod bench;
pub mod build;
pub mod check;
pub mod console;
pub mod cpio;
pub mod demo;
pub mod disk;
pub mod error;
pub mod fuzz;
pub mod hostile;
pub mod initramfs;
pub mod logfmt;
pub mod machine;
pub mod net;
pub mod packages;
pub mod progress;
pub mod proof;
pub mod qmp;
pub mod record;
pub mod setup;
pub mod shell;
pub mod tree;
pub mod vm;
pub mod workspace;

pub use error::{Error, Result};

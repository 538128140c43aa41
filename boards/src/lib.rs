//! What becomes of real boards.
//!
//! Debian's kernel package has a compiled device tree for each board that it knows.
//! Each is given what boot loaders add ([`loader`]) and is booted up to the host's
//! tree and tables ([`start`]), in each mode ([`board`]). Of those that are
//! accepted, [`usefulness`] says what of the board its host can use. [`masters`] asks
//! all trees together which devices do DMA.
#![forbid(unsafe_code)]

pub mod board;
pub mod corpus;
mod dma;
pub mod loader;
pub mod masters;
mod memory;
pub mod nodes;
pub mod record;
mod space;
pub mod start;
pub mod table;
pub mod usefulness;

pub use space::SpaceError;

/// Why a tree cannot be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no tree.
    #[error("the tree cannot be read: {0}")]
    Tree(String),
    /// Its memory has no room for this many bytes.
    #[error("there is no room in memory for {0:#x} bytes")]
    NoRoom(u64),
}

/// Result of what prepares a tree.
pub type Result<T> = std::result::Result<T, Problem>;

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cache;
mod dma;
mod greedy;
mod misuse;
mod oracle;
mod profile;
mod queue;
mod ram;
mod registers;
mod smmu;
mod stage2;
mod stream;

pub use cache::Cached;
pub use dma::{Refusal, Transaction};
pub use misuse::Misuse;
pub use oracle::{How, Policy, Violation};
pub use profile::Profile;
pub use ram::Ram;
pub use smmu::{Counts, Mode, Smmu};
pub use stage2::{Access, LeafEntry, Meaning, Regime};

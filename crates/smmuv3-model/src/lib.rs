#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod cache;
mod cache_stage1;
mod cd;
mod context;
mod dma;
mod fault_record;
mod greedy;
mod greedy_stage1;
mod misuse;
mod oracle;
mod oracle_stage1;
mod profile;
mod queue;
mod ram;
mod reach;
mod registers;
mod smmu;
mod stage1;
mod stage2;
mod stall;
mod stream;
mod trace;
mod translate;
mod walk;
mod words;

pub use cache::Cached;
pub use cache_stage1::CachedStage1;
pub use cd::{BadCd, Context, World};
pub use context::{CdFormat, CdPlace, CdTable, Choice, DefaultSubstream};
pub use dma::{Done, Refusal, Transaction};
pub use fault_record::PageHint;
pub use misuse::Misuse;
pub use oracle::{How, Policy, Violation};
pub use profile::Profile;
pub use ram::Ram;
pub use smmu::{Counts, Mode, Smmu};
pub use stage1::{Half, Limits, Rights, Stage1Leaf, Stage1Meaning};
pub use stage2::{Access, LeafEntry, Meaning, Regime};
pub use stall::Completed;
pub use trace::{Step, Trace};

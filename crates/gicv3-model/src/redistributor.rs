//! What a redistributor holds of LPIs.

use std::collections::{BTreeMap, BTreeSet};

/// One redistributor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rd {
    pub(crate) enabled: bool,
    /// Polls until the last write of `EnableLPIs` is in force (`RWP`).
    pub(crate) writing: Option<u32>,
    pub(crate) propbaser: u64,
    pub(crate) pendbaser: u64,
    pub(crate) waker: u32,
    pub(crate) dpg: u32,
    pub(crate) pending: BTreeSet<u32>,
    /// What memory has of the pending table, by word; zero where nothing is said.
    pub(crate) stored: BTreeMap<u64, u64>,
    /// Configuration that is cached.
    pub(crate) cached: BTreeMap<u32, u8>,
    /// Polls until `GICR_SYNCR.Busy` is 0.
    pub(crate) busy: Option<u32>,
}

impl Rd {
    /// Whether its tables are its own: LPIs are enabled, or just being disabled.
    pub(crate) fn in_use(&self) -> bool {
        self.enabled || self.writing.is_some()
    }
}

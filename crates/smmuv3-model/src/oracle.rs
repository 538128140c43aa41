//! Who could reach what now, and who must not.

use crate::atc::AtcEntry;
use crate::cache::{Cached, Node, Which};
use crate::cache_stage1::CachedStage1;
use crate::smmu::{Mode, Smmu};
use crate::stage2::Regime;
use crate::stream::Plan;
use smmuv3_spec::StreamId;
use std::fmt;
use std::ops::Range;

/// What must hold, from somebody who knows neither tables nor caches.
pub trait Policy {
    /// The first address in `range` that `stream` must not touch, or must not
    /// write if `write`; `None` when it may touch all of it.
    fn first_forbidden(&self, stream: StreamId, range: Range<u64>, write: bool) -> Option<u64>;

    /// The first address in `range` that is no memory of the tables: the SMMU
    /// must not fetch from there.
    fn first_foreign(&self, range: Range<u64>) -> Option<u64>;
}

/// How a page is reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Without translation: the SMMU is off and lets everything pass.
    Disabled,
    /// Without translation: the stream's entry says so, or could be read so.
    Bypass,
    /// By a cached translation that a walk would give too.
    Walk(Cached),
    /// By a cached translation that no walk gives any more.
    Stale(Cached),
    /// By a cached translation that combines some stage 1 with what was a
    /// stage 2 translation, and is one no more.
    Combined(Cached),
    /// By a cached translation of stage 1, with no stage 2 underneath.
    Stage1(CachedStage1),
    /// By what the endpoint was granted and still holds.
    Atc(AtcEntry),
    /// With an address that the endpoint calls translated, and nobody checks.
    Unchecked,
    /// As a table of stage 1 that the SMMU may still walk.
    Walker,
}

/// Something that must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A stream reaches a page that it must not.
    Reach {
        /// The stream.
        stream: StreamId,
        /// The address that it would use.
        address: u64,
        /// The page that it reaches.
        page: u64,
        /// Whether it could write.
        write: bool,
        /// Why it can.
        how: How,
    },
    /// The SMMU would read a table in memory that holds none.
    Table {
        /// VMID of the translations.
        vmid: u16,
        /// The table.
        table: u64,
        /// The part that is foreign.
        at: u64,
        /// Its level.
        level: u32,
    },
    /// The SMMU would read a stream table entry in memory that holds none.
    Entry {
        /// The stream.
        stream: StreamId,
        /// Where the SMMU would read it.
        at: u64,
    },
    /// The SMMU would read a context descriptor of a stage 1 alone in memory
    /// that holds none.
    Context {
        /// The stream.
        stream: StreamId,
        /// Where the SMMU would read it.
        at: u64,
    },
    /// A stream uses VMSAv8-32 tables, which the model does not do.
    NotModelled(StreamId),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reach {
                stream,
                address,
                page,
                write,
                how,
            } => {
                let verb = if *write { "writes" } else { "reads" };
                write!(f, "stream {stream} {verb} {page:#x} through {address:#x}: ")?;
                match how {
                    How::Disabled => f.write_str("the SMMU is off and does not abort"),
                    How::Bypass => f.write_str("its entry may be read as bypass"),
                    How::Walk(c) => write!(f, "a walk leads there (level {})", c.level),
                    How::Combined(c) => write!(
                        f,
                        "a stale entry of both stages of VMID {} has IPA {:#x}+{:#x} at {:#x}",
                        c.vmid, c.input, c.size, c.output
                    ),
                    How::Stage1(c) => write!(
                        f,
                        "stage 1 alone maps {:#x}+{:#x} to {:#x} (level {})",
                        c.input, c.size, c.output, c.level
                    ),
                    How::Atc(entry) => write!(
                        f,
                        "its endpoint still holds {:#x}+{:#x} at {:#x}",
                        entry.input, entry.size, entry.output
                    ),
                    How::Unchecked => f.write_str("ATSCHK is off"),
                    How::Walker => f.write_str("a stage 1 table was there"),
                    How::Stale(c) => write!(
                        f,
                        "a stale TLB entry of VMID {} maps {:#x}+{:#x} to {:#x} (level {})",
                        c.vmid, c.input, c.size, c.output, c.level
                    ),
                }
            }
            Self::Table {
                vmid,
                table,
                at,
                level,
            } => write!(
                f,
                "VMID {vmid} may walk a level {level} table at {table:#x}, but {at:#x} holds none"
            ),
            Self::Entry { stream, at } => {
                write!(f, "the entry of {stream} may be fetched from {at:#x}")
            }
            Self::Context { stream, at } => write!(
                f,
                "a context descriptor of {stream} may be fetched from {at:#x}"
            ),
            Self::NotModelled(stream) => write!(f, "stream {stream} uses VMSAv8-32 tables"),
        }
    }
}

impl Smmu {
    /// Checks everything that the SMMU could do now against `policy`.
    ///
    /// In [`Mode::Plain`] nothing is cached, and only what is off is checked.
    ///
    /// # Errors
    /// The first [`Violation`], in order of streams.
    pub fn check(&mut self, policy: &impl Policy) -> Result<(), Violation> {
        if self.may_bypass() {
            self.check_open(policy, How::Disabled)?;
        }
        if !self.may_translate() {
            return Ok(());
        }
        if self.mode == Mode::Plain {
            return Ok(());
        }
        self.check_fetches(policy)?;
        self.caches.measure();
        for stream in self.streams.clone() {
            for plan in self.plans(stream, Which::All) {
                match plan {
                    Plan::Abort | Plan::Bad => {}
                    Plan::NotModelled => return Err(Violation::NotModelled(stream)),
                    Plan::Stage1 { cds } => self.check_stage1(policy, stream, &cds)?,
                    Plan::Nested { stage2, .. } => {
                        self.check_leaves(policy, stream, &stage2)?;
                        self.check_nested(policy, stream, stage2.vmid)?;
                    }
                    Plan::Bypass => self.check_bypass(policy, stream, How::Bypass)?,
                    Plan::Stage2(regime) => {
                        self.check_leaves(policy, stream, &regime)?;
                    }
                }
            }
        }
        self.check_ats(policy)
    }

    /// The VMIDs by whose translations of stage 2 alone `stream` could be
    /// translated now; see [`cached`](Self::cached).
    pub fn stage2_of(&mut self, stream: StreamId) -> Vec<u16> {
        if !self.may_translate() {
            return Vec::new();
        }
        let plans = self.plans(stream, Which::All).into_iter();
        let mut vmids: Vec<u16> = plans
            .filter_map(|plan| match plan {
                Plan::Stage2(regime) => Some(regime.vmid),
                _ => None,
            })
            .collect();
        vmids.sort_unstable();
        vmids.dedup();
        vmids
    }

    /// Every translation of stage 2 that is cached, in no order. In a greedy
    /// mode that is every one that there could be.
    pub fn cached(&self) -> impl Iterator<Item = &Cached> {
        self.caches.leaves.keys()
    }

    /// Whether the SMMU may still use a table in `at .. at + bytes`; for whoever
    /// takes such memory back.
    #[must_use]
    pub fn holds_table_in(&self, at: u64, bytes: u64) -> Option<Violation> {
        let inside = |node: &Node| node.table < at + bytes && at < node.table + node.bytes();
        let nodes = self.caches.nodes.keys().filter(|node| inside(node));
        let first = nodes.min().map(|node| Violation::Table {
            vmid: node.regime.vmid,
            table: node.table,
            at,
            level: node.level,
        });
        let inside = |array: &Range<u64>| array.start < at + bytes && at < array.end;
        let arrays = self.caches.l1.iter().flat_map(|(index, held)| {
            let arrays = held.all().into_iter().filter_map(|word| self.array(word));
            arrays.map(move |array| (*index, array))
        });
        let mut arrays = arrays.filter(|(_, array)| self.enabled().smmuen() && inside(array));
        let first = first.or_else(|| {
            let (index, array) = arrays.next()?;
            let split = self.split().unwrap_or(0);
            let stream = StreamId(u32::try_from(index << split).unwrap_or(u32::MAX));
            let at = array.start.max(at);
            Some(Violation::Entry { stream, at })
        });
        let first = first.or_else(|| self.holds_stage1_in(at, bytes));
        first.or_else(|| {
            let mut entries = self.caches.entries.iter();
            entries.find_map(|(stream, entry)| {
                let mut from = entry.from.iter();
                from.find(|from| (at..at + bytes).contains(from))
                    .filter(|_| self.enabled().smmuen() && entry.is_held(Which::All))
                    .filter(|from| self.may_fetch_from(*stream, **from))
                    .map(|from| Violation::Entry {
                        stream: *stream,
                        at: *from,
                    })
            })
        })
    }

    /// Whether a held or readable level 1 descriptor leads to `from`.
    fn may_fetch_from(&self, stream: StreamId, from: u64) -> bool {
        match self.place(stream) {
            crate::stream::Place::Outside => false,
            crate::stream::Place::At(at) => at == from,
            crate::stream::Place::Behind { index, .. } => {
                let held = self.caches.l1.get(&index);
                held.is_some_and(|held| {
                    let mut words = held.all().into_iter();
                    words.any(|word| self.behind(word, stream) == Some(from))
                })
            }
        }
    }

    fn check_open(&self, policy: &impl Policy, how: How) -> Result<(), Violation> {
        for stream in &self.streams {
            self.check_bypass(policy, *stream, how)?;
        }
        Ok(())
    }

    pub(crate) fn check_bypass(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        how: How,
    ) -> Result<(), Violation> {
        let all = 0..1 << self.profile.output_bits();
        match policy.first_forbidden(stream, all, true) {
            Some(page) => Err(Violation::Reach {
                stream,
                address: page,
                page,
                write: true,
                how,
            }),
            None => Ok(()),
        }
    }

    /// Every translation of a regime's VMID.
    fn check_leaves(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        regime: &Regime,
    ) -> Result<(), Violation> {
        let reach = self.caches.reach.get(&regime.vmid);
        if reach.is_none_or(|reach| reach.is_allowed(policy, stream)) {
            return Ok(());
        }
        // The report must not depend on the order of a hash.
        let leaves = self.caches.leaves.keys();
        let mut leaves: Vec<_> = leaves.filter(|leaf| leaf.vmid == regime.vmid).collect();
        leaves.sort_unstable();
        let mut leaves = leaves.into_iter();
        leaves.try_for_each(|leaf| self.check_leaf(policy, stream, regime, leaf))
    }

    fn check_leaf(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        regime: &Regime,
        leaf: &Cached,
    ) -> Result<(), Violation> {
        let range = leaf.output..leaf.output + leaf.size;
        let Some(page) = policy.first_forbidden(stream, range, leaf.write) else {
            return Ok(());
        };
        let address = leaf.input + (page - leaf.output);
        let walk = self.peek(regime, address).is_some_and(|found| {
            found.output | address & (found.size - 1) == page && found.write == leaf.write
        });
        Err(Violation::Reach {
            stream,
            address,
            page,
            write: leaf.write,
            how: if walk {
                How::Walk(*leaf)
            } else {
                How::Stale(*leaf)
            },
        })
    }

    fn check_fetches(&self, policy: &impl Policy) -> Result<(), Violation> {
        let foreign = |node: &&Node| {
            let range = node.table..node.table + node.bytes();
            policy.first_foreign(range).is_some()
        };
        if let Some(node) = self.caches.nodes.keys().filter(foreign).min() {
            let range = node.table..node.table + node.bytes();
            return Err(Violation::Table {
                vmid: node.regime.vmid,
                table: node.table,
                at: policy.first_foreign(range).unwrap_or(node.table),
                level: node.level,
            });
        }
        // Whatever a level 1 descriptor leads to may be prefetched, for streams
        // that nobody asked about too (3.21.3).
        for (index, held) in &self.caches.l1 {
            for array in held.all().into_iter().filter_map(|word| self.array(word)) {
                if let Some(at) = policy.first_foreign(array) {
                    let split = self.split().unwrap_or(0);
                    let stream = StreamId(u32::try_from(index << split).unwrap_or(u32::MAX));
                    return Err(Violation::Entry { stream, at });
                }
            }
        }
        for (stream, entry) in &self.caches.entries {
            for at in &entry.from {
                let foreign = policy.first_foreign(*at..*at + 64);
                if foreign.is_some() && self.may_fetch_from(*stream, *at) {
                    let (stream, at) = (*stream, *at);
                    return Err(Violation::Entry { stream, at });
                }
            }
        }
        Ok(())
    }
}

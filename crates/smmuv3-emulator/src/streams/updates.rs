//! Updates of the owner's streams. The physical SMMU does not walk the owner's
//! stream table, so each change of an entry is carried over to the physical
//! table.
//!
//! A range of streams is out of date. Updating it takes any number of steps,
//! and each step is bounded. Until a stream is updated, it keeps its old
//! configuration; while translation is being enabled, that is the configuration
//! from `GBPA`. A new request widens the range, so that no stream is forgotten.
//! That may read an entry once more than the owner asked for, which every SMMU
//! may do at any time.

use crate::counts::Counts;
use crate::streams::ste::{gbpa_config, ste_config};
use crate::streams::stream_table::{EntryLocation, OwnerTable, TableWalk, read_ste};
use crate::{Failure, Ids, Physical, Platform, RangeConfig, StreamConfig};
use portcullis_addr::{Address, Ipa};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{Gbpa, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{SHCFG_INCOMING, Ste};

/// Where the configuration of streams comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// `GBPA`, the same for all.
    Disabled(Gbpa),
    /// The stream table that these two registers describe.
    Table(StrtabBase, StrtabBaseCfg),
}

/// Where the owner's streams get their configuration from, and which of them
/// are out of date.
#[derive(Clone, Copy, Debug)]
pub struct StreamUpdates {
    source: Source,
    /// The first and last stream that are out of date.
    outdated: Option<(StreamId, StreamId)>,
}

impl Default for StreamUpdates {
    fn default() -> Self {
        Self::new()
    }
}

/// How much of the budget a call for many streams costs. Such a call may write
/// a few dozen entries.
const RANGE_COST: u32 = 8;

/// How many runs without entries are joined before their streams are set.
const MAX_EMPTY_RUNS: u32 = 32;

const ALL_STREAMS: (StreamId, StreamId) = (StreamId(0), StreamId(u32::MAX));

impl StreamUpdates {
    /// Translation is off, every stream bypasses stage 1, and all streams are
    /// up to date.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            // The value after reset (6.3.14) leaves the shareability as it is.
            source: Source::Disabled(Gbpa::new().with_shcfg(SHCFG_INCOMING)),
            outdated: None,
        }
    }

    /// Notes that translation was turned off, or that `GBPA` changed while it
    /// is off. Every stream gets the configuration from `gbpa`. This replaces
    /// all updates that are not finished.
    pub fn disable(&mut self, gbpa: Gbpa) {
        *self = Self {
            source: Source::Disabled(gbpa),
            outdated: Some(ALL_STREAMS),
        };
    }

    /// Notes that translation was turned on. Every stream gets the
    /// configuration from the table, whose format is fixed until
    /// [`disable`](Self::disable).
    pub fn enable(&mut self, base: StrtabBase, cfg: StrtabBaseCfg) {
        *self = Self {
            source: Source::Table(base, cfg),
            outdated: Some(ALL_STREAMS),
        };
    }

    /// Marks the streams from `first` to `last`, both included, as out of date.
    /// While translation is off the table is not used, so nothing is marked.
    pub fn invalidate(&mut self, first: StreamId, last: StreamId) {
        if matches!(self.source, Source::Disabled(_)) || first > last {
            return;
        }
        self.outdated = Some(match self.outdated {
            Some((a, b)) => (a.min(first), b.max(last)),
            None => (first, last),
        });
    }

    /// As [`invalidate`](Self::invalidate), for all streams that share the
    /// level 1 descriptor of `stream`. When the owner links a new second-level
    /// table, none of these streams had an entry before (5.1.1).
    pub fn invalidate_descriptor(&mut self, ids: &Ids, stream: StreamId) {
        if let Some(table) = self.table(ids) {
            let (first, last) = table.descriptor_streams(stream);
            self.invalidate(first, last);
        }
    }

    /// The owner's stream table; `None` while translation is off.
    #[must_use]
    pub fn table(&self, ids: &Ids) -> Option<OwnerTable> {
        match self.source {
            Source::Disabled(_) => None,
            Source::Table(base, cfg) => Some(OwnerTable::new(ids, base, cfg)),
        }
    }

    /// Whether all streams are up to date.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outdated.is_none()
    }

    /// Updates streams; `true` when all are up to date. Each entry that is
    /// read, and each run of streams that get the same configuration, costs 1
    /// of `budget`; with a budget of 0 nothing is done. A stream that cannot be
    /// configured aborts and is counted; that is no error.
    ///
    /// # Errors
    /// [`Failure::Fenced`]: everything aborts, and the streams stay out of
    /// date.
    pub fn run<P: Platform>(
        &mut self,
        ids: &Ids,
        platform: &P,
        physical: &mut impl Physical,
        budget: &mut u32,
        counts: &mut Counts,
    ) -> Result<bool, Failure> {
        while let Some((from, last)) = self.outdated {
            let Some(run) = next_run(physical, from, last) else {
                self.outdated = None;
                break;
            };
            if *budget == 0 {
                return Ok(false);
            }
            let next = match self.source {
                Source::Disabled(gbpa) => {
                    *budget = budget.saturating_sub(RANGE_COST);
                    set_range(physical, counts, run, &gbpa_config(ids, gbpa))?
                }
                Source::Table(base, cfg) => {
                    let table = OwnerTable::new(ids, base, cfg);
                    let mut work = UpdateRun {
                        ids,
                        platform,
                        physical,
                        budget,
                        counts,
                    };
                    work.update_some(&table, run)?
                }
            };
            // The range is changed only now, so that after a failure the same
            // streams are out of date.
            self.outdated = next.filter(|next| *next <= last).map(|next| (next, last));
        }
        Ok(true)
    }
}

/// The first run of the owner's streams between `from` and `last`.
fn next_run(
    physical: &impl Physical,
    from: StreamId,
    last: StreamId,
) -> Option<(StreamId, StreamId)> {
    let (first, end) = physical.next_streams(from)?;
    let run = (first.max(from), end.min(last));
    (run.0 <= run.1).then_some(run)
}

/// The stream after `stream`.
fn after(stream: StreamId) -> Option<StreamId> {
    stream.0.checked_add(1).map(StreamId)
}

/// Counts a stream that could not be configured. It aborts, which its owner
/// will notice, so this is no error.
fn count_refused_stream(counts: &mut Counts, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Stream { .. } | Failure::Command(_)) => {
            counts.streams_refused += 1;
            Ok(())
        }
        other => other,
    }
}

/// Gives a run of streams the same configuration; returns the next stream.
fn set_range(
    physical: &mut impl Physical,
    counts: &mut Counts,
    (first, last): (StreamId, StreamId),
    config: &RangeConfig,
) -> Result<Option<StreamId>, Failure> {
    match physical.set_range(first, last, config) {
        Ok(Some(left)) if left > first => Ok(Some(left)),
        Ok(Some(_)) => {
            // A call that makes no progress must not be repeated for ever.
            let result = physical.set(first, &config.for_one_stream());
            count_refused_stream(counts, result)?;
            Ok(after(first))
        }
        Ok(None) => Ok(after(last)),
        Err(Failure::Stream { stream, error }) => {
            // The streams before it are up to date.
            count_refused_stream(counts, Err(Failure::Stream { stream, error }))?;
            Ok(after(stream.clamp(first, last)))
        }
        Err(failure) => {
            count_refused_stream(counts, Err(failure))?;
            Ok(after(last))
        }
    }
}

/// The same configuration in the form for many streams; `None` for stage 1,
/// which is set stream by stream.
fn range_config(config: &StreamConfig) -> Option<RangeConfig> {
    match config {
        StreamConfig::Invalid => Some(RangeConfig::Invalid),
        StreamConfig::Abort => Some(RangeConfig::Abort),
        StreamConfig::Bypass(ste) => Some(RangeConfig::Bypass(*ste)),
        StreamConfig::Stage1(_) => None,
    }
}

/// One run of updates from the stream table.
struct UpdateRun<'a, P, Q> {
    ids: &'a Ids,
    platform: &'a P,
    physical: &'a mut Q,
    budget: &'a mut u32,
    counts: &'a mut Counts,
}

impl<P: Platform, Q: Physical> UpdateRun<'_, P, Q> {
    /// Updates some of the streams from `first` to `last`, which are the
    /// owner's; returns the next stream. Needs a budget of at least 1.
    fn update_some(
        &mut self,
        table: &OwnerTable,
        (first, last): (StreamId, StreamId),
    ) -> Result<Option<StreamId>, Failure> {
        let run = table.entry_run(self.platform, first);
        if let EntryLocation::At(at) = run.kind {
            return self.update_from_entries(first, last.min(run.last), at);
        }
        *self.budget = self.budget.saturating_sub(1);
        // Runs without entries are joined.
        let mut end = run.last.min(last);
        for _ in 1..MAX_EMPTY_RUNS {
            if end == last || *self.budget == 0 {
                break;
            }
            let next = table.entry_run(self.platform, StreamId(end.0 + 1));
            if matches!(next.kind, EntryLocation::At(_)) {
                break;
            }
            *self.budget -= 1;
            end = next.last.min(last);
        }
        *self.budget = self.budget.saturating_sub(RANGE_COST);
        set_range(
            self.physical,
            self.counts,
            (first, end),
            &RangeConfig::Invalid,
        )
    }

    /// The configuration from the entry at `at`.
    fn read_config(&mut self, at: Ipa) -> StreamConfig {
        *self.budget -= 1;
        self.counts.entries_read += 1;
        match read_ste(self.platform, at) {
            TableWalk::Entry(entry) => ste_config(self.ids, &entry),
            TableWalk::NoEntry | TableWalk::Unreachable(_) => StreamConfig::Invalid,
        }
    }

    /// Updates streams whose entries follow each other; the first is at `at`.
    fn update_from_entries(
        &mut self,
        first: StreamId,
        last: StreamId,
        mut at: Ipa,
    ) -> Result<Option<StreamId>, Failure> {
        let mut next = first;
        // The configuration of `next`, if its entry was read already because it
        // ended a run.
        let mut next_config: Option<StreamConfig> = None;
        loop {
            let config = match next_config.take() {
                Some(config) => config,
                None if *self.budget == 0 => return Ok(Some(next)),
                None => self.read_config(at),
            };
            let Some(same) = range_config(&config) else {
                let result = self.physical.set(next, &config);
                count_refused_stream(self.counts, result)?;
                if next == last {
                    return Ok(after(last));
                }
                next = StreamId(next.0 + 1);
                at = next_entry(at);
                continue;
            };
            // Streams with the same configuration are joined.
            let mut end = next;
            while end < last && *self.budget > 0 {
                let other = self.read_config(next_entry(at));
                at = next_entry(at);
                if range_config(&other) != Some(same) {
                    next_config = Some(other);
                    break;
                }
                end = StreamId(end.0 + 1);
            }
            self.set_all(next, end, &same)?;
            if end == last {
                return Ok(after(last));
            }
            next = StreamId(end.0 + 1);
            if next_config.is_none() {
                // The budget is spent.
                return Ok(Some(next));
            }
        }
    }

    /// Gives the streams from `first` to `last` the same configuration. Their
    /// entries are read and paid for, so this does not stop early.
    fn set_all(
        &mut self,
        first: StreamId,
        last: StreamId,
        same: &RangeConfig,
    ) -> Result<(), Failure> {
        if first == last {
            let result = self.physical.set(first, &same.for_one_stream());
            return count_refused_stream(self.counts, result);
        }
        let mut next = first;
        while let Some(left) = set_range(self.physical, self.counts, (next, last), same)? {
            if left > last {
                break;
            }
            next = left;
        }
        Ok(())
    }
}

/// The address of the entry after the one at `at`. Past the end of the address
/// space it is an address that is never the owner's.
fn next_entry(at: Ipa) -> Ipa {
    at.checked_add(Ste::SIZE).unwrap_or(Ipa::new(!7))
}

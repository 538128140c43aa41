//! What is still to be done about the owner's streams: the owner's stream table
//! is not what the physical SMMU walks, so each change is carried over.
//!
//! Work is a range of streams that do not yet have what they should; it is done
//! in any number of steps, each bounded. Before its turn, a stream has what it
//! had before: while enabling, what `GBPA` said. A new request while an earlier
//! one is unfinished widens the range, so that nothing is lost: looking at an
//! entry once more than asked is what every SMMU may do at any time.

use crate::counts::Counts;
use crate::streams::ste::{canonical, disabled};
use crate::streams::stream_table::{Entries, Found, OwnerTable, fetch};
use crate::{Failure, Ids, Physical, Platform, Uniform, Wanted};
use portcullis_addr::{Address, Ipa};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{Gbpa, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::{SHCFG_INCOMING, Ste};

/// Where the configuration of streams comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// `GBPA`, the same for all.
    Disabled(Gbpa),
    /// The stream table that these registers describe.
    Table(StrtabBase, StrtabBaseCfg),
}

/// The owner's streams, and what is left to be done about them.
#[derive(Clone, Copy, Debug)]
pub struct Shadow {
    source: Source,
    /// First and last stream that are left.
    outdated: Option<(StreamId, StreamId)>,
}

impl Default for Shadow {
    fn default() -> Self {
        Self::new()
    }
}

/// What a call for many streams at once takes of the budget: it may go through
/// as many as a few dozen entries.
const RANGE_COST: u32 = 8;

/// Level 1 descriptors without entries that are looked at before their streams
/// are set.
const MAX_EMPTY_RUNS: u32 = 32;

const ALL_STREAMS: (StreamId, StreamId) = (StreamId(0), StreamId(u32::MAX));

impl Shadow {
    /// Translation is off and every stream bypasses stage 1; nothing is left to
    /// do.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            // As after reset (6.3.14): the shareability stays as it comes.
            source: Source::Disabled(Gbpa::new().with_shcfg(SHCFG_INCOMING)),
            outdated: None,
        }
    }

    /// Translation is off, or `GBPA` changed while it is: every stream is to
    /// have what `gbpa` says. Takes the place of whatever was unfinished.
    pub fn disable(&mut self, gbpa: Gbpa) {
        *self = Self {
            source: Source::Disabled(gbpa),
            outdated: Some(ALL_STREAMS),
        };
    }

    /// Translation is on: every stream is to have what the table says. The shape
    /// of the table holds until [`disable`](Self::disable).
    pub fn enable(&mut self, base: StrtabBase, cfg: StrtabBaseCfg) {
        *self = Self {
            source: Source::Table(base, cfg),
            outdated: Some(ALL_STREAMS),
        };
    }

    /// The streams from `first` to `last`, both included, are to be looked at
    /// again. Nothing while translation is off: then the table does not count.
    pub fn invalidate(&mut self, first: StreamId, last: StreamId) {
        if matches!(self.source, Source::Disabled(_)) || first > last {
            return;
        }
        self.outdated = Some(match self.outdated {
            Some((a, b)) => (a.min(first), b.max(last)),
            None => (first, last),
        });
    }

    /// As [`invalidate`](Self::invalidate), for the streams whose entries are
    /// found through the same level 1 descriptor as that of `stream`: where the
    /// owner put a new one in place, none of them was there before (5.1.1).
    pub fn invalidate_descriptor(&mut self, ids: &Ids, stream: StreamId) {
        if let Some(table) = self.table(ids) {
            let (first, last) = table.leaf(stream);
            self.invalidate(first, last);
        }
    }

    /// The owner's stream table, `None` while translation is off.
    #[must_use]
    pub fn table(&self, ids: &Ids) -> Option<OwnerTable> {
        match self.source {
            Source::Disabled(_) => None,
            Source::Table(base, cfg) => Some(OwnerTable::new(ids, base, cfg)),
        }
    }

    /// Whether nothing is left to be done.
    #[must_use]
    pub fn done(&self) -> bool {
        self.outdated.is_none()
    }

    /// Does some of what is left; `true` when that was all. Each entry that is
    /// looked at, and each run of streams that all have the same, takes 1 of
    /// `budget`; with a budget of 0 nothing is done. A stream that cannot have
    /// what it should aborts and is counted; that is no failure.
    ///
    /// # Errors
    /// [`Failure::Fenced`]: everything aborts, and what is left stays left.
    pub fn step<P: Platform>(
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
                    set_range(physical, counts, run, &disabled(ids, gbpa))?
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
            // Only now: after a failure the same streams are left.
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

/// What is no failure of the whole: the stream aborts, and its owner will see
/// that it does.
fn count_refused_stream(counts: &mut Counts, result: Result<(), Failure>) -> Result<(), Failure> {
    match result {
        Err(Failure::Stream { .. } | Failure::Command(_)) => {
            counts.streams_refused += 1;
            Ok(())
        }
        other => other,
    }
}

/// Gives a run of streams the same; the stream that is next.
fn set_range(
    physical: &mut impl Physical,
    counts: &mut Counts,
    (first, last): (StreamId, StreamId),
    wanted: &Uniform,
) -> Result<Option<StreamId>, Failure> {
    match physical.set_range(first, last, wanted) {
        Ok(Some(left)) if left > first => Ok(Some(left)),
        Ok(Some(_)) => {
            // A call that gets nowhere must not be made for ever.
            let result = physical.set(first, &wanted.one());
            count_refused_stream(counts, result)?;
            Ok(after(first))
        }
        Ok(None) => Ok(after(last)),
        Err(Failure::Stream { stream, error }) => {
            // The streams before it have what they should.
            count_refused_stream(counts, Err(Failure::Stream { stream, error }))?;
            Ok(after(stream.clamp(first, last)))
        }
        Err(failure) => {
            count_refused_stream(counts, Err(failure))?;
            Ok(after(last))
        }
    }
}

/// What many streams can be given at once.
fn range_config(wanted: &Wanted) -> Option<Uniform> {
    match wanted {
        Wanted::Invalid => Some(Uniform::Invalid),
        Wanted::Abort => Some(Uniform::Abort),
        Wanted::Bypass(ste) => Some(Uniform::Bypass(*ste)),
        Wanted::Stage1(_) => None,
    }
}

/// What carrying over entries needs.
struct UpdateRun<'a, P, Q> {
    ids: &'a Ids,
    platform: &'a P,
    physical: &'a mut Q,
    budget: &'a mut u32,
    counts: &'a mut Counts,
}

impl<P: Platform, Q: Physical> UpdateRun<'_, P, Q> {
    /// Carries over some of the streams of `run`, which are the owner's; the
    /// stream that is next. Needs a budget of at least 1.
    fn update_some(
        &mut self,
        table: &OwnerTable,
        (first, last): (StreamId, StreamId),
    ) -> Result<Option<StreamId>, Failure> {
        let stretch = table.stretch(self.platform, first);
        if let Entries::At(at) = stretch.kind {
            return self.update_from_entries(first, last.min(stretch.last), at);
        }
        *self.budget = self.budget.saturating_sub(1);
        // What has no entries goes together.
        let mut end = stretch.last.min(last);
        for _ in 1..MAX_EMPTY_RUNS {
            if end == last || *self.budget == 0 {
                break;
            }
            let next = table.stretch(self.platform, StreamId(end.0 + 1));
            if matches!(next.kind, Entries::At(_)) {
                break;
            }
            *self.budget -= 1;
            end = next.last.min(last);
        }
        *self.budget = self.budget.saturating_sub(RANGE_COST);
        set_range(self.physical, self.counts, (first, end), &Uniform::Invalid)
    }

    /// The entry at `at`, as the physical SMMU is to have it.
    fn read_config(&mut self, at: Ipa) -> Wanted {
        *self.budget -= 1;
        self.counts.entries_read += 1;
        match fetch(self.platform, at) {
            Found::Entry(entry) => canonical(self.ids, &entry),
            Found::Nothing | Found::Unreachable(_) => Wanted::Invalid,
        }
    }

    /// Carries over entries that lie one after the other, the first at `at`.
    fn update_from_entries(
        &mut self,
        first: StreamId,
        last: StreamId,
        mut at: Ipa,
    ) -> Result<Option<StreamId>, Failure> {
        let mut next = first;
        // The entry of `next`, where it was looked at already: the one that
        // ended a run.
        let mut known: Option<Wanted> = None;
        loop {
            let wanted = match known.take() {
                Some(wanted) => wanted,
                None if *self.budget == 0 => return Ok(Some(next)),
                None => self.read_config(at),
            };
            let Some(same) = range_config(&wanted) else {
                let result = self.physical.set(next, &wanted);
                count_refused_stream(self.counts, result)?;
                if next == last {
                    return Ok(after(last));
                }
                next = StreamId(next.0 + 1);
                at = next_entry(at);
                continue;
            };
            // As many as have the same go together.
            let mut end = next;
            while end < last && *self.budget > 0 {
                let other = self.read_config(next_entry(at));
                at = next_entry(at);
                if range_config(&other) != Some(same) {
                    known = Some(other);
                    break;
                }
                end = StreamId(end.0 + 1);
            }
            self.set_all(next, end, &same)?;
            if end == last {
                return Ok(after(last));
            }
            next = StreamId(end.0 + 1);
            if known.is_none() {
                // The budget is used up.
                return Ok(Some(next));
            }
        }
    }

    /// Gives the streams from `first` to `last` the same. They were looked at
    /// and paid for, so this goes to the end.
    fn set_all(&mut self, first: StreamId, last: StreamId, same: &Uniform) -> Result<(), Failure> {
        if first == last {
            let result = self.physical.set(first, &same.one());
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

/// The entry after the one at `at`. Past the end of the address space, nothing
/// is the owner's.
fn next_entry(at: Ipa) -> Ipa {
    at.checked_add(Ste::SIZE).unwrap_or(Ipa::new(!7))
}

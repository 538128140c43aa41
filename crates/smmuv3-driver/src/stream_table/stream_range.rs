//! Gives many neighbouring streams the same translation, in few commands.
//!
//! A cached entry may be any mixture of the words that the entry had. When a
//! level 1 descriptor changes, it may be any mixture of the words in both
//! tables. So a descriptor changes only when, for each stream, the old and the
//! new entry differ in one used word at most, or when both abort. Tables in
//! which all streams abort keep the other words of the translation before or
//! after.

use crate::smmu::Smmu;
use crate::stream_table::{EntryPlace, load_entry, store_words};
use crate::translation::{Change, have_same_effect, may_stall, passes};
use crate::{Attributes, Clock, Error, RangeTranslation, Registers, Stage2, Translation};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

/// How many whole tables or single streams one call of
/// [`set_range`](Smmu::set_range) changes at most.
const MAX_TABLES: usize = 16;

/// The most rounds that a change takes: stop, prepare, start. Each round ends
/// with an invalidation that is complete.
const ROUNDS: usize = 3;

/// Tables that no descriptor points to any more. They are freed when the SMMU
/// does not read them any more.
type UnlinkedTables = [Option<PhysAddr>; MAX_TABLES];

/// The result of one round for a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RoundResult {
    /// Nothing had to change.
    Nothing,
    /// The table changed. The next round may start when the SMMU has seen the
    /// change.
    Changed,
    /// The table changed, and streams abort now whose accesses may be stalled.
    Stopped,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Gives every stream from `first` to `last`, both included, the
    /// translation `stage2`; see [`attach`](Self::attach) for each of them.
    ///
    /// # Errors
    /// [`Error::Stage2`], [`Error::StreamOutOfRange`], [`Error::Fenced`]:
    /// nothing changed. [`Error::NoMemory`]: streams from `first` up to some
    /// stream are attached, the others unchanged. Any other: the SMMU is
    /// fenced.
    pub fn attach_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        stage2: &Stage2,
    ) -> Result<(), Error> {
        let range_translation = RangeTranslation::Stage2 {
            stage2: *stage2,
            attributes: Attributes::INCOMING,
        };
        let mut next = Some(first);
        while let Some(stream) = next {
            next = self.set_range(stream, last, &range_translation)?;
        }
        Ok(())
    }

    /// Gives the streams from `first` to `last`, both included, one
    /// translation. Returns the stream to continue with; the caller calls again
    /// until it is `None`. Each stream changes as in [`set`](Self::set).
    ///
    /// One call changes at most 16 whole second-level tables, or 16 streams
    /// that share theirs with streams outside of the range. A shared table is
    /// replaced by another with one store. So is a table of its own, if its
    /// streams abort or have the translation already; other tables are stopped
    /// first, with one store for each stream. All tables of a call together
    /// take one to three invalidations, and the entries of a table that is not
    /// shared are read in each of these rounds. A table that no descriptor
    /// points to is freed when the SMMU does not read it any more.
    /// [`set`](Self::set) moves a single stream out of a shared table.
    ///
    /// # Errors
    /// [`Error::Stage2`], [`Error::StreamOutOfRange`], [`Error::Fenced`]:
    /// nothing changed. [`Error::NoMemory`]: streams from `first` up to some
    /// stream are changed or abort, the others are as before; where the range
    /// was to abort, the SMMU is fenced. Any other: the SMMU is fenced, and
    /// after a [`restart`](Self::restart) each stream of the call has what it
    /// had, what it was to have, or aborts (see [`attached`](Self::attached));
    /// tables that it left may be lost.
    pub fn set_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        range_translation: &RangeTranslation,
    ) -> Result<Option<StreamId>, Error> {
        self.check_not_fenced()?;
        self.check_range(first)?;
        self.check_range(last)?;
        let target = Translation::from(*range_translation).entry(&self.features)?;
        let result = self.set_some(u64::from(first.0), u64::from(last.0), &target);
        match result {
            Err(error @ Error::NoMemory { .. }) if !passes(&target) && !self.fenced => {
                Err(self.fence_after(error))
            }
            other => other,
        }
    }

    fn set_some(&mut self, first: u64, last: u64, target: &Ste) -> Result<Option<StreamId>, Error> {
        if first > last {
            return Ok(None);
        }
        let leaf = self.streams_per_table();
        let whole = leaf > 1 && first.is_multiple_of(leaf) && last - first >= leaf - 1;
        let end = if whole {
            let count = ((last - first + 1) / leaf).min(MAX_TABLES as u64);
            self.set_whole_tables(first, count, target)?;
            first + count * leaf
        } else {
            // Whole tables may start after the end of the first one.
            let next = if leaf > 1 {
                (first / leaf + 1) * leaf
            } else {
                u64::MAX
            };
            let end = next.min(last + 1).min(first + MAX_TABLES as u64);
            for stream in first..end {
                // Both ends are StreamIDs, so every number between them is one.
                self.set_entry(StreamId(stream as u32), *target)?;
            }
            end
        };
        Ok((end <= last).then_some(StreamId(end as u32)))
    }

    /// How many streams a second-level table has.
    fn streams_per_table(&self) -> u64 {
        1 << self.table.shape.split.unwrap_or(0)
    }

    /// Gives the streams of `count` whole second-level tables, from that of
    /// `first` on, the entry `target`.
    fn set_whole_tables(&mut self, first: u64, count: u64, target: &Ste) -> Result<(), Error> {
        let leaf = self.streams_per_table();
        let bytes = Ste::SIZE * leaf;
        let stream = |index: u64| StreamId((first + index * leaf) as u32);
        let fresh = passes(target).then(|| Command::tlbi_s12_vmall(Vmid(target.s2vmid())));
        if passes(target) {
            self.last_passing_entry = *target;
        }
        if (0..count).all(|index| self.is_done(stream(index), target)) {
            return Ok(());
        }
        if let Some(tlbi) = fresh {
            // After the first descriptor is stored, streams use the VMID.
            self.run_or_fence(&[tlbi])?;
        }
        let mut left: UnlinkedTables = [None; MAX_TABLES];
        let mut result = Ok(());
        for _ in 0..=ROUNDS {
            let mut stopped = [false; MAX_TABLES];
            let mut changed = false;
            for index in 0..count {
                match self.run_round(stream(index), target, &mut left[index as usize]) {
                    Ok(did) => {
                        changed |= did != RoundResult::Nothing;
                        stopped[index as usize] = did == RoundResult::Stopped;
                    }
                    Err(error) => {
                        // The changes so far still have to be completed.
                        result = Err(error);
                        changed = true;
                        break;
                    }
                }
            }
            if !changed || self.fenced {
                break;
            }
            // Descriptors may be cached, also invalid ones. So may translations
            // of the VMID, if a stream used it with another stage 2.
            match fresh {
                Some(tlbi) => self.run_or_fence(&[Command::cfgi_all(), tlbi])?,
                None => self.run_or_fence(&[Command::cfgi_all()])?,
            }
            for index in (0..count).filter(|index| stopped[*index as usize]) {
                self.end_stalls(stream(index))?;
            }
            if result.is_err() {
                break;
            }
        }
        if !self.fenced {
            // No descriptor points to these tables, and the SMMU has dropped
            // the old descriptors.
            for table in left.into_iter().flatten() {
                self.hw.mem.free(table, bytes);
            }
            self.free_unused_tables(bytes);
        }
        result
    }

    /// Whether the streams of a table have a shared table with the entry
    /// `target` already.
    fn is_done(&self, stream: StreamId, target: &Ste) -> bool {
        let EntryPlace::At(table) = self.table.find(&self.hw.mem, stream) else {
            return false;
        };
        let shared = self.shared_tables.iter().flatten().find(|c| c.at == table);
        shared.is_some_and(|shared| have_same_effect(&shared.entry, target))
    }

    /// Runs one round on the table of `stream`, towards a table whose entries
    /// are all `target`.
    fn run_round(
        &mut self,
        stream: StreamId,
        target: &Ste,
        left: &mut Option<PhysAddr>,
    ) -> Result<RoundResult, Error> {
        // The SMMU ignores words 1 to 3 of an entry that aborts. They keep the
        // last translation, so that turning it on changes one word only.
        let stopped_entry = Ste([
            target.0[0],
            self.last_passing_entry.0[1],
            self.last_passing_entry.0[2],
            self.last_passing_entry.0[3],
            0,
            0,
            0,
            0,
        ]);
        let last = if passes(target) {
            *target
        } else {
            stopped_entry
        };
        let EntryPlace::At(table) = self.table.find(&self.hw.mem, stream) else {
            return self.link_table_of(stream, &last, target);
        };
        if let Some(shared) = self.shared_tables.iter().flatten().find(|c| c.at == table) {
            let entry = shared.entry;
            let next = match (passes(&entry), passes(target)) {
                (false, false) | (true, true) if have_same_effect(&entry, target) => {
                    return Ok(RoundResult::Nothing);
                }
                (false, false) => entry_with(&entry, target.0[0]),
                (false, true) if entry.0[1..] == target.0[1..] => *target,
                (false, true) => entry_with(target, entry.0[0]),
                (true, false) if !may_stall(&entry, &self.features) => {
                    entry_with(&entry, target.0[0])
                }
                (true, true) if self.differs_in_one_word(&entry, target) => *target,
                (true, _) => entry_with(&entry, Ste::ABORT.0[0]),
            };
            let stopped = may_stall(&entry, &self.features) && !passes(&next);
            let did = self.link_table_of(stream, &next, target)?;
            return Ok(if stopped { RoundResult::Stopped } else { did });
        }
        if let Some(did) = self.prepare_entries(table, target) {
            return Ok(did);
        }
        let did = self.link_table_of(stream, &last, target)?;
        if did == RoundResult::Changed {
            *left = Some(table);
        }
        Ok(did)
    }

    /// Whether a change of the descriptor from a shared table with `entry` to
    /// one with `target` is allowed while traffic passes.
    fn differs_in_one_word(&self, entry: &Ste, target: &Ste) -> bool {
        let change = Change::between(entry, target, &self.features);
        let differ = (0..8).filter(|&word| entry.0[word] != target.0[word]);
        matches!(change, Change::OneStore { .. }) && differ.count() == 1
    }

    /// Makes the descriptor of `stream` point to the shared table whose entries
    /// are `entry`. Where there are too many shared tables, the entries
    /// themselves are set to `target`.
    fn link_table_of(
        &mut self,
        stream: StreamId,
        entry: &Ste,
        target: &Ste,
    ) -> Result<RoundResult, Error> {
        let leaf = self.streams_per_table();
        if let Some(shared) = self.shared_table_of(entry, Ste::SIZE * leaf)? {
            self.link_shared_table(stream, shared);
            return Ok(RoundResult::Changed);
        }
        // There are too many shared tables, so these streams get a table of
        // their own.
        for stream in (stream.0..).take(leaf as usize) {
            self.set_entry(StreamId(stream), *target)?;
        }
        Ok(RoundResult::Nothing)
    }

    /// Changes the entries of a table that only one descriptor points to, as
    /// far as one round goes. `None` means that the descriptor may change now.
    fn prepare_entries(&mut self, table: PhysAddr, target: &Ste) -> Option<RoundResult> {
        let mem = &self.hw.mem;
        let places =
            (0..self.streams_per_table()).map(|n| PhysAddr::new(table.raw() + n * Ste::SIZE));
        let stalls = places.clone().any(|at| {
            let entry = load_entry(mem, at);
            may_stall(&entry, &self.features) && !have_same_effect(&entry, target)
        });
        let (mut stopped, mut filled) = (false, false);
        for at in places.clone() {
            let entry = load_entry(mem, at);
            if passes(&entry) && !have_same_effect(&entry, target) {
                // Stalled transactions are terminated under a valid entry.
                let closed = if stalls || passes(target) {
                    Ste::ABORT
                } else {
                    *target
                };
                store_words(mem, at, &closed, 0..1);
                stopped = true;
            }
        }
        if !stopped && passes(target) {
            for at in places {
                let entry = load_entry(mem, at);
                if entry.0[1..] != target.0[1..] {
                    store_words(mem, at, target, 1..8);
                    filled = true;
                }
            }
        }
        if !stopped && !filled {
            return None;
        }
        mem.publish(table, Ste::SIZE * self.streams_per_table());
        Some(if stalls {
            RoundResult::Stopped
        } else {
            RoundResult::Changed
        })
    }

    /// Terminates the stalled transactions of the streams of a table that abort
    /// (4.7.2).
    fn end_stalls(&mut self, first: StreamId) -> Result<(), Error> {
        self.commands.begin();
        for stream in (first.0..)
            .take(self.streams_per_table() as usize)
            .map(StreamId)
        {
            if self.attached(stream).is_some() {
                continue;
            }
            if let Err(error) = self.push(Command::stall_term(stream)) {
                return Err(self.fence_after(error));
            }
        }
        self.run_or_fence(&[])
    }
}

/// Returns `entry` with `first` as its first word.
fn entry_with(entry: &Ste, first: u64) -> Ste {
    let mut other = *entry;
    other.0[0] = first;
    other
}

//! One translation for many neighbouring streams, in few commands.
//!
//! What is cached of an entry may be any mixture of what its words were, and
//! where the descriptor of its table changes, of the words in both tables. So a
//! descriptor is changed only when each stream's old and new entry differ in
//! what the SMMU uses of one word at most, or both abort. Tables in which all
//! streams abort keep the other words of the translation before or after.

use crate::smmu::Smmu;
use crate::stream_table::{Place, load, store_words};
use crate::translation::{Change, may_stall, passes, same};
use crate::{Attributes, Clock, Error, Registers, Stage2, Translation, Uniform};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

/// Whole tables, or single streams, of one call of
/// [`set_range`](Smmu::set_range).
const STEP: usize = 16;

/// Rounds that the longest way takes: stop, prepare, start. Each ends with an
/// invalidation that completed.
const ROUNDS: usize = 3;

/// Tables that no descriptor points to any more.
type Left = [Option<PhysAddr>; STEP];

/// What one round did to a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Did {
    /// All is as it is to be.
    Nothing,
    /// There is more to do once the SMMU has seen this.
    More,
    /// As before, and accesses of the streams that abort now may have waited.
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
        let uniform = Uniform::Stage2 {
            stage2: *stage2,
            attributes: Attributes::INCOMING,
        };
        let mut next = Some(first);
        while let Some(stream) = next {
            next = self.set_range(stream, last, &uniform)?;
        }
        Ok(())
    }

    /// Gives streams from `first` to `last`, both included, one translation,
    /// and says with which stream to go on: it is called again until it returns
    /// `None`. What becomes of each stream meanwhile is as for
    /// [`set`](Self::set).
    ///
    /// One call changes at most 16 whole second-level tables, or 16 streams
    /// that share theirs with others outside the range. A common table becomes
    /// another by one store, as does one that streams have of their own when
    /// they abort or have the translation already; the others are stopped first,
    /// by a store each. All the tables of a call take one to three
    /// invalidations together. The entries of a table that is not common are
    /// read in each of them. A table that no descriptor points to any more is
    /// given back once the SMMU has let go of it. [`set`](Self::set) moves single
    /// streams out of a common table.
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
        uniform: &Uniform,
    ) -> Result<Option<StreamId>, Error> {
        self.usable()?;
        self.check_range(first)?;
        self.check_range(last)?;
        let target = Translation::from(*uniform).entry(&self.features)?;
        let result = self.step(u64::from(first.0), u64::from(last.0), &target);
        match result {
            Err(error @ Error::NoMemory { .. }) if !passes(&target) && !self.fenced => {
                Err(self.fail(error))
            }
            other => other,
        }
    }

    fn step(&mut self, first: u64, last: u64, target: &Ste) -> Result<Option<StreamId>, Error> {
        if first > last {
            return Ok(None);
        }
        let leaf = self.leaf();
        let whole = leaf > 1 && first.is_multiple_of(leaf) && last - first >= leaf - 1;
        let end = if whole {
            let count = ((last - first + 1) / leaf).min(STEP as u64);
            self.set_leaves(first, count, target)?;
            first + count * leaf
        } else {
            // Whole tables may begin where the first one ends.
            let next = if leaf > 1 {
                (first / leaf + 1) * leaf
            } else {
                u64::MAX
            };
            let end = next.min(last + 1).min(first + STEP as u64);
            for stream in first..end {
                // Both ends are StreamIDs, so what lies between is one.
                self.put(StreamId(stream as u32), *target)?;
            }
            end
        };
        Ok((end <= last).then_some(StreamId(end as u32)))
    }

    /// Streams of a second-level table.
    fn leaf(&self) -> u64 {
        1 << self.table.shape.split.unwrap_or(0)
    }

    /// Gives the streams of `count` whole second-level tables, from that of
    /// `first` on, the entry `target`.
    fn set_leaves(&mut self, first: u64, count: u64, target: &Ste) -> Result<(), Error> {
        let leaf = self.leaf();
        let bytes = Ste::SIZE * leaf;
        let stream = |index: u64| StreamId((first + index * leaf) as u32);
        let fresh = passes(target).then(|| Command::tlbi_s12_vmall(Vmid(target.s2vmid())));
        if passes(target) {
            self.shadow = *target;
        }
        if (0..count).all(|index| self.is_done(stream(index), target)) {
            return Ok(());
        }
        if let Some(tlbi) = fresh {
            // The first descriptor lets streams use the VMID.
            self.run_or_fence(&[tlbi])?;
        }
        let mut left: Left = [None; STEP];
        let mut result = Ok(());
        for _ in 0..=ROUNDS {
            let mut stopped = [false; STEP];
            let mut changed = false;
            for index in 0..count {
                match self.advance(stream(index), target, &mut left[index as usize]) {
                    Ok(did) => {
                        changed |= did != Did::Nothing;
                        stopped[index as usize] = did == Did::Stopped;
                    }
                    Err(error) => {
                        // What was changed before is still to be completed.
                        result = Err(error);
                        changed = true;
                        break;
                    }
                }
            }
            if !changed || self.fenced {
                break;
            }
            // Descriptors may be cached, invalid ones as such. And what the VMID
            // had, if a stream of its own used it with another stage 2.
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
            // Nothing points to them, and the SMMU knows.
            for table in left.into_iter().flatten() {
                self.hw.mem.free(table, bytes);
            }
            self.free_unused(bytes);
        }
        result
    }

    /// Whether the streams of a table have a common one that says `target`.
    fn is_done(&self, stream: StreamId, target: &Ste) -> bool {
        let Place::At(table) = self.table.find(&self.hw.mem, stream) else {
            return false;
        };
        let common = self.common.iter().flatten().find(|c| c.at == table);
        common.is_some_and(|common| same(&common.entry, target))
    }

    /// Takes the table of `stream` one round further on its way to one whose
    /// entries are all `target`.
    fn advance(
        &mut self,
        stream: StreamId,
        target: &Ste,
        left: &mut Option<PhysAddr>,
    ) -> Result<Did, Error> {
        // Where nothing passes, the words that are ignored are those that a
        // later start will want.
        let resting = Ste([
            target.0[0],
            self.shadow.0[1],
            self.shadow.0[2],
            self.shadow.0[3],
            0,
            0,
            0,
            0,
        ]);
        let last = if passes(target) { *target } else { resting };
        let Place::At(table) = self.table.find(&self.hw.mem, stream) else {
            return self.lead(stream, &last, target);
        };
        if let Some(common) = self.common.iter().flatten().find(|c| c.at == table) {
            let entry = common.entry;
            let next = match (passes(&entry), passes(target)) {
                (false, false) | (true, true) if same(&entry, target) => return Ok(Did::Nothing),
                (false, false) => entry_with(&entry, target.0[0]),
                (false, true) if entry.0[1..] == target.0[1..] => *target,
                (false, true) => entry_with(target, entry.0[0]),
                (true, false) if !may_stall(&entry, &self.features) => {
                    entry_with(&entry, target.0[0])
                }
                (true, true) if self.one_word(&entry, target) => *target,
                (true, _) => entry_with(&entry, Ste::ABORT.0[0]),
            };
            let stopped = may_stall(&entry, &self.features) && !passes(&next);
            let did = self.lead(stream, &next, target)?;
            return Ok(if stopped { Did::Stopped } else { did });
        }
        if let Some(did) = self.prepare(table, target) {
            return Ok(did);
        }
        let did = self.lead(stream, &last, target)?;
        if did == Did::More {
            *left = Some(table);
        }
        Ok(did)
    }

    /// Whether the entry of a common table may be taken for another by a change
    /// of the descriptor, with traffic going on.
    fn one_word(&self, entry: &Ste, target: &Ste) -> bool {
        let change = Change::between(entry, target, &self.features);
        let differ = (0..8).filter(|&word| entry.0[word] != target.0[word]);
        matches!(change, Change::OneStore { .. }) && differ.count() == 1
    }

    /// Makes the descriptor of `stream` point to the table of `entry`.
    fn lead(&mut self, stream: StreamId, entry: &Ste, target: &Ste) -> Result<Did, Error> {
        let leaf = self.leaf();
        if let Some(common) = self.common_of(entry, Ste::SIZE * leaf)? {
            self.point(stream, common);
            return Ok(Did::More);
        }
        // Too many common tables: this one will be the streams' own.
        for stream in (stream.0..).take(leaf as usize) {
            self.put(StreamId(stream), *target)?;
        }
        Ok(Did::Nothing)
    }

    /// Changes the entries of a table that only one descriptor points to, as
    /// far as one round goes; `None` when the descriptor can be changed.
    fn prepare(&mut self, table: PhysAddr, target: &Ste) -> Option<Did> {
        let mem = &self.hw.mem;
        let places = (0..self.leaf()).map(|n| PhysAddr::new(table.raw() + n * Ste::SIZE));
        let stalls = places.clone().any(|at| {
            let entry = load(mem, at);
            may_stall(&entry, &self.features) && !same(&entry, target)
        });
        let (mut stopped, mut filled) = (false, false);
        for at in places.clone() {
            let entry = load(mem, at);
            if passes(&entry) && !same(&entry, target) {
                // What waits is ended under an entry that is valid.
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
                let entry = load(mem, at);
                if entry.0[1..] != target.0[1..] {
                    store_words(mem, at, target, 1..8);
                    filled = true;
                }
            }
        }
        if !stopped && !filled {
            return None;
        }
        mem.publish(table, Ste::SIZE * self.leaf());
        Some(if stalls { Did::Stopped } else { Did::More })
    }

    /// Terminates what waits of those streams of a table that abort (4.7.2).
    fn end_stalls(&mut self, first: StreamId) -> Result<(), Error> {
        self.commands.begin();
        for stream in (first.0..).take(self.leaf() as usize).map(StreamId) {
            if self.attached(stream).is_some() {
                continue;
            }
            if let Err(error) = self.push(Command::stall_term(stream)) {
                return Err(self.fail(error));
            }
        }
        self.run_or_fence(&[])
    }
}

/// `entry` with another first word.
fn entry_with(entry: &Ste, first: u64) -> Ste {
    let mut other = *entry;
    other.0[0] = first;
    other
}

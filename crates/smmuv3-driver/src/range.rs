//! One translation for many neighbouring streams, in little memory and few
//! commands.
//!
//! A device tree maps whole PCI segments, 65,536 StreamIDs, to an SMMU. Entries
//! of their own would take 4 MiB. Where a second-level table is covered as a
//! whole, all descriptors point to one table whose entries are all alike; it is
//! copied for a stream that is later given another translation.

use crate::smmu::Smmu;
use crate::table::{Place, load, store_words};
use crate::translation::{may_stall, passes, same};
use crate::{Clock, Error, Registers, Stage2, Translation, Uniform};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::{L1Std, Ste};
use smmuv3_spec::{StreamId, Vmid};

/// Common tables at a time: abort, invalid, and two stage 2.
pub(crate) const MOST_COMMON: usize = 4;

/// Whole tables, or single streams, of one call of
/// [`set_range`](Smmu::set_range).
const STEP: usize = 32;

/// A second-level table to which several descriptors point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    pub(crate) at: PhysAddr,
    /// Each of its entries.
    entry: Ste,
    /// How many descriptors.
    users: u32,
}

/// What one descriptor pointed to before it was changed.
#[derive(Clone, Copy)]
struct Old {
    /// A table that only this descriptor points to: it goes with it.
    own: Option<PhysAddr>,
    /// The entry of all streams of a common table.
    common: Ste,
    /// Its streams abort before they get what they are to have.
    by_abort: bool,
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
            attributes: crate::Attributes::INCOMING,
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
    /// One call changes at most 32 whole second-level tables, by one store
    /// each, or 32 streams that share their table with others outside the
    /// range. Tables take two invalidations together, four if transactions
    /// may wait under them or they use the VMID with another stage 2; the
    /// entries of a table that is not common are read once. A table that no
    /// descriptor points to any more is given back once the SMMU has let go of
    /// it. [`set`](Self::set) moves single streams out of a common table.
    ///
    /// # Errors
    /// [`Error::Stage2`], [`Error::StreamOutOfRange`], [`Error::Fenced`]:
    /// nothing changed. [`Error::NoMemory`]: streams from `first` up to some
    /// stream are changed, the others are not; where the range was to abort, the
    /// SMMU is fenced. Any other: the SMMU is fenced, and after a
    /// [`restart`](Self::restart) each stream of the call has what it had, what
    /// it was to have, or aborts (see [`attached`](Self::attached)).
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
        let leaf = 1u64 << self.table.shape.split.unwrap_or(0);
        let whole = leaf > 1 && first.is_multiple_of(leaf) && last - first >= leaf - 1;
        let common = if whole {
            self.common_of(target, Ste::SIZE * leaf)?
        } else {
            None
        };
        let end = if let Some(common) = common {
            let count = ((last - first + 1) / leaf).min(STEP as u64);
            self.set_leaves(first, count as usize, leaf, common)?;
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

    /// Points the descriptors of `count` second-level tables of `leaf` entries,
    /// from that of `first` on, to a common table.
    fn set_leaves(
        &mut self,
        first: u64,
        count: usize,
        leaf: u64,
        common: usize,
    ) -> Result<(), Error> {
        let bytes = Ste::SIZE * leaf;
        let target = self.common[common].map_or(Ste::ABORT, |common| common.entry);
        let tlbi = Command::tlbi_s12_vmall(Vmid(target.s2vmid()));
        let stream = |index: usize| StreamId((first + index as u64 * leaf) as u32);
        let mut old = [None; STEP];
        for (index, old) in old.iter_mut().enumerate().take(count) {
            *old = self.survey(stream(index), leaf, &target);
        }
        let by_abort = |old: &Option<Old>| old.is_some_and(|old| old.by_abort);
        let stops = old.iter().any(by_abort);
        let aborting = if stops {
            self.common_of(&Ste::ABORT, bytes)
                .inspect_err(|_| self.free_unused(bytes))?
        } else {
            None
        };
        if passes(&target) {
            // The first descriptor lets streams use the VMID.
            self.run_or_fence(&[tlbi])?;
        }
        for (index, old) in old.iter().enumerate().filter(|(_, old)| old.is_some()) {
            let by = aborting.filter(|_| by_abort(old)).unwrap_or(common);
            self.point(stream(index), by);
        }
        // They may be cached, invalid ones too.
        self.run_or_fence(&[Command::cfgi_all()])?;
        if stops {
            self.end_stalls(&old, leaf, stream)?;
            if passes(&target) {
                self.run_or_fence(&[tlbi])?;
            }
            for (index, _) in old.iter().enumerate().filter(|(_, old)| by_abort(old)) {
                self.point(stream(index), common);
            }
            self.run_or_fence(&[Command::cfgi_all()])?;
        }
        // Nothing points to them, and the SMMU knows.
        for table in old.iter().flatten().filter_map(|old| old.own) {
            self.hw.mem.free(table, bytes);
        }
        self.free_unused(bytes);
        Ok(())
    }

    /// What the table of `stream` is and how it can be replaced by one whose
    /// entries are all `target`; `None` when it is that already.
    fn survey(&self, stream: StreamId, leaf: u64, target: &Ste) -> Option<Old> {
        let mut old = Old {
            own: None,
            common: Ste::ABORT,
            by_abort: false,
        };
        let Place::At(table) = self.table.find(&self.hw.mem, stream) else {
            return Some(old);
        };
        match self.common.iter().flatten().find(|c| c.at == table) {
            Some(common) if same(&common.entry, target) => return None,
            Some(common) => old.common = common.entry,
            None => old.own = Some(table),
        }
        let stage2 = |entry: &Ste| [entry.0[2], entry.0[3]];
        let by_abort = |entry: Ste| {
            // One VMID and two tables: what the TLBs hold would mix.
            let mixes = passes(&entry)
                && passes(target)
                && entry.s2vmid() == target.s2vmid()
                && stage2(&entry) != stage2(target);
            mixes || may_stall(&entry, &self.features)
        };
        old.by_abort = if old.own.is_some() {
            (0..leaf).any(|index| by_abort(load(&self.hw.mem, entry_at(table, index))))
        } else {
            by_abort(old.common)
        };
        Some(old)
    }

    /// Terminates what waits under tables that no descriptor points to any more
    /// (4.7.2).
    fn end_stalls(
        &mut self,
        old: &[Option<Old>; STEP],
        leaf: u64,
        stream: impl Fn(usize) -> StreamId,
    ) -> Result<(), Error> {
        if !self.features.stalls() {
            return Ok(());
        }
        self.commands.begin();
        for (index, old) in old.iter().enumerate() {
            let Some(old) = old.filter(|old| old.by_abort) else {
                continue;
            };
            for entry in 0..leaf {
                let was = old.own.map_or(old.common, |table| {
                    load(&self.hw.mem, entry_at(table, entry))
                });
                if may_stall(&was, &self.features) {
                    let stream = StreamId(stream(index).0 + entry as u32);
                    if let Err(error) = self.push(Command::stall_term(stream)) {
                        return Err(self.fail(error));
                    }
                }
            }
        }
        self.run_or_fence(&[])
    }

    /// The table whose entries are all `entry`, made if there is none yet: its
    /// place among the common ones. `None` when there are too many.
    fn common_of(&mut self, entry: &Ste, bytes: u64) -> Result<Option<usize>, Error> {
        let have = |common: &Option<Common>| common.is_some_and(|c| same(&c.entry, entry));
        if let Some(index) = self.common.iter().position(have) {
            return Ok(Some(index));
        }
        // The first is kept for what every change may need.
        let aborts = same(entry, &Ste::ABORT);
        let mut places = if aborts { 0..1 } else { 1..MOST_COMMON };
        let Some(free) = places.find(|index| self.common[*index].is_none()) else {
            return Ok(None);
        };
        let mem = &self.hw.mem;
        let at = mem.allocate(bytes).ok_or(Error::NoMemory { bytes })?;
        for offset in (0..bytes).step_by(Ste::SIZE as usize) {
            store_words(mem, PhysAddr::new(at.raw() + offset), entry, 0..8);
        }
        mem.publish(at, bytes);
        self.common[free] = Some(Common {
            at,
            entry: *entry,
            users: 0,
        });
        Ok(Some(free))
    }

    /// Points the descriptor of `stream` to a common table.
    fn point(&mut self, stream: StreamId, common: usize) {
        let l1 = self.table.descriptor(stream);
        let before = PhysAddr::new(L1Std([self.hw.mem.load(l1)]).l2ptr());
        if let Some(left) = self.common.iter_mut().flatten().find(|c| c.at == before) {
            left.users = left.users.saturating_sub(1);
        }
        if let Some(common) = &mut self.common[common] {
            common.users += 1;
            let at = common.at;
            self.link(l1, at);
        }
    }

    /// Gives back common tables that no descriptor points to any more. The SMMU
    /// must know.
    fn free_unused(&mut self, bytes: u64) {
        for place in &mut self.common {
            if let Some(unused) = place.take_if(|common| common.users == 0) {
                self.hw.mem.free(unused.at, bytes);
            }
        }
    }

    /// Stores a descriptor for a whole second-level table.
    pub(crate) fn link(&mut self, l1: PhysAddr, l2: PhysAddr) {
        let span = self.table.shape.split.unwrap_or(0) + 1;
        let descriptor = L1Std::default().with_span(span).with_l2ptr(l2.raw());
        self.hw.mem.store(l1, descriptor.0[0]);
        self.hw.mem.publish(l1, L1Std::SIZE);
    }

    /// Where the entry of `stream`, found at `at`, can be changed without
    /// changing that of another stream: `at`, or its place in a copy of the
    /// table when several descriptors point to it.
    ///
    /// Old and new table say the same for every stream, so that it does not
    /// matter which of them the SMMU sees until the invalidation.
    pub(crate) fn unshare(&mut self, stream: StreamId, at: PhysAddr) -> Result<PhysAddr, Error> {
        let Some(split) = self.table.shape.split else {
            return Ok(at);
        };
        let index = u64::from(stream.0) & ((1 << split) - 1);
        let shared = PhysAddr::new(at.raw() - index * Ste::SIZE);
        let is_it = |common: &&mut Option<Common>| common.is_some_and(|c| c.at == shared);
        let Some(place) = self.common.iter_mut().find(is_it) else {
            return Ok(at);
        };
        // From now on its entries are not all alike.
        if place.take_if(|common| common.users < 2).is_some() {
            return Ok(at);
        }
        let bytes = Ste::SIZE << split;
        let own = self
            .hw
            .mem
            .allocate(bytes)
            .ok_or(Error::NoMemory { bytes })?;
        if let Some(common) = place {
            common.users -= 1;
        }
        for offset in (0..bytes).step_by(8) {
            let word = self.hw.mem.load(PhysAddr::new(shared.raw() + offset));
            self.hw.mem.store(PhysAddr::new(own.raw() + offset), word);
        }
        self.hw.mem.publish(own, bytes);
        self.link(self.table.descriptor(stream), own);
        let at = PhysAddr::new(own.raw() + index * Ste::SIZE);
        self.run_or_fence(&[Command::cfgi_all()])
            .inspect_err(|_| self.abort_after_restart(at))?;
        Ok(at)
    }
}

fn entry_at(table: PhysAddr, index: u64) -> PhysAddr {
    PhysAddr::new(table.raw() + index * Ste::SIZE)
}

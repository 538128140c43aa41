//! Changes the stream table entry (STE) of one stream. [`set`](Smmu::set) is
//! the entrance; `replace_entry` has the order of the stores.

use crate::smmu::Smmu;
use crate::stream_table::{EntryPlace, fill_with_abort, load_entry, store_words};
use crate::translation::{Change, have_same_effect, may_stall, passes, tlbi_for};
use crate::{Attributes, Clock, Error, Registers, Stage1, Stage2, Translation};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Gives `stream` the translation `translation` in place of the old one
    /// (IHI 0070, 3.21.3.1). At every moment the SMMU sees the old entry, the
    /// new entry, or an abort.
    ///
    /// If one store can make the change and stage 2 stays, no access is lost:
    /// stage 1 comes, goes or moves, or an attribute changes. Otherwise there
    /// is an abort in between, and the TLB entries of the VMID are dropped
    /// before the stream can use them. Transactions that stalled under the old
    /// entry are then terminated. They are also terminated when the stream is
    /// taken from the owner that would answer them.
    ///
    /// The context descriptor of an [`OwnStage1`](crate::OwnStage1) is filled
    /// first. Invalidating the entry also drops the cached descriptors of the
    /// stream (4.3.1).
    ///
    /// After the first stream with a stage 1 of another owner, every stage 2
    /// invalidation of that VMID also drops entries that combine both stages. That owner
    /// invalidates changes of its own tables and context descriptors; safety
    /// does not depend on it.
    ///
    /// # Errors
    /// With [`Error::NoMemory`] nothing changed either, but if the stream was
    /// to abort and its traffic still passes, the SMMU is fenced. With any
    /// other error the SMMU is fenced, and the stream also aborts after a
    /// [`restart`](Self::restart).
    pub fn set(&mut self, stream: StreamId, translation: &Translation) -> Result<(), Error> {
        self.check_not_fenced()?;
        let target = translation.entry(&self.features)?;
        // This must be noted before the first access can combine the stages.
        if let Some(vmid) = translation.nested_vmid() {
            self.nested.insert(vmid);
        }
        if let Translation::Stage1 { stage1, .. } = translation {
            self.check_range(stream)?;
            self.fill_descriptor(stage1)?;
        }
        self.set_entry(stream, target)
    }

    /// Gives `stream` the translation `stage2`, with the attributes that the
    /// device sends; see [`set`](Self::set).
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn attach(&mut self, stream: StreamId, stage2: &Stage2) -> Result<(), Error> {
        self.set(stream, &(*stage2).into())
    }

    /// As [`attach`](Self::attach), with `stage1` on top of `stage2`.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn attach_nested(
        &mut self,
        stream: StreamId,
        stage1: &Stage1,
        stage2: &Stage2,
    ) -> Result<(), Error> {
        let nested = Translation::Nested {
            stage1: *stage1,
            stage2: *stage2,
            attributes: Attributes::INCOMING,
        };
        self.set(stream, &nested)
    }

    /// Makes `target` the entry of `stream`.
    pub(crate) fn set_entry(&mut self, stream: StreamId, target: Ste) -> Result<(), Error> {
        self.check_range(stream)?;
        let mut passed = false;
        if let EntryPlace::At(at) = self.table.find(&self.hw.mem, stream) {
            let current = load_entry(&self.hw.mem, at);
            if have_same_effect(&current, &target) {
                return Ok(());
            }
            passed = passes(&current);
        }
        let at = match self.entry_address(stream) {
            // As in `block`: traffic that has to stop must not continue because
            // memory is short.
            Err(error @ Error::NoMemory { .. }) if passed && !passes(&target) => {
                return Err(self.fence_after(error));
            }
            other => other?,
        };
        self.replace_entry(stream, at, target)
            .inspect_err(|_| self.abort_after_restart(at))
    }

    /// Makes the entry at `at` abort after a failure that fenced. The caller
    /// knows that the stream is not attached, so it must not be attached when
    /// the SMMU runs again.
    pub(crate) fn abort_after_restart(&self, at: PhysAddr) {
        store_words(&self.hw.mem, at, &Ste::ABORT, 0..1);
        self.hw.mem.publish(at, Ste::SIZE);
    }

    /// Has `stream` abort also after a [`restart`](Self::restart) of an SMMU that
    /// is fenced and takes no commands. Where it is not, nothing changes.
    pub fn abort_while_fenced(&mut self, stream: StreamId) {
        if !self.is_fenced() || !self.table.shape.contains(stream) {
            return;
        }
        // One store: an SMMU that looks all the same sees what it was, or an abort.
        if let EntryPlace::At(at) = self.table.find(&self.hw.mem, stream)
            && passes(&load_entry(&self.hw.mem, at))
        {
            self.abort_after_restart(at);
        }
    }

    /// Stores `target` in the entry at `at`. Every failure fences.
    fn replace_entry(&mut self, stream: StreamId, at: PhysAddr, target: Ste) -> Result<(), Error> {
        let vmid = Vmid(target.s2vmid());
        let current = load_entry(&self.hw.mem, at);
        if !passes(&target) {
            return self.stop_entry(stream, at, &current, target);
        }
        if passes(&current) {
            match Change::between(&current, &target, &self.features) {
                Change::None => return Ok(()),
                Change::Vmid => {
                    self.run_or_fence(&[Command::tlbi_s12_vmall(vmid)])?;
                    store_words(&self.hw.mem, at, &target, 2..3);
                    self.hw.mem.publish(at, Ste::SIZE);
                    return self.run_or_fence(&[Command::cfgi_ste(stream, true)]);
                }
                Change::OneStore { word, prepared } => {
                    let other = 1 - word;
                    let mut first = current;
                    first.0[other] = prepared;
                    // Each stored word must have replaced the cached one before
                    // the next store, because the SMMU may read any two words
                    // with any time between them.
                    self.store_word(stream, at, &current, &first, other)?;
                    self.store_word(stream, at, &current, &target, word)?;
                    return self.store_word(stream, at, &first, &target, other);
                }
                Change::ThroughAbort => self.abort_entry(stream, at)?,
            }
        }
        // The entry aborts, so the SMMU ignores its other words. But it may
        // read them before word 0, so they must be visible before word 0
        // changes.
        store_words(&self.hw.mem, at, &target, 1..8);
        self.hw.mem.publish(at, Ste::SIZE);
        self.run_or_fence(&[Command::cfgi_ste(stream, true), tlbi_for(&target)])?;
        store_words(&self.hw.mem, at, &target, 0..1);
        self.hw.mem.publish(at, Ste::SIZE);
        self.run_or_fence(&[Command::cfgi_ste(stream, true)])
    }

    /// Stores one word of `entry` in the entry at `at`, if it differs from
    /// `current`, and waits until the SMMU uses it.
    fn store_word(
        &mut self,
        stream: StreamId,
        at: PhysAddr,
        current: &Ste,
        entry: &Ste,
        word: usize,
    ) -> Result<(), Error> {
        if current.0[word] == entry.0[word] {
            return Ok(());
        }
        store_words(&self.hw.mem, at, entry, word..word + 1);
        self.hw.mem.publish(at, Ste::SIZE);
        self.run_or_fence(&[Command::cfgi_ste(stream, true)])
    }

    /// Replaces `current` by an entry under which no traffic passes.
    fn stop_entry(
        &mut self,
        stream: StreamId,
        at: PhysAddr,
        current: &Ste,
        target: Ste,
    ) -> Result<(), Error> {
        // Stalled transactions are terminated under an entry that aborts
        // (4.7.2), so an invalid entry comes after that.
        if target.v() || may_stall(current, &self.features) {
            self.abort_entry(stream, at)?;
        }
        if target.v() {
            return Ok(());
        }
        self.store_word(stream, at, current, &target, 0)
    }

    /// Makes all traffic of `stream` abort, without events. When it returns,
    /// no transaction of the stream uses its old translation any more;
    /// transactions that it stalled are terminated.
    ///
    /// # Errors
    /// [`Error::StreamOutOfRange`], [`Error::Fenced`]: nothing changed, and the
    /// stream aborts anyway. Any other: the SMMU is fenced.
    pub fn block(&mut self, stream: StreamId) -> Result<(), Error> {
        self.check_not_fenced()?;
        self.check_range(stream)?;
        match self.table.find(&self.hw.mem, stream) {
            EntryPlace::NoTable { .. } => Ok(()),
            EntryPlace::At(at) => match self.unshare(stream, at) {
                Ok(at) => self.abort_entry(stream, at),
                // The traffic must not continue because there is no memory for
                // an entry of its own.
                Err(error) => Err(self.fence_after(error)),
            },
        }
    }

    /// The VMID and root of the stage 2 that `stream` uses now; `None` when it
    /// aborts. For a stream with a stage 1 alone see
    /// [`attached_stage1`](Self::attached_stage1).
    #[must_use]
    pub fn attached(&self, stream: StreamId) -> Option<(Vmid, PhysAddr)> {
        let entry = self.entry_of(stream)?;
        passes(&entry).then(|| (Vmid(entry.s2vmid()), PhysAddr::new(entry.s2ttb())))
    }

    /// The entry of `stream`, if there is one.
    #[inline(always)]
    pub(crate) fn entry_of(&self, stream: StreamId) -> Option<Ste> {
        if !self.table.shape.contains(stream) {
            return None;
        }
        match self.table.find(&self.hw.mem, stream) {
            EntryPlace::NoTable { .. } => None,
            EntryPlace::At(at) => Some(load_entry(&self.hw.mem, at)),
        }
    }

    /// Whether `stream` has no entry that is valid: its traffic aborts, and is
    /// recorded as C_BAD_STREAMID or C_BAD_STE.
    #[must_use]
    pub fn is_invalid(&self, stream: StreamId) -> bool {
        if !self.table.shape.contains(stream) {
            return true;
        }
        match self.table.find(&self.hw.mem, stream) {
            EntryPlace::NoTable { .. } => true,
            EntryPlace::At(at) => !load_entry(&self.hw.mem, at).v(),
        }
    }

    pub(crate) fn abort_entry(&mut self, stream: StreamId, at: PhysAddr) -> Result<(), Error> {
        store_words(&self.hw.mem, at, &Ste::ABORT, 0..1);
        self.hw.mem.publish(at, 8);
        self.run_or_fence(&[Command::cfgi_ste(stream, true)])?;
        if self.features.stalls() {
            // From now on no transaction can stall any more (4.7.2).
            self.run_or_fence(&[Command::stall_term(stream)])?;
        }
        Ok(())
    }

    pub(crate) fn check_range(&self, stream: StreamId) -> Result<(), Error> {
        let bits = self.table.shape.bits;
        if self.table.shape.contains(stream) {
            Ok(())
        } else {
            Err(Error::StreamOutOfRange { stream, bits })
        }
    }

    /// The address of the entry of `stream`. Its second-level table is
    /// allocated if there is none.
    fn entry_address(&mut self, stream: StreamId) -> Result<PhysAddr, Error> {
        self.check_range(stream)?;
        let l1 = match self.table.find(&self.hw.mem, stream) {
            EntryPlace::At(at) => return self.unshare(stream, at),
            EntryPlace::NoTable { l1 } => l1,
        };
        // A missing table is only found where there are two levels.
        let split = self.table.shape.split.unwrap_or(6);
        let bytes = Ste::SIZE << split;
        let l2 = self
            .hw
            .mem
            .allocate(bytes)
            .ok_or(Error::NoMemory { bytes })?;
        // The table must be complete before a descriptor points to it
        // (3.21.3.1).
        fill_with_abort(&self.hw.mem, l2, bytes);
        self.link(l1, l2);
        // The invalid descriptor may be cached. Leaf is clear to drop it
        // (5.1.1).
        self.run_or_fence(&[Command::cfgi_ste(stream, false)])?;
        match self.table.find(&self.hw.mem, stream) {
            EntryPlace::At(at) => Ok(at),
            EntryPlace::NoTable { .. } => Err(Error::NoMemory { bytes }),
        }
    }
}

//! One translation for many neighbouring streams, in little memory.
//!
//! A device tree maps whole PCI segments, 65,536 StreamIDs, to an SMMU. Entries
//! of their own would take 4 MiB. Where a second-level table is covered as a
//! whole, all descriptors point to one table whose entries are all alike; it is
//! copied for a stream that is later given another translation.

use crate::smmu::Smmu;
use crate::table::{Place, store_words};
use crate::{Clock, Error, Registers, Stage2};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::{L1Std, Ste};

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
        self.usable()?;
        self.check_range(first)?;
        self.check_range(last)?;
        let target = stage2.entry(&self.features)?;
        let mut next = u64::from(first.0);
        let last = u64::from(last.0);
        let mut fresh = false;
        let result = loop {
            if next > last {
                break Ok(());
            }
            // Both ends are StreamIDs, so what lies between is one.
            let stream = StreamId(next as u32);
            let leaf = 1u64 << self.table.shape.split.unwrap_or(0);
            let whole = leaf > 1 && next.is_multiple_of(leaf) && last - next >= leaf - 1;
            match self.table.find(&self.hw.mem, stream) {
                Place::Absent { l1 } if whole => {
                    if !fresh {
                        // The first descriptor lets streams use the VMID.
                        self.run_or_fence(&[Command::tlbi_s12_vmall(stage2.vmid)])?;
                        fresh = true;
                    }
                    if let Err(error) = self.link_common(l1, leaf, &target) {
                        break Err(error);
                    }
                    next += leaf;
                }
                _ => {
                    if let Err(error) = self.attach(stream, stage2) {
                        break Err(error);
                    }
                    next += 1;
                }
            }
        };
        if fresh && !self.is_fenced() {
            // The descriptors were invalid, and may be cached as such.
            self.run_or_fence(&[Command::cfgi_all()])?;
        }
        result
    }

    /// Points the invalid descriptor at `l1` to a table in which all `leaf`
    /// entries are `target`.
    fn link_common(&mut self, l1: PhysAddr, leaf: u64, target: &Ste) -> Result<(), Error> {
        let at = match self.common {
            Some((at, entry)) if entry == *target => at,
            _ => {
                let bytes = Ste::SIZE * leaf;
                let at = self
                    .hw
                    .mem
                    .allocate(bytes)
                    .ok_or(Error::NoMemory { bytes })?;
                for offset in (0..bytes).step_by(Ste::SIZE as usize) {
                    store_words(&self.hw.mem, PhysAddr::new(at.raw() + offset), target, 0..8);
                }
                self.hw.mem.publish(at, bytes);
                self.common = Some((at, *target));
                at
            }
        };
        self.link(l1, at);
        Ok(())
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
        let l1 = self.table.descriptor(stream);
        let word = self.hw.mem.load(l1);
        let leaves = 1u64 << self.table.shape.bits.saturating_sub(split);
        let users = (0..leaves)
            .map(|leaf| PhysAddr::new(self.table.base.raw() + leaf * L1Std::SIZE))
            .filter(|descriptor| self.hw.mem.load(*descriptor) == word);
        if users.count() < 2 {
            if self.common.is_some_and(|(common, _)| common == shared) {
                // From now on its entries are not all alike.
                self.common = None;
            }
            return Ok(at);
        }
        let bytes = Ste::SIZE << split;
        let own = self
            .hw
            .mem
            .allocate(bytes)
            .ok_or(Error::NoMemory { bytes })?;
        for offset in (0..bytes).step_by(8) {
            let word = self.hw.mem.load(PhysAddr::new(shared.raw() + offset));
            self.hw.mem.store(PhysAddr::new(own.raw() + offset), word);
        }
        self.hw.mem.publish(own, bytes);
        self.link(l1, own);
        let at = PhysAddr::new(own.raw() + index * Ste::SIZE);
        self.run_or_fence(&[Command::cfgi_all()])
            .inspect_err(|_| self.abort_after_restart(at))?;
        Ok(at)
    }
}

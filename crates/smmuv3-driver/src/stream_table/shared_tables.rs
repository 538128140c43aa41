//! Second-level tables that many level 1 descriptors share, to save memory.
//!
//! A device tree maps whole PCI segments, 65,536 StreamIDs, to an SMMU. One
//! entry for each would take 4 MiB. If a range covers a whole second-level
//! table, its descriptor points to a shared table whose entries are all the
//! same. The table is copied when one of its streams gets another translation.

use crate::smmu::Smmu;
use crate::stream_table::store_words;
use crate::{Clock, Error, Registers};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::Command;
use smmuv3_spec::ste::{L1Std, Ste};

/// How many shared tables there may be: one for a stage 2, two in which its
/// streams abort with and without an event, and one for the next translation.
pub(crate) const MAX_SHARED_TABLES: usize = 4;

/// A second-level table to which several descriptors point.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedTable {
    pub(crate) at: PhysAddr,
    /// The value of all its entries.
    pub(crate) entry: Ste,
    /// How many descriptors point to it.
    users: u32,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// The index of the shared table whose entries are all `entry`. It is
    /// allocated if there is none; `None` if there are too many shared tables.
    pub(crate) fn shared_table_of(
        &mut self,
        entry: &Ste,
        bytes: u64,
    ) -> Result<Option<usize>, Error> {
        let have = |shared: &Option<SharedTable>| shared.is_some_and(|c| c.entry == *entry);
        if let Some(index) = self.shared_tables.iter().position(have) {
            return Ok(Some(index));
        }
        let Some(free) = self.shared_tables.iter().position(Option::is_none) else {
            return Ok(None);
        };
        let mem = &self.hw.mem;
        let at = mem.allocate(bytes).ok_or(Error::NoMemory { bytes })?;
        for offset in (0..bytes).step_by(Ste::SIZE as usize) {
            store_words(mem, PhysAddr::new(at.raw() + offset), entry, 0..8);
        }
        mem.publish(at, bytes);
        self.shared_tables[free] = Some(SharedTable {
            at,
            entry: *entry,
            users: 0,
        });
        Ok(Some(free))
    }

    /// Makes the descriptor of `stream` point to a shared table.
    pub(crate) fn link_shared_table(&mut self, stream: StreamId, shared: usize) {
        let l1 = self.table.descriptor(stream);
        let before = PhysAddr::new(L1Std([self.hw.mem.load(l1)]).l2ptr());
        if let Some(left) = self
            .shared_tables
            .iter_mut()
            .flatten()
            .find(|c| c.at == before)
        {
            left.users = left.users.saturating_sub(1);
        }
        if let Some(shared) = &mut self.shared_tables[shared] {
            shared.users += 1;
            let at = shared.at;
            self.link(l1, at);
        }
    }

    /// Frees shared tables that no descriptor points to any more. The SMMU must
    /// have dropped these descriptors.
    pub(crate) fn free_unused_tables(&mut self, bytes: u64) {
        for place in &mut self.shared_tables {
            if let Some(unused) = place.take_if(|shared| shared.users == 0) {
                self.hw.mem.free(unused.at, bytes);
            }
        }
    }

    /// Makes the descriptor at `l1` point to the whole second-level table at
    /// `l2`.
    pub(crate) fn link(&mut self, l1: PhysAddr, l2: PhysAddr) {
        let span = self.table.shape.split.unwrap_or(0) + 1;
        let descriptor = L1Std::default().with_span(span).with_l2ptr(l2.raw());
        self.hw.mem.store(l1, descriptor.0[0]);
        self.hw.mem.publish(l1, L1Std::SIZE);
    }

    /// The address where the entry of `stream`, found at `at`, can change
    /// without changing other streams: `at`, or an address in a copy of the
    /// table if several descriptors point to it.
    ///
    /// The old and the new table have the same content, so it does not matter
    /// which of them the SMMU uses until the invalidation.
    pub(crate) fn unshare(&mut self, stream: StreamId, at: PhysAddr) -> Result<PhysAddr, Error> {
        let Some(split) = self.table.shape.split else {
            return Ok(at);
        };
        let index = u64::from(stream.0) & ((1 << split) - 1);
        let shared = PhysAddr::new(at.raw() - index * Ste::SIZE);
        let is_it = |slot: &&mut Option<SharedTable>| slot.is_some_and(|c| c.at == shared);
        let Some(place) = self.shared_tables.iter_mut().find(is_it) else {
            return Ok(at);
        };
        // From now on its entries are not all the same.
        if place.take_if(|shared| shared.users < 2).is_some() {
            return Ok(at);
        }
        let bytes = Ste::SIZE << split;
        let own = self
            .hw
            .mem
            .allocate(bytes)
            .ok_or(Error::NoMemory { bytes })?;
        if let Some(shared) = place {
            shared.users -= 1;
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

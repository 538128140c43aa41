//! Which VMIDs translate in two stages.

use smmuv3_spec::Vmid;

/// How many are told apart. Most owners have one or none.
const MOST: usize = 8;

/// The VMIDs of which a stream translated in two stages since the SMMU was taken over.
///
/// A stage 2 invalidation of one of them has to drop entries that combine both stages
/// too (IHI 0070, 4.4.3.1); one of another VMID does not, so that an owner with one stage
/// does not pay for another owner's two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NestedVmids {
    /// The first `count`.
    list: [Vmid; MOST],
    /// More than [`MOST`]: there are others, and each VMID counts as one of them.
    count: usize,
}

impl NestedVmids {
    pub(crate) const fn new() -> Self {
        Self {
            list: [Vmid(0); MOST],
            count: 0,
        }
    }

    /// Whether `vmid` is one, or may be.
    #[inline(always)]
    pub(crate) fn contains(&self, vmid: Vmid) -> bool {
        self.count != 0 && self.find(vmid)
    }

    #[inline(never)]
    fn find(&self, vmid: Vmid) -> bool {
        match self.list.get(..self.count) {
            Some(known) => known.contains(&vmid),
            None => true,
        }
    }

    /// Notes one, for good.
    pub(crate) fn insert(&mut self, vmid: Vmid) {
        if self.find(vmid) {
            return;
        }
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = vmid;
        }
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_apart_until_there_are_too_many() {
        let mut nested = NestedVmids::new();
        assert!(!nested.contains(Vmid(0)));
        for vmid in 0..MOST as u16 {
            assert!(!nested.contains(Vmid(vmid)));
            nested.insert(Vmid(vmid));
            nested.insert(Vmid(vmid));
            assert!(nested.contains(Vmid(vmid)));
        }
        assert!(!nested.contains(Vmid(77)));
        nested.insert(Vmid(77));
        for vmid in [0, 77, 78] {
            assert!(nested.contains(Vmid(vmid)));
        }
    }
}

//! Which VMIDs are in use.

use smmuv3_spec::Vmid;

/// Most ranges of VMIDs that are in use or quarantined at a time.
const MOST: usize = 32;

/// Gives out VMIDs, so that each has one user on all CPUs and SMMUs.
///
/// ```text
/// Vmids::take ─→ VmidRange ─→ retire ─→ RetiredVmids ─(evidence)─→ Vmids::give_back
/// ```
///
/// A VMID that was used comes back only after every CPU and SMMU has dropped all that it
/// tags (DDI 0487, D8.16; IHI 0070, 4.4.3.2): a new user would reach the old one's memory
/// otherwise. A value that is dropped on the way stays taken for good.
#[derive(Debug)]
pub struct Vmids {
    /// Number of the first that there is not.
    end: u32,
    /// First and last + 1 of each range that is taken.
    taken: [Option<(u32, u32)>; MOST],
}

/// VMIDs with numbers side by side, of one user.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the VMIDs stay taken"]
pub struct VmidRange {
    first: u32,
    count: u32,
}

/// VMIDs that are used no more, and may still tag what is cached.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "the VMIDs stay quarantined"]
pub struct RetiredVmids(VmidRange);

/// Evidence that nothing is cached any more that some VMIDs tag: made where their
/// invalidation was completed, on every CPU and SMMU that may hold something of theirs.
pub trait VmidsInvalidated {
    /// Whether it is of this one.
    fn covers(&self, vmid: Vmid) -> bool;
}

impl Vmids {
    /// Those of `bits` bits: what every CPU and SMMU tells apart, 16 at most. VMID 0 is
    /// never given out: what is not tagged looks like it.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        let bits = if bits < 16 { bits } else { 16 };
        Self {
            end: 1 << bits,
            taken: [None; MOST],
        }
    }

    /// The number of VMIDs that can be taken.
    #[must_use]
    pub fn free(&self) -> u32 {
        let taken = self.taken.iter().flatten();
        let taken: u32 = taken.map(|(first, end)| end - first).sum();
        // All that are taken are among those from 1 on.
        (self.end - 1).saturating_sub(taken)
    }

    /// The lowest `count` side by side that are free. `None` when there are none, or too
    /// many ranges are in use.
    pub fn take(&mut self, count: u32) -> Option<VmidRange> {
        let place = self.taken.iter().position(Option::is_none)?;
        let mut first = 1;
        // Each range that is in the way moves the beginning up, so this ends.
        let overlap = |first: u32, taken: &[Option<(u32, u32)>]| {
            let mut taken = taken.iter().flatten();
            let end = first.saturating_add(count);
            taken.find_map(|(from, to)| (*from < end && first < *to).then_some(*to))
        };
        while let Some(next) = overlap(first, &self.taken) {
            first = next;
        }
        let end = first.checked_add(count).filter(|end| *end <= self.end)?;
        if count == 0 {
            return None;
        }
        *self.taken.get_mut(place)? = Some((first, end));
        Some(VmidRange { first, count })
    }

    /// Takes VMIDs back. Others may get them then.
    ///
    /// # Errors
    /// The VMIDs, still quarantined, when `evidence` is not of all of them, or they are
    /// of another set.
    pub fn give_back(
        &mut self,
        retired: RetiredVmids,
        evidence: &impl VmidsInvalidated,
    ) -> Result<(), RetiredVmids> {
        let RetiredVmids(VmidRange { first, count }) = retired;
        let mut all = (first..first + count).filter_map(|vmid| u16::try_from(vmid).ok());
        let is_covered = all.all(|vmid| evidence.covers(Vmid(vmid)));
        let own = Some((first, first + count));
        match self.taken.iter_mut().find(|taken| **taken == own) {
            Some(taken) if is_covered => {
                *taken = None;
                Ok(())
            }
            _ => Err(retired),
        }
    }
}

impl VmidRange {
    /// The lowest VMID of the range.
    #[must_use]
    pub fn first(&self) -> Vmid {
        // `Vmids` has none with more than 16 bits.
        Vmid(self.first as u16)
    }

    /// The number of VMIDs in the range.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count as usize
    }

    /// Ends their use: no table and no stream has them any more.
    pub fn retire(self) -> RetiredVmids {
        RetiredVmids(self)
    }
}

//! Which tables CPUs and SMMUs walk both.

/// The level whose tables are shared: with 4 KiB pages, an entry is 1 GiB.
pub(super) const SHARED_LEVEL: u8 = 1;

/// Which entries of [`SHARED_LEVEL`] are shared: one bit for each of the first
/// 4,096, which is 4 TiB. What lies above is never shared.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedEntries([u64; 64]);

impl SharedEntries {
    pub(super) const NONE: Self = Self([0; 64]);

    fn place(entry: u64) -> Option<(usize, u64)> {
        let word = usize::try_from(entry / 64).ok()?;
        (word < 64).then_some((word, 1 << (entry % 64)))
    }

    /// `false` when there is no room to note it.
    pub(super) fn note(&mut self, entry: u64) -> bool {
        let slot = Self::place(entry).and_then(|(word, bit)| Some((self.0.get_mut(word)?, bit)));
        match slot {
            Some((word, bit)) => {
                *word |= bit;
                true
            }
            None => false,
        }
    }

    pub(super) fn contains(&self, entry: u64) -> bool {
        Self::place(entry)
            .and_then(|(word, bit)| Some(self.0.get(word)? & bit != 0))
            .unwrap_or(false)
    }
}

//! Which addresses an invalidation covers (IHI 0070, 4.4.1.1).

use smmuv3_spec::command::{Command, TLBI_TG_4K, TLBI_TG_16K, TLBI_TG_ANY};

/// What a TLBI by VA or IPA is required to drop, and no more. An address covers
/// every entry that translates it.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    start: u64,
    last: u64,
    granule: Option<u32>,
    level: Option<u32>,
    leaf: bool,
}

impl Scope {
    /// The scope of a TLBI by VA or IPA; another command's means nothing. `ril`: the
    /// SMMU has ranges (`IDR3.RIL`).
    #[must_use]
    pub fn of(command: &Command, ril: bool) -> Self {
        let start = command.address();
        let mut scope = Self {
            start,
            last: start | 0xfff,
            granule: None,
            level: None,
            leaf: command.leaf(),
        };
        if ril && command.tg() != TLBI_TG_ANY {
            let granule = match command.tg() {
                TLBI_TG_4K => 12,
                TLBI_TG_16K => 14,
                _ => 16,
            };
            scope.granule = Some(granule);
            let hint = u32::from(command.ttl());
            // Level 1 of 16 KiB tables means nothing without 52 bits.
            if hint != 0 && !(hint == 1 && granule == 14) {
                scope.level = Some(hint);
            }
            // SCALE has 5 bits without IDR5.DS. The range does not wrap.
            let unit = u32::from(command.scale() & 31) + granule;
            let bytes = (u128::from(command.num()) + 1) << unit;
            let last = u128::from(start) + bytes - 1;
            scope.last = u64::try_from(last).unwrap_or(u64::MAX);
        }
        scope
    }

    /// The first and the last address that it is about.
    #[must_use]
    pub fn bounds(&self) -> (u64, u64) {
        (self.start, self.last)
    }

    fn overlaps(&self, granule: u32, input: u64, size: u64) -> bool {
        self.granule.is_none_or(|own| own == granule)
            && input <= self.last
            && self.start <= input.saturating_add(size.saturating_sub(1))
    }

    /// Whether it covers the translation of the `size` bytes from `input` on, by a
    /// descriptor of `level` in tables whose granule has this log2.
    #[must_use]
    pub fn hits_leaf(&self, granule: u32, level: u32, input: u64, size: u64) -> bool {
        self.level.is_none_or(|own| own == level) && self.overlaps(granule, input, size)
    }

    /// Whether it covers a cached table descriptor of `level` that is about the
    /// `size` bytes from `input` on: one from the start of the walk to
    /// the table that holds the leaf.
    #[must_use]
    pub fn hits_table(&self, granule: u32, level: u32, input: u64, size: u64) -> bool {
        !self.leaf
            && self.level.is_none_or(|own| level <= own)
            && self.overlaps(granule, input, size)
    }
}

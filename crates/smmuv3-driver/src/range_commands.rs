//! Turns a range of addresses into TLB invalidation commands (IHI 0070,
//! 4.4.1.1).

use crate::Granule;
use portcullis_addr::{Address, Ipa, Range};
use smmuv3_spec::Vmid;
use smmuv3_spec::command::Command;

/// Largest range unit, log2 of granules, without `IDR5.DS`.
const MAX_SCALE: u8 = 31;

/// The fewest range commands that cover a range exactly.
///
/// A command covers m × 2^s granules with m from 1 to 32. Each command takes
/// the lowest set bit of the remaining count and the four bits above it. No
/// covering has fewer commands, since a command can clear one window of five
/// bits at most.
#[derive(Clone, Debug)]
pub struct RangeCommands {
    /// The command without its address and range.
    template: Command,
    at: u64,
    /// Number of granules left.
    left: u64,
    granule: Granule,
    ttl: u8,
}

impl RangeCommands {
    /// Makes commands for stage 2 of `vmid` over `range`. `level` (1 to 3) is
    /// the level of the leaf entries, if all were at one level; it is used only
    /// as far as the range allows. `None` if the range is not made of whole
    /// granules.
    #[must_use]
    pub fn new(
        vmid: Vmid,
        range: Range<Ipa>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Option<Self> {
        Self::from_template(Command::tlbi_s2_ipa(vmid, 0, leaf), range, granule, level)
    }

    /// As [`new`](Self::new), for any invalidation by address.
    pub(crate) fn from_template<A: Address>(
        template: Command,
        range: Range<A>,
        granule: Granule,
        level: Option<u8>,
    ) -> Option<Self> {
        if !range.is_aligned(1 << granule.log2()) {
            return None;
        }
        Some(Self {
            template,
            at: range.start().raw(),
            left: range.size() >> granule.log2(),
            granule,
            ttl: usable_level(range, granule, level),
        })
    }
}

/// The level hint, or 0 where it is wrong or reserved: the start of every
/// command must be aligned to a leaf of the level, and level 1 of 16 KiB tables
/// means nothing without `IDR5.DS` (4.4.1.1).
pub(crate) fn usable_level<A: Address>(range: Range<A>, granule: Granule, level: Option<u8>) -> u8 {
    match level {
        Some(1) if granule == Granule::Size16K => 0,
        Some(level @ 1..=3) if range.is_aligned(1 << granule.leaf_log2(level)) => level,
        _ => 0,
    }
}

impl Iterator for RangeCommands {
    type Item = Command;

    fn next(&mut self) -> Option<Command> {
        if self.left == 0 {
            return None;
        }
        let scale = (self.left.trailing_zeros() as u8).min(MAX_SCALE);
        let units = self.left >> scale;
        // At the largest scale, a command takes 32 units at most.
        let count = if scale == MAX_SCALE && units > 31 {
            32
        } else {
            units & 31
        };
        let command = self.template.with_address(self.at);
        let command = if count == 1 && scale == 0 && self.ttl == 0 {
            // NUM, SCALE and TTL all 0 with a granule is reserved: one page
            // without a hint is the command without a range.
            command
        } else {
            command
                .with_tg(self.granule.tlbi_tg())
                .with_ttl(self.ttl)
                .with_num((count - 1) as u8)
                .with_scale(scale)
        };
        let granules = count << scale;
        self.left -= granules;
        // The end of the range fits in 64 bits, so this does not wrap.
        self.at = self.at.wrapping_add(granules << self.granule.log2());
        Some(command)
    }
}

//! Commands that make a change of tables certain (IHI 0070, 4.4).

use crate::generate::Target;
use crate::random::Random;

/// What the translations of a device are tagged with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tags {
    /// `S2VMID`.
    pub vmid: u64,
    /// `ASID`, with stage 1.
    pub asid: Option<u64>,
    /// log2 of the granule of the first stage there is.
    pub granule: u32,
}

/// Commands that cover a leaf that changed (4.4).
pub fn invalidate(random: &mut Random, target: &Target, tags: Tags) -> Vec<[u64; 2]> {
    let vmid = tags.vmid << 32;
    let asid = tags.asid.unwrap_or(0) << 48;
    // Commands need not honour TBI (4.4.2): the address without a tag.
    let page = |address: u64| (address << 8).cast_signed().wrapping_shr(8) as u64 & !0xfff;
    let everything = [0x30, 0];
    match random.below(10) {
        0..3 => return vec![everything],
        3 => return vec![[0x28 | vmid, 0]], // TLBI_S12_VMALL
        _ => {}
    }
    match (target.middle, tags.asid) {
        // By IPA, and then all of stage 1 that may have been combined with it.
        (Some(ipa), _) => vec![ranged(random, 0x2a | vmid, page(ipa), 12), [0x10 | vmid, 0]],
        (None, None) => vec![ranged(
            random,
            0x2a | vmid,
            page(target.input),
            tags.granule,
        )],
        (None, Some(_)) => match random.below(6) {
            0 => vec![[0x10 | vmid, 0]],        // TLBI_NH_ALL
            1 => vec![[0x11 | vmid | asid, 0]], // TLBI_NH_ASID
            2 => vec![ranged(
                random,
                0x13 | vmid,
                page(target.input),
                tags.granule,
            )], // NH_VAA
            _ => vec![ranged(
                random,
                0x12 | vmid | asid,
                page(target.input),
                tags.granule,
            )],
        },
    }
}

/// An invalidation by address, of one page or of a range around it.
fn ranged(random: &mut Random, command: u64, address: u64, granule: u32) -> [u64; 2] {
    let leaf = random.bits(1);
    if random.chance(60) {
        return [command, address | leaf];
    }
    let scale = random.below(5);
    // One page with a granule and without a hint is reserved (4.4.1.1).
    let num = 1 + random.below(31);
    let unit = 1u64 << (u64::from(granule) + scale);
    let tg = u64::from((granule - 10) / 2);
    [
        command | num << 12 | scale << 20,
        address & !(unit - 1) | tg << 10 | leaf,
    ]
}

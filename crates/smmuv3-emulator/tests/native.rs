//! The same stream table on two SMMUs: one with stage 1 alone and the
//! identification registers of the emulated one, and the emulated one itself. A
//! device reaches the same, and the owner is told the same.
#![allow(missing_docs)]

mod world;

use smmuv3_emulator::{Delivery, Ids};
use smmuv3_model::{Access, Mode, Profile, Refusal, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};
use world::*;

/// Every profile that nests, with 40 bits of output address, so that both SMMUs
/// check addresses alike.
fn profiles() -> impl Iterator<Item = Profile> {
    Profile::ALL
        .into_iter()
        .filter(|profile| profile.idr0.s1p() && profile.idr0.s2p())
        .map(|profile| Profile {
            idr5: profile.idr5.with_oas(2),
            ..profile
        })
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    /// A structure with some bits flipped, most of them in its first words.
    fn spoil(&mut self, words: [u64; 8]) -> [u64; 8] {
        let mut words = words;
        for _ in 0..[0, 0, 1, 1, 2, 3][self.roll(6) as usize] {
            let bit = match self.roll(4) {
                0 => self.roll(512),
                _ => self.roll(128),
            };
            words[bit as usize / 64] ^= 1 << (bit % 64);
        }
        words
    }
}

/// An SMMU that is the owner's own.
fn native(ids: &Ids) -> Smmu {
    let profile = Profile {
        name: "native",
        idr0: ids.idr0,
        idr1: ids.idr1,
        idr3: ids.idr3,
        idr5: ids.idr5,
        iidr: ids.iidr,
        aidr: ids.aidr,
        gbpa: 0x1000,
    };
    let banks = std::iter::once(IPA..IPA + SIZE);
    let mut smmu = Smmu::new(profile, banks, Mode::Plain, []);
    smmu.write32(reg::CR2, 0b10);
    smmu
}

/// Level 1 descriptors, where there are two levels.
const L1: u64 = IPA + 0x70_0000;

struct Both<'a> {
    native: Smmu,
    world: World<'a>,
}

impl Both<'_> {
    fn put_all(&mut self, ipa: u64, words: &[u64]) {
        self.world.put_all(ipa, words);
        for (word, at) in words.iter().zip((ipa..).step_by(8)) {
            assert!(self.native.ram_mut().settle(at, *word));
        }
    }

    /// A command and a CMD_SYNC. No memory may differ afterwards.
    fn say(&mut self, command: [u64; 2]) {
        self.world.commands(&[command, [0x46, 0]]);
        self.world.put_all(CMDQ, &[0; 128]);
    }

    /// One access on both; the owner's record of it.
    fn compare(&mut self, access: Transaction) {
        let wanted = self.native.translate(access);
        let found = self
            .world
            .board
            .hw
            .smmu
            .borrow_mut()
            .translate(Transaction {
                stream: physical(access.stream.0),
                ..access
            });
        let delivered = self.world.events();
        assert!(!delivered.contains(&Delivery::NotOwned));
        let told = self.world.told();
        // Tables may lead anywhere: no memory may differ.
        self.world.put_all(EVENTQ, &[0; 16]);
        let inside = |at: u64| (IPA..IPA + SIZE).contains(&at);
        match (wanted, found) {
            (Ok(at), Ok(found)) => assert_eq!(found, at - IPA + PHYS, "{access:x?}"),
            // Where there is nothing: the owner's SMMU is not asked.
            (Ok(at), Err(_)) => {
                assert!(!inside(at), "{at:#x} {found:?}");
                assert!(told.is_empty(), "{told:x?}");
                return;
            }
            (Err(_), Ok(at)) => panic!("{access:x?} reaches {at:#x}, not {wanted:?}"),
            (Err(_), Err(_)) => {}
        }
        let stalls = |result: &Result<u64, Refusal>| matches!(result, Err(Refusal::Stalled(_)));
        assert_eq!(stalls(&wanted), stalls(&found), "{wanted:?} {found:?}");
        let expected = wanted.err().and_then(|refusal| refusal.event());
        let expected: Vec<_> = expected.into_iter().map(|event| plain(event.0)).collect();
        let told: Vec<_> = told.into_iter().map(plain).collect();
        assert_eq!(told, expected, "{access:x?}");
    }
}

/// What both are to agree about: of the address of a failed fetch, the page,
/// and no tag.
fn plain(record: [u64; 4]) -> [u64; 4] {
    let mut record = record;
    match record[0] & 0xff {
        0x09 | 0x0b => record[3] &= !0xfff,
        0x10..=0x13 => {
            record[1] &= !0xffff;
            record[3] = 0;
        }
        _ => {}
    }
    record
}

/// The entry of some stream.
fn entry(dice: &mut Dice) -> [u64; 8] {
    let base = match dice.roll(6) {
        0 => BYPASS,
        1 => ABORT,
        _ => {
            let mut entry = STAGE1;
            // S1CDMax up to 3, S1DSS.
            entry[0] |= dice.roll(4) << 59;
            entry[1] |= dice.roll(4);
            entry
        }
    };
    dice.spoil(base)
}

/// The descriptor of streams 64 to 127: Span 7.
fn descriptor(dice: &mut Dice) -> u64 {
    let bit = match dice.roll(4) {
        0 => 1 << dice.roll(64),
        1 => 1 << dice.roll(5),
        _ => 0,
    };
    ((STRTAB + 64 * 64) | 7) ^ bit
}

/// A table, devices that use it, and changes to it.
fn run(profile: Profile, seed: u64, events: &mut [u32; 256]) {
    let (hw, side) = (hardware(profile), Side::default());
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = World::new(&hw, &side);
    let native = native(world.emulator.ids());
    let mut both = Both { native, world };
    for _ in 0..4 {
        let context = dice.spoil(CONTEXT);
        both.put_all(CD + dice.roll(4) * 64, &context);
    }
    let page = 1 << 10 | 1 << 6 | 3;
    both.put_all(ONE, &[(ONE + 0x1000) | 3]);
    both.put_all(ONE + 0x1000, &[(ONE + 0x2000) | 3]);
    both.put_all(ONE + 0x2000, &[0x40aa_0000 | page, 0x40bb_0000 | page]);
    if dice.roll(4) == 0 {
        let at = ONE + 0x1000 * dice.roll(3);
        let bit = 1 << dice.roll(64);
        let word = both.world.get(at) ^ bit;
        both.put_all(at, &[word]);
    }
    for stream in 64..80 {
        let entry = entry(&mut dice);
        both.put_all(STRTAB + stream * 64, &entry);
    }
    both.world.queues(true);
    // LOG2SIZE 7; SPLIT 6 (10:6), FMT 1 (17:16).
    let two = dice.roll(2) == 0;
    let (base, cfg) = if two {
        let descriptor = descriptor(&mut dice);
        both.put_all(L1, &[0, descriptor]);
        (L1, 7 | 6 << 6 | 1 << 16)
    } else {
        (STRTAB, 7)
    };
    both.world.table(base, cfg);
    both.native.write64(reg::STRTAB_BASE, base);
    both.native.write32(reg::STRTAB_BASE_CFG, cfg);
    both.native.write32(reg::CR0, 1);
    assert_eq!(both.native.read32(reg::CR0ACK), 1);
    accesses(&mut both, &mut dice, events);
    for _ in 0..3 {
        change(&mut both, &mut dice, two);
        accesses(&mut both, &mut dice, events);
    }
}

/// Changes an entry or the descriptor, and says so.
fn change(both: &mut Both<'_>, dice: &mut Dice, two: bool) {
    let stream = 64 + dice.roll(16);
    if two && dice.roll(3) == 0 {
        let descriptor = descriptor(dice);
        both.put_all(L1 + 8, &[descriptor]);
        // CMD_CFGI_STE_RANGE over 64 streams (range 5), or CMD_CFGI_ALL.
        let range = [5, 31][dice.roll(2) as usize];
        both.say([4 | 64 << 32, range]);
    } else {
        let entry = entry(dice);
        both.put_all(STRTAB + stream * 64, &entry);
        both.say([3 | stream << 32, dice.roll(2)]);
    }
}

fn accesses(both: &mut Both<'_>, dice: &mut Dice, events: &mut [u32; 256]) {
    for _ in 0..24 {
        let stream = StreamId(64 + dice.roll(17) as u32 * if dice.roll(20) == 0 { 5 } else { 1 });
        let address = [0x123, 0x1456, 0x2345, 0x4012_3000, 1 << 47, u64::MAX - 7];
        let address = address[dice.roll(6) as usize];
        let kind = [Access::Read, Access::Write, Access::Execute][dice.roll(3) as usize];
        let mut access = Transaction::new(stream, address, kind);
        if dice.roll(3) == 0 {
            access = access.with_substream(dice.roll(9) as u32);
        }
        if dice.roll(3) == 0 {
            access = access.privileged();
        }
        both.compare(access);
        if let Err(refusal) = both.native.translate(access) {
            let kind = refusal.kind().map_or(0, |kind| kind.0);
            events[usize::from(kind)] += 1;
        }
    }
}

#[test]
fn an_owner_cannot_tell() {
    let mut events = [0; 256];
    for profile in profiles() {
        for seed in 1..=150 {
            run(profile, seed, &mut events);
        }
    }
    // C_BAD_STREAMID, F_STE_FETCH, C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID,
    // F_CD_FETCH, C_BAD_CD, F_WALK_EABT, and every fault of stage 1.
    for kind in [2, 3, 4, 6, 8, 9, 0xa, 0xb, 0x10, 0x11, 0x12, 0x13] {
        assert!(events[kind] > 0, "{kind:#x}");
    }
}

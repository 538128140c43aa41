//! Which commands an invalidation becomes.

mod common;

use common::Fake;
use portcullis_addr::{Ipa, PhysAddr, Range};
use proptest::prelude::*;
use smmuv3_driver::{Config, Error, Granule, RangeCommands, Smmu, Stage1, Stage2};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const VMID: Vmid = Vmid(0x12);

fn driver(fake: &Fake) -> Driver<'_> {
    let driver = Smmu::new(fake, fake, fake, Config::default()).unwrap();
    fake.take_consumed();
    driver
}

fn range(start: u64, size: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(start), size).unwrap()
}

/// The bytes a command covers, as 4.4.1.1 defines them:
/// ((NUM+1) * 2^SCALE) * granule from the address on.
fn covered(command: &Command, granule: Granule) -> (u64, u64) {
    let start = command.address();
    let size = match command.tg() {
        0 => 1u64 << granule.log2(),
        tg => {
            let log2 = [0, 12, 14, 16][usize::from(tg)];
            assert_eq!(log2, granule.log2());
            ((u64::from(command.num()) + 1) << command.scale()) << log2
        }
    };
    (start, size)
}

/// Bits of `n` in windows of five from the lowest set bit up: the least number
/// of commands, counted another way.
fn windows(mut n: u64) -> usize {
    let mut count = 0;
    while n != 0 {
        n >>= n.trailing_zeros();
        n >>= 5;
        count += 1;
    }
    count
}

fn any_granule() -> impl Strategy<Value = Granule> {
    prop_oneof![
        Just(Granule::Size4K),
        Just(Granule::Size16K),
        Just(Granule::Size64K)
    ]
}

proptest! {
    #[test]
    fn ranges_are_covered_exactly_and_shortly(
        granule in any_granule(),
        first in 0u64..1 << 20,
        count in prop_oneof![1u64..2000, 1u64..1 << 36],
        level in proptest::option::of(0u8..5),
        leaf in any::<bool>(),
    ) {
        let bytes = range(first << granule.log2(), count << granule.log2());
        let commands: Vec<_> = RangeCommands::new(VMID, bytes, granule, level, leaf)
            .unwrap()
            .collect();
        let mut at = bytes.start().raw();
        for command in &commands {
            let (start, size) = covered(command, granule);
            prop_assert_eq!(start, at);
            at += size;
            prop_assert_eq!(command.opcode(), Opcode::TLBI_S2_IPA);
            prop_assert_eq!((command.vmid(), command.leaf()), (VMID, leaf));
            // 4.4.1.1: reserved, and RES0 without a granule.
            let plain = command.num() == 0 && command.scale() == 0 && command.ttl() == 0;
            prop_assert_eq!(command.tg() == 0, plain);
            prop_assert!(command.scale() <= 31);
            prop_assert_eq!(command.0[0] >> 48, 0);
            if command.ttl() != 0 {
                prop_assert_eq!(Some(command.ttl()), level);
                // The start is aligned to a leaf of that level.
                let leaf = granule.log2() + (granule.log2() - 3) * (3 - command.ttl());
                prop_assert_eq!(start % (1 << leaf), 0);
                prop_assert!(!(granule == Granule::Size16K && command.ttl() == 1));
            }
        }
        prop_assert_eq!(at, bytes.end().raw());
        prop_assert!(commands.len() <= windows(count));
    }
}

/// Worked out by hand: 33 pages are 1 and 32, 2^36 pages need 32 units of the
/// largest scale.
#[test]
fn raw_words_of_ranges() {
    let words = |pages: u64, level| -> Vec<[u64; 2]> {
        RangeCommands::new(
            VMID,
            range(0x4000_0000, pages << 12),
            Granule::Size4K,
            level,
            true,
        )
        .unwrap()
        .map(|c| c.0)
        .collect()
    };
    let low = 0x0000_0012_0000_002a;
    assert_eq!(words(1, None), [[low, 0x4000_0001]]);
    assert_eq!(words(1, Some(3)), [[low, 0x4000_0701]]);
    assert_eq!(words(2, None), [[low | 1 << 20, 0x4000_0401]]);
    assert_eq!(words(31, None), [[low | 30 << 12, 0x4000_0401]]);
    assert_eq!(
        words(33, None),
        [[low, 0x4000_0001], [low | 5 << 20, 0x4000_1401]]
    );
    // 2 MiB with the hint that it was one block.
    assert_eq!(words(512, Some(2)), [[low | 9 << 20, 0x4000_0601]]);
    assert_eq!(
        words(1 << 36, None),
        [[low | 31 << 12 | 31 << 20, 0x4000_0401]]
    );
}

/// 4.4.1.1: level 1 of 16 KiB tables is reserved without IDR5.DS.
#[test]
fn a_reserved_level_hint_is_dropped() {
    for (granule, level, log2, ttl) in [
        (Granule::Size16K, 1, 36, 0),
        (Granule::Size16K, 2, 25, 2),
        (Granule::Size64K, 1, 42, 1),
        (Granule::Size4K, 1, 30, 1),
        (Granule::Size4K, 0, 39, 0),
        (Granule::Size4K, 4, 39, 0),
    ] {
        let whole = range(1 << log2, 1 << log2);
        let commands: Vec<_> = RangeCommands::new(VMID, whole, granule, Some(level), true)
            .unwrap()
            .map(|c| c.ttl())
            .collect();
        assert_eq!(commands, [ttl], "{granule:?} level {level}");
    }
}

#[test]
fn misaligned_ranges_are_refused() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    for (start, size, granule) in [
        (0x800, 0x1000, Granule::Size4K),
        (0x1000, 0x800, Granule::Size4K),
        (0x1000, 0x4000, Granule::Size16K),
        (0x4000, 0x1_0000, Granule::Size64K),
    ] {
        let result = smmu.tlbi_ipa_range(VMID, range(start, size), granule, None, true);
        assert_eq!(result, Err(Error::BadRange));
    }
    assert_eq!(fake.take_consumed(), []);
}

#[test]
fn without_ranges_there_is_one_command_for_each_leaf() {
    let fake = Fake::with(|state| state.set(reg::IDR3, 0x1014_u32));
    let mut smmu = driver(&fake);
    let mut addresses = |size, level| -> Vec<_> {
        smmu.tlbi_ipa_range(VMID, range(0x4000_0000, size), Granule::Size4K, level, true)
            .unwrap();
        fake.take_consumed()
    };
    let commands = addresses(4 << 21, Some(2));
    let want: Vec<_> = (0..4)
        .map(|n| Command::tlbi_s2_ipa(VMID, 0x4000_0000 + (n << 21), true))
        .chain([Command::sync(0)])
        .collect();
    assert_eq!(commands, want);
    // A hint that does not fit the range is dropped.
    assert_eq!(addresses(3 << 12, Some(2)).len(), 4);
    // Too many: the whole VMID.
    assert_eq!(addresses(64 << 12, None).len(), 65);
    let all = [Command::tlbi_s12_vmall(VMID), Command::sync(0)];
    assert_eq!(addresses(65 << 12, None), all);
}

/// 4.4.3.1: entries that combine two stages do not match an IPA; and a walk must
/// not make another one from a stage 2 entry that is about to go.
#[test]
fn nesting_drops_stage_1_after_stage_2_is_gone() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    let stage1 = Stage1::from_untrusted(&Ste::default());
    let stage2 = Stage2 {
        vmid: VMID,
        root: PhysAddr::new(0x8010_0000),
        t0sz: 24,
        sl0: 1,
        granule: Granule::Size4K,
        ps: 2,
    };
    smmu.attach_nested(StreamId(3), &stage1, &stage2).unwrap();
    fake.take_consumed();
    smmu.tlbi_ipa_range(VMID, range(0, 4096), Granule::Size4K, None, true)
        .unwrap();
    let want = [
        Command::tlbi_s2_ipa(VMID, 0, true),
        Command::sync(0),
        Command::tlbi_nh_all(VMID),
        Command::sync(0),
    ];
    assert_eq!(fake.take_consumed(), want);
    // An owner with one stage on the same SMMU does not pay for that: neither when it
    // waits, nor when it shares a CMD_SYNC with others.
    let other = Vmid(VMID.0 + 1);
    let page = range(0, 4096);
    let want = [Command::tlbi_s2_ipa(other, 0, true), Command::sync(0)];
    smmu.tlbi_ipa_range(other, page, Granule::Size4K, None, true)
        .unwrap();
    assert_eq!(fake.take_consumed(), want);
    smmu.issue_ipa_range(other, page, Granule::Size4K, None, true)
        .unwrap();
    smmu.finish().unwrap();
    assert_eq!(fake.take_consumed(), want);
}

/// Not before there is a stage 1, whose address its cache could hold.
#[test]
fn qemu_drops_its_configuration_cache_too() {
    let fake = Fake::with(|state| state.set(reg::IIDR, 0_u32));
    let mut smmu = driver(&fake);
    smmu.tlbi_vmid(VMID).unwrap();
    let opcodes =
        |fake: &Fake| -> Vec<_> { fake.take_consumed().iter().map(|c| c.opcode()).collect() };
    assert_eq!(opcodes(&fake), [Opcode::TLBI_S12_VMALL, Opcode::SYNC]);
    let stage1 = Stage1::from_untrusted(&Ste::default().with_s1contextptr(0x4_0000));
    let stage2 = Stage2 {
        vmid: VMID,
        root: PhysAddr::new(0x4_8000),
        t0sz: 24,
        sl0: 1,
        granule: Granule::Size4K,
        ps: 2,
    };
    smmu.attach_nested(StreamId(3), &stage1, &stage2).unwrap();
    fake.take_consumed();
    smmu.tlbi_vmid(VMID).unwrap();
    smmu.tlbi_ipa_range(VMID, range(0, 8192), Granule::Size4K, None, true)
        .unwrap();
    let want = [
        Opcode::TLBI_S12_VMALL,
        Opcode::CFGI_STE_RANGE,
        Opcode::SYNC,
        Opcode::TLBI_S2_IPA,
        Opcode::SYNC,
        Opcode::TLBI_NH_ALL,
        Opcode::CFGI_STE_RANGE,
        Opcode::SYNC,
    ];
    assert_eq!(opcodes(&fake), want);
}

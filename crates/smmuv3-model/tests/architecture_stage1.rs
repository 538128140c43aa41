//! Context descriptors and stage 1 descriptors against numbers worked out by
//! hand from IHI 0070, 5.4, and DDI 0487, D8.
#![allow(missing_docs)]

use smmuv3_model::{
    Access, BadCd, CdTable, Context, Half, Limits, Profile, Rights, Stage1Leaf, Stage1Meaning,
    World,
};
use smmuv3_spec::cd::Cd;
use smmuv3_spec::ste::Ste;

/// Both halves of 48 bits in 4 KiB tables: T0SZ 16 (5:0), TG0 0, T1SZ 16
/// (21:16), TG1 0b10 (23:22), V 31, IPS 5 (34:32), AA64 41, R 45, A 46, ASID 7
/// (63:48); TTB0 in word 1, TTB1 in word 2; MAIR in word 3.
const GOOD: [u64; 8] = [
    16 | 16 << 16 | 0b10 << 22 | 1 << 31 | 5 << 32 | 1 << 41 | 0b11 << 45 | 7 << 48,
    0x8000_1000,
    0x9000_2000,
    0x44ff,
    0,
    0,
    0,
    0,
];

/// V, Config 0b101, S1ContextPtr, and what else is given of words 0 and 1.
fn table(word0: u64, word1: u64, profile: &Profile) -> Option<CdTable> {
    CdTable::of(&Ste([0b1011 | word0, word1, 0x9, 0, 0, 0, 0, 0]), profile)
}

fn plain() -> CdTable {
    table(0x8000_0040, 0, &Profile::full()).unwrap()
}

fn of(change: impl Fn(&mut [u64; 8])) -> Result<Context, BadCd> {
    checked(Profile::full(), plain(), false, change)
}

fn checked(
    profile: Profile,
    table: CdTable,
    e2h: bool,
    change: impl Fn(&mut [u64; 8]),
) -> Result<Context, BadCd> {
    let mut words = GOOD;
    change(&mut words);
    Context::of(&Cd(words), &table, e2h, &profile)
}

#[test]
fn a_context_of_two_halves() {
    let context = of(|_| {}).unwrap();
    assert_eq!(context.world, World::El1);
    assert_eq!(
        (context.abort, context.record, context.stall),
        (true, true, false)
    );
    assert_eq!(context.mair, 0x44ff);
    let lower = context.lower.unwrap();
    let upper = context.upper.unwrap();
    assert_eq!((lower.root, upper.root), (0x8000_1000, 0x9000_2000));
    assert_eq!((lower.start, lower.granule, lower.input_bits), (0, 12, 48));
    assert_eq!((lower.asid, lower.vmid, lower.output_bits), (7, 9, 48));
    // Bit 55 selects; all bits from 63 to 48 must be like it.
    assert_eq!(context.half(0x0000_ffff_ffff_ffff), Some(&lower));
    assert_eq!(context.half(0x0001_0000_0000_0000), None);
    assert_eq!(context.half(0x0080_0000_0000_0000), None);
    assert_eq!(context.half(0xffff_0000_0000_0000), Some(&upper));
    assert_eq!(context.half(0xfffe_ffff_ffff_ffff), None);
    assert_eq!(context.half(0xff7f_0000_0000_0000), None);
    assert_eq!(upper.offset(0xffff_0000_0000_1234), 0x1234);
}

#[test]
fn the_top_byte_may_be_ignored() {
    // TBI0 38.
    let context = of(|w| w[0] |= 1 << 38).unwrap();
    assert_eq!(context.half(0xab00_0000_0000_1000), context.lower.as_ref());
    assert_eq!(context.half(0xab01_0000_0000_1000), None);
    assert_eq!(context.half(0xabff_0000_0000_1000), None);
    // TBI1 39.
    let context = of(|w| w[0] |= 1 << 39).unwrap();
    assert_eq!(context.half(0xabff_0000_0000_1000), context.upper.as_ref());
    assert_eq!(context.half(0xab00_0000_0000_1000), None);
}

#[test]
fn a_disabled_half_is_not_checked() {
    // EPD0 14, EPD1 30.
    let context = of(|w| w[0] = w[0] & !0x3f | 1 << 14).unwrap();
    assert_eq!((context.lower, context.half(0)), (None, None));
    let context = of(|w| {
        w[0] = w[0] & !(3 << 22) | 1 << 30;
        w[2] = 1 << 51;
    });
    assert_eq!(context.unwrap().upper, None);
}

#[test]
fn context_descriptors_that_are_not_legal() {
    assert_eq!(of(|w| w[0] &= !(1 << 31)), Err(BadCd::NotValid));
    assert_eq!(of(|w| w[0] |= 1 << 15), Err(BadCd::Endianness));
    assert_eq!(of(|w| w[0] &= !(1 << 41)), Err(BadCd::Format));
    assert_eq!(of(|w| w[0] = w[0] & !0x3f | 15), Err(BadCd::Size));
    assert_eq!(of(|w| w[0] = w[0] & !0x3f | 49), Err(BadCd::Size));
    assert_eq!(
        of(|w| w[0] = w[0] & !0x3f_0000 | 49 << 16),
        Err(BadCd::Size)
    );
    assert_eq!(of(|w| w[0] |= 0b11 << 6), Err(BadCd::Granule));
    assert_eq!(of(|w| w[0] &= !(3 << 22)), Err(BadCd::Granule));
    assert_eq!(of(|w| w[1] = 1 << 48), Err(BadCd::Base));
    assert_eq!(of(|w| w[2] = 1 << 48), Err(BadCd::Base));
    // IPS 0: 32 bits.
    let small = |w: &mut [u64; 8]| w[0] &= !(7 << 32);
    assert!(of(small).is_ok());
    assert_eq!(
        of(|w| {
            small(w);
            w[1] = 1 << 32
        }),
        Err(BadCd::Base)
    );
    // STT 0: T0SZ of 39 at most.
    let mmu600 = Profile::mmu600();
    let size = |size: u64| checked(mmu600, plain(), false, |w| w[0] = w[0] & !0x3f | size);
    assert!(size(39).is_ok());
    assert_eq!(size(40), Err(BadCd::Size));
    // TERM_MODEL: A 46.
    let abort = checked(mmu600, plain(), false, |w| w[0] &= !(1 << 46));
    assert_eq!(abort, Err(BadCd::Terminate));
}

#[test]
fn what_a_context_may_use_depends_on_the_smmu() {
    let with = |f: fn(&mut Profile), change: fn(&mut [u64; 8])| {
        let mut profile = Profile::full();
        f(&mut profile);
        checked(profile, plain(), false, change)
    };
    // ASID16; HTTU with HA 43 and HD 42; STALL_MODEL with S 44.
    let asid8 = |p: &mut Profile| p.idr0.set_asid16(false);
    assert!(with(asid8, |_| {}).is_ok());
    assert_eq!(with(asid8, |w| w[0] |= 1 << 56), Err(BadCd::Asid));
    let none = |p: &mut Profile| p.idr0.set_httu(0);
    assert_eq!(with(none, |w| w[0] |= 1 << 43), Err(BadCd::Update));
    assert_eq!(with(none, |w| w[0] |= 1 << 42), Err(BadCd::Update));
    let access = |p: &mut Profile| p.idr0.set_httu(1);
    assert!(with(access, |w| w[0] |= 1 << 43).is_ok());
    assert_eq!(with(access, |w| w[0] |= 3 << 42), Err(BadCd::Update));
    assert!(with(|_| {}, |w| w[0] |= 1 << 44).unwrap().stall);
    let terminate = |p: &mut Profile| p.idr0.set_stall_model(1);
    assert_eq!(with(terminate, |w| w[0] |= 1 << 44), Err(BadCd::Stall));
    assert_eq!(
        with(|p| p.idr0.set_stall_model(2), |_| {}),
        Err(BadCd::Stall)
    );
    // S1STALLD 91.
    let stalld = table(0, 1 << 27, &Profile::full()).unwrap();
    let stalls = checked(Profile::full(), stalld, false, |w| w[0] |= 1 << 44);
    assert_eq!(stalls, Err(BadCd::Stall));
    assert_eq!(
        with(|p| p.idr0.set_ttf(0b11), |w| w[0] &= !(1 << 41)),
        Err(BadCd::NotModelled)
    );
    assert_eq!(with(|p| p.idr0.set_ttf(0b01), |_| {}), Err(BadCd::Format));
    assert_eq!(
        with(|p| p.idr5.set_gran4k(false), |_| {}),
        Err(BadCd::Granule)
    );
}

#[test]
fn el2_has_one_range_and_no_tags() {
    // STRW 0b10 (95:94).
    let el2 = table(0, 0b10 << 30, &Profile::full()).unwrap();
    assert!(el2.el2);
    // EPD0 and everything of TTB1 are ignored.
    let change = |w: &mut [u64; 8]| {
        w[0] = w[0] & !(3 << 22) | 1 << 14;
        w[2] = u64::MAX;
    };
    let context = checked(Profile::full(), el2, false, change).unwrap();
    assert_eq!(context.world, World::El2);
    assert_eq!(context.upper, None);
    let half = context.lower.unwrap();
    assert_eq!((half.asid, half.vmid), (0, 0));
    assert_eq!(context.half(1 << 55), None);
    // With E2H there are two again, tagged by ASID alone.
    let context = checked(Profile::full(), el2, true, |_| {}).unwrap();
    assert_eq!(context.world, World::El2E2h);
    assert_eq!(
        (context.upper.unwrap().asid, context.upper.unwrap().vmid),
        (7, 0)
    );
}

fn half(t0sz: u64, tg: u64) -> Half {
    of(|w| w[0] = w[0] & !0xff | t0sz | tg << 6)
        .unwrap()
        .lower
        .unwrap()
}

#[test]
fn walks_start_where_the_bits_are_resolved() {
    let shape = |h: Half| (h.start, h.entries(h.start), h.shift(h.start));
    assert_eq!(shape(half(16, 0)), (0, 512, 39));
    assert_eq!(shape(half(24, 0)), (0, 2, 39));
    assert_eq!(shape(half(25, 0)), (1, 512, 30));
    assert_eq!(shape(half(34, 0)), (2, 512, 21));
    assert_eq!(shape(half(43, 0)), (3, 512, 12));
    assert_eq!(shape(half(48, 0)), (3, 16, 12));
    assert_eq!(shape(half(16, 2)), (0, 2, 47));
    assert_eq!(shape(half(17, 2)), (1, 2048, 36));
    assert_eq!(shape(half(16, 1)), (1, 64, 42));
    assert_eq!(shape(half(22, 1)), (2, 8192, 29));
    assert_eq!(shape(half(47, 1)), (3, 2, 16));
    // The root is aligned to what it holds: 16 entries, 128 bytes.
    let small = of(|w| {
        w[0] = w[0] & !0xff | 48;
        w[1] = 0x8000_10f0;
    });
    assert_eq!(small.unwrap().lower.unwrap().root, 0x8000_1080);
}

#[test]
fn what_descriptors_say() {
    let h = half(16, 0);
    assert_eq!(h.meaning(0x4c2, 3), Stage1Meaning::Invalid);
    assert_eq!(h.meaning(0x4c1, 3), Stage1Meaning::Invalid);
    assert_eq!(h.meaning(0x4c1, 0), Stage1Meaning::Invalid);
    let Stage1Meaning::Leaf(page) = h.meaning(0x0060_0000_8000_3cc7, 3) else {
        panic!()
    };
    let want = Stage1Leaf {
        output: 0x8000_3000,
        size: 0x1000,
        accessed: true,
        read_only: true,
        unprivileged: true,
        uxn: true,
        pxn: true,
        dbm: false,
        global: false,
        attr: 1,
        group: 1,
    };
    assert_eq!(page, want);
    // DBM 51, contiguous 52; a block of 2 MiB ignores the bits below.
    let Stage1Meaning::Leaf(block) = h.meaning(0x0018_0000_803f_f001, 2) else {
        panic!()
    };
    assert_eq!(
        (block.output, block.size, block.group),
        (0x8020_0000, 0x20_0000, 16)
    );
    assert!(block.dbm && block.global && !block.accessed && !block.read_only);
    // APTable 62:61, UXNTable 60, PXNTable 59.
    let limits = |word: u64| match h.meaning(word | 0x8000_0003, 1) {
        Stage1Meaning::Table {
            address: 0x8000_0000,
            limits,
        } => limits,
        other => panic!("{other:?}"),
    };
    assert_eq!(limits(0), Limits::default());
    assert!(limits(1 << 62).read_only && !limits(1 << 62).no_unprivileged);
    assert!(limits(1 << 61).no_unprivileged && !limits(1 << 61).read_only);
    assert!(limits(1 << 60).uxn && limits(1 << 59).pxn);
    // 32-bit output: bit 32 is too large, in tables too.
    let mut narrow = h;
    narrow.output_bits = 32;
    assert_eq!(narrow.meaning(0x1_0000_0403, 3), Stage1Meaning::AddressSize);
    assert_eq!(narrow.meaning(0x1_0000_0003, 1), Stage1Meaning::AddressSize);
    // HAD0 65.
    let had = of(|w| w[1] |= 2).unwrap().lower.unwrap();
    let Stage1Meaning::Table { limits, .. } = had.meaning(0x7800_0000_8000_0003, 1) else {
        panic!()
    };
    assert_eq!(limits, Limits::default());
}

#[test]
fn groups_of_the_other_granules() {
    let group = |h: Half, level| match h
        .meaning(0x0010_0000_0000_0401 | u64::from(level == 3) << 1, level)
    {
        Stage1Meaning::Leaf(leaf) => (leaf.size, leaf.group),
        other => panic!("{other:?}"),
    };
    assert_eq!(group(half(16, 2), 3), (0x4000, 128));
    assert_eq!(group(half(16, 2), 2), (0x200_0000, 32));
    assert_eq!(group(half(16, 1), 3), (0x1_0000, 32));
    assert_eq!(group(half(16, 1), 2), (0x2000_0000, 32));
    assert_eq!(half(16, 2).meaning(0x401, 1), Stage1Meaning::Invalid);
    // Blocks of 4 TiB exist with 52-bit addresses alone.
    assert_eq!(half(16, 1).meaning(0x401, 1), Stage1Meaning::Invalid);
}

/// Privileged read, write, execute, then unprivileged, as a string.
fn show(r: Rights) -> String {
    let bits = [
        r.read_privileged,
        r.write_privileged,
        r.execute_privileged,
        r.read,
        r.write,
        r.execute,
    ];
    bits.iter()
        .zip("rwxrwx".chars())
        .map(|(b, c)| if *b { c } else { '-' })
        .collect()
}

fn rights(h: Half, descriptor: u64, limits: Limits) -> String {
    match h.meaning(descriptor | 0x403, 3) {
        Stage1Meaning::Leaf(leaf) => show(h.rights(&leaf, limits)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn permissions_by_the_table_of_the_architecture() {
    let h = half(16, 0);
    let plain = |word: u64| rights(h, word, Limits::default());
    // AP[2:1] 7:6.
    assert_eq!(plain(0), "rwx--x");
    assert_eq!(plain(1 << 6), "rw-rwx");
    assert_eq!(plain(2 << 6), "r-x--x");
    assert_eq!(plain(3 << 6), "r-xr-x");
    // UXN 54, PXN 53.
    assert_eq!(plain(3 << 6 | 1 << 54), "r-xr--");
    assert_eq!(plain(3 << 6 | 1 << 53), "r--r-x");
    let limited = |limits: Limits, word: u64| rights(h, word, limits);
    let read_only = Limits {
        read_only: true,
        ..Limits::default()
    };
    assert_eq!(limited(read_only, 1 << 6), "r-xr-x");
    let privileged = Limits {
        no_unprivileged: true,
        ..Limits::default()
    };
    assert_eq!(limited(privileged, 1 << 6), "rwx--x");
    let none = Limits {
        uxn: true,
        pxn: true,
        ..Limits::default()
    };
    assert_eq!(limited(none, 3 << 6), "r--r--");
    // WXN 36, PAN 40.
    let wxn = of(|w| w[0] |= 1 << 36).unwrap().lower.unwrap();
    assert_eq!(rights(wxn, 0, Limits::default()), "rw---x");
    assert_eq!(rights(wxn, 1 << 6, Limits::default()), "rw-rw-");
    assert_eq!(rights(wxn, 3 << 6, Limits::default()), "r-xr-x");
    let pan = of(|w| w[0] |= 1 << 40).unwrap().lower.unwrap();
    assert_eq!(rights(pan, 1 << 6, Limits::default()), "---rwx");
    assert_eq!(rights(pan, 0, Limits::default()), "rwx--x");
    // HA 43, HD 42: writable-clean (DBM 51) counts as writable, but not under
    // APTable.
    let hd = of(|w| w[0] |= 3 << 42).unwrap().lower.unwrap();
    assert_eq!(rights(hd, 3 << 6 | 1 << 51, Limits::default()), "rw-rwx");
    assert_eq!(rights(hd, 3 << 6 | 1 << 51, read_only), "r-xr-x");
    assert_eq!(rights(h, 3 << 6 | 1 << 51, Limits::default()), "r-xr-x");
    // EL2: AP[1] counts as 1, bit 54 is XN.
    let el2 = table(0, 0b10 << 30, &Profile::full()).unwrap();
    let el2 = checked(Profile::full(), el2, false, |_| {})
        .unwrap()
        .lower
        .unwrap();
    assert_eq!(rights(el2, 0, none), "rw----");
    assert_eq!(rights(el2, 1 << 6 | 1 << 53, Limits::default()), "rwx---");
    assert_eq!(rights(el2, 1 << 54, Limits::default()), "rw----");
}

#[test]
fn rights_are_asked_by_kind_of_access() {
    let only_unprivileged_execute = Rights {
        execute: true,
        ..Rights::default()
    };
    assert!(only_unprivileged_execute.allow(Access::Execute, false));
    for (access, privileged) in [
        (Access::Execute, true),
        (Access::Read, false),
        (Access::Write, false),
        (Access::Read, true),
        (Access::Write, true),
    ] {
        assert!(!only_unprivileged_execute.allow(access, privileged));
    }
}

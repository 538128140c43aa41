//! Every change of one stream: what the SMMU may see after every store, and
//! which changes lose no access.
#![allow(missing_docs)]

mod common;

use common::Fake;
use common::watch::meaning;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{
    Attributes, Config, Error, Features, Granule, OwnStage1, Smmu, Stage1, Stage2, Translation,
};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{Asid, StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const STREAM: StreamId = StreamId(0x18);

const HOST: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0x8010_0000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

/// Its descriptor is at the end of memory, where no table is.
const OWN: OwnStage1 = OwnStage1 {
    asid: Asid(3),
    root: PhysAddr::new(0x8030_0000),
    t0sz: 24,
    granule: Granule::Size4K,
    ips: 2,
    mair: 0x44_ff_04,
    context: PhysAddr::new(0x8000_ff80),
};

/// Both stages, CD2L, ATS with split stages, overrides, SSIDSIZE 16; few
/// streams, since there are many of these.
fn able(stall_model: u8) -> Fake {
    Fake::sized(1 << 16, |state| {
        let idr0 = state
            .idr0()
            .with_cd2l(true)
            .with_ats(true)
            .with_stall_model(stall_model);
        state.set(reg::IDR0, u32::from(idr0));
        state.set(reg::IDR1, 0x0e73_0408_u32);
    })
}

fn driver(fake: &Fake) -> Driver<'_> {
    let config = Config {
        command_log2: 4,
        event_log2: 4,
        ..Config::default()
    };
    Smmu::new(fake, fake, fake, config).unwrap()
}

/// Overrides: memory type 0b1111 and Outer Shareable, privileged data.
fn overrides(features: &Features) -> Attributes {
    let entry = Ste::default()
        .with_mtcfg(true)
        .with_memattr(0b1111)
        .with_shcfg(0b10)
        .with_privcfg(0b11)
        .with_instcfg(0b10);
    Attributes::from_untrusted(&entry, features)
}

fn stage1(pointer: u64, substreams: u8, default: u8) -> Stage1 {
    let entry = Ste::default()
        .with_s1contextptr(pointer)
        .with_s1cdmax(substreams)
        .with_s1fmt(1)
        .with_s1dss(default)
        .with_s1cir(1)
        .with_s1cor(1)
        .with_s1csh(3);
    Stage1::from_untrusted(&entry)
}

/// What there is to change between, by name.
fn all(features: &Features) -> Vec<(&'static str, Translation)> {
    let other = Stage2 {
        vmid: Vmid(2),
        ..HOST
    };
    let moved = Stage2 {
        root: PhysAddr::new(0x8020_0000),
        ..HOST
    };
    let attributes = Attributes::INCOMING;
    let over = overrides(features);
    let stage2 = |stage2, attributes| Translation::Stage2 { stage2, attributes };
    let nested = |stage1, stage2, attributes| Translation::Nested {
        stage1,
        stage2,
        attributes,
    };
    let one = stage1(0x4000, 0, 0);
    let own = |stage1, attributes| Translation::Stage1 { stage1, attributes };
    let own_other = OwnStage1 {
        asid: Asid(4),
        context: PhysAddr::new(0x8000_ffc0),
        ..OWN
    };
    let mut all = vec![
        ("abort", Translation::Abort),
        ("invalid", Translation::Invalid),
        ("stage 2", stage2(HOST, attributes)),
        ("overridden", stage2(HOST, over)),
        ("other vmid", stage2(other, attributes)),
        ("other root", stage2(moved, attributes)),
        ("nested", nested(one, HOST, attributes)),
        ("moved cd", nested(stage1(0x8000, 0, 0), HOST, attributes)),
        ("substreams", nested(stage1(0x4000, 5, 2), HOST, attributes)),
        ("bypass", nested(stage1(0x4000, 5, 1), HOST, attributes)),
        ("nested overridden", nested(one, HOST, over)),
        ("nested other vmid", nested(one, other, attributes)),
        ("own", own(OWN, attributes)),
        ("own other", own(own_other, attributes)),
        ("own overridden", own(OWN, over)),
        ("stalls", nested(one.with_stalls(), HOST, attributes)),
        (
            "moved stalls",
            nested(stage1(0x8000, 0, 0).with_stalls(), HOST, attributes),
        ),
    ];
    if features.split_ats() {
        all.push(("ats", nested(one.with_split_ats(), HOST, attributes)));
        let moved = stage1(0x8000, 0, 0).with_split_ats();
        all.push(("moved ats", nested(moved, HOST, attributes)));
    }
    all
}

fn entry_of(stall_model: u8, translation: &Translation) -> Ste {
    let fake = able(stall_model);
    let mut smmu = driver(&fake);
    smmu.set(STREAM, translation).unwrap();
    fake.entry(STREAM)
}

/// How many mixtures under which nothing passes the SMMU may have seen, and
/// what it was asked to do.
fn change(stall_model: u8, from: &Translation, to: &Translation) -> (u32, Vec<Opcode>) {
    let entries = [entry_of(stall_model, from), entry_of(stall_model, to)];
    change_between(stall_model, [from, to], entries)
}

fn change_between(
    stall_model: u8,
    [from, to]: [&Translation; 2],
    entries: [Ste; 2],
) -> (u32, Vec<Opcode>) {
    let fake = able(stall_model);
    let mut smmu = driver(&fake);
    smmu.set(STREAM, from).unwrap();
    assert_eq!(meaning(&fake.entry(STREAM)), meaning(&entries[0]));
    fake.take_consumed();
    fake.watch(STREAM, &entries);
    smmu.set(STREAM, to).unwrap();
    let entry = fake.entry(STREAM);
    assert_eq!(meaning(&entry), meaning(&entries[1]));
    assert_eq!(entry.v(), entries[1].v(), "with an event or not");
    let opcodes = fake.take_consumed().iter().map(|c| c.opcode()).collect();
    let aborts = fake.state.borrow().watch.as_ref().unwrap().aborts;
    (aborts, opcodes)
}

#[test]
fn every_store_leaves_old_new_or_abort() {
    for stall_model in 0..3 {
        let features = Features::probe(&able(stall_model)).unwrap();
        let all = all(&features);
        let entry = |(_, translation): &(_, Translation)| entry_of(stall_model, translation);
        let entries: Vec<Ste> = all.iter().map(entry).collect();
        let mut hitless = 0;
        for ((from, old), before) in all.iter().zip(&entries) {
            for ((to, new), after) in all.iter().zip(&entries) {
                let (aborts, opcodes) = change_between(stall_model, [old, new], [*before, *after]);
                let waits = opcodes.iter().filter(|o| **o == Opcode::STALL_TERM);
                let name = format!("{from} to {to}, stall model {stall_model}");
                let passes = |name: &str| !matches!(name, "abort" | "invalid");
                if passes(from) && passes(to) && aborts == 0 {
                    hitless += 1;
                    // 4.7.2: not while the stream goes on.
                    assert_eq!(waits.count(), 0, "{name}");
                } else if passes(from) && stall_model != 1 && (to == &"abort" || passes(to)) {
                    assert_eq!(waits.count(), 1, "{name}");
                }
                assert_eq!(before == after, opcodes.is_empty(), "{name}");
            }
        }
        assert!(hitless > 40, "{hitless}");
    }
}

/// The changes of a device that is in use: none of its accesses is lost.
#[test]
fn what_one_store_can_change_loses_no_access() {
    let features = Features::probe(&able(0)).unwrap();
    let all = all(&features);
    let find = |name: &str| all.iter().find(|(n, _)| *n == name).unwrap().1;
    for (from, to) in [
        ("stage 2", "nested"),
        ("nested", "stage 2"),
        ("stage 2", "substreams"),
        ("bypass", "stage 2"),
        ("stage 2", "overridden"),
        ("overridden", "stage 2"),
        ("own", "own overridden"),
        ("nested", "moved cd"),
        ("nested", "substreams"),
        ("substreams", "nested"),
        ("nested", "nested overridden"),
        ("substreams", "bypass"),
        ("stage 2", "stalls"),
        ("nested", "stalls"),
        ("stalls", "moved stalls"),
        ("nested", "ats"),
        ("ats", "nested"),
        ("ats", "moved ats"),
        ("stage 2", "other vmid"),
    ] {
        assert_eq!(change(0, &find(from), &find(to)).0, 0, "{from} to {to}");
    }
    for (from, to) in [
        // Whoever was to answer what waits would be gone.
        ("stalls", "nested"),
        ("stalls", "stage 2"),
        // Words of both descriptors may be cached as one.
        ("own", "own other"),
        ("own", "nested"),
        ("stage 2", "own"),
        // The VMID stays and its translations would mix.
        ("stage 2", "other root"),
        // Two words.
        ("moved cd", "nested overridden"),
        ("stage 2", "ats"),
        ("ats", "stage 2"),
        ("nested", "nested other vmid"),
    ] {
        let aborts = change(0, &find(from), &find(to)).0;
        assert_eq!(from == "nested", aborts == 0, "{from} to {to}");
    }
}

/// An entry that is not valid comes after what waits has ended (4.7.2).
#[test]
fn what_waits_ends_before_an_entry_is_invalid() {
    let features = Features::probe(&able(0)).unwrap();
    let all = all(&features);
    let find = |name: &str| all.iter().find(|(n, _)| *n == name).unwrap().1;
    let (_, opcodes) = change(0, &find("stalls"), &Translation::Invalid);
    assert_eq!(
        opcodes,
        [
            Opcode::CFGI_STE,
            Opcode::SYNC,
            Opcode::STALL_TERM,
            Opcode::SYNC,
            Opcode::CFGI_STE,
            Opcode::SYNC
        ]
    );
    let (_, opcodes) = change(0, &find("nested"), &Translation::Invalid);
    assert_eq!(opcodes, [Opcode::CFGI_STE, Opcode::SYNC]);
}

/// Wherever a change fails, the SMMU is fenced, and the stream aborts after a
/// restart.
#[test]
fn a_change_that_fails_leaves_an_abort() {
    let features = Features::probe(&able(0)).unwrap();
    let all = all(&features);
    let some = ["abort", "stage 2", "nested", "own", "stalls", "moved cd"];
    for (from, old) in all.iter().filter(|(name, _)| some.contains(name)) {
        for (to, new) in all.iter().filter(|(name, _)| name != from) {
            for good in 0.. {
                let fake = able(0);
                let mut smmu = driver(&fake);
                smmu.set(STREAM, old).unwrap();
                let mut refuse = vec![(Opcode::CFGI_STE, 0); good];
                refuse.push((Opcode::CFGI_STE, 1));
                fake.faults(|f| f.refuse = refuse);
                let result = smmu.set(STREAM, new);
                if result.is_ok() {
                    assert!(good > 0, "{from} to {to} invalidated nothing");
                    break;
                }
                assert!(matches!(result, Err(Error::Command { .. })), "{result:?}");
                assert!(smmu.is_fenced() && fake.is_fenced());
                fake.faults(|f| f.refuse.clear());
                smmu.restart().unwrap();
                assert_eq!(smmu.attached(STREAM), None, "{from} to {to}");
                assert_eq!(meaning(&fake.entry(STREAM)), None);
            }
        }
    }
}

/// Everything that was set is there again, streams of common tables too.
#[test]
fn a_restart_keeps_what_was_set() {
    let features = Features::probe(&able(0)).unwrap();
    for (name, translation) in all(&features) {
        let fake = able(0);
        let mut smmu = driver(&fake);
        smmu.set(STREAM, &translation).unwrap();
        let entry = fake.entry(STREAM);
        smmu.restart().unwrap();
        assert_eq!(fake.entry(STREAM), entry, "{name}");
    }
}

#[test]
fn without_memory_a_stream_does_not_go_on() {
    let fake = able(0);
    let mut smmu = driver(&fake);
    smmu.attach_range(StreamId(0), StreamId(127), &HOST)
        .unwrap();
    fake.faults(|f| f.no_memory = true);
    // Nothing changes, and it has what it had.
    let other = Stage2 {
        vmid: Vmid(2),
        ..HOST
    };
    let result = smmu.set(STREAM, &other.into());
    assert!(matches!(result, Err(Error::NoMemory { .. })));
    assert_eq!(smmu.attached(STREAM), Some((HOST.vmid, HOST.root)));
    assert!(!smmu.is_fenced());
    let result = smmu.set(STREAM, &Translation::Invalid);
    assert!(matches!(result, Err(Error::NoMemory { .. })));
    assert!(smmu.is_fenced() && fake.is_fenced());
}

/// The bits of 5.2, one by one: MemAttr 99:96, MTCFG 100, ALLOCCFG 104:101,
/// SHCFG 109:108, PRIVCFG 113:112, INSTCFG 115:114.
#[test]
fn only_overrides_pass_and_only_where_there_are_some() {
    let taken = |idr1: u32, word1: u64| {
        let fake = Fake::with(|state| state.set(reg::IDR1, idr1));
        let mut smmu = driver(&fake);
        let entry = Ste([0, word1, !0, !0, !0, !0, !0, !0]);
        let attributes = Attributes::from_untrusted(&entry, smmu.features());
        smmu.set(
            STREAM,
            &Translation::Stage2 {
                stage2: HOST,
                attributes,
            },
        )
        .unwrap();
        // Without MEV.
        fake.entry(STREAM).0[1] & !(1 << 19)
    };
    let (types, permissions) = (0x0a73_0010, 0x0673_0010);
    assert_eq!(taken(types, !0), 0xf << 32 | 1 << 36 | 0xf << 37 | 3 << 44);
    assert_eq!(taken(permissions, !0), 3 << 48 | 3 << 50);
    assert_eq!(taken(0x0273_0010, !0), 0);
    // Types that are reserved, hints that do not count, and "use incoming".
    for reserved in [0b0100, 0b1000, 0b1100] {
        let word = reserved << 32 | 1 << 36;
        assert_eq!(taken(types, word), 1 << 36);
    }
    assert_eq!(taken(types, 0xf << 32 | 0b0111 << 37 | 1 << 44), 1 << 44);
    assert_eq!(taken(permissions, 0b01 << 48 | 0b01 << 50), 0);
}

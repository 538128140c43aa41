//! Many streams that change while they run: whole tables by their descriptors.
#![allow(missing_docs)]

mod common;

use common::Fake;
use common::watch::meaning;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{
    Attributes, Config, Error, Granule, RangeTranslation, Smmu, Stage1, Stage2, Translation,
};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const HOST: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0x8010_0000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

const OTHER: Stage2 = Stage2 {
    vmid: Vmid(2),
    root: PhysAddr::new(0x8020_0000),
    ..HOST
};

const MOVED: Stage2 = Stage2 {
    root: PhysAddr::new(0x8020_0000),
    ..HOST
};

/// A table has 64 streams; the first three of this range are whole.
const FIRST: StreamId = StreamId(0);
const LAST: StreamId = StreamId(200);
/// The one that is looked at, in the second table.
const STREAM: StreamId = StreamId(100);

/// 1024 streams.
fn able(stall_model: u8) -> Fake {
    Fake::sized(1 << 17, |state| {
        state.set(reg::IDR1, 0x0273_000a_u32);
        let idr0 = state.idr0().with_stall_model(stall_model);
        state.set(reg::IDR0, u32::from(idr0));
    })
}

fn driver(fake: &Fake) -> Driver<'_> {
    let config = Config {
        command_log2: 5,
        event_log2: 4,
        ..Config::default()
    };
    Smmu::new(fake, fake, fake, config).unwrap()
}

fn stage2(stage2: Stage2) -> RangeTranslation {
    RangeTranslation::Stage2 {
        stage2,
        attributes: Attributes::INCOMING,
    }
}

fn nested(stalls: bool) -> Translation {
    let stage1 = Stage1::from_untrusted(&Ste::default().with_s1contextptr(0x4000));
    Translation::Nested {
        stage1: if stalls { stage1.with_stalls() } else { stage1 },
        stage2: HOST,
        attributes: Attributes::INCOMING,
    }
}

fn set_all(smmu: &mut Driver<'_>, uniform: &RangeTranslation) -> Result<u32, Error> {
    let (mut next, mut calls) = (Some(FIRST), 0);
    while let Some(first) = next {
        next = smmu.set_range(first, LAST, uniform)?;
        assert!(next.is_none_or(|next| next > first), "no progress");
        calls += 1;
    }
    Ok(calls)
}

/// What the tables are before: nothing, a common table, or tables of their own
/// in which some stream has something else.
#[derive(Clone, Copy, Debug)]
enum Before {
    Absent,
    Common(RangeTranslation),
    /// And one stream of the table, or the one that is looked at.
    Own(RangeTranslation, StreamId, Translation),
}

fn befores() -> Vec<Before> {
    let mut befores = vec![Before::Absent];
    for uniform in [
        RangeTranslation::Abort,
        RangeTranslation::Invalid,
        stage2(HOST),
        stage2(OTHER),
        stage2(MOVED),
    ] {
        befores.push(Before::Common(uniform));
        for stream in [STREAM, StreamId(101)] {
            befores.push(Before::Own(uniform, stream, Translation::Abort));
            befores.push(Before::Own(uniform, stream, OTHER.into()));
            befores.push(Before::Own(uniform, stream, MOVED.into()));
            befores.push(Before::Own(uniform, stream, nested(false)));
            befores.push(Before::Own(uniform, stream, nested(true)));
        }
    }
    befores
}

fn prepare(smmu: &mut Driver<'_>, before: &Before) {
    match before {
        Before::Absent => {}
        Before::Common(uniform) => {
            set_all(smmu, uniform).unwrap();
        }
        Before::Own(uniform, stream, translation) => {
            set_all(smmu, uniform).unwrap();
            smmu.set(*stream, translation).unwrap();
        }
    }
}

#[test]
fn every_store_leaves_old_new_or_abort() {
    for stall_model in [0, 2] {
        for target in [
            RangeTranslation::Abort,
            RangeTranslation::Invalid,
            stage2(HOST),
            stage2(OTHER),
        ] {
            let expected = {
                let fake = able(stall_model);
                let mut smmu = driver(&fake);
                smmu.set(STREAM, &target.into()).unwrap();
                fake.entry(STREAM)
            };
            for before in befores() {
                let fake = able(stall_model);
                let mut smmu = driver(&fake);
                prepare(&mut smmu, &before);
                fake.watch(STREAM, &[fake.entry(STREAM), expected]);
                set_all(&mut smmu, &target).unwrap();
                let name = format!("{before:?} to {target:?}");
                for stream in FIRST.0..=LAST.0 {
                    let entry = fake.entry(StreamId(stream));
                    assert_eq!(meaning(&entry), meaning(&expected), "{stream}, {name}");
                    assert_eq!(entry.v(), expected.v(), "{stream}, {name}");
                }
                assert_eq!(meaning(&fake.entry(StreamId(LAST.0 + 1))), None);
                // One table for all of the three.
                let table = |stream| fake.entry_address(StreamId(stream));
                assert_eq!(table(0), table(64), "{name}");
                assert_eq!(table(0), table(128), "{name}");
                fake.state.borrow_mut().watch = None;
                smmu.stop().unwrap();
                assert_eq!(fake.arena.bytes_in_use(), 0, "{name}");
            }
        }
    }
}

/// 4.7.2: only streams that abort, and all that may have waited.
#[test]
fn what_waits_under_a_table_that_goes_is_ended() {
    for target in [
        RangeTranslation::Abort,
        RangeTranslation::Invalid,
        stage2(HOST),
    ] {
        let fake = able(0);
        let mut smmu = driver(&fake);
        set_all(&mut smmu, &stage2(HOST)).unwrap();
        smmu.set(STREAM, &nested(true)).unwrap();
        fake.take_consumed();
        set_all(&mut smmu, &target).unwrap();
        let ended = fake.take_consumed();
        let ended = ended.iter().filter(|c| c.opcode() == Opcode::STALL_TERM);
        // Not those of the table that is not covered as a whole.
        let ended = ended.map(|c| c.stream()).filter(|s| s.0 < 192);
        let ended: Vec<_> = ended.collect();
        assert!(ended.contains(&STREAM), "{target:?}");
        assert!(ended.iter().all(|s| (64..128).contains(&s.0)), "{ended:?}");
        if matches!(target, RangeTranslation::Stage2 { .. }) {
            assert_eq!(ended, [STREAM], "the others go on");
        }
    }
}

/// What is common becomes common again by one store for each table, and
/// traffic that has it already is not touched.
#[test]
fn a_segment_changes_in_few_steps() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    let last = StreamId(0xffff);
    smmu.attach_range(FIRST, last, &HOST).unwrap();
    let before = fake.arena.bytes_in_use();
    fake.take_consumed();
    fake.state.borrow_mut().log.clear();
    let (mut next, mut calls) = (Some(FIRST), 0);
    while let Some(first) = next {
        next = smmu
            .set_range(first, last, &RangeTranslation::Invalid)
            .unwrap();
        calls += 1;
        let stores = fake.log();
        let stores = stores
            .iter()
            .filter(|op| matches!(op, common::Op::Store(..)));
        // The first makes the table: 64 entries of 8 words.
        let table = if calls == 1 { 512 } else { 0 };
        // Each command is two.
        assert!(stores.count() <= table + 16 + 2 * 4, "call {calls}");
        fake.state.borrow_mut().log.clear();
    }
    assert_eq!(calls, 64);
    assert_eq!(
        fake.arena.bytes_in_use(),
        before,
        "the old one is given back"
    );
    assert_eq!(smmu.attached(StreamId(0x1234)), None);
    // A stream of its own, while the others stay.
    smmu.set(StreamId(0x1234), &nested(false)).unwrap();
    assert!(smmu.attached(StreamId(0x1234)).is_some());
    assert_eq!(smmu.attached(StreamId(0x1235)), None);
    assert!(!fake.entry(StreamId(0x1235)).v());
    smmu.attach_range(FIRST, last, &HOST).unwrap();
    assert_eq!(fake.arena.bytes_in_use(), before);
    fake.take_consumed();
    smmu.attach_range(FIRST, last, &HOST).unwrap();
    assert_eq!(fake.take_consumed().len(), 0, "nothing changed");
}

/// More kinds than there are common tables: the rest get their own.
#[test]
fn too_many_kinds_of_tables_are_right_all_the_same() {
    let fake = able(0);
    let mut smmu = driver(&fake);
    let kind = |n: u16| {
        stage2(Stage2 {
            vmid: Vmid(n + 1),
            root: PhysAddr::new(0x8100_0000 + u64::from(n) * 0x2000),
            ..HOST
        })
    };
    for n in 0..6 {
        let first = StreamId(u32::from(n) * 128);
        let last = StreamId(first.0 + 127);
        let mut next = Some(first);
        while let Some(first) = next {
            next = smmu.set_range(first, last, &kind(n)).unwrap();
        }
    }
    for stream in 0..6 * 128 {
        let vmid = smmu.attached(StreamId(stream)).map(|(vmid, _)| vmid.0);
        assert_eq!(vmid, Some(stream as u16 / 128 + 1));
    }
    set_all(&mut smmu, &RangeTranslation::Abort).unwrap();
    assert_eq!(smmu.attached(STREAM), None);
    smmu.stop().unwrap();
    assert_eq!(fake.arena.bytes_in_use(), 0);
}

#[test]
fn without_memory_what_was_to_abort_is_fenced() {
    for (target, fences) in [(RangeTranslation::Invalid, true), (stage2(OTHER), false)] {
        let fake = able(0);
        let mut smmu = driver(&fake);
        set_all(&mut smmu, &stage2(HOST)).unwrap();
        fake.faults(|f| f.no_memory = true);
        let result = set_all(&mut smmu, &target);
        assert!(matches!(result, Err(Error::NoMemory { .. })), "{result:?}");
        assert_eq!(smmu.is_fenced(), fences);
        if !fences {
            assert_eq!(smmu.attached(STREAM), Some((HOST.vmid, HOST.root)));
            fake.faults(|f| f.no_memory = false);
            set_all(&mut smmu, &target).unwrap();
            assert_eq!(smmu.attached(STREAM), Some((OTHER.vmid, OTHER.root)));
        }
    }
}

/// Whichever invalidation fails, the SMMU is fenced, and no stream comes back
/// with anything but what it had or was to have.
#[test]
fn a_range_that_fails_is_fenced() {
    for target in [
        RangeTranslation::Abort,
        RangeTranslation::Invalid,
        stage2(OTHER),
    ] {
        for before in befores() {
            for good in 0.. {
                let fake = able(0);
                let mut smmu = driver(&fake);
                prepare(&mut smmu, &before);
                let old = smmu.attached(STREAM);
                let mut refuse = vec![(Opcode::CFGI_STE_RANGE, 0); good];
                refuse.push((Opcode::CFGI_STE_RANGE, 1));
                fake.faults(|f| f.refuse = refuse);
                let result = set_all(&mut smmu, &target);
                fake.faults(|f| f.refuse.clear());
                if result.is_ok() {
                    break;
                }
                assert!(smmu.is_fenced() && fake.is_fenced());
                smmu.restart().unwrap();
                let new = [None, old, Some((OTHER.vmid, OTHER.root))];
                assert!(new.contains(&smmu.attached(STREAM)));
                set_all(&mut smmu, &target).unwrap();
                let passes = matches!(target, RangeTranslation::Stage2 { .. });
                assert_eq!(smmu.attached(STREAM).is_some(), passes);
            }
        }
    }
}

/// A linear table has no leaves: each stream by itself, a bounded number in
/// one call.
#[test]
fn a_linear_table_changes_in_bounded_steps() {
    let fake = Fake::with(|state| {
        let idr0 = state.idr0().with_st_level(0);
        state.set(reg::IDR0, u32::from(idr0));
    });
    let mut smmu = driver(&fake);
    let calls = set_all(&mut smmu, &stage2(HOST)).unwrap();
    assert_eq!(calls, 201_u32.div_ceil(16));
    assert!(smmu.attached(LAST).is_some());
    assert_eq!(smmu.attached(StreamId(201)), None);
    assert!(smmu.set_range(StreamId(5), StreamId(4), &RangeTranslation::Abort) == Ok(None));
}

//! What a stream may reach at every moment of a change.

mod common;

use common::{Fake, State};
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Config, Error, Granule, Smmu, Stage2, Stage2Error};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};

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

const GUEST: Stage2 = Stage2 {
    vmid: Vmid(0x1234),
    root: PhysAddr::new(0x8020_0000),
    t0sz: 20,
    sl0: 2,
    granule: Granule::Size4K,
    ps: 4,
};

fn driver(fake: &Fake) -> Driver<'_> {
    let driver = Smmu::new(fake, fake, fake, Config::default()).unwrap();
    fake.take_consumed();
    driver
}

fn entry_of(fake: &Fake, stage2: &Stage2) -> Ste {
    let mut smmu = driver(fake);
    smmu.attach(StreamId(0), stage2).unwrap();
    let entry = fake.entry(StreamId(0));
    fake.faults(|f| *f = common::Faults::default());
    entry
}

/// 5.2, worked out by hand: V, Config 0b110; MEV, SHCFG 1; VMID, T0SZ, SL0,
/// IR0 and OR0 write-back, SH0 inner, PS, AA64, PTW, R; TTB.
#[test]
fn the_entry_as_raw_words() {
    let fake = Fake::with(|state| state.set(reg::IDR1, 0x0a73_0010_u32));
    let entry = entry_of(&fake, &GUEST);
    let word2: u64 = 0x1234
        | 20 << 32
        | 2 << 38
        | 1 << 40
        | 1 << 42
        | 3 << 44
        | 4 << 48
        | 1 << 51
        | 1 << 54
        | 1 << 58;
    assert_eq!(
        entry.0,
        [0b1101, 1 << 19 | 1 << 44, word2, 0x8020_0000, 0, 0, 0, 0]
    );
}

#[test]
fn without_coherency_walks_are_not_cacheable() {
    let fake = Fake::with(|state| {
        let idr0 = state.idr0().with_cohacc(false);
        state.set(reg::IDR0, u32::from(idr0));
    });
    let entry = entry_of(&fake, &HOST);
    assert_eq!((entry.s2ir0(), entry.s2or0(), entry.s2sh0()), (0, 0, 2));
}

/// S2S must be 1 where stalling is forced and 0 where it is not there
/// (6.3.1, STALL_MODEL).
#[test]
fn stalling_is_off_unless_forced() {
    for (model, stalls) in [(0, false), (1, false), (2, true)] {
        let fake = Fake::with(|state| {
            let idr0 = state.idr0().with_stall_model(model);
            state.set(reg::IDR0, u32::from(idr0));
        });
        assert_eq!(entry_of(&fake, &HOST).s2s(), stalls);
    }
}

/// The fake checks each store: what it may have fetched of the stream, in any
/// mixture since the last invalidation, is an abort, the old or the new entry.
#[test]
fn every_store_leaves_old_new_or_abort() {
    let other_root = Stage2 {
        root: PhysAddr::new(0x8030_0000),
        ..HOST
    };
    let other_vmid = Stage2 {
        vmid: Vmid(7),
        ..HOST
    };
    let entries: Vec<(Stage2, Ste)> = [HOST, GUEST, other_root, other_vmid]
        .into_iter()
        .map(|stage2| (stage2, entry_of(&Fake::new(), &stage2)))
        .collect();
    for (old, old_entry) in &entries {
        for (new, new_entry) in &entries {
            let fake = Fake::new();
            let mut smmu = driver(&fake);
            fake.watch(STREAM, &[*old_entry]);
            smmu.attach(STREAM, old).unwrap();
            assert_eq!(fake.entry(STREAM), *old_entry);
            fake.watch(STREAM, &[*old_entry, *new_entry]);
            smmu.attach(STREAM, new).unwrap();
            assert_eq!(fake.entry(STREAM), *new_entry);
            assert_eq!(smmu.attached(STREAM), Some((new.vmid, new.root)));
            smmu.block(STREAM).unwrap();
            assert!(!fake.entry(STREAM).config().passes());
            assert_eq!(smmu.attached(STREAM), None);
            fake.watch(STREAM, &[*new_entry]);
            smmu.attach(STREAM, new).unwrap();
            let checks = fake.state.borrow().watch.as_ref().unwrap().checks;
            assert!(checks > 0, "the watch saw no store");
        }
    }
}

#[test]
fn a_change_ends_with_an_invalidation_that_completed() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach(STREAM, &HOST).unwrap();
    let opcodes =
        |fake: &Fake| -> Vec<_> { fake.take_consumed().iter().map(|c| c.opcode()).collect() };
    let attach = [
        Opcode::CFGI_STE,
        Opcode::TLBI_S12_VMALL,
        Opcode::SYNC,
        Opcode::CFGI_STE,
        Opcode::SYNC,
    ];
    // The first stream of a second level drops the level 1 descriptor too.
    let first = fake.state.borrow().consumed[0];
    assert_eq!((first.opcode(), first.leaf()), (Opcode::CFGI_STE, false));
    assert_eq!(opcodes(&fake)[2..], attach);
    smmu.block(STREAM).unwrap();
    assert_eq!(opcodes(&fake), [Opcode::CFGI_STE, Opcode::SYNC]);
    smmu.attach(StreamId(0x19), &HOST).unwrap();
    assert_eq!(opcodes(&fake), attach);
    smmu.attach(StreamId(0x19), &HOST).unwrap();
    assert_eq!(opcodes(&fake), [], "nothing changed");
    // A VMID that stays must be empty before its new table is used.
    let moved = Stage2 {
        root: PhysAddr::new(0x8030_0000),
        ..HOST
    };
    smmu.attach(StreamId(0x19), &moved).unwrap();
    let want = [Opcode::CFGI_STE, Opcode::SYNC].into_iter().chain(attach);
    assert_eq!(opcodes(&fake), want.collect::<Vec<_>>());
    // One word decides: no abort in between.
    let renamed = Stage2 {
        vmid: Vmid(9),
        ..moved
    };
    smmu.attach(StreamId(0x19), &renamed).unwrap();
    let want = [
        Opcode::TLBI_S12_VMALL,
        Opcode::SYNC,
        Opcode::CFGI_STE,
        Opcode::SYNC,
    ];
    assert_eq!(opcodes(&fake), want);
}

#[test]
fn blocking_terminates_what_stalled() {
    let fake = Fake::with(|state| {
        let idr0 = state.idr0().with_stall_model(0);
        state.set(reg::IDR0, u32::from(idr0));
    });
    let mut smmu = driver(&fake);
    smmu.attach(STREAM, &HOST).unwrap();
    fake.take_consumed();
    smmu.block(STREAM).unwrap();
    let opcodes: Vec<_> = fake.take_consumed().iter().map(|c| c.opcode()).collect();
    let want = [
        Opcode::CFGI_STE,
        Opcode::SYNC,
        Opcode::STALL_TERM,
        Opcode::SYNC,
    ];
    assert_eq!(opcodes, want);
}

#[test]
fn second_levels_are_made_on_demand_and_abort() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    let before = fake.arena.bytes_in_use();
    smmu.block(STREAM).unwrap();
    assert_eq!(fake.arena.bytes_in_use(), before, "blocking makes nothing");
    smmu.attach(STREAM, &HOST).unwrap();
    smmu.attach(StreamId(0x3f), &HOST).unwrap();
    assert_eq!(fake.arena.bytes_in_use(), before + 4096);
    for stream in (0..0x40).filter(|s| ![0x18, 0x3f].contains(s)) {
        assert_eq!(fake.entry(StreamId(stream)), Ste::ABORT);
    }
    assert_eq!(fake.entry_address(StreamId(0x40)), None);
    smmu.attach(StreamId(0xffff), &HOST).unwrap();
    assert_eq!(fake.arena.bytes_in_use(), before + 8192);
    assert_eq!(
        smmu.attach(StreamId(0x1_0000), &HOST),
        Err(Error::StreamOutOfRange {
            stream: StreamId(0x1_0000),
            bits: 16
        })
    );
    assert_eq!(
        smmu.block(StreamId(u32::MAX)),
        Err(Error::StreamOutOfRange {
            stream: StreamId(u32::MAX),
            bits: 16
        })
    );
}

#[test]
fn no_memory_for_a_second_level_changes_nothing() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    while portcullis_memory::Allocator::allocate(&fake.arena, 4096).is_some() {}
    assert_eq!(
        smmu.attach(STREAM, &HOST),
        Err(Error::NoMemory { bytes: 4096 })
    );
    assert!(!smmu.is_fenced());
    assert_eq!(fake.entry_address(STREAM), None);
}

/// Which entry the SMMU uses is not known when an invalidation does not
/// complete, so everything stops.
#[test]
fn a_change_that_does_not_complete_fences() {
    type Break = fn(&mut common::Faults);
    let breaks: [Break; 4] = [
        |f| f.commands_stuck = true,
        |f| f.refuse = vec![(Opcode::CFGI_STE, 1)],
        |f| f.refuse = vec![(Opcode::SYNC, 2); 1000],
        |f| f.cons = Some(0xabc),
    ];
    for broken in breaks {
        for block in [false, true] {
            let fake = Fake::new();
            let mut smmu = driver(&fake);
            smmu.attach(STREAM, &HOST).unwrap();
            fake.faults(broken);
            let error = if block {
                smmu.block(STREAM)
            } else {
                smmu.attach(STREAM, &GUEST)
            };
            assert!(error.is_err());
            assert!(fake.is_fenced() && smmu.is_fenced());
            assert_eq!(smmu.attach(STREAM, &HOST), Err(Error::Fenced));
            assert!(!fake.entry(STREAM).config().passes());
        }
    }
}

/// Also when only the last invalidation of an attach fails.
#[test]
fn a_failed_attach_is_none_after_a_restart() {
    for good in 0..3 {
        let fake = Fake::new();
        let mut smmu = driver(&fake);
        smmu.attach(StreamId(0x19), &HOST).unwrap();
        // The first stream of the second level is there; an attach now has two
        // CMD_CFGI_STE. Refusing the later one alone needs the earlier to pass.
        let mut refuse = vec![(Opcode::CFGI_STE, 0); good];
        refuse.push((Opcode::CFGI_STE, 1));
        fake.faults(|f| f.refuse = refuse);
        let result = smmu.attach(STREAM, &HOST);
        assert_eq!(result.is_err(), good < 2);
        fake.faults(|f| f.refuse.clear());
        assert_eq!(smmu.is_fenced(), good < 2);
        smmu.restart().unwrap();
        assert!(!smmu.is_fenced());
        assert_eq!(smmu.attached(STREAM).is_some(), good == 2);
        assert_eq!(fake.entry(STREAM).config().passes(), good == 2);
        assert!(fake.entry(StreamId(0x19)).config().passes(), "as before");
        smmu.attach(STREAM, &GUEST).unwrap();
        assert!(fake.entry(STREAM).config().passes());
    }
}

/// A stream that its owner gave up while the SMMU was fenced; the others keep what
/// they were given.
#[test]
fn a_stream_that_was_given_up_while_fenced_is_none_after_a_restart() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    let (other, absent) = (StreamId(0x19), StreamId(0x7_0000));
    smmu.attach(STREAM, &HOST).unwrap();
    smmu.attach(other, &HOST).unwrap();
    // An SMMU that works takes commands for that.
    smmu.abort_while_fenced(STREAM);
    assert!(fake.entry(STREAM).config().passes());
    smmu.fence().unwrap();
    smmu.abort_while_fenced(STREAM);
    smmu.abort_while_fenced(absent);
    smmu.abort_while_fenced(StreamId(u32::MAX));
    assert_eq!(smmu.attached(STREAM), None);
    smmu.restart().unwrap();
    assert_eq!(smmu.attached(STREAM), None);
    assert!(!fake.entry(STREAM).config().passes());
    assert!(fake.entry(other).config().passes(), "as before");
    smmu.attach(STREAM, &GUEST).unwrap();
    assert!(fake.entry(STREAM).config().passes());
}

#[test]
fn stopping_gives_everything_back() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach(STREAM, &HOST).unwrap();
    smmu.attach(StreamId(0xffff), &HOST).unwrap();
    smmu.stop().unwrap();
    assert!(fake.is_fenced());
    assert_eq!(fake.arena.bytes_in_use(), 0);
    let fake = Fake::new();
    let smmu = driver(&fake);
    fake.faults(|f| f.cr0_clear_stuck = 4);
    assert!(smmu.stop().is_err());
    assert!(fake.is_fenced());
    assert_ne!(fake.arena.bytes_in_use(), 0, "it may still be read");
}

/// Everything that power took is programmed again, and invalidated first.
#[test]
fn a_restart_after_power_loss() {
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    smmu.attach(STREAM, &HOST).unwrap();
    let entry = fake.entry(STREAM);
    {
        let mut state = fake.state.borrow_mut();
        state.regs.retain(|offset, _| *offset <= reg::AIDR);
        state.set(reg::GBPA, 0x10_1000_u32);
    }
    fake.take_consumed();
    smmu.restart().unwrap();
    let opcodes: Vec<_> = fake.take_consumed().iter().map(|c| c.opcode()).collect();
    assert_eq!(opcodes[0], Opcode::CFGI_STE_RANGE);
    assert_eq!(opcodes[2], Opcode::TLBI_NSNH_ALL);
    assert_eq!(fake.entry(STREAM), entry);
    smmu.block(STREAM).unwrap();
    fake.faults(|f| f.commands_stuck = true);
    assert!(smmu.restart().is_err());
    assert!(smmu.is_fenced() && fake.is_fenced());
    fake.faults(|f| f.commands_stuck = false);
    smmu.restart().unwrap();
}

#[test]
fn what_would_be_an_illegal_entry_is_refused() {
    let small: fn(&mut State) = |s| {
        let idr0 = s.idr0().with_vmid16(false);
        s.set(reg::IDR0, u32::from(idr0));
        s.set(reg::IDR5, 0x10_u32 | 2);
    };
    let no_stage2: fn(&mut State) = |s| {
        let idr0 = s.idr0().with_s2p(false);
        s.set(reg::IDR0, u32::from(idr0));
    };
    let same: fn(&mut State) = |_| {};
    let with = |change: fn(&mut Stage2)| {
        let mut stage2 = HOST;
        change(&mut stage2);
        stage2
    };
    let level = |sl0, t0sz| Stage2Error::StartLevel { sl0, t0sz };
    let root = |root| Stage2Error::Root {
        root: PhysAddr::new(root),
    };
    let cases = [
        (no_stage2, HOST, Stage2Error::NoStage2),
        (
            small,
            with(|s| s.granule = Granule::Size64K),
            Stage2Error::Granule,
        ),
        (
            small,
            with(|s| s.vmid = Vmid(0x100)),
            Stage2Error::Vmid {
                vmid: Vmid(0x100),
                bits: 8,
            },
        ),
        (
            small,
            with(|s| s.t0sz = 23),
            Stage2Error::InputSize {
                t0sz: 23,
                least: 24,
                most: 39,
            },
        ),
        (
            same,
            with(|s| s.t0sz = 40),
            Stage2Error::InputSize {
                t0sz: 40,
                least: 20,
                most: 39,
            },
        ),
        // 40 bits from level 1 are 1024 entries, two tables side by side.
        (
            same,
            with(|s| s.root = PhysAddr::new(0x8010_1000)),
            root(0x8010_1000),
        ),
        // 4 KiB: level 1 resolves 31 to 43 bits, level 2 22 to 34.
        (same, with(|s| s.t0sz = 20), level(1, 20)),
        (same, with(|s| s.t0sz = 34), level(1, 34)),
        (same, with(|s| s.sl0 = 0), level(0, 24)),
        (same, with(|s| s.sl0 = 3), level(3, 24)),
        (same, with(|s| s.ps = 5), Stage2Error::OutputSize { ps: 5 }),
        (same, with(|s| s.ps = 7), Stage2Error::OutputSize { ps: 7 }),
        (
            same,
            with(|s| s.root = PhysAddr::new(0x8000_0020)),
            root(0x8000_0020),
        ),
        (
            same,
            with(|s| s.root = PhysAddr::new(1 << 40)),
            root(1 << 40),
        ),
    ];
    for (change, stage2, want) in cases {
        let fake = Fake::with(change);
        let mut smmu = driver(&fake);
        assert_eq!(smmu.attach(STREAM, &stage2), Err(Error::Stage2(want)));
        assert_eq!(fake.entry_address(STREAM), None, "nothing was made");
    }
    for (granule, sl0, t0sz) in [
        (Granule::Size4K, 1, 21),
        (Granule::Size4K, 1, 33),
        (Granule::Size4K, 0, 30),
        (Granule::Size4K, 2, 20),
        (Granule::Size16K, 1, 24),
        (Granule::Size16K, 2, 20),
        (Granule::Size64K, 1, 24),
        (Granule::Size64K, 1, 22),
    ] {
        let fake = Fake::new();
        let stage2 = Stage2 {
            granule,
            sl0,
            t0sz,
            ..HOST
        };
        assert_eq!(driver(&fake).attach(STREAM, &stage2), Ok(()), "{stage2:?}");
    }
}

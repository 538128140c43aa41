//! Commands of somebody else.
#![allow(missing_docs)]

mod common;

use common::Fake;
use portcullis_addr::{Ipa, PhysAddr, Range};
use smmuv3_driver::{Config, Error, Granule, Msi, Smmu, Stage2};
use smmuv3_spec::command::{Command, CommandError, Opcode};
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::{Asid, StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const HOST: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0x8010_0000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

const TLBI: Command = Command::tlbi_nh_va(Vmid(1), Asid(2), 0x1000, true);

fn able() -> Fake {
    Fake::with(|state| {
        let idr0 = state.idr0().with_ats(true).with_stall_model(0);
        state.set(reg::IDR0, u32::from(idr0.with_msi(true)));
    })
}

fn driver(fake: &Fake) -> Driver<'_> {
    let config = Config {
        command_log2: 4,
        ..Config::default()
    };
    let driver = Smmu::new(fake, fake, fake, config).unwrap();
    fake.take_consumed();
    driver
}

fn atc_inv() -> Command {
    Command::atc_inv(StreamId(3), None, false, 0x1000, 0)
}

fn refused(error: CommandError, opcode: Opcode) -> Result<(), Error> {
    Err(Error::Command { error, opcode })
}

#[test]
fn they_arrive_as_they_are_and_complete() {
    for slow in [false, true] {
        let fake = able();
        let mut smmu = driver(&fake);
        fake.faults(|f| f.slow = slow);
        // More than the queue holds, so that it wraps and fills.
        for n in 0..100u64 {
            smmu.issue(TLBI.with_address(n << 12)).unwrap();
            if n % 7 == 0 {
                smmu.finish().unwrap();
                let last = fake.state.borrow().consumed.len();
                assert_eq!(
                    fake.state.borrow().consumed[last - 1].opcode(),
                    Opcode::SYNC
                );
            }
        }
        smmu.finish().unwrap();
        let consumed = fake.take_consumed();
        let issued: Vec<u64> = consumed
            .iter()
            .filter(|c| c.opcode() != Opcode::SYNC)
            .map(|c| c.address() >> 12)
            .collect();
        assert_eq!(issued, (0..100).collect::<Vec<_>>());
        assert_eq!(smmu.stats().timeouts, 0);
    }
}

/// Nothing is done before it is asked for, and then everything.
#[test]
fn a_kick_waits_for_nothing() {
    let fake = able();
    let mut smmu = driver(&fake);
    fake.faults(|f| f.slow = true);
    smmu.issue(TLBI).unwrap();
    smmu.issue(TLBI).unwrap();
    assert_eq!(fake.take_consumed(), []);
    smmu.kick();
    assert_eq!(fake.take_consumed(), []);
    smmu.finish().unwrap();
    // What is not done at the first look takes a second CMD_SYNC.
    assert_eq!(fake.take_consumed()[..2], [TLBI, TLBI]);
}

#[test]
fn a_refusal_is_told_to_whoever_issued_it() {
    let fake = able();
    let mut smmu = driver(&fake);
    smmu.attach(StreamId(3), &HOST).unwrap();
    // At the end.
    fake.faults(|f| f.refuse = vec![(Opcode::TLBI_NH_VA, 1)]);
    smmu.issue(TLBI).unwrap();
    smmu.issue(TLBI).unwrap();
    let told = refused(CommandError::ILL, Opcode::TLBI_NH_VA);
    assert_eq!(smmu.finish(), told);
    assert_eq!(smmu.finish(), Ok(()));
    // While an operation of the driver's own runs: that does not fail, and the
    // refusal is kept.
    for own in [true, false] {
        fake.faults(|f| f.refuse = vec![(Opcode::TLBI_NH_VA, 1)]);
        smmu.issue(TLBI).unwrap();
        if own {
            smmu.kick();
        }
        let page = Range::from_size(Ipa::new(0x4000), 0x1000).unwrap();
        smmu.tlbi_ipa_range(Vmid(1), page, Granule::Size4K, None, true)
            .unwrap();
        smmu.block(StreamId(3)).unwrap();
        assert!(!smmu.is_fenced());
        smmu.issue(TLBI).unwrap();
        assert_eq!(smmu.finish(), told);
        assert_eq!(smmu.finish(), Ok(()));
    }
    // One of the driver's own is its own, whatever was issued before.
    fake.faults(|f| f.refuse = vec![(Opcode::TLBI_S12_VMALL, 1)]);
    smmu.issue(TLBI).unwrap();
    assert!(matches!(
        smmu.tlbi_vmid(Vmid(1)),
        Err(Error::Command { .. })
    ));
    assert_eq!(smmu.finish(), Ok(()));
    // By interrupt.
    fake.faults(|f| f.refuse = vec![(Opcode::TLBI_NH_VA, 1)]);
    smmu.issue(TLBI).unwrap();
    smmu.kick();
    assert!(smmu.handle_gerror().is_some());
    smmu.attach(StreamId(3), &HOST).unwrap();
    assert_eq!(smmu.finish(), told);
}

/// A device that answers no invalidation concerns its owner alone, also where
/// the driver's CMD_SYNC is the one that meets it.
#[test]
fn an_endpoint_that_does_not_answer() {
    let fake = able();
    let mut smmu = driver(&fake);
    let told = refused(CommandError::ATC_INV_SYNC, Opcode::SYNC);
    fake.faults(|f| f.refuse = vec![(Opcode::SYNC, 3)]);
    smmu.issue(atc_inv()).unwrap();
    assert_eq!(smmu.finish(), told);
    fake.faults(|f| f.refuse = vec![(Opcode::SYNC, 3)]);
    smmu.issue(atc_inv()).unwrap();
    smmu.attach(StreamId(3), &HOST).unwrap();
    assert!(!smmu.is_fenced());
    assert_eq!(smmu.finish(), told);
    assert_eq!(smmu.finish(), Ok(()));
}

#[test]
fn messages_go_where_they_are_wanted_and_in_order() {
    let fake = able();
    let mut smmu = driver(&fake);
    let msi = |at, data| Msi {
        address: PhysAddr::new(at),
        data,
        memory: 0xf,
        share: 3,
    };
    smmu.issue(TLBI).unwrap();
    smmu.complete_by_msi(&[msi(0x8000_0000, 5), msi(0x8000_1004, 0)])
        .unwrap();
    let consumed = fake.take_consumed();
    // 4.7.3: CS 13:12, MSH 23:22, MSIAttr 27:24, MSIData 63:32; MSIAddress.
    let sync = 0x46 | 1 << 12 | 3 << 22 | 0xf << 24;
    let want = [
        TLBI,
        Command([sync | 5 << 32, 0x8000_0000]),
        Command([sync, 0x8000_1004]),
    ];
    assert_eq!(consumed, want);
    // Misaligned, none, beyond 44 bits, reserved.
    for (at, share) in [(0x8000_0002, 3), (0, 3), (1 << 44, 3), (0x8000_0000, 1)] {
        let bad = Msi {
            share,
            ..msi(at, 1)
        };
        assert_eq!(
            smmu.complete_by_msi(&[msi(0x8000, 1), bad]),
            Err(Error::Msi)
        );
    }
    assert_eq!(fake.take_consumed(), [], "nothing was done");
    let fake = Fake::new();
    let mut smmu = driver(&fake);
    let result = smmu.complete_by_msi(&[msi(0x8000_0000, 5)]);
    assert_eq!(result, Err(Error::Msi), "no MSI (IDR0)");
}

/// Its message must still come, or its issuer waits for ever.
#[test]
fn a_message_survives_an_endpoint_that_does_not_answer() {
    let fake = able();
    let mut smmu = driver(&fake);
    let msi = Msi {
        address: PhysAddr::new(0x8000_0000),
        data: 5,
        memory: 0xf,
        share: 3,
    };
    fake.faults(|f| f.refuse = vec![(Opcode::SYNC, 3)]);
    smmu.issue(atc_inv()).unwrap();
    smmu.complete_by_msi(&[msi]).unwrap();
    smmu.handle_gerror().unwrap();
    let consumed = fake.take_consumed();
    assert_eq!(consumed[1].msi_address(), 0x8000_0000);
    let told = refused(CommandError::ATC_INV_SYNC, Opcode::SYNC);
    assert_eq!(smmu.finish(), told);
    // One that is illegal itself is not sent again.
    fake.faults(|f| f.refuse = vec![(Opcode::SYNC, 1)]);
    smmu.complete_by_msi(&[msi]).unwrap();
    smmu.handle_gerror().unwrap();
    let consumed = fake.take_consumed();
    assert!(consumed.iter().all(|c| c.cs() == 0), "{consumed:?}");
}

#[test]
fn a_queue_that_stands_still_fences() {
    type Break = fn(&mut common::Faults);
    let breaks: [Break; 2] = [|f| f.commands_stuck = true, |f| f.cons = Some(0xabc)];
    for broken in breaks {
        let fake = able();
        let mut smmu = driver(&fake);
        fake.faults(broken);
        smmu.issue(TLBI).unwrap();
        assert!(smmu.finish().is_err());
        assert!(smmu.is_fenced() && fake.is_fenced());
        assert_eq!(smmu.issue(TLBI), Err(Error::Fenced));
        assert_eq!(smmu.finish(), Err(Error::Fenced));
        assert_eq!(smmu.complete_by_msi(&[]), Err(Error::Fenced));
        let before = fake.log().len();
        smmu.kick();
        assert_eq!(fake.log().len(), before);
        // Full, and nobody takes anything.
        let fake = able();
        let mut smmu = driver(&fake);
        fake.faults(broken);
        let results: Vec<_> = (0..40).map(|_| smmu.issue(TLBI)).collect();
        assert_eq!(results[39], Err(Error::Fenced));
        assert!(fake.is_fenced());
    }
}

/// MMU-700 (2812531): a CMD_SYNC at least every so many commands.
#[test]
fn batches_are_bounded_where_they_must_be() {
    let fake = Fake::with(|state| state.set(reg::IIDR, 0x4871_143b_u32));
    let mut smmu = Smmu::new(&fake, &fake, &fake, Config::default()).unwrap();
    fake.take_consumed();
    for _ in 0..500 {
        smmu.issue(TLBI).unwrap();
    }
    smmu.finish().unwrap();
    let consumed = fake.take_consumed();
    let longest = consumed
        .split(|c| c.opcode() == Opcode::SYNC)
        .map(<[_]>::len)
        .max();
    assert!(longest.is_some_and(|longest| longest < 64), "{longest:?}");
    assert_eq!(
        consumed.len()
            - consumed
                .iter()
                .filter(|c| c.opcode() == Opcode::SYNC)
                .count(),
        500
    );
}

/// A stalled transaction whose owner answers it is left alone.
#[test]
fn who_answers_a_stall_is_for_the_handler_to_say() {
    use smmuv3_driver::Answer;
    for (answer, commands) in [(Answer::Later, 0), (Answer::Refuse, 1)] {
        let fake = able();
        let mut smmu = driver(&fake);
        let record = EventRecord::default()
            .with_kind_bits(EventKind::F_TRANSLATION.0)
            .with_stall(true)
            .with_stream_bits(3)
            .with_stag(9);
        assert!(fake.raise(record));
        let drained = smmu.take_events(8, |_| answer);
        assert_eq!(drained.events, 1);
        let consumed = fake.take_consumed();
        assert_eq!(consumed.len(), commands);
        assert!(
            consumed
                .iter()
                .all(|c| c.opcode() == Opcode::RESUME && c.stag() == 9)
        );
    }
}

//! The command queue: wrapping, waiting, errors.

mod common;

use common::Fake;
use portcullis_addr::{Ipa, Range};
use smmuv3_driver::{Config, Error, Granule, Smmu, Wait};
use smmuv3_spec::command::{Command, CommandError, Opcode};
use smmuv3_spec::{Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

fn driver(fake: &Fake, command_log2: u8) -> Driver<'_> {
    let config = Config {
        command_log2,
        ..Config::default()
    };
    let driver = Smmu::new(fake, fake, fake, config).unwrap();
    fake.take_consumed();
    driver
}

fn pages(count: u64) -> Range<Ipa> {
    Range::from_size(Ipa::new(0x4000_0000), count << 12).unwrap()
}

/// Without ranges, so that one call makes many commands.
fn without_ranges() -> Fake {
    Fake::with(|state| state.set(reg::IDR3, 0x1014_u32))
}

/// The fake reads only what was published and panics when a pending command is
/// overwritten, so the order and content of what it consumed is the proof.
#[test]
fn every_queue_size_wraps_many_times() {
    for log2 in 0..=4 {
        for slow in [false, true] {
            let fake = without_ranges();
            let mut smmu = driver(&fake, log2);
            fake.faults(|f| f.slow = slow);
            for round in 0..50u64 {
                let count = round % 13 + 1;
                smmu.tlbi_ipa_range(Vmid(1), pages(count), Granule::Size4K, None, true)
                    .unwrap();
                let mut want: Vec<_> = (0..count)
                    .map(|n| Command::tlbi_s2_ipa(Vmid(1), 0x4000_0000 + (n << 12), true))
                    .collect();
                want.push(Command::sync(0));
                assert_eq!(fake.take_consumed(), want, "log2={log2} round={round}");
            }
            assert_eq!(smmu.stats().timeouts, 0);
        }
    }
}

#[test]
fn one_sync_ends_a_batch_and_is_awaited() {
    let fake = without_ranges();
    let mut smmu = driver(&fake, 8);
    let before = smmu.stats();
    fake.faults(|f| f.slow = true);
    smmu.tlbi_ipa_range(Vmid(1), pages(64), Granule::Size4K, None, false)
        .unwrap();
    assert_eq!(fake.take_consumed().len(), 65);
    let after = smmu.stats();
    assert_eq!(after.commands - before.commands, 65);
    assert_eq!(after.syncs - before.syncs, 1);
    let doorbells = |log: Vec<common::Op>| {
        log.iter()
            .filter(|op| matches!(op, common::Op::Write32(reg::CMDQ_PROD, _)))
            .count()
    };
    // Two for the take-over and one for writing 0.
    assert_eq!(doorbells(fake.log()), 4);
}

#[test]
fn mmu_700_gets_a_sync_in_time() {
    let fake = Fake::with(|state| {
        state.set(reg::IDR3, 0x1014_u32);
        state.set(reg::IIDR, 0x4871_143b_u32);
    });
    let config = Config {
        page_commands: 1000,
        ..Config::default()
    };
    let mut smmu = Smmu::new(&fake, &fake, &fake, config).unwrap();
    fake.take_consumed();
    smmu.tlbi_ipa_range(Vmid(1), pages(500), Granule::Size4K, None, false)
        .unwrap();
    let consumed = fake.take_consumed();
    let longest = consumed
        .split(|c| c.opcode() == Opcode::SYNC)
        .map(<[_]>::len)
        .max();
    assert_eq!(longest, Some(62));
    assert_eq!(consumed.last(), Some(&Command::sync(0)));
}

/// 7.1: the refused command is replaced, the others run, the caller hears.
#[test]
fn a_refused_command_is_replaced_and_reported() {
    for code in [CommandError::ILL, CommandError::ABT, CommandError(0x55)] {
        let fake = without_ranges();
        let mut smmu = driver(&fake, 2);
        fake.faults(|f| f.refuse = vec![(Opcode::TLBI_S2_IPA, code.0)]);
        assert_eq!(
            smmu.tlbi_ipa_range(Vmid(1), pages(6), Granule::Size4K, None, true),
            Err(Error::Command {
                error: code,
                opcode: Opcode::TLBI_S2_IPA
            })
        );
        let consumed = fake.take_consumed();
        assert_eq!(consumed.len(), 7);
        assert_eq!(consumed[0], Command::sync(0), "in place of the first");
        assert_eq!(consumed[1].address(), 0x4000_1000);
        assert_eq!(fake.state.borrow().gerror_active(), 0);
        assert_eq!(smmu.stats().command_errors, 1);
        assert!(!smmu.is_fenced());
        // The queue works on, and the error is reported once.
        assert_eq!(smmu.tlbi_vmid(Vmid(1)), Ok(()));
    }
}

#[test]
fn several_refused_commands_are_all_replaced() {
    let fake = without_ranges();
    let mut smmu = driver(&fake, 3);
    fake.faults(|f| f.refuse = vec![(Opcode::TLBI_S2_IPA, 1), (Opcode::TLBI_S2_IPA, 2)]);
    let result = smmu.tlbi_ipa_range(Vmid(1), pages(20), Granule::Size4K, None, true);
    assert_eq!(
        result,
        Err(Error::Command {
            error: CommandError::ILL,
            opcode: Opcode::TLBI_S2_IPA
        })
    );
    assert_eq!(smmu.stats().command_errors, 2);
    assert_eq!(fake.take_consumed().len(), 21);
}

/// A queue that errs without end is given up in bounded time.
#[test]
fn a_queue_that_never_recovers_is_fenced() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    fake.faults(|f| f.refuse = vec![(Opcode::TLBI_S12_VMALL, 1)]);
    fake.faults(|f| f.refuse.extend(vec![(Opcode::SYNC, 2); 100_000]));
    assert_eq!(smmu.tlbi_vmid(Vmid(3)), Err(Error::Timeout(Wait::Commands)));
    assert!(fake.is_fenced());
}

#[test]
fn a_queue_that_stops_is_fenced_also_when_full() {
    for log2 in [2, 8] {
        let fake = without_ranges();
        let mut smmu = driver(&fake, log2);
        fake.faults(|f| f.commands_stuck = true);
        assert_eq!(
            smmu.tlbi_ipa_range(Vmid(1), pages(20), Granule::Size4K, None, true),
            Err(Error::Timeout(Wait::Commands))
        );
        assert_eq!(smmu.stats().timeouts, 1);
        assert!(fake.is_fenced());
        assert_eq!(smmu.tlbi_vmid(Vmid(1)), Err(Error::Fenced));
    }
}

#[test]
fn when_even_the_fence_fails_the_error_says_so() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    fake.faults(|f| {
        f.commands_stuck = true;
        f.gbpa_stuck = true;
    });
    assert!(matches!(smmu.tlbi_vmid(Vmid(1)), Err(Error::Unfenced(_))));
    assert!(smmu.is_fenced(), "and nothing is done with it any more");
}

/// CONS is checked against what was submitted: 0 to 3 pending.
#[test]
fn a_consumer_index_out_of_range_is_refused() {
    for (cons, ok) in [(0x3f, false), (0x10, false), (0x5, false), (0x4, true)] {
        let fake = Fake::new();
        let mut smmu = driver(&fake, 4);
        // The take-over consumed 4; CONS stays where it is put.
        fake.faults(|f| {
            f.commands_stuck = true;
            f.cons = Some(cons);
        });
        let error = smmu.tlbi_vmid(Vmid(1)).unwrap_err();
        if ok {
            assert_eq!(error, Error::Timeout(Wait::Commands));
        } else if cons == 5 {
            // Between the two commands: plausible, and then no progress.
            assert_eq!(error, Error::Timeout(Wait::Commands));
        } else {
            assert_eq!(error, Error::BadConsumer { value: cons });
        }
        assert!(fake.is_fenced());
    }
}

#[test]
fn service_failure_is_told_apart() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    fake.faults(|f| f.commands_stuck = true);
    fake.state.borrow_mut().set(reg::GERROR, 0x100_u32);
    assert_eq!(smmu.tlbi_vmid(Vmid(1)), Err(Error::ServiceFailure));
    assert!(fake.is_fenced());
}

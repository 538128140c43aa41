//! Injected faults of the hardware.
#![allow(missing_docs)]

mod interface;

use interface::{EVENTS, S, TABLE, entry, everything, fresh, running, running_as, stage2, submit};
use smmuv3_model::{Acknowledgement, Fault, Mode, Refusal};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::CommandError;

const GREEDY: Mode = Mode::Greedy { seed: 11 };

#[test]
fn the_next_command_fails() {
    for (error, code) in [(CommandError::ILL, 1), (CommandError::ABT, 2)] {
        let mut smmu = running(everything());
        submit(&mut smmu, &[[0x30, 0]]);
        smmu.inject(Fault::CommandError(error));
        submit(&mut smmu, &[[0x30, 0], [0x46, 0]]);
        assert_eq!(smmu.read32(0x9c), code << 24 | 1);
        assert_eq!(smmu.read32(0x60), 1);
        // It was a passing fault; software did nothing wrong.
        smmu.write32(0x64, 1);
        assert_eq!(smmu.read32(0x9c), 3);
        assert_eq!(smmu.take_misuse(), []);
    }
}

#[test]
fn commands_are_stuck_for_a_while_or_for_ever() {
    let mut smmu = running(everything());
    smmu.inject(Fault::CommandStuck { polls: Some(3) });
    submit(&mut smmu, &[[0x46, 0]]);
    let polls: Vec<u32> = (0..5).map(|_| smmu.read32(0x9c)).collect();
    assert_eq!(polls, [0, 0, 0, 1, 1]);
    smmu.inject(Fault::CommandStuck { polls: None });
    submit(&mut smmu, &[[0x46, 0]]);
    assert!((0..10_000).all(|_| smmu.read32(0x9c) == 1));
    smmu.inject(Fault::PowerLoss);
    let mut greedy = running_as(everything(), GREEDY);
    greedy.inject(Fault::CommandStuck { polls: Some(100) });
    submit(&mut greedy, &[[0x46, 0]]);
    assert!((0..100).all(|_| greedy.read32(0x9c) == 0));
    assert!((0..100).any(|_| greedy.read32(0x9c) == 1));
}

#[test]
fn acknowledgements_are_late_or_never_come() {
    let mut smmu = fresh(everything(), Mode::Plain);
    let register = Acknowledgement::Cr0;
    let polls = Some(3);
    smmu.inject(Fault::AckStuck { register, polls });
    smmu.write32(0x20, 0b1000);
    let acks: Vec<u32> = (0..4).map(|_| smmu.read32(0x24)).collect();
    assert_eq!(acks, [0, 0, 0b1000, 0b1000]);
    // That one only.
    smmu.write32(0x20, 0b1100);
    assert_eq!(smmu.read32(0x24), 0b1100);
    let polls = None;
    smmu.inject(Fault::AckStuck { register, polls });
    smmu.write32(0x20, 0b1101);
    assert!((0..10_000).all(|_| smmu.read32(0x24) == 0b1100));
    let register = Acknowledgement::IrqCtrl;
    smmu.inject(Fault::AckStuck { register, polls });
    smmu.write32(0x50, 1);
    assert!((0..10_000).all(|_| smmu.read32(0x54) == 0));
    let register = Acknowledgement::Gbpa;
    smmu.inject(Fault::AckStuck { register, polls });
    smmu.write32(0x44, 1 << 31 | 1 << 20);
    assert!((0..10_000).all(|_| smmu.read32(0x44) >> 31 == 1));
    assert_eq!(smmu.translate(interface::read(8)), Ok(8), "not in force");
    smmu.inject(Fault::PowerLoss);
    smmu.write32(0x20, 1);
    assert_eq!(smmu.read32(0x24), 1);
}

#[test]
fn errors_become_active_once() {
    let mut smmu = running(everything());
    // Reserved bits 1 and 9 and above do nothing.
    smmu.inject(Fault::Gerror(!0x101));
    assert_eq!(smmu.read32(0x60), 0xfc);
    smmu.inject(Fault::Gerror(4));
    assert_eq!(smmu.read32(0x60), 0xfc);
    smmu.write32(0x64, 4);
    smmu.inject(Fault::Gerror(4));
    assert_eq!(smmu.read32(0x60), 0xf8);
    smmu.inject(Fault::Gerror(1));
    assert_eq!(smmu.read32(0x9c) >> 24, 2);
    let mut minimal = running(interface::minimal());
    minimal.inject(Fault::Gerror(u32::MAX));
    assert_eq!(minimal.read32(0x60), 0x105);
}

#[test]
fn nothing_works_in_service_failure_mode() {
    let mut smmu = running(everything());
    entry(&mut smmu, [9, 0, 0, 0]);
    assert_eq!(smmu.translate(interface::read(8)), Ok(8));
    smmu.inject(Fault::Gerror(1 << 8));
    assert_eq!(smmu.read32(0x60), 1 << 8);
    submit(&mut smmu, &[[0x46, 0]]);
    assert_eq!(smmu.read32(0x9c), 0);
    assert_eq!(smmu.translate(interface::read(8)), Err(Refusal::Silent));
    assert_eq!(smmu.translated(interface::read(8)), Err(Refusal::Silent));
    smmu.inject(Fault::EventFlood(1));
    assert_eq!(smmu.read32(0x1_00a8), 0);
    assert_eq!(smmu.read32(0x24), 0b1111, "as before");
    // Acknowledging does not end it, nor does GBPA.
    smmu.write32(0x64, 1 << 8);
    smmu.write32(0x20, 0);
    smmu.write32(0x44, 1 << 31);
    assert_eq!(smmu.translate(interface::read(8)), Err(Refusal::Silent));
    smmu.inject(Fault::PowerLoss);
    assert_eq!(smmu.translate(interface::read(8)), Ok(8));
}

#[test]
fn a_flood_of_events_overflows() {
    let mut smmu = running(everything());
    smmu.inject(Fault::EventFlood(6));
    assert_eq!(smmu.read32(0x1_00a8), 1 << 31 | 4);
    assert_eq!(smmu.counts().lost, 2);
    for n in 0..4 {
        let first = smmu.load(EVENTS + n * 32).unwrap();
        assert_eq!(first >> 32, u64::from(S), "a stream that there is");
        assert!([0x04, 0x06, 0x10, 0x11, 0x12, 0x13].contains(&(first & 0xff)));
    }
}

#[test]
fn power_loss_forgets_all_but_memory() {
    let mut smmu = running_as(everything(), GREEDY);
    for (word, value) in (0..).zip(stage2(0)) {
        assert!(smmu.store(TABLE + u64::from(S) * 64 + word * 8, value));
    }
    smmu.publish(TABLE, 0x4000);
    assert!(
        smmu.agreed(StreamId(S)).is_none(),
        "the old entry is cached"
    );
    smmu.inject(Fault::EventFlood(2));
    smmu.inject(Fault::Gerror(1 << 2));
    smmu.inject(Fault::PowerLoss);
    for offset in (0..0xe0).step_by(4) {
        // Constants, what the other page has, STATUSR and GBPA.
        if !matches!(offset, 0..0x20 | 0xa8 | 0xac | 0xc8 | 0xcc | 0x40 | 0x44) {
            assert_eq!(smmu.read32(offset), 0, "{offset:#x}");
        }
    }
    assert_eq!(smmu.read32(0x44), 0x1000);
    assert_eq!(smmu.read32(0x1_00a8), 0);
    assert_eq!(smmu.load(TABLE + u64::from(S) * 64), Some(0xd));
    // Set up again: only the new entry.
    smmu.write64(0x80, TABLE);
    smmu.write32(0x88, 8);
    smmu.write32(0x20, 1);
    while smmu.read32(0x24) != 1 {}
    assert_eq!(smmu.agreed(StreamId(S)).map(|r| r.vmid), Some(9));
}

#[test]
fn reset_leaves_much_unknown() {
    let mut smmu = fresh(everything(), GREEDY);
    smmu.scramble();
    assert_eq!(smmu.take_misuse(), []);
    let unknown = [
        0x28, 0x2c, 0x80, 0x88, 0x90, 0x98, 0x9c, 0xa0, 0xc0, 0x68, 0x70, 0xb0, 0x1_00a8, 0x1_00ac,
        0x1_00c8, 0x1_00cc,
    ];
    let set = unknown.iter().filter(|offset| smmu.read32(**offset) != 0);
    assert!(set.count() > 12);
    // What reset does define.
    for offset in [0x20, 0x24, 0x50, 0x54, 0x60, 0x64] {
        assert_eq!(smmu.read32(offset), 0, "{offset:#x}");
    }
    assert_eq!(smmu.read32(0x44), 0x1000);
    // Not once it is in use.
    let mut used = running(everything());
    used.scramble();
    assert_eq!(used.read64(0x80), TABLE);
    assert_eq!(used.read32(0x2c), 0);
}

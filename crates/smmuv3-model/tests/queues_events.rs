//! The event queue (IHI 0070, 3.5, 7.2, 7.4).
#![allow(missing_docs)]

mod interface;

use interface::{EVENTS, everything, put, running};
use smmuv3_model::{Fault, Misuse, Refusal, Smmu};

/// C_BAD_STE of stream 5.
const BAD_STE: u64 = 5 << 32 | 0x04;

fn provoke(smmu: &mut Smmu, times: u32) {
    for _ in 0..times {
        assert!(smmu.translate(interface::read(0)).is_err());
    }
}

#[test]
fn records_go_round_the_ring() {
    let mut smmu = running(everything());
    provoke(&mut smmu, 3);
    assert_eq!(smmu.read32(0x1_00a8), 3);
    assert_eq!(smmu.load(EVENTS + 64), Some(BAD_STE));
    smmu.write32(0x1_00ac, 3);
    put(&mut smmu, EVENTS, 0);
    provoke(&mut smmu, 2);
    // The wrap bit is bit 2.
    assert_eq!(smmu.read32(0x1_00a8), 5);
    assert_eq!(smmu.load(EVENTS), Some(BAD_STE));
    provoke(&mut smmu, 2);
    assert_eq!(smmu.read32(0x1_00a8), 7);
    smmu.write32(0x1_00ac, 7);
    provoke(&mut smmu, 1);
    assert_eq!(smmu.read32(0x1_00a8), 0);
}

#[test]
fn overflow_is_told_once_and_does_not_block() {
    let mut smmu = running(everything());
    provoke(&mut smmu, 6);
    assert_eq!(smmu.read32(0x1_00a8), 1 << 31 | 4);
    // Room without acknowledgement: new events come in all the same.
    smmu.write32(0x1_00ac, 2);
    provoke(&mut smmu, 3);
    assert_eq!(smmu.read32(0x1_00a8), 1 << 31 | 6);
    // Acknowledged; the next one toggles back.
    smmu.write32(0x1_00ac, 1 << 31 | 2);
    provoke(&mut smmu, 1);
    assert_eq!(smmu.read32(0x1_00a8), 6);
    assert_eq!(smmu.counts().lost, 4);
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn nothing_is_recorded_while_disabled() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b1011);
    provoke(&mut smmu, 9);
    assert_eq!(smmu.read32(0x1_00a8), 0);
    assert_eq!(smmu.load(EVENTS), Some(0));
}

#[test]
fn an_abort_stops_the_queue_until_acknowledged() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b1011);
    smmu.write64(0xa0, 0x7000_0000 | 2);
    smmu.write32(0x20, 0b1111);
    provoke(&mut smmu, 2);
    assert_eq!(smmu.read32(0x60), 1 << 2);
    assert_eq!(smmu.read32(0x1_00a8), 0);
    let mut smmu = running(everything());
    smmu.inject(Fault::Gerror(1 << 2));
    provoke(&mut smmu, 1);
    assert_eq!(smmu.read32(0x1_00a8), 0);
    smmu.write32(0x64, 1 << 2);
    provoke(&mut smmu, 1);
    assert_eq!(smmu.read32(0x1_00a8), 1);
}

#[test]
fn consuming_what_is_not_there_is_reported() {
    let mut smmu = running(everything());
    provoke(&mut smmu, 2);
    smmu.write32(0x1_00ac, 3);
    let index = |prod, cons| Misuse::Index {
        offset: 0xa0,
        prod,
        cons,
    };
    assert_eq!(smmu.take_misuse(), [index(2, 3)]);
    let mut smmu = running(everything());
    provoke(&mut smmu, 2);
    smmu.write32(0x1_00ac, 2);
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.take_misuse(), [index(2, 1)]);
}

#[test]
fn a_non_coherent_cpu_must_refresh_before_it_reads_events() {
    let mut smmu = running(interface::minimal());
    provoke(&mut smmu, 1);
    assert_eq!(smmu.read32(0x1_00a8), 1);
    assert_eq!(smmu.load(EVENTS), Some(0));
    smmu.refresh(EVENTS, 32);
    assert_eq!(smmu.load(EVENTS), Some(BAD_STE));
}

/// A queue of 4 with 4 events, and a fault of stage 2 that stalls (S2S 57).
fn full_and_stalled() -> Smmu {
    let mut smmu = running(everything());
    provoke(&mut smmu, 4);
    let mut words = interface::stage2(0);
    words[2] |= 1 << 57;
    interface::entry(&mut smmu, words);
    let stalled = smmu.translate(interface::read(0x4000_0000));
    assert!(matches!(stalled, Err(Refusal::Stalled(_))), "{stalled:?}");
    smmu
}

#[test]
fn a_stalled_event_waits_for_room_and_is_no_overflow() {
    let mut smmu = full_and_stalled();
    assert_eq!(smmu.read32(0x1_00a8), 4);
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.read32(0x1_00a8), 5);
    // F_TRANSLATION with the Stall bit, 95.
    assert_eq!(smmu.load(EVENTS), Some(5 << 32 | 0x10));
    assert_eq!(smmu.load(EVENTS + 8).map(|word| word >> 31 & 1), Some(1));
    assert_eq!(smmu.counts().lost, 0);
}

#[test]
fn a_stalled_event_waits_for_an_acknowledgement() {
    let mut smmu = full_and_stalled();
    smmu.inject(Fault::Gerror(1 << 2));
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.read32(0x1_00a8), 4);
    smmu.write32(0x64, 1 << 2);
    assert_eq!(smmu.read32(0x1_00a8), 5);
}

#[test]
fn what_is_terminated_is_not_recorded_later() {
    let mut smmu = full_and_stalled();
    // CMD_STALL_TERM.
    interface::submit(&mut smmu, &[[5 << 32 | 0x45, 0]]);
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.read32(0x1_00a8), 4);
    // SMMUEN.
    let mut smmu = full_and_stalled();
    smmu.write32(0x20, 0b1110);
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.read32(0x1_00a8), 4);
}

//! The page request queue (IHI 0070, 8.1 and 8.2).
#![allow(missing_docs)]

mod common;

use common::Fake;
use smmuv3_driver::{Answer, Config, Smmu};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::control::{Cr0, IrqCtrl};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

fn able() -> Fake {
    Fake::with(|state| {
        let idr0 = state.idr0().with_ats(true).with_pri(true);
        state.set(reg::IDR0, u32::from(idr0));
        // PRIQS 19, SSIDSIZE 16.
        state.set(reg::IDR1, 0x0273_9c10_u32);
    })
}

fn driver(fake: &Fake, pri_log2: Option<u8>) -> Driver<'_> {
    let config = Config {
        pri_log2,
        ..Config::default()
    };
    let driver = Smmu::new(fake, fake, fake, config).unwrap();
    fake.take_consumed();
    driver
}

fn request(index: u16, last: bool) -> PageRequest {
    PageRequest::default()
        .with_stream(7)
        .with_read(true)
        .with_last(last)
        .with_prg_index(index)
        .with_address(u64::from(index) << 12)
}

fn read(smmu: &mut Driver<'_>, limit: u32) -> (Vec<u16>, bool, bool) {
    let mut indices = Vec::new();
    let drained = smmu.drain_pri(limit, |request| {
        indices.push(request.prg_index());
        Answer::Later
    });
    assert_eq!(drained.events as usize, indices.len());
    (indices, drained.overflowed, drained.more)
}

#[test]
fn it_is_off_unless_asked_for() {
    let fake = able();
    let mut smmu = driver(&fake, None);
    assert!(!fake.state.borrow().ack().priqen());
    assert!(!IrqCtrl::from(fake.state.borrow().get32(reg::IRQ_CTRL)).priq_irqen());
    assert_eq!(read(&mut smmu, 8), (vec![], false, false));
    // Asked for, and not there.
    let fake = Fake::new();
    let mut smmu = driver(&fake, Some(4));
    assert!(!fake.state.borrow().ack().priqen());
    assert_eq!(read(&mut smmu, 8), (vec![], false, false));
    let fake = able();
    let _smmu = driver(&fake, Some(4));
    assert_eq!(fake.state.borrow().ack(), Cr0::from(0b1_1111));
    assert!(IrqCtrl::from(fake.state.borrow().get32(reg::IRQ_CTRL)).priq_irqen());
}

#[test]
fn requests_are_read_in_order_around_the_end() {
    let fake = able();
    let mut smmu = driver(&fake, Some(2));
    for n in 0..50u16 {
        assert_eq!(fake.request(request(2 * n, false)), (true, false));
        assert_eq!(fake.request(request(2 * n + 1, true)), (true, false));
        assert_eq!(read(&mut smmu, 1), (vec![2 * n], false, true));
        assert_eq!(read(&mut smmu, 1), (vec![2 * n + 1], false, false));
    }
    assert_eq!(smmu.stats().requests, 100);
    assert_eq!(smmu.stats().request_overflows, 0);
}

/// 8.1.1: acknowledged with the last request from before it, not earlier.
#[test]
fn an_overflow_ends_when_everything_is_read() {
    let fake = able();
    let mut smmu = driver(&fake, Some(2));
    for n in 0..4 {
        assert_eq!(fake.request(request(n, false)), (true, false));
    }
    assert_eq!(fake.request(request(0, true)), (false, true), "answered");
    assert_eq!(read(&mut smmu, 3), (vec![0, 1, 2], false, true));
    // There is room, and still nothing is written.
    assert_eq!(fake.request(request(9, true)), (false, true));
    assert_eq!(read(&mut smmu, 3), (vec![3], true, false));
    assert_eq!(smmu.stats().request_overflows, 1);
    assert_eq!(fake.request(request(9, true)), (true, false));
    assert_eq!(read(&mut smmu, 3), (vec![9], false, false));
}

#[test]
fn a_refused_group_is_answered_once() {
    let fake = able();
    let mut smmu = driver(&fake, Some(4));
    let substream = request(6, true).with_ssv(true).with_substream(0x123);
    let marker = substream.with_read(false);
    for one in [request(5, false), request(5, true), substream, marker] {
        assert_eq!(fake.request(one), (true, false));
    }
    smmu.drain_pri(8, |_| Answer::Refuse);
    let answers = fake.take_consumed();
    assert_eq!(answers.len(), 2);
    for (answer, index, ssv) in [(answers[0], 5, false), (answers[1], 6, true)] {
        assert_eq!(answer.opcode(), Opcode::PRI_RESP);
        assert_eq!((answer.stream().0, answer.prg_index()), (7, index));
        assert_eq!((answer.ssv(), answer.resp()), (ssv, 0));
    }
    assert_eq!(answers[1].substream_bits(), 0x123);
}

#[test]
fn a_producer_outside_the_queue_is_not_followed() {
    let fake = able();
    let mut smmu = driver(&fake, Some(2));
    fake.state.borrow_mut().set(reg::PRIQ_PROD, 7u32);
    let drained = smmu.drain_pri(8, |_| panic!("there is no request"));
    assert!(drained.inconsistent);
    assert_eq!(fake.state.borrow().get32(reg::PRIQ_CONS), 7);
}

#[test]
fn a_restart_begins_anew_and_stopping_gives_all_back() {
    let fake = able();
    let mut smmu = driver(&fake, Some(4));
    fake.request(request(1, true));
    smmu.restart().unwrap();
    assert_eq!(read(&mut smmu, 8).0, []);
    fake.request(request(2, true));
    assert_eq!(read(&mut smmu, 8).0, [2]);
    smmu.stop().unwrap();
    assert_eq!(fake.arena.bytes_in_use(), 0);
}

//! Page requests (IHI 0070, chapter 8).
#![allow(missing_docs)]

mod interface;

use interface::{REQUESTS, S, TABLE, everything, minimal, put, running, submit};
use smmuv3_model::{
    Fault, Interrupt, PageOutcome, PageResponse, ResponseCode, Signal, Smmu, Source,
};
use smmuv3_spec::id::{Idr1, Idr3};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, SubstreamId};

const SSV: u64 = 1 << 63;
const LAST: u64 = 1 << 62;
const WRITE: u64 = 1 << 61;
const READ: u64 = 1 << 60;
/// Substream 3 of stream 5.
const WITH: u64 = SSV | 3 << 32 | S as u64;

fn ask(smmu: &mut Smmu, low: u64, group: u64) -> PageOutcome {
    smmu.page_request(PageRequest([low, 0x4567_8000 | group]))
}

fn answer(substream: Option<u32>, group: u16, code: ResponseCode) -> PageResponse {
    PageResponse {
        stream: StreamId(S),
        substream: substream.map(SubstreamId),
        prg_index: group,
        code,
    }
}

fn overflowing(smmu: &mut Smmu) {
    for group in 0..4 {
        let queued = ask(smmu, READ | u64::from(S), group);
        assert_eq!(queued, PageOutcome::Queued);
    }
}

#[test]
fn a_request_is_recorded_as_it_came() {
    let mut smmu = running(everything());
    // Priv 58, X 59.
    let low = WITH | LAST | WRITE | READ | 3 << 58;
    assert_eq!(ask(&mut smmu, low, 0x1ff), PageOutcome::Queued);
    assert_eq!(smmu.load(REQUESTS), Some(low));
    assert_eq!(smmu.load(REQUESTS + 8), Some(0x4567_81ff));
    assert_eq!(smmu.read32(0x1_00c8), 1);
    // Without a substream there is neither Priv nor X; reserved bits are not
    // recorded.
    let without = READ | 3 << 58 | 0x3f << 52 | 3 << 32 | u64::from(S);
    assert_eq!(ask(&mut smmu, without, 7 << 9), PageOutcome::Queued);
    assert_eq!(smmu.load(REQUESTS + 16), Some(READ | u64::from(S)));
    assert_eq!(smmu.load(REQUESTS + 24), Some(0x4567_8000));
    // Nor are there substreams where the SMMU has none.
    let mut none = everything();
    none.idr1 = Idr1::from(interface::IDR1 & !(0x1f << 6));
    let mut smmu = running(none);
    assert_eq!(ask(&mut smmu, low, 0), PageOutcome::Queued);
    let expected = LAST | WRITE | READ | u64::from(S);
    assert_eq!(smmu.load(REQUESTS), Some(expected));
}

#[test]
fn a_full_queue_answers_the_last_of_a_group() {
    let mut smmu = running(everything());
    overflowing(&mut smmu);
    assert_eq!(smmu.read32(0x1_00c8), 4);
    let plain = u64::from(S) | READ;
    assert_eq!(ask(&mut smmu, plain, 7), PageOutcome::Dropped);
    // OVFLG.
    assert_eq!(smmu.read32(0x1_00c8), 1 << 31 | 4);
    let success = answer(None, 7, ResponseCode::Success);
    let answered = PageOutcome::Answered(success);
    assert_eq!(ask(&mut smmu, plain | LAST, 7), answered);
    assert_eq!(smmu.take_responses(), [success]);
    // Unlike events, nothing comes in until OVACKFLG says so.
    smmu.write32(0x1_00cc, 4);
    assert_eq!(ask(&mut smmu, plain | LAST, 7), answered);
    smmu.write32(0x1_00cc, 1 << 31 | 4);
    assert_eq!(ask(&mut smmu, plain | LAST, 7), PageOutcome::Queued);
    assert_eq!(smmu.read32(0x1_00c8), 1 << 31 | 5);
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn a_stop_marker_is_never_answered() {
    let mut smmu = running(everything());
    assert_eq!(ask(&mut smmu, WITH | LAST, 0), PageOutcome::Queued);
    let mut smmu = running(everything());
    overflowing(&mut smmu);
    assert_eq!(ask(&mut smmu, WITH | LAST, 0), PageOutcome::Dropped);
    smmu.write32(0x20, 0b1101);
    assert_eq!(ask(&mut smmu, WITH | LAST, 0), PageOutcome::Dropped);
    assert_eq!(smmu.take_responses(), []);
    // Without a substream it is a request.
    let low = LAST | u64::from(S);
    let failure = answer(None, 0, ResponseCode::Failure);
    assert_eq!(ask(&mut smmu, low, 0), PageOutcome::Answered(failure));
}

#[test]
fn whether_an_automatic_answer_has_the_substream() {
    let low = WITH | READ | LAST;
    // PPS: always.
    let mut smmu = running(everything());
    overflowing(&mut smmu);
    let with = answer(Some(3), 1, ResponseCode::Success);
    assert_eq!(ask(&mut smmu, low, 1), PageOutcome::Answered(with));
    // Else PPAR says, bit 82.
    let mut profile = everything();
    profile.idr3 = Idr3::from(1 << 10);
    for (word0, word1, expected) in [
        (1, 1 << 18, answer(Some(3), 1, ResponseCode::Success)),
        (1, 0, answer(None, 1, ResponseCode::Success)),
        (0, 1 << 18, answer(None, 1, ResponseCode::Failure)),
    ] {
        let mut smmu = running(profile);
        overflowing(&mut smmu);
        put(&mut smmu, TABLE + u64::from(S) * 64, word0);
        put(&mut smmu, TABLE + u64::from(S) * 64 + 8, word1);
        assert_eq!(ask(&mut smmu, low, 1), PageOutcome::Answered(expected));
        assert_eq!(smmu.read32(0x1_00a8), 0, "no event");
    }
    // REC_CFG_ATS: C_BAD_STE is recorded.
    let mut smmu = running(profile);
    smmu.write32(0x20, 0);
    smmu.write32(0x2c, 8);
    smmu.write32(0x20, 0b1111);
    overflowing(&mut smmu);
    ask(&mut smmu, low, 1);
    assert_eq!(smmu.load(interface::EVENTS), Some(5 << 32 | 4));
}

#[test]
fn nobody_serves_requests_while_off() {
    let low = u64::from(S) | READ;
    let failure = PageOutcome::Answered(answer(None, 2, ResponseCode::Failure));
    // PRIQEN, SMMUEN.
    for cr0 in [0b1101, 0b1110] {
        let mut smmu = running(everything());
        smmu.write32(0x20, cr0);
        assert_eq!(ask(&mut smmu, low, 2), failure, "Last or not");
        assert_eq!(ask(&mut smmu, WITH | READ, 2), failure, "no substream");
        assert_eq!(smmu.read32(0x1_00c8), 0);
    }
    let mut smmu = running(minimal());
    assert_eq!(ask(&mut smmu, low, 2), failure);
    let mut smmu = running(everything());
    smmu.inject(Fault::Gerror(1 << 3));
    assert_eq!(ask(&mut smmu, low, 2), failure);
    // No memory.
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b1101);
    smmu.write64(0xc0, 0x7000_0000 | 2);
    smmu.write32(0x20, 0b1111);
    assert_eq!(ask(&mut smmu, low, 2), failure);
    assert_eq!((smmu.read32(0x60), smmu.read32(0x1_00c8)), (1 << 3, 0));
}

#[test]
fn when_page_requests_interrupt() {
    let wired = Interrupt {
        source: Source::PriQueue,
        signal: Signal::Wired,
    };
    let low = u64::from(S) | READ;
    let mut smmu = running(everything());
    smmu.write32(0x50, 0b10);
    ask(&mut smmu, low, 0);
    assert_eq!(smmu.take_interrupts(), [wired]);
    ask(&mut smmu, low | LAST, 0);
    assert_eq!(smmu.take_interrupts(), []);
    // LO: the last of a group alone, even one that is dropped.
    let mut smmu = running(everything());
    smmu.write32(0xdc, 1 << 31);
    smmu.write32(0x50, 0b10);
    ask(&mut smmu, low, 0);
    assert_eq!(smmu.take_interrupts(), []);
    for _ in 0..4 {
        ask(&mut smmu, low | LAST, 0);
        assert_eq!(smmu.take_interrupts(), [wired]);
    }
    ask(&mut smmu, low, 0);
    assert_eq!(smmu.take_interrupts(), []);
}

#[test]
fn answers_by_command() {
    let mut smmu = running(everything());
    let codes = [
        ResponseCode::Failure,
        ResponseCode::InvalidRequest,
        ResponseCode::Success,
    ];
    for (resp, code) in (0..).zip(codes) {
        submit(&mut smmu, &[[5 << 32 | 0x41, resp << 12 | 0x1fe]]);
        let low = 5 << 32 | 3 << 12 | 1 << 11 | 0x41;
        submit(&mut smmu, &[[low, resp << 12 | 1]]);
        let expected = [answer(None, 0x1fe, code), answer(Some(3), 1, code)];
        assert_eq!(smmu.take_responses(), expected);
    }
    assert_eq!(ResponseCode::InvalidRequest as u8, 1);
    // Ignored while translation is off (6.3.9.6).
    smmu.write32(0x20, 0b1110);
    submit(&mut smmu, &[[5 << 32 | 0x41, 0]]);
    assert_eq!(smmu.take_responses(), []);
    assert_eq!(smmu.read32(0x9c), smmu.read32(0x98));
}

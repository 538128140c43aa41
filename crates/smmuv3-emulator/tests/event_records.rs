//! Which bits of a physical event its owner may see (IHI 0070, 7.3). Bits are
//! those of the whole record.
#![allow(missing_docs)]

mod common;

use common::{Board, CONFIG, RAM, features};
use smmuv3_emulator::{Ids, OwnerEvent, OwnerTable, OwnerView, translate_event};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::id::Idr0;

const TABLE: u64 = RAM + 0x10_0000;
/// The owner's number; the physical one is another.
const STREAM: u32 = 0x21;

/// A mask of bits from `low` to `high`.
const fn bits(high: u32, low: u32) -> [u64; 4] {
    let mut mask = [0; 4];
    mask[low as usize / 64] = (u64::MAX >> (63 - (high - low))) << (low % 64);
    mask
}

fn all(masks: &[[u64; 4]]) -> [u64; 4] {
    let mut sum = [0; 4];
    for mask in masks {
        for (sum, word) in sum.iter_mut().zip(mask) {
            *sum |= word;
        }
    }
    sum
}

fn seen(ids: &Ids, record: [u64; 4]) -> OwnerEvent {
    let board = Board::new();
    // V clear everywhere.
    let cfg = StrtabBaseCfg::from(6);
    let table = OwnerTable::new(ids, StrtabBase::from(TABLE), cfg);
    let view = OwnerView {
        ids,
        record_bad_streams: true,
        table: &table,
    };
    translate_event(&view, &board, StreamId(STREAM), &EventRecord(record))
}

fn ids() -> Ids {
    Ids::derive(&features(), &CONFIG)
}

const SUBSTREAM: [u64; 4] = bits(31, 11);
const ADDRESS: [u64; 4] = bits(191, 128);
/// PnU, InD, RnW.
const ACCESS: [u64; 4] = bits(99, 97);
const CLASS: [u64; 4] = bits(105, 104);
/// Stall and STAG.
const STALL: [u64; 4] = [0, 1 << 31 | 0xffff, 0, 0];
/// S2.
const S2: u64 = 1 << 39;

/// A record of `kind` of which every other bit is set but those of `clear` in
/// word 1.
fn full(kind: u64, clear: u64) -> [u64; 4] {
    [!0xff | kind, !clear, u64::MAX, u64::MAX]
}

#[track_caller]
fn check(record: [u64; 4], kind: u64, allowed: &[[u64; 4]], for_hypervisor: bool) {
    let translated = seen(&ids(), record);
    let mask = all(allowed);
    let mut expected: [u64; 4] = std::array::from_fn(|n| record[n] & mask[n]);
    expected[0] |= kind | u64::from(STREAM) << 32;
    assert_eq!(
        translated.record.map(|record| record.0.map(Hex)),
        Some(expected.map(Hex)),
        "{kind:#x}"
    );
    assert_eq!(translated.for_hypervisor, for_hypervisor);
}

#[derive(PartialEq)]
struct Hex(u64);

impl std::fmt::Debug for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[test]
fn stage_1() {
    let check = |kind, allowed: &[[u64; 4]]| check(full(kind, S2), kind, allowed, false);
    check(0x01, &[SUBSTREAM, ADDRESS, ACCESS]);
    // The table says C_BAD_STE for both.
    check(0x04, &[SUBSTREAM]);
    check(0x05, &[SUBSTREAM, ADDRESS]);
    check(0x06, &[]);
    check(0x07, &[SUBSTREAM, ADDRESS, bits(99, 99)]);
    check(0x08, &[bits(31, 12)]);
    // No FetchAddr: it is physical.
    check(0x09, &[SUBSTREAM]);
    check(0x0a, &[SUBSTREAM]);
    check(0x0b, &[SUBSTREAM, ADDRESS, ACCESS, CLASS]);
    for kind in 0x10..=0x13 {
        check(kind, &[SUBSTREAM, ADDRESS, ACCESS, CLASS, STALL]);
    }
    check(0x20, &[SUBSTREAM, ADDRESS, ACCESS]);
    // Span (115:108), permissions (103:98), InputAddr[63:12].
    check(
        0x24,
        &[SUBSTREAM, bits(115, 108), bits(103, 98), bits(191, 140)],
    );
}

/// Without SSV (11) there is no substream.
#[test]
fn an_unknown_substream_is_not_seen() {
    let mut record = full(0x0a, 0);
    record[0] &= !(1 << 11);
    let translated = seen(&ids(), record).record.unwrap();
    assert_eq!(translated.0, [0x0a | u64::from(STREAM) << 32, 0, 0, 0]);
}

#[test]
fn stage_2() {
    // CLASS (105:104) and S2 (103); the IPA is 247:204.
    let class = |kind, class: u64| {
        let mut record = full(kind, 0b11 << 40);
        record[1] |= class << 40;
        record
    };
    let ipa = bits(247, 204);
    for kind in 0x10..=0x13 {
        check(class(kind, 0), 0x09, &[SUBSTREAM, ipa], true);
        check(
            class(kind, 1),
            0x0b,
            &[SUBSTREAM, ADDRESS, ACCESS, CLASS, ipa],
            true,
        );
    }
    // An abort of a fetch of stage 2 itself: its address is not the owner's.
    check(class(0x0b, 0), 0x09, &[SUBSTREAM], true);
    check(
        class(0x0b, 1),
        0x0b,
        &[SUBSTREAM, ADDRESS, ACCESS, CLASS],
        true,
    );
    let nothing = OwnerEvent {
        record: None,
        for_hypervisor: true,
    };
    for kind in [0x0b, 0x10, 0x11, 0x12, 0x13] {
        assert_eq!(seen(&ids(), class(kind, 2)), nothing);
        assert_eq!(seen(&ids(), class(kind, 3)), nothing);
    }
    for n in 0..4 {
        assert_eq!(seen(&ids(), class(0x20, n)), nothing);
    }
}

/// F_STE_FETCH, F_CFG_CONFLICT, F_VMS_FETCH are of our table; what is unknown is
/// dropped.
#[test]
fn nothing_else() {
    let known = [
        0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a, 0x0b, 0x10, 0x11, 0x12, 0x13, 0x20,
        0x24,
    ];
    for kind in (0..=0xff).filter(|kind| !known.contains(kind)) {
        for clear in [0, S2] {
            let translated = seen(&ids(), full(kind, clear));
            assert_eq!(translated.record, None, "{kind:#x}");
            assert_eq!(
                translated.for_hypervisor,
                [0x03, 0x21, 0x25].contains(&kind)
            );
        }
    }
}

/// C_BAD_STE and C_BAD_STREAMID of hardware: what the owner's table says.
#[test]
fn bad_entries() {
    for kind in [0x02, 0x04] {
        check(full(kind, 0), 0x04, &[SUBSTREAM], false);
    }
    let ids = ids();
    let board = Board::new();
    let ask = |cfg: u32, base: u64, recinvsid| {
        let table = OwnerTable::new(&ids, StrtabBase::from(base), StrtabBaseCfg::from(cfg));
        let view = OwnerView {
            ids: &ids,
            record_bad_streams: recinvsid,
            table: &table,
        };
        let record = EventRecord([4 | 0x1234 << 32, 0, 0, 0]);
        translate_event(&view, &board, StreamId(STREAM), &record).record
    };
    let header = |kind: u64| [kind | u64::from(STREAM) << 32, 0, 0, 0];
    assert_eq!(ask(5, TABLE, true), Some(EventRecord(header(0x02))));
    assert_eq!(ask(5, TABLE, false), None);
    let mut fetch = header(0x03);
    fetch[3] = 0x10_0000_0000 + u64::from(STREAM) * 64;
    assert_eq!(ask(6, 0x10_0000_0000, false), Some(EventRecord(fetch)));
    // An entry that aborts says nothing (5.2).
    board.write64(TABLE + u64::from(STREAM) * 64, 1);
    assert_eq!(ask(6, TABLE, true), None);
}

/// Stalls only where they are offered: STALL_MODEL (25:24) 0b00 or 0b10.
#[test]
fn stalls() {
    for (model, offered) in [(0, true), (1, false), (2, true)] {
        let derived = ids();
        let raw = u32::from(derived.idr0) & !(3 << 24) | model << 24;
        let ids = Ids {
            idr0: Idr0::from(raw),
            ..derived
        };
        let record = seen(&ids, full(0x10, S2)).record.unwrap();
        assert_eq!(record.stall(), offered);
        assert_eq!(record.stag(), if offered { 0xffff } else { 0 });
    }
}

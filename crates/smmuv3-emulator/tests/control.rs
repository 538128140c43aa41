//! `CR0` and `GBPA` (IHI 0070, 6.3.9, 6.3.14): in any order, and in steps.

mod common;

use common::{Act, COMMANDS, LOG2, Machine, RAM, VMID};
use smmuv3_emulator::{Progress, RangeConfig, Size, StreamConfig};

const CR0: u32 = 0x20;
const CR0ACK: u32 = 0x24;
const GBPA: u32 = 0x44;
const UPDATE: u32 = 1 << 31;
const ABORT: u32 = 1 << 20;
const TABLE: u64 = RAM + 0x20_0000;

/// 600 streams whose entries take turns, so that no two can be done together.
fn many() -> Machine {
    let mut m = Machine::enabled();
    m.physical.streams = vec![(0, 599)];
    for stream in 0..600 {
        // Config: bypass with different attributes.
        let at = TABLE + stream * 64;
        m.board.write64(at, 1 | 0b100 << 1);
        m.board.write64(at + 8, (stream % 2) << 44);
    }
    m.double(0x80, TABLE);
    m.word(0x88, 10);
    m.take();
    m
}

fn streams(acts: &[Act]) -> u32 {
    acts.iter()
        .map(|act| match act {
            Act::Set(..) => 1,
            Act::SetRange(first, last, _) => last - first + 1,
            _ => 0,
        })
        .sum()
}

#[test]
fn translation_is_acknowledged_when_every_stream_has_it() {
    let mut m = many();
    let all = m.repeat(CR0, 9);
    assert!(all.len() >= 3, "600 streams, 256 at a time");
    let last = all.len() - 1;
    for (i, acts) in all.iter().enumerate() {
        assert!(streams(acts) <= 256);
        let acknowledged = acts.contains(&Act::Show(CR0ACK, 9));
        assert_eq!(acknowledged, i == last, "{i}");
        assert!(i == last || acts.contains(&Act::Show(CR0, 9)));
    }
    let total: u32 = all.iter().map(|acts| streams(acts)).sum();
    assert_eq!(total, 600);
    // The last is done before it is acknowledged.
    let acts = &all[last];
    let done = acts
        .iter()
        .rposition(|a| matches!(a, Act::Set(..) | Act::SetRange(..)));
    assert!(done < acts.iter().position(|a| *a == Act::Show(CR0ACK, 9)));
}

#[test]
fn repeated_writes_of_the_same_do_nothing() {
    let mut m = many();
    m.until_done(CR0, 9);
    m.take();
    m.word(CR0, 9);
    assert_eq!(streams(&m.take()), 0);
}

#[test]
fn the_newest_value_wins() {
    let mut m = many();
    assert_eq!(m.write(CR0, Size::Word, 9), Progress::Again);
    assert_eq!(m.reads(CR0ACK), 8);
    m.take();
    let all = m.repeat(CR0, 8);
    assert_eq!(m.reads(CR0ACK), 8);
    let total: u32 = all.iter().map(|acts| streams(acts)).sum();
    assert_eq!(total, 600, "all of them are as GBPA says again");
    assert!(
        all.concat()
            .iter()
            .all(|a| !matches!(a, Act::Show(CR0ACK, 9)))
    );
}

#[test]
fn other_writes_carry_on_too() {
    // A write that is never repeated leaves nothing behind that another write
    // would not finish first.
    let mut m = many();
    assert_eq!(m.write(CR0, Size::Word, 9), Progress::Again);
    m.take();
    let prod = m.put(&[[0x12, 0], [0x46, 0]]);
    let all = m.repeat(0x98, prod);
    assert!(all.len() > 1);
    let all = all.concat();
    let issue = all.iter().position(|a| matches!(a, Act::Issue(_))).unwrap();
    assert!(!all[issue..].iter().any(|a| matches!(a, Act::Set(..))));
    assert_eq!(m.reads(CR0ACK), 9);
    assert_eq!(m.reads(0x9c), 2);
}

#[test]
fn invalidations_of_many_streams_go_in_steps() {
    let mut m = many();
    m.until_done(CR0, 9);
    m.take();
    let prod = m.put(&[[0x04, 31], [0x12, 0], [0x46, 0]]);
    let all = m.repeat(0x98, prod);
    assert!(all.len() >= 3);
    for acts in &all[..all.len() - 1] {
        assert!(streams(acts) <= 256);
        assert!(!acts.iter().any(|a| matches!(a, Act::Issue(_))));
    }
    assert_eq!(m.reads(0x9c), 3);
    assert_eq!(m.reads(CR0ACK), 9);
}

#[test]
fn an_invalidation_at_the_end_is_repeated_too() {
    let mut m = many();
    m.until_done(CR0, 9);
    m.take();
    let prod = m.put(&[[0x04, 31]]);
    let all = m.repeat(0x98, prod);
    let total: u32 = all.iter().map(|acts| streams(acts)).sum();
    assert_eq!(total, 600);
    assert_eq!(m.reads(0x9c), 1);
}

#[test]
fn configuration_is_fixed_until_translation_is_off() {
    let mut m = Machine::enabled();
    m.physical.streams = (0..600).map(|i| (2 * i, 2 * i)).collect();
    m.until_done(CR0, 9);
    assert_eq!(m.write(CR0, Size::Word, 8), Progress::Again);
    assert_eq!((m.reads(CR0), m.reads(CR0ACK)), (8, 9));
    for offset in [0x80, 0x84, 0x88, 0x2c] {
        m.word(offset, !0);
        assert_eq!(m.reads(offset), 0, "{offset:#x}");
    }
    m.until_done(CR0, 8);
    m.word(0x88, !0);
    assert_ne!(m.reads(0x88), 0);
}

#[test]
fn an_index_is_cut_to_the_size_of_its_queue() {
    let mut m = Machine::enabled();
    m.until_done(CR0, 0);
    m.word(0x9c, !0);
    m.word(0x98, !0);
    m.until_done(CR0, 8);
    assert_eq!(m.reads(0x9c), (2 << LOG2) - 1);
    assert_eq!(m.reads(0x98), 0xf_ffff);
    assert_eq!(m.smmu.counts().inconsistent, 0);
    m.put(&[[0x12, 0]]);
    m.board.write64(Machine::command_at((2 << LOG2) - 1), 0x12);
    m.take();
    m.word(0x98, 0);
    assert_eq!(m.issued(), [[0x12 | u64::from(VMID) << 32, 0]]);
    assert_eq!(m.reads(0x9c), 0);
}

#[test]
fn work_of_all_kinds_counts_together() {
    let mut m = many();
    m.until_done(CR0, 1);
    let base = RAM + 0x10_0000;
    m.double(0x90, base | 10);
    for i in 0..200 {
        m.board.write64(base + i * 16, 0x12);
    }
    m.board.write64(base + 200 * 16, 0x04);
    m.board.write64(base + 200 * 16 + 8, 31);
    m.until_done(CR0, 9);
    m.take();
    for acts in m.repeat(0x98, 201) {
        let issued = acts.iter().filter(|a| matches!(a, Act::Issue(_))).count();
        assert!(issued as u32 + streams(&acts) <= 256, "{issued}");
    }
}

#[test]
fn every_order() {
    // SMMUEN, PRIQEN, EVENTQEN, CMDQEN in each of 24 orders, then off again.
    let bits = [1u32, 2, 4, 8];
    let mut orders = vec![];
    for a in bits {
        for b in bits {
            for c in bits {
                let rest = 15 & !(a | b | c);
                if (a | b | c).count_ones() == 3 {
                    orders.push([a, b, c, rest]);
                }
            }
        }
    }
    assert_eq!(orders.len(), 24);
    for on in &orders {
        for off in &orders {
            let mut m = Machine::new();
            m.double(0x90, COMMANDS | u64::from(LOG2));
            m.double(0xa0, (RAM + 0x3_0000) | 4);
            m.double(0xc0, (RAM + 0x4_0000) | 4);
            m.double(0x80, TABLE);
            m.word(0x88, 4);
            m.board.write64(COMMANDS, 0x12);
            m.word(0x98, 1);
            let mut value = 0;
            for bit in on {
                value |= bit;
                m.until_done(CR0, value);
                assert_eq!((m.reads(CR0), m.reads(CR0ACK)), (value, value));
                assert_eq!(m.board.held.get(), (value >> 1).count_ones());
                assert_eq!(m.reads(0x9c), value >> 3, "commands start");
            }
            for bit in off {
                value &= !bit;
                m.until_done(CR0, value);
                assert_eq!((m.reads(CR0), m.reads(CR0ACK)), (value, value));
                assert_eq!(m.board.held.get(), (value >> 1).count_ones());
            }
        }
    }
}

#[test]
fn consumed_commands_stay_issued_and_the_others_are_not() {
    let mut m = Machine::enabled();
    m.word(CR0, 0);
    let prod = m.put(&[[0x12, 0]]);
    m.take();
    m.word(0x98, prod);
    assert_eq!(m.take(), [Act::Show(0x98, 1)]);
    m.word(CR0, 8);
    assert_eq!(m.issued(), [[0x12 | u64::from(VMID) << 32, 0]]);
}

#[test]
fn reserved_enables_stay_clear() {
    let mut m = Machine::new();
    m.until_done(CR0, !0);
    // ATSCHK as well; VMW and DPT_WALK_EN are RES0.
    assert_eq!((m.reads(CR0), m.reads(CR0ACK)), (0x1f, 0x1f));
    let mut features = common::features();
    features.idr0 = features.idr0.with_ats(false);
    let mut m = Machine::with(features, &common::CONFIG);
    m.until_done(CR0, !0);
    assert_eq!((m.reads(CR0), m.reads(CR0ACK)), (0xd, 0xd));
}

#[test]
fn bypass_attributes_need_update() {
    let mut m = Machine::enabled();
    m.word(GBPA, ABORT);
    assert_eq!(m.reads(GBPA), 0x1000);
    assert_eq!(streams(&m.take()), 0);
    m.word(GBPA, UPDATE | ABORT);
    assert_eq!(m.reads(GBPA), ABORT, "Update reads as 0 when done");
    let acts = m.take();
    assert!(acts.contains(&Act::SetRange(8, 15, RangeConfig::Abort)));
    assert_eq!(acts.last(), Some(&Act::Show(GBPA, ABORT)));
    m.word(GBPA, UPDATE | 0x1000);
    assert_eq!(m.reads(GBPA), 0x1000);
    let bypass = |a: &Act| matches!(a, Act::SetRange(8, 15, RangeConfig::Bypass(_)));
    assert!(m.take().iter().any(bypass));
    // Every field; the others are RES0.
    m.word(GBPA, !0);
    assert_eq!(m.reads(GBPA), 0x001f_3f1f);
}

#[test]
fn bypass_attributes_count_once_translation_is_off() {
    let mut m = Machine::enabled();
    m.until_done(CR0, 9);
    m.take();
    m.word(GBPA, UPDATE | ABORT);
    assert_eq!(m.reads(GBPA), ABORT);
    assert_eq!(streams(&m.take()), 0);
    m.until_done(CR0, 8);
    assert!(m.take().contains(&Act::SetRange(8, 15, RangeConfig::Abort)));
}

#[test]
fn an_update_of_many_streams_goes_in_steps() {
    let mut m = Machine::enabled();
    m.physical.streams = (0..600).map(|i| (2 * i, 2 * i)).collect();
    let value = u64::from(UPDATE | ABORT);
    assert_eq!(m.write(GBPA, Size::Word, value), Progress::Again);
    assert_eq!(m.reads(GBPA), UPDATE | ABORT);
    // A write while an update is under way is ignored.
    assert_eq!(m.write(GBPA, Size::Word, UPDATE.into()), Progress::Again);
    assert_eq!(m.reads(GBPA), UPDATE | ABORT);
    m.until_done(GBPA, UPDATE | ABORT);
    assert_eq!(m.reads(GBPA), ABORT);
    let all = m.take();
    assert_eq!(streams(&all), 600);
    let aborting = |a: &Act| match a {
        Act::Set(_, wanted) => *wanted == StreamConfig::Abort,
        Act::SetRange(.., wanted) => *wanted == RangeConfig::Abort,
        _ => true,
    };
    assert!(all.iter().all(aborting));
}

#[test]
fn enabling_in_the_middle_of_an_update() {
    let mut m = Machine::enabled();
    m.physical.streams = (0..600).map(|i| (2 * i, 2 * i)).collect();
    let value = u64::from(UPDATE | ABORT);
    assert_eq!(m.write(GBPA, Size::Word, value), Progress::Again);
    m.until_done(CR0, 9);
    assert_eq!((m.reads(CR0ACK), m.reads(GBPA)), (9, ABORT));
}

#[test]
fn offered_overrides_only() {
    let mut features = common::features();
    features.idr1 = features
        .idr1
        .with_attr_perms_ovr(false)
        .with_attr_types_ovr(false);
    let mut m = Machine::with(features, &common::CONFIG);
    m.until_done(GBPA, !0);
    assert_eq!(m.reads(GBPA), ABORT | 0x1000);
}

//! Walks of the owner's stream table (IHI 0070, 5.1, 6.3.24, 6.3.25, 7.3.3).
#![allow(missing_docs)]

mod common;

use common::{Board, CONFIG, RAM, RAM_SIZE, features};
use portcullis_addr::Ipa;
use smmuv3_emulator::{EntryLocation, Ids, OwnerTable, TableWalk};
use smmuv3_spec::StreamId;
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};

const TABLE: u64 = RAM + 0x10_0000;
const LEAF: u64 = RAM + 0x20_0000;

fn ids() -> Ids {
    Ids::derive(&features(), &CONFIG)
}

/// FMT (17:16), SPLIT (10:6), LOG2SIZE (5:0).
fn table(base: u64, fmt: u32, split: u32, log2: u32) -> OwnerTable {
    let cfg = StrtabBaseCfg::from(fmt << 16 | split << 6 | log2);
    OwnerTable::new(&ids(), StrtabBase::from(base), cfg)
}

/// Where the entry of `stream` was looked for: it says its own address.
fn place(board: &Board, table: &OwnerTable, stream: u32) -> Option<u64> {
    match table.find(board, StreamId(stream)) {
        TableWalk::Entry(entry) => {
            for (n, word) in (0..).zip(entry.0) {
                assert_eq!(word, entry.0[0] + n * 8);
            }
            Some(entry.0[0])
        }
        TableWalk::NoEntry => None,
        TableWalk::Unreachable(at) => panic!("unreachable {at:?}"),
    }
}

/// Memory of which each word is its own address.
fn board() -> Board {
    let board = Board::new();
    for at in (RAM..RAM + RAM_SIZE).step_by(8) {
        board.write64(at, at);
    }
    board
}

#[test]
fn a_linear_table() {
    let board = board();
    let linear = table(TABLE, 0, 0, 8);
    assert_eq!(place(&board, &linear, 0), Some(TABLE));
    assert_eq!(place(&board, &linear, 255), Some(TABLE + 255 * 64));
    assert_eq!(place(&board, &linear, 256), None);
    assert_eq!(place(&board, &linear, u32::MAX), None);
    // Aligned to its size, 16 KiB; bits above 40 and RA do not count.
    let odd = table((TABLE + 0x3fc0) | (0xff_ffff << 40), 0, 0, 8);
    assert_eq!(place(&board, &odd, 1), Some(TABLE + 64));
    // SPLIT is ignored, reserved formats are linear.
    for fmt in [2, 3] {
        assert_eq!(
            table(TABLE, fmt, 8, 8).find(&board, StreamId(1)),
            TableWalk::Entry(smmuv3_spec::ste::Ste(std::array::from_fn(|n| TABLE
                + 64
                + n as u64 * 8)))
        );
    }
    // One entry.
    let one = table(TABLE + 0x40, 0, 0, 0);
    assert_eq!(place(&board, &one, 0), Some(TABLE + 0x40));
    assert_eq!(place(&board, &one, 1), None);
}

/// The base is aligned by the literal LOG2SIZE, the range limited by SIDSIZE
/// (16): a table of 2^17 entries has 8 MiB and begins below our memory.
#[test]
fn larger_than_the_streams() {
    let board = board();
    let large = table(TABLE, 0, 0, 17);
    assert!(large.contains(StreamId(0xffff)));
    assert!(!large.contains(StreamId(0x1_0000)));
    assert_eq!(TABLE & !0x7f_ffff, RAM);
    assert_eq!(place(&board, &large, 1), Some(RAM + 64));
    // LOG2SIZE of 63 leaves no address bit.
    for fmt in [0, 1] {
        let all = table(TABLE, fmt, 6, 63);
        assert_eq!(
            all.find(&board, StreamId(0)),
            TableWalk::Unreachable(Ipa::new(0))
        );
    }
}

#[test]
fn two_levels() {
    let board = board();
    // Reserved splits are 6.
    for (split, bits) in [(6, 6u8), (8, 8), (10, 10), (0, 6), (7, 6), (31, 6)] {
        let two = table(TABLE, 1, split, 14);
        let last = (1u32 << bits) - 1;
        let descriptor = TABLE + 3 * 8;
        let stream = 3 << bits;
        board.write64(descriptor, LEAF | (u64::from(bits) + 1));
        assert_eq!(place(&board, &two, stream), Some(LEAF));
        let end = LEAF + u64::from(last) * 64;
        assert_eq!(place(&board, &two, stream + last), Some(end));
        // Half an array, and one entry.
        board.write64(descriptor, LEAF | u64::from(bits));
        assert_eq!(
            place(&board, &two, stream + last / 2),
            Some(LEAF + u64::from(last / 2) * 64)
        );
        assert_eq!(place(&board, &two, stream + last / 2 + 1), None);
        board.write64(descriptor, LEAF | 1);
        assert_eq!(place(&board, &two, stream), Some(LEAF));
        assert_eq!(place(&board, &two, stream + 1), None);
        // Invalid, larger than the split, reserved.
        for span in [0, u64::from(bits) + 2, 12, 31] {
            board.write64(descriptor, LEAF | span);
            assert_eq!(place(&board, &two, stream), None, "{span}");
        }
        // L2Ptr is aligned to the array; bits above 40 and bit 5 do not count.
        board.write64(
            descriptor,
            LEAF | 0xffff << 40 | 0xff << 56 | 1 << 5 | 1 << 6 | 3,
        );
        assert_eq!(place(&board, &two, stream + 1), Some(LEAF + 64));
    }
}

/// More than SPLIT allows is out of bounds also where the table is smaller
/// than an array; all of it below LOG2SIZE counts.
#[test]
fn split_above_the_size() {
    let board = board();
    let small = table(TABLE + 0x40, 1, 10, 4);
    board.write64(TABLE + 0x40, LEAF | 11);
    assert_eq!(place(&board, &small, 15), Some(LEAF + 15 * 64));
    assert_eq!(place(&board, &small, 16), None);
    // Aligned to 64 bytes at least, and to the first level: 2^8 descriptors.
    let odd = table(TABLE + 0x7c0, 1, 6, 14);
    board.write64(TABLE, LEAF | 7);
    assert_eq!(place(&board, &odd, 0), Some(LEAF));
}

#[test]
fn fetches_outside_of_memory() {
    let board = board();
    let away = RAM + RAM_SIZE;
    let linear = table(away, 0, 0, 8);
    assert_eq!(
        linear.find(&board, StreamId(3)),
        TableWalk::Unreachable(Ipa::new(away + 3 * 64))
    );
    let two = table(away, 1, 8, 10);
    assert_eq!(
        two.find(&board, StreamId(0x201)),
        TableWalk::Unreachable(Ipa::new(away + 2 * 8))
    );
    let two = table(TABLE, 1, 8, 10);
    board.write64(TABLE + 8, away | 9);
    assert_eq!(
        two.find(&board, StreamId(0x103)),
        TableWalk::Unreachable(Ipa::new(away + 3 * 64))
    );
}

#[test]
fn stretches() {
    let board = board();
    let two = table(TABLE, 1, 8, 10);
    board.write64(TABLE, LEAF | 3);
    board.write64(TABLE + 8, 0);
    let at = |stream| {
        let run = two.entry_run(&board, StreamId(stream));
        (run.last.0, run.kind)
    };
    assert_eq!(at(1), (3, EntryLocation::At(Ipa::new(LEAF + 64))));
    assert_eq!(at(4), (0xff, EntryLocation::NoEntry));
    assert_eq!(at(0x123), (0x1ff, EntryLocation::NoEntry));
    assert_eq!(at(0x400), (u32::MAX, EntryLocation::NoEntry));
    assert_eq!(
        two.descriptor_streams(StreamId(0x123)),
        (StreamId(0x100), StreamId(0x1ff))
    );
    let linear = table(TABLE, 0, 8, 10);
    assert_eq!(
        linear.descriptor_streams(StreamId(0x123)),
        (StreamId(0x123), StreamId(0x123))
    );
    let run = linear.entry_run(&board, StreamId(2));
    assert_eq!(run.last, StreamId(0x3ff));
    assert_eq!(run.kind, EntryLocation::At(Ipa::new(TABLE + 128)));
}

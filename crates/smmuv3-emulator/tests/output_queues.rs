//! Queues that the emulated SMMU writes (IHI 0070, 3.5.1, 7.4).
#![allow(missing_docs)]

mod common;

use common::{Board, RAM};
use portcullis_addr::{Ipa, PhysAddr, Range};
use smmuv3_emulator::{EventQueue, Platform, PriQueue, Pushed, Window};
use std::cell::RefCell;

const AT: u64 = RAM + 0x2_0000;

fn queue(log2: u8, prod: u32, cons: u32) -> (Board, EventQueue<common::Held>) {
    let board = Board::new();
    let range = Range::from_size(Ipa::new(AT), 32 << log2).unwrap();
    let window = board.open(range).unwrap();
    let mut queue = EventQueue::new();
    queue.set_prod(prod);
    queue.set_cons(cons);
    assert!(queue.enable(window, log2).is_none());
    (board, queue)
}

const fn delivered(was_empty: bool) -> Pushed {
    Pushed::Delivered { was_empty }
}

#[test]
fn wraps() {
    // 4 entries: index 1:0, wrap 2. It begins at the last one.
    let (board, mut queue) = queue(2, 3, 3);
    assert_eq!(queue.push(&[1, 2, 3, 4]), delivered(true));
    assert_eq!(queue.prod(), 4);
    assert_eq!(
        [0, 8, 16, 24].map(|offset| board.read64(AT + 3 * 32 + offset)),
        [1, 2, 3, 4]
    );
    for n in 5..8 {
        assert_eq!(queue.push(&[u64::from(n); 4]), delivered(false));
        assert_eq!(queue.prod(), n);
    }
    assert_eq!(board.read64(AT + 2 * 32), 7);
    // PROD 0b111, CONS 0b011: full.
    assert!(queue.full());
    assert_eq!(queue.push(&[9; 4]), Pushed::Overflow);
    assert_eq!(board.read64(AT + 3 * 32), 1);
    queue.owner_cons(4);
    assert_eq!(queue.push(&[8; 4]), delivered(false));
    // The wrap bit goes round; the overflow stays flagged.
    assert_eq!(queue.prod(), 1 << 31);
    assert_eq!(board.read64(AT + 3 * 32), 8);
}

/// Bits above the wrap bit are ignored; reserved ones read as zero.
#[test]
fn indexes() {
    let (_, mut queue) = queue(2, 0x7fff_fff8 | 1, 0xf_fff9);
    assert_eq!(queue.prod(), 0xf_fff9);
    assert_eq!(queue.cons(), 0xf_fff9);
    assert_eq!(queue.push(&[0; 4]), delivered(true));
    assert_eq!(queue.prod(), 2);
    // While it is on, PROD is the SMMU's.
    queue.set_prod(7);
    queue.set_cons(7);
    assert_eq!(queue.prod(), 2);
    assert_eq!(queue.cons(), 0xf_fff9);
}

/// The smallest queue: one entry, index of no bits, wrap bit 0.
#[test]
fn one_entry() {
    let (_, mut queue) = queue(0, 0, 0);
    assert_eq!(queue.push(&[0; 4]), delivered(true));
    assert_eq!(queue.prod(), 1);
    assert_eq!(queue.push(&[0; 4]), Pushed::Overflow);
    queue.owner_cons(1 | 1 << 31);
    assert!(!queue.overflowed());
    assert_eq!(queue.push(&[0; 4]), delivered(true));
}

/// PROD before CONS with the same wrap, or the reverse: nothing is written.
#[test]
fn contradicting_indexes_count_as_full() {
    for (prod, cons) in [(1, 2), (6, 1), (0, 3)] {
        let (board, mut queue) = queue(2, prod, cons);
        assert_eq!(
            queue.push(&[u64::MAX; 4]),
            Pushed::Overflow,
            "{prod} {cons}"
        );
        for at in (AT..AT + 128).step_by(8) {
            assert_eq!(board.read64(at), 0);
        }
    }
}

/// OVFLG (31) toggles only where no overflow is present.
#[test]
fn overflow_is_flagged_once() {
    let (_, mut queue) = queue(0, 1 | 1 << 31, 0);
    // OVACKFLG differs: present already.
    assert!(queue.overflowed());
    assert_eq!(queue.push(&[0; 4]), Pushed::Overflow);
    assert_eq!(queue.prod(), 1 | 1 << 31);
    queue.owner_cons(1 << 31);
    assert_eq!(queue.push(&[0; 4]), Pushed::Overflow);
    assert_eq!(queue.prod(), 1);
}

#[test]
fn off_and_outside() {
    let (board, mut queue) = queue(2, 0, 0);
    let window = queue.disable().unwrap();
    board.close(window);
    assert!(!queue.enabled());
    assert_eq!(queue.push(&[0; 4]), Pushed::Off);
    assert_eq!(queue.prod(), 0);
    assert!(queue.enable(None, 2).is_none());
    assert!(queue.enabled());
    assert_eq!(queue.push(&[0; 4]), Pushed::Aborted);
    assert_eq!(queue.prod(), 0);
    assert_eq!(board.held.get(), 0);
}

/// Records of 16 bytes.
#[test]
fn page_requests() {
    let board = Board::new();
    let range = Range::from_size(Ipa::new(AT), 64).unwrap();
    let mut queue = PriQueue::new();
    assert_eq!(PriQueue::<common::Held>::bytes(2), 64);
    queue.enable(board.open(range).unwrap(), 2);
    for n in 0..4 {
        assert_eq!(queue.push(&[n, n + 10]), delivered(n == 0));
    }
    assert_eq!(board.read64(AT + 48), 3);
    assert_eq!(board.read64(AT + 56), 13);
    assert_eq!(queue.push(&[0; 2]), Pushed::Overflow);
}

/// What was done to memory, in order.
#[derive(Default)]
struct Order(RefCell<Vec<(&'static str, u64, u64)>>);

impl Window for &Order {
    fn range(&self) -> Range<Ipa> {
        Range::from_size(Ipa::new(AT), 128).unwrap()
    }
    fn physical(&self, _: u64) -> Option<PhysAddr> {
        None
    }
    fn load(&self, _: u64) -> u64 {
        panic!("an output is not read")
    }
    fn store(&self, offset: u64, value: u64) {
        self.0.borrow_mut().push(("store", offset, value));
    }
    fn store32(&self, _: u64, _: u32) {
        panic!("records have words of 64 bits")
    }
    fn publish(&self, offset: u64, bytes: u64) {
        self.0.borrow_mut().push(("publish", offset, bytes));
    }
    fn refresh(&self, _: u64, _: u64) {}

    fn aborted(&self) -> bool {
        false
    }
}

/// The record is there before PROD can cover it (3.5.2).
#[test]
fn records_are_published() {
    let order = Order::default();
    let mut queue = PriQueue::new();
    queue.enable(&order, 2);
    queue.set_prod(0);
    assert_eq!(queue.push(&[1, 2]), delivered(true));
    assert_eq!(queue.push(&[3, 4]), delivered(false));
    assert_eq!(
        *order.0.borrow(),
        [
            ("store", 0, 1),
            ("store", 8, 2),
            ("publish", 0, 16),
            ("store", 16, 3),
            ("store", 24, 4),
            ("publish", 16, 16)
        ]
    );
}

/// A record of which a word was not stored is none: PROD does not cover it.
#[test]
fn a_record_that_cannot_be_stored_is_not_shown() {
    for word in 0..4 {
        let board = Board::new();
        let range = Range::from_size(Ipa::new(AT), 64).unwrap();
        let mut queue = EventQueue::new();
        queue.enable(board.open(range).unwrap(), 1);
        board.broken.set(AT + 8 * word);
        assert_eq!(queue.push(&[1; 4]), Pushed::Aborted);
        assert_eq!(queue.prod(), 0);
        board.broken.set(0);
        assert_eq!(queue.push(&[1; 4]), delivered(true));
    }
}

//! Groups of pages against a plain list of counts: large ranges, unpinned in
//! other pieces than they were pinned in.
#![cfg(not(loom))]
#![allow(missing_docs)]

use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{
    Bank, Ledger, Owner, PinError, State, Transfer, TransferError, UnpinError,
};
use proptest::prelude::*;
use std::sync::atomic::AtomicU32;

/// Three pages before the end of a group.
const FIRST: u64 = 0x4000_d000;
const PAGES: usize = 3 + 4 * Bank::GROUP_PAGES + 5;
const OWNERS: [Owner; 3] = [Owner::HOST, Owner::HYPERVISOR, Owner::NOBODY];

fn at(page: usize) -> PhysAddr {
    PhysAddr::new(FIRST + page as u64 * PAGE_SIZE)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    owner: Owner,
    leaving: bool,
    pins: u32,
}

#[derive(Clone, Debug)]
enum Op {
    Pin(Owner),
    Unpin,
    /// Unpinned page by page, or in pieces of that many pages.
    Pieces(usize),
    Begin(Owner, Owner),
    Commit,
    Cancel,
    Drop,
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![4 => Just(0), 1 => 0..3usize].prop_map(|n| OWNERS[n])
}

/// Ends of ranges: often where a group ends.
fn end() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..=PAGES,
        (0..=4usize).prop_map(|n| 3 + n * Bank::GROUP_PAGES)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => owner().prop_map(Op::Pin),
        2 => Just(Op::Unpin),
        2 => (1..20usize).prop_map(Op::Pieces),
        2 => (owner(), owner()).prop_map(|(from, to)| Op::Begin(from, to)),
        1 => Just(Op::Commit),
        1 => Just(Op::Cancel),
        1 => Just(Op::Drop),
    ]
}

struct Plain(Vec<Page>);

impl Plain {
    fn pin(&mut self, from: usize, to: usize, owner: Owner) -> Result<(), PinError> {
        for page in from..to {
            let found = self.0[page];
            if found.owner != owner || found.leaving {
                return Err(PinError::NotOwner {
                    page: at(page),
                    owner: found.owner,
                    state: if found.leaving {
                        State::Leaving
                    } else {
                        State::Owned
                    },
                });
            }
        }
        self.0[from..to].iter_mut().for_each(|page| page.pins += 1);
        Ok(())
    }

    fn unpin(&mut self, from: usize, to: usize) -> Result<(), UnpinError> {
        if let Some(page) = (from..to).find(|page| self.0[*page].pins == 0) {
            return Err(UnpinError::NotPinned { page: at(page) });
        }
        self.0[from..to].iter_mut().for_each(|page| page.pins -= 1);
        Ok(())
    }

    fn begin(&mut self, from: usize, to: usize, owner: Owner) -> Result<(), TransferError> {
        for index in from..to {
            let (page, found) = (at(index), self.0[index]);
            if found.leaving {
                return Err(TransferError::Leaving { page });
            }
            if found.owner != owner {
                let owner = found.owner;
                return Err(TransferError::NotOwner { page, owner });
            }
            if found.pins != 0 {
                let count = found.pins;
                return Err(TransferError::Pinned { page, count });
            }
        }
        self.0[from..to]
            .iter_mut()
            .for_each(|page| page.leaving = true);
        Ok(())
    }

    fn end(&mut self, transfer: &Transfer<'_>, owner: Option<Owner>) {
        for (index, page) in self.0.iter_mut().enumerate() {
            if transfer.range().contains(at(index)) {
                page.leaving = false;
                page.owner = owner.unwrap_or(page.owner);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn groups_count_what_pages_would(
        ops in prop::collection::vec((op(), end(), end()), 1..80),
    ) {
        let range = Range::new(at(0), at(PAGES)).unwrap();
        let words = |count: usize, bits| (0..count).map(|_| AtomicU32::new(bits)).collect();
        let entries: Vec<_> = words(PAGES, 2 << 24);
        let groups: Vec<_> = words(Bank::groups(range) as usize, 0);
        let banks = [Bank::new(range, &entries, &groups).unwrap()];
        let ledger = Ledger::new(&banks).unwrap();
        let page = Page { owner: Owner::HOST, leaving: false, pins: 0 };
        let mut plain = Plain(vec![page; PAGES]);
        let mut moving: Vec<Transfer<'_>> = Vec::new();
        for (op, a, b) in ops {
            let (from, to) = (a.min(b), a.max(b));
            let Ok(range) = Range::new(at(from), at(to)) else {
                continue;
            };
            match op {
                Op::Pin(owner) => {
                    prop_assert_eq!(ledger.pin(range, owner), plain.pin(from, to, owner));
                }
                Op::Unpin => prop_assert_eq!(ledger.unpin(range), plain.unpin(from, to)),
                Op::Pieces(size) => for first in (from..to).step_by(size) {
                    let last = to.min(first + size);
                    let piece = Range::new(at(first), at(last)).unwrap();
                    prop_assert_eq!(ledger.unpin(piece), plain.unpin(first, last));
                },
                Op::Begin(owner, new) => {
                    let begun = ledger.begin(range, owner, new);
                    let expected = plain.begin(from, to, owner);
                    prop_assert_eq!(begun.as_ref().err(), expected.as_ref().err());
                    moving.extend(begun);
                }
                Op::Commit => if let Some(transfer) = moving.pop() {
                    plain.end(&transfer, Some(transfer.to()));
                    transfer.commit();
                },
                Op::Cancel => if let Some(transfer) = moving.pop() {
                    plain.end(&transfer, None);
                    transfer.cancel();
                },
                Op::Drop => drop(moving.pop()),
            }
            for (index, page) in plain.0.iter().enumerate() {
                let entry = ledger.entry(at(index)).unwrap();
                let found = (entry.owner(), entry.state() == State::Leaving, entry.dma_count());
                prop_assert_eq!(found, (page.owner, page.leaving, page.pins), "page {}", index);
            }
        }
    }
}

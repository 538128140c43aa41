//! The ledger against a plain list of pages, and its rules one by one.
#![allow(missing_docs)]

mod evidence;

use evidence::commit;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{
    Bank, Entry, Ledger, LedgerError, Owner, PageState, PinError, TransferError, UnpinError,
};
use proptest::prelude::*;
use std::sync::atomic::AtomicU32;

const BASE: u64 = 0x4000_0000;

fn pages(first: u64, count: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(BASE + first * PAGE_SIZE), count * PAGE_SIZE).unwrap()
}

fn words(count: u64) -> Vec<AtomicU32> {
    (0..count).map(|_| AtomicU32::new(0)).collect()
}

/// Pages and what the ledger keeps of them.
struct Ram {
    range: Range<PhysAddr>,
    entries: Vec<AtomicU32>,
    words: Vec<AtomicU32>,
}

impl Ram {
    fn new(first: u64, count: u64) -> Self {
        let range = pages(first, count);
        Self {
            range,
            entries: words(count),
            words: words(Bank::words(range)),
        }
    }

    fn bank(&self) -> Bank<'_> {
        Bank::new(self.range, &self.entries, &self.words).unwrap()
    }
}

fn give(ledger: &Ledger<'_>, range: Range<PhysAddr>, to: Owner) {
    commit(ledger.begin(range, Owner::NOBODY, to).unwrap());
}

/// Each page is held by one more mapping meanwhile, and by none more afterwards.
#[test]
fn pages_are_pinned_while_they_are_used() {
    let ram = Ram::new(0, 8);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 8), Owner::HOST);
    let count = |page| ledger.entry(pages(page, 1).start()).unwrap().dma_count();
    for (range, held) in [(pages(3, 1), 0), (pages(3, 1), 1), (pages(2, 3), 0)] {
        if held != 0 {
            ledger.pin(range, Owner::HOST).unwrap();
        }
        let seen = ledger.with_pinned(range, Owner::HOST, || {
            let taken = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR);
            assert!(matches!(taken, Err(TransferError::Pinned { .. })));
            count(3)
        });
        assert_eq!(seen, Ok(held + 1));
        assert_eq!(count(3), held);
        if held != 0 {
            ledger.unpin(range).unwrap();
        }
    }
    // One of them is used meanwhile.
    ledger.pin(pages(0, 8), Owner::HOST).unwrap();
    ledger.with_pinned(pages(5, 1), Owner::HOST, || ()).unwrap();
    ledger.unpin(pages(0, 8)).unwrap();
    ledger
        .begin(pages(0, 8), Owner::HOST, Owner::HYPERVISOR)
        .unwrap()
        .cancel();
}

/// A page that cannot be pinned is not used.
#[test]
fn what_is_not_the_owners_is_not_used() {
    let ram = Ram::new(0, 8);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 4), Owner::HOST);
    let leaving = ledger
        .begin(pages(3, 1), Owner::HOST, Owner::HYPERVISOR)
        .unwrap();
    for range in [pages(4, 1), pages(3, 1), pages(2, 2), pages(8, 1)] {
        let used = ledger.with_pinned(range, Owner::HOST, || unreachable!("{range}"));
        assert!(used.is_err(), "{range}");
    }
    leaving.cancel();
    let whole = ledger
        .begin(pages(0, 4), Owner::HOST, Owner::HYPERVISOR)
        .unwrap();
    whole.cancel();
}

#[test]
fn a_pinned_page_does_not_change_owner() {
    let ram = Ram::new(0, 8);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 8), Owner::HOST);
    ledger.pin(pages(3, 1), Owner::HOST).unwrap();
    assert_eq!(
        ledger
            .begin(pages(0, 8), Owner::HOST, Owner::HYPERVISOR)
            .unwrap_err(),
        TransferError::Pinned {
            page: pages(3, 1).start(),
            count: 1
        }
    );
    // All or nothing: the pages before the pinned one are as they were.
    assert_eq!(ledger.runs(Owner::HOST).collect::<Vec<_>>(), [pages(0, 8)]);
    ledger.unpin(pages(3, 1)).unwrap();
    let transfer = ledger.begin(pages(0, 8), Owner::HOST, Owner::HYPERVISOR);
    commit(transfer.unwrap());
    assert_eq!(ledger.runs(Owner::HOST).count(), 0);
}

#[test]
fn a_leaving_page_can_be_neither_pinned_nor_moved() {
    let ram = Ram::new(0, 4);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 4), Owner::HOST);
    let transfer = ledger
        .begin(pages(1, 2), Owner::HOST, Owner::HYPERVISOR)
        .unwrap();
    assert_eq!(
        ledger.pin(pages(0, 4), Owner::HOST),
        Err(PinError::NotOwner {
            page: pages(1, 1).start(),
            state: PageState::Leaving(Owner::HOST)
        })
    );
    assert_eq!(ledger.entry(pages(0, 1).start()).unwrap().dma_count(), 0);
    assert!(matches!(
        ledger.begin(pages(2, 1), Owner::HOST, Owner::NOBODY),
        Err(TransferError::WrongState { .. })
    ));
    assert_eq!(
        ledger.runs(Owner::HOST).collect::<Vec<_>>(),
        [pages(0, 1), pages(3, 1)]
    );
    transfer.cancel();
    assert_eq!(ledger.runs(Owner::HOST).collect::<Vec<_>>(), [pages(0, 4)]);
}

#[test]
fn a_dropped_transfer_loses_the_pages() {
    let ram = Ram::new(0, 1);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 1), Owner::HOST);
    drop(ledger.begin(pages(0, 1), Owner::HOST, Owner::HYPERVISOR));
    assert_eq!(
        ledger.entry(pages(0, 1).start()).unwrap().state(),
        PageState::Leaving(Owner::HOST)
    );
}

#[test]
fn what_is_not_whole_ram_is_refused() {
    let (low, high) = (Ram::new(0, 2), Ram::new(2, 2));
    let banks = [low.bank(), high.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    assert!(matches!(
        ledger.begin(pages(1, 2), Owner::NOBODY, Owner::HOST),
        Err(TransferError::NotRam(_))
    ));
    assert!(matches!(
        ledger.pin(pages(9, 1), Owner::HOST),
        Err(PinError::NotRam(_))
    ));
    let odd = Range::from_size(PhysAddr::new(BASE + 1), PAGE_SIZE).unwrap();
    assert_eq!(ledger.unpin(odd), Err(UnpinError::Unaligned(odd)));
    assert_eq!(ledger.entry(PhysAddr::new(BASE - 1)), None);
    assert_eq!(ledger.entry(pages(4, 1).start()), None);
    assert!(
        ledger
            .entry(PhysAddr::new(BASE + 4 * PAGE_SIZE - 1))
            .is_some()
    );
}

#[test]
fn unpin_without_pin_is_refused_as_a_whole() {
    let ram = Ram::new(0, 2);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 2), Owner::HOST);
    ledger.pin(pages(0, 1), Owner::HOST).unwrap();
    assert_eq!(
        ledger.unpin(pages(0, 2)),
        Err(UnpinError::NotPinned {
            page: pages(1, 1).start()
        })
    );
    assert_eq!(ledger.entry(pages(0, 1).start()).unwrap().dma_count(), 1);
}

#[test]
fn the_count_overflows_into_an_error() {
    let ram = Ram::new(0, 1);
    ram.entries[0].store(
        (2 << 24) | Entry::MAX_DMA_COUNT,
        std::sync::atomic::Ordering::Relaxed,
    );
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    assert!(matches!(
        ledger.pin(pages(0, 1), Owner::HOST),
        Err(PinError::CountOverflow { .. })
    ));
}

#[test]
fn set_up_is_checked() {
    let (two, three) = (words(2), words(3));
    assert!(matches!(
        Bank::new(pages(0, 3), &two, &two[..1]),
        Err(LedgerError::EntryCount { .. })
    ));
    // One block, or the end of one and the beginning of another: a word for each,
    // and for each of its 32 groups.
    let many = words(70);
    for (first, needed) in [(15, 33), (511, 66)] {
        assert_eq!(Bank::words(pages(first, 3)), needed as u64);
        for count in [0, 1, 33, 34, 65, 66, 67] {
            let bank = Bank::new(pages(first, 3), &three, &many[..count]);
            let wrong = LedgerError::WordCount {
                bank: pages(first, 3),
                needed: needed as u64,
                words: count as u64,
            };
            assert_eq!(bank.err(), (count != needed).then_some(wrong));
        }
    }
    let (a, b) = (Ram::new(2, 2), Ram::new(3, 2));
    let banks = [a.bank(), b.bank()];
    assert!(matches!(Ledger::new(&banks), Err(LedgerError::Order(_))));
}

/// Two CPUs pin and unpin while a third tries to take the pages: never both.
#[test]
fn pin_and_transfer_exclude_each_other() {
    let ram = Ram::new(0, 4);
    let banks = [ram.bank()];
    let ledger = Ledger::new(&banks).unwrap();
    give(&ledger, pages(0, 4), Owner::HOST);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if ledger.pin(pages(0, 4), Owner::HOST).is_ok() {
                        for page in 0..4 {
                            let entry = ledger.entry(pages(page, 1).start()).unwrap();
                            assert_eq!(entry.state(), PageState::Owned(Owner::HOST));
                        }
                        ledger.unpin(pages(0, 4)).unwrap();
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20_000 {
                if let Ok(transfer) = ledger.begin(pages(0, 4), Owner::HOST, Owner::HYPERVISOR) {
                    for page in 0..4 {
                        assert_eq!(ledger.entry(pages(page, 1).start()).unwrap().dma_count(), 0);
                    }
                    commit(transfer);
                    let back = ledger.begin(pages(0, 4), Owner::HYPERVISOR, Owner::HOST);
                    commit(back.unwrap());
                }
            }
        });
    });
    assert_eq!(ledger.runs(Owner::HOST).collect::<Vec<_>>(), [pages(0, 4)]);
}

#[derive(Clone, Debug)]
enum Op {
    Move {
        first: u64,
        count: u64,
        from: u8,
        to: u8,
    },
    Pin {
        first: u64,
        count: u64,
        owner: u8,
    },
    Unpin {
        first: u64,
        count: u64,
    },
}

fn owner(n: u8) -> Owner {
    [Owner::NOBODY, Owner::HYPERVISOR, Owner::HOST][usize::from(n) % 3]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..16u64, 1..8u64, 0..3u8, 0..3u8).prop_map(|(first, count, from, to)| Op::Move {
            first,
            count,
            from,
            to
        }),
        (0..16u64, 1..8u64, 0..3u8).prop_map(|(first, count, owner)| Op::Pin {
            first,
            count,
            owner
        }),
        (0..16u64, 1..8u64).prop_map(|(first, count)| Op::Unpin { first, count }),
    ]
}

proptest! {
    /// Random operations on two banks give what a plain list of
    /// (owner, count) gives.
    #[test]
    fn agrees_with_a_plain_list(ops in prop::collection::vec(op(), 1..60)) {
        let (low, high) = (Ram::new(0, 7), Ram::new(7, 9));
        let banks = [low.bank(), high.bank()];
        let ledger = Ledger::new(&banks).unwrap();
        let mut plain = [(Owner::NOBODY, 0u32); 16];
        for op in ops {
            let (first, count) = match op {
                Op::Move { first, count, .. } | Op::Pin { first, count, .. }
                | Op::Unpin { first, count } => (first, count),
            };
            let in_bank = first + count <= 7 || (first >= 7 && first + count <= 16);
            let span = first as usize..((first + count).min(16)) as usize;
            let range = pages(first, count);
            match op {
                Op::Move { from, to, .. } => {
                    let fits = in_bank
                        && plain[span.clone()].iter().all(|p| *p == (owner(from), 0));
                    match ledger.begin(range, owner(from), owner(to)) {
                        Ok(transfer) => {
                            prop_assert!(fits);
                            commit(transfer);
                            plain[span].fill((owner(to), 0));
                        }
                        Err(_) => prop_assert!(!fits),
                    }
                }
                Op::Pin { owner: who, .. } => {
                    let fits = in_bank && plain[span.clone()].iter().all(|p| p.0 == owner(who));
                    prop_assert_eq!(ledger.pin(range, owner(who)).is_ok(), fits);
                    if fits {
                        plain[span].iter_mut().for_each(|p| p.1 += 1);
                    }
                }
                Op::Unpin { .. } => {
                    let fits = in_bank && plain[span.clone()].iter().all(|p| p.1 > 0);
                    prop_assert_eq!(ledger.unpin(range).is_ok(), fits);
                    if fits {
                        plain[span].iter_mut().for_each(|p| p.1 -= 1);
                    }
                }
            }
            for (page, (who, count)) in plain.iter().enumerate() {
                let entry = ledger.entry(pages(page as u64, 1).start()).unwrap();
                prop_assert_eq!(entry.owner(), *who);
                prop_assert_eq!(entry.dma_count(), *count);
            }
            let listed: u64 = ledger.runs(Owner::HOST).map(|r| r.size() / PAGE_SIZE).sum();
            let plain_count = plain.iter().filter(|p| p.0 == Owner::HOST).count() as u64;
            prop_assert_eq!(listed, plain_count);
        }
    }
}

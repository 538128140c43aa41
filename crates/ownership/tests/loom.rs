//! The ledger under every order of events that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p portcullis-ownership --test loom --release`
//!
//! A page's contents stand behind its entry: whoever may use the page touches a
//! cell of loom's, which fails the test when another use is not ordered before
//! or after it. So these tests also fail when an entry changes in the right way
//! but with too weak an ordering.
#![cfg(loom)]
#![allow(missing_docs)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread::{JoinHandle, spawn};
mod evidence;

use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{Bank, Entry, Ledger, Owner, PageState};
use std::ops;

const START: u64 = 0x8000_0000;

/// A few pages of the host's, each with contents.
struct Ram {
    entries: Vec<AtomicU32>,
    words: Vec<AtomicU32>,
    contents: Vec<UnsafeCell<()>>,
}

impl Ram {
    fn new(count: usize) -> Arc<Self> {
        let entry = |_| AtomicU32::new(Entry::initial(Owner::HOST));
        let words = 0..Bank::words(pages(0..count));
        Arc::new(Self {
            entries: (0..count).map(entry).collect(),
            words: words.map(|_| AtomicU32::new(0)).collect(),
            contents: (0..count).map(|_| UnsafeCell::new(())).collect(),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&Ledger<'_>) -> T) -> T {
        let range = pages(0..self.entries.len());
        let banks = [Bank::new(range, &self.entries, &self.words).unwrap()];
        act(&Ledger::new(&banks).unwrap())
    }

    /// What only the one who has the pages may do.
    fn write(&self, pages: ops::Range<usize>) {
        for page in &self.contents[pages] {
            page.with_mut(|_| ());
        }
    }

    /// What a device may do whose mapping holds the pages.
    fn read(&self, pages: ops::Range<usize>) {
        for page in &self.contents[pages] {
            page.with(|_| ());
        }
    }

    fn entry(&self, page: usize) -> Entry {
        self.with(|ledger| ledger.entry(pages(page..page + 1).start()).unwrap())
    }

    /// Takes pages from the host and uses them. Returns whether it got them.
    fn take(&self, range: ops::Range<usize>, to: Owner) -> bool {
        self.with(|ledger| {
            let Ok(transfer) = ledger.begin(pages(range.clone()), Owner::HOST, to) else {
                return false;
            };
            self.write(range);
            evidence::commit(transfer);
            true
        })
    }

    /// Takes pages and gives them back.
    fn borrow(&self, range: ops::Range<usize>) -> bool {
        self.with(|ledger| {
            let asked = pages(range.clone());
            let Ok(transfer) = ledger.begin(asked, Owner::HOST, Owner::HYPERVISOR) else {
                return false;
            };
            self.write(range);
            transfer.cancel();
            true
        })
    }

    fn pin(&self, range: ops::Range<usize>) -> bool {
        self.with(|ledger| ledger.pin(pages(range), Owner::HOST).is_ok())
    }

    fn unpin(&self, range: ops::Range<usize>) {
        self.with(|ledger| ledger.unpin(pages(range)).unwrap());
    }

    /// A device's mapping: pinned, used, unpinned.
    fn dma(&self, range: ops::Range<usize>) -> bool {
        let pinned = self.pin(range.clone());
        if pinned {
            self.read(range.clone());
            self.unpin(range);
        }
        pinned
    }

    /// Asserts what a page is when everybody is done.
    fn rests(&self, page: usize, owner: Owner, pins: u32) {
        let entry = self.entry(page);
        let found = (entry.state(), entry.dma_count());
        assert_eq!(found, (PageState::Owned(owner), pins), "page {page}");
    }
}

fn pages(range: ops::Range<usize>) -> Range<PhysAddr> {
    let at = |page: usize| PhysAddr::new(START + page as u64 * PAGE_SIZE);
    Range::new(at(range.start), at(range.end)).unwrap()
}

fn cpu<T: 'static>(ram: &Arc<Ram>, act: impl FnOnce(&Ram) -> T + 'static) -> JoinHandle<T> {
    let ram = Arc::clone(ram);
    spawn(move || act(&ram))
}

/// All orders of two CPUs.
fn two(test: impl Fn() + Sync + Send + 'static) {
    loom::model(test);
}

/// Three CPUs, or two that do much, have more orders than can be tried; mistakes
/// of this kind need few changes of the running CPU.
fn few(changes: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(changes);
    model.check(test);
}

#[test]
fn a_page_goes_to_one_of_two() {
    two(|| {
        let ram = Ram::new(3);
        let other = cpu(&ram, |ram| ram.take(1..3, Owner::NOBODY));
        let here = ram.take(0..2, Owner::HYPERVISOR);
        let there = other.join().unwrap();
        assert!(!(here && there));
        // Both may fail, each because of the other's page; then nothing changed.
        let (left, right) = match (here, there) {
            (true, _) => (Owner::HYPERVISOR, Owner::HOST),
            (_, true) => (Owner::HOST, Owner::NOBODY),
            _ => (Owner::HOST, Owner::HOST),
        };
        ram.rests(0, left, 0);
        ram.rests(1, if here { left } else { right }, 0);
        ram.rests(2, right, 0);
    });
}

#[test]
fn no_page_moves_while_a_device_uses_it() {
    two(|| {
        let ram = Ram::new(3);
        let device = cpu(&ram, |ram| ram.dma(0..2));
        let taken = ram.take(1..3, Owner::HYPERVISOR);
        let used = device.join().unwrap();
        assert!(taken || used);
        let owner = if taken {
            Owner::HYPERVISOR
        } else {
            Owner::HOST
        };
        ram.rests(0, Owner::HOST, 0);
        ram.rests(1, owner, 0);
        ram.rests(2, owner, 0);
    });
}

/// A page that a CPU uses in passing, while another CPU takes it.
#[test]
fn no_page_moves_while_a_cpu_uses_it() {
    for uniform in [false, true] {
        two(move || {
            let ram = group(2, uniform);
            let user = cpu(&ram, |ram| {
                ram.with(|ledger| {
                    let used = ledger.with_pinned(pages(1..2), Owner::HOST, || ram.read(1..2));
                    used.is_ok()
                })
            });
            let taken = ram.take(0..2, Owner::HYPERVISOR);
            let used = user.join().unwrap();
            assert!(taken || used);
            let owners = [Owner::HOST, Owner::HYPERVISOR];
            ram.rests(0, owners[usize::from(taken)], 0);
            ram.rests(1, owners[usize::from(taken)], 0);
        });
    }
}

/// Two use a page in passing, and one has it pinned in the group of it.
#[test]
fn what_is_used_in_passing_is_given_back_once() {
    for uniform in [false, true] {
        few(3, move || {
            let ram = group(2, uniform);
            let user = cpu(&ram, |ram| {
                ram.with(|ledger| {
                    let used = ledger.with_pinned(pages(1..2), Owner::HOST, || ram.read(1..2));
                    used.is_ok()
                })
            });
            assert!(ram.dma(0..2));
            assert!(user.join().unwrap());
            ram.rests(0, Owner::HOST, 0);
            ram.rests(1, Owner::HOST, 0);
        });
    }
}

#[test]
fn a_pin_outlasts_a_refused_transfer() {
    two(|| {
        let ram = Ram::new(2);
        assert!(ram.pin(1..2));
        let taker = cpu(&ram, |ram| ram.take(0..2, Owner::HYPERVISOR));
        // The page beside it is in the taker's hands for a moment.
        let pinned = ram.pin(0..1);
        assert!(!taker.join().unwrap());
        ram.rests(0, Owner::HOST, u32::from(pinned));
        ram.rests(1, Owner::HOST, 1);
    });
}

#[test]
fn every_pin_counts() {
    two(|| {
        let ram = Ram::new(3);
        let other = cpu(&ram, |ram| ram.pin(1..3));
        assert!(ram.pin(0..2));
        assert!(other.join().unwrap());
        for (page, pins) in [(0, 1), (1, 2), (2, 1)] {
            ram.rests(page, Owner::HOST, pins);
        }
        let other = cpu(&ram, |ram| ram.unpin(1..3));
        ram.unpin(0..2);
        other.join().unwrap();
        for page in 0..3 {
            ram.rests(page, Owner::HOST, 0);
        }
    });
}

#[test]
fn a_refused_pin_takes_back_its_own_alone() {
    two(|| {
        let ram = Ram::new(2);
        assert!(ram.take(1..2, Owner::HYPERVISOR));
        let other = cpu(&ram, |ram| ram.pin(0..1));
        assert!(!ram.pin(0..2));
        assert!(other.join().unwrap());
        ram.rests(0, Owner::HOST, 1);
        ram.rests(1, Owner::HYPERVISOR, 0);
    });
}

#[test]
fn a_refused_unpin_gives_back_its_own_alone() {
    two(|| {
        let ram = Ram::new(2);
        assert!(ram.pin(0..1));
        let other = cpu(&ram, |ram| ram.pin(0..1));
        let refused = ram.with(|ledger| ledger.unpin(pages(0..2)).is_err());
        assert!(refused && other.join().unwrap());
        ram.rests(0, Owner::HOST, 2);
        ram.rests(1, Owner::HOST, 0);
    });
}

#[test]
fn a_cancelled_transfer_leaves_the_pages_as_they_were() {
    two(|| {
        let ram = Ram::new(2);
        let device = cpu(&ram, |ram| {
            let pinned = ram.pin(0..1);
            if pinned {
                ram.read(0..1);
            }
            pinned
        });
        let had = ram.borrow(0..2);
        let pinned = device.join().unwrap();
        assert!(had || pinned);
        ram.rests(0, Owner::HOST, u32::from(pinned));
        ram.rests(1, Owner::HOST, 0);
    });
}

#[test]
fn the_new_owner_sees_what_the_old_one_left() {
    two(|| {
        let ram = Ram::new(1);
        // The reader is the other CPU: loom does not let this one come second.
        let reader = cpu(&ram, |ram| {
            if ram.entry(0).owner() == Owner::HYPERVISOR {
                ram.read(0..1);
            }
        });
        assert!(ram.take(0..1, Owner::HYPERVISOR));
        reader.join().unwrap();
    });
}

#[test]
fn a_refused_transfer_hands_on_what_it_saw() {
    few(4, || {
        let ram = Ram::new(2);
        assert!(ram.pin(1..2));
        let device = cpu(&ram, |ram| ram.dma(0..1));
        let refused = cpu(&ram, |ram| ram.take(0..2, Owner::NOBODY));
        ram.take(0..1, Owner::HYPERVISOR);
        device.join().unwrap();
        assert!(!refused.join().unwrap());
        ram.rests(1, Owner::HOST, 1);
    });
}

#[test]
fn three_want_the_same_page() {
    few(2, || {
        let ram = Ram::new(2);
        let device = cpu(&ram, |ram| ram.dma(0..2));
        let borrower = cpu(&ram, |ram| ram.borrow(0..1));
        let taken = ram.take(0..2, Owner::HYPERVISOR);
        let used = device.join().unwrap();
        let borrowed = borrower.join().unwrap();
        // Two may refuse each other for a moment, but not all three.
        assert!(taken || used || borrowed);
        let owner = if taken {
            Owner::HYPERVISOR
        } else {
            Owner::HOST
        };
        ram.rests(0, owner, 0);
        ram.rests(1, owner, 0);
    });
}

// From here on, groups: pages 0 and 1 are one, 2 and 3 the next. The four of them
// are a block, where there are so many.

/// A group that counts as one already, if asked for: it was pinned before.
fn group(count: usize, uniform: bool) -> Arc<Ram> {
    let ram = Ram::new(count);
    if uniform {
        assert!(ram.dma(0..2));
    }
    ram
}

#[test]
fn a_group_is_pinned_or_a_page_of_it_taken() {
    for uniform in [false, true] {
        two(move || {
            let ram = group(2, uniform);
            let device = cpu(&ram, |ram| {
                let pinned = ram.pin(0..2);
                if pinned {
                    ram.read(0..2);
                }
                pinned
            });
            let taken = ram.take(1..2, Owner::HYPERVISOR);
            let pinned = device.join().unwrap();
            assert!(taken != pinned);
            let pins = u32::from(pinned);
            ram.rests(0, Owner::HOST, pins);
            let owners = [Owner::HYPERVISOR, Owner::HOST];
            ram.rests(1, owners[usize::from(pinned)], pins);
        });
    }
}

#[test]
fn a_group_is_used_and_then_taken() {
    for uniform in [false, true] {
        two(move || {
            let ram = group(2, uniform);
            let device = cpu(&ram, |ram| ram.dma(0..2));
            let taken = ram.take(0..2, Owner::HYPERVISOR);
            let used = device.join().unwrap();
            assert!(taken || used);
            let owners = [Owner::HOST, Owner::HYPERVISOR];
            ram.rests(0, owners[usize::from(taken)], 0);
            ram.rests(1, owners[usize::from(taken)], 0);
        });
    }
}

/// Who looks at the pages may be overtaken by a transfer there and back, and may
/// look again while the next one begins.
#[test]
fn a_group_becomes_one_only_as_it_is() {
    few(3, || {
        let ram = Ram::new(2);
        let other = cpu(&ram, |ram| {
            ram.borrow(0..1);
            ram.take(1..2, Owner::HYPERVISOR)
        });
        let first = ram.pin(0..2);
        let second = ram.pin(0..2);
        let taken = other.join().unwrap();
        assert!(!taken || !first && !second);
        ram.rests(0, Owner::HOST, u32::from(first) + u32::from(second));
    });
}

#[test]
fn two_make_a_group_one() {
    two(|| {
        let ram = Ram::new(2);
        let other = cpu(&ram, |ram| ram.pin(0..2));
        assert!(ram.pin(0..2));
        assert!(other.join().unwrap());
        ram.rests(0, Owner::HOST, 2);
        ram.rests(1, Owner::HOST, 2);
    });
}

#[test]
fn a_refused_transfer_leaves_groups_as_they_were() {
    for uniform in [false, true] {
        two(move || {
            let ram = group(4, uniform);
            assert!(ram.pin(3..4));
            let taker = cpu(&ram, |ram| ram.take(0..4, Owner::HYPERVISOR));
            // Its pages are in the taker's hands for a moment.
            let pinned = ram.pin(0..2);
            assert!(!taker.join().unwrap());
            ram.rests(0, Owner::HOST, u32::from(pinned));
            ram.rests(1, Owner::HOST, u32::from(pinned));
            assert!(ram.pin(0..2));
            ram.rests(3, Owner::HOST, 1);
        });
    }
}

/// Rights to two pages are given up as one to their group, while a right to the
/// group is given up: the one that comes first has the group's count.
#[test]
fn a_group_is_unpinned_as_a_union_and_as_a_whole() {
    for uniform in [false, true] {
        two(move || {
            let ram = group(2, uniform);
            assert!(ram.pin(0..2) && ram.pin(0..1) && ram.pin(1..2));
            let other = cpu(&ram, |ram| ram.unpin(0..2));
            ram.unpin(0..2);
            other.join().unwrap();
            ram.rests(0, Owner::HOST, 0);
            ram.rests(1, Owner::HOST, 0);
        });
    }
}

/// The group's count goes to who has rights to the pages, and comes back, while
/// the right to the group is given up.
#[test]
fn a_count_is_found_while_others_come_and_go() {
    two(|| {
        let ram = group(2, true);
        assert!(ram.pin(0..2));
        let other = cpu(&ram, |ram| {
            assert!(ram.pin(0..1) && ram.pin(1..2));
            ram.unpin(0..2);
            assert!(ram.pin(0..2));
            ram.unpin(0..2);
        });
        ram.unpin(0..2);
        other.join().unwrap();
        ram.rests(0, Owner::HOST, 0);
        ram.rests(1, Owner::HOST, 0);
    });
}

/// A page that stays pinned is so at every moment.
#[test]
fn no_page_slips_away_when_a_union_is_unpinned() {
    two(|| {
        let ram = Ram::new(2);
        assert!(ram.pin(0..2) && ram.pin(0..1) && ram.pin(1..2));
        let taker = cpu(&ram, |ram| ram.take(1..2, Owner::HYPERVISOR));
        ram.unpin(0..2);
        ram.read(1..2);
        ram.unpin(0..1);
        ram.read(1..2);
        assert!(!taker.join().unwrap());
        ram.rests(0, Owner::HOST, 0);
        ram.rests(1, Owner::HOST, 1);
    });
}

/// A pin that is refused in the end takes back what it counted, for a page or for
/// a group.
#[test]
fn a_refused_pin_takes_back_from_the_group() {
    for first in [0, 1] {
        two(move || {
            let ram = group(4, true);
            assert!(ram.take(3..4, Owner::HYPERVISOR));
            assert!(ram.pin(0..1) && ram.pin(1..2));
            let other = cpu(&ram, |ram| ram.unpin(0..2));
            assert!(!ram.pin(first..4));
            other.join().unwrap();
            for page in 0..3 {
                ram.rests(page, Owner::HOST, 0);
            }
        });
    }
}

// From here on, blocks.

/// A block that counts as one already, if asked for, and whose groups do.
fn block(uniform: bool) -> Arc<Ram> {
    let ram = Ram::new(4);
    if uniform {
        assert!(ram.dma(0..2) && ram.dma(2..4) && ram.dma(0..4));
    }
    ram
}

#[test]
fn a_block_is_pinned_or_a_page_of_it_taken() {
    for uniform in [false, true] {
        few(3, move || {
            let ram = block(uniform);
            let device = cpu(&ram, |ram| {
                let pinned = ram.pin(0..4);
                if pinned {
                    ram.read(0..4);
                }
                pinned
            });
            let taken = ram.take(3..4, Owner::HYPERVISOR);
            let pinned = device.join().unwrap();
            assert!(taken != pinned);
            let pins = u32::from(pinned);
            ram.rests(0, Owner::HOST, pins);
            let owners = [Owner::HYPERVISOR, Owner::HOST];
            ram.rests(3, owners[usize::from(pinned)], pins);
        });
    }
}

#[test]
fn a_block_is_used_and_then_taken() {
    for uniform in [false, true] {
        few(3, move || {
            let ram = block(uniform);
            let device = cpu(&ram, |ram| ram.dma(0..4));
            let taken = ram.take(1..3, Owner::HYPERVISOR);
            let used = device.join().unwrap();
            assert!(taken || used);
            let owners = [Owner::HOST, Owner::HYPERVISOR];
            ram.rests(0, Owner::HOST, 0);
            ram.rests(1, owners[usize::from(taken)], 0);
            ram.rests(3, Owner::HOST, 0);
        });
    }
}

/// As of a group: overtaken by a transfer there and back.
#[test]
fn a_block_becomes_one_only_as_it_is() {
    few(2, || {
        let ram = Ram::new(4);
        let other = cpu(&ram, |ram| {
            ram.borrow(0..1);
            ram.take(3..4, Owner::HYPERVISOR)
        });
        let first = ram.pin(0..4);
        let second = ram.pin(0..4);
        let taken = other.join().unwrap();
        assert!(!taken || !first && !second);
        ram.rests(0, Owner::HOST, u32::from(first) + u32::from(second));
    });
}

/// Rights of three sizes; each gives up one that may take another's count.
#[test]
fn a_block_is_unpinned_as_unions_and_as_a_whole() {
    for uniform in [false, true] {
        few(3, move || {
            let ram = block(uniform);
            assert!(ram.pin(0..4) && ram.pin(0..2) && ram.pin(2..3) && ram.pin(3..4));
            let other = cpu(&ram, |ram| ram.unpin(0..4));
            ram.unpin(0..4);
            other.join().unwrap();
            for page in 0..4 {
                ram.rests(page, Owner::HOST, 0);
            }
        });
    }
}

/// The right to the block goes down to entries, while the group's right finds the
/// group's count.
#[test]
fn a_block_a_group_and_a_union_are_unpinned() {
    few(2, || {
        let ram = block(true);
        assert!(ram.pin(0..4) && ram.pin(0..2));
        assert!(ram.pin(0..1) && ram.pin(1..3) && ram.pin(3..4));
        let group = cpu(&ram, |ram| ram.unpin(0..2));
        let union = cpu(&ram, |ram| ram.unpin(0..4));
        ram.unpin(0..4);
        group.join().unwrap();
        union.join().unwrap();
        for page in 0..4 {
            ram.rests(page, Owner::HOST, 0);
        }
    });
}

#[test]
fn no_page_slips_away_when_a_block_is_unpinned() {
    few(3, || {
        let ram = block(true);
        assert!(ram.pin(0..4) && ram.pin(0..2) && ram.pin(2..4));
        let taker = cpu(&ram, |ram| ram.take(1..2, Owner::HYPERVISOR));
        ram.unpin(0..4);
        ram.read(1..2);
        assert!(!taker.join().unwrap());
        for page in 0..4 {
            ram.rests(page, Owner::HOST, 1);
        }
    });
}

/// Less than a part is not unpinned, and its count stays where it is.
#[test]
fn less_than_a_block_is_refused() {
    few(3, || {
        let ram = block(true);
        assert!(ram.pin(0..4));
        let other = cpu(&ram, |ram| ram.pin(0..2));
        let refused = ram.with(|ledger| ledger.unpin(pages(2..3)).is_err());
        assert!(refused && other.join().unwrap());
        for (page, pins) in [(0, 2), (1, 2), (2, 1), (3, 1)] {
            ram.rests(page, Owner::HOST, pins);
        }
    });
}

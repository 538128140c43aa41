//! Groups and blocks of pages against a plain list of counts: large ranges,
//! unpinned in other pieces than they were pinned in.
#![cfg(not(loom))]
#![allow(missing_docs)]

mod evidence;

use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{
    Bank, Entry, Ledger, Owner, PageState, PinError, Transfer, TransferError, UnpinError,
};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering};

const GROUP: usize = Bank::GROUP_PAGES;
const BLOCK: usize = Bank::BLOCK_PAGES;
/// Two groups and three pages before the end of a block.
const AHEAD: usize = BLOCK - 2 * GROUP - 3;
const BASE: u64 = 0x4000_0000;
/// Two whole blocks in the middle.
const PAGES: usize = 2 * GROUP + 3 + 2 * BLOCK + GROUP + 5;
const GUEST: Owner = Owner::guest(0).unwrap();
const OWNERS: [Owner; 4] = [Owner::HOST, Owner::HYPERVISOR, Owner::NOBODY, GUEST];
const BORROWED: PageState = PageState::Shared {
    owner: Owner::HOST,
    with: GUEST,
};

fn at(page: usize) -> PhysAddr {
    PhysAddr::new(BASE + (AHEAD + page) as u64 * PAGE_SIZE)
}

fn pages(from: usize, to: usize) -> Range<PhysAddr> {
    Range::new(at(from), at(to)).unwrap()
}

/// Entries and words of a bank that is the host's.
fn books() -> (Vec<AtomicU32>, Vec<AtomicU32>) {
    let words = |count: usize, bits| (0..count).map(|_| AtomicU32::new(bits)).collect();
    let count = Bank::words(pages(0, PAGES)) as usize;
    (words(PAGES, Entry::initial(Owner::HOST)), words(count, 0))
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    state: PageState,
    pins: u32,
}

#[derive(Clone, Debug)]
enum Op {
    Pin(Owner),
    /// Unpins a pinned range, one of them by its number.
    Unpin(usize),
    /// The same, and those that follow it, all at once.
    Union(usize),
    /// Cuts it in two where that is allowed, so that they are unpinned apart.
    Cut(usize, usize),
    /// Unpins what was not pinned.
    TooMuch,
    Begin(Owner, Owner),
    /// The host lets the guest use pages.
    Share,
    Unshare,
    Scrub(Owner),
    Commit,
    CommitDirty,
    GiveBack,
    Cancel,
    Drop,
}

fn owner() -> impl Strategy<Value = Owner> {
    prop_oneof![6 => Just(0), 1 => 0..4usize].prop_map(|n| OWNERS[n])
}

/// Ends of ranges: often where a group or a block ends, often of two blocks.
fn end() -> impl Strategy<Value = usize> {
    let first = 2 * GROUP + 3;
    prop_oneof![
        1 => 0..=PAGES,
        2 => (0..=PAGES / GROUP).prop_map(|n| (3 + n * GROUP).min(PAGES)),
        3 => (0..3usize).prop_map(move |n| first + n * BLOCK),
        2 => (0..3usize).prop_map(move |n| first + n * BLOCK + GROUP),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => owner().prop_map(Op::Pin),
        3 => (0..64usize).prop_map(Op::Unpin),
        3 => (0..64usize).prop_map(Op::Union),
        2 => (0..64usize, end()).prop_map(|(which, at)| Op::Cut(which, at)),
        1 => Just(Op::TooMuch),
        2 => (owner(), owner()).prop_map(|(from, to)| Op::Begin(from, to)),
        2 => Just(Op::Share),
        1 => Just(Op::Unshare),
        1 => owner().prop_map(Op::Scrub),
        1 => Just(Op::Commit),
        1 => Just(Op::CommitDirty),
        1 => Just(Op::GiveBack),
        1 => Just(Op::Cancel),
        1 => Just(Op::Drop),
    ]
}

/// Whether what was pinned from `from` to `to` may be cut at `at`.
fn may_cut((from, to): (usize, usize), at: usize) -> bool {
    for size in [BLOCK, GROUP] {
        let start = (at + AHEAD) / size * size;
        if start == at + AHEAD {
            return true;
        }
        if from + AHEAD <= start && start + size <= to + AHEAD {
            return false;
        }
    }
    true
}

struct Plain {
    pages: Vec<Page>,
    /// What was pinned and not unpinned.
    pinned: Vec<(usize, usize)>,
}

impl Plain {
    fn new() -> Self {
        let page = Page {
            state: PageState::Owned(Owner::HOST),
            pins: 0,
        };
        Self {
            pages: vec![page; PAGES],
            pinned: Vec::new(),
        }
    }

    fn pin(&mut self, from: usize, to: usize, owner: Owner) -> Result<(), PinError> {
        for page in from..to {
            let state = self.pages[page].state;
            if !lets_map(state, owner) {
                let page = at(page);
                return Err(PinError::NotOwner { page, state });
            }
        }
        self.pages[from..to]
            .iter_mut()
            .for_each(|page| page.pins += 1);
        self.pinned.push((from, to));
        Ok(())
    }

    fn unpin(&mut self, from: usize, to: usize) {
        self.pages[from..to]
            .iter_mut()
            .for_each(|page| page.pins -= 1);
    }

    /// A pinned range and those that follow it, as many as there are.
    fn take_union(&mut self, which: usize) -> (usize, usize) {
        let (from, mut to) = self.pinned.swap_remove(which);
        while let Some(next) = self.pinned.iter().position(|(start, _)| *start == to) {
            to = self.pinned.swap_remove(next).1;
        }
        (from, to)
    }

    fn begin(&mut self, from: usize, to: usize, before: PageState) -> Result<(), TransferError> {
        for index in from..to {
            let (page, found) = (at(index), self.pages[index]);
            if found.state != before {
                let state = found.state;
                return Err(TransferError::WrongState { page, state });
            }
            if found.pins != 0 {
                let count = found.pins;
                return Err(TransferError::Pinned { page, count });
            }
        }
        self.fill(from..to, PageState::Leaving(before.owner()));
        Ok(())
    }

    fn fill(&mut self, pages: std::ops::Range<usize>, state: PageState) {
        self.pages[pages]
            .iter_mut()
            .for_each(|page| page.state = state);
    }

    fn share(&mut self, from: usize, to: usize, ledger: &Ledger<'_>) {
        let (before, after) = (PageState::Owned(Owner::HOST), BORROWED);
        let result = ledger.share(pages(from, to), Owner::HOST, GUEST);
        let wrong = (from..to).find(|page| self.pages[*page].state != before);
        let is_pinned = self.pages[from..to].iter().any(|page| page.pins != 0);
        match result {
            Ok(()) => {
                assert_eq!(wrong, None);
                self.fill(from..to, after);
            }
            // Where a group counts, none of its pages can be shared.
            Err(TransferError::Pinned { page, .. }) => {
                assert!(is_pinned && pages(from, to).contains(page));
            }
            Err(error) => {
                let (page, state) = wrong.map(|at| (at, self.pages[at].state)).unwrap();
                let page = at(page);
                assert_eq!(error, TransferError::WrongState { page, state });
            }
        }
    }

    fn end(&mut self, transfer: &Transfer<'_>, state: PageState) {
        for (index, page) in self.pages.iter_mut().enumerate() {
            if transfer.range().contains(at(index)) {
                page.state = state;
            }
        }
    }

    fn differs(&self, ledger: &Ledger<'_>) -> Option<(usize, Entry)> {
        self.pages.iter().enumerate().find_map(|(index, page)| {
            let entry = ledger.entry(at(index)).unwrap();
            let found = (entry.state(), entry.dma_count());
            (found != (page.state, page.pins)).then_some((index, entry))
        })
    }
}

/// What the table of [`PageState`] says.
fn lets_map(state: PageState, who: Owner) -> bool {
    match state {
        PageState::Owned(owner) => owner == who,
        PageState::Shared { owner, with } => [owner, with].contains(&who),
        PageState::Leaving(_) | PageState::Dirty(_) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn groups_count_what_pages_would(
        ops in prop::collection::vec((op(), end(), end()), 1..80),
    ) {
        let (entries, words) = books();
        let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
        let ledger = Ledger::new(&banks).unwrap();
        let mut plain = Plain::new();
        let mut moving: Vec<(Transfer<'_>, PageState)> = Vec::new();
        for (op, a, b) in ops {
            let (from, to) = (a.min(b), a.max(b));
            let count = plain.pinned.len();
            match op {
                Op::Pin(owner) if from < to => {
                    let range = pages(from, to);
                    prop_assert_eq!(ledger.pin(range, owner), plain.pin(from, to, owner));
                }
                Op::Unpin(which) if count != 0 => {
                    let (from, to) = plain.pinned.swap_remove(which % count);
                    plain.unpin(from, to);
                    prop_assert_eq!(ledger.unpin(pages(from, to)), Ok(()));
                }
                Op::Union(which) if count != 0 => {
                    let (from, to) = plain.take_union(which % count);
                    plain.unpin(from, to);
                    prop_assert_eq!(ledger.unpin(pages(from, to)), Ok(()));
                }
                Op::Cut(which, at) if count != 0 => {
                    let (from, to) = plain.pinned[which % count];
                    if from < at && at < to && may_cut((from, to), at) {
                        plain.pinned[which % count] = (from, at);
                        plain.pinned.push((at, to));
                    }
                }
                Op::TooMuch if plain.pages[from..to].iter().any(|page| page.pins == 0) => {
                    let refused = ledger.unpin(pages(from, to));
                    let is_missing = matches!(refused, Err(UnpinError::NotPinned { .. }));
                    prop_assert!(is_missing, "{refused:?}");
                }
                Op::Begin(owner, new) if from < to => {
                    let before = PageState::Owned(owner);
                    let begun = ledger.begin(pages(from, to), owner, new);
                    let expected = plain.begin(from, to, before);
                    prop_assert_eq!(begun.as_ref().err(), expected.as_ref().err());
                    moving.extend(begun.map(|transfer| (transfer, before)));
                }
                Op::Share if from < to => plain.share(from, to, &ledger),
                Op::Unshare if from < to => {
                    let begun = ledger.begin_unshare(pages(from, to), Owner::HOST, GUEST);
                    let expected = plain.begin(from, to, BORROWED);
                    prop_assert_eq!(begun.as_ref().err(), expected.as_ref().err());
                    moving.extend(begun.map(|transfer| (transfer, BORROWED)));
                }
                Op::Scrub(owner) if from < to => {
                    let begun = ledger.begin_scrub(pages(from, to), owner);
                    let expected = plain.begin(from, to, PageState::Dirty(owner));
                    prop_assert_eq!(begun.as_ref().err(), expected.as_ref().err());
                    if let Ok(scrub) = begun {
                        prop_assert_eq!(plain.differs(&ledger), None);
                        plain.fill(from..to, PageState::Owned(owner));
                        scrub.done().commit();
                    }
                }
                Op::Commit => if let Some((transfer, _)) = moving.pop() {
                    plain.end(&transfer, PageState::Owned(transfer.to()));
                    evidence::commit(transfer);
                },
                Op::CommitDirty => if let Some((transfer, _)) = moving.pop() {
                    plain.end(&transfer, PageState::Dirty(transfer.to()));
                    evidence::unreachable(transfer).commit_dirty();
                },
                Op::GiveBack => if let Some((transfer, before)) = moving.pop() {
                    plain.end(&transfer, before);
                    evidence::unreachable(transfer).give_back();
                },
                Op::Cancel => if let Some((transfer, before)) = moving.pop() {
                    plain.end(&transfer, before);
                    transfer.cancel();
                },
                Op::Drop => drop(moving.pop()),
                _ => {}
            }
            prop_assert_eq!(plain.differs(&ledger), None);
        }
        // Nothing is left in the end.
        while !plain.pinned.is_empty() {
            let (from, to) = plain.take_union(0);
            plain.unpin(from, to);
            prop_assert_eq!(ledger.unpin(pages(from, to)), Ok(()));
        }
        prop_assert_eq!(plain.differs(&ledger), None);
        prop_assert_eq!(entries.iter().map(entry_count).sum::<u32>(), 0);
        prop_assert_eq!(words.iter().map(word_count).sum::<u32>(), 0);
    }
}

/// The first page of a whole block.
const FIRST: usize = 2 * GROUP + 3;

fn entry_count(slot: &AtomicU32) -> u32 {
    slot.load(Ordering::Relaxed) & Entry::MAX_DMA_COUNT
}

/// A word that is not uniform counts transfers.
fn word_count(slot: &AtomicU32) -> u32 {
    let bits = slot.load(Ordering::Relaxed);
    (bits >> 31) * (bits & Entry::MAX_DMA_COUNT)
}

/// What is counted in a block's word, in the words of its groups and in the
/// entries of its pages: of each the least and the most.
fn counted(entries: &[AtomicU32], words: &[AtomicU32]) -> [(u32, u32); 3] {
    let ends = |counts: Vec<u32>| (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
    // The bank touches four blocks, of which this is the second.
    let groups = 4 + BLOCK / GROUP..4 + 2 * (BLOCK / GROUP);
    [
        ends(words[1..2].iter().map(word_count).collect()),
        ends(words[groups].iter().map(word_count).collect()),
        ends(
            entries[FIRST..FIRST + BLOCK]
                .iter()
                .map(entry_count)
                .collect(),
        ),
    ]
}

/// A block is one count, and not 32 or 512.
#[test]
fn each_part_is_counted_as_high_as_can_be() {
    let (entries, words) = books();
    let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let all = pages(FIRST - GROUP - 1, FIRST + BLOCK + GROUP + 1);
    ledger.pin(all, Owner::HOST).unwrap();
    assert_eq!(counted(&entries, &words), [(1, 1), (0, 0), (0, 0)]);
    // The groups beside it, and a page beside these.
    let groups = (4..words.len()).filter(|n| word_count(&words[*n]) == 1);
    assert_eq!(groups.collect::<Vec<_>>(), [4 + 31, 4 + 64]);
    let singly = (0..PAGES).filter(|n| entry_count(&entries[*n]) == 1);
    let beside = [FIRST - GROUP - 1, FIRST + BLOCK + GROUP];
    assert_eq!(singly.collect::<Vec<_>>(), beside);
    ledger.unpin(all).unwrap();
    assert_eq!(words.iter().map(word_count).sum::<u32>(), 0);
    assert_eq!(entries.iter().map(entry_count).sum::<u32>(), 0);
}

/// Rights of pages may be given up with a count of their block; then the right
/// to the block is found in the entries.
#[test]
fn a_union_takes_the_count_of_what_it_covers() {
    let block = pages(FIRST, FIRST + BLOCK);
    for step in [1, GROUP, GROUP + 1, BLOCK / 2] {
        let (entries, words) = books();
        let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
        let ledger = Ledger::new(&banks).unwrap();
        ledger.pin(block, Owner::HOST).unwrap();
        for from in (0..BLOCK).step_by(step) {
            let to = (from + step).min(BLOCK);
            ledger
                .pin(pages(FIRST + from, FIRST + to), Owner::HOST)
                .unwrap();
        }
        let before = counted(&entries, &words);
        ledger.unpin(block).unwrap();
        let after = counted(&entries, &words);
        assert_eq!(after, [(0, 0), before[1], before[2]]);
        let taken = ledger.begin(block, Owner::HOST, Owner::HYPERVISOR);
        let page = block.start();
        assert_eq!(taken.err(), Some(TransferError::Pinned { page, count: 1 }));
        ledger.unpin(block).unwrap();
        assert_eq!(counted(&entries, &words), [(0, 0); 3]);
        ledger
            .begin(block, Owner::HOST, Owner::HYPERVISOR)
            .unwrap()
            .cancel();
    }
}

/// A part cannot be unpinned in parts of its own, and stays as it was.
#[test]
fn less_than_a_part_is_refused() {
    let (entries, words) = books();
    let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let block = pages(FIRST, FIRST + BLOCK);
    ledger.pin(block, Owner::HOST).unwrap();
    ledger.pin(pages(FIRST, FIRST + 1), Owner::HOST).unwrap();
    for (from, to, first) in [
        (1, 2, 1),
        (0, 3, 1),
        (0, GROUP, 1),
        (GROUP, 2 * GROUP, GROUP),
        (0, BLOCK - 1, 1),
    ] {
        assert_eq!(
            ledger.unpin(pages(FIRST + from, FIRST + to)),
            Err(UnpinError::NotPinned {
                page: at(FIRST + first)
            })
        );
        assert_eq!(counted(&entries, &words), [(1, 1), (0, 0), (0, 1)]);
    }
    // What was taken before comes back, as counts of pages.
    let too_much = pages(FIRST - 1, FIRST + BLOCK + 1);
    ledger.pin(pages(FIRST - 1, FIRST), Owner::HOST).unwrap();
    assert_eq!(
        ledger.unpin(too_much),
        Err(UnpinError::NotPinned {
            page: at(FIRST + BLOCK)
        })
    );
    assert_eq!(counted(&entries, &words), [(0, 0), (0, 0), (1, 2)]);
    ledger.unpin(pages(FIRST - 1, FIRST + BLOCK)).unwrap();
    ledger.unpin(pages(FIRST, FIRST + 1)).unwrap();
    assert_eq!(counted(&entries, &words), [(0, 0); 3]);
}

/// A page of a pinned block does not move, and while one moves its block is not
/// counted as one.
#[test]
fn blocks_and_transfers_exclude_each_other() {
    let (entries, words) = books();
    let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let block = pages(FIRST, FIRST + BLOCK);
    let one = pages(FIRST + 77, FIRST + 78);
    ledger.pin(block, Owner::HOST).unwrap();
    for range in [one, pages(0, PAGES), pages(0, FIRST + 1)] {
        let taken = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR);
        let page = range.start().max(block.start());
        assert_eq!(taken.err(), Some(TransferError::Pinned { page, count: 1 }));
    }
    let foreign = ledger.begin(one, Owner::HYPERVISOR, Owner::NOBODY);
    let (page, state) = (one.start(), PageState::Owned(Owner::HOST));
    assert_eq!(
        foreign.err(),
        Some(TransferError::WrongState { page, state })
    );
    ledger.unpin(block).unwrap();
    let moving = ledger.begin(one, Owner::HOST, Owner::HYPERVISOR).unwrap();
    let refused = ledger.pin(block, Owner::HOST);
    let state = PageState::Leaving(Owner::HOST);
    assert_eq!(refused, Err(PinError::NotOwner { page, state }));
    assert_eq!(
        counted(&entries, &words),
        [(0, 0); 3].map(|none| none).map(|none| none)
    );
    moving.cancel();
    // And again as one, when it is through, also if it was refused: by a page, by a
    // group, or where it had gone on to the next block.
    let group = pages(FIRST + GROUP, FIRST + 2 * GROUP);
    let next = pages(FIRST + BLOCK + 1, FIRST + BLOCK + 2);
    for pinned in [one, group, next] {
        ledger.pin(pinned, Owner::HOST).unwrap();
        for range in [pinned, pages(0, PAGES)] {
            let taken = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR);
            let page = pinned.start();
            assert_eq!(taken.err(), Some(TransferError::Pinned { page, count: 1 }));
        }
        ledger.unpin(pinned).unwrap();
        ledger.pin(block, Owner::HOST).unwrap();
        assert_eq!(counted(&entries, &words), [(1, 1), (0, 0), (0, 0)]);
        ledger.unpin(block).unwrap();
    }
}

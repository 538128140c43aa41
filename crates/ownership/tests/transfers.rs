//! Pages that change hands, are shared, or are to be overwritten.
#![cfg(not(loom))]
#![allow(missing_docs)]

mod evidence;

use evidence::{commit, unreachable, with_evidence_of};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{
    Allotment, Bank, Entry, Ledger, Owner, PageState, PinError, TransferError,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 64;
const GUEST: Owner = Owner::guest(3).unwrap();
const OTHER: Owner = Owner::guest(4).unwrap();

fn pages(first: u64, count: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(BASE + first * PAGE_SIZE), count * PAGE_SIZE).unwrap()
}

fn with(test: impl FnOnce(Ledger<'_>)) {
    let host = || AtomicU32::new(Entry::initial(Owner::HOST));
    let entries: Vec<_> = (0..PAGES).map(|_| host()).collect();
    let words: Vec<_> = (0..Bank::words(pages(0, PAGES)))
        .map(|_| AtomicU32::new(0))
        .collect();
    let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
    test(Ledger::new(&banks).unwrap());
}

fn state(ledger: &Ledger<'_>, page: u64) -> PageState {
    ledger.entry(pages(page, 1).start()).unwrap().state()
}

/// A commit needs evidence of all pages: of fewer, or of others, it is refused, and the
/// transfer goes on.
#[test]
fn evidence_is_of_all_the_pages() {
    with(|ledger| {
        let mut transfer = ledger.begin(pages(4, 4), Owner::HOST, GUEST).unwrap();
        for other in [pages(4, 3), pages(5, 3), pages(0, 4), pages(8, 4)] {
            transfer = with_evidence_of(transfer, other).unwrap_err();
            assert_eq!(state(&ledger, 4), PageState::Leaving(Owner::HOST));
        }
        with_evidence_of(transfer, pages(0, 64)).unwrap().commit();
        assert_eq!(ledger.runs(GUEST).collect::<Vec<_>>(), [pages(4, 4)]);
    });
}

#[test]
fn what_is_not_committed_goes_back() {
    with(|ledger| {
        let transfer = ledger.begin(pages(4, 4), Owner::HOST, GUEST).unwrap();
        unreachable(transfer).give_back();
        assert_eq!(state(&ledger, 5), PageState::Owned(Owner::HOST));
        drop(unreachable(
            ledger.begin(pages(4, 1), Owner::HOST, GUEST).unwrap(),
        ));
        assert_eq!(state(&ledger, 4), PageState::Leaving(Owner::HOST));
    });
}

/// Dirty pages are no owner's before they are overwritten, which one caller does at a
/// time.
#[test]
fn dirty_pages_are_overwritten_first() {
    with(|ledger| {
        commit(ledger.begin(pages(0, 2), Owner::HOST, GUEST).unwrap());
        let back = ledger.begin(pages(0, 2), GUEST, Owner::HOST).unwrap();
        unreachable(back).commit_dirty();
        for owner in [Owner::HOST, GUEST] {
            let refused = ledger.pin(pages(0, 1), owner);
            let (page, state) = (pages(0, 1).start(), PageState::Dirty(Owner::HOST));
            assert_eq!(refused, Err(PinError::NotOwner { page, state }));
            assert!(ledger.begin(pages(0, 1), owner, OTHER).is_err());
        }
        assert!(ledger.begin_scrub(pages(0, 3), Owner::HOST).is_err());
        assert!(ledger.begin_scrub(pages(0, 1), GUEST).is_err());
        let scrub = ledger.begin_scrub(pages(0, 2), Owner::HOST).unwrap();
        assert!(ledger.begin_scrub(pages(1, 1), Owner::HOST).is_err());
        assert!(ledger.pin(pages(1, 1), Owner::HOST).is_err());
        scrub.stop();
        assert_eq!(state(&ledger, 1), PageState::Dirty(Owner::HOST));
        let scrub = ledger.begin_scrub(pages(0, 2), Owner::HOST).unwrap();
        let clean = scrub.done();
        assert_eq!((clean.range(), clean.to()), (pages(0, 2), Owner::HOST));
        assert!(ledger.pin(pages(0, 1), Owner::HOST).is_err());
        // What was not mapped for its owner after all is overwritten again.
        clean.give_back();
        assert_eq!(state(&ledger, 0), PageState::Dirty(Owner::HOST));
        let scrub = ledger.begin_scrub(pages(0, 2), Owner::HOST).unwrap();
        scrub.done().commit();
        assert_eq!(ledger.runs(Owner::HOST).count(), 1);
    });
}

/// Both owners of a shared page may pin it. It does not change owner while it is shared,
/// and stays shared while it is pinned.
#[test]
fn shared_pages_are_pinned_by_both() {
    with(|ledger| {
        let shared = PageState::Shared {
            owner: Owner::HOST,
            with: GUEST,
        };
        let range = pages(0, 32);
        ledger.share(range, Owner::HOST, GUEST).unwrap();
        for owner in [Owner::HOST, GUEST] {
            ledger.pin(range, owner).unwrap();
            let refused = ledger.begin_unshare(range, Owner::HOST, GUEST);
            assert!(matches!(refused, Err(TransferError::Pinned { .. })));
            ledger.unpin(range).unwrap();
        }
        assert!(ledger.pin(range, OTHER).is_err());
        let page = range.start();
        for owner in [Owner::HOST, GUEST] {
            let refused = ledger.begin(range, owner, OTHER).map(drop);
            let state = shared;
            assert_eq!(refused, Err(TransferError::WrongState { page, state }));
        }
        let unshared = ledger.begin_unshare(range, Owner::HOST, GUEST).unwrap();
        assert!(ledger.pin(pages(0, 1), GUEST).is_err());
        commit(unshared);
        assert_eq!(state(&ledger, 31), PageState::Owned(Owner::HOST));
        assert!(ledger.pin(range, GUEST).is_err());
        ledger.pin(range, Owner::HOST).unwrap();
    });
}

/// DMA mappings of the owner's go on while it begins to share, page by page.
#[test]
fn pins_stay_when_pages_are_shared() {
    with(|ledger| {
        for page in 3..6 {
            ledger.pin(pages(page, 1), Owner::HOST).unwrap();
        }
        ledger.share(pages(2, 4), Owner::HOST, GUEST).unwrap();
        let count = |page| ledger.entry(pages(page, 1).start()).unwrap().dma_count();
        assert_eq!([2, 3, 4, 5, 6].map(count), [0, 1, 1, 1, 0]);
        ledger.unpin(pages(3, 1)).unwrap();
        // One of a group that counts as one.
        ledger.pin(pages(16, 16), Owner::HOST).unwrap();
        let refused = ledger.share(pages(10, 10), Owner::HOST, GUEST);
        assert!(matches!(refused, Err(TransferError::Pinned { .. })));
        assert_eq!(state(&ledger, 10), PageState::Owned(Owner::HOST));
    });
}

/// One of the two is the host, and the other is not.
#[test]
fn guests_do_not_share_with_each_other() {
    with(|ledger| {
        for (owner, with) in [
            (GUEST, OTHER),
            (Owner::HOST, Owner::HOST),
            (GUEST, GUEST),
            (OTHER, Owner::HYPERVISOR),
        ] {
            let refused = ledger.share(pages(0, 1), owner, with);
            assert_eq!(refused, Err(TransferError::BadSharing { owner, with }));
            let refused = ledger.begin_unshare(pages(0, 1), owner, with).map(drop);
            assert_eq!(refused, Err(TransferError::BadSharing { owner, with }));
        }
    });
}

/// Pages of which one cannot be shared are never pinned by the other owner, not even
/// while the ledger finds that out.
#[test]
fn a_refused_sharing_was_never_there() {
    with(|ledger| {
        commit(ledger.begin(pages(7, 1), Owner::HOST, OTHER).unwrap());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert!(ledger.pin(pages(0, 1), GUEST).is_err());
                }
            });
            for _ in 0..20_000 {
                let refused = ledger.share(pages(0, 8), Owner::HOST, GUEST);
                assert!(refused.is_err());
            }
            done.store(true, Ordering::Relaxed);
        });
        assert_eq!(ledger.entry(pages(0, 1).start()).unwrap().dma_count(), 0);
    });
}

#[test]
fn pages_are_assigned_before_there_are_tables() {
    let entries: Vec<_> = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
    let words: Vec<_> = (0..Bank::words(pages(0, PAGES)))
        .map(|_| AtomicU32::new(0))
        .collect();
    let banks = [Bank::new(pages(0, PAGES), &entries, &words).unwrap()];
    let at_first = Allotment::new(&banks).unwrap();
    let at_first = at_first.assign(pages(3, 2), Owner::NOBODY, Owner::HYPERVISOR);
    let at_first = at_first.unwrap().assign_rest(Owner::NOBODY, Owner::HOST);
    let ledger = at_first.unwrap().ledger();
    let host: Vec<_> = ledger.runs(Owner::HOST).collect();
    assert_eq!(host, [pages(0, 3), pages(5, PAGES - 5)]);
    assert_eq!(
        ledger.runs(Owner::HYPERVISOR).collect::<Vec<_>>(),
        [pages(3, 2)]
    );
}

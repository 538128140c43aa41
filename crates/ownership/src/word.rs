//! What the ledger knows of many pages at once, in 32 bits.
//!
//! A large mapping pins hundreds of pages that lie side by side. So pages are
//! also counted by the *unit*: a group, or a block of many groups, naturally
//! aligned, with a word that is one of
//! - *uniform*: one owner owns all pages alone, and the whole unit is pinned a
//!   number of times, on top of what is counted below it: in the words of its
//!   groups and the entries of its pages;
//! - *mixed*: what is below it alone counts. A number of transfers is under way
//!   that touch the unit.
//!
//! # Why a page of a uniform unit is the unit's owner's alone
//!
//! Owner and state of a page are changed by transfers alone. A transfer first
//! [holds](Unit::hold) the block and the group of the page: the words are mixed
//! then, with the transfer counted, until the pages rest again and the transfer
//! [lets go](Unit::let_go). A unit becomes uniform only by [`Unit::promote`].
//! That marks the word as *looking* when no transfer is counted, looks at all
//! pages, and exchanges the word only if no transfer has held the unit since,
//! which would have left *disturbed* behind, also if it is through. There is one
//! who looks at a time, and only that one removes the marks, so that there is no
//! way for a word to look as it was left and mean something else.
//!
//! A uniform unit with pins refuses the hold, so no page of it changes owner
//! while a device may reach it.
//!
//! # Why an unpin always finds its counts
//!
//! A pinned range has *parts*: whole blocks, of what is left whole groups, and of
//! what is left single pages. Where a part was counted, its owner has a *right*: to
//! a block if the block's word counts it, else to each of its groups, and where a
//! group's word could not count either, to each of its pages. What is unpinned is a
//! union of parts that were pinned, and so of rights. A count belongs to no right
//! in particular: of a unit that is unpinned as a whole, one is taken from the word
//! if that counts, and else from what is below, in the same way.
//!
//! Of some page, let *e*, *g* and *b* be what its entry, its group's and its
//! block's word count, and *P*, *G* and *B* the rights to the page, the group and
//! the block that are out. Then always
//! 1. *b* ≤ *B*,
//! 2. *b* + *g* ≤ *B* + *G*,
//! 3. *b* + *g* + *e* = *B* + *G* + *P*.
//!
//! For each step keeps all three:
//! - A pin adds one to a count, and one to the rights of the same size.
//! - A right that is given up with a count of its own size takes one from both.
//! - Smaller rights, which cover a unit together, may be given up with the unit's
//!   count. Then the left sides lose one in the same lines as the right sides, and
//!   in some where the right sides do not.
//! - An operation sees a block's word at 0, and has a right to the block. From then
//!   on let it have a right to each of the groups instead. Line 1 says 0 ≤ *B* − 1
//!   then, which is so since its own right was among *B*; the other sums are what
//!   they were.
//! - An operation sees a group's word at 0, and has a right to the group. From then
//!   on let it have a right to each of the pages instead. Line 2 says
//!   *b* + 0 ≤ *B* + *G* − 1, which is so by line 1, and since its own right was
//!   among *G*.
//!
//! So an operation that has come down to the entries has a right to each page, and
//! lines 2 and 3 say *e* ≥ *P* ≥ 1: there is a count for it. Others take theirs
//! meanwhile with rights of their own, and the word that was seen at 0 may count
//! again; neither takes its right away.
//!
//! Nor does it matter that a CPU may read a word late. Each change is an exchange
//! that acquires and releases, so that the changes which a CPU knows of can be put
//! in one order, in which each comes after all that it knows of itself; and what
//! was read as 0 was 0 in that order at some time after the right came about, as a
//! CPU never reads what came before a change that it knows of.
//!
//! By line 3, a page is one that no right is out to if its entry counts 0 while its
//! block and group are held, and so count nothing.

use crate::bank::{Bank, Size};
use crate::sync::{AtomicU32, Ordering};
use crate::{Entry, Owner, PageState};

/// A unit's word. Uniform: bit 31, the owner in bits 30:23, the pins in bits
/// 22:0. Mixed: bit 31 is 0; bit 30 is *looking*, bit 29 *disturbed*, and bits
/// 28:0 count transfers.
///
/// Each transfer that is counted has at least a page of the unit or a CPU of its
/// own, also if it was dropped: the count is nowhere near its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u32);

impl Word {
    const UNIFORM: u32 = 1 << 31;
    const LOOKING: Self = Self(1 << 30);
    const DISTURBED: u32 = 1 << 29;
    const MARKS: u32 = Self::LOOKING.0 | Self::DISTURBED;
    const OWNER: u32 = 23;
    const MAX_PINS: u32 = (1 << Self::OWNER) - 1;
    /// Mixed, no transfer under way: what a ledger starts with.
    const IDLE: Self = Self(0);

    pub(crate) const fn uniform(owner: Owner, pins: u32) -> Self {
        Self(Self::UNIFORM | (owner.id() as u32) << Self::OWNER | pins)
    }

    /// Who has all of the pages, if the unit is uniform.
    pub(crate) const fn owner(self) -> Option<Owner> {
        if self.0 & Self::UNIFORM == 0 {
            None
        } else {
            Some(Owner::from_id((self.0 >> Self::OWNER) as u8))
        }
    }

    /// How many DMA mappings hold the unit as a whole.
    pub(crate) const fn pins(self) -> u32 {
        if self.0 & Self::UNIFORM == 0 {
            0
        } else {
            self.0 & Self::MAX_PINS
        }
    }

    /// `None` unless all of the unit is `owner`'s alone and one more fits in.
    const fn pinned(self, owner: Owner) -> Option<Self> {
        // What is left is the count, unless the owner differs or it is mixed.
        if self.0 ^ Self::uniform(owner, 0).0 < Self::MAX_PINS {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }

    /// `None` if the unit is not pinned as a whole.
    const fn unpinned(self) -> Option<Self> {
        if self.pins() == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }

    /// With one more transfer; `None` if the unit is pinned as a whole.
    const fn held(self) -> Option<Self> {
        if self.0 & Self::UNIFORM != 0 {
            if self.pins() == 0 {
                Some(Self(1))
            } else {
                None
            }
        } else if self.0 & Self::LOOKING.0 != 0 {
            Some(Self((self.0 | Self::DISTURBED) + 1))
        } else {
            Some(Self(self.0 + 1))
        }
    }
}

/// The pages of a unit.
#[derive(Clone, Copy)]
pub(crate) struct Pages<'a> {
    bank: &'a Bank<'a>,
    /// Index of the first in the bank.
    first: usize,
    size: Size,
}

impl<'a> Pages<'a> {
    pub(crate) fn new(bank: &'a Bank<'a>, first: usize, size: Size) -> Self {
        Self { bank, first, size }
    }

    /// Their entries, if the bank has all of them.
    pub(crate) fn entries(&self) -> Option<&'a [AtomicU32]> {
        let end = self.first + self.size.pages();
        self.bank.entries().get(self.first..end)
    }
}

/// A group or a block that lies in its bank as a whole.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) pages: Pages<'a>,
}

impl Unit<'_> {
    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Replaces the word by `change` of it. When `change` refuses, nothing has
    /// changed, and what the word was is returned.
    #[inline(always)]
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Result<(), Word> {
        let word = self.word();
        match self.exchange(word, change(word).ok_or(word)?) {
            Ok(()) => Ok(()),
            Err(found) => self.change_again(found, change),
        }
    }

    /// Another CPU was faster.
    #[cold]
    #[inline(never)]
    fn change_again(
        &self,
        mut word: Word,
        change: impl Fn(Word) -> Option<Word>,
    ) -> Result<(), Word> {
        while let Err(found) = self.exchange(word, change(word).ok_or(word)?) {
            word = found;
        }
        Ok(())
    }

    #[inline(always)]
    fn exchange(&self, word: Word, new: Word) -> Result<(), Word> {
        let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
        let done = self.word.compare_exchange(word.0, new.0, order, failed);
        done.map(|_| ()).map_err(Word)
    }

    /// Pins all pages at once if `owner` owns all of them alone, and returns whether
    /// it did. If not, nothing has changed, and smaller parts are to be pinned.
    #[inline(always)]
    pub(crate) fn pin(&self, owner: Owner) -> bool {
        match self.change(|word| word.pinned(owner)) {
            Ok(()) => true,
            Err(word) => word == Word::IDLE && self.promote(owner),
        }
    }

    /// Unpins all pages at once if the unit was pinned as a whole, and returns
    /// whether it did. If not, smaller parts are to be unpinned.
    #[inline(always)]
    pub(crate) fn unpin(&self) -> bool {
        self.change(Word::unpinned).is_ok()
    }

    /// Makes an idle unit uniform, and pins it, if `owner` owns all pages alone.
    #[inline(never)]
    fn promote(&self, owner: Owner) -> bool {
        // Relaxed if it fails, here and below: nothing is made of what was found.
        let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        // Acquires what the transfers stored that let go of the unit.
        let (idle, looking) = (Word::IDLE.0, Word::LOOKING.0);
        if self
            .word
            .compare_exchange(idle, looking, order, failed)
            .is_err()
        {
            return false;
        }
        let rests = |slot: &AtomicU32| {
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            entry.state() == PageState::Owned(owner)
        };
        let entries = self.pages.entries();
        let rest = entries.is_some_and(|entries| entries.iter().all(rests));
        let pinned = Word::uniform(owner, 1).0;
        if rest
            && self
                .word
                .compare_exchange(looking, pinned, order, failed)
                .is_ok()
        {
            return true;
        }
        // Still mixed, with whatever transfers came: only who looks ends that.
        self.word.fetch_and(!Word::MARKS, Ordering::AcqRel);
        false
    }

    /// Counts a transfer of some of the pages, before the first of them changes.
    ///
    /// # Errors
    /// The word of a unit that is pinned as a whole. Nothing has changed then.
    pub(crate) fn hold(&self) -> Result<(), Word> {
        self.change(Word::held)
    }

    /// Ends what [`hold`](Self::hold) began, after the last page has changed.
    pub(crate) fn let_go(&self) {
        self.word.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};

    #[test]
    fn layout_is_fixed() {
        let word = Word::uniform(Owner::HOST, 3);
        assert_eq!(word.0, 0x8100_0003);
        assert_eq!((word.owner(), word.pins()), (Some(Owner::HOST), 3));
        for mixed in [0, 3, 0x4000_0000, 0x6000_0003] {
            assert_eq!((Word(mixed).owner(), Word(mixed).pins()), (None, 0));
        }
    }

    #[test]
    fn every_step_from_every_word() {
        // From a word: pinned by the host, unpinned, held.
        let steps = [
            (0, None, None, Some(1)),
            (2, None, None, Some(3)),
            (0x4000_0000, None, None, Some(0x6000_0001)),
            (0x6000_0001, None, None, Some(0x6000_0002)),
            (0x8100_0000, Some(0x8100_0001), None, Some(1)),
            (0x8100_0001, Some(0x8100_0002), Some(0x8100_0000), None),
            (0x817f_fffe, Some(0x817f_ffff), Some(0x817f_fffd), None),
            (0x817f_ffff, None, Some(0x817f_fffe), None),
            (0x8080_0000, None, None, Some(1)),
            (0x8080_0001, None, Some(0x8080_0000), None),
        ];
        for (from, pinned, unpinned, held) in steps {
            let bits = |word: Option<Word>| word.map(|word| word.0);
            assert_eq!(bits(Word(from).pinned(Owner::HOST)), pinned, "{from:#x}");
            assert_eq!(bits(Word(from).unpinned()), unpinned, "{from:#x}");
            assert_eq!(bits(Word(from).held()), held, "{from:#x}");
        }
    }

    /// A bank of one block.
    struct Ram {
        entries: Vec<AtomicU32>,
        words: Vec<AtomicU32>,
    }

    const FREE: u32 = 0x0200_0000;

    impl Ram {
        fn new(entry: impl Fn(usize) -> u32) -> Self {
            let entries = (0..Bank::BLOCK_PAGES).map(|page| AtomicU32::new(entry(page)));
            let words = (0..Bank::words(Self::range())).map(|_| AtomicU32::new(0));
            Self {
                entries: entries.collect(),
                words: words.collect(),
            }
        }

        fn range() -> Range<PhysAddr> {
            let size = Bank::BLOCK_PAGES as u64 * PAGE_SIZE;
            Range::from_size(PhysAddr::new(0x4000_0000), size).unwrap()
        }

        fn with<T>(&self, act: impl FnOnce(&Bank<'_>) -> T) -> T {
            act(&Bank::new(Self::range(), &self.entries, &self.words).unwrap())
        }

        /// Sets the word of the unit around a page, pins it, and says what the
        /// word became.
        fn pinned(&self, size: Size, page: usize, word: u32) -> (bool, u32) {
            self.with(|bank| {
                let unit = bank.unit(size, page).unwrap();
                unit.word.store(word, Ordering::Relaxed);
                (unit.pin(Owner::HOST), unit.word().0)
            })
        }

        fn is(&self, entry: impl Fn(usize) -> u32) {
            for (page, slot) in self.entries.iter().enumerate() {
                assert_eq!(slot.load(Ordering::Relaxed), entry(page), "page {page}");
            }
        }
    }

    #[test]
    fn one_foreign_page_keeps_a_unit_mixed() {
        for other in [0x0280_0000, 0x0100_0000] {
            for foreign in 16..32 {
                let entry = |page| if page == foreign { other } else { FREE + 7 };
                let ram = Ram::new(entry);
                for size in Size::ALL {
                    assert_eq!(ram.pinned(size, 20, 0), (false, 0), "{size:?}");
                }
                // Its neighbours are others.
                for page in [15, 32] {
                    assert_eq!(ram.pinned(Size::Group, page, 0), (true, 0x8100_0001));
                }
                ram.is(entry);
            }
        }
        // Also the first and the last.
        for foreign in [0, 511] {
            let ram = Ram::new(|page| if page == foreign { 0 } else { FREE });
            assert_eq!(ram.pinned(Size::Block, 100, 0), (false, 0));
        }
        let ram = Ram::new(|_| FREE + 7);
        for size in Size::ALL {
            assert_eq!(ram.pinned(size, 20, 0), (true, 0x8100_0001));
        }
        ram.is(|_| FREE + 7);
    }

    #[test]
    fn who_looks_or_moves_pages_keeps_a_unit_mixed() {
        for word in [1, 0x4000_0000, 0x6000_0000, 0x6000_0001] {
            let ram = Ram::new(|_| FREE);
            for size in Size::ALL {
                assert_eq!(ram.pinned(size, 20, word), (false, word));
            }
            ram.is(|_| FREE);
        }
    }
}

//! What the ledger knows of a group of pages, in 32 bits.
//!
//! A large mapping pins hundreds of pages that lie side by side. So pages are
//! also counted by the group: naturally aligned, [`Bank::GROUP_PAGES`] long, with
//! a word that is one of
//! - *uniform*: all pages rest with one owner, and the whole group is pinned a
//!   number of times, on top of what each page's entry counts;
//! - *mixed*: the pages' entries alone count. A number of transfers is under way
//!   that touch the group.
//!
//! # Why a page of a uniform group rests with the group's owner
//!
//! Owner and state of a page are changed by transfers alone. A transfer first
//! [holds](Group::hold) the group: the word is mixed then, with the transfer
//! counted, until the pages rest again and the transfer [lets go](Group::let_go).
//! A group becomes uniform only by [`Group::promote`]. That marks the word as
//! *looking* when no transfer is counted, looks at the pages, and exchanges the
//! word only if no transfer has held the group since, which would have left
//! *disturbed* behind, also if it is through. There is one who looks at a time,
//! and only that one removes the marks, so that there is no way for a word to
//! look as it was left and mean something else.
//!
//! A uniform group with pins refuses the hold, so no page of it changes owner
//! while a device may reach it.
//!
//! # Why who unpins always finds its pin
//!
//! A pin gives its holder the right to one count of each page, be it in the
//! page's entry or in the group's word; which is nobody's in particular. *Of each
//! page, entry and word together count the rights that are out.* Pinning a page or
//! a group, and unpinning it, keep that by themselves. What is needed besides is
//! to unpin a page whose entry counts 0: then a pin of the group is broken up.
//! [`Group::lend`] counts one more for each of the other pages, whose right
//! is then the one's that breaks it up; taking a pin from the word settles those
//! rights and the one on the page to be unpinned, all at once. Should the word
//! have no pin left by then, the rights on what was lent stay: those pages are
//! *owed* too and are taken as any other, from their entries or with the next
//! pin of the group. They cannot just be subtracted, since others, with rights
//! of their own, may have used them up, and left theirs in the word.
//!
//! An entry of 0, and then a word of 0, do not show that a count is missing: it
//! may have gone to the entry between the two looks. Who is about to say so holds
//! the group, as a transfer does, so that the word stays at 0, and looks again.

use crate::entry::Owner;
use crate::sync::{AtomicU32, Ordering};
use crate::{Bank, Entry, State};

/// A group's word. Uniform: bit 31, the owner in bits 30:23, the pins in bits
/// 22:0. Mixed: bit 31 is 0; bit 30 is *looking*, bit 29 *disturbed*, and bits
/// 28:0 count transfers.
///
/// Each transfer that is counted has at least a page of the group or a CPU of its
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

    /// Who has all of the pages, if the group is uniform.
    pub(crate) const fn owner(self) -> Option<Owner> {
        if self.0 & Self::UNIFORM == 0 {
            None
        } else {
            Some(Owner::from_id((self.0 >> Self::OWNER) as u8))
        }
    }

    /// How many DMA mappings hold the group as a whole.
    pub(crate) const fn pins(self) -> u32 {
        if self.0 & Self::UNIFORM == 0 {
            0
        } else {
            self.0 & Self::MAX_PINS
        }
    }

    /// `None` unless all of the group rests with `owner` and one more fits in.
    pub(crate) const fn pinned(self, owner: Owner) -> Option<Self> {
        // What is left is the count, unless the owner differs or it is mixed.
        if self.0 ^ Self::uniform(owner, 0).0 < Self::MAX_PINS {
            Some(Self(self.0 + 1))
        } else {
            None
        }
    }

    /// `None` if the group is not pinned as a whole.
    pub(crate) const fn unpinned(self) -> Option<Self> {
        if self.pins() == 0 {
            None
        } else {
            Some(Self(self.0 - 1))
        }
    }

    /// With one more transfer; `None` if the group is pinned as a whole.
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

/// A set of pages of one group, bit n for the nth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pages(u32);

impl Pages {
    const NONE: Self = Self(0);
    const ALL: Self = Self(u32::MAX >> (u32::BITS as usize - Bank::GROUP_PAGES));

    /// Pages `from` up to but not including `to`.
    pub(crate) const fn between(from: usize, to: usize) -> Self {
        let below_to = ((1u64 << to) - 1) as u32;
        Self(below_to & !((1u64 << from) - 1) as u32)
    }

    const fn has(self, page: usize) -> bool {
        self.0 >> page & 1 != 0
    }

    const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Why pages of a group cannot be unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Neither the page nor its group is pinned.
    NotPinned(usize),
    /// A pin of the group cannot be broken up: a page's entry is full.
    Full(usize),
}

/// A group that lies in its bank as a whole.
#[derive(Clone, Copy)]
pub(crate) struct Group<'a> {
    pub(crate) word: &'a AtomicU32,
    /// The entries of its pages, [`Bank::GROUP_PAGES`] of them.
    pub(crate) pages: &'a [AtomicU32],
}

impl Group<'_> {
    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Replaces the word by `change` of it. When `change` refuses, nothing has
    /// changed, and what the word was is returned.
    #[inline(always)]
    fn change(&self, change: impl Fn(Word) -> Option<Word>) -> Result<(), Word> {
        let mut word = self.word();
        loop {
            let new = change(word).ok_or(word)?;
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            match self
                .word
                .compare_exchange_weak(word.0, new.0, order, failed)
            {
                Ok(_) => return Ok(()),
                Err(found) => word = Word(found),
            }
        }
    }

    /// Pins all pages at once if they all rest with `owner`, and returns whether
    /// it did. If not, nothing has changed, and the pages are to be pinned one
    /// by one.
    #[inline(always)]
    pub(crate) fn pin(&self, owner: Owner) -> bool {
        match self.change(|word| word.pinned(owner)) {
            Ok(()) => true,
            Err(word) => word == Word::IDLE && self.promote(owner),
        }
    }

    /// Unpins all pages at once if the group was pinned as a whole, and returns
    /// whether it did.
    #[inline(always)]
    pub(crate) fn unpin(&self) -> bool {
        self.change(Word::unpinned).is_ok()
    }

    /// Makes an idle group uniform, and pins it, if all pages rest with `owner`.
    #[inline(never)]
    fn promote(&self, owner: Owner) -> bool {
        // Relaxed if it fails, here and below: nothing is made of what was found.
        let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
        // Acquires what the transfers stored that let go of the group.
        let (idle, looking) = (Word::IDLE.0, Word::LOOKING.0);
        if self
            .word
            .compare_exchange(idle, looking, order, failed)
            .is_err()
        {
            return false;
        }
        let rest = self.pages.iter().all(|slot| {
            let entry = Entry::from_bits(slot.load(Ordering::Acquire));
            entry.owner() == owner && entry.state() == State::Owned
        });
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
    /// The word of a group that is pinned as a whole. Nothing has changed then.
    pub(crate) fn hold(&self) -> Result<(), Word> {
        self.change(Word::held)
    }

    /// Ends what [`hold`](Self::hold) began, after the last page has changed.
    pub(crate) fn let_go(&self) {
        self.word.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes one count of each page of `asked`, from entries or word.
    ///
    /// # Errors
    /// [`Missing`]; all counts are what they were then.
    #[inline(never)]
    pub(crate) fn take(&self, asked: Pages) -> Result<(), Missing> {
        let mut owed = asked;
        let Err(missing) = self.pay(&mut owed) else {
            return Ok(());
        };
        let mut lent = owed.without(asked);
        // A right to what was lent is ours. Not to find it takes a full entry, or
        // somebody who unpinned too often; then a page stays pinned.
        let _ = self.pay(&mut lent);
        if owed.and(asked) == Pages::NONE {
            return Ok(());
        }
        self.give(asked.without(owed));
        Err(missing)
    }

    /// Takes one count of each page that is `owed`. When it fails, `owed` is what
    /// is left, with pages among it that had been lent to.
    fn pay(&self, owed: &mut Pages) -> Result<(), Missing> {
        loop {
            if *owed == Pages::ALL && self.unpin() {
                return Ok(());
            }
            self.take_entries(owed);
            if *owed == Pages::NONE {
                return Ok(());
            }
            if self.word().pins() != 0 {
                if self.break_up(owed)? {
                    return Ok(());
                }
            } else if self.hold().is_ok() {
                // The word counts nothing now, and nothing else until the end of
                // this: what is not in an entry is nowhere.
                self.take_entries(owed);
                self.let_go();
                let missing = (0..Bank::GROUP_PAGES).find(|page| owed.has(*page));
                return missing.map_or(Ok(()), |page| Err(Missing::NotPinned(page)));
            }
            // Other CPUs moved counts from the entries to the word or back.
        }
    }

    /// Takes from entries what they have of what is owed.
    fn take_entries(&self, owed: &mut Pages) {
        for (page, slot) in self.pages.iter().enumerate() {
            if owed.has(page) && exchange(slot, Entry::unpinned).is_ok() {
                *owed = owed.without(Pages::between(page, page + 1));
            }
        }
    }

    /// Takes what is owed with a pin of the group, the rest of which goes to the
    /// other pages' entries. Returns whether there was one; if not, the other
    /// pages are owed as well.
    fn break_up(&self, owed: &mut Pages) -> Result<bool, Missing> {
        let mut lent = Pages::NONE;
        let done = self.lend(Pages::ALL.without(*owed), &mut lent);
        // Only now: a page must not be without a count for a moment.
        if done == Ok(true) && self.unpin() {
            return Ok(true);
        }
        *owed = owed.or(lent);
        done.map(|_| false)
    }

    /// Counts one more for each of `pages`, of which `lent` becomes those that
    /// have it. `false` when a page is on the move: then the group is not pinned
    /// any more, and the transfer's stores would wipe the count out.
    fn lend(&self, pages: Pages, lent: &mut Pages) -> Result<bool, Missing> {
        for (page, slot) in self.pages.iter().enumerate() {
            if !pages.has(page) {
                continue;
            }
            let more = |entry: Entry| match entry.state() {
                State::Owned => entry.pinned(),
                State::Leaving => None,
            };
            match exchange(slot, more) {
                Ok(()) => *lent = lent.or(Pages::between(page, page + 1)),
                Err(entry) if entry.state() == State::Leaving => return Ok(false),
                Err(_) => return Err(Missing::Full(page)),
            }
        }
        Ok(true)
    }

    /// Gives back one count of each of `pages`.
    fn give(&self, pages: Pages) {
        for (page, slot) in self.pages.iter().enumerate() {
            if pages.has(page) {
                give(slot);
            }
        }
    }
}

/// Gives a page back a count that was taken from it or its group. Never more than
/// an entry can hold: a page that is full stays pinned for long enough.
pub(crate) fn give(slot: &AtomicU32) {
    let _ = exchange(slot, Entry::pinned);
}

/// Replaces a group's word by `change` of it, if that is one and no other CPU
/// comes in between. Returns whether it did.
#[inline(always)]
pub(crate) fn exchange_once(slot: &AtomicU32, change: impl Fn(Word) -> Option<Word>) -> bool {
    let bits = slot.load(Ordering::Acquire);
    let (order, failed) = (Ordering::AcqRel, Ordering::Relaxed);
    change(Word(bits)).is_some_and(|new| slot.compare_exchange(bits, new.0, order, failed).is_ok())
}

/// Replaces an entry by `change` of it. When `change` refuses, nothing has
/// changed, and what the entry was is returned.
pub(crate) fn exchange(
    slot: &AtomicU32,
    change: impl Fn(Entry) -> Option<Entry>,
) -> Result<(), Entry> {
    try_exchange(slot, |entry| change(entry).ok_or(entry))
}

/// As [`exchange`], with an error of the caller's.
#[inline(always)]
pub(crate) fn try_exchange<E>(
    slot: &AtomicU32,
    change: impl Fn(Entry) -> Result<Entry, E>,
) -> Result<(), E> {
    let mut bits = slot.load(Ordering::Acquire);
    loop {
        let new = change(Entry::from_bits(bits))?;
        match slot.compare_exchange_weak(bits, new.bits(), Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Ok(()),
            Err(found) => bits = found,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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

    struct Ram(AtomicU32, Vec<AtomicU32>);

    impl Ram {
        fn new(word: u32, entry: impl Fn(usize) -> u32) -> Self {
            let entries = (0..Bank::GROUP_PAGES).map(|page| AtomicU32::new(entry(page)));
            Self(AtomicU32::new(word), entries.collect())
        }

        fn group(&self) -> Group<'_> {
            let Self(word, pages) = self;
            Group { word, pages }
        }

        fn is(&self, word: u32, entry: impl Fn(usize) -> u32) {
            assert_eq!(self.group().word().0, word);
            for (page, slot) in self.1.iter().enumerate() {
                assert_eq!(slot.load(Ordering::Relaxed), entry(page), "page {page}");
            }
        }
    }

    const FREE: u32 = 0x0200_0000;

    #[test]
    fn one_foreign_page_keeps_a_group_mixed() {
        for other in [0x0280_0000, 0x0100_0000] {
            for foreign in 0..Bank::GROUP_PAGES {
                let entry = |page| if page == foreign { other } else { FREE + 7 };
                let ram = Ram::new(0, entry);
                assert!(!ram.group().pin(Owner::HOST));
                ram.is(0, entry);
            }
        }
        let ram = Ram::new(0, |_| FREE + 7);
        assert!(ram.group().pin(Owner::HOST));
        ram.is(0x8100_0001, |_| FREE + 7);
    }

    #[test]
    fn who_looks_or_moves_pages_keeps_a_group_mixed() {
        for word in [1, 0x4000_0000, 0x6000_0000, 0x6000_0001] {
            let ram = Ram::new(word, |_| FREE);
            assert!(!ram.group().pin(Owner::HOST));
            ram.is(word, |_| FREE);
        }
    }

    #[test]
    fn a_pin_is_broken_up_for_one_page() {
        let ram = Ram::new(0x8100_0002, |page| FREE + u32::from(page == 1));
        assert_eq!(ram.group().take(Pages::between(3, 5)), Ok(()));
        let left = |page| FREE + u32::from(page == 1) + u32::from(!(3..5).contains(&page));
        ram.is(0x8100_0001, left);
        // What an entry counts goes first.
        assert_eq!(ram.group().take(Pages::between(0, 3)), Ok(()));
        ram.is(0x8100_0001, |page| left(page) - u32::from(page < 3));
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_changes() {
        let entry = |page| FREE + u32::from(page != 9);
        let ram = Ram::new(0x8100_0000, entry);
        assert_eq!(ram.group().take(Pages::ALL), Err(Missing::NotPinned(9)));
        // It had to be held for that.
        ram.is(0, entry);
    }

    #[test]
    fn a_full_entry_keeps_a_pin_in_one_piece() {
        let entry = |page| FREE + if page == 9 { Entry::MAX_DMA_COUNT } else { 0 };
        let ram = Ram::new(0x8100_0001, entry);
        let taken = ram.group().take(Pages::between(3, 4));
        assert_eq!(taken, Err(Missing::Full(9)));
        ram.is(0x8100_0001, entry);
        assert_eq!(ram.group().take(Pages::ALL), Ok(()));
        ram.is(0x8100_0000, entry);
    }
}

//! Who owns what, as it must be by what was asked for: the oracle's own books,
//! which share nothing with the ledger but its words.

use crate::map::{PAGES, RAM};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{Entry, Ledger, Owner, PageState, PinError, TransferError, UnpinError};
use std::ops;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Page {
    owner: Owner,
    leaving: bool,
    pins: u32,
    /// How often it is held for mappings of the host's, as last seen.
    mapped: u32,
    /// The host nearly had it, and may reach it for good.
    exposed: bool,
}

/// One entry for each page of RAM.
pub(crate) struct Expected {
    pages: Vec<Page>,
    /// Where a second bank begins, if there is one: what the ledger is asked for
    /// lies in one of them.
    border: Option<u64>,
}

/// Where a range lies, before anybody asks for owners.
enum Shape {
    Unaligned,
    NotRam,
    Pages(ops::Range<usize>),
}

fn shape(range: Range<PhysAddr>, border: Option<u64>) -> Shape {
    let (start, end) = (range.start().raw(), range.end().raw());
    if start % PAGE_SIZE != 0 || end % PAGE_SIZE != 0 {
        return Shape::Unaligned;
    }
    let across = border.is_some_and(|border| start < border && border < end);
    if start < RAM.start || end > RAM.end || across {
        return Shape::NotRam;
    }
    let page = |at: u64| ((at - RAM.start) / PAGE_SIZE) as usize;
    Shape::Pages(page(start)..page(end))
}

fn address(page: usize) -> PhysAddr {
    PhysAddr::new(RAM.start + page as u64 * PAGE_SIZE)
}

impl Expected {
    /// What each page's first owner is, by its number.
    pub(crate) fn new(border: Option<u64>, owner: impl Fn(u64) -> Owner) -> Self {
        let page = |number| Page {
            owner: owner(number),
            leaving: false,
            pins: 0,
            mapped: 0,
            exposed: false,
        };
        Self {
            pages: (0..PAGES).map(page).collect(),
            border,
        }
    }

    fn fill(&mut self, range: Range<PhysAddr>, owner: Option<Owner>, leaving: bool) {
        if let Shape::Pages(pages) = shape(range, self.border) {
            for page in &mut self.pages[pages] {
                page.owner = owner.unwrap_or(page.owner);
                page.leaving = leaving;
            }
        }
    }

    /// What the ledger must say to a transfer; if it must agree, it has begun.
    pub(crate) fn begin(
        &mut self,
        range: Range<PhysAddr>,
        from: Owner,
    ) -> Result<(), TransferError> {
        let pages = match shape(range, self.border) {
            Shape::Unaligned => return Err(TransferError::Unaligned(range)),
            Shape::NotRam => return Err(TransferError::NotRam(range)),
            Shape::Pages(pages) => pages,
        };
        for index in pages {
            let (page, at) = (&self.pages[index], address(index));
            if page.leaving || page.owner != from {
                let state = page.state();
                return Err(TransferError::WrongState { page: at, state });
            }
            if page.total() != 0 {
                let count = page.total();
                return Err(TransferError::Pinned { page: at, count });
            }
        }
        self.fill(range, None, true);
        Ok(())
    }

    pub(crate) fn commit(&mut self, range: Range<PhysAddr>, to: Owner) {
        self.fill(range, Some(to), false);
    }

    pub(crate) fn cancel(&mut self, range: Range<PhysAddr>) {
        self.fill(range, None, false);
        if let Shape::Pages(pages) = shape(range, self.border) {
            self.pages[pages]
                .iter_mut()
                .for_each(|page| page.exposed = false);
        }
    }

    /// What the ledger must say to a pin by the host; if it must agree, it
    /// counts.
    pub(crate) fn pin(&mut self, range: Range<PhysAddr>) -> Result<(), PinError> {
        let pages = match shape(range, self.border) {
            Shape::Unaligned => return Err(PinError::Unaligned(range)),
            Shape::NotRam => return Err(PinError::NotRam(range)),
            Shape::Pages(pages) => pages,
        };
        for index in pages.clone() {
            let page = &self.pages[index];
            if page.owner != Owner::HOST || page.leaving {
                return Err(PinError::NotOwner {
                    page: address(index),
                    state: page.state(),
                });
            }
        }
        self.pages[pages].iter_mut().for_each(|page| page.pins += 1);
        Ok(())
    }

    /// What the ledger must say to an unpin.
    pub(crate) fn unpin(&mut self, range: Range<PhysAddr>) -> Result<(), UnpinError> {
        let pages = match shape(range, self.border) {
            Shape::Unaligned => return Err(UnpinError::Unaligned(range)),
            Shape::NotRam => return Err(UnpinError::NotRam(range)),
            Shape::Pages(pages) => pages,
        };
        if let Some(index) = pages.clone().find(|index| self.pages[*index].pins == 0) {
            let page = address(index);
            return Err(UnpinError::NotPinned { page });
        }
        self.pages[pages].iter_mut().for_each(|page| page.pins -= 1);
        Ok(())
    }

    /// Pages that the host had last, ascending. A page that nobody gets any
    /// more, since an invalidation failed, is among them: whoever reaches it
    /// reaches nobody's.
    pub(crate) fn host(&self) -> Vec<ops::Range<u64>> {
        self.runs(|page| page.owner == Owner::HOST || page.exposed && page.leaving)
    }

    /// The host was to have a range, which then failed, as did the invalidation
    /// that was to undo it: it is nobody's, and the host may still reach it.
    pub(crate) fn expose(&mut self, range: Range<PhysAddr>) {
        if let Shape::Pages(pages) = shape(range, self.border) {
            self.pages[pages]
                .iter_mut()
                .for_each(|page| page.exposed = true);
        }
    }

    /// Pages that the host may use.
    pub(crate) fn usable(&self) -> Vec<ops::Range<u64>> {
        self.runs(|page| page.owner == Owner::HOST && !page.leaving)
    }

    fn runs(&self, wanted: impl Fn(&Page) -> bool) -> Vec<ops::Range<u64>> {
        let mut runs: Vec<ops::Range<u64>> = Vec::new();
        for (index, page) in self.pages.iter().enumerate() {
            if !wanted(page) {
                continue;
            }
            let at = address(index).raw();
            match runs.last_mut() {
                Some(run) if run.end == at => run.end += PAGE_SIZE,
                _ => runs.push(at..at + PAGE_SIZE),
            }
        }
        runs
    }

    /// The first page of which the ledger says something else.
    pub(crate) fn differs(&self, ledger: &Ledger<'_>) -> Option<u64> {
        self.pages.iter().enumerate().find_map(|(index, page)| {
            let entry = ledger.entry(address(index));
            let same = entry.is_some_and(|entry| page.is(entry));
            (!same).then(|| address(index).raw())
        })
    }

    /// Whether all from `start` to `end` is pages that the host may use.
    pub(crate) fn has(&self, start: u64, end: u64) -> bool {
        RAM.start <= start
            && end <= RAM.end
            && (start..end).step_by(PAGE_SIZE as usize).all(|at| {
                let page = &self.pages[((at - RAM.start) / PAGE_SIZE) as usize];
                page.owner == Owner::HOST && !page.leaving
            })
    }

    /// Takes over how often each page is held for mappings, which is between
    /// the numbers of `holds`; the first page of which it is not.
    pub(crate) fn observe(&mut self, ledger: &Ledger<'_>, holds: &[(u32, u32)]) -> Option<u64> {
        let mut wrong = None;
        for (index, (page, (least, most))) in self.pages.iter_mut().zip(holds).enumerate() {
            let count = ledger.entry(address(index)).map_or(0, Entry::dma_count);
            let mapped = count.checked_sub(page.pins);
            page.mapped = mapped.unwrap_or(0);
            if mapped.is_none_or(|mapped| mapped < *least || *most < mapped) {
                wrong = wrong.or(Some(address(index).raw()));
            }
        }
        wrong
    }

    /// Takes over what the ledger says of a range whose change failed: either
    /// all of it is back with `owner`, or all of it is nobody's any more.
    /// `false` if it says anything else.
    pub(crate) fn failed(
        &mut self,
        range: Range<PhysAddr>,
        owner: Owner,
        ledger: &Ledger<'_>,
    ) -> bool {
        let leaving = ledger
            .entry(range.start())
            .is_some_and(|entry| matches!(entry.state(), PageState::Leaving(_)));
        self.fill(range, Some(owner), leaving);
        self.differs(ledger).is_none()
    }
}

impl Page {
    fn total(&self) -> u32 {
        self.pins + self.mapped
    }

    fn state(&self) -> PageState {
        if self.leaving {
            PageState::Leaving(self.owner)
        } else {
            PageState::Owned(self.owner)
        }
    }

    fn is(&self, entry: Entry) -> bool {
        entry.state() == self.state() && entry.dma_count() == self.total()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_ownership::Bank;
    use std::sync::atomic::AtomicU32;

    /// The books must notice what they were not told.
    #[test]
    fn a_ledger_of_another_opinion_is_noticed() {
        let entries: Vec<_> = (0..PAGES)
            .map(|_| AtomicU32::new(Entry::initial(Owner::HOST)))
            .collect();
        let all = Range::from_size(PhysAddr::new(RAM.start), RAM.end - RAM.start).unwrap();
        let words: Vec<_> = (0..Bank::words(all)).map(|_| AtomicU32::new(0)).collect();
        let banks = [Bank::new(all, &entries, &words).unwrap()];
        let ledger = Ledger::new(&banks).unwrap();
        let mut books = Expected::new(None, |_| Owner::HOST);
        assert_eq!(books.differs(&ledger), None);
        let second = Range::from_size(address(1), PAGE_SIZE).unwrap();
        ledger.pin(second, Owner::HOST).unwrap();
        assert_eq!(books.differs(&ledger), Some(RAM.start + PAGE_SIZE));
        assert_eq!(books.pin(second), Ok(()));
        assert_eq!(books.differs(&ledger), None);
        let refused = books.begin(all, Owner::HOST);
        let page = address(1);
        assert_eq!(refused, Err(TransferError::Pinned { page, count: 1 }));
        books.unpin(second).unwrap();
        books.begin(second, Owner::HOST).unwrap();
        let state = PageState::Leaving(Owner::HOST);
        assert_eq!(
            books.begin(second, Owner::HOST),
            Err(TransferError::WrongState { page, state })
        );
        assert_eq!(books.host().len(), 1, "lost pages count as the host's");
        assert_eq!(books.usable().len(), 2);
    }
}

//! Which pages of somebody else's are mapped for the hypervisor, when several
//! windows may share a page.

use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};

/// At most `N` windows of whole pages. A page is mapped as long as any window
/// has it.
#[derive(Debug)]
pub struct MappedPages<const N: usize> {
    pages: [Option<Range<PhysAddr>>; N],
    /// Places from here on were never used.
    used: usize,
}

impl<const N: usize> Default for MappedPages<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> MappedPages<N> {
    /// No window.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            pages: [None; N],
            used: 0,
        }
    }

    /// Adds a window of the whole pages `pages`. `map` is called with each run
    /// of them that no window has yet, and says whether it worked; after a
    /// failure, `unmap` is called with the runs before it.
    ///
    /// `false`: there is no room, or a run could not be mapped; no window was
    /// added.
    pub fn add(
        &mut self,
        pages: Range<PhysAddr>,
        mut map: impl FnMut(Range<PhysAddr>) -> bool,
        mut unmap: impl FnMut(Range<PhysAddr>) -> bool,
    ) -> bool {
        let Some(free) = self.pages.iter().position(Option::is_none) else {
            return false;
        };
        let mut done = pages.start();
        let mapped = self.for_each_alone(pages, |run| {
            let mapped = map(run);
            if mapped {
                done = run.end();
            }
            mapped
        });
        if mapped {
            if let Some(slot) = self.pages.get_mut(free) {
                *slot = Some(pages);
                self.used = self.used.max(free + 1);
            }
        } else if let Ok(before) = Range::new(pages.start(), done) {
            self.for_each_alone(before, &mut unmap);
        }
        mapped
    }

    /// Removes a window that was added with exactly these pages. `unmap` is
    /// called with each run of them that no other window has.
    ///
    /// `false`: there is no such window, or `unmap` said of a run that it did
    /// not work; the window is gone, and the runs from that one on may still be
    /// mapped.
    pub fn remove(
        &mut self,
        pages: Range<PhysAddr>,
        unmap: impl FnMut(Range<PhysAddr>) -> bool,
    ) -> bool {
        let Some(slot) = self.pages.iter_mut().find(|slot| **slot == Some(pages)) else {
            return false;
        };
        *slot = None;
        self.for_each_alone(pages, unmap)
    }

    /// Calls `each` with the runs of `pages` that no window has, ascending,
    /// until it says `false`.
    fn for_each_alone(
        &self,
        pages: Range<PhysAddr>,
        mut each: impl FnMut(Range<PhysAddr>) -> bool,
    ) -> bool {
        let shared = |at: PhysAddr| {
            let mut windows = self.pages.iter().take(self.used).flatten();
            windows.any(|range| range.contains(at))
        };
        let mut from = None;
        let mut at = pages.start();
        loop {
            let inside = at < pages.end();
            if inside && !shared(at) {
                from = from.or(Some(at));
            } else if let Some(start) = from.take()
                && let Ok(run) = Range::new(start, at)
                && !each(run)
            {
                return false;
            }
            match at.checked_add(PAGE_SIZE) {
                Some(next) if inside => at = next,
                _ => return true,
            }
        }
    }
}

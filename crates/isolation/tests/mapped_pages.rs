//! MappedPages that share pages, against a count for each page.
#![allow(missing_docs)]

use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::MappedPages;

/// Pages that are mapped; mapping one twice or unmapping what is not mapped
/// panics.
#[derive(Default)]
struct Map {
    mapped: [bool; 32],
    /// Mapping this page fails.
    bad: Option<usize>,
}

fn pages(first: usize, count: usize) -> Range<PhysAddr> {
    let start = PhysAddr::new(first as u64 * PAGE_SIZE);
    Range::from_size(start, count as u64 * PAGE_SIZE).unwrap()
}

fn indices(run: Range<PhysAddr>) -> std::ops::Range<usize> {
    (run.start().raw() / PAGE_SIZE) as usize..(run.end().raw() / PAGE_SIZE) as usize
}

impl Map {
    fn map(&mut self, run: Range<PhysAddr>) -> bool {
        if self.bad.is_some_and(|bad| indices(run).contains(&bad)) {
            return false;
        }
        for page in indices(run) {
            assert!(!self.mapped[page], "page {page} is mapped twice");
            self.mapped[page] = true;
        }
        true
    }

    fn unmap(&mut self, run: Range<PhysAddr>) -> bool {
        for page in indices(run) {
            assert!(self.mapped[page], "page {page} is not mapped");
            self.mapped[page] = false;
        }
        true
    }

    fn add<const N: usize>(
        &mut self,
        windows: &mut MappedPages<N>,
        range: Range<PhysAddr>,
    ) -> bool {
        let map = std::cell::RefCell::new(self);
        windows.add(
            range,
            |run| map.borrow_mut().map(run),
            |run| map.borrow_mut().unmap(run),
        )
    }

    fn pages(&self) -> Vec<usize> {
        (0..32).filter(|page: &usize| self.mapped[*page]).collect()
    }
}

#[test]
fn a_page_is_mapped_as_long_as_a_window_has_it() {
    let (mut map, mut windows) = (Map::default(), MappedPages::<4>::new());
    let (low, middle, high) = (pages(0, 4), pages(3, 4), pages(6, 2));
    for range in [low, high, middle, middle] {
        assert!(map.add(&mut windows, range));
    }
    assert_eq!(map.pages(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(!map.add(&mut windows, pages(20, 1)), "there is no room");
    assert!(windows.remove(middle, |run| map.unmap(run)));
    assert_eq!(map.pages(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(windows.remove(low, |run| map.unmap(run)));
    assert_eq!(map.pages(), [3, 4, 5, 6, 7]);
    assert!(windows.remove(middle, |run| map.unmap(run)));
    assert_eq!(map.pages(), [6, 7]);
    assert!(!windows.remove(middle, |run| map.unmap(run)), "it is gone");
    assert!(!windows.remove(pages(6, 1), |run| map.unmap(run)));
    assert!(windows.remove(high, |run| map.unmap(run)));
    assert!(map.pages().is_empty());
}

#[test]
fn what_cannot_be_mapped_as_a_whole_is_not() {
    let mut windows = MappedPages::<4>::new();
    let mut map = Map {
        bad: Some(9),
        ..Map::default()
    };
    assert!(map.add(&mut windows, pages(4, 2)));
    // 3 goes in, 4 and 5 are there, 6 to 10 fail.
    assert!(!map.add(&mut windows, pages(3, 8)));
    assert_eq!(map.pages(), [4, 5]);
    assert!(!windows.remove(pages(3, 8), |run| map.unmap(run)));
    assert!(windows.remove(pages(4, 2), |run| map.unmap(run)));
    assert!(map.pages().is_empty());
}

#[test]
fn every_order_of_three_windows() {
    let ranges = [pages(0, 5), pages(2, 5), pages(4, 1)];
    for order in 0..27usize {
        let order = [order / 9, order / 3 % 3, order % 3];
        let (mut map, mut windows) = (Map::default(), MappedPages::<3>::new());
        for range in ranges {
            assert!(map.add(&mut windows, range));
        }
        let mut left = vec![0usize, 1, 2];
        for which in order {
            let there = left.contains(&which);
            left.retain(|other| *other != which);
            assert_eq!(windows.remove(ranges[which], |run| map.unmap(run)), there);
            let want: Vec<usize> = (0..32)
                .filter(|page| left.iter().any(|n| indices(ranges[*n]).contains(page)))
                .collect();
            assert_eq!(map.pages(), want);
        }
    }
}

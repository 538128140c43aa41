//! The Enhanced Command Queues of an earlier owner are stopped, or refused.

use smmuv3_driver::{Clock, CommandPages, EcmdqError, Registers};
use smmuv3_spec::reg;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// Words by their offset. As a page of queues, `CONS.ENACK` follows `PROD.EN` a
/// few reads later, unless it is stuck.
#[derive(Default)]
struct Page {
    words: RefCell<BTreeMap<u32, u32>>,
    /// Reads until a queue follows.
    late: Cell<u32>,
    stuck: Cell<Option<u32>>,
    writes: RefCell<Vec<(u32, u32)>>,
    now: Cell<u64>,
}

const EN: u32 = 1 << 31;

impl Page {
    fn get(&self, at: u32) -> u32 {
        self.words.borrow().get(&at).copied().unwrap_or(0)
    }

    fn set(&self, at: u32, value: u32) {
        self.words.borrow_mut().insert(at, value);
    }

    /// A queue that is at work.
    fn enable(&self, at: u32) {
        self.set(at + 8, EN | 1 << 23 | 5);
        self.set(at + 12, EN | 3);
    }
}

impl Registers for Page {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.get(offset);
        let queue = offset & !0xf;
        if offset & 0xf == 12 && self.stuck.get() != Some(queue) {
            match self.late.get() {
                0 => {
                    let on = self.get(queue + 8) & EN;
                    self.set(offset, value & !EN | on);
                }
                left => self.late.set(left - 1),
            }
        }
        value
    }
    fn write32(&self, offset: u32, value: u32) {
        let queue = offset & !0xf;
        let same = (self.get(queue + 8) ^ self.get(queue + 12)) & EN == 0;
        assert!(same, "PROD is read-only between EN and ENACK");
        self.writes.borrow_mut().push((offset, value));
        self.set(offset, value);
        self.late.set(3);
    }
    fn read64(&self, offset: u32) -> u64 {
        u64::from(self.get(offset)) | u64::from(self.get(offset + 4)) << 32
    }
    fn write64(&self, _: u32, _: u64) {
        panic!("nothing of 64 bits is written");
    }
}

impl Clock for Page {
    fn now_us(&self) -> u64 {
        self.now.set(self.now.get() + 1000);
        self.now.get()
    }
    fn relax(&self) {}
}

/// An SMMU whose IDR6 says so, with pages from `at` on.
fn smmu(pages_log2: u32, queues_log2: u32, at: u64) -> Page {
    let page = Page::default();
    page.set(reg::IDR1, 1 << 31);
    page.set(reg::IDR6, pages_log2 << 24 | queues_log2 << 16);
    for n in 0..1u64 << pages_log2.min(8) {
        let base = (at + n * 0x1_0000) | 0b011;
        let to = reg::CMDQ_CONTROL_PAGE_BASE + 32 * n as u32;
        page.set(to, base as u32);
        page.set(to + 4, (base >> 32) as u32);
    }
    page
}

fn pages(smmu: &Page) -> CommandPages {
    CommandPages::of(smmu).unwrap().unwrap()
}

#[test]
fn an_smmu_without_them_has_none() {
    let none = Page::default();
    none.set(reg::IDR6, u32::MAX);
    assert_eq!(CommandPages::of(&none), Ok(None));
}

#[test]
fn the_pages_are_where_the_smmu_says() {
    let smmu = smmu(2, 7, 0x1_0000_0000);
    let found: Vec<_> = pages(&smmu).offsets(&smmu).collect();
    let expected = [0x1_0000_0000, 0x1_0001_0000, 0x1_0002_0000, 0x1_0003_0000];
    assert_eq!(found, expected.map(Ok));
}

#[test]
fn what_cannot_be_is_refused() {
    for (pages, queues) in [(9, 0), (0, 9), (15, 15)] {
        let smmu = smmu(pages, queues, 0x10_0000);
        assert_eq!(CommandPages::of(&smmu), Err(EcmdqError::TooMany));
    }
    // In the first two pages; another granule; not registers.
    let at = reg::CMDQ_CONTROL_PAGE_BASE + 32;
    for word in [0x1_0003, 0x20_0005, 0x20_0001, 0x20_0002] {
        let smmu = smmu(1, 0, 0x10_0000);
        smmu.set(at, word);
        let found: Vec<_> = pages(&smmu).offsets(&smmu).collect();
        assert_eq!(found, [Ok(0x10_0000), Err(EcmdqError::NoPage { page: 1 })]);
    }
}

/// 6.2.5: they are spaced evenly throughout the page.
#[test]
fn every_queue_that_is_enabled_is_stopped() {
    for queues_log2 in 0..=8 {
        let pages = pages(&smmu(0, queues_log2, 0x10_0000));
        let stride = 0x1_0000u32 >> queues_log2;
        let last = (1 << queues_log2) - 1;
        let page = Page::default();
        page.enable(0);
        page.enable(last * stride);
        // One that is just being enabled, and one that is just being disabled.
        if last > 3 {
            page.enable(stride);
            page.set(stride + 12, 0);
            page.set(2 * stride + 12, EN);
        }
        page.late.set(4);
        assert_eq!(pages.stop(&page, &page), Ok(()));
        for queue in 0..=last {
            let at = queue * stride;
            assert_eq!((page.get(at + 8) | page.get(at + 12)) & EN, 0, "{queue}");
        }
        // Indices and acknowledgements stay: nothing is consumed by this.
        let writes = page.writes.borrow();
        assert!(writes.iter().all(|(_, value)| *value == 1 << 23 | 5));
        let expected = if last > 3 { 3 } else { last.min(1) + 1 };
        assert_eq!(writes.len(), expected as usize);
    }
}

#[test]
fn a_queue_that_does_not_stop_is_named_in_time() {
    let pages = pages(&smmu(0, 8, 0x10_0000));
    let page = Page::default();
    page.enable(0x700);
    page.stuck.set(Some(0x700));
    assert_eq!(
        pages.stop(&page, &page),
        Err(EcmdqError::NoStop { queue: 7 })
    );
    assert!(page.now.get() < 1_000_000);
    // One that never acknowledges being enabled cannot be written at all.
    let page = Page::default();
    page.set(8, EN);
    page.stuck.set(Some(0));
    assert_eq!(
        pages.stop(&page, &page),
        Err(EcmdqError::NoStop { queue: 0 })
    );
    assert!(page.writes.borrow().is_empty());
}

//! The machine of the driver, as the virtio-iommu device reaches it, and what
//! the oracle sees of the rings there.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::RAM;
use crate::paravirt::para::Outcome;
use portcullis_addr::{Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{Access, Refusal, Request};
use portcullis_ownership::{Owner, PageState};
use std::collections::{BTreeMap, VecDeque};
use std::ops;
use virtio_iommu_device::{Outside, Platform, Status, Window};

/// Where drivers have rings and requests.
pub(crate) const FRONT: ops::Range<u64> = RAM.start + 0x4_0000..RAM.start + 0x5_0000;

/// Most windows onto rings: two queues of three parts.
const MOST_OPEN: usize = 6;

/// What the oracle knows of the device's use of the driver's memory.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    next: u64,
    /// Windows of rings, by number.
    pub(crate) open: BTreeMap<u64, ops::Range<u64>>,
    /// Pages held for a moment.
    pages: BTreeMap<u64, ops::Range<u64>>,
    /// The request queue's used ring: its window, and what was put there.
    pub(crate) used: Option<Used>,
    /// The available ring of the request queue, and whether `idx` was read
    /// since the last barrier.
    pub(crate) available: Option<u64>,
    unordered: bool,
    /// Where the status of a chain that the driver made goes, by its head.
    pub(crate) tails: BTreeMap<u16, u64>,
    /// The host wrote to its rings and requests in the middle of a call.
    pub(crate) meddled: bool,
    /// Requests that a stock driver made and that were not begun yet; `None`
    /// when others were made too.
    pub(crate) asked: Option<VecDeque<Request>>,
}

/// A used ring.
#[derive(Debug)]
pub(crate) struct Used {
    window: u64,
    /// `idx` as the driver sees it.
    idx: u16,
    /// Elements since: head, and what its request came to.
    elements: Vec<(u16, Option<Outcome>)>,
    /// Whole elements, counted by their second half.
    whole: u16,
    /// Something was stored that is not published.
    unpublished: bool,
}

impl Used {
    pub(crate) fn new(window: u64) -> Self {
        Self {
            window,
            idx: 0,
            elements: Vec::new(),
            whole: 0,
            unpublished: false,
        }
    }
}

/// The platform.
#[derive(Clone, Copy)]
pub(crate) struct Side<'m>(pub(crate) &'m Machine);

/// Memory that is held.
pub(crate) struct Held<'m> {
    machine: &'m Machine,
    number: u64,
    start: u64,
    size: u64,
    ring: bool,
}

fn outward(range: Range<Ipa>) -> Option<Range<PhysAddr>> {
    Identity.physical(range).page_outward()
}

impl<'m> Side<'m> {
    fn take(self, range: Range<Ipa>, ring: bool) -> Result<Held<'m>, Outside> {
        let machine = self.0;
        machine.costs();
        if range.size() > PAGE_SIZE {
            machine.find(Finding::Unbounded(range.size()));
        }
        let pages = outward(range).ok_or(Outside)?;
        machine.observe();
        let expected = machine.expected.borrow_mut().pin(pages);
        let pinned = machine.with_ledger(|ledger| ledger.pin(pages, Owner::HOST));
        if expected != pinned {
            machine.find(Finding::Answer("pin", pages.start().raw()));
        }
        pinned.map_err(|_| Outside)?;
        let bytes = range.start().raw()..range.end().raw();
        let mut seen = machine.seen.borrow_mut();
        let number = seen.next;
        seen.next += 1;
        let list = if ring {
            &mut seen.open
        } else {
            &mut seen.pages
        };
        list.insert(number, bytes);
        let most = if ring { MOST_OPEN } else { 1 };
        if list.len() > most {
            machine.find(Finding::Memory(range.start().raw()));
        }
        drop(seen);
        machine.seam();
        Ok(Held {
            machine,
            number,
            start: range.start().raw(),
            size: range.size(),
            ring,
        })
    }

    fn drop(self, held: &Held<'m>) {
        let machine = self.0;
        let mut seen = machine.seen.borrow_mut();
        let list = if held.ring {
            &mut seen.open
        } else {
            &mut seen.pages
        };
        let known = list.remove(&held.number);
        if seen
            .used
            .as_ref()
            .is_some_and(|used| used.window == held.number)
        {
            seen.used = None;
            seen.available = None;
            seen.tails.clear();
        }
        drop(seen);
        let range = Range::from_size(Ipa::new(held.start), held.size).ok();
        let Some(pages) = range.and_then(outward).filter(|_| known.is_some()) else {
            return machine.find(Finding::Memory(held.start));
        };
        machine.observe();
        let expected = machine.expected.borrow_mut().unpin(pages);
        let unpinned = machine.with_ledger(|ledger| ledger.unpin(pages));
        if expected != unpinned {
            machine.find(Finding::Answer("unpin", pages.start().raw()));
        }
        machine.seam();
    }
}

impl<'m> Platform for Side<'m> {
    type Window = Held<'m>;
    type Page = Held<'m>;

    fn open(&self, range: Range<Ipa>) -> Result<Held<'m>, Outside> {
        self.take(range, true)
    }

    fn close(&self, window: Held<'m>) {
        self.drop(&window);
    }

    fn hold(&self, page: Ipa) -> Result<Held<'m>, Outside> {
        match Range::from_size(page, PAGE_SIZE) {
            Ok(range) if range.is_aligned(PAGE_SIZE) => self.take(range, false),
            _ => Err(Outside),
        }
    }

    fn release(&self, page: Held<'m>) {
        self.drop(&page);
    }

    fn raise(&self) {}
}

impl Held<'_> {
    /// The address of an access that is inside, and its word.
    fn at(&self, offset: u64, bytes: u64) -> Option<u64> {
        self.machine.costs();
        let end = offset.checked_add(bytes)?;
        if end > self.size || !(self.start + offset).is_multiple_of(bytes) {
            return None;
        }
        let at = self.start + offset;
        let entry = self
            .machine
            .with_ledger(|ledger| ledger.entry(PhysAddr::new(at)));
        let held =
            entry.is_some_and(|e| e.state() == PageState::Owned(Owner::HOST) && e.dma_count() > 0);
        if !held {
            self.machine.find(Finding::Memory(at));
            return None;
        }
        Some(at)
    }

    fn load(&self, offset: u64, bytes: u64) -> u64 {
        let Some(at) = self.at(offset, bytes) else {
            return 0;
        };
        let mut seen = self.machine.seen.borrow_mut();
        if seen.available == Some(self.number) && offset == 2 {
            seen.unordered = true;
        } else if seen.unordered && seen.available == Some(self.number) && offset >= 4 {
            // 2.7.13.3: what the index is about comes after the index.
            self.machine.find(Finding::Order(at));
        }
        drop(seen);
        let word = self.machine.ram.borrow().load(at & !7).unwrap_or(0);
        let value = word >> (8 * (at & 7));
        if !self.ring && self.machine.paravirt.is_some_and(|para| para.flicker) {
            self.machine.store_of_host(at & !7, word ^ 0x1008);
        }
        // Somebody may store right after.
        self.machine.seam();
        if bytes == 8 {
            value
        } else {
            value & ((1 << (8 * bytes)) - 1)
        }
    }

    fn store(&self, offset: u64, bytes: u64, value: u64) {
        let Some(at) = self.at(offset, bytes) else {
            return;
        };
        self.machine.look_at_used(self.number, offset, bytes, value);
        let word = self.machine.ram.borrow().load(at & !7).unwrap_or(0);
        let (shift, mask) = (8 * (at & 7), (1 << (8 * bytes)) - 1);
        let word = word & !(mask << shift) | (value & mask) << shift;
        self.machine.raw_store(at & !7, word);
    }
}

impl Window for Held<'_> {
    fn load8(&self, offset: u64) -> u8 {
        self.load(offset, 1) as u8
    }

    fn load16(&self, offset: u64) -> u16 {
        self.load(offset, 2) as u16
    }

    fn load32(&self, offset: u64) -> u32 {
        self.load(offset, 4) as u32
    }

    fn load64(&self, offset: u64) -> u64 {
        self.load(offset, 8)
    }

    fn store8(&self, offset: u64, value: u8) {
        self.store(offset, 1, value.into());
    }

    fn store16(&self, offset: u64, value: u16) {
        self.store(offset, 2, value.into());
    }

    fn store32(&self, offset: u64, value: u32) {
        self.store(offset, 4, value.into());
    }

    fn refresh(&self) {
        self.machine.seen.borrow_mut().unordered = false;
        self.machine.seam();
    }

    fn publish(&self) {
        if let Some(used) = &mut self.machine.seen.borrow_mut().used {
            used.unpublished = false;
        }
        self.machine.seam();
    }

    fn fence(&self) {
        self.refresh();
        self.publish();
    }

    fn aborted(&self) -> bool {
        false
    }
}

impl Machine {
    /// One access more for the call under way.
    pub(crate) fn costs(&self) {
        self.work.set(self.work.get() + 1);
        self.calls.set(self.calls.get() + 1);
    }

    /// The device stores to memory: if that is its used ring, each element comes
    /// before the index, its request is done, and its status says so.
    fn look_at_used(&self, window: u64, offset: u64, bytes: u64, value: u64) {
        let mut seen = self.seen.borrow_mut();
        let seen = &mut *seen;
        let Some(used) = seen.used.as_mut() else {
            return;
        };
        if used.window != window {
            // A status, which the driver may look at after the index.
            used.unpublished = true;
            return;
        }
        match offset {
            2 => {
                let count = (value as u16).wrapping_sub(used.idx);
                if count != used.whole
                    || used.elements.len() != usize::from(count)
                    || used.unpublished
                {
                    self.find(Finding::Used(value as u16));
                }
                used.idx = value as u16;
                used.whole = 0;
                for (head, outcome) in std::mem::take(&mut used.elements) {
                    let tail = seen.tails.remove(&head);
                    let outcome = match outcome {
                        Some(Outcome::Deferred) => self.para.borrow_mut().waited(),
                        other => other,
                    };
                    if outcome == Some(Outcome::Deferred) {
                        self.find(Finding::Used(head));
                    }
                    let status = tail.and_then(|at| {
                        let word = self.ram.borrow().load(at & !7)?;
                        Some((word >> (8 * (at & 7))) as u8)
                    });
                    let expected = outcome.map(status_of);
                    if let (Some(status), Some(expected)) = (status, expected)
                        && status != expected
                        && !seen.meddled
                    {
                        self.find(Finding::Status(status, expected));
                    }
                }
            }
            n if bytes == 4 && n >= 4 && n % 8 == 4 => {
                used.unpublished = true;
                let outcome = self.para.borrow_mut().last_outcome();
                used.elements.push((value as u16, outcome));
            }
            // The length of the element before, or of one that changed.
            n if bytes == 4 && n >= 4 && n % 8 == 0 => {
                used.unpublished = true;
                if usize::from(used.whole) < used.elements.len() {
                    used.whole += 1;
                }
            }
            _ => {}
        }
    }

    /// The device begins a request: it is one that the driver made, where that
    /// made no others, and nobody changed it.
    pub(crate) fn look_at_asked(&self, request: &Request) {
        let seen = &mut *self.seen.borrow_mut();
        let Some(asked) = seen.asked.as_mut().filter(|_| !seen.meddled) else {
            return;
        };
        while let Some(next) = asked.pop_front() {
            if as_it_comes(&next) == *request {
                return;
            }
        }
        self.find(Finding::Answer("request", 0));
    }

    /// After a call of the device.
    pub(crate) fn look_at_windows(&self) -> Result<(), Finding> {
        let seen = self.seen.borrow();
        match seen.pages.values().next() {
            Some(page) => Err(Finding::Memory(page.start)),
            None => Ok(()),
        }
    }
}

/// What is left of a request when it went through the device.
fn as_it_comes(request: &Request) -> Request {
    match *request {
        // There is no way to ask for instruction fetches.
        Request::Map {
            domain,
            iova,
            to,
            access,
        } => Request::Map {
            domain,
            iova,
            to,
            access: access.difference(Access::EXECUTE),
        },
        other => other,
    }
}

/// What the driver must be told of an outcome.
fn status_of(outcome: Outcome) -> u8 {
    let status = match outcome {
        Outcome::Now(Ok(()), _) | Outcome::Waited(true) => Status::OK,
        Outcome::Deferred | Outcome::Waited(false) => Status::DEVERR,
        Outcome::Now(Err(refusal), detach) => match refusal {
            Refusal::NoDomain if detach => Status::INVAL,
            Refusal::NoDomain | Refusal::NoEndpoint => Status::NOENT,
            Refusal::BadDomain | Refusal::OutOfRange | Refusal::WouldSplit => Status::RANGE,
            Refusal::NotAttached | Refusal::AlreadyMapped => Status::INVAL,
            Refusal::NotOwned => Status::FAULT,
            Refusal::BadAccess => Status::UNSUPP,
            Refusal::NoMemory => Status::NOMEM,
            Refusal::Failed => Status::DEVERR,
        },
    };
    status.0
}

impl Machine {
    /// Somebody but the driver's stock part writes to memory: if that is its
    /// rings and requests, statuses are no longer what they should be.
    pub(crate) fn meddle(&self, at: u64) {
        if FRONT.contains(&at) {
            self.seen.borrow_mut().meddled = true;
        }
    }
}

//! The driver's memory and its interrupt.

use portcullis_addr::{Ipa, Range};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops;
use std::rc::Rc;
use virtio_iommu_device::{Outside, Platform, Window};

/// Memory of the driver's.
pub const RAM: ops::Range<u64> = 0x8000_0000..0x8010_0000;
pub const PAGE: u64 = 0x1000;

/// Most accesses to memory that one call may cost.
const MOST_WORK: u64 = 40_000;

/// What was not put in order yet.
#[derive(Default)]
struct Order {
    /// Stores that the driver may see after a later one.
    unpublished: Cell<bool>,
    /// `avail.idx` was loaded, and what it says is there may be older.
    stale: Cell<bool>,
    /// `used.idx` or `avail_event` was stored, and later loads may come first.
    unfenced: Cell<bool>,
}

/// The part of a queue that a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Descriptors,
    Available,
    Used,
    /// None, but a page.
    Page,
}

#[derive(Default)]
struct Inner {
    order: Order,
    bytes: RefCell<Vec<u8>>,
    /// Pages that are not the driver's any more.
    taken: RefCell<BTreeSet<u64>>,
    /// Bytes that the device stored to.
    written: RefCell<BTreeSet<u64>>,
    /// Bytes of buffers that the device loaded, how often.
    loads: RefCell<Vec<u64>>,
    /// Windows that are open.
    open: RefCell<Vec<Range<Ipa>>>,
    /// The page that is held.
    page: Cell<Option<u64>>,
    holds: Cell<u64>,
    /// What the driver stores at the moment that the device stores there.
    meanwhile: RefCell<Option<Meanwhile>>,
    interrupts: Cell<u64>,
    work: Cell<u64>,
    /// Bytes that answer with an error, if there are any.
    broken: RefCell<std::ops::Range<u64>>,
    /// They did.
    aborted: Cell<bool>,
}

/// Where the device stores, and what the driver does then.
type Meanwhile = (u64, Vec<(u64, Vec<u8>)>);

/// A handle to it.
#[derive(Clone, Default)]
pub struct Machine(Rc<Inner>);

/// Memory that is held.
#[derive(Debug)]
pub struct Held {
    machine: Machine,
    range: Range<Ipa>,
    part: Part,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Machine")
    }
}

impl Machine {
    #[must_use]
    pub fn new() -> Self {
        let machine = Self::default();
        let size = (RAM.end - RAM.start) as usize;
        *machine.0.bytes.borrow_mut() = vec![0xa5; size];
        machine
    }

    /// A call begins.
    pub fn begin(&self) {
        self.0.work.set(0);
        // A trap of the driver's CPU is order enough.
        let Order {
            unpublished,
            stale,
            unfenced,
        } = &self.0.order;
        for flag in [unpublished, stale, unfenced] {
            flag.set(false);
        }
    }

    /// A call ends.
    pub fn end(&self) {
        assert_eq!(self.0.page.get(), None, "a page is held after a call");
    }

    fn at(&self, at: u64) -> usize {
        assert!(RAM.contains(&at), "the test keeps to memory: {at:#x}");
        (at - RAM.start) as usize
    }

    /// From now on these bytes answer the device with errors.
    pub fn break_bytes(&self, bytes: std::ops::Range<u64>) {
        *self.0.broken.borrow_mut() = bytes;
    }

    /// Whether an access of the device is answered with an error.
    fn breaks(&self, at: u64, bytes: u64) -> bool {
        let broken = self.0.broken.borrow();
        let breaks = at < broken.end && broken.start < at + bytes;
        self.0.aborted.set(self.0.aborted.get() || breaks);
        breaks
    }

    /// The driver writes.
    pub fn put(&self, at: u64, bytes: &[u8]) {
        let first = self.at(at);
        let mut memory = self.0.bytes.borrow_mut();
        memory[first..first + bytes.len()].copy_from_slice(bytes);
    }

    pub fn put16(&self, at: u64, value: u16) {
        self.put(at, &value.to_le_bytes());
    }

    pub fn put64(&self, at: u64, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    pub fn fill(&self, at: u64, bytes: u64, value: u8) {
        self.put(at, &vec![value; bytes as usize]);
    }

    /// The driver reads.
    #[must_use]
    pub fn get(&self, at: u64, bytes: u64) -> Vec<u8> {
        let first = self.at(at);
        self.0.bytes.borrow()[first..first + bytes as usize].to_vec()
    }

    #[must_use]
    pub fn get16(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.get(at, 2).try_into().unwrap())
    }

    #[must_use]
    pub fn get32(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.get(at, 4).try_into().unwrap())
    }

    /// The page around `at` changes hands.
    pub fn take(&self, at: u64) {
        self.0.taken.borrow_mut().insert(at & !(PAGE - 1));
    }

    /// What the device stored to since the last time.
    #[must_use]
    pub fn written(&self) -> BTreeSet<u64> {
        self.0.written.take()
    }

    /// Where the device loaded from, byte by byte, since the last time.
    #[must_use]
    pub fn loads(&self) -> Vec<u64> {
        self.0.loads.take()
    }

    /// Another CPU of the driver's stores `then` as soon as the device stored at
    /// `at`, once.
    pub fn meanwhile(&self, at: u64, then: Vec<(u64, Vec<u8>)>) {
        *self.0.meanwhile.borrow_mut() = Some((at, then));
    }

    /// How often a page was held since the last time.
    #[must_use]
    pub fn holds(&self) -> u64 {
        self.0.holds.take()
    }

    /// How often the interrupt was signalled since the last time.
    #[must_use]
    pub fn interrupts(&self) -> u64 {
        self.0.interrupts.take()
    }

    /// What is open.
    #[must_use]
    pub fn open_windows(&self) -> usize {
        self.0.open.borrow().len()
    }

    /// No page changed hands.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.taken.borrow().is_empty()
    }

    /// The parts of the queues that are open, three for each.
    #[must_use]
    pub fn parts(&self) -> Vec<[ops::Range<u64>; 3]> {
        let open = self.0.open.borrow();
        let range = |part: &Range<Ipa>| part.start().raw()..part.end().raw();
        open.chunks_exact(3)
            .map(|parts| [range(&parts[0]), range(&parts[1]), range(&parts[2])])
            .collect()
    }

    fn is_ours(&self, range: &Range<Ipa>) -> bool {
        let (start, end) = (range.start().raw(), range.end().raw());
        let inside = start >= RAM.start && end <= RAM.end;
        let taken = self.0.taken.borrow();
        inside && !taken.iter().any(|page| *page < end && start < page + PAGE)
    }
}

impl Held {
    fn index(&self, offset: u64, bytes: u64) -> Option<usize> {
        let work = self.machine.0.work.get() + 1;
        self.machine.0.work.set(work);
        assert!(work < MOST_WORK, "too much work for one call");
        let end = offset.checked_add(bytes)?;
        let at = self.range.start().raw() + offset;
        assert!(at.is_multiple_of(bytes), "an access out of alignment");
        assert!(end <= self.range.size(), "an access beyond a window");
        Some((at - RAM.start) as usize)
    }

    /// Orders that the device relies on (2.7.13.3, 2.7.7.2, 2.7.10.1).
    fn look(&self, offset: u64) {
        let order = &self.machine.0.order;
        let index = self.part == Part::Available && offset == 2;
        // Whether anything is to be told or to be done is asked last.
        if self.part == Part::Available && order.unfenced.get() {
            panic!("a load that may come before the store of an index");
        }
        assert!(index || !order.stale.get(), "a load that may be too old");
        order.stale.set(index);
    }

    fn show(&self, offset: u64) {
        let order = &self.machine.0.order;
        let event = self.part == Part::Used && offset + 2 == self.range.size();
        if self.part == Part::Used && offset == 2 {
            assert!(!order.unpublished.get(), "what an index shows comes later");
            order.unfenced.set(true);
        } else if event {
            order.unfenced.set(true);
        } else {
            order.unpublished.set(true);
        }
    }

    fn load<const N: usize>(&self, offset: u64) -> [u8; N] {
        self.look(offset);
        let Some(index) = self.index(offset, N as u64) else {
            return [0; N];
        };
        let at = RAM.start + index as u64;
        if self.machine.breaks(at, N as u64) {
            return [0; N];
        }
        self.machine.0.loads.borrow_mut().extend(at..at + N as u64);
        self.machine.0.bytes.borrow()[index..index + N]
            .try_into()
            .unwrap()
    }

    fn store<const N: usize>(&self, offset: u64, value: [u8; N]) {
        self.show(offset);
        if let Some(index) = self.index(offset, N as u64) {
            let at = RAM.start + index as u64;
            if self.machine.breaks(at, N as u64) {
                return;
            }
            self.machine
                .0
                .written
                .borrow_mut()
                .extend(at..at + N as u64);
            self.machine.0.bytes.borrow_mut()[index..index + N].copy_from_slice(&value);
            let meanwhile = self
                .machine
                .0
                .meanwhile
                .borrow_mut()
                .take_if(|(on, _)| *on == at);
            for (at, bytes) in meanwhile.into_iter().flat_map(|(_, then)| then) {
                self.machine.put(at, &bytes);
            }
        }
    }
}

impl Window for Held {
    fn load8(&self, offset: u64) -> u8 {
        u8::from_ne_bytes(self.load(offset))
    }
    fn load16(&self, offset: u64) -> u16 {
        u16::from_ne_bytes(self.load(offset))
    }
    fn load32(&self, offset: u64) -> u32 {
        u32::from_ne_bytes(self.load(offset))
    }
    fn load64(&self, offset: u64) -> u64 {
        u64::from_ne_bytes(self.load(offset))
    }
    fn store8(&self, offset: u64, value: u8) {
        self.store(offset, value.to_ne_bytes());
    }
    fn store16(&self, offset: u64, value: u16) {
        self.store(offset, value.to_ne_bytes());
    }
    fn store32(&self, offset: u64, value: u32) {
        self.store(offset, value.to_ne_bytes());
    }
    fn refresh(&self) {
        self.machine.0.order.stale.set(false);
    }
    fn publish(&self) {
        self.machine.0.order.unpublished.set(false);
    }
    fn fence(&self) {
        self.refresh();
        self.publish();
        self.machine.0.order.unfenced.set(false);
    }
    fn aborted(&self) -> bool {
        self.machine.0.aborted.take()
    }
}

impl Platform for Machine {
    type Window = Held;
    type Page = Held;

    fn open(&self, range: Range<Ipa>) -> Result<Held, Outside> {
        assert!(range.size() <= PAGE, "too much is held");
        if !self.is_ours(&range) {
            return Err(Outside);
        }
        let parts = [Part::Descriptors, Part::Available, Part::Used];
        let part = parts[self.open_windows() % 3];
        self.0.open.borrow_mut().push(range);
        assert!(self.open_windows() <= 6, "too many windows");
        Ok(Held {
            machine: self.clone(),
            range,
            part,
        })
    }

    fn close(&self, window: Held) {
        assert_ne!(window.part, Part::Page, "a page is not a window");
        let mut open = self.0.open.borrow_mut();
        let index = open.iter().position(|range| *range == window.range);
        open.remove(index.expect("what is not open is closed"));
    }

    fn hold(&self, page: Ipa) -> Result<Held, Outside> {
        assert!(page.raw().is_multiple_of(PAGE), "a page");
        assert_eq!(self.0.page.get(), None, "a second page is held");
        let range = Range::from_size(page, PAGE).map_err(|_| Outside)?;
        if !self.is_ours(&range) {
            return Err(Outside);
        }
        self.0.page.set(Some(page.raw()));
        self.0.holds.set(self.0.holds.get() + 1);
        Ok(Held {
            machine: self.clone(),
            range,
            part: Part::Page,
        })
    }

    fn release(&self, page: Held) {
        assert_eq!(page.part, Part::Page, "a window is not a page");
        assert_eq!(self.0.page.take(), Some(page.range.start().raw()));
    }

    fn raise(&self) {
        self.0.interrupts.set(self.0.interrupts.get() + 1);
    }
}

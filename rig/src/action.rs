//! What other CPUs and devices do, at any moment.

use crate::evidence;
use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{self, PAGES, RAM};
use crate::plant;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::Owner;
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::StreamId;

/// Something that needs no lock, and so can happen during any operation.
/// Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// A device accesses memory.
    Dma {
        /// Number of the stream.
        stream: u32,
        /// The address space within the device, if it names one.
        substream: Option<u32>,
        /// It says that it is privileged.
        privileged: bool,
        /// The address that it puts on the bus.
        address: u64,
        /// What it writes there; it reads without.
        write: Option<u64>,
    },
    /// A CPU of the host writes to memory, if its stage 2 lets it.
    Scribble {
        /// Page of RAM.
        page: u64,
        /// Word in it.
        word: u64,
        /// What it writes.
        value: u64,
    },
    /// A CPU of the host writes context descriptors and tables of a stage 1, as
    /// far as its stage 2 lets it.
    Plant {
        /// Page of RAM, the first of five.
        page: u64,
        /// What they look like: 0 maps all RAM to itself.
        shape: u64,
    },
    /// Another CPU counts one more DMA mapping of pages of the host.
    Pin {
        /// First page of RAM.
        page: u64,
        /// How many.
        count: u64,
    },
    /// Another CPU counts one less, of pages that one pinned.
    Unpin {
        /// Which of those.
        which: u64,
        /// All at once with those that were pinned behind them.
        union: bool,
    },
    /// Another CPU begins to take pages from the host, and thinks better of it.
    Begin {
        /// First page of RAM.
        page: u64,
        /// How many.
        count: u64,
    },
    /// Another CPU begins to take pages from the host, and never ends that.
    Leave {
        /// First page of RAM.
        page: u64,
        /// How many.
        count: u64,
    },
    /// Another CPU hands over pages that are in no table.
    Pass {
        /// First page of RAM.
        page: u64,
        /// How many.
        count: u64,
        /// From nobody to the hypervisor, instead of the other way.
        back: bool,
    },
}

/// `count` pages from `page`, some of them perhaps past the end of RAM.
pub(crate) fn some_pages(page: u64, count: u64) -> Range<PhysAddr> {
    let start = RAM.start + page % PAGES * PAGE_SIZE;
    let size = (count % 8 + 1) * PAGE_SIZE;
    // Neither empty nor near the end of the address space.
    Range::from_size(PhysAddr::new(start), size).unwrap_or_else(|_| unreachable!())
}

impl Machine {
    pub(crate) fn act(&self, action: &Action) {
        match *action {
            Action::Dma {
                stream,
                substream,
                privileged,
                address,
                write,
            } => {
                let (unit, id) = map::place(stream, self.units.len());
                let access = Transaction {
                    substream,
                    privileged,
                    ..Transaction::new(StreamId(id), address & !7, Access::Read)
                };
                self.dma(unit, access, write);
            }
            Action::Plant { page, shape } => {
                let units = self.units.iter();
                let profiles = units.map(|unit| *unit.smmu.borrow().profile());
                let profiles: Vec<_> = profiles.collect();
                for (at, value) in plant::stage1(page, shape, &profiles) {
                    if self.cpu.reaches(at) {
                        self.store_of_host(at, value);
                    }
                }
            }
            Action::Scribble { page, word, value } => {
                let at = RAM.start + page % PAGES * PAGE_SIZE + word % 512 * 8;
                if self.cpu.reaches(at) {
                    self.store_of_host(at, value);
                }
            }
            Action::Pin { page, count } => {
                let range = some_pages(page, count);
                self.observe();
                let expected = self.expected.borrow_mut().pin(range);
                let result = self.with_ledger(|ledger| ledger.pin(range, Owner::HOST));
                self.agree(expected == result, "pin", range);
                if result.is_ok() {
                    self.pinned.borrow_mut().push(range);
                }
            }
            Action::Unpin { which, union } => {
                let Some(range) = self.take_pinned(which, union) else {
                    return;
                };
                self.observe();
                let expected = self.expected.borrow_mut().unpin(range);
                let result = self.with_ledger(|ledger| ledger.unpin(range));
                self.agree(expected == result, "unpin", range);
            }
            Action::Begin { page, count } => {
                let range = some_pages(page, count);
                self.observe();
                let expected = self.expected.borrow_mut().begin(range, Owner::HOST);
                let result = self.with_ledger(|ledger| {
                    let begun = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR);
                    begun.map(|transfer| transfer.cancel())
                });
                self.agree(expected == result, "begin", range);
                if expected.is_ok() {
                    self.expected.borrow_mut().cancel(range);
                }
            }
            Action::Leave { page, count } => {
                let range = some_pages(page, count);
                self.observe();
                let expected = self.expected.borrow_mut().begin(range, Owner::HOST);
                let result = self.with_ledger(|ledger| {
                    let begun = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR);
                    begun.map(drop)
                });
                self.agree(expected == result, "begin", range);
                self.para.borrow_mut().moved(self);
            }
            Action::Pass { page, count, back } => {
                let range = some_pages(page, count);
                let (from, to) = if back {
                    (Owner::NOBODY, Owner::HYPERVISOR)
                } else {
                    (Owner::HYPERVISOR, Owner::NOBODY)
                };
                let expected = self.expected.borrow_mut().begin(range, from);
                let result = self.with_ledger(|ledger| {
                    let begun = ledger.begin(range, from, to);
                    begun.map(evidence::commit)
                });
                self.agree(expected == result, "begin", range);
                if expected.is_ok() {
                    self.expected.borrow_mut().commit(range, to);
                }
            }
        }
    }

    /// Pages that another CPU pinned and that are to be unpinned together.
    fn take_pinned(&self, which: u64, union: bool) -> Option<Range<PhysAddr>> {
        let mut pinned = self.pinned.borrow_mut();
        let which = which.checked_rem(pinned.len() as u64)?;
        let mut range = pinned.swap_remove(which as usize);
        while union && let Some(next) = pinned.iter().position(|next| next.start() == range.end()) {
            let end = pinned.swap_remove(next).end();
            range = Range::new(range.start(), end).ok()?;
        }
        Some(range)
    }

    fn agree(&self, same: bool, what: &'static str, range: Range<PhysAddr>) {
        if !same {
            self.find(Finding::Answer(what, range.start().raw()));
        }
    }

    /// What it reaches is judged by the oracle.
    fn dma(&self, unit: usize, access: Transaction, write: Option<u64>) {
        let _ = match write {
            Some(value) => self.noted(unit, access.stream, |smmu| smmu.write(access, value)),
            None => self.transact(unit, access).map(|_| ()),
        };
    }
}

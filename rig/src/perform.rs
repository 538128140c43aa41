//! What each operation does, and how it may end.

use crate::everywhere::{Everywhere, HOST_VMID};
use crate::finding::Finding;
use crate::map::{PAGES, RAM, STREAMS, place};
use crate::mutant::Mutant;
use crate::op::Op;
use crate::policy::{Allowed, cpu_ranges};
use crate::world::World;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::HostError;
use portcullis_ownership::Owner;
use portcullis_pagetable::Error as TableError;
use smmuv3_driver::Granule;
use smmuv3_spec::StreamId;

impl World<'_> {
    pub(crate) fn perform(&mut self, op: &Op, before: &Allowed) -> Result<(), Finding> {
        match *op {
            Op::Attach { stream, domain } => {
                let (stream, domain) = (stream % STREAMS, domain % 3);
                let (unit, id) = place(stream, self.drivers.len());
                self.also(before, [stream], &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                if self.drive(unit, "attach", |d| d.attach(StreamId(id), &stage2))? {
                    self.at.insert(stream, domain);
                }
            }
            Op::AttachRange {
                first,
                last,
                domain,
            } => self.attach_range(before, first % STREAMS, last % STREAMS, domain % 3)?,
            Op::Block { stream } => {
                let stream = stream % STREAMS;
                let (unit, id) = place(stream, self.drivers.len());
                if self.drive(unit, "block", |d| d.block(StreamId(id)))? {
                    self.at.remove(&stream);
                }
            }
            Op::Take {
                page,
                count,
                nobody,
            } => self.take(pages(page, count), owner(nobody))?,
            Op::Give {
                page,
                count,
                nobody,
            } => self.give(before, pages(page, count), owner(nobody))?,
            Op::Wild { give, start, size } => {
                let span = RAM.end - RAM.start + 0x1_0000;
                let start = PhysAddr::new(RAM.start - 0x8000 + start % span);
                let Ok(range) = Range::from_size(start, size % 0x2_0000 + 1) else {
                    return Ok(());
                };
                if give {
                    self.give(before, range, Owner::HYPERVISOR)?;
                } else {
                    self.take(range, Owner::HYPERVISOR)?;
                }
            }
            Op::Drain { limit } => self.drain(limit),
            Op::Reuse => {
                if self.at.values().all(|domain| *domain != 2) {
                    std::mem::swap(&mut self.domains[2], &mut self.spare.0);
                    std::mem::swap(&mut self.last, &mut self.spare.1);
                }
            }
            Op::Restart { smmu } => {
                let unit = smmu as usize % self.drivers.len();
                let fenced = self.drivers[unit].fence();
                self.explain(fenced.is_ok(), "fence")?;
                self.machine.check();
                let restarted = self.drivers[unit].restart();
                self.explain(restarted.is_ok(), "restart")?;
            }
            Op::Now(action) => self.machine.act(&action),
            // Only prepare the next one.
            Op::Starve { .. } | Op::During { .. } => {}
        }
        Ok(())
    }

    fn attach_range(
        &mut self,
        before: &Allowed,
        first: u32,
        last: u32,
        domain: u8,
    ) -> Result<(), Finding> {
        let units = self.drivers.len();
        let (unit, a) = place(first, units);
        let (_, b) = place(last, units);
        let (low, high) = (a.min(b), a.max(b));
        let inside = |stream: &u32| {
            let (at, id) = place(*stream, units);
            at == unit && (low..=high).contains(&id)
        };
        let streams: Vec<u32> = (0..STREAMS).filter(inside).collect();
        self.also(before, streams.iter().copied(), &self.ranges_of(domain));
        let stage2 = self.domains[usize::from(domain)];
        let (low, high) = (StreamId(low), StreamId(high));
        let all = self.drive(unit, "attach_range", |d| d.attach_range(low, high, &stage2))?;
        for stream in streams {
            let (_, id) = place(stream, units);
            let attached = self.drivers[unit].attached(StreamId(id));
            // Without memory for all, some are attached.
            if all || attached == Some((stage2.vmid, stage2.root)) {
                self.at.insert(stream, domain);
            }
        }
        Ok(())
    }

    fn take(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<(), Finding> {
        let expected = self.machine.expected.borrow_mut().begin(range, Owner::HOST);
        match self.machine.mutant {
            Mutant::LedgerOnly => {
                let ledger = *self.space.ledger();
                if let Ok(transfer) = ledger.begin(range, Owner::HOST, to) {
                    transfer.commit();
                    self.machine.expected.borrow_mut().commit(range, to);
                }
                return Ok(());
            }
            Mutant::TooEarly if expected.is_ok() => {
                for unit in 0..self.drivers.len() {
                    self.drive(unit, "tlbi", |d| {
                        d.tlbi_ipa_range(HOST_VMID, range.identity(), Granule::Size4K, None, false)
                    })?;
                }
            }
            _ => {}
        }
        let mut everywhere = Everywhere {
            drivers: &mut self.drivers,
            machine: self.machine,
        };
        let result = self.space.take(range, to, &mut everywhere);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, to);
                true
            }
            (Err(expected), Err(HostError::Ledger(error))) => expected == *error,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, Owner::HOST, self.space.ledger())
            }
            _ => return Err(Finding::Answer("take", range.start().raw())),
        };
        drop(books);
        self.explain(fine, "take")
    }

    fn give(
        &mut self,
        before: &Allowed,
        range: Range<PhysAddr>,
        from: Owner,
    ) -> Result<(), Finding> {
        let expected = self.machine.expected.borrow_mut().begin(range, from);
        if expected.is_ok() {
            let host = self.at.iter().filter(|(_, domain)| **domain == 0);
            let extra = range.start().raw()..range.end().raw();
            self.also(
                before,
                host.map(|(stream, _)| *stream),
                std::slice::from_ref(&extra),
            );
            let all = before.cpus.iter().cloned().chain([extra]);
            self.machine.allowed.borrow_mut().cpus = cpu_ranges(all);
        }
        let mut everywhere = Everywhere {
            drivers: &mut self.drivers,
            machine: self.machine,
        };
        let result = self.space.give(range, from, &mut everywhere);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, Owner::HOST);
                true
            }
            (Err(expected), Err(HostError::Ledger(error))) => expected == *error,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, from, self.space.ledger())
            }
            _ => return Err(Finding::Answer("give", range.start().raw())),
        };
        drop(books);
        self.explain(fine, "give")
    }

    /// Whether the machine is to blame, and not the code under test.
    fn excused<E: std::fmt::Debug>(&self, error: &HostError<E>) -> bool {
        match error {
            HostError::Table(TableError::OutOfMemory) => self.machine.starved.get(),
            _ => false,
        }
    }

    /// Reads events and compares them with what the SMMU recorded.
    fn drain(&mut self, limit: u32) {
        for (driver, unit) in self.drivers.iter_mut().zip(&self.machine.units) {
            let mut read = Vec::new();
            let drained = driver.drain_events(limit, |event| read.push(event.0));
            let checked = unit.recorded.borrow_mut().check(&read, drained);
            if let Err(number) = checked {
                self.machine.find(Finding::Events(number));
            }
            driver.handle_gerror();
        }
    }
}

fn owner(nobody: bool) -> Owner {
    if nobody {
        Owner::NOBODY
    } else {
        Owner::HYPERVISOR
    }
}

/// `count` pages (1 to 16, or a whole block) from `page`, inside RAM.
fn pages(page: u64, count: u64) -> Range<PhysAddr> {
    let count = match count % 20 {
        18 => 512,
        19 => 32,
        n => n.clamp(1, 16),
    };
    let first = (page % PAGES).min(PAGES - count);
    let first = if count > 16 {
        first / count * count
    } else {
        first
    };
    let start = PhysAddr::new(RAM.start + first * PAGE_SIZE);
    // Neither empty nor near the end of the address space.
    Range::from_size(start, count * PAGE_SIZE).unwrap_or_else(|_| unreachable!())
}

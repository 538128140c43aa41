//! A host with domains: one step of its program, and what must hold after it.

use crate::evidence;
use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{PAGES, RAM};
use crate::memory::CpuMemory;
use crate::op::Op;
use crate::paravirt::books::Mapping;
use crate::paravirt::driver::{Front, wild_endpoint};
use crate::paravirt::op::{Ask, ParaOp};
use crate::paravirt::watched::Watched;
use crate::perform::{owner, pages};
use crate::policy::cpu_ranges;
use crate::world::Driver;
use portcullis_addr::{Identity, Iova, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{Access, DmaUnit, DomainId, Iommu, Request, Step};
use portcullis_isolation::{Invalidate, OwnerSpace, ReceiveError, SpaceError, chunks};
use portcullis_ownership::{Owner, TransferError};
use portcullis_pagetable::{Error as TableError, Invalidation};
use smmuv3_driver::Answer;
use smmuv3_model::Fault;
use smmuv3_spec::Vmid;
use std::cell::RefCell;
use std::convert::Infallible;

/// Turns after which a request counts as never done.
const FOREVER: u32 = 4000;

/// The machine's state as the rig follows it.
pub(crate) struct ParaWorld<'w, 'm, U: DmaUnit> {
    pub(crate) machine: &'m Machine,
    pub(crate) drivers: &'w [RefCell<Driver<'m>>],
    pub(crate) space: OwnerSpace<'m, CpuMemory<'m>, &'m Machine>,
    pub(crate) watched: Watched<'w, 'm, U>,
    /// The device that the host asks, if it does not ask the domains.
    pub(crate) front: Option<Front<'m>>,
    /// Bytes of the root of a domain.
    pub(crate) root: u64,
}

/// The CPUs alone: what devices reach is in other tables.
struct Cpus<'m>(&'m Machine);

impl Invalidate for Cpus<'_> {
    type Error = Infallible;

    fn cpus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Infallible> {
        if let Some(range) = plan.range() {
            self.0
                .cpu
                .invalidate(vmid, range, plan.level(), plan.leaf_only());
        }
        Ok(())
    }

    fn smmus(&mut self, _vmid: Vmid, _plan: &Invalidation<Ipa>) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<U: DmaUnit> ParaWorld<'_, '_, U> {
    pub(crate) fn step(&mut self, op: &Op) -> Result<(), Finding> {
        match *op {
            Op::During { after, action } => {
                let queue = &self.machine.interrupts;
                queue.borrow_mut().push_back((after, action));
                return Ok(());
            }
            Op::Starve { after } => {
                self.machine.starve.set(Some(after));
                return Ok(());
            }
            _ => {}
        }
        self.perform(op)?;
        self.machine.starve.set(None);
        self.machine.starved.set(false);
        self.settle()
    }

    /// What must hold between operations.
    pub(crate) fn settle(&mut self) -> Result<(), Finding> {
        let machine = self.machine;
        machine.rest();
        machine.allowed.borrow_mut().cpus = cpu_ranges(machine.expected.borrow().host());
        machine.refresh_allowed();
        machine.check();
        machine.observe();
        if let Some(page) = machine.expected.borrow().differs(self.space.ledger()) {
            machine.find(Finding::Ledger(page));
        }
        if let Some(finding) = machine.finding.get() {
            return Err(finding);
        }
        let soft = machine.soft.as_ref();
        let broken = soft.is_some_and(|soft| soft.borrow().broken);
        let works = |unit: usize| {
            !broken
                && !machine.units[unit].broken.get()
                && self
                    .drivers
                    .get(unit)
                    .is_none_or(|driver| !driver.borrow().is_fenced())
        };
        machine.all_reached(works)?;
        if !machine.scarred.get() {
            machine.look_at_tables(self.root)?;
        }
        machine.finding.get().map_or(Ok(()), Err)
    }

    fn perform(&mut self, op: &Op) -> Result<(), Finding> {
        let units = self.machine.units.len();
        match *op {
            Op::Take {
                page,
                count,
                nobody,
            } => self.take(pages(page, count), owner(nobody))?,
            Op::Give {
                page,
                count,
                nobody,
            } => self.give(pages(page, count), owner(nobody))?,
            Op::Drain { limit } => self.drain(limit),
            Op::Break { smmu, fault } => {
                if !matches!(fault, Fault::EventFlood(_)) {
                    self.machine.scarred.set(true);
                    if let Some(soft) = &self.machine.soft {
                        soft.borrow_mut().broken = true;
                    }
                }
                self.machine.inject(smmu as usize % units, fault);
            }
            Op::Flip { smmu } if self.machine.soft.is_none() => {
                let unit = &self.machine.units[smmu as usize % units];
                unit.flips.set(true);
                unit.refuses.set(true);
                self.machine.scarred.set(true);
            }
            Op::Now(action) => self.machine.act(&action),
            Op::Para(op) => self.para(&op)?,
            _ => {}
        }
        self.machine.finding.get().map_or(Ok(()), Err)
    }

    fn para(&mut self, op: &ParaOp) -> Result<(), Finding> {
        match *op {
            ParaOp::Ask { what, sync } => {
                if let Some(request) = self.request(&what) {
                    self.ask(&request)?;
                }
                if sync { self.sync() } else { Ok(()) }
            }
            ParaOp::Sync => self.sync(),
            ParaOp::GoOn { turns } => match &mut self.front {
                Some(front) => front.kick(&mut self.watched, Some(turns.into())),
                None => {
                    self.go_on(turns.into());
                    Ok(())
                }
            },
            ParaOp::Reset { patience } => match &mut self.front {
                Some(front) => front.reset(&mut self.watched, patience),
                None => {
                    self.finish()?;
                    if self.watched.reset() == Step::More {
                        self.go_on(patience.into());
                    }
                    Ok(())
                }
            },
            ParaOp::Front(op) => match &mut self.front {
                Some(front) => front.act(&mut self.watched, &op),
                None => Ok(()),
            },
        }
    }

    fn is_under_way(&self) -> bool {
        self.machine.para.borrow().under.is_some()
    }

    fn go_on(&mut self, turns: u32) {
        for _ in 0..turns {
            if !self.is_under_way() || self.watched.go_on() != Step::More {
                break;
            }
        }
    }

    /// Ends the request that is under way.
    fn finish(&mut self) -> Result<(), Finding> {
        self.go_on(FOREVER);
        if self.is_under_way() {
            return Err(self
                .machine
                .finding
                .get()
                .unwrap_or(Finding::Failed("ending a request")));
        }
        Ok(())
    }

    fn ask(&mut self, request: &Request) -> Result<(), Finding> {
        match &mut self.front {
            Some(front) => front.ask(&mut self.watched, request),
            None => {
                self.finish()?;
                let _ = self.watched.begin(*request);
                Ok(())
            }
        }
    }

    fn sync(&mut self) -> Result<(), Finding> {
        match &mut self.front {
            Some(front) => front.kick(&mut self.watched, None),
            None => {
                self.finish()?;
                let _ = self.watched.sync();
                self.machine.para.borrow_mut().forget_outcomes();
                Ok(())
            }
        }
    }

    /// The `n`th mapping that there is, and its domain.
    fn mapping(&self, n: u32) -> Option<(u32, Mapping)> {
        let para = self.machine.para.borrow();
        let books = para
            .books
            .current
            .values()
            .map(|index| &para.books.all[*index]);
        let all: Vec<_> = books
            .flat_map(|book| book.live.values().map(|m| (book.id, *m)))
            .filter(|(_, m)| !m.mmio || n.is_multiple_of(5))
            .collect();
        (!all.is_empty()).then(|| all[n as usize % all.len()])
    }

    fn request(&self, ask: &Ask) -> Option<Request> {
        let units = self.machine.units.len();
        let range = |start: u64, pages: u64| {
            let start = start.checked_mul(PAGE_SIZE)?;
            Range::from_size(Iova::new(start), pages.max(1).checked_mul(PAGE_SIZE)?).ok()
        };
        Some(match *ask {
            Ask::Attach { domain, endpoint } => Request::Attach {
                domain: DomainId(domain),
                endpoint: wild_endpoint(endpoint, units),
            },
            Ask::Detach { domain, endpoint } => Request::Detach {
                domain: DomainId(domain),
                endpoint: wild_endpoint(endpoint, units),
            },
            Ask::Leave { endpoint } => {
                let endpoint = wild_endpoint(endpoint % 16, units);
                let domain = self.machine.para.borrow().books.id_of(endpoint.0)?;
                Request::Detach {
                    domain: DomainId(domain),
                    endpoint,
                }
            }
            Ask::Map {
                domain,
                iova,
                count,
                to,
                access,
            } => Request::Map {
                domain: DomainId(domain),
                iova: range(iova, count)?,
                to: Ipa::new(to.checked_mul(PAGE_SIZE)?),
                access: Access::from_bits_truncate(access),
            },
            Ask::Extend {
                mapping,
                count,
                gap,
                before,
            } => {
                let (domain, old) = self.mapping(mapping)?;
                let (size, skip) = (count.max(1) * PAGE_SIZE, gap * PAGE_SIZE);
                let (start, to) = if before {
                    (
                        old.start.checked_sub(size)?,
                        old.to.checked_sub(size)?.checked_sub(skip)?,
                    )
                } else {
                    (old.end, old.to + (old.end - old.start) + skip)
                };
                let mut access = Access::empty();
                access.set(Access::READ, old.read);
                access.set(Access::WRITE, old.write);
                Request::Map {
                    domain: DomainId(domain),
                    iova: range(start / PAGE_SIZE, count)?,
                    to: Ipa::new(to),
                    access,
                }
            }
            Ask::Between {
                mapping,
                start,
                end,
            } => {
                let (domain, old) = self.mapping(mapping)?;
                let start = Iova::new(old.start.saturating_add_signed(start));
                let end = Iova::new(old.end.saturating_add_signed(end));
                Request::Unmap {
                    domain: DomainId(domain),
                    iova: Range::new(start, end).ok()?,
                }
            }
            Ask::Unmap {
                domain,
                iova,
                count,
            } => Request::Unmap {
                domain: DomainId(domain),
                iova: range(iova, count)?,
            },
            Ask::Drop {
                mapping,
                around,
                part,
            } => {
                let (domain, old) = self.mapping(mapping)?;
                let start = (old.start / PAGE_SIZE).saturating_sub(around);
                let end = old.end / PAGE_SIZE + around;
                let count = if part == 0 {
                    end - start
                } else {
                    part.min(end - start)
                };
                Request::Unmap {
                    domain: DomainId(domain),
                    iova: range(start, count)?,
                }
            }
        })
    }

    fn take(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<(), Finding> {
        chunks(range).try_for_each(|part| self.take_part(part, to))
    }

    fn take_part(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<(), Finding> {
        self.machine.observe();
        let expected = self.machine.expected.borrow_mut().begin(range, Owner::HOST);
        self.machine.taking.set(expected.is_ok().then_some(range));
        let mut cpus = Cpus(self.machine);
        let result = self.space.release(Identity.ipa(range), to, &mut cpus);
        let result = result.map(|pages| pages.commit());
        self.machine.taking.set(None);
        self.moved(range, "take", expected, result, (Owner::HOST, to))
    }

    fn give(&mut self, range: Range<PhysAddr>, from: Owner) -> Result<(), Finding> {
        chunks(range).try_for_each(|part| self.give_part(part, from))
    }

    fn give_part(&mut self, range: Range<PhysAddr>, from: Owner) -> Result<(), Finding> {
        self.machine.observe();
        let expected = self.machine.expected.borrow_mut().begin(range, from);
        if expected.is_ok() {
            let host = self.machine.expected.borrow().host();
            let extra = range.start().raw()..range.end().raw();
            self.machine.allowed.borrow_mut().cpus = cpu_ranges(host.into_iter().chain([extra]));
        }
        let result = match self.space.ledger().begin(range, from, Owner::HOST) {
            Err(error) => Err(SpaceError::Ledger(error)),
            Ok(transfer) => {
                let at = Identity.ipa(range).start();
                let pages = evidence::unreachable(transfer);
                let received = self.space.receive(pages, at, &mut Cpus(self.machine));
                received.map_err(|ReceiveError { error, pages }| {
                    if let Some(pages) = pages {
                        pages.give_back();
                    }
                    error
                })
            }
        };
        self.moved(range, "give", expected, result, (from, Owner::HOST))
    }

    fn moved(
        &mut self,
        range: Range<PhysAddr>,
        what: &'static str,
        expected: Result<(), TransferError>,
        result: Result<(), SpaceError<Infallible>>,
        (from, to): (Owner, Owner),
    ) -> Result<(), Finding> {
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, to);
                true
            }
            (Err(expected), Err(SpaceError::Ledger(error))) => expected == *error,
            (Err(TransferError::Unaligned(_)), Err(SpaceError::NotOneChunk(_))) => true,
            (Ok(()), Err(SpaceError::Table(TableError::OutOfMemory))) => {
                self.machine.starved.get() && books.failed(range, from, self.space.ledger())
            }
            _ => false,
        };
        drop(books);
        self.machine.para.borrow_mut().moved(self.machine);
        if fine {
            Ok(())
        } else {
            Err(Finding::Answer(what, range.start().raw()))
        }
    }

    /// Reads events and compares them with what the SMMUs recorded.
    fn drain(&mut self, limit: u32) {
        for (driver, unit) in self.drivers.iter().zip(&self.machine.units) {
            let mut read = Vec::new();
            let drained = driver.borrow_mut().take_events(limit, |event| {
                read.push(event.0);
                Answer::Refuse
            });
            if let Err(number) = unit.recorded.borrow_mut().check(&read, drained) {
                self.machine.find(Finding::Events(number));
            }
            driver.borrow_mut().handle_gerror();
        }
    }
}

const _: () = assert!(PAGES * PAGE_SIZE == RAM.end - RAM.start);

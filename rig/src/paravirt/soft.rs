//! An IOMMU that is nothing of Arm, in memory of the rig's own: it proves that
//! the line between policy and IOMMU is one. It is greedy too: whatever is
//! mapped is in its TLB at once, and stays there until a flush.

use crate::machine::Machine;
use crate::paravirt::books::Leaf;
use portcullis_addr::{Iova, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, AttachError, CreateError, DmaDomain, DmaUnit, Endpoint, FlushError, FlushFirst,
    MapError, Mapped,
};
use std::collections::{BTreeMap, BTreeSet};

/// Pages that all domains together may map.
const ROOM: usize = 6000;
/// Bytes of what one call takes away at most, and does not cross a multiple of.
const TURN: u64 = 2 << 20;
/// Bits of an address.
const BITS: u32 = 36;

/// A page that is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Page {
    to: u64,
    access: u8,
    /// The first of its mapping.
    first: bool,
}

/// The hardware.
#[derive(Debug, Default)]
pub(crate) struct Soft {
    /// By slot and address.
    pages: BTreeMap<(usize, u64), Page>,
    /// What was taken away and may still be used.
    stale: BTreeSet<(usize, u64, Page)>,
    at: BTreeMap<u32, usize>,
    /// Flushes that do not complete any more.
    pub(crate) broken: bool,
    /// One did not: nobody gets through any more.
    fenced: bool,
}

impl Soft {
    fn leaf(input: u64, page: &Page) -> Leaf {
        let access = Access::from_bits_retain(page.access);
        Leaf {
            input,
            size: PAGE_SIZE,
            output: page.to,
            read: access.contains(Access::READ),
            write: access.contains(Access::WRITE),
        }
    }

    /// What an endpoint may use now.
    pub(crate) fn reachable(&self, endpoint: u32) -> Vec<Leaf> {
        let Some(slot) = self.at.get(&endpoint).filter(|_| !self.fenced) else {
            return Vec::new();
        };
        let live = self.pages.range((*slot, 0)..(*slot + 1, 0));
        let live = live.map(|((_, at), page)| Self::leaf(*at, page));
        let stale = self.stale.iter().filter(|(of, ..)| of == slot);
        let stale = stale.map(|(_, at, page)| Self::leaf(*at, page));
        live.chain(stale).collect()
    }

    pub(crate) fn translate(&self, endpoint: u32, iova: u64, write: bool) -> Option<u64> {
        let slot = *self.at.get(&endpoint)?;
        let page = self.pages.get(&(slot, iova & !(PAGE_SIZE - 1)))?;
        let leaf = Self::leaf(iova, page);
        let may = if write { leaf.write } else { leaf.read };
        may.then_some(page.to | iova & (PAGE_SIZE - 1))
    }
}

/// Makes its domains.
pub(crate) struct SoftUnit<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) slots: usize,
}

/// One of them.
pub(crate) struct SoftDomain<'m> {
    machine: &'m Machine,
    slot: usize,
}

impl Machine {
    fn with_soft<T>(&self, act: impl FnOnce(&mut Soft) -> T) -> Option<T> {
        let done = self.soft.as_ref().map(|soft| act(&mut soft.borrow_mut()));
        self.work.set(self.work.get() + 1);
        self.check();
        self.seam();
        done
    }
}

impl DmaDomain for SoftDomain<'_> {
    fn map(
        &mut self,
        iova: Range<Iova>,
        to: PhysAddr,
        access: Access,
        rest: bool,
    ) -> Result<(), MapError> {
        let starved = &self.machine.starved;
        let slot = self.slot;
        let (start, end) = (iova.start().raw(), iova.end().raw());
        let map = |soft: &mut Soft| {
            if end > 1 << BITS {
                return Err(MapError::TooLarge);
            }
            if soft
                .pages
                .range((slot, start)..(slot, end))
                .next()
                .is_some()
            {
                return Err(MapError::AlreadyMapped);
            }
            let inside =
                |(of, at, _): &&(usize, u64, Page)| *of == slot && (start..end).contains(at);
            if soft.stale.iter().any(|stale| inside(&stale)) {
                return Err(MapError::FlushFirst);
            }
            if soft.pages.len() as u64 + iova.size() / PAGE_SIZE > ROOM as u64 {
                starved.set(true);
                return Err(MapError::NoMemory);
            }
            for offset in (0..iova.size()).step_by(PAGE_SIZE as usize) {
                let page = Page {
                    to: to.raw() + offset,
                    access: access.bits(),
                    first: offset == 0 && !rest,
                };
                soft.pages.insert((slot, start + offset), page);
            }
            Ok(())
        };
        self.machine
            .with_soft(map)
            .unwrap_or(Err(MapError::TooLarge))
    }

    fn reaches_across(&self, at: Iova) -> bool {
        let soft = self.machine.soft.as_ref().map(|soft| soft.borrow());
        let offset = at.raw() % PAGE_SIZE;
        let page = soft
            .as_ref()
            .and_then(|soft| soft.pages.get(&(self.slot, at.raw() - offset)));
        page.is_some_and(|page| offset != 0 || !page.first)
    }

    fn unmap_first(&mut self, range: Range<Iova>) -> Result<Option<Mapped>, FlushFirst> {
        let slot = self.slot;
        let (start, end) = (range.start().raw(), range.end().raw());
        let unmap = |soft: &mut Soft| {
            let all = soft.pages.range((slot, start)..(slot, end));
            let mut all = all.map(|((_, at), page)| (*at, *page));
            let (at, first) = all.next()?;
            let follows = |(index, (next, page)): &(u64, (u64, Page))| {
                let offset = (index + 1) * PAGE_SIZE;
                let goes_on = next % TURN != 0 && *next == at + offset;
                goes_on && page.to == first.to + offset && page.access == first.access
            };
            let more = (0..).zip(all).take_while(follows).count() as u64;
            let size = (more + 1) * PAGE_SIZE;
            for offset in (0..size).step_by(PAGE_SIZE as usize) {
                if let Some(page) = soft.pages.remove(&(slot, at + offset)) {
                    soft.stale.insert((slot, at + offset, page));
                }
            }
            let iova = Range::from_size(Iova::new(at), size).ok()?;
            Some(Mapped {
                iova,
                to: PhysAddr::new(first.to),
                mmio: Access::from_bits_retain(first.access).contains(Access::MMIO),
            })
        };
        Ok(self.machine.with_soft(unmap).flatten())
    }

    fn flush(&mut self) -> Result<(), FlushError> {
        let slot = self.slot;
        let flush = |soft: &mut Soft| {
            if soft.broken {
                soft.fenced = true;
                return Err(FlushError);
            }
            soft.stale.retain(|(of, ..)| *of != slot);
            Ok(())
        };
        self.machine.with_soft(flush).unwrap_or(Err(FlushError))
    }
}

impl<'m> DmaUnit for SoftUnit<'m> {
    type Domain = SoftDomain<'m>;

    fn page_sizes(&self) -> u64 {
        PAGE_SIZE
    }

    fn input(&self) -> Range<Iova> {
        Range::new(Iova::new(0), Iova::new(1 << BITS)).unwrap_or_else(|_| unreachable!())
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        self.machine.endpoint(endpoint).is_some()
    }

    fn slot_of(&self, endpoint: Endpoint) -> Option<usize> {
        let soft = self.machine.soft.as_ref()?.borrow();
        soft.at.get(&endpoint.0).copied()
    }

    fn next_attached(&self, from: Endpoint, _budget: u32) -> Result<Option<Endpoint>, Endpoint> {
        let soft = self.machine.soft.as_ref().map(|soft| soft.borrow());
        let next = soft.and_then(|soft| soft.at.range(from.0..).next().map(|(e, _)| *e));
        Ok(next.map(Endpoint))
    }

    fn create(&mut self, slot: usize) -> Result<SoftDomain<'m>, CreateError> {
        Ok(SoftDomain {
            machine: self.machine,
            slot,
        })
    }

    fn forget(&mut self, domain: &mut SoftDomain<'m>) -> Result<(), FlushError> {
        domain.flush()
    }

    fn destroy(&mut self, domain: SoftDomain<'m>) {
        let left = self.machine.with_soft(|soft| {
            let slot = (domain.slot, 0)..(domain.slot + 1, 0);
            // Of a domain that ends, all was taken away and flushed before.
            soft.pages.range(slot).next().is_some()
                || soft.stale.iter().any(|(of, ..)| *of == domain.slot)
                || soft.at.values().any(|of| *of == domain.slot)
        });
        if left == Some(true) {
            self.machine.find(crate::finding::Finding::Answer(
                "destroy",
                domain.slot as u64,
            ));
        }
    }

    fn attach(
        &mut self,
        endpoint: Endpoint,
        domain: &mut SoftDomain<'m>,
        _from: Option<&mut SoftDomain<'m>>,
    ) -> Result<(), AttachError> {
        let slot = domain.slot;
        let attach = |soft: &mut Soft| {
            if soft.broken {
                soft.at.remove(&endpoint.0);
                return Err(AttachError::Failed);
            }
            soft.at.insert(endpoint.0, slot);
            Ok(())
        };
        self.machine
            .with_soft(attach)
            .unwrap_or(Err(AttachError::Failed))
    }

    fn block(
        &mut self,
        endpoint: Endpoint,
        domain: &mut SoftDomain<'m>,
    ) -> Result<(), AttachError> {
        let slot = domain.slot;
        let block = |soft: &mut Soft| soft.at.remove(&endpoint.0) == Some(slot) || soft.broken;
        match self.machine.with_soft(block) {
            Some(true) => Ok(()),
            _ => Err(AttachError::Failed),
        }
    }
}

//! Domains of one owner: which of its pages devices reach by which addresses.

mod attach;
mod close;
mod dirty;
mod map;
mod unmap;

use portcullis_addr::{Identity, Iova, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{
    DmaDomain, DmaUnit, DomainId, Endpoint, Iommu, Limits, Refusal, Request, Reserved,
    ReservedKind, Step, SyncError,
};
use portcullis_ownership::{Ledger, Owner};

use crate::slots::{NoMore, Slot, SlotMemory, Slots};
use dirty::{Dirty, Which};

/// What was done and refused. Counters wrap at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Endpoints attached.
    pub attaches: u64,
    /// Endpoints detached.
    pub detaches: u64,
    /// Ranges mapped.
    pub maps: u64,
    /// Requests to unmap carried out.
    pub unmaps: u64,
    /// Completions waited for.
    pub syncs: u64,
    /// Requests refused, whatever for.
    pub refused: u64,
    /// Of these, mappings of what is not the owner's.
    pub not_owned: u64,
    /// Of these, for want of memory.
    pub no_memory: u64,
    /// Operations that the hardware failed.
    pub failed: u64,
    /// Pages that stay held for ever, because nobody knows who uses them.
    pub lost_pages: u64,
}

/// Runs of memory whose mapping is gone and whose invalidation is not complete.
const HELD: usize = 32;

/// What a table of pages maps, and a block. A run that is taken away is of one
/// table, and what is pinned is cut there, see [`Ledger::unpin`].
const TABLE: u64 = 2 << 20;

/// Most bytes whose pages are let go of at once, or a little more. What is more
/// than that follows with the next calls.
const RELEASE: u64 = 16 << 20;

/// Doorbells of interrupt controllers, at most.
const DOORBELLS: usize = 8;

/// What is under way.
#[derive(Clone, Copy, Debug)]
enum Job {
    None,
    Map(map::Mapping),
    Unmap(unmap::Unmapping),
    Close(close::Closing),
    Reset(close::Resetting),
}

/// What the owner's driver was refused, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It wanted to map memory that the owner does not have.
    NotOwned(Range<PhysAddr>),
    /// There was no memory for another domain, which is the one of this endpoint.
    NoRoom(DomainId, Endpoint),
    /// There was no memory for the tables of another mapping in this domain.
    NoTables(DomainId),
}

/// Domains of one owner, in front of whatever translates.
///
/// A page can be mapped only while it is the owner's, and each mapping counts in
/// the ledger until the invalidation that ends it has completed. So a page that
/// a device can reach is neither given away nor made protected.
pub struct Domains<'a, U: DmaUnit, M = NoMore> {
    ledger: Ledger<'a>,
    owner: Owner,
    unit: U,
    slots: Slots<'a, U::Domain, M>,
    /// The first `fixed` of them are mapped where they are, in every domain; the
    /// others lie beyond what endpoints can address.
    doorbells: [Option<Range<PhysAddr>>; DOORBELLS],
    fixed: usize,
    /// The smallest range that has all of them; empty if there are none.
    around_doorbells: (u64, u64),
    /// The bits of an address within the smallest page.
    within_page: u64,
    job: Job,
    held: [Option<Range<PhysAddr>>; HELD],
    /// How many of these there are.
    holding: usize,
    /// Nobody uses them any more; all that is left to do is to count them down.
    free: bool,
    dirty: Dirty,
    /// A completion failed of which nobody was told yet.
    failed: bool,
    counts: Counts,
    /// The last that is to be reported.
    trouble: Option<Trouble>,
}

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Domains<'a, U, M> {
    /// No domain yet: every endpoint of `unit` is blocked. There are as many
    /// domains as both `slots`, which have none, and `unit` take.
    ///
    /// `doorbells` are whole pages of registers that every domain has where they
    /// are, for message-signalled interrupts; those beyond what endpoints can
    /// address are for the owner to map. `None` when there are too many.
    pub fn new(
        ledger: Ledger<'a>,
        owner: Owner,
        unit: U,
        slots: Slots<'a, U::Domain, M>,
        doorbells: impl Iterator<Item = Range<PhysAddr>>,
    ) -> Option<Self> {
        let mut kept = [None; DOORBELLS];
        let mut around = (u64::MAX, 0);
        let (mut fixed, mut count) = (0, 0);
        let sizes = unit.page_sizes();
        let end = unit.input().end().raw();
        for doorbell in doorbells {
            let doorbell = doorbell.page_outward()?;
            *kept.get_mut(count)? = Some(doorbell);
            if doorbell.end().raw() <= end {
                around.0 = around.0.min(doorbell.start().raw());
                around.1 = around.1.max(doorbell.end().raw());
                kept.swap(fixed, count);
                fixed += 1;
            }
            count += 1;
        }
        Some(Self {
            ledger,
            owner,
            unit,
            slots,
            doorbells: kept,
            fixed,
            around_doorbells: around,
            // The lowest bit that is set is the size.
            within_page: (sizes & sizes.wrapping_neg()).wrapping_sub(1),
            job: Job::None,
            held: [None; HELD],
            holding: 0,
            free: false,
            dirty: Dirty::default(),
            failed: false,
            counts: Counts::default(),
            trouble: None,
        })
    }

    /// What was done and refused so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What the domains are made by.
    pub fn unit(&self) -> &U {
        &self.unit
    }

    /// Every domain that there is, with its number.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Slot<U::Domain>)> {
        self.slots.iter()
    }

    /// What the owner's driver was refused since this was last asked for, if the
    /// log is to say so: the last of it.
    #[inline(always)]
    pub fn take_trouble(&mut self) -> Option<Trouble> {
        // There nearly always is none, and to copy what is not there would be a tenth of
        // what a request takes.
        self.trouble.as_ref()?;
        self.trouble_once()
    }

    #[cold]
    #[inline(never)]
    fn trouble_once(&mut self) -> Option<Trouble> {
        self.trouble.take()
    }

    /// How many domains there can be.
    fn limit(&self) -> usize {
        self.slots.limit().min(self.unit.slots())
    }

    fn index(&self, id: DomainId) -> Option<usize> {
        usize::try_from(id.0).ok().filter(|id| *id < self.limit())
    }

    #[inline(always)]
    fn slot(&mut self, index: usize) -> Option<&mut Slot<U::Domain>> {
        self.slots.get_mut(index)
    }

    /// The domain of a request that must exist and work.
    #[inline(always)]
    fn existing(&mut self, id: DomainId) -> Result<usize, Refusal> {
        let index = id.0 as usize;
        match self.slot(index) {
            Some(slot) if !slot.dead => Ok(index),
            Some(_) => Err(Refusal::Failed),
            None => Err(Refusal::NoDomain),
        }
    }

    #[inline(always)]
    fn doorbells(&self) -> impl Iterator<Item = Range<PhysAddr>> + use<'_, 'a, U, M> {
        self.doorbells.iter().map_while(|doorbell| *doorbell)
    }

    /// The doorbell that `range` has a part of, the lowest.
    #[inline(always)]
    fn doorbell_in(&self, range: Range<Iova>) -> Option<Range<Iova>> {
        let (start, end) = self.around_doorbells;
        if range.start().raw() >= end || range.end().raw() <= start {
            return None;
        }
        self.doorbell_among(range)
    }

    #[cold]
    #[inline(never)]
    fn doorbell_among(&self, range: Range<Iova>) -> Option<Range<Iova>> {
        let fixed = self.doorbells().take(self.fixed);
        fixed
            .map(|doorbell| Identity.iova(doorbell))
            .filter(|doorbell| doorbell.overlaps(&range))
            .min_by_key(|doorbell| doorbell.start())
    }

    /// Whether `at` lies inside a doorbell that is mapped where it is.
    fn is_inside_doorbell(&self, at: Iova) -> bool {
        let mut fixed = self.doorbells().take(self.fixed);
        fixed.any(|doorbell| doorbell.start().raw() < at.raw() && at.raw() < doorbell.end().raw())
    }

    #[cold]
    #[inline(never)]
    fn refuse(&mut self, refusal: Refusal) -> Step {
        self.count(refusal);
        Step::Done(Err(refusal))
    }

    fn count(&mut self, refusal: Refusal) {
        self.counts.refused += 1;
        match refusal {
            Refusal::NotOwned => self.counts.not_owned += 1,
            Refusal::NoMemory => self.counts.no_memory += 1,
            Refusal::Failed => self.counts.failed += 1,
            _ => {}
        }
    }

    /// Holds a run of memory until the next [`sync`](Iommu::sync). The caller
    /// has made sure that there is room.
    #[inline(always)]
    fn hold(&mut self, run: Range<PhysAddr>) {
        if let Some(last) = self.holding.checked_sub(1)
            && let Some(Some(before)) = self.held.get_mut(last)
            && before.end() == run.start()
            && let Ok(both) = Range::new(before.start(), run.end())
        {
            // Banks of RAM that touch are pinned apart.
            if self.ledger.is_ram(both) {
                *before = both;
                return;
            }
        }
        if let Some(slot) = self.held.get_mut(self.holding) {
            *slot = Some(run);
            self.holding += 1;
        } else {
            debug_assert!(false, "no room to hold a run");
            self.counts.lost_pages += run.size() / PAGE_SIZE;
        }
    }

    /// Whether one more run can be held.
    #[inline(always)]
    fn can_hold(&self) -> bool {
        self.holding < HELD && !self.free
    }

    #[inline(always)]
    fn unpin(&mut self, run: Range<PhysAddr>) {
        if self.ledger.unpin(run).is_err() {
            self.unpin_parts(run);
        }
    }

    /// A run that lies in several banks of RAM, as a mapping may, and mappings that
    /// were made apart may together.
    #[cold]
    #[inline(never)]
    fn unpin_parts(&mut self, run: Range<PhysAddr>) {
        let mut left = run.size();
        for bank in self.ledger.banks() {
            if let Some(part) = bank.range().intersection(&run)
                && self.ledger.unpin(part).is_ok()
            {
                left -= part.size();
            }
        }
        debug_assert!(left == 0, "what is let go of was held");
        self.counts.lost_pages += left / PAGE_SIZE;
    }

    /// Waits until nothing of what was taken away is in use, and lets go of it.
    #[inline(always)]
    fn flush(&mut self) -> Result<(), SyncError> {
        if self.free {
            self.release();
        }
        let done = match self.dirty.which() {
            Which::None => return Ok(()),
            Which::One(index) => self.flush_one(index),
            Which::Many => self.flush_many(),
        };
        self.dirty.clear();
        self.counts.syncs += 1;
        if !done {
            self.lose();
            return Err(SyncError);
        }
        if let ([Some(run), ..], 1) = (&self.held, self.holding)
            && run.size() <= RELEASE
        {
            let run = *run;
            self.holding = 0;
            self.unpin(run);
        } else if self.holding != 0 {
            self.free = true;
            self.release();
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn flush_many(&mut self) -> bool {
        let dirty = self.dirty;
        dirty.many().iter().fold(true, |done, index| {
            // One that failed before has failed whoever waited for it.
            let works = self.slot(*index).is_some_and(|slot| !slot.dead);
            let flushed = !works || self.flush_one(*index);
            done && flushed
        })
    }

    /// Lets go of a bounded part of what nobody uses any more.
    #[cold]
    #[inline(never)]
    fn release(&mut self) {
        let mut left = RELEASE;
        while let Some(last) = self.holding.checked_sub(1)
            && left != 0
        {
            let Some(Some(run)) = self.held.get(last).copied() else {
                break;
            };
            // From its end, so that what is left begins where it did, and not in
            // the middle of what was pinned as one.
            let cut = run.end().raw().saturating_sub(left) & !(TABLE - 1);
            let cut = PhysAddr::new(cut.max(run.start().raw()));
            if let Ok(part) = Range::new(cut, run.end()) {
                left = left.saturating_sub(part.size());
                self.unpin(part);
            }
            if let Some(slot) = self.held.get_mut(last) {
                *slot = Range::new(run.start(), cut).ok();
                if slot.is_none() {
                    self.holding = last;
                }
            }
        }
        self.free = self.holding != 0;
    }

    #[inline(always)]
    fn flush_one(&mut self, index: usize) -> bool {
        let Some(slot) = self.slot(index) else {
            return true;
        };
        let done = slot.domain.flush().is_ok();
        slot.dead |= !done;
        done
    }

    /// Nobody knows what is still in use: what is held stays so.
    #[cold]
    fn lose(&mut self) {
        self.failed = true;
        self.counts.failed += 1;
        if self.free {
            // These were invalidated before.
            return;
        }
        for held in self.held.iter().take(self.holding) {
            self.counts.lost_pages += held.map_or(0, |run| run.size() / PAGE_SIZE);
        }
        self.holding = 0;
    }
}

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Iommu for Domains<'a, U, M> {
    fn limits(&self) -> Limits {
        let last = self.limit().saturating_sub(1);
        Limits {
            page_sizes: self.unit.page_sizes(),
            input: self.unit.input(),
            domains: (0, u32::try_from(last).unwrap_or(u32::MAX)),
        }
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        self.unit.has(endpoint)
    }

    fn reserved(&self, endpoint: Endpoint, index: usize) -> Option<Reserved> {
        let doorbell = (*self.doorbells.get(..self.fixed)?.get(index)?)?;
        // An endpoint should have one MSI region at most (virtio 1.2, 5.13.6.8.1.2),
        // so that the other doorbells are reserved and no more. All of them work: each
        // is mapped where it is, for a driver that writes their addresses into its
        // devices; and Linux, which has an address of its own for the messages of any
        // doorbell that no MSI region has (`iommu_dma_get_msi_page`), may map each
        // there, see `map_with_care`. Nothing says which ones a device uses, and one
        // region around all would have what lies between them too.
        let kind = match index {
            0 => ReservedKind::Msi,
            _ => ReservedKind::Reserved,
        };
        self.unit.has(endpoint).then_some(Reserved {
            range: Identity.iova(doorbell),
            kind,
        })
    }

    #[inline]
    fn begin(&mut self, request: Request) -> Step {
        if self.free {
            self.release();
        }
        if !matches!(self.job, Job::None) {
            // Whoever asks has left one unfinished: it goes on, and this one is
            // not begun.
            return self.refuse(Refusal::Failed);
        }
        match request {
            Request::Map {
                domain,
                iova,
                to,
                access,
            } => self.map(domain, iova, PhysAddr::new(to.raw()), access),
            Request::Unmap { domain, iova } => self.unmap(domain, iova),
            Request::Attach { domain, endpoint } => self.attach(domain, endpoint),
            Request::Detach { domain, endpoint } => self.detach(domain, endpoint),
        }
    }

    fn go_on(&mut self) -> Step {
        match core::mem::replace(&mut self.job, Job::None) {
            Job::None => Step::Done(Ok(())),
            Job::Map(job) => self.map_on(job),
            Job::Unmap(job) => self.unmap_on(job),
            Job::Close(job) => self.close_on(job),
            Job::Reset(job) => self.reset_on(job),
        }
    }

    #[inline]
    fn sync(&mut self) -> Result<(), SyncError> {
        let flushed = self.flush();
        // Also one in between, of which whoever waits for this has to know.
        if core::mem::take(&mut self.failed) {
            return Err(SyncError);
        }
        flushed
    }

    fn reset(&mut self) -> Step {
        self.begin_reset()
    }
}

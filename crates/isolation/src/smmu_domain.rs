//! One space of I/O virtual addresses in one stage, behind SMMUs.

use crate::smmus::dma_granule;
use crate::stage::Stage;
use portcullis_addr::{Address, Iova, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, AttachError, DmaDomain, FlushError, FlushFirst, MapError, Mapped,
};
use portcullis_memory::{Allocator, Memory};
use portcullis_pagetable::{
    Bbm, Error as TableError, Geometry, Invalidation, Stage1El1, Stage2, Table,
};
use smmuv3_driver::{Clock, Registers, Smmu};
use smmuv3_spec::cd::Cd;
use smmuv3_spec::{Asid, Vmid};

/// Most SMMUs that one owner's domains can be on.
pub const SMMU_LIMIT: usize = 16;

/// Reaches the SMMUs, each under its lock for as long as a call takes.
pub trait Smmus {
    /// Registers of one.
    type Registers: Registers;
    /// What its queues and tables are in.
    type Memory: Memory + Allocator;
    /// What its waits are measured by.
    type Clock: Clock;

    /// Calls `with` with the SMMU at `index`; `None` when there is none.
    fn at<T>(
        &self,
        index: usize,
        with: impl FnOnce(&mut Smmu<Self::Registers, Self::Memory, Self::Clock>) -> T,
    ) -> Option<T>;
}

/// Invalidations of one table that wait for their completion together.
const PLANS: usize = 8;

/// A [`StageDomain`] in stage 2 format.
pub type SmmuDomain<M, S> = StageDomain<M, S, Stage2>;

/// A [`StageDomain`] in stage 1 format, for SMMUs without a stage 2.
pub type Stage1Domain<M, S> = StageDomain<M, S, Stage1El1>;

/// A space of addresses that the streams attached to it translate by one stage.
pub struct StageDomain<M, S, F: Stage> {
    table: Table<F, M>,
    /// A VMID, or in stage 1 an ASID.
    tag: u16,
    smmus: S,
    /// SMMUs that have endpoints of it, or had. One that fails takes the domain
    /// with it, since nobody knows what it holds.
    on: u16,
    /// Addresses whose old translation may be in use, and for which nothing was
    /// issued yet.
    gathered: Option<Gathered<F::Input>>,
    /// From here to there, something may be in use until the next flush.
    open: Option<Range<F::Input>>,
    /// What there is to do with the tables after the flush.
    plans: [Option<Invalidation<F::Input>>; PLANS],
    /// An invalidation failed: what is cached is unknown for good.
    doubt: bool,
    contexts: F::Contexts,
}

/// Neighbouring invalidations that one command can carry.
#[derive(Clone, Copy)]
struct Gathered<A> {
    range: Range<A>,
    level: Option<u8>,
    leaf: bool,
}

impl<A: Address> Gathered<A> {
    /// Both as one, if that names nothing else.
    fn and(self, other: Self) -> Option<Self> {
        let (a, b) = (self.range, other.range);
        let touch = a.end() == b.start() || b.end() == a.start();
        let range = Range::new(a.start().min(b.start()), a.end().max(b.end())).ok()?;
        (touch && self.level == other.level && self.leaf == other.leaf)
            .then_some(Self { range, ..self })
    }
}

/// The smallest range that has both.
fn hull<A: Address>(a: Range<A>, b: Range<A>) -> Range<A> {
    Range::new(a.start().min(b.start()), a.end().max(b.end())).unwrap_or(a)
}

impl<M: Memory + Allocator, S: Smmus> SmmuDomain<M, S> {
    /// Tags its translations.
    pub fn vmid(&self) -> Vmid {
        Vmid(self.tag)
    }
}

impl<M: Memory + Allocator, S: Smmus> Stage1Domain<M, S> {
    /// Tags its translations.
    pub fn asid(&self) -> Asid {
        Asid(self.tag)
    }

    /// Where its context descriptor for the SMMU at `index` lies, if a stream
    /// there was to be attached yet.
    pub fn context_on(&self, index: usize) -> Option<PhysAddr> {
        *self.contexts.get(index)?
    }

    /// The same, with the memory for it taken if it was not yet.
    pub(crate) fn context(&mut self, index: usize) -> Result<PhysAddr, AttachError> {
        let place = self.contexts.get_mut(index).ok_or(AttachError::Failed)?;
        match *place {
            Some(context) => Ok(context),
            None => {
                let context = self.table.memory().allocate(Cd::SIZE);
                *place = context;
                context.ok_or(AttachError::NoMemory)
            }
        }
    }
}

impl<M: Memory + Allocator, S: Smmus, F: Stage> StageDomain<M, S, F> {
    /// An empty space.
    ///
    /// # Errors
    /// The tables do not fit the memory or the geometry.
    pub(crate) fn new(
        geometry: Geometry,
        bbm: Bbm,
        memory: M,
        tag: u16,
        smmus: S,
    ) -> Result<Self, TableError<F::Input>> {
        Ok(Self {
            table: Table::new(geometry, bbm, memory)?,
            tag,
            smmus,
            on: 0,
            gathered: None,
            open: None,
            plans: [const { None }; PLANS],
            doubt: false,
            contexts: F::Contexts::default(),
        })
    }

    /// The tables, for looking at.
    pub fn table(&self) -> &Table<F, M> {
        &self.table
    }

    /// Notes that an endpoint on the SMMU at `index` is about to be in it; whether
    /// it is the first there.
    pub(crate) fn joins(&mut self, index: usize) -> bool {
        let first = self.on & 1 << index == 0;
        self.on |= 1 << index;
        first
    }

    /// Notes that the [first](Self::joins) did not come, and nothing with it.
    pub(crate) fn does_not_join(&mut self, index: usize) {
        self.on &= !(1 << index);
    }

    /// Takes all of it out of every SMMU that may hold something of it. No
    /// stream's entry leads to it by now, and each SMMU knows.
    pub(crate) fn forget(&mut self) -> Result<(), FlushError> {
        let tag = self.tag;
        let emptied = self.on_each(|smmu| F::drop_all(smmu, tag).is_ok());
        self.doubt |= !emptied;
        if self.doubt {
            return Err(FlushError);
        }
        self.complete();
        Ok(())
    }

    /// Gives its memory back.
    pub(crate) fn destroy(self) {
        F::free(self.contexts, self.table.memory());
        self.table.destroy();
    }

    /// Whether `with` says so of every SMMU that may hold something.
    #[inline(always)]
    fn on_each(
        &mut self,
        mut with: impl FnMut(&mut Smmu<S::Registers, S::Memory, S::Clock>) -> bool,
    ) -> bool {
        let mut left = self.on;
        let mut all = true;
        while left != 0 {
            let index = left.trailing_zeros() as usize;
            left &= left - 1;
            all &= self.smmus.at(index, &mut with) == Some(true);
        }
        all
    }

    /// Keeps what `plan` asks for until the next flush.
    #[inline(always)]
    fn gather(&mut self, plan: Invalidation<F::Input>) {
        let Some(range) = plan.range() else {
            return;
        };
        let next = Gathered {
            range,
            level: plan.level(),
            leaf: plan.leaf_only(),
        };
        if self.open.is_none() && plan.is_done() {
            // The first of a burst, and often the only one.
            self.open = Some(range);
            self.gathered = Some(next);
            return;
        }
        self.gather_more(plan, next);
    }

    #[inline(never)]
    fn gather_more(&mut self, plan: Invalidation<F::Input>, next: Gathered<F::Input>) {
        self.open = Some(self.open.map_or(next.range, |open| hull(open, next.range)));
        if !plan.is_done() {
            self.keep(plan);
        }
        let before = self.gathered.take();
        let both = before.map(|before| before.and(next));
        self.gathered = match (before, both) {
            (Some(_), Some(Some(both))) => Some(both),
            (Some(before), _) => {
                self.issue(before);
                Some(next)
            }
            (None, _) => Some(next),
        };
    }

    /// Takes out a table that is empty since the last unmapping, unless `range`
    /// lies in it.
    #[inline(always)]
    fn sweep(&mut self, range: Option<Range<F::Input>>) -> Result<(), FlushFirst> {
        if let Some(plan) = self.table.sweep(range).map_err(|_| FlushFirst)? {
            self.gather(plan);
        }
        Ok(())
    }

    /// Keeps a plan that has something to do after the flush.
    #[cold]
    fn keep(&mut self, plan: Invalidation<F::Input>) {
        match self.plans.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(plan),
            // `unmap_first` flushes before there is no room. Else the tables of
            // the plan are lost, and nothing more.
            None => debug_assert!(false, "no room for a plan"),
        }
    }

    /// Puts the invalidation of `what` into the queues.
    #[inline(always)]
    fn issue(&mut self, what: Gathered<F::Input>) {
        let tag = self.tag;
        let granule = dma_granule(self.table.geometry().granule());
        let issued = self.on_each(|smmu| {
            F::issue(smmu, tag, what.range, granule, what.level, what.leaf).is_ok()
        });
        self.doubt |= !issued;
    }

    /// Has every SMMU begin to drop what was gathered, so that they do so at the same time,
    /// and no lock is held meanwhile. All that is left is to wait for each.
    #[cold]
    #[inline(never)]
    fn begin_on_each(&mut self) {
        if let Some(what) = self.gathered.take() {
            self.issue(what);
        }
        let begun = self.on_each(|smmu| smmu.begin_finish().is_ok());
        self.doubt |= !begun;
    }

    /// Does with the tables what waited for the flush.
    fn complete(&mut self) {
        for slot in &mut self.plans {
            if let Some(plan) = slot.take() {
                let own = self.table.complete(plan);
                debug_assert!(own.is_ok());
            }
        }
    }

    #[inline]
    fn has_plans(&self) -> bool {
        // They fill up from the front.
        self.plans[0].is_some()
    }
}

impl<M: Memory + Allocator, S: Smmus, F: Stage> DmaDomain for StageDomain<M, S, F> {
    #[inline]
    fn map(
        &mut self,
        iova: Range<Iova>,
        to: PhysAddr,
        access: Access,
        rest: bool,
    ) -> Result<(), MapError> {
        // What a device puts out is what this stage takes.
        let range = iova.input();
        // A new entry beside a stale one is what must not be (D8.17.1): neither a
        // page nor, where a table was taken out, the table above it.
        if self.has_plans() || self.open.is_some_and(|open| open.overlaps(&range)) {
            return Err(MapError::FlushFirst);
        }
        // And what it gives is where the memory is.
        let (to, attributes) = (F::output(to), F::attributes(access)?);
        let mapped = self.table.map_recorded(range, to, attributes, rest);
        mapped.map_err(|error| match error {
            TableError::AlreadyMapped { .. } => MapError::AlreadyMapped,
            TableError::OutOfMemory | TableError::TableOutOfReach { .. } => MapError::NoMemory,
            TableError::Unfinished => MapError::FlushFirst,
            _ => MapError::TooLarge,
        })
    }

    #[inline]
    fn reaches_across(&self, at: Iova) -> bool {
        self.table.reaches_across(at.input())
    }

    #[inline]
    fn unmap_first(&mut self, range: Range<Iova>) -> Result<Option<Mapped>, FlushFirst> {
        // Two of them at most come with one call.
        if self.plans[PLANS - 2].is_some() {
            return Err(FlushFirst);
        }
        let range = range.input();
        self.sweep(Some(range))?;
        let Some(taken) = self.table.unmap_first(range).map_err(|_| FlushFirst)? else {
            // Nor is there anything to come back to.
            self.sweep(None)?;
            return Ok(None);
        };
        self.gather(taken.plan);
        Ok(Some(Mapped {
            iova: Range::of_input(taken.range),
            to: F::memory(taken.output),
            mmio: F::is_device(&taken.attributes),
        }))
    }

    #[inline(always)]
    fn flush(&mut self) -> Result<(), FlushError> {
        if self.open.is_none() {
            return if self.doubt { Err(FlushError) } else { Ok(()) };
        }
        if self.on & self.on.wrapping_sub(1) != 0 {
            self.begin_on_each();
        }
        let tag = self.tag;
        let granule = dma_granule(self.table.geometry().granule());
        let gathered = self.gathered.take();
        let finished = self.on_each(|smmu| {
            let issued = match &gathered {
                Some(what) => F::issue(smmu, tag, what.range, granule, what.level, what.leaf),
                None => Ok(()),
            };
            if issued.is_ok() && smmu.finish().is_ok() {
                return true;
            }
            // A command of any domain may be the refused one; none of them may
            // take that for its own completion.
            if !smmu.is_fenced() {
                let _ = smmu.fence();
            }
            false
        });
        self.doubt |= !finished;
        if self.doubt {
            return Err(FlushError);
        }
        self.open = None;
        if self.has_plans() {
            self.complete();
        }
        Ok(())
    }
}

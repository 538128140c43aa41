//! What every request must answer, and what may be reached while it is under
//! way.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::paravirt::books::{Book, Books, Mapping};
use portcullis_addr::{Iova, Range};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Limits, Refusal, Request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What the machine knows of paravirtual mode.
#[derive(Debug, Default)]
pub(crate) struct Para {
    pub(crate) books: Books,
    pub(crate) under: Option<Under>,
    /// Pages that a request under way may hold.
    pub(crate) pinning: Option<Mapping>,
    pub(crate) doorbells: Vec<Mapping>,
    pub(crate) limits: Option<Limits>,
    /// Waits, and pages lost, before something was first taken away since the
    /// last wait.
    since: Option<(u64, u64)>,
    /// What the last request came to, until somebody looks at its status.
    last: Option<Outcome>,
    /// What waited requests came to, in their order.
    waits: VecDeque<bool>,
    /// How many wait.
    waiting: usize,
}

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At once.
    Now(Result<(), Refusal>, bool),
    /// After a wait, which is not over.
    Deferred,
    /// After a wait, and whether that went well.
    Waited(bool),
}

/// A request that is under way.
#[derive(Clone, Debug)]
pub(crate) struct Under {
    /// `None` is a reset.
    pub(crate) request: Option<Request>,
    foreseen: Result<(), Refusal>,
    mapping: Option<Mapping>,
    /// The domain that was made for it.
    made: Option<usize>,
    /// The domain that ends with it, and what was mapped there.
    ending: Option<(usize, BTreeMap<u64, Mapping>)>,
    /// Pages changed hands meanwhile.
    moved: bool,
    /// It said that it takes a wait.
    pub(crate) waits: bool,
}

impl Para {
    /// What a request must answer now, as far as hardware and memory last.
    fn foresee(&self, machine: &Machine, request: &Request) -> Result<(), Refusal> {
        let limits = self.limits.ok_or(Refusal::Failed)?;
        let has = |endpoint: Endpoint| machine.endpoint(endpoint).is_some();
        let book = |id: DomainId| self.books.book(id.0).ok_or(Refusal::NoDomain);
        match *request {
            Request::Attach { domain, endpoint } => {
                if !has(endpoint) {
                    return Err(Refusal::NoEndpoint);
                }
                let known = (limits.domains.0..=limits.domains.1).contains(&domain.0);
                known.then_some(()).ok_or(Refusal::BadDomain)
            }
            Request::Detach { domain, endpoint } => {
                if !has(endpoint) {
                    return Err(Refusal::NoEndpoint);
                }
                book(domain)?;
                let inside = self.books.id_of(endpoint.0) == Some(domain.0);
                inside.then_some(()).ok_or(Refusal::NotAttached)
            }
            Request::Map {
                domain,
                iova,
                to,
                access,
            } => {
                let (start, end) = (iova.start().raw(), iova.end().raw());
                let book = book(domain)?;
                let bell = self.doorbells.iter().any(|bell| bell.overlaps(start, end));
                if end > limits.input.end().raw() || bell {
                    return Err(Refusal::OutOfRange);
                }
                if !access.intersects(Access::READ | Access::WRITE) {
                    return Err(Refusal::BadAccess);
                }
                let last = to.raw().checked_add(end - start);
                let fine = last.is_some_and(|last| {
                    if access.contains(Access::MMIO) {
                        let mut bells = self.doorbells.iter();
                        bells.any(|bell| bell.to <= to.raw() && last <= bell.to + bell.size())
                    } else {
                        machine.expected.borrow().has(to.raw(), last)
                    }
                });
                if !fine {
                    return Err(Refusal::NotOwned);
                }
                match book.overlapping(start, end) {
                    Some(_) => Err(Refusal::AlreadyMapped),
                    None => Ok(()),
                }
            }
            Request::Unmap { domain, iova } => {
                let book = book(domain)?;
                // 5.13.6.6.2, byte by byte. A doorbell is no mapping of the owner's.
                let (start, end) = (iova.start().raw(), iova.end().raw());
                let mut cut = book.live.values().filter(|m| {
                    let touched = m.overlaps(start, end);
                    touched && !self.doorbells.contains(m) && (m.start < start || end < m.end)
                });
                cut.next().map_or(Ok(()), |_| Err(Refusal::WouldSplit))
            }
        }
    }

    pub(crate) fn begin(&mut self, machine: &Machine, request: &Request, so_far: (u64, u64)) {
        self.books.release_more();
        let foreseen = self.foresee(machine, request);
        let mut under = Under {
            request: Some(*request),
            foreseen,
            mapping: None,
            made: None,
            ending: None,
            moved: false,
            waits: false,
        };
        match *request {
            Request::Map {
                domain,
                iova,
                to,
                access,
            } => {
                let (start, end) = (iova.start().raw(), iova.end().raw());
                let mapping = Mapping::new(start, end, to.raw(), access);
                under.mapping = Some(mapping);
                self.pinning = (!mapping.mmio).then_some(mapping);
                self.expect_mapping(domain.0, &under);
            }
            Request::Unmap { domain, iova } if foreseen.is_ok() => {
                let bells = self.doorbells.clone();
                if let Some(book) = self.books.book_mut(domain.0)
                    && book.take(iova, &bells)
                {
                    self.since.get_or_insert(so_far);
                }
            }
            Request::Attach { domain, endpoint }
                if foreseen.is_ok() && self.books.id_of(endpoint.0) != Some(domain.0) =>
            {
                let index = match self.books.current.get(&domain.0) {
                    Some(index) => *index,
                    None => {
                        let index = self.books.create(domain.0, &self.doorbells);
                        under.made = Some(index);
                        index
                    }
                };
                self.books.also.insert((endpoint.0, index));
                under.ending = self.end_with(endpoint.0);
            }
            Request::Detach { endpoint, .. } if foreseen.is_ok() => {
                under.ending = self.end_with(endpoint.0);
            }
            _ => {}
        }
        self.under = Some(under);
    }

    /// If the request may get so far, its mapping may be there from now on.
    fn expect_mapping(&mut self, domain: u32, under: &Under) {
        let may = matches!(under.foreseen, Ok(()) | Err(Refusal::AlreadyMapped));
        if let (Some(mapping), true) = (under.mapping, may)
            && let Some(book) = self.books.book_mut(domain)
        {
            book.fleeting.push(mapping);
        }
    }

    /// The domain that has no endpoint but this one: all that it maps may go
    /// from now on.
    fn end_with(&mut self, endpoint: u32) -> Option<(usize, BTreeMap<u64, Mapping>)> {
        let index = *self.books.at.get(&endpoint)?;
        let mut others = self.books.at.iter();
        if others.any(|(other, at)| *other != endpoint && *at == index) {
            return None;
        }
        let book = &mut self.books.all[index];
        let live = std::mem::take(&mut book.live);
        book.fleeting.extend(live.values());
        Some((index, live))
    }

    /// Everything goes.
    pub(crate) fn begin_reset(&mut self) {
        for book in &mut self.books.all {
            let live = std::mem::take(&mut book.live);
            book.fleeting.extend(live.into_values());
        }
        self.under = Some(Under {
            request: None,
            foreseen: Ok(()),
            mapping: None,
            made: None,
            ending: None,
            moved: false,
            waits: false,
        });
    }

    /// Pages changed hands while a request is under way.
    pub(crate) fn moved(&mut self, machine: &Machine) {
        let Some(mut under) = self.under.take() else {
            return;
        };
        under.moved = true;
        if let Some(request @ Request::Map { domain, .. }) = under.request
            && under.foreseen == Err(Refusal::NotOwned)
        {
            under.foreseen = self.foresee(machine, &request);
            self.expect_mapping(domain.0, &under);
        }
        self.under = Some(under);
    }

    /// The request under way came to this. What is wrong with that, if
    /// anything.
    pub(crate) fn end(
        &mut self,
        machine: &Machine,
        result: Result<(), Refusal>,
        exist: &BTreeSet<u32>,
    ) -> Option<Finding> {
        let under = self.under.take()?;
        self.pinning = None;
        let scarred = machine.scarred.get();
        let Some(request) = under.request else {
            let at = std::mem::take(&mut self.books.at);
            if scarred {
                self.books.limbo.extend(at);
            }
            self.books.also.clear();
            let ended: Vec<_> = self.books.current.values().copied().collect();
            for index in ended {
                self.end_of(index, exist);
            }
            self.adopt(exist);
            let wrong = result.is_err() && !scarred || self.differs(exist);
            return wrong.then_some(Finding::Answer("reset", 0));
        };
        let again = self.foresee_end(machine, &under, &request);
        let doubtful = self.book_of(&request).is_some_and(|book| book.doubt);
        let fine = match result {
            Ok(()) => under.foreseen.is_ok() || under.moved && again.is_ok() || doubtful,
            Err(refusal) => {
                let foreseen = Err(refusal) == under.foreseen || Err(refusal) == again;
                let starved = refusal == Refusal::NoMemory && machine.starved.get();
                let owned = refusal == Refusal::NotOwned && under.moved;
                // What is behind a fenced SMMU is blocked, and in no domain.
                let failed = matches!(refusal, Refusal::Failed | Refusal::NotAttached);
                foreseen || starved || owned || scarred && (failed || doubtful)
            }
        };
        // A domain begins with an endpoint: none is left of a request that brought
        // it none. What failed and is no SMMU may hold any domain.
        let left = machine.soft.is_none()
            && result.is_err()
            && under
                .made
                .is_some_and(|made| exist.contains(&self.books.all[made].id));
        let fine = fine && !left;
        let (what, at) = name(&request);
        self.conclude(machine, under, &request, (result, exist));
        if scarred {
            self.adopt(exist);
        }
        let fine = fine && !self.differs(exist);
        (!fine).then_some(Finding::Answer(what, at))
    }

    fn book_of(&self, request: &Request) -> Option<&Book> {
        let (Request::Attach { domain, .. }
        | Request::Detach { domain, .. }
        | Request::Map { domain, .. }
        | Request::Unmap { domain, .. }) = *request;
        self.books.book(domain.0)
    }

    /// What a mapping is refused for at the end: pages may be on their way
    /// since.
    fn foresee_end(
        &self,
        machine: &Machine,
        under: &Under,
        request: &Request,
    ) -> Result<(), Refusal> {
        match under.mapping {
            Some(_) => self.foresee(machine, request),
            None => under.foreseen,
        }
    }

    fn conclude(
        &mut self,
        machine: &Machine,
        under: Under,
        request: &Request,
        (result, exist): (Result<(), Refusal>, &BTreeSet<u32>),
    ) {
        let failed = result == Err(Refusal::Failed);
        match *request {
            Request::Map { domain, .. } => {
                let (Some(mapping), Some(book)) = (under.mapping, self.books.book_mut(domain.0))
                else {
                    return;
                };
                let coming = book.fleeting.iter().rposition(|m| *m == mapping);
                coming.map(|index| book.fleeting.remove(index));
                if result.is_ok() {
                    book.live.insert(mapping.start, mapping);
                } else if failed && machine.scarred.get() {
                    book.kept.push(mapping);
                    book.doubt();
                }
            }
            Request::Unmap { domain, iova } => {
                if let Some(book) = self.books.book_mut(domain.0) {
                    if failed {
                        book.doubt();
                        // It may all be there still.
                        let (start, end) = (iova.start().raw(), iova.end().raw());
                        let inside = |m: &mut Mapping| m.overlaps(start, end);
                        book.kept.extend(book.fleeting.extract_if(.., inside));
                    } else if result.is_ok() && !under.waits {
                        // Whoever does not wait says that it is over.
                        book.fleeting.clear();
                    }
                }
            }
            Request::Attach { domain, endpoint } => {
                let Some(index) = self.books.current.get(&domain.0).copied() else {
                    return;
                };
                let moving = self.books.also.remove(&(endpoint.0, index));
                let old = self.books.at.get(&endpoint.0).copied();
                if !moving {
                    return;
                }
                if result.is_ok() {
                    self.books.at.insert(endpoint.0, index);
                    if let Some((index, _)) = under.ending {
                        self.end_of(index, exist);
                    }
                } else if failed {
                    self.books.at.remove(&endpoint.0);
                    for index in old.into_iter().chain([index]) {
                        self.books.limbo.insert((endpoint.0, index));
                        self.books.all[index].doubt();
                    }
                    if let Some((index, _)) = under.ending {
                        self.books.all[index].keep();
                    }
                } else {
                    // As it was.
                    if let Some((index, live)) = under.ending {
                        let book = &mut self.books.all[index];
                        book.fleeting.retain(|m| live.get(&m.start) != Some(m));
                        book.live = live;
                    }
                    if let Some(made) = under.made {
                        self.books.close(made);
                    }
                }
            }
            Request::Detach { endpoint, .. } => {
                if result.is_ok() {
                    self.books.at.remove(&endpoint.0);
                    if let Some((index, _)) = under.ending {
                        self.end_of(index, exist);
                    }
                } else if (failed || result == Err(Refusal::NotAttached) && under.foreseen.is_ok())
                    && let Some(index) = self.books.at.remove(&endpoint.0)
                {
                    self.books.limbo.insert((endpoint.0, index));
                    self.books.all[index].keep();
                }
            }
        }
    }

    /// A domain is gone; one that is there all the same could not be emptied.
    fn end_of(&mut self, index: usize, exist: &BTreeSet<u32>) {
        if exist.contains(&self.books.all[index].id) {
            self.books.all[index].keep();
        } else {
            self.books.close(index);
        }
    }

    /// After hardware failed: domains that are there all the same, or gone.
    fn adopt(&mut self, exist: &BTreeSet<u32>) {
        let gone = self
            .books
            .current
            .iter()
            .filter(|(id, _)| !exist.contains(id));
        let gone: Vec<_> = gone.map(|(_, index)| *index).collect();
        for index in gone {
            self.books.close(index);
        }
        for id in exist {
            if self.books.book(*id).is_some() {
                continue;
            }
            // The one of that number that was there last may be the same.
            let last = self.books.all.iter().rposition(|book| book.id == *id);
            let index = match last {
                Some(index) => {
                    self.books.current.insert(*id, index);
                    index
                }
                None => self.books.create(*id, &self.doorbells),
            };
            self.books.all[index].doubt();
        }
    }

    fn differs(&self, exist: &BTreeSet<u32>) -> bool {
        !self.books.current.keys().eq(exist)
    }

    /// Notes what a request came to.
    pub(crate) fn note(&mut self, outcome: Option<Outcome>) {
        self.waiting += usize::from(outcome == Some(Outcome::Deferred));
        self.last = outcome;
    }

    /// What the last request came to, for the one element that it is.
    pub(crate) fn last_outcome(&mut self) -> Option<Outcome> {
        self.last.take()
    }

    /// What the next of the requests that waited came to.
    pub(crate) fn waited(&mut self) -> Option<Outcome> {
        let next = self.waits.pop_front();
        Some(next.map_or(Outcome::Deferred, Outcome::Waited))
    }

    /// Nobody looks at the statuses of what was asked for so far.
    pub(crate) fn forget_outcomes(&mut self) {
        self.last = None;
        self.waits.clear();
        self.waiting = 0;
    }

    pub(crate) fn synced(&mut self, done: bool, (waits, lost): (u64, u64)) {
        // There was one wait, and it failed: all of it is held for ever.
        let since = self.since.take();
        let once = since.is_some_and(|(w, l)| waits == w + 1 && lost > l);
        for book in &mut self.books.all {
            if !done && !book.fleeting.is_empty() {
                if once {
                    self.books.lost.extend(&book.fleeting);
                }
                book.keep();
            }
        }
        if done {
            self.books.release();
        }
        for _ in 0..std::mem::take(&mut self.waiting) {
            self.waits.push_back(done);
        }
    }
}

impl Mapping {
    fn size(&self) -> u64 {
        self.end - self.start
    }
}

impl Book {
    /// Takes the mappings in a range away, but for the doorbells; whether there
    /// were any.
    fn take(&mut self, iova: Range<Iova>, bells: &[Mapping]) -> bool {
        let (start, end) = (iova.start().raw(), iova.end().raw());
        let all = self.live.values().copied();
        let inside = all.filter(|m| start <= m.start && m.end <= end);
        let gone: Vec<_> = inside.filter(|m| !bells.contains(m)).collect();
        for mapping in &gone {
            self.live.remove(&mapping.start);
        }
        self.fleeting.extend(&gone);
        !gone.is_empty()
    }
}

/// What is asked for, and where.
pub(crate) fn name(request: &Request) -> (&'static str, u64) {
    match request {
        Request::Attach { endpoint, .. } => ("attach", endpoint.0.into()),
        Request::Detach { endpoint, .. } => ("detach", endpoint.0.into()),
        Request::Map { iova, .. } => ("map", iova.start().raw()),
        Request::Unmap { iova, .. } => ("unmap", iova.start().raw()),
    }
}

//! A back end that keeps books: domains, endpoints, mappings.

use super::ENDPOINTS;
use portcullis_addr::{Iova, Ipa, Range};
use portcullis_dma_domain::{
    Access, DomainId, Endpoint, Iommu, Limits, Refusal, Request, Reserved, ReservedKind, Step,
    SyncError,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most turns of a back end in a call.
const MOST_TURNS: u32 = 140;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Begin(Request),
    GoOn,
    Sync,
    Reset,
}

/// How a request is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Now,
    /// After as many turns more.
    Turns(u32),
}

/// A mapping: the last address, where to, what may be done.
type Mapping = (u64, u64, Access);

/// The back end.
pub struct Book {
    pub limits: Limits,
    pub calls: Vec<Call>,
    pub domains: BTreeMap<u32, BTreeMap<u64, Mapping>>,
    pub attached: BTreeMap<u32, u32>,
    /// How fast requests and resets are, the next one first; then at once.
    pub pace: VecDeque<Pace>,
    /// What is refused whatever it is, the next one first.
    pub refusals: VecDeque<Refusal>,
    pub sync_fails: bool,
    pub reset_fails: bool,
    /// Endpoints that there are.
    pub endpoints: Vec<Endpoint>,
    /// Where messages go, for the second endpoint.
    pub doorbell: Range<Iova>,
    /// For every endpoint.
    pub one_doorbell: bool,
    /// Several reserved ranges for the last endpoint.
    pub many_reserved: usize,
    under_way: Option<(Option<Request>, u32)>,
    /// Something waits for a sync.
    pub waiting: BTreeSet<usize>,
    turns: u32,
}

impl Book {
    #[must_use]
    pub fn new() -> Self {
        let input = Range::new(Iova::new(0x1_0000), Iova::new(1 << 40)).unwrap();
        Self {
            limits: Limits {
                page_sizes: 0x4020_1000,
                input,
                domains: (1, 100),
            },
            calls: Vec::new(),
            domains: BTreeMap::new(),
            attached: BTreeMap::new(),
            pace: VecDeque::new(),
            refusals: VecDeque::new(),
            sync_fails: false,
            reset_fails: false,
            endpoints: ENDPOINTS.to_vec(),
            doorbell: Range::from_size(Iova::new(0x800_0000), 0x10_0000).unwrap(),
            one_doorbell: false,
            many_reserved: 1,
            under_way: None,
            waiting: BTreeSet::new(),
            turns: 0,
        }
    }

    /// A call of the device begins.
    pub fn begin_call(&mut self) {
        self.turns = 0;
    }

    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    #[must_use]
    pub fn count(&self, call: Call) -> usize {
        self.calls.iter().filter(|made| **made == call).count()
    }

    fn turn(&mut self, call: Call) {
        self.calls.push(call);
        self.turns += 1;
        assert!(self.turns < MOST_TURNS, "too much work for one call");
    }

    fn pace(&mut self, request: Option<Request>) -> Step {
        match self.pace.pop_front() {
            Some(Pace::Turns(turns)) if turns > 0 => {
                self.under_way = Some((request, turns));
                Step::More
            }
            _ => self.end(request),
        }
    }

    fn end(&mut self, request: Option<Request>) -> Step {
        let Some(request) = request else {
            self.domains.clear();
            self.attached.clear();
            self.waiting.clear();
            let result = if self.reset_fails {
                Err(Refusal::Failed)
            } else {
                Ok(())
            };
            return Step::Done(result);
        };
        if let Some(refusal) = self.refusals.pop_front() {
            return Step::Done(Err(refusal));
        }
        match self.act(request) {
            Ok(true) => {
                self.waiting.insert(self.calls.len());
                Step::AfterSync
            }
            Ok(false) => Step::Done(Ok(())),
            Err(refusal) => Step::Done(Err(refusal)),
        }
    }

    fn leave(&mut self, endpoint: u32) -> bool {
        let Some(domain) = self.attached.remove(&endpoint) else {
            return false;
        };
        if !self.attached.values().any(|other| *other == domain) {
            self.domains.remove(&domain);
        }
        true
    }

    fn act(&mut self, request: Request) -> Result<bool, Refusal> {
        match request {
            Request::Attach { domain, endpoint } => {
                assert!(self.has(endpoint), "the device asked before");
                if self.attached.get(&endpoint.0) == Some(&domain.0) {
                    return Ok(false);
                }
                let left = self.leave(endpoint.0);
                self.domains.entry(domain.0).or_default();
                self.attached.insert(endpoint.0, domain.0);
                Ok(left)
            }
            Request::Detach { domain, endpoint } => {
                if !self.domains.contains_key(&domain.0) {
                    return Err(Refusal::NoDomain);
                }
                if self.attached.get(&endpoint.0) != Some(&domain.0) {
                    return Err(Refusal::NotAttached);
                }
                Ok(self.leave(endpoint.0))
            }
            Request::Map {
                domain,
                iova,
                to,
                access,
            } => {
                let to = to.raw();
                let aligned = iova.is_aligned(0x1000) && to.is_multiple_of(0x1000);
                assert!(aligned, "alignment");
                assert!(self.limits.input.covers(&iova), "the input range");
                let mappings = self.domains.get_mut(&domain.0).ok_or(Refusal::NoDomain)?;
                let (start, last) = (iova.start().raw(), iova.end().raw() - 1);
                let below = mappings.range(..=last).next_back();
                if below.is_some_and(|(_, (end, ..))| *end >= start) {
                    return Err(Refusal::AlreadyMapped);
                }
                mappings.insert(start, (last, to, access));
                Ok(false)
            }
            Request::Unmap { domain, iova } => {
                let mappings = self.domains.get_mut(&domain.0).ok_or(Refusal::NoDomain)?;
                let (start, last) = (iova.start().raw(), iova.end().raw() - 1);
                let split = |at: u64| {
                    let below = mappings.range(..at).next_back();
                    below.is_some_and(|(_, (end, ..))| *end >= at)
                };
                if split(start) || split(last + 1) {
                    return Err(Refusal::WouldSplit);
                }
                let before = mappings.len();
                mappings.retain(|from, _| !(start..=last).contains(from));
                Ok(mappings.len() < before)
            }
        }
    }
}

impl Iommu for Book {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn has(&self, endpoint: Endpoint) -> bool {
        self.endpoints.contains(&endpoint)
    }

    fn reserved(&self, endpoint: Endpoint, index: usize) -> Option<Reserved> {
        let [_, msi, many] = ENDPOINTS;
        if endpoint == msi || self.one_doorbell {
            let (range, kind) = (self.doorbell, ReservedKind::Msi);
            return (index == 0).then_some(Reserved { range, kind });
        }
        let at = 0x800_0000 + 0x10_0000 * index as u64;
        let range = Range::from_size(Iova::new(at), 0x10_0000).unwrap();
        let kind = ReservedKind::Reserved;
        (endpoint == many && index < self.many_reserved).then_some(Reserved { range, kind })
    }

    fn begin(&mut self, request: Request) -> Step {
        self.turn(Call::Begin(request));
        assert_eq!(self.under_way, None, "one request at a time");
        self.pace(Some(request))
    }

    fn go_on(&mut self) -> Step {
        self.turn(Call::GoOn);
        let (request, turns) = self.under_way.take().expect("a request under way");
        if turns > 1 {
            self.under_way = Some((request, turns - 1));
            return Step::More;
        }
        self.end(request)
    }

    fn sync(&mut self) -> Result<(), SyncError> {
        self.turn(Call::Sync);
        assert_eq!(self.under_way, None, "one request at a time");
        assert!(!self.waiting.is_empty(), "nothing waits");
        self.waiting.clear();
        if self.sync_fails {
            Err(SyncError)
        } else {
            Ok(())
        }
    }

    fn reset(&mut self) -> Step {
        self.turn(Call::Reset);
        assert!(self.waiting.is_empty(), "something still waits");
        assert_eq!(self.under_way, None, "one request at a time");
        self.pace(None)
    }
}

/// The request for a mapping.
#[must_use]
pub fn map(domain: u32, start: u64, end: u64, to: u64, access: Access) -> Request {
    Request::Map {
        domain: DomainId(domain),
        iova: Range::new(Iova::new(start), Iova::new(end)).unwrap(),
        to: Ipa::new(to),
        access,
    }
}

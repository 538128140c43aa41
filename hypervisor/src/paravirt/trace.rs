//! A record of what the host asked for, with `trace=`: the input of whoever wants
//! to know which mode suits such a host.
//!
//! Kept in memory of the hypervisor's and printed at power-off, a line for each
//! request that was granted:
//!
//! ```text
//! portcullis: trace=1.250000417,map,1,0xfffff000,0x1000 t=2.087447
//! ```
//!
//! are the time in seconds, what it was, the domain, and then an address and
//! bytes, or for `attach` and `detach` the endpoint. `reset` has neither: another
//! driver begins, no endpoint is attached, and nothing is mapped. What takes
//! several turns is noted when it is done, what waits for the SMMUs' invalidations
//! before these.

use crate::log::info;
use crate::memory::Shared;
use crate::sysreg::read_sysreg;
use portcullis_addr::{Iova, PhysAddr, Range};
use portcullis_dma_domain::{
    DomainId, Endpoint, Iommu, Limits, Request, Reserved, Step, SyncError,
};
use portcullis_memory::Memory;

/// Bytes of a record: time, what and which domain, and two numbers more.
const RECORD: u64 = 32;

const ATTACH: u64 = 0;
const DETACH: u64 = 1;
const MAP: u64 = 2;
const UNMAP: u64 = 3;
const RESET: u64 = 4;
const NAMES: [&str; 5] = ["attach", "detach", "map", "unmap", "reset"];

/// What the host may have done.
#[derive(Clone, Copy, Debug)]
enum Done {
    Request(Request),
    Reset,
}

/// What was recorded so far.
#[derive(Debug)]
pub struct Trace {
    /// Memory that nobody else has.
    start: PhysAddr,
    /// Records that it has room for.
    room: u64,
    count: u64,
    /// Requests that there was no room for.
    dropped: u64,
    /// What takes another turn.
    pending: Option<Done>,
}

impl Trace {
    /// One that keeps its first requests in `bytes` of memory of the pool.
    /// `None` when the pool does not have that in one piece.
    pub fn new(bytes: u64) -> Option<Self> {
        Some(Self {
            start: Shared::take(bytes)?,
            room: bytes / RECORD,
            count: 0,
            dropped: 0,
            pending: None,
        })
    }

    /// Takes note of a step of `what`.
    fn step(&mut self, what: Option<Done>, step: &Step) {
        self.pending = match step {
            Step::More => what,
            Step::Done(Ok(())) | Step::AfterSync => {
                if let Some(done) = what {
                    self.note(done);
                }
                None
            }
            Step::Done(Err(_)) => None,
        };
    }

    #[inline(never)]
    fn note(&mut self, done: Done) {
        if self.count >= self.room {
            self.dropped += 1;
            return;
        }
        let of = |range: Range<Iova>| [range.start().raw(), range.size()];
        let (what, domain, [first, second]) = match done {
            Done::Reset => (RESET, DomainId(0), [0, 0]),
            Done::Request(request) => match request {
                Request::Attach { domain, endpoint } => (ATTACH, domain, [endpoint.0.into(), 0]),
                Request::Detach { domain, endpoint } => (DETACH, domain, [endpoint.0.into(), 0]),
                Request::Map { domain, iova, .. } => (MAP, domain, of(iova)),
                Request::Unmap { domain, iova } => (UNMAP, domain, of(iova)),
            },
        };
        let words = [
            read_sysreg!("cntpct_el0"),
            what << 32 | u64::from(domain.0),
            first,
            second,
        ];
        for (at, word) in self.words(self.count).zip(words) {
            Shared::COHERENT.store(at, word);
        }
        self.count += 1;
    }

    /// Where the words of a record are, which there is room for.
    fn words(&self, record: u64) -> impl Iterator<Item = PhysAddr> {
        let start = self.start.raw() + record * RECORD;
        (0..RECORD / 8).map(move |word| PhysAddr::new(start + word * 8))
    }

    /// Prints all of it.
    pub fn print(&self) {
        let frequency = read_sysreg!("cntfrq_el0").max(1);
        for record in 0..self.count {
            let mut words = [0; (RECORD / 8) as usize];
            for (word, at) in words.iter_mut().zip(self.words(record)) {
                *word = Shared::COHERENT.load(at);
            }
            let [ticks, head, first, second] = words;
            // The low half is the domain.
            let (what, domain) = (head >> 32, DomainId(head as u32));
            let seconds = ticks / frequency;
            let nanoseconds = u128::from(ticks % frequency) * 1_000_000_000 / u128::from(frequency);
            let name = NAMES.get(what as usize).copied().unwrap_or_default();
            if what == RESET {
                info!("trace={seconds}.{nanoseconds:09},{name}");
            } else if what == MAP || what == UNMAP {
                info!("trace={seconds}.{nanoseconds:09},{name},{domain},{first:#x},{second:#x}");
            } else {
                info!("trace={seconds}.{nanoseconds:09},{name},{domain},{first:#x}");
            }
        }
        let (count, dropped) = (self.count, self.dropped);
        info!("event=trace_end records={count} dropped={dropped}");
    }
}

/// Domains whose requests are recorded.
pub struct Traced<'a, I> {
    pub domains: &'a mut I,
    pub trace: &'a mut Trace,
}

impl<I: Iommu> Iommu for Traced<'_, I> {
    #[inline(always)]
    fn limits(&self) -> Limits {
        self.domains.limits()
    }

    #[inline(always)]
    fn has(&self, endpoint: Endpoint) -> bool {
        self.domains.has(endpoint)
    }

    #[inline(always)]
    fn reserved(&self, endpoint: Endpoint, index: usize) -> Option<Reserved> {
        self.domains.reserved(endpoint, index)
    }

    #[inline(always)]
    fn begin(&mut self, request: Request) -> Step {
        let step = self.domains.begin(request);
        self.trace.step(Some(Done::Request(request)), &step);
        step
    }

    #[inline(always)]
    fn go_on(&mut self) -> Step {
        let step = self.domains.go_on();
        let pending = self.trace.pending.take();
        self.trace.step(pending, &step);
        step
    }

    #[inline(always)]
    fn sync(&mut self) -> Result<(), SyncError> {
        self.domains.sync()
    }

    #[inline(always)]
    fn reset(&mut self) -> Step {
        let step = self.domains.reset();
        self.trace.step(Some(Done::Reset), &step);
        step
    }
}

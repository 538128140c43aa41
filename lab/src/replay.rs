//! Runs what a host asked for once more, in any mode, on the timed SMMU.
//!
//! A trace says what was mapped and unmapped, and in which order. What it does not
//! say is assumed, see [`Options::assumptions`]:
//!
//! - Each mapping is read from its start to its end, as often as
//!   [`Options::new`] says: right before it is unmapped or, if it stays mapped, right
//!   after it was mapped. Each of these accesses comes after one to the start of the
//!   oldest mapping of the domain, where a device would have its descriptors.
//! - A domain has one device, which makes one access at a time.
//! - A mapping is one run of memory, as it was, but where that was is not known: it
//!   is aligned to its size, up to 2 MiB, and uses again what was freed last.
//! - A mapping is a call of its own of the host's driver.
//!
//! The times of the trace do not count: they are those of the machine that made it,
//! which may have been an emulator. One CPU makes the requests, each as soon as the
//! one before is done and the device's accesses are over. Where the host is strict,
//! mappings are where they were. A lazy host could not have taken an address again
//! before its invalidation, so that there the lab picks addresses as a scenario does.
//!
//! When the last endpoint leaves a domain, what is left of it goes at nobody's cost.

mod memory;

use crate::machine::{Machine, Mode, Shape, with_client};
use crate::measured::Measured;
use crate::platform::Platform;
use crate::scenario::{Invalidation, Iovas, MOST_MEMORY};
use crate::sim::{Host, Report, SimError, Space};
use crate::trace::{Ends, Record, Trace, What};
use crate::units::Picos;
use memory::Places;
use portcullis_addr::{Iova, Ipa, Range};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::time::Instant;
use thiserror::Error;

/// Most accesses of a replay, as many as of a scenario.
pub const MOST_ACCESSES: u64 = 1_000_000_000;
/// Most memory that the buffers may take side by side: with gaps, since sizes are
/// rounded up and what was freed is only used for the same size.
const MOST_PLACES: u64 = 4 * MOST_MEMORY;

/// An option that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// Bytes of an access.
    #[error("accesses of {0} bytes: 64, 128, ... or 4096 are possible")]
    Access(u64),
    /// How often a mapping is read.
    #[error("{0} passes: 1 to 1000 are possible")]
    Passes(u64),
}

/// What a trace does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    access: u64,
    passes: u64,
    invalidation: Invalidation,
}

impl Default for Options {
    /// Each mapping is read once, by pages, and the host is strict.
    fn default() -> Self {
        Self {
            access: 4096,
            passes: 1,
            invalidation: Invalidation::Strict,
        }
    }
}

impl Options {
    /// Accesses of `access` bytes, with which each mapping is read `passes` times.
    ///
    /// # Errors
    /// [`OptionsError`]: an access is a power of two from 64 bytes to a page, which is
    /// what has one translation; there are 1 to 1,000 passes.
    pub fn new(access: u64, passes: u64, invalidation: Invalidation) -> Result<Self, OptionsError> {
        if !access.is_power_of_two() || !(64..=4096).contains(&access) {
            return Err(OptionsError::Access(access));
        }
        if !(1..=1000).contains(&passes) {
            return Err(OptionsError::Passes(passes));
        }
        Ok(Self {
            access,
            passes,
            invalidation,
        })
    }

    /// When an unmapping is complete.
    #[must_use]
    pub fn invalidation(&self) -> Invalidation {
        self.invalidation
    }

    /// Bytes of an access.
    #[must_use]
    pub fn access(&self) -> u64 {
        self.access
    }

    /// How often each mapping is read.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.passes
    }

    /// What the figures rest on beside the trace, in words.
    #[must_use]
    pub fn assumptions(&self) -> String {
        let times = match self.passes {
            1 => "once".to_owned(),
            passes => format!("{passes} times"),
        };
        let place = match self.invalidation {
            Invalidation::Strict => "as recorded",
            Invalidation::Lazy => "picked anew, since a lazy host takes none again at once",
        };
        format!(
            "assumed, since the trace does not say:\n\
             - each mapping is read {times} from start to end, by {} bytes: before it is unmapped, \
             or once mapped if it stays\n\
             - with each of these, one access to the oldest mapping of the domain (descriptor \
             rings); GB/s has both\n\
             - one device for each domain, with one access at a time; one CPU, which waits for \
             them before the next request\n\
             - the memory of a mapping, one run as in its request, is aligned to its size, up to \
             2 MiB\n\
             - each mapping is a call of its own of the host's driver\n\
             order and addresses are those of the trace (addresses {place}), times are not\n",
            self.access
        )
    }

    /// Accesses that a trace comes to.
    #[must_use]
    pub fn accesses(&self, trace: &Trace) -> u64 {
        let each = trace.records().iter().map(|record| match record.what {
            What::Map { iova, .. } => iova.size().div_ceil(self.access),
            _ => 0,
        });
        let once = each.fold(0_u64, u64::saturating_add);
        once.saturating_mul(2).saturating_mul(self.passes)
    }
}

/// Replays a trace.
///
/// # Errors
/// [`SimError`].
pub fn run(
    platform: &Platform,
    trace: &Trace,
    options: &Options,
    measured: &Measured,
    mode: Mode,
) -> Result<Report, SimError> {
    check(platform, trace, options)?;
    let places = Places::of(trace);
    if places.bytes() > MOST_PLACES {
        return Err(SimError::Large {
            bytes: places.bytes(),
            most: MOST_PLACES,
        });
    }
    let shape = Shape::with(platform, trace.domains(), places.bytes());
    let failed = |error| SimError::Machine { mode, error };
    let machine = Machine::new(&shape).map_err(failed)?;
    let began = Instant::now();
    let report = with_client(&machine, &shape, mode, |client| {
        let how = (mode, options.invalidation);
        let host = Host::new(&machine, &shape, measured, how, client);
        Player::new(host, &shape, trace, options, (machine.buffers(), &places)).run()
    });
    let mut report = report.map_err(failed)??;
    report.wall = began.elapsed();
    Ok(report)
}

fn check(platform: &Platform, trace: &Trace, options: &Options) -> Result<(), SimError> {
    let bits = platform.memory.ipa_bits.get().get();
    for record in trace.records() {
        if let What::Map { iova, .. } = record.what
            && iova.end().raw() > 1 << bits
        {
            return Err(SimError::Beyond {
                line: record.line,
                end: iova.end().raw(),
                bits,
            });
        }
    }
    let accesses = options.accesses(trace);
    if accesses > MOST_ACCESSES {
        return Err(SimError::Long {
            accesses,
            most: MOST_ACCESSES,
        });
    }
    Ok(())
}

/// A domain under way.
struct Domain {
    /// Its mappings in their order. Those that are gone leave when they are first.
    order: VecDeque<usize>,
    /// When its device's accesses are over.
    over: Picos,
    /// The addresses that a lazy host has.
    space: Space,
}

/// A replay under way.
struct Player<'a> {
    host: Host<'a>,
    trace: &'a Trace,
    options: &'a Options,
    /// Where memory begins, and where each mapping is in it.
    base: u64,
    places: &'a Places,
    domains: Vec<Domain>,
    /// Where each mapping is that is there now, by its record.
    live: FxHashMap<usize, u64>,
    /// For a lazy host: what each unmapping spans, and where that is.
    spans: FxHashMap<u32, Span>,
    /// When the CPU is free.
    cpu: Picos,
}

/// Mappings that go together.
#[derive(Clone, Copy)]
struct Span {
    /// In the trace.
    start: u64,
    end: u64,
    /// Here, once the first of them is mapped.
    at: Option<u64>,
}

fn iova_of(record: &Record) -> Option<Range<Iova>> {
    match record.what {
        What::Map { iova, .. } => Some(iova),
        _ => None,
    }
}

impl<'a> Player<'a> {
    fn new(
        host: Host<'a>,
        shape: &Shape<'_>,
        trace: &'a Trace,
        options: &'a Options,
        (base, places): (u64, &'a Places),
    ) -> Self {
        let bits = shape.platform.memory.ipa_bits.get().get();
        let domain = || Domain {
            order: VecDeque::new(),
            over: Picos::ZERO,
            space: Space::new(Iovas::Recycled, bits),
        };
        Self {
            host,
            trace,
            options,
            base,
            places,
            domains: (0..shape.domains()).map(|_| domain()).collect(),
            live: FxHashMap::default(),
            spans: FxHashMap::default(),
            cpu: Picos::ZERO,
        }
    }

    fn run(mut self) -> Result<Report, SimError> {
        let trace = self.trace;
        if self.options.invalidation == Invalidation::Lazy {
            self.find_spans();
        }
        let mut ends = Ends::new(trace);
        for (index, record) in trace.records().iter().enumerate() {
            let ended = ends.at(index);
            if iova_of(record).is_some() {
                self.map(index, record)?;
            } else if let What::Unmap { .. } = record.what {
                self.unmap(index, record, ended)?;
            } else {
                self.close(ended)?;
            }
        }
        let over = self.domains.iter().map(|domain| domain.over).max();
        let elapsed = self.cpu.max(over.unwrap_or_default());
        Ok(self.host.report(elapsed, self.options.access))
    }

    /// What unmappings span, of those that are mapped, not of what they asked for.
    fn find_spans(&mut self) {
        let records = self.trace.records();
        for record in records {
            let What::Map {
                iova,
                until: Some(until),
            } = record.what
            else {
                continue;
            };
            if let Some(What::Unmap { .. }) = records.get(until as usize).map(|by| by.what) {
                let (start, end) = (iova.start().raw(), iova.end().raw());
                let span = self.spans.entry(until).or_insert(Span {
                    start,
                    end,
                    at: None,
                });
                (span.start, span.end) = (span.start.min(start), span.end.max(end));
            }
        }
    }

    fn domain(&mut self, record: &Record) -> Result<(usize, &mut Domain), SimError> {
        let mode = self.host.mode();
        let index = record.domain as usize;
        let domain = self.domains.get_mut(index);
        Ok((index, domain.ok_or(SimError::Idle { mode })?))
    }

    /// Where a mapping goes.
    fn pick(&mut self, index: usize, record: &Record) -> Result<u64, SimError> {
        let mode = self.host.mode();
        let What::Map { iova, until } = record.what else {
            return Err(SimError::Idle { mode });
        };
        let recorded = iova.start().raw();
        if mode == Mode::Identity {
            return Ok(self.base + self.places.at(index));
        }
        if self.options.invalidation == Invalidation::Strict {
            return Ok(recorded);
        }
        let span = until.and_then(|until| self.spans.get(&until)).copied();
        let none = || SimError::Addresses { mode };
        let (_, domain) = self.domain(record)?;
        let Some(span) = span else {
            return domain.space.take(iova.size()).ok_or_else(none);
        };
        let at = match span.at {
            Some(at) => at,
            None => domain.space.take(span.end - span.start).ok_or_else(none)?,
        };
        if let Some(place) = until.and_then(|until| self.spans.get_mut(&until)) {
            place.at = Some(at);
        }
        Ok(at + (recorded - span.start))
    }

    fn map(&mut self, index: usize, record: &Record) -> Result<(), SimError> {
        let mode = self.host.mode();
        let What::Map { iova, until } = record.what else {
            return Err(SimError::Idle { mode });
        };
        let at = self.pick(index, record)?;
        let memory = Ipa::new(self.base + self.places.at(index));
        let run =
            Range::from_size(memory, iova.size()).map_err(|_| SimError::Addresses { mode })?;
        let cpu = self.cpu;
        let (number, domain) = self.domain(record)?;
        let start = cpu.max(domain.over);
        domain.order.push_back(index);
        let done = self.host.map(number, at, &[run])?;
        self.cpu = self.host.pay(&done, start);
        self.live.insert(index, at);
        let by = until.and_then(|until| self.trace.records().get(until as usize));
        let goes = by.is_some_and(|by| matches!(by.what, What::Unmap { .. }));
        if !goes {
            let over = self.read(index, record, self.cpu)?;
            self.domain(record)?.1.over = over;
        }
        Ok(())
    }

    /// Has a device read a mapping, from `now` on; when that is over.
    fn read(&mut self, index: usize, record: &Record, now: Picos) -> Result<Picos, SimError> {
        let bytes = iova_of(record).map_or(0, |iova| iova.size());
        let device = record.domain as usize;
        let rings = self.oldest(record)?;
        let address = self.live.get(&index).copied().unwrap_or_default();
        let mut at = now;
        for _ in 0..self.options.passes {
            for offset in (0..bytes).step_by(self.options.access as usize) {
                at = self.host.access(device, rings, at)?;
                at = self.host.access(device, address + offset, at)?;
            }
        }
        Ok(at)
    }

    /// Where the oldest mapping of a domain is.
    fn oldest(&mut self, record: &Record) -> Result<u64, SimError> {
        let mode = self.host.mode();
        let order = self.domains.get_mut(record.domain as usize);
        let order = &mut order.ok_or(SimError::Idle { mode })?.order;
        while let Some(first) = order.front() {
            if let Some(at) = self.live.get(first) {
                return Ok(*at);
            }
            order.pop_front();
        }
        Err(SimError::Idle { mode })
    }

    fn unmap(
        &mut self,
        index: usize,
        record: &Record,
        ended: impl Iterator<Item = usize>,
    ) -> Result<(), SimError> {
        let records = self.trace.records();
        let (mut first, mut last, mut bytes) = (u64::MAX, 0, 0);
        let ended: Vec<usize> = ended.collect();
        let start = self.cpu.max(self.domain(record)?.1.over);
        let mut over = start;
        for map in &ended {
            let Some(mapped) = records.get(*map) else {
                continue;
            };
            over = self.read(*map, mapped, over)?;
            let at = self.live.get(map).copied().unwrap_or_default();
            let size = iova_of(mapped).map_or(0, |iova| iova.size());
            (first, last) = (first.min(at), last.max(at + size));
            bytes += size;
        }
        self.domain(record)?.1.over = over;
        let mode = self.host.mode();
        let range = Range::new(Iova::new(first), Iova::new(last))
            .map_err(|_| SimError::Addresses { mode })?;
        let runs = ended.len() as u64;
        let domain = record.domain as usize;
        let (done, free) = self.host.unmap(domain, range, (bytes, runs))?;
        self.cpu = self.host.pay(&done, over);
        for map in &ended {
            self.live.remove(map);
        }
        // At most 4 million.
        self.spans.remove(&(index as u32));
        self.give_back(record, &free)
    }

    /// The last endpoint left the domain that had all of `ended`.
    fn close(&mut self, ended: impl Iterator<Item = usize>) -> Result<(), SimError> {
        let (mut owner, mut left) = (None, Vec::new());
        for map in ended {
            let record = self.trace.records().get(map);
            if let Some(record) = record
                && let Some(at) = self.live.remove(&map)
                && let Some(iova) = iova_of(record)
                && let Ok(range) = Range::from_size(Iova::new(at), iova.size())
            {
                owner = Some(record);
                left.push(range);
            }
        }
        let Some(record) = owner else {
            return Ok(());
        };
        let free = self.host.close(record.domain as usize, left)?;
        self.give_back(record, &free)
    }

    fn give_back(&mut self, record: &Record, free: &[Range<Iova>]) -> Result<(), SimError> {
        if self.options.invalidation == Invalidation::Lazy {
            let (_, domain) = self.domain(record)?;
            for range in free {
                domain.space.put(range.start().raw(), range.size());
            }
        }
        Ok(())
    }
}

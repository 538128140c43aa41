//! Lines into records, each of them checked against those before.

use super::parse::{self, Asked, Said};
use super::{MOST_DOMAINS, MOST_RECORDS, Record, Trace, What};
use crate::input::InputError;
use crate::scenario::MOST_MEMORY;
use portcullis_addr::{Iova, PAGE_SIZE, Range};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;

/// Something that is mapped: its end, and the record that mapped it.
type Mapped = (u64, u32);

/// A domain while its requests are read.
#[derive(Default)]
struct Domain {
    endpoints: u64,
    /// By start.
    live: BTreeMap<u64, Mapped>,
}

/// Where reading is.
pub(super) struct Reader<'f> {
    file: &'f str,
    /// The current line, counted from 1.
    line: u32,
    records: Vec<Record>,
    /// Lines that are records; a reset counts as one, and leaves as many records as
    /// endpoints.
    said: u64,
    /// What a domain's number in the log is here.
    numbers: FxHashMap<u32, u32>,
    domains: Vec<Domain>,
    /// The domain of each endpoint that has one.
    endpoints: FxHashMap<u32, u32>,
    /// Endpoints that ever had one.
    seen: FxHashSet<u32>,
    /// The line of the end, and how many requests are not there.
    end: Option<(u32, u64)>,
    bytes: u64,
    mappings: u64,
    peak_bytes: u64,
    peak_mappings: u64,
}

impl<'f> Reader<'f> {
    pub(super) fn new(file: &'f str) -> Self {
        Self {
            file,
            line: 0,
            records: Vec::new(),
            said: 0,
            numbers: FxHashMap::default(),
            domains: Vec::new(),
            endpoints: FxHashMap::default(),
            seen: FxHashSet::default(),
            end: None,
            bytes: 0,
            mappings: 0,
            peak_bytes: 0,
            peak_mappings: 0,
        }
    }

    /// The next line.
    pub(super) fn line(&mut self, line: &[u8]) -> Result<(), InputError> {
        self.line = self.line.saturating_add(1);
        let Some(said) = parse::line(line) else {
            return Ok(());
        };
        said.and_then(|said| self.take(said))
            .map_err(|message| InputError::Wrong {
                file: self.file.to_owned(),
                line: self.line as usize,
                message,
            })
    }

    /// No line is left.
    pub(super) fn end(self) -> Result<Trace, InputError> {
        if self.said == 0 {
            let message = if self.end.is_some() {
                "the trace is empty: the host asked its virtio-iommu for nothing"
            } else {
                "there is no trace in it: boot with the hypervisor's arguments \
                 `host-iommu=paravirt trace=4M`, power off, and give the hypervisor's log"
            };
            return Err(InputError::Missing {
                file: self.file.to_owned(),
                message: message.to_owned(),
            });
        }
        Ok(Trace {
            records: self.records,
            domains: self.domains.len(),
            endpoints: self.seen.len(),
            dropped: self.end.map(|(_, dropped)| dropped),
            peak_bytes: self.peak_bytes,
            peak_mappings: self.peak_mappings,
        })
    }

    fn take(&mut self, said: Said) -> Result<(), String> {
        if let Some((line, _)) = self.end {
            return Err(format!(
                "the trace ended in line {line}: the log of one run is wanted, from its start to \
                 its power-off"
            ));
        }
        match said {
            Said::End { records, dropped } => {
                let found = self.said;
                if records != found {
                    return Err(format!(
                        "the trace had {records} records, {found} are here: lines are missing, \
                         or more than one trace is in the file"
                    ));
                }
                self.end = Some((self.line, dropped));
                Ok(())
            }
            Said::Request {
                nanos,
                domain,
                what,
            } => {
                self.check(nanos)?;
                self.said += 1;
                self.request(nanos, domain, what)
            }
            Said::Reset { nanos } => {
                self.check(nanos)?;
                self.said += 1;
                self.reset(nanos);
                Ok(())
            }
        }
    }

    /// Whether one more record can come, at that time.
    fn check(&self, nanos: u64) -> Result<(), String> {
        if self.records.len() >= MOST_RECORDS {
            return Err(format!("more than {MOST_RECORDS} records"));
        }
        let before = self.records.last().map_or(0, |record| record.nanos);
        if nanos < before {
            let seconds = |nanos: u64| nanos as f64 / 1e9;
            return Err(format!(
                "{:.9} s is before {:.9} s of the record before: records are in the order of \
                 their times",
                seconds(nanos),
                seconds(before)
            ));
        }
        Ok(())
    }

    fn request(&mut self, nanos: u64, name: u32, what: Asked) -> Result<(), String> {
        let (domain, what) = match what {
            Asked::Attach(endpoint) => (self.attach(name, endpoint)?, What::Attach),
            Asked::Detach(endpoint) => (self.detach(name, endpoint)?, What::Detach),
            Asked::Map { iova, bytes } => self.map(name, pages(iova, bytes)?)?,
            Asked::Unmap { iova, bytes } => self.unmap(name, pages(iova, bytes)?)?,
        };
        self.records.push(Record {
            nanos,
            line: self.line,
            domain,
            what,
        });
        Ok(())
    }

    /// Every endpoint leaves.
    fn reset(&mut self, nanos: u64) {
        let left = std::mem::take(&mut self.endpoints);
        let mut left: Vec<u32> = left.into_values().collect();
        // One record for each endpoint, whichever comes first in the map.
        left.sort_unstable();
        for domain in left {
            self.leave(domain);
            self.records.push(Record {
                nanos,
                line: self.line,
                domain,
                what: What::Detach,
            });
        }
    }

    /// The number that the record which is being read will have.
    fn number(&self) -> u32 {
        // At most 4 million.
        self.records.len() as u32
    }

    fn attach(&mut self, name: u32, endpoint: u32) -> Result<u32, String> {
        let domain = match self.numbers.get(&name) {
            Some(domain) => *domain,
            None if self.domains.len() < MOST_DOMAINS => {
                // At most 4096.
                let domain = self.domains.len() as u32;
                self.numbers.insert(name, domain);
                self.domains.push(Domain::default());
                domain
            }
            None => return Err(format!("more than {MOST_DOMAINS} domains")),
        };
        self.seen.insert(endpoint);
        let old = self.endpoints.insert(endpoint, domain);
        if old == Some(domain) {
            return Ok(domain);
        }
        if let Some(domain) = self.domains.get_mut(domain as usize) {
            domain.endpoints += 1;
        }
        if let Some(old) = old {
            self.leave(old);
        }
        Ok(domain)
    }

    fn detach(&mut self, name: u32, endpoint: u32) -> Result<u32, String> {
        let domain = self.numbers.get(&name).copied();
        let found = self.endpoints.get(&endpoint).copied();
        match (domain, found) {
            (Some(domain), Some(place)) if place == domain => {
                self.endpoints.remove(&endpoint);
                self.leave(domain);
                Ok(domain)
            }
            _ => Err(format!(
                "endpoint {endpoint:#x} is not in domain {name}: an `attach` must be before"
            )),
        }
    }

    /// An endpoint left. With the last of them, the domain ends, and what is mapped.
    fn leave(&mut self, domain: u32) {
        let until = self.number();
        let Some(domain) = self.domains.get_mut(domain as usize) else {
            return;
        };
        domain.endpoints = domain.endpoints.saturating_sub(1);
        if domain.endpoints == 0 {
            let all = std::mem::take(&mut domain.live);
            for (start, mapped) in all {
                self.gone(start, mapped, until);
            }
        }
    }

    fn gone(&mut self, start: u64, (end, record): Mapped, by: u32) {
        self.bytes = self.bytes.saturating_sub(end - start);
        self.mappings = self.mappings.saturating_sub(1);
        let record = self.records.get_mut(record as usize);
        if let Some(What::Map { until, .. }) = record.map(|record| &mut record.what) {
            *until = Some(by);
        }
    }

    /// Removes the first mapping that begins between two addresses.
    fn take_first(&mut self, domain: u32, (start, end): (u64, u64)) -> Option<(u64, Mapped)> {
        let live = &mut self.domains.get_mut(domain as usize)?.live;
        let (at, mapped) = live.range(start..end).next()?;
        let (at, mapped) = (*at, *mapped);
        live.remove(&at);
        Some((at, mapped))
    }

    fn existing(&self, name: u32) -> Result<u32, String> {
        let domain = self.numbers.get(&name).copied();
        let has = |domain: &u32| {
            let domain = self.domains.get(*domain as usize);
            domain.is_some_and(|domain| domain.endpoints != 0)
        };
        domain
            .filter(has)
            .ok_or_else(|| format!("no endpoint is in domain {name}: an `attach` must be before"))
    }

    fn map(&mut self, name: u32, iova: Range<Iova>) -> Result<(u32, What), String> {
        let number = self.number();
        let domain = self.existing(name)?;
        let (start, end) = (iova.start().raw(), iova.end().raw());
        let Some(Domain { live, .. }) = self.domains.get_mut(domain as usize) else {
            return Err(format!("there is no domain {name}"));
        };
        if let Some((at, (until, record))) = live.range(..end).next_back()
            && *until > start
        {
            let line = self.records.get(*record as usize).map_or(0, |r| r.line);
            return Err(format!(
                "{start:#x} to {end:#x} overlaps {at:#x} to {until:#x}, which line {line} mapped: \
                 an `unmap` of that must be before"
            ));
        }
        let bytes = self.bytes.saturating_add(end - start);
        if bytes > MOST_MEMORY {
            return Err(format!(
                "{bytes} bytes are mapped now, at most {MOST_MEMORY} are possible"
            ));
        }
        live.insert(start, (end, number));
        self.bytes = bytes;
        self.mappings += 1;
        self.peak_bytes = self.peak_bytes.max(self.bytes);
        self.peak_mappings = self.peak_mappings.max(self.mappings);
        Ok((domain, What::Map { iova, until: None }))
    }

    fn unmap(&mut self, name: u32, iova: Range<Iova>) -> Result<(u32, What), String> {
        let number = self.number();
        let domain = self.existing(name)?;
        let (start, end) = (iova.start().raw(), iova.end().raw());
        let Some(Domain { live, .. }) = self.domains.get(domain as usize) else {
            return Err(format!("there is no domain {name}"));
        };
        for edge in [start, end] {
            if let Some((at, (until, _))) = live.range(..edge).next_back()
                && *until > edge
            {
                return Err(format!(
                    "{edge:#x} is within {at:#x} to {until:#x}: an `unmap` takes whole mappings"
                ));
            }
        }
        let mut found = false;
        while let Some((at, mapped)) = self.take_first(domain, (start, end)) {
            self.gone(at, mapped, number);
            found = true;
        }
        if !found {
            return Err(format!(
                "nothing is mapped from {start:#x} to {end:#x} of domain {name}: a `map` must be \
                 before"
            ));
        }
        Ok((domain, What::Unmap { iova }))
    }
}

/// Whole pages.
fn pages(iova: u64, bytes: u64) -> Result<Range<Iova>, String> {
    if !(iova | bytes).is_multiple_of(PAGE_SIZE) || bytes == 0 {
        return Err(format!(
            "{iova:#x} and {bytes:#x} are no pages: both are multiples of {PAGE_SIZE:#x}, and \
             the second is not 0"
        ));
    }
    Range::from_size(Iova::new(iova), bytes).map_err(|error| {
        format!(
            "{iova:#x} and {bytes:#x}: {error}; together at most {:#x}",
            u64::MAX
        )
    })
}

//! What a host mapped and unmapped, as the hypervisor recorded it with `trace=`.
//!
//! At power-off its log has a line for each request that was granted, and one that
//! says how many there were:
//!
//! ```text
//! portcullis: trace=1.240000417,attach,1,0x8 t=2.087402
//! portcullis: trace=1.250000417,map,1,0xfffff000,0x1000 t=2.087447
//! portcullis: trace=1.250120417,unmap,1,0xfffff000,0x1000 t=2.087490
//! portcullis: event=trace_end records=3 dropped=0 t=2.087533
//! ```
//!
//! `trace=SECONDS,reset` is the beginning of another driver of the host's virtio-iommu,
//! which detaches all endpoints. Other lines are not looked at. These are checked as a whole: nothing is mapped
//! twice, and nothing is unmapped that was not mapped. That there is nothing from
//! before is so because the record begins with the host.

mod parse;
mod read;
mod summary;

pub use summary::{Sizes, Summary};

use crate::input::InputError;
use portcullis_addr::{Iova, Range};
use read::Reader;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Most records of a trace. The hypervisor keeps half of that in its 64 MiB.
pub const MOST_RECORDS: usize = 4_000_000;
/// Most domains: what the simulator has devices for.
pub const MOST_DOMAINS: usize = 4096;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An endpoint came to the domain.
    Attach,
    /// It left.
    Detach,
    /// A mapping.
    Map {
        /// Where.
        iova: Range<Iova>,
        /// The record that ended it: an unmapping, or the last endpoint leaving the
        /// domain. `None`: it stayed.
        until: Option<u32>,
    },
    /// An unmapping, of one mapping or of several.
    Unmap {
        /// Where: it may be larger than what is mapped there.
        iova: Range<Iova>,
    },
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in nanoseconds of the machine that it was recorded on.
    pub nanos: u64,
    /// Of which line it is, counted from 1.
    pub line: u32,
    /// Of which domain, counted from 0 in the order in which they came.
    pub domain: u32,
    /// What.
    pub what: What,
}

/// Requests of a host, in order.
#[derive(Clone, Debug)]
pub struct Trace {
    records: Vec<Record>,
    domains: usize,
    endpoints: usize,
    /// Requests that the hypervisor had no room for, if the end of the trace is
    /// there to say so.
    dropped: Option<u64>,
    peak_bytes: u64,
    peak_mappings: u64,
}

impl Trace {
    /// Reads a log.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), and [`InputError::Unreadable`].
    pub fn load(path: &Path) -> Result<Self, InputError> {
        let file = path.display().to_string();
        let unreadable = |error| InputError::Unreadable {
            file: file.clone(),
            error,
        };
        let mut lines = BufReader::with_capacity(1 << 16, File::open(path).map_err(unreadable)?);
        let mut reader = Reader::new(&file);
        let mut line = Vec::new();
        // A log may have bytes that are no text, where lines met on the console.
        while lines.read_until(b'\n', &mut line).map_err(unreadable)? != 0 {
            reader.line(&line)?;
            line.clear();
        }
        reader.end()
    }

    /// Reads the text of a log; `file` is for messages.
    ///
    /// # Errors
    /// [`InputError::Wrong`]: a line of the trace that is malformed, or that cannot
    /// follow those before. [`InputError::Missing`]: there is no trace.
    pub fn parse(text: &str, file: &str) -> Result<Self, InputError> {
        let mut reader = Reader::new(file);
        for line in text.as_bytes().split_inclusive(|byte| *byte == b'\n') {
            reader.line(line)?;
        }
        reader.end()
    }

    /// All requests.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// How many domains there were.
    #[must_use]
    pub fn domains(&self) -> usize {
        self.domains
    }

    /// How many endpoints were in one.
    #[must_use]
    pub fn endpoints(&self) -> usize {
        self.endpoints
    }

    /// Requests that came after the hypervisor's memory for them was full; `None`
    /// where the line that says so is not there.
    #[must_use]
    pub fn dropped(&self) -> Option<u64> {
        self.dropped
    }

    /// What ended which mapping: pairs of records, in the order of what ended them.
    pub(crate) fn ends(&self) -> Vec<(u32, u32)> {
        let mut all = Vec::new();
        for (index, record) in self.records.iter().enumerate() {
            if let What::Map {
                until: Some(until), ..
            } = record.what
            {
                // At most 4 million.
                all.push((until, index as u32));
            }
        }
        all.sort_unstable();
        all
    }
}

/// Goes through what ended mappings, record by record.
pub(crate) struct Ends {
    pairs: Vec<(u32, u32)>,
    next: usize,
}

impl Ends {
    pub(crate) fn new(trace: &Trace) -> Self {
        Self {
            pairs: trace.ends(),
            next: 0,
        }
    }

    /// The mappings that the record `index` ended. To be asked in order.
    pub(crate) fn at(&mut self, index: usize) -> impl Iterator<Item = usize> + Clone {
        let rest = self.pairs.get(self.next..).unwrap_or_default();
        let count = rest.partition_point(|(until, _)| *until as usize <= index);
        let (now, _) = rest.split_at(count);
        self.next += count;
        now.iter().map(|(_, map)| *map as usize)
    }
}

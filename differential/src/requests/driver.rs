//! A driver for either side: the same rings, the same chains.

use super::ask::{Case, Sent};

/// Entries of the request queue.
pub const ENTRIES: u16 = 256;
/// Offsets in the memory of a side.
pub const DESCRIPTORS: u64 = 0x1000;
/// The available ring.
pub const AVAILABLE: u64 = 0x3000;
/// The used ring.
pub const USED: u64 = 0x4000;
/// Where buffers are.
const BUFFERS: u64 = 0x1_0000;
/// What the driver needs altogether.
pub const MEMORY: u64 = 0x8_0000;

/// What a device says to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Used length.
    pub len: u32,
    /// The status, if there is one.
    pub status: Option<u8>,
    /// Properties, as far as both sides have room for.
    pub properties: Vec<u8>,
}

/// A device and its memory.
pub trait Side {
    /// What goes wrong with it.
    type Error;

    /// Where its memory begins.
    fn base(&self) -> u64;

    /// `probe_size`.
    fn probe_size(&self) -> usize;

    /// Resets the device and brings it up with its request queue where
    /// [`DESCRIPTORS`] and so on say, in memory that is zero.
    ///
    /// # Errors
    /// As the side has them.
    fn bring_up(&mut self, event_idx: bool) -> Result<(), Self::Error>;

    /// Writes to its memory.
    ///
    /// # Errors
    /// As the side has them.
    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Reads its memory.
    ///
    /// # Errors
    /// As the side has them.
    fn get(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>, Self::Error>;

    /// Notifies of requests; `used.idx` is to become `used`, if all goes well.
    ///
    /// # Errors
    /// As the side has them.
    fn notify(&mut self, used: u16) -> Result<(), Self::Error>;
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const TABLE: u16 = 4;

fn descriptor(at: u64, len: usize, flags: u16, next: u16) -> [u8; 16] {
    let rest = len as u64 | u64::from(flags) << 32 | u64::from(next) << 48;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&at.to_le_bytes());
    bytes[8..].copy_from_slice(&rest.to_le_bytes());
    bytes
}

fn cut(len: usize, cuts: &[usize]) -> Vec<usize> {
    let mut left = len;
    let mut pieces = Vec::new();
    for cut in cuts {
        if *cut >= left {
            break;
        }
        pieces.push(*cut);
        left -= cut;
    }
    pieces.push(left);
    pieces
}

/// A chain on its way: where it begins and where its answer is to be.
struct Pending {
    head: u16,
    answer: Vec<(u64, usize)>,
}

/// One side's driver, in the middle of a case.
pub struct Driver<'a, S> {
    side: &'a mut S,
    available: u16,
    seen: u16,
    descriptor: u16,
    buffer: u64,
    pending: Vec<(Sent, Pending)>,
}

impl<'a, S: Side> Driver<'a, S> {
    /// A driver of a device that it brings up.
    ///
    /// # Errors
    /// As the side has them.
    pub fn new(side: &'a mut S, case: &Case) -> Result<Self, S::Error> {
        side.bring_up(case.event_idx)?;
        Ok(Self {
            side,
            available: 0,
            seen: 0,
            descriptor: 0,
            buffer: BUFFERS,
            pending: Vec::new(),
        })
    }

    fn room(&mut self, bytes: usize) -> u64 {
        let at = self.buffer;
        self.buffer += bytes as u64;
        at
    }

    /// Makes a request available; not more than a few between notifications.
    ///
    /// # Errors
    /// As the side has them.
    pub fn offer(&mut self, sent: &Sent) -> Result<(), S::Error> {
        let body = sent.ask.body();
        let size = if sent.ask.is_probe() {
            self.side.probe_size() + 4
        } else {
            4
        };
        if self.buffer + 0x1000 > MEMORY {
            self.buffer = BUFFERS;
        }
        let mut pieces = Vec::new();
        let mut rest = &body[..];
        for len in cut(body.len(), &sent.body) {
            let (now, later) = rest.split_at(len);
            let at = self.room(len);
            self.side.put(at, now)?;
            pieces.push((at, len, 0));
            rest = later;
        }
        let mut answer = Vec::new();
        for len in cut(size, &sent.tail) {
            let at = self.room(len);
            self.side.put(at, &vec![0xee; len])?;
            pieces.push((at, len, WRITE));
            answer.push((at, len));
        }
        self.buffer = self.buffer.next_multiple_of(16);
        let base = self.side.base();
        let first = if sent.table { 0 } else { self.descriptor };
        let count = pieces.len() as u16;
        let chain: Vec<_> = (0..count)
            .zip(&pieces)
            .map(|(n, (at, len, flags))| {
                let last = n + 1 == count;
                let flags = flags | if last { 0 } else { NEXT };
                let next = if last { 0 } else { (first + n + 1) % ENTRIES };
                descriptor(base + at, *len, flags, next)
            })
            .collect();
        let head = self.descriptor;
        if sent.table {
            let bytes = chain.concat();
            let at = self.room(bytes.len());
            self.side.put(at, &bytes)?;
            let entry = descriptor(base + at, bytes.len(), TABLE, 0);
            self.describe(&entry)?;
        } else {
            for entry in &chain {
                self.describe(entry)?;
            }
        }
        let slot = u64::from(self.available % ENTRIES);
        self.side
            .put(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes())?;
        self.available = self.available.wrapping_add(1);
        self.pending.push((sent.clone(), Pending { head, answer }));
        Ok(())
    }

    fn describe(&mut self, entry: &[u8; 16]) -> Result<(), S::Error> {
        let at = DESCRIPTORS + 16 * u64::from(self.descriptor);
        self.descriptor = (self.descriptor + 1) % ENTRIES;
        self.side.put(at, entry)
    }

    /// Notifies, and takes what comes back: an answer for each request, `None`
    /// where a chain did not come back in its turn.
    ///
    /// # Errors
    /// As the side has them.
    pub fn exchange(&mut self) -> Result<Vec<Option<Answer>>, S::Error> {
        let index = self.available.to_le_bytes();
        self.side.put(AVAILABLE + 2, &index)?;
        self.side.notify(self.available)?;
        let mut answers = Vec::new();
        for (sent, pending) in std::mem::take(&mut self.pending) {
            let slot = u64::from(self.seen % ENTRIES);
            self.seen = self.seen.wrapping_add(1);
            let used = self.side.get(USED + 4 + 8 * slot, 8)?;
            let word = |at: usize| {
                let bytes = used.get(at..).and_then(|rest| rest.first_chunk());
                bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
            };
            let mut bytes = Vec::new();
            for (at, len) in pending.answer {
                bytes.extend(self.side.get(at, len as u64)?);
            }
            let answer = (word(0) == u32::from(pending.head)).then(|| {
                let properties = bytes.len().saturating_sub(4);
                let status = bytes.get(properties).copied().filter(|_| word(4) > 0);
                bytes.truncate(properties.min(COMPARED));
                Answer {
                    // Both sides differ in how many properties there may be.
                    len: word(4).saturating_sub(if sent.ask.is_probe() {
                        self.side.probe_size() as u32
                    } else {
                        0
                    }),
                    status,
                    properties: bytes,
                }
            });
            answers.push(answer);
        }
        Ok(answers)
    }
}

/// Bytes of properties that are compared.
const COMPARED: usize = 256;

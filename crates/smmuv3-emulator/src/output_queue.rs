//! The queues that the emulated SMMU writes and its owner reads: the event
//! queue and the PRI queue (IHI 0070, 3.5.1, 3.5.2 and 7.4).

use crate::Window;
use smmuv3_spec::control::OutputIndex;

pub(crate) mod event_queue;
pub(crate) mod event_record;
pub(crate) mod pri_queue;

/// Whether a record was put into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Pushed {
    /// It is in the queue, and `PROD` is behind it.
    Delivered {
        /// The queue was empty before.
        was_empty: bool,
    },
    /// The queue is full: the record is lost, and the overflow is flagged.
    Overflow,
    /// The queue lies outside of the owner's memory: the write aborted.
    Aborted,
    /// The queue is off.
    Off,
}

/// A circular buffer of records of `N` words of 64 bits.
///
/// `PROD` and `CONS` keep the value that was written, as registers do. How many
/// bits of it are used follows from the size (3.5.1). When the indices are
/// inconsistent, the queue counts as full, which the text allows.
#[derive(Debug)]
pub struct OutputQueue<W, const N: usize> {
    state: State<W>,
    /// log2 of the entries.
    log2: u8,
    prod: OutputIndex,
    cons: OutputIndex,
}

/// The owner's event queue (7.2).
pub type EventQueue<W> = OutputQueue<W, 4>;

/// The owner's page request queue (chapter 8).
pub type PriQueue<W> = OutputQueue<W, 2>;

#[derive(Debug)]
enum State<W> {
    Off,
    /// The queue is enabled, and its memory is not the owner's.
    Outside,
    On(W),
}

impl<W, const N: usize> Default for OutputQueue<W, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W, const N: usize> OutputQueue<W, N> {
    /// A queue that is off, with both indices 0.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Off,
            log2: 0,
            prod: OutputIndex::new(),
            cons: OutputIndex::new(),
        }
    }

    /// The size in bytes of a queue of 2^`log2` records (6.3.29).
    #[must_use]
    pub const fn bytes(log2: u8) -> u64 {
        (N as u64 * 8) << if log2 > 19 { 19 } else { log2 }
    }

    /// Turns the queue on, with 2^`log2` records (at most 2^19) in `window`;
    /// `None` if its memory is not the owner's. A window that is too small
    /// loses records. Returns the window that was in use before.
    pub fn enable(&mut self, window: impl Into<Option<W>>, log2: u8) -> Option<W> {
        self.log2 = log2.min(19);
        let state = window.into().map_or(State::Outside, State::On);
        match core::mem::replace(&mut self.state, state) {
            State::On(window) => Some(window),
            State::Off | State::Outside => None,
        }
    }

    /// Turns the queue off and returns its window. The records stay in memory.
    pub fn disable(&mut self) -> Option<W> {
        match core::mem::replace(&mut self.state, State::Off) {
            State::On(window) => Some(window),
            State::Off | State::Outside => None,
        }
    }

    /// Whether the queue is on.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        !matches!(self.state, State::Off)
    }

    /// The value of `PROD` that the owner reads.
    #[must_use]
    pub fn prod(&self) -> u32 {
        self.prod.into()
    }

    /// The value of `CONS` that the owner reads.
    #[must_use]
    pub fn cons(&self) -> u32 {
        self.cons.into()
    }

    /// Handles a write of `PROD`. It is ignored while the queue is on (6.3.30).
    pub fn set_prod(&mut self, value: u32) {
        if !self.enabled() {
            self.prod = without_reserved_bits(value);
        }
    }

    /// Handles a write of `CONS` while the queue is off. While it is on, use
    /// [`owner_cons`](Self::owner_cons).
    pub fn set_cons(&mut self, value: u32) {
        if !self.enabled() {
            self.cons = without_reserved_bits(value);
        }
    }

    /// Handles a write of `CONS`: the owner consumes records and acknowledges
    /// an overflow.
    pub fn owner_cons(&mut self, value: u32) {
        self.cons = without_reserved_bits(value);
    }

    /// Whether there is an overflow that is not acknowledged (7.4).
    #[must_use]
    pub fn overflowed(&self) -> bool {
        self.prod.overflow() != self.cons.overflow()
    }

    const fn mask(&self) -> u32 {
        (2 << self.log2) - 1
    }

    /// How many records the owner has not consumed. When the indices are
    /// inconsistent, this is more than the queue holds.
    fn waiting(&self) -> u32 {
        self.prod.index().wrapping_sub(self.cons.index()) & self.mask()
    }

    /// Whether the queue is full.
    #[must_use]
    pub fn full(&self) -> bool {
        self.waiting() >= 1 << self.log2
    }

    /// Flags that a record was lost, unless this is flagged already (7.4).
    pub fn overflow(&mut self) {
        if !self.overflowed() {
            self.prod.set_overflow(!self.prod.overflow());
        }
    }
}

impl<W: Window, const N: usize> OutputQueue<W, N> {
    /// Adds a record. The owner sees the record before it can see the new
    /// `PROD`, which the caller has to show.
    pub fn push(&mut self, record: &[u64; N]) -> Pushed {
        let window = match &self.state {
            State::Off => return Pushed::Off,
            _ if self.full() => {
                self.overflow();
                return Pushed::Overflow;
            }
            State::Outside => return Pushed::Aborted,
            State::On(window) => window,
        };
        let was_empty = self.waiting() == 0;
        let bytes = N as u64 * 8;
        let slot = self.prod.index() & ((1 << self.log2) - 1);
        let at = u64::from(slot) * bytes;
        for (word, offset) in record.iter().zip((at..).step_by(8)) {
            window.store(offset, *word);
        }
        window.publish(at, bytes);
        if window.aborted() {
            return Pushed::Aborted;
        }
        // Bits above the wrap bit are ignored, so they are not kept.
        let next = self.prod.index().wrapping_add(1) & self.mask();
        self.prod.set_index(next);
        Pushed::Delivered { was_empty }
    }
}

/// Clears the reserved bits, which read as zero.
fn without_reserved_bits(value: u32) -> OutputIndex {
    let value = OutputIndex::from(value);
    OutputIndex::new()
        .with_index(value.index())
        .with_overflow(value.overflow())
}

//! Requests that are not answered yet.

use crate::request::TAIL;

/// Most requests that one wait completes.
const DEFERRED: usize = 64;

/// Where a status goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Four bytes from a multiple of four.
    Whole(u64),
    /// Each byte somewhere else.
    Bytes([u64; TAIL as usize]),
}

/// A request that the back end said [`More`](portcullis_dma_domain::Step::More)
/// of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnderWay {
    /// Its chain.
    pub(crate) head: u16,
    /// Where its status goes.
    pub(crate) tail: Tail,
    /// It is a DETACH.
    pub(crate) detach: bool,
}

/// The requests of a burst that wait for an invalidation.
#[derive(Debug)]
pub(crate) struct Burst {
    /// The first [`len`](Self::len) are used: place in the used ring, and where
    /// the status goes.
    whole: [(u16, u64); DEFERRED],
    len: usize,
    /// As [`whole`](Self::whole), where the status is not in one piece.
    scattered: Option<(u16, [u64; TAIL as usize])>,
    /// The back end is in the middle of it.
    pub(crate) under_way: Option<UnderWay>,
}

impl Burst {
    pub(crate) fn new() -> Self {
        Self {
            whole: [(0, 0); DEFERRED],
            len: 0,
            scattered: None,
            under_way: None,
        }
    }

    /// Adds one; whether the burst has to end now.
    #[inline]
    pub(crate) fn defer(&mut self, slot: u16, tail: Tail) -> bool {
        match tail {
            Tail::Whole(at) => {
                // The caller ends a burst when it is told to.
                if let Some(entry) = self.whole.get_mut(self.len) {
                    *entry = (slot, at);
                    self.len += 1;
                }
                self.len >= DEFERRED
            }
            Tail::Bytes(bytes) => {
                self.scattered = Some((slot, bytes));
                true
            }
        }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0 && self.scattered.is_none()
    }

    /// All that wait.
    #[inline]
    pub(crate) fn deferred(&self) -> impl Iterator<Item = (u16, Tail)> {
        let whole = self.whole.iter().take(self.len);
        let scattered = self.scattered.iter();
        whole
            .map(|(slot, at)| (*slot, Tail::Whole(*at)))
            .chain(scattered.map(|(slot, bytes)| (*slot, Tail::Bytes(*bytes))))
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
        self.scattered = None;
    }
}

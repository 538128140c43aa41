//! The request queue: what a notification does.
//!
//! Chains are taken one after the other. What the back end has done is answered
//! at once, what needs an invalidation after one wait for the whole burst, and
//! then the driver sees the used ring move once. A call takes as much as its
//! share of work allows; the same write again carries on.
//!
//! One shape is quick: a MAP or UNMAP in one readable and one writable
//! descriptor, each aligned as Linux has them and within a page. For all others
//! the chain is read once more from its head, and nothing is used of what was
//! seen of it before.

use crate::burst::{Burst, Tail, UnderWay};
use crate::chain::{Broken, Descriptor, FLAGS, NEXT, Piece, WRITE, walk};
use crate::features::{Features, PROBE_SIZE, Terms};
use crate::held::Held;
use crate::request::{self, Decoded, HEAD, MAP_SIZE, Status, TAIL, UNMAP_SIZE};
use crate::ring::{QUEUE_SIZE, Rings};
use crate::{Counts, Outside, Platform, Window, probe};
use portcullis_addr::PAGE_SIZE;
use portcullis_dma_domain::{Endpoint, Iommu, Request, Step};

/// Why a call takes no more chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// There are no more.
    Empty,
    /// It did its share of work.
    Budget,
    /// What the driver wrote is no queue.
    Broken(Broken),
}

/// What a wait before the end of a burst takes of the work of a call, on top of
/// its request.
const WAIT: u32 = 15;

/// Writable pieces of the chain that is looked at: as many as a chain may have.
#[derive(Debug)]
pub(crate) struct Pieces {
    all: [Piece; QUEUE_SIZE as usize],
    len: usize,
}

impl Pieces {
    pub(crate) fn new() -> Self {
        Self {
            all: [Piece::default(); QUEUE_SIZE as usize],
            len: 0,
        }
    }

    fn push(&mut self, piece: Piece) {
        if let Some(entry) = self.all.get_mut(self.len) {
            *entry = piece;
            self.len += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = Piece> {
        self.all.iter().take(self.len).copied()
    }
}

/// One call.
pub(crate) struct Server<'a, P: Platform, I> {
    pub(crate) platform: &'a P,
    pub(crate) iommu: &'a mut I,
    pub(crate) held: Held<'a, P>,
    pub(crate) rings: &'a mut Rings<P::Window>,
    pub(crate) burst: &'a mut Burst,
    pub(crate) terms: &'a Terms,
    pub(crate) pieces: &'a mut Pieces,
    pub(crate) counts: &'a mut Counts,
    /// InterruptStatus.
    pub(crate) interrupts: &'a mut u32,
    /// Units of work left.
    pub(crate) budget: u32,
}

impl<P: Platform, I: Iommu> Server<'_, P, I> {
    /// Takes chains until an [`End`]. All that is done with is shown to the
    /// driver then, unless the back end is in the middle of a request.
    #[inline]
    pub(crate) fn run(&mut self) -> End {
        let end = if self.burst.under_way.is_some() {
            self.resume()
        } else {
            self.take()
        };
        if self.burst.under_way.is_none() {
            self.finish();
        }
        if self.rings.aborted() {
            return End::Broken(Broken::Aborted);
        }
        end
    }

    #[inline]
    fn take(&mut self) -> End {
        let event_idx = self.terms.features.contains(Features::EVENT_IDX);
        loop {
            let mut waiting = self.rings.waiting();
            if waiting == 0 && event_idx {
                self.rings.arm();
                waiting = self.rings.waiting();
            }
            if waiting == 0 {
                return End::Empty;
            }
            if waiting > self.rings.size() {
                return End::Broken(Broken::RunsAhead);
            }
            let Some(budget) = self.budget.checked_sub(1) else {
                return End::Budget;
            };
            self.budget = budget;
            if let Err(end) = self.one() {
                return end;
            }
        }
    }

    /// Carries on with the request under way, and then with the rest.
    #[cold]
    #[inline(never)]
    fn resume(&mut self) -> End {
        match self.settle() {
            true => self.take(),
            false => End::Budget,
        }
    }

    /// Has the back end end the request under way, if there is one, and answers
    /// it. `false`: there was not work enough.
    pub(crate) fn settle(&mut self) -> bool {
        let Some(under_way) = self.burst.under_way.take() else {
            return true;
        };
        let Some(budget) = self.budget.checked_sub(1) else {
            self.burst.under_way = Some(under_way);
            return false;
        };
        self.budget = budget;
        let step = self.iommu.go_on();
        self.step(under_way, step).is_ok()
    }

    #[inline]
    fn one(&mut self) -> Result<(), End> {
        let head = self.rings.head();
        if head >= self.rings.size() {
            return Err(End::Broken(Broken::Head));
        }
        self.counts.requests = self.counts.requests.wrapping_add(1);
        let body = self.rings.descriptor(head);
        if body.flags & FLAGS == NEXT && body.next < self.rings.size() {
            let tail = self.rings.descriptor(body.next);
            if is_quick(body, tail) {
                return self.quick(head, body, tail.at);
            }
        }
        self.general(head)
    }

    #[inline]
    fn quick(&mut self, head: u16, body: Descriptor, tail: u64) -> Result<(), End> {
        let Ok((page, offset)) = self.held.page(body.at) else {
            return self.general(head);
        };
        let words: [u64; 3] = page.words(offset);
        let words = words.map(u64::from_le);
        let agreed = self.terms.features.contains(Features::MAP_UNMAP);
        // Truncation: the first byte is the type.
        let decoded = match words[0] as u8 {
            request::MAP if agreed && body.len >= MAP_SIZE as u32 => {
                let to = u64::from_le(page.load64(offset + 24));
                let flags = u32::from_le(page.load32(offset + 32));
                request::map(self.terms, words, to, flags)
            }
            request::UNMAP if agreed => request::unmap(words),
            _ => return self.general(head),
        };
        // Nobody could be told otherwise.
        if self.held.page(tail).is_err() {
            return self.general(head);
        }
        if self.rings.aborted() {
            return Err(End::Broken(Broken::Aborted));
        }
        self.rings.take();
        match decoded {
            Ok(request) => {
                let under_way = UnderWay {
                    head,
                    tail: Tail::Whole(tail),
                    detach: false,
                };
                let step = self.iommu.begin(request);
                self.step(under_way, step)
            }
            Err(status) => {
                self.refuse(head, Tail::Whole(tail), status);
                Ok(())
            }
        }
    }

    /// What became of a request.
    #[inline]
    fn step(&mut self, under_way: UnderWay, step: Step) -> Result<(), End> {
        match step {
            Step::Done(Ok(())) => {
                self.answer(under_way.head, under_way.tail, Status::OK);
                Ok(())
            }
            Step::AfterSync => {
                // Likely what it will be, and its page is held now. The driver
                // does not look before it has the chain back (2.7.14); should the
                // wait fail, it never sees this.
                let slot = self.answer(under_way.head, under_way.tail, Status::OK);
                if self.burst.defer(slot, under_way.tail) {
                    self.budget = self.budget.saturating_sub(WAIT);
                    self.wait();
                }
                Ok(())
            }
            Step::Done(Err(refusal)) => {
                let status = Status::of(refusal, under_way.detach);
                self.refuse(under_way.head, under_way.tail, status);
                Ok(())
            }
            Step::More => self.more(under_way),
        }
    }

    #[cold]
    #[inline(never)]
    fn more(&mut self, under_way: UnderWay) -> Result<(), End> {
        while let Some(budget) = self.budget.checked_sub(1) {
            self.budget = budget;
            match self.iommu.go_on() {
                Step::More => {}
                step => return self.step(under_way, step),
            }
        }
        self.burst.under_way = Some(under_way);
        Err(End::Budget)
    }

    /// Writes the status of a request and gives its chain back, at the place in
    /// the used ring that is returned.
    #[inline]
    fn answer(&mut self, head: u16, tail: Tail, status: Status) -> u16 {
        let bytes = match write(&mut self.held, tail, status) {
            Ok(()) => TAIL,
            Err(Outside) => {
                self.counts.outside += 1;
                0
            }
        };
        self.rings.put(head, bytes)
    }

    #[cold]
    #[inline(never)]
    fn refuse(&mut self, head: u16, tail: Tail, status: Status) {
        self.counts.refuse(status);
        self.answer(head, tail, status);
    }

    /// Gives a chain back as it is (5.13.6).
    fn unanswered(&mut self, head: u16) {
        self.counts.unanswered += 1;
        self.rings.put(head, 0);
    }

    /// Waits for the invalidations of the burst. Statuses that waited for it say
    /// that all is well, and are written anew when it is not.
    #[inline]
    fn wait(&mut self) {
        let status = wait(self.iommu, self.counts);
        if status != Status::OK {
            self.take_back(status);
        }
        self.burst.clear();
    }

    #[cold]
    #[inline(never)]
    fn take_back(&mut self, status: Status) {
        for (slot, tail) in self.burst.deferred() {
            if write(&mut self.held, tail, status).is_err() {
                // The page changed hands in the meantime, or was never his.
                self.counts.outside += 1;
                self.rings.empty(slot);
            }
        }
    }

    /// Shows the driver what is done.
    #[inline]
    pub(crate) fn finish(&mut self) {
        if !self.burst.is_empty() {
            self.wait();
        }
        let event_idx = self.terms.features.contains(Features::EVENT_IDX);
        if self.rings.publish(event_idx) {
            notify(self.platform, self.interrupts, self.counts);
        }
    }

    /// A chain of any shape.
    #[cold]
    #[inline(never)]
    fn general(&mut self, head: u16) -> Result<(), End> {
        let indirect = self.terms.features.contains(Features::INDIRECT_DESC);
        let mut body = [0; MAP_SIZE];
        let (mut readable, mut writable) = (0u64, 0u64);
        let mut lost = false;
        let pieces = &mut *self.pieces;
        pieces.len = 0;
        let walked = walk(self.rings, &mut self.held, head, indirect, |held, piece| {
            if piece.writable {
                writable += u64::from(piece.len);
                pieces.push(piece);
            } else {
                let from = usize::try_from(readable).unwrap_or(MAP_SIZE).min(MAP_SIZE);
                let to = from.saturating_add(piece.len as usize).min(MAP_SIZE);
                readable += u64::from(piece.len);
                if let Some(bytes) = body.get_mut(from..to) {
                    lost |= held.copy_in(piece.at, bytes).is_err();
                }
            }
        });
        if self.rings.aborted() {
            return Err(End::Broken(Broken::Aborted));
        }
        let length = walked.map_err(End::Broken)?;
        self.budget = self.budget.saturating_sub(length / 8);
        self.counts.general += 1;
        self.rings.take();
        if lost {
            self.counts.outside += 1;
            self.unanswered(head);
            return Ok(());
        }
        if readable < HEAD || writable < u64::from(TAIL) {
            self.unanswered(head);
            return Ok(());
        }
        let decoded = request::decode(self.terms, &body, readable, |endpoint| {
            self.iommu.has(endpoint)
        });
        match decoded {
            Decoded::Unknown => self.unanswered(head),
            Decoded::Probe(endpoint) => self.probe(head, writable, endpoint),
            // The answer to a PROBE has its tail elsewhere.
            Decoded::Refuse(status) if body[0] == request::PROBE => {
                self.probed(head, writable, &probe::empty(), status);
            }
            Decoded::Refuse(status) => match self.tail() {
                Some(tail) => self.refuse(head, tail, status),
                None => self.no_tail(head),
            },
            Decoded::Ask(request) => {
                // Nobody could be told otherwise.
                let Some(tail) = self.tail() else {
                    self.no_tail(head);
                    return Ok(());
                };
                let under_way = UnderWay {
                    head,
                    tail,
                    detach: matches!(request, Request::Detach { .. }),
                };
                let step = self.iommu.begin(request);
                return self.step(under_way, step);
            }
        }
        Ok(())
    }

    fn no_tail(&mut self, head: u16) {
        self.counts.outside += 1;
        self.unanswered(head);
    }

    /// The first four writable bytes, all of which are the driver's now.
    fn tail(&mut self) -> Option<Tail> {
        let mut bytes = [0; TAIL as usize];
        let mut left = bytes.iter_mut();
        'pieces: for piece in self.pieces.iter() {
            for n in 0..u64::from(piece.len) {
                let Some(byte) = left.next() else {
                    break 'pieces;
                };
                *byte = piece.at.checked_add(n)?;
            }
        }
        for at in bytes {
            self.held.page(at).ok()?;
        }
        let [first, .., last] = bytes;
        let whole = first.is_multiple_of(u64::from(TAIL))
            && bytes
                .windows(2)
                .all(|pair| pair[0].wrapping_add(1) == pair[1])
            && last > first;
        Some(if whole {
            Tail::Whole(first)
        } else {
            Tail::Bytes(bytes)
        })
    }

    fn probe(&mut self, head: u16, writable: u64, endpoint: Endpoint) {
        if writable < u64::from(PROBE_SIZE + TAIL) {
            self.probed(head, writable, &probe::empty(), Status::INVAL);
        } else if !self.iommu.has(endpoint) {
            self.probed(head, writable, &probe::empty(), Status::NOENT);
        } else {
            let properties = probe::properties(&*self.iommu, endpoint, self.counts);
            self.probed(head, writable, &properties, Status::OK);
        }
    }

    /// Writes an answer to a PROBE: properties as far as there is room, and the
    /// tail after them.
    fn probed(
        &mut self,
        head: u16,
        writable: u64,
        properties: &[u8; PROBE_SIZE as usize],
        status: Status,
    ) {
        let room = u64::from(PROBE_SIZE).min(writable.saturating_sub(u64::from(TAIL)));
        // As large as `probe_size` at most.
        let room = room as usize;
        let mut answer = [0; (PROBE_SIZE + TAIL) as usize];
        for (to, from) in answer.iter_mut().zip(properties.iter().take(room)) {
            *to = *from;
        }
        if let Some(byte) = answer.get_mut(room) {
            *byte = status.0;
        }
        if status != Status::OK {
            self.counts.refused += 1;
        }
        let answer = answer.get(..room + TAIL as usize).unwrap_or(&answer);
        match fill(&mut self.held, self.pieces, answer) {
            Ok(()) => {
                self.rings.put(head, answer.len() as u32);
            }
            Err(Outside) => self.no_tail(head),
        }
    }
}

/// Writes `bytes` to the pieces, which have room for them.
fn fill<P: Platform>(held: &mut Held<'_, P>, pieces: &Pieces, bytes: &[u8]) -> Result<(), Outside> {
    let mut left = bytes;
    for piece in pieces.iter() {
        let (now, later) = left.split_at(left.len().min(piece.len as usize));
        held.copy_out(piece.at, now)?;
        left = later;
    }
    Ok(())
}

/// Waits for invalidations; what the requests that waited for them are answered.
#[inline]
pub(crate) fn wait<I: Iommu>(iommu: &mut I, counts: &mut Counts) -> Status {
    counts.syncs += 1;
    match iommu.sync() {
        Ok(()) => Status::OK,
        Err(_) => {
            counts.failed_syncs += 1;
            Status::DEVERR
        }
    }
}

/// One readable and one writable descriptor, in which a MAP or UNMAP is easy to
/// read and to answer.
#[inline]
pub(crate) fn is_quick(body: Descriptor, tail: Descriptor) -> bool {
    let within = (body.at & (PAGE_SIZE - 1)) + u64::from(body.len) <= PAGE_SIZE;
    body.len >= UNMAP_SIZE as u32
        && body.at & 7 == 0
        && within
        && tail.flags & FLAGS == WRITE
        && tail.len >= TAIL
        && tail.at & 3 == 0
}

/// Writes the tail of a request, whose reserved bytes are 0 (5.13.6.2).
#[inline]
fn write<P: Platform>(held: &mut Held<'_, P>, tail: Tail, status: Status) -> Result<(), Outside> {
    match tail {
        Tail::Whole(at) => {
            let (page, offset) = held.page(at)?;
            page.store32(offset, u32::from(status.0).to_le());
            Ok(())
        }
        Tail::Bytes(bytes) => scattered(held, bytes, status),
    }
}

#[cold]
fn scattered<P: Platform>(
    held: &mut Held<'_, P>,
    bytes: [u64; 4],
    status: Status,
) -> Result<(), Outside> {
    for (at, byte) in bytes.into_iter().zip([status.0, 0, 0, 0]) {
        held.copy_out(at, &[byte])?;
    }
    Ok(())
}

/// Used buffer notification.
#[cold]
#[inline(never)]
pub(crate) fn notify<P: Platform>(platform: &P, interrupts: &mut u32, counts: &mut Counts) {
    *interrupts |= crate::USED_BUFFER;
    counts.interrupts += 1;
    platform.raise();
}

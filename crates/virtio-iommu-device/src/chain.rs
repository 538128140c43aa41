//! Descriptor chains (2.7.5).

use crate::held::Held;
use crate::ring::Rings;
use crate::{Platform, Window};
use thiserror::Error;

/// Why a device needs to be reset: what a driver wrote is no queue. Nothing is
/// processed until then (2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Broken {
    /// The size of a queue is none, too large, or no power of two.
    #[error("the size of a queue is none, too large, or no power of two")]
    QueueSize,
    /// A part of a queue is misaligned (2.7).
    #[error("a part of a queue is misaligned")]
    RingMisaligned,
    /// A part of a queue is not memory of the driver's.
    #[error("a part of a queue is not memory of the driver's")]
    RingOutside,
    /// More chains are available than a queue has entries.
    #[error("more chains are available than a queue has entries")]
    RunsAhead,
    /// A chain begins at a descriptor that there is not.
    #[error("a chain begins at a descriptor that there is not")]
    Head,
    /// A chain goes on at a descriptor that there is not.
    #[error("a chain goes on at a descriptor that there is not")]
    Next,
    /// A chain has more descriptors than the queue, or goes round (2.7.5.3.1),
    /// or has more than 2^32 bytes (2.7.5.2).
    #[error("a chain is too long or goes round")]
    TooLong,
    /// A table of descriptors without VIRTIO_F_INDIRECT_DESC.
    #[error("a table of descriptors was not agreed on")]
    IndirectNotNegotiated,
    /// A table of descriptors in a table of descriptors.
    #[error("a table of descriptors lies in a table of descriptors")]
    IndirectNested,
    /// A table of descriptors, and the chain goes on after it.
    #[error("a chain goes on after a table of descriptors")]
    IndirectWithNext,
    /// A table of descriptors that is empty or ends within one.
    #[error("a table of descriptors is empty or ends within one")]
    IndirectLength,
    /// A table of descriptors that is not memory of the driver's.
    #[error("a table of descriptors is not memory of the driver's")]
    IndirectOutside,
    /// Memory of a queue or of a request answered an access with an error.
    #[error("memory of a queue or of a request answers with errors")]
    Aborted,
    /// A readable descriptor after a writable one (2.7.4.2).
    #[error("a readable descriptor follows a writable one")]
    ReadableAfterWritable,
}

/// VIRTQ_DESC_F_NEXT.
pub(crate) const NEXT: u16 = 1;
/// VIRTQ_DESC_F_WRITE.
pub(crate) const WRITE: u16 = 2;
/// VIRTQ_DESC_F_INDIRECT.
pub(crate) const INDIRECT: u16 = 4;
/// Flags that mean something; others are ignored.
pub(crate) const FLAGS: u16 = NEXT | WRITE | INDIRECT;

const SIZE: u32 = 16;
/// Most bytes of a chain.
const LONGEST: u64 = 1 << 32;

/// A copy of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    #[inline]
    pub(crate) fn new(words: [u64; 2]) -> Self {
        let [at, rest] = words.map(u64::from_le);
        // Truncations: fields of the word.
        Self {
            at,
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }
}

/// A piece of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

/// Gives `each` the pieces of the chain that begins at `head`, each descriptor
/// read once. Returns how many there are.
///
/// An empty piece is one like any other: the specification does not forbid it,
/// and it does no harm.
pub(crate) fn walk<P: Platform>(
    rings: &Rings<P::Window>,
    held: &mut Held<'_, P>,
    head: u16,
    indirect: bool,
    mut each: impl FnMut(&mut Held<'_, P>, Piece),
) -> Result<u32, Broken> {
    let size = u32::from(rings.size());
    let mut table: Option<(u64, u32)> = None;
    let mut index = head;
    let mut count = 0;
    let mut total = 0;
    let mut writable = false;
    loop {
        let limit = table.map_or(size, |(_, entries)| entries);
        if u32::from(index) >= limit {
            return Err(if count == 0 && table.is_none() {
                Broken::Head
            } else {
                Broken::Next
            });
        }
        let descriptor = match table {
            None => rings.descriptor(index),
            Some((base, _)) => read(held, base, index)?,
        };
        let Descriptor {
            at,
            len,
            flags,
            next,
        } = descriptor;
        if flags & INDIRECT != 0 {
            if table.is_some() {
                return Err(Broken::IndirectNested);
            }
            if !indirect {
                return Err(Broken::IndirectNotNegotiated);
            }
            if flags & NEXT != 0 {
                return Err(Broken::IndirectWithNext);
            }
            if len == 0 || !len.is_multiple_of(SIZE) {
                return Err(Broken::IndirectLength);
            }
            // WRITE means nothing here (2.7.5.3.2).
            table = Some((at, len / SIZE));
            index = 0;
            continue;
        }
        count += 1;
        total += u64::from(len);
        if count > size || total > LONGEST {
            return Err(Broken::TooLong);
        }
        if flags & WRITE != 0 {
            writable = true;
        } else if writable {
            return Err(Broken::ReadableAfterWritable);
        }
        each(held, Piece { at, len, writable });
        if flags & NEXT == 0 {
            return Ok(count);
        }
        index = next;
    }
}

/// A descriptor of a table, which may lie at any address.
fn read<P: Platform>(held: &mut Held<'_, P>, base: u64, index: u16) -> Result<Descriptor, Broken> {
    let at = base
        .checked_add(u64::from(index) * u64::from(SIZE))
        .ok_or(Broken::IndirectOutside)?;
    if at.is_multiple_of(u64::from(SIZE)) {
        let (page, offset) = held.page(at).map_err(|_| Broken::IndirectOutside)?;
        return Ok(Descriptor::new(page.words(offset)));
    }
    let (mut low, mut high) = ([0; 8], [0; 8]);
    held.copy_in(at, &mut low)
        .and_then(|()| held.copy_in(at.wrapping_add(8), &mut high))
        .map_err(|_| Broken::IndirectOutside)?;
    Ok(Descriptor::new([
        u64::from_ne_bytes(low),
        u64::from_ne_bytes(high),
    ]))
}

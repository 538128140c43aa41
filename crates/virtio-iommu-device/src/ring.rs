//! A split virtqueue (2.7) in memory of the driver's.

use crate::chain::Descriptor;
use crate::{Broken, Platform, Window};
use portcullis_addr::{Address, Ipa, Range};

/// Most entries of a queue, what QueueNumMax reads as.
pub const QUEUE_SIZE: u16 = 256;

/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Where the entries of either ring begin.
const ENTRIES: u64 = 4;
/// Where `idx` of either ring is.
const IDX: u64 = 2;
/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const NO_INTERRUPT: u16 = 1;

/// What a driver said of a queue that is not ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// QueueNum.
    pub(crate) size: u32,
    /// The Descriptor Area.
    pub(crate) descriptors: u64,
    /// The Driver Area: the available ring.
    pub(crate) available: u64,
    /// The Device Area: the used ring.
    pub(crate) used: u64,
}

/// A queue that is ready.
#[derive(Debug)]
pub(crate) struct Rings<W> {
    descriptors: W,
    available: W,
    used: W,
    /// Entries, a power of two.
    size: u16,
    /// `avail.idx` of the entry that is taken next.
    next: u16,
    /// `used.idx` after the entries written so far.
    put: u16,
    /// `used.idx` as the driver sees it.
    published: u16,
}

fn part<P: Platform>(
    platform: &P,
    at: u64,
    alignment: u64,
    bytes: u64,
) -> Result<P::Window, Broken> {
    let at = Ipa::new(at);
    if !at.is_aligned(alignment) {
        return Err(Broken::RingMisaligned);
    }
    let range = Range::from_size(at, bytes).map_err(|_| Broken::RingOutside)?;
    platform.open(range).map_err(|_| Broken::RingOutside)
}

impl<W: Window> Rings<W> {
    /// Holds the three parts.
    pub(crate) fn open<P: Platform<Window = W>>(
        platform: &P,
        layout: &Layout,
    ) -> Result<Self, Broken> {
        let size = u16::try_from(layout.size).unwrap_or(0);
        if !size.is_power_of_two() || size > QUEUE_SIZE {
            return Err(Broken::QueueSize);
        }
        let entries = u64::from(size);
        let descriptors = part(platform, layout.descriptors, 16, DESCRIPTOR * entries)?;
        let available = match part(platform, layout.available, 2, 6 + 2 * entries) {
            Ok(window) => window,
            Err(broken) => {
                platform.close(descriptors);
                return Err(broken);
            }
        };
        let used = match part(platform, layout.used, 4, 6 + 8 * entries) {
            Ok(window) => window,
            Err(broken) => {
                platform.close(descriptors);
                platform.close(available);
                return Err(broken);
            }
        };
        Ok(Self {
            descriptors,
            available,
            used,
            size,
            next: 0,
            put: 0,
            published: 0,
        })
    }

    /// Lets go of them.
    pub(crate) fn close<P: Platform<Window = W>>(self, platform: &P) {
        platform.close(self.descriptors);
        platform.close(self.available);
        platform.close(self.used);
    }

    /// As [`Window::aborted`].
    #[inline]
    pub(crate) fn aborted(&self) -> bool {
        self.used.aborted()
    }

    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// How many chains wait; more than the size is nonsense.
    #[inline]
    pub(crate) fn waiting(&self) -> u16 {
        u16::from_le(self.available.load16(IDX)).wrapping_sub(self.next)
    }

    /// Asks to be notified of the next chain (VIRTIO_F_EVENT_IDX, 2.7.10), and
    /// lets the next look at `avail.idx` see what came before the driver saw
    /// that.
    #[inline]
    pub(crate) fn arm(&self) {
        let at = ENTRIES + 8 * u64::from(self.size);
        self.used.store16(at, self.next.to_le());
        self.used.fence();
    }

    /// The head of the next chain. Takes nothing.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        // After `avail.idx`, which said that it is there (2.7.13.3).
        self.available.refresh();
        let slot = u64::from(self.next & (self.size - 1));
        u16::from_le(self.available.load16(ENTRIES + 2 * slot))
    }

    /// The chain whose head that was is taken.
    #[inline]
    pub(crate) fn take(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// The descriptor of this number, below the size.
    #[inline]
    pub(crate) fn descriptor(&self, index: u16) -> Descriptor {
        Descriptor::new(self.descriptors.words(DESCRIPTOR * u64::from(index)))
    }

    /// Gives a chain back, which the driver sees with the next
    /// [`publish`](Self::publish). Returns its place for
    /// [`empty`](Self::empty).
    #[inline]
    pub(crate) fn put(&mut self, head: u16, bytes: u32) -> u16 {
        let slot = self.put & (self.size - 1);
        let at = ENTRIES + 8 * u64::from(slot);
        self.used
            .store_pair(at, [u32::from(head).to_le(), bytes.to_le()]);
        self.put = self.put.wrapping_add(1);
        slot
    }

    /// Nothing was written to the chain at this place after all.
    pub(crate) fn empty(&self, slot: u16) {
        self.used.store32(ENTRIES + 8 * u64::from(slot) + 4, 0);
    }

    /// Shows the driver all chains given back; whether it wants to be told
    /// (2.7.7.2).
    #[inline]
    pub(crate) fn publish(&mut self, event_idx: bool) -> bool {
        self.published != self.put && self.show(self.published, event_idx)
    }

    /// [`put`](Self::put) and [`publish`](Self::publish).
    #[inline]
    pub(crate) fn put_and_publish(&mut self, head: u16, bytes: u32, event_idx: bool) -> bool {
        let old = self.published;
        self.put(head, bytes);
        self.show(old, event_idx)
    }

    /// Lets the driver see what was given back since `old`.
    #[inline(always)]
    fn show(&mut self, old: u16, event_idx: bool) -> bool {
        self.published = self.put;
        self.used.publish();
        self.used.store16(IDX, self.put.to_le());
        // What the driver wants is looked at after that: it looks for used
        // chains once more after it said so.
        self.used.fence();
        if event_idx {
            let at = ENTRIES + 2 * u64::from(self.size);
            let event = u16::from_le(self.available.load16(at));
            // The entry `event` is one of `old .. put`.
            event.wrapping_sub(old) < self.put.wrapping_sub(old)
        } else {
            u16::from_le(self.available.load16(0)) & NO_INTERRUPT == 0
        }
    }
}

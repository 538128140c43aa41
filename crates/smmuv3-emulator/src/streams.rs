//! Which streams of the physical SMMU are the owner's, and how it numbers them.

use crate::Physical;
use smmuv3_spec::StreamId;

pub(crate) mod ste;
pub(crate) mod stream_table;
pub(crate) mod updates;

/// Neighbouring streams that the owner was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// The first, as the owner numbers it.
    pub first: StreamId,
    /// The first, as the physical SMMU does.
    pub physical: StreamId,
    /// How many. What would lie past the end of either numbering is not given.
    pub count: u32,
    /// They are functions of PCI Express: their accesses must not stall, and
    /// only they can ask for translations.
    pub pcie: bool,
}

impl Given {
    /// The first and last of them, `None` if there is none.
    pub(crate) fn range(&self) -> Option<(StreamId, StreamId)> {
        let more = self.count.checked_sub(1)?;
        let room = u32::MAX - self.first.0.max(self.physical.0);
        let last = self.first.0.checked_add(more.min(room))?;
        Some((self.first, StreamId(last)))
    }

    pub(crate) fn contains(&self, stream: StreamId) -> bool {
        self.range()
            .is_some_and(|(first, last)| first <= stream && stream <= last)
    }

    /// The physical number of a stream, if it is one of these.
    #[inline]
    pub(crate) fn physical_of(&self, stream: StreamId) -> Option<StreamId> {
        let offset = stream.0.checked_sub(self.first.0)?;
        if offset >= self.count {
            return None;
        }
        self.physical.0.checked_add(offset).map(StreamId)
    }

    /// The owner's number of a physical stream, if it is one of these.
    #[inline]
    pub(crate) fn owner_of(&self, physical: StreamId) -> Option<StreamId> {
        let offset = physical.0.checked_sub(self.physical.0)?;
        if offset >= self.count {
            return None;
        }
        self.first.0.checked_add(offset).map(StreamId)
    }
}

/// Says whose a physical stream is. The slice of [`Given`] says it while the
/// physical SMMU is in use for something else.
pub trait Streams {
    /// The owner's number of a physical stream; `None` for one it was not
    /// given.
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId>;
}

impl Streams for [Given] {
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        self.iter().find_map(|given| given.owner_of(physical))
    }
}

impl<T: Physical> Streams for T {
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        Physical::owner_stream(self, physical)
    }
}

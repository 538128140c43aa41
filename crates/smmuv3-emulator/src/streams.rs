//! Which streams of the physical SMMU are assigned to the owner, and which
//! numbers they have for the owner.

use crate::Physical;
use smmuv3_spec::StreamId;

pub(crate) mod ste;
pub(crate) mod stream_table;
pub(crate) mod updates;

/// A range of streams that is assigned to the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssignedStreams {
    /// The owner's number of the first stream.
    pub first: StreamId,
    /// The physical StreamID of the first stream.
    pub physical: StreamId,
    /// The number of streams. Streams past the end of either numbering are not
    /// assigned.
    pub count: u32,
    /// Whether they are PCI Express functions. Only these may use ATS, and
    /// their accesses must not stall.
    pub pcie: bool,
}

impl AssignedStreams {
    /// The first and last stream in the owner's numbers; `None` if there is
    /// none.
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

    /// The physical StreamID of a stream, if it is in this range.
    #[inline]
    pub(crate) fn physical_of(&self, stream: StreamId) -> Option<StreamId> {
        let offset = stream.0.checked_sub(self.first.0)?;
        if offset >= self.count {
            return None;
        }
        self.physical.0.checked_add(offset).map(StreamId)
    }

    /// The owner's number of a physical stream, if it is in this range.
    #[inline]
    pub(crate) fn owner_of(&self, physical: StreamId) -> Option<StreamId> {
        let offset = physical.0.checked_sub(self.physical.0)?;
        if offset >= self.count {
            return None;
        }
        self.first.0.checked_add(offset).map(StreamId)
    }
}

/// Finds the owner's number of a physical stream. A slice of [`AssignedStreams`] can do
/// this while the physical SMMU is borrowed.
pub trait StreamLookup {
    /// The owner's number of a physical stream; `None` if the stream is not
    /// assigned to the owner.
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId>;
}

impl StreamLookup for [AssignedStreams] {
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        self.iter().find_map(|assigned| assigned.owner_of(physical))
    }
}

impl<T: Physical> StreamLookup for T {
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        Physical::owner_stream(self, physical)
    }
}

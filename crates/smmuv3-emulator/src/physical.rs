//! The interface to the physical SMMU.

use crate::Delivery;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Error, Features};
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

/// The configuration of one stream, from the owner's stream table entry. All
/// fields that are not understood, not offered or not safe are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamConfig {
    /// The entry is invalid or illegal. The traffic aborts, and C_BAD_STE is
    /// recorded.
    Invalid,
    /// The traffic aborts, and nothing is recorded.
    Abort,
    /// Stage 2 alone. Only the attribute overrides of the entry are used.
    Bypass(Ste),
    /// The owner's stage 1 on top of stage 2. The fields of stage 1, the
    /// attribute overrides, `S1STALLD` and `EATS` of the entry are used.
    Stage1(Ste),
}

/// A configuration for many streams at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeConfig {
    /// As [`StreamConfig::Invalid`].
    Invalid,
    /// As [`StreamConfig::Abort`].
    Abort,
    /// As [`StreamConfig::Bypass`].
    Bypass(Ste),
}

impl RangeConfig {
    /// The same configuration for one stream.
    #[must_use]
    pub const fn for_one_stream(&self) -> StreamConfig {
        match self {
            Self::Invalid => StreamConfig::Invalid,
            Self::Abort => StreamConfig::Abort,
            Self::Bypass(ste) => StreamConfig::Bypass(*ste),
        }
    }
}

/// A message that the physical SMMU stores when all commands before it are
/// complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The address, a multiple of 4. The hypervisor chose or checked it, since
    /// no stage 2 protects this store.
    pub address: PhysAddr,
    /// The 32 bits that are stored.
    pub data: u32,
}

/// Why a request to the physical SMMU failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It refused a command. It still works.
    #[error("the physical SMMU refused a command: {0}")]
    Command(CommandError),
    /// The stream could not be configured, so it aborts.
    #[error("stream {stream}: {error}")]
    Stream {
        /// The stream, as the owner numbers it.
        stream: StreamId,
        /// The error of the driver.
        error: Error,
    },
    /// It is fenced: all streams abort.
    #[error("the physical SMMU is fenced: {0}")]
    Fenced(Error),
}

/// What the emulation may do with a physical SMMU. Streams have the numbers
/// that the owner sees. Only streams that are assigned to the owner can be
/// reached.
pub trait Physical {
    /// The features of the physical SMMU.
    fn features(&self) -> &Features;

    /// The VMID of the owner's translations.
    fn vmid(&self) -> Vmid;

    /// The physical StreamID of a stream of the owner; `None` for a stream that
    /// is not assigned to it.
    fn stream(&self, stream: StreamId) -> Option<StreamId>;

    /// Whether a stream of the owner has the configuration [`StreamConfig::Invalid`],
    /// because its table had no valid entry for it when it was last read.
    /// `false` for a stream that is not assigned to the owner.
    fn is_invalid(&self, stream: StreamId) -> bool;

    /// The first and last stream of the first run of the owner's streams from
    /// `from` on, in the owner's numbers; `None` if there is none.
    fn next_streams(&self, from: StreamId) -> Option<(StreamId, StreamId)>;

    /// The owner's number of a physical stream; `None` if the stream is not
    /// assigned to the owner. The provided method assumes that the physical
    /// numbers in a run follow each other too.
    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        let mut from = StreamId(0);
        loop {
            let (first, last) = self.next_streams(from)?;
            let found = self
                .stream(first)
                .and_then(|start| physical.0.checked_sub(start.0))
                .and_then(|offset| first.0.checked_add(offset))
                .map(StreamId)
                .filter(|stream| *stream <= last && self.stream(*stream) == Some(physical));
            if found.is_some() {
                return found;
            }
            from = StreamId(last.0.checked_add(1)?);
        }
    }

    /// Configures a stream. When it returns, the old configuration is not in
    /// use any more. Context descriptors that were found through an unchanged
    /// entry are gone after the next [`finish`](Self::finish). A stream that is
    /// not assigned to the owner is left alone.
    ///
    /// # Errors
    /// [`Failure::Stream`]: the stream aborts now. [`Failure::Fenced`].
    fn set(&mut self, stream: StreamId, config: &StreamConfig) -> Result<(), Failure>;

    /// Configures the owner's streams from `first` to `last`, as far as the
    /// bounded work of one call goes. Returns the first stream that is left, if
    /// any. Until all are done, each stream has either the old or the new
    /// configuration.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    fn set_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        config: &RangeConfig,
    ) -> Result<Option<StreamId>, Failure>;

    /// Issues a command that was checked and rewritten: its VMID and StreamID
    /// are physical.
    ///
    /// # Errors
    /// [`Failure::Fenced`].
    fn issue(&mut self, command: Command) -> Result<(), Failure>;

    /// Lets the physical SMMU start the issued commands, without waiting.
    fn kick(&mut self);

    /// Waits until all issued commands are complete.
    ///
    /// # Errors
    /// [`Failure::Command`] for the first command that was refused since the
    /// last call; [`Failure::Fenced`].
    fn finish(&mut self) -> Result<(), Failure>;

    /// Passes every event that is recorded so far to `deliver`, in order, with
    /// the owner's number of its stream if the stream is the owner's. A stalled
    /// transaction is terminated if [`Delivery`] says so. Returns how many
    /// events there were, which is at most what the physical queue holds.
    fn take_events(&mut self, tell: impl FnMut(Option<StreamId>, &EventRecord) -> Delivery) -> u32;

    /// Makes the physical SMMU store `messages`, in order, when all issued
    /// commands are complete, and does not wait. `false` if it cannot, and
    /// nothing was done.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), for commands that were issued earlier.
    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure>;
}

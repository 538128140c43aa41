//! The other side: what may be done with the physical SMMU.

use crate::Delivery;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Error, Features};
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

/// What the owner's stream table entry asks for, after every field that is not
/// understood, not offered or not safe was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Invalid or illegal: the traffic aborts, and C_BAD_STE is recorded.
    Invalid,
    /// The traffic aborts, and nothing is recorded.
    Abort,
    /// Stage 2 alone. Of the entry only the attribute overrides count.
    Bypass(Ste),
    /// The owner's stage 1 on top of stage 2. Of the entry the fields of stage
    /// 1, the attribute overrides, `S1STALLD` and `EATS` count.
    Stage1(Ste),
}

/// The same for many streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uniform {
    /// As [`Wanted::Invalid`].
    Invalid,
    /// As [`Wanted::Abort`].
    Abort,
    /// As [`Wanted::Bypass`].
    Bypass(Ste),
}

impl Uniform {
    /// The same for a single stream.
    #[must_use]
    pub const fn one(&self) -> Wanted {
        match self {
            Self::Invalid => Wanted::Invalid,
            Self::Abort => Wanted::Abort,
            Self::Bypass(ste) => Wanted::Bypass(*ste),
        }
    }
}

/// A message that the physical SMMU stores when everything before it is
/// complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where; a multiple of 4. The hypervisor chose or checked it: no stage 2
    /// stands before it.
    pub address: PhysAddr,
    /// The 32 bits that are stored.
    pub data: u32,
}

/// Why the physical SMMU did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It refused a command; it works on.
    #[error("the physical SMMU refused a command: {0}")]
    Command(CommandError),
    /// The stream cannot have this; it aborts.
    #[error("stream {stream}: {error}")]
    Stream {
        /// The stream, as the owner numbers it.
        stream: StreamId,
        /// What the driver said.
        error: Error,
    },
    /// It serves no longer: everything aborts.
    #[error("the physical SMMU is fenced: {0}")]
    Fenced(Error),
}

/// What the emulation may do with a physical SMMU. Streams are numbered as the
/// owner sees them, and only those the owner was given are reached.
pub trait Physical {
    /// What the physical SMMU can do.
    fn features(&self) -> &Features;

    /// The tag of the owner's translations.
    fn vmid(&self) -> Vmid;

    /// The physical number of a stream of the owner's; `None` for one it was
    /// not given.
    fn stream(&self, stream: StreamId) -> Option<StreamId>;

    /// Whether a stream of the owner's has what [`Wanted::Invalid`] gives: when
    /// its table was last looked at, there was nothing for it. `false` for one
    /// it was not given.
    fn is_invalid(&self, stream: StreamId) -> bool;

    /// The first and last of the runs of streams that the owner was given, from
    /// `from` on, in the owner's numbers; `None` when there is none.
    fn next_streams(&self, from: StreamId) -> Option<(StreamId, StreamId)>;

    /// The owner's number of a physical stream; `None` for one it was not
    /// given. As provided, it finds streams in runs whose physical numbers
    /// follow each other too.
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

    /// Gives a stream what its owner wants. When it returns, nothing uses the
    /// old configuration any more; context descriptors that were found through
    /// an entry that stays are gone with the next [`finish`](Self::finish). A
    /// stream that was not given is left alone.
    ///
    /// # Errors
    /// [`Failure::Stream`]: the stream aborts now. [`Failure::Fenced`].
    fn set(&mut self, stream: StreamId, wanted: &Wanted) -> Result<(), Failure>;

    /// Gives the same to the streams of the owner's from `first` to `last`, as
    /// far as one call's bounded work goes; the first that is left, if any.
    /// Which of old and new the streams have is undefined until all are done.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    fn set_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        wanted: &Uniform,
    ) -> Result<Option<StreamId>, Failure>;

    /// Adds a command that was checked and rewritten: its VMID and stream are
    /// physical.
    ///
    /// # Errors
    /// [`Failure::Fenced`].
    fn issue(&mut self, command: Command) -> Result<(), Failure>;

    /// Lets the physical SMMU start with what was issued, without waiting.
    fn kick(&mut self);

    /// Waits until everything that was issued is complete.
    ///
    /// # Errors
    /// [`Failure::Command`] for the first command that was refused since the
    /// last call; [`Failure::Fenced`].
    fn finish(&mut self) -> Result<(), Failure>;

    /// Hands every event that is recorded by now to `tell`, in order and with
    /// the owner's number of its stream, if it is one of the owner's. What
    /// stalled is terminated where [`Delivery`] says so. How many there were: no
    /// more than the physical queue holds.
    fn take_events(&mut self, tell: impl FnMut(Option<StreamId>, &EventRecord) -> Delivery) -> u32;

    /// Has the physical SMMU store `messages`, in order, once everything that
    /// was issued is complete, and does not wait. `false` where it cannot:
    /// nothing was done.
    ///
    /// # Errors
    /// As [`finish`](Self::finish), for what was issued earlier.
    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure>;
}

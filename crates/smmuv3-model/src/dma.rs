//! A transaction, from the device's access to its outcome (IHI 0070, 3.12,
//! 3.13).

use crate::smmu::Smmu;
use crate::stage2::Access;
use crate::translate::Ending;
use crate::walk::{Update, Walk};
use smmuv3_spec::StreamId;
use smmuv3_spec::event::{EventKind, EventRecord};

/// What a device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The device.
    pub stream: StreamId,
    /// The address space within the device (PASID), if it names one; 20 bits.
    pub substream: Option<u32>,
    /// The address it puts on the bus.
    pub address: u64,
    /// What it does there.
    pub access: Access,
    /// Whether it says that it is privileged.
    pub privileged: bool,
}

impl Transaction {
    /// An unprivileged access without substream.
    #[must_use]
    pub fn new(stream: StreamId, address: u64, access: Access) -> Self {
        Self {
            stream,
            substream: None,
            address,
            access,
            privileged: false,
        }
    }

    /// The same of a substream.
    #[must_use]
    pub fn with_substream(self, substream: u32) -> Self {
        Self {
            substream: Some(substream),
            ..self
        }
    }

    /// The same, privileged.
    #[must_use]
    pub fn privileged(self) -> Self {
        Self {
            privileged: true,
            ..self
        }
    }
}

/// Why a transaction did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Aborted without an event: global abort, an entry that aborts, events
    /// that are configured away.
    #[error("aborted")]
    Silent,
    /// Aborted, with the event that says why. The record went to the queue if
    /// that was enabled and not full.
    #[error("{}", .0.kind())]
    Event(EventRecord),
    /// To the device it worked, but a read gave zero and a write was ignored
    /// (`CD.A` of 0); with the event, if one is recorded.
    #[error("read as zero, write ignored")]
    Ignored(Option<EventRecord>),
    /// It waits until software decides; the record, with the tag, went to the
    /// queue unless that has no room yet. [`Smmu::take_completed`] tells how it
    /// went on.
    #[error("stalled with tag {:#x}", .0.stag())]
    Stalled(EventRecord),
    /// The output address is no memory.
    #[error("{0:#x} is no memory")]
    External(u64),
    /// The stream uses VMSAv8-32 tables, which are not modelled.
    #[error("VMSAv8-32 is not modelled")]
    NotModelled,
}

/// What comes with a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Nothing: only the translation is wanted.
    None,
    /// 8 bytes are read.
    Read,
    /// 8 bytes are written.
    Write(u64),
}

/// What a transaction brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The output address, where no data was asked for.
    Translated(u64),
    /// What was read.
    Read(u64),
    /// It was written.
    Written,
}

/// Times that a walk is repeated because a descriptor that it updates changed
/// meanwhile.
const RETRIES: usize = 64;

impl Smmu {
    /// Translates an access by a walk of what the SMMU can see for certain,
    /// past every cache. Records the event of a fault, and updates access flags
    /// and dirty state where that is configured.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn translate(&mut self, access: Transaction) -> Result<u64, Refusal> {
        match self.perform(access, Payload::None)? {
            Done::Translated(at) => Ok(at),
            Done::Read(_) | Done::Written => Ok(0),
        }
    }

    /// Reads the 8 bytes at an aligned address, as a device.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn dma_read(&mut self, stream: StreamId, address: u64) -> Result<u64, Refusal> {
        self.read(Transaction::new(stream, address, Access::Read))
    }

    /// Reads 8 bytes by a transaction of any kind.
    ///
    /// # Errors
    /// See [`Refusal`]; what was ignored reads as zero.
    pub fn read(&mut self, access: Transaction) -> Result<u64, Refusal> {
        match self.perform(access, Payload::Read) {
            Ok(Done::Read(value)) => Ok(value),
            Ok(Done::Translated(_) | Done::Written) | Err(Refusal::Ignored(_)) => Ok(0),
            Err(refusal) => Err(refusal),
        }
    }

    /// Writes the 8 bytes at an aligned address, as a device.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn dma_write(&mut self, stream: StreamId, address: u64, value: u64) -> Result<(), Refusal> {
        self.write(Transaction::new(stream, address, Access::Write), value)
    }

    /// Writes 8 bytes by a transaction; whatever it says it does, it writes.
    ///
    /// # Errors
    /// See [`Refusal`]; what was ignored counts as written.
    pub fn write(&mut self, access: Transaction, value: u64) -> Result<(), Refusal> {
        let access = Transaction {
            access: Access::Write,
            ..access
        };
        match self.perform(access, Payload::Write(value)) {
            Ok(_) | Err(Refusal::Ignored(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// A transaction from arrival to outcome. What stalls is kept.
    pub(crate) fn perform(&mut self, t: Transaction, payload: Payload) -> Result<Done, Refusal> {
        let at = match self.pass(&t) {
            Ok(at) => at,
            Err(ending) => return Err(self.end(t, payload, ending)),
        };
        match payload {
            Payload::None => Ok(Done::Translated(at)),
            Payload::Read => match self.ram.device_load(at) {
                Some(value) => Ok(Done::Read(value)),
                None => Err(Refusal::External(at)),
            },
            Payload::Write(value) if self.device_store(at, value) => Ok(Done::Written),
            Payload::Write(_) => Err(Refusal::External(at)),
        }
    }

    fn end(&mut self, t: Transaction, payload: Payload, ending: Ending) -> Refusal {
        match ending {
            Ending::NotModelled => Refusal::NotModelled,
            Ending::Abort(None) => Refusal::Silent,
            Ending::Abort(Some(record)) => {
                self.record(record);
                Refusal::Event(record)
            }
            Ending::Zero(record) => {
                if let Some(record) = record {
                    self.record(record);
                }
                Refusal::Ignored(record)
            }
            Ending::Stall(record) => self.stall(t, payload, record),
        }
    }

    /// The walk, and what it writes to descriptors. Those updates are atomic:
    /// if a descriptor is not any more what the walk saw, it walks again.
    pub(crate) fn pass(&mut self, t: &Transaction) -> Result<u64, Ending> {
        self.pass_by(|walk| walk.attempt(t))
    }

    /// The same for a walk of any kind.
    pub(crate) fn pass_by(
        &mut self,
        way: impl Fn(&mut Walk<'_>) -> Result<u64, Ending>,
    ) -> Result<u64, Ending> {
        let mut result = Err(Ending::Abort(None));
        for _ in 0..RETRIES {
            let mut walk = Walk::new(self);
            result = way(&mut walk);
            let updates = std::mem::take(&mut walk.updates);
            if self.commit(&updates) {
                break;
            }
        }
        result
    }

    /// Makes updates; `false` when memory has another value by now, which is
    /// then seen. What came before it is done: each update stands for itself.
    fn commit(&mut self, updates: &[Update]) -> bool {
        for update in updates {
            let Some((seen, stored)) = self.ram.views(update.at) else {
                return false;
            };
            if (seen, stored) != (update.old, update.old) {
                // An atomic access sees the latest value.
                self.ram.publish(update.at, 8);
                return false;
            }
            self.device_store(update.at, update.new);
        }
        true
    }
}

impl Refusal {
    /// The event that the refusal comes with.
    #[must_use]
    pub fn event(&self) -> Option<EventRecord> {
        match self {
            Self::Event(record) | Self::Stalled(record) => Some(*record),
            Self::Ignored(record) => *record,
            Self::Silent | Self::External(_) | Self::NotModelled => None,
        }
    }

    /// The kind of that event.
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        self.event().map(|record| record.kind())
    }
}

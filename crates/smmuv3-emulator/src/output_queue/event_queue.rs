//! The owner's event queue (IHI 0070, 7.2 to 7.4).

use crate::interrupts::{Interrupts, Source};
use crate::output_queue::event_record::{View, is_ours, stalled, translate};
use crate::output_queue::{EventQueue, Pushed};
use crate::queue_memory::open_queue;
use crate::streams::updates::Shadow;
use crate::{Counts, Emulator, Ids, Physical, Platform, Streams, Window};
use smmuv3_driver::Answer;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::Gerror;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::reg;

/// What became of an event of the physical SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// The stream is not the owner's; nothing was done.
    NotOwned,
    /// The owner was told, as far as its configuration asks for that.
    Done,
    /// Stage 2 refused an access, or the physical stream table failed: the
    /// caller reports it. The owner was told what its own SMMU would say.
    Ours,
    /// The transaction is stalled and its owner will not answer: the caller
    /// terminates it (CMD_RESUME), or the stream hangs. Where the record is one
    /// of stage 2, the caller reports it as well.
    Terminate {
        /// The physical stream.
        stream: StreamId,
        /// Which of its transactions.
        stag: u16,
    },
}

impl Delivery {
    /// Who answers the transaction, if it stalled.
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::NotOwned | Self::Terminate { .. } => Answer::Refuse,
            Self::Done | Self::Ours => Answer::Later,
        }
    }
}

impl<W: Window> Emulator<W> {
    /// Hands over an event of the physical SMMU: `record` is a copy, `streams`
    /// the owner's (a [`Physical`], or a slice of
    /// [`Given`](crate::Given)). The owner
    /// is told what an SMMU with stage 1 alone would tell it; while its
    /// translation or its queue is off, nothing (7.2.1).
    ///
    /// An SMMU keeps a stalled transaction for as long as the queue cannot be
    /// written. This one does not: it is terminated, and counts as an event that
    /// was lost where the queue is full.
    pub fn event<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        streams: &(impl Streams + ?Sized),
        record: &EventRecord,
    ) -> Delivery {
        let stream = streams.owner_stream(record.stream());
        self.event_writer(platform).write(stream, record)
    }

    pub(crate) fn open_event_queue<P: Platform<Window = W>>(&mut self, platform: &P) {
        let base = self.regs.eventq_base;
        let log2 = base.log2size().min(self.ids.idr1.eventqs());
        let window = open_queue(platform, base, log2.into(), EventRecord::SIZE);
        self.counts.bad_queues += u64::from(window.is_none());
        if let Some(old) = self.events.enable(window, log2) {
            platform.close(old);
        }
        platform.show(reg::EVENTQ_PROD, self.events.prod());
    }

    /// Hands over every event that the physical SMMU recorded by now.
    #[cold]
    pub(crate) fn take_events<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) {
        let mut writer = self.event_writer(platform);
        physical.take_events(|stream, record| writer.write(stream, record));
    }

    fn event_writer<'a, P: Platform<Window = W>>(
        &'a mut self,
        platform: &'a P,
    ) -> EventWriter<'a, P> {
        EventWriter {
            platform,
            ids: &self.ids,
            updates: &self.updates,
            record_bad_streams: self.regs.cr2().recinvsid(),
            events: &mut self.events,
            irq: &mut self.irq,
            counts: &mut self.counts,
        }
    }
}

/// Tells the owner of events.
pub(crate) struct EventWriter<'a, P: Platform> {
    pub(crate) platform: &'a P,
    pub(crate) ids: &'a Ids,
    pub(crate) updates: &'a Shadow,
    /// `CR2.RECINVSID`.
    pub(crate) record_bad_streams: bool,
    pub(crate) events: &'a mut EventQueue<P::Window>,
    pub(crate) irq: &'a mut Interrupts,
    pub(crate) counts: &'a mut Counts,
}

impl<P: Platform> EventWriter<'_, P> {
    /// Hands over one event; the owner knows its stream as `stream`.
    pub(crate) fn write(&mut self, stream: Option<StreamId>, record: &EventRecord) -> Delivery {
        let Some(stream) = stream else {
            return Delivery::NotOwned;
        };
        let mut answered = false;
        let ours = is_ours(record);
        if let Some(table) = self.updates.table(self.ids) {
            let view = View {
                ids: self.ids,
                record_bad_streams: self.record_bad_streams,
                table: &table,
            };
            match translate(&view, self.platform, stream, record).record {
                Some(told) => answered = self.push(&told) && told.stall(),
                None => self.counts.events_dropped += 1,
            }
        } else {
            self.counts.events_dropped += 1;
        }
        if stalled(record) && !answered {
            self.counts.stalls_terminated += 1;
            return Delivery::Terminate {
                stream: record.stream(),
                stag: record.stag(),
            };
        }
        if ours { Delivery::Ours } else { Delivery::Done }
    }

    /// Puts a record into the queue; whether it is there.
    fn push(&mut self, record: &EventRecord) -> bool {
        if self.irq.active().eventq_abt_err() {
            self.counts.events_dropped += 1;
            return false;
        }
        let pushed = self.events.push(&record.0);
        match pushed {
            Pushed::Delivered { was_empty } => {
                self.counts.events_delivered += 1;
                self.platform.show(reg::EVENTQ_PROD, self.events.prod());
                if was_empty {
                    self.irq.signal(self.platform, Source::Events, self.counts);
                }
            }
            Pushed::Overflow => {
                self.counts.events_overflowed += 1;
                self.platform.show(reg::EVENTQ_PROD, self.events.prod());
            }
            Pushed::Aborted => {
                self.counts.events_dropped += 1;
                let error = Gerror::new().with_eventq_abt_err(true);
                self.irq.error(self.platform, error, self.counts);
            }
            Pushed::Off => self.counts.events_dropped += 1,
        }
        matches!(pushed, Pushed::Delivered { .. })
    }
}

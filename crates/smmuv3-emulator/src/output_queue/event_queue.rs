//! Delivery of events to the owner's event queue (IHI 0070, 7.2 to 7.4).

use crate::interrupts::{Interrupts, Source};
use crate::output_queue::event_record::{
    OwnerView, concerns_hypervisor, is_stalled, translate_event,
};
use crate::output_queue::{EventQueue, Pushed};
use crate::queue_memory::open_queue;
use crate::streams::updates::StreamUpdates;
use crate::{Counts, Emulator, Ids, Physical, Platform, StreamLookup, Window};
use smmuv3_driver::Answer;
use smmuv3_spec::StreamId;
use smmuv3_spec::control::Gerror;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::reg;

/// What became of an event of the physical SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Delivery {
    /// The stream is not the owner's. Nothing was done.
    NotOwned,
    /// The event is delivered, if the owner's configuration asks for it.
    Done,
    /// Stage 2 refused an access, or the physical stream table failed. The
    /// caller reports the event. The owner got the record that its own SMMU
    /// would write.
    Report,
    /// The transaction stalls and its owner will not answer. The caller
    /// terminates it with CMD_RESUME, because the stream would hang else. If
    /// the record is about stage 2, the caller reports it too.
    Terminate {
        /// The physical stream.
        stream: StreamId,
        /// The tag of the transaction.
        stag: u16,
    },
}

impl Delivery {
    /// Who answers the transaction if it stalls.
    #[must_use]
    pub const fn answer(self) -> Answer {
        match self {
            Self::NotOwned | Self::Terminate { .. } => Answer::Refuse,
            Self::Done | Self::Report => Answer::Later,
        }
    }
}

impl<W: Window> Emulator<W> {
    /// Delivers an event of the physical SMMU. `record` is a copy; `streams` (a
    /// [`Physical`] or a slice of [`AssignedStreams`](crate::AssignedStreams)) finds the stream of
    /// the owner. The owner gets the record that an SMMU with stage 1 alone
    /// would write, but nothing while its translation or its queue is off
    /// (7.2.1).
    ///
    /// An SMMU keeps a stalled transaction as long as its event queue cannot be
    /// written. The emulation terminates the transaction instead, and counts
    /// the event as lost if the queue is full.
    pub fn deliver_event<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        streams: &(impl StreamLookup + ?Sized),
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

    /// Delivers every event that the physical SMMU has recorded so far.
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

/// Writes records to the owner's event queue.
pub(crate) struct EventWriter<'a, P: Platform> {
    pub(crate) platform: &'a P,
    pub(crate) ids: &'a Ids,
    pub(crate) updates: &'a StreamUpdates,
    /// `CR2.RECINVSID`.
    pub(crate) record_bad_streams: bool,
    pub(crate) events: &'a mut EventQueue<P::Window>,
    pub(crate) irq: &'a mut Interrupts,
    pub(crate) counts: &'a mut Counts,
}

impl<P: Platform> EventWriter<'_, P> {
    /// Delivers one event; `stream` is the owner's number of its stream.
    pub(crate) fn write(&mut self, stream: Option<StreamId>, record: &EventRecord) -> Delivery {
        let Some(stream) = stream else {
            return Delivery::NotOwned;
        };
        let mut answered = false;
        let for_hypervisor = concerns_hypervisor(record);
        if let Some(table) = self.updates.table(self.ids) {
            let view = OwnerView {
                ids: self.ids,
                record_bad_streams: self.record_bad_streams,
                table: &table,
            };
            match translate_event(&view, self.platform, stream, record).record {
                Some(told) => answered = self.push(&told) && told.stall(),
                None => self.counts.events_dropped += 1,
            }
        } else {
            self.counts.events_dropped += 1;
        }
        if is_stalled(record) && !answered {
            self.counts.stalls_terminated += 1;
            return Delivery::Terminate {
                stream: record.stream(),
                stag: record.stag(),
            };
        }
        if for_hypervisor {
            Delivery::Report
        } else {
            Delivery::Done
        }
    }

    /// Puts a record into the queue; `true` if it is there.
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

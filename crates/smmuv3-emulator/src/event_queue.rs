//! The owner's event queue (IHI 0070, 7.2 to 7.4).

use crate::event::{View, is_ours, stalled, translate};
use crate::irq::Source;
use crate::output_queue::Pushed;
use crate::{Emulator, Platform, Streams, Window};
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

impl<W: Window> Emulator<W> {
    /// Hands over an event of the physical SMMU: `record` is a copy, `streams`
    /// the owner's (a [`Physical`](crate::Physical), or a slice of
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
        let Some(stream) = streams.owner_stream(record.stream()) else {
            return Delivery::NotOwned;
        };
        let mut answered = false;
        let ours = is_ours(record);
        if let Some(table) = self.shadow.table(&self.ids) {
            let view = View {
                ids: &self.ids,
                record_bad_streams: self.regs.cr2().recinvsid(),
                table: &table,
            };
            match translate(&view, platform, stream, record).record {
                Some(told) => answered = self.deliver(platform, &told) && told.stall(),
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
    fn deliver<P: Platform<Window = W>>(&mut self, platform: &P, record: &EventRecord) -> bool {
        if self.irq.active().eventq_abt_err() {
            self.counts.events_dropped += 1;
            return false;
        }
        let pushed = self.events.push(&record.0);
        match pushed {
            Pushed::Delivered { was_empty } => {
                self.counts.events_delivered += 1;
                platform.show(reg::EVENTQ_PROD, self.events.prod());
                if was_empty {
                    self.irq.signal(platform, Source::Events, &mut self.counts);
                }
            }
            Pushed::Overflow => {
                self.counts.events_overflowed += 1;
                platform.show(reg::EVENTQ_PROD, self.events.prod());
            }
            Pushed::Aborted => {
                self.counts.events_dropped += 1;
                let error = Gerror::new().with_eventq_abt_err(true);
                self.irq.error(platform, error, &mut self.counts);
            }
            Pushed::Off => self.counts.events_dropped += 1,
        }
        matches!(pushed, Pushed::Delivered { .. })
    }
}

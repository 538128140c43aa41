//! Delivery of page requests to the owner's PRI queue (IHI 0070, chapter 8).

use crate::interrupts::Source;
use crate::output_queue::Pushed;
use crate::queue_memory::open_queue;
use crate::streams::ste::ste_config;
use crate::streams::stream_table::TableWalk;
use crate::{Emulator, Platform, StreamConfig, StreamLookup, Window};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{Gerror, IrqCfg2};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, SubstreamId, reg};

/// `CMD_PRI_RESP.Resp` (4.5.2): page requests of the endpoint are not served.
const RESP_FAILURE: u8 = 0b00;
/// `CMD_PRI_RESP.Resp` (4.5.2): the endpoint may continue, and ask again.
const RESP_SUCCESS: u8 = 0b10;

/// What became of a page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PageDelivery {
    /// The stream is not the owner's. Nothing was done.
    NotOwned,
    /// It is in the owner's queue, or it was dropped because it needs no
    /// answer.
    Done,
    /// The owner's queue did not take it. The caller issues this answer to the
    /// physical SMMU.
    Respond(Command),
}

impl<W: Window> Emulator<W> {
    /// Delivers a page request, or the marker that ends a substream, of the
    /// physical queue. `request` is a copy; `streams` (a
    /// [`Physical`](crate::Physical) or a slice of [`AssignedStreams`](crate::AssignedStreams))
    /// finds the stream of the owner. A request that the owner's queue does not
    /// take is answered in the owner's place if the text asks for that (8.1,
    /// 8.2).
    pub fn deliver_page_request<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        streams: &(impl StreamLookup + ?Sized),
        request: &PageRequest,
    ) -> PageDelivery {
        let from = StreamId(request.stream());
        let Some(stream) = streams.owner_stream(from) else {
            return PageDelivery::NotOwned;
        };
        let told = self.request_for_owner(stream, request);
        let marker = told.ssv() && told.last() && !told.read() && !told.write();
        let last_only = IrqCfg2::from(self.irq.pages.attributes).lo();
        // PRIQEN has effect only with SMMUEN (8.2).
        let off = self.updates.table(&self.ids).is_none() || self.irq.active().priq_abt_err();
        let pushed = if off {
            Pushed::Off
        } else if self.pri.enabled() && self.pri.overflowed() {
            // Unlike the event queue, the PRI queue takes nothing until its
            // owner has acknowledged an overflow (8.1).
            Pushed::Overflow
        } else {
            self.pri.push(&told.0)
        };
        let mut answer = None;
        match pushed {
            Pushed::Delivered { was_empty } => {
                self.counts.pages_delivered += 1;
                platform.show(reg::PRIQ_PROD, self.pri.prod());
                if if last_only { told.last() } else { was_empty } {
                    self.irq.signal(platform, Source::Pages, &mut self.counts);
                }
                return PageDelivery::Done;
            }
            Pushed::Overflow => {
                platform.show(reg::PRIQ_PROD, self.pri.prod());
                if last_only && told.last() {
                    self.irq.signal(platform, Source::Pages, &mut self.counts);
                }
                if told.last() {
                    answer = Some(self.overflow_answer(platform, stream, &told));
                }
            }
            Pushed::Aborted => {
                let error = Gerror::new().with_priq_abt_err(true);
                self.irq.error(platform, error, &mut self.counts);
                answer = Some((None, RESP_FAILURE));
            }
            Pushed::Off => answer = Some((None, RESP_FAILURE)),
        }
        self.counts.pages_refused += 1;
        match answer.filter(|_| !marker) {
            Some((substream, resp)) => {
                PageDelivery::Respond(Command::pri_resp(from, substream, told.prg_index(), resp))
            }
            None => PageDelivery::Done,
        }
    }

    pub(crate) fn open_pri_queue<P: Platform<Window = W>>(&mut self, platform: &P) {
        let base = self.regs.priq_base;
        let log2 = base.log2size().min(self.ids.idr1.priqs());
        let window = open_queue(platform, base, log2.into(), PageRequest::SIZE);
        self.counts.bad_queues += u64::from(window.is_none());
        if let Some(old) = self.pri.enable(window, log2) {
            platform.close(old);
        }
        platform.show(reg::PRIQ_PROD, self.pri.prod());
    }

    /// The request as the owner's own SMMU would record it.
    fn request_for_owner(&self, stream: StreamId, request: &PageRequest) -> PageRequest {
        let told = PageRequest::default()
            .with_stream(stream.0)
            .with_read(request.read())
            .with_write(request.write())
            .with_last(request.last())
            .with_prg_index(request.prg_index())
            .with_address(request.address());
        if request.ssv() && self.ids.idr1.ssidsize() != 0 {
            told.with_ssv(true)
                .with_substream(request.substream())
                .with_execute(request.execute())
                .with_privileged(request.privileged())
        } else {
            // Without a substream, the fields X and Priv do not exist.
            told
        }
    }

    /// The answer to the last request of a group that a full queue drops (8.1).
    fn overflow_answer<P: Platform>(
        &self,
        platform: &P,
        stream: StreamId,
        request: &PageRequest,
    ) -> (Option<SubstreamId>, u8) {
        if !request.ssv() {
            return (None, RESP_SUCCESS);
        }
        let substream = Some(SubstreamId(request.substream()));
        if self.ids.idr3.pps() {
            return (substream, RESP_SUCCESS);
        }
        let found = self
            .updates
            .table(&self.ids)
            .map_or(TableWalk::NoEntry, |table| table.find(platform, stream));
        match found {
            TableWalk::Entry(entry) if ste_config(&self.ids, &entry) != StreamConfig::Invalid => {
                (substream.filter(|_| entry.ppar()), RESP_SUCCESS)
            }
            _ => (None, RESP_FAILURE),
        }
    }
}

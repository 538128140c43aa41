//! Page requests of endpoints, and the answers to them (IHI 0070, chapter 8,
//! 4.5.2).

use crate::irq::Source;
use crate::queue::overflowed;
use crate::smmu::Smmu;
use smmuv3_spec::command::Command;
use smmuv3_spec::control::IrqCfg2;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, SubstreamId};

/// Answers that are kept for the endpoints to take; older ones go.
const KEPT: usize = 1 << 12;

/// What an answer says (8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ResponseCode {
    /// Every page of the group is there. Also the answer to what a full queue
    /// dropped: the endpoint finds out by asking again.
    Success = 0b0000,
    /// Some page of the group cannot be there.
    InvalidRequest = 0b0001,
    /// Nobody serves the endpoint.
    Failure = 0b1111,
}

/// An answer to a group of page requests, as the endpoint gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageResponse {
    /// The endpoint.
    pub stream: StreamId,
    /// Its substream, where the answer carries one.
    pub substream: Option<SubstreamId>,
    /// The group.
    pub prg_index: u16,
    /// What the answer is.
    pub code: ResponseCode,
}

/// What became of a page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOutcome {
    /// It is in the queue.
    Queued,
    /// It is not, and the SMMU answered it itself.
    Answered(PageResponse),
    /// It is not, and nobody is told: more of its group follows, or it only
    /// marks the end of a substream.
    Dropped,
}

impl Smmu {
    /// An endpoint asks for a page, or marks the end of a substream (a request
    /// with a substream of which only `last` is set).
    pub fn page_request(&mut self, request: PageRequest) -> PageOutcome {
        let substreams = self.profile.idr1.ssidsize() != 0;
        // Bits 57:52 and 75:73 are reserved.
        let request = PageRequest([request.0[0] & !(0x3f << 52), request.0[1] & !(7 << 9)]);
        let request = if request.ssv() && substreams {
            request
        } else {
            // Without a substream there is neither X nor Priv.
            request
                .with_ssv(false)
                .with_substream(0)
                .with_execute(false)
                .with_privileged(false)
        };
        let asks = request.read() || request.write();
        let marker = request.ssv() && request.last() && !asks;
        let enabled = self.enabled();
        let off = !enabled.smmuen() || !enabled.priqen();
        if off || self.gerror_active().priq_abt_err() {
            return self.refuse(&request, marker);
        }
        if self.requests_overflowed() || self.request_queue_full() {
            return self.overflow(&request, marker);
        }
        let (written, empty) = self.write_request(request);
        if !written {
            return self.refuse(&request, marker);
        }
        self.counts.requests += 1;
        let last_only = IrqCfg2::from(self.regs.priq_irq.2).lo();
        if if last_only { request.last() } else { empty } {
            self.raise(Source::PriQueue);
        }
        PageOutcome::Queued
    }

    /// Unlike the event queue, this one takes nothing until an overflow is
    /// acknowledged (8.1).
    fn requests_overflowed(&self) -> bool {
        (self.regs.priq_prod ^ self.regs.priq_cons) >> 31 != 0
    }

    /// The queue is off or broken: every request fails (8.2).
    fn refuse(&mut self, request: &PageRequest, marker: bool) -> PageOutcome {
        if marker {
            return PageOutcome::Dropped;
        }
        self.answer(request, None, ResponseCode::Failure)
    }

    /// The queue is full: the last request of a group is answered (8.1).
    fn overflow(&mut self, request: &PageRequest, marker: bool) -> PageOutcome {
        self.regs.priq_prod = overflowed(self.regs.priq_prod, self.regs.priq_cons);
        self.counts.lost += 1;
        if request.last() && IrqCfg2::from(self.regs.priq_irq.2).lo() {
            self.raise(Source::PriQueue);
        }
        if marker || !request.last() {
            return PageOutcome::Dropped;
        }
        if !request.ssv() {
            return self.answer(request, None, ResponseCode::Success);
        }
        let substream = Some(SubstreamId(request.substream()));
        if self.profile.idr3.pps() {
            return self.answer(request, substream, ResponseCode::Success);
        }
        match self.entry(StreamId(request.stream())) {
            Ok(ste) => {
                let substream = substream.filter(|_| ste.ppar());
                self.answer(request, substream, ResponseCode::Success)
            }
            Err(event) => {
                self.record_of_ats(event, true);
                self.answer(request, None, ResponseCode::Failure)
            }
        }
    }

    fn answer(
        &mut self,
        request: &PageRequest,
        substream: Option<SubstreamId>,
        code: ResponseCode,
    ) -> PageOutcome {
        let response = PageResponse {
            stream: StreamId(request.stream()),
            substream,
            prg_index: request.prg_index(),
            code,
        };
        self.send(response);
        PageOutcome::Answered(response)
    }

    fn send(&mut self, response: PageResponse) {
        if self.responses.len() >= KEPT {
            self.responses.pop_front();
        }
        self.responses.push_back(response);
        self.counts.responses += 1;
    }

    /// CMD_PRI_RESP (4.5.2).
    pub(crate) fn respond(&mut self, command: &Command) {
        let code = match command.resp() {
            0b00 => ResponseCode::Failure,
            0b01 => ResponseCode::InvalidRequest,
            _ => ResponseCode::Success,
        };
        self.send(PageResponse {
            stream: command.stream(),
            substream: command.substream(),
            prg_index: command.prg_index(),
            code,
        });
    }

    /// The answers that endpoints got since the last call, by command or by
    /// the SMMU itself, oldest first; the last 4096 at most.
    pub fn take_responses(&mut self) -> Vec<PageResponse> {
        std::mem::take(&mut self.responses).into()
    }
}

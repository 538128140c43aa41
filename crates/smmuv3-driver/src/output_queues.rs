//! Reads what the SMMU reports: events, page requests, global errors.

use crate::event_queue::{Drained, Event, GlobalErrors};
use crate::smmu::Smmu;
use crate::{Clock, Registers};
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::control::{CmdqCons, Gerror};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

/// Who answers a stalled transaction or a page request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The driver answers at once: the transaction aborts, the request fails.
    Refuse,
    /// The caller answers later, with a command that it [issues](Smmu::issue).
    Later,
}

/// `Resp` of CMD_PRI_RESP (IHI 0070, 4.5.2, 8.3): a failure that lasts.
const RESPONSE_FAILURE: u8 = 0b00;

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Passes at most `limit` event records to `handle`. Each is copied out of
    /// the queue once. A stalled transaction is terminated with an abort, since
    /// no other code answers it.
    ///
    /// This works on a fenced SMMU too, because its events may say why it was
    /// fenced.
    pub fn drain_events(&mut self, limit: u32, mut handle: impl FnMut(Event)) -> Drained {
        self.take_events(limit, |event| {
            handle(event);
            Answer::Refuse
        })
    }

    /// As [`drain_events`](Self::drain_events), but `handle` says for each
    /// event who answers its transaction, if it stalls.
    pub fn take_events(&mut self, limit: u32, mut handle: impl FnMut(Event) -> Answer) -> Drained {
        let Self {
            hw,
            events,
            commands,
            stats,
            fenced,
            features,
            ..
        } = self;
        let answer = features.stalls() && !*fenced;
        let drained = events.drain(hw, limit, |event| {
            let refuse = handle(event) == Answer::Refuse;
            let record = event.0;
            if answer && refuse && record.kind().can_stall() && record.stall() {
                let command = Command::resume(record.stream(), record.stag(), false, true);
                // If the queue takes no command, its next use fences.
                let _ = commands.push(hw, stats, command);
            }
        });
        if answer {
            commands.kick(hw, stats);
        }
        stats.events += u64::from(drained.events);
        stats.overflows += u64::from(drained.overflowed);
        drained
    }

    /// Passes at most `limit` page requests to `handle`. Each is copied out of
    /// the queue once. A group that `handle` refuses is answered with a failure
    /// when its last request is read (IHI 0070, 8.3). Does nothing if there is
    /// no queue.
    ///
    /// After an overflow the SMMU writes no request and itself answers the last
    /// request of each group that it loses (8.1). The overflow ends, and is
    /// reported, when all earlier requests are read. A group whose last request
    /// was not among these is over, and its index may be used again.
    pub fn drain_pri(
        &mut self,
        limit: u32,
        mut handle: impl FnMut(PageRequest) -> Answer,
    ) -> Drained {
        let Self {
            hw,
            requests: Some(requests),
            commands,
            stats,
            fenced,
            ..
        } = self
        else {
            return Drained::default();
        };
        let drained = requests.drain(hw, limit, |request| {
            let refuse = handle(request) == Answer::Refuse;
            // A stop marker needs no answer (8.2).
            let marker = request.ssv() && !request.read() && !request.write();
            if refuse && !*fenced && request.last() && !marker {
                let command = Command::pri_resp(
                    request.stream_id(),
                    request.substream_id(),
                    request.prg_index(),
                    RESPONSE_FAILURE,
                );
                let _ = commands.push(hw, stats, command);
            }
        });
        if !*fenced {
            commands.kick(hw, stats);
        }
        stats.requests += u64::from(drained.events);
        stats.request_overflows += u64::from(drained.overflowed);
        drained
    }

    /// Acknowledges the active global errors; `None` if there are none (IHI
    /// 0070, 7.5). After a command error the refused command is replaced and
    /// the queue continues; the operation that submitted the command reports
    /// it. Service failure mode fences the SMMU, as far as its registers still
    /// work.
    pub fn handle_gerror(&mut self) -> Option<GlobalErrors> {
        let acknowledged = self.hw.regs.read32(reg::GERRORN);
        let active = Gerror::from(self.hw.regs.read32(reg::GERROR) ^ acknowledged);
        if u32::from(active) == 0 {
            return None;
        }
        self.stats.global_errors += 1;
        let cons = CmdqCons::from(self.hw.regs.read32(reg::CMDQ_CONS));
        let errors = GlobalErrors {
            active,
            command: CommandError(if active.cmdq_err() { cons.err() } else { 0 }),
        };
        // The command queue of a fenced SMMU is not used any more, so it is not
        // recovered.
        let others = u32::from(active.with_cmdq_err(active.cmdq_err() && self.fenced));
        if others != 0 {
            self.hw.regs.write32(reg::GERRORN, acknowledged ^ others);
        }
        let stopped = active.sfm_err()
            || (active.cmdq_err()
                && !self.fenced
                && self
                    .commands
                    .recover_from_error(&self.hw, &mut self.stats)
                    .is_err());
        if stopped {
            // `is_fenced` and the error of the next call show whether the fence
            // worked.
            let _ = self.fence();
        }
        Some(errors)
    }
}

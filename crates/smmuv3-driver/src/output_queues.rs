//! What the SMMU has to say: events, page requests, global errors.

use crate::event_queue::{Drained, Event, GlobalErrors};
use crate::smmu::Smmu;
use crate::{Clock, Registers};
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::{Command, CommandError};
use smmuv3_spec::control::{CmdqCons, Gerror};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

/// Who answers a stalled transaction or a page request that was handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The driver, at once: the transaction aborts, the request fails.
    Refuse,
    /// Somebody else, later, by a command that is [issued](Smmu::issue).
    Later,
}

/// `Resp` of CMD_PRI_RESP (IHI 0070, 4.5.2, 8.3): a failure that lasts.
const RESPONSE_FAILURE: u8 = 0b00;

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Hands at most `limit` event records to `handle`, each copied out of the
    /// queue once. A stalled transaction is terminated with an abort, since
    /// nobody else will answer it.
    ///
    /// Works on a fenced SMMU too: what led there is worth reading.
    pub fn drain_events(&mut self, limit: u32, mut handle: impl FnMut(Event)) -> Drained {
        self.take_events(limit, |event| {
            handle(event);
            Answer::Refuse
        })
    }

    /// As [`drain_events`](Self::drain_events), where `handle` says of each
    /// event who answers the transaction that stalled with it, if one did.
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
                // A queue that takes no command fences at its next use.
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

    /// Hands at most `limit` page requests to `handle`, each copied out of the
    /// queue once; a group that `handle` refuses is answered with a failure when
    /// its last request is read (IHI 0070, 8.3). Nothing where there is no
    /// queue.
    ///
    /// While the queue has overflowed, the SMMU writes no request and answers
    /// by itself the last of each group that it loses (8.1). That ends when
    /// everything before has been read, and is reported with it: of a group
    /// whose last request was not among that, nothing more will come, and its
    /// index may be used again.
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
            // Nobody waits for an answer to a stop marker (8.2).
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

    /// Acknowledges the global errors that are active, `None` when there are
    /// none (IHI 0070, 7.5). A command error lets the queue run on, with the
    /// refused command replaced; the operation that submitted it reports it.
    /// Service failure mode fences the SMMU, as far as it still listens.
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
        // A fenced SMMU's command queue is used no more; nothing to recover.
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
            // Whether it worked shows in `is_fenced` and the next call's error.
            let _ = self.fence();
        }
        Some(errors)
    }
}

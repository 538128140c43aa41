//! `CR0` and `GBPA` (IHI 0070, 6.3.9, 6.3.10, 6.3.14): what is in force, and
//! how it gets there in steps that are each short.
//!
//! `CR0` holds what was asked for, `CR0ACK` what is so. `SMMUEN` and `GBPA` take
//! effect stream by stream; the write is to be repeated until they did. Writing
//! something else in between is allowed (SMMUv3.1 calls that CONSTRAINED
//! UNPREDICTABLE): the newest value wins.

use crate::commands::{ENTRY, Run, Stop, WORK, advance};
use crate::registers::INDEX;
use crate::sync::Since;
use crate::{Emulator, Physical, Platform, Progress, Window};
use portcullis_addr::{Ipa, Range};
use smmuv3_spec::command::CommandError;
use smmuv3_spec::control::{CmdqCons, Cr0, Gbpa, Gerror, QueueBase};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;

impl<W: Window> Emulator<W> {
    pub(crate) fn set_cr0<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        value: u32,
    ) -> Progress {
        let asked = Cr0::from(value);
        let new = Cr0::new()
            .with_smmuen(asked.smmuen())
            .with_priqen(asked.priqen() && self.ids.idr0.pri())
            .with_eventqen(asked.eventqen())
            .with_cmdqen(asked.cmdqen())
            .with_atschk(asked.atschk() && self.ids.idr0.ats());
        let old = self.regs.cr0;
        let stops = (old.eventqen() && !new.eventqen()) || (old.smmuen() && !new.smmuen());
        if stops && !self.dead {
            // What was recorded is committed (6.3.9.4), and only the table that
            // is in force until now says what the owner is to be told of it.
            self.take_events(platform, physical);
        }
        self.regs.cr0 = new;
        self.ready = false;
        platform.show(reg::CR0, new.into());
        if new.cmdqen() != old.cmdqen() {
            if new.cmdqen() {
                self.open_commands(platform);
            } else {
                self.close_commands(platform, physical);
            }
        }
        if new.eventqen() != old.eventqen() {
            if new.eventqen() {
                self.open_events(platform);
            } else if let Some(window) = self.events.disable() {
                platform.close(window);
            }
        }
        if new.priqen() != old.priqen() {
            if new.priqen() {
                self.open_pages(platform);
            } else if let Some(window) = self.pri.disable() {
                platform.close(window);
            }
        }
        if new.smmuen() != old.smmuen() {
            if new.smmuen() {
                self.shadow
                    .enable(self.regs.strtab_base, self.regs.strtab_base_cfg);
            } else {
                self.shadow.disable(self.regs.gbpa);
            }
            self.busy = true;
        }
        // The rest is in force at once.
        self.regs.cr0ack = new.with_smmuen(self.regs.cr0ack.smmuen());
        platform.show(reg::CR0ACK, self.regs.cr0ack.into());
        self.resume(platform, physical)
    }

    /// A write without Update, or while one is under way, is ignored, as
    /// SMMUv3.2 asks; the second only waits for the first.
    pub(crate) fn set_gbpa<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        value: u32,
    ) -> Progress {
        let asked = Gbpa::from(value);
        if !asked.update() {
            self.counts.guarded += 1;
            return crate::Progress::Done;
        }
        if !self.regs.gbpa.update() {
            let types = self.ids.idr1.attr_types_ovr();
            let permissions = self.ids.idr1.attr_perms_ovr();
            // Fields that cannot be overridden keep saying "as incoming".
            let mut new = Gbpa::new().with_abort(asked.abort()).with_shcfg(0b01);
            if types {
                new = new
                    .with_mem_attr(asked.mem_attr())
                    .with_mtcfg(asked.mtcfg())
                    .with_alloccfg(asked.alloccfg())
                    .with_shcfg(asked.shcfg());
            }
            if permissions {
                new = new
                    .with_privcfg(asked.privcfg())
                    .with_instcfg(asked.instcfg());
            }
            self.regs.gbpa = new;
            if !self.regs.cr0.smmuen() && !self.dead {
                self.regs.gbpa.set_update(true);
                self.shadow.disable(new);
                self.busy = true;
                self.ready = false;
            }
            platform.show(reg::GBPA, self.regs.gbpa.into());
        }
        self.resume(platform, physical)
    }

    /// A write of `CMDQ_PROD`.
    #[inline]
    pub(crate) fn produce<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        value: u32,
    ) -> Progress {
        self.counts.writes += 1;
        self.queue.prod = value & INDEX;
        platform.show(reg::CMDQ_PROD, self.queue.prod);
        if !self.ready {
            return self.resume(platform, physical);
        }
        match self.quick(platform, physical) {
            Ok(progress) => progress,
            Err(left) => self.rest(platform, physical, left),
        }
    }

    /// Goes on where the short way ended, with so much work left.
    #[inline(never)]
    fn rest<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        left: u32,
    ) -> Progress {
        if left < WORK {
            self.queue.since.translations();
        }
        self.execute(platform, physical, left)
    }

    /// Carries on with whatever is left to do.
    #[inline(never)]
    pub(crate) fn resume<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) -> Progress {
        let mut budget = WORK;
        if self.dead {
            self.in_force(platform);
            return Progress::Done;
        }
        if self.busy {
            match advance(
                &mut self.shadow,
                &self.ids,
                platform,
                physical,
                &mut budget,
                &mut self.counts,
            ) {
                Ok(true) => self.busy = false,
                Ok(false) => {
                    self.counts.again += 1;
                    return Progress::Again;
                }
                Err(()) => {
                    self.failed(platform);
                    return Progress::Done;
                }
            }
        }
        self.in_force(platform);
        if !self.regs.cr0ack.cmdqen() || self.irq.active().cmdq_err() {
            return Progress::Done;
        }
        if self.window.is_none() {
            // Fetched again after each acknowledgement: it may be the owner's
            // memory by now.
            self.window = self.commands_window(platform);
        }
        self.ready = self.window.is_some();
        if self.ready {
            self.execute(platform, physical, budget)
        } else {
            if (self.queue.prod ^ self.queue.cons) & self.queue.wrap_mask() != 0 {
                self.counts.fetch_aborts += 1;
                self.refuse(platform, CommandError::ABT);
            }
            Progress::Done
        }
    }

    /// What was asked for is so.
    pub(crate) fn in_force<P: Platform<Window = W>>(&mut self, platform: &P) {
        if self.regs.gbpa.update() {
            self.regs.gbpa.set_update(false);
            platform.show(reg::GBPA, self.regs.gbpa.into());
        }
        if self.regs.cr0ack != self.regs.cr0 {
            self.regs.cr0ack = self.regs.cr0;
            platform.show(reg::CR0ACK, self.regs.cr0ack.into());
        }
    }

    /// Processes commands; `ready` holds.
    #[inline(never)]
    fn execute<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        budget: u32,
    ) -> Progress {
        let Some(window) = &self.window else {
            return Progress::Done;
        };
        let result = Run {
            platform,
            physical,
            ids: &self.ids,
            window,
            queue: &mut self.queue,
            shadow: &mut self.shadow,
            busy: &mut self.busy,
            events: &mut self.events,
            irq: &mut self.irq,
            counts: &mut self.counts,
            smmuen: self.regs.cr0ack.smmuen(),
            record_bad_streams: self.regs.cr2().recinvsid(),
            budget,
        }
        .run();
        match result {
            Ok(()) => {
                self.ready = self.queue.since == Since::Nothing;
                Progress::Done
            }
            Err(stop) => self.stopped(platform, stop),
        }
    }

    #[cold]
    pub(crate) fn stopped<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        stop: Stop,
    ) -> Progress {
        match stop {
            Stop::Budget => {
                self.ready = !self.busy && self.queue.since == Since::Nothing;
                self.counts.again += 1;
                Progress::Again
            }
            Stop::Refused(error) => {
                if error == CommandError::ILL {
                    self.counts.illegal_commands += 1;
                }
                self.refuse(platform, error);
                Progress::Done
            }
            Stop::Broken => {
                self.failed(platform);
                Progress::Done
            }
        }
    }

    /// Stops at the command that `CMDQ_CONS` names. The reason is shown before
    /// the error (7.1).
    fn refuse<P: Platform<Window = W>>(&mut self, platform: &P, error: CommandError) {
        self.ready = false;
        self.queue.reason = error;
        let cons = CmdqCons::new()
            .with_rd(self.queue.cons)
            .with_err(error.0 & 0x7f);
        platform.show(reg::CMDQ_CONS, cons.into());
        self.raise_error(platform, Gerror::new().with_cmdq_err(true));
    }

    /// What `CMDQ_CONS` reads as while the queue is off or stopped: the reason
    /// stays as long as the error is active, whatever `CMDQEN` does meanwhile
    /// (6.3.28).
    pub(crate) fn commands_cons(&self) -> u32 {
        let cons = CmdqCons::new().with_rd(self.queue.cons);
        if self.irq.active().cmdq_err() {
            cons.with_err(self.queue.reason.0 & 0x7f).into()
        } else {
            cons.into()
        }
    }

    fn open_commands<P: Platform<Window = W>>(&mut self, platform: &P) {
        let queue = &mut self.queue;
        queue.resize(self.regs.cmdq_base.log2size().min(self.ids.idr1.cmdqs()));
        queue.cons &= queue.wrap_mask();
        queue.shown = queue.cons;
        queue.confirmed = queue.cons;
        queue.owed = None;
        platform.show(reg::CMDQ_CONS, self.commands_cons());
        self.window = self.commands_window(platform);
        if self.window.is_none() {
            self.counts.bad_queues += 1;
        }
    }

    fn commands_window<P: Platform<Window = W>>(&self, platform: &P) -> Option<W> {
        let log2 = self.queue.size().ilog2();
        open(platform, self.regs.cmdq_base, log2, ENTRY)
    }

    /// Commands that were consumed stay issued. Memory that the physical SMMU
    /// may still write to is let go of only when it no longer can.
    fn close_commands<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
    ) {
        let Some(window) = self.window.take() else {
            return;
        };
        if self.queue.in_flight {
            if let Err(crate::Failure::Fenced(_)) = physical.finish() {
                self.counts.kept += 1;
                self.failed(platform);
                return;
            }
            self.queue.in_flight = false;
        }
        platform.close(window);
    }

    fn open_events<P: Platform<Window = W>>(&mut self, platform: &P) {
        let base = self.regs.eventq_base;
        let log2 = base.log2size().min(self.ids.idr1.eventqs());
        let window = open(platform, base, log2.into(), EventRecord::SIZE);
        self.counts.bad_queues += u64::from(window.is_none());
        if let Some(old) = self.events.enable(window, log2) {
            platform.close(old);
        }
        platform.show(reg::EVENTQ_PROD, self.events.prod());
    }

    fn open_pages<P: Platform<Window = W>>(&mut self, platform: &P) {
        let base = self.regs.priq_base;
        let log2 = base.log2size().min(self.ids.idr1.priqs());
        let window = open(platform, base, log2.into(), PageRequest::SIZE);
        self.counts.bad_queues += u64::from(window.is_none());
        if let Some(old) = self.pri.enable(window, log2) {
            platform.close(old);
        }
        platform.show(reg::PRIQ_PROD, self.pri.prod());
    }
}

/// Holds the memory of a queue of 2^`log2` entries. Its base is aligned to the
/// larger of its size and 32 bytes by ignoring lower bits (6.3.26).
fn open<P: Platform>(platform: &P, base: QueueBase, log2: u32, entry: u64) -> Option<P::Window> {
    let bytes = entry.checked_shl(log2)?;
    let start = (base.addr_5() << 5) & !(bytes.max(32) - 1);
    let range = Range::from_size(Ipa::new(start), bytes).ok()?;
    platform.open(range).ok()
}

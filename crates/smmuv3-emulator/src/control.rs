//! Writes of `CR0` and `GBPA` (IHI 0070, 6.3.9, 6.3.10, 6.3.14): turning
//! translation and queues on and off.
//!
//! `CR0` holds the value that the owner wrote last, `CR0ACK` the value that has
//! taken effect. `SMMUEN` and `GBPA` take effect stream by stream, in several
//! calls: the owner's CPU repeats the write until it is done. The owner may
//! write another value in between (SMMUv3.1 calls that CONSTRAINED
//! UNPREDICTABLE); the newest value wins.

use crate::{Emulator, Physical, Platform, Progress, Window};
use smmuv3_spec::control::{Cr0, Gbpa};
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
        if stops && !self.physical_failed {
            // Recorded events are committed (6.3.9.4). Only the table that is
            // in effect until now says which of them the owner gets.
            self.take_events(platform, physical);
        }
        self.regs.cr0 = new;
        self.queue_ready = false;
        platform.show(reg::CR0, new.into());
        if new.cmdqen() != old.cmdqen() {
            if new.cmdqen() {
                self.open_command_queue(platform);
            } else {
                self.close_command_queue(platform, physical);
            }
        }
        if new.eventqen() != old.eventqen() {
            if new.eventqen() {
                self.open_event_queue(platform);
            } else if let Some(window) = self.events.disable() {
                platform.close(window);
            }
        }
        if new.priqen() != old.priqen() {
            if new.priqen() {
                self.open_pri_queue(platform);
            } else if let Some(window) = self.pri.disable() {
                platform.close(window);
            }
        }
        if new.smmuen() != old.smmuen() {
            if new.smmuen() {
                self.updates
                    .enable(self.regs.strtab_base, self.regs.strtab_base_cfg);
            } else {
                self.updates.disable(self.regs.gbpa);
            }
            self.streams_pending = true;
        }
        // All other bits take effect at once.
        self.regs.cr0ack = new.with_smmuen(self.regs.cr0ack.smmuen());
        platform.show(reg::CR0ACK, self.regs.cr0ack.into());
        self.resume(platform, physical)
    }

    /// Handles a write of `GBPA`. As SMMUv3.2 asks, a write without Update is
    /// ignored, and so is a write while an earlier one has not taken effect;
    /// that one only continues the earlier one.
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
            // Fields that cannot be overridden keep the encoding "as incoming".
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
            if !self.regs.cr0.smmuen() && !self.physical_failed {
                self.regs.gbpa.set_update(true);
                self.updates.disable(new);
                self.streams_pending = true;
                self.queue_ready = false;
            }
            platform.show(reg::GBPA, self.regs.gbpa.into());
        }
        self.resume(platform, physical)
    }

    /// Shows in `GBPA.Update` and `CR0ACK` that the values last written have
    /// taken effect.
    pub(crate) fn acknowledge_control<P: Platform<Window = W>>(&mut self, platform: &P) {
        if self.regs.gbpa.update() {
            self.regs.gbpa.set_update(false);
            platform.show(reg::GBPA, self.regs.gbpa.into());
        }
        if self.regs.cr0ack != self.regs.cr0 {
            self.regs.cr0ack = self.regs.cr0;
            platform.show(reg::CR0ACK, self.regs.cr0ack.into());
        }
    }
}

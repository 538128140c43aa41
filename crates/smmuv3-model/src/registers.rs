//! The programming interface (IHI 0070, 6.2 and 6.3).

use crate::layout::{Layout, wide_base};
use crate::misuse::Misuse;
use crate::smmu::{Lagging, Mode, Smmu};
use smmuv3_spec::control::{Cr0, Gbpa, Statusr};
use smmuv3_spec::reg;

const GBPA_UPDATE: u32 = 1 << 31;

impl Lagging {
    /// A lag that never ends.
    pub(crate) const NEVER: u32 = u32::MAX;

    /// One poll: `true` when what was written takes effect with it.
    fn poll(&mut self) -> bool {
        if self.lag == Self::NEVER {
            return false;
        }
        let due = self.lag == 1;
        self.lag = self.lag.saturating_sub(1);
        if due {
            self.acting = self.written;
        }
        due
    }

    /// Whether a write changes a field whose last change is not in force yet
    /// (6.3.9).
    fn hurries(&self, value: u32) -> bool {
        (self.written ^ self.acting) & (self.written ^ value) != 0
    }

    /// Takes a value; `true` when it is in force at once.
    fn set(&mut self, value: u32, lag: u32) -> bool {
        // Without a change there is nothing to wait for.
        let lag = if value == self.acting {
            0
        } else {
            lag.max(std::mem::take(&mut self.stuck))
        };
        self.written = value;
        self.lag = lag;
        if lag == 0 {
            self.acting = value;
        }
        lag == 0
    }
}

impl Smmu {
    /// What is enabled. Nothing is in service failure mode (12.3).
    pub(crate) fn enabled(&self) -> Cr0 {
        if self.regs.stopped {
            return Cr0::new();
        }
        Cr0::from(self.regs.cr0.acting)
    }

    /// What is or may already be enabled: guards registers.
    fn guarding(&self) -> Cr0 {
        Cr0::from(self.regs.cr0.acting | self.regs.cr0.written)
    }

    /// Whether translation is on, or may be: a change takes effect at any point
    /// before its Update completes (6.3.9).
    pub(crate) fn may_translate(&self) -> bool {
        !self.regs.stopped && self.guarding().smmuen()
    }

    /// Whether traffic passes untranslated, or may already or still do so,
    /// since SMMUEN or GBPA are about to change.
    pub(crate) fn may_bypass(&self) -> bool {
        let r = &self.regs;
        let open = |gbpa: u32| !Gbpa::from(gbpa).abort();
        if r.stopped {
            return open(r.gbpa.acting);
        }
        let off = !Cr0::from(r.cr0.acting & r.cr0.written).smmuen();
        off && (open(r.gbpa.acting) || open(r.gbpa.written))
    }

    /// Whether the location has a meaning on the other page only.
    fn misplaced(&mut self, offset: u32) -> bool {
        let misplaced = match offset {
            reg::EVENTQ_PROD_ALIAS..=0x00af | reg::PRIQ_PROD_ALIAS..=0x00cf => true,
            reg::EVENTQ_PROD..=0x100af | reg::PRIQ_PROD..=0x100cf => false,
            _ => offset >= 0x1_0000,
        };
        if misplaced {
            self.misuse.push(Misuse::Alias { offset });
        }
        misplaced
    }

    /// Reads 32 bits at `offset` from the start of page 0. What is not
    /// implemented reads as zero.
    pub fn read32(&mut self, offset: u32) -> u32 {
        if !offset.is_multiple_of(4) || offset >= reg::SIZE {
            self.misuse.push(Misuse::Access { offset, bytes: 4 });
            return 0;
        }
        if self.misplaced(offset) {
            return 0;
        }
        let r = &self.regs;
        match offset {
            reg::IDR0 => self.profile.idr0.into(),
            reg::IDR1 => self.profile.idr1.into(),
            reg::IDR3 => self.profile.idr3.into(),
            reg::IDR5 => self.profile.idr5.into(),
            reg::IIDR => self.profile.iidr.into(),
            reg::AIDR => self.profile.aidr.into(),
            reg::CR0 => r.cr0.written,
            reg::CR0ACK => {
                if self.regs.cr0.poll() {
                    self.cr0_changed();
                }
                self.regs.cr0.acting
            }
            reg::CR1 => r.cr1,
            reg::CR2 => r.cr2,
            reg::STATUSR => self.status(),
            reg::GBPA => {
                self.regs.gbpa.poll();
                self.stay_stopped();
                let update = if self.regs.gbpa.lag != 0 {
                    GBPA_UPDATE
                } else {
                    0
                };
                self.regs.gbpa.written | update
            }
            reg::IRQ_CTRL => r.irq_ctrl.written,
            reg::IRQ_CTRLACK => {
                self.regs.irq_ctrl.poll();
                self.regs.irq_ctrl.acting
            }
            reg::GERROR => r.gerror,
            reg::GERRORN => r.gerrorn,
            reg::STRTAB_BASE_CFG => r.strtab_base_cfg,
            reg::CMDQ_PROD => r.cmdq_prod,
            reg::CMDQ_CONS => {
                self.poll_commands();
                // Bits above the wrap bit are RAZ (6.3.28).
                self.regs.cmdq_cons & (0x7f00_0000 | self.command_ring().mask)
            }
            reg::EVENTQ_PROD => r.eventq_prod,
            reg::EVENTQ_CONS => r.eventq_cons,
            reg::PRIQ_PROD => r.priq_prod,
            reg::PRIQ_CONS => r.priq_cons,
            reg::GERROR_IRQ_CFG1 => r.gerror_irq.1,
            reg::GERROR_IRQ_CFG2 => r.gerror_irq.2,
            reg::EVENTQ_IRQ_CFG1 => r.eventq_irq.1,
            reg::EVENTQ_IRQ_CFG2 => r.eventq_irq.2,
            reg::PRIQ_IRQ_CFG1 => r.priq_irq.1,
            reg::PRIQ_IRQ_CFG2 => r.priq_irq.2,
            // Halves of the 64-bit registers.
            _ => {
                let whole = self.wide(offset & !7).unwrap_or(0);
                (whole >> (8 * (offset & 4))) as u32
            }
        }
    }

    /// STATUSR: whether nothing is cached, where the SMMU can tell (6.3.13).
    fn status(&self) -> u32 {
        let nothing = self.caches.leaves.is_empty()
            && self.caches.nodes.is_empty()
            && self.caches.entries.is_empty();
        let hint = self.profile.idr0.dormhint() && !self.enabled().smmuen();
        Statusr::new().with_dormant(hint && nothing).into()
    }

    fn wide(&self, offset: u32) -> Option<u64> {
        Some(match offset {
            reg::STRTAB_BASE => self.regs.strtab_base,
            reg::CMDQ_BASE => self.regs.cmdq_base,
            reg::EVENTQ_BASE => self.regs.eventq_base,
            reg::PRIQ_BASE => self.regs.priq_base,
            reg::GERROR_IRQ_CFG0 => self.regs.gerror_irq.0,
            reg::EVENTQ_IRQ_CFG0 => self.regs.eventq_irq.0,
            reg::PRIQ_IRQ_CFG0 => self.regs.priq_irq.0,
            _ => return None,
        })
    }

    /// Reads 64 bits. Only the 64-bit registers have that width (6.2).
    pub fn read64(&mut self, offset: u32) -> u64 {
        match self.wide(offset) {
            Some(value) => value,
            None => {
                self.misuse.push(Misuse::Access { offset, bytes: 8 });
                0
            }
        }
    }

    /// Writes 64 bits. Only the 64-bit registers have that width (6.2).
    pub fn write64(&mut self, offset: u32, value: u64) {
        if self.wide(offset).is_none() {
            self.misuse.push(Misuse::Access { offset, bytes: 8 });
            return;
        }
        self.write_wide(offset, value, u64::MAX);
    }

    /// Writes the bits of a 64-bit register that are in `half`.
    fn write_wide(&mut self, offset: u32, value: u64, half: u64) {
        let layout = Layout::wide(offset, &self.profile);
        if value & half & !layout.defined != 0 {
            self.misuse.push(Misuse::Reserved { offset, value });
        }
        if self.guarded(offset, 0) {
            self.misuse.push(Misuse::Guarded { offset, value });
            return;
        }
        let old = self.wide(offset).unwrap_or(0);
        let value = (old & !half | value & half) & layout.kept;
        let idr1 = self.profile.idr1;
        let most = match offset {
            reg::CMDQ_BASE => idr1.cmdqs(),
            reg::EVENTQ_BASE => idr1.eventqs(),
            reg::PRIQ_BASE => idr1.priqs(),
            _ => u8::MAX,
        };
        let log2 = (value & 0x1f) as u8;
        if log2 > most && half & 0x1f != 0 {
            self.misuse.push(Misuse::QueueSize { log2 });
        }
        let slot = match offset {
            reg::STRTAB_BASE => &mut self.regs.strtab_base,
            reg::CMDQ_BASE => &mut self.regs.cmdq_base,
            reg::EVENTQ_BASE => &mut self.regs.eventq_base,
            reg::PRIQ_BASE => &mut self.regs.priq_base,
            reg::GERROR_IRQ_CFG0 => &mut self.regs.gerror_irq.0,
            reg::EVENTQ_IRQ_CFG0 => &mut self.regs.eventq_irq.0,
            reg::PRIQ_IRQ_CFG0 => &mut self.regs.priq_irq.0,
            _ => return,
        };
        *slot = value;
    }

    fn irq_on(&self, bit: u32) -> bool {
        (self.regs.irq_ctrl.acting | self.regs.irq_ctrl.written) & bit != 0
    }

    /// Whether the register may not be written now with `value`.
    fn guarded(&self, offset: u32, value: u32) -> bool {
        let guard = self.guarding();
        match offset {
            reg::CR0 => self.regs.cr0.hurries(value),
            // TABLE_* in 11:6 by what reads tables, QUEUE_* in 5:0 by what
            // accesses queues (6.3.11).
            reg::CR1 => {
                let changed = self.regs.cr1 ^ value;
                let queues = guard.cmdqen() || guard.eventqen() || guard.priqen();
                changed & 0xfc0 != 0 && guard.smmuen() || changed & 0x3f != 0 && queues
            }
            reg::CR2 | reg::STRTAB_BASE | reg::STRTAB_BASE_CFG => guard.smmuen(),
            reg::GBPA => self.regs.gbpa.lag != 0,
            reg::IRQ_CTRL => self.regs.irq_ctrl.hurries(value),
            reg::CMDQ_BASE | reg::CMDQ_CONS => guard.cmdqen(),
            reg::EVENTQ_BASE | reg::EVENTQ_PROD => guard.eventqen(),
            // By PRIQEN itself, not by its effective value (6.3.9.5).
            reg::PRIQ_BASE | reg::PRIQ_PROD => guard.priqen(),
            reg::GERROR_IRQ_CFG0..=reg::GERROR_IRQ_CFG2 => self.irq_on(1),
            reg::PRIQ_IRQ_CFG0..=reg::PRIQ_IRQ_CFG2 => self.irq_on(2),
            reg::EVENTQ_IRQ_CFG0..=reg::EVENTQ_IRQ_CFG2 => self.irq_on(4),
            _ => false,
        }
    }

    /// Writes 32 bits. Writes to what is read-only or not implemented are
    /// ignored, as the architecture says (6.2).
    pub fn write32(&mut self, offset: u32, value: u32) {
        if !offset.is_multiple_of(4) || offset >= reg::SIZE {
            self.misuse.push(Misuse::Access { offset, bytes: 4 });
            return;
        }
        if self.misplaced(offset) {
            return;
        }
        if let Some(base) = wide_base(offset) {
            let shift = 8 * (offset & 4);
            let value = u64::from(value) << shift;
            return self.write_wide(base, value, 0xffff_ffff << shift);
        }
        let layout = Layout::narrow(offset, &self.profile);
        if value & !layout.defined != 0 {
            let value = value.into();
            self.misuse.push(Misuse::Reserved { offset, value });
        }
        let kept = value & layout.kept;
        if self.guarded(offset, kept) {
            let value = value.into();
            self.misuse.push(Misuse::Guarded { offset, value });
            return;
        }
        match offset {
            reg::CR0 => self.write_cr0(kept),
            reg::CR1 => self.regs.cr1 = kept,
            reg::CR2 => self.regs.cr2 = kept,
            reg::GBPA if value & GBPA_UPDATE == 0 => self.misuse.push(Misuse::NoUpdate),
            reg::GBPA => {
                let lag = self.lag();
                self.regs.gbpa.set(kept & !GBPA_UPDATE, lag);
                self.stay_stopped();
            }
            reg::IRQ_CTRL => {
                let lag = self.lag();
                self.regs.irq_ctrl.set(kept, lag);
            }
            reg::GERRORN => self.acknowledge(kept),
            reg::STRTAB_BASE_CFG => self.regs.strtab_base_cfg = kept,
            reg::CMDQ_PROD => self.produced(kept),
            reg::CMDQ_CONS => self.regs.cmdq_cons = kept,
            reg::EVENTQ_PROD => self.regs.eventq_prod = kept,
            reg::EVENTQ_CONS => self.events_consumed(kept),
            reg::PRIQ_PROD => self.regs.priq_prod = kept,
            reg::PRIQ_CONS => self.requests_consumed(kept),
            reg::GERROR_IRQ_CFG1 => self.regs.gerror_irq.1 = kept,
            reg::GERROR_IRQ_CFG2 => self.regs.gerror_irq.2 = kept,
            reg::EVENTQ_IRQ_CFG1 => self.regs.eventq_irq.1 = kept,
            reg::EVENTQ_IRQ_CFG2 => self.regs.eventq_irq.2 = kept,
            reg::PRIQ_IRQ_CFG1 => self.regs.priq_irq.1 = kept,
            reg::PRIQ_IRQ_CFG2 => self.regs.priq_irq.2 = kept,
            _ => {}
        }
    }

    fn write_cr0(&mut self, value: u32) {
        let (old, new) = (Cr0::from(self.regs.cr0.written), Cr0::from(value));
        if old.atschk() && !new.atschk() {
            self.look_for_split();
        }
        let on = Cr0::from(value & !u32::from(old));
        self.check_indices(on);
        let lag = self.lag();
        if self.regs.cr0.set(value, lag) {
            self.cr0_changed();
        } else if self.mode != Mode::Plain && on.smmuen() {
            // It may look from now on.
            self.soak();
        }
    }

    /// What CR0 says came into force.
    fn cr0_changed(&mut self) {
        if self.mode != Mode::Plain && self.enabled().smmuen() {
            self.soak();
        }
        self.end_stalls_if_off();
        self.retry_unrecorded();
        self.poll_if_plain();
    }

    fn acknowledge(&mut self, value: u32) {
        let toggled = value ^ self.regs.gerrorn;
        let bits = toggled & !(self.regs.gerror ^ self.regs.gerrorn);
        if bits != 0 {
            self.misuse.push(Misuse::Acknowledge { bits });
        }
        self.regs.gerrorn = value;
        self.retry_unrecorded();
        self.poll_if_plain();
    }

    /// Enters service failure mode: traffic, commands and events stop, and
    /// only what is outside the architecture ends it (12.3).
    pub(crate) fn stop(&mut self) {
        self.regs.stopped = true;
        self.stay_stopped();
    }

    fn stay_stopped(&mut self) {
        if !self.regs.stopped {
            return;
        }
        // Traffic does not pass either. Software reads back what it wrote.
        let gbpa = Gbpa::from(self.regs.gbpa.acting).with_abort(true);
        self.regs.gbpa.acting = gbpa.into();
    }

    pub(crate) fn poll_if_plain(&mut self) {
        if self.mode == Mode::Plain {
            self.run_commands(u32::MAX);
        }
    }
}

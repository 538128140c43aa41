//! The programming interface (IHI 0070, 6.2 and 6.3).

use crate::misuse::Misuse;
use crate::smmu::{Lagging, Mode, Smmu};
use smmuv3_spec::control::Cr0;
use smmuv3_spec::reg;

/// CR0 bits that this interface has: SMMUEN, EVENTQEN, CMDQEN.
const CR0_BITS: u32 = 0b1101;
const GBPA_UPDATE: u32 = 1 << 31;
/// Address and RA bits of STRTAB_BASE.
const STRTAB_BITS: u64 = 0x40ff_ffff_ffff_ffc0;
/// Address, allocation hint and size of a queue base.
const QUEUE_BITS: u64 = 0x40ff_ffff_ffff_ffff;

impl Lagging {
    /// One poll: `true` when what was written takes effect with it.
    fn poll(&mut self) -> bool {
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
        let lag = if value == self.acting { 0 } else { lag };
        self.written = value;
        self.lag = lag;
        if lag == 0 {
            self.acting = value;
        }
        lag == 0
    }
}

impl Smmu {
    /// What is enabled.
    pub(crate) fn enabled(&self) -> Cr0 {
        Cr0::from(self.regs.cr0.acting)
    }

    /// What is or may already be enabled: guards registers.
    fn guarding(&self) -> Cr0 {
        Cr0::from(self.regs.cr0.acting | self.regs.cr0.written)
    }

    /// Reads 32 bits at `offset` from the start of page 0. What is not
    /// implemented reads as zero.
    pub fn read32(&mut self, offset: u32) -> u32 {
        if !offset.is_multiple_of(4) || offset >= reg::SIZE {
            self.misuse.push(Misuse::Access { offset, bytes: 4 });
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
            reg::GBPA => {
                self.regs.gbpa.poll();
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
                self.regs.cmdq_cons
            }
            reg::EVENTQ_PROD | reg::EVENTQ_PROD_ALIAS => r.eventq_prod,
            reg::EVENTQ_CONS | reg::EVENTQ_CONS_ALIAS => r.eventq_cons,
            reg::GERROR_IRQ_CFG1 => r.gerror_irq.1,
            reg::GERROR_IRQ_CFG2 => r.gerror_irq.2,
            reg::EVENTQ_IRQ_CFG1 => r.eventq_irq.1,
            reg::EVENTQ_IRQ_CFG2 => r.eventq_irq.2,
            // Halves of the 64-bit registers.
            _ => {
                let whole = self.wide(offset & !7).unwrap_or(0);
                (whole >> (8 * (offset & 4))) as u32
            }
        }
    }

    fn wide(&self, offset: u32) -> Option<u64> {
        Some(match offset {
            reg::STRTAB_BASE => self.regs.strtab_base,
            reg::CMDQ_BASE => self.regs.cmdq_base,
            reg::EVENTQ_BASE => self.regs.eventq_base,
            reg::GERROR_IRQ_CFG0 => self.regs.gerror_irq.0,
            reg::EVENTQ_IRQ_CFG0 => self.regs.eventq_irq.0,
            _ => return None,
        })
    }

    /// Reads 64 bits.
    pub fn read64(&mut self, offset: u32) -> u64 {
        match self.wide(offset) {
            Some(value) => value,
            None => {
                self.misuse.push(Misuse::Access { offset, bytes: 8 });
                0
            }
        }
    }

    /// Writes 64 bits.
    pub fn write64(&mut self, offset: u32, value: u64) {
        let guard = self.guarding();
        let (guarded, bits) = match offset {
            reg::STRTAB_BASE => (guard.smmuen(), STRTAB_BITS),
            reg::CMDQ_BASE => (guard.cmdqen(), QUEUE_BITS),
            reg::EVENTQ_BASE => (guard.eventqen(), QUEUE_BITS),
            reg::GERROR_IRQ_CFG0 => (self.irq_on(1), u64::MAX),
            reg::EVENTQ_IRQ_CFG0 => (self.irq_on(4), u64::MAX),
            _ => {
                self.misuse.push(Misuse::Access { offset, bytes: 8 });
                return;
            }
        };
        if guarded {
            self.misuse.push(Misuse::Guarded { offset, value });
            return;
        }
        let value = value & bits;
        let most = match offset {
            reg::CMDQ_BASE => self.profile.idr1.cmdqs(),
            reg::EVENTQ_BASE => self.profile.idr1.eventqs(),
            _ => u8::MAX,
        };
        let log2 = (value & 0x1f) as u8;
        if log2 > most {
            self.misuse.push(Misuse::QueueSize { log2 });
        }
        match offset {
            reg::STRTAB_BASE => self.regs.strtab_base = value,
            reg::CMDQ_BASE => self.regs.cmdq_base = value,
            reg::EVENTQ_BASE => self.regs.eventq_base = value,
            reg::GERROR_IRQ_CFG0 => self.regs.gerror_irq.0 = value,
            _ => self.regs.eventq_irq.0 = value,
        }
    }

    fn irq_on(&self, bit: u32) -> bool {
        (self.regs.irq_ctrl.acting | self.regs.irq_ctrl.written) & bit != 0
    }

    /// Writes 32 bits. Writes to what is read-only or not implemented are
    /// ignored, as the architecture says (6.2).
    pub fn write32(&mut self, offset: u32, value: u32) {
        if !offset.is_multiple_of(4) || offset >= reg::SIZE {
            self.misuse.push(Misuse::Access { offset, bytes: 4 });
            return;
        }
        let guard = self.guarding();
        let guarded = match offset {
            reg::CR0 => self.regs.cr0.hurries(value & CR0_BITS),
            // CR1 says how queues and tables are accessed (6.3.11); CR2 who
            // invalidates (6.3.12).
            reg::CR1 => guard.smmuen() || guard.cmdqen() || guard.eventqen(),
            reg::CR2 => guard.smmuen(),
            reg::GBPA => self.regs.gbpa.lag != 0,
            reg::IRQ_CTRL => self.regs.irq_ctrl.hurries(value & 0b101),
            reg::STRTAB_BASE_CFG => guard.smmuen(),
            reg::CMDQ_CONS => guard.cmdqen(),
            reg::EVENTQ_PROD | reg::EVENTQ_PROD_ALIAS => guard.eventqen(),
            reg::GERROR_IRQ_CFG1 | reg::GERROR_IRQ_CFG2 => self.irq_on(1),
            reg::EVENTQ_IRQ_CFG1 | reg::EVENTQ_IRQ_CFG2 => self.irq_on(4),
            _ => false,
        };
        if guarded {
            let value = value.into();
            self.misuse.push(Misuse::Guarded { offset, value });
            return;
        }
        match offset {
            reg::CR0 => {
                let lag = self.lag();
                if self.regs.cr0.set(value & CR0_BITS, lag) {
                    self.cr0_changed();
                }
            }
            reg::CR1 => self.regs.cr1 = value & 0xfff,
            reg::CR2 => self.regs.cr2 = value & 0x7,
            reg::GBPA if value & GBPA_UPDATE == 0 => self.misuse.push(Misuse::NoUpdate),
            reg::GBPA => {
                let lag = self.lag();
                self.regs.gbpa.set(value & !GBPA_UPDATE, lag);
            }
            reg::IRQ_CTRL => {
                let lag = self.lag();
                self.regs.irq_ctrl.set(value & 0b101, lag);
            }
            reg::GERRORN => {
                self.regs.gerrorn = value;
                self.poll_if_plain();
            }
            reg::STRTAB_BASE_CFG => self.regs.strtab_base_cfg = value & 0x3_07ff,
            reg::CMDQ_PROD => self.produced(value),
            reg::CMDQ_CONS => self.regs.cmdq_cons = value & 0x7f0f_ffff,
            reg::EVENTQ_PROD | reg::EVENTQ_PROD_ALIAS => {
                self.regs.eventq_prod = value & 0x800f_ffff;
            }
            reg::EVENTQ_CONS | reg::EVENTQ_CONS_ALIAS => {
                self.regs.eventq_cons = value & 0x800f_ffff;
                self.retry_unrecorded();
            }
            reg::GERROR_IRQ_CFG1 => self.regs.gerror_irq.1 = value,
            reg::GERROR_IRQ_CFG2 => self.regs.gerror_irq.2 = value & 0x3f,
            reg::EVENTQ_IRQ_CFG1 => self.regs.eventq_irq.1 = value,
            reg::EVENTQ_IRQ_CFG2 => self.regs.eventq_irq.2 = value & 0x3f,
            _ => {}
        }
    }

    fn cr0_changed(&mut self) {
        if self.mode != Mode::Plain && self.enabled().smmuen() {
            self.soak();
        }
        self.end_stalls_if_off();
        self.retry_unrecorded();
        self.poll_if_plain();
    }

    pub(crate) fn poll_if_plain(&mut self) {
        if self.mode == Mode::Plain {
            self.run_commands(u32::MAX);
        }
    }
}

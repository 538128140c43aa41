//! The RD frame of a redistributor, as far as it is about LPIs (IHI 0069, 12.10
//! and 12.11).

use crate::bus::Bus;
use crate::inner::Inner;
use crate::its_registers::{IDENTITY, is_access, merge, part};
use crate::lpi::PTZ;
use crate::profile::{Caching, Pace};
use crate::violation::Violation;

pub(crate) const CTLR: u32 = 0x0000;
pub(crate) const IIDR: u32 = 0x0004;
pub(crate) const TYPER: u32 = 0x0008;
pub(crate) const WAKER: u32 = 0x0014;
pub(crate) const SETLPIR: u32 = 0x0040;
pub(crate) const CLRLPIR: u32 = 0x0048;
pub(crate) const PROPBASER: u32 = 0x0070;
pub(crate) const PENDBASER: u32 = 0x0078;
pub(crate) const INVLPIR: u32 = 0x00a0;
pub(crate) const INVALLR: u32 = 0x00b0;
pub(crate) const SYNCR: u32 = 0x00c0;
pub(crate) const PIDR2: u32 = 0xffe8;
/// The VLPI frame.
pub(crate) const VLPI: u32 = 0x2_0000;

/// Offset and width of the register at `offset`.
fn register(offset: u32) -> Option<(u32, u32)> {
    Some(match offset {
        CTLR | IIDR | 0x10 | WAKER | 0x18 | 0x1c => (offset, 4),
        TYPER..0x10 | SETLPIR..0x50 | PROPBASER..0x80 => (offset & !7, 8),
        INVLPIR..0xa8 | INVALLR..0xb8 => (offset & !7, 8),
        SYNCR => (offset, 4),
        0xffd0..0x1_0000 => (offset & !3, 4),
        _ => return None,
    })
}

impl<B: Bus> Inner<B> {
    fn has_invalidate(&self) -> bool {
        self.profile.direct_lpi || self.profile.invalidate_registers
    }

    fn rd_typer(&self, cpu: usize) -> u64 {
        let last = cpu + 1 == self.rds.len();
        let affinity = (cpu as u64 & 0xf) | (cpu as u64 >> 4) << 8;
        1 | u64::from(self.profile.virtual_lpis) << 1
            | u64::from(self.profile.direct_lpi) << 3
            | u64::from(last) << 4
            | 1 << 5
            | (cpu as u64) << 8
            | affinity << 32
    }

    pub(crate) fn rd_read(&mut self, cpu: usize, offset: u32, bytes: u32) -> u64 {
        // Other frames, and other registers of this one: not modelled.
        let Some((start, width)) = register(offset) else {
            return 0;
        };
        if !is_access(offset, bytes, width) {
            self.violate(Violation::Access {
                frame: "RD",
                index: cpu,
                offset,
                bytes,
            });
            return 0;
        }
        if self.profile.pace == Pace::OnPoll {
            match start {
                CTLR => self.poll_writing(cpu),
                SYNCR => self.poll_busy(cpu),
                _ => {}
            }
        }
        let rd = &self.rds[cpu];
        let value = match start {
            CTLR => {
                u64::from(rd.enabled)
                    | u64::from(self.profile.clear_enable) << 1
                    | u64::from(self.profile.invalidate_registers) << 2
                    | u64::from(rd.writing.is_some()) << 3
                    | u64::from(rd.dpg)
            }
            IIDR => IDENTITY.into(),
            TYPER => self.rd_typer(cpu),
            WAKER => rd.waker.into(),
            PROPBASER => rd.propbaser,
            PENDBASER => rd.pendbaser & !PTZ,
            SYNCR => rd.busy.is_some().into(),
            PIDR2 if self.profile.virtual_lpis => 0x40,
            PIDR2 => 0x30,
            _ => 0,
        };
        part(value, offset, start, bytes)
    }

    pub(crate) fn rd_write(&mut self, cpu: usize, offset: u32, bytes: u32, value: u64) {
        if self.profile.virtual_lpis && offset >= VLPI {
            self.violate(Violation::VirtualRegister {
                frame: "RD",
                index: cpu,
                offset,
                value,
            });
            let at = value & 0x000f_ffff_ffff_0000;
            self.garbage(at..at.saturating_add(4096));
            return;
        }
        let Some((start, width)) = register(offset) else {
            return;
        };
        if !is_access(offset, bytes, width) {
            self.violate(Violation::Access {
                frame: "RD",
                index: cpu,
                offset,
                bytes,
            });
            return;
        }
        match start {
            CTLR => self.write_rd_ctlr(cpu, value),
            WAKER => {
                let asleep = value as u32 & 2;
                self.rds[cpu].waker = asleep | asleep << 1;
            }
            PROPBASER | PENDBASER => {
                let rd = &self.rds[cpu];
                let old = if start == PROPBASER {
                    rd.propbaser
                } else {
                    rd.pendbaser
                };
                let value = merge(old, value, offset, start, bytes);
                self.write_base(cpu, start, value);
            }
            SETLPIR | CLRLPIR if self.profile.direct_lpi => {
                if start == SETLPIR {
                    self.set_pending(cpu, value as u32);
                } else {
                    self.clear_pending(cpu, value as u32);
                }
            }
            INVLPIR | INVALLR if self.has_invalidate() => self.invalidate_by(cpu, start, value),
            SETLPIR | CLRLPIR | INVLPIR | INVALLR => {
                self.violate(Violation::NotImplemented { cpu, offset, value })
            }
            _ => {}
        }
    }

    fn invalidate_by(&mut self, cpu: usize, start: u32, value: u64) {
        if self.rds[cpu].busy.is_some() {
            self.violate(Violation::Busy { cpu, offset: start });
        }
        if value >> 63 == 1 {
            self.violate(Violation::VirtualRegister {
                frame: "RD",
                index: cpu,
                offset: start,
                value,
            });
            return;
        }
        if start == INVLPIR {
            self.invalidate(cpu, [value as u32]);
        } else {
            let all: Vec<_> = self.rds[cpu].cached.keys().copied().collect();
            self.invalidate(cpu, all);
        }
        let lag = self.lag();
        self.rds[cpu].busy = (self.profile.caching != Caching::None).then_some(lag);
        if self.profile.pace == Pace::AtOnce {
            self.poll_busy(cpu);
        }
    }

    fn write_rd_ctlr(&mut self, cpu: usize, value: u64) {
        const DPG: u64 = 0x0700_0000;
        // CES, IR, RWP and UWP are read-only, and software writes back what it read.
        if value & !(DPG | 0xf | 1 << 31) & 0xffff_ffff != 0 {
            self.violate(Violation::Reserved {
                frame: "RD",
                index: cpu,
                offset: CTLR,
                value,
            });
        }
        self.rds[cpu].dpg = (value & DPG) as u32;
        let (old, new) = (self.rds[cpu].enabled, value & 1 == 1);
        if old == new {
            return;
        }
        if self.rds[cpu].writing.is_some() {
            self.violate(Violation::WritePending { cpu });
        }
        if new {
            self.enable_lpis(cpu);
        } else if self.profile.clear_enable {
            self.disable_lpis(cpu);
        } else {
            self.violate(Violation::StaysEnabled { cpu });
        }
    }

    fn write_base(&mut self, cpu: usize, start: u32, value: u64) {
        if self.rds[cpu].in_use() {
            self.violate(Violation::LpisEnabled {
                cpu,
                offset: start,
                value,
            });
            let at = value & 0x000f_ffff_ffff_f000;
            self.garbage(at..at.saturating_add(4096));
        }
        let common = 0x7 << 56 | 0x7 << 7 | 0xc00;
        let fields = if start == PROPBASER {
            common | 0x000f_ffff_ffff_f000 | 0x1f
        } else {
            common | 0x000f_ffff_ffff_0000 | PTZ
        };
        if value & !fields != 0 {
            self.violate(Violation::Reserved {
                frame: "RD",
                index: cpu,
                offset: start,
                value,
            });
        }
        let kept = if self.profile.coherent {
            fields
        } else {
            fields & !0xc00
        };
        if start == PROPBASER {
            self.rds[cpu].propbaser = value & kept;
        } else {
            self.rds[cpu].pendbaser = value & kept;
        }
    }
}

//! The control frame of an ITS (IHI 0069, 12.18 and 12.19).

use crate::bus::Bus;
use crate::inner::Inner;
use crate::its::{INDIRECT, VALID};
use crate::profile::Pace;
use crate::violation::Violation;

pub(crate) const CTLR: u32 = 0x0000;
pub(crate) const IIDR: u32 = 0x0004;
pub(crate) const TYPER: u32 = 0x0008;
pub(crate) const CBASER: u32 = 0x0080;
pub(crate) const CWRITER: u32 = 0x0088;
pub(crate) const CREADR: u32 = 0x0090;
pub(crate) const BASER: u32 = 0x0100;
pub(crate) const BASER_END: u32 = 0x0140;
pub(crate) const PIDR2: u32 = 0xffe8;
pub(crate) const TRANSLATER: u32 = 0x1_0040;
pub(crate) const SGIR: u32 = 0x2_0020;

/// What `GITS_IIDR` and `GICR_IIDR` read as: product 0x4d, implementer 0x43b.
pub(crate) const IDENTITY: u32 = 0x4d00_143b;

/// Offset and width of the register at `offset`.
fn register(offset: u32) -> Option<(u32, u32)> {
    Some(match offset {
        CTLR | IIDR => (offset, 4),
        0x10..0x20 | 0x40 => (offset & !3, 4),
        TYPER..0x10 => (TYPER, 8),
        0x48..0x50 => (0x48, 8),
        CBASER..0x88 => (CBASER, 8),
        CWRITER..0x90 => (CWRITER, 8),
        CREADR..0x98 => (CREADR, 8),
        BASER..BASER_END => (offset & !7, 8),
        0xffd0..0x1_0000 => (offset & !3, 4),
        _ => return None,
    })
}

/// Whether an access has a width that the register takes.
pub(crate) fn is_access(offset: u32, bytes: u32, width: u32) -> bool {
    offset.is_multiple_of(bytes.max(1)) && (bytes == 4 || bytes == 8 && width == 8)
}

/// The 32 or 64 bits that an access reads of a register.
pub(crate) fn part(value: u64, offset: u32, start: u32, bytes: u32) -> u64 {
    let value = value >> ((offset - start) * 8);
    if bytes == 8 {
        value
    } else {
        value & 0xffff_ffff
    }
}

/// A register after a write of the 32 or 64 bits that an access has.
pub(crate) fn merge(old: u64, value: u64, offset: u32, start: u32, bytes: u32) -> u64 {
    if bytes == 8 {
        return value;
    }
    let shift = (offset - start) * 8;
    old & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift
}

impl<B: Bus> Inner<B> {
    pub(crate) fn its_read(&mut self, its: usize, offset: u32, bytes: u32) -> u64 {
        let Some((start, width)) = register(offset) else {
            return 0;
        };
        if !is_access(offset, bytes, width) {
            self.violate(Violation::Access {
                frame: "ITS",
                index: its,
                offset,
                bytes,
            });
            return 0;
        }
        if self.profile.pace == Pace::OnPoll {
            self.poll_its(its, start);
        }
        let unit = &self.units[its];
        let value = match start {
            CTLR => u64::from(unit.enabled) | u64::from(unit.is_quiescent()) << 31,
            IIDR => IDENTITY.into(),
            TYPER => self.profile.typer(),
            CBASER => unit.cbaser,
            CWRITER => unit.cwriter & 0xf_ffe0,
            CREADR => unit.creadr | u64::from(unit.stalled),
            BASER..BASER_END => unit.baser[((start - BASER) / 8) as usize],
            PIDR2 if self.profile.virtual_lpis => 0x40,
            PIDR2 => 0x30,
            _ => 0,
        };
        part(value, offset, start, bytes)
    }

    /// Progress that is made while software looks for it.
    fn poll_its(&mut self, its: usize, register: u32) {
        match register {
            CTLR => self.poll_quiescing(its),
            CREADR => {
                for _ in 0..=self.draw.below(3) {
                    self.run_command(its);
                }
                self.stir(its);
            }
            _ => {}
        }
    }

    pub(crate) fn its_write(&mut self, its: usize, offset: u32, bytes: u32, value: u64) {
        if (TRANSLATER..TRANSLATER + 4).contains(&offset) {
            self.violate(Violation::Doorbell { its, value });
            return;
        }
        if (SGIR..SGIR + 8).contains(&offset) {
            self.violate(Violation::VirtualRegister {
                frame: "ITS",
                index: its,
                offset,
                value,
            });
            return;
        }
        let width = register(offset);
        if !width.is_some_and(|(_, width)| is_access(offset, bytes, width)) {
            self.violate(Violation::Access {
                frame: "ITS",
                index: its,
                offset,
                bytes,
            });
            return;
        }
        let Some((start, _)) = width else { return };
        match start {
            CTLR => self.write_ctlr(its, value),
            CBASER | BASER..BASER_END => {
                let old = match start {
                    CBASER => self.units[its].cbaser,
                    _ => self.units[its].baser[((start - BASER) / 8) as usize],
                };
                let new = merge(old, value, offset, start, bytes);
                if !self.units[its].is_quiescent() {
                    self.violate(Violation::InUse {
                        its,
                        offset,
                        value: new,
                    });
                    let at = new & 0x0000_ffff_ffff_f000;
                    self.garbage(at..at.saturating_add(4096));
                }
                if start == CBASER {
                    self.write_cbaser(its, new);
                } else {
                    self.write_baser(its, ((start - BASER) / 8) as usize, new);
                }
            }
            CWRITER => {
                let new = merge(self.units[its].cwriter, value, offset, start, bytes);
                self.write_cwriter(its, new);
            }
            // Read-only, or without an effect here.
            _ => {}
        }
    }

    fn write_ctlr(&mut self, its: usize, value: u64) {
        // Enabled, ImDe; ITS_Number is read-only here, Quiescent always is.
        if value & !(1 << 31 | 0xf1 | 2) & 0xffff_ffff != 0 {
            self.violate(Violation::Reserved {
                frame: "ITS",
                index: its,
                offset: CTLR,
                value,
            });
        }
        match (self.units[its].enabled, value & 1 == 1) {
            (false, true) => {
                self.enable(its);
                self.run_now(its);
            }
            (true, false) => self.disable(its),
            _ => {}
        }
    }

    fn write_cbaser(&mut self, its: usize, value: u64) {
        const FIELDS: u64 = VALID | 0x7 << 59 | 0x7 << 53 | 0x000f_ffff_ffff_f000 | 0xcff;
        if value & !FIELDS != 0 {
            self.violate(Violation::Reserved {
                frame: "ITS",
                index: its,
                offset: CBASER,
                value,
            });
        }
        let kept = if self.profile.coherent {
            FIELDS
        } else {
            FIELDS & !0xc00
        };
        let unit = &mut self.units[its];
        unit.cbaser = value & kept;
        // CREADR becomes 0; CWRITER is software's to write.
        unit.creadr = 0;
        unit.stalled = false;
    }

    fn write_baser(&mut self, its: usize, n: usize, value: u64) {
        let Some(table) = self.profile.tables.get(n).copied() else {
            // Type 0: not implemented, reads as zero.
            return;
        };
        let read_only = 0x7 << 56 | 0x1f << 48;
        let mut value = value & !read_only;
        value |= table.kind.bits() << 56 | u64::from(table.entry_bytes - 1) << 48;
        if !table.indirect {
            value &= !INDIRECT;
        }
        if !self.profile.coherent {
            value &= !0xc00;
        }
        if self.profile.page_sizes >> (value >> 8 & 3) & 1 == 0 {
            let size = u64::from(self.profile.page_sizes.trailing_zeros());
            value = value & !0x300 | size << 8;
        }
        self.units[its].baser[n] = value;
    }

    fn write_cwriter(&mut self, its: usize, value: u64) {
        if value & !0xf_ffe1 != 0 {
            self.violate(Violation::Reserved {
                frame: "ITS",
                index: its,
                offset: CWRITER,
                value,
            });
        }
        let size = self.units[its].queue_bytes();
        let offset = value & 0xf_ffe0;
        if self.units[its].cbaser & VALID != 0 && offset >= size {
            self.violate(Violation::CommandQueue { its, offset, size });
        }
        let unit = &mut self.units[its];
        unit.cwriter = offset;
        if value & 1 == 1 {
            unit.stalled = false;
        }
        self.run_now(its);
    }

    /// Where commands are carried out at once, all of them.
    fn run_now(&mut self, its: usize) {
        if self.profile.pace != Pace::AtOnce {
            return;
        }
        // No queue is longer, unless CWRITER is out of its range.
        for _ in 0..0x8000 {
            if !self.has_command(its) {
                break;
            }
            self.run_command(its);
        }
    }
}

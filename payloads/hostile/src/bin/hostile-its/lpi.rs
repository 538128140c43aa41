//! LPIs at a redistributor and at this CPU (IHI 0069, 5.1 and 12.11).

use crate::places::{clear, own};
use core::arch::asm;
use portcullis_hostile::{read, read8, read64, write, write8, write64};

/// The first LPI.
pub const FIRST: u64 = 8192;
/// How many the tables here are for: INTIDs of 16 bits.
pub const COUNT: u64 = 57_344;

const CTLR: u64 = 0x0;
const TYPER: u64 = 0x8;
const WAKER: u64 = 0x14;
const PROPBASER: u64 = 0x70;
const PENDBASER: u64 = 0x78;
const CTLR_ENABLE_LPIS: u32 = 1 << 0;
const CTLR_RWP: u32 = 1 << 3;
/// GICR_PENDBASER.PTZ: the table is all zero.
pub const PTZ: u64 = 1 << 62;
const NOT_CACHED: u64 = 1 << 7;
/// INTIDs of 16 bits.
const ID_BITS: u64 = 15;
/// A byte of the configuration: enabled, in the middle of the priorities.
const ENABLED: u8 = 0xa0 | 1;

const PATIENCE: u32 = 200_000;

/// One redistributor.
#[derive(Clone, Copy, Debug)]
pub struct Redistributor {
    /// Its RD frame.
    pub frame: u64,
}

impl Redistributor {
    /// Whether it says that there are LPIs (GICR_TYPER.PLPIS).
    pub fn has_lpis(&self) -> bool {
        read64(self.frame + TYPER) & 1 != 0
    }

    /// Whether there are virtual LPIs as well (GICR_TYPER.VLPIS).
    pub fn has_virtual_lpis(&self) -> bool {
        read64(self.frame + TYPER) & 2 != 0
    }

    /// Its CPU's number (GICR_TYPER.Processor_Number).
    pub fn number(&self) -> u64 {
        read64(self.frame + TYPER) >> 8 & 0xffff
    }

    /// Stops LPIs.
    pub fn off(&self) {
        write(self.frame + CTLR, 0);
        for _ in 0..PATIENCE {
            if read(self.frame + CTLR) & (CTLR_ENABLE_LPIS | CTLR_RWP) == 0 {
                return;
            }
        }
    }

    /// Starts LPIs with tables anywhere.
    pub fn start_with(&self, configuration: u64, pending: u64, more: u64) {
        self.off();
        write64(self.frame + PROPBASER, configuration | NOT_CACHED | ID_BITS);
        write64(self.frame + PENDBASER, pending | NOT_CACHED | more);
        self.on();
    }

    /// Starts LPIs with whatever tables it has.
    pub fn on(&self) {
        // SAFETY: what was written before is seen before.
        unsafe { asm!("dsb sy") }
        write(self.frame + CTLR, CTLR_ENABLE_LPIS);
        let _ = (0..PATIENCE).any(|_| read(self.frame + CTLR) & CTLR_RWP == 0);
    }

    /// Starts LPIs as a driver does, all of them enabled.
    pub fn start(&self, cpu: usize) {
        self.off();
        enable_all();
        clear(own::PENDING[cpu], 0x1_0000);
        self.start_with(own::CONFIGURATION, own::PENDING[cpu], PTZ);
    }

    /// Wakes it up.
    pub fn wake(&self) {
        write(self.frame + WAKER, 0);
        let _ = (0..PATIENCE).any(|_| read(self.frame + WAKER) & 4 == 0);
    }
}

/// Fills the configuration: every LPI is enabled.
pub fn enable_all() {
    let all = u64::from_ne_bytes([ENABLED; 8]);
    for at in (0..COUNT).step_by(8) {
        write64(own::CONFIGURATION + at, all);
    }
}

/// Enables one LPI, or disables it. The redistributor has to be told.
pub fn enable(lpi: u64, on: bool) {
    let at = own::CONFIGURATION + lpi - FIRST;
    let byte = read8(at);
    write8(at, if on { byte | 1 } else { byte & !1 });
}

/// Prepares this CPU to see interrupts of Group 1.
pub fn open() {
    // SAFETY: this CPU's own interface; interrupts stay masked in PSTATE.
    unsafe {
        asm!("msr S3_0_C12_C12_5, {}", "isb", in(reg) 7u64); // ICC_SRE_EL1
        asm!("msr S3_0_C4_C6_0, {}", in(reg) 0xf0u64); // ICC_PMR_EL1
        asm!("msr S3_0_C12_C12_7, {}", "isb", in(reg) 1u64); // ICC_IGRPEN1_EL1
    }
}

fn is_lpi(interrupt: u64) -> bool {
    interrupt >= FIRST
}

/// The LPI that this CPU would take next, which stays pending.
pub fn highest() -> Option<u64> {
    let mut interrupt: u64;
    for _ in 0..64 {
        // SAFETY: reads ICC_HPPIR1_EL1.
        unsafe { asm!("dsb sy", "isb", "mrs {}, S3_0_C12_C12_2", out(reg) interrupt) }
        if is_lpi(interrupt & 0xff_ffff) {
            return Some(interrupt & 0xff_ffff);
        }
    }
    None
}

/// Takes an LPI of this CPU's, and the priority it runs at.
pub fn take_with_priority() -> Option<(u64, u64)> {
    let (interrupt, priority): (u64, u64);
    // SAFETY: acknowledges an interrupt (ICC_IAR1_EL1, ICC_RPR_EL1) and ends
    // it (ICC_EOIR1_EL1).
    unsafe {
        asm!("dsb sy", "isb", "mrs {}, S3_0_C12_C12_0", "dsb sy", out(reg) interrupt);
        if (1020..1024).contains(&interrupt) {
            return None;
        }
        asm!("mrs {}, S3_0_C12_C11_3", out(reg) priority);
        asm!("msr S3_0_C12_C12_1, {}", "isb", in(reg) interrupt);
    }
    is_lpi(interrupt).then_some((interrupt, priority))
}

/// Takes an LPI of this CPU's, if one comes soon.
pub fn take() -> Option<u64> {
    (0..2000).find_map(|_| take_with_priority().map(|(lpi, _)| lpi))
}

/// Takes all LPIs of this CPU's; how many there were.
pub fn drain() -> u32 {
    let mut count = 0;
    while take().is_some() && count < 100_000 {
        count += 1;
    }
    count
}

//! The host's accesses to the registers of the SMMUs and ITSs that it sees.
//!
//! The pages that have registers are mapped read-only, so that a write is a
//! permission fault and a read none. The rest of the registers is reserved and
//! absent.

use crate::percpu::{PerCpu, Reason, bump};
use crate::sysreg::host_ipa;
use crate::trap::Frame;
use crate::{its, smmu};
use smmuv3_emulator::{Progress, Size};

const ISV: u64 = 1 << 24;
const WRITE: u64 = 1 << 6;
const CACHE_OR_WALK: u64 = 1 << 8 | 1 << 7;
const AARCH32: u64 = 1 << 4;

/// Carries out a data access that stage 2 maps and does not permit. `false`
/// when it is no plain store of one register, which nobody understands here.
#[inline]
pub fn store(cpu: &PerCpu, frame: &mut Frame, esr: u64, far: u64) -> bool {
    if esr & (ISV | WRITE | CACHE_OR_WALK) != ISV | WRITE || frame.spsr & AARCH32 != 0 {
        return false;
    }
    // A permission fault leaves no IPA in HPFAR_EL2 (DDI 0487, HPFAR_EL2). Where
    // the address translates no longer, or to something else, another CPU of
    // the host's has changed the tables: the store is done again under them.
    let Some(ipa) = host_ipa(far) else {
        cpu.count(Reason::Other);
        return true;
    };
    let size = match esr >> 22 & 3 {
        0 => Size::Byte,
        1 => Size::Half,
        2 => Size::Word,
        _ => Size::Double,
    };
    let value = frame.get((esr >> 16 & 0x1f) as usize);
    // 7, 15, 31 or 63.
    let top = (8 << (esr >> 22 & 3)) - 1;
    let value = value & u64::MAX >> (63 - top);
    let progress = match smmu::store(ipa, size, value) {
        Some(progress) => {
            cpu.count(Reason::Smmu);
            progress
        }
        None => {
            cpu.count(Reason::Its);
            // Nothing else is shown: the host's tables changed meanwhile.
            its::store(ipa, size, value).unwrap_or(Progress::Again)
        }
    };
    if progress == Progress::Done {
        frame.skip();
    }
    true
}

/// Whether registers of an emulated SMMU or ITS are at `ipa`, reserved ones among them.
#[must_use]
pub fn is_register(ipa: u64) -> bool {
    smmu::is_register(ipa) || its::is_register(ipa)
}

/// Answers an access to registers that are reserved, and absent from stage 2:
/// they read as zero and ignore writes (IHI 0070, 6.1). `false` when the address
/// is none of an emulated SMMU or ITS.
pub fn reserved(cpu: &PerCpu, frame: &mut Frame, esr: u64, ipa: u64) -> bool {
    let understood = esr & (ISV | CACHE_OR_WALK) == ISV && frame.spsr & AARCH32 == 0;
    if !understood {
        return false;
    }
    if smmu::is_register(ipa) {
        cpu.count(Reason::Smmu);
        bump(&cpu.reserved_smmu);
    } else if its::is_register(ipa) {
        cpu.count(Reason::Its);
        bump(&cpu.refused_gic);
    } else {
        return false;
    }
    if esr & WRITE == 0 {
        frame.set((esr >> 16 & 0x1f) as usize, 0);
    }
    frame.skip();
    true
}

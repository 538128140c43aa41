//! The host's accesses to the registers of the SMMUs that it sees.
//!
//! The first 4 KiB of each register page are mapped read-only, so that a write is
//! a permission fault and a read none. The rest of the registers is reserved
//! and absent.

use crate::percpu::{PerCpu, Reason, bump};
use crate::smmu;
use crate::sysreg::host_ipa;
use crate::trap::Frame;
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
    cpu.count(Reason::Smmu);
    // A permission fault leaves no IPA in HPFAR_EL2 (DDI 0487, HPFAR_EL2). Where
    // the address translates no longer, or to something else, another CPU of
    // the host's has changed the tables: the store is done again under them.
    let Some(ipa) = host_ipa(far) else {
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
    if smmu::store(ipa, size, value) == Some(Progress::Done) {
        frame.skip();
    }
    true
}

/// Answers an access to registers that are reserved, and absent from stage 2:
/// they read as zero and ignore writes (IHI 0070, 6.1). `false` when the address
/// is none of an emulated SMMU.
pub fn reserved(cpu: &PerCpu, frame: &mut Frame, esr: u64, ipa: u64) -> bool {
    let understood = esr & (ISV | CACHE_OR_WALK) == ISV && frame.spsr & AARCH32 == 0;
    if !understood || !smmu::absent(ipa) {
        return false;
    }
    cpu.count(Reason::Smmu);
    bump(&cpu.reserved_smmu);
    if esr & WRITE == 0 {
        frame.set((esr >> 16 & 0x1f) as usize, 0);
    }
    frame.skip();
    true
}

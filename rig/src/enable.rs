//! What the registers must say of memory when translation is switched on.

use crate::finding::Finding;
use crate::machine::{Machine, Unit};
use smmuv3_spec::control::{FMT_LINEAR, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::id::Idr1;
use smmuv3_spec::reg;
use smmuv3_spec::ste::{L1Std, Ste};

impl Machine {
    /// SMMUEN is being set: the stream table must be in one piece of memory that
    /// was given out for it. What lies behind a table that is said to be larger
    /// may look like entries that abort, so that nobody would reach anything.
    pub(crate) fn look_at_stream_table(&self, unit: &Unit) {
        let (base, bytes) = stream_table(unit);
        let live = self.live.borrow();
        if live.get(&base).is_none_or(|size| *size < bytes) {
            self.find(Finding::Memory(base));
        }
    }
}

/// Where the stream table is and how large, as the registers say (6.3.24,
/// 6.3.25).
fn stream_table(unit: &Unit) -> (u64, u64) {
    let mut smmu = unit.smmu.borrow_mut();
    let base = StrtabBase::from(smmu.read64(reg::STRTAB_BASE));
    let cfg = StrtabBaseCfg::from(smmu.read32(reg::STRTAB_BASE_CFG));
    // A larger LOG2SIZE counts as SIDSIZE (6.3.25).
    let most = Idr1::from(smmu.read32(reg::IDR1)).sidsize().min(32);
    let bits = cfg.log2size().min(most);
    let bytes = if cfg.fmt() == FMT_LINEAR {
        Ste::SIZE << bits
    } else {
        L1Std::SIZE << bits.saturating_sub(cfg.split())
    };
    (base.addr_6() << 6, bytes)
}

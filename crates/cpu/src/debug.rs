//! MDCR_EL2: what of debugging and counting is the host's.

/// The registers that say what there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct DebugIds {
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
    /// PMCR_EL0, where there is a performance monitor.
    pub pmcr: u64,
}

impl DebugIds {
    const fn field(self, shift: u32) -> u64 {
        self.dfr0 >> shift & 0xf
    }

    /// Version of the performance monitor of the architecture; 0 for none.
    const fn monitor(self) -> u64 {
        match self.field(8) {
            0xf => 0,
            version => version,
        }
    }

    /// Whether there is a performance monitor, and so PMCR_EL0.
    #[must_use]
    pub const fn has_monitor(self) -> bool {
        self.monitor() != 0
    }

    /// FEAT_SPE.
    #[must_use]
    pub const fn has_profiling(self) -> bool {
        self.field(32) != 0
    }

    /// FEAT_TRF: TRFCR_EL2 exists.
    #[must_use]
    pub const fn has_trace_filter(self) -> bool {
        self.field(40) != 0
    }

    /// FEAT_BRBE.
    #[must_use]
    pub const fn has_branch_records(self) -> bool {
        self.field(52) != 0
    }

    /// MDCR_EL2: every counter, the profiling buffer and the trace buffer are EL1's,
    /// and neither events nor, where that can be said, cycles are counted while EL2
    /// runs (DDI 0487, MDCR_EL2), unless `count_el2` says that they are to be.
    #[must_use]
    pub const fn mdcr(self, count_el2: bool) -> u64 {
        const HPMD: u64 = 1 << 17;
        const HCCD: u64 = 1 << 23;
        const E2PB_EL1: u64 = 3 << 12;
        const E2TB_EL1: u64 = 3 << 24;
        let mut mdcr = 0;
        if self.has_monitor() {
            // HPMN.
            mdcr |= self.pmcr >> 11 & 0x1f;
        }
        // FEAT_PMUv3p1, FEAT_PMUv3p5.
        if self.monitor() >= 4 && !count_el2 {
            mdcr |= HPMD;
        }
        if self.monitor() >= 6 && !count_el2 {
            mdcr |= HCCD;
        }
        if self.has_profiling() {
            mdcr |= E2PB_EL1;
        }
        if self.field(44) != 0 {
            mdcr |= E2TB_EL1;
        }
        mdcr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_at_el2_where_that_can_be_said() {
        let mdcr = |version: u64| {
            let ids = DebugIds {
                dfr0: version << 8,
                pmcr: 6 << 11,
            };
            assert_eq!(ids.mdcr(true), ids.mdcr(false) & 0x1f);
            ids.mdcr(false)
        };
        assert_eq!(mdcr(0), 0);
        assert_eq!(mdcr(0xf), 0);
        assert_eq!(mdcr(1), 6);
        assert_eq!(mdcr(4), 6 | 1 << 17);
        assert_eq!(mdcr(5), 6 | 1 << 17);
        assert_eq!(mdcr(6), 6 | 1 << 17 | 1 << 23);
        assert_eq!(mdcr(9), 6 | 1 << 17 | 1 << 23);
    }

    #[test]
    fn buffers_are_of_el1() {
        let ids = DebugIds {
            dfr0: 1 << 32 | 1 << 44,
            pmcr: u64::MAX,
        };
        assert_eq!(ids.mdcr(false), 3 << 12 | 3 << 24);
        assert!(ids.has_profiling() && !ids.has_trace_filter() && !ids.has_branch_records());
    }
}

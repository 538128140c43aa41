//! What the SMMU was told and what it read, as QEMU's trace has it.

use serde::{Deserialize, Serialize};

/// Commands that the SMMU consumed and entries that its walker read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Commands that invalidate translations.
    pub tlbi: f64,
    /// Commands that invalidate configuration.
    pub cfgi: f64,
    /// CMD_SYNC.
    pub sync: f64,
    /// Any other commands.
    pub other: f64,
    /// Table entries that were read, of both stages.
    pub walker_reads: f64,
    /// Translations that the TLB did not have.
    pub tlb_misses: f64,
    /// Streams whose configuration the SMMU had not kept.
    pub config_misses: f64,
}

impl Traffic {
    /// Counts what is in `log`.
    #[must_use]
    pub fn count(log: &str) -> Self {
        let mut all = Self::default();
        for line in log.lines() {
            // The name may have the process and the time in front.
            if let Some((_, opcode)) = line.split_once("smmuv3_cmdq_opcode ") {
                *all.kind(opcode) += 1.0;
            } else if line.contains("smmu_get_pte ") {
                all.walker_reads += 1.0;
            } else if line.contains("smmu_iotlb_lookup_miss ") {
                all.tlb_misses += 1.0;
            } else if line.contains("smmuv3_config_cache_miss ") {
                all.config_misses += 1.0;
            }
        }
        all
    }

    fn kind(&mut self, opcode: &str) -> &mut f64 {
        if opcode.contains("CMD_TLBI") {
            &mut self.tlbi
        } else if opcode.contains("CMD_CFGI") {
            &mut self.cfgi
        } else if opcode.contains("CMD_SYNC") {
            &mut self.sync
        } else {
            &mut self.other
        }
    }

    /// All commands.
    #[must_use]
    pub fn commands(&self) -> f64 {
        self.tlbi + self.cfgi + self.sync + self.other
    }

    /// The share of one of `count` operations.
    #[must_use]
    pub fn each(self, count: u64) -> Self {
        self.with(self, |all, _| all / count as f64)
    }

    /// What is left without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.with(other, |ours, theirs| ours - theirs)
    }

    fn with(self, other: Self, change: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            tlbi: change(self.tlbi, other.tlbi),
            cfgi: change(self.cfgi, other.cfgi),
            sync: change(self.sync, other.sync),
            other: change(self.other, other.other),
            walker_reads: change(self.walker_reads, other.walker_reads),
            tlb_misses: change(self.tlb_misses, other.tlb_misses),
            config_misses: change(self.config_misses, other.config_misses),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_reads_are_told_apart() {
        let log = "\
smmuv3_cmdq_opcode <--- SMMU_CMD_TLBI_NH_VA\n\
12@3.5:smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\n\
smmuv3_cmdq_opcode <--- SMMU_CMD_CFGI_STE\n\
smmuv3_cmdq_opcode <--- SMMU_CMD_PREFETCH_CONFIG\n\
smmu_get_pte baseaddr=0x1 index=0x2, pteaddr=0x3, pte=0x4\n\
smmu_get_pte baseaddr=0x1 index=0x2, pteaddr=0x3, pte=0x4\n\
smmu_iotlb_lookup_miss IOTLB cache MISS asid=0\n\
smmu_iotlb_lookup_missing\n\
Trace 0: 0x7f [00/0000000040201400/00/00]\n";
        let traffic = Traffic::count(log).each(2);
        let expected = Traffic {
            tlbi: 0.5,
            cfgi: 0.5,
            sync: 0.5,
            other: 0.5,
            walker_reads: 1.0,
            tlb_misses: 0.5,
            config_misses: 0.0,
        };
        assert_eq!(traffic, expected);
        assert_eq!(traffic.commands(), 2.0);
        assert_eq!(traffic.minus(traffic), Traffic::default());
    }
}

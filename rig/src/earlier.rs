//! What an earlier owner of the SMMUs left behind.

use crate::machine::Machine;
use crate::map::{OLD, POOL};
use smmuv3_model::Smmu;
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};
use smmuv3_spec::reg;

/// Somebody used the SMMUs before, with the same VMID as ours, and left
/// everything on. Its translations lead into what is now the hypervisor's.
pub(crate) fn earlier_owner(machine: &Machine, noise: u64) {
    let (table, root) = (OLD.start, OLD.start + 0x4_0000);
    let ste = [
        1 | 0b110 << 1,
        0,
        // VMID 1, T0SZ 24, SL0 1, PS 40 bits, AA64, R.
        1 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58,
        root,
        0,
        0,
        0,
        0,
    ];
    {
        let mut ram = machine.ram.borrow_mut();
        for stream in 0..256 {
            for (word, value) in (0..).zip(ste) {
                ram.settle(table + stream * 64 + word * 8, value);
            }
        }
        // A block of 1 GiB over the pool.
        let index = POOL.start >> 30;
        let block = (POOL.start & !0x3fff_ffff) | 0x7c1;
        ram.settle(root + index * 8, block);
    }
    for (unit, seed) in machine
        .units
        .iter()
        .zip((0..).map(|n| noise.wrapping_add(n)))
    {
        let smmu = &mut unit.smmu.borrow_mut();
        let base = StrtabBase::new().with_addr_6(table >> 6);
        smmu.write64(reg::STRTAB_BASE, base.into());
        let cfg = StrtabBaseCfg::new().with_log2size(8);
        smmu.write32(reg::STRTAB_BASE_CFG, cfg.into());
        smmu.write32(reg::CR0, 1);
        while smmu.read32(reg::CR0ACK) != 1 {}
        if noise != 0 {
            scribble(smmu, seed);
        }
    }
}

/// Registers that an owner writes, those with 64 bits first.
const WIDE: [u32; 5] = [
    reg::STRTAB_BASE,
    reg::CMDQ_BASE,
    reg::EVENTQ_BASE,
    reg::GERROR_IRQ_CFG0,
    reg::EVENTQ_IRQ_CFG0,
];
const NARROW: [u32; 11] = [
    reg::CR0,
    reg::CR1,
    reg::CR2,
    reg::GBPA,
    reg::IRQ_CTRL,
    reg::GERRORN,
    reg::STRTAB_BASE_CFG,
    reg::CMDQ_PROD,
    reg::CMDQ_CONS,
    reg::EVENTQ_PROD,
    reg::EVENTQ_CONS,
];

/// Anything in any register. Whoever takes over does so long after, when every
/// update has come into force.
fn scribble(smmu: &mut Smmu, seed: u64) {
    let mut state = seed | 1;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..24 {
        let (choice, value) = (draw() as usize, draw());
        match choice % 4 {
            0 => smmu.write64(WIDE[choice / 4 % WIDE.len()], value),
            1 => {
                smmu.read32(NARROW[choice / 4 % NARROW.len()]);
                smmu.read32(reg::CR0ACK);
                smmu.read32(reg::CMDQ_CONS);
            }
            _ => smmu.write32(NARROW[choice / 4 % NARROW.len()], value as u32),
        }
    }
    for _ in 0..8 {
        for offset in [reg::CR0ACK, reg::IRQ_CTRLACK, reg::GBPA] {
            smmu.read32(offset);
        }
    }
}

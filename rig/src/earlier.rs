//! What an earlier owner of the SMMUs left behind.

use crate::machine::Machine;
use crate::map::{OLD, POOL};
use smmuv3_model::{Policy, Smmu};
use smmuv3_spec::control::{Cr0, Gbpa, QueueBase, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::id::Idr0;
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

/// What may still be reachable while an SMMU is being taken over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Earlier {
    /// Nothing more: the fence is closed, and does not open again.
    Nothing,
    /// What its earlier owner's tables say, but no bypass.
    Tables,
    /// Nobody knows.
    Anything,
}

impl Earlier {
    /// Whether all that `smmu` can do is its earlier owner's work.
    pub(crate) fn excuses(self, smmu: &mut Smmu) -> bool {
        match self {
            Self::Nothing => false,
            Self::Anything => true,
            Self::Tables => smmu.check(&Old).is_ok(),
        }
    }
}

/// Whether an SMMU that nothing passes now stays like that by itself: no update
/// that is under way can open it.
pub(crate) fn is_fenced(smmu: &mut Smmu) -> bool {
    let gbpa = Gbpa::from(smmu.read32(reg::GBPA));
    let cr0 = Cr0::from(smmu.read32(reg::CR0));
    gbpa.abort() && !gbpa.update() && !cr0.smmuen()
}

/// The rules of the earlier owner, the same for every stream.
struct Old;

impl Policy for Old {
    fn first_forbidden(&self, _stream: StreamId, range: Range<u64>, _write: bool) -> Option<u64> {
        let inside = BLOCK.start <= range.start && range.end <= BLOCK.end;
        (!inside).then_some(range.start)
    }

    fn first_foreign(&self, range: Range<u64>) -> Option<u64> {
        let inside = OLD.start <= range.start && range.end <= OLD.end;
        (!inside).then_some(range.start)
    }
}

/// What its only block maps.
const BLOCK: Range<u64> = {
    let start = POOL.start & !0x3fff_ffff;
    start..start + (1 << 30)
};
/// Where its tables and its command queue were.
const ROOT: u64 = OLD.start + 0x4_0000;
const RING: u64 = OLD.start + 0x8_0000;

/// Somebody used the SMMUs before, with the same VMID as ours, and left
/// everything on. Its translations lead into what is now the hypervisor's.
///
/// By `noise` it left with all in order, with a refused command in its queue,
/// or in the middle of anything.
pub(crate) fn earlier_owner(machine: &Machine, noise: u64) {
    let ste = [
        1 | 0b110 << 1,
        0,
        // VMID 1, T0SZ 24, SL0 1, PS 40 bits, AA64, R.
        1 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58,
        ROOT,
        0,
        0,
        0,
        0,
    ];
    {
        let mut ram = machine.ram.borrow_mut();
        for stream in 0..256 {
            for (word, value) in (0..).zip(ste) {
                ram.settle(OLD.start + stream * 64 + word * 8, value);
            }
        }
        // A block of 1 GiB over the pool.
        let index = BLOCK.start >> 30;
        ram.settle(ROOT + index * 8, BLOCK.start | 0x7c1);
        // CMD_CFGI_STE_RANGE for all, and what is no command.
        for (word, value) in (0..).zip([4, 31, 4, 31, 4, 31, 0xff, 0]) {
            ram.settle(RING + word * 8, value);
        }
    }
    let noises = (0..).map(|n| noise.wrapping_add(n));
    for (unit, noise) in machine.units.iter().zip(noises) {
        let smmu = &mut unit.smmu.borrow_mut();
        let base = StrtabBase::new().with_addr_6(OLD.start >> 6);
        smmu.write64(reg::STRTAB_BASE, base.into());
        let cfg = StrtabBaseCfg::new().with_log2size(8);
        smmu.write32(reg::STRTAB_BASE_CFG, cfg.into());
        let ring = QueueBase::new().with_log2size(4).with_addr_5(RING >> 5);
        smmu.write64(reg::CMDQ_BASE, ring.into());
        smmu.write32(reg::CMDQ_PROD, 0);
        smmu.write32(reg::CMDQ_CONS, 0);
        // SMMUEN, CMDQEN, ATSCHK.
        let ats = Idr0::from(smmu.read32(reg::IDR0)).ats();
        let on = 0b1001 | u32::from(ats) << 4;
        smmu.write32(reg::CR0, on);
        while smmu.read32(reg::CR0ACK) != on {}
        let left = match noise % 4 {
            0 => Earlier::Tables,
            1 => refused(smmu, noise / 4),
            _ => {
                scribble(smmu, noise);
                Earlier::Anything
            }
        };
        unit.earlier.set(left);
        // None of it is the mistake of the code under test.
        smmu.take_misuse();
    }
}

/// Its last command is refused, and nobody acknowledges that. Its next update
/// is under way.
fn refused(smmu: &mut Smmu, noise: u64) -> Earlier {
    smmu.write32(reg::CMDQ_PROD, 5);
    while smmu.read32(reg::GERROR) == smmu.read32(reg::GERRORN) {
        smmu.read32(reg::CMDQ_CONS);
    }
    let cr0 = smmu.read32(reg::CR0);
    match noise % 4 {
        // EVENTQEN goes on.
        0 => smmu.write32(reg::CR0, cr0 | 0b100),
        1 => smmu.write32(reg::IRQ_CTRL, 0b101),
        2 => {
            // SMMUEN goes off, which opens everything.
            smmu.write32(reg::GBPA, 1 << 31);
            smmu.write32(reg::CR0, cr0 & !1);
            return Earlier::Anything;
        }
        _ => {}
    }
    Earlier::Tables
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

/// Anything in any register. Some updates may be under way at the end.
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
    if seed & 4 != 0 {
        for _ in 0..8 {
            for offset in [reg::CR0ACK, reg::IRQ_CTRLACK, reg::GBPA] {
                smmu.read32(offset);
            }
        }
    }
}

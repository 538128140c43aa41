//! The CPUs' stage 2, as greedy as the SMMUs'.
//!
//! What a CPU may cache of a stage 2, and what TLBI with DSB takes away, is
//! what an SMMU may cache and what a command with CMD_SYNC takes away (DDI
//! 0487, D8; IHI 0070, 3.17 and 4.4). So the CPUs together are one more SMMU
//! with one stream, and the same oracle judges it.

use crate::map::CPU;
use portcullis_addr::{Ipa, Range};
use portcullis_pagetable::Geometry;
use smmuv3_driver::{Granule, RangeCommands};
use smmuv3_model::{Access, Mode, Profile, Ram, Smmu, Transaction};
use smmuv3_spec::command::{Command, SIG_NONE};
use smmuv3_spec::control::{QueueBase, StrtabBase, StrtabBaseCfg};
use smmuv3_spec::{StreamId, Vmid, reg};
use std::cell::{Cell, RefCell};

/// The stream that stands for the CPUs.
pub(crate) const STREAM: StreamId = StreamId(0);
const RING: u64 = CPU.start + 0x1000;
const RING_LOG2: u8 = 8;

pub(crate) struct Cpu {
    pub(crate) smmu: RefCell<Smmu>,
    ram: RefCell<Ram>,
    prod: Cell<u32>,
}

impl Cpu {
    /// Switched off. `bbml` is `ID_AA64MMFR2_EL1.BBM`.
    pub(crate) fn new(ram: Ram, mode: Mode, bbml: u8) -> Self {
        let full = Profile::full();
        let profile = Profile {
            name: "cpu",
            // A CPU has no endpoints.
            idr0: full.idr0.with_ats(false).with_pri(false),
            idr3: full.idr3.with_bbml(bbml),
            // No host runs yet.
            gbpa: 1 << 20,
            ..full
        };
        let mode = match mode {
            Mode::Greedy { seed } => Mode::Greedy { seed: !seed },
            Mode::Random { seed } => Mode::Random { seed: !seed },
            Mode::Plain => Mode::Plain,
        };
        Self {
            smmu: RefCell::new(Smmu::on(profile, ram.clone(), mode, [STREAM])),
            ram: RefCell::new(ram),
            prod: Cell::new(0),
        }
    }

    /// VTTBR_EL2 and VTCR_EL2, then HCR_EL2.VM.
    pub(crate) fn enable(&self, root: u64, geometry: &Geometry, vmid: Vmid) {
        let fields = u64::from(vmid.0)
            | geometry.t0sz() << 32
            | geometry.sl0() << 38
            | geometry.ps() << 48
            | 1 << 51
            | 1 << 58;
        let entry = [1 | 0b110 << 1, 0, fields, root, 0, 0, 0, 0];
        for (at, word) in (CPU.start..).step_by(8).zip(entry) {
            self.ram.borrow_mut().settle(at, word);
        }
        let mut smmu = self.smmu.borrow_mut();
        let base = StrtabBase::new().with_addr_6(CPU.start >> 6);
        smmu.write64(reg::STRTAB_BASE, base.into());
        smmu.write32(reg::STRTAB_BASE_CFG, StrtabBaseCfg::new().into());
        let ring = QueueBase::new()
            .with_log2size(RING_LOG2)
            .with_addr_5(RING >> 5);
        smmu.write64(reg::CMDQ_BASE, ring.into());
        // SMMUEN, CMDQEN.
        smmu.write32(reg::CR0, 0b1001);
        while smmu.read32(reg::CR0ACK) != 0b1001 {}
    }

    /// TLBI for the stage 2 of `vmid` on every CPU, then DSB.
    pub(crate) fn invalidate(&self, vmid: Vmid, range: Range<Ipa>, level: Option<u8>, leaf: bool) {
        let commands = RangeCommands::new(vmid, range, Granule::Size4K, level, leaf);
        for command in commands.into_iter().flatten() {
            self.run(command);
        }
        self.run(Command::sync(SIG_NONE));
    }

    fn run(&self, command: Command) {
        let slots = 1 << RING_LOG2;
        let prod = self.prod.get();
        let at = RING + u64::from(prod % slots) * Command::SIZE;
        self.ram.borrow_mut().settle(at, command.0[0]);
        self.ram.borrow_mut().settle(at + 8, command.0[1]);
        let next = (prod + 1) % (2 * slots);
        self.prod.set(next);
        let mut smmu = self.smmu.borrow_mut();
        smmu.write32(reg::CMDQ_PROD, next);
        while smmu.read32(reg::CMDQ_CONS) != next {}
    }

    /// Whether a CPU of the host gets through to `at` by a walk.
    pub(crate) fn reaches(&self, at: u64) -> bool {
        let access = Transaction::new(STREAM, at, Access::Write);
        self.smmu.borrow_mut().translate(access) == Ok(at)
    }
}

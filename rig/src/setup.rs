//! From reset to a running machine.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{DOORBELL, OLD, OTHER, PAGES, POOL, RAM, SPARE};
use crate::mutant::Mutant;
use crate::op::Op;
use crate::world::{Driver, World, range};
use portcullis_addr::{PAGE_SIZE, PhysAddr};
use portcullis_isolation::{HostSpace, HostTables, Ledger};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Owner};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2 as Stage2Format, Stage2Attributes, Table,
};
use smmuv3_driver::{self as driver, Stage2};
use smmuv3_model::{Counts, Mode, Profile};
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};
use smmuv3_spec::{Vmid, reg};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU32;

/// What a program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What the SMMU can do.
    pub profile: Profile,
    /// What it does of its own accord.
    pub mode: Mode,
    /// Somebody had the SMMU before, and left it running.
    pub used: bool,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = if self.used { ", used before" } else { "" };
        write!(f, "{} ({:?}{used})", self.profile.name, self.mode)
    }
}

/// Where a program was stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopped {
    /// Operations that were complete by then.
    pub step: usize,
    /// What was found.
    pub finding: Finding,
}

impl From<Finding> for Stopped {
    fn from(finding: Finding) -> Self {
        Self { step: 0, finding }
    }
}

/// Runs a program.
///
/// # Errors
/// The first [`Finding`], and where.
///
/// # Panics
/// When the machine cannot be set up, which is a defect of the rig.
pub fn run(setup: Setup, mutant: Mutant, program: &[Op]) -> Result<Counts, Stopped> {
    let machine = Machine::new(setup.profile, setup.mode, mutant);
    if setup.used {
        earlier_owner(&machine);
    }
    machine.smmu.borrow_mut().take_misuse();
    let config = driver::Config {
        command_log2: 4,
        event_log2: 3,
        ..driver::Config::default()
    };
    let driver = Driver::new(&machine, &machine, &machine, config)
        .map_err(|_| Finding::Failed("taking over"));
    machine.armed.set(true);
    machine.check();
    if let Some(finding) = machine.finding.get() {
        return Err(finding.into());
    }
    let driver = driver?;

    let entries: Vec<_> = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
    let banks = [Bank::new(range(RAM.start, RAM.end - RAM.start), &entries).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let all = range(RAM.start, RAM.end - RAM.start);
    let to_host = ledger.begin(all, Owner::NOBODY, Owner::HOST);
    to_host.unwrap().commit();
    let arena = Arena::new(PhysAddr::new(0x20_0000_0000), 1 << 20);
    let geometry = Geometry::stage2(Granule::Size4K, 40, 40).unwrap();
    let bbm = if mutant == Mutant::WrongBbm || machine.smmu.borrow().profile().idr3.bbml() >= 2 {
        Bbm::Level2
    } else {
        Bbm::Level0
    };
    let tables = HostTables {
        geometry,
        cpu_bbm: bbm,
        dma_bbm: bbm,
    };
    let doorbell = [range(DOORBELL.start, PAGE_SIZE)];
    let none = std::iter::empty();
    let space = HostSpace::new(ledger, tables, &arena, &machine, none, doorbell.into_iter());
    let mut space_other = Table::<Stage2Format, _>::new(geometry, bbm, &machine).unwrap();
    let attributes = Stage2Attributes {
        memory: MemoryType::Normal,
        read: true,
        write: true,
        execute: Execute::Never,
    };
    let mut space_spare = Table::<Stage2Format, _>::new(geometry, bbm, &machine).unwrap();
    for (table, memory) in [(&mut space_other, OTHER), (&mut space_spare, SPARE)] {
        let memory = range(memory.start, memory.end - memory.start);
        table
            .map(memory.identity(), memory.start(), attributes)
            .unwrap();
    }

    let space = space.unwrap();
    let stage2 = |vmid, root| Stage2 {
        vmid: Vmid(vmid),
        root,
        granule: driver::Granule::Size4K,
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        ps: geometry.ps() as u8,
    };
    let domains = [
        stage2(1, space.dma().root()),
        stage2(2, space_other.root()),
        stage2(3, space_other.root()),
    ];
    let mut world = World {
        machine: &machine,
        driver,
        space,
        domains,
        spare: (stage2(3, space_spare.root()), SPARE),
        last: OTHER,
        at: BTreeMap::new(),
    };
    for (step, op) in program.iter().enumerate() {
        world
            .step(op)
            .map_err(|finding| Stopped { step, finding })?;
    }
    let counts = machine.smmu.borrow().counts();
    Ok(counts)
}

/// Somebody used the SMMU before, with the same VMID as ours, and left
/// everything on. Its translations lead into what is now the hypervisor's.
fn earlier_owner(machine: &Machine) {
    let (table, root) = (OLD.start, OLD.start + 0x4_0000);
    {
        let mut smmu = machine.smmu.borrow_mut();
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
        for stream in 0..256 {
            for (word, value) in (0..).zip(ste) {
                smmu.ram_mut().settle(table + stream * 64 + word * 8, value);
            }
        }
        // A block of 1 GiB over the pool.
        let index = POOL.start >> 30;
        let block = (POOL.start & !0x3fff_ffff) | 0x7c1;
        smmu.ram_mut().settle(root + index * 8, block);
        let base = StrtabBase::new().with_addr_6(table >> 6);
        smmu.write64(reg::STRTAB_BASE, base.into());
        let cfg = StrtabBaseCfg::new().with_log2size(8);
        smmu.write32(reg::STRTAB_BASE_CFG, cfg.into());
        smmu.write32(reg::CR0, 1);
        while smmu.read32(reg::CR0ACK) != 1 {}
    }
}

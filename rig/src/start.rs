//! From reset to a running machine, and through a program.

use crate::earlier::{Earlier, earlier_owner};
use crate::everywhere::HOST_VMID;
use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{DOORBELL, OTHER, RAM, SPARE, WITHHELD};
use crate::memory::CpuMemory;
use crate::mutant::Mutant;
use crate::op::Op;
use crate::port::Port;
use crate::setup::{Counts, Setup, Stopped};
use crate::world::{Driver, World};
use portcullis_addr::{Identity, PhysAddr, Range};
use portcullis_isolation::{Ledger, OwnerSpace, TableShapes};
use portcullis_ownership::Owner;
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2 as Stage2Format, Stage2Attributes, Table,
};
use smmuv3_driver::{self as driver, Stage2};
use smmuv3_spec::Vmid;
use std::collections::BTreeMap;
use std::ops;

/// Runs a program.
///
/// # Errors
/// The first [`Finding`], and where.
///
/// # Panics
/// When the machine cannot be set up, which is a defect of the rig.
pub fn run(setup: Setup, mutant: Mutant, program: &[Op]) -> Result<Counts, Stopped> {
    if let Some(gic) = setup.gic {
        crate::its::run(gic, program)?;
        return Ok(Counts::default());
    }
    let machine = Machine::new(&setup, mutant);
    for unit in &machine.units {
        // What reset leaves unknown is anything.
        unit.smmu.borrow_mut().scramble();
    }
    if let Some(noise) = setup.used {
        earlier_owner(&machine, noise);
    }
    machine.allowed.borrow_mut().streams = vec![BTreeMap::new(); machine.units.len()];
    machine.armed.set(true);
    let mut drivers = Vec::new();
    for unit in 0..machine.units.len() {
        let port = Port {
            machine: &machine,
            unit,
        };
        drivers.push(Driver::new(port, &machine, &machine, config()));
    }
    for unit in &machine.units {
        unit.earlier.set(Earlier::Nothing);
    }
    machine.check();
    if let Some(finding) = machine.finding.get() {
        return Err(finding.into());
    }
    let drivers: Result<Vec<_>, _> = drivers.into_iter().collect();
    let drivers = drivers.map_err(|_| Finding::Failed("taking over"))?;

    let banks = machine.banks();
    let ledger = Ledger::new(&banks).expect("the banks are in order");
    if setup.paravirt.is_some() {
        let (space, tables) = host_space(&machine, ledger, &setup);
        crate::paravirt::run(&machine, drivers, ledger, space, tables, program)?;
        return Ok(counts(&machine));
    }
    let mut world = host(&machine, drivers, ledger, &setup);
    if setup.nested {
        world.emulate_all()?;
    }
    *machine.allowed.borrow_mut() = world.allowed();
    for (step, op) in program.iter().enumerate() {
        world
            .step(op)
            .map_err(|finding| Stopped { step, finding })?;
    }
    let end = |finding| Stopped {
        step: program.len().saturating_sub(1),
        finding,
    };
    world.settle().map_err(end)?;
    Ok(counts(&machine))
}

/// Queues that are soon full, and wrap often.
fn config() -> driver::Config {
    driver::Config {
        command_log2: 4,
        event_log2: 3,
        ..driver::Config::default()
    }
}

fn counts(machine: &Machine) -> Counts {
    let mut sum = Counts::default();
    for unit in &machine.units {
        let counts = unit.smmu.borrow().counts();
        sum.syncs += counts.syncs;
        sum.descriptors += counts.descriptors;
        sum.events += counts.events;
    }
    sum.descriptors += machine.cpu.smmu.borrow().counts().descriptors;
    sum
}

/// Tables for the host, whose CPUs run behind theirs, and what tables for
/// devices look like.
fn host_space<'m>(
    machine: &'m Machine,
    ledger: Ledger<'m>,
    setup: &Setup,
) -> (OwnerSpace<'m, CpuMemory<'m>, &'m Machine>, (Geometry, Bbm)) {
    let input = if setup.wide { 40 } else { 36 };
    let geometry = Geometry::stage2(Granule::Size4K, input, 40).expect("a legal geometry");
    let sound = setup
        .profiles()
        .iter()
        .all(|profile| profile.idr3.bbml() >= 2);
    let level = |two| if two { Bbm::Level2 } else { Bbm::Level0 };
    let dma_bbm = level(sound || machine.mutant == Mutant::WrongBbm);
    let tables = TableShapes {
        dma_geometry: geometry,
        cpu_geometry: geometry,
        cpu_bbm: level(setup.cpu_bbm || machine.mutant == Mutant::WrongBbm),
        dma_bbm,
    };
    let space = OwnerSpace::identity(
        ledger,
        Owner::HOST,
        HOST_VMID,
        tables,
        CpuMemory(machine),
        machine,
        [range(0..RAM.start), range(WITHHELD.end..1 << 40)].into_iter(),
        std::iter::once(range(DOORBELL)),
    );
    let space = space.expect("room for the host's tables");
    machine
        .cpu
        .enable(space.cpu().root().raw(), &geometry, HOST_VMID);
    (space, (geometry, dma_bbm))
}

/// The same, and tables for two other domains.
fn host<'m>(
    machine: &'m Machine,
    drivers: Vec<Driver<'m>>,
    ledger: Ledger<'m>,
    setup: &Setup,
) -> World<'m> {
    let (space, (geometry, dma_bbm)) = host_space(machine, ledger, setup);
    let table = |memory: ops::Range<u64>| {
        let attributes = Stage2Attributes {
            memory: MemoryType::Normal,
            read: true,
            write: true,
            execute: Execute::Never,
        };
        let mut table =
            Table::<Stage2Format, _>::new(geometry, dma_bbm, machine).expect("room for a root");
        let memory = range(memory);
        let mapped = table.map(Identity.ipa(memory), memory.start(), attributes);
        mapped.expect("room for a table");
        table.root()
    };
    let stage2 = |vmid, root| Stage2 {
        vmid: Vmid(vmid),
        root,
        granule: driver::Granule::Size4K,
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        ps: geometry.ps() as u8,
    };
    let (other, spare) = (table(OTHER), table(SPARE));
    World {
        machine,
        drivers,
        domains: [
            stage2(HOST_VMID.0, space.dma().root()),
            stage2(2, other),
            stage2(3, other),
        ],
        space,
        spare: (stage2(3, spare), SPARE),
        last: OTHER,
        at: BTreeMap::new(),
        nested: BTreeMap::new(),
        limbo: Vec::new(),
        scarred: false,
        in_doubt: None,
        torn: Vec::new(),
        hosts: Vec::new(),
    }
}

pub(crate) fn range(range: ops::Range<u64>) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(range.start), range.end - range.start).expect("not empty")
}

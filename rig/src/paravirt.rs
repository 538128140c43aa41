//! Worlds in which the host has no page table for its devices: it asks for
//! mappings, of the domains themselves or of the virtio-iommu device in front of
//! them.

pub(crate) mod books;
mod driver;
pub(crate) mod front;
pub(crate) mod generate;
mod look;
pub(crate) mod op;
pub(crate) mod para;
mod sequences;
pub(crate) mod soft;
mod spare;
pub(crate) mod watched;
mod world;

pub use op::{Ask, FrontOp, ParaOp, Shape};

use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{DOORBELL, DOORBELLS, PARA_POOL, STREAMS, place};
use crate::memory::{CpuMemory, PoolMemory};
use crate::op::Op;
use crate::setup::Stopped;
use crate::start::range;
use crate::world::Driver;
use books::Mapping;
use driver::Front;
use look::endpoint_of;
use portcullis_dma_domain::{Access, DmaUnit, Iommu};
use portcullis_isolation::{
    Directory, Domains, EndpointRange, Ledger, OwnerSpace, Slot, SlotBlock, Slots, SmmuUnit,
    SmmuUnitConfig, Smmus,
};
use portcullis_ownership::Owner;
use portcullis_pagetable::{Bbm, Geometry};
use smmuv3_spec::{StreamId, Vmid};
use soft::SoftUnit;
use spare::Spare;
use std::cell::RefCell;
use virtio_iommu_device::{Config, Device};
use watched::Watched;
use world::ParaWorld;

/// What paravirtual mode runs on, and is asked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Para {
    /// The host asks the virtio-iommu device, which may do so much work in one
    /// call.
    pub device: Option<u32>,
    /// The driver changes each word of a request as soon as it was read.
    pub flicker: bool,
    /// Translation is not done by SMMUs, but by something else.
    pub soft: bool,
    /// How many doorbells there are, at most two.
    pub doorbells: u8,
    /// Pages of the first bank of RAM, if there are two.
    pub border: Option<u16>,
}

/// Domains that there can be.
const SLOTS: usize = 4;

/// Those of them that always have room.
const FIRST_SLOTS: usize = 2;

/// The first VMID of the domains.
const FIRST_VMID: Vmid = Vmid(5);

/// The SMMUs, for the domains.
#[derive(Clone, Copy)]
struct Near<'d, 'm>(&'d [RefCell<Driver<'m>>]);

impl<'m> Smmus for Near<'_, 'm> {
    type Registers = crate::port::Port<'m>;
    type Memory = &'m Machine;
    type Clock = &'m Machine;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'m>) -> T) -> Option<T> {
        self.0
            .get(index)
            .map(|driver| with(&mut driver.borrow_mut()))
    }
}

/// Streams whose numbers follow each other are one range.
fn endpoints(units: usize) -> Vec<EndpointRange> {
    let mut all: Vec<_> = (0..STREAMS)
        .map(|stream| {
            let (smmu, id) = place(stream, units);
            EndpointRange {
                first: endpoint_of(stream, units),
                count: 1,
                smmu,
                stream: StreamId(id),
            }
        })
        .collect();
    all.sort_by_key(|range| range.first);
    let mut joined: Vec<EndpointRange> = Vec::new();
    for range in all {
        match joined.last_mut() {
            Some(last) if last.first.0 + last.count == range.first.0 => last.count += 1,
            _ => joined.push(range),
        }
    }
    joined
}

/// Runs a program in such a world.
pub(crate) fn run<'m>(
    machine: &'m Machine,
    drivers: Vec<Driver<'m>>,
    ledger: Ledger<'m>,
    space: OwnerSpace<'m, CpuMemory<'m>, &'m Machine>,
    (geometry, bbm): (Geometry, Bbm),
    program: &[Op],
) -> Result<(), Stopped> {
    let drivers: Vec<_> = drivers.into_iter().map(RefCell::new).collect();
    if machine.soft.is_some() {
        let unit = SoftUnit {
            machine,
            slots: SLOTS,
        };
        return play(machine, &drivers, ledger, space, unit, 0, program);
    }
    let endpoints = endpoints(drivers.len());
    let config = SmmuUnitConfig {
        geometry,
        bbm,
        first_vmid: FIRST_VMID,
        slots: SLOTS,
    };
    let memory = PoolMemory {
        machine,
        pool: PARA_POOL,
    };
    let unit = SmmuUnit::new(config, &endpoints, memory, Near(&drivers));
    let unit = unit.ok_or(Finding::Failed("making domains"))?;
    let root = geometry.root_bytes();
    play(machine, &drivers, ledger, space, unit, root, program)
}

fn play<'m, U: DmaUnit>(
    machine: &'m Machine,
    drivers: &[RefCell<Driver<'m>>],
    ledger: Ledger<'m>,
    space: OwnerSpace<'m, CpuMemory<'m>, &'m Machine>,
    unit: U,
    root: u64,
    program: &[Op],
) -> Result<(), Stopped> {
    let mut first: [Option<Slot<U::Domain>>; FIRST_SLOTS] = [const { None }; FIRST_SLOTS];
    let mut chunk: SlotBlock<U::Domain> = [const { None }; _];
    let mut directory: Directory<'_, U::Domain> = [const { None }; _];
    let spare = Spare {
        chunk: Some(&mut chunk),
        directory: Some(&mut directory),
    };
    let count = machine.paravirt.map_or(0, |para| para.doorbells);
    let bells: Vec<_> = [DOORBELL, DOORBELLS]
        .into_iter()
        .take(count.into())
        .collect();
    let domains = Domains::new(
        ledger,
        Owner::HOST,
        unit,
        Slots::growing(&mut first, spare),
        bells.iter().cloned().map(range),
    );
    let domains = domains.ok_or(Finding::Failed("making domains"))?;
    let watched = Watched { machine, domains };
    let mut front = None;
    {
        let limits = watched.limits();
        let mut para = machine.para.borrow_mut();
        para.limits = Some(limits);
        let access = Access::WRITE | Access::MMIO;
        let bells = bells.iter();
        let bells = bells.map(|bell| Mapping::new(bell.start, bell.end, bell.start, access));
        para.doorbells = bells.collect();
        if let Some(Para {
            device: Some(work), ..
        }) = machine.paravirt
        {
            let config = Config {
                work,
                ..Config::default()
            };
            let device = Device::new(&limits, &config);
            front = Some(Front::new(
                device.map_err(|_| Finding::Failed("making a device"))?,
                work,
            ));
        }
    }
    let mut world = ParaWorld {
        machine,
        drivers,
        space,
        watched,
        front,
        root,
    };
    world.settle()?;
    for (step, op) in program.iter().enumerate() {
        world
            .step(op)
            .map_err(|finding| Stopped { step, finding })?;
    }
    let step = program.len().saturating_sub(1);
    world.settle().map_err(|finding| Stopped { step, finding })
}

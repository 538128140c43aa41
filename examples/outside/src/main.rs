//! A stage 2 of one's own, in front of an SMMU that does its worst.
//!
//! The driver takes a modelled SMMU over and gives a device two pages. Then one of
//! them is taken away again, and the oracle is asked what the device could still
//! reach: before the invalidation, and after.

mod machine;

use machine::{DATA, Machine, Rules};
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2 as Format, Stage2Attributes, Table,
};
use smmuv3_driver::{Attributes, Config, Smmu, Stage2, Translation};
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::{StreamId, Vmid};
use std::error::Error;

const STREAM: StreamId = StreamId(3);
const VMID: Vmid = Vmid(1);
/// Where the device sees its memory.
const WINDOW: u64 = 0x4000_0000;
const PAGE: u64 = 0x1000;

fn main() -> Result<(), Box<dyn Error>> {
    let machine = &Machine::new(STREAM);
    machine.smmu(|smmu| smmu.ram_mut().settle(DATA + PAGE, 0x5eed));

    let mut driver = Smmu::new(machine, machine, machine, Config::default())?;
    println!("taken over, {} bits of stream", driver.stream_bits());
    println!("stream {STREAM}: {}", read(machine, WINDOW));

    // Two pages, one to one from WINDOW on.
    let geometry = Geometry::stage2(Granule::Size4K, 40, 40)?;
    let mut table = Table::<Format, _>::new(geometry, Bbm::Level0, machine)?;
    let window = Range::from_size(Ipa::new(WINDOW), 2 * PAGE)?;
    let attributes = Stage2Attributes {
        memory: MemoryType::Normal,
        read: true,
        write: true,
        execute: Execute::Never,
    };
    table.map(window, PhysAddr::new(DATA), attributes)?;
    let stage2 = Stage2 {
        vmid: VMID,
        root: table.root(),
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        granule: smmuv3_driver::Granule::Size4K,
        ps: geometry.ps() as u8,
    };
    let attributes = Attributes::INCOMING;
    driver.set(STREAM, &Translation::Stage2 { stage2, attributes })?;
    println!("attached: {}", read(machine, WINDOW + PAGE));
    println!("beyond: {}", read(machine, WINDOW + 2 * PAGE));

    // The second page goes. The SMMU has not been told yet.
    let page = Range::from_size(Ipa::new(WINDOW + PAGE), PAGE)?;
    let plan = table.unmap(page)?;
    let rules = Rules(DATA..DATA + PAGE);
    match machine.smmu(|smmu| smmu.check(&rules)) {
        Ok(()) => println!("unmapped: out of reach"),
        Err(violation) => println!("unmapped: {violation}"),
    }
    let range = plan.range().ok_or("there is something to invalidate")?;
    driver.tlbi_ipa_range(VMID, range, stage2.granule, plan.level(), plan.leaf_only())?;
    table
        .complete(plan)
        .map_err(|_| "the plan is of this table")?;
    machine.smmu(|smmu| smmu.check(&rules))?;
    println!("invalidated: out of reach");

    let access = Transaction::new(STREAM, WINDOW + PAGE, Access::Read);
    println!("{}", machine.smmu(|smmu| smmu.trace(access)));
    Ok(())
}

/// What a DMA read gives, in words.
fn read(machine: &Machine, address: u64) -> String {
    match machine.smmu(|smmu| smmu.dma_read(STREAM, address)) {
        Ok(value) => format!("{address:#x} holds {value:#x}"),
        Err(refusal) => match refusal.kind() {
            Some(kind) => format!("{address:#x} aborts with {kind:?}"),
            None => format!("{address:#x} aborts ({refusal:?})"),
        },
    }
}

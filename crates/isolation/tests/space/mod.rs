//! The memory of a host in a machine with all kinds of ranges, for tests.
#![allow(dead_code, missing_docs)]

use portcullis_addr::{Identity, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{Invalidate, OwnerSpace, ReceiveError, SpaceError, TableShapes, chunks};
use portcullis_memory::Arena;
use portcullis_ownership::{Allotment, Bank, Invalidated, Owner, Unreachable};
use portcullis_pagetable::{Bbm, Geometry, Granule, Invalidation};
use smmuv3_spec::Vmid;
use std::sync::atomic::AtomicU32;

pub const VMID: Vmid = Vmid(1);
pub const RAM: u64 = 0x4000_0000;
/// More than one entry of level 1: a whole one with the hypervisor in it, a
/// whole one without, and a part of a third.
pub const RAM_SIZE: u64 = (2 << 30) + (64 << 20);
pub const UART: u64 = 0x0900_0000;
pub const SMMU: u64 = 0x0905_0000;
pub const DOORBELL: u64 = 0x0809_0000;
/// Addresses above RAM that the host is not given.
pub const GAP: u64 = 0xd000_0000;
/// The hypervisor's memory: its ends are in the middle of 2 MiB blocks.
pub const OWN: u64 = RAM + 0x20_3000;
pub const OWN_SIZE: u64 = 0x9_9000;
/// Firmware's, in the middle of a 2 MiB block.
pub const FIRMWARE: u64 = RAM + 0x60_3000;
pub const FIRMWARE_SIZE: u64 = 0x2_1000;

pub fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).unwrap()
}

pub struct Fixture {
    pub entries: Vec<AtomicU32>,
    pub words: Vec<AtomicU32>,
    pub arena: Arena,
    pub tables: TableShapes,
}

impl Fixture {
    pub fn new(bbm: Bbm) -> Self {
        Self {
            entries: (0..RAM_SIZE / PAGE_SIZE)
                .map(|_| AtomicU32::new(0))
                .collect(),
            words: (0..Bank::words(range(RAM, RAM_SIZE)))
                .map(|_| AtomicU32::new(0))
                .collect(),
            arena: Arena::new(PhysAddr::new(0x10_0000_0000), 4 << 20),
            tables: TableShapes {
                dma_geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_geometry: Geometry::stage2(Granule::Size4K, 40, 40).unwrap(),
                cpu_bbm: bbm,
                dma_bbm: bbm,
            },
        }
    }

    pub fn with<T>(&self, test: impl FnOnce(&mut Space<'_>) -> T) -> T {
        let banks = [Bank::new(range(RAM, RAM_SIZE), &self.entries, &self.words).unwrap()];
        let ledger = Allotment::new(&banks)
            .unwrap()
            .assign(range(OWN, OWN_SIZE), Owner::NOBODY, Owner::HYPERVISOR)
            .unwrap()
            .assign(
                range(FIRMWARE, FIRMWARE_SIZE),
                Owner::NOBODY,
                Owner::FIRMWARE,
            )
            .unwrap()
            .assign_rest(Owner::NOBODY, Owner::HOST)
            .unwrap()
            .ledger();
        // Around the SMMU's registers, with RAM in the middle of one range, and
        // beyond what the tables can translate.
        let registers = [
            range(SMMU + 0x2_0000, GAP - SMMU - 0x2_0000),
            range(0x0800_1000, SMMU - 0x0800_1000),
            range(0x80_0000_0000, 1 << 40),
        ];
        let mut space = OwnerSpace::identity(
            ledger,
            Owner::HOST,
            VMID,
            self.tables,
            &self.arena,
            &self.arena,
            registers.into_iter(),
            [range(DOORBELL, 64)].into_iter(),
        )
        .unwrap();
        test(&mut space)
    }
}

/// What CPUs and devices reach at an address: its translation, if any.
pub fn reach(space: &Space<'_>, at: u64) -> (Option<u64>, Option<u64>) {
    let at = Ipa::new(at);
    (
        space.cpu().walk(at).ok().map(|m| m.output.raw()),
        space.dma().walk(at).ok().map(|m| m.output.raw()),
    )
}

/// Asserts for a page that it is where it belongs: with CPUs, devices, or not.
#[track_caller]
pub fn assert_reach(space: &Space<'_>, at: u64, cpu: bool, dma: bool) {
    assert_eq!(
        reach(space, at),
        (cpu.then_some(at), dma.then_some(at)),
        "at {at:#x}"
    );
}

/// Remembers what was invalidated, and fails when told to.
#[derive(Default)]
pub struct Recorder {
    pub cpus: Vec<Range<Ipa>>,
    pub smmus: Vec<Range<Ipa>>,
    pub vmids: Vec<Vmid>,
    pub fail_smmus: bool,
    pub fail_cpus: bool,
}

#[derive(Debug)]
pub struct Refused;

impl Invalidate for Recorder {
    type Error = Refused;

    fn cpus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.cpus.extend(plan.range());
        self.vmids.push(vmid);
        if self.fail_cpus { Err(Refused) } else { Ok(()) }
    }

    fn smmus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), Refused> {
        self.smmus.extend(plan.range());
        self.vmids.push(vmid);
        if self.fail_smmus {
            Err(Refused)
        } else {
            Ok(())
        }
    }
}

pub type Space<'a> = OwnerSpace<'a, &'a Arena, &'a Arena>;

/// Takes all of `range` away from the owner.
pub fn take(
    space: &mut Space<'_>,
    range: Range<PhysAddr>,
    to: Owner,
    recorder: &mut Recorder,
) -> Result<(), SpaceError<Refused>> {
    chunks(range).try_for_each(|part| {
        let pages = space.release(Identity.ipa(part), to, recorder)?;
        pages.commit();
        Ok(())
    })
}

/// Evidence of pages of an owner without tables.
pub struct NoTables(pub Range<PhysAddr>);

impl Invalidated for NoTables {
    fn pages(&self) -> Range<PhysAddr> {
        self.0
    }
}

/// Gives all of `range` to the owner, where it is.
pub fn give<'a>(
    space: &mut Space<'a>,
    range: Range<PhysAddr>,
    from: Owner,
    recorder: &mut Recorder,
) -> Result<(), SpaceError<Refused>> {
    chunks(range).try_for_each(|part| {
        let transfer = space.ledger().begin(part, from, space.owner());
        let transfer = transfer.map_err(SpaceError::Ledger)?;
        let pages: Unreachable<'a> = transfer.invalidated(&NoTables(part)).unwrap();
        let at = Identity.ipa(part).start();
        let received = space.receive(pages, at, recorder);
        received.map_err(|ReceiveError { error, pages }| {
            pages.into_iter().for_each(Unreachable::give_back);
            error
        })
    })
}

pub const BOTH: [Bbm; 2] = [Bbm::Level0, Bbm::Level2];

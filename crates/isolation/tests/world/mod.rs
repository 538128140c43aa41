//! Domains in front of two SMMUs, for tests.
#![allow(dead_code)]

#[path = "../../../smmuv3-driver/tests/common/mod.rs"]
mod common;

use common::Fake;
use portcullis_addr::{Iova, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Iommu, Refusal, Request, Step};
use portcullis_isolation::{
    Directory, Domains, EndpointRange, SlotBlock, SlotMemory, Slots, SmmuDomain, SmmuUnit,
    SmmuUnitConfig, Smmus,
};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Entry, Ledger, Owner};
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_driver::{Config, Smmu};
use smmuv3_spec::{StreamId, Vmid};
use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU32;

pub type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

#[derive(Clone, Copy)]
pub struct Near<'a, 'b>(&'b [RefCell<Driver<'a>>]);

impl<'a> Smmus for Near<'a, '_> {
    type Registers = &'a Fake;
    type Memory = &'a Fake;
    type Clock = &'a Fake;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'a>) -> T) -> Option<T> {
        self.0
            .get(index)
            .map(|driver| with(&mut driver.borrow_mut()))
    }
}

pub type Unit<'a, 'b> = SmmuUnit<'a, &'a Arena, Near<'a, 'b>>;

/// On the SMMU that fails.
pub const A: Endpoint = Endpoint(5);
/// On the other.
pub const E: Endpoint = Endpoint(STREAMS + 5);
pub const F: Endpoint = Endpoint(STREAMS + 6);
pub const RAM: u64 = 0x4000_0000;
/// Streams of each SMMU.
const STREAMS: u32 = 0x400;
pub const AT: u64 = 0x20_0000;

pub struct World<'w> {
    pub arena: &'w Arena,
    pub drivers: &'w [RefCell<Driver<'w>>],
    pub domains: Domains<'w, Unit<'w, 'w>, Pieces<'w>>,
    pub pieces: &'w Cell<usize>,
    pub ledger: Ledger<'w>,
}

/// How the world is.
#[derive(Clone, Copy)]
pub struct Shape {
    /// How many domains the SMMUs take.
    pub domains: usize,
    /// How many of them always have room.
    pub first: usize,
    /// For how many pieces of memory with domains there is room beside these.
    pub pieces: usize,
    /// For how many directories.
    pub directories: usize,
    /// Bytes for tables.
    pub bytes: u64,
    /// Where doorbells are.
    pub doorbells: &'static [u64],
}

/// Four domains, which always have room, and tables for them.
pub const SMALL: Shape = Shape {
    domains: 4,
    first: 4,
    pieces: 0,
    directories: 0,
    bytes: 0x40_0000,
    doorbells: &[],
};

type Domain<'w> = SmmuDomain<&'w Arena, Near<'w, 'w>>;

/// Memory for domains, which counts what is there of it.
pub struct Pieces<'w> {
    chunks: Vec<&'w mut SlotBlock<Domain<'w>>>,
    directories: Vec<&'w mut Directory<'w, Domain<'w>>>,
    left: &'w Cell<usize>,
}

impl<'w> SlotMemory<'w, Domain<'w>> for Pieces<'w> {
    fn chunk(&mut self) -> Option<&'w mut SlotBlock<Domain<'w>>> {
        let chunk = self.chunks.pop();
        self.left.set(self.chunks.len());
        assert!(chunk.iter().all(|chunk| chunk.iter().all(Option::is_none)));
        chunk
    }

    fn directory(&mut self) -> Option<&'w mut Directory<'w, Domain<'w>>> {
        self.directories.pop()
    }

    fn give_back(&mut self, chunk: &'w mut SlotBlock<Domain<'w>>) {
        assert!(chunk.iter().all(Option::is_none), "a domain is lost");
        self.chunks.push(chunk);
        self.left.set(self.chunks.len());
    }
}

fn pages(start: u64, count: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), count * PAGE_SIZE).expect("a range")
}

/// Pages of the second bank of RAM.
pub const HIGH: u64 = 0x2400;

/// With two banks of RAM that touch, one of 2 MiB and one of 36 MiB.
pub fn world(shape: Shape, test: impl FnOnce(&mut World<'_>)) {
    let fakes = [Fake::new(), Fake::new()];
    let drivers: Vec<_> = fakes
        .iter()
        .map(|fake| RefCell::new(Smmu::new(fake, fake, fake, Config::default()).expect("an SMMU")))
        .collect();
    let arena = Arena::new(PhysAddr::new(0x1_0000_0000), shape.bytes);
    let host = Entry::initial(Owner::HOST);
    let entries: Vec<AtomicU32> = (0..0x200 + HIGH).map(|_| AtomicU32::new(host)).collect();
    let (low, high) = entries.split_at(0x200);
    let ram = [pages(RAM, 0x200), pages(RAM + 0x20_0000, HIGH)];
    let count = ram.map(Bank::words);
    let words: Vec<AtomicU32> = (0..count[0] + count[1])
        .map(|_| AtomicU32::new(0))
        .collect();
    let (low_words, high_words) = words.split_at(count[0] as usize);
    let banks = [
        Bank::new(ram[0], low, low_words).expect("a bank"),
        Bank::new(ram[1], high, high_words).expect("a bank"),
    ];
    let ledger = Ledger::new(&banks).expect("a ledger");
    let endpoints = [0, 1].map(|smmu| EndpointRange {
        first: Endpoint(smmu * STREAMS),
        count: STREAMS,
        smmu: smmu as usize,
        stream: StreamId(0),
    });
    let config = SmmuUnitConfig {
        geometry: Geometry::stage2(Granule::Size4K, 39, 44).expect("a geometry"),
        bbm: Bbm::Level2,
        first_vmid: Vmid(2),
        slots: shape.domains,
    };
    let unit = SmmuUnit::new(config, &endpoints, &arena, Near(&drivers)).expect("a unit");
    let mut first: Vec<_> = (0..shape.first).map(|_| None).collect();
    let mut chunks: Vec<SlotBlock<_>> = (0..shape.pieces).map(|_| [const { None }; _]).collect();
    let mut directories: Vec<Directory<'_, _>> = (0..shape.directories)
        .map(|_| [const { None }; _])
        .collect();
    let left = Cell::new(shape.pieces);
    let pieces = Pieces {
        chunks: chunks.iter_mut().collect(),
        directories: directories.iter_mut().collect(),
        left: &left,
    };
    let slots = Slots::growing(&mut first, pieces);
    let doorbell = |at: &u64| Range::from_size(PhysAddr::new(*at), 4).expect("a range");
    let doorbells = shape.doorbells.iter().map(doorbell);
    let domains = Domains::new(ledger, Owner::HOST, unit, slots, doorbells);
    test(&mut World {
        arena: &arena,
        drivers: &drivers,
        domains: domains.expect("domains"),
        pieces: &left,
        ledger,
    });
}

impl World<'_> {
    pub fn end(&mut self, mut step: Step) -> Result<(), Refusal> {
        loop {
            match step {
                Step::Done(result) => return result,
                Step::AfterSync => return self.domains.sync().map_err(|_| Refusal::Failed),
                Step::More => step = self.domains.go_on(),
            }
        }
    }

    pub fn ask(&mut self, request: Request) -> Result<(), Refusal> {
        let step = self.domains.begin(request);
        self.end(step)
    }

    pub fn attach(&mut self, domain: u32, endpoint: Endpoint) -> Result<(), Refusal> {
        let domain = DomainId(domain);
        self.ask(Request::Attach { domain, endpoint })
    }

    pub fn detach(&mut self, domain: u32, endpoint: Endpoint) -> Result<(), Refusal> {
        let domain = DomainId(domain);
        self.ask(Request::Detach { domain, endpoint })
    }

    pub fn map(&mut self, domain: u32, at: u64, to: u64, count: u64) -> Result<(), Refusal> {
        self.ask(Request::Map {
            domain: DomainId(domain),
            iova: Range::from_size(Iova::new(at), count * PAGE_SIZE).expect("a range"),
            to: Ipa::new(to),
            access: Access::READ | Access::WRITE,
        })
    }

    pub fn unmap_later(&mut self, domain: u32, at: u64, count: u64) -> Step {
        self.domains.begin(Request::Unmap {
            domain: DomainId(domain),
            iova: Range::from_size(Iova::new(at), count * PAGE_SIZE).expect("a range"),
        })
    }

    /// Of any addresses.
    pub fn unmap_between(&mut self, domain: u32, start: u64, end: u64) -> Result<(), Refusal> {
        self.ask(Request::Unmap {
            domain: DomainId(domain),
            iova: Range::new(Iova::new(start), Iova::new(end)).expect("a range"),
        })
    }

    pub fn unmap(&mut self, domain: u32, at: u64, count: u64) -> Result<(), Refusal> {
        let step = self.unmap_later(domain, at, count);
        self.end(step)
    }

    /// The SMMU of `A` fails.
    pub fn fail(&self) {
        self.drivers[0].borrow_mut().fence().expect("it answers");
    }

    /// It stops taking commands, and fails with the next.
    pub fn stall(&self) {
        let driver = self.drivers[0].borrow();
        driver
            .registers()
            .faults(|faults| faults.commands_stuck = true);
    }

    /// The numbers of the domains that there are.
    pub fn numbers(&self) -> Vec<usize> {
        self.domains.iter().map(|(number, _)| number).collect()
    }

    pub fn count(&self, page: u64) -> u32 {
        self.ledger
            .entry(PhysAddr::new(page))
            .expect("RAM")
            .dma_count()
    }

    pub fn root_of(&self, smmu: usize, stream: u32) -> Option<PhysAddr> {
        let attached = self.drivers[smmu].borrow().attached(StreamId(stream));
        attached.map(|(_, root)| root)
    }
}

//! Domains in front of two SMMUs, one of which fails.

#[path = "../../smmuv3-driver/tests/common/mod.rs"]
mod common;

use common::Fake;
use portcullis_addr::{Iova, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, DmaUnit, DomainId, Endpoint, Iommu, Refusal, Request, Reserved, Step,
};
use portcullis_isolation::{Domains, EndpointRange, SmmuUnit, SmmuUnitConfig, Smmus};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Entry, Ledger, Owner};
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_driver::{Config, Smmu};
use smmuv3_spec::{StreamId, Vmid};
use std::cell::RefCell;
use std::sync::atomic::AtomicU32;

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

#[derive(Clone, Copy)]
struct Near<'a, 'b>(&'b [RefCell<Driver<'a>>]);

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

type Unit<'a, 'b> = SmmuUnit<'a, &'a Arena, Near<'a, 'b>>;

/// On the SMMU that fails.
const A: Endpoint = Endpoint(5);
/// On the other.
const E: Endpoint = Endpoint(0x105);
const F: Endpoint = Endpoint(0x106);
const RAM: u64 = 0x4000_0000;
const AT: u64 = 0x20_0000;

struct World<'w> {
    arena: &'w Arena,
    drivers: &'w [RefCell<Driver<'w>>],
    domains: Domains<'w, Unit<'w, 'w>>,
    ledger: Ledger<'w>,
}

fn pages(start: u64, count: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), count * PAGE_SIZE).expect("a range")
}

/// With two banks of RAM that touch, of 512 pages each.
fn world(doorbell: Option<u64>, test: impl FnOnce(&mut World<'_>)) {
    let fakes = [Fake::new(), Fake::new()];
    let drivers: Vec<_> = fakes
        .iter()
        .map(|fake| RefCell::new(Smmu::new(fake, fake, fake, Config::default()).expect("an SMMU")))
        .collect();
    let arena = Arena::new(PhysAddr::new(0x1_0000_0000), 0x40_0000);
    let host = Entry::initial(Owner::HOST);
    let entries: Vec<AtomicU32> = (0..0x400).map(|_| AtomicU32::new(host)).collect();
    let (low, high) = entries.split_at(0x200);
    let groups: Vec<AtomicU32> = (0..0x40).map(|_| AtomicU32::new(0)).collect();
    let (low_groups, high_groups) = groups.split_at(0x20);
    let banks = [
        Bank::new(pages(RAM, 0x200), low, low_groups).expect("a bank"),
        Bank::new(pages(RAM + 0x20_0000, 0x200), high, high_groups).expect("a bank"),
    ];
    let ledger = Ledger::new(&banks).expect("a ledger");
    let endpoints = [0, 1].map(|smmu| EndpointRange {
        first: Endpoint(smmu * 0x100),
        count: 0x100,
        smmu: smmu as usize,
        stream: StreamId(0),
    });
    let config = SmmuUnitConfig {
        geometry: Geometry::stage2(Granule::Size4K, 39, 44).expect("a geometry"),
        bbm: Bbm::Level2,
        first_vmid: Vmid(2),
        slots: 4,
    };
    let unit = SmmuUnit::new(config, &endpoints, &arena, Near(&drivers)).expect("a unit");
    let mut places: Vec<_> = (0..4).map(|_| None).collect();
    let doorbells = doorbell.map(|at| Range::from_size(PhysAddr::new(at), 4).expect("a range"));
    let domains = Domains::new(
        ledger,
        Owner::HOST,
        unit,
        &mut places,
        doorbells.into_iter(),
    );
    test(&mut World {
        arena: &arena,
        drivers: &drivers,
        domains: domains.expect("domains"),
        ledger,
    });
}

impl World<'_> {
    fn end(&mut self, mut step: Step) -> Result<(), Refusal> {
        loop {
            match step {
                Step::Done(result) => return result,
                Step::AfterSync => return self.domains.sync().map_err(|_| Refusal::Failed),
                Step::More => step = self.domains.go_on(),
            }
        }
    }

    fn ask(&mut self, request: Request) -> Result<(), Refusal> {
        let step = self.domains.begin(request);
        self.end(step)
    }

    fn attach(&mut self, domain: u32, endpoint: Endpoint) -> Result<(), Refusal> {
        let domain = DomainId(domain);
        self.ask(Request::Attach { domain, endpoint })
    }

    fn detach(&mut self, domain: u32, endpoint: Endpoint) -> Result<(), Refusal> {
        let domain = DomainId(domain);
        self.ask(Request::Detach { domain, endpoint })
    }

    fn map(&mut self, domain: u32, at: u64, to: u64, count: u64) -> Result<(), Refusal> {
        self.ask(Request::Map {
            domain: DomainId(domain),
            iova: Range::from_size(Iova::new(at), count * PAGE_SIZE).expect("a range"),
            to: Ipa::new(to),
            access: Access::READ | Access::WRITE,
        })
    }

    fn unmap_later(&mut self, domain: u32, at: u64, count: u64) -> Step {
        self.domains.begin(Request::Unmap {
            domain: DomainId(domain),
            iova: Range::from_size(Iova::new(at), count * PAGE_SIZE).expect("a range"),
        })
    }

    fn unmap(&mut self, domain: u32, at: u64, count: u64) -> Result<(), Refusal> {
        let step = self.unmap_later(domain, at, count);
        self.end(step)
    }

    /// The SMMU of `A` fails.
    fn fail(&self) {
        self.drivers[0].borrow_mut().fence().expect("it answers");
    }

    fn count(&self, page: u64) -> u32 {
        self.ledger
            .entry(PhysAddr::new(page))
            .expect("RAM")
            .dma_count()
    }

    fn root_of(&self, smmu: usize, stream: u32) -> Option<PhysAddr> {
        let attached = self.drivers[smmu].borrow().attached(StreamId(stream));
        attached.map(|(_, root)| root)
    }
}

/// The number of a domain whose SMMU failed is not given out again, so that no
/// stream is left walking tables that were given back.
#[test]
fn what_a_failed_smmu_may_hold_keeps_its_number() {
    world(None, |world| {
        world.attach(0, A).expect("attached");
        world.fail();
        let step = world.domains.reset();
        let _ = world.end(step);
        assert_eq!(world.domains.unit().slot_of(A), None);
        // Whatever becomes of E, it walks tables that are still there.
        let attached = world.attach(0, E);
        let root = world.root_of(1, 5);
        assert_eq!(attached, Err(Refusal::Failed));
        assert_eq!(root, None);
        assert_eq!(world.attach(1, A), Err(Refusal::Failed));
        assert!(world.attach(2, E).is_ok());
        assert!(world.map(2, AT, RAM, 1).is_ok());
    });
}

/// An endpoint that a failed SMMU blocks leaves its domain once, not with each
/// try.
#[test]
fn leaving_a_failed_smmu_is_no_way_to_end_a_domain() {
    world(None, |world| {
        world.attach(0, A).expect("attached");
        world.attach(0, E).expect("attached");
        world.fail();
        let before = world.root_of(1, 5);
        for _ in 0..3 {
            assert!(world.detach(0, A).is_err());
        }
        assert_eq!(world.domains.iter().count(), 1);
        assert_eq!(world.root_of(1, 5), before);
        let bytes = world.arena.bytes_in_use();
        assert!(bytes >= 0x1000);
    });
}

#[test]
fn an_endpoint_that_cannot_come_harms_nobody() {
    world(None, |world| {
        world.attach(0, E).expect("attached");
        world.fail();
        assert_eq!(world.attach(0, A), Err(Refusal::Failed));
        world.map(0, AT, RAM, 1).expect("mapped");
        world.unmap(0, AT, 1).expect("unmapped");
        assert_eq!(world.count(RAM), 0);
        world.map(0, AT, RAM, 1).expect("mapped again");
    });
}

#[test]
fn one_that_failed_is_no_reason_for_others_to_fail() {
    world(None, |world| {
        for (domain, endpoint) in [(0, A), (1, E), (2, F)] {
            world.attach(domain, endpoint).expect("attached");
            let page = RAM + u64::from(domain) * PAGE_SIZE;
            world.map(domain, AT, page, 1).expect("mapped");
        }
        world.fail();
        assert_eq!(world.unmap(0, AT, 1), Err(Refusal::Failed));
        // Nobody knows who uses it.
        assert_eq!(world.count(RAM), 1);
        for _ in 0..2 {
            assert_eq!(world.unmap_later(1, AT, 1), Step::AfterSync);
            assert_eq!(world.unmap_later(2, AT, 1), Step::AfterSync);
            assert_eq!(world.domains.sync(), Ok(()));
            for domain in [1, 2] {
                let page = RAM + u64::from(domain) * PAGE_SIZE;
                assert_eq!(world.count(page), 0);
                world.map(domain, AT, page, 1).expect("mapped");
            }
        }
    });
}

/// Two mappings may be one run in the tables and lie in two banks.
#[test]
fn banks_that_touch_are_let_go_of_apart() {
    world(None, |world| {
        world.attach(0, E).expect("attached");
        let border = RAM + 0x20_0000;
        world.map(0, AT, border - PAGE_SIZE, 1).expect("mapped");
        world.map(0, AT + PAGE_SIZE, border, 1).expect("mapped");
        world.unmap(0, AT, 2).expect("unmapped");
        assert_eq!(world.count(border - PAGE_SIZE), 0);
        assert_eq!(world.count(border), 0);
        assert_eq!(world.domains.counts().lost_pages, 0);
    });
}

/// A table that was taken out and one that comes in its place are not in a walk
/// cache together.
#[test]
fn no_table_comes_where_one_is_about_to_go() {
    world(None, |world| {
        world.attach(0, E).expect("attached");
        world.map(0, 0x3f_f000, RAM, 1).expect("mapped");
        world.map(0, 0x60_0000, RAM, 1).expect("mapped");
        world.map(0, 0x60_1000, RAM, 1).expect("mapped");
        assert_eq!(world.unmap_later(0, 0x3f_f000, 1), Step::AfterSync);
        // The table of the first goes with the second.
        assert_eq!(world.unmap_later(0, 0x60_0000, 1), Step::AfterSync);
        let syncs = world.domains.counts().syncs;
        world.map(0, 0x20_0000, RAM, 1).expect("mapped");
        assert_eq!(world.domains.counts().syncs, syncs + 1);
    });
}

/// An interrupt controller may lie where no device can address it.
#[test]
fn a_doorbell_out_of_reach_is_the_owners_to_map() {
    world(Some(0x80_0000_0000), |world| {
        world.attach(0, E).expect("attached");
        assert_eq!(world.domains.reserved(E, 0), None::<Reserved>);
        let request = Request::Map {
            domain: DomainId(0),
            iova: Range::from_size(Iova::new(0x800_0000), PAGE_SIZE).expect("a range"),
            to: Ipa::new(0x80_0000_0000),
            access: Access::WRITE | Access::MMIO,
        };
        assert_eq!(world.ask(request), Ok(()));
    });
}

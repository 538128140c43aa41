//! What two virtio-iommus write while each maps and unmaps: every lock that is taken and
//! every word that is written, of tables, of queues, of registers and of the ledger. Where
//! they are on two SMMUs, no CPU at work with one writes what another at work with the other
//! does.
//!
//! What the domains themselves keep is theirs alone, since they are values: all that they
//! share with others are the references that are recorded here. The hypervisor's own
//! statics are listed in `docs/architecture.md`.

#[path = "../../smmuv3-driver/tests/common/mod.rs"]
mod common;

use common::Fake;
use portcullis_addr::{Iova, Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Iommu, Request, Step};
use portcullis_isolation::{
    Domains, EndpointRange, Slots, SmmuDomain, SmmuUnit, SmmuUnitConfig, Smmus,
};
use portcullis_memory::{Allocator, Arena, Memory};
use portcullis_ownership::{Bank, Entry, Ledger, Owner};
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_driver::{Clock, Config, Registers, Smmu};
use smmuv3_spec::{StreamId, Vmid};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

/// What only one CPU at a time has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The lock of an SMMU.
    Smmu(usize),
    /// The lock of what gives memory out.
    Pool,
    /// A word of the memory that tables are in.
    Table(u64),
    /// A word of the memory of an SMMU's queues.
    Queue(usize, u64),
    /// A register of an SMMU.
    Register(usize, u32),
    /// A word of the ledger.
    Ledger(usize),
}

#[derive(Default)]
struct Log(RefCell<BTreeSet<What>>);

impl Log {
    fn add(&self, what: What) {
        self.0.borrow_mut().insert(what);
    }
}

/// The memory of tables.
#[derive(Clone, Copy)]
struct Tables<'a> {
    arena: &'a Arena,
    log: &'a Log,
}

impl Memory for Tables<'_> {
    fn load(&self, at: PhysAddr) -> u64 {
        self.arena.load(at)
    }
    fn store(&self, at: PhysAddr, value: u64) {
        self.log.add(What::Table(at.raw()));
        self.arena.store(at, value);
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.log.add(What::Table(at.raw()));
        self.arena.compare_exchange(at, current, new)
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.arena.publish(at, bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.arena.refresh(at, bytes);
    }
}

impl Allocator for Tables<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.log.add(What::Pool);
        self.arena.allocate(bytes)
    }
    fn free(&self, at: PhysAddr, bytes: u64) {
        self.log.add(What::Pool);
        self.arena.free(at, bytes);
    }
}

/// An SMMU, as its driver reaches it.
#[derive(Clone, Copy)]
struct Reached<'a> {
    fake: &'a Fake,
    index: usize,
    log: &'a Log,
}

impl Registers for Reached<'_> {
    fn read32(&self, offset: u32) -> u32 {
        self.fake.read32(offset)
    }
    fn write32(&self, offset: u32, value: u32) {
        self.log.add(What::Register(self.index, offset));
        self.fake.write32(offset, value);
    }
    fn read64(&self, offset: u32) -> u64 {
        self.fake.read64(offset)
    }
    fn write64(&self, offset: u32, value: u64) {
        self.log.add(What::Register(self.index, offset));
        self.fake.write64(offset, value);
    }
}

impl Memory for Reached<'_> {
    fn load(&self, at: PhysAddr) -> u64 {
        self.fake.load(at)
    }
    fn store(&self, at: PhysAddr, value: u64) {
        self.log.add(What::Queue(self.index, at.raw()));
        self.fake.store(at, value);
    }
    fn compare_exchange(&self, at: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.log.add(What::Queue(self.index, at.raw()));
        self.fake.compare_exchange(at, current, new)
    }
    fn publish(&self, at: PhysAddr, bytes: u64) {
        self.fake.publish(at, bytes);
    }
    fn refresh(&self, at: PhysAddr, bytes: u64) {
        self.fake.refresh(at, bytes);
    }
}

impl Allocator for Reached<'_> {
    fn allocate(&self, bytes: u64) -> Option<PhysAddr> {
        self.log.add(What::Pool);
        self.fake.allocate(bytes)
    }
    fn free(&self, at: PhysAddr, bytes: u64) {
        self.log.add(What::Pool);
        self.fake.free(at, bytes);
    }
}

impl Clock for Reached<'_> {
    fn now_us(&self) -> u64 {
        self.fake.now_us()
    }
    fn relax(&self) {
        self.fake.relax();
    }
}

type Driver<'a> = Smmu<Reached<'a>, Reached<'a>, Reached<'a>>;

#[derive(Clone, Copy)]
struct Near<'a, 'b> {
    drivers: &'b [RefCell<Driver<'a>>],
    log: &'a Log,
}

impl<'a> Smmus for Near<'a, '_> {
    type Registers = Reached<'a>;
    type Memory = Reached<'a>;
    type Clock = Reached<'a>;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'a>) -> T) -> Option<T> {
        let driver = self.drivers.get(index)?;
        self.log.add(What::Smmu(index));
        Some(with(&mut driver.borrow_mut()))
    }
}

const RAM: u64 = 0x4000_0000;
const PAGES: usize = 0x800;
const AT: u64 = 0x4000_0000;

/// What a run of pages is mapped and unmapped for, by one of the two.
#[derive(Clone, Copy)]
struct Turn {
    page: u64,
    count: u64,
}

/// All that each of two instances writes in its turn. `smmus` are those that they are on;
/// `warm` is whether each has done the same before.
fn written(smmus: [usize; 2], turns: [Turn; 2], warm: bool) -> [BTreeSet<What>; 2] {
    let log = Log::default();
    let fakes = [Fake::new(), Fake::new()];
    let drivers: Vec<_> = fakes
        .iter()
        .enumerate()
        .map(|(index, fake)| {
            let log = &log;
            let reached = Reached { fake, index, log };
            RefCell::new(Smmu::new(reached, reached, reached, Config::default()).unwrap())
        })
        .collect();
    let arena = Arena::new(PhysAddr::new(0x1_0000_0000), 0x40_0000);
    let ram = Range::from_size(PhysAddr::new(RAM), PAGES as u64 * PAGE_SIZE).unwrap();
    let host = Entry::initial(Owner::HOST);
    let entries: Vec<AtomicU32> = (0..PAGES).map(|_| AtomicU32::new(host)).collect();
    let words: Vec<AtomicU32> = (0..Bank::words(ram)).map(|_| AtomicU32::new(0)).collect();
    let banks = [Bank::new(ram, &entries, &words).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let seen = || -> Vec<u32> {
        let all = entries.iter().chain(&words);
        all.map(|word| word.load(Ordering::Relaxed)).collect()
    };
    let near = Near {
        drivers: &drivers,
        log: &log,
    };
    let tables = Tables {
        arena: &arena,
        log: &log,
    };
    let endpoints = [0, 1].map(|instance| {
        [EndpointRange {
            first: Endpoint(instance as u32),
            count: 1,
            smmu: smmus[instance],
            stream: StreamId(5 + instance as u32),
        }]
    });
    let mut rooms: [[Option<_>; 2]; 2] = [const { [const { None }; 2] }; 2];
    let mut instances: Vec<_> = rooms
        .iter_mut()
        .zip(&endpoints)
        .zip(0..)
        .map(|((room, endpoints), index)| {
            let config = SmmuUnitConfig {
                geometry: Geometry::stage2(Granule::Size4K, 39, 44).unwrap(),
                bbm: Bbm::Level2,
                first_vmid: Vmid(2 + index * 2),
                slots: 2,
            };
            let unit = SmmuUnit::new(config, endpoints, tables, near).unwrap();
            let slots = Slots::<SmmuDomain<_, _>, _>::fixed(room);
            Domains::new(ledger, Owner::HOST, unit, slots, std::iter::empty()).unwrap()
        })
        .collect();
    let domain = DomainId(0);
    for (index, domains) in (0..).zip(&mut instances) {
        let endpoint = Endpoint(index);
        let mut step = domains.begin(Request::Attach { domain, endpoint });
        while matches!(step, Step::More) {
            step = domains.go_on();
        }
        assert!(matches!(step, Step::Done(Ok(()))));
    }
    let mut turn = |index: usize| {
        let Turn { page, count } = turns[index];
        let domains = &mut instances[index];
        log.0.take();
        let iova = Range::from_size(Iova::new(AT), count * PAGE_SIZE).unwrap();
        let to = Ipa::new(RAM + page * PAGE_SIZE);
        let access = Access::READ | Access::WRITE;
        let map = Request::Map {
            domain,
            iova,
            to,
            access,
        };
        for request in [map, Request::Unmap { domain, iova }] {
            let before = seen();
            let mut step = domains.begin(request);
            while matches!(step, Step::More) {
                step = domains.go_on();
            }
            assert!(!matches!(step, Step::Done(Err(_))), "{step:?}");
            let between = seen();
            domains.sync().unwrap();
            for (old, new) in [(&before, &between), (&between, &seen())] {
                let changed = old.iter().zip(new).enumerate().filter(|(_, (a, b))| a != b);
                changed.for_each(|(at, _)| log.add(What::Ledger(at)));
            }
        }
        log.0.take()
    };
    if warm {
        turn(0);
        turn(1);
    }
    [turn(0), turn(1)]
}

const ONE: [Turn; 2] = [Turn { page: 0, count: 1 }, Turn { page: 1, count: 1 }];
const MANY: [Turn; 2] = [
    Turn {
        page: 0x10,
        count: 0x30,
    },
    Turn {
        page: 0x40,
        count: 0x30,
    },
];

#[test]
fn on_two_smmus_neither_writes_what_the_other_does() {
    for turns in [ONE, MANY] {
        let [a, b] = written([0, 1], turns, true);
        println!("{a:x?}\n{b:x?}");
        // None is excused.
        assert_eq!(a.intersection(&b).collect::<Vec<_>>(), Vec::<&What>::new());
        for (index, all) in [a, b].iter().enumerate() {
            assert!(all.contains(&What::Smmu(index)));
            let kinds: [fn(&What) -> bool; 4] = [
                |what| matches!(what, What::Table(_)),
                |what| matches!(what, What::Queue(..)),
                |what| matches!(what, What::Register(..)),
                |what| matches!(what, What::Ledger(_)),
            ];
            assert!(kinds.iter().all(|kind| all.iter().any(kind)), "{all:x?}");
        }
    }
}

#[test]
fn the_first_mapping_takes_memory_and_nothing_else_that_both_write() {
    let [a, b] = written([0, 1], ONE, false);
    assert_eq!(a.intersection(&b).collect::<Vec<_>>(), [&What::Pool]);
}

/// That the list can be other than empty.
#[test]
fn on_one_smmu_they_share_its_lock_and_queue() {
    let [a, b] = written([0, 0], ONE, true);
    let both: Vec<_> = a.intersection(&b).collect();
    assert!(both.contains(&&What::Smmu(0)), "{both:x?}");
    let queue = |what: &&What| {
        matches!(
            what,
            What::Smmu(0) | What::Queue(0, _) | What::Register(0, _)
        )
    };
    assert!(both.iter().all(queue), "{both:x?}");
}

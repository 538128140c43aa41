//! A domain on several SMMUs: all of them are told what to drop before any is waited for.

#[path = "../../smmuv3-driver/tests/common/mod.rs"]
mod common;

use common::Fake;
use portcullis_addr::{Iova, PAGE_SIZE, PhysAddr, Range};
use portcullis_dma_domain::{Access, DmaDomain, DmaUnit, Endpoint, FlushError};
use portcullis_isolation::{EndpointRange, SmmuUnit, SmmuUnitConfig, Smmus};
use portcullis_memory::Arena;
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_driver::{Config, Registers, Smmu};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::{StreamId, Vmid, reg};
use std::cell::RefCell;

/// What the driver did to the command queue of an SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Did {
    /// Showed it commands.
    Told(usize),
    /// Looked how far it is.
    Looked(usize),
}

#[derive(Clone, Copy)]
struct Noted<'a> {
    fake: &'a Fake,
    index: usize,
    all: &'a RefCell<Vec<Did>>,
}

impl Registers for Noted<'_> {
    fn read32(&self, offset: u32) -> u32 {
        if offset == reg::CMDQ_CONS {
            self.all.borrow_mut().push(Did::Looked(self.index));
        }
        self.fake.read32(offset)
    }
    fn write32(&self, offset: u32, value: u32) {
        if offset == reg::CMDQ_PROD {
            self.all.borrow_mut().push(Did::Told(self.index));
        }
        self.fake.write32(offset, value);
    }
    fn read64(&self, offset: u32) -> u64 {
        self.fake.read64(offset)
    }
    fn write64(&self, offset: u32, value: u64) {
        self.fake.write64(offset, value);
    }
}

type Driver<'a> = Smmu<Noted<'a>, &'a Fake, &'a Fake>;

#[derive(Clone, Copy)]
struct Near<'a, 'b>(&'b [RefCell<Driver<'a>>]);

impl<'a> Smmus for Near<'a, '_> {
    type Registers = Noted<'a>;
    type Memory = &'a Fake;
    type Clock = &'a Fake;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'a>) -> T) -> Option<T> {
        let driver = self.0.get(index)?;
        Some(with(&mut driver.borrow_mut()))
    }
}

const AT: u64 = 0x20_0000;

fn range(pages: u64) -> Range<Iova> {
    Range::from_size(Iova::new(AT), pages * PAGE_SIZE).unwrap()
}

/// A flush.
struct Flushed {
    result: Result<(), FlushError>,
    did: Vec<Did>,
    /// Of each SMMU.
    consumed: Vec<Vec<Opcode>>,
    fenced: Vec<bool>,
}

/// Maps and unmaps pages in a domain that is on the SMMUs `on` of three, and flushes it;
/// `prepare` may spoil some of the SMMUs before.
fn flushed(on: &[u32], prepare: impl FnOnce(&[Fake])) -> Flushed {
    let fakes = [Fake::new(), Fake::new(), Fake::new()];
    let did = RefCell::new(Vec::new());
    let drivers: Vec<_> = fakes
        .iter()
        .enumerate()
        .map(|(index, fake)| {
            let noted = Noted {
                fake,
                index,
                all: &did,
            };
            RefCell::new(Smmu::new(noted, fake, fake, Config::default()).unwrap())
        })
        .collect();
    let arena = Arena::new(PhysAddr::new(0x1_0000_0000), 0x40_0000);
    let endpoints = [0, 1, 2].map(|smmu| EndpointRange {
        first: Endpoint(smmu),
        count: 1,
        smmu: smmu as usize,
        stream: StreamId(5),
    });
    let config = SmmuUnitConfig {
        geometry: Geometry::stage2(Granule::Size4K, 39, 44).unwrap(),
        bbm: Bbm::Level2,
        first_vmid: Vmid(2),
        slots: 4,
    };
    let mut unit = SmmuUnit::new(config, &endpoints, &arena, Near(&drivers)).unwrap();
    let mut domain = unit.create(0).unwrap();
    for smmu in on {
        unit.attach(Endpoint(*smmu), &mut domain, None).unwrap();
    }
    let to = PhysAddr::new(0x4000_0000);
    let access = Access::READ | Access::WRITE;
    domain.map(range(3), to, access, false).unwrap();
    while domain.unmap_first(range(3)).unwrap().is_some() {}
    for fake in &fakes {
        fake.take_consumed();
    }
    prepare(&fakes);
    did.borrow_mut().clear();
    let result = domain.flush();
    let opcodes = |fake: &Fake| {
        let consumed = fake.take_consumed();
        consumed.iter().map(|command| command.opcode()).collect()
    };
    Flushed {
        result,
        did: did.take(),
        consumed: fakes.iter().map(opcodes).collect(),
        fenced: fakes.iter().map(Fake::is_fenced).collect(),
    }
}

fn first(did: &[Did], what: Did) -> usize {
    did.iter().position(|other| *other == what).unwrap()
}

#[test]
fn all_are_told_before_one_is_waited_for() {
    let Flushed {
        result,
        did,
        consumed,
        ..
    } = flushed(&[0, 1, 2], |_| {});
    assert_eq!(result, Ok(()));
    for told in 0..3 {
        for looked in 0..3 {
            assert!(
                first(&did, Did::Told(told)) < first(&did, Did::Looked(looked)),
                "{did:?}"
            );
        }
    }
    // Each has dropped the pages before the first CMD_SYNC, and once.
    for commands in &consumed {
        let [invalidated @ .., Opcode::SYNC, Opcode::SYNC] = commands.as_slice() else {
            panic!("{commands:?}");
        };
        assert!(!invalidated.is_empty() && !invalidated.contains(&Opcode::SYNC));
        assert_eq!(invalidated, &consumed[0][..invalidated.len()]);
    }
}

#[test]
fn one_is_told_once_and_no_other() {
    let Flushed {
        result,
        did,
        consumed,
        ..
    } = flushed(&[1], |_| {});
    assert_eq!(result, Ok(()));
    assert_eq!(did, [Did::Told(1), Did::Looked(1)]);
    let syncs = |commands: &[Opcode]| commands.iter().filter(|op| **op == Opcode::SYNC).count();
    assert_eq!(
        consumed.iter().map(|all| syncs(all)).collect::<Vec<_>>(),
        [0, 1, 0]
    );
}

#[test]
fn one_that_does_not_answer_keeps_none_from_dropping_it() {
    let stop = |fakes: &[Fake]| fakes[0].faults(|faults| faults.commands_stuck = true);
    let Flushed {
        result,
        did,
        consumed,
        fenced,
    } = flushed(&[0, 2], stop);
    assert_eq!(result, Err(FlushError));
    // It was told before the wait that came to nothing.
    assert!(first(&did, Did::Told(2)) < first(&did, Did::Looked(0)));
    assert!(consumed[2].len() > 1 && consumed[2].contains(&Opcode::SYNC));
    assert_eq!(fenced, [true, false, false]);
}

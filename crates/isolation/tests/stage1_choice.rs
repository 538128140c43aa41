//! Which stage SMMUs have in common, and what an owner can ask of domains in
//! stage 1.
#![allow(missing_docs)]

mod model;

use model::{All, DATA, DATA_SIZE, DOORBELL, Machine, PAGE, STREAMS};
use portcullis_addr::{Iova, Ipa, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, AttachError, CreateError, DmaDomain, DmaUnit, DomainId, Endpoint, Iommu, Refusal,
    Request, Step,
};
use portcullis_isolation::{
    CommonStage, Domains, EndpointRange, NoCommonStage, Slots, SmmuUnit, SmmuUnitConfig,
    Stage1Domain, Stage1Unit,
};
use portcullis_memory::Allocator;
use portcullis_ownership::{Allotment, Bank, Owner};
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_driver::Stage2 as DmaStage2;
use smmuv3_model::{Access as Dma, Profile, Transaction};
use smmuv3_spec::event::EventKind;
use smmuv3_spec::{StreamId, Vmid};
use std::sync::atomic::AtomicU32;

const A: StreamId = STREAMS[0];
const B: StreamId = STREAMS[1];

const fn on(smmu: usize, first: u32, stream: StreamId) -> EndpointRange {
    EndpointRange {
        first: Endpoint(first),
        count: 1,
        smmu,
        stream,
    }
}

fn config(geometry: Geometry) -> SmmuUnitConfig {
    SmmuUnitConfig {
        geometry,
        bbm: Bbm::Level0,
        first_vmid: Vmid(7),
        slots: 3,
    }
}

fn stage1() -> Geometry {
    Geometry::stage1(Granule::Size4K, 36, 40).unwrap()
}

fn stage2() -> Geometry {
    Geometry::stage2(Granule::Size4K, 36, 40).unwrap()
}

#[test]
fn stage_2_for_all_or_stage_1_for_all_or_none() {
    let (one, two, full) = (Profile::stage1(), Profile::minimal(), Profile::full());
    let choose = |profiles: &[Profile], endpoints: &[EndpointRange]| {
        let machine = Machine::new(profiles);
        let drivers = machine.drivers();
        CommonStage::choose(endpoints, &All(&drivers))
    };
    let both = [on(0, 0, A), on(1, 1, A)];
    assert_eq!(choose(&[two, full], &both), Ok(CommonStage::Stage2));
    assert_eq!(choose(&[full, full], &both), Ok(CommonStage::Stage2));
    assert_eq!(choose(&[one, one], &both), Ok(CommonStage::Stage1));
    assert_eq!(choose(&[full, one], &both), Ok(CommonStage::Stage1));
    let mixed = NoCommonStage::Mixed {
        without_stage2: 1,
        without_stage1: 0,
    };
    assert_eq!(choose(&[two, one], &both), Err(mixed));
    // Only SMMUs that the owner has devices on count.
    assert_eq!(choose(&[two, one], &both[1..]), Ok(CommonStage::Stage1));
    assert_eq!(choose(&[two, one], &both[..1]), Ok(CommonStage::Stage2));
    let none = NoCommonStage::NoSmmu { index: 1 };
    assert_eq!(choose(&[one], &both), Err(none));
}

#[test]
fn a_unit_takes_the_tables_of_its_stage() {
    let machine = Machine::new(&[Profile::full()]);
    let drivers = machine.drivers();
    let all = All(&drivers);
    let one = |geometry| Stage1Unit::new(config(geometry), &[], &machine, all).is_some();
    let two = |geometry| SmmuUnit::new(config(geometry), &[], &machine, all).is_some();
    assert_eq!((one(stage1()), two(stage1())), (true, false));
    assert_eq!((one(stage2()), two(stage2())), (false, true));
}

/// One domain on an SMMU with stage 1 alone and one with both, beside a stream
/// that a stage 2 translates.
#[test]
fn one_domain_is_on_unlike_smmus() {
    let full = Profile {
        // Tables are not coherent for both, or for none.
        idr0: Profile::full().idr0.with_cohacc(false),
        ..Profile::full()
    };
    let machine = Machine::new(&[Profile::stage1(), full]);
    let drivers = machine.drivers();
    let endpoints = [on(0, 0, A), on(1, 1, A)];
    let all = All(&drivers);
    let mut unit = Stage1Unit::new(config(stage1()), &endpoints, &machine, all).unwrap();
    let mut domain = unit.create(0).unwrap();
    for endpoint in [Endpoint(0), Endpoint(1)] {
        unit.attach(endpoint, &mut domain, None).unwrap();
        assert_eq!(unit.slot_of(endpoint), Some(0));
    }
    // Each has its own descriptor.
    assert_ne!(domain.context_on(0), domain.context_on(1));
    let other = DmaStage2 {
        vmid: Vmid(7),
        // In which nothing is mapped.
        root: Allocator::allocate(&&machine, PAGE).unwrap(),
        t0sz: 28,
        sl0: 1,
        granule: smmuv3_driver::Granule::Size4K,
        ps: 2,
    };
    drivers[1].borrow_mut().attach(B, &other).unwrap();
    machine.allow(0, A, DATA, true);
    machine.allow(1, A, DATA, true);
    map(&mut domain);
    for unit in 0..2 {
        let read = Transaction::new(A, 0x5000, Dma::Read);
        let mut model = machine.units[unit].borrow_mut();
        assert_eq!(model.translate(read), Ok(DATA), "{unit}");
    }
    machine.assert_clean();
    let range = Range::from_size(Iova::new(0x5000), PAGE).unwrap();
    assert!(domain.unmap_first(range).unwrap().is_some());
    domain.flush().unwrap();
    machine.forbid(|_, _| true);
    for endpoint in [Endpoint(0), Endpoint(1)] {
        unit.block(endpoint, &mut domain).unwrap();
    }
    unit.forget(&mut domain).unwrap();
    unit.destroy(domain);
    machine.assert_clean();
}

fn map(domain: &mut Stage1Domain<&Machine, All<'_, '_>>) {
    let range = Range::from_size(Iova::new(0x5000), PAGE).unwrap();
    let access = Access::READ.union(Access::WRITE);
    domain
        .map(range, PhysAddr::new(DATA), access, false)
        .unwrap();
}

/// Eight bits of an ASID are all that the smallest SMMU has.
#[test]
fn no_domain_has_a_number_that_its_smmus_have_not() {
    let machine = Machine::new(&[Profile::stage1()]);
    let drivers = machine.drivers();
    let endpoints = [on(0, 0, A)];
    let many = SmmuUnitConfig {
        first_vmid: Vmid(0xfe),
        ..config(stage1())
    };
    let mut unit = Stage1Unit::new(many, &endpoints, &machine, All(&drivers)).unwrap();
    assert!(unit.create(1).is_ok());
    let before = machine.bytes_in_use();
    assert_eq!(unit.create(2).err(), Some(CreateError::Failed));
    assert_eq!(machine.bytes_in_use(), before);
}

#[test]
fn a_stream_whose_entry_cannot_be_made_is_blocked() {
    let machine = Machine::new(&[Profile::stage1()]);
    let drivers = machine.drivers();
    let (endpoints, all) = ([on(0, 0, A)], All(&drivers));
    let mut unit = Stage1Unit::new(config(stage1()), &endpoints, &machine, all).unwrap();
    // More bits than the SMMU puts out.
    let wide = SmmuUnitConfig {
        first_vmid: Vmid(0x40),
        ..config(Geometry::stage1(Granule::Size4K, 36, 48).unwrap())
    };
    let mut beyond = Stage1Unit::new(wide, &endpoints, &machine, all).unwrap();
    let mut good = unit.create(0).unwrap();
    let mut bad = beyond.create(0).unwrap();
    unit.attach(Endpoint(0), &mut good, None).unwrap();
    let attached = unit.attach(Endpoint(0), &mut bad, Some(&mut good));
    assert_eq!(attached, Err(AttachError::Failed));
    assert_eq!(unit.slot_of(Endpoint(0)), None);
    let read = Transaction::new(A, 0x5000, Dma::Read);
    let refused = machine.units[0].borrow_mut().translate(read).unwrap_err();
    assert_eq!(refused.kind(), Some(EventKind::C_BAD_STE));
    // So that the domain it was in can go.
    unit.forget(&mut good).unwrap();
    unit.destroy(good);
    beyond.forget(&mut bad).unwrap();
    beyond.destroy(bad);
    machine.assert_clean();
}

#[test]
fn an_owner_maps_its_pages_and_rings_the_doorbell() {
    let machine = Machine::new(&[Profile::stage1()]);
    let drivers = machine.drivers();
    let endpoints = [on(0, 0, A)];
    let empty = machine.bytes_in_use();
    let unit = Stage1Unit::new(config(stage1()), &endpoints, &machine, All(&drivers)).unwrap();
    let ram = Range::from_size(PhysAddr::new(DATA), DATA_SIZE).unwrap();
    let entries: Vec<_> = (0..DATA_SIZE / PAGE).map(|_| AtomicU32::new(0)).collect();
    let words: Vec<_> = (0..Bank::words(ram)).map(|_| AtomicU32::new(0)).collect();
    let banks = [Bank::new(ram, &entries, &words).unwrap()];
    let at_first = Allotment::new(&banks).unwrap();
    let at_first = at_first.assign(ram, Owner::NOBODY, Owner::HOST);
    let ledger = at_first.unwrap().ledger();
    let doorbell = Range::from_size(PhysAddr::new(DOORBELL), 4).unwrap();
    let mut places: [Option<_>; 3] = Default::default();
    let doorbells = std::iter::once(doorbell);
    let mut domains = Domains::new(
        ledger,
        Owner::HOST,
        unit,
        Slots::fixed(&mut places),
        doorbells,
    )
    .unwrap();

    let (domain, endpoint) = (DomainId(1), Endpoint(0));
    machine.allow(0, A, DOORBELL, true);
    let attach = Request::Attach { domain, endpoint };
    assert_eq!(domains.begin(attach), Step::Done(Ok(())));
    let ask = |at, dma| {
        let result = machine.units[0]
            .borrow_mut()
            .translate(Transaction::new(A, at, dma));
        result.map_err(|refused| refused.kind())
    };
    // Devices write it, and since the format has no other way, read it too.
    assert_eq!(ask(DOORBELL + 0x40, Dma::Write), Ok(DOORBELL + 0x40));
    assert_eq!(ask(DOORBELL + 0x40, Dma::Read), Ok(DOORBELL + 0x40));
    assert_eq!(
        ask(DOORBELL + PAGE, Dma::Write),
        Err(Some(EventKind::F_TRANSLATION))
    );

    let pins = |page: u64| ledger.entry(PhysAddr::new(page)).unwrap().dma_count();
    let iova = Range::from_size(Iova::new(0x7_0000), PAGE).unwrap();
    let map = |access| Request::Map {
        domain,
        iova,
        to: Ipa::new(DATA),
        access,
    };
    let only_write = domains.begin(map(Access::WRITE));
    assert_eq!(only_write, Step::Done(Err(Refusal::BadAccess)));
    assert_eq!(pins(DATA), 0);
    machine.allow(0, A, DATA, false);
    assert_eq!(domains.begin(map(Access::READ)), Step::Done(Ok(())));
    assert_eq!(pins(DATA), 1);
    assert_eq!(ask(0x7_0008, Dma::Read), Ok(DATA + 8));
    assert_eq!(
        ask(0x7_0008, Dma::Write),
        Err(Some(EventKind::F_PERMISSION))
    );
    let unmap = Request::Unmap { domain, iova };
    assert_eq!(domains.begin(unmap), Step::AfterSync);
    assert_eq!(pins(DATA), 1);
    domains.sync().unwrap();
    assert_eq!(pins(DATA), 0);
    machine.forbid(|_, page| page == DATA);

    let detach = Request::Detach { domain, endpoint };
    let mut step = domains.begin(detach);
    machine.forbid(|_, _| true);
    while step == Step::More {
        step = domains.go_on();
    }
    assert_eq!(step, Step::Done(Ok(())));
    assert_eq!(machine.bytes_in_use(), empty);
    machine.assert_clean();
}

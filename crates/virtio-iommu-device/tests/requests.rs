//! Each request, each check and each status (5.13.6), by the bytes.
#![allow(missing_docs)]

mod common;

use common::{Call, Driver, PLAIN, attach, book_map as requested, detach, map, probe, unmap};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Refusal, Request};
use virtio_iommu_device::Config;

const OK: Option<u8> = Some(0);
const UNSUPP: Option<u8> = Some(2);
const DEVERR: Option<u8> = Some(3);
const INVAL: Option<u8> = Some(4);
const RANGE: Option<u8> = Some(5);
const NOENT: Option<u8> = Some(6);
const FAULT: Option<u8> = Some(7);
const NOMEM: Option<u8> = Some(8);
const RW: u32 = 3;

fn driver() -> Driver {
    Driver::new(PLAIN)
}

fn attached() -> Driver {
    let mut driver = driver();
    driver.attached(1);
    driver.world.book.calls.clear();
    driver
}

#[test]
fn attach_asks_for_what_it_says() {
    let mut driver = driver();
    assert_eq!(driver.send(&attach(7, 0x1234)), OK);
    let request = Request::Attach {
        domain: DomainId(7),
        endpoint: Endpoint(0x1234),
    };
    assert!(driver.world.book.calls.contains(&Call::Begin(request)));
}

#[test]
fn attach_refuses_flags_and_reserved_bytes() {
    for at in 12..20 {
        let mut body = attach(1, 8);
        body[at] = 1;
        let mut driver = driver();
        assert_eq!(driver.send(&body), INVAL, "byte {at}");
        assert!(driver.world.book.attached.is_empty());
    }
    // Those of the head are ignored (5.13.6.2).
    let mut body = attach(1, 8);
    body[1..4].fill(0xff);
    assert_eq!(driver().send(&body), OK);
}

#[test]
fn attach_knows_endpoints_and_domains() {
    let mut driver = driver();
    assert_eq!(driver.send(&attach(1, 9)), NOENT);
    assert_eq!(driver.send(&attach(0, 8)), RANGE);
    assert_eq!(driver.send(&attach(101, 8)), RANGE);
    assert_eq!(driver.send(&attach(u32::MAX, 8)), RANGE);
    assert_eq!(driver.send(&attach(100, 8)), OK);
    // Another domain takes the place of the one before, after a sync.
    assert_eq!(driver.send(&attach(1, 8)), OK);
    assert_eq!(driver.world.book.count(Call::Sync), 1);
    assert_eq!(driver.world.book.attached.get(&8), Some(&1));
    assert!(!driver.world.book.domains.contains_key(&100));
}

#[test]
fn detach_knows_endpoints_and_domains() {
    let mut driver = attached();
    assert_eq!(driver.send(&detach(1, 9)), NOENT);
    assert_eq!(driver.send(&detach(2, 9)), NOENT);
    assert_eq!(driver.send(&detach(2, 8)), INVAL);
    assert_eq!(driver.send(&detach(1, 0)), INVAL);
    // Reserved bytes are ignored.
    let mut body = detach(1, 8);
    body[12..].fill(0xff);
    assert_eq!(driver.send(&body), OK);
    assert_eq!(driver.send(&detach(1, 8)), INVAL);
}

#[test]
fn map_asks_for_what_it_says() {
    let cases = [
        (0, Access::empty()),
        (1, Access::READ),
        (2, Access::WRITE),
        (3, Access::READ | Access::WRITE),
        (6, Access::WRITE | Access::MMIO),
        (7, Access::READ | Access::WRITE | Access::MMIO),
    ];
    for (flags, access) in cases {
        let mut driver = attached();
        let body = map(1, 0x4_2000, 0x4_4fff, 0x8765_4000, flags);
        assert_eq!(driver.send(&body), OK);
        let wanted = requested(1, 0x4_2000, 0x4_5000, 0x8765_4000, access);
        assert_eq!(driver.world.book.calls, [Call::Begin(wanted)], "{flags}");
    }
}

#[test]
fn map_refuses_unknown_flags() {
    let mut driver = attached();
    for bit in 3..32 {
        let body = map(1, 0x2_0000, 0x2_0fff, 0, 1 << bit);
        assert_eq!(driver.send(&body), INVAL, "bit {bit}");
    }
    assert!(driver.world.book.calls.is_empty());
}

#[test]
fn mmio_has_to_be_agreed_on() {
    let mut driver = Driver::new(PLAIN & !(1 << 5));
    driver.attached(1);
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, 4)), INVAL);
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW)), OK);
}

#[test]
fn map_refuses_what_is_misaligned() {
    let mut driver = attached();
    for odd in [1, 0x10, 0x800, 0xfff] {
        assert_eq!(driver.send(&map(1, 0x2_0000 + odd, 0x2_1fff, 0, RW)), RANGE);
        assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff + odd, 0, RW)), RANGE);
        assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff, odd, RW)), RANGE);
    }
    assert!(driver.world.book.calls.is_empty());
}

#[test]
fn map_keeps_to_the_input_range() {
    let mut driver = attached();
    let last = (1 << 40) - 1;
    assert_eq!(driver.send(&map(1, 0xf000, 0x1_0fff, 0, RW)), RANGE);
    assert_eq!(driver.send(&map(1, 0, u64::MAX, 0, RW)), RANGE);
    assert_eq!(driver.send(&map(1, 0x1_0000, u64::MAX, 0, RW)), RANGE);
    assert_eq!(driver.send(&map(1, 1 << 40, last + 0x1000, 0, RW)), RANGE);
    assert_eq!(
        driver.send(&map(1, last - 0xfff, last + 0x1000, 0, RW)),
        RANGE
    );
    // Nothing, and less than nothing.
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x1_ffff, 0, RW)), RANGE);
    assert_eq!(driver.send(&map(1, 0x3_0000, 0x1_ffff, 0, RW)), RANGE);
    assert!(driver.world.book.calls.is_empty());
    assert_eq!(driver.send(&map(1, last - 0xfff, last, 0, RW)), OK);
    assert_eq!(driver.send(&map(1, 0x1_0000, 0x1_0fff, 0, RW)), OK);
}

#[test]
fn map_goes_nowhere_beyond_the_last_address() {
    let mut driver = attached();
    let top = u64::MAX - 0xfff;
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_1fff, top, RW)), FAULT);
    assert!(driver.world.book.calls.is_empty());
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff, top, RW)), OK);
}

#[test]
fn map_refuses_an_overlap_and_an_unknown_domain() {
    let mut driver = attached();
    assert_eq!(driver.send(&map(2, 0x2_0000, 0x2_0fff, 0, RW)), NOENT);
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_1fff, 0, RW)), OK);
    for (start, last) in [(0x2_1000, 0x2_1fff), (0x1_0000, 0x2_0fff)] {
        assert_eq!(driver.send(&map(1, start, last, 0, RW)), INVAL);
    }
    assert_eq!(driver.world.book.domains[&1].len(), 1);
}

#[test]
fn unmap_takes_whole_mappings() {
    let mut driver = attached();
    driver.send(&map(1, 0x2_0000, 0x2_1fff, 0, RW));
    driver.send(&map(1, 0x2_2000, 0x2_2fff, 0, RW));
    assert_eq!(driver.send(&unmap(1, 0x2_0000, 0x2_0fff)), RANGE);
    assert_eq!(driver.send(&unmap(1, 0x2_1000, 0x2_2fff)), RANGE);
    assert_eq!(driver.world.book.domains[&1].len(), 2, "nothing is removed");
    assert_eq!(driver.send(&unmap(2, 0x2_0000, 0x2_1fff)), NOENT);
    // Beyond mappings is no harm, nor is nothing at all.
    assert_eq!(driver.send(&unmap(1, 0x1_0000, 0x2_ffff)), OK);
    assert_eq!(driver.world.book.domains[&1].len(), 0);
    assert_eq!(driver.send(&unmap(1, 0x1_0000, 0x2_ffff)), OK);
}

#[test]
fn unmap_may_reach_out_of_the_input_range() {
    for (start, last) in [
        (0, u64::MAX),
        (0, 0x2_0fff),
        (0x2_0000, u64::MAX),
        (0x2_0000, 0x1ff_ffff_ffff),
    ] {
        let mut driver = attached();
        driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
        assert_eq!(driver.send(&unmap(1, start, last)), OK);
        assert!(driver.world.book.domains[&1].is_empty(), "{start:#x}");
    }
}

/// 5.13.6.6.2: a range need cover no mapping, nor begin or end at a page.
#[test]
fn unmap_takes_any_range_that_cuts_nothing() {
    for (start, last) in [
        (0, 0xfff),
        (1 << 40, (1 << 41) - 1),
        (u64::MAX, u64::MAX),
        (0x2_1001, 0x2_1001),
        (0x2_1000, 0x2_2fff),
        (0x1_f123, 0x1_ffff),
    ] {
        let mut driver = attached();
        driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
        assert_eq!(driver.send(&unmap(1, start, last)), OK, "{start:#x}");
        assert_eq!(driver.world.book.domains[&1].len(), 1, "{start:#x}");
        assert_eq!(driver.send(&unmap(2, start, last)), NOENT, "{start:#x}");
    }
    for (start, last) in [(0x1_ffff, 0x2_1000), (0x2_0000, 0x2_1001), (1, u64::MAX)] {
        let mut driver = attached();
        driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
        assert_eq!(driver.send(&unmap(1, start, last)), OK, "{start:#x}");
        assert!(driver.world.book.domains[&1].is_empty(), "{start:#x}");
    }
    for (start, last) in [
        (0x2_0001, 0x2_1fff),
        (0x1_0000, 0x2_0ffe),
        (0x2_0800, 0x2_0800),
    ] {
        let mut driver = attached();
        driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
        assert_eq!(driver.send(&unmap(1, start, last)), RANGE, "{start:#x}");
        assert_eq!(driver.world.book.domains[&1].len(), 1, "{start:#x}");
    }
}

#[test]
fn unmap_refuses_what_ends_before_it_begins() {
    let mut driver = attached();
    for (start, last) in [
        (0x2_0000, 0x1_ffff),
        (0x4_0000, 0x1_ffff),
        (0x2_0800, 0x2_0001),
        (u64::MAX, u64::MAX - 1),
        (u64::MAX, 0),
    ] {
        assert_eq!(driver.send(&unmap(1, start, last)), RANGE, "{start:#x}");
    }
    assert!(driver.world.book.calls.is_empty());
}

#[test]
fn reserved_bytes_of_an_unmap_are_ignored() {
    let mut driver = attached();
    driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
    let mut body = unmap(1, 0x2_0000, 0x2_0fff);
    body[24..].fill(0xff);
    assert_eq!(driver.send(&body), OK);
    assert!(driver.world.book.domains[&1].is_empty());
}

#[test]
fn what_the_back_end_refuses_has_a_status() {
    let cases = [
        (Refusal::NoDomain, NOENT, INVAL),
        (Refusal::NoEndpoint, NOENT, NOENT),
        (Refusal::BadDomain, RANGE, RANGE),
        (Refusal::NotAttached, INVAL, INVAL),
        (Refusal::AlreadyMapped, INVAL, INVAL),
        (Refusal::OutOfRange, RANGE, RANGE),
        (Refusal::WouldSplit, RANGE, RANGE),
        (Refusal::NotOwned, FAULT, FAULT),
        (Refusal::BadAccess, UNSUPP, UNSUPP),
        (Refusal::NoMemory, NOMEM, NOMEM),
        (Refusal::Failed, DEVERR, DEVERR),
    ];
    for (refusal, status, of_detach) in cases {
        let mut driver = attached();
        for (body, status) in [
            (map(1, 0x2_0000, 0x2_0fff, 0, RW), status),
            (unmap(1, 0x2_0000, 0x2_0fff), status),
            (attach(1, 8), status),
            (detach(1, 8), of_detach),
        ] {
            driver.world.book.refusals.push_back(refusal);
            let before = driver.world.device.counts().refused;
            assert_eq!(driver.send(&body), status, "{refusal:?}");
            assert_eq!(driver.world.device.counts().refused, before + 1);
        }
    }
}

#[test]
fn an_invalidation_that_fails_is_an_error_of_the_device() {
    let mut driver = attached();
    driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
    driver.world.book.sync_fails = true;
    assert_eq!(driver.send(&unmap(1, 0x2_0000, 0x2_0fff)), DEVERR);
    assert_eq!(driver.world.device.counts().failed_syncs, 1);
    assert_eq!(driver.send(&detach(1, 8)), DEVERR);
}

#[test]
fn unknown_requests_come_back_as_they_were() {
    let mut driver = attached();
    for kind in (0..=255).filter(|kind| !(1..=5).contains(kind)) {
        let mut body = map(1, 0x2_0000, 0x2_0fff, 0, RW);
        body[0] = kind;
        assert_eq!(driver.send(&body), None, "type {kind}");
    }
    assert!(driver.world.book.calls.is_empty());
}

#[test]
fn what_was_not_agreed_on_is_unknown() {
    let mut driver = Driver::new(PLAIN & !(1 << 2));
    driver.attached(1);
    assert_eq!(driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW)), None);
    assert_eq!(driver.send(&unmap(1, 0x2_0000, 0x2_0fff)), None);
    let mut driver = Driver::new(PLAIN & !(1 << 4));
    assert_eq!(driver.send(&probe(8)), None);
}

#[test]
fn a_request_that_is_too_short_is_invalid() {
    for body in [
        attach(1, 8),
        detach(1, 8),
        map(1, 0x2_0000, 0x2_0fff, 0, RW),
        unmap(1, 0x2_0000, 0x2_0fff),
    ] {
        let mut driver = attached();
        for len in 0..4 {
            // Not even a type.
            let mut driver = attached();
            assert_eq!(short(&mut driver, &body[..len]), None, "{body:?} {len}");
        }
        for len in 4..body.len() {
            assert_eq!(driver.send(&body[..len]), INVAL, "{body:?} {len}");
        }
        assert!(driver.world.book.calls.is_empty());
        // Bytes after a request are ignored.
        let mut long = body.clone();
        long.extend([0xff; 40]);
        assert_eq!(driver.send(&long), OK, "{body:?}");
    }
}

/// As [`Driver::send`], for what has no type.
fn short(driver: &mut Driver, body: &[u8]) -> Option<u8> {
    let at = driver.room(64);
    driver.world.machine.put(at, body);
    let head = driver.chain(&[(at, body.len() as u32, false), (at + 40, 4, true)]);
    driver.offer(head);
    driver.notify();
    match driver.used()[..] {
        [(_, 0)] => None,
        _ => Some(driver.world.machine.get(at + 40, 1)[0]),
    }
}

#[test]
fn a_page_may_be_smaller_or_larger() {
    for (sizes, unit) in [(0x1_0000, 0x1_0000), (0x20_4000, 0x4000)] {
        let mut world = common::World::new(&Config::default());
        world.book.limits.page_sizes = sizes;
        let limits = world.book.limits;
        world.device = virtio_iommu_device::Device::new(&limits, &Config::default()).unwrap();
        world.bring_up(PLAIN);
        let mut driver = Driver {
            world,
            ..Driver::new(PLAIN)
        };
        driver.attached(1);
        let first = 0x10_0000;
        let half = unit / 2;
        assert_eq!(driver.send(&map(1, first, first + half - 1, 0, RW)), RANGE);
        assert_eq!(driver.send(&map(1, first, first + unit - 1, 0, RW)), OK);
    }
}

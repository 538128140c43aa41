//! Several requests at once, calls that end early, and resets at any time.
#![allow(missing_docs)]

mod common;

use common::{Call, Driver, EVENT_IDX, PLAIN, Pace, REQUESTS, attach, detach, map, probe, unmap};
use virtio_iommu_device::{Config, Progress, Size, reg};

const RW: u32 = 3;

fn page(n: u64) -> (u64, u64) {
    let start = 0x10_0000 + 0x1000 * n;
    (start, start + 0xfff)
}

fn map_page(n: u64) -> Vec<u8> {
    let (start, last) = page(n);
    map(1, start, last, 0, RW)
}

fn unmap_page(n: u64) -> Vec<u8> {
    let (start, last) = page(n);
    unmap(1, start, last)
}

fn with(work: u32, features: u64) -> Driver {
    let config = Config {
        work,
        ..Config::default()
    };
    let mut driver = Driver::with(features, &config);
    driver.layout = REQUESTS;
    driver.attached(1);
    driver
}

fn statuses(driver: &Driver, tails: &[u64]) -> Vec<u8> {
    let status = |at: &u64| driver.world.machine.get(*at, 1)[0];
    tails.iter().map(status).collect()
}

#[test]
fn one_wait_for_all_of_a_burst() {
    for count in 1..=32 {
        let mut driver = with(64, PLAIN);
        for n in 0..count {
            driver.send(&map_page(n));
        }
        driver.world.book.calls.clear();
        let _ = driver.world.machine.interrupts();
        let tails: Vec<_> = (0..count).map(|n| driver.queue(&unmap_page(n)).1).collect();
        assert_eq!(driver.notify(), 1);
        assert_eq!(driver.world.book.count(Call::Sync), 1, "{count}");
        // It came last.
        assert_eq!(driver.world.book.calls.last(), Some(&Call::Sync));
        assert_eq!(driver.used().len(), count as usize);
        assert!(statuses(&driver, &tails).iter().all(|status| *status == 0));
        assert_eq!(driver.world.machine.interrupts(), 1);
    }
}

/// More than a burst has room for, with a share of work that allows it.
#[test]
fn a_burst_that_is_full_waits_and_goes_on() {
    for count in [63, 64, 65, 128, 130] {
        let mut driver = with(1000, PLAIN);
        let size = 256;
        driver.world.write(reg::QUEUE_SEL, 0);
        driver.world.write(reg::QUEUE_READY, 0);
        driver.layout = common::Layout { size, ..REQUESTS };
        for at in [REQUESTS.available, REQUESTS.used] {
            driver.world.machine.fill(at, 0x1000, 0);
        }
        driver.world.ready(0, &driver.layout.clone());
        (driver.available, driver.seen, driver.descriptor) = (0, 0, 0);
        for n in 0..count {
            driver.send(&map_page(n));
        }
        driver.world.book.calls.clear();
        for n in 0..count {
            let body = unmap_page(n);
            let at = driver.room(32);
            driver.world.machine.put(at, &body);
            // One descriptor of the queue each, with the tail in common.
            let index = n as u16;
            driver.describe(index, common::descriptor(at, 28, 1, 255));
            driver.offer(index);
        }
        let shared = driver.room(8);
        driver.describe(255, common::descriptor(shared, 4, 2, 0));
        driver.world.machine.fill(shared, 4, 0xee);
        driver.notify();
        assert_eq!(driver.used().len() as u64, count);
        assert_eq!(driver.world.machine.get(shared, 4), [0; 4]);
        assert!(driver.world.book.domains[&1].is_empty());
        let syncs = driver.world.book.count(Call::Sync) as u64;
        assert_eq!(syncs, count.div_ceil(64), "{count}");
        assert!(driver.world.book.waiting.is_empty());
    }
}

#[test]
fn what_needs_no_wait_does_not_cause_one() {
    let mut driver = with(64, PLAIN);
    for n in 0..20 {
        driver.queue(&map_page(n));
    }
    driver.notify();
    assert_eq!(driver.world.book.count(Call::Sync), 0);
    assert_eq!(driver.used().len(), 20);
    // An error, an unknown request and a PROBE among what waits.
    let tails = [
        driver.queue(&unmap_page(0)).1,
        driver.queue(&map_page(7)).1,
        driver.queue(&unmap_page(1)).1,
        driver.queue(&[9, 0, 0, 0]).1,
        driver.queue(&probe(8)).1 + 256,
        driver.queue(&detach(1, 8)).1,
        driver.queue(&map_page(0)).1,
    ];
    let before = driver.seen;
    driver.notify();
    assert_eq!(driver.world.book.count(Call::Sync), 1);
    assert_eq!(statuses(&driver, &tails), [0, 4, 0, 0xee, 0, 0, 6]);
    // In order.
    let heads: Vec<_> = driver.used().iter().map(|(head, _)| *head).collect();
    let at = |n: u16| {
        let slot = u64::from(before.wrapping_add(n)) % u64::from(REQUESTS.size);
        u32::from(
            driver
                .world
                .machine
                .get16(REQUESTS.available + 4 + 2 * slot),
        )
    };
    assert_eq!(heads, (0..7).map(at).collect::<Vec<_>>());
}

#[test]
fn a_wait_that_fails_is_told_to_those_who_waited() {
    let mut driver = with(64, PLAIN);
    for n in 0..3 {
        driver.send(&map_page(n));
    }
    driver.world.book.sync_fails = true;
    let tails = [
        driver.queue(&unmap_page(0)).1,
        driver.queue(&map_page(9)).1,
        driver.queue(&unmap_page(1)).1,
        driver.queue(&unmap_page(77)).1,
    ];
    driver.notify();
    assert_eq!(statuses(&driver, &tails), [3, 0, 3, 0]);
}

#[test]
fn statuses_are_written_before_the_ring_moves() {
    let mut driver = with(64, PLAIN);
    driver.send(&map_page(0));
    driver.send(&map_page(1));
    driver.queue(&unmap_page(0));
    // The request under way keeps what waits from being shown.
    driver.world.book.pace.extend([Pace::Now, Pace::Turns(100)]);
    let (_, tail) = driver.queue(&unmap_page(1));
    let before = driver.used_idx();
    let first = driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
    assert_eq!(first, Progress::Again);
    assert_eq!(driver.used_idx(), before);
    assert_eq!(statuses(&driver, &[tail]), [0xee]);
    assert_eq!(driver.world.book.count(Call::Sync), 0);
    driver.notify();
    assert_eq!(driver.used().len(), 2);
    assert_eq!(driver.world.book.count(Call::Sync), 1);
}

/// The first turn of a request that is alone is work too.
#[test]
fn a_single_request_has_no_turn_more_than_others() {
    for work in 1..=8u32 {
        let mut driver = with(work, PLAIN);
        driver.world.book.pace.extend([Pace::Turns(5)]);
        driver.queue(&map_page(0));
        assert_eq!(driver.notify(), 6_u32.div_ceil(work), "{work}");
        assert_eq!(driver.used().len(), 1);
    }
}

/// Twenty requests, some of which take turns, under every share of work.
#[test]
fn a_call_that_ends_early_is_carried_on() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut first = None;
        for work in 0..=40 {
            let mut driver = with(work, features);
            driver.world.book.calls.clear();
            let pace = [0, 3, 0, 1, 30, 0, 2].map(Pace::Turns);
            driver.world.book.pace.extend(pace);
            let mut tails = Vec::new();
            for n in 0..10 {
                tails.push(driver.queue(&map_page(n)).1);
                tails.push(driver.queue(&unmap_page(n)).1);
            }
            let times = driver.notify();
            let units = 20 + 36;
            let share = work.max(1);
            assert_eq!(times, units.max(1_u32).div_ceil(share).max(1), "{work}");
            assert_eq!(u64::from(times) - 1, driver.world.device.counts().again);
            assert_eq!(driver.used().len(), 20, "{work}");
            assert!(statuses(&driver, &tails).iter().all(|status| *status == 0));
            assert!(!driver.world.book.is_busy());
            let mut calls = driver.world.book.calls.clone();
            calls.retain(|call| *call != Call::Sync);
            assert_eq!(first.get_or_insert(calls.clone()), &calls, "{work}");
        }
    }
}

#[test]
fn other_writes_come_in_between() {
    let mut driver = with(1, PLAIN);
    driver.world.book.pace.push_back(Pace::Turns(50));
    let (_, tail) = driver.queue(&map_page(0));
    let (_, later) = driver.queue(&map_page(1));
    let notify = |driver: &mut Driver| driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
    assert_eq!(notify(&mut driver), Progress::Again);
    for value in 0..20 {
        driver.world.write(reg::QUEUE_SEL, value);
        driver.world.write(reg::INTERRUPT_ACK, 3);
        driver.world.write(reg::QUEUE_NOTIFY, 1);
        driver.world.read(reg::STATUS);
        assert_eq!(notify(&mut driver), Progress::Again);
    }
    driver.notify();
    assert_eq!(statuses(&driver, &[tail, later]), [0, 0]);
    assert_eq!(driver.used().len(), 2);
    // The write that was left over finds nothing to do.
    assert_eq!(notify(&mut driver), Progress::Done);
}

#[test]
fn a_queue_is_not_taken_away_from_a_request_under_way() {
    let mut driver = with(1, PLAIN);
    driver.world.book.pace.push_back(Pace::Turns(9));
    let (_, tail) = driver.queue(&map_page(0));
    driver.queue(&map_page(1));
    let _ = driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
    driver.world.write(reg::QUEUE_SEL, 0);
    let times = driver.world.write(reg::QUEUE_READY, 0);
    assert_eq!(times, 9);
    assert_eq!(driver.world.read(reg::QUEUE_READY), 0);
    assert_eq!(statuses(&driver, &[tail]), [0]);
    assert_eq!(driver.used().len(), 1, "the other one was not begun");
    assert!(!driver.world.book.is_busy());
}

/// A reset after every number of calls of a burst, with a back end that takes
/// several turns to do it.
#[test]
fn a_reset_comes_at_any_time() {
    for work in [1, 2, 7, 64] {
        for calls in 0..30 {
            for turns in [0, 1, 3, 20] {
                let mut driver = with(work, PLAIN);
                driver.send(&map_page(40));
                // What is under way is the UNMAP or what comes after it.
                let pace = [Pace::Now, Pace::Turns(12)];
                driver.world.book.pace.extend(&pace[calls & 1..]);
                driver.queue(&unmap_page(40));
                for n in 0..5 {
                    driver.queue(&map_page(n));
                }
                for _ in 0..calls {
                    let _ = driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
                }
                driver.world.book.pace.clear();
                driver.world.book.pace.push_back(Pace::Turns(turns));
                let idx = driver.used_idx();
                let _ = driver.world.machine.written();
                let attached = driver.world.book.attached.clone();
                while driver.world.write_once(reg::STATUS, Size::Word, 0) == Progress::Again {
                    assert_ne!(driver.world.read(reg::STATUS), 0, "not complete");
                    assert_eq!(driver.world.machine.open_windows(), 0);
                    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 0);
                }
                assert_eq!(driver.world.read(reg::STATUS), 0);
                assert!(driver.world.machine.written().is_empty(), "touched");
                assert_eq!(driver.used_idx(), idx);
                assert!(!driver.world.book.is_busy());
                assert!(driver.world.book.waiting.is_empty());
                // Devices go on as they were…
                assert_eq!(driver.world.book.attached, attached);
                assert_eq!(driver.world.book.count(Call::Reset), 0);
                // …until the next driver, for which everything is new.
                driver.world.bring_up(PLAIN);
                assert_eq!(driver.world.book.count(Call::Reset), 1);
                assert!(driver.world.book.attached.is_empty());
                (driver.available, driver.seen) = (0, 0);
                assert_eq!(driver.send(&attach(1, 8)), Some(0));
                assert_eq!(driver.send(&map_page(0)), Some(0));
            }
        }
    }
}

/// A driver that has agreed on its features, and does no more.
fn agree(driver: &mut Driver) -> Progress {
    driver.world.write(reg::STATUS, 0);
    driver.world.write(reg::STATUS, 3);
    driver.world.accept(PLAIN);
    driver.world.write_once(reg::STATUS, Size::Word, 11)
}

/// The CPU whose driver begins does not come back; another one goes on.
#[test]
fn the_next_write_helps_a_driver_to_begin() {
    let mut driver = with(4, PLAIN);
    driver.world.book.pace.push_back(Pace::Turns(10));
    assert_eq!(agree(&mut driver), Progress::Again);
    assert_eq!(driver.world.read(reg::STATUS), 3, "not agreed yet");
    let again = driver.world.write_once(reg::QUEUE_SEL, Size::Word, 0);
    assert_eq!(again, Progress::Again);
    driver.world.write(reg::QUEUE_SEL, 1);
    assert_eq!(driver.world.book.count(Call::Reset), 1);
    // The write comes again, and finds that it has nothing to wait for.
    assert_eq!(driver.world.write(reg::STATUS, 11), 1);
    assert_eq!(driver.world.read(reg::STATUS), 11);
    assert_eq!(driver.world.book.count(Call::Reset), 1);
}

/// A second reset comes while the first one waits for the back end.
#[test]
fn the_next_write_completes_a_reset() {
    let mut driver = with(4, PLAIN);
    driver.world.book.pace.push_back(Pace::Turns(20));
    driver.queue(&map_page(0));
    let _ = driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
    assert!(driver.world.book.is_busy());
    let reset = |driver: &mut Driver| driver.world.write_once(reg::STATUS, Size::Word, 0);
    assert_eq!(reset(&mut driver), Progress::Again);
    assert_eq!(driver.world.read(reg::STATUS) & 64, 64);
    let again = driver.world.write_once(reg::QUEUE_SEL, Size::Word, 0);
    assert_eq!(again, Progress::Again);
    driver.world.write(reg::QUEUE_SEL, 1);
    assert_eq!(driver.world.read(reg::STATUS), 0);
    assert!(!driver.world.book.is_busy());
}

/// A driver that is reset in the middle of its beginning takes nothing along.
#[test]
fn a_reset_in_the_middle_of_a_beginning_ends_it_first() {
    let mut driver = with(4, PLAIN);
    driver.world.book.pace.push_back(Pace::Turns(10));
    assert_eq!(agree(&mut driver), Progress::Again);
    driver.world.write(reg::STATUS, 0);
    assert_eq!(driver.world.read(reg::STATUS), 0);
    assert_eq!(driver.world.book.count(Call::Reset), 1);
    // Nothing is left to forget.
    assert_eq!(agree(&mut driver), Progress::Done);
    assert_eq!(driver.world.book.count(Call::Reset), 1);
}

#[test]
fn what_cannot_be_forgotten_is_counted() {
    let mut driver = with(64, PLAIN);
    driver.world.book.reset_fails = true;
    assert_eq!(agree(&mut driver), Progress::Done);
    assert_eq!(driver.world.read(reg::STATUS), 11);
    assert_eq!(driver.world.device.counts().failed_resets, 1);
}

/// The usual request costs one page, and each byte of it is loaded once.
#[test]
fn a_single_request_is_read_once_through_one_page() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        for body in [map_page(3), unmap_page(3)] {
            let mut driver = with(64, features);
            let (_, tail) = driver.queue(&body);
            let _ = (driver.world.machine.loads(), driver.world.machine.holds());
            driver.notify();
            assert_eq!(driver.world.machine.holds(), 1);
            let loads = driver.world.machine.loads();
            let at = tail - body.len() as u64;
            for byte in at..tail {
                let times = loads.iter().filter(|load| **load == byte).count();
                // `reserved` of an UNMAP means nothing.
                assert!(times == 1 || times == 0 && byte >= at + 24 && body[0] == 4);
            }
            assert_eq!(driver.world.device.counts().general, 1, "the ATTACH");
        }
    }
}

#[test]
fn a_burst_holds_each_page_once() {
    let mut driver = with(64, PLAIN);
    for n in 0..20 {
        driver.queue(&map_page(n));
        driver.queue(&unmap_page(n));
    }
    let _ = driver.world.machine.holds();
    let pages = driver.buffer / common::PAGE - common::BUFFERS / common::PAGE + 1;
    driver.notify();
    // Once for reading and answering, and once more for what waited.
    assert!(driver.world.machine.holds() <= 2 * pages, "{pages}");
    let general = driver.world.device.counts().general;
    assert!(general <= pages, "only what lies across pages: {general}");
}

//! PROBE (5.13.6.7) and the event queue (5.13.6.9).
#![allow(missing_docs)]

mod common;

use common::{BUFFERS, Driver, EVENT_IDX, EVENTS, INDIRECT, PLAIN, RAM, probe};
use portcullis_addr::Iova;
use portcullis_dma_domain::Endpoint;
use virtio_iommu_device::{Broken, Delivery, Fault, FaultFlags, FaultReason, reg};

/// A PROBE with that much room for its answer, in pieces; what was written.
fn answer(driver: &mut Driver, body: &[u8], pieces: &[u32]) -> (u32, Vec<u8>) {
    let at = driver.room(128);
    driver.world.machine.put(at, body);
    let mut chain = vec![(at, body.len() as u32, false)];
    for len in pieces {
        let at = driver.room(u64::from(*len));
        driver.world.machine.fill(at, u64::from(*len), 0xee);
        chain.push((at, *len, true));
    }
    let head = driver.chain(&chain);
    driver.offer(head);
    driver.notify();
    let [(_, len)] = driver.used()[..] else {
        panic!("one chain");
    };
    let bytes = chain[1..]
        .iter()
        .flat_map(|(at, len, _)| driver.world.machine.get(*at, u64::from(*len)));
    (len, bytes.collect())
}

fn property(kind: u8, start: u64) -> Vec<u8> {
    let mut bytes = vec![1, 0, 20, 0, kind, 0, 0, 0];
    bytes.extend(start.to_le_bytes());
    bytes.extend((start + 0xf_ffff).to_le_bytes());
    bytes
}

#[test]
fn a_probe_lists_what_is_reserved() {
    for pieces in [&[260][..], &[256, 4], &[1, 0, 258, 1], &[259, 1], &[300]] {
        let mut driver = Driver::new(PLAIN);
        let mut body = probe(8);
        // Ignored.
        body[8..].fill(0xff);
        let (len, bytes) = answer(&mut driver, &body, pieces);
        assert_eq!(len, 260);
        let mut expected = property(1, 0x800_0000);
        expected.resize(260, 0);
        assert_eq!(bytes[..260], expected, "{pieces:?}");
        assert!(bytes[260..].iter().all(|byte| *byte == 0xee));
    }
}

#[test]
fn an_endpoint_with_nothing_reserved_has_no_properties() {
    let mut driver = Driver::new(PLAIN);
    assert_eq!(answer(&mut driver, &probe(0), &[260]), (260, vec![0; 260]));
}

#[test]
fn properties_that_do_not_fit_are_left_out() {
    for count in 0..=14 {
        let mut driver = Driver::new(PLAIN);
        driver.world.book.many_reserved = count;
        let (len, bytes) = answer(&mut driver, &probe(0x1234), &[260]);
        let listed =
            (0..count.min(10)).flat_map(|n| property(0, 0x800_0000 + 0x10_0000 * n as u64));
        let mut expected: Vec<u8> = listed.collect();
        expected.resize(260, 0);
        assert_eq!((len, bytes), (260, expected), "{count}");
        assert_eq!(
            driver.world.device.counts().properties_cut,
            u64::from(count > 10)
        );
    }
}

#[test]
fn a_probe_that_is_refused_has_its_status_at_the_end() {
    let mut driver = Driver::new(PLAIN);
    let (len, bytes) = answer(&mut driver, &probe(9), &[260]);
    assert_eq!((len, bytes[256]), (260, 6));
    assert_eq!(bytes[..256], [0; 256]);
    // Too little room for properties, or too short itself.
    for room in [4, 5, 100, 259] {
        let (len, bytes) = answer(&mut driver, &probe(8), &[room]);
        assert_eq!(len, room);
        let mut expected = vec![0; room as usize];
        expected[room as usize - 4] = 4;
        assert_eq!(bytes, expected, "{room}");
    }
    let (len, bytes) = answer(&mut driver, &probe(8)[..71], &[260]);
    assert_eq!((len, bytes[256]), (260, 4));
    let (len, bytes) = answer(&mut driver, &probe(8), &[3]);
    assert_eq!((len, bytes), (0, vec![0xee; 3]));
}

#[test]
fn a_probe_whose_answer_has_no_place_comes_back() {
    let mut driver = Driver::new(PLAIN);
    let at = driver.room(128);
    driver.world.machine.put(at, &probe(8));
    let head = driver.chain(&[(at, 72, false), (RAM.end - 100, 260, true)]);
    driver.offer(head);
    driver.notify();
    assert_eq!(driver.used(), [(u32::from(head), 0)]);
    assert_eq!(driver.world.device.counts().outside, 1);
}

const FAULT: Fault = Fault {
    reason: FaultReason::MAPPING,
    flags: FaultFlags::WRITE,
    endpoint: Endpoint(0x1234),
    address: Some(Iova::new(0x1122_3344_5566_7788)),
};

/// The driver of the event queue.
fn events(features: u64) -> Driver {
    let mut driver = Driver::new(features);
    driver.layout = EVENTS;
    driver
}

fn fault(driver: &mut Driver, fault: &Fault) -> Delivery {
    let delivery = driver.world.device.fault(&driver.world.machine, fault);
    driver.world.machine.end();
    delivery
}

fn buffer(driver: &mut Driver, pieces: &[u32]) -> u64 {
    let at = driver.room(64);
    driver.world.machine.fill(at, 64, 0xee);
    let mut from = at;
    let mut chain = Vec::new();
    for len in pieces {
        chain.push((from, *len, true));
        from += u64::from(*len);
    }
    let head = driver.chain(&chain);
    driver.offer(head);
    at
}

#[test]
fn a_fault_is_laid_out_as_specified() {
    for pieces in [&[24][..], &[32], &[1; 12], &[0, 5, 0, 19, 3]] {
        let mut driver = events(PLAIN);
        // Twelve bytes are not enough.
        let enough = pieces.iter().sum::<u32>() >= 24;
        let at = buffer(&mut driver, pieces);
        let delivery = fault(&mut driver, &FAULT);
        let bytes = driver.world.machine.get(at, 26);
        if !enough {
            assert_eq!(delivery, Delivery::Dropped);
            assert_eq!(driver.used()[0].1, 0);
            assert_eq!(bytes, [0xee; 26]);
            continue;
        }
        assert_eq!(delivery, Delivery::Delivered);
        assert_eq!(driver.used()[0].1, 24);
        let mut expected = vec![2, 0, 0, 0, 2, 1, 0, 0, 0x34, 0x12, 0, 0, 0, 0, 0, 0];
        expected.extend(0x1122_3344_5566_7788u64.to_le_bytes());
        expected.extend([0xee; 2]);
        assert_eq!(bytes, expected);
    }
}

#[test]
fn a_fault_without_an_address_has_none() {
    let mut driver = events(PLAIN);
    let at = buffer(&mut driver, &[24]);
    let unknown = Fault {
        reason: FaultReason::DOMAIN,
        flags: FaultFlags::READ,
        address: None,
        ..FAULT
    };
    fault(&mut driver, &unknown);
    let bytes = driver.world.machine.get(at, 24);
    let mut expected = vec![1, 0, 0, 0, 1, 0, 0, 0, 0x34, 0x12, 0, 0];
    expected.resize(24, 0);
    assert_eq!(bytes, expected);
}

#[test]
fn a_fault_nobody_waits_for_is_dropped() {
    let mut driver = events(PLAIN);
    for _ in 0..3 {
        assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    }
    assert_eq!(driver.world.machine.interrupts(), 0);
    buffer(&mut driver, &[24]);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Delivered);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    // A buffer outside.
    let head = driver.chain(&[(RAM.end - 8, 24, true)]);
    driver.offer(head);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    // No queue, no driver.
    buffer(&mut driver, &[24]);
    driver.world.write(reg::QUEUE_SEL, 1);
    driver.world.write(reg::QUEUE_READY, 0);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    driver.world.write(reg::STATUS, 0);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    let counts = driver.world.device.counts();
    assert_eq!((counts.faults_delivered, counts.faults_dropped), (1, 7));
}

#[test]
fn faults_interrupt_as_the_driver_wants() {
    let mut driver = events(PLAIN);
    for (flags, interrupts) in [(0, 1), (1, 0), (0, 1)] {
        driver.world.machine.put16(EVENTS.available, flags);
        buffer(&mut driver, &[24]);
        fault(&mut driver, &FAULT);
        assert_eq!(driver.world.machine.interrupts(), interrupts);
    }
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 1);
    let mut driver = events(PLAIN | EVENT_IDX);
    driver.world.machine.put16(EVENTS.available + 4 + 32, 2);
    for n in 0..5 {
        buffer(&mut driver, &[24]);
        fault(&mut driver, &FAULT);
        assert_eq!(driver.world.machine.interrupts(), u64::from(n == 2), "{n}");
    }
}

#[test]
fn a_broken_event_queue_breaks_the_device() {
    let mut driver = events(PLAIN);
    driver.world.machine.put16(EVENTS.available + 2, 17);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    assert_eq!(driver.world.device.broken(), Some(Broken::RunsAhead));
    assert_eq!(driver.world.read(reg::STATUS), 15 | 64);
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 2);
    // Requests are not processed either.
    driver.layout = common::REQUESTS;
    driver.queue(&common::attach(1, 8));
    driver.notify();
    assert_eq!(driver.used_idx(), 0);

    let mut driver = events(PLAIN | INDIRECT);
    driver.offer(16);
    fault(&mut driver, &FAULT);
    assert_eq!(driver.world.device.broken(), Some(Broken::Head));
    let _ = BUFFERS;
}

#[test]
fn a_readable_buffer_takes_no_fault() {
    let mut driver = events(PLAIN);
    let at = driver.room(64);
    driver.world.machine.fill(at, 64, 0xee);
    let head = driver.chain(&[(at, 24, false)]);
    driver.offer(head);
    assert_eq!(fault(&mut driver, &FAULT), Delivery::Dropped);
    assert_eq!(driver.used(), [(u32::from(head), 0)]);
    assert_eq!(driver.world.machine.get(at, 24), [0xee; 24]);
}

//! Memory of the driver's that answers with errors: the device needs a reset (2.1.2),
//! and has done nothing that the driver did not ask for.
#![allow(missing_docs)]

mod common;

use common::{Driver, EVENT_IDX, PLAIN, REQUESTS, TABLE, map, unmap};
use std::ops::Range;
use virtio_iommu_device::Broken;

fn first(at: u64, bytes: u64) -> Range<u64> {
    at..at + bytes
}

/// Every part of a ring, of a request and of its answer that one MAP needs.
#[test]
fn nothing_is_mapped_by_what_cannot_be_read() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut driver = Driver::new(features);
        driver.attached(1);
        let (head, slot) = (u64::from(driver.descriptor), u64::from(driver.available));
        let buffer = driver.buffer;
        let descriptor = REQUESTS.descriptors + 16 * head;
        let mut parts = vec![
            first(REQUESTS.available + 2, 2),
            first(REQUESTS.available + 4 + 2 * slot, 2),
        ];
        parts.extend((0..4).map(|n| first(descriptor + 8 * n, 8)));
        parts.extend((0..4).map(|n| first(buffer + 8 * n, 8)));
        // In the head, on the way of one request and of a burst of two.
        for (part, burst) in parts
            .into_iter()
            .flat_map(|part| [(part.clone(), false), (part, true)])
        {
            let mut driver = Driver::new(features);
            driver.attached(1);
            let _ = driver.queue(&map(1, 0x1000, 0x1fff, 0x5000, 3));
            if burst {
                let _ = driver.queue(&map(1, 0x2000, 0x2fff, 0x6000, 3));
            }
            driver.world.machine.break_bytes(part.clone());
            driver.notify();
            let broken = driver.world.device.broken();
            assert_eq!(broken, Some(Broken::Aborted), "{part:x?} {burst}");
            assert!(
                driver.world.book.domains[&1].is_empty(),
                "{part:x?} {burst}"
            );
            assert_eq!(driver.used(), [], "{part:x?} {burst}");
        }
    }
}

/// The answer and the used ring.
#[test]
fn what_cannot_be_written_breaks_the_device() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut driver = Driver::new(features);
        driver.attached(1);
        let slot = u64::from(driver.available);
        let tail = driver.buffer + 36;
        for part in [
            first(tail, 4),
            first(REQUESTS.used + 2, 2),
            first(REQUESTS.used + 4 + 8 * slot, 8),
        ] {
            let mut driver = Driver::new(features);
            driver.attached(1);
            let _ = driver.queue(&map(1, 0x1000, 0x1fff, 0x5000, 3));
            driver.world.machine.break_bytes(part.clone());
            driver.notify();
            let broken = driver.world.device.broken();
            assert_eq!(broken, Some(Broken::Aborted), "{part:x?}");
        }
    }
}

/// After a reset everything works again.
#[test]
fn a_reset_mends_it() {
    let mut driver = Driver::new(PLAIN);
    driver.attached(1);
    driver
        .world
        .machine
        .break_bytes(REQUESTS.available..REQUESTS.available + 8);
    let _ = driver.queue(&unmap(1, 0, 0xfff));
    driver.notify();
    assert_eq!(driver.world.device.broken(), Some(Broken::Aborted));
    driver.world.machine.break_bytes(0..0);
    driver.world.write(virtio_iommu_device::reg::STATUS, 0);
    driver.world.bring_up(PLAIN);
    assert_eq!(driver.world.device.broken(), None);
    let _ = TABLE;
}

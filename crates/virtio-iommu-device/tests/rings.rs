//! Rings: indices, notifications either way (2.7.6 to 2.7.10).
#![allow(missing_docs)]

mod common;

use common::{Driver, EVENT_IDX, Layout, PLAIN, RAM, REQUESTS, World, attach, map};
use virtio_iommu_device::{Broken, Config, reg};

const RW: u32 = 3;

/// MAP of one page, another one each time.
fn body(n: u64) -> Vec<u8> {
    let start = 0x10_0000 + 0x1000 * n;
    map(1, start, start + 0xfff, 0, RW)
}

#[test]
fn indices_wrap() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut driver = Driver::new(features);
        driver.attached(1);
        for n in 0..66_000 {
            if n % 1000 == 0 {
                driver.buffer = common::BUFFERS;
            }
            let (head, tail) = driver.queue(&body(n));
            driver.notify();
            assert_eq!(driver.used(), [(u32::from(head), 4)], "{n}");
            assert_eq!(driver.world.machine.get(tail, 1), [0]);
        }
        assert_eq!(driver.world.book.domains[&1].len(), 66_000);
    }
}

#[test]
fn an_index_that_runs_ahead_breaks_the_queue() {
    for (ahead, fine) in [(64, true), (65, false), (0x8000, false), (0xffff, false)] {
        let mut driver = Driver::new(PLAIN);
        // 64 times the same chain, which is allowed to be silly.
        driver.attached(1);
        let index = driver.available.wrapping_add(ahead);
        driver.world.machine.put16(REQUESTS.available + 2, index);
        driver.world.machine.fill(REQUESTS.available + 4, 128, 0);
        driver.notify();
        let expected = (!fine).then_some(Broken::RunsAhead);
        assert_eq!(driver.world.device.broken(), expected, "{ahead:#x}");
        assert_eq!(driver.used().len(), if fine { 64 } else { 0 });
    }
}

#[test]
fn without_event_idx_the_flag_decides() {
    let mut driver = Driver::new(PLAIN);
    driver.attached(1);
    let _ = driver.world.machine.interrupts();
    for (flags, interrupts) in [(0, 1), (1, 0), (0, 1), (0xfffe, 1), (0xffff, 0)] {
        driver.world.write(reg::INTERRUPT_ACK, 3);
        driver.world.machine.put16(REQUESTS.available, flags);
        // What used_event would say does not matter.
        driver
            .world
            .machine
            .put16(REQUESTS.available + 4 + 128, driver.available);
        let count = u64::from(driver.available);
        driver.send(&body(count));
        assert_eq!(driver.world.machine.interrupts(), interrupts, "{flags:#x}");
        assert_eq!(
            u64::from(driver.world.read(reg::INTERRUPT_STATUS)),
            interrupts
        );
    }
    // `flags` of the used ring stays 0, and nothing is written behind it.
    assert_eq!(driver.world.machine.get16(REQUESTS.used), 0);
    assert_eq!(driver.world.machine.get16(REQUESTS.used + 4 + 512), 0);
}

#[test]
fn with_event_idx_the_index_decides() {
    for count in [1u16, 2, 5] {
        for event in 0..12u16 {
            let mut driver = Driver::new(PLAIN | EVENT_IDX);
            driver.attached(1);
            driver.send(&body(0));
            let _ = driver.world.machine.interrupts();
            // The flag is ignored.
            driver.world.machine.put16(REQUESTS.available, event & 1);
            driver
                .world
                .machine
                .put16(REQUESTS.available + 4 + 128, event);
            for n in 0..count {
                driver.queue(&body(u64::from(n) + 1));
            }
            driver.notify();
            // Entries 2 .. 2 + count were written.
            let expected = (2..2 + count).contains(&event);
            let interrupts = driver.world.machine.interrupts();
            assert_eq!(interrupts, u64::from(expected), "{count} {event}");
        }
    }
}

#[test]
fn with_event_idx_the_driver_is_asked_to_go_on_notifying() {
    let mut driver = Driver::new(PLAIN | EVENT_IDX);
    driver.attached(1);
    for n in 0..200 {
        driver.queue(&body(n));
        if n % 3 == 0 {
            driver.notify();
            let event = driver.world.machine.get16(REQUESTS.used + 4 + 512);
            assert_eq!(event, driver.available, "avail_event");
        }
    }
    assert_eq!(driver.world.machine.get16(REQUESTS.used), 0, "flags");
}

/// Another CPU makes a request available and is not asked to notify, since the
/// device has only just said that it wants to be told.
#[test]
fn a_request_that_comes_late_is_not_lost() {
    for before in [1, 2, 5] {
        let mut driver = Driver::new(PLAIN | EVENT_IDX);
        driver.attached(1);
        for n in 0..before {
            driver.queue(&body(n));
        }
        // All but its index is there already.
        let late = driver.available + 1;
        let (_, tail) = driver.queue(&body(9));
        let index = REQUESTS.available + 2;
        driver.world.machine.put16(index, late - 1);
        let event = REQUESTS.used + 4 + 512;
        let then = vec![(index, late.to_le_bytes().to_vec())];
        driver.world.machine.meanwhile(event, then);
        driver.notify();
        assert_eq!(driver.used().len() as u64, before + 1);
        assert_eq!(driver.world.machine.get(tail, 1), [0]);
        assert_eq!(driver.world.machine.get16(event), late);
    }
}

/// The driver decides that it wants to be told just when the ring moves, too
/// late to see that it did.
#[test]
fn a_wish_to_be_told_that_comes_late_is_heard() {
    for (features, at, value) in [
        (PLAIN, REQUESTS.available, 0u16),
        (PLAIN | EVENT_IDX, REQUESTS.available + 4 + 128, 1),
    ] {
        for count in 1..3 {
            let mut driver = Driver::new(features);
            driver.attached(1);
            driver.world.machine.put16(at, 77);
            let _ = driver.world.machine.interrupts();
            for n in 0..count {
                driver.queue(&body(n));
            }
            let then = vec![(at, value.to_le_bytes().to_vec())];
            driver.world.machine.meanwhile(REQUESTS.used + 2, then);
            driver.notify();
            assert_eq!(driver.world.machine.interrupts(), 1, "{count}");
        }
    }
}

#[test]
fn a_notification_of_nothing_does_nothing() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut driver = Driver::new(features);
        for _ in 0..3 {
            assert_eq!(driver.notify(), 1);
            assert_eq!(driver.world.write(reg::QUEUE_NOTIFY, 1), 1);
        }
        assert_eq!(driver.world.device.counts().idle_notifications, 0);
        for queue in [2, 3, 0xffff, 0x1_0000, u32::MAX] {
            driver.world.write(reg::QUEUE_NOTIFY, queue);
        }
        assert_eq!(driver.world.device.counts().idle_notifications, 5);
        assert_eq!(driver.world.machine.interrupts(), 0);
        assert_eq!(driver.used_idx(), 0);
    }
}

/// A queue that is made ready at `layout`, and what becomes of the device.
fn lay_out(layout: &Layout) -> (World, Option<Broken>) {
    let mut world = World::new(&Config::default());
    world.write(reg::STATUS, 3);
    world.accept(PLAIN);
    world.write(reg::STATUS, 11);
    world.ready(0, layout);
    assert_eq!(world.read(reg::QUEUE_READY), 1, "what was written");
    let broken = world.device.broken();
    assert_eq!(broken.is_some(), world.read(reg::STATUS) & 64 != 0);
    // Before DRIVER_OK nobody is told (2.1.2).
    assert_eq!(world.read(reg::INTERRUPT_STATUS), 0);
    assert_eq!(
        world.machine.open_windows(),
        if broken.is_some() { 0 } else { 3 }
    );
    (world, broken)
}

#[test]
fn sizes_are_powers_of_two() {
    for size in 0..=600 {
        let (_, broken) = lay_out(&Layout { size, ..REQUESTS });
        let fine = size > 0 && size & (size - 1) == 0 && size <= 256;
        assert_eq!(broken, (!fine).then_some(Broken::QueueSize), "{size}");
    }
    for size in [0x1_0040, 0x8000_0000, u32::MAX] {
        let (_, broken) = lay_out(&Layout { size, ..REQUESTS });
        assert_eq!(broken, Some(Broken::QueueSize));
    }
}

#[test]
fn parts_are_aligned_and_in_memory() {
    let end = RAM.end;
    for odd in 0..16 {
        let cases = [
            (
                Layout {
                    descriptors: REQUESTS.descriptors + odd,
                    ..REQUESTS
                },
                16,
            ),
            (
                Layout {
                    available: REQUESTS.available + odd,
                    ..REQUESTS
                },
                2,
            ),
            (
                Layout {
                    used: REQUESTS.used + odd,
                    ..REQUESTS
                },
                4,
            ),
        ];
        for (layout, alignment) in cases {
            let fine = odd % alignment == 0;
            let (_, broken) = lay_out(&layout);
            assert_eq!(broken, (!fine).then_some(Broken::RingMisaligned), "{odd}");
        }
    }
    let size = u64::from(REQUESTS.size);
    for (part, bytes) in [(0, 16 * size), (1, 6 + 2 * size), (2, 6 + 8 * size)] {
        let fits = (end - bytes) & !15;
        for (at, fine) in [
            (fits, true),
            (fits + 16, false),
            (end, false),
            (RAM.start - 16, false),
            (!15, false),
            (0, false),
        ] {
            let mut layout = REQUESTS;
            match part {
                0 => layout.descriptors = at,
                1 => layout.available = at,
                _ => layout.used = at,
            }
            let (_, broken) = lay_out(&layout);
            assert_eq!(broken, (!fine).then_some(Broken::RingOutside), "{at:#x}");
        }
    }
}

#[test]
fn a_queue_of_one_works() {
    let mut driver = Driver::new(PLAIN);
    driver.world.write(reg::QUEUE_SEL, 0);
    driver.world.write(reg::QUEUE_READY, 0);
    let layout = Layout {
        size: 1,
        ..REQUESTS
    };
    driver.world.machine.fill(layout.used, 64, 0);
    driver.world.machine.fill(layout.available, 64, 0);
    driver.world.ready(0, &layout);
    driver.layout = layout;
    // There is room for one readable descriptor: no answer.
    let at = driver.room(64);
    driver.world.machine.put(at, &attach(1, 8));
    for _ in 0..3 {
        let head = driver.chain(&[(at, 20, false)]);
        driver.offer(head);
        driver.notify();
        assert_eq!(driver.used(), [(0, 0)]);
    }
}

#[test]
fn a_queue_that_is_not_ready_is_left_alone() {
    let mut driver = Driver::new(PLAIN);
    driver.attached(1);
    driver.world.write(reg::QUEUE_SEL, 0);
    driver.world.write(reg::QUEUE_READY, 0);
    assert_eq!(driver.world.read(reg::QUEUE_READY), 0);
    assert_eq!(driver.world.machine.open_windows(), 3, "the event queue's");
    let _ = driver.world.machine.loads();
    driver.queue(&body(0));
    let _ = driver.world.machine.written();
    driver.notify();
    assert!(driver.world.machine.loads().is_empty());
    assert!(driver.world.machine.written().is_empty());
    assert_eq!(driver.world.device.counts().idle_notifications, 1);
    // Ready again, it begins at 0.
    driver.world.machine.fill(REQUESTS.used, 64, 0);
    driver.world.machine.fill(REQUESTS.available, 64, 0);
    driver.available = 0;
    driver.seen = 0;
    driver.world.write(reg::QUEUE_READY, 1);
    assert_eq!(driver.send(&body(1)), Some(0));
}

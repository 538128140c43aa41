//! virtio-mmio (4.2.2) and the state machine of the status (2.1, 3.1).
#![allow(missing_docs)]

mod common;

use common::{Driver, EVENT_IDX, INDIRECT, PLAIN, REQUESTS, World, attach};
use virtio_iommu_device::{BadLimits, Config, Counts, Device, Progress, Size, reg};

fn world() -> World {
    World::new(&Config::default())
}

const SIZES: [Size; 4] = [Size::Byte, Size::Half, Size::Word, Size::Double];

#[test]
fn what_is_constant() {
    let mut world = world();
    for (offset, value) in [
        (0x000, 0x7472_6976),
        (0x004, 2),
        (0x008, 23),
        (0x00c, u32::from_le_bytes(*b"PORT")),
        (0x034, 256),
        (0x044, 0),
        (0x060, 0),
        (0x070, 0),
        (0x0b0, u32::MAX),
        (0x0b4, u32::MAX),
        (0x0b8, u32::MAX),
        (0x0bc, u32::MAX),
        (0x0c0, 0),
        (0x0fc, 0),
    ] {
        assert_eq!(world.read(offset), value, "{offset:#x}");
    }
    assert_eq!(*world.device.counts(), Counts::default());
}

#[test]
fn features_are_offered_as_the_monitor_chose() {
    for (indirect, event_idx) in [(false, false), (true, false), (false, true), (true, true)] {
        let config = Config {
            indirect,
            event_idx,
            ..Config::default()
        };
        let mut world = World::new(&config);
        let low = 0b11_0111 | u32::from(indirect) << 28 | u32::from(event_idx) << 29;
        for (word, value) in [(0, low), (1, 1), (2, 0), (3, 0), (u32::MAX, 0)] {
            world.write(reg::DEVICE_FEATURES_SEL, word);
            assert_eq!(world.read(reg::DEVICE_FEATURES), value, "{word}");
        }
    }
}

/// Whether FEATURES_OK sticks.
fn agrees(world: &mut World, features: u64) -> bool {
    world.write(reg::STATUS, 0);
    world.write(reg::STATUS, 1);
    world.write(reg::STATUS, 3);
    world.accept(features);
    world.write(reg::STATUS, 11);
    world.read(reg::STATUS) == 11
}

#[test]
fn only_what_is_offered_is_agreed_on() {
    let all = PLAIN | INDIRECT | EVENT_IDX;
    let mut world = world();
    for bit in 0..64 {
        let offered = all >> bit & 1 != 0;
        assert_eq!(agrees(&mut world, 1 << 32 | 1 << bit), offered, "{bit}");
    }
    assert!(agrees(&mut world, all));
    assert!(agrees(&mut world, 1 << 32));
    // A device that is no legacy one needs VERSION_1 (6.1).
    assert!(!agrees(&mut world, 0));
    assert!(!agrees(&mut world, all & !(1 << 32)));
    let config = Config {
        indirect: false,
        event_idx: false,
        ..Config::default()
    };
    let mut bare = World::new(&config);
    assert!(!agrees(&mut bare, PLAIN | INDIRECT));
    assert!(!agrees(&mut bare, PLAIN | EVENT_IDX));
    assert!(agrees(&mut bare, PLAIN));
    assert!(bare.device.counts().features_refused == 2);
}

#[test]
fn features_of_other_words_are_not_offered() {
    let mut world = world();
    world.write(reg::STATUS, 3);
    world.accept(PLAIN);
    world.write(reg::DRIVER_FEATURES_SEL, 2);
    world.write(reg::DRIVER_FEATURES, 1);
    world.write(reg::STATUS, 11);
    assert_eq!(world.read(reg::STATUS), 3);
    world.write(reg::STATUS, 0);
    assert!(agrees(&mut world, PLAIN), "a reset forgets it");
}

#[test]
fn features_are_fixed_once_agreed_on() {
    let mut world = world();
    assert!(agrees(&mut world, PLAIN));
    world.accept(PLAIN | EVENT_IDX);
    assert_eq!(world.device.counts().guarded, 2);
    world.write(reg::STATUS, 0);
    assert!(agrees(&mut world, PLAIN));
}

#[test]
fn a_driver_may_try_again_with_fewer_features() {
    let mut world = world();
    assert!(!agrees(&mut world, PLAIN | 1 << 6));
    world.accept(PLAIN);
    world.write(reg::STATUS, 11);
    assert_eq!(world.read(reg::STATUS), 11);
}

#[test]
fn status_goes_one_way() {
    let mut world = world();
    // Not ready before features are agreed on.
    world.write(reg::STATUS, 7);
    assert_eq!(world.read(reg::STATUS), 3);
    world.accept(PLAIN);
    // Both at once are fine.
    world.write(reg::STATUS, 15);
    assert_eq!(world.read(reg::STATUS), 15);
    // No bit is cleared, and none set that is the device's or nobody's.
    for value in [1, 2, 0x40, 0x10, 0x8000_0000] {
        world.write(reg::STATUS, value);
        assert_eq!(world.read(reg::STATUS), 15, "{value:#x}");
    }
    world.write(reg::STATUS, 128);
    assert_eq!(world.read(reg::STATUS), 15 | 128);
    world.write(reg::STATUS, 0);
    assert_eq!(world.read(reg::STATUS), 0);
    assert_eq!(world.device.counts().resets, 1);
}

#[test]
fn nothing_is_processed_before_the_driver_is_ready() {
    let mut driver = Driver::new(PLAIN);
    driver.world.write(reg::STATUS, 0);
    driver.world.accept(PLAIN);
    for status in [0, 1, 3, 11] {
        if status != 0 {
            driver.world.write(reg::STATUS, status);
        }
        if status == 11 {
            driver.world.machine.fill(REQUESTS.used, 16, 0);
            driver.world.machine.fill(REQUESTS.available, 4, 0);
            (driver.available, driver.seen) = (0, 0);
            driver.world.ready(0, &REQUESTS);
        }
        driver.queue(&attach(1, 8));
        driver.notify();
        assert!(driver.used().is_empty(), "{status}");
    }
    driver.world.write(reg::STATUS, 15);
    driver.notify();
    assert_eq!(driver.used().len(), 1);
}

#[test]
fn accesses_of_another_width_or_place_do_nothing() {
    let mut world = world();
    let mut illegal = 0;
    for offset in (0..0x100).chain([0x128, 0x1000, u32::MAX]) {
        for size in SIZES {
            let legal = size == Size::Word && offset % 4 == 0;
            let before = *world.device.counts();
            let value = world.device.read(offset, size);
            if !legal {
                assert_eq!(value, 0, "{offset:#x}");
                assert_eq!(
                    world.device.counts().illegal_accesses,
                    before.illegal_accesses + 1
                );
            }
            if legal || offset >= reg::CONFIG {
                continue;
            }
            illegal += 1;
            let before = *world.device.counts();
            assert_eq!(world.write_once(offset, size, u64::MAX), Progress::Done);
            let after = world.device.counts().illegal_accesses;
            assert_eq!(after, before.illegal_accesses + 1, "{offset:#x}");
        }
    }
    assert_eq!(illegal, 4 * 256 - 64);
    assert_eq!(world.read(reg::STATUS), 0);
}

#[test]
fn directions_are_kept() {
    let mut world = world();
    let read_only = [
        0x00, 0x04, 0x08, 0x0c, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc, 0xc0, 0xfc,
    ];
    for (n, offset) in (1..).zip(read_only) {
        let before = world.read(offset);
        world.write(offset, !before);
        assert_eq!(world.read(offset), before, "{offset:#x}");
        assert_eq!(world.device.counts().wrong_direction, n, "{offset:#x}");
    }
    let write_only = [
        0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xac,
    ];
    let before = world.device.counts().wrong_direction;
    for (n, offset) in (1..).zip(write_only) {
        assert_eq!(world.read(offset), 0);
        assert_eq!(
            world.device.counts().wrong_direction,
            before + n,
            "{offset:#x}"
        );
    }
    // There is no register here.
    let illegal = world.device.counts().illegal_accesses;
    for (n, offset) in (1..).zip([0x3c, 0x40, 0x48, 0x4c, 0x54, 0x68, 0x6c, 0x74, 0x88, 0xc4]) {
        assert_eq!(world.read(offset), 0);
        assert_eq!(
            world.device.counts().illegal_accesses,
            illegal + n,
            "{offset:#x}"
        );
    }
}

#[test]
fn there_are_two_queues() {
    let mut world = world();
    for (queue, most) in [(0, 256), (1, 256), (2, 0), (0x1_0000, 0), (u32::MAX, 0)] {
        world.write(reg::QUEUE_SEL, queue);
        assert_eq!(world.read(reg::QUEUE_NUM_MAX), most, "{queue}");
        assert_eq!(world.read(reg::QUEUE_READY), 0);
    }
    for offset in [0x38, 0x44, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        world.write(offset, 1);
    }
    assert_eq!(world.device.counts().guarded, 8);
    assert_eq!(world.read(reg::QUEUE_READY), 0);
}

#[test]
fn a_queue_that_is_ready_stays_where_it_is() {
    let mut driver = Driver::new(PLAIN);
    driver.world.write(reg::QUEUE_SEL, 0);
    for offset in [0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4] {
        driver.world.write(offset, 0);
    }
    // Neither is it made ready twice, nor something else.
    for value in [1, 2, 3, u32::MAX] {
        driver.world.write(reg::QUEUE_READY, value);
        assert_eq!(driver.world.read(reg::QUEUE_READY), 1);
    }
    assert_eq!(driver.world.device.counts().guarded, 7 + 3);
    assert_eq!(driver.world.machine.open_windows(), 6);
    assert_eq!(driver.send(&attach(1, 8)), Some(0));
}

#[test]
fn the_configuration_is_as_laid_out() {
    let mut world = world();
    let mut bytes = Vec::new();
    bytes.extend(0x4020_1000u64.to_le_bytes());
    bytes.extend(0x1_0000u64.to_le_bytes());
    bytes.extend(((1u64 << 40) - 1).to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(100u32.to_le_bytes());
    bytes.extend(256u32.to_le_bytes());
    bytes.extend([0; 4]);
    // Before features are agreed on (2.5.2).
    for size in [Size::Byte, Size::Half, Size::Word] {
        let step = size.bytes() as usize;
        for (at, field) in (0..).step_by(step).zip(bytes.chunks(step)) {
            let mut value = [0; 8];
            value[..step].copy_from_slice(field);
            let read = world.device.read(0x100 + at, size);
            assert_eq!(read, u64::from_le_bytes(value), "{at:#x} {size:?}");
        }
    }
    assert_eq!(world.device.counts().illegal_accesses, 0);
    for (at, size) in [
        (0x101, Size::Half),
        (0x102, Size::Word),
        (0x103, Size::Half),
        (0x100, Size::Double),
        (0x128, Size::Byte),
        (0x126, Size::Word),
        (0xffff_fffc, Size::Word),
        (u32::MAX, Size::Byte),
    ] {
        assert_eq!(world.device.read(at, size), 0, "{at:#x}");
    }
    assert_eq!(world.device.counts().illegal_accesses, 8);
    // Nothing of it is the driver's.
    for at in [0x100, 0x120, 0x124, 0x1000] {
        world.write(at, u32::MAX);
        assert_eq!(world.write_once(at, Size::Byte, 1), Progress::Done);
    }
    assert_eq!(world.device.counts().wrong_direction, 8);
    assert_eq!(world.read(0x124), 0);
}

#[test]
fn interrupts_are_acknowledged_by_bit() {
    let mut driver = Driver::new(PLAIN);
    driver.send(&attach(1, 8));
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 1);
    assert!(driver.world.device.asserted());
    driver.offer(0xffff);
    driver.notify();
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 3);
    driver.world.write(reg::INTERRUPT_ACK, 2);
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 1);
    driver.world.write(reg::INTERRUPT_ACK, u32::MAX);
    assert_eq!(driver.world.read(reg::INTERRUPT_STATUS), 0);
    assert!(!driver.world.device.asserted());
}

#[test]
fn a_reset_forgets_the_driver_and_leaves_its_devices_alone() {
    let mut driver = Driver::new(PLAIN);
    driver.attached(1);
    driver.world.write(reg::QUEUE_SEL, 1);
    assert_eq!(driver.world.read(reg::QUEUE_READY), 1);
    driver.world.write(reg::STATUS, 0);
    let world = &mut driver.world;
    assert_eq!(world.read(reg::STATUS), 0);
    assert_eq!(world.read(reg::INTERRUPT_STATUS), 0);
    assert_eq!(world.machine.open_windows(), 0);
    assert_eq!(world.book.attached.len(), 1);
    for queue in [0, 1] {
        world.write(reg::QUEUE_SEL, queue);
        assert_eq!(world.read(reg::QUEUE_READY), 0);
    }
    // The layout, too: a queue of no entries.
    world.write(reg::STATUS, 3);
    // A driver that offers what it cannot have agrees on nothing.
    world.accept(PLAIN | 1 << 6);
    world.write(reg::STATUS, 11);
    assert_eq!((world.read(reg::STATUS), world.book.attached.len()), (3, 1));
    world.accept(PLAIN);
    world.write(reg::STATUS, 11);
    assert!(
        world.book.attached.is_empty(),
        "the next driver starts anew"
    );
    world.write(reg::QUEUE_READY, 1);
    assert_eq!(world.read(reg::STATUS), 11 | 64);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let good = world().book.limits;
    let make = |limits| Device::<common::Window>::new(&limits, &Config::default()).err();
    let mut limits = good;
    limits.page_sizes = 0;
    assert_eq!(make(limits), Some(BadLimits::NoPageSize));
    let mut limits = good;
    limits.page_sizes = 0x2_0000;
    assert_eq!(make(limits), Some(BadLimits::InputRange));
    let mut limits = good;
    limits.domains = (2, 1);
    assert_eq!(make(limits), Some(BadLimits::Domains));
    assert_eq!(make(good), None);
}

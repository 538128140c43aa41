//! Descriptor chains of every legal shape, and of others (2.7.5).
#![allow(missing_docs)]

mod common;

use common::{
    Driver, EVENT_IDX, INDIRECT, NEXT, PAGE, PLAIN, RAM, TABLE, WRITE, attach, descriptor, map,
    unmap,
};
use virtio_iommu_device::{Broken, DeviceStatus};

const RW: u32 = 3;

fn driver() -> Driver {
    let mut driver = Driver::new(PLAIN | INDIRECT);
    driver.attached(1);
    driver
}

/// The body in pieces of these sizes, then the tail in pieces of those; each
/// piece somewhere else. Returns the bytes of the tail after it was sent.
fn in_pieces(driver: &mut Driver, body: &[u8], cuts: &[usize], tails: &[usize]) -> Vec<u8> {
    let mut pieces = Vec::new();
    let mut rest = body;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let (now, later) = rest.split_at(cut.min(rest.len()));
        let at = driver.room(now.len() as u64 + 1) + 1;
        driver.world.machine.put(at, now);
        pieces.push((at, now.len() as u32, false));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let mut answer = Vec::new();
    for len in tails {
        let at = driver.room(*len as u64 + 1) + 1;
        driver.world.machine.fill(at, *len as u64, 0xee);
        pieces.push((at, *len as u32, true));
        answer.push((at, *len as u64));
    }
    let head = driver.chain(&pieces);
    driver.offer(head);
    let _ = driver.world.machine.written();
    driver.notify();
    let written = driver.world.machine.written();
    let back = driver.used();
    assert_eq!(back, [(u32::from(head), 4)]);
    let used = driver.layout.used..driver.layout.used + PAGE;
    for at in written {
        let mine = answer
            .iter()
            .any(|(from, len)| (*from..from + len).contains(&at));
        assert!(mine || used.contains(&at), "a store to {at:#x}");
    }
    let bytes = answer
        .iter()
        .flat_map(|(at, len)| driver.world.machine.get(*at, *len));
    bytes.collect()
}

#[test]
fn the_body_is_cut_anywhere() {
    for at in 0..=36 {
        let mut driver = driver();
        let body = map(1, 0x2_0000, 0x2_0fff, 0x5000, RW);
        assert_eq!(in_pieces(&mut driver, &body, &[at], &[4]), [0; 4], "{at}");
        assert_eq!(driver.world.book.domains[&1][&0x2_0000].1, 0x5000);
    }
}

#[test]
fn the_tail_is_cut_anywhere() {
    for at in 0..=4 {
        let mut driver = driver();
        let body = map(1, 0x2_0000, 0x2_0fff, 0, RW);
        let tail = in_pieces(&mut driver, &body, &[], &[at, 4 - at]);
        assert_eq!(tail, [0; 4], "{at}");
        let again = in_pieces(&mut driver, &body, &[], &[at, 4 - at]);
        assert_eq!(again, [4, 0, 0, 0], "{at}");
        let gone = unmap(1, 0x2_0000, 0x2_0fff);
        assert_eq!(in_pieces(&mut driver, &gone, &[], &[at, 4 - at]), [0; 4]);
        assert!(driver.world.book.domains[&1].is_empty());
    }
}

#[test]
fn every_byte_may_be_a_descriptor() {
    let mut driver = driver();
    let body = map(1, 0x2_0000, 0x2_0fff, 0, RW);
    let tail = in_pieces(&mut driver, &body, &[1; 35], &[1, 1, 1, 1]);
    assert_eq!(tail, [0; 4]);
    let body = unmap(1, 0x2_0000, 0x2_0fff);
    driver.world.book.sync_fails = true;
    let tail = in_pieces(&mut driver, &body, &[1; 27], &[0, 1, 0, 1, 1, 1, 0]);
    assert_eq!(tail, [3, 0, 0, 0]);
}

#[test]
fn a_longer_tail_is_left_alone_after_four_bytes() {
    let mut driver = driver();
    let body = map(1, 0x2_0000, 0x2_0fff, 0, RW);
    let tail = in_pieces(&mut driver, &body, &[], &[9]);
    assert_eq!(tail, [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee, 0xee]);
    // Where it is not in the same piece as the body, but aligned.
    let at = driver.room(64);
    driver.world.machine.put(at, &unmap(1, 0x2_0000, 0x2_0fff));
    driver.world.machine.fill(at + 28, 8, 0xee);
    let head = driver.chain(&[(at, 28, false), (at + 28, 8, true)]);
    driver.offer(head);
    driver.notify();
    assert_eq!(driver.used(), [(u32::from(head), 4)]);
    let tail = driver.world.machine.get(at + 28, 8);
    assert_eq!(tail, [0, 0, 0, 0, 0xee, 0xee, 0xee, 0xee]);
}

#[test]
fn no_room_for_a_status_is_no_answer() {
    for tails in [&[][..], &[3], &[1, 2], &[0, 0]] {
        let mut driver = driver();
        driver.world.book.calls.clear();
        let at = driver.room(64);
        driver
            .world
            .machine
            .put(at, &map(1, 0x2_0000, 0x2_0fff, 0, RW));
        let mut pieces = vec![(at, 36, false)];
        pieces.extend(tails.iter().map(|len| (at + 40, *len, true)));
        let head = driver.chain(&pieces);
        driver.offer(head);
        driver.notify();
        assert_eq!(driver.used(), [(u32::from(head), 0)], "{tails:?}");
        assert!(driver.world.book.calls.is_empty());
        assert_eq!(driver.world.device.counts().unanswered, 1);
    }
}

/// Side by side, as Linux has them, but not aligned as Linux has them.
#[test]
fn buffers_need_no_alignment() {
    for odd in 0..9 {
        for others in 0..2 {
            for body in [
                map(1, 0x4_0000, 0x4_0fff, 0x5000, RW),
                unmap(1, 0x3_0000, 0x3_ffff),
            ] {
                let mut driver = driver();
                let at = driver.room(64) + odd;
                driver.world.machine.put(at, &body);
                let tail = at + body.len() as u64;
                driver.world.machine.fill(tail, 4, 0xee);
                let head = driver.chain(&[(at, body.len() as u32, false), (tail, 4, true)]);
                driver.offer(head);
                for _ in 0..others {
                    driver.queue(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
                }
                driver.notify();
                assert_eq!(driver.used()[0], (u32::from(head), 4), "{odd}");
                assert_eq!(driver.world.machine.get(tail, 4), [0; 4]);
            }
        }
    }
}

/// Elsewhere than its body, a tail may begin at any byte.
#[test]
fn a_tail_needs_no_alignment() {
    for odd in 0..9 {
        let mut driver = driver();
        let (at, tail) = (driver.room(64), driver.room(64) + odd);
        driver
            .world
            .machine
            .put(at, &map(1, 0x4_0000, 0x4_0fff, 0, RW));
        driver.world.machine.fill(tail, 5, 0xee);
        let head = driver.chain(&[(at, 36, false), (tail, 4, true)]);
        driver.offer(head);
        driver.notify();
        assert_eq!(driver.used(), [(u32::from(head), 4)], "{odd}");
        assert_eq!(driver.world.machine.get(tail, 5), [0, 0, 0, 0, 0xee]);
    }
}

/// Next to the body, where Linux has it; alone, and as one of several.
#[test]
fn too_little_room_beside_the_body_is_no_answer() {
    for body in [
        map(1, 0x2_0000, 0x2_0fff, 0, RW),
        unmap(1, 0x2_0000, 0x2_0fff),
    ] {
        for (len, writable) in [(0, true), (1, true), (3, true), (4, false)] {
            for others in 0..3 {
                let mut driver = driver();
                driver.world.book.calls.clear();
                let at = driver.room(64);
                driver.world.machine.put(at, &body);
                let tail = at + body.len() as u64;
                driver.world.machine.fill(tail, 8, 0xee);
                let head = driver.chain(&[(at, body.len() as u32, false), (tail, len, writable)]);
                driver.offer(head);
                for _ in 0..others {
                    driver.queue(&map(7, 0x2_0000, 0x2_0fff, 0, RW));
                }
                driver.notify();
                let back = driver.used();
                assert_eq!(back[0], (u32::from(head), 0), "{len}");
                assert_eq!(driver.world.machine.get(tail, 8), [0xee; 8]);
                assert_eq!(driver.world.book.calls.len(), others);
            }
        }
    }
}

/// Bodies and tails in places that are not the driver's, or at the end of a page.
#[test]
fn buffers_that_are_not_the_drivers_come_back() {
    let outside = [RAM.end, RAM.start - 0x1000, 0, u64::MAX - 3, !0xfff];
    for bad in outside {
        for tail in [false, true] {
            let mut driver = driver();
            driver.world.book.calls.clear();
            let at = driver.room(64);
            driver
                .world
                .machine
                .put(at, &map(1, 0x2_0000, 0x2_0fff, 0, RW));
            let (body, answer) = if tail { (at, bad) } else { (bad, at + 36) };
            let head = driver.chain(&[(body, 36, false), (answer, 4, true)]);
            driver.offer(head);
            driver.notify();
            assert_eq!(driver.used(), [(u32::from(head), 0)], "{bad:#x}");
            assert!(driver.world.book.calls.is_empty(), "nothing was asked for");
            assert_eq!(driver.world.device.counts().outside, 1);
            assert_eq!(driver.world.device.status().bits(), 15);
        }
    }
}

#[test]
fn a_page_that_changes_hands_is_not_written() {
    let mut driver = driver();
    driver.send(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
    let (body, tail) = (driver.room(64), RAM.start + 0x8_0000);
    driver
        .world
        .machine
        .put(body, &unmap(1, 0x2_0000, 0x2_0fff));
    let head = driver.chain(&[(body, 28, false), (tail, 4, true)]);
    driver.offer(head);
    driver.world.book.pace.push_back(common::Pace::Turns(100));
    use virtio_iommu_device::{Progress, Size, reg};
    let first = driver.world.write_once(reg::QUEUE_NOTIFY, Size::Word, 0);
    assert_eq!(first, Progress::Again);
    driver.world.machine.take(tail);
    let _ = driver.world.machine.written();
    driver.notify();
    assert_eq!(driver.used(), [(u32::from(head), 0)]);
    assert!(!driver.world.machine.written().contains(&tail));
}

#[test]
fn buffers_may_lie_across_pages() {
    for back in 1..40 {
        let mut driver = driver();
        let edge = RAM.start + 0x2_1000;
        let at = edge - back;
        driver
            .world
            .machine
            .put(at, &map(1, 0x2_0000, 0x2_0fff, 0, RW));
        driver.world.machine.fill(at + 36, 4, 0xee);
        let head = driver.chain(&[(at, 36, false), (at + 36, 4, true)]);
        driver.offer(head);
        driver.notify();
        assert_eq!(driver.used(), [(u32::from(head), 4)]);
        assert_eq!(driver.world.machine.get(at + 36, 4), [0; 4], "{back}");
        // The body is whole, and the tail is where nobody may be told.
        driver.world.machine.take(edge);
        driver.offer(head);
        driver.notify();
        let expected = if back >= 40 { 4 } else { 0 };
        assert_eq!(driver.used(), [(u32::from(head), expected)], "{back}");
    }
}

/// `table` as an indirect table at `at`, after some descriptors before it.
fn indirect(driver: &mut Driver, before: &[(u64, u32, bool)], at: u64, table: &[[u8; 16]]) {
    driver.world.machine.put(at, &table.concat());
    let len = 16 * table.len() as u32;
    let head = driver.descriptor;
    for (n, (from, bytes, writable)) in before.iter().enumerate() {
        let index = head + n as u16;
        let flags = NEXT | if *writable { WRITE } else { 0 };
        driver.describe(index, descriptor(*from, *bytes, flags, index + 1));
    }
    // WRITE is ignored here (2.7.5.3.2).
    let index = head + before.len() as u16;
    driver.describe(index, descriptor(at, len, TABLE | WRITE, 0xffff));
    driver.descriptor = index + 1;
    driver.offer(head);
    driver.notify();
}

#[test]
fn a_table_lies_anywhere_and_after_anything() {
    for odd in [0, 1, 4, 8, 9, 0xfe8, 0xff1, 0xff8] {
        for before in [0, 1, 35, 36] {
            let mut driver = driver();
            let at = driver.room(64);
            let body = map(1, 0x2_0000, 0x2_0fff, 0, RW);
            driver.world.machine.put(at, &body);
            driver.world.machine.fill(at + 36, 4, 0xee);
            let first = [(at, before, false)];
            let first = if before == 0 { &first[..0] } else { &first };
            let rest = 36 - before;
            // Entry 0 goes to entry 2, and entry 1 is not part of it.
            let table = [
                descriptor(at + u64::from(before), rest, NEXT, 2),
                descriptor(0, 0, 0, 0),
                descriptor(at + 36, 4, WRITE, 0xffff),
            ];
            indirect(&mut driver, first, RAM.start + 0x4_0000 + odd, &table);
            assert_eq!(driver.used().len(), 1, "{odd:#x} {before}");
            assert_eq!(driver.world.machine.get(at + 36, 4), [0; 4]);
        }
    }
}

#[track_caller]
fn broken(mut driver: Driver, why: Broken) {
    assert_eq!(driver.world.device.broken(), Some(why));
    assert!(driver.used().is_empty(), "nothing comes back");
    assert_eq!(driver.world.read(0x70), 15 | 64);
    assert_eq!(driver.world.read(0x60) & 2, 2, "configuration change");
    assert_eq!(driver.world.device.counts().broken, 1);
    // Nothing more is processed.
    let calls = driver.world.book.calls.len();
    let (_, tail) = driver.queue(&attach(1, 8));
    driver.notify();
    assert_eq!(driver.world.machine.get(tail, 1), [0xee]);
    assert_eq!(driver.world.book.calls.len(), calls);
    // Until a reset.
    driver.world.bring_up(PLAIN);
    assert_eq!(driver.world.device.broken(), None);
    assert_eq!(
        driver.world.device.status(),
        DeviceStatus::from_bits_truncate(15)
    );
}

#[test]
fn tables_that_are_none() {
    let at = RAM.start + 0x4_0000;
    let inner = descriptor(at, 4, WRITE, 0);
    let table = |driver: &mut Driver, table: &[[u8; 16]]| indirect(driver, &[], at, table);
    let cases: [(&[[u8; 16]], Broken); 4] = [
        (&[descriptor(at, 16, TABLE, 0)], Broken::IndirectNested),
        (&[descriptor(at, 4, NEXT, 1)], Broken::Next),
        (&[descriptor(at, 4, NEXT, 0)], Broken::TooLong),
        (&[], Broken::IndirectLength),
    ];
    for (bytes, why) in cases {
        let mut driver = driver();
        table(&mut driver, bytes);
        broken(driver, why);
    }
    for (len, flags, where_to, why) in [
        (17, TABLE, at, Broken::IndirectLength),
        (8, TABLE, at, Broken::IndirectLength),
        (16, TABLE | NEXT, at, Broken::IndirectWithNext),
        (16, TABLE, RAM.end, Broken::IndirectOutside),
        (16, TABLE, RAM.end - 8, Broken::IndirectOutside),
        (16, TABLE, u64::MAX - 7, Broken::IndirectOutside),
        (32, TABLE, u64::MAX - 15, Broken::IndirectOutside),
    ] {
        let mut driver = driver();
        driver.world.machine.put(at, &inner);
        let head = driver.descriptor;
        driver.describe(head, descriptor(where_to, len, flags, head));
        driver.offer(head);
        driver.notify();
        broken(driver, why);
    }
    let mut driver = Driver::new(PLAIN);
    indirect(&mut driver, &[], at, &[inner]);
    broken(driver, Broken::IndirectNotNegotiated);
}

#[test]
fn chains_that_are_none() {
    let at = common::BUFFERS;
    // Round and round, with and without bytes.
    for len in [0, 1, 36] {
        let mut driver = driver();
        driver.describe(9, descriptor(at, len, NEXT, 10));
        driver.describe(10, descriptor(at, len, NEXT, 9));
        driver.offer(9);
        driver.notify();
        broken(driver, Broken::TooLong);
    }
    // More than 2^32 bytes.
    let mut driver = driver();
    let head = driver.chain(&[(at, u32::MAX, false), (at, 2, true)]);
    driver.offer(head);
    driver.notify();
    broken(driver, Broken::TooLong);

    let mut driver = self::driver();
    let head = driver.chain(&[(at, 4, true), (at, 36, false)]);
    driver.offer(head);
    driver.notify();
    broken(driver, Broken::ReadableAfterWritable);

    for next in [64, 65, 0xffff] {
        let mut driver = self::driver();
        driver.describe(0, descriptor(at, 36, NEXT, next));
        driver.offer(0);
        driver.notify();
        broken(driver, Broken::Next);
    }
    for head in [64, 65, 0xffff] {
        let mut driver = self::driver();
        driver.offer(head);
        driver.notify();
        broken(driver, Broken::Head);
    }
}

#[test]
fn what_came_before_a_broken_chain_is_answered() {
    for features in [PLAIN, PLAIN | EVENT_IDX] {
        let mut driver = Driver::new(features);
        driver.attached(1);
        let (_, tail) = driver.queue(&map(1, 0x2_0000, 0x2_0fff, 0, RW));
        driver.offer(64);
        driver.notify();
        assert_eq!(driver.used().len(), 1);
        assert_eq!(driver.world.machine.get(tail, 4), [0; 4]);
        broken(driver, Broken::Head);
    }
}

#[test]
fn as_many_descriptors_as_a_queue_has_are_a_chain() {
    let mut driver = driver();
    let at = driver.room(64);
    driver
        .world
        .machine
        .put(at, &map(1, 0x2_0000, 0x2_0fff, 0, RW));
    let mut pieces = vec![(at, 36, false)];
    pieces.extend([(at, 0, false); 62]);
    pieces.push((at + 36, 4, true));
    assert_eq!(pieces.len(), 64);
    let head = driver.chain(&pieces);
    driver.offer(head);
    driver.notify();
    assert_eq!(driver.used(), [(u32::from(head), 4)]);
    // One more is a table, so that the queue has room for it.
    let mut driver = self::driver();
    let table: Vec<_> = (1..=65)
        .map(|n| descriptor(at, 0, if n == 65 { WRITE } else { NEXT }, n))
        .collect();
    indirect(&mut driver, &[], RAM.start + 0x4_0000, &table);
    broken(driver, Broken::TooLong);
}

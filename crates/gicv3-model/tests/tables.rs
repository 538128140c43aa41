//! Tables in memory: who may touch them, and when they are read and written.

mod bench;

use bench::{
    Bench, COLLECTIONS, CONFIG, DEVICES, ITT, LEVEL2, MEMORY, PENDING, QUEUE, discard, mapc, mapd,
    mapti, unmapd,
};
use gicv3_model::{Caching, CommandError, Gic, MemoryBus, Message, Pace, Profile, Violation};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Arena, Memory};

const VALID: u64 = 1 << 63;

#[test]
fn an_honest_life_stays_in_its_memory() {
    for profile in Profile::all() {
        for seed in 0..8 {
            let bench = Bench::new(profile.clone(), seed);
            for device in 0..16 {
                bench.map(device, 8192 + device);
                for _ in 0..20 {
                    bench.gic.step();
                }
                assert_eq!(
                    bench.gic.message(0, device, 0),
                    Message::Pending {
                        cpu: 0,
                        lpi: 8192 + device
                    }
                );
            }
            bench.run(&[discard(3, 0), bench.sync(0), unmapd(3)]);
            bench.gic.its_write(0, 0, 4, 0);
            bench.gic.settle();
            assert_eq!(bench.violations(), [], "{} {seed}", profile.name);
            let allowed = [
                QUEUE..QUEUE + 0x1_0000,
                DEVICES..DEVICES + 0x8_0000,
                COLLECTIONS..COLLECTIONS + 0x1_0000,
                CONFIG..CONFIG + 0xe000,
                PENDING..PENDING + 0x4_0000,
                ITT..ITT + 0x1_0000,
            ];
            for access in bench.gic.take_accesses() {
                assert!(
                    access.is_within(&allowed),
                    "{} {seed} {access:x?}",
                    profile.name
                );
            }
        }
    }
}

#[test]
fn tables_are_written_at_once_or_late() {
    let bench = Bench::new(Profile::qemu(), 0);
    bench.writes();
    bench.map(5, 8200);
    let writes = bench.writes();
    // An entry of 8 bytes, one of 12.
    let at: Vec<_> = writes
        .iter()
        .map(|access| (access.at, access.bytes))
        .collect();
    assert_eq!(at, [(DEVICES + 5 * 8, 8), (ITT + 0x5000, 12)]);
    assert_ne!(bench.get(DEVICES + 5 * 8), 0);

    let late = Profile {
        pace: Pace::AtOnce,
        ..Profile::greedy()
    };
    let bench = Bench::new(late, 0);
    bench.map(5, 8200);
    assert_eq!(bench.get(DEVICES + 5 * 8), 0);
    assert_eq!(bench.get(ITT + 0x5000), 0);
    // At the latest when it is quiescent.
    bench.gic.its_write(0, 0, 4, 0);
    assert_eq!(bench.gic.its_read(0, 0, 4), 0x8000_0000);
    assert_ne!(bench.get(DEVICES + 5 * 8), 0);
    assert_ne!(bench.get(ITT + 0x5000), 0);
}

#[test]
fn what_the_tables_say_lives_on() {
    for profile in Profile::all() {
        let bench = Bench::new(profile.clone(), 2);
        bench.map(5, 8200);
        bench.gic.its_write(0, 0, 4, 0);
        bench.wait(|| bench.gic.its_read(0, 0, 4) == 0x8000_0000);
        // The same tables again, as after hibernation.
        bench.enable();
        // What the ITS holds itself may be lost.
        let kept = profile.hcc == 0;
        assert_eq!(
            bench.gic.mapping(0, 5, 0),
            Some((8200, 0, kept.then_some(0))),
            "{}",
            profile.name
        );
        bench.gic.its_write(0, 0, 4, 0);
        bench.wait(|| bench.gic.its_read(0, 0, 4) == 0x8000_0000);
        // Zeroed ones: as after kexec.
        for at in (DEVICES..DEVICES + 0x8_0000).step_by(8) {
            bench.put(at, 0);
        }
        bench.enable();
        assert_eq!(bench.gic.mapping(0, 5, 0), None);
        assert_eq!(bench.violations(), [], "{}", profile.name);
    }
}

#[test]
fn two_levels() {
    for caching in [Caching::None, Caching::Greedy, Caching::Random] {
        let bench = Bench::reset(
            Profile {
                caching,
                ..Profile::qemu()
            },
            0,
        );
        bench.enable_lpis(0);
        let gic = &bench.gic;
        gic.its_write(0, 0x80, 8, VALID | QUEUE | 15);
        gic.its_write(0, 0x88, 8, 0);
        // Indirect, pages of 4 KiB: 512 entries of 8 bytes each.
        gic.its_write(0, 0x100, 8, 0xc000_0000_8010_0000);
        gic.its_write(0, 0x108, 8, VALID | COLLECTIONS);
        gic.its_write(0, 0, 4, 1);
        bench.run(&[mapc(0, 0), mapd(0x205, 5, ITT)]);
        assert_eq!(gic.take_refused()[0].error, CommandError::Device);
        // A page that becomes valid needs no invalidation.
        bench.put(DEVICES + 8, VALID | LEVEL2);
        bench.run(&[mapd(0x205, 5, ITT), mapti(0x205, 0, 8192, 0), bench.sync(0)]);
        assert_eq!(
            gic.message(0, 0x205, 0),
            Message::Pending { cpu: 0, lpi: 8192 }
        );
        gic.its_write(0, 0, 4, 0);
        gic.settle();
        assert_ne!(bench.get(LEVEL2 + 5 * 8), 0);
        assert_eq!(bench.violations(), []);
        gic.its_write(0, 0, 4, 1);
        assert_eq!(gic.mapping(0, 0x205, 0), Some((8192, 0, Some(0))));
        // What was valid must stay.
        bench.put(DEVICES + 8, VALID | (LEVEL2 + 0x1000));
        for _ in 0..64 {
            gic.message(0, 0x205, 0);
            bench.run(&[mapd(0x206, 5, ITT + 0x1000), unmapd(0x206)]);
        }
        let seen = bench.violations();
        let changed = |seen: &Violation| matches!(seen, Violation::Changed { .. });
        assert_eq!(
            seen.iter().any(changed),
            caching != Caching::Greedy,
            "{seen:?}"
        );
    }
}

#[test]
fn collections_in_both_places() {
    // Two of the ITS's own, and those in memory after them (CCT).
    let bench = Bench::new(
        Profile {
            caching: Caching::None,
            ..Profile::non_coherent()
        },
        0,
    );
    let writes = bench.writes();
    let at: Vec<_> = writes
        .iter()
        .filter(|write| write.what.starts_with("coll"))
        .collect();
    assert_eq!(at.len(), 2);
    assert_eq!((at[0].at, at[1].at), (COLLECTIONS, COLLECTIONS + 8));
    assert_eq!(bench.violations(), []);
}

#[test]
fn pending_tables_hold_what_is_pending() {
    let profile = Profile {
        clear_enable: true,
        ..Profile::greedy()
    };
    let bench = Bench::new(profile, 0);
    bench.map(5, 8200);
    bench.gic.message(0, 5, 0);
    bench.gic.rd_write(0, 0, 4, 0);
    bench.wait(|| bench.gic.rd_read(0, 0, 4) & 8 == 0);
    // LPI 8200 is bit 8 of byte 1024.
    assert_eq!(bench.get(PENDING + 1024), 0x100);
    assert_eq!(bench.gic.pending(0), []);
    // PTZ 0: it is pending again.
    bench.gic.rd_write(0, 0x78, 8, PENDING);
    bench.gic.rd_write(0, 0, 4, 1);
    assert_eq!(bench.gic.pending(0), [(8200, None)]);
    assert_eq!(bench.violations(), []);
    bench.gic.rd_write(0, 0, 4, 0);
}

#[test]
fn a_message_to_a_redistributor_without_lpis_is_lost() {
    let bench = Bench::reset(Profile::qemu(), 0);
    bench.enable();
    bench.run(&[mapc(0, 0)]);
    bench.map(5, 8200);
    assert!(matches!(bench.gic.message(0, 5, 0), Message::Ignored(_)));
    assert_eq!(bench.gic.pending(0), []);
}

#[test]
fn any_memory_is_a_bus() {
    let arena = Arena::new(PhysAddr::new(MEMORY.start), 0x80_0000);
    let bank = MEMORY.start..MEMORY.start + 0x80_0000;
    let bus = MemoryBus::new(&arena, Some(bank));
    let gic = Gic::new(bus, Profile::qemu(), 0);
    gic.its_write(0, 0x80, 8, VALID | QUEUE);
    gic.its_write(0, 0x88, 8, 0);
    gic.its_write(0, 0x100, 8, VALID | DEVICES);
    gic.its_write(0, 0x108, 8, VALID | COLLECTIONS);
    gic.its_write(0, 0, 4, 1);
    arena.store(PhysAddr::new(QUEUE), 0x09);
    arena.store(PhysAddr::new(QUEUE + 16), VALID | 0x1_0001);
    gic.its_write(0, 0x88, 8, 0x20);
    assert_ne!(arena.load(PhysAddr::new(COLLECTIONS + 8)), 0);
    // Where there is none, that is said.
    assert_eq!(gic.take_violations(), []);
    let [w0, w1, w2, w3] = mapd(1, 5, 0x9000_0000);
    for (n, word) in (4..).zip([w0, w1, w2, w3]) {
        arena.store(PhysAddr::new(QUEUE + n * 8), word);
    }
    gic.its_write(0, 0x88, 8, 0x40);
    let seen = gic.take_violations();
    assert!(
        seen.iter().any(|seen| matches!(
            seen,
            Violation::NoMemory {
                at: 0x9000_0000,
                ..
            }
        )),
        "{seen:?}"
    );
}

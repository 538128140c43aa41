//! What the architecture leaves UNPREDICTABLE is seen, and done badly.

mod bench;

use bench::{Bench, CONFIG, DEVICES, ITT, PENDING, QUEUE, mapc, mapd, mapti, movi, unmapd};
use gicv3_model::{Caching, OnError, Profile, Violation};

fn bench() -> Bench {
    let profile = Profile {
        on_error: OnError::Skip,
        ..Profile::greedy()
    };
    let bench = Bench::new(profile, 0);
    bench.map(5, 8200);
    bench
}

/// One violation comes of it, which `is` holds for.
fn comes(bench: &Bench, is: impl Fn(&Violation) -> bool) {
    let seen = bench.violations();
    assert!(seen.len() == 1 && is(&seen[0]), "{seen:#?}");
    assert!(!seen[0].to_string().is_empty());
}

#[test]
fn a_mapped_event_again() {
    let bench = bench();
    bench.run(&[mapti(5, 0, 8201, 0)]);
    comes(&bench, |seen| {
        *seen
            == Violation::EventMapped {
                its: 0,
                device: 5,
                event: 0,
                lpi: 8200,
            }
    });
    assert!(bench.writes().iter().any(|access| access.what == "garbage"));
}

#[test]
fn a_mapped_device_again() {
    let bench = bench();
    bench.run(&[mapd(5, 5, ITT + 0x10_0000)]);
    let seen = bench.violations();
    assert_eq!(seen[0], Violation::DeviceMapped { its: 0, device: 5 });
    let bench = self::bench();
    bench.run(&[unmapd(5), mapd(5, 5, ITT + 0x10_0000)]);
    assert_eq!(bench.violations(), []);
}

#[test]
fn a_collection_in_use_moves() {
    for command in [mapc(0, 0x1_0000), [0x09, 0, 0, 0]] {
        let bench = bench();
        bench.run(&[command]);
        comes(&bench, |seen| {
            let device = 5;
            let (collection, event) = (0, 0);
            *seen
                == Violation::CollectionInUse {
                    its: 0,
                    collection,
                    device,
                    event,
                }
        });
    }
    // The same again is as it was; one without interrupts may go.
    let bench = bench();
    bench.run(&[mapc(0, 0), mapc(1, 0x2_0000), [0x09, 0, 1, 0]]);
    assert_eq!(bench.violations(), []);
}

#[test]
fn one_lpi_in_two_collections() {
    let two = |seen: &Violation| matches!(seen, Violation::TwoCollections { lpi: 8200, .. });
    let bench = bench();
    bench.run(&[mapti(5, 1, 8200, 1)]);
    comes(&bench, two);
    let bench = self::bench();
    bench.run(&[mapti(5, 1, 8200, 0)]);
    assert_eq!(bench.violations(), []);
    bench.run(&[movi(5, 1, 1)]);
    comes(&bench, two);
}

#[test]
fn an_itt_that_is_not_free() {
    let overlap = |seen: &Violation| matches!(seen, Violation::Overlap { .. });
    // 32 entries of 8 bytes.
    for at in [
        ITT + 0x5000,
        ITT + 0x4f00 + 0x100,
        DEVICES + 0x7_ff00,
        QUEUE,
        CONFIG,
        PENDING,
    ] {
        let bench = bench();
        bench.run(&[mapd(6, 5, at)]);
        let seen = bench.violations();
        assert!(seen.iter().any(overlap), "{at:#x} {seen:?}");
    }
    let bench = bench();
    bench.run(&[mapd(6, 5, ITT + 0x5100), mapd(7, 5, ITT + 0x4f00)]);
    assert_eq!(bench.violations(), []);
    bench.put(ITT + 0x60f8, 1);
    bench.run(&[mapd(8, 5, ITT + 0x6000)]);
    comes(
        &bench,
        |seen| matches!(seen, Violation::NotZero { at, .. } if *at == ITT + 0x60f8),
    );
}

#[test]
fn tables_changed_behind_its_back() {
    let profile = Profile {
        caching: Caching::None,
        ..Profile::greedy()
    };
    let changed = |seen: &Violation| matches!(seen, Violation::Changed { .. });
    for (at, value) in [
        (DEVICES + 40, 0),
        (DEVICES + 40, u64::MAX),
        (ITT + 0x5000, 0),
    ] {
        let bench = Bench::new(profile.clone(), 0);
        bench.map(5, 8200);
        bench.put(at, value);
        bench.gic.message(0, 5, 0);
        comes(&bench, changed);
    }
    // A cache may hide that, and one that forgets does not always.
    let hidden = (0..32).filter(|seed| {
        let profile = Profile {
            caching: Caching::Random,
            ..Profile::greedy()
        };
        let bench = Bench::new(profile, *seed);
        bench.map(5, 8200);
        bench.wait(|| bench.get(DEVICES + 40) != 0 && bench.get(ITT + 0x5000) != 0);
        for at in [DEVICES + 40, ITT + 0x5000] {
            bench.put(at, 1);
        }
        for _ in 0..400 {
            bench.gic.step();
            bench.gic.message(0, 5, 0);
        }
        !bench.violations().iter().any(changed)
    });
    assert!((1..16).contains(&hidden.count()));
    // The pending table too.
    let bench = self::bench();
    for word in 128..1024 {
        bench.put(PENDING + word * 8, 4);
    }
    for _ in 0..400 {
        bench.gic.step();
    }
    assert!(bench.violations().iter().any(changed));
}

#[test]
fn memory_that_is_not_zero() {
    let not_zero = |seen: &Violation| matches!(seen, Violation::NotZero { .. });
    let bench = Bench::reset(Profile::greedy(), 0);
    bench.put(DEVICES + 8, 1);
    bench.put(PENDING + 0x400, 1);
    bench.enable_lpis(0);
    comes(&bench, not_zero);
    bench.enable();
    comes(&bench, not_zero);
}

#[test]
fn tables_that_overlap() {
    let overlap = |seen: &Violation| matches!(seen, Violation::Overlap { .. });
    let bench = Bench::reset(Profile::qemu(), 0);
    bench.gic.its_write(0, 0x80, 8, 1 << 63 | QUEUE | 15);
    bench.gic.its_write(0, 0x88, 8, 0);
    bench.gic.its_write(0, 0x100, 8, 1 << 63 | DEVICES);
    bench
        .gic
        .its_write(0, 0x108, 8, (1 << 63) | (QUEUE + 0xf000));
    bench.gic.its_write(0, 0, 4, 1);
    assert!(bench.violations().iter().all(overlap));
    // A pending table of two redistributors.
    let bench = Bench::reset(Profile::qemu(), 0);
    bench.enable_lpis(0);
    bench.gic.rd_write(1, 0x70, 8, CONFIG | 15);
    bench.gic.rd_write(1, 0x78, 8, PENDING | 1 << 62);
    bench.gic.rd_write(1, 0x00, 4, 1);
    comes(&bench, overlap);
}

#[test]
fn enabling_too_early() {
    let bench = bench();
    bench.gic.its_write(0, 0, 4, 0);
    bench.gic.its_write(0, 0, 4, 1);
    comes(&bench, |seen| *seen == Violation::NotQuiescent { its: 0 });
    let bench = Bench::reset(Profile::qemu(), 0);
    bench.gic.its_write(0, 0, 4, 1);
    let seen = bench.violations();
    assert!(matches!(
        seen[..],
        [
            Violation::Missing { .. },
            Violation::Missing { .. },
            Violation::Missing { .. }
        ]
    ));
    let late = Profile {
        clear_enable: true,
        ..Profile::greedy()
    };
    let bench = Bench::new(late, 0);
    bench.gic.rd_write(0, 0, 4, 0);
    bench.gic.rd_write(0, 0, 4, 1);
    assert_eq!(bench.violations()[0], Violation::WritePending { cpu: 0 });
}

#[test]
fn another_configuration_table() {
    let bench = Bench::reset(Profile::qemu(), 0);
    bench.enable_lpis(0);
    bench.gic.rd_write(1, 0x70, 8, (CONFIG + 0x1_0000) | 15);
    bench
        .gic
        .rd_write(1, 0x78, 8, (PENDING + 0x1_0000) | (1 << 62));
    bench.gic.rd_write(1, 0x00, 4, 1);
    comes(&bench, |seen| {
        matches!(
            seen,
            Violation::PropbaserDiffers {
                cpu: 1,
                peer: 0,
                ..
            }
        )
    });
}

#[test]
fn a_writer_outside_the_queue() {
    let bench = Bench::reset(Profile::greedy(), 0);
    bench.enable();
    bench.gic.its_write(0, 0, 4, 0);
    bench.gic.settle();
    bench.gic.its_write(0, 0x80, 8, 1 << 63 | QUEUE);
    bench.violations();
    bench.gic.its_write(0, 0x88, 8, 0x1000);
    comes(&bench, |seen| {
        *seen
            == Violation::CommandQueue {
                its: 0,
                offset: 0x1000,
                size: 0x1000,
            }
    });
}

#[test]
fn reserved_fields() {
    let bench = bench();
    let mut command = bench.sync(0);
    command[1] = 1;
    bench.run(&[command]);
    comes(&bench, |seen| {
        *seen
            == Violation::ReservedField {
                its: 0,
                opcode: 5,
                word: 1,
                bits: 1,
            }
    });
}

#[test]
fn virtual_commands_write_where_they_say() {
    let bench = Bench::new(Profile::gicv4(), 0);
    bench.writes();
    // VMAPP: the address of the pending table in word 3.
    bench.run(&[[0x29, 0, 0x8000_0000_0000_0000, 0x8070_0000]]);
    comes(&bench, |seen| {
        *seen
            == Violation::VirtualCommand {
                its: 0,
                opcode: 0x29,
                at: 0x8070_0000,
            }
    });
    assert!(bench.writes().iter().any(|access| access.at == 0x8070_0000));
}

#[test]
fn stores_that_stay_in_a_cache() {
    use portcullis_addr::PhysAddr;
    use portcullis_memory::Memory;
    let profile = Profile {
        on_error: OnError::Skip,
        ..Profile::non_coherent()
    };
    let bench = Bench::new(profile, 0);
    // A command that is not published is what lay there before: nothing.
    let writer = bench.gic.its_read(0, 0x88, 8);
    bench.ram.store(PhysAddr::new(QUEUE + writer), 0x05);
    bench.gic.its_write(0, 0x88, 8, writer + 32);
    bench.gic.settle();
    assert_eq!(bench.gic.take_refused().len(), 1);
    // And what the ITS wrote is not seen by a CPU that looked before.
    let at = PhysAddr::new(PENDING + 0x400);
    assert_eq!(bench.ram.load(at), 0);
    bench.map(5, 8192);
    bench.gic.message(0, 5, 0);
    bench.gic.rd_write(0, 0, 4, 0);
    bench.wait(|| bench.gic.rd_read(0, 0, 4) & 8 == 0);
    assert_eq!(bench.ram.load(at), 0);
    bench.ram.refresh(at, 8);
    assert_eq!(bench.ram.load(at), 1);
    // Nor is what stays in the cache lost: it comes late.
    bench.ram.store(PhysAddr::new(ITT), 7);
    for seed in 0..20 {
        bench.ram.evict(seed);
    }
    assert_eq!(gicv3_model::Bus::read(&*bench.ram, ITT), Some(7));
}

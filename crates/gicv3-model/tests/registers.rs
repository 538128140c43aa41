//! Registers, by literal values (IHI 0069, 12.10, 12.11, 12.18, 12.19).

mod bench;

use bench::{Bench, COLLECTIONS, DEVICES, QUEUE};
use gicv3_model::{Caching, Pace, Profile, Violation};

#[test]
fn its_after_reset() {
    let Bench { gic, .. } = Bench::reset(Profile::qemu(), 0);
    // Quiescent, not Enabled.
    assert_eq!(gic.its_read(0, 0x0000, 4), 0x8000_0000);
    // Physical; ITT_entry_size 11; ID_bits 15; Devbits 15.
    assert_eq!(gic.its_read(0, 0x0008, 8), 0x0001_efb1);
    assert_eq!(gic.its_read(0, 0x0008, 4), 0x0001_efb1);
    assert_eq!(gic.its_read(0, 0x000c, 4), 0);
    // Type 1, Entry_Size 7; Type 4, Entry_Size 7; nothing.
    assert_eq!(gic.its_read(0, 0x0100, 8), 0x0107_0000_0000_0000);
    assert_eq!(gic.its_read(0, 0x0108, 8), 0x0407_0000_0000_0000);
    assert_eq!(gic.its_read(0, 0x0110, 8), 0);
    assert_eq!(gic.its_read(0, 0x010c, 4), 0x0407_0000);
    // ArchRev 3.
    assert_eq!(gic.its_read(0, 0xffe8, 4), 0x30);
    assert_eq!(gic.take_violations(), []);
}

#[test]
fn typer_of_each_choice() {
    let read = |profile| Bench::reset(profile, 0).gic.its_read(0, 0x0008, 8);
    // PTA (bit 19), HCC 16 (bits 31 to 24), Devbits 11, ITT_entry_size 7.
    assert_eq!(read(Profile::held_collections()), 0x1009_6f71);
    // CIL (bit 36), CIDbits 7, HCC 2, CCT (bit 2), Devbits 9, ID_bits 10, 16 bytes.
    assert_eq!(read(Profile::non_coherent()), 0x0017_0201_2af5);
    // Virtual (bit 1), Devbits 19.
    assert_eq!(read(Profile::gicv4()), 0x0002_6fb3);
    assert_eq!(
        Bench::reset(Profile::gicv4(), 0).gic.its_read(0, 0xffe8, 4),
        0x40
    );
}

#[test]
fn base_registers_keep_what_there_is() {
    let Bench { gic, .. } = Bench::reset(Profile::qemu(), 0);
    gic.its_write(0, 0x100, 8, 0xfcff_0000_8010_0e01 & !(0x3ff << 40));
    // Valid, Indirect, both cacheabilities, Type and Entry_Size as they were.
    assert_eq!(gic.its_read(0, 0x100, 8), 0xf9e7_0000_8010_0e01);
    gic.its_write(0, 0x118, 8, u64::MAX);
    assert_eq!(gic.its_read(0, 0x118, 8), 0);

    // Pages of 64 KiB alone, one level.
    let Bench { gic, .. } = Bench::reset(Profile::held_collections(), 0);
    gic.its_write(0, 0x100, 8, 0xc000_0000_8010_0000);
    assert_eq!(gic.its_read(0, 0x100, 8), 0x8107_0000_8010_0200);

    // No Shareability.
    let Bench { gic, .. } = Bench::reset(Profile::non_coherent(), 0);
    gic.its_write(0, 0x080, 8, 0x8000_0000_8000_0400);
    assert_eq!(gic.its_read(0, 0x080, 8), 0x8000_0000_8000_0000);
    gic.rd_write(0, 0x70, 8, 0x8030_078d);
    assert_eq!(gic.rd_read(0, 0x70, 8), 0x8030_038d);
}

#[test]
fn halves_are_written_by_32_bits() {
    let Bench { gic, .. } = Bench::reset(Profile::qemu(), 0);
    gic.its_write(0, 0x84, 4, 0x8000_0000);
    gic.its_write(0, 0x80, 4, 0x8000_0003);
    assert_eq!(gic.its_read(0, 0x80, 8), 0x8000_0000_8000_0003);
    gic.rd_write(1, 0x7c, 4, 0x4000_0001);
    gic.rd_write(1, 0x78, 4, 0x8040_0000);
    // PTZ reads as zero.
    assert_eq!(gic.rd_read(1, 0x78, 8), 0x1_8040_0000);
    assert_eq!(gic.take_violations(), []);
}

#[test]
fn the_reader_starts_at_zero_with_a_new_queue() {
    let bench = Bench::new(Profile::qemu(), 0);
    let gic = &bench.gic;
    assert_eq!(gic.its_read(0, 0x90, 8), 0x100);
    gic.its_write(0, 0, 4, 0);
    gic.its_write(0, 0x80, 8, 1 << 63 | QUEUE | 1);
    assert_eq!(gic.its_read(0, 0x90, 8), 0);
    // The writer is software's.
    assert_eq!(gic.its_read(0, 0x88, 8), 0x100);
    assert_eq!(bench.violations(), []);
}

#[test]
fn quiescent_comes_late_where_it_may() {
    let bench = Bench::new(Profile::greedy(), 3);
    assert_eq!(bench.gic.its_read(0, 0, 4), 1);
    bench.gic.its_write(0, 0, 4, 0);
    assert_eq!(bench.gic.its_read(0, 0, 4), 0);
    bench.wait(|| bench.gic.its_read(0, 0, 4) == 0x8000_0000);
    assert_eq!(bench.violations(), []);
}

#[test]
fn redistributors_say_who_they_are() {
    let Bench { gic, .. } = Bench::reset(Profile::qemu(), 0);
    // PLPIS, DPGS; Processor_Number; Affinity.
    assert_eq!(gic.rd_read(0, 0x08, 8), 0x0000_0000_0000_0021);
    assert_eq!(gic.rd_read(2, 0x08, 8), 0x0000_0002_0000_0221);
    // Last.
    assert_eq!(gic.rd_read(3, 0x08, 8), 0x0000_0003_0000_0331);
    // CES.
    assert_eq!(gic.rd_read(0, 0x00, 4), 0x2);
    // Asleep, until it is told otherwise.
    assert_eq!(gic.rd_read(0, 0x14, 4), 0x6);
    gic.rd_write(0, 0x14, 4, 0);
    assert_eq!(gic.rd_read(0, 0x14, 4), 0x0);

    let Bench { gic, .. } = Bench::reset(Profile::gicv4(), 0);
    // VLPIS, DirectLPI.
    assert_eq!(gic.rd_read(0, 0x08, 8), 0x2b);
    let Bench { gic, .. } = Bench::reset(Profile::non_coherent(), 0);
    // CES, IR.
    assert_eq!(gic.rd_read(0, 0x00, 4), 0x6);
}

#[test]
fn lpis_are_enabled_for_good_or_not() {
    let bench = Bench::reset(Profile::greedy(), 0);
    bench.enable_lpis(0);
    bench.gic.rd_write(0, 0, 4, 0);
    assert_eq!(bench.gic.rd_read(0, 0, 4), 1);
    assert_eq!(bench.violations(), [Violation::StaysEnabled { cpu: 0 }]);

    let late = Profile {
        pace: Pace::OnPoll,
        caching: Caching::Random,
        ..Profile::qemu()
    };
    let bench = Bench::reset(late, 0);
    bench.enable_lpis(0);
    bench.gic.rd_write(0, 0, 4, 0);
    let seen = std::cell::Cell::new(false);
    bench.wait(|| {
        let ctlr = bench.gic.rd_read(0, 0, 4);
        seen.set(seen.get() | (ctlr == 0xa));
        ctlr == 0x2
    });
    assert_eq!(bench.violations(), []);
}

#[test]
fn wrong_accesses_are_seen() {
    let bench = Bench::reset(Profile::qemu(), 0);
    let gic = &bench.gic;
    let its = |offset, bytes| Violation::Access {
        frame: "ITS",
        index: 0,
        offset,
        bytes,
    };
    gic.its_write(0, 0x80, 2, 0);
    gic.its_write(0, 0x00, 8, 1);
    gic.its_write(0, 0x84, 8, 1);
    gic.its_write(0, 0x50, 4, 1);
    gic.its_read(0, 0x08, 1);
    let wrong = [(0x80, 2), (0x00, 8), (0x84, 8), (0x50, 4), (0x08, 1)];
    assert_eq!(
        bench.violations(),
        wrong.map(|(offset, bytes)| its(offset, bytes))
    );
    gic.its_write(0, 0x1_0040, 4, 7);
    assert_eq!(
        bench.violations(),
        [Violation::Doorbell { its: 0, value: 7 }]
    );
    gic.its_write(0, 0x88, 8, 0x10_0000);
    gic.rd_write(0, 0x70, 8, 0x20);
    gic.rd_write(0, 0x78, 8, 0x1000);
    let seen = bench.violations();
    assert!(
        matches!(
            seen[..],
            [
                Violation::Reserved { frame: "ITS", .. },
                Violation::Reserved { frame: "RD", .. },
                Violation::Reserved { frame: "RD", .. },
            ]
        ),
        "{seen:?}"
    );
}

#[test]
fn what_is_in_use_is_not_written() {
    let bench = Bench::new(Profile::greedy(), 0);
    let gic = &bench.gic;
    gic.its_write(0, 0x80, 8, 1 << 63 | QUEUE | 15);
    gic.its_write(0, 0x100, 8, 1 << 63 | DEVICES | 0x207);
    gic.its_write(0, 0x108, 8, 1 << 63 | COLLECTIONS | 0x200);
    gic.rd_write(0, 0x70, 8, 0x8030_000f);
    gic.rd_write(1, 0x78, 8, 0x8041_0000);
    let seen = bench.violations();
    assert!(
        matches!(
            seen[..],
            [
                Violation::InUse { offset: 0x80, .. },
                Violation::InUse { offset: 0x100, .. },
                Violation::InUse { offset: 0x108, .. },
                Violation::LpisEnabled {
                    cpu: 0,
                    offset: 0x70,
                    ..
                },
                Violation::LpisEnabled {
                    cpu: 1,
                    offset: 0x78,
                    ..
                },
            ]
        ),
        "{seen:?}"
    );
    // And garbage is written near what was said.
    assert!(bench.writes().iter().any(|access| access.what == "garbage"));
}

#[test]
fn direct_registers_are_there_or_not() {
    let bench = Bench::new(Profile::qemu(), 0);
    bench.gic.rd_write(0, 0xa0, 8, 8192);
    bench.gic.rd_write(0, 0x40, 8, 8192);
    assert!(matches!(
        bench.violations()[..],
        [
            Violation::NotImplemented { offset: 0xa0, .. },
            Violation::NotImplemented { offset: 0x40, .. },
        ]
    ));
    let bench = Bench::new(Profile::gicv4(), 0);
    bench.configure(8192, 0xa1);
    bench.gic.rd_write(0, 0xa0, 8, 8192);
    // Busy until it is done.
    assert_eq!(bench.gic.rd_read(0, 0xc0, 4), 1);
    bench.wait(|| bench.gic.rd_read(0, 0xc0, 4) == 0);
    bench.gic.rd_write(0, 0x40, 8, 8192);
    assert_eq!(bench.gic.pending(0), [(8192, Some(0xa0))]);
    bench.gic.rd_write(0, 0x48, 8, 8192);
    assert_eq!(bench.gic.pending(0), []);
    assert_eq!(bench.violations(), []);
    // The VLPI frame has base registers of its own.
    bench.gic.rd_write(0, 0x2_0078, 8, 0x8070_0000);
    assert!(matches!(
        bench.violations()[..],
        [Violation::VirtualRegister { .. }]
    ));
}

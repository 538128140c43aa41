//! What a replay comes to: sums that must come out, and limits where the answer is
//! known.
#![allow(missing_docs)]

mod common;

use common::{DYNAMIC, platform, scenario};
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::replay::{self, Options, OptionsError};
use portcullis_lab::scenario::Invalidation;
use portcullis_lab::sim::{Report, SimError};
use portcullis_lab::trace::Trace;
use portcullis_lab::units::Picos;
use std::fmt::Write as _;

const STRICT: Invalidation = Invalidation::Strict;
/// The first unmapping of a nested host also ends what starting its SMMU left in the
/// hypervisor's hands: an invalidation of everything.
const STARTING: u64 = 1;

fn parse(text: &str) -> Trace {
    Trace::parse(text, "trace").unwrap()
}

fn run(platform: &Platform, trace: &Trace, options: &Options, mode: Mode) -> Report {
    let measured = Measured::built_in().unwrap();
    replay::run(platform, trace, options, &measured, mode).unwrap()
}

/// A device with a ring that stays, and `count` buffers of `bytes` one after the
/// other, each in the place of the one before.
fn churn(count: u64, bytes: u64) -> Trace {
    let mut text = "trace=1.0,attach,0,8\ntrace=1.0,map,0,0xfe000000,0x1000\n".to_owned();
    for _ in 0..count {
        for what in ["map", "unmap"] {
            writeln!(text, "trace=1.0,{what},0,0xff000000,{bytes:#x}").unwrap();
        }
    }
    parse(&text)
}

/// Two devices, whose buffers are there for a while; some go together.
fn mixed() -> Trace {
    let mut text = "trace=1.0,attach,3,8\ntrace=1.0,attach,5,9\n".to_owned();
    for domain in [3, 5] {
        writeln!(text, "trace=1.0,map,{domain},0xfffff000,0x1000").unwrap();
    }
    let at = |slot: u64| 0xf000_0000 + slot % 7 * 0x10_0000;
    for turn in 0..100_u64 {
        for domain in [3, 5] {
            if turn >= 7 {
                writeln!(text, "trace=2.0,unmap,{domain},{:#x},0x6000", at(turn)).unwrap();
            }
            writeln!(text, "trace=2.0,map,{domain},{:#x},0x4000", at(turn)).unwrap();
            writeln!(
                text,
                "trace=2.0,map,{domain},{:#x},0x2000",
                at(turn) + 0x4000
            )
            .unwrap();
        }
    }
    parse(&text)
}

#[test]
fn nothing_is_lost_or_made_up() {
    let trace = mixed();
    let summary = trace.summary();
    assert_eq!((summary.maps, summary.unmaps, summary.stay), (402, 186, 30));
    let pages = 2 + 200 * 6;
    for name in ["qemu", "mmu600", "mmu700"] {
        let platform = platform(name, &[]);
        for (access, passes) in [(4096, 1), (64, 1), (1024, 3)] {
            let options = Options::new(access, passes, STRICT).unwrap();
            // One of the rings for each.
            let accesses = 2 * passes * pages * (4096 / access);
            assert_eq!(options.accesses(&trace), accesses);
            for (mode, entries) in [
                (Mode::Native, 0),
                (Mode::Identity, 0),
                (Mode::Nested, summary.unmaps),
                (Mode::Paravirt, summary.maps + summary.unmaps),
            ] {
                let report = run(&platform, &trace, &options, mode);
                let counted = &report.counted;
                assert_eq!(counted.maps.count(), summary.maps, "{mode}");
                assert_eq!(counted.unmaps.count(), summary.unmaps, "{mode}");
                assert_eq!(counted.entries, entries, "{name}, {mode}");
                let all = &counted.translations;
                assert_eq!(all.cost.count(), accesses, "{mode}");
                assert_eq!(all.micro + all.main + all.walks, accesses, "{mode}");
                assert_eq!((report.mode, report.simulated), (mode, accesses));
                assert_eq!(report.dma_bytes, access);
                let busy = counted.maps.sum() + counted.unmaps.sum();
                assert!(report.elapsed > busy, "{mode}");
            }
        }
    }
}

#[test]
fn an_unmapping_has_the_commands_that_were_measured() {
    let platform = platform("qemu", &[]);
    for bytes in [4096, 65536, 1 << 20] {
        let trace = churn(50, bytes);
        for (mode, commands, entries) in [
            (Mode::Native, 100, 0),
            (Mode::Identity, 0, 0),
            (Mode::Nested, 100 + STARTING, 50),
            (Mode::Paravirt, 100, 101),
        ] {
            let report = run(&platform, &trace, &Options::default(), mode);
            assert_eq!(report.queue.commands, commands, "{bytes}, {mode}");
            assert_eq!(report.queue.syncs, commands / 2, "{bytes}, {mode}");
            assert_eq!(report.counted.entries, entries, "{bytes}, {mode}");
        }
    }
    // Two mappings that go together, one behind the other: one invalidation for the
    // host's driver, one for each run of the hypervisor's.
    let trace = mixed();
    let commands = |mode| {
        run(&platform, &trace, &Options::default(), mode)
            .queue
            .commands
    };
    assert_eq!(commands(Mode::Native), 2 * 186);
    assert_eq!(commands(Mode::Nested), 2 * 186 + STARTING);
    assert!(commands(Mode::Paravirt) <= 3 * 186);
}

#[test]
fn with_a_tlb_without_limit_a_page_is_walked_for_once_a_mapping() {
    let one = |bytes: u64, passes| {
        let options = Options::new(1024, passes, STRICT).unwrap();
        let trace = churn(20, bytes);
        Mode::ALL.map(|mode| {
            let report = run(&platform("qemu", &[]), &trace, &options, mode);
            (report.counted.translations.walks, report.accesses())
        })
    };
    for (bytes, pages) in [(4096, 1), (0x8000, 8)] {
        let walks = 20 * pages + 1;
        for passes in [1, 4] {
            let accesses = 2 * 4 * passes * walks;
            let [native, identity, nested, paravirt] = one(bytes, passes);
            // The memory is the same each time, and where it was.
            assert_eq!(identity, (pages + 1, accesses), "{bytes}");
            assert_eq!(native, (walks, accesses), "{bytes}, {passes}");
            assert_eq!(paravirt, (walks, accesses), "{bytes}, {passes}");
            // And once more for the ring.
            let walks = walks + STARTING;
            assert_eq!(nested, (walks, accesses), "{bytes}, {passes}");
        }
    }
}

#[test]
fn without_a_tlb_every_access_is_a_walk_and_with_free_reads_none_waits() {
    let none = (
        "main_tlb]\nentries = { value = 1048576",
        "main_tlb]\nentries = { value = 0",
    );
    let free = (
        "descriptor_ns = { value = 100",
        "descriptor_ns = { value = 0",
    );
    let trace = churn(20, 0x8000);
    for mode in Mode::ALL {
        let of = |changes: &[(&str, &str)]| {
            run(
                &platform("qemu", changes),
                &trace,
                &Options::default(),
                mode,
            )
        };
        let report = of(&[none]);
        let all = &report.counted.translations;
        assert_eq!(all.walks, report.accesses(), "{mode}");
        assert!(all.cost.sum() > Picos::ZERO);
        // Nothing else on this platform takes an access any time.
        let report = of(&[none, free]);
        assert_eq!(
            report.counted.translations.cost.sum(),
            Picos::ZERO,
            "{mode}"
        );
        let counted = &report.counted;
        let busy = counted.maps.sum() + counted.unmaps.sum();
        assert_eq!(report.elapsed, busy, "{mode}");
    }
}

#[test]
fn the_oldest_mapping_is_read_beside_each_other_one() {
    let all = "main_tlb]\nentries = { value = 1048576, source = \"QEMU's source: as good as without limit\" }\nways = { value = 16";
    let one = all.replace("1048576", "1").replace("16", "0");
    let trace = churn(20, 4096);
    let options = Options::new(1024, 2, STRICT).unwrap();
    for mode in [Mode::Native, Mode::Paravirt] {
        // With room for one translation, each takes the other's place.
        let report = run(&platform("qemu", &[(all, &one)]), &trace, &options, mode);
        let (all, each) = (&report.counted.translations, 2 * 2 * 4);
        assert_eq!(all.cost.count(), 21 * each);
        // The ring is all that there is at first: one walk for its own accesses, and
        // none for the first that comes with the first buffer.
        assert_eq!(all.walks, 1 + 20 * each - 1, "{mode}");
        // Everything comes after the other.
        let busy = report.counted.maps.sum() + report.counted.unmaps.sum();
        assert_eq!(report.elapsed, busy + all.cost.sum(), "{mode}");
    }
}

#[test]
fn a_request_waits_for_its_own_device_and_for_no_other() {
    let of = |domain: u64| {
        let trace = parse(&format!(
            "trace=1.0,attach,0,8\ntrace=1.0,attach,1,9\n\
             trace=1.0,map,{domain},0xff000000,0x1000\n\
             trace=1.0,map,0,0xfe000000,0x100000\n\
             trace=1.0,unmap,{domain},0xff000000,0x1000\n"
        ));
        let report = run(
            &platform("qemu", &[]),
            &trace,
            &Options::default(),
            Mode::Native,
        );
        let counted = &report.counted;
        let busy = counted.maps.sum() + counted.unmaps.sum();
        (report.elapsed, busy, counted.translations.cost.sum())
    };
    // The large mapping stays, and is read when it is there: one after the other, or
    // while the other device is read and unmapped.
    let (elapsed, busy, waits) = of(0);
    assert_eq!(elapsed, busy + waits);
    let (elapsed, busy, waits) = of(1);
    assert!(elapsed < busy + waits, "{elapsed} {busy} {waits}");
}

#[test]
fn a_request_takes_a_cpu_what_it_takes_in_a_scenario() {
    let text = [("cpus = 2", "cpus = 1"), ("count = 2\n", "count = 1\n")];
    for invalidation in ["strict", "lazy"] {
        let how = ("\"strict\"", &*format!("\"{invalidation}\""));
        let scenario = scenario(DYNAMIC, &[text[0], text[1], how]);
        let options = Options::new(4096, 1, scenario.host.invalidation).unwrap();
        let platform = platform("mmu700", &[]);
        let trace = churn(1000, 16384);
        for mode in Mode::ALL {
            let one = common::run(&platform, &scenario, mode).counted;
            let other = run(&platform, &trace, &options, mode).counted;
            let close = |a: Picos, b: Picos, what| {
                let (a, b) = (a.as_nanos(), b.as_nanos());
                assert!(
                    (a / b - 1.0).abs() < 0.02,
                    "{invalidation} {mode} {what}: {a} {b}"
                );
            };
            // The ring of the trace is smaller, and the last flush is not full.
            close(one.maps.average(), other.maps.average(), "map");
            close(one.unmaps.average(), other.unmaps.average(), "unmap");
        }
    }
}

#[test]
fn a_lazy_host_invalidates_256_unmappings_at_once_and_never_too_late() {
    let platform = platform("qemu", &[]);
    let options = Options::new(4096, 1, Invalidation::Lazy).unwrap();
    // All of them at one address: it is another as long as nothing is invalidated.
    let trace = churn(600, 4096);
    for (mode, commands, entries) in [
        (Mode::Native, 2 * 2, 0),
        (Mode::Nested, 2 * 2 + STARTING, 2),
        (Mode::Identity, 0, 0),
    ] {
        let report = run(&platform, &trace, &options, mode);
        assert_eq!(report.queue.commands, commands, "{mode}");
        assert_eq!(report.counted.entries, entries, "{mode}");
        if mode != Mode::Identity {
            // Each address is another page until the flush, and a walk afterwards;
            // the flush is of all of the domain, its ring as well.
            let walks = 601 + 2;
            assert_eq!(report.counted.translations.walks, walks, "{mode}");
        }
    }
    // What goes together stays together, whatever its addresses are.
    let trace = mixed();
    for mode in Mode::ALL {
        let report = run(&platform, &trace, &options, mode);
        assert_eq!(report.counted.unmaps.count(), 186);
        assert_eq!(report.accesses(), options.accesses(&trace));
    }
}

#[test]
fn a_domain_that_ends_leaves_nothing_behind() {
    let mut text = "trace=1.0,attach,0,1\ntrace=1.0,map,0,0xfffff000,0x1000\n".to_owned();
    for turn in 0..20 {
        writeln!(text, "trace=2.0,attach,1,8").unwrap();
        writeln!(text, "trace=2.0,map,1,0xfffff000,0x1000").unwrap();
        writeln!(
            text,
            "trace=2.0,map,1,0xff000000,{:#x}",
            0x1000 << (turn % 10)
        )
        .unwrap();
        writeln!(text, "trace=2.0,map,1,0xfe000000,0x1000").unwrap();
        writeln!(text, "trace=2.0,unmap,1,0xfe000000,0x1000").unwrap();
        // By leaving, or by going where the other one is.
        let (what, domain) = if turn % 2 == 0 {
            ("detach", 1)
        } else {
            ("attach", 0)
        };
        writeln!(text, "trace=2.0,{what},{domain},8").unwrap();
    }
    let trace = parse(&text);
    for invalidation in [STRICT, Invalidation::Lazy] {
        let options = Options::new(4096, 1, invalidation).unwrap();
        for mode in Mode::ALL {
            let report = run(&platform("mmu600", &[]), &trace, &options, mode);
            // What the end takes is nobody's cost.
            assert_eq!(report.counted.maps.count(), 61);
            assert_eq!(report.counted.unmaps.count(), 20);
            if (mode, invalidation) == (Mode::Native, STRICT) {
                assert_eq!(report.queue.commands, 2 * 20);
            }
            assert_eq!(report.accesses(), options.accesses(&trace));
        }
    }
}

#[test]
fn more_passes_change_nothing_but_the_accesses() {
    let trace = mixed();
    for mode in Mode::ALL {
        let of = |passes| {
            let options = Options::new(4096, passes, STRICT).unwrap();
            run(&platform("mmu700", &[]), &trace, &options, mode)
        };
        let (one, five) = (of(1), of(5));
        assert_eq!(5 * one.accesses(), five.accesses());
        assert_eq!(one.queue.commands, five.queue.commands);
        assert_eq!(one.counted.maps.sum(), five.counted.maps.sum());
        assert_eq!(one.counted.unmaps.sum(), five.counted.unmaps.sum());
        // The TLB of this platform holds all of a buffer.
        let walks = |report: &Report| report.counted.translations.walks;
        assert_eq!(walks(&one), walks(&five), "{mode}");
    }
}

#[test]
fn what_a_platform_or_the_lab_does_not_have_is_refused() {
    let measured = Measured::built_in().unwrap();
    let platform = platform(
        "mmu700",
        &[("ipa_bits = { value = 40", "ipa_bits = { value = 36")],
    );
    let refused = |text: &str, options: &Options| {
        replay::run(&platform, &parse(text), options, &measured, Mode::Native).unwrap_err()
    };
    let options = Options::default();
    let beyond = "noise\ntrace=1.0,attach,0,8\ntrace=1.0,map,0,0xffffff000,0x2000\n";
    let found = refused(beyond, &options);
    assert!(matches!(
        found,
        SimError::Beyond {
            line: 3,
            bits: 36,
            ..
        }
    ));
    assert_eq!(
        found.to_string(),
        "line 3 of the trace maps up to 0x1000001000, and the platform has addresses of 36 \
         bits: take one whose ipa_bits is 37 or more"
    );
    // The last page that it has.
    let last = "trace=1.0,attach,0,8\ntrace=1.0,map,0,0xffffff000,0x1000\n";
    for mode in Mode::ALL {
        replay::run(&platform, &parse(last), &options, &measured, mode).unwrap();
    }
    let long = "trace=1.0,attach,0,8\ntrace=1.0,map,0,0,0x100000000\n";
    let many = Options::new(64, 1000, STRICT).unwrap();
    let found = refused(long, &many);
    assert!(
        matches!(
            found,
            SimError::Long {
                accesses: 134_217_728_000,
                ..
            }
        ),
        "{found}"
    );

    // None of these has the place of another, since all are of different sizes.
    let mut large = "trace=1.0,attach,0,8\n".to_owned();
    for size in 0..5_u64 {
        for what in ["map", "unmap"] {
            let size = (60 << 30) - (size << 21);
            writeln!(large, "trace=1.0,{what},0,0,{size:#x}").unwrap();
        }
    }
    let found = refused(&large, &options);
    let bytes = 5 * (60 << 30) - (10 << 21);
    assert!(
        matches!(found, SimError::Large { bytes: b, .. } if b == bytes),
        "{found}"
    );

    for access in [0, 32, 100, 8192, u64::MAX] {
        let found = Options::new(access, 1, STRICT);
        assert_eq!(found, Err(OptionsError::Access(access)));
    }
    for passes in [0, 1001] {
        let found = Options::new(4096, passes, STRICT);
        assert_eq!(found, Err(OptionsError::Passes(passes)));
    }
}

#[test]
fn the_same_trace_gives_the_same_figures() {
    let trace = mixed();
    for mode in Mode::ALL {
        let figures = || {
            let report = run(&platform("mmu700", &[]), &trace, &Options::default(), mode);
            let all = report.counted;
            (
                report.elapsed,
                all.translations.cost.sum(),
                all.translations.charged,
            )
        };
        assert_eq!(figures(), figures(), "{mode}");
    }
}

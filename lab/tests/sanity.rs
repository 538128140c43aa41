//! Limits where the answer is known, and sums that must come out.
#![allow(missing_docs)]

mod common;

use common::{DYNAMIC, STATIC, platform, run, scenario};
use portcullis_addr::{Iova, Ipa, Range};
use portcullis_lab::machine::{Machine, Mode, Shape, with_client};
use portcullis_lab::timing::{Memo, Unit};
use portcullis_lab::units::Picos;

const PAGES: (&str, &str) = (
    "host_memory = { value = \"blocks\"",
    "host_memory = { value = \"pages\"",
);

#[test]
fn without_mappings_one_stage_is_never_worse_than_two() {
    for name in ["mmu600", "mmu700", "grace", "morello"] {
        for changes in [&[][..], &[PAGES]] {
            let platform = platform(name, changes);
            for pattern in ["random", "sequential", "hot"] {
                let scenario = scenario(STATIC, &[("\"random\"", &format!("\"{pattern}\""))]);
                let of = |mode| {
                    let report = run(&platform, &scenario, mode);
                    let all = report.counted.translations;
                    assert_eq!(report.counted.unmaps.count(), 0);
                    (all.cost.average(), all.charged.reads())
                };
                let (two, one) = (of(Mode::Nested), of(Mode::Paravirt));
                assert!(one <= two, "{name}, {pattern}: {one:?} {two:?}");
            }
        }
    }
}

#[test]
fn two_stages_cost_more_where_the_hosts_memory_is_in_pages() {
    let scenario = scenario(STATIC, &[]);
    let of = |mode| {
        let report = run(&platform("mmu700", &[PAGES]), &scenario, mode);
        report.counted.translations.cost.average()
    };
    assert!(of(Mode::Nested) > of(Mode::Paravirt));
}

#[test]
fn with_a_tlb_without_limit_walks_vanish() {
    let large = ("value = 2048, source", "value = 1048576, source");
    let small = (
        "main_tlb]\nentries = { value = 2048",
        "main_tlb]\nentries = { value = 16",
    );
    let scenario = scenario(STATIC, &[("\"random\"", "\"sequential\"")]);
    for mode in Mode::ALL {
        let all = run(&platform("mmu700", &[large]), &scenario, mode);
        let all = all.counted.translations;
        assert_eq!((all.walks, all.charged.reads()), (0, 0), "{mode}");
        if mode != Mode::Identity {
            let few = run(&platform("mmu700", &[small]), &scenario, mode);
            assert!(few.counted.translations.walks > 20_000, "{mode}");
        }
    }
}

#[test]
fn free_traps_make_large_mappings_cheaper_by_paravirt() {
    let trap = |nanos: u64| {
        let text = format!("trap_ns = {{ value = {nanos}");
        platform("mmu700", &[("trap_ns = { value = 150", &text)])
    };
    let large = scenario(
        DYNAMIC,
        &[
            ("bytes = 16384", "bytes = 1048576"),
            ("cpus = 2", "cpus = 1"),
        ],
    );
    let map = |nanos, mode| run(&trap(nanos), &large, mode).counted.maps.average();
    let (free, dear) = (map(0, Mode::Paravirt), map(5_000, Mode::Paravirt));
    assert!(free < map(0, Mode::Native));
    assert!(free < map(0, Mode::Nested));
    // One entry for each mapping, and none where the host has tables.
    assert_eq!(dear - free, Picos::from_nanos(5_000));
    assert_eq!(map(0, Mode::Nested), map(5_000, Mode::Nested));
    assert!(dear > map(5_000, Mode::Nested));
}

#[test]
fn every_access_is_a_hit_or_a_walk_and_every_read_is_made_or_spared() {
    for (text, count) in [(STATIC, 30_000), (DYNAMIC, 20_000)] {
        let scenario = scenario(
            text,
            &[("\"contiguous\"", "\"scattered\"")].map(|change| {
                if text.contains(change.0) {
                    change
                } else {
                    ("static", "static")
                }
            }),
        );
        // Descriptors and structures of a walk, all by pages: of four levels, or of
        // three in stage 2.
        let tiny = ("value = 1048576", "value = 32");
        let few = ("value = [256, 256, 256, 256]", "value = [4, 4, 16, 16]");
        let short = ("value = 2048, source", "value = 16, source");
        for (mode, four, three) in [
            (Mode::Nested, 28 + 3, 4 * 4 + 3 + 3 + 3),
            (Mode::Native, 4 + 3, 4 + 3),
            (Mode::Paravirt, 4 + 2, 3 + 2),
            (Mode::Identity, 4 + 2, 3 + 2),
        ] {
            for (name, changes, reads) in [
                ("qemu", &[][..], four),
                ("qemu", &[tiny], four),
                ("mmu700", &[PAGES], three),
                ("mmu600", &[PAGES, few, short], three),
            ] {
                let report = run(&platform(name, changes), &scenario, mode);
                let all = &report.counted.translations;
                assert_eq!(all.micro + all.main + all.walks, count, "{mode}");
                assert_eq!(all.cost.count(), count);
                let sum = all.charged.reads() + all.charged.held;
                assert_eq!(sum, all.walks * reads, "{mode}, {name} {changes:?}");
                if changes.len() > 1 && text == STATIC {
                    assert!(all.walks > 0 && all.charged.held > 0);
                }
            }
        }
    }
}

#[test]
fn a_strict_unmapping_leaves_nothing_in_any_cache() {
    let platform = platform("mmu700", &[]);
    let scenario = scenario(STATIC, &[]);
    let shape = Shape::of(&platform, &scenario);
    for mode in [Mode::Native, Mode::Nested, Mode::Paravirt] {
        let machine = Machine::new(&shape).unwrap();
        with_client(&machine, &shape, mode, |client| {
            let memory = Range::from_size(Ipa::new(machine.buffers()), 0x20_0000).unwrap();
            let iova = Range::from_size(Iova::new(0xff00_0000), 0x20_0000).unwrap();
            let other = Range::from_size(Ipa::new(machine.buffers()), 4096).unwrap();
            client.map(0, Iova::new(0xfe00_0000), &[other]).unwrap();
            client.map(0, iova.start(), &[memory]).unwrap();
            // Starting drops everything.
            machine.take_commands();
            let mut unit = Unit::of(&platform);
            let mut memo = Memo::new(&machine, &shape);
            let reach = |unit: &mut Unit, memo: &mut Memo<'_>, at: u64| {
                unit.translate(memo, 0, at, Picos::ZERO)
                    .map(|done| done.outcome)
            };
            for at in [0xff00_0000, 0xff1f_f000, 0xfe00_0000] {
                assert!(reach(&mut unit, &mut memo, at).is_some(), "{mode}");
            }
            client.unmap(0, iova).unwrap();
            let ranges = memo.ranges();
            for command in machine.take_commands() {
                unit.drop(&command, ranges);
                memo.drop(&command);
            }
            for at in [0xff00_0000, 0xff1f_f000] {
                assert_eq!(reach(&mut unit, &mut memo, at), None, "{mode}");
            }
            assert!(reach(&mut unit, &mut memo, 0xfe00_0000).is_some(), "{mode}");
        })
        .unwrap();
    }
}

#[test]
fn what_is_kept_of_walks_is_what_the_model_says() {
    for name in ["mmu600", "mmu700"] {
        let platform = platform(name, &[]);
        let scenario = scenario(STATIC, &[]);
        let shape = Shape::of(&platform, &scenario);
        for mode in [Mode::Native, Mode::Nested, Mode::Paravirt] {
            let machine = Machine::new(&shape).unwrap();
            with_client(&machine, &shape, mode, |client| {
                let mut memo = Memo::new(&machine, &shape);
                // Sizes of which some become blocks and groups, and one after the
                // other in each other's place.
                for (round, bytes) in [0x1000u64, 0x1_0000, 0x20_0000, 0x8000, 0x40_0000, 0x1000]
                    .into_iter()
                    .enumerate()
                {
                    let memory = machine.buffers() + (round as u64 % 2) * 0x40_0000;
                    let memory = Range::from_size(Ipa::new(memory), bytes).unwrap();
                    let iova = Range::from_size(Iova::new(0xff00_0000), bytes).unwrap();
                    client.map(1, iova.start(), &[memory]).unwrap();
                    for offset in (0..bytes).step_by(4096) {
                        let at = iova.start().raw() + offset;
                        let mut fresh = Memo::new(&machine, &shape);
                        let right = fresh.walk(1, at).map(|(_, walk)| walk.clone());
                        assert!(right.is_some());
                        assert_eq!(memo.walk(1, at).map(|(_, walk)| walk.clone()), right);
                    }
                    client.unmap(1, iova).unwrap();
                    for command in machine.take_commands() {
                        memo.drop(&command);
                    }
                }
            })
            .unwrap();
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let platform = platform("mmu700", &[]);
    for text in [STATIC, DYNAMIC] {
        let scenario = scenario(text, &[]);
        let figures = || {
            let report = run(&platform, &scenario, Mode::Nested);
            let all = report.counted;
            (
                report.elapsed,
                all.translations.cost.sum(),
                all.translations.charged,
                all.unmaps.sum(),
                report.queue.commands,
            )
        };
        assert_eq!(figures(), figures());
    }
}

#[test]
fn a_lazy_host_invalidates_256_unmappings_at_once() {
    let platform = platform("qemu", &[]);
    let lazy = scenario(DYNAMIC, &[("\"strict\"", "\"lazy\"")]);
    for (mode, entries) in [(Mode::Native, 0.0), (Mode::Nested, 1.0 / 256.0)] {
        let report = run(&platform, &lazy, mode);
        let unmaps = report.counted.unmaps.count() as f64;
        let per = |count: u64| count as f64 / unmaps;
        assert!(
            (per(report.queue.commands) - 2.0 / 256.0).abs() < 1e-3,
            "{mode}"
        );
        assert!(
            (per(report.counted.entries) - entries).abs() < 1e-3,
            "{mode}"
        );
    }
    let report = run(&platform, &lazy, Mode::Paravirt);
    let maps = report.counted.maps.count() as f64;
    // Each mapping asks for itself.
    let entries = report.counted.entries as f64 / maps;
    assert!((entries - 1.0 - 1.0 / 256.0).abs() < 2e-3, "{entries}");
}

#[test]
fn a_limit_on_mappings_is_kept() {
    let platform = platform("mmu700", &[]);
    let limited = scenario(
        DYNAMIC,
        &[("\"strict\"", "\"strict\"\nmaps_per_second = 50000")],
    );
    for mode in Mode::ALL {
        let rate = |scenario| {
            let report = run(&platform, scenario, mode);
            report.counted.maps.count() as f64 / report.elapsed.as_secs()
        };
        let found = rate(&limited);
        assert!((found / 50_000.0 - 1.0).abs() < 0.01, "{mode}: {found}");
        assert!(rate(&scenario(DYNAMIC, &[])) > 100_000.0, "{mode}");
    }
}

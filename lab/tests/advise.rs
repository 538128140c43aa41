//! Advice: limits where it is known, and changes that are there when looked at.
#![allow(missing_docs)]

mod common;

use common::{DYNAMIC, STATIC, changed, platform, scenario};
use portcullis_lab::advice::{
    Advice, Axis, Recommendation, Replayed, Settings, Sureness, Trouble, Workload, advise,
    shortened, text,
};
use portcullis_lab::description::{Asked, Description, Stages};
use portcullis_lab::input::{self, Bounded};
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::replay::{self, Options};
use portcullis_lab::scenario::{Invalidation, Lifetime, Scenario};
use portcullis_lab::score::{Better, Comparison, Criterion, Score, Transfer};
use portcullis_lab::sim::{self, Report};
use portcullis_lab::trace::Trace;
use portcullis_lab::units::Picos;
use std::fs;
use std::path::Path;
use toml::Spanned;

const NVME: &str = include_str!("../descriptions/nvme.toml");

/// A workload that is no scenario.
#[derive(Clone, Copy, Debug)]
struct Given<F> {
    /// Runs it.
    run: F,
    /// What it counts by.
    transfer: Transfer,
}

impl<F> Workload for Given<F>
where
    F: Fn(&Platform, &Measured, Mode) -> Result<Report, Trouble> + Sync,
{
    fn run(&self, platform: &Platform, measured: &Measured, mode: Mode) -> Result<Report, Trouble> {
        (self.run)(platform, measured, mode)
    }

    fn transfer(&self) -> Transfer {
        self.transfer
    }
}

/// Buffers that are mapped for one transfer, no more of them than anybody can map.
const SLOWLY: (&str, &str) = ("cpus = 2", "cpus = 2\nmaps_per_second = 50000");

const SETTINGS: Settings = Settings {
    accesses: 2_000,
    threads: 2,
    buffers: 64 << 20,
};

fn described(changes: &[(&str, &str)]) -> Description {
    input::parse(&changed(NVME, changes), "nvme.toml").unwrap()
}

fn on(scenario: &Scenario, platform: &Platform, asked: Asked) -> Advice {
    let measured = Measured::built_in().unwrap();
    advise(scenario, platform, &measured, asked, &SETTINGS).unwrap()
}

fn asked(stages: Stages, sva: bool) -> Asked {
    Asked { stages, sva }
}

/// What is better for a scenario, by the scores alone.
fn better(scenario: &Scenario, platform: &Platform) -> Better {
    let advice = on(scenario, platform, asked(Stages::Both, true));
    match advice.recommendation {
        Recommendation::NestedForSva(comparison) => comparison.better(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_a_tlb_without_limit_buffers_that_stay_mapped_make_no_difference() {
    let large = ("value = 2048, source", "value = 65536, source");
    let platform = platform("mmu700", &[large]);
    let scenario = scenario(STATIC, &[("\"random\"", "\"sequential\"")]);
    let advice = on(&scenario, &platform, Asked::default());
    let Recommendation::Compared(comparison) = advice.recommendation else {
        panic!("{:?}", advice.recommendation);
    };
    assert_eq!(comparison.better(), Better::Neither);
    assert_eq!(advice.recommendation.mode(), None);
    assert_eq!(advice.sureness(), Some(Sureness::Open));
    let said = text("title", &advice, &SETTINGS);
    assert!(said.starts_with("No difference that matters"), "{said}");
}

#[test]
fn buffers_that_stay_mapped_are_never_better_off_nested() {
    for name in Platform::NAMES {
        for (from, to) in [
            ("random", "random"),
            ("random", "sequential"),
            ("scattered", "contiguous"),
        ] {
            let scenario = scenario(STATIC, &[(from, to)]);
            let found = better(&scenario, &platform(name, &[]));
            assert_ne!(found, Better::Nested, "{name} {to}");
        }
    }
}

#[test]
fn processes_addresses_need_nested_and_one_stage_needs_paravirt() {
    let platform = platform("mmu700", &[]);
    let scenario = described(&[]).scenario();
    let advice = on(&scenario, &platform, asked(Stages::Both, true));
    assert_eq!(advice.recommendation.mode(), Some(Mode::Nested));
    assert_eq!((advice.sureness(), advice.modes.len()), (None, 4));
    let said = text("title", &advice, &SETTINGS);
    assert!(
        said.starts_with("Nested: only with it") && said.contains("sva"),
        "{said}"
    );

    let advice = on(&scenario, &platform, asked(Stages::One, false));
    assert_eq!(advice.recommendation.mode(), Some(Mode::Paravirt));
    // What cannot be is not run.
    let modes: Vec<Mode> = advice.modes.iter().map(|(report, _)| report.mode).collect();
    assert_eq!(modes, [Mode::Native, Mode::Identity, Mode::Paravirt]);
    let said = text("title", &advice, &SETTINGS);
    assert!(
        said.starts_with("Paravirt: nested needs two stages"),
        "{said}"
    );
    assert!(
        said.lines().all(|line| !line.starts_with("nested")),
        "{said}"
    );
}

#[test]
fn free_traps_and_large_mappings_make_it_paravirt_and_dear_ones_nested() {
    let large = [
        ("bytes = 16384", "bytes = 1048576"),
        ("\"strict\"", "\"strict\"\nmaps_per_second = 1000"),
    ];
    let trap = |nanos: &str| {
        let to = format!("trap_ns = {{ value = {nanos}");
        platform("mmu700", &[("trap_ns = { value = 150", &to)])
    };
    assert_eq!(
        better(&scenario(DYNAMIC, &large), &trap("0")),
        Better::Paravirt
    );
    let small = scenario(DYNAMIC, &[]);
    assert_eq!(better(&small, &trap("20000")), Better::Nested);
}

#[test]
fn what_the_search_finds_is_there_when_it_is_run() {
    // Dear traps for nested, and 16 pages in one entry for paravirt: few transfers a
    // mapping are enough.
    let dear = ("trap_ns = { value = 150", "trap_ns = { value = 5000");
    let platform = platform("mmu700", &[dear]);
    let scenario = scenario(
        DYNAMIC,
        &[
            ("bytes = 16384", "bytes = 65536"),
            ("cpus = 2", "cpus = 2\nmaps_per_second = 10000"),
        ],
    );
    let advice = on(&scenario, &platform, Asked::default());
    for search in &advice.searches {
        assert!(search.points.is_sorted_by(|a, b| a.0 < b.0));
        for flip in search.flips() {
            for (value, found) in [flip.before, flip.at] {
                let (mut scenario, mut platform) = (scenario.clone(), platform.clone());
                match search.axis {
                    Axis::Transfers => {
                        scenario.buffers.lifetime = Lifetime::Transfers(Bounded::clamped(value));
                    }
                    Axis::Trap => {
                        platform.cpu.trap_ns.value = Spanned::new(0..0, Bounded::clamped(value));
                    }
                    Axis::Devices => {
                        let rate = 10_000 * value / 2;
                        scenario.initiators.count = Spanned::new(0..0, Bounded::clamped(value));
                        scenario.host.maps_per_second = Some(Bounded::clamped(rate));
                    }
                    Axis::Buffers => {
                        scenario.buffers.live = Spanned::new(0..0, Bounded::clamped(value));
                    }
                }
                assert_eq!(
                    better(&scenario, &platform),
                    found,
                    "{:?} {value}",
                    search.axis
                );
            }
            // Neighbours, or nearly.
            let (before, at) = (flip.before.0, flip.at.0);
            assert!(at - before <= 1.max(before / 50), "{flip:?}");
        }
    }
    let mut transfers = advice.searches.iter().filter(|s| s.axis == Axis::Transfers);
    let flips = transfers.next().unwrap().flips();
    assert!(flips.iter().any(|f| f.at.0 - f.before.0 == 1), "{flips:?}");
}

#[test]
fn each_assumption_is_run_with_its_other_value() {
    let platform = platform("mmu700", &[]);
    let scenario = scenario(DYNAMIC, &[SLOWLY]);
    let advice = on(&scenario, &platform, Asked::default());
    let of = |what: &str| {
        let found = advice.variations.iter().find(|one| one.what == what);
        found.unwrap_or_else(|| panic!("{what}: {:?}", advice.variations))
    };
    let words = |what: &str| -> Vec<String> {
        let tries = of(what).tries.iter().map(|(to, _)| to.clone());
        [of(what).here.clone()].into_iter().chain(tries).collect()
    };
    assert_eq!(words("reading a descriptor, ns"), ["100", "50", "200"]);
    assert_eq!(words("walks at a time"), ["16", "8", "32"]);
    assert_eq!(words("TLB uses the contiguous hint"), ["yes", "no"]);
    assert_eq!(words("pages of a buffer"), ["contiguous", "scattered"]);
    // gem5's number is nobody's assumption of ours, and not asked about.
    assert!(
        advice
            .variations
            .iter()
            .all(|one| one.what != "small TLB, entries")
    );
    // Some of them by hand.
    let measured = Measured::built_in().unwrap();
    let by_hand = |platform: &Platform, scenario: &Scenario| {
        let scenario = shortened(scenario, SETTINGS.accesses);
        let score = |mode| -> Score {
            let report = sim::run(platform, &scenario, &measured, mode).unwrap();
            let jobs = portcullis_lab::score::jobs(&report).unwrap();
            Transfer::of(&scenario).score(&report, jobs)
        };
        Comparison::of(&score(Mode::Nested), &score(Mode::Paravirt))
    };
    let lazy = common::scenario(DYNAMIC, &[SLOWLY, ("strict", "lazy")]);
    assert_eq!(of("invalidation").tries[0].1, by_hand(&platform, &lazy));
    for (what, number, at, from, to) in [
        (
            "reading a descriptor, ns",
            1,
            "200",
            "descriptor_ns = { value = 100",
            "descriptor_ns = { value = 200",
        ),
        (
            "a trap, ns",
            0,
            "75",
            "trap_ns = { value = 150",
            "trap_ns = { value = 75",
        ),
    ] {
        let (to_words, found) = &of(what).tries[number];
        assert_eq!(to_words, at);
        let other = common::platform("mmu700", &[(from, to)]);
        assert_eq!(*found, by_hand(&other, &scenario), "{what}");
        assert_eq!(found.by, Criterion::Cost, "{what}");
    }
    // What is counted is what is shown.
    let base = match advice.recommendation {
        Recommendation::Compared(comparison) => comparison.better(),
        other => panic!("{other:?}"),
    };
    let changing = advice
        .variations
        .iter()
        .filter(|one| one.changes(base))
        .count();
    assert_eq!(advice.changing(), changing);
    assert_eq!(advice.sureness(), Some(Sureness::of(base, changing)));
    let said = text("title", &advice, &SETTINGS);
    let marked = said.lines().filter(|line| {
        ["x *", "rate *", "even *"]
            .iter()
            .any(|mark| line.contains(mark))
    });
    assert_eq!(marked.count(), changing, "{said}");
}

#[test]
fn a_short_run_does_not_hide_what_cpus_can_map() {
    // So many buffers that none is needed again before the run is over.
    let many = [
        ("live = 8", "live = 8192"),
        ("bytes = 16384", "bytes = 4096"),
        ("cpus = 2", "cpus = 1"),
    ];
    let platform = platform("mmu700", &[]);
    let advice = on(
        &scenario(DYNAMIC, &many),
        &platform,
        asked(Stages::Both, true),
    );
    let said = text("title", &advice, &SETTINGS);
    assert!(said.contains("in the long run"), "{said}");
    for (report, score) in &advice.modes {
        let per_second = score.rate / 4096.0;
        let jobs = report.counted.maps.average() + report.counted.unmaps.average();
        if report.mode != Mode::Identity {
            assert!(report.rate() > 1.2 * score.rate, "{}", report.mode);
            assert!(
                (per_second * jobs.as_secs() - 1.0).abs() < 1e-6,
                "{}",
                report.mode
            );
        }
    }
}

#[test]
fn whatever_runs_can_be_advised_on() {
    let scenario = shortened(&scenario(STATIC, &[]), 2_000);
    let workload = Given {
        run: |platform: &Platform, measured: &Measured, mode: Mode| {
            Ok(sim::run(platform, &scenario, measured, mode)?)
        },
        transfer: Transfer::of(&scenario),
    };
    let (platform, measured) = (platform("mmu600", &[]), Measured::built_in().unwrap());
    let advice = advise(&workload, &platform, &measured, Asked::default(), &SETTINGS).unwrap();
    // The same as of the scenario, but only the platform can be varied.
    let same = on(&scenario, &platform, Asked::default());
    assert_eq!(advice.recommendation, same.recommendation);
    assert!(advice.variations.iter().all(|one| one.what != "seed"));
    let axes: Vec<Axis> = advice.searches.iter().map(|search| search.axis).collect();
    assert_eq!(axes, [Axis::Trap]);
    let failing = Given {
        run: |_: &Platform, _: &Measured, _: Mode| Err("no such trace".into()),
        transfer: Transfer::of(&scenario),
    };
    let error = advise(&failing, &platform, &measured, Asked::default(), &SETTINGS).unwrap_err();
    assert_eq!(error.to_string(), "no such trace");
}

#[test]
fn the_descriptions_that_are_shipped_are_in_order() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/descriptions"));
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let description = Description::load(&entry.unwrap().path()).unwrap();
        assert_eq!(description.asked(), Asked::default());
        count += 1;
    }
    assert!(count >= 4);
    let scenario = described(&[]).scenario();
    assert_eq!(scenario.buffers.bytes.get_ref().get(), 131_072);
    assert_eq!(scenario.dma.bytes.get_ref().get(), 4096);
    assert_eq!(scenario.accesses(), 32);
    let platform = platform("mmu700", &[]);
    let pages = described(&[("cpus = 2", "cpus = 2\nhost_memory = \"pages\"")]);
    assert_eq!(pages.platform(platform.clone()).name, "mmu700-pages");
    assert_eq!(described(&[]).platform(platform).name, "mmu700");
}

/// What is wrong with a description in which `from` reads `to`.
fn wrong(from: &str, to: &str) -> String {
    let found = input::parse::<Description>(&changed(NVME, &[(from, to)]), "file").err();
    found.map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn mistakes_are_told_with_their_line_and_what_is_allowed() {
    let line = |what: &str| {
        1 + NVME
            .lines()
            .position(|line| line.starts_with(what))
            .unwrap()
    };
    for (from, to, said) in [
        (
            "devices = 1",
            "devices = 5000",
            "invalid value: integer `5000`, expected a whole number from 1 to 4096",
        ),
        (
            "transfers = 1",
            "transfers = 0",
            "invalid value: integer `0`, expected a whole number from 1 to 1000000000, or \"static\"",
        ),
        (
            "transfers = 1",
            "transfers = \"often\"",
            "invalid value: string \"often\", expected a whole number from 1 to 1000000000, or \"static\"",
        ),
        (
            "transfers = 1",
            "transfers = 1.5",
            "invalid type: floating point `1.5`, expected a whole number from 1 to 1000000000, or \"static\"",
        ),
        (
            "buffer_kib = 128",
            "buffer_kib = 130",
            "130 KiB are no whole pages: a multiple of 4 up to 1048576",
        ),
        (
            "buffers = 32",
            "buffers = 1048576",
            "invalid value: integer `1048576`, expected a whole number from 1 to 65536",
        ),
        (
            "memory = \"scattered\"",
            "memory = \"somewhere\"",
            "unknown variant `somewhere`, expected `contiguous` or `scattered`",
        ),
        (
            "stages = \"both\"",
            "stages = \"two\"",
            "unknown variant `two`, expected `both` or `one`",
        ),
    ] {
        let at = line(from.split(' ').next().unwrap());
        assert_eq!(wrong(from, to), format!("file:{at}: {said}"));
    }
    let at = line("sva");
    let said = wrong(
        "stages = \"both\"\nsva = false",
        "stages = \"one\"\nsva = true",
    );
    assert!(
        said.starts_with(&format!("file:{at}: shared virtual addresses")),
        "{said}"
    );
    let said = wrong("transfers = 1", "transfers = \"static\"");
    assert!(
        said.starts_with(&format!(
            "file:{}: buffers that stay",
            line("maps_per_second")
        )),
        "{said}"
    );
    let said = wrong(
        "buffer_kib = 128\nbuffers = 32",
        "buffer_kib = 1048576\nbuffers = 65",
    );
    assert!(said.contains("at most 68719476736 are possible"), "{said}");
    let said = wrong("outstanding = 32", "access_bytes = 96");
    assert!(
        said.ends_with("96 is no power of two: 64, 128, ... or 4096"),
        "{said}"
    );
    let said = wrong("cpus = 2", "cpus = 2\nspeed = 3");
    assert!(said.contains("unknown field `speed`"), "{said}");
    let said = wrong("sva = false", "");
    assert!(said.contains("missing field `sva`"), "{said}");
}

/// Of a trace the platform is varied, and what the replay assumes.
#[test]
fn advice_on_a_trace_is_that_of_its_replay() {
    let (platform, measured) = (platform("mmu700", &[]), Measured::built_in().unwrap());
    let text = "trace=1.0,attach,0,0x8\n\
        trace=1.0,map,0,0xff000,0x1000\n\
        trace=1.1,map,0,0x1000,0x2000\n\
        trace=1.2,unmap,0,0x1000,0x2000\n\
        trace=1.3,map,0,0x1000,0x2000\n\
        trace=1.4,unmap,0,0x1000,0x2000\n";
    let trace = Trace::parse(text, "trace").unwrap();
    let options = Options::default();
    let replayed = Replayed::new(&trace, options);
    let (asked, settings) = (Asked::default(), &SETTINGS);
    let advice = advise(&replayed, &platform, &measured, asked, settings).unwrap();
    let Recommendation::Compared(found) = advice.recommendation else {
        panic!("{:?}", advice.recommendation);
    };
    let by_hand = |options: &Options| {
        let score = |mode| {
            let report = replay::run(&platform, &trace, options, &measured, mode).unwrap();
            // Two of the three are unmapped.
            let counted = &report.counted;
            let (map, unmap) = (counted.maps.average(), counted.unmaps.average());
            let jobs = Picos((map.0 * 3 + unmap.0 * 2) / 3);
            // Three mappings of five pages, and as many accesses to the oldest.
            let transfer = Transfer {
                accesses: (10 * options.passes()) as f64 / 3.0,
                per_mapping: Some(1.0),
            };
            Score {
                rate: 1.0,
                ..transfer.score(&report, jobs)
            }
        };
        Comparison::of(&score(Mode::Nested), &score(Mode::Paravirt))
    };
    assert_eq!(found, by_hand(&options));
    let tried = |what: &str| {
        let mut all = advice.variations.iter();
        all.find(|one| one.what == what).unwrap().tries[0].1
    };
    let more = Options::new(4096, 10, Invalidation::Strict).unwrap();
    assert_eq!(tried("times a mapping is read"), by_hand(&more));
    let lazy = Options::new(4096, 1, Invalidation::Lazy).unwrap();
    assert_eq!(tried("invalidation"), by_hand(&lazy));
    assert_ne!(by_hand(&more), by_hand(&options));
    // What was asked about is not an assumption.
    let told = advice.variations.iter().filter(|one| one.told);
    assert_eq!(
        told.map(|one| one.what).collect::<Vec<_>>(),
        ["invalidation"]
    );
    assert_eq!(advice.searches.len(), 1, "only a trap is known");
}

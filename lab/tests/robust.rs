//! Files that nobody would write: each is refused with a message, or runs.
#![allow(missing_docs)]

use portcullis_lab::advice::{self, Settings, shortened};
use portcullis_lab::description::Description;
use portcullis_lab::input;
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::scenario::Scenario;
use portcullis_lab::sim;
use proptest::prelude::*;

const PLATFORM: &str = include_str!("../platforms/mmu700.toml");
const SCENARIO: &str = include_str!("../scenarios/many-devices.toml");

const DESCRIPTION: &str = include_str!("../descriptions/server.toml");

const NUMBERS: [i64; 16] = [
    -1,
    0,
    1,
    2,
    3,
    5,
    12,
    36,
    47,
    64,
    255,
    4096,
    8192,
    65_536,
    1 << 40,
    i64::MAX,
];

/// Other words that a description may say.
const WORDS: [(&str, &str); 8] = [
    ("strict", "lazy"),
    ("contiguous", "scattered"),
    ("random", "sequential"),
    ("random", "hot"),
    ("transfers = 100", "transfers = \"static\""),
    ("cpus = 8", "cpus = 8\nhost_memory = \"pages\""),
    ("cpus = 8", "cpus = 8\ndomains = \"shared\""),
    ("cpus = 8", "cpus = 8\nmaps_per_second = 3"),
];

/// Where numbers are in a text.
fn numbers(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = at
            + bytes[at..]
                .iter()
                .take_while(|b| b.is_ascii_digit())
                .count();
        if end > at {
            found.push((at, end));
        }
        at = end.max(at) + 1;
    }
    found
}

/// The text with some of its numbers replaced.
fn replaced(text: &str, changes: &[(usize, usize)]) -> String {
    let mut text = text.to_owned();
    for (which, value) in changes {
        let all = numbers(&text);
        let (start, end) = all[which % all.len()];
        let value = NUMBERS[value % NUMBERS.len()].to_string();
        text.replace_range(start..end, &value);
    }
    text
}

fn changes() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..1000usize, 0..NUMBERS.len()), 0..4)
}

/// Small enough to run many of them.
fn is_small(scenario: &Scenario) -> bool {
    scenario.initiators.count.get_ref().get() <= 64
        && scenario.working_set() <= 64 << 20
        && scenario.run.count.get() + scenario.run.warm_up.get() <= 5_000
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_numbers_are_refused_or_run(
        of_platform in changes(),
        of_scenario in changes(),
        mode in 0..4usize,
    ) {
        let scenario = SCENARIO
            .replace("count = 1024", "count = 12")
            .replace("count = 500000", "count = 300")
            .replace("warm_up = 200000", "warm_up = 12");
        let platform = input::parse::<Platform>(&replaced(PLATFORM, &of_platform), "platform");
        let scenario = input::parse::<Scenario>(&replaced(&scenario, &of_scenario), "scenario");
        if let (Ok(platform), Ok(scenario)) = (platform, scenario)
            && is_small(&scenario)
        {
            let measured = Measured::built_in().unwrap();
            // What cannot be set up says why; nothing that can be stops half way.
            match sim::run(&platform, &scenario, &measured, Mode::ALL[mode]) {
                Ok(report) => {
                    let all = &report.counted.translations;
                    prop_assert_eq!(all.micro + all.main + all.walks, all.cost.count());
                }
                Err(error) => prop_assert!(
                    !matches!(error, sim::SimError::Refused { .. } | sim::SimError::Idle { .. }),
                    "{}", error
                ),
            }
        }
    }

    #[test]
    fn any_description_is_refused_or_run(
        of_description in changes(),
        words in 0..WORDS.len(),
        mode in 0..4usize,
    ) {
        let text = DESCRIPTION.replace("devices = 1024", "devices = 12");
        let (from, to) = WORDS[words];
        let text = replaced(&text.replace(from, to), &of_description);
        if let Ok(description) = input::parse::<Description>(&text, "description") {
            let platform = description.platform(Platform::named("mmu600").unwrap());
            let scenario = shortened(&description.scenario(), 300);
            if is_small(&scenario) {
                let measured = Measured::built_in().unwrap();
                let report = sim::run(&platform, &scenario, &measured, Mode::ALL[mode]);
                prop_assert!(report.is_ok(), "{}", report.unwrap_err());
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(at in 0..4000usize, byte in any::<char>()) {
        for text in [PLATFORM, SCENARIO, DESCRIPTION] {
            let mut changed: Vec<char> = text.chars().collect();
            let at = at % changed.len();
            changed[at] = byte;
            let changed: String = changed.into_iter().collect();
            for error in [
                input::parse::<Platform>(&changed, "file").err(),
                input::parse::<Scenario>(&changed, "file").err(),
                input::parse::<Description>(&changed, "file").err(),
            ]
            .into_iter()
            .flatten()
            {
                prop_assert!(error.to_string().starts_with("file:"));
            }
        }
    }
}

/// Advice on what is left of a description, with every assumption and every search.
#[test]
fn advice_on_the_least_there_is_comes_to_an_end() {
    let text = r#"
name = "least"
devices = 1
buffer_kib = 4
buffers = 1
transfers = 1
memory = "contiguous"
mbytes_per_s = 1
access_bytes = 64
outstanding = 1
invalidation = "lazy"
cpus = 1
maps_per_second = 1
stages = "both"
sva = false
"#;
    let description: Description = input::parse(text, "description").unwrap();
    let measured = Measured::built_in().unwrap();
    let settings = Settings {
        accesses: 1,
        threads: 2,
        buffers: 64 << 20,
    };
    for name in Platform::NAMES {
        let platform = Platform::named(name).unwrap();
        let scenario = description.scenario();
        let asked = description.asked();
        let advice = advice::advise(&scenario, &platform, &measured, asked, &settings).unwrap();
        let text = advice::text("least", &advice, &settings);
        assert!(text.lines().count() < 50, "{text}");
    }
}

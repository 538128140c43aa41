//! Files that people write, and the mistakes in them.
#![allow(missing_docs)]

use portcullis_lab::input;
use portcullis_lab::platform::Platform;
use portcullis_lab::scenario::Scenario;

const PLATFORM: &str = include_str!("../platforms/mmu700.toml");
const SCENARIO: &str = include_str!("../scenarios/nvme-4k.toml");

/// What is wrong with a platform file in which `from` reads `to`, without the name.
fn wrong(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    let changed = text.replace(from, to);
    let found = if text == PLATFORM {
        input::parse::<Platform>(&changed, "file").err()
    } else {
        input::parse::<Scenario>(&changed, "file").err()
    };
    found.map(|error| error.to_string()).unwrap_or_default()
}

/// The line that `what` is on.
fn line(text: &str, what: &str) -> usize {
    1 + text.lines().position(|line| line.contains(what)).unwrap()
}

#[test]
fn what_is_shipped_is_in_order() {
    for name in Platform::NAMES {
        let platform = Platform::named(name).unwrap();
        assert_eq!(platform.name, name);
        let smmu = &platform.smmu;
        assert!(!smmu.cycle_ps.source.text().is_empty());
        assert!(smmu.cycle_ps.source.is_assumed());
        assert!(!smmu.link_cycles.source.is_assumed());
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        Scenario::load(&entry.unwrap().path()).unwrap();
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn a_number_out_of_its_range_is_told_with_its_line_and_the_range() {
    let at = line(PLATFORM, "walk_slots");
    let slots = "walk_slots = { value = 16,";
    assert_eq!(
        wrong(PLATFORM, slots, "walk_slots = { value = 5000,"),
        format!("file:{at}: invalid value: integer `5000`, expected a whole number from 1 to 4096")
    );
    assert!(wrong(PLATFORM, slots, "walk_slots = { value = -1,").contains("from 1 to 4096"));
    let at = line(SCENARIO, "cpus");
    assert_eq!(
        wrong(SCENARIO, "cpus = 1", "cpus = 0"),
        format!("file:{at}: invalid value: integer `0`, expected a whole number from 1 to 256")
    );
}

#[test]
fn unknown_and_missing_fields_are_refused() {
    let said = wrong(SCENARIO, "cpus = 1", "cpus = 1\nspeed = 3");
    let at = line(SCENARIO, "cpus") + 1;
    assert!(
        said.starts_with(&format!("file:{at}: unknown field `speed`")),
        "{said}"
    );
    let said = wrong(SCENARIO, "cpus = 1", "");
    assert!(said.contains("missing field `cpus`"), "{said}");
    // A number without a source is none.
    let slots =
        "walk_slots = { value = 16, source = \"gem5's SMMUv3.py (commit 00dd0d7b): ptw_slots\" }";
    let said = wrong(PLATFORM, slots, "walk_slots = { value = 16 }");
    assert!(said.contains("missing field `source`"), "{said}");
    let said = wrong(
        PLATFORM,
        slots,
        "walk_slots = { value = 16, source = \" \" }",
    );
    assert!(
        said.contains("must say where the number comes from"),
        "{said}"
    );
}

#[test]
fn what_cannot_be_is_refused_where_it_is_said() {
    let ways = "[smmu.main_tlb]\nentries = { value = 2048, source = \"gem5's SMMUv3.py (commit 00dd0d7b): tlb_entries of a device interface\" }\nways = { value = 4,";
    let said = wrong(PLATFORM, ways, &ways.replace("value = 4,", "value = 5,"));
    let at = line(PLATFORM, "[smmu.main_tlb]") + 2;
    assert_eq!(
        said,
        format!("file:{at}: 2048 entries cannot be in sets of 5; 0 is fully associative")
    );
    let level = "stage2_start_level = { value = 1,";
    let said = wrong(PLATFORM, level, "stage2_start_level = { value = 2,");
    assert!(
        said.contains("a walk from level 2 resolves 22 to 34 bits, ipa_bits is 40"),
        "{said}"
    );
    let bytes = line(SCENARIO, "bytes = 4096");
    let said = wrong(SCENARIO, "bytes = 4096\nlive", "bytes = 5000\nlive");
    assert!(
        said.starts_with(&format!("file:{bytes}: 5000 bytes are no whole pages")),
        "{said}"
    );
    let said = wrong(
        SCENARIO,
        "bytes = 4096\nlive = 32",
        "bytes = 1073741824\nlive = 65536",
    );
    assert!(said.contains("at most 68719476736 are possible"), "{said}");
    let said = wrong(
        SCENARIO,
        "pattern = \"sequential\"",
        "pattern = { strided = 8192 }",
    );
    assert!(said.contains("fit a buffer of 4096"), "{said}");
}

#[test]
fn what_is_no_file_is_told() {
    let error = Platform::named("/nowhere/at/all.toml").unwrap_err();
    assert!(
        error.to_string().starts_with("/nowhere/at/all.toml: "),
        "{error}"
    );
    let said = wrong(SCENARIO, "[dma]", "[dma");
    assert!(
        said.starts_with(&format!("file:{}: ", line(SCENARIO, "[dma]"))),
        "{said}"
    );
}

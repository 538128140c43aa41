//! Scenarios and platforms to start from.
#![allow(dead_code)]

use portcullis_lab::input;
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::scenario::Scenario;
use portcullis_lab::sim::{self, Report};

/// A text in which things read otherwise; each is there once at least.
pub fn changed(text: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

/// A platform that is shipped, or QEMU's, with changes.
pub fn platform(name: &str, changes: &[(&str, &str)]) -> Platform {
    let text = match name {
        "mmu600" => include_str!("../../platforms/mmu600.toml"),
        "mmu700" => include_str!("../../platforms/mmu700.toml"),
        "grace" => include_str!("../../platforms/grace.toml"),
        "morello" => include_str!("../../platforms/morello.toml"),
        _ => include_str!("../qemu.toml"),
    };
    input::parse(&changed(text, changes), name).unwrap()
}

/// Buffers of 64 KiB that are mapped once and used at random.
pub const STATIC: &str = r#"
name = "static"
[initiators]
count = 4
domains = "each"
[buffers]
bytes = 65536
live = 64
lifetime = "static"
memory = "scattered"
iova = "recycled"
[dma]
bytes = 4096
pattern = "random"
outstanding = 8
link_mbytes_per_s = 4000
[host]
cpus = 1
invalidation = "strict"
[run]
count = 30000
warm_up = 10000
seed = 7
"#;

/// Buffers that are mapped for one transfer.
pub const DYNAMIC: &str = r#"
name = "dynamic"
[initiators]
count = 2
domains = "each"
[buffers]
bytes = 16384
live = 8
lifetime = { transfers = 1 }
memory = "contiguous"
iova = "recycled"
[dma]
bytes = 4096
pattern = "sequential"
outstanding = 8
link_mbytes_per_s = 4000
[host]
cpus = 2
invalidation = "strict"
[run]
count = 20000
warm_up = 2000
seed = 7
"#;

pub fn scenario(text: &str, changes: &[(&str, &str)]) -> Scenario {
    input::parse(&changed(text, changes), "scenario").unwrap()
}

pub fn run(platform: &Platform, scenario: &Scenario, mode: Mode) -> Report {
    let measured = Measured::built_in().unwrap();
    sim::run(platform, scenario, &measured, mode).unwrap()
}

//! The crates that others can take are taken, as packages.

use portcullis_testbed::packages::{Network, Package, Packages};
use portcullis_testbed::workspace::Workspace;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn packages() -> Packages {
    Packages::make(&Workspace::here(), Network::Unused).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_program_outside_of_the_workspace_runs_on_them() {
    let packages = packages();
    let printed = packages
        .run_outside()
        .unwrap_or_else(|error| panic!("{error}"));
    let expected = packages.expected().expect("what it has to print");
    assert_eq!(printed, expected);
    // It took what is unpacked: its own copy of the paths leads nowhere.
    let copy = Workspace::here().target().join("packages/outside");
    assert!(!copy.join("../../crates/pagetable").exists());
}

#[test]
fn each_says_what_it_is() {
    for package in packages().list() {
        let name = &package.name;
        let manifest: toml::Table = read(package, "Cargo.toml").parse().expect("a manifest");
        let fields = &manifest["package"];
        for (key, most) in [("keywords", 5), ("categories", 5)] {
            let words = fields[key].as_array().expect(key).len();
            assert!((1..=most).contains(&words), "{name}: {key}");
        }
        assert!(fields["description"].as_str().is_some(), "{name}");
        let readme = read(package, "README.md");
        assert!(readme.starts_with(&format!("# {name}\n")), "{name}");
        let rust = format!("| Rust | {} or later |", package.minimal_rust);
        assert!(readme.contains(&rust), "{name}: README.md lacks {rust}");
        for feature in manifest
            .get("features")
            .and_then(toml::Value::as_table)
            .iter()
        {
            for feature in feature.keys().filter(|feature| *feature != "default") {
                assert!(
                    readme.contains(&format!("`{feature}`")),
                    "{name}: {feature}"
                );
            }
        }
        // The README's example is compiled because it is the crate's documentation.
        let source = read(package, "src/lib.rs");
        assert!(
            source.starts_with("#![doc = include_str!(\"../README.md\")]\n"),
            "{name}"
        );
        assert!(source.contains("#![forbid(unsafe_code)]"), "{name}");
        assert_eq!(
            readme.contains("| `no_std` | yes"),
            source.contains("no_std"),
            "{name}"
        );
        assert!(
            read(package, "LICENSE-MIT").contains("Permission is hereby granted"),
            "{name}"
        );
        assert!(
            read(package, "LICENSE-APACHE").contains("Apache License"),
            "{name}"
        );
    }
}

#[test]
fn nothing_else_is_in_them() {
    let known = [
        ".cargo_vcs_info.json",
        "Cargo.lock",
        "Cargo.toml",
        "Cargo.toml.orig",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "src",
    ];
    for package in packages().list() {
        for entry in fs::read_dir(&package.directory).expect("a package") {
            let name = entry.expect("an entry").file_name();
            let name = name.to_str().expect("a name");
            assert!(known.contains(&name), "{}: {name}", package.name);
        }
        only_source(&package.directory.join("src"));
    }
}

/// The table of docs/crates.md says what is in the packages. Lines may be 100 off
/// and a twentieth: the table need not change with every commit.
#[test]
fn the_documents_say_what_each_costs() {
    let document = Workspace::here().root().join("docs/crates.md");
    let document = fs::read_to_string(document).expect("docs/crates.md");
    let packages = packages();
    for package in packages.list() {
        let name = &package.name;
        let row = document
            .lines()
            .find_map(|line| line.strip_prefix(&format!("| `{name}` | ")));
        let row = row.unwrap_or_else(|| panic!("docs/crates.md has no row for {name}"));
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        let [lines, ours, others, rust] = cells[..] else {
            panic!("{name}: {row}");
        };
        let lines: usize = lines.parse().expect("lines");
        let near = lines.abs_diff(package.lines) <= 100 + package.lines / 20;
        assert!(
            near,
            "{name}: {lines} lines, and there are {}",
            package.lines
        );
        assert_eq!(rust, package.minimal_rust, "{name}");

        let manifest: toml::Table = read(package, "Cargo.toml").parse().expect("a manifest");
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        let names = || dependencies.iter().flat_map(|table| table.keys());
        let is_ours = |name: &&String| packages.list().iter().any(|it| it.name == **name);
        let found: BTreeSet<&str> = names()
            .filter(is_ours)
            .map(|name| name.strip_prefix("portcullis-").unwrap_or(name))
            .collect();
        assert_eq!(words(ours), found, "{name}, from here");
        let found: BTreeSet<&str> = names()
            .filter(|name| !is_ours(name))
            .map(String::as_str)
            .collect();
        assert_eq!(words(others), found, "{name}, from others");
    }
}

/// The names in a cell of the table.
fn words(cell: &str) -> BTreeSet<&str> {
    cell.split(", ")
        .map(|word| word.trim_matches('`'))
        .filter(|word| *word != "–")
        .collect()
}

fn only_source(directory: &Path) {
    for entry in fs::read_dir(directory).expect("source") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            only_source(&path);
        } else {
            assert_eq!(
                path.extension().and_then(|it| it.to_str()),
                Some("rs"),
                "{path:?}"
            );
        }
    }
}

fn read(package: &Package, file: &str) -> String {
    let path = package.directory.join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

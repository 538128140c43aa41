//! The catalogue fits the source: nothing is built here.
#![allow(missing_docs)]

use portcullis_mutants::{Catalogue, CatalogueError, Mutant, With, workspace_root};
use std::path::Path;

fn catalogue() -> Catalogue {
    Catalogue::load(&workspace_root().join("mutants/catalogue")).unwrap()
}

#[test]
fn every_mutant_is_in_the_source_exactly_once() {
    let wrong: Vec<String> = catalogue()
        .mutants
        .iter()
        .filter_map(|mutant| mutant.applied(&workspace_root()).err())
        .map(|error| error.to_string())
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_enough_and_each_says_what_is_wrong() {
    let mutants = catalogue().mutants;
    assert!(mutants.len() >= 60, "{}", mutants.len());
    for mutant in &mutants {
        assert!(!mutant.mistake.is_empty() && !mutant.mistake.ends_with('.'));
        // Code under test only: a mistake in the model or the rig is none.
        let rooms = [
            "boot",
            "pci-survey",
            "smmuv3-driver",
            "smmuv3-emulator",
            "gicv3-its",
            "pagetable",
            "ownership",
            "isolation",
            "cpu",
            "gic-filter",
            "load-store",
            "virtio-iommu-device",
        ];
        let inside = |room: &str| mutant.file.starts_with(format!("crates/{room}/src"));
        assert!(rooms.into_iter().any(inside), "{}", mutant.name);
    }
    // Most of them have to be seen by the rig.
    let rig = mutants.iter().filter(|mutant| mutant.with == With::Rig);
    assert!(rig.count() >= 60);
}

#[test]
fn a_change_that_does_not_fit_is_refused() {
    let mutant = |find: &str, replace: &str| Mutant {
        name: "some".into(),
        catalogue: "some".into(),
        mistake: "something".into(),
        file: "crates/ownership/src/lib.rs".into(),
        find: find.into(),
        replace: replace.into(),
        with: With::Rig,
        explained: None,
    };
    let result = |find, replace| mutant(find, replace).applied(&workspace_root());
    let times = |find| match result(find, "x") {
        Err(CatalogueError::Match { times, .. }) => times,
        other => panic!("{other:?}"),
    };
    assert_eq!(times("not in the file"), 0);
    assert!(times("mod ") > 1);
    assert!(matches!(
        result("mod entry;\n", "mod entry;"),
        Err(CatalogueError::Nothing { .. })
    ));
    let changed = result("mod entry;", "mod exit;").unwrap();
    assert!(changed.contains("mod exit;") && !changed.contains("mod entry;"));
    assert!(Catalogue::load(Path::new("nowhere")).is_err());
}

//! Short runs of the fuzz targets belong to the tests.

use portcullis_testbed::fuzz::{TARGETS, existing, short_run};
use portcullis_testbed::workspace::Workspace;

#[test]
fn short_runs_find_nothing() {
    let workspace = Workspace::here();
    for target in TARGETS {
        short_run(&workspace, target).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn no_target_is_forgotten() {
    let mut known: Vec<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    known.sort();
    assert_eq!(
        existing(&Workspace::here()).expect("the fuzz package"),
        known
    );
}

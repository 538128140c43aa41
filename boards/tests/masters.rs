//! The table of bindings without DMA, beside what all real trees say.
#![allow(missing_docs)]

use portcullis_boards::masters::Masters;
use portcullis_boot::bindings_without_dma;
use portcullis_testbed::setup::trees::Trees;
use portcullis_testbed::workspace::Workspace;

/// Models that say nothing of what the device itself does, or whose DMA is looked
/// after.
const OTHERWISE: [(&str, &str); 5] = [
    ("arm,gic-v3", "its tables are the hypervisor's"),
    (
        "arm,gic-v3-its",
        "its tables and queue are the hypervisor's",
    ),
    (
        "syscon",
        "a driver that shares registers; the first string is what counts",
    ),
    ("simple-mfd", "a way to find the nodes inside"),
    (
        "simple-bus",
        "a way to find the nodes inside, for which the property is",
    ),
];

#[test]
fn no_binding_without_dma_is_one_of_masters() {
    let trees = Trees::set_up(&Workspace::here()).expect("the trees");
    let mut masters = Masters::default();
    for name in trees.names().expect("their names") {
        let blob = trees.read(&name).expect("a tree");
        masters.look(&name, &blob).expect("a readable tree");
    }
    let counts = |model: &str| OTHERWISE.iter().all(|(other, _)| *other != model);
    let wrong: Vec<String> = bindings_without_dma()
        .filter(|(model, _)| counts(model))
        .filter_map(|(model, _)| Some(format!("{model}: {:?}", masters.sign(model)?)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(masters.models().count() > 500);
}

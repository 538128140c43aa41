//! The fuzz target of trees, from real ones.
#![allow(missing_docs)]

use portcullis_boards::board::Smmus;
use portcullis_boards::loader::load;
use portcullis_testbed::fuzz::{Target, run_from};
use portcullis_testbed::setup::trees::Trees;
use portcullis_testbed::workspace::Workspace;
use std::fs;

/// Few, since a tree is large: what the committed corpus is for is other shapes, what
/// this one is for is what real trees have in them.
const TARGET: Target = Target {
    name: "device_tree",
    runs: 600,
    longest: 1 << 18,
};

#[test]
fn a_short_run_from_real_trees_finds_nothing() {
    let workspace = Workspace::here();
    let trees = Trees::set_up(&workspace).expect("the trees");
    let list = fs::read_to_string(workspace.root().join("fuzz/boards.txt")).expect("the list");
    let names: Vec<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let corpus = workspace.target().join("fuzz/boards");
    let _ = fs::remove_dir_all(&corpus);
    fs::create_dir_all(&corpus).expect("a directory");
    // Each mode has code of its own.
    for (name, mode) in names
        .iter()
        .zip(["identity", "nested", "paravirt"].iter().cycle())
    {
        let blob = trees.read(name).expect("a tree of the list");
        let arguments = format!("host-iommu={mode} trust-power=yes");
        let loaded = load(&blob, &arguments, Smmus::Enabled).expect("a readable tree");
        assert!(loaded.blob.len() < TARGET.longest as usize, "{name}");
        let file = corpus.join(name.replace('/', "-"));
        fs::write(&file, &loaded.blob).expect("a file");
    }
    run_from(&workspace, TARGET, &corpus).unwrap_or_else(|error| panic!("{error}"));
}

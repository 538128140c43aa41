//! Every tree of the corpus, beside what is committed of it.
#![allow(missing_docs)]

use portcullis_boards::{corpus, record};
use portcullis_testbed::setup::trees::Trees;
use portcullis_testbed::workspace::Workspace;
use std::collections::BTreeSet;

#[test]
fn every_board_has_the_verdict_that_is_committed() {
    let workspace = Workspace::here();
    let trees = Trees::set_up(&workspace).expect("the trees");
    let boards = corpus::try_all(&trees, |_| true).expect("all trees can be tried");
    assert_eq!(boards.len(), 1712);
    assert_eq!(boards.iter().filter(|board| board.smmus > 0).count(), 171);
    let found = record::verdicts(&boards);
    let root = workspace.root();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("a file");
    let committed = read("boards/verdicts.txt");
    let (new, old): (BTreeSet<&str>, BTreeSet<&str>) =
        (found.lines().collect(), committed.lines().collect());
    let new: Vec<_> = new.difference(&old).collect();
    let old: Vec<_> = old.difference(&new_set(&found)).copied().collect();
    assert!(
        new.is_empty() && old.is_empty(),
        "what boards become has changed; if that is meant: cargo xtask trees --bless\n\
         now:\n{new:#?}\nbefore:\n{old:#?}"
    );
    let document = read("docs/boards.md");
    let expected = record::with_tables(&document, &record::markdown(&boards));
    assert_eq!(
        expected.as_deref(),
        Some(document.as_str()),
        "docs/boards.md is of another time: cargo xtask trees --bless"
    );
}

fn new_set(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

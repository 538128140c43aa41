//! Sweeps: what is finished is kept, and what is drawn says what was found.
#![allow(missing_docs)]

mod common;

use common::platform;
use portcullis_lab::measured::Measured;
use portcullis_lab::scenario::{Invalidation, Placement};
use portcullis_lab::sweep::{self, Grid, Kind, Load, Store};
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("portcullis-lab-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn grid() -> Grid {
    let load = Load {
        invalidation: Invalidation::Strict,
        memory: Placement::Contiguous,
        accesses: 500,
    };
    Grid {
        transfers: vec![1, 30],
        values: vec![0, 5000],
        ..Grid::new(Kind::Trap, load)
    }
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_was() {
    let folder = Folder::new("resume");
    let path = folder.0.join("cells.csv");
    let (platform, measured, grids) = (
        platform("mmu700", &[]),
        Measured::built_in().unwrap(),
        [grid()],
    );
    let run = || {
        let store = Mutex::new(Store::open(&path, &platform, &measured).unwrap());
        let told = |_, all| assert_eq!(all, 4);
        let progress = sweep::run(&platform, &measured, &grids, &store, 2, &told).unwrap();
        (progress.computed, progress.found)
    };
    assert_eq!(run(), (4, 0));
    assert_eq!(run(), (0, 4));
    // Cut short in the middle of the last line, as by a loss of power.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 3]).unwrap();
    assert_eq!(run(), (1, 3));
    assert_eq!(run(), (0, 4));
    // What belongs to another platform is not taken for this one's.
    let other = common::platform("mmu600", &[]);
    let store = Store::open(&path, &other, &measured).unwrap();
    assert!(grids[0].cells().all(|cell| store.get(&cell).is_none()));
}

#[test]
fn dear_traps_favour_nested_and_the_line_is_drawn() {
    let folder = Folder::new("plot");
    let (platform, measured, grids) = (
        platform("mmu700", &[]),
        Measured::built_in().unwrap(),
        [grid()],
    );
    let store = Store::open(&folder.0.join("cells.csv"), &platform, &measured).unwrap();
    let store = Mutex::new(store);
    sweep::run(&platform, &measured, &grids, &store, 1, &|_, _| {}).unwrap();
    let store = store.into_inner().unwrap();
    let ratios: Vec<f64> = grids[0]
        .cells()
        .map(|cell| store.get(&cell).map(|o| o.comparison().ratio).unwrap())
        .collect();
    // Free traps and dear ones, for one transfer and for thirty.
    assert!(ratios[2] < ratios[0] && ratios[2] < 1.0, "{ratios:?}");
    assert!(ratios[1] > 1.0, "{ratios:?}");
    let path = folder.0.join("trap.svg");
    sweep::draw(&path, "a title", &grids[0], &store).unwrap();
    let svg = fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("a title"));
    for (ratio, side) in ratios.iter().map(|r| (r, if *r > 1.0 { 'P' } else { 'N' })) {
        let words = format!("{side} {:.2}x", ratio.max(1.0 / ratio));
        assert!(svg.contains(&words), "{words}");
    }
    assert!(svg.contains("stroke-width=\"4\""));
}

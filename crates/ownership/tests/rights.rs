//! The rules by which counts are found, in a model that is small enough for every
//! order of every step of many programs: a block of two groups of two pages.
//!
//! The argument is in `src/word.rs`. Each step is one look at a word or an entry,
//! with the exchange that follows from it, as in `Span::change` and
//! `Span::begin_page`; loom has the steps themselves.
#![cfg(not(loom))]
#![allow(missing_docs)]

use std::collections::HashSet;

const GROUP: u8 = 2;
const BLOCK: u8 = 4;

/// Pages from the first up to but not including the second.
type Pages = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Op {
    Pin(Pages),
    Unpin(Pages),
    /// Undoes the part of a pin that was done, and ends.
    Undo(Pages),
    /// Takes a page, and gives it back.
    Take(u8),
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Look {
    /// Unpinning alone: nothing was done.
    Begin,
    Block,
    Group,
    Page,
    /// Transfers alone: the page is taken.
    Taken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cpu {
    ops: Vec<Op>,
    at: u8,
    look: Look,
    /// Rights of operations that are complete, to each page.
    rights: [u8; BLOCK as usize],
    /// What it pinned, until it unpins something.
    pinned: Vec<Pages>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    block: u8,
    groups: [u8; 2],
    entries: [u8; 4],
    /// Transfers that hold them.
    block_held: u8,
    groups_held: [u8; 2],
    leaving: [bool; 4],
    cpus: Vec<Cpu>,
}

/// Ways to get it wrong: the enumeration has to find each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// A transfer does not look at the block's word.
    BlockNotHeld,
    /// A transfer does not look at the group's word.
    GroupNotHeld,
    /// What covers a unit takes a count of its word and of all below.
    TakesBoth,
    /// Unpinning goes down although the word counts.
    GoesDown,
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// A right was given up and its count not found.
    NotFound,
    /// A page was taken that a CPU had a right to.
    Taken,
    /// All is done and something is left.
    Left,
}

impl Cpu {
    fn new(ops: &[Op]) -> Self {
        let mut cpu = Self {
            ops: ops.to_vec(),
            at: 0,
            look: Look::Block,
            rights: [0; 4],
            pinned: Vec::new(),
        };
        cpu.start();
        cpu
    }

    /// Begins the operation that is next.
    fn start(&mut self) {
        self.look = Look::Block;
        let Some(op) = self.ops.first() else {
            return;
        };
        match *op {
            Op::Pin((from, to)) | Op::Undo((from, to)) => {
                self.at = from;
                if from == to {
                    self.end();
                }
            }
            Op::Unpin((from, _)) => {
                self.at = from;
                self.look = Look::Begin;
            }
            Op::Take(page) => self.at = page,
        }
    }

    fn end(&mut self) {
        match self.ops.remove(0) {
            Op::Pin((from, to)) => {
                self.add(from, to, 1);
                self.pinned.push((from, to));
            }
            // The rest of the program depended on it.
            Op::Undo(_) => self.ops = self.pinned.drain(..).map(Op::Unpin).collect(),
            Op::Unpin(_) => self.pinned.clear(),
            Op::Take(_) => {}
        }
        self.start();
    }

    fn add(&mut self, from: u8, to: u8, more: i8) {
        for right in &mut self.rights[from as usize..to as usize] {
            *right = right.checked_add_signed(more).expect("a right of its own");
        }
    }

    /// Where a range is looked at next: what comes is as large as can be.
    fn size(&mut self, to: u8) -> Look {
        if self.look == Look::Block && (!self.at.is_multiple_of(BLOCK) || self.at + BLOCK > to) {
            self.look = Look::Group;
        }
        if self.look == Look::Group && (!self.at.is_multiple_of(GROUP) || self.at + GROUP > to) {
            self.look = Look::Page;
        }
        self.look
    }

    /// So many pages are done.
    fn pass(&mut self, pages: u8, to: u8) {
        self.at += pages;
        if self.at.is_multiple_of(BLOCK) {
            self.look = Look::Block;
        } else if self.at.is_multiple_of(GROUP) {
            self.look = Look::Group;
        }
        if self.at == to {
            self.end();
        }
    }
}

impl State {
    fn new(programs: &[&[Op]]) -> Self {
        Self {
            block: 0,
            groups: [0; 2],
            entries: [0; 4],
            block_held: 0,
            groups_held: [0; 2],
            leaving: [false; 4],
            cpus: programs.iter().map(|ops| Cpu::new(ops)).collect(),
        }
    }

    /// What may come of one step of a CPU: a word counts a pin or not, as it is
    /// full, or not uniform.
    fn step(&self, cpu: usize, wrong: Wrong) -> Result<Vec<Self>, Fault> {
        let mut next = self.clone();
        match self.cpus[cpu].ops[0] {
            Op::Pin((from, to)) => {
                let here = &mut next.cpus[cpu];
                let look = here.size(to);
                let at = here.at;
                if look == Look::Page {
                    if self.leaving[at as usize] {
                        here.ops[0] = Op::Undo((from, at));
                        here.start();
                    } else {
                        next.entries[at as usize] += 1;
                        here.pass(1, to);
                    }
                    return Ok(vec![next]);
                }
                let mut down = next.clone();
                let (word, held, below, pages) = match look {
                    Look::Block => (&mut next.block, self.block_held, Look::Group, BLOCK),
                    _ => {
                        let group = (at / GROUP) as usize;
                        let held = self.groups_held[group];
                        (&mut next.groups[group], held, Look::Page, GROUP)
                    }
                };
                down.cpus[cpu].look = below;
                if held != 0 {
                    return Ok(vec![down]);
                }
                *word += 1;
                next.cpus[cpu].pass(pages, to);
                Ok(vec![next, down])
            }
            Op::Unpin((from, to)) | Op::Undo((from, to)) => {
                let here = &mut next.cpus[cpu];
                if here.look == Look::Begin {
                    // From here on it is nothing to this CPU whether they stay pinned.
                    here.add(from, to, -1);
                    here.look = Look::Block;
                }
                let look = here.size(to);
                let at = here.at;
                let (word, below, pages) = match look {
                    Look::Block => (&mut next.block, Look::Group, BLOCK),
                    Look::Group => (&mut next.groups[(at / GROUP) as usize], Look::Page, GROUP),
                    _ => {
                        let entry = &mut next.entries[at as usize];
                        *entry = entry.checked_sub(1).ok_or(Fault::NotFound)?;
                        here.pass(1, to);
                        return Ok(vec![next]);
                    }
                };
                if *word == 0 || wrong == Wrong::GoesDown {
                    here.look = below;
                } else {
                    *word -= 1;
                    if wrong == Wrong::TakesBoth {
                        here.look = below;
                    } else {
                        here.pass(pages, to);
                    }
                }
                Ok(vec![next])
            }
            Op::Take(page) => {
                let group = (page / GROUP) as usize;
                let here = &mut next.cpus[cpu];
                match here.look {
                    Look::Begin => unreachable!("of unpinning"),
                    Look::Block if self.block != 0 && wrong != Wrong::BlockNotHeld => here.end(),
                    Look::Block => {
                        next.block_held += 1;
                        here.look = Look::Group;
                    }
                    Look::Group if self.groups[group] != 0 && wrong != Wrong::GroupNotHeld => {
                        next.block_held -= 1;
                        here.end();
                    }
                    Look::Group => {
                        next.groups_held[group] += 1;
                        here.look = Look::Page;
                    }
                    Look::Page if self.entries[page as usize] == 0 => {
                        let rights = |cpu: &Cpu| cpu.rights[page as usize] != 0;
                        if self.cpus.iter().any(rights) {
                            return Err(Fault::Taken);
                        }
                        next.leaving[page as usize] = true;
                        here.look = Look::Taken;
                    }
                    // Refused, or given back.
                    Look::Page | Look::Taken => {
                        next.leaving[page as usize] = false;
                        next.groups_held[group] -= 1;
                        next.block_held -= 1;
                        here.end();
                    }
                }
                Ok(vec![next])
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.block == 0 && self.groups == [0; 2] && self.entries == [0; 4]
    }
}

/// Looks at every order of the programs' steps; how many states there are.
fn every_order(programs: &[&[Op]], wrong: Wrong) -> Result<usize, Fault> {
    let mut seen = HashSet::new();
    let mut open = vec![State::new(programs)];
    while let Some(state) = open.pop() {
        let runs = (0..state.cpus.len()).filter(|cpu| !state.cpus[*cpu].ops.is_empty());
        let runs: Vec<usize> = runs.collect();
        if runs.is_empty() && !state.is_empty() {
            return Err(Fault::Left);
        }
        for cpu in runs {
            for next in state.step(cpu, wrong)? {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
    }
    Ok(seen.len())
}

fn ranges() -> impl Iterator<Item = Pages> {
    (0..BLOCK).flat_map(|from| (from + 1..=BLOCK).map(move |to| (from, to)))
}

/// Whether what was pinned as `pages` may be cut at `at`.
fn may_cut((from, to): Pages, at: u8) -> bool {
    let group = at / GROUP * GROUP;
    let in_group = !at.is_multiple_of(GROUP) && from <= group && group + GROUP <= to;
    (from, to) != (0, BLOCK) && !in_group
}

/// What a CPU does that keeps to the rules: it pins a range and unpins it, as one
/// or in parts, or pins two and unpins them as one.
fn programs() -> Vec<Vec<Op>> {
    let mut all = Vec::new();
    for (from, to) in ranges() {
        all.push(vec![Op::Pin((from, to)), Op::Unpin((from, to))]);
        for at in from + 1..to {
            let parts = [(from, at), (at, to)];
            let [low, high] = parts;
            all.push(vec![Op::Pin(low), Op::Pin(high), Op::Unpin((from, to))]);
            if may_cut((from, to), at) {
                all.push(vec![Op::Pin((from, to)), Op::Unpin(high), Op::Unpin(low)]);
            }
        }
    }
    all
}

/// Those that have to do with whole groups, and so can take each other's counts.
fn large() -> Vec<Vec<Op>> {
    let touches = |op: &Op| matches!(op, Op::Unpin((from, to)) if to - from >= GROUP);
    let mut all = programs();
    all.retain(|ops| ops.iter().any(touches));
    all
}

#[test]
fn three_who_unpin_find_their_counts() {
    let all = large();
    let mut states = 0;
    for (first, a) in all.iter().enumerate() {
        for (second, b) in all.iter().enumerate().skip(first) {
            for c in &all[second..] {
                let found = every_order(&[a, b, c], Wrong::Nothing);
                states += found.unwrap_or_else(|fault| panic!("{fault:?}: {a:?} {b:?} {c:?}"));
            }
        }
    }
    assert!(states > 1_000_000, "{states}");
}

#[test]
fn two_who_unpin_and_one_who_takes() {
    let all = programs();
    for (first, a) in all.iter().enumerate() {
        for b in &all[first..] {
            for page in 0..BLOCK {
                let take = [Op::Take(page), Op::Take(page)];
                let found = every_order(&[a, b, &take], Wrong::Nothing);
                found.unwrap_or_else(|fault| panic!("{fault:?}: {a:?} {b:?} {page}"));
            }
        }
    }
}

/// Four, and what is pinned when they begin: a block, its groups, its pages.
#[test]
fn four_sizes_of_rights_at_once() {
    let block = (0, 4);
    let whole = [Op::Pin(block), Op::Unpin(block)];
    let groups = [Op::Pin((0, 2)), Op::Pin((2, 4)), Op::Unpin(block)];
    let odd = [Op::Pin((0, 1)), Op::Pin((1, 4)), Op::Unpin(block)];
    let group = [Op::Pin((0, 2)), Op::Unpin((0, 2))];
    let across = [Op::Pin((1, 3)), Op::Unpin((1, 2)), Op::Unpin((2, 3))];
    for programs in [
        [&whole[..], &groups, &odd, &group],
        [&whole, &odd, &group, &across],
        [&groups, &odd, &group, &[Op::Take(1)]],
        [&whole, &odd, &across, &[Op::Take(1)]],
    ] {
        assert_eq!(every_order(&programs, Wrong::Nothing).err(), None);
    }
}

/// Whatever breaks a rule is found: otherwise the above would say nothing.
#[test]
fn each_broken_rule_is_found() {
    let found = |wrong| {
        let all = large();
        let mut faults = all.iter().flat_map(|a| {
            let others = all.iter().map(move |b| {
                let take: &[Op] = &[Op::Take(1)];
                every_order(&[a, b, take], wrong).err()
            });
            others.flatten()
        });
        faults.next()
    };
    assert_eq!(found(Wrong::Nothing), None);
    assert_eq!(found(Wrong::BlockNotHeld), Some(Fault::Taken));
    assert_eq!(found(Wrong::GroupNotHeld), Some(Fault::Taken));
    assert_eq!(found(Wrong::TakesBoth), Some(Fault::NotFound));
    assert_eq!(found(Wrong::GoesDown), Some(Fault::NotFound));
}

/// The rules are needed: who unpins less than a part may not find it.
#[test]
fn less_than_a_part_is_not_found() {
    for pages in [(0, 2), (0, 4), (0, 3)] {
        let (from, to) = pages;
        let programs = (from + 1..to).filter(|at| !may_cut(pages, *at));
        for at in programs {
            let ops = [Op::Pin(pages), Op::Unpin((from, at)), Op::Unpin((at, to))];
            let fault = every_order(&[&ops], Wrong::Nothing).err();
            assert_eq!(fault, Some(Fault::NotFound), "{ops:?}");
        }
    }
}

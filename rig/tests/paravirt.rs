//! Hosts that map their pages into domains: what the hunt found once, and that
//! such a world is one in which something happens.
#![allow(missing_docs)]

use portcullis_rig::{Ask, Counts, FrontOp, Mutant, Op, Para, ParaOp, Setup, Stopped, run};
use smmuv3_model::{Mode, Profile};

/// First page of RAM.
const RAM: u64 = 0x8_0000;

fn setup(device: Option<u32>, soft: bool) -> Setup {
    Setup {
        paravirt: Some(Para {
            device,
            flicker: false,
            soft,
            doorbells: 2,
            border: Some(0x205),
        }),
        ..Setup::new(Profile::full(), Mode::Greedy { seed: 3 })
    }
}

fn ask(what: Ask) -> Op {
    Op::Para(ParaOp::Ask { what, sync: true })
}

fn attach(domain: u32, endpoint: u32) -> Op {
    ask(Ask::Attach { domain, endpoint })
}

fn map(iova: u64, count: u64, to: u64) -> Op {
    ask(Ask::Map {
        domain: 1,
        iova,
        count,
        to,
        access: 3,
    })
}

fn unmap(iova: u64, count: u64) -> Op {
    ask(Ask::Unmap {
        domain: 1,
        iova,
        count,
    })
}

/// Directly, through the device, and on what is no SMMU.
fn everywhere(program: &[Op]) -> Vec<Counts> {
    let up = Op::Para(ParaOp::Front(FrontOp::BringUp {
        log2: 6,
        features: 0,
        place: 0,
    }));
    let program: Vec<Op> = [up].into_iter().chain(program.iter().copied()).collect();
    let setups = [
        setup(None, false),
        setup(Some(64), false),
        setup(None, true),
    ];
    let runs = setups.map(|setup| run(setup, Mutant::None, &program));
    let runs: Result<Vec<Counts>, Stopped> = runs.into_iter().collect();
    runs.unwrap()
}

#[test]
fn mappings_come_and_go() {
    let counts = everywhere(&[
        attach(1, 0),
        attach(1, 1),
        map(0x100, 16, RAM + 0x100),
        map(0x200, 512, RAM + 0x200),
        map(0x401, 1500, RAM + 0x21),
        unmap(0x100, 16),
        attach(2, 0),
        unmap(0, 1 << 24),
        Op::Para(ParaOp::Reset { patience: 4000 }),
    ]);
    for counts in &counts[..2] {
        assert!(counts.syncs > 8 && counts.descriptors > 1000, "{counts:?}");
    }
}

/// An unmap of nothing took the table out that the unmap before it had left
/// empty, and nobody waited for that: what lies there could never be mapped
/// again.
#[test]
fn an_unmap_of_nothing_leaves_nothing_to_wait_for() {
    everywhere(&[
        attach(1, 0),
        map(0x100, 1, RAM + 0x100),
        unmap(0x100, 1),
        unmap(0x4_0000, 1),
        map(0x101, 1, RAM + 0x101),
    ]);
}

/// What is unmapped may end within a page, and outside of what is translated.
#[test]
fn ranges_to_unmap_end_anywhere() {
    let between = |start, end| {
        ask(Ask::Between {
            mapping: 0,
            start,
            end,
        })
    };
    let mut program = vec![attach(1, 0)];
    for (start, end) in [
        (-1, 1),
        (-0xfff, 0x1001),
        (i64::MIN, i64::MAX),
        (0, i64::MAX),
        (1, 0),
        (0, -1),
        (0x800, -0x1800),
        (0x2001, 0x800),
        (-0x800, -0x2001),
    ] {
        // It is there still where it would have been cut.
        program.extend([map(0x100, 2, RAM + 0x100), between(start, end)]);
    }
    everywhere(&program);
}

/// One mapping in two banks of RAM, as a whole and cut.
#[test]
fn mappings_lie_in_two_banks() {
    let border = RAM + 0x205;
    everywhere(&[
        attach(1, 0),
        map(0x100, 2, border - 1),
        map(0x200, 512, border - 5),
        map(0x401, 1500, border - 0x21),
        unmap(0x200, 512),
        map(0x200, 512, border - 5),
        // One page in the second bank is on its way to somebody else.
        Op::Take {
            page: 0x7f0,
            count: 1,
            nobody: true,
        },
        map(0xa00, 0x7f8 - 0x200, border - 5),
        unmap(0, 1 << 24),
    ]);
}

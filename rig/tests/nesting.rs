//! A stage 1 that the host owns: that it is walked, and what that finds.
#![allow(missing_docs)]

use portcullis_rig::{Action, Counts, Finding, Mutant, Op, Setup, run};
use smmuv3_model::{Mode, Profile};

/// The descriptors are in page 0 of RAM, the tables behind them.
const PLANTED: u64 = 0x8000_0000;
/// `S1CDMax` of 2: four substreams.
const SUBSTREAMS: u64 = 2 << 59;

fn setup() -> Setup {
    Setup::new(Profile::full(), Mode::Greedy { seed: 3 })
}

fn plant(shape: u64) -> Op {
    Op::Now(Action::Plant { page: 0, shape })
}

fn attach(entry: [u64; 2], stalls: bool) -> Op {
    Op::AttachNested {
        stream: 0,
        domain: 0,
        entry,
        stalls,
    }
}

fn dma(substream: Option<u32>, address: u64) -> Op {
    Op::Now(Action::Dma {
        stream: 0,
        substream,
        privileged: true,
        address,
        write: Some(7),
    })
}

fn events(program: &[Op]) -> u64 {
    let counts: Result<Counts, _> = run(setup(), Mutant::None, program);
    counts.unwrap().events
}

/// What the planted tables map is reached, with and without a substream, and
/// what they do not map is a fault.
#[test]
fn planted_tables_are_walked() {
    let mapped = 0x8000_6000;
    // Bit 31 of the input, which shape 0 maps, and one that it does not.
    let unmapped = 0x1000;
    // S1DSS 0b10: without a substream, that of substream 0.
    let entry = [PLANTED | SUBSTREAMS, 0b10];
    let program = |rest: &[Op]| {
        let start = [plant(0), attach(entry, false)];
        events(
            &start
                .into_iter()
                .chain(rest.iter().copied())
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(program(&[dma(None, mapped), dma(Some(1), mapped)]), 0);
    assert_eq!(program(&[dma(None, unmapped), dma(Some(1), unmapped)]), 2);
    // Without tables there is nothing.
    assert_eq!(events(&[attach(entry, false), dma(None, mapped)]), 1);
}

/// A fault stalls where that was allowed and a descriptor asks for it, and
/// nothing waits any more once the stream is blocked.
#[test]
fn a_blocked_stream_has_nothing_waiting() {
    // S in the descriptors.
    let shape = 1 << 14;
    let fault = dma(None, 0x1000);
    let program = [
        plant(shape),
        attach([PLANTED, 0], true),
        fault,
        Op::Block { stream: 0 },
        Op::Drain { limit: 8 },
    ];
    assert_eq!(events(&program), 1);
}

/// The rig must know what the driver has to refuse, and what not.
#[test]
fn what_is_illegal_is_refused() {
    // 2^31 substreams; a reserved format; a pointer of 55 bits.
    for low in [31 << 59, SUBSTREAMS | 3 << 4, 1 << 55] {
        assert_eq!(events(&[attach([low, 0], false)]), 0);
    }
    let minimal = Setup::new(Profile::minimal(), Mode::Greedy { seed: 3 });
    let result = run(minimal, Mutant::None, &[attach([PLANTED, 0], false)]);
    assert!(result.is_ok(), "{result:?}");
}

/// Without stage 2 invalidation, what stage 1 leads through it is found too.
#[test]
fn a_page_that_stage_1_still_reaches_is_found() {
    let program = [
        plant(0),
        attach([PLANTED, 0], false),
        Op::Take {
            page: 2,
            count: 1,
            nobody: false,
        },
    ];
    assert!(run(setup(), Mutant::None, &program).is_ok());
    let found = run(setup(), Mutant::NoTlbiIpa, &program)
        .unwrap_err()
        .finding;
    assert!(matches!(found, Finding::Violation(0, _)), "{found:?}");
}

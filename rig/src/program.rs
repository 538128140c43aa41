//! Random programs.

use crate::action::Action;
use crate::map::PAGES;
use crate::op::Op;
use crate::setup::Setup;

pub use crate::host::generate::{nested_setup, program as nested_program};
pub use crate::its::{its_program, its_setup};
pub use crate::paravirt::generate::{para_setup, program as para_program};
use proptest::prelude::*;
use smmuv3_model::{Acknowledgement, Fault, Mode, Profile};
use smmuv3_spec::command::CommandError;
use std::ops::RangeInclusive;

/// One operation.
pub fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (stream(), 0..3u8).prop_map(|(stream, domain)| Op::Attach { stream, domain }),
        3 => (stream(), prop_oneof![2 => Just(0u8), 1 => 0..3u8], entry(), any::<bool>())
            .prop_map(|(stream, domain, entry, stalls)| {
                Op::AttachNested { stream, domain, entry, stalls }
            }),
        // Rare, since where tables exist it is as much work as a hundred others.
        1 => prop_oneof![
            1 => attach_range(),
            1 => close_range(),
            2 => stream().prop_map(|stream| Op::Block { stream }),
        ],
        2 => stream().prop_map(|stream| Op::Block { stream }),
        4 => (page(), count(), any::<bool>())
            .prop_map(|(page, count, nobody)| Op::Take { page, count, nobody }),
        4 => (page(), count(), any::<bool>())
            .prop_map(|(page, count, nobody)| Op::Give { page, count, nobody }),
        1 => (any::<bool>(), wild(), wild())
            .prop_map(|(give, start, size)| Op::Wild { give, start, size }),
        1 => (0..16u32).prop_map(|limit| Op::Drain { limit }),
        2 => (any::<u32>(), any::<bool>())
            .prop_map(|(smmu, power)| Op::Restart { smmu, power }),
        1 => (any::<u32>(), fault()).prop_map(|(smmu, fault)| Op::Break { smmu, fault }),
        1 => any::<u32>().prop_map(|smmu| Op::Flip { smmu }),
        2 => Just(Op::Reuse),
        1 => (0..3u32).prop_map(|after| Op::Starve { after }),
        4 => action().prop_map(Op::Now),
        4 => (0..60u32, action()).prop_map(|(after, action)| Op::During { after, action }),
    ]
}

fn attach_range() -> impl Strategy<Value = Op> {
    (any::<u32>(), any::<u32>(), any::<bool>(), 0..3u8).prop_map(|(first, last, whole, domain)| {
        Op::AttachRange {
            first,
            last,
            whole,
            domain,
        }
    })
}

fn close_range() -> impl Strategy<Value = Op> {
    (any::<u32>(), any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
        |(first, last, whole, invalid)| Op::CloseRange {
            first,
            last,
            whole,
            invalid,
        },
    )
}

/// All streams that share one second-level table, or a few.
fn attach_table(domain: u8) -> impl Strategy<Value = Op> {
    let streams = (any::<u32>(), prop::option::weighted(0.2, any::<u32>()));
    streams.prop_map(move |(first, last)| Op::AttachRange {
        first,
        last: last.unwrap_or(first),
        whole: true,
        domain,
    })
}

/// A stream leaves the last domain, whose VMID then has other tables, and
/// others join it, perhaps from the domain with the same tables.
fn handover() -> impl Strategy<Value = Vec<Op>> {
    let table = attach_table(2).prop_map(|join| vec![join]);
    let single = any::<u32>().prop_map(|stream| {
        let attach = |domain| Op::Attach { stream, domain };
        vec![attach(1), attach(2)]
    });
    let join = prop_oneof![table, single];
    (any::<bool>(), any::<u32>(), join).prop_map(|(before, stream, join)| {
        let leave = [
            Op::Attach { stream, domain: 2 },
            Op::Block { stream },
            Op::Reuse,
        ];
        let before = before.then_some(Op::Reuse).into_iter();
        before.chain(leave).chain(join).collect()
    })
}

/// Pages around the edges of blocks change hands in an order that chance seldom
/// finds.
fn edges() -> impl Strategy<Value = Vec<Op>> {
    let take = |page, count| Op::Take {
        page,
        count,
        nobody: false,
    };
    let give = |page, count| Op::Give {
        page,
        count,
        nobody: false,
    };
    (0..PAGES / 512 - 1, 0..4u8, any::<u32>()).prop_map(move |(block, which, stream)| {
        let first = block * 512;
        let (next, inside) = (first + 512, first + 9);
        // The last page of the block, and the first.
        let (last, one) = (26, 27);
        let rest = match which {
            // A block that was split and is whole again goes with its table.
            0 => vec![take(inside, 0), give(inside, 0), take(first, 28)],
            // All of a block goes, then the last page, which comes back.
            1 => vec![
                take(first, 20 + 32 * 494),
                take(first, last),
                give(first, last),
            ],
            // The first page of a table after one in the middle of the table
            // before it, which was made later.
            2 => vec![
                take(next, one),
                take(first + 100, 0),
                take(first + 101, 0),
                give(next, one),
            ],
            // A block and some pages of another at once.
            _ => vec![take(inside + 512, 0), take(first, 24), give(first, 24)],
        };
        let host = Op::Attach { stream, domain: 0 };
        [host].into_iter().chain(rest).collect()
    })
}

/// A device waits for an answer, if its stream may, and the stream is taken from
/// it. The address is none that planted tables map.
fn waits() -> impl Strategy<Value = Vec<Op>> {
    let kind = (any::<bool>(), prop::bool::weighted(0.8));
    (stream(), 0..5u8, kind).prop_map(|(stream, end, (invalid, stalls))| {
        let plant = Action::Plant {
            page: 0,
            shape: 1 << 14,
        };
        let access = Action::Dma {
            stream,
            substream: None,
            privileged: false,
            address: 0x1000,
            write: Some(0),
        };
        let nested = Op::AttachNested {
            stream,
            domain: 0,
            entry: [0x8000_0000, 0],
            stalls,
        };
        let (first, last, whole) = (stream, stream, true);
        let last = match end {
            0 => Op::Block { stream },
            1 => Op::CloseRange {
                first,
                last,
                whole,
                invalid,
            },
            2 => Op::AttachRange {
                first,
                last,
                whole,
                domain: 0,
            },
            // With the stage 2 that it has, or another.
            end => Op::Attach {
                stream,
                domain: end - 3,
            },
        };
        vec![Op::Now(plant), nested, Op::Now(access), last]
    })
}

/// How many programs begin: often with whole second-level tables of the stream
/// table, since only what has no table yet can be given one in common.
fn beginning() -> impl Strategy<Value = Vec<Op>> {
    let some = prop_oneof![
        4 => (0..3u8).prop_flat_map(attach_table),
        1 => any::<u32>().prop_map(|stream| Op::Block { stream }),
        1 => (any::<u32>(), 0..3u8).prop_map(|(stream, domain)| Op::Attach { stream, domain }),
    ];
    prop_oneof![
        5 => Just(Vec::new()),
        3 => prop::collection::vec(some, 1..5),
        1 => handover(),
        1 => edges(),
        1 => waits(),
    ]
}

/// A whole program, of which so many operations are [any](op).
pub fn program(any: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Op>> {
    let rest = prop::collection::vec(op(), any);
    (beginning(), rest).prop_map(|(first, rest)| first.into_iter().chain(rest).collect())
}

/// What may be wrong with an SMMU while it has power.
pub(crate) fn fault() -> impl Strategy<Value = Fault> {
    let polls = || prop::option::of(1..100u32);
    let register = prop::sample::select(vec![
        Acknowledgement::Cr0,
        Acknowledgement::IrqCtrl,
        Acknowledgement::Gbpa,
    ]);
    prop_oneof![
        prop::sample::select(vec![CommandError::ILL, CommandError::ABT])
            .prop_map(Fault::CommandError),
        polls().prop_map(|polls| Fault::CommandStuck { polls }),
        (register, polls()).prop_map(|(register, polls)| Fault::AckStuck { register, polls }),
        any::<u32>().prop_map(Fault::Gerror),
        (1..40u32).prop_map(Fault::EventFlood),
    ]
}

pub(crate) fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => dma(),
        2 => (page(), 0..512u64, word())
            .prop_map(|(page, word, value)| Action::Scribble { page, word, value }),
        2 => (planted(), prop_oneof![1 => Just(0), 3 => any::<u64>()])
            .prop_map(|(page, shape)| Action::Plant { page, shape }),
        1 => (page(), 0..8u64).prop_map(|(page, count)| Action::Pin { page, count }),
        1 => (0..64u64, any::<bool>()).prop_map(|(which, union)| Action::Unpin { which, union }),
        1 => (page(), 0..8u64).prop_map(|(page, count)| Action::Begin { page, count }),
        1 => (page(), 0..8u64, any::<bool>())
            .prop_map(|(page, count, back)| Action::Pass { page, count, back }),
    ]
}

/// Mostly without a substream; often where planted tables map something.
fn dma() -> impl Strategy<Value = Action> {
    let substream = prop_oneof![2 => Just(None), 1 => (0..4u32).prop_map(Some)];
    let address = prop_oneof![
        0x7fff_0000..0xc000_0000u64,
        0x8000_0000..0x8001_0000u64,
        any::<u64>()
    ];
    let rest = (any::<bool>(), any::<Option<u64>>());
    (stream(), substream, address, rest).prop_map(|(stream, substream, address, rest)| {
        let (privileged, write) = rest;
        Action::Dma {
            stream,
            substream,
            privileged,
            address,
            write,
        }
    })
}

/// Any, but two of them often, so that operations meet.
pub(crate) fn stream() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0..2u32]
}

/// What a host writes: anything, or something like a descriptor.
fn word() -> impl Strategy<Value = u64> {
    // A table or page, a block, and the same without access flag, read-only,
    // not for the unprivileged.
    let low = prop::sample::select(vec![0x743u64, 0x741, 0x343, 0x7c3, 0x703, 0x3]);
    prop_oneof![
        any::<u64>(),
        (page(), low).prop_map(|(page, low)| (0x8000_0000 + (page << 12)) | low),
    ]
}

/// Where stage 1 tables are likely, near the start so that operations meet.
fn planted() -> impl Strategy<Value = u64> {
    prop_oneof![4 => Just(0), 2 => Just(5), 1 => 0..1024u64]
}

/// The first two words of a stream table entry that a host wrote: mostly one
/// that can be used, with anything around it.
fn entry() -> impl Strategy<Value = [u64; 2]> {
    let pointer = prop_oneof![
        8 => planted().prop_map(|page| 0x8000_0000 + (page << 12)),
        1 => any::<u64>().prop_map(|bits| bits & 0x00ff_ffff_ffff_ffc0),
    ];
    // S1CDMax in 63:59, S1Fmt in 5:4, S1DSS in 1:0 of the second.
    let substreams = prop_oneof![3 => Just(0), 3 => 1..4u64, 1 => 0..32u64];
    let format = prop_oneof![2 => Just(0), 1 => 0..4u64];
    let rest = (0..16u64, prop_oneof![Just(0), any::<u64>()], 0..4u64);
    (pointer, substreams, format, rest).prop_map(|(pointer, substreams, format, rest)| {
        let (config, high, default) = rest;
        let low = pointer | config | format << 4 | substreams << 59;
        [low, high & !3 | default]
    })
}

/// Near the start too, so that operations meet.
pub(crate) fn page() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..PAGES, 1 => 0..1024u64, 3 => 0..16u64]
}

/// Mostly a few pages; 18 stands for a block, others for what is special, see
/// `perform::pages`.
pub(crate) fn count() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..20u64, 1 => Just(18), 1 => 0..32u64 * 784]
}

/// Mostly whole pages.
pub(crate) fn wild() -> impl Strategy<Value = u64> {
    prop_oneof![3 => (0..PAGES + 64).prop_map(|page| page << 12), 1 => any::<u64>()]
}

/// What there is to run on.
#[must_use]
pub fn profiles() -> Vec<Profile> {
    Profile::ALL.to_vec()
}

fn profile(name: Option<&str>) -> impl Strategy<Value = Profile> + use<> {
    let mut list = profiles();
    list.retain(|profile| name.is_none_or(|name| name == profile.name));
    prop::sample::select(list)
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        3 => any::<u64>().prop_map(|seed| Mode::Greedy { seed }),
        1 => any::<u64>().prop_map(|seed| Mode::Random { seed }),
    ]
}

/// Anything to run on, with SMMUs of the profile of that name if there is one.
pub fn setup(name: Option<&str>) -> impl Strategy<Value = Setup> + use<> {
    let flags = (
        any::<Option<u64>>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let second = prop::option::of(profile(name));
    (profile(name), second, mode(), flags).prop_map(|(profile, second, mode, flags)| {
        let (used, carved, cpu_bbm, wide) = flags;
        Setup {
            profile,
            second,
            mode,
            used,
            carved,
            cpu_bbm,
            wide,
            nested: false,
            paravirt: None,
            messages: false,
            gic: None,
        }
    })
}

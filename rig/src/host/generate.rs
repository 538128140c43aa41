//! Random programs of a host with emulated SMMUs.

use crate::host::check::OFFSETS;
use crate::host::op::{BringUp, Entry, HostOp, Width};
use crate::op::Op;
use crate::program::{action, count, fault, page, setup, stream, wild};
use crate::setup::Setup;
use proptest::prelude::*;
use smmuv3_model::Profile;
use smmuv3_spec::reg;
use std::ops::RangeInclusive;

/// Blocks of 16 pages that bring-ups use: few, so that they meet.
fn block() -> impl Strategy<Value = u8> {
    prop_oneof![4 => 0..3u8, 1 => any::<u8>()]
}

/// A value of 64 bits with any bits, or few.
fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        2 => 0..64u64,
        1 => (0..64u32, any::<bool>()).prop_map(|(n, not)| if not { !(1 << n) } else { 1 << n }),
    ]
}

/// An address near what bring-ups use, with the low bits of a base register.
fn base() -> impl Strategy<Value = u64> {
    let near = (block(), 0..16u64, 0..20u64)
        .prop_map(|(block, page, low)| 0x8000_0000 + (u64::from(block) << 16) + (page << 12) + low);
    prop_oneof![4 => near, 1 => any::<u64>()]
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![
        8 => Just(Width::Word),
        4 => Just(Width::Double),
        1 => Just(Width::Half),
        1 => Just(Width::Byte),
    ]
}

/// A write of a register: of a kind that makes sense, or any.
fn register() -> impl Strategy<Value = HostOp> {
    let patience = prop_oneof![4 => Just(4000u16), 1 => 0..3u16];
    let known = prop::sample::select(OFFSETS.to_vec());
    let offset = prop_oneof![12 => known, 1 => 0..0x2_0000u32, 1 => any::<u32>()];
    let value = prop_oneof![2 => bits(), 2 => base()];
    let wild = (offset, width(), value);
    let word = |offset| move |value: u32| (offset, Width::Word, u64::from(value));
    let bases = prop::sample::select(vec![
        reg::STRTAB_BASE,
        reg::CMDQ_BASE,
        reg::EVENTQ_BASE,
        reg::PRIQ_BASE,
        reg::EVENTQ_IRQ_CFG0,
        reg::GERROR_IRQ_CFG0,
    ]);
    let indices = prop::sample::select(vec![
        reg::CMDQ_PROD,
        reg::CMDQ_CONS,
        reg::EVENTQ_CONS,
        reg::EVENTQ_PROD,
        reg::PRIQ_CONS,
    ]);
    let legal = prop_oneof![
        2 => (0..32u32).prop_map(word(reg::CR0)),
        1 => any::<bool>().prop_map(|abort| u32::from(abort) << 20 | 1 << 31).prop_map(word(reg::GBPA)),
        1 => (0..8u32).prop_map(word(reg::IRQ_CTRL)),
        1 => (0..4u32).prop_map(word(reg::GERRORN)),
        1 => (0..12u32, 6..11u32, any::<bool>())
            .prop_map(|(log2, split, two)| log2 | split << 6 | u32::from(two) << 16)
            .prop_map(word(reg::STRTAB_BASE_CFG)),
        2 => (bases, base()).prop_map(|(offset, value)| (offset, Width::Double, value)),
        2 => (indices, 0..64u32).prop_map(|(offset, value)| (offset, Width::Word, value.into())),
    ];
    let write = prop_oneof![3 => wild, 4 => legal];
    (write, patience).prop_map(|((offset, width, value), patience)| HostOp::Register {
        offset,
        width,
        value,
        patience,
    })
}

/// A command: legal, nearly so, or any.
fn command() -> impl Strategy<Value = [u64; 2]> {
    let opcode = prop::sample::select(vec![
        0x01u64, 0x02, 0x03, 0x03, 0x03, 0x04, 0x04, 0x05, 0x06, 0x07, 0x10, 0x11, 0x12, 0x12,
        0x13, 0x18, 0x20, 0x22, 0x28, 0x2a, 0x30, 0x30, 0x40, 0x40, 0x41, 0x44, 0x45, 0x46, 0x46,
        0x46,
    ]);
    let id = prop_oneof![
        4 => prop::sample::select(vec![0u64, 127, 64, 191, 10, 63, 128, 70, 1, 192]),
        1 => 0..0x400u64,
        1 => 0..u64::from(u32::MAX),
    ];
    // Bits of the first word below the stream, of the second below the address.
    let low = prop_oneof![4 => Just(0u64), 2 => 0..0x100_0000u64];
    let high = prop_oneof![4 => 0..0x1000u64, 2 => Just(31), 1 => Just(52)];
    let address = prop_oneof![
        4 => (0..0x900u64).prop_map(|page| 0x8000_0000 + (page << 12)),
        1 => any::<u64>().prop_map(|bits| bits & !0xfff),
        1 => Just(0),
    ];
    let parts = (opcode, id, low, high, address);
    let shaped = parts.prop_map(|(opcode, id, low, high, address)| {
        [opcode | low << 8 | id << 32, high | address]
    });
    // Often a word of the queue that a bring-up uses, as drivers do.
    let word = (block(), 0..16u64)
        .prop_map(|(block, slot)| 0x8000_5008 + (u64::from(block) << 16) + slot * 16);
    let at = prop_oneof![base(), word];
    let sync = (0..3u64, 0..16u64, at).prop_map(|(cs, low, at)| {
        [
            0x46 | cs << 12 | 3 << 22 | low << 32,
            at & 0x000f_ffff_ffff_fffc,
        ]
    });
    prop_oneof![
        6 => shaped,
        3 => sync,
        3 => Just([0x46, 0]),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| [a, b]),
    ]
}

fn commands() -> impl Strategy<Value = HostOp> {
    let list = [command(), command(), command(), command()];
    (list, 0..5u8, any::<bool>(), any::<bool>()).prop_map(|(list, count, not, wait)| {
        HostOp::Commands {
            list,
            count,
            tell: !not || wait,
            wait,
        }
    })
}

fn bring_up() -> impl Strategy<Value = BringUp> {
    let sizes = (0..8u8, 0..8u8);
    let shape = prop_oneof![2 => Just(0), 1 => any::<u64>()];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (block(), any::<u64>(), sizes, shape, flags).prop_map(|(block, kinds, sizes, shape, flags)| {
        BringUp {
            block,
            two_level: flags.0,
            kinds,
            command_log2: sizes.0,
            event_log2: sizes.1,
            shape,
            msi: flags.1,
            ats: flags.2,
            gentle: flags.3,
        }
    })
}

/// Words of a stream table entry: often one that means something.
fn entry() -> impl Strategy<Value = Entry> {
    let planted = (block()).prop_map(|block| 0x8000_8000 + (u64::from(block) << 16));
    let pointer =
        prop_oneof![4 => planted, 1 => any::<u64>().prop_map(|b| b & 0x00ff_ffff_ffff_ffc0)];
    let config = prop_oneof![
        2 => Just(0b1001u64),
        4 => Just(0b1011u64),
        1 => 0..16u64,
    ];
    let substreams = prop_oneof![4 => Just(0u64), 1 => 0..32u64];
    let second = prop_oneof![
        3 => Just(0u64),
        // S1STALLD, EATS, SHCFG, DCP, S1DSS, STRW, MTCFG and so on, in any mixture.
        3 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| a & b & 0x000f_6fff_ffff_ffff),
        1 => any::<u64>(),
    ];
    let rest = prop_oneof![4 => Just(0u64), 1 => any::<u64>()];
    let words = (pointer, config, substreams, second);
    (stream(), words, rest, any::<bool>(), any::<bool>()).prop_map(
        |(stream, (pointer, config, substreams, second), rest, a, b)| Entry {
            stream,
            words: [pointer | config | substreams << 59, second],
            rest,
            tell: a || b,
        },
    )
}

/// What a host does with its SMMU.
fn host_op() -> impl Strategy<Value = HostOp> {
    prop_oneof![
        6 => register(),
        4 => ((0..32u32), prop_oneof![3 => Just(0u32), 1 => (0..5u32).prop_map(|n| 1 << n)], any::<bool>())
            .prop_map(|(set, gone, all)| HostOp::Cr0 {
                keep: if all { !gone } else { !set },
                set: if all { 0 } else { set },
            }),
        8 => commands(),
        4 => bring_up().prop_map(HostOp::BringUp),
        6 => entry().prop_map(HostOp::Entry),
        2 => (any::<bool>(), any::<bool>())
            .prop_map(|(requests, half)| HostOp::Consume { requests, half }),
        1 => any::<bool>().prop_map(|retry| HostOp::Resume { retry }),
        1 => Just(HostOp::Acknowledge),
        1 => (stream(), any::<u64>(), any::<u64>()).prop_map(|(stream, a, b)| HostOp::Ask {
            stream,
            bits: [a, b],
        }),
        2 => (0..20u8).prop_map(|polls| HostOp::Pass { polls }),
    ]
}

fn host() -> impl Strategy<Value = Op> {
    (prop_oneof![3 => Just(0u32), 1 => any::<u32>()], host_op())
        .prop_map(|(smmu, what)| Op::Host { smmu, what })
}

/// One operation.
fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => host(),
        2 => (other(), 1..3u8).prop_map(|(stream, domain)| Op::Attach { stream, domain }),
        1 => other().prop_map(|stream| Op::Block { stream }),
        4 => (pages(), count(), any::<bool>())
            .prop_map(|(page, count, nobody)| Op::Take { page, count, nobody }),
        4 => (pages(), count(), any::<bool>())
            .prop_map(|(page, count, nobody)| Op::Give { page, count, nobody }),
        1 => (any::<bool>(), wild(), wild())
            .prop_map(|(give, start, size)| Op::Wild { give, start, size }),
        3 => (0..16u32).prop_map(|limit| Op::Drain { limit }),
        1 => prop_oneof![
            3 => Just(None),
            1 => fault().prop_map(Some),
        ]
        .prop_map(|fault| match fault {
            Some(fault) => Op::Break { smmu: 0, fault },
            None => Op::Reuse,
        }),
        1 => (0..3u32).prop_map(|after| Op::Starve { after }),
        5 => action().prop_map(Op::Now),
        6 => (0..200u32, action()).prop_map(|(after, action)| Op::During { after, action }),
    ]
}

/// Mostly a stream that is not the host's, with one SMMU or two.
fn other() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![3u32, 7, 11, 15, 6, 14])
}

/// Pages that bring-ups use, and others.
fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..48u64, 1 => page()]
}

/// A whole program, of which so many operations are any. Most begin with a
/// bring-up: else little happens.
pub fn program(any: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Op>> {
    let first = bring_up().prop_map(|how| Op::Host {
        smmu: 0,
        what: HostOp::BringUp(how),
    });
    let first = prop::option::weighted(0.8, first);
    let rest = prop::collection::vec(op(), any);
    (first, rest).prop_map(|(first, rest)| first.into_iter().chain(rest).collect())
}

/// Anything with two stages to run on.
pub fn nested_setup(name: Option<&str>) -> impl Strategy<Value = Setup> + use<> {
    (setup(name), any::<bool>()).prop_map(|(setup, messages)| {
        let two = |profile: Profile| {
            let idr0 = profile.idr0;
            if idr0.s1p() && idr0.s2p() {
                profile
            } else {
                Profile::qemu()
            }
        };
        Setup {
            profile: two(setup.profile),
            second: setup.second.map(two),
            nested: true,
            messages,
            ..setup
        }
    })
}

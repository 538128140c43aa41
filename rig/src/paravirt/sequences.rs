//! Requests in an order that chance seldom finds.

use crate::op::Op;
use crate::paravirt::generate::{FIRST, domain, iova, memory};
use crate::paravirt::op::{Ask, ParaOp};
use proptest::prelude::*;
use smmuv3_model::Fault;
use smmuv3_spec::command::CommandError;

fn asked(what: Ask, sync: bool) -> Op {
    Op::Para(ParaOp::Ask { what, sync })
}

/// All of them, after an endpoint was put into their domain.
fn all(domain: u32, asks: Vec<Ask>, sync: bool) -> Vec<Op> {
    let attach = Ask::Attach {
        domain,
        endpoint: domain,
    };
    let asks = std::iter::once(attach).chain(asks);
    asks.map(|what| asked(what, sync)).collect()
}

fn map(domain: u32, iova: u64, count: u64, to: u64, access: u8) -> Ask {
    Ask::Map {
        domain,
        iova,
        count,
        to,
        access,
    }
}

fn unmap(domain: u32, iova: u64, count: u64) -> Ask {
    Ask::Unmap {
        domain,
        iova,
        count,
    }
}

/// Mappings that fill a group one after the other, of one page or a few; one of
/// them may be different. Then one goes again, or a part of it.
fn group() -> impl Strategy<Value = Vec<Op>> {
    let order = Just((0..16u64).collect::<Vec<_>>()).prop_shuffle();
    let chunk = prop::sample::select(vec![1u64, 1, 2, 4, 8]);
    // Nothing, the access, the memory, or one that is missing.
    let odd = (prop_oneof![3 => Just(0u8), 1 => 1..4u8], 1..16u64);
    let rest = (
        0..2u32,
        0..2u64,
        any::<bool>(),
        any::<u32>(),
        0..16u64,
        0..4u64,
    );
    let last = prop::option::of(prop::sample::select(vec![0u64, 15, 14, 8]));
    (order, chunk, odd, rest, last).prop_map(|(mut order, chunk, (what, odd), rest, last)| {
        if let Some(last) = last {
            order.retain(|n| *n != last);
            order.push(last);
        }
        let (domain, group, sync, mapping, around, part) = rest;
        let first = 0x100 + group * 16;
        let mut asks = Vec::new();
        for n in order.into_iter().filter(|n| n.is_multiple_of(chunk)) {
            let is_odd = (n..n + chunk).contains(&odd);
            let access = if is_odd && what == 1 { 1 } else { 3 };
            let more = if is_odd && what == 2 { 16 } else { 0 };
            if !is_odd || what != 3 {
                asks.push(map(
                    domain,
                    first + n,
                    chunk,
                    FIRST + first + n + more,
                    access,
                ));
            }
        }
        let cut = around * chunk % 16;
        asks.push(match around {
            0..8 => unmap(domain, first + cut, chunk + part / 3),
            8..12 => unmap(domain, first + 16 - chunk, chunk),
            _ => Ask::Drop {
                mapping,
                around: around - 11,
                part,
            },
        });
        all(domain, asks, sync)
    })
}

/// What a mapping was is reused at once: another page there, or the same page
/// elsewhere.
fn reuse() -> impl Strategy<Value = Vec<Op>> {
    let parts = (0..2u32, iova(), 1..18u64, memory(), memory(), any::<bool>());
    let far = (any::<bool>(), iova());
    (parts, far).prop_map(|((domain, iova, count, to, other, sync), (first, far))| {
        let mut asks = vec![
            map(domain, far, 1, FIRST + 9, 3),
            map(domain, iova, count, to, 3),
            unmap(domain, iova, count),
            unmap(domain, far, 1),
            map(domain, iova, count, other, 3),
            unmap(domain, iova, count),
            map(domain, iova.saturating_add(32), count, to, 3),
        ];
        if first {
            asks.swap(2, 3);
        }
        all(domain, asks, sync)
    })
}

/// A mapping of many pieces, perhaps with a page in its way that is mapped, and
/// then a part of it is to go.
fn large() -> impl Strategy<Value = Vec<Op>> {
    let place = (
        prop::sample::select(vec![0x200u64, 0x400, 0x201, 0x3f0, 0x3_fe00]),
        prop::sample::select(vec![0u64, 1, 0x200, 0x100]),
    );
    let count = prop_oneof![1025..2049u64, 513..1600u64];
    let way = prop::option::of(0..2048u64);
    let cut = prop::sample::select(vec![0u64, 0x200, 0x400, 1, 0x210]);
    let rest = (cut, any::<bool>(), prop::option::weighted(0.8, 0..2u8));
    (0..2u32, place, count, way, rest).prop_map(
        |(domain, (iova, to), count, way, (cut, sync, pause))| {
            let mut asks = Vec::new();
            if let Some(way) = way {
                asks.push(map(domain, iova + way, 1, FIRST + 7, 3));
            }
            let large = map(domain, iova, count, FIRST + to, 3);
            asks.push(large);
            let end = (iova + 0x200) & !0x1ff;
            asks.push(unmap(domain, iova, (end + cut).saturating_sub(iova)));
            asks.push(unmap(domain, 0, 1 << 24));
            let mut ops = all(domain, asks, sync);
            if let Some(turns) = pause {
                // Something else is asked for while it is under way.
                let at = ops.len() - 3;
                let first = [asked(large, false), Op::Para(ParaOp::GoOn { turns })];
                let next = asked(unmap(domain, iova + 0x1000, 1), true);
                ops.splice(at..=at, first.into_iter().chain([next]));
            }
            ops
        },
    )
}

/// A mapping across the edge of tables, blocks beside pages, and cuts through
/// them.
fn edges() -> impl Strategy<Value = Vec<Op>> {
    let edge = prop::sample::select(vec![0x200u64, 0x400, 0x4_0000]);
    let parts = (0..2u32, edge, 1..5u64, 1..5u64, 0..3u64, 0..4u8);
    let sync = prop::bool::weighted(0.3);
    (parts, sync).prop_map(|((domain, edge, before, after, shift, what), sync)| {
        let first = edge - before;
        let asks = match what {
            // One mapping, cut in two.
            0 => vec![
                map(domain, edge + 16, 1, FIRST, 3),
                map(
                    domain,
                    first,
                    before + after,
                    FIRST + 0x200 - before + shift,
                    3,
                ),
                unmap(domain, edge, after),
                unmap(domain, first, before),
                unmap(domain, first, before + after),
            ],
            // A block and pages beside it.
            1 => vec![
                // So that no table becomes empty.
                map(domain, edge + 512 + 20, 1, FIRST + 3, 3),
                map(domain, first - 20, 1, FIRST + 4, 3),
                map(domain, edge, 512, FIRST + 0x200, 3),
                map(domain, edge + 512, after, FIRST + 0x180 + shift, 3),
                map(domain, first, before, FIRST + 0x190 + shift, 3),
                unmap(domain, edge, 512),
                unmap(domain, edge + 512, after),
                unmap(domain, first, before),
            ],
            // A block, cut.
            2 => vec![
                map(domain, edge, 512, FIRST + 0x400, 3),
                unmap(domain, edge, after),
                unmap(domain, edge + after, 512 - after),
            ],
            _ => vec![
                map(domain, edge, 512, FIRST + 0x200, 3),
                map(domain, first, before, FIRST + 0x190 + shift, 3),
                unmap(domain, first, before + 512),
            ],
        };
        all(domain, asks, sync)
    })
}

/// Neighbours in one order, which go in another, alone or all at once.
fn scatter() -> impl Strategy<Value = Vec<Op>> {
    let order = || Just((0..12u64).collect::<Vec<_>>()).prop_shuffle();
    let parts = (0..2u32, 1..3u64, 1..3u64, any::<bool>());
    (order(), order(), parts).prop_map(|(come, go, (domain, stride, step, at_once))| {
        let maps = come.iter();
        let mut asks: Vec<_> = maps
            .map(|n| map(domain, 0x140 + n * stride, 1, FIRST + 0x120 + n * step, 3))
            .collect();
        if at_once {
            asks.push(unmap(domain, 0x140, 12 * stride));
        } else {
            asks.extend(go.iter().map(|n| unmap(domain, 0x140 + n * stride, 1)));
        }
        let mut ops = all(domain, asks, false);
        ops.push(Op::Para(ParaOp::Sync));
        ops
    })
}

/// Memory runs out in the middle of a request.
fn starved() -> impl Strategy<Value = Vec<Op>> {
    let attach =
        (domain(), 0..16u32).prop_map(|(domain, endpoint)| Ask::Attach { domain, endpoint });
    let mapping = (0..2u32, prop::sample::select(vec![0x500u64, 0x8_0000]))
        .prop_map(|(domain, iova)| map(domain, iova, 600, FIRST + 0x201, 3));
    let others = (0..2u32, 0..16u32).prop_map(|(domain, endpoint)| {
        // The domain is there already.
        let mut ops = all(domain, Vec::new(), true);
        ops.push(Op::Starve { after: 0 });
        ops.push(asked(Ask::Attach { domain, endpoint }, true));
        ops
    });
    let any = (0..6u32, prop_oneof![2 => attach, 1 => mapping])
        .prop_map(|(after, what)| vec![Op::Starve { after }, asked(what, true)]);
    prop_oneof![others, any]
}

/// One of them.
pub(super) fn sequence() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        3 => group(),
        2 => reuse(),
        5 => large(),
        2 => edges(),
        1 => scatter(),
        1 => starved(),
    ]
}

/// An invalidation fails, in a wait or in the middle of another request.
pub(super) fn failure() -> impl Strategy<Value = Vec<Op>> {
    let fault = prop::sample::select(vec![
        None,
        Some(Fault::CommandError(CommandError::ILL)),
        Some(Fault::CommandError(CommandError::ABT)),
        Some(Fault::CommandStuck { polls: None }),
    ]);
    let parts = (0..2u32, any::<bool>(), any::<bool>(), fault);
    parts.prop_map(|(domain, over, sync, fault)| {
        let mut ops = all(domain, vec![map(domain, 0x160, 2, FIRST + 0x170, 3)], true);
        ops.push(asked(unmap(domain, 0x160, 2), false));
        // The endpoint is behind the SMMU of that number.
        let smmu = domain;
        ops.push(match fault {
            Some(fault) => Op::Break { smmu, fault },
            None => Op::Flip { smmu },
        });
        if over {
            ops.push(asked(map(domain, 0x160, 1, FIRST + 0x178, 3), sync));
        }
        ops.push(Op::Para(ParaOp::Sync));
        ops
    })
}

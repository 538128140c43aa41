//! Random programs of a host with domains.

use crate::action::Action;
use crate::map::{DOORBELL, PAGES, RAM};
use crate::op::Op;
use crate::paravirt::Para;
use crate::paravirt::front::FRONT;
use crate::paravirt::op::{Ask, FrontOp, ParaOp, Shape};
use crate::paravirt::sequences::{failure, sequence};
use crate::program::{action, count, fault, page, setup};
use crate::setup::Setup;
use portcullis_addr::PAGE_SIZE;
use proptest::prelude::*;
use smmuv3_model::Profile;
use std::ops::RangeInclusive;
use virtio_iommu_device::reg;

/// First page of RAM, as an address in pages.
pub(super) const FIRST: u64 = RAM.start / PAGE_SIZE;

/// Mostly one that there is.
pub(super) fn domain() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..2u32, 3 => 0..4u32, 1 => 0..8u32, 1 => any::<u32>()]
}

fn endpoint() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0..3u32, 4 => 0..16u32, 1 => any::<u32>()]
}

/// Page of an IOVA: near the start, around the edges of groups, blocks and
/// tables, around the doorbell, at the end, any.
pub(super) fn iova() -> impl Strategy<Value = u64> {
    let end = prop::sample::select(vec![1u64 << 24, 1 << 28]);
    prop_oneof![
        6 => 0x100..0x128u64,
        4 => (0..4u64).prop_map(|n| 0x100 + n * 16),
        4 => 0x1f8..0x208u64,
        2 => prop::sample::select(vec![0x200u64, 0x400, 0x3_fe00, 0x4_0000]),
        2 => 0x3_fff8..0x4_0008u64,
        2 => (DOORBELL.start / PAGE_SIZE - 4)..(DOORBELL.start / PAGE_SIZE + 20),
        1 => (end, 0..20u64).prop_map(|(end, n)| end - n),
        1 => any::<u64>().prop_map(|page| page >> 12),
    ]
}

/// Page of physical memory: with the same offset in a block or group as IOVAs
/// have, or with another; not RAM; others'.
pub(super) fn memory() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => (0..0x28u64).prop_map(|n| FIRST + 0x100 + n),
        4 => (0..4u64).prop_map(|n| FIRST + 0x100 + n * 16),
        3 => (0..16u64).prop_map(|n| FIRST + 0x1f8 + n),
        2 => prop::sample::select(vec![0u64, 0x200, 0x400, 0x600]).prop_map(|n| FIRST + n),
        3 => (0..PAGES + 8).prop_map(|n| FIRST + n),
        2 => (0..16u64).prop_map(|n| FIRST + n),
        1 => prop::sample::select(vec![0x9_0000u64, 0x9_9000, 0xa_0000, 0, 0x8090]),
        1 => any::<u64>().prop_map(|page| page >> 12),
    ]
}

/// Pages of a mapping.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => Just(1u64),
        5 => 1..18u64,
        3 => prop::sample::select(vec![16u64, 32, 15, 17, 48]),
        2 => prop::sample::select(vec![512u64, 511, 513, 1024, 1536]),
        1 => 1..2100u64,
        1 => any::<u64>().prop_map(|pages| pages >> 30),
    ]
}

fn access() -> impl Strategy<Value = u8> {
    prop_oneof![10 => Just(3u8), 2 => Just(1), 2 => Just(2), 1 => 0..16u8, 1 => Just(10)]
}

fn ask() -> impl Strategy<Value = Ask> {
    let around = || prop_oneof![3 => Just(0u64), 2 => 0..20u64, 1 => 0..600u64];
    let part = || prop_oneof![4 => Just(0u64), 1 => 1..18u64];
    let bytes = || {
        prop_oneof![
            3 => Just(0i64),
            4 => -0x1001..0x1002i64,
            2 => -0x1_2000..0x1_2000i64,
            1 => (-20..20i64).prop_map(|pages| pages << 12),
            1 => any::<i64>(),
        ]
    };
    prop_oneof![
        4 => (domain(), endpoint()).prop_map(|(domain, endpoint)| Ask::Attach { domain, endpoint }),
        1 => (domain(), endpoint()).prop_map(|(domain, endpoint)| Ask::Detach { domain, endpoint }),
        1 => (0..16u32).prop_map(|endpoint| Ask::Leave { endpoint }),
        8 => (domain(), iova(), size(), memory(), access()).prop_map(
            |(domain, iova, count, to, access)| Ask::Map { domain, iova, count, to, access },
        ),
        6 => (any::<u32>(), size(), prop_oneof![6 => Just(0u64), 1 => 1..4u64], any::<bool>())
            .prop_map(|(mapping, count, gap, before)| Ask::Extend { mapping, count, gap, before }),
        2 => (domain(), iova(), size())
            .prop_map(|(domain, iova, count)| Ask::Unmap { domain, iova, count }),
        1 => domain().prop_map(|domain| Ask::Unmap { domain, iova: 0, count: 1 << 24 }),
        3 => (any::<u32>(), bytes(), bytes())
            .prop_map(|(mapping, start, end)| Ask::Between { mapping, start, end }),
        6 => (any::<u32>(), around(), part())
            .prop_map(|(mapping, around, part)| Ask::Drop { mapping, around, part }),
    ]
}

fn asked() -> impl Strategy<Value = Op> {
    (ask(), prop::bool::weighted(0.4)).prop_map(|(what, sync)| Op::Para(ParaOp::Ask { what, sync }))
}

fn turns() -> impl Strategy<Value = u16> {
    prop_oneof![3 => Just(4000u16), 1 => 0..6u16]
}

/// What a hostile host does beside asking, the device apart.
fn other() -> impl Strategy<Value = Op> {
    let near = prop_oneof![2 => page(), 2 => (0..0x28u64).prop_map(|n| 0x100 + n), 1 => 64..80u64];
    let owners = (near, count(), any::<bool>(), any::<bool>());
    prop_oneof![
        5 => owners.prop_map(|(page, count, nobody, give)| if give {
            Op::Give { page, count, nobody }
        } else {
            Op::Take { page, count, nobody }
        }),
        1 => (0..16u32).prop_map(|limit| Op::Drain { limit }),
        2 => (0..5u32).prop_map(|after| Op::Starve { after }),
        3 => meanwhile().prop_map(Op::Now),
        6 => (0..120u32, meanwhile()).prop_map(|(after, action)| Op::During { after, action }),
    ]
}

/// An action, often where mappings are.
fn meanwhile() -> impl Strategy<Value = Action> {
    let stream = || prop_oneof![2 => 0..3u32, 1 => 0..16u32];
    let dma = (stream(), iova(), any::<Option<u64>>());
    let mapped = || prop_oneof![2 => (0..0x28u64).prop_map(|n| 0x100 + n), 1 => page()];
    prop_oneof![
        3 => action(),
        5 => dma.prop_map(|(stream, page, write)| Action::Dma {
            stream,
            substream: None,
            privileged: false,
            address: (page & 0xf_ffff_ffff) << 12,
            write,
        }),
        1 => (mapped(), 0..8u64).prop_map(|(page, count)| Action::Pin { page, count }),
        1 => (0..64u64, any::<bool>()).prop_map(|(which, union)| Action::Unpin { which, union }),
        2 => (mapped(), 0..8u64).prop_map(|(page, count)| Action::Begin { page, count }),
        1 => (mapped(), 0..3u64).prop_map(|(page, count)| Action::Leave { page, count }),
        2 => (rings(), prop_oneof![0..0x40u64, 0..512u64], word())
            .prop_map(|(page, word, value)| Action::Scribble { page, word, value }),
    ]
}

/// Pages of the rings and requests.
fn rings() -> impl Strategy<Value = u64> {
    let first = (FRONT.start - RAM.start) / PAGE_SIZE;
    (0..16u64).prop_map(move |page| first + page)
}

/// Something like a descriptor, a word of a request, or of a ring.
fn word() -> impl Strategy<Value = u64> {
    let address = prop_oneof![
        4 => (0..0x1_0000u64).prop_map(|n| FRONT.start + n),
        2 => memory().prop_map(|page| page << 12),
        1 => any::<u64>(),
    ];
    prop_oneof![
        3 => address,
        3 => (0..64u64, 0..8u64, 0..12u64).prop_map(|(len, flags, next)| {
            len | flags << 32 | next << 48
        }),
        2 => (0..6u64, domain()).prop_map(|(kind, domain)| kind | u64::from(domain) << 32),
        2 => iova().prop_map(|page| page << 12),
        2 => iova().prop_map(|page| (page << 12).wrapping_sub(1)),
        1 => (any::<u16>(), 0..40u16).prop_map(|(flags, idx)| {
            u64::from(flags & 1) | u64::from(idx) << 16
        }),
        1 => any::<u64>(),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    prop::sample::select(vec![
        Shape::Stock,
        Shape::Stock,
        Shape::Indirect,
        Shape::Pieces,
        Shape::Mute,
    ])
}

fn bring_up() -> impl Strategy<Value = FrontOp> {
    let log2 = prop_oneof![5 => 4..9u8, 1 => 0..9u8];
    let features = prop_oneof![3 => 0..4u8, 1 => any::<u8>()];
    let place = prop_oneof![8 => 0..2u8, 1 => 0..8u8];
    (log2, features, place).prop_map(|(log2, features, place)| FrontOp::BringUp {
        log2,
        features,
        place,
    })
}

/// A write of a register: one that makes sense, or any.
fn register() -> impl Strategy<Value = FrontOp> {
    let known = prop::sample::select(vec![
        reg::QUEUE_SEL,
        reg::QUEUE_NUM,
        reg::QUEUE_READY,
        reg::QUEUE_READY,
        reg::QUEUE_NOTIFY,
        reg::STATUS,
        reg::STATUS,
        reg::QUEUE_DESC_LOW,
        reg::QUEUE_DRIVER_LOW,
        reg::QUEUE_DEVICE_LOW,
        reg::QUEUE_DESC_HIGH,
        reg::DRIVER_FEATURES,
        reg::DRIVER_FEATURES_SEL,
        reg::INTERRUPT_ACK,
        reg::CONFIG,
    ]);
    let offset = prop_oneof![8 => known, 1 => 0..0x200u32, 1 => any::<u32>()];
    let width = prop_oneof![8 => Just(2u8), 1 => 0..4u8];
    let value = prop_oneof![
        4 => 0..17u64,
        2 => (0..0x1_0000u64).prop_map(|n| FRONT.start + (n & !0xff)),
        1 => memory().prop_map(|page| page << 12),
        1 => any::<u64>(),
    ];
    (offset, width, value, turns()).prop_map(|(offset, width, value, patience)| FrontOp::Register {
        offset,
        width,
        value,
        patience,
    })
}

/// A request with one bit too much.
fn nearly() -> impl Strategy<Value = FrontOp> {
    let pages = (iova(), 1..18u64, memory());
    let wrong = (
        0..4usize,
        prop_oneof![3 => 0..16u32, 1 => 0..64u32],
        0..4u64,
    );
    let kind = prop_oneof![3 => Just(4u64), 2 => Just(3), 1 => 0..7u64];
    (kind, domain(), pages, wrong, shape()).prop_map(
        |(kind, domain, (iova, count, to), (word, bit, flags), shape)| {
            let (start, end) = (iova << 12, (iova.wrapping_add(count) << 12).wrapping_sub(1));
            let mut words = [kind | u64::from(domain) << 32, start, end, to << 12, flags];
            words[word] ^= 1 << bit;
            FrontOp::Bytes {
                words,
                len: if kind == 4 { 28 } else { 36 },
                room: 4,
                shape,
            }
        },
    )
}

/// What a hostile driver does to the device.
fn front() -> impl Strategy<Value = FrontOp> {
    let words = [word(), word(), word(), word(), word()];
    let room = prop_oneof![4 => Just(4u16), 2 => Just(260), 1 => 0..300u16];
    prop_oneof![
        3 => bring_up(),
        3 => register(),
        2 => (0..16u8, prop_oneof![0..0x40u16, 0..512u16], word())
            .prop_map(|(page, word, value)| FrontOp::Word { page, word, value }),
        5 => nearly(),
        4 => (words, 0..73u8, room, shape())
            .prop_map(|(words, len, room, shape)| FrontOp::Bytes { words, len, room, shape }),
        4 => shape().prop_map(FrontOp::Shaped),
        1 => prop_oneof![1..4u16, any::<u16>()].prop_map(|by| FrontOp::Ahead { by }),
        2 => (0..16u32, any::<u64>())
            .prop_map(|(endpoint, address)| FrontOp::Fault { endpoint, address }),
    ]
}

fn op(device: bool) -> impl Strategy<Value = Op> {
    let one = |op| Op::Para(op);
    let fronts = front().prop_map(move |op| Op::Para(ParaOp::Front(op)));
    prop_oneof![
        40 => asked(),
        6 => Just(one(ParaOp::Sync)),
        3 => (0..8u8).prop_map(move |turns| one(ParaOp::GoOn { turns })),
        1 => turns().prop_map(move |patience| one(ParaOp::Reset { patience })),
        14 => other(),
        u32::from(device) * 12 => fronts,
    ]
}

fn ops(device: bool) -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        30 => op(device).prop_map(|op| vec![op]),
        3 => sequence(),
    ]
}

/// Hardware breaks in one program of six: most of what comes after that is
/// refused.
fn broken() -> impl Strategy<Value = Vec<Op>> {
    let fault = prop_oneof![
        3 => (any::<u32>(), fault()).prop_map(|(smmu, fault)| Op::Break { smmu, fault }),
        1 => any::<u32>().prop_map(|smmu| Op::Flip { smmu }),
    ];
    prop_oneof![
        14 => Just(Vec::new()),
        1 => fault.prop_map(|op| vec![op]),
        2 => failure(),
    ]
}

/// A whole program, of so many operations. Most begin with an endpoint in a
/// domain: else little happens.
pub fn program(device: bool, lengths: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Op>> {
    let start = bring_up().prop_map(move |up| device.then_some(Op::Para(ParaOp::Front(up))));
    let attach = (0..2u32, 0..3u32).prop_map(|(domain, endpoint)| {
        let what = Ask::Attach { domain, endpoint };
        Op::Para(ParaOp::Ask { what, sync: true })
    });
    let attach = prop::collection::vec(attach, 0..3);
    let rest = prop::collection::vec(ops(device), lengths);
    (start, attach, rest, broken(), any::<prop::sample::Index>()).prop_map(
        |(start, attach, rest, broken, place)| {
            let mut all: Vec<Op> = start.into_iter().chain(attach).collect();
            all.extend(rest.into_iter().flatten());
            let place = place.index(all.len() + 1);
            all.splice(place..place, broken);
            all
        },
    )
}

/// Anything to run on, and who asks.
pub fn para_setup(name: Option<&str>) -> impl Strategy<Value = Setup> + use<> {
    let work = prop_oneof![2 => Just(64u32), 2 => 1..3u32, 1 => 1..80u32];
    let device = prop::option::of(work);
    let flags = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.3),
        prop_oneof![4 => Just(2u8), 1 => 0..3u8],
        // Where no block or group ends, or one does.
        prop::option::of(prop::sample::select(vec![0x205u16, 0x110, 0x200, 0x5f3])),
    );
    (setup(name), device, flags).prop_map(|(setup, device, flags)| {
        let (soft, flicker, incoherent, doorbells, border) = flags;
        let coherency = |profile: Profile| Profile {
            idr0: profile
                .idr0
                .with_cohacc(profile.idr0.cohacc() && !incoherent),
            ..profile
        };
        Setup {
            profile: coherency(setup.profile),
            second: setup.second.filter(|_| !soft).map(coherency),
            paravirt: Some(Para {
                device,
                flicker,
                soft,
                doorbells,
                border,
            }),
            ..setup
        }
    })
}

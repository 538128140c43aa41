//! Random programs of this world.

use super::layout::{Area, CONFIG, DEVICES, HOST, LPIS, lpi};
use super::op::{Chaos, GicSetup, ItsOp, Stock};
use crate::op::Op;
use crate::setup::Setup;
use proptest::prelude::*;
use smmuv3_model::{Mode, Profile};
use std::ops::RangeInclusive;

/// What a program runs on; the name is that of a profile of the GIC's.
pub fn its_setup(profile: Option<&'static str>) -> impl Strategy<Value = Setup> {
    let all = gicv3_model::Profile::all();
    let named = all.iter().position(|one| Some(one.name) == profile);
    let which = match named {
        Some(one) => one as u8..one as u8 + 1,
        None => 0..all.len() as u8,
    };
    let share = prop_oneof![3 => Just(0x40_0000u64), 1 => Just(0x1_0000u64), 1 => Just(0x4000u64)];
    (
        which,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
        share,
        any::<bool>(),
    )
        .prop_map(|(profile, seed, stock, indirect, share, used)| {
            let gic = GicSetup {
                profile,
                seed,
                stock,
                indirect,
                share,
                used,
            };
            Setup {
                gic: Some(gic),
                // No SMMU is in this world.
                ..Setup::new(Profile::minimal(), Mode::Plain)
            }
        })
}

/// A program that brings something up first.
pub fn its_program(lengths: RangeInclusive<usize>) -> impl Strategy<Value = Vec<Op>> {
    let start = [
        Stock::EnableLpis { cpu: 0 },
        Stock::Up { cpu: 1 },
        Stock::EnableLpis { cpu: 1 },
        Stock::Boot { its: 0 },
        Stock::Boot { its: 1 },
        Stock::MapCollection {
            its: 0,
            collection: 0,
            cpu: 0,
        },
        Stock::MapCollection {
            its: 0,
            collection: 1,
            cpu: 1,
        },
        Stock::MapCollection {
            its: 1,
            collection: 0,
            cpu: 0,
        },
        Stock::MapDevice {
            its: 0,
            device: 0,
            bits: 3,
        },
        Stock::MapDevice {
            its: 0,
            device: 1,
            bits: 5,
        },
    ];
    (0..=start.len(), prop::collection::vec(steps(), lengths)).prop_map(move |(first, rest)| {
        let first = start.iter().take(first).map(|op| ItsOp::Stock(*op));
        first
            .chain(rest.into_iter().flatten())
            .map(Op::Its)
            .collect()
    })
}

/// What belongs together.
fn steps() -> impl Strategy<Value = Vec<ItsOp>> {
    prop_oneof![
        24 => stock().prop_map(|op| vec![ItsOp::Stock(op)]),
        4 => life(),
        1 => kexec(),
        1 => off(),
        1 => twin(),
        1 => forge(),
        2 => wake(),
        10 => chaos().prop_map(|op| vec![ItsOp::Chaos(op)]),
    ]
}

/// The life of an interrupt.
fn life() -> impl Strategy<Value = Vec<ItsOp>> {
    (
        0..2u8,
        0..4u8,
        0..4u8,
        0..LPIS,
        0..2u8,
        0..2u8,
        any::<bool>(),
    )
        .prop_map(|(its, device, event, lpi, from, to, late)| {
            let enable = Stock::Configure {
                lpi,
                byte: 0xa3,
                silently: false,
            };
            let mut ops = vec![
                Stock::MapDevice {
                    its,
                    device,
                    bits: 4,
                },
                Stock::Map {
                    its,
                    device,
                    event,
                    lpi,
                    collection: from,
                },
            ];
            ops.insert(if late { 2 } else { 0 }, enable);
            ops.extend([
                Stock::Message { lpi },
                Stock::Move {
                    lpi,
                    collection: to,
                },
                Stock::Message { lpi },
                Stock::Take,
            ]);
            ops.into_iter().map(ItsOp::Stock).collect()
        })
}

/// Another kernel starts: it knows what configurations are, since no
/// redistributor can have cached one.
fn kexec() -> impl Strategy<Value = Vec<ItsOp>> {
    (0..2u8, 0..4u8, 0..LPIS, byte()).prop_map(|(its, device, lpi, byte)| {
        let off = (0..3).map(|cpu| Stock::DisableLpis { cpu });
        let on = (0..3).map(|cpu| Stock::EnableLpis { cpu });
        let (event, collection) = (0, 0);
        let rest = [
            Stock::Boot { its },
            Stock::MapCollection {
                its,
                collection,
                cpu: 0,
            },
            Stock::MapDevice {
                its,
                device,
                bits: 4,
            },
            Stock::Map {
                its,
                device,
                event,
                lpi,
                collection,
            },
            Stock::Message { lpi },
            Stock::Take,
        ];
        let configure = Stock::Configure {
            lpi,
            byte,
            silently: true,
        };
        let all = off.chain([configure]).chain(on).chain(rest);
        all.map(ItsOp::Stock).collect()
    })
}

/// Something changes, the tables go from one life of the ITS to the next, and
/// the event comes. Or INVALL tells of what changed.
fn wake() -> impl Strategy<Value = Vec<ItsOp>> {
    (
        0..2u8,
        0..4u8,
        0..LPIS,
        0..6u8,
        prop_oneof![Just(2u8), Just(200)],
    )
        .prop_map(|(its, device, lpi, what, event)| {
            let collection = 0;
            let start = [0, 1].map(|cpu| Stock::MapCollection {
                its,
                collection: cpu,
                cpu,
            });
            let map = [
                Stock::MapDevice {
                    its,
                    device,
                    bits: 7,
                },
                Stock::Map {
                    its,
                    device,
                    event,
                    lpi,
                    collection,
                },
            ];
            let change = match what {
                0 => Stock::Unmap { lpi },
                1 => Stock::Move { lpi, collection: 1 },
                2 => Stock::UnmapDevice {
                    its,
                    device,
                    hasty: true,
                },
                3 => Stock::Configure {
                    lpi,
                    byte: 0xa3,
                    silently: true,
                },
                _ => Stock::Take,
            };
            let then = match what {
                3 => Stock::InvalidateAll { its, collection },
                _ => Stock::Hibernate { its },
            };
            let end = [
                change,
                then,
                Stock::Stray { its, device, event },
                Stock::Take,
            ];
            let foreign = Chaos::Command {
                its,
                words: [
                    0x0080_0000_0008 | u64::from(device) << 32,
                    3,
                    1 << 63 | HOST.start,
                    0,
                ],
            };
            let all = start.into_iter().chain(map).chain(end).map(ItsOp::Stock);
            all.chain([ItsOp::Chaos(foreign)]).collect()
        })
}

/// LPIs are disabled while one is pending.
fn off() -> impl Strategy<Value = Vec<ItsOp>> {
    (0..2u8, 0..4u8, 0..LPIS, 0..2u8).prop_map(|(its, device, lpi, cpu)| {
        let (event, collection) = (1, cpu);
        let ops = [
            Stock::MapCollection {
                its,
                collection,
                cpu,
            },
            Stock::Configure {
                lpi,
                byte: 0xa3,
                silently: false,
            },
            Stock::MapDevice {
                its,
                device,
                bits: 4,
            },
            Stock::Map {
                its,
                device,
                event,
                lpi,
                collection,
            },
            Stock::Configure {
                lpi,
                byte: 0xa3,
                silently: false,
            },
            Stock::Message { lpi },
            Stock::DisableLpis { cpu },
            Stock::EnableLpis { cpu },
        ];
        ops.map(ItsOp::Stock).to_vec()
    })
}

/// The same event of two ITSs is to be the same LPI, or one of EL2's.
fn twin() -> impl Strategy<Value = Vec<ItsOp>> {
    (0..4u8, 0..LPIS, any::<bool>()).prop_map(|(device, number, own)| {
        let id = u64::from(DEVICES[usize::from(device)]);
        let intid = if own { 0xa000 } else { lpi(number, 0x8000) };
        (0..2u8)
            .flat_map(|its| {
                [
                    ItsOp::Stock(Stock::MapCollection {
                        its,
                        collection: 0,
                        cpu: 0,
                    }),
                    ItsOp::Stock(Stock::MapDevice {
                        its,
                        device,
                        bits: 4,
                    }),
                    ItsOp::Chaos(Chaos::Command {
                        its,
                        words: [id << 32 | 0x0a, u64::from(intid) << 32 | 3, 0, 0],
                    }),
                ]
            })
            .collect()
    })
}

/// The host's tables name a device that is not its own.
fn forge() -> impl Strategy<Value = Vec<ItsOp>> {
    (
        0..2u8,
        prop_oneof![2 => 0x20..0x100u64, 1 => 6..0x10u64],
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(its, id, second, flat)| {
            let area = Area::new(its.into(), second);
            let table = if flat { area.devices() } else { area.page(0) };
            let entry = Chaos::Poke {
                word: (table - HOST.start) / 8 + id,
                value: 1 << 63 | (area.itt(id % 8) + 0xf00) | 7,
            };
            vec![ItsOp::Chaos(entry), ItsOp::Stock(Stock::Hibernate { its })]
        })
}

fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0xa3u8), 2 => Just(0xa2u8), 1 => Just(0x03u8), 1 => any::<u8>()]
}

fn stock() -> impl Strategy<Value = Stock> {
    let its = || 0..2u8;
    let cpu = || 0..3u8;
    let device = || prop_oneof![3 => 0..4u8, 1 => 0..DEVICES.len() as u8];
    let number = || prop_oneof![3 => 0..6u8, 1 => 0..LPIS];
    let collection = || prop_oneof![4 => 0..2u8, 1 => 0..5u8];
    let event = || prop_oneof![3 => 0..4u8, 1 => any::<u8>()];
    prop_oneof![
        1 => cpu().prop_map(|cpu| Stock::EnableLpis { cpu }),
        1 => cpu().prop_map(|cpu| Stock::DisableLpis { cpu }),
        1 => cpu().prop_map(|cpu| Stock::Up { cpu }),
        1 => its().prop_map(|its| Stock::Boot { its }),
        1 => its().prop_map(|its| Stock::Hibernate { its }),
        3 => (its(), collection(), cpu())
            .prop_map(|(its, collection, cpu)| Stock::MapCollection { its, collection, cpu }),
        1 => (its(), collection())
            .prop_map(|(its, collection)| Stock::UnmapCollection { its, collection }),
        4 => (its(), device(), any::<u8>())
            .prop_map(|(its, device, bits)| Stock::MapDevice { its, device, bits }),
        2 => (its(), device(), any::<bool>())
            .prop_map(|(its, device, hasty)| Stock::UnmapDevice { its, device, hasty }),
        6 => (its(), device(), event(), number(), collection()).prop_map(
            |(its, device, event, lpi, collection)| {
                Stock::Map { its, device, event, lpi, collection }
            }),
        2 => number().prop_map(|lpi| Stock::Unmap { lpi }),
        4 => (number(), collection()).prop_map(|(lpi, collection)| Stock::Move { lpi, collection }),
        5 => (number(), byte(), prop::bool::weighted(0.2))
            .prop_map(|(lpi, byte, silently)| Stock::Configure { lpi, byte, silently }),
        1 => (its(), collection())
            .prop_map(|(its, collection)| Stock::InvalidateAll { its, collection }),
        2 => (number(), any::<bool>()).prop_map(|(lpi, clear)| Stock::Generate { lpi, clear }),
        1 => (its(), cpu(), cpu()).prop_map(|(its, from, to)| Stock::MoveAll { its, from, to }),
        5 => number().prop_map(|lpi| Stock::Message { lpi }),
        1 => (its(), device(), event())
            .prop_map(|(its, device, event)| Stock::Stray { its, device, event }),
        3 => Just(Stock::Take),
        1 => (0..4u8).prop_map(|after| Stock::Starve { after }),
    ]
}

fn any_device() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => prop::sample::select(DEVICES[..4].to_vec()),
        2 => prop::sample::select(DEVICES.to_vec()),
        1 => 0..0x410u32,
        1 => any::<u32>(),
    ]
}

fn any_address() -> impl Strategy<Value = u64> {
    let places = vec![
        CONFIG,
        Area::new(0, false).queue(),
        Area::new(0, true).devices(),
        Area::new(0, false).page(0),
        Area::new(1, false).collections(),
        Area::new(0, true).itt(1),
        HOST.end - 0x1000,
        HOST.end,
        super::layout::TABLES.start,
        super::layout::SHARE,
    ];
    prop_oneof![8 => prop::sample::select(places), 1 => any::<u64>()]
}

fn any_command() -> impl Strategy<Value = [u64; 4]> {
    let opcode = prop_oneof![12 => 0x01..0x10u64, 2 => 0x20..0x30u64, 1 => any::<u64>()];
    let intid = prop_oneof![
        8 => (0..LPIS).prop_map(|number| lpi(number, 0x8000)),
        1 => any::<u32>(),
        1 => 8190..8194u32,
        1 => 0x9ffe..0xa002u32,
    ];
    let event = prop_oneof![8 => 0..5u32, 1 => 0..0x1_0001u32, 1 => any::<u32>()];
    let collection = prop_oneof![8 => 0..3u64, 1 => 250..260u64, 1 => 0..0x1_0000u64];
    let target = prop_oneof![
        6 => (0..4u64).prop_map(|cpu| cpu << 16),
        2 => (0..4u64).prop_map(|cpu| 0x080a_0000 + cpu * 0x2_0000),
        1 => any_address(),
    ];
    let valid = prop::bool::weighted(0.8);
    (
        opcode,
        any_device(),
        (event, intid),
        collection,
        (target, any_address(), valid),
        any::<u64>(),
    )
        .prop_map(
            |(opcode, device, (event, intid), collection, (target, at, valid), noise)| {
                let first = u64::from(device) << 32 | opcode;
                let valid = u64::from(valid) << 63;
                let third = match opcode {
                    0x08 => valid | at,
                    0x09 | 0x05 | 0x0e => valid | target & !0xffff | collection,
                    0x29..=0x2f => at,
                    _ => collection,
                };
                let second = match opcode {
                    0x08 => noise % 20,
                    _ => u64::from(intid) << 32 | u64::from(event),
                };
                // A reserved bit, now and then.
                let third = if noise % 8 == 0 {
                    third | 1 << (noise >> 58)
                } else {
                    third
                };
                [
                    first,
                    second,
                    third,
                    if noise % 3 == 0 { noise } else { target },
                ]
            },
        )
}

fn any_register() -> impl Strategy<Value = (u32, u64)> {
    let base = (any_address(), any::<u64>()).prop_map(|(at, noise)| {
        // Valid, Indirect, page size and size.
        let flags = noise & (3 << 62 | 0x70f);
        at & !0xfff | flags
    });
    prop_oneof![
        4 => any::<bool>().prop_map(|on| (0x00, on.into())),
        3 => base.prop_map(|value| (0, value)).prop_flat_map(|(_, value)| {
            prop::sample::select(vec![0x80u32, 0x84, 0x100, 0x104, 0x108, 0x110, 0x138])
                .prop_map(move |offset| (offset, value))
        }),
        3 => (0..0x1100u64).prop_map(|value| (0x88, value)),
        1 => (0..0x100u64).prop_map(|n| (0x88, n * 32)),
        1 => (0..0x4_0000u32, any::<u64>()),
        1 => (prop::sample::select(vec![0x8u32, 0x90, 0x40, 0x48, 0x1_0040, 0x2_0020]), any::<u64>()),
    ]
}

fn any_rd_register() -> impl Strategy<Value = (u32, u64)> {
    prop_oneof![
        4 => any::<bool>().prop_map(|on| (0x00, on.into())),
        1 => any::<u32>().prop_map(|value| (0x00, (value & !0xf8ff_fff0).into())),
        3 => (prop::sample::select(vec![0x70u32, 0x74, 0x78, 0x7c]), any_address(), any::<u64>())
            .prop_map(|(offset, at, noise)| (offset, at & !0xfff | noise & 0xf9f)),
        2 => (prop::sample::select(vec![0x40u32, 0x48, 0xa0, 0xb0, 0xc0, 0x8, 0x44, 0xa4]),
            prop_oneof![Just(8192u64), any::<u64>()]),
    ]
}

fn bytes() -> impl Strategy<Value = u8> {
    prop_oneof![5 => Just(8u8), 4 => Just(4u8), 1 => Just(2u8), 1 => Just(1u8)]
}

/// A word of the host's memory where something is.
fn any_word() -> impl Strategy<Value = u64> {
    let areas = [(0, false), (0, true), (1, false), (1, true)];
    let areas = areas.map(|(its, second)| Area::new(its, second));
    let area = prop::sample::select(areas.to_vec());
    let near = (area, 0..5u8, 0..32u64).prop_map(|(area, what, word)| {
        let at = match what {
            0 => area.queue(),
            1 => area.devices(),
            2 => area.collections(),
            3 => area.page(0),
            _ => area.itt(word % 4),
        };
        (at - HOST.start) / 8 + word
    });
    prop_oneof![8 => near, 1 => 0..16u64, 1 => any::<u64>()]
}

fn any_value() -> impl Strategy<Value = u64> {
    let valid = 1u64 << 63;
    prop_oneof![
        2 => Just(0u64),
        2 => any::<u64>(),
        // As an entry of a device, of a collection, of an event, of a first level.
        2 => (any_address(), 0..32u64).prop_map(move |(at, bits)| valid | at & !0xff | bits),
        2 => (0..5u64).prop_map(move |cpu| valid | cpu << 16),
        2 => (0..LPIS, 0..4u64)
            .prop_map(move |(number, to)| valid | to << 32 | u64::from(lpi(number, 0x8000))),
        1 => any_command().prop_map(|words| words[0]),
    ]
}

fn chaos() -> impl Strategy<Value = Chaos> {
    let its = || 0..2u8;
    prop_oneof![
        4 => (its(), any_register(), bytes(), any::<bool>()).prop_map(
            |(its, (offset, value), bytes, once)| Chaos::Write { its, offset, bytes, value, once }),
        3 => (0..3u8, any_rd_register(), bytes()).prop_map(
            |(cpu, (offset, value), bytes)| Chaos::WriteRd { cpu, offset, bytes, value }),
        12 => (its(), any_command()).prop_map(|(its, words)| Chaos::Command { its, words }),
        2 => (its(), any_command(), 1..=512u16)
            .prop_map(|(its, words, times)| Chaos::Flood { its, words, times }),
        4 => (any_word(), any_value()).prop_map(|(word, value)| Chaos::Poke { word, value }),
        4 => (0..40u8, any_word(), any_value())
            .prop_map(|(after, word, value)| Chaos::PokeDuring { after, word, value }),
        2 => (any_word(), any_word()).prop_map(|(from, to)| Chaos::Copy { from, to }),
        1 => any_word().prop_map(|word| Chaos::Revoke { page: word / 512 }),
        2 => (its(), any_device(), 0..6u32)
            .prop_map(|(its, device, event)| Chaos::Message { its, device, event }),
        1 => (0..8u8, its()).prop_map(|(what, its)| Chaos::Break { what, its }),
    ]
}

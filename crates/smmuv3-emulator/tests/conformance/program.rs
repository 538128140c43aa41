//! Programs of an owner of an SMMU: mostly what a driver would do, in any order
//! and with any sizes, and now and then anything.

use proptest::prelude::*;
use smmuv3_emulator::Size;
use smmuv3_spec::command::Command;
use smmuv3_spec::reg;
use smmuv3_spec::ste::{L1Std, Ste};

/// Where the owner has its structures.
pub const LINEAR: u64 = 0x8000_0000;
pub const LEVEL1: u64 = 0x8000_8000;
pub const LEVEL2: u64 = 0x8001_0000;
pub const COMMANDS: u64 = 0x8002_0000;
pub const EVENTS: u64 = 0x8002_8000;
pub const REQUESTS: u64 = 0x8003_0000;
/// Eight context descriptors, then a table of level 1 of such.
pub const CONTEXTS: u64 = 0x8004_0000;
pub const TABLES: u64 = 0x8005_0000;
/// Where devices write.
pub const TARGET: u64 = 0x8010_0000;
/// log2 of the streams of the table.
pub const STREAM_BITS: u8 = 8;
/// Streams that devices use.
pub const USED: [u32; 6] = [0, 1, 63, 64, 200, 255];

/// One thing that the owner or a device does.
#[derive(Clone, Debug)]
pub enum Step {
    /// A write of a register.
    Write(u32, Size, u64),
    /// A store to memory that is no stream table.
    Store(u64, u64),
    /// The whole of a bring-up, as register writes and stores.
    BringUp {
        two_level: bool,
        command_log2: u8,
        event_log2: u8,
        pri_log2: u8,
        cr0: u32,
        irq: u32,
    },
    /// Stage 1 tables and context descriptors with leaves of any kind.
    Tables(u64),
    /// An entry of the stream table, then a command that covers it and a
    /// CMD_SYNC.
    Entry {
        stream: u32,
        words: [u64; 8],
        how: u8,
    },
    /// Commands, and CMDQ_PROD.
    Commands(Vec<[u64; 2]>),
    /// A device's access.
    Dma {
        stream: u32,
        substream: Option<u32>,
        privileged: bool,
        address: u64,
        kind: u8,
    },
    /// The indices that the owner's driver moves: events (0) or requests (1).
    Consume(bool),
    /// Every active error is acknowledged.
    Acknowledge,
    /// A page request.
    Ask([u64; 2]),
    /// CMD_RESUME of what the event queue tells of.
    Resume(bool),
}

fn bits() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => any::<u64>(),
        2 => 0..64u64,
        1 => (0..64u32).prop_map(|n| 1 << n),
    ]
}

fn write() -> impl Strategy<Value = Step> {
    let known = prop::sample::select(vec![
        reg::CR0,
        reg::CR1,
        reg::CR2,
        reg::GBPA,
        reg::IRQ_CTRL,
        reg::GERROR,
        reg::GERRORN,
        reg::GERROR_IRQ_CFG1,
        reg::GERROR_IRQ_CFG2,
        reg::STRTAB_BASE_CFG,
        reg::CMDQ_PROD,
        reg::CMDQ_CONS,
        reg::EVENTQ_PROD,
        reg::EVENTQ_CONS,
        reg::EVENTQ_IRQ_CFG1,
        reg::EVENTQ_IRQ_CFG2,
        reg::PRIQ_PROD,
        reg::PRIQ_CONS,
        reg::PRIQ_IRQ_CFG2,
        reg::STRTAB_BASE,
        reg::STRTAB_BASE + 4,
        reg::CMDQ_BASE,
        reg::EVENTQ_BASE + 4,
        reg::IDR0,
        reg::CR0ACK,
        reg::STATUSR,
        reg::IRQ_CTRLACK,
        reg::EVENTQ_CONS_ALIAS,
        0x400,
        0x10000,
    ]);
    let wide = prop::sample::select(vec![
        reg::STRTAB_BASE,
        reg::CMDQ_BASE,
        reg::EVENTQ_BASE,
        reg::PRIQ_BASE,
        reg::GERROR_IRQ_CFG0,
        reg::EVENTQ_IRQ_CFG0,
        reg::PRIQ_IRQ_CFG0,
        reg::CR0,
        reg::CMDQ_PROD,
    ]);
    let size = prop::sample::select(vec![
        Size::Word,
        Size::Word,
        Size::Word,
        Size::Word,
        Size::Half,
        Size::Byte,
        Size::Double,
    ]);
    let place = prop::sample::select(vec![
        LINEAR,
        LEVEL1,
        COMMANDS,
        EVENTS,
        REQUESTS,
        TARGET,
        0x7000_0000,
        0x8040_0000,
    ]);
    let base = (place, 0..20u64, 0..2u64).prop_map(|(at, log2, ra)| at | log2 | ra << 62);
    prop_oneof![
        4 => (known, size, bits()).prop_map(|(offset, size, value)| Step::Write(offset, size, value)),
        3 => (wide, prop_oneof![base, any::<u64>()])
            .prop_map(|(offset, value)| Step::Write(offset, Size::Double, value)),
        4 => (0..32u64).prop_map(|value| Step::Write(reg::CR0, Size::Word, value)),
        2 => (any::<bool>(), 0..0x100u64, any::<bool>()).prop_map(|(abort, low, update)| {
            let value = u64::from(abort) << 20 | low << 8 & 0xff1f | u64::from(update) << 31;
            Step::Write(reg::GBPA, Size::Word, value)
        }),
        1 => (0..8u64).prop_map(|value| Step::Write(reg::IRQ_CTRL, Size::Word, value)),
        1 => (0..20_000u32, 0..4u32, bits()).prop_map(|(offset, low, value)| {
            Step::Write(offset * 4 + low, Size::Word, value)
        }),
    ]
}

fn bring_up() -> impl Strategy<Value = Step> {
    let cr0 = prop_oneof![
        4 => Just(0b11101u32),
        2 => Just(0b11111),
        2 => Just(0b01101),
        3 => 0..32u32,
    ];
    (any::<bool>(), 1..9u8, 0..8u8, 0..6u8, cr0, 0..8u32).prop_map(
        |(two_level, command_log2, event_log2, pri_log2, cr0, irq)| Step::BringUp {
            two_level,
            command_log2,
            event_log2,
            pri_log2,
            cr0,
            irq,
        },
    )
}

fn command() -> impl Strategy<Value = [u64; 2]> {
    let opcode = prop::sample::select(vec![
        0x01u64, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40, 0x44, 0x45,
        0x07, 0x18, 0x20, 0x28, 0x2a, 0x41,
    ]);
    let stream = prop_oneof![4 => prop::sample::select(USED.to_vec()), 1 => any::<u32>()];
    let low = prop_oneof![6 => Just(0u64), 1 => 0..0x100_0000u64];
    let high = prop_oneof![4 => 0..2u64, 2 => 0..0x1000u64, 1 => Just(31), 1 => Just(52)];
    let address = prop_oneof![
        4 => (0..0x400u64).prop_map(|page| page << 12),
        1 => any::<u64>().prop_map(|bits| bits & !0xfff),
    ];
    let any_command =
        (opcode, stream, low, high, address).prop_map(|(opcode, stream, low, high, at)| {
            [opcode | low << 8 | u64::from(stream) << 32, high | at]
        });
    let at = prop_oneof![
        3 => (0..64u64).prop_map(|slot| COMMANDS + slot * 16 + 8),
        2 => (0..512u64).prop_map(|word| TARGET + word * 4),
        1 => Just(0),
        1 => Just(0x7000_0000),
        1 => any::<u64>().prop_map(|bits| bits & 0x000f_ffff_ffff_fffc),
    ];
    let cs = prop_oneof![8 => 0..3u64, 1 => Just(3)];
    let sync = (cs, any::<u32>(), at).prop_map(|(cs, data, at)| {
        [
            0x46 | cs << 12 | 3 << 22 | 0xf << 24 | u64::from(data) << 32,
            at,
        ]
    });
    prop_oneof![
        5 => any_command,
        4 => sync,
        4 => Just(Command::sync(0).0),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| [a, b]),
    ]
}

fn entry() -> impl Strategy<Value = Step> {
    let config = prop_oneof![
        3 => Just(0b1001u64),
        6 => Just(0b1011),
        1 => Just(0b0001),
        1 => Just(0),
        1 => 0..16u64,
    ];
    let pointer = prop_oneof![
        8 => (0..8u64).prop_map(|n| CONTEXTS + n * 64),
        1 => Just(CONTEXTS + 0x1000),
        1 => Just(0x7000_0000),
        1 => any::<u64>().prop_map(|b| b & 0x00ff_ffff_ffff_ffc0),
    ];
    let substreams = prop_oneof![4 => Just(0u64), 3 => 1..4u64, 1 => 0..32u64];
    let format = prop_oneof![3 => Just(0u64), 1 => 0..4u64];
    // S1DSS, then cacheability of the descriptors' fetches.
    let dss = (0..4u64, 0..64u64).prop_map(|(dss, rest)| dss | rest << 2);
    // MEV, S1STALLD, EATS, SHCFG, MTCFG and attributes, PRIVCFG, INSTCFG.
    let flags = (
        any::<bool>(),
        any::<bool>(),
        0..4u64,
        0..4u64,
        0..32u64,
        0..16u64,
    )
        .prop_map(|(mev, stalld, eats, share, memory, access)| {
            u64::from(mev) << 19
                | u64::from(stalld) << 27
                | eats << 28
                | share << 44
                | memory << 32
                | access << 48
        });
    let second = (dss, prop_oneof![2 => Just(0), 2 => flags]).prop_map(|(dss, flags)| dss | flags);
    let second = prop_oneof![6 => second, 1 => bits()];
    let rest = prop_oneof![6 => Just(0u64), 1 => bits()];
    let stream = prop_oneof![6 => prop::sample::select(USED.to_vec()), 1 => 0..256u32];
    let first = (config, pointer, substreams, format)
        .prop_map(|(config, pointer, s, format)| config | format << 4 | pointer | s << 59);
    (stream, first, second, rest, 0..5u8).prop_map(|(stream, first, second, rest, how)| {
        Step::Entry {
            stream,
            words: [first, second, rest, rest, 0, 0, 0, 0],
            how,
        }
    })
}

fn dma() -> impl Strategy<Value = Step> {
    let stream = prop_oneof![8 => prop::sample::select(USED.to_vec()), 1 => any::<u32>()];
    let substream = prop_oneof![3 => Just(None), 2 => (0..5u32).prop_map(Some), 1 => (0..0x10_0000u32).prop_map(Some)];
    let address = prop_oneof![
        6 => (0..0x400u64).prop_map(|n| n << 12),
        4 => (0..0x300u64).prop_map(|n| TARGET + (n << 12)),
        1 => any::<u64>(),
        1 => (0..64u32).prop_map(|n| 1 << n),
    ];
    (stream, substream, any::<bool>(), address, 0..512u64, 0..4u8).prop_map(
        |(stream, substream, privileged, address, word, kind)| Step::Dma {
            stream,
            substream,
            privileged,
            address: (address & !0xfff) | (word * 8),
            kind,
        },
    )
}

/// One step.
pub fn step() -> impl Strategy<Value = Step> {
    let store =
        (0..0x6000u64, bits()).prop_map(|(word, value)| Step::Store(COMMANDS + word * 8, value));
    prop_oneof![
        4 => write(),
        1 => store,
        3 => bring_up(),
        2 => any::<u64>().prop_map(Step::Tables),
        8 => entry(),
        6 => prop::collection::vec(command(), 1..5).prop_map(Step::Commands),
        14 => dma(),
        3 => any::<bool>().prop_map(Step::Consume),
        1 => Just(Step::Acknowledge),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(a, b)| Step::Ask([a, b])),
        2 => any::<bool>().prop_map(Step::Resume),
    ]
}

/// A program that begins as a driver does.
pub fn program() -> impl Strategy<Value = Vec<Step>> {
    let first = (
        any::<u64>(),
        bring_up(),
        prop::collection::vec(entry(), 0..4),
    );
    let rest = prop::collection::vec(step(), 1..40);
    (prop::bool::weighted(0.85), first, rest).prop_map(|(legal, (seed, up, entries), rest)| {
        let mut steps = Vec::new();
        if legal {
            steps.extend([Step::Tables(seed), up]);
            steps.extend(entries);
        }
        steps.extend(rest);
        steps
    })
}

/// The stores and writes of a bring-up (3.11, 6.3.9).
pub fn bring_up_writes(step: &Step) -> Vec<(u32, Size, u64)> {
    let Step::BringUp {
        two_level,
        command_log2,
        event_log2,
        pri_log2,
        cr0,
        irq,
    } = *step
    else {
        return Vec::new();
    };
    let format = if two_level {
        1 << 16 | 6 << 6 | u64::from(STREAM_BITS)
    } else {
        u64::from(STREAM_BITS)
    };
    let table = if two_level { LEVEL1 } else { LINEAR };
    let mut writes = vec![
        // What happens while translation is off.
        (
            reg::GBPA,
            Size::Word,
            u64::from(irq) >> 1 << 20 & 1 << 20 | 1 << 31 | 1 << 12,
        ),
        (reg::CR0, Size::Word, 0),
        (reg::IRQ_CTRL, Size::Word, 0),
        (reg::CR1, Size::Word, 0xd75),
        (reg::CR2, Size::Word, 0b110),
        (reg::STRTAB_BASE, Size::Double, table | 1 << 62),
        (reg::STRTAB_BASE_CFG, Size::Word, format),
        (
            reg::CMDQ_BASE,
            Size::Double,
            COMMANDS | u64::from(command_log2),
        ),
        (reg::CMDQ_PROD, Size::Word, 0),
        (reg::CMDQ_CONS, Size::Word, 0),
        (
            reg::EVENTQ_BASE,
            Size::Double,
            // Aligned to its size by the SMMU.
            EVENTS | u64::from(irq & 1) << 5 | u64::from(event_log2),
        ),
        (reg::EVENTQ_PROD, Size::Word, 0),
        (reg::EVENTQ_CONS, Size::Word, 0),
        (reg::PRIQ_BASE, Size::Double, REQUESTS | u64::from(pri_log2)),
        (reg::PRIQ_PROD, Size::Word, 0),
        (reg::PRIQ_CONS, Size::Word, 0),
        (reg::IRQ_CTRL, Size::Word, irq.into()),
    ];
    // One after the other, the translation last.
    let mut on = 0;
    for bit in [3, 2, 1, 4, 0] {
        if cr0 >> bit & 1 != 0 {
            on |= 1 << bit;
            writes.push((reg::CR0, Size::Word, on));
        }
    }
    writes
}

/// The stream table's second-level tables are always there.
pub fn level1() -> Vec<(u64, u64)> {
    let descriptor = |n: u64| {
        // 64 entries each; the last but one is missing.
        let span = if n == 2 { 0 } else { 7 };
        let descriptor = L1Std([0]).with_span(span).with_l2ptr(LEVEL2 + n * 0x1000);
        (LEVEL1 + n * 8, descriptor.0[0])
    };
    (0..4).map(descriptor).collect()
}

/// Where the entry of a stream is, in either table.
pub fn entry_places(stream: u32) -> [u64; 2] {
    let at = u64::from(stream & 0xff) * Ste::SIZE;
    [LINEAR + at, LEVEL2 + at]
}

/// Stage 1 tables and context descriptors drawn from a seed: two roots for 39
/// and 48 bits, one level 2, one level 3.
pub fn tables(seed: u64) -> Vec<(u64, u64)> {
    let mut state = seed | 1;
    let mut draw = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % bound
    };
    let (level0, level1, level2, level3) =
        (TABLES, TABLES + 0x1000, TABLES + 0x2000, TABLES + 0x3000);
    let mut words = Vec::new();
    for n in 0..512 {
        let page = TARGET + (n << 12);
        let flags = 1 << 10 | 1 << 6;
        let leaf = match draw(16) {
            0 => 0,
            1 => page | flags | 0b01,
            2 => page | 1 << 6 | 0b11,
            3 => page | 1 << 10 | 0b11,
            4 => page | flags | 1 << 7 | 0b11,
            5 => page | flags | 1 << 51 | 1 << 7 | 0b11,
            6 => page | flags | 0b11 << 53 | 0b11,
            7 => 0x7000_0000 | flags | 0b11,
            // Beyond the output size.
            8 => 0xff00_0000_0000 | flags | 0b11,
            9 => page | flags | draw(8) << 2 | draw(4) << 8 | 1 << 11 | 0b11,
            _ => page | flags | 0b11,
        };
        words.push((level3 + n * 8, leaf));
    }
    words.push((level2, level3 | 0b11));
    words.push((level2 + 8, 0x8020_0000 | 1 << 10 | 1 << 6 | 0b01));
    words.push((level2 + 16, level3 | draw(32) << 59 | 0b11));
    words.push((level2 + 24, 0x7000_0000 | 0b11));
    for root in [0, 2] {
        words.push((level1 + root * 8, level2 | 0b11));
    }
    words.push((level1 + 8, draw(4) << 30 | 1 << 10 | 0b01));
    words.push((level0, level1 | 0b11));
    for n in 0..12 {
        let at = CONTEXTS + n * 64;
        let (t0sz, root) = if draw(2) == 0 {
            (25, level1)
        } else {
            (16, level0)
        };
        // T0SZ, EPD1, V, IPS, AA64, R, A, ASID.
        let mut cd = t0sz | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | n << 48;
        if draw(4) == 0 {
            cd ^= 1 << draw(48);
        }
        if draw(4) == 0 {
            // S, HA, HD, AFFD, TBI.
            let bits = [44, 43, 42, 35, 38][draw(5) as usize];
            cd ^= 1 << bits;
        }
        words.extend([(at, cd), (at + 8, root), (at + 24, 0x00ff_4404_ffbb_0400)]);
    }
    // A table of level 1 of context descriptors.
    words.push((CONTEXTS + 0x1000, CONTEXTS | 1));
    words.push((CONTEXTS + 0x1008, 0x7000_0000 | 1));
    words
}

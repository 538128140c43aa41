//! The corpus of the fuzz target `model`, also where there is no fuzzer.
//!
//! Its files are made here, from words of the architecture text; after a change
//! `BLESS=1 cargo test -p smmuv3-model --test corpus` writes them anew. What a
//! fuzzer found lies beside them and stays.
#![allow(missing_docs)]

mod bytes;

use bytes::{COMMANDS, EVENTS, RAM, REGISTERS, SET_UP, run};
use smmuv3_spec::reg;
use std::fs;
use std::path::PathBuf;

const PLAIN: u8 = 0;
const GREEDY: u8 = 1;
const RANDOM: u8 = 2;
const QEMU: u8 = 0;
const MINIMAL: u8 = 1;
const FULL: u8 = 2;

fn corpus() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/model"
    ))
}

/// Writes what `bytes` reads.
struct Program(Vec<u8>);

impl Program {
    fn new(profile: u8, mode: u8, words: &[(u64, u64)]) -> Self {
        let mut this = Self(vec![profile, mode, words.len() as u8]);
        for (at, value) in words {
            this = this.word(*at).u64(*value);
        }
        this
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn word(self, at: u64) -> Self {
        let index = (at - RAM.start) / 8;
        self.raw(&(index as u16).to_le_bytes())
    }

    fn register(self, step: u8, offset: u32) -> Self {
        let number = REGISTERS.iter().position(|known| *known == offset);
        self.raw(&[step, number.unwrap() as u8])
    }

    fn write32(self, offset: u32, value: u32) -> Self {
        self.register(0, offset).raw(&value.to_le_bytes())
    }

    fn write64(self, offset: u32, value: u64) -> Self {
        self.register(1, offset).u64(value)
    }

    fn read32(self, offset: u32) -> Self {
        self.register(2, offset)
    }

    fn store(self, at: u64, value: u64) -> Self {
        self.raw(&[4]).word(at).u64(value)
    }

    fn publish(self, at: u64, size: u64) -> Self {
        self.raw(&[7]).word(at).u64(size)
    }

    fn dma(self, stream: u8, address: u64) -> Self {
        self.raw(&[8, 0, stream])
            .u64(address)
            .raw(&[9, stream])
            .u64(address)
            .u64(0x5555)
            .raw(&[10])
    }

    fn command(self, first: u64, second: u64) -> Self {
        self.raw(&[11]).u64(first).u64(second)
    }
}

/// Where stream 1 has its entry: 64 bytes each (5.2).
const ENTRY: u64 = RAM.start + 64;
/// Tables of translations and context descriptors.
const ROOT: u64 = RAM.start + 0x4000;
const LOWER: u64 = RAM.start + 0x6000;
const PAGES: u64 = RAM.start + 0x7000;
const CONTEXT: u64 = RAM.start + 0x8000;

/// V, and Config in bits 3:1 (5.2).
const ABORT: u64 = 1;
const BYPASS: u64 = 1 | 0b100 << 1;
const S1: u64 = 1 | 0b101 << 1;
const S2: u64 = 1 | 0b110 << 1;
const NESTED: u64 = 1 | 0b111 << 1;

/// Word 2: VMID 1, T0SZ 24, SL0 1, PS 40 bits, AA64, PTW, R.
const STAGE2: u64 = 1 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 54 | 1 << 58;

/// Entry of stream 1 with one kind of translation, and tables of stage 2 that
/// map the first 2 MiB of addresses: 512 pages, of which one is written.
fn stage2(config: u64) -> Vec<(u64, u64)> {
    vec![
        (ENTRY, config),
        (ENTRY + 16, STAGE2),
        (ENTRY + 24, ROOT),
        (ROOT, LOWER | 3),
        (LOWER, PAGES | 3),
        // Read and write, inner shareable, write-back, access flag.
        (PAGES, RAM.start | 0x7ff),
        (PAGES + 8, (RAM.start + 0x1000) | 0x7ff),
        // A block of 2 MiB behind it.
        (LOWER + 8, 0x8000_0000 | 0x7fd),
    ]
}

/// Stage 1 with one context descriptor (5.4): T0SZ 25, 4 KiB, EPD1, AA64, IPS
/// 40 bits, ASID 1, and the same tables.
fn stage1(config: u64) -> Vec<(u64, u64)> {
    let mut words = stage2(config | CONTEXT);
    words.push((
        CONTEXT,
        25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 48,
    ));
    words.push((CONTEXT + 8, ROOT));
    words.push((CONTEXT + 24, 0xff));
    words
}

/// Pseudo-random bytes (an LCG; its numbers are Knuth's).
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(next).collect()
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let on = |profile, mode, words: &[(u64, u64)]| Program::new(profile, mode | SET_UP, words);
    // CMD_CFGI_STE, CMD_TLBI_S12_VMALL, CMD_TLBI_S2_IPA, CMD_SYNC (4.3 to 4.7).
    let batch = |program: Program| {
        program
            .command(0x03 | 1 << 32, 1)
            .command(0x28 | 1 << 32, 0)
            .command(0x2a | 1 << 32, 0x1000)
            .command(0x46, 0)
    };
    let seeds = vec![
        ("empty", Program(Vec::new())),
        ("reset", Program::new(FULL, GREEDY, &[]).dma(0, 0)),
        (
            "gbpa",
            Program::new(FULL, GREEDY, &[])
                .write32(reg::GBPA, 1 << 31 | 1 << 20)
                .read32(reg::GBPA)
                .dma(0, RAM.start),
        ),
        ("abort", on(FULL, PLAIN, &[(ENTRY, ABORT)]).dma(1, 0)),
        (
            "bypass",
            on(FULL, GREEDY, &[(ENTRY, BYPASS)]).dma(1, RAM.start),
        ),
        ("invalid-entry", on(QEMU, GREEDY, &[(ENTRY, !1)]).dma(1, 0)),
        (
            "stage2",
            batch(on(FULL, GREEDY, &stage2(S2)).dma(1, 0x1000)),
        ),
        (
            "stage2-block",
            on(QEMU, RANDOM, &stage2(S2)).dma(1, 0x20_1008),
        ),
        (
            "stage2-minimal",
            batch(on(MINIMAL, GREEDY, &stage2(S2)).store(PAGES, 0))
                .publish(PAGES, 8)
                .dma(1, 0),
        ),
        ("stage2-too-large", on(FULL, GREEDY, &stage2(S2)).dma(1, !7)),
        ("stage1", on(FULL, GREEDY, &stage1(S1)).dma(1, 0x1008)),
        (
            "nested",
            batch(on(FULL, GREEDY, &stage1(NESTED)).dma(1, 0x1008)),
        ),
        (
            "loop",
            // Every level leads to the root again.
            on(FULL, GREEDY, &stage2(S2))
                .store(ROOT, ROOT | 3)
                .dma(1, 0),
        ),
        (
            "outside",
            // Tables where there is no memory.
            on(FULL, GREEDY, &stage2(S2))
                .store(ROOT, 0xffff_ffff_f003)
                .store(ENTRY + 24, 0x000f_ffff_ffff_fff0)
                .dma(1, 0),
        ),
        (
            "two-level",
            Program::new(FULL, GREEDY, &[(ROOT, LOWER | 7), (LOWER + 64, BYPASS)])
                .write64(reg::STRTAB_BASE, ROOT)
                .write32(reg::STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 8)
                .write32(reg::CR0, 1)
                .read32(reg::CR0ACK)
                .read32(reg::CR0ACK)
                .dma(1, RAM.start),
        ),
        (
            "illegal-command",
            on(FULL, GREEDY, &[])
                .command(0xff, 0)
                .read32(reg::GERROR)
                .write32(reg::GERRORN, 1)
                .command(0x46, 0),
        ),
        (
            "range-command",
            // NUM 31, SCALE 31, TTL 3, TG 3 over the end of all addresses.
            on(FULL, GREEDY, &stage2(S2))
                .dma(1, 0x1000)
                .command(
                    0x2a | 31 << 12 | 31 << 20 | 1 << 32,
                    3 << 8 | 3 << 10 | !0xfff,
                )
                .command(0x46, 0),
        ),
        (
            "command-wrap",
            (0..40).fold(on(QEMU, GREEDY, &[]), |program, n| {
                program.command(0x46 | (n % 4) << 12, COMMANDS)
            }),
        ),
        (
            "event-overflow",
            (0..12)
                .fold(on(QEMU, GREEDY, &[]), |program, n| program.dma(n, 0x1000))
                .read32(reg::EVENTQ_PROD)
                .write32(reg::EVENTQ_CONS, 1 << 31 | 4)
                .dma(1, 0),
        ),
        (
            "queue-at-the-end",
            Program::new(FULL, RANDOM, &[])
                .write64(reg::CMDQ_BASE, !0)
                .write64(reg::EVENTQ_BASE, EVENTS | 31)
                .write64(reg::STRTAB_BASE, !0)
                .write32(reg::STRTAB_BASE_CFG, !0)
                .write32(reg::CR0, !0)
                .read32(reg::CR0ACK)
                .write32(reg::CMDQ_PROD, !0)
                .read32(reg::CMDQ_CONS)
                .dma(255, !0),
        ),
        (
            "off-and-on",
            on(FULL, GREEDY, &stage2(S2))
                .dma(1, 0)
                .write32(reg::CR0, 0)
                .read32(reg::CR0ACK)
                .read32(reg::CR0ACK)
                .dma(1, 0)
                .write32(reg::CR0, 0b1101)
                .dma(1, 0),
        ),
    ];
    let mut seeds: Vec<_> = seeds.into_iter().map(|(name, p)| (name, p.0)).collect();
    let noises = ["noise-1", "noise-2", "noise-3", "noise-4"];
    for (name, seed) in noises.into_iter().zip(1..) {
        seeds.push((name, noise(seed, 1024)));
    }
    seeds
}

#[test]
fn the_seeds_are_in_the_corpus() {
    let bless = std::env::var_os("BLESS").is_some();
    for (name, bytes) in seeds() {
        let path = corpus().join(name);
        if bless {
            fs::create_dir_all(corpus()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        assert!(found == bytes, "{name} is not what is made here: BLESS=1");
    }
}

#[test]
fn the_corpus_is_small_and_harmless() {
    let mut files = 0;
    for file in fs::read_dir(corpus()).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(bytes.len() < 4096);
        run(&bytes);
        files += 1;
    }
    assert!((20..50).contains(&files), "{files}");
}

/// Seeds that only fault would leave most of the model to chance.
#[test]
fn seeds_get_through() {
    for (name, seed) in seeds() {
        let passed = run(&seed);
        match name {
            "bypass" | "stage2" | "stage2-block" | "off-and-on" | "two-level" => {
                assert!(passed > 0, "{name}");
            }
            "abort" | "invalid-entry" | "stage2-too-large" => {
                assert_eq!(passed, 0, "{name}");
            }
            _ => {}
        }
    }
}

/// A little of what a fuzzer does: every seed with a few bytes changed, and on
/// every profile in every mode.
#[test]
fn the_seeds_with_bytes_changed() {
    for ((name, seed), number) in seeds().into_iter().zip(1..) {
        if seed.len() < 4 {
            continue;
        }
        for round in 0..60u64 {
            let mut bytes = seed.clone();
            bytes[0] = (round % 3) as u8;
            bytes[1] = bytes[1] & SET_UP | (round / 3 % 3) as u8;
            for change in noise(number * 1000 + round, 12).chunks(3) {
                let at = usize::from(change[0]) << 4 | usize::from(change[1] & 15);
                let at = 3 + at % (seed.len() - 3);
                bytes[at] ^= change[2];
            }
            let result = std::panic::catch_unwind(|| run(&bytes));
            assert!(result.is_ok(), "{name} round {round}: {bytes:02x?}");
        }
    }
}

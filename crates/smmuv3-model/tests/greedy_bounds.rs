//! However tables, entries and commands are made, one step of a greedy SMMU
//! looks at a bounded number of descriptors: tables that lead into themselves,
//! context descriptors that change with every store, four streams at once.
#![allow(missing_docs)]

use smmuv3_model::{Access, Mode, Policy, Profile, Smmu, Transaction};
use smmuv3_spec::StreamId;
use std::ops::Range;

const RAM: Range<u64> = 0x8000_0000..0x8004_0000;
/// Stream table, linear; command queue; context descriptors.
const ENTRIES: u64 = RAM.start;
const COMMANDS: u64 = RAM.start + 0x1000;
const CONTEXTS: u64 = RAM.start + 0x2000;
/// What is a table of both stages, and a root.
const TABLES: u64 = RAM.start + 0x1_0000;
const STREAMS: u32 = 4;

const CR0: u32 = 0x20;
const CR0ACK: u32 = 0x24;
const STRTAB_BASE: u32 = 0x80;
const STRTAB_BASE_CFG: u32 = 0x88;
const CMDQ_BASE: u32 = 0x90;
const CMDQ_PROD: u32 = 0x98;
const CMDQ_CONS: u32 = 0x9c;
const GERROR: u32 = 0x60;
const GERRORN: u32 = 0x64;

/// Descriptors that are looked at between two commands: 2^18 of stage 2 that
/// are new and 2^18 once more, and 2^18 in each of up to three rounds of stage 1.
const MOST: u64 = 5 << 18;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A page of the tables, aligned for every granule or none.
    fn table(&mut self) -> u64 {
        let align = self.pick(&[!0xfff, !0x3fff, !0xffff]);
        (TABLES + self.below(RAM.end - TABLES)) & align
    }

    /// A table, a page or block, or anything.
    fn descriptor(&mut self) -> u64 {
        match self.below(8) {
            0 => self.next(),
            1 => self.table() | 0x4c1 | self.below(2) << 52,
            _ => self.table() | 0x4c3,
        }
    }

    /// A word of a stream table entry that often is legal.
    fn entry(&mut self, word: u64) -> u64 {
        if self.below(16) == 0 {
            return self.next();
        }
        let shapes = [
            24 | 1 << 6,
            16 | 2 << 6,
            34,
            25 | 1 << 6 | 2 << 14,
            16 | 2 << 6 | 1 << 14,
            20 | 1 << 6 | 1 << 14,
        ];
        match word {
            0 => {
                let config = self.pick(&[0b101, 0b110, 0b111, 0b111]);
                let max = self.pick(&[0, 0, 1, 6, 20]);
                let context = CONTEXTS | self.below(4) << 6;
                1 | config << 1 | self.below(3) << 4 | context | max << 59
            }
            1 => self.below(4) | self.below(4) << 28,
            2 => self.below(3) | self.pick(&shapes) << 32 | 5 << 48 | 1 << 51,
            3 => self.table(),
            _ => 0,
        }
    }

    /// A word of a context descriptor that often is legal.
    fn context(&mut self, word: u64) -> u64 {
        if self.below(16) == 0 {
            return self.next();
        }
        let (size, tg0, tg1) = self.pick(&[
            (25u64, 0u64, 2u64),
            (16, 0, 2),
            (17, 2, 1),
            (28, 2, 1),
            (16, 1, 3),
            (22, 1, 3),
        ]);
        match word {
            0 => {
                let sizes = size | tg0 << 6 | size << 16 | tg1 << 22;
                sizes | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 46 | self.below(4) << 48
            }
            1 | 2 => self.table(),
            _ => 0,
        }
    }

    /// Two words of a command.
    fn command(&mut self) -> [u64; 2] {
        let opcode = self.pick(&[
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x28,
            0x2a, 0x30, 0x40, 0x46, 0x46, 0x46, 0x46,
        ]);
        let (low, high) = (self.next(), self.next());
        match self.below(4) {
            0 => [low & !0xff | opcode, high],
            1 => [opcode | self.below(4) << 32, self.below(32)],
            2 => [
                opcode | low & 0x3_01ff_f000,
                high & 0xffff_ffff_f000 | self.below(1 << 12),
            ],
            _ => [opcode, 0],
        }
    }

    /// Where, and what.
    fn store(&mut self) -> (u64, u64) {
        let stream = self.below(STREAMS.into());
        match self.below(4) {
            0 => {
                let word = self.below(8);
                (ENTRIES + stream * 64 + word * 8, self.entry(word))
            }
            1 => {
                let word = self.below(8);
                (
                    CONTEXTS + self.below(64) * 64 + word * 8,
                    self.context(word),
                )
            }
            _ => {
                let at = TABLES + (self.below(RAM.end - TABLES) & !7);
                (at, self.descriptor())
            }
        }
    }
}

struct Anything;

impl Policy for Anything {
    fn first_forbidden(&self, _: StreamId, _: Range<u64>, _: bool) -> Option<u64> {
        None
    }
    fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

fn command(smmu: &mut Smmu, noise: &mut Noise) {
    let prod = smmu.read32(CMDQ_PROD);
    let [low, high] = noise.command();
    let at = COMMANDS + u64::from(prod & 63) * 16;
    smmu.store(at, low);
    smmu.store(at + 8, high);
    smmu.publish(at, 16);
    smmu.write32(CMDQ_PROD, prod.wrapping_add(1) & 127);
    for _ in 0..4 {
        smmu.read32(CMDQ_CONS);
    }
    let error = smmu.read32(GERROR);
    if error & 1 != smmu.read32(GERRORN) & 1 {
        // What could not be executed becomes a CMD_SYNC.
        let cons = smmu.read32(CMDQ_CONS) & 63;
        let at = COMMANDS + u64::from(cons) * 16;
        smmu.store(at, 0x46);
        smmu.store(at + 8, 0);
        smmu.publish(at, 16);
        smmu.write32(GERRORN, error);
    }
}

fn power(smmu: &mut Smmu, noise: &mut Noise) {
    smmu.write32(CR0, 0b1000);
    while smmu.read32(CR0ACK) != 0b1000 {}
    if noise.below(4) == 0 {
        smmu.write64(STRTAB_BASE, noise.table());
        smmu.write32(STRTAB_BASE_CFG, noise.next() as u32 & 0x3_07ff);
    } else {
        smmu.write64(STRTAB_BASE, ENTRIES);
        smmu.write32(STRTAB_BASE_CFG, 2);
    }
    smmu.write32(CR0, 0b1001);
    while smmu.read32(CR0ACK) != 0b1001 {}
}

/// Runs `steps` random steps, none of which may take long.
fn run(profile: Profile, mode: Mode, seed: u64, steps: u64) {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let streams = (0..STREAMS).map(StreamId);
    let mut smmu = Smmu::new(profile, std::iter::once(RAM), mode, streams);
    for at in (TABLES..RAM.end).step_by(8) {
        smmu.ram_mut().settle(at, noise.descriptor());
    }
    for stream in 0..u64::from(STREAMS) {
        for word in 0..8 {
            let entry = noise.entry(word);
            smmu.ram_mut()
                .settle(ENTRIES + stream * 64 + word * 8, entry);
        }
    }
    for index in 0..64 {
        for word in 0..8 {
            let context = noise.context(word);
            smmu.ram_mut()
                .settle(CONTEXTS + index * 64 + word * 8, context);
        }
    }
    smmu.write64(CMDQ_BASE, COMMANDS | 6);
    for step in 0..steps {
        let before = smmu.counts();
        match noise.below(16) {
            _ if step == 0 => power(&mut smmu, &mut noise),
            0 => power(&mut smmu, &mut noise),
            1..=4 => command(&mut smmu, &mut noise),
            5 => {
                let access = noise.pick(&[Access::Read, Access::Write, Access::Execute]);
                let stream = StreamId(noise.below(STREAMS.into()) as u32);
                let _ = smmu.write(Transaction::new(stream, noise.next() >> 24, access), 1);
            }
            6 => {
                let _ = smmu.check(&Anything);
            }
            7 => smmu.publish(RAM.start, RAM.end - RAM.start),
            _ => {
                let (at, value) = noise.store();
                smmu.store(at, value);
            }
        }
        let now = smmu.counts();
        let looks = now.descriptors - before.descriptors;
        // Each CMD_SYNC is another chance to look again; and translation is
        // looked at when it is asked for and when it is there.
        let rounds = now.syncs - before.syncs + 2;
        assert!(looks <= MOST * rounds, "seed {seed}, step {step}: {looks}");
    }
    let counts = smmu.counts();
    // It was not for lack of anything to look at.
    assert!(counts.descriptors > 1 << 16, "seed {seed}: {counts:?}");
    assert!(
        counts.syncs > 0 && counts.commands > counts.syncs,
        "seed {seed}: {counts:?}"
    );
}

#[test]
fn no_step_looks_at_more_than_so_many_descriptors() {
    for (seed, profile) in (1..).zip([
        Profile::full(),
        Profile::mmu700(),
        Profile::qemu(),
        Profile::full(),
    ]) {
        let mode = [Mode::Greedy { seed }, Mode::Random { seed }][seed as usize % 2];
        run(profile, mode, seed, 60);
    }
}

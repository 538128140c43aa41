//! Random cases.

use crate::case::{Access, Case, Step};
use crate::layout::{self, DATA};
use crate::machine::DEVICES;
use crate::random::Random;
use crate::second::{self, Second};
use crate::streams::{self, Streams};
use crate::tables::{Build, Damage, Shape, Stage, Tree};

const CFGI_ALL: [u64; 2] = [0x04, 31];
const SYNC: [u64; 2] = [0x46, 0];

/// A path that was built, for accesses to aim at.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What the device has to say.
    pub input: u64,
    /// Where that is meant to lead.
    pub output: u64,
    /// Bytes that one leaf maps.
    pub size: u64,
    /// The descriptor that ends the path.
    pub leaf: Option<u64>,
}

/// Case `number` of a run with `seed`.
#[must_use]
pub fn case(seed: u64, number: u64) -> Case {
    let mut random = Random::new(seed, number);
    let streams = streams::table(&mut random, number % 2 == 1);
    let mut draft = Draft::new(random, streams);
    for index in 0..DEVICES.len() {
        draft.device(index);
    }
    draft.finish()
}

/// A case under construction.
pub struct Draft {
    pub(crate) build: Build,
    case: Case,
    targets: Vec<Vec<Target>>,
}

impl Draft {
    fn new(mut random: Random, streams: Streams) -> Self {
        let case = Case {
            table: streams.base,
            table_config: streams.config,
            // RECINVSID mostly; PTM and E2H do not matter here.
            cr2: if random.chance(95) { 0b010 } else { 0 },
            event_log2: 4 + random.below(4) as u32,
            command_log2: 4 + random.below(4) as u32,
            words: streams.words,
            entries: streams.entries,
            steps: Vec::new(),
        };
        Self { build: Build::new(random), case, targets: vec![Vec::new(); DEVICES.len()] }
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.build.random
    }

    /// Gives a device an entry. The first one gets tables, the others seldom.
    fn device(&mut self, index: usize) {
        let stream = DEVICES[index].stream;
        let Some(at) = self.case.entries.get(&stream).copied() else {
            return;
        };
        let kind = self.random().below(100);
        let mut ste = match (index, kind) {
            (0, 0..=89) => self.translating(index),
            (0, 90..) => self.plain(),
            (_, 0..=79) => return,
            (_, 80..=89) => self.translating(index),
            _ => self.plain(),
        };
        // Fields that do not matter here: S1CIR to S1CSH, MTCFG, SHCFG, …
        if self.random().chance(30) {
            ste[1] |= self.random().bits(6) << 2 | self.random().bits(9) << 32;
            ste[1] |= self.random().bits(2) << 44;
        }
        if self.random().chance(2) {
            ste[0] &= !1;
        }
        for (offset, word) in (0..).step_by(8).zip(ste) {
            if word != 0 {
                self.build.words.insert(at + offset, word);
            }
        }
    }

    /// Bypass, abort, or a reserved Config that aborts.
    fn plain(&mut self) -> [u64; 8] {
        let config = self.random().pick(&[0b100u64, 0b100, 0b000, 0b001, 0b011]);
        let stray = self.random().bits(40) << 12 & if config == 0b100 { 0 } else { u64::MAX };
        [1 | config << 1 | stray & !0xfff, 0, 0, 0, 0, 0, 0, 0]
    }

    fn translating(&mut self, index: usize) -> [u64; 8] {
        self.only_second(index)
    }

    /// Stage 2 alone.
    fn only_second(&mut self, index: usize) -> [u64; 8] {
        let second = second::choose(self.random());
        let mut tree = self.build.tree(Stage::Two, second.shape);
        self.fill_second(index, &second, &mut tree);
        let mut ste = [1 | 0b110 << 1, 0, second.word, tree.root, 0, 0, 0, 0];
        // The root is aligned to its size by ignoring bits.
        if self.random().chance(4) {
            let bytes = (8 * second.shape.entries(second.shape.start)).max(64);
            ste[3] |= self.random().bits(20) & (bytes - 1) & !0xf;
        }
        if self.random().chance(8) {
            second::spoil(self.random(), &mut ste);
        }
        ste
    }

    fn fill_second(&mut self, index: usize, second: &Second, tree: &mut Tree) {
        for _ in 0..1 + self.random().below(4) {
            let output = self.output();
            let random = self.random();
            let level = random.pick(&second.shape.leaf_levels());
            let size = 1u64 << second.shape.shift(level);
            let input = input(random, second.shape.bits, size) | output & (size - 1);
            let leaf = second::leaf(random, output & !(size - 1), level == 3);
            let damage = damage(random, &second.shape, level, second.output);
            let at = self.build.insert(Stage::Two, tree, input, level, leaf, damage);
            self.targets[index].push(Target { input, output, size, leaf: at });
        }
    }

    /// Somewhere in the data, mostly at the start of a page.
    pub(crate) fn output(&mut self) -> u64 {
        let range = self.random().pick(&[0usize, 1]);
        let range = DATA[range].clone();
        let at = range.start + self.random().below(range.end - range.start);
        if self.random().chance(92) { at & !0xfff } else { at & !3 }
    }

    fn finish(mut self) -> Case {
        let rounds = 1 + self.random().below(3);
        for round in 0..rounds {
            if round > 0 {
                self.mutate();
            }
            for _ in 0..2 + self.random().below(5) {
                self.access();
            }
        }
        self.case.words.append(&mut self.build.words);
        self.case
    }

    fn access(&mut self) {
        let mut device = 0;
        if self.random().chance(15) {
            device = self.random().below(DEVICES.len() as u64) as usize;
        }
        let targets = std::mem::take(&mut self.targets[device]);
        let random = self.random();
        let mut address = 0x5000_0000 + (random.bits(19) & !0xfff);
        let mut lands = Some(address);
        if !targets.is_empty() {
            let target = random.pick(&targets);
            address = target.input;
            lands = Some(target.output).filter(|at| layout::is_data(*at));
            if random.chance(35) {
                lands = None;
                let last = if random.chance(5) { 4 } else { 0x1000 };
                address = match random.below(24) {
                    0..4 => address.wrapping_add(target.size),
                    4..8 => address.wrapping_sub(target.size),
                    8..13 => address ^ 1 << (12 + random.below(32)),
                    // Far out: QEMU records less than it has to.
                    13 => address ^ 1 << (12 + random.below(52)),
                    14..18 => (address & !(target.size - 1)) + target.size - last,
                    18..21 => address & !(target.size - 1),
                    _ => random.bits(44) >> random.below(30),
                };
                // These fault more often: see `ipa-offset`.
                if last != 4 {
                    address &= !0xfff;
                }
            }
        }
        self.targets[device] = targets;
        let random = self.random();
        let write = random.chance(50).then(|| random.next() as u32 | 1);
        // Mostly within the sizes of addresses: see `bypass-address-size`.
        let address = if random.chance(98) { address & 0xfff_ffff_ffff } else { address } & !3;
        self.case.steps.push(Step::Access(Access { device, address, write, lands }));
    }

    /// Changes a leaf, and invalidates what was cached of it.
    fn mutate(&mut self) {
        let leaves: Vec<(usize, Target)> = (0..)
            .zip(&self.targets)
            .flat_map(|(device, targets)| targets.iter().map(move |target| (device, *target)))
            .filter(|(_, target)| target.leaf.is_some())
            .collect();
        let mut commands = vec![];
        if let Some((_, target)) = (!leaves.is_empty()).then(|| self.random().pick(&leaves)) {
            let at = target.leaf.unwrap_or(0);
            let old = self.build.words.get(&at).copied().unwrap_or(0);
            let random = self.random();
            let new = match random.below(4) {
                0 => old ^ 1,
                1 => old ^ random.bits(2) << 6,
                2 => old ^ 1 << 10,
                _ => old ^ 1 << random.pick(&[21u32, 33, 53, 54, 12, 16]),
            };
            self.case.steps.push(Step::Store(vec![(at, new)]));
            commands.push([0x30, 0]);
        }
        if self.random().chance(20) {
            commands.push(CFGI_ALL);
        }
        commands.push(SYNC);
        self.case.steps.push(Step::Commands(commands));
    }
}

/// An input address whose bits below `size` are zero, often at an edge.
pub fn input(random: &mut Random, bits: u32, size: u64) -> u64 {
    let all = u64::MAX >> (64 - bits);
    let value = match random.below(5) {
        0 => 0,
        1 => all,
        2 => 1 << random.below(u64::from(bits)),
        _ => random.bits(bits),
    };
    value & !(size - 1)
}

/// What is wrong with a path to `level`: mostly nothing.
pub fn damage(random: &mut Random, shape: &Shape, level: u32, output: u32) -> Option<Damage> {
    if !random.chance(30) {
        return None;
    }
    let at = shape.start + random.below(u64::from(level - shape.start) + 1) as u32;
    Some(match random.below(4) {
        0 => Damage::Invalid(at),
        1 => Damage::Reserved(at),
        2 => {
            // In a table descriptor seldom: QEMU does not look.
            let at = if random.chance(80) { level } else { at };
            Damage::Large(at, output + random.below(u64::from(48 - output.min(47))) as u32)
        }
        _ => Damage::Hole(at),
    })
}

//! Random cases.

use crate::case::{Access, Case, Step};
use crate::commands;
use crate::first::{self, First};
use crate::invalidate::{Tags, invalidate};
use crate::layout::{self, DATA};
use crate::machine::DEVICES;
use crate::random::Random;
use crate::second::{self, Second};
use crate::streams::{self, Streams};
use crate::tables::{Build, Stage, Tree, damage, input};

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
    /// The IPA, if that descriptor is of stage 2 under a stage 1.
    pub middle: Option<u64>,
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
    tags: Vec<Tags>,
}

impl Draft {
    fn new(mut random: Random, streams: Streams) -> Self {
        let command_log2 = 4 + random.below(4) as u32;
        let drain = random.chance(98);
        let event_log2 = if drain { 4 + random.below(4) as u32 } else { 1 };
        let case = Case {
            table: streams.base,
            table_config: streams.config,
            // RECINVSID mostly; PTM and E2H do not matter here.
            cr2: if random.chance(95) { 0b010 } else { 0 },
            event_log2,
            command_log2,
            drain,
            event_start: random.bits(event_log2 + 1) as u32,
            command_start: random.bits(command_log2 + 1) as u32,
            words: streams.words,
            entries: streams.entries,
            steps: Vec::new(),
        };
        Self {
            build: Build::new(random),
            case,
            targets: vec![Vec::new(); DEVICES.len()],
            tags: vec![Tags::default(); DEVICES.len()],
        }
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
        match self.random().below(10) {
            0..4 => self.only_second(index),
            4..7 => self.with_first(index, false),
            _ => self.with_first(index, true),
        }
    }

    /// Stage 1, with stage 2 below it or without.
    fn with_first(&mut self, index: usize, nested: bool) -> [u64; 8] {
        let granule = self.random().pick(&[12u32, 12, 14, 16]);
        let mut ste = [1 | 0b101 << 1, 0, self.random().bits(16), 0, 0, 0, 0, 0];
        let mut below = None;
        if nested {
            // QEMU reads a table beyond its first page of stage 2 wrongly.
            let second = loop {
                let second = second::choose(self.random());
                if second.shape.granule >= granule || self.random().chance(4) {
                    break second;
                }
            };
            let tree = self.build.tree(Stage::Two, second.shape);
            ste = [1 | 0b111 << 1, 0, second.word, tree.root, 0, 0, 0, 0];
            self.build.second = Some(tree);
            below = Some(second);
        }
        let least = below.map_or(32, |second| second.shape.bits);
        let mut first = first::choose(self.random(), granule, least);
        let mut tree = self.build.tree(Stage::One, first.half.shape);
        first.cd[1 + usize::from(first.half.upper)] |= tree.root;
        let rounds = 1 + self.random().below(4);
        for _ in 0..rounds {
            self.fill_first(index, &first, below.as_ref(), &mut tree);
        }
        if self.random().chance(7) {
            first::spoil(self.random(), &mut first.cd, first.half.upper);
        }
        let real = self.build.allocate(64);
        for (offset, word) in (0..).step_by(8).zip(first.cd) {
            if word != 0 {
                self.build.words.insert(real + offset, word);
            }
        }
        let named = self.build.behind(Stage::One, real, 64);
        self.build.reveal(named, real);
        ste[0] |= named;
        if self.random().chance(2) {
            ste[0] = ste[0] & 0xf | layout::HOLE.start;
        }
        if self.random().chance(5) {
            // S1Fmt, S1DSS: ignored without substreams. STRW: RES0 without EL2.
            ste[0] |= self.random().bits(2) << 4;
            ste[1] |= self.random().bits(2) | self.random().bits(2) << 30;
        }
        if self.random().chance(1) {
            ste[1] |= 1 << 27; // S1STALLD
        }
        if nested && self.random().chance(5) {
            second::spoil(self.random(), &mut ste);
        }
        self.build.second = None;
        self.tags[index] = Tags {
            vmid: ste[2] & 0xffff,
            asid: Some(first.cd[0] >> 48),
            granule: first.half.shape.granule,
        };
        ste
    }

    fn fill_first(
        &mut self,
        index: usize,
        first: &First,
        second: Option<&Second>,
        tree: &mut Tree,
    ) {
        let output = self.output();
        // Where stage 1 leads, and how stage 2 goes on from there.
        let mut middle = output;
        let shape = first.half.shape;
        let random = self.random();
        let level = random.pick(&shape.leaf_levels());
        let size = 1u64 << shape.shift(level);
        let mut reach = size;
        let mut lower = None;
        if let Some(second) = second {
            let level = random.pick(&second.shape.leaf_levels());
            let size = 1u64 << second.shape.shift(level);
            middle = input(random, second.shape.bits, size) | output & (size - 1);
            reach = reach.min(size);
            let leaf = second::leaf(random, output & !(size - 1), level == 3);
            let damage = damage(random, &second.shape, level, second.output);
            if let Some(mut tree) = self.build.second.take() {
                lower = self
                    .build
                    .insert(Stage::Two, &mut tree, middle, level, leaf, damage);
                self.build.second = Some(tree);
            }
        }
        let random = self.random();
        let mut from = input(random, shape.bits, size) | middle & (size - 1);
        let leaf = first::leaf(random, middle & !(size - 1), level == 3);
        let damage = damage(random, &shape, level, first.output);
        let at = self
            .build
            .insert(Stage::One, tree, from, level, leaf, damage);
        let random = self.random();
        if first.half.upper {
            from |= u64::MAX << shape.bits;
        }
        if first.top_byte && random.chance(50) {
            from ^= random.bits(8) << 56;
        }
        let target = Target {
            input: from,
            output,
            size: reach,
            leaf: at,
            middle: None,
        };
        self.targets[index].push(target);
        if lower.is_some() {
            self.targets[index].push(Target {
                leaf: lower,
                middle: Some(middle),
                ..target
            });
        }
    }

    /// Stage 2 alone.
    fn only_second(&mut self, index: usize) -> [u64; 8] {
        let second = second::choose(self.random());
        let mut tree = self.build.tree(Stage::Two, second.shape);
        self.fill_second(index, &second, &mut tree);
        let mut ste = [1 | 0b110 << 1, 0, second.word, tree.root, 0, 0, 0, 0];
        let (vmid, granule) = (second.word & 0xffff, second.shape.granule);
        self.tags[index] = Tags {
            vmid,
            asid: None,
            granule,
        };
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
            let at = self
                .build
                .insert(Stage::Two, tree, input, level, leaf, damage);
            self.targets[index].push(Target {
                input,
                output,
                size,
                leaf: at,
                middle: None,
            });
        }
    }

    /// Somewhere in the data, mostly at the start of a page.
    pub(crate) fn output(&mut self) -> u64 {
        let range = self.random().pick(&[0usize, 1]);
        let range = DATA[range].clone();
        let at = range.start + self.random().below(range.end - range.start);
        if self.random().chance(98) {
            at & !0xfff
        } else {
            at & !3
        }
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
        if self.random().chance(25) {
            self.stray();
        }
        self.case.words.append(&mut self.build.words);
        self.case
    }

    /// Commands of all kinds, at the end: an error among them stops the queue,
    /// and nothing can be made certain afterwards.
    fn stray(&mut self) {
        for _ in 0..1 + self.random().below(3) {
            let count = 1 + self.random().below(3);
            let commands = (0..count).map(|_| commands::stray(self.random())).collect();
            self.case.steps.push(Step::Commands(commands));
            if self.random().chance(50) {
                self.case.steps.push(Step::Acknowledge);
            }
        }
    }

    fn access(&mut self) {
        let mut device = 0;
        if self.random().chance(15) {
            device = self.random().below(DEVICES.len() as u64) as usize;
        }
        let targets = std::mem::take(&mut self.targets[device]);
        let first = self.tags[device].asid.is_some();
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
                    14..18 => (address | (target.size - 1)) - (last - 1),
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
        let write = random.chance(50).then(|| random.word() as u32 & !1 | 2);
        // Mostly within the sizes of addresses: see `bypass-address-size`.
        let small = !first && random.chance(98);
        let address = if small {
            address & 0xfff_ffff_ffff
        } else {
            address
        } & !3;
        self.case.steps.push(Step::Access(Access {
            device,
            address,
            write,
            lands,
        }));
    }

    /// Changes a leaf, and invalidates what was cached of it.
    fn mutate(&mut self) {
        let leaves: Vec<(usize, Target)> = (0..)
            .zip(&self.targets)
            .flat_map(|(device, targets)| targets.iter().map(move |target| (device, *target)))
            .filter(|(_, target)| target.leaf.is_some())
            .collect();
        let mut commands = vec![];
        if let Some((device, target)) = (!leaves.is_empty()).then(|| self.random().pick(&leaves)) {
            let at = target.leaf.unwrap_or(0);
            let old = self.build.words.get(&at).copied().unwrap_or(0);
            let tags = self.tags[device];
            let random = self.random();
            let new = match random.below(4) {
                0 => old ^ 1,
                // Not AP[1], which QEMU does not look at.
                1 if tags.asid.is_some() && target.middle.is_none() => old ^ 1 << 7,
                1 => old ^ random.bits(2) << 6,
                2 => old ^ 1 << 10,
                _ => old ^ 1 << random.pick(&[21u32, 33, 53, 54, 12, 16]),
            };
            self.case.steps.push(Step::Store(vec![(at, new)]));
            commands = invalidate(self.random(), &target, tags);
        }
        if self.random().chance(20) {
            commands.push(CFGI_ALL);
        }
        commands.push(SYNC);
        self.case.steps.push(Step::Commands(commands));
    }
}

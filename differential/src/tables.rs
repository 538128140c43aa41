//! Writes translation tables, for both stages, from the architecture's bit
//! positions (DDI 0487, D8.3). Knows nothing of how the model reads them.

use crate::layout;
use crate::random::Random;
use std::collections::BTreeMap;

/// A stage of translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The first.
    One,
    /// The second.
    Two,
}

/// How an input address is divided.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// log2 of the granule: 12, 14, 16.
    pub granule: u32,
    /// Bits of an input address that are translated.
    pub bits: u32,
    /// First level.
    pub start: u32,
}

impl Shape {
    /// log2 of what an entry of `level` translates.
    #[must_use]
    pub fn shift(&self, level: u32) -> u32 {
        self.granule + (self.granule - 3) * (3 - level)
    }

    /// Entries of a table of `level`.
    #[must_use]
    pub fn entries(&self, level: u32) -> u64 {
        if level == self.start {
            1 << self.bits.saturating_sub(self.shift(level)).min(20)
        } else {
            1 << (self.granule - 3)
        }
    }

    fn index(&self, level: u32, input: u64) -> u64 {
        input >> self.shift(level) & (self.entries(level) - 1)
    }

    /// Levels at which a block or page may be.
    #[must_use]
    pub fn leaf_levels(&self) -> Vec<u32> {
        let first = if self.granule == 12 { 1 } else { 2 };
        (first.max(self.start)..4)
            .filter(|level| self.shift(*level) <= self.bits)
            .collect()
    }
}

/// What is wrong with a path through the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The descriptor at this level is not valid.
    Invalid(u32),
    /// Its type is one that the level does not have.
    Reserved(u32),
    /// Its address has this bit set, too.
    Large(u32, u32),
    /// It points to where no memory is.
    Hole(u32),
}

#[derive(Clone, Copy, Debug)]
struct Table {
    /// Address in descriptors.
    named: u64,
    /// Address in memory.
    real: u64,
}

/// A tree of tables.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Its shape.
    pub shape: Shape,
    /// Address of the root as a register names it.
    pub root: u64,
    tables: BTreeMap<(u32, u64), Table>,
}

/// Memory under construction.
#[derive(Clone, Debug)]
pub struct Build {
    /// What was written.
    pub words: BTreeMap<u64, u64>,
    next: u64,
    /// Stage 2, where what stage 1 names lies behind it.
    pub second: Option<Tree>,
    /// Bits of an address that stage 2 translates for stage 1's tables.
    pub random: Random,
}

impl Build {
    /// Empty memory.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Self {
            words: BTreeMap::new(),
            next: layout::TABLES.start,
            second: None,
            random,
        }
    }

    /// A piece of memory for tables, aligned to its size.
    pub fn allocate(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.next_power_of_two().max(64);
        let at = self.next.next_multiple_of(bytes);
        // Apart from each other, so that one that is read too far does not
        // find the next.
        self.next = at + bytes + 0x1000;
        at
    }

    /// A tree without entries.
    pub fn tree(&mut self, stage: Stage, shape: Shape) -> Tree {
        let bytes = 8 * shape.entries(shape.start);
        let table = self.table(stage, bytes);
        let tables = BTreeMap::from([((shape.start, 0), table)]);
        Tree {
            shape,
            root: table.named,
            tables,
        }
    }

    fn table(&mut self, stage: Stage, bytes: u64) -> Table {
        let real = self.allocate(bytes);
        Table {
            named: self.behind(stage, real, bytes),
            real,
        }
    }

    /// The address under which stage 1 finds what is at `real`: an IPA that is
    /// aligned as it is, if there is a stage 2.
    pub fn behind(&mut self, stage: Stage, real: u64, bytes: u64) -> u64 {
        let Some(second) = self.second.as_ref().filter(|_| stage == Stage::One) else {
            return real;
        };
        let page = 1 << second.shape.granule;
        let unit = bytes.next_power_of_two().max(page).max(64);
        let high = self.random.bits(second.shape.bits) & !(unit - 1);
        high | real & (unit - 1)
    }

    /// Makes stage 2 translate the page of `named` to the one of `real`.
    pub fn reveal(&mut self, named: u64, real: u64) {
        if let Some(mut second) = self.second.take() {
            let mask = (1u64 << second.shape.granule) - 1;
            // Readable and writable, access flag set, Normal memory; seldom not.
            let mut leaf = real & !mask | 0x7ff;
            if self.random.below(300) == 0 {
                leaf ^= self
                    .random
                    .pick(&[1u64 << 0, 1 << 6, 1 << 7, 1 << 10, 1 << 33]);
            }
            self.insert(Stage::Two, &mut second, named, 3, leaf, None);
            self.second = Some(second);
        }
    }

    /// Writes the path to `input` and `leaf` at `level` at its end. What is
    /// there already stays: a block in the way ends the path. Returns the
    /// address of the last descriptor.
    pub fn insert(
        &mut self,
        stage: Stage,
        tree: &mut Tree,
        input: u64,
        level: u32,
        leaf: u64,
        damage: Option<Damage>,
    ) -> Option<u64> {
        let shape = tree.shape;
        let input = input & (u64::MAX >> (64 - shape.bits));
        let mut prefix = 0;
        let mut last = None;
        for at in shape.start..=level {
            let table = *tree.tables.get(&(at, prefix))?;
            let offset = 8 * shape.index(at, input);
            let slot = table.real + offset;
            if stage == Stage::One {
                self.reveal(table.named + offset, slot);
            }
            last = Some(slot);
            let below = input >> shape.shift(at);
            let word = if at == level {
                if self.words.contains_key(&slot) {
                    return None;
                }
                leaf
            } else if let Some(word) = self.words.get(&slot) {
                if !tree.tables.contains_key(&(at + 1, below)) {
                    return None;
                }
                *word
            } else {
                let table = self.table(stage, 1 << shape.granule);
                tree.tables.insert((at + 1, below), table);
                table.named | 0b11 | self.table_bits(stage)
            };
            let word = self.damaged(word, at, shape, damage);
            self.words.insert(slot, word);
            prefix = below;
        }
        last
    }

    /// Bits of a table descriptor that do not matter, or seldom do.
    fn table_bits(&mut self, stage: Stage) -> u64 {
        let random = &mut self.random;
        // Ignored: 11 to 2, 58 to 52.
        let mut bits = random.bits(10) << 2 | random.bits(7) << 52;
        if stage == Stage::One && random.chance(3) {
            // NSTable, APTable, UXNTable, PXNTable.
            bits |= random.bits(5) << 59;
        }
        bits
    }

    fn damaged(&mut self, word: u64, level: u32, shape: Shape, damage: Option<Damage>) -> u64 {
        match damage {
            Some(Damage::Invalid(at)) if at == level => word & !1,
            Some(Damage::Reserved(at)) if at == level => word & !2 | 1,
            Some(Damage::Large(at, bit)) if at == level => {
                if shape.granule == 16 && bit >= 48 {
                    word | 1 << (bit - 48 + 12)
                } else {
                    word | 1 << bit.min(47)
                }
            }
            Some(Damage::Hole(at)) if at == level => {
                // 32 bits, so that no configured size faults first.
                let address = layout::HOLE.start + (self.random.bits(30) & !0xffff);
                word & 0xfff0_0000_0000_0fff | address
            }
            _ => word,
        }
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
        // At a level without blocks seldom: QEMU takes them.
        1 if at >= 2 || random.chance(20) => Damage::Reserved(at),
        1 => Damage::Invalid(at),
        2 if random.chance(50) => {
            // In a table descriptor seldom: QEMU does not look.
            let at = if random.chance(90) { level } else { at };
            Damage::Large(
                at,
                output + random.below(u64::from(48 - output.min(47))) as u32,
            )
        }
        _ => Damage::Hole(at),
    })
}

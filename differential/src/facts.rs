//! What a case says at some step, read from raw bits for the deviations.

use crate::case::{Access, Case, Step};
use crate::machine::DEVICES;
use crate::second::{OUTPUT_BITS, SIZES};
use crate::tables::{Shape, Stage};
use std::collections::BTreeMap;

/// Where an address goes without the alignment that the architecture does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The entry of the stream.
    pub entry: u64,
    /// The base of the table it is in, or of the first level, has bits set
    /// below its alignment.
    pub unaligned: bool,
    /// `Span` of the level 1 descriptor; for a linear table, what covers it.
    pub span: u64,
}

/// One descriptor on the way to a translation.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// The stage it belongs to.
    pub stage: Stage,
    /// How that is configured.
    pub regime: Regime,
    /// What is translated.
    pub input: u64,
    /// Where it is in memory.
    pub at: u64,
    /// Its level.
    pub level: u32,
    /// What it says.
    pub word: u64,
    /// It ends the path: no table descriptor.
    pub leaf: bool,
}

/// A stage as configured.
#[derive(Clone, Copy, Debug)]
pub struct Regime {
    /// How addresses are divided.
    pub shape: Shape,
    /// The root table.
    pub root: u64,
    /// Bits of an output address.
    pub output: u32,
}

/// What holds for an access.
pub struct Facts {
    memory: BTreeMap<u64, u64>,
    /// The access.
    pub access: Access,
    /// `STRTAB_BASE_CFG.SPLIT`.
    pub split: u64,
    /// Where the stream's entry is, if it is within the table.
    pub place: Option<Place>,
    /// The entry; zeros where there is none.
    pub ste: [u64; 8],
}

fn field(word: u64, low: u32, bits: u32) -> u64 {
    word >> low & ((1 << bits) - 1)
}

impl Facts {
    /// What holds at a step that is an access.
    #[must_use]
    pub fn at(case: &Case, step: usize) -> Option<Self> {
        let Some(Step::Access(access)) = case.steps.get(step) else {
            return None;
        };
        let memory = case.memory_before(step);
        let split = field(case.table_config.into(), 6, 5);
        let mut facts = Self {
            memory,
            access: *access,
            split,
            place: None,
            ste: [0; 8],
        };
        facts.place = facts.find(case, DEVICES[access.device].stream.into());
        if let Some(place) = facts.place {
            for (word, offset) in (0..).step_by(8).zip(0..8) {
                facts.ste[offset] = facts.word(place.entry + word);
            }
        }
        Some(facts)
    }

    /// Memory.
    #[must_use]
    pub fn word(&self, at: u64) -> u64 {
        self.memory.get(&at).copied().unwrap_or(0)
    }

    fn find(&self, case: &Case, stream: u64) -> Option<Place> {
        let log2 = u64::from(case.table_config & 0x3f);
        if stream >> log2.min(16) != 0 {
            return None;
        }
        let base = case.table & 0x000f_ffff_ffff_ffc0;
        if !case.two_level() {
            let low = (64 << log2) - 1;
            let entry = (base & !low) + stream * 64;
            return Some(Place {
                entry,
                unaligned: base & low != 0,
                span: log2 + 1,
            });
        }
        let low = (8u64 << log2.saturating_sub(self.split)).max(64) - 1;
        let word = self.word((base & !low) + (stream >> self.split) * 8);
        let span = word & 0x1f;
        let below = (64 << span.saturating_sub(1)) - 1;
        let second = word & 0x000f_ffff_ffff_ffc0;
        Some(Place {
            entry: (second & !below) + (stream & ((1 << self.split) - 1)) * 64,
            unaligned: base & low != 0 || second & below != 0,
            span,
        })
    }

    /// `STE.Config`.
    #[must_use]
    pub fn config(&self) -> u64 {
        field(self.ste[0], 1, 3)
    }

    /// Index of the stream within its second-level table.
    #[must_use]
    pub fn index(&self) -> u64 {
        u64::from(DEVICES[self.access.device].stream) & ((1 << self.split) - 1)
    }

    /// Stage 2 as the entry configures it, legal or not.
    #[must_use]
    pub fn second(&self) -> Option<Regime> {
        if self.config() & 0b110 != 0b110 {
            return None;
        }
        let word = self.ste[2];
        let (granule, deepest) = match field(word, 46, 2) {
            0 => (12, 2),
            1 => (16, 3),
            2 => (14, 3),
            _ => return None,
        };
        let start = u64::checked_sub(deepest, field(word, 38, 2))? as u32;
        let shape = Shape {
            granule,
            bits: 64 - field(word, 32, 6).min(63) as u32,
            start,
        };
        let output = SIZES
            .get(field(word, 48, 3) as usize)
            .map_or(OUTPUT_BITS, |bits| *bits);
        let low = (8 * shape.entries(start)).max(64) - 1;
        Some(Regime {
            shape,
            root: self.ste[3] & 0x000f_ffff_ffff_fff0 & !low,
            output: output.min(OUTPUT_BITS),
        })
    }

    /// Stage 1 as the CD configures it for the access, legal or not.
    #[must_use]
    pub fn first(&self) -> Option<Regime> {
        if self.config() & 0b101 != 0b101 {
            return None;
        }
        let cd = self.cd();
        let upper = self.access.address >> 55 & 1 != 0;
        let place = if upper { 16 } else { 0 };
        let granule = match (field(cd[0], place + 6, 2), upper) {
            (0, false) | (2, true) => 12,
            (2, false) | (1, true) => 14,
            (1, false) | (3, true) => 16,
            _ => return None,
        };
        let bits = 64 - field(cd[0], place, 6).clamp(16, 39) as u32;
        let start = 4 - (bits - granule).div_ceil(granule - 3);
        let shape = Shape {
            granule,
            bits,
            start,
        };
        let output = SIZES
            .get(field(cd[0], 32, 3) as usize)
            .map_or(OUTPUT_BITS, |bits| *bits);
        let low = 8 * shape.entries(start) - 1;
        let root = cd[1 + usize::from(upper)] & 0x000f_ffff_ffff_fff0 & !low;
        Some(Regime {
            shape,
            root,
            output: output.min(OUTPUT_BITS),
        })
    }

    /// The context descriptor; zeros without.
    #[must_use]
    pub fn cd(&self) -> [u64; 8] {
        let pointer = self.ste[0] & 0x000f_ffff_ffff_ffc0;
        let at = self.real(pointer, &mut Vec::new()).unwrap_or(0);
        [0, 8, 16, 24, 32, 40, 48, 56].map(|offset| self.word(at + offset))
    }

    /// Where an address of stage 1's structures is, and what is visited to
    /// find out.
    fn real(&self, address: u64, visits: &mut Vec<Visit>) -> Option<u64> {
        match self.second() {
            Some(second) => self.walk(Stage::Two, &second, address, visits),
            None => Some(address),
        }
    }

    /// Where the root of stage 1 is in memory.
    #[must_use]
    pub fn base(&self) -> Option<u64> {
        self.real(self.first()?.root, &mut Vec::new())
    }

    /// The descriptors that the access passes, whatever they allow, those for
    /// the CD and for the tables of stage 1 included.
    #[must_use]
    pub fn visits(&self) -> Vec<Visit> {
        let mut visits = Vec::new();
        self.output(&mut visits);
        visits
    }

    /// Where the access leads if everything is allowed, and what is visited on
    /// the way.
    pub fn output(&self, visits: &mut Vec<Visit>) -> Option<u64> {
        let mut address = self.access.address;
        if self.config() & 0b101 == 0b101 {
            self.real(self.ste[0] & 0x000f_ffff_ffff_ffc0, visits);
            address = self.walk(Stage::One, &self.first()?, address, visits)?;
        }
        match self.second() {
            Some(second) => self.walk(Stage::Two, &second, address, visits),
            None => Some(address),
        }
    }

    fn walk(
        &self,
        stage: Stage,
        regime: &Regime,
        input: u64,
        visits: &mut Vec<Visit>,
    ) -> Option<u64> {
        let shape = regime.shape;
        let mut table = regime.root;
        for level in shape.start..4 {
            let index = input >> shape.shift(level) & (shape.entries(level) - 1);
            let mut at = table + index * 8;
            if stage == Stage::One {
                at = self.real(at, visits)?;
            }
            let word = self.word(at);
            let leaf = word & 0b11 != 0b11 || level == 3;
            visits.push(Visit {
                stage,
                regime: *regime,
                input,
                at,
                level,
                word,
                leaf,
            });
            if leaf {
                let low = (1 << shape.shift(level)) - 1;
                return (word & 1 != 0).then_some(word & 0xffff_ffff_f000 & !low | input & low);
            }
            table = address(word, &shape);
        }
        None
    }
}

/// The address in a table descriptor.
#[must_use]
pub fn address(word: u64, shape: &Shape) -> u64 {
    word & 0x0000_ffff_ffff_f000 & (u64::MAX << shape.granule)
}

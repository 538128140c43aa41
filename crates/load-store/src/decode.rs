//! From the 32 bits of an instruction to what it does (DDI 0487, C4.1.94, Loads and
//! Stores, and the instructions in C6.2 and C7.2).

use crate::{Access, Direction, Extend, File, Indexing, Offset, Refused, Width};

/// The zero register, or the stack pointer.
const R31: u8 = 31;

/// Fields of an instruction.
#[derive(Clone, Copy)]
struct Word(u32);

impl Word {
    /// `bits` bits from bit `from` on, fewer than 32.
    const fn field(self, from: u32, bits: u32) -> u32 {
        self.0 >> from & ((1 << bits) - 1)
    }

    const fn bit(self, n: u32) -> bool {
        self.field(n, 1) != 0
    }

    /// A register number.
    const fn register(self, from: u32) -> u8 {
        // Truncation: five bits.
        self.field(from, 5) as u8
    }

    /// As [`field`](Self::field), a signed number.
    const fn signed(self, from: u32, bits: u32) -> i64 {
        let above = 64 - bits;
        ((self.field(from, bits) as i64) << above) >> above
    }

    /// Rt, Rn.
    const fn target(self) -> u8 {
        self.register(0)
    }

    const fn base(self) -> u8 {
        self.register(5)
    }

    /// V: the registers are SIMD&FP ones.
    const fn is_vector(self) -> bool {
        self.bit(26)
    }
}

impl Access {
    /// What `instruction` does.
    ///
    /// # Errors
    /// Why it is not to be carried out: it is no load or store of one or two
    /// registers, or what it does is not defined.
    pub fn decode(instruction: u32) -> Result<Self, Refused> {
        let word = Word(instruction);
        // op0 of the main table (DDI 0487, C4.1): x1x0 are loads and stores.
        match word.field(25, 4) {
            0b0010 => return Err(Refused::Scalable),
            0b0000 if word.bit(31) => return Err(Refused::Scalable),
            op0 if op0 & 0b0101 != 0b0100 => return Err(other_group(word)),
            _ => {}
        }
        match (word.field(28, 2), word.is_vector(), word.field(24, 2)) {
            (0b00, true, _) => Err(Refused::Structure),
            (0b00, false, 0b00) => ordered(word),
            (0b01, _, 0b00) => Err(Refused::Literal),
            (0b01, vector, 0b01) => unscaled_ordered(word, vector),
            (0b10, _, 0b00 | 0b01) => pair(word),
            (0b11, _, 0b00) => one_register(word),
            (0b11, _, 0b01) => {
                let kind = kind(word)?;
                let offset = i64::from(word.field(10, 12)) << kind.width.log2();
                Ok(kind.with(word, Offset::Immediate(offset), Indexing::Offset))
            }
            _ => Err(Refused::Unknown),
        }
    }
}

/// What is none of the loads and stores.
fn other_group(word: Word) -> Refused {
    // SYS with CRn = 7: DC, IC, AT (DDI 0487, C5.1.3).
    if word.field(19, 13) == 0b1_1010_1010_0001 && word.field(12, 4) == 7 {
        Refused::Cache
    } else {
        Refused::NotAnAccess
    }
}

/// Direction, registers and width of an access to one register.
#[derive(Clone, Copy)]
struct Kind {
    direction: Direction,
    file: File,
    width: Width,
}

impl Kind {
    const fn with(self, word: Word, offset: Offset, indexing: Indexing) -> Access {
        Access {
            direction: self.direction,
            file: self.file,
            width: self.width,
            first: word.target(),
            second: None,
            base: word.base(),
            offset,
            indexing,
        }
    }
}

const fn direction(load: bool) -> Direction {
    if load {
        Direction::Load
    } else {
        Direction::Store
    }
}

/// What size (31:30) and opc (23:22) say of an access to one register.
fn kind(word: Word) -> Result<Kind, Refused> {
    let (size, opc) = (word.field(30, 2), word.field(22, 2));
    if word.is_vector() {
        // opc<1> is the third bit of the size; there is nothing above 16 bytes.
        let log2 = (opc & 2) << 1 | size;
        return Ok(Kind {
            direction: direction(opc & 1 != 0),
            file: File::Vector,
            width: Width::of(log2).ok_or(Refused::Unknown)?,
        });
    }
    // opc: store, load, load with sign to 64 bits, load with sign to 32 bits.
    let (signed, wide) = match (opc, size) {
        (0 | 1, _) => (false, size == 3),
        (2, 3) => return Err(Refused::Prefetch),
        (2, _) => (true, true),
        (_, 0 | 1) => (true, false),
        _ => return Err(Refused::Unknown),
    };
    Ok(Kind {
        direction: direction(opc != 0),
        file: File::General { signed, wide },
        width: Width::of(size).ok_or(Refused::Unknown)?,
    })
}

/// Load/store register with bits 25:24 clear: an offset of nine bits, or a register.
fn one_register(word: Word) -> Result<Access, Refused> {
    let vector = word.is_vector();
    let indexing = match (word.bit(21), word.field(10, 2)) {
        (false, 0b00) => Indexing::Offset,
        (false, 0b01) => Indexing::Post,
        // LDTR and STTR, which have no SIMD&FP form.
        (false, 0b10) if vector => return Err(Refused::Unknown),
        (false, 0b10) => Indexing::Offset,
        (false, _) => Indexing::Pre,
        (true, 0b00) => return atomic_or_acquire(word),
        (true, 0b10) => return register_offset(word),
        (true, _) if !vector && word.field(30, 2) == 3 => return Err(Refused::Authenticated),
        (true, _) => return Err(Refused::Unknown),
    };
    let kind = kind(word).map_err(|refused| match (refused, word.field(10, 2)) {
        // Only PRFUM is a prefetch there.
        (Refused::Prefetch, 1..) => Refused::Unknown,
        (other, _) => other,
    })?;
    let offset = Offset::Immediate(word.signed(12, 9));
    let access = kind.with(word, offset, indexing);
    // The base register would get two values, or be stored while it changes (DDI 0487,
    // K1.1.18 and the instructions).
    let twice = !vector && access.first == access.base && access.base != R31;
    if indexing != Indexing::Offset && twice {
        return Err(Refused::Unpredictable);
    }
    Ok(access)
}

fn register_offset(word: Word) -> Result<Access, Refused> {
    let kind = kind(word)?;
    let extend = match word.field(13, 3) {
        0b010 => Extend::UnsignedWord,
        0b011 | 0b111 => Extend::Double,
        0b110 => Extend::SignedWord,
        _ => return Err(Refused::Unknown),
    };
    let shift = if word.bit(12) { kind.width.log2() } else { 0 };
    let offset = Offset::Register {
        number: word.register(16),
        extend,
        // Truncation: at most 4.
        shift: shift as u8,
    };
    Ok(kind.with(word, offset, Indexing::Offset))
}

/// Atomic memory operations, among which LDAPR is a plain load.
fn atomic_or_acquire(word: Word) -> Result<Access, Refused> {
    let acquires = word.field(22, 2) == 0b10 && word.field(12, 4) == 0b1100;
    if word.is_vector() || !acquires || word.register(16) != R31 {
        return Err(Refused::Atomic);
    }
    let kind = plain(word, Direction::Load)?;
    Ok(kind.with(word, Offset::Immediate(0), Indexing::Offset))
}

/// One general-purpose register of the width in bits 31:30, without sign.
fn plain(word: Word, direction: Direction) -> Result<Kind, Refused> {
    let size = word.field(30, 2);
    Ok(Kind {
        direction,
        file: general(false, size == 3),
        width: Width::of(size).ok_or(Refused::Unknown)?,
    })
}

/// LDAR, LDLAR, STLR and STLLR; exclusives and compare and swap are next to them.
fn ordered(word: Word) -> Result<Access, Refused> {
    let (o2, o1, size) = (word.bit(23), word.bit(21), word.field(30, 2));
    match (o2, o1) {
        (true, false) => {}
        // CASP has bit 31 clear, LDXP and STXP have it set.
        (false, true) if size < 2 => return Err(Refused::Atomic),
        (false, _) => return Err(Refused::Exclusive),
        (true, true) => return Err(Refused::Atomic),
    }
    // Rs and Rt2 should be ones.
    if word.register(16) != R31 || word.register(10) != R31 {
        return Err(Refused::Unpredictable);
    }
    let kind = plain(word, direction(word.bit(22)))?;
    Ok(kind.with(word, Offset::Immediate(0), Indexing::Offset))
}

/// LDAPUR and STLUR (FEAT_LRCPC2, FEAT_LRCPC3 for SIMD&FP); memory tags and memory
/// copies are next to them.
fn unscaled_ordered(word: Word, vector: bool) -> Result<Access, Refused> {
    match (vector, word.bit(21), word.field(10, 2), word.field(30, 2)) {
        (false, false, 0b00, _) | (true, false, 0b10, _) => {
            let kind = kind(word).map_err(|_| Refused::Unknown)?;
            let offset = Offset::Immediate(word.signed(12, 9));
            Ok(kind.with(word, offset, Indexing::Offset))
        }
        (_, false, 0b01, _) => Err(Refused::CopyOrSet),
        (false, true, _, 3) => Err(Refused::Tag),
        _ => Err(Refused::Unknown),
    }
}

fn pair(word: Word) -> Result<Access, Refused> {
    let (opc, vector, load) = (word.field(30, 2), word.is_vector(), word.bit(22));
    // Bits 24:23: without allocation in caches (LDNP, STNP), post, offset, pre.
    let (hint, indexing) = match word.field(23, 2) {
        0b00 => (true, Indexing::Offset),
        0b01 => (false, Indexing::Post),
        0b10 => (false, Indexing::Offset),
        _ => (false, Indexing::Pre),
    };
    let (file, width) = match (vector, opc, load) {
        (true, 0, _) => (File::Vector, Width::Word),
        (true, 1, _) => (File::Vector, Width::Double),
        (true, 2, _) => (File::Vector, Width::Quad),
        (false, 0, _) => (general(false, false), Width::Word),
        (false, 1, true) if !hint => (general(true, true), Width::Word),
        (false, 1, false) if !hint => return Err(Refused::Tag),
        (false, 2, _) => (general(false, true), Width::Double),
        _ => return Err(Refused::Unknown),
    };
    let access = Access {
        direction: direction(load),
        file,
        width,
        first: word.target(),
        second: Some(word.register(10)),
        base: word.base(),
        offset: Offset::Immediate(word.signed(15, 7) << width.log2()),
        indexing,
    };
    let (first, second) = (access.first, word.register(10));
    let same = load && first == second;
    let base = [first, second].contains(&access.base) && access.base != R31;
    if same || !vector && base && indexing != Indexing::Offset {
        return Err(Refused::Unpredictable);
    }
    Ok(access)
}

const fn general(signed: bool, wide: bool) -> File {
    File::General { signed, wide }
}

//! An access that a CPU could not make, made in its place.

use crate::{Access, Direction, Extend, File, Indexing, Offset, Refused, Width};
use portcullis_owner_memory::Size;

/// The stack pointer where it is a base, the zero register elsewhere.
const R31: u8 = 31;
/// Bytes of a page, and of the pieces in which registers are emulated.
const PAGE: u64 = 4096;
/// Most accesses of one instruction: two registers of 16 bytes.
const MOST: usize = 4;

/// The registers of the CPU that executed the instruction.
pub trait Registers {
    /// X0 to X30; 31 reads as zero.
    fn general(&self, number: u8) -> u64;

    /// Sets X0 to X30; 31 is discarded.
    fn set_general(&mut self, number: u8, value: u64);

    /// The stack pointer that the instruction uses.
    fn stack_pointer(&self) -> u64;

    /// Sets it.
    fn set_stack_pointer(&mut self, value: u64);

    /// V0 to V31, the low half first.
    fn vector(&self, number: u8) -> [u64; 2];

    /// Sets V0 to V31, and clears what is above 128 bits.
    fn set_vector(&mut self, number: u8, value: [u64; 2]);
}

/// What hardware says of the abort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Which way data would have gone (ESR_EL2.WnR).
    pub direction: Direction,
    /// The virtual address that faulted (FAR_EL2): one of the accessed ones.
    pub address: u64,
}

/// One access of a register of the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Single {
    /// Where it is in the page that faulted.
    pub offset: u16,
    /// How wide it is.
    pub size: Size,
    /// What is stored; `None` for a load.
    pub store: Option<u64>,
}

/// What a device makes of one access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is done; this is what a load gets.
    Done(u64),
    /// It is not done: the CPU is to take its interrupts and to come again.
    Again,
    /// No device has this register.
    Absent,
}

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It was carried out, and the CPU goes on behind it.
    Done,
    /// The CPU is to do it again, and no register has changed.
    ///
    /// What the instruction stored before is stored again then, which the
    /// architecture allows for whatever is executed as a sequence of accesses, and to
    /// Device memory too: interrupts can be taken during the sequence, the instruction
    /// is executed anew, and accesses are repeated (DDI 0487, B2.2.1 and B2.10.2.4).
    /// To remember how far it came would be no better: between two tries the CPU may
    /// run another program at the same address, and the program may go on on another
    /// CPU.
    Again,
    /// No device has one of the registers; none of the CPU's has changed.
    Absent,
}

/// An access that agrees with the abort, and lies in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    access: Access,
    /// Where it starts in the page.
    offset: u16,
    /// What the base register gets.
    update: Option<u64>,
}

impl Access {
    /// Where the access is that `abort` was about.
    ///
    /// FAR_EL2 has an address of the access, not always the first: where the first
    /// part of a pair is permitted, it is in the second. So the address is worked out
    /// from the registers, and FAR_EL2 must lie in what is accessed. Of both, the low 56
    /// bits are looked at: with TBI or MTE the upper ones are no part of the address
    /// (DDI 0487, D8.8).
    ///
    /// # Errors
    /// [`Refused::Another`] when the instruction cannot have caused the abort,
    /// [`Refused::CrossesPage`] when it goes beyond the page that faulted.
    pub fn place(&self, registers: &impl Registers, abort: Abort) -> Result<Placed, Refused> {
        const TAG_BITS: u32 = 8;
        if self.direction != abort.direction {
            return Err(Refused::Another);
        }
        let base = match self.base {
            R31 => registers.stack_pointer(),
            number => registers.general(number),
        };
        let moved = base.wrapping_add(self.offset.value(registers));
        let (start, update) = match self.indexing {
            Indexing::Offset => (moved, None),
            Indexing::Pre => (moved, Some(moved)),
            Indexing::Post => (base, Some(moved)),
        };
        let into = abort.address.wrapping_sub(start) << TAG_BITS >> TAG_BITS;
        if into >= self.length() {
            return Err(Refused::Another);
        }
        let offset = start % PAGE;
        // The page is the one that faulted, and the last byte is in it.
        if (abort.address % PAGE) < into || offset + self.length() > PAGE {
            return Err(Refused::CrossesPage);
        }
        Ok(Placed {
            access: *self,
            // Truncation: less than a page.
            offset: offset as u16,
            update,
        })
    }
}

impl Offset {
    fn value(self, registers: &impl Registers) -> u64 {
        match self {
            Self::Immediate(bytes) => bytes as u64,
            Self::Register {
                number,
                extend,
                shift,
            } => {
                let value = registers.general(number);
                let value = match extend {
                    Extend::UnsignedWord => value & 0xffff_ffff,
                    // Truncation: the low 32 bits, with their sign.
                    Extend::SignedWord => value as i32 as u64,
                    Extend::Double => value,
                };
                value << (shift & 7)
            }
        }
    }
}

impl Placed {
    /// Carries the instruction out: `single` is called for one access of a register
    /// after the other, from the lowest address on, as Device memory that must not
    /// gather sees it (DDI 0487, B2.10.2.1). The two registers of a pair are two
    /// accesses; 16 bytes are two of 8, since no device here has wider registers, and
    /// the parts of what is wider than single-copy atomic are for the implementation to
    /// choose (B2.2.1). The order of bytes is the little-endian one.
    ///
    /// The CPU's registers change at the end, when all of it is done.
    pub fn perform(
        &self,
        registers: &mut impl Registers,
        mut single: impl FnMut(Single) -> Answer,
    ) -> Outcome {
        let access = &self.access;
        let mut loaded = [0; MOST];
        let (size, pieces) = match access.width {
            Width::Byte => (Size::Byte, 1),
            Width::Half => (Size::Half, 1),
            Width::Word => (Size::Word, 1),
            Width::Double => (Size::Double, 1),
            Width::Quad => (Size::Double, 2),
        };
        let count = if access.second.is_some() {
            2 * pieces
        } else {
            pieces
        };
        let mut at = self.offset;
        for (n, slot) in loaded.iter_mut().enumerate().take(count) {
            let number = if n < pieces {
                Some(access.first)
            } else {
                access.second
            };
            let store = match access.direction {
                Direction::Load => None,
                Direction::Store => {
                    let number = number.unwrap_or(R31);
                    let value = match access.file {
                        File::General { .. } => registers.general(number),
                        File::Vector => {
                            let [low, high] = registers.vector(number);
                            if n % pieces == 0 { low } else { high }
                        }
                    };
                    Some(value & mask(size))
                }
            };
            let offset = at;
            match single(Single {
                offset,
                size,
                store,
            }) {
                Answer::Done(value) => *slot = value & mask(size),
                Answer::Again => return Outcome::Again,
                Answer::Absent => return Outcome::Absent,
            }
            // Truncation: 8 at most.
            at = at.saturating_add(size.bytes() as u16);
        }
        if access.direction == Direction::Load {
            let (first, second) = loaded.split_at(pieces);
            let targets = [Some(access.first), access.second];
            for (target, values) in targets.into_iter().zip([first, second]) {
                if let Some(number) = target {
                    load(access, registers, number, values);
                }
            }
        }
        if let Some(update) = self.update {
            match access.base {
                R31 => registers.set_stack_pointer(update),
                number => registers.set_general(number, update),
            }
        }
        Outcome::Done
    }
}

/// The bits that an access has.
const fn mask(size: Size) -> u64 {
    u64::MAX >> (64 - 8 * size.bytes())
}

/// Gives a register what was loaded for it, the low part first.
fn load(access: &Access, registers: &mut impl Registers, number: u8, values: &[u64]) {
    let low = values.first().copied().unwrap_or(0);
    match access.file {
        File::Vector => {
            // Only 16 bytes have a second part.
            let high = values.get(1).copied().unwrap_or(0);
            registers.set_vector(number, [low, high]);
        }
        File::General { signed, wide } => {
            let above = match access.width {
                Width::Byte => 56,
                Width::Half => 48,
                Width::Word => 32,
                Width::Double | Width::Quad => 0,
            };
            let value = if signed {
                (((low << above) as i64) >> above) as u64
            } else {
                low
            };
            let value = if wide { value } else { value & 0xffff_ffff };
            registers.set_general(number, value);
        }
    }
}

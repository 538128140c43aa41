//! Walks of tables that this crate wrote.

use crate::descriptor::{CONTIGUOUS, Layout, TABLE, VALID};
use crate::format::Format;
use crate::geometry::{Geometry, LAST};
use core::fmt;
use core::marker::PhantomData;
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::Memory;

/// What an address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<F: Format> {
    /// Output for exactly the address that was walked.
    pub output: F::Output,
    /// Bytes that the one descriptor maps (the contiguous hint not counted).
    pub size: u64,
    /// What is allowed there.
    pub attributes: F::Attributes,
    /// Level of the descriptor, 1 to 3.
    pub level: u8,
    /// Whether the descriptor carries the contiguous hint (D8.7.1).
    pub contiguous: bool,
}

/// Why an address does not translate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The input address, a table's address or the output address is too
    /// large, found at this level (D8.2.8; R XFDVL).
    AddressSize {
        /// Level of the lookup; the start level for the input address.
        level: u8,
    },
    /// Nothing is mapped: the descriptor at this level is invalid (D8.3, Table
    /// D8-48).
    Translation {
        /// Level of the lookup.
        level: u8,
    },
    /// The access flag is clear and hardware does not set it (D8.5.1).
    AccessFlag {
        /// Level of the lookup.
        level: u8,
    },
    /// The access is not allowed (D8.4).
    Permission {
        /// Level of the lookup.
        level: u8,
    },
    /// The descriptor holds a reserved encoding.
    Reserved {
        /// Level of the lookup.
        level: u8,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, level) = match self {
            Self::AddressSize { level } => ("address size", level),
            Self::Translation { level } => ("translation", level),
            Self::AccessFlag { level } => ("access flag", level),
            Self::Permission { level } => ("permission", level),
            Self::Reserved { level } => ("reserved encoding", level),
        };
        write!(f, "{what} fault at level {level}")
    }
}

impl core::error::Error for Fault {}

/// A read-only look at tables, for walks beside the mutator.
///
/// A view reads as a hardware walker does: every single load finds the old
/// state or the new one. Like a hardware walker it must not outlive the tables:
/// whoever calls [`Table::complete`](crate::Table::complete) or
/// [`Table::destroy`](crate::Table::destroy) waits for walks under way.
#[derive(Clone, Copy, Debug)]
pub struct View<F, M> {
    pub(crate) memory: M,
    pub(crate) geometry: Geometry,
    pub(crate) root: PhysAddr,
    pub(crate) format: PhantomData<F>,
}

impl<F: Format, M: Memory> View<F, M> {
    /// What `address` translates to.
    ///
    /// # Errors
    /// [`Fault::AddressSize`], [`Fault::Translation`], and
    /// [`Fault::Reserved`] if somebody else wrote into the tables.
    #[inline]
    pub fn walk(&self, address: F::Input) -> Result<Mapping<F>, Fault> {
        walk(&self.memory, &self.geometry, self.root, address)
    }

    /// Every mapping, in order, neighbours that continue each other with the
    /// same attributes joined into one range.
    pub fn mappings(&self) -> Mappings<'_, F, M> {
        Mappings::new(&self.memory, self.geometry, self.root)
    }
}

/// The walk itself, one load a level.
#[inline]
pub(crate) fn walk<F: Format, M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    address: F::Input,
) -> Result<Mapping<F>, Fault> {
    let raw = address.raw();
    let mut level = geometry.start_level();
    if raw >= geometry.input_end() {
        return Err(Fault::AddressSize { level });
    }
    let layout = Layout::of(geometry);
    let stride = geometry.granule().stride();
    let mask = (1u64 << stride) - 1;
    let mut shift = geometry.level_shift(level);
    let mut at = root.raw() + (raw >> shift) * 8;
    loop {
        let descriptor = memory.load(PhysAddr::new(at));
        if descriptor & VALID == 0 {
            return Err(Fault::Translation { level });
        }
        if level == LAST || descriptor & TABLE == 0 {
            let offset = raw & ((1 << shift) - 1);
            return Ok(Mapping {
                output: F::Output::new(layout.decode(descriptor) | offset),
                size: 1 << shift,
                attributes: F::decode(descriptor).map_err(|_| Fault::Reserved { level })?,
                level,
                contiguous: descriptor & CONTIGUOUS != 0,
            });
        }
        level += 1;
        shift -= stride;
        at = layout.decode(descriptor) + (raw >> shift & mask) * 8;
    }
}

/// Iterator over the mappings of a table, see [`View::mappings`].
pub struct Mappings<'a, F, M> {
    memory: &'a M,
    geometry: Geometry,
    root: PhysAddr,
    next: u64,
    format: PhantomData<F>,
}

/// One run of mappings that continue each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappedRange<F: Format> {
    /// Input addresses.
    pub range: Range<F::Input>,
    /// Output for the first of them.
    pub output: F::Output,
    /// What is allowed there.
    pub attributes: F::Attributes,
}

impl<'a, F: Format, M: Memory> Mappings<'a, F, M> {
    pub(crate) fn new(memory: &'a M, geometry: Geometry, root: PhysAddr) -> Self {
        Self {
            memory,
            geometry,
            root,
            next: 0,
            format: PhantomData,
        }
    }

    /// The first leaf at or after `self.next`, as its start and its mapping.
    fn leaf(&mut self) -> Option<(u64, Mapping<F>)> {
        while self.next < self.geometry.input_end() {
            let here = self.next;
            let found = walk::<F, M>(self.memory, &self.geometry, self.root, F::Input::new(here));
            let level = match found {
                Ok(mapping) => return Some((here, mapping)),
                Err(
                    Fault::Translation { level }
                    | Fault::AddressSize { level }
                    | Fault::AccessFlag { level }
                    | Fault::Permission { level }
                    | Fault::Reserved { level },
                ) => level,
            };
            let size = self.geometry.level_bytes(level);
            self.next = (here & !(size - 1)) + size;
        }
        None
    }
}

impl<F: Format, M: Memory> Iterator for Mappings<'_, F, M> {
    type Item = MappedRange<F>;

    fn next(&mut self) -> Option<Self::Item> {
        let (start, first) = self.leaf()?;
        let mut end = start + first.size;
        self.next = end;
        while let Some((at, mapping)) = self.leaf() {
            if at != end
                || mapping.attributes != first.attributes
                || mapping.output.raw() != first.output.raw() + (end - start)
            {
                break;
            }
            end += mapping.size;
            self.next = end;
        }
        let range = Range::new(F::Input::new(start), F::Input::new(end)).ok()?;
        Some(MappedRange {
            range,
            output: first.output,
            attributes: first.attributes,
        })
    }
}

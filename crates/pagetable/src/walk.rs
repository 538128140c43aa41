//! Walks of tables that this crate wrote.

use crate::descent::{Leaf, down_4k, leaf, locate, run_level_4k};
use crate::descriptor::{ADDRESS, CONTIGUOUS, Layout, TABLE, VALID, leaf_type};
use crate::format::{Format, Reserved};
use crate::geometry::{Geometry, Granule, LAST};
use core::fmt;
use core::marker::PhantomData;
use portcullis_addr::{Address, PhysAddr, Range};
use portcullis_memory::Memory;

/// The translation of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<F: Format> {
    /// Output for exactly the address that was walked.
    pub output: F::Output,
    /// Bytes that the one descriptor maps (the contiguous hint not counted).
    pub size: u64,
    /// The attributes of the mapping.
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
/// state or the new one. Like a hardware walker it must not outlive the tables.
/// The caller of [`Table::complete`](crate::Table::complete) or
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
    /// [`Fault::AddressSize`], [`Fault::Translation`], and [`Fault::Reserved`]
    /// if other code wrote into the tables.
    #[inline]
    pub fn walk(&self, address: F::Input) -> Result<Mapping<F>, Fault> {
        walk(&self.memory, &self.geometry, self.root, address)
    }

    /// Calls `each` for every block and page that overlaps `range`, in order,
    /// with the first address of the range in it and what that translates to.
    /// Addresses where nothing is mapped are passed over.
    ///
    /// # Errors
    /// [`Fault::AddressSize`] when the range ends past the input addresses;
    /// [`Fault::Reserved`] as for [`walk`](Self::walk), after everything before
    /// it was visited.
    pub fn visit(
        &self,
        range: Range<F::Input>,
        each: impl FnMut(F::Input, Mapping<F>),
    ) -> Result<(), Fault> {
        visit_range(&self.memory, &self.geometry, self.root, range, each)
    }

    /// Every mapping, in order, neighbours that continue each other with the
    /// same attributes joined into one range.
    pub fn mappings(&self) -> Mappings<'_, F, M> {
        Mappings::new(&self.memory, self.geometry, self.root)
    }
}

impl<F: Format> Mapping<F> {
    /// The mapping that the block or page `descriptor` of `size` bytes makes of
    /// `at`.
    #[inline(always)]
    pub(crate) fn of(
        descriptor: u64,
        layout: Layout,
        at: u64,
        (size, level): (u64, u8),
    ) -> Result<Self, Fault> {
        let attributes = F::decode(descriptor).map_err(|Reserved| Fault::Reserved { level })?;
        Ok(Self {
            output: F::Output::new(layout.decode(descriptor) | at & (size - 1)),
            size,
            attributes,
            level,
            contiguous: descriptor & CONTIGUOUS != 0,
        })
    }
}

impl Leaf {
    #[inline(always)]
    fn mapping<F: Format>(self, layout: Layout, at: u64) -> Result<Mapping<F>, Fault> {
        Mapping::of(self.descriptor, layout, at, (1 << self.shift, self.level))
    }
}

/// See [`View::visit`].
#[inline(always)]
pub(crate) fn visit_range<F: Format, M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    range: Range<F::Input>,
    mut each: impl FnMut(F::Input, Mapping<F>),
) -> Result<(), Fault> {
    let (lo, hi) = (range.start().raw(), range.end().raw());
    if hi > geometry.input_end() {
        let level = geometry.start_level();
        return Err(Fault::AddressSize { level });
    }
    let mut at = lo;
    if matches!(geometry.granule(), Granule::Size4K) {
        // A run of blocks or pages in one table.
        match run_level_4k(lo | hi, lo ^ (hi - 1)) {
            Some(3) => visit_run::<3, F, M>(memory, geometry, root, &mut at, hi, &mut each)?,
            Some(2) => visit_run::<2, F, M>(memory, geometry, root, &mut at, hi, &mut each)?,
            Some(1) => visit_run::<1, F, M>(memory, geometry, root, &mut at, hi, &mut each)?,
            _ => {}
        }
        if at == hi {
            return Ok(());
        }
    }
    let place = locate(memory, geometry, root, at, hi - 1);
    let below = (place.table, place.level);
    visit(memory, geometry, below, (at, hi), &mut each)
}

/// Visits entries at `LEVEL` from `at` on, until one is not a block or page.
#[inline(always)]
fn visit_run<const LEVEL: u8, F: Format, M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    at: &mut u64,
    hi: u64,
    each: &mut impl FnMut(F::Input, Mapping<F>),
) -> Result<(), Fault> {
    let Some(place) = down_4k::<LEVEL, M>(memory, geometry.start_level(), root, *at) else {
        return Ok(());
    };
    let size = 1 << place.shift;
    let mut entry = place.entry;
    // Neighbours mostly say the same but for the address.
    let mut before: Option<(u64, Mapping<F>)> = None;
    while *at < hi {
        let descriptor = memory.load(PhysAddr::new(entry));
        let mapping = match before {
            Some((same, mapping)) if (descriptor ^ same) & !ADDRESS == 0 => Mapping {
                output: F::Output::new(descriptor & ADDRESS),
                ..mapping
            },
            _ if descriptor & (TABLE | VALID) == leaf_type(LEVEL) => {
                Mapping::of(descriptor, Layout::SIZE_4K, *at, (size, LEVEL))?
            }
            _ => break,
        };
        each(F::Input::new(*at), mapping);
        before = Some((descriptor, mapping));
        entry += 8;
        *at += size;
    }
    Ok(())
}

/// Calls `each` for every block and page that overlaps `lo..hi` below
/// `table`, which holds all of it.
#[inline(never)]
fn visit<F: Format, M: Memory>(
    memory: &M,
    geometry: &Geometry,
    (table, level): (u64, u8),
    (lo, hi): (u64, u64),
    each: &mut impl FnMut(F::Input, Mapping<F>),
) -> Result<(), Fault> {
    let layout = Layout::of(geometry);
    let shift = geometry.level_shift(level);
    let size = 1u64 << shift;
    let index = if level == geometry.start_level() {
        lo >> shift
    } else {
        lo >> shift & (geometry.granule().entries() - 1)
    };
    let mut entry = table + index * 8;
    let mut at = lo;
    while at < hi {
        let descriptor = memory.load(PhysAddr::new(entry));
        let end = hi.min((at & !(size - 1)) + size);
        if descriptor & VALID != 0 {
            if level == LAST || descriptor & TABLE == 0 {
                let leaf = Leaf {
                    descriptor,
                    level,
                    shift,
                };
                each(F::Input::new(at), leaf.mapping(layout, at)?);
            } else {
                let below = (layout.decode(descriptor), level + 1);
                visit(memory, geometry, below, (at, end), each)?;
            }
        }
        entry += 8;
        at = end;
    }
    Ok(())
}

/// The walk itself, one load a level.
#[inline(always)]
pub(crate) fn walk<F: Format, M: Memory>(
    memory: &M,
    geometry: &Geometry,
    root: PhysAddr,
    address: F::Input,
) -> Result<Mapping<F>, Fault> {
    let raw = address.raw();
    if raw >= geometry.input_end() {
        let level = geometry.start_level();
        return Err(Fault::AddressSize { level });
    }
    match leaf(memory, geometry, root, raw) {
        Ok(leaf) => leaf.mapping(Layout::of(geometry), raw),
        Err(level) => Err(Fault::Translation { level }),
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
    /// The attributes of the mapping.
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

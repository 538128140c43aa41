//! Which physical memory is free and what goes where.

use crate::error::{BootError, Occupant};
use crate::kernel::{KernelHeader, PLACEMENT};
use crate::list::List;
use crate::machine::{BANK_LIMIT, Machine, RESERVED_LIMIT};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};

/// Image, tree, kernel, ramdisk, and the two that are placed here.
const OWN_LIMIT: usize = 6;

/// Alignment of the pool and of the host's tree in bytes: whole blocks, so
/// that what is protected costs the host no large mapping around it, and so
/// that the tree never crosses one.
pub const BLOCK: u64 = 2 << 20;

/// Bytes of an aligned window that holds kernel and ramdisk (booting.rst: 32
/// GiB at most, aligned to 1 GiB).
const RAMDISK_WINDOW: u64 = 32 << 30;

/// What is known about memory before the host starts.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// The hypervisor's image with everything that it needs at its place.
    pub image: Range<PhysAddr>,
    /// The device tree that firmware passed.
    pub tree: Range<PhysAddr>,
    /// The header of the host's kernel.
    pub kernel: KernelHeader,
}

/// Where everything is and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The memory that the hypervisor takes for its tables: in one bank, as
    /// high as possible, both ends multiples of [`BLOCK`].
    pub pool: Range<PhysAddr>,
    /// Where the host's device tree goes. Starts at a multiple of [`BLOCK`]
    /// and has at most that many bytes.
    pub host_tree: Range<PhysAddr>,
    /// The host's kernel up to `image_size`. Its first byte is its entry.
    pub kernel: Range<PhysAddr>,
    /// The host's ramdisk.
    pub ramdisk: Option<Range<PhysAddr>>,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    range: Range<PhysAddr>,
    by: Occupant,
}

struct Map<'a> {
    machine: &'a Machine,
    own: List<Taken, OWN_LIMIT>,
}

impl Layout {
    /// Checks where the boot loader put things and finds room for the rest:
    /// `pool_bytes` for the hypervisor and `tree_bytes` for the host's device
    /// tree.
    ///
    /// # Errors
    /// - [`BootError::OutsideMemory`], [`BootError::Overlap`] for what was
    ///   loaded
    /// - [`BootError::KernelUnaligned`], [`BootError::KernelNoRoom`],
    ///   [`BootError::RamdiskTooFar`] for what the arm64 boot protocol wants
    /// - [`BootError::TooLittleMemory`] when nothing is large enough
    pub fn plan(
        machine: &Machine,
        loaded: &Loaded,
        pool_bytes: u64,
        tree_bytes: u64,
    ) -> Result<Self, BootError> {
        let mut map = Map {
            machine,
            own: List::new(),
        };
        let file = machine.modules.kernel.range;
        check_placement(file.start(), loaded.kernel.text_offset)?;
        let ramdisk = machine.modules.ramdisk.map(|module| module.range);
        map.occupy(Occupant::Hypervisor, loaded.image)?;
        map.occupy(Occupant::DeviceTree, loaded.tree)?;
        if let Some(ramdisk) = ramdisk {
            map.occupy(Occupant::Ramdisk, ramdisk)?;
        }
        let kernel = map.kernel(file, loaded.kernel.image_size)?;
        if let Some(ramdisk) = ramdisk {
            check_window(kernel, ramdisk)?;
        }
        let pool = map.place(Occupant::Pool, pool_bytes.div_ceil(BLOCK).max(1), BLOCK)?;
        let pages = tree_bytes.div_ceil(PAGE_SIZE).clamp(1, BLOCK / PAGE_SIZE);
        let host_tree = map.place(Occupant::HostTree, pages, PAGE_SIZE)?;
        Ok(Self {
            pool,
            host_tree,
            kernel,
            ramdisk,
        })
    }
}

/// The memory that the kernel loaded to `file` has when it runs.
pub(crate) fn kernel_memory(file: Range<PhysAddr>, image_size: u64) -> Range<PhysAddr> {
    Range::from_size(file.start(), image_size.max(file.size())).unwrap_or(file)
}

/// Checks that the kernel is `text_offset` bytes past a 2 MiB boundary.
fn check_placement(at: PhysAddr, text_offset: u64) -> Result<(), BootError> {
    let offset = text_offset % PLACEMENT;
    if at.raw() % PLACEMENT == offset {
        return Ok(());
    }
    let base = at.raw() & !(PLACEMENT - 1);
    let right = [Some(base), base.checked_add(PLACEMENT)]
        .into_iter()
        .flatten()
        .filter_map(|base| base.checked_add(offset))
        .find(|address| *address >= at.raw());
    Err(BootError::KernelUnaligned {
        at,
        text_offset: offset,
        right: PhysAddr::new(right.unwrap_or(offset)),
    })
}

fn check_window(kernel: Range<PhysAddr>, ramdisk: Range<PhysAddr>) -> Result<(), BootError> {
    let start = kernel.start().min(ramdisk.start()).raw() & !((1 << 30) - 1);
    let end = kernel.end().max(ramdisk.end()).raw();
    if end - start > RAMDISK_WINDOW {
        return Err(BootError::RamdiskTooFar { ramdisk, kernel });
    }
    Ok(())
}

impl Map<'_> {
    /// Everything that is taken: what is known here and what the tree
    /// reserves.
    fn taken(&self) -> impl Iterator<Item = Taken> + Clone {
        let reserved = self.machine.reserved.iter().map(|reserved| Taken {
            range: reserved.range,
            by: Occupant::Reserved,
        });
        self.own.iter().copied().chain(reserved)
    }

    /// Notes what the boot loader put at `range`.
    fn occupy(&mut self, by: Occupant, range: Range<PhysAddr>) -> Result<(), BootError> {
        if !self.machine.memory.iter().any(|bank| bank.covers(&range)) {
            return Err(BootError::OutsideMemory { what: by, range });
        }
        // Boot loaders also list what they have loaded in the memory
        // reservation block.
        let conflicts = self.machine.reserved.iter().filter(|r| !r.by_loader);
        let conflicts = conflicts.map(|reserved| Taken {
            range: reserved.range,
            by: Occupant::Reserved,
        });
        let mut all = self.own.iter().copied().chain(conflicts);
        let other = all.find(|other| other.range.overlaps(&range));
        drop(all);
        if let Some(other) = other {
            return Err(BootError::Overlap {
                first: by,
                first_range: range,
                second: other.by,
                second_range: other.range,
            });
        }
        self.note(by, range);
        Ok(())
    }

    fn note(&mut self, by: Occupant, range: Range<PhysAddr>) {
        // One slot for each kind that is ever noted.
        let full = self.own.push(Taken { range, by });
        debug_assert!(full.is_ok());
    }

    /// Notes the kernel: its file must be free, and then the rest of its
    /// `image_size`.
    fn kernel(
        &mut self,
        file: Range<PhysAddr>,
        image_size: u64,
    ) -> Result<Range<PhysAddr>, BootError> {
        self.occupy(Occupant::Kernel, file)?;
        let start = file.start();
        let banks = self.machine.memory.iter();
        let bank_end = banks.clone().find(|bank| bank.contains(start));
        let bank_end = bank_end.map_or(file.end(), |bank| bank.end());
        let above = self
            .taken()
            .filter(|taken| taken.range.start() >= file.end())
            .min_by_key(|taken| taken.range.start());
        let (limit, next) = match above {
            Some(taken) if taken.range.start() < bank_end => (taken.range.start(), taken.by),
            _ => (bank_end, Occupant::EndOfMemory),
        };
        let have = limit.raw() - start.raw();
        if image_size > have {
            return Err(BootError::KernelNoRoom {
                at: start,
                need: image_size,
                have,
                next,
            });
        }
        let whole = kernel_memory(file, image_size);
        for taken in self.own.iter_mut() {
            if taken.by == Occupant::Kernel {
                taken.range = whole;
            }
        }
        Ok(whole)
    }

    /// Takes `units` times `unit` bytes that start at a multiple of [`BLOCK`],
    /// as high as possible in one bank.
    fn place(
        &mut self,
        what: Occupant,
        units: u64,
        unit: u64,
    ) -> Result<Range<PhysAddr>, BootError> {
        let need = units.saturating_mul(unit);
        let mut best: Option<Range<PhysAddr>> = None;
        let mut largest = 0;
        for gap in self.gaps() {
            let start = gap.start().raw().checked_next_multiple_of(BLOCK);
            let whole = start.and_then(|start| gap.end().raw().checked_sub(start));
            let Some(whole) = whole else {
                continue;
            };
            largest = largest.max(whole / unit * unit);
            let Some(highest) = gap.end().raw().checked_sub(need) else {
                continue;
            };
            let start = PhysAddr::new(highest & !(BLOCK - 1));
            if start < gap.start() {
                continue;
            }
            if let Ok(range) = Range::from_size(start, need) {
                best = best.max(Some(range));
            }
        }
        let range = best.ok_or(BootError::TooLittleMemory {
            what,
            need,
            have: largest,
        })?;
        self.note(what, range);
        Ok(range)
    }

    /// The free pieces of memory. Each starts where a bank starts or where
    /// something ends, and reaches up to whatever comes next.
    fn gaps(&self) -> impl Iterator<Item = Range<PhysAddr>> {
        let starts = move |bank: Range<PhysAddr>| {
            let ends = self.taken().map(|taken| taken.range.end());
            core::iter::once(bank.start()).chain(ends.filter(move |end| bank.contains(*end)))
        };
        let banks = self.machine.memory.iter().copied();
        banks.flat_map(move |bank| {
            starts(bank).filter_map(move |start| {
                if self.taken().any(|taken| taken.range.contains(start)) {
                    return None;
                }
                let above = self.taken().map(|taken| taken.range.start());
                let end = above.filter(|next| *next >= start).min();
                Range::new(start, end.map_or(bank.end(), |end| end.min(bank.end()))).ok()
            })
        })
    }
}

// The quadratic walk in `gaps` stays small.
const _: () = assert!(BANK_LIMIT * (RESERVED_LIMIT + OWN_LIMIT) < 8192);

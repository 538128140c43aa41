//! RAM (Devicetree Specification v0.4, section 3.4).

use super::odd::{Odd, Oddities};
use super::reg::{Reg, physical};
use crate::args::ALLOW_LIMIT;
use crate::error::BootError;
use crate::fdt::Fdt;
use crate::list::List;
use portcullis_addr::{PhysAddr, Range};

/// Most memory banks.
pub const BANK_LIMIT: usize = 32;

/// Whether registers at `range` would lie in RAM, as far as the tree's banks
/// can be read.
pub(super) fn in_memory(fdt: &Fdt<'_>, range: &Range<PhysAddr>) -> bool {
    let pages = range.page_outward().unwrap_or(*range);
    banks(fdt, &mut Oddities::default())
        .is_ok_and(|banks| banks.iter().any(|bank| bank.overlaps(&pages)))
}

/// The banks of RAM in the order of their addresses, cut to whole pages. What is
/// named twice is there once, and what touches is one bank, as for Linux
/// (`memblock_add`).
pub(super) fn banks(
    fdt: &Fdt<'_>,
    odd: &mut Oddities,
) -> Result<List<Range<PhysAddr>, BANK_LIMIT>, BootError> {
    let mut banks = List::new();
    let root = fdt.root();
    let cells = root.cells()?;
    for node in root.children() {
        if node.property(b"device_type") != Some(b"memory\0") || !node.is_enabled() {
            continue;
        }
        if node.property(b"reg").is_none() {
            return Err(node.missing("reg"));
        }
        let mut reg = Reg::of(node, cells)?;
        while let Some((address, size)) = reg.next()? {
            // Firmware leaves entries of banks that are not fitted empty.
            if size == 0 {
                continue;
            }
            if add(&mut banks, physical(node, address, size)?)? {
                odd.add(node.id(), Odd::MemoryTwice);
            }
        }
    }
    let mut pages = List::new();
    for bank in banks.iter().filter_map(Range::page_inward) {
        // No more than there were before.
        let _ = pages.push(bank);
    }
    pages.sort_by_key(|bank: &Range<PhysAddr>| bank.start());
    if pages.is_empty() {
        return Err(BootError::MissingNode {
            what: "memory",
            right: "describe RAM in nodes with device_type = memory",
        });
    }
    Ok(pages)
}

/// The part of `banks` below `end`, and how many bytes are left out.
pub(super) fn below(
    banks: &List<Range<PhysAddr>, BANK_LIMIT>,
    end: PhysAddr,
) -> (List<Range<PhysAddr>, BANK_LIMIT>, u64) {
    let (mut below, mut lost) = (List::new(), 0u64);
    for bank in banks.iter() {
        let kept = Range::new(bank.start(), bank.end().min(end)).ok();
        let size = kept.as_ref().map_or(0, Range::size);
        lost = lost.saturating_add(bank.size() - size);
        // As many slots as banks.
        let _ = kept.map(|kept| below.push(kept));
    }
    (below, lost)
}

/// What `memory-allow=` adds to the RAM of the tree, by address.
///
/// # Errors
/// [`BootError::NotMemory`] when it is RAM already, is named twice, or lies at `end` or
/// above; [`BootError::TooMany`] for more banks than there is room for.
pub(super) fn added(
    banks: &List<Range<PhysAddr>, BANK_LIMIT>,
    allowed: &List<Range<PhysAddr>, ALLOW_LIMIT>,
    end: PhysAddr,
) -> Result<List<Range<PhysAddr>, ALLOW_LIMIT>, BootError> {
    let mut added: List<Range<PhysAddr>, ALLOW_LIMIT> = List::new();
    for range in allowed.iter() {
        let not = |why| BootError::NotMemory { range: *range, why };
        if banks.iter().any(|bank| bank.overlaps(range)) {
            return Err(not("is RAM of the device tree"));
        }
        if added.iter().any(|other| other.overlaps(range)) {
            return Err(not("is named twice"));
        }
        if range.end() > end {
            return Err(not("is above what CPUs and SMMUs reach as memory"));
        }
        // As many slots as in what it comes from.
        let _ = added.push(*range);
    }
    if banks.iter().count() + added.iter().count() > BANK_LIMIT {
        return Err(BootError::TooMany {
            what: "memory banks",
            limit: BANK_LIMIT,
        });
    }
    added.sort_by_key(|range: &Range<PhysAddr>| range.start());
    Ok(added)
}

/// Adds `bank`, joined with what it overlaps or touches. Whether it overlapped
/// something.
fn add(
    banks: &mut List<Range<PhysAddr>, BANK_LIMIT>,
    mut bank: Range<PhysAddr>,
) -> Result<bool, BootError> {
    let touches = |bank: &Range<PhysAddr>, other: &Range<PhysAddr>| {
        other.start() <= bank.end() && bank.start() <= other.end()
    };
    let twice = banks.iter().any(|other| other.overlaps(&bank));
    loop {
        let index = banks.iter().position(|other| touches(&bank, other));
        let Some(other) = index.and_then(|index| banks.swap_remove(index)) else {
            break;
        };
        let (start, end) = (bank.start().min(other.start()), bank.end().max(other.end()));
        bank = Range::new(start, end).unwrap_or(bank);
    }
    let full = banks.push(bank).map_err(|_| BootError::TooMany {
        what: "memory banks",
        limit: BANK_LIMIT,
    });
    full.map(|()| twice)
}

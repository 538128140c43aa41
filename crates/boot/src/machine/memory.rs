//! RAM and what is taken of it (Devicetree Specification v0.4, sections 3.4,
//! 3.5 and 5.3).

use super::reg::{Reg, physical, registers};
use crate::error::BootError;
use crate::fdt::{Fdt, Node};
use crate::list::List;
use portcullis_addr::{PhysAddr, Range};

/// Most memory banks.
pub const BANK_LIMIT: usize = 32;

/// Most reserved ranges.
pub const RESERVED_LIMIT: usize = 64;

/// A range of memory that somebody else uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub range: Range<PhysAddr>,
    /// Whether it has the property `no-map`: not even an operating system may
    /// map it, since firmware or a device uses it all the time.
    pub no_map: bool,
    /// Whether it comes from the memory reservation block, where boot loaders
    /// also list what they have loaded: modules may lie in it.
    pub by_loader: bool,
    /// Whether a driver of the host's is what maps it, by a binding that says
    /// so. With `no-map`, what has no such driver is firmware's.
    pub for_driver: bool,
}

/// Bindings of reserved memory that a driver of the operating system maps, so
/// that `no-map` keeps it out of the linear map and not out of the system
/// (Linux, `Documentation/devicetree/bindings/reserved-memory`, unless another
/// place is named).
const MAPPED_BY_DRIVERS: [(&[u8], &str); 11] = [
    (b"shared-dma-pool", "buffers of the devices that name it"),
    (
        b"restricted-dma-pool",
        "bounce buffers of the devices that name it",
    ),
    (b"ramoops", "the kernel's own log over a reset"),
    (b"phram", "a disk in memory"),
    (b"framebuffer", "what a display shows"),
    (
        b"nvmem-rmem",
        "values left by firmware for the system (nvmem)",
    ),
    (
        b"google,open-dice",
        "certificates left by firmware for the system",
    ),
    (
        b"qcom,cmd-db",
        "a data base that firmware wrote for the system",
    ),
    (
        b"qcom,rmtfs-mem",
        "buffers that the system shares with a modem",
    ),
    (
        b"arm,scmi-shmem",
        "messages to firmware (firmware/arm,scmi.yaml)",
    ),
    (
        b"nvidia,tegra264-bpmp-shmem",
        "messages to a power controller",
    ),
];

fn is_for_driver(node: &Node<'_>) -> bool {
    MAPPED_BY_DRIVERS
        .iter()
        .any(|(model, _)| node.is_compatible(model))
}

/// Whether registers at `range` would lie in RAM, as far as the tree's banks
/// can be read.
pub(super) fn in_memory(fdt: &Fdt<'_>, range: &Range<PhysAddr>) -> bool {
    let pages = range.page_outward().unwrap_or(*range);
    banks(fdt).is_ok_and(|banks| banks.iter().any(|bank| bank.overlaps(&pages)))
}

/// The banks of RAM in the order of their addresses, cut to whole pages.
pub(super) fn banks(fdt: &Fdt<'_>) -> Result<List<Range<PhysAddr>, BANK_LIMIT>, BootError> {
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
            let Some(bank) = physical(node, address, size)?.page_inward() else {
                continue;
            };
            banks.push(bank).map_err(|_| BootError::TooMany {
                what: "memory banks",
                limit: BANK_LIMIT,
            })?;
        }
    }
    banks.sort_by_key(|bank: &Range<PhysAddr>| bank.start());
    let upper = banks.iter().skip(1);
    if let Some((first, second)) = banks.iter().zip(upper).find(|(a, b)| a.overlaps(b)) {
        return Err(BootError::MemoryOverlap {
            first: *first,
            second: *second,
        });
    }
    if banks.is_empty() {
        return Err(BootError::MissingNode {
            what: "memory",
            right: "describe RAM in nodes with device_type = memory",
        });
    }
    Ok(banks)
}

/// The memory reservation block and the children of `/reserved-memory` that
/// have a `reg`. Those with a size only are placed by the operating system.
pub(super) fn reserved(fdt: &Fdt<'_>) -> Result<List<Reserved, RESERVED_LIMIT>, BootError> {
    let mut list = List::new();
    let mut add = |reserved| {
        list.push(reserved).map_err(|_| BootError::TooMany {
            what: "reserved ranges",
            limit: RESERVED_LIMIT,
        })
    };
    for (address, size) in fdt.reservations() {
        if size == 0 {
            continue;
        }
        add(Reserved {
            range: physical(fdt.root(), address, size)?,
            no_map: false,
            by_loader: true,
            for_driver: false,
        })?;
    }
    let Some(parent) = fdt.find(b"/reserved-memory") else {
        return Ok(list);
    };
    for node in parent.children() {
        if !node.is_enabled() {
            continue;
        }
        let mut index = 0;
        while let Some(range) = registers(fdt, node, index)? {
            add(Reserved {
                range,
                no_map: node.property(b"no-map").is_some(),
                by_loader: false,
                for_driver: is_for_driver(&node),
            })?;
            index += 1;
        }
    }
    Ok(list)
}

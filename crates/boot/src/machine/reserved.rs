//! Memory that the tree takes out of RAM: the memory reservation block and the
//! children of `/reserved-memory` (Devicetree Specification v0.4, sections 3.5
//! and 5.3).
//!
//! Linux believes `/reserved-memory` only when its cells are the root's, both
//! given, and it has `ranges`; it takes the addresses in it for physical ones,
//! whatever `ranges` holds, looks at the first such node alone, and passes a child
//! whose `reg` is not whole entries (`drivers/of/fdt.c` and `of_reserved_mem.c`,
//! `__reserved_mem_check_root`). A later one may take the first entry of a `reg`
//! only ("of: reserved_mem: only support one <base size> entry in reg property",
//! 2026). What the node means is read here in every way that it can be, and
//! [`Reserved::told`] says whether an operating system reads it too; what it does
//! not, the host's tree says once more.

use super::boot_dma::Framebuffers;
use super::memory::in_memory;
use super::odd::{Odd, Oddities};
use super::reg::{physical, translated};
use crate::error::BootError;
use crate::fdt::{Cells, Fdt, Node, take_cells};
use crate::list::List;
use crate::pieces::pieces_without;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};

/// Most reserved ranges.
pub const RESERVED_LIMIT: usize = 128;

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
    /// Whether the host's tree has a node of firmware's that an operating system
    /// reads so: whole pages, the first entry of its `reg`.
    pub told: bool,
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
    // A device of the host's uses it by DMA already.
    node.property(b"iommu-addresses").is_some()
        || MAPPED_BY_DRIVERS
            .iter()
            .any(|(model, _)| node.is_compatible(model))
}

/// Whether a child of the root holds reserved memory: its name is that, with or
/// without a unit address.
pub(crate) fn is_parent(node: &Node<'_>) -> bool {
    node.name().split(|byte| *byte == b'@').next() == Some(b"reserved-memory")
}

/// The children of the root that hold reserved memory. An operating system looks
/// at the first.
pub(crate) fn parents<'a>(fdt: &Fdt<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    fdt.root().children().filter(is_parent)
}

/// The cells of a property of a child of `parent` that is a list of addresses and
/// sizes: its own as far as they are given and the root's for the rest, which is
/// what they should be (3.5.1). Where the property is not whole entries of these,
/// the defaults of 2.3.5 and then the root's are tried. `None` when it is not
/// whole entries of any.
pub(crate) fn cells_of(fdt: &Fdt<'_>, parent: &Node<'_>, length: usize) -> Option<Cells> {
    let root = fdt.root().quiet_cells()?;
    let given = |name: &str, most: u32| {
        let count = u32::from_be_bytes(parent.property(name.as_bytes())?.try_into().ok()?);
        usize::try_from(count).ok().filter(|_| count <= most)
    };
    let (address, size) = (given("#address-cells", 3), given("#size-cells", 2));
    let or = |default: Cells| Cells {
        address: address.unwrap_or(default.address),
        size: size.unwrap_or(default.size),
    };
    let default = Cells {
        address: 2,
        size: 1,
    };
    let whole = |cells: &Cells| {
        let entry = (cells.address + cells.size) * 4;
        entry != 0 && length.is_multiple_of(entry)
    };
    [or(root), or(default), root].into_iter().find(whole)
}

/// Whether Linux reads the node as it stands.
pub(crate) fn is_usable(fdt: &Fdt<'_>, node: &Node<'_>) -> bool {
    let root = fdt.root().quiet_cells();
    // Before 6.10 it looked for that name without a unit address.
    node.name() == b"reserved-memory"
        && node.property(b"#address-cells").is_some()
        && node.property(b"#size-cells").is_some()
        && root.is_some()
        && node.quiet_cells() == root
        && node.property(b"ranges").is_some_and(<[u8]>::is_empty)
}

type All = List<Reserved, RESERVED_LIMIT>;

fn push(list: &mut All, reserved: Reserved) -> Result<(), BootError> {
    list.push(reserved).map_err(|_| BootError::TooMany {
        what: "reserved ranges",
        limit: RESERVED_LIMIT,
    })
}

/// The memory reservation block and the children of `/reserved-memory` that
/// have a `reg`. Those with a size only are placed by the operating system.
pub(super) fn read(
    fdt: &Fdt<'_>,
    framebuffers: &Framebuffers,
    odd: &mut Oddities,
) -> Result<All, BootError> {
    let mut list = List::new();
    for (address, size) in fdt.reservations() {
        if size == 0 {
            continue;
        }
        let reserved = Reserved {
            range: physical(fdt.root(), address, size)?,
            no_map: false,
            by_loader: true,
            for_driver: false,
            told: false,
        };
        push(&mut list, reserved)?;
    }
    for (index, parent) in parents(fdt).enumerate() {
        if index > 0 {
            odd.add(parent.id(), Odd::SecondReservedMemory);
        } else if !is_usable(fdt, &parent) {
            odd.add(parent.id(), Odd::ReservedMemoryRewritten);
        }
        for node in parent.children().filter(Node::is_enabled) {
            child((fdt, framebuffers), &parent, node, &mut list, odd)?;
        }
    }
    // Some are not reserved, and memory all the same.
    for range in framebuffers.ranges.iter() {
        let reserved = Reserved {
            range: *range,
            no_map: false,
            by_loader: false,
            for_driver: true,
            told: true,
        };
        let covered = list.iter().any(|other| other.range.covers(range));
        if !covered && in_memory(fdt, range) {
            push(&mut list, reserved)?;
        }
    }
    Ok(list)
}

/// Adds `reserved`, of which the pages with a framebuffer are for a driver, and no
/// others: firmware may go on using the rest.
fn push_around(
    list: &mut All,
    framebuffers: &Framebuffers,
    reserved: Reserved,
) -> Result<(), BootError> {
    if reserved.for_driver {
        return push(list, reserved);
    }
    let shown = framebuffers.ranges.iter().filter_map(Range::page_outward);
    for part in shown.clone() {
        if let Some(range) = part.intersection(&reserved.range) {
            let for_driver = true;
            push(
                list,
                Reserved {
                    range,
                    for_driver,
                    ..reserved
                },
            )?;
        }
    }
    for range in pieces_without(reserved.range, shown) {
        push(list, Reserved { range, ..reserved })?;
    }
    Ok(())
}

/// Adds what the `reg` of one child says.
fn child<'a>(
    (fdt, framebuffers): (&Fdt<'a>, &Framebuffers),
    parent: &Node<'a>,
    node: Node<'a>,
    list: &mut All,
    odd: &mut Oddities,
) -> Result<(), BootError> {
    let Some(mut rest) = node.property(b"reg") else {
        return Ok(());
    };
    // Memory that firmware goes on using would be the host's, or ours.
    let no_map = node.property(b"no-map").is_some();
    let mut unreadable = |what: &'static str| match no_map {
        true => Err(node.bad_length("reg", what)),
        false => {
            odd.add(node.id(), Odd::ReservedUnreadable);
            Ok(())
        }
    };
    let Some(cells) = cells_of(fdt, parent, rest.len()) else {
        return unreadable("whole entries of address and size");
    };
    let windows = parent.property(b"ranges").unwrap_or_default();
    let mut first = true;
    while !rest.is_empty() {
        // Whole entries, so that only a number of more than 64 bits ends this.
        let address = take_cells(&mut rest, cells.address);
        let size = take_cells(&mut rest, cells.size);
        let (Some(address), Some(size)) = (address, size) else {
            return unreadable("numbers of at most 64 bits");
        };
        let is_first = core::mem::take(&mut first);
        if size == 0 {
            continue;
        }
        let Ok(range) = Range::from_size(PhysAddr::new(address), size) else {
            unreadable("ranges that end within 64 bits")?;
            continue;
        };
        let reserved = Reserved {
            range,
            no_map,
            by_loader: false,
            for_driver: is_for_driver(&node) || framebuffers.name(&node),
            told: is_first && range.is_aligned(PAGE_SIZE),
        };
        push_around(list, framebuffers, reserved)?;
        if windows.is_empty() {
            continue;
        }
        // By the specification it may be elsewhere; then both are reserved.
        if let Ok(range) = translated(&fdt.ancestry(node.id()), address, size)
            && range != reserved.range
        {
            let told = false;
            let other = Reserved {
                range,
                told,
                ..reserved
            };
            push_around(list, framebuffers, other)?;
        }
    }
    Ok(())
}

//! What firmware and a boot loader do to a tree before the hypervisor sees it.
//!
//! A compiled tree is one with holes: boot loaders fill in how much memory there is
//! and what they have loaded where. This does the same, by rules:
//!
//! - Memory that the tree gives stays. Where there is none, it is [`MEMORY`] bytes
//!   from where the tree's empty `memory` node starts; where that says 0 or there is
//!   none, from the multiple of 1 GiB at or below what the tree reserves first; where
//!   it reserves nothing, or registers are there, from the lowest multiple of 1 GiB
//!   without registers. Memory ends at the first registers above.
//! - The hypervisor's image, the tree, the kernel and the ramdisk lie in that order
//!   from the start of the memory on, each where nothing is reserved; never at
//!   address 0.
//! - An SMMUv3 that is disabled is enabled, if asked for: what is to be known is what
//!   would become of the board with its SMMUs in use.

use crate::board::Smmus;
use crate::nodes::{self, Cells, Nodes, entries, is_compatible, is_enabled, value};
use crate::{Problem, Result};
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node, ToPropertyValue};
use portcullis_addr::{PhysAddr, Range};

/// Bytes of memory of a board whose tree names none.
pub const MEMORY: u64 = 2 << 30;

/// Bytes of what is loaded; the sizes are those of Debian's kernel and ramdisk.
const IMAGE: u64 = 1 << 20;
const TREE: u64 = 2 << 20;
const KERNEL: u64 = 64 << 20;
const RAMDISK: u64 = 32 << 20;
/// What is loaded starts at a multiple of this.
const ALIGNMENT: u64 = 2 << 20;

/// A tree as the hypervisor finds it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The tree.
    pub blob: Vec<u8>,
    /// Where the hypervisor's image is.
    pub image: Range<PhysAddr>,
    /// Where the tree is.
    pub tree: Range<PhysAddr>,
    /// The first bytes of the kernel.
    pub kernel: Vec<u8>,
    /// Whether the memory is the tree's own.
    pub own_memory: bool,
    /// How many SMMUs were disabled.
    pub enabled_smmus: usize,
}

/// Loads everything around the tree in `blob`, with `arguments` for the hypervisor.
///
/// # Errors
/// [`Problem`] when the tree cannot be read or has no room.
pub fn load(blob: &[u8], arguments: &str, smmus: Smmus) -> Result<Loaded> {
    let mut tree = nodes::read(blob)?;
    let own_memory = has_memory(&tree);
    if !own_memory {
        add_memory(&mut tree)?;
    }
    let mut room = Room::of(&tree);
    let image = room.take(IMAGE)?;
    let place = room.take(TREE)?;
    let kernel = room.take(KERNEL)?;
    let ramdisk = room.take(RAMDISK)?;
    let enabled_smmus = match smmus {
        Smmus::Enabled => enable_smmus(&mut tree.root),
        Smmus::AsTheyAre => 0,
    };
    add_modules(&mut tree.root, arguments, kernel, ramdisk);
    let blob = tree.to_dtb();
    let size = (blob.len() as u64).next_multiple_of(8);
    let too_large = || Problem::Tree("it is larger than 2 MiB".to_owned());
    let place = Range::from_size(place.start(), size.min(TREE)).map_err(|_| too_large())?;
    Ok(Loaded {
        blob,
        image,
        tree: place,
        kernel: kernel_header(),
        own_memory,
        enabled_smmus,
    })
}

/// Sets a property, in the place of the old one if there is one.
pub(crate) fn set<T: ToPropertyValue>(node: &mut DeviceTreeNode, name: &str, value: T) {
    match node.property_mut(name) {
        Some(property) => property.set_value(value),
        None => node.add_property(DeviceTreeProperty::new_unchecked(name, value)),
    }
}

fn is_memory_node(node: &DeviceTreeNode) -> bool {
    value(node, "device_type").as_deref() == Some(b"memory\0")
}

fn memory_nodes(root: &DeviceTreeNode) -> impl Iterator<Item = &DeviceTreeNode> {
    let is_memory = |node: &&DeviceTreeNode| is_memory_node(node) && is_enabled(node);
    root.children().filter(is_memory)
}

/// Every bank that is not empty.
fn banks(tree: &DeviceTree) -> Vec<(u64, u64)> {
    let cells = Cells::of(&tree.root);
    let mut banks = Vec::new();
    for node in memory_nodes(&tree.root) {
        let reg = value(node, "reg").unwrap_or_default();
        let all = entries(&reg, [cells.address, cells.size]);
        banks.extend(all.map(|[at, size]| (at, size)));
    }
    banks.retain(|(_, size)| *size > 0);
    banks.sort_unstable();
    banks
}

fn has_memory(tree: &DeviceTree) -> bool {
    !banks(tree).is_empty()
}

/// Every range of registers.
fn registers(tree: &DeviceTree) -> Vec<(u64, u64)> {
    let nodes = Nodes::of(&tree.root);
    let reserved = |path: &str| path.starts_with("/reserved-memory");
    let mut all = Vec::new();
    for (index, place) in nodes.iter().enumerate() {
        if !is_memory_node(place.node) && !reserved(&place.path) {
            all.extend(nodes.registers(index));
        }
    }
    all
}

fn add_memory(tree: &mut DeviceTree) -> Result<()> {
    const STEP: u64 = 1 << 30;
    let cells = Cells::of(&tree.root);
    let empty = memory_nodes(&tree.root).next();
    let name = empty.map(|node| node.name().to_owned());
    let start = empty.and_then(|node| {
        let reg = value(node, "reg")?;
        entries(&reg, [cells.address, cells.size]).next()
    });
    let registers = registers(tree);
    let free = |at: u64| {
        let inside =
            |(start, size): &(u64, u64)| (*start..start.saturating_add(*size)).contains(&at);
        !registers.iter().any(inside)
    };
    let end = |at: u64| {
        let above = registers.iter().map(|(start, _)| *start);
        let next = above.filter(|start| *start >= at).min();
        next.unwrap_or(u64::MAX).min(at + MEMORY) & !(ALIGNMENT - 1)
    };
    // Half of it will do.
    let fits = |at: &u64| free(*at) && end(*at).saturating_sub(*at) >= MEMORY / 2;
    let start = start.map(|[at, _]| at).filter(|at| *at != 0);
    let reserved = reserved(tree).into_iter().map(|(at, _)| at).min();
    let hints = start.into_iter().chain(reserved.map(|at| at & !(STEP - 1)));
    let at = hints.chain((0..1024).map(|step| step * STEP)).find(fits);
    let at = at.ok_or(Problem::NoRoom(MEMORY))?;
    let reg = cells.entry(at, end(at) - at);
    match name.and_then(|name| tree.root.child_mut(&name)) {
        Some(node) => set(node, "reg", reg),
        None => {
            let mut node = DeviceTreeNode::new_unchecked(format!("memory@{at:x}"));
            set(&mut node, "device_type", "memory");
            set(&mut node, "reg", reg);
            tree.root.add_child(node);
        }
    }
    Ok(())
}

/// Every range that the tree reserves.
fn reserved(tree: &DeviceTree) -> Vec<(u64, u64)> {
    let reservations = tree.memory_reservations.iter();
    let mut all: Vec<_> = reservations.map(|r| (r.address(), r.size())).collect();
    // Addresses in it are physical ones, whatever its `ranges` says: so Linux reads it.
    if let Some(parent) = tree.root.child("reserved-memory") {
        let cells = Cells::of(parent);
        for node in parent.children() {
            let reg = value(node, "reg").unwrap_or_default();
            all.extend(entries(&reg, [cells.address, cells.size]).map(|[at, size]| (at, size)));
        }
    }
    all.retain(|(_, size)| *size > 0);
    all
}

/// Memory that is left for what is loaded.
struct Room {
    banks: Vec<(u64, u64)>,
    taken: Vec<(u64, u64)>,
}

impl Room {
    fn of(tree: &DeviceTree) -> Self {
        let mut taken = reserved(tree);
        // Address 0 would say that there is no tree.
        taken.push((0, ALIGNMENT));
        Self {
            banks: banks(tree),
            taken,
        }
    }

    fn take(&mut self, size: u64) -> Result<Range<PhysAddr>> {
        let ends = self.taken.iter().map(|(at, size)| at.saturating_add(*size));
        let starts = self.banks.iter().map(|(at, _)| *at).chain(ends);
        let mut starts: Vec<u64> = starts
            .filter_map(|at| at.checked_next_multiple_of(ALIGNMENT))
            .collect();
        starts.sort_unstable();
        let overlaps = |at: u64, (other, length): &(u64, u64)| {
            at < other.saturating_add(*length) && *other < at.saturating_add(size)
        };
        let at = starts.into_iter().find(|at| {
            let inside = |(bank, length): &(u64, u64)| {
                bank <= at && at.saturating_add(size) <= bank.saturating_add(*length)
            };
            self.banks.iter().any(inside) && !self.taken.iter().any(|taken| overlaps(*at, taken))
        });
        let range = at.and_then(|at| Range::from_size(PhysAddr::new(at), size).ok());
        let range = range.ok_or(Problem::NoRoom(size))?;
        self.taken.push((range.start().raw(), size));
        Ok(range)
    }
}

/// Enables every SMMUv3 and returns how many were disabled.
fn enable_smmus(node: &mut DeviceTreeNode) -> usize {
    let mut count = 0;
    if is_compatible(node, "arm,smmu-v3") && !is_enabled(node) {
        set(node, "status", "okay");
        count += 1;
    }
    count + node.children_mut().map(enable_smmus).sum::<usize>()
}

fn add_modules(
    root: &mut DeviceTreeNode,
    arguments: &str,
    kernel: Range<PhysAddr>,
    ramdisk: Range<PhysAddr>,
) {
    let outer = Cells::of(root);
    if root.child("chosen").is_none() {
        root.add_child(DeviceTreeNode::new_unchecked("chosen"));
    }
    let Some(chosen) = root.child_mut("chosen") else {
        return;
    };
    let count = |name, default| nodes::word(chosen, name).map_or(default, |n| n as usize);
    let cells = Cells {
        address: count("#address-cells", outer.address),
        size: count("#size-cells", outer.size),
    };
    set(chosen, "bootargs", arguments);
    for (range, kind) in [(kernel, "multiboot,kernel"), (ramdisk, "multiboot,ramdisk")] {
        let at = range.start().raw();
        let mut module = DeviceTreeNode::new_unchecked(format!("module@{at:x}"));
        let models = format!("multiboot,module\0{kind}");
        set(&mut module, "compatible", models.as_str());
        set(&mut module, "reg", cells.entry(at, range.size()));
        chosen.add_child(module);
    }
}

/// The header of an arm64 Image of [`KERNEL`] bytes (Linux, booting.rst): pages of
/// 4 KiB, anywhere in memory.
fn kernel_header() -> Vec<u8> {
    let mut header = vec![0; portcullis_boot::KERNEL_HEADER_SIZE as usize];
    header[0x10..0x18].copy_from_slice(&KERNEL.to_le_bytes());
    header[0x18..0x20].copy_from_slice(&0b1010u64.to_le_bytes());
    header[0x38..0x3c].copy_from_slice(b"ARM\x64");
    header
}

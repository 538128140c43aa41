//! Where things are: what the host's device tree says, and a piece of the
//! host's own memory for tables.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use portcullis_hostile::{read64, write64};

/// Where QEMU has an ITS, for a try where the tree names none.
const QEMU_ITS: u64 = 0x0808_0000;
/// Bytes from one CPU's redistributor to the next: RD and SGI frame, and two
/// more for virtual LPIs (IHI 0069, 12.10).
const STRIDE: u64 = 0x2_0000;
const STRIDE_VLPI: u64 = 0x4_0000;
/// GICR_TYPER.VLPIS: there are frames for virtual LPIs.
const TYPER_VLPIS: u64 = 1 << 1;

/// Memory that counts as a hypervisor's on a machine that has none, where the
/// command line says so: then every attack succeeds, and is seen to. The first
/// is where QEMU puts a kernel.
const PRETENDED: [Range; 2] = [
    Range {
        start: 0x4020_0000,
        end: 0x4021_0000,
    },
    Range {
        start: 0x7fe0_0000,
        end: 0x8000_0000,
    },
];

/// The host's memory that this kernel uses for tables and queues.
pub mod own {
    /// Start of all of it: above what boot loaders put anywhere.
    pub const START: u64 = 0x5800_0000;
    /// Bytes of all of it.
    pub const SIZE: u64 = 0x0100_0000;
    /// The command queue.
    pub const QUEUE: u64 = START;
    /// Bytes of the command queue.
    pub const QUEUE_BYTES: u64 = 0x1_0000;
    /// The device table.
    pub const DEVICES: u64 = START + 0x10_0000;
    /// Pages of 4 KiB of the device table: 65,536 entries of 8 bytes.
    pub const DEVICE_PAGES: u64 = 128;
    /// The collection table, of one page.
    pub const COLLECTIONS: u64 = START + 0x20_0000;
    /// A first level for tables of two levels, of one page.
    pub const FIRST_LEVEL: u64 = START + 0x21_0000;
    /// The table of virtual processors, of one page.
    pub const PROCESSORS: u64 = START + 0x22_0000;
    /// Virtual LPIs, pending.
    pub const VIRTUAL_PENDING: u64 = START + 0x23_0000;
    /// LPI configuration, a byte each.
    pub const CONFIGURATION: u64 = START + 0x30_0000;
    /// LPIs that are pending, a bit each, for each of two CPUs.
    pub const PENDING: [u64; 2] = [START + 0x40_0000, START + 0x41_0000];
    /// Interrupt translation tables, 2 MiB of them.
    pub const TRANSLATIONS: u64 = START + 0x50_0000;
    /// A word to be found again, or to be set from outside.
    pub const MARK: u64 = START + 0x70_0000;
    /// Top of the second CPU's stack.
    pub const STACK: u64 = START + 0x80_0000;
}

/// A range of addresses.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Its first byte.
    pub start: u64,
    /// The first byte behind it.
    pub end: u64,
}

/// What is where.
pub struct Places {
    /// Memory that the hypervisor has for itself: its image, then its pool.
    pub hypervisor: [Option<Range>; 8],
    /// The distributor.
    pub distributor: u64,
    /// The ITS's control frame.
    pub its: u64,
    /// Whether the tree names it.
    pub its_is_named: bool,
    /// The first redistributor's RD frame.
    redistributors: u64,
    stride: u64,
    /// How many CPUs there are.
    pub cpus: u64,
    /// Whether the command line asks for no attack of this kernel's own: the
    /// test changes memory from outside.
    pub only_watches: bool,
}

impl Places {
    /// Reads the tree at `tree`.
    pub fn of(tree: u64) -> Self {
        // SAFETY: the boot protocol puts a tree there, which nothing changes.
        let fdt = unsafe { Fdt::from_raw(tree as *const u8) }.expect("a device tree");
        let mut hypervisor = [None; 8];
        let reserved = fdt.find_node("/reserved-memory");
        let ours = reserved
            .iter()
            .flat_map(Node::children)
            .filter(|node| node.name().starts_with("portcullis@"));
        for (slot, node) in hypervisor.iter_mut().zip(ours) {
            *slot = reg(node, 0);
        }
        if hypervisor[0].is_none() && is_told_to(fdt, b"pretend") {
            hypervisor[..2].copy_from_slice(&PRETENDED.map(Some));
        }
        let gic = fdt.root().children().find(|n| compatible(*n, "arm,gic-v3"));
        let gic = gic.expect("a GICv3");
        let its = gic.children().find(|n| compatible(*n, "arm,gic-v3-its"));
        let its = its.and_then(|node| reg(node, 0));
        let redistributors = reg(gic, 1).expect("redistributors").start;
        let vlpis = read64(redistributors + 8) & TYPER_VLPIS != 0;
        let stride = gic
            .property("redistributor-stride")
            .and_then(|value| number(value.value()));
        let cpus = fdt.find_node("/cpus").expect("CPUs");
        let places = Self {
            hypervisor,
            distributor: reg(gic, 0).expect("a distributor").start,
            its: its.map_or(QEMU_ITS, |range| range.start),
            its_is_named: its.is_some(),
            redistributors,
            stride: stride.unwrap_or(if vlpis { STRIDE_VLPI } else { STRIDE }),
            only_watches: is_told_to(fdt, b"watch"),
            cpus: cpus
                .children()
                .filter(|n| n.name().starts_with("cpu@"))
                .count() as u64,
        };
        for range in places.ranges() {
            let apart = range.end <= own::START || range.start >= own::START + own::SIZE;
            assert!(apart, "{range:x?} is where this kernel has its tables");
        }
        places
    }

    /// The hypervisor's memory.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.hypervisor.into_iter().flatten()
    }

    /// 64 KiB of the hypervisor's, aligned to it, in the last of its ranges.
    pub fn target(&self) -> Option<u64> {
        const SIZE: u64 = 0x1_0000;
        let last = self.ranges().last()?;
        let at = (last.end & !(SIZE - 1)) - SIZE;
        (at >= last.start).then_some(at)
    }

    /// The RD frame of a CPU's redistributor.
    pub fn redistributor(&self, cpu: u64) -> u64 {
        self.redistributors + cpu * self.stride
    }
}

/// Sets memory of this kernel's to zero.
pub fn clear(at: u64, bytes: u64) {
    for at in (at..at + bytes).step_by(8) {
        write64(at, 0);
    }
}

fn is_told_to(fdt: Fdt<'_>, word: &[u8]) -> bool {
    let chosen = fdt.find_node("/chosen");
    let arguments = chosen.and_then(|node| node.property("bootargs"));
    arguments.is_some_and(|value| value.value().starts_with(word))
}

fn compatible(node: FdtNode<'_>, with: &str) -> bool {
    node.property("compatible").is_some_and(|value| {
        let mut models = value.value().split(|byte| *byte == 0);
        models.any(|model| model == with.as_bytes())
    })
}

fn reg(node: FdtNode<'_>, index: usize) -> Option<Range> {
    let entry = node.reg().ok()??.nth(index)?;
    let start = entry.address::<u64>().ok()?;
    let size = entry.size::<u64>().ok()?;
    Some(Range {
        start,
        end: start.checked_add(size)?,
    })
}

/// A number of one or two cells.
fn number(value: &[u8]) -> Option<u64> {
    matches!(value.len(), 4 | 8).then(|| value.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

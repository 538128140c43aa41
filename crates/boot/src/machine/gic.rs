//! The interrupt controller (Linux bindings `arm,gic-v3.yaml` and
//! `arm,gic.yaml`).

use super::reg::{first, registers};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId, take_cells};
use crate::list::List;
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};

/// Most ITS nodes or GICv2m frames.
pub const ITS_LIMIT: usize = 16;

/// Most regions of redistributors.
pub const REDISTRIBUTOR_LIMIT: usize = 16;

/// Bytes in the page that holds `GITS_TRANSLATER` (IHI 0069, 12.18: the ITS
/// registers are two frames of 64 KiB, the second one only for it).
pub const DOORBELL_SIZE: u64 = 0x1_0000;

/// One source of message-signalled interrupts: an ITS or a GICv2m frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Its {
    /// Its registers.
    pub registers: Range<PhysAddr>,
    /// Where devices write to raise an interrupt, with nothing else in it: one 64
    /// KiB frame of an ITS, one 4 KiB page of a GICv2m, or the window before an ITS.
    pub doorbell: Range<PhysAddr>,
    /// The addresses in it that devices write to: four bytes, or the whole window.
    pub target: Range<PhysAddr>,
    /// Whether the DeviceID is in the address, as it is with a window before the
    /// ITS: what reaches the window can raise every interrupt of this ITS, and
    /// nothing keeps the interrupts of one owner's devices from another's.
    pub id_in_address: bool,
    /// Its phandle, by which devices refer to it.
    pub phandle: Option<u32>,
}

/// A GICv3 or later.
#[derive(Clone, Copy, Debug)]
pub struct GicV3 {
    /// GICD registers.
    pub distributor: Range<PhysAddr>,
    /// GICR registers, by region.
    pub redistributors: List<Range<PhysAddr>, REDISTRIBUTOR_LIMIT>,
    /// Bytes from one CPU's redistributor to the next in a region; `None`
    /// when they follow each other as their GICR_TYPER says.
    pub stride: Option<u64>,
    /// The memory-mapped registers for the compatibility with GICv2, if any:
    /// GICC, GICH and GICV.
    pub compatibility: List<Range<PhysAddr>, 3>,
    /// The interrupt translation services.
    pub its: List<Its, ITS_LIMIT>,
    /// Its node.
    pub node: NodeId,
}

/// A GICv2.
#[derive(Clone, Copy, Debug)]
pub struct GicV2 {
    /// GICD registers.
    pub distributor: Range<PhysAddr>,
    /// GICC registers.
    pub cpu_interface: Range<PhysAddr>,
    /// GICH and GICV registers, where the GIC supports virtualization.
    pub virtualization: List<Range<PhysAddr>, 2>,
    /// The frames that turn a write into an SPI.
    pub frames: List<Its, ITS_LIMIT>,
    /// Its node.
    pub node: NodeId,
}

/// The interrupt controller of the machine.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of it, and no heap to put the larger variant on"
)]
#[derive(Clone, Copy, Debug)]
pub enum Gic {
    /// Version 3 or later.
    V3(GicV3),
    /// Version 2.
    V2(GicV2),
}

impl Gic {
    /// Its node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        match self {
            Self::V3(gic) => gic.node,
            Self::V2(gic) => gic.node,
        }
    }

    /// GICD registers.
    #[must_use]
    pub fn distributor(&self) -> Range<PhysAddr> {
        match self {
            Self::V3(gic) => gic.distributor,
            Self::V2(gic) => gic.distributor,
        }
    }

    /// Everything that turns a device's write into an interrupt.
    pub fn doorbells(&self) -> impl Iterator<Item = &Its> {
        match self {
            Self::V3(gic) => gic.its.iter(),
            Self::V2(gic) => gic.frames.iter(),
        }
    }
}

const V2_MODELS: [&[u8]; 6] = [
    b"arm,gic-400",
    b"arm,cortex-a15-gic",
    b"arm,cortex-a9-gic",
    b"arm,cortex-a7-gic",
    b"arm,eb11mp-gic",
    b"arm,pl390",
];

/// The first enabled GIC of the tree.
pub(super) fn read(fdt: &Fdt<'_>) -> Result<Gic, BootError> {
    for (_, node) in fdt.nodes().filter(|(_, node)| node.is_enabled()) {
        if node.is_compatible(b"arm,gic-v3") {
            return v3(fdt, node).map(Gic::V3);
        }
        if V2_MODELS.iter().any(|model| node.is_compatible(model)) {
            return v2(fdt, node).map(Gic::V2);
        }
    }
    Err(BootError::MissingNode {
        what: "interrupt controller",
        right: "add a node compatible with arm,gic-v3 or a GICv2",
    })
}

fn v3(fdt: &Fdt<'_>, node: Node<'_>) -> Result<GicV3, BootError> {
    let regions = node.u32("#redistributor-regions")?.unwrap_or(1);
    let regions = usize::try_from(regions)
        .ok()
        .filter(|count| *count <= REDISTRIBUTOR_LIMIT)
        .ok_or(BootError::TooMany {
            what: "redistributor regions",
            limit: REDISTRIBUTOR_LIMIT,
        })?;
    let mut redistributors = List::new();
    for index in 1..=regions {
        let region = registers(fdt, node, index)?;
        let region =
            region.ok_or_else(|| node.bad_length("reg", "GICD and every redistributor region"))?;
        // As many as were asked for fit.
        let _ = redistributors.push(region);
    }
    let mut compatibility = List::new();
    for index in regions + 1..=regions + 3 {
        if let Some(range) = registers(fdt, node, index)? {
            let _ = compatibility.push(range);
        }
    }
    let stride = match node.property(b"redistributor-stride") {
        None => None,
        Some(value) => {
            let stride = match value.len() {
                4 | 8 => take_cells(&mut &*value, value.len() / 4),
                _ => None,
            };
            let right = "one or two cells";
            let stride = stride.ok_or_else(|| node.bad_length("redistributor-stride", right))?;
            if stride == 0 || !stride.is_multiple_of(0x1_0000) {
                return Err(node.bad_value("redistributor-stride", stride, "a multiple of 64 KiB"));
            }
            Some(stride)
        }
    };
    let its = frames(fdt, node, b"arm,gic-v3-its", its_doorbell)?;
    Ok(GicV3 {
        distributor: first(fdt, node)?,
        redistributors,
        stride,
        compatibility,
        its,
        node: node.id(),
    })
}

fn v2(fdt: &Fdt<'_>, node: Node<'_>) -> Result<GicV2, BootError> {
    let cpu_interface = registers(fdt, node, 1)?;
    let mut virtualization = List::new();
    for index in 2..=3 {
        if let Some(range) = registers(fdt, node, index)? {
            let _ = virtualization.push(range);
        }
    }
    let frames = frames(fdt, node, b"arm,gic-v2m-frame", |node, registers| {
        let page = Range::from_size(registers.start(), PAGE_SIZE).ok();
        let page = page.filter(|page| registers.covers(page) && page.is_aligned(PAGE_SIZE));
        let page = page.ok_or_else(|| {
            let right = "at least one page, aligned to it";
            node.bad_value("reg", registers.start().raw(), right)
        })?;
        Ok(Doorbell {
            frame: page,
            target: register(page, SETSPI)?,
            id_in_address: false,
        })
    })?;
    Ok(GicV2 {
        distributor: first(fdt, node)?,
        cpu_interface: cpu_interface.ok_or_else(|| node.bad_length("reg", "GICD and GICC"))?,
        virtualization,
        frames,
        node: node.id(),
    })
}

/// Where devices write.
struct Doorbell {
    frame: Range<PhysAddr>,
    target: Range<PhysAddr>,
    id_in_address: bool,
}

/// Offset of `GITS_TRANSLATER` in its frame (IHI 0069, 12.18) and of `MSI_SETSPI_NS`
/// in that of a GICv2m (Arm Server Base System Architecture, appendix E).
const TRANSLATER: u64 = 0x40;
const SETSPI: u64 = 0x40;

/// The 32-bit register at an offset of a frame.
fn register(frame: Range<PhysAddr>, offset: u64) -> Result<Range<PhysAddr>, BootError> {
    let at = frame.start().checked_add(offset);
    let range = at.and_then(|at| Range::from_size(at, 4).ok());
    range.ok_or(BootError::RegistersInMemory { range: frame })
}

/// The doorbell of an ITS: its second frame, or the window that Socionext's
/// interconnect and TI's K3 have in its place (Linux binding `arm,gic-v3.yaml`,
/// `socionext,synquacer-pre-its`: address and size). There a write of four bytes at
/// offset 4 * n is one of the device n.
fn its_doorbell(node: Node<'_>, registers: Range<PhysAddr>) -> Result<Doorbell, BootError> {
    const WINDOW: &str = "socionext,synquacer-pre-its";
    if let Some(mut window) = node.property(WINDOW.as_bytes()) {
        let right = "the address and size of a window, both multiples of 4 KiB, in a cell each";
        let wrong = || node.bad_length(WINDOW, right);
        let (address, size) = (take_cells(&mut window, 1), take_cells(&mut window, 1));
        let (address, size) = (address.ok_or_else(wrong)?, size.ok_or_else(wrong)?);
        let window = Range::from_size(PhysAddr::new(address), size).ok();
        let window = window.filter(|window| window.is_aligned(PAGE_SIZE));
        let window = window.ok_or_else(|| node.bad_value(WINDOW, address, right))?;
        if registers.size() < DOORBELL_SIZE {
            let right = "at least the frame of 64 KiB with its registers";
            return Err(node.bad_value("reg", registers.start().raw(), right));
        }
        return Ok(Doorbell {
            frame: window,
            target: window,
            id_in_address: true,
        });
    }
    let frame = registers.start().checked_add(DOORBELL_SIZE);
    let frame = frame.and_then(|start| Range::from_size(start, DOORBELL_SIZE).ok());
    let frame = frame.filter(|frame| registers.covers(frame) && frame.is_aligned(DOORBELL_SIZE));
    let frame = frame.ok_or_else(|| {
        let right = "at least two frames of 64 KiB, aligned to 64 KiB";
        node.bad_value("reg", registers.start().raw(), right)
    })?;
    Ok(Doorbell {
        frame,
        target: register(frame, TRANSLATER)?,
        id_in_address: false,
    })
}

/// The children of the GIC that take messages; `doorbell` finds where.
fn frames(
    fdt: &Fdt<'_>,
    gic: Node<'_>,
    model: &[u8],
    doorbell: impl Fn(Node<'_>, Range<PhysAddr>) -> Result<Doorbell, BootError>,
) -> Result<List<Its, ITS_LIMIT>, BootError> {
    let mut list = List::new();
    for node in gic.children() {
        if !node.is_compatible(model) || !node.is_enabled() {
            continue;
        }
        let registers = first(fdt, node)?;
        let found = doorbell(node, registers)?;
        let its = Its {
            registers,
            doorbell: found.frame,
            target: found.target,
            id_in_address: found.id_in_address,
            phandle: node.phandle(),
        };
        list.push(its).map_err(|_| BootError::TooMany {
            what: "ITS nodes or GICv2m frames",
            limit: ITS_LIMIT,
        })?;
    }
    Ok(list)
}

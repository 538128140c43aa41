//! Interrupts for what the host sees in the place of SMMUs, where these have none
//! to spare: SPIs that the distributor has and that no node names.
//!
//! Nothing asserts such a line but the hypervisor, by `GICD_ISPENDR`. What a node
//! names is found by looking for everything that may be an SPI, whatever controller
//! it goes through: to take a number for named that is not costs nothing.

use super::gic::Gic;
use super::memory::in_memory;
use crate::fdt::{Fdt, Node, word};
use portcullis_addr::{PhysAddr, Range};

/// What the machine itself says, asked while its tree is read.
pub trait Hardware {
    /// Where RAM ends that CPUs and SMMUs all reach.
    fn memory_end(&self) -> PhysAddr;

    /// One more than the INTID of the last SPI that the distributor at `registers`
    /// has (IHI 0069, `GICD_TYPER.ITLinesNumber`); 0 where that cannot be found.
    fn spi_end(&self, registers: Range<PhysAddr>) -> u32;
}

/// No machine, but its tree alone.
pub(super) struct TreeAlone;

impl Hardware for TreeAlone {
    fn memory_end(&self) -> PhysAddr {
        PhysAddr::new(u64::MAX)
    }

    fn spi_end(&self, _: Range<PhysAddr>) -> u32 {
        0
    }
}

/// The first INTID of an SPI, and the first behind the last.
const FIRST: u32 = 32;
const END: u32 = 1020;

/// A set of SPIs, by INTID.
#[derive(Clone, Copy, Default)]
struct Spis([u32; 32]);

impl Spis {
    /// Adds `count` SPIs, the first of them `intid`, as far as they are some.
    fn add(&mut self, intid: u32, count: u32) {
        let end = intid.saturating_add(count).min(END);
        for intid in intid.max(FIRST)..end {
            if let Some(word) = self.0.get_mut((intid / 32) as usize) {
                *word |= 1 << (intid % 32);
            }
        }
    }

    /// Adds `count` SPIs that are counted from 0, or from 32: who knows.
    fn add_either(&mut self, number: u32, count: u32) {
        self.add(number, count);
        self.add(number.saturating_add(FIRST), count);
    }

    fn has(&self, intid: u32) -> bool {
        let word = self.0.get((intid / 32) as usize);
        word.is_some_and(|word| word >> (intid % 32) & 1 != 0)
    }
}

/// Properties that give a controller a range of the GIC's SPIs (Linux bindings
/// `interrupt-controller/arm,gic-v3.yaml`, `marvell,gicp.txt`, `qcom,pdc.yaml`,
/// `ti,sci-intr.yaml`): how many cells an entry has, and which are the first
/// SPI and their number.
const RANGES: [(&[u8], [usize; 3]); 4] = [
    (b"mbi-ranges", [2, 0, 1]),
    (b"marvell,spi-ranges", [2, 0, 1]),
    (b"qcom,pdc-ranges", [3, 1, 2]),
    (b"ti,interrupt-ranges", [3, 1, 2]),
];

/// The same in two properties (`arm,gic.yaml`, `amazon,al-msi.txt`).
const PAIRS: [(&[u8], &[u8]); 2] = [
    (b"arm,msi-base-spi", b"arm,msi-num-spis"),
    (b"al,msi-base-spi", b"al,msi-num-spis"),
];

/// Adds what a node may name.
fn add_named(spis: &mut Spis, node: &Node<'_>, gic: Option<u32>, cells: usize) {
    for (name, value) in node.properties() {
        let cell = |index: usize| word(value, index.checked_mul(4)?);
        let count = value.len() / 4;
        // A specifier: its type, 0 for an SPI, and its number.
        let mut specifier = |at: usize, count: u32| {
            if let (Some(0), Some(number)) = (cell(at), cell(at + 1)) {
                spis.add(number.saturating_add(FIRST), count);
            }
        };
        match name {
            b"interrupts" => (0..count).step_by(cells).for_each(|at| specifier(at, 1)),
            b"interrupts-extended" | b"interrupt-map" => {
                // Behind a phandle of the GIC's, and an address of the GIC's bus.
                for at in (0..count).filter(|at| gic.is_some() && cell(*at) == gic) {
                    (1..=4).for_each(|more| specifier(at + more, 1));
                }
            }
            b"msi-ranges" => {
                for at in (0..count).filter(|at| gic.is_some() && cell(*at) == gic) {
                    specifier(at + 1, cell(at + 1 + cells).unwrap_or(1));
                }
            }
            _ => {}
        }
        for (_, [entry, first, size]) in RANGES.iter().filter(|(range, _)| *range == name) {
            for at in (0..count).step_by(*entry) {
                if let (Some(first), Some(size)) = (cell(at + first), cell(at + size)) {
                    spis.add_either(first, size);
                }
            }
        }
    }
    let number = |name: &[u8]| node.property(name).and_then(|value| word(value, 0));
    for (first, size) in PAIRS {
        if let (Some(first), Some(size)) = (number(first), number(size)) {
            spis.add_either(first, size);
        }
    }
}

/// Finds SPIs that no node names.
pub(super) struct Spare<'a> {
    fdt: Fdt<'a>,
    gic: &'a Gic,
    hardware: &'a dyn Hardware,
}

impl<'a> Spare<'a> {
    pub fn new(fdt: &Fdt<'a>, gic: &'a Gic, hardware: &'a dyn Hardware) -> Self {
        Self {
            fdt: *fdt,
            gic,
            hardware,
        }
    }

    /// The INTID of the highest SPI that is implemented, that no node names and that
    /// is not `taken`.
    pub fn find(&self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let registers = self.gic.distributor();
        if in_memory(&self.fdt, &registers) {
            return None;
        }
        let end = self.hardware.spi_end(registers).min(END);
        let gic = self.fdt.node(self.gic.node())?;
        let cells = gic.u32("#interrupt-cells").ok().flatten();
        let cells = cells.map_or(3, |cells| cells.clamp(1, 8) as usize);
        let mut named = Spis::default();
        for (_, node) in self.fdt.nodes() {
            add_named(&mut named, &node, gic.phandle(), cells);
        }
        (FIRST..end)
            .rev()
            .find(|intid| !named.has(*intid) && !taken(*intid))
    }
}

//! Interrupts for what the host sees in the place of SMMUs, where these have none
//! to spare: SPIs that the distributor has and that no node names.
//!
//! Nothing asserts such a line but the hypervisor, by `GICD_ISPENDR`. What a node
//! names is found by looking for everything that may be an SPI, whatever controller
//! it goes through: to take a number for named that is not costs nothing.

use super::gic::Gic;
use super::memory::in_memory;
use crate::fdt::{Fdt, Node, word};
use core::ops::Range;
use portcullis_addr::{self as addr, PhysAddr};

/// What the machine itself says, asked while its tree is read.
pub trait Hardware {
    /// Where RAM ends that CPUs and SMMUs all reach.
    fn memory_end(&self) -> PhysAddr;

    /// One more than the INTID of the last SPI that the distributor at `registers`
    /// has (IHI 0069, `GICD_TYPER.ITLinesNumber`), and the same of the last extended SPI
    /// (`GICD_TYPER.ESPI`); 0 where there is none or that cannot be found.
    fn spi_ends(&self, registers: addr::Range<PhysAddr>) -> [u32; 2];
}

/// No machine, but its tree alone.
pub(super) struct TreeAlone;

impl Hardware for TreeAlone {
    fn memory_end(&self) -> PhysAddr {
        PhysAddr::new(u64::MAX)
    }

    fn spi_ends(&self, _: addr::Range<PhysAddr>) -> [u32; 2] {
        [0; 2]
    }
}

/// The INTIDs of SPIs, and those of extended ones (GICv3.1).
const SPIS: Range<u32> = 32..1020;
const EXTENDED: Range<u32> = 4096..5120;

/// Whether an interrupt is an SPI, extended or not.
pub(super) fn is_spi(intid: u32) -> bool {
    SPIS.contains(&intid) || EXTENDED.contains(&intid)
}

/// A set of SPIs of one kind.
#[derive(Clone)]
struct Set {
    intids: Range<u32>,
    words: [u32; 32],
}

impl Set {
    fn new(intids: Range<u32>) -> Self {
        Self {
            intids,
            words: [0; 32],
        }
    }

    fn place(&self, intid: u32) -> Option<(usize, u32)> {
        let index = intid.checked_sub(self.intids.start)?;
        self.intids
            .contains(&intid)
            .then_some(((index / 32) as usize, index % 32))
    }

    /// Adds `count` INTIDs from `intid` on, as far as they are of this kind.
    fn add(&mut self, intid: u32, count: u32) {
        let end = intid.saturating_add(count).min(self.intids.end);
        for intid in intid.max(self.intids.start)..end {
            if let Some((word, bit)) = self.place(intid)
                && let Some(word) = self.words.get_mut(word)
            {
                *word |= 1 << bit;
            }
        }
    }

    fn has(&self, intid: u32) -> bool {
        let place = self.place(intid);
        let bit = place.and_then(|(word, bit)| Some(self.words.get(word)? >> bit & 1));
        bit == Some(1)
    }

    /// The highest below `end` that is not in the set and not `taken`.
    fn highest_other(&self, end: u32, taken: &impl Fn(u32) -> bool) -> Option<u32> {
        (self.intids.start..end.min(self.intids.end))
            .rev()
            .find(|intid| !self.has(*intid) && !taken(*intid))
    }
}

/// The SPIs that a tree names.
#[derive(Clone)]
struct Named {
    spis: Set,
    extended: Set,
}

impl Named {
    /// Adds `count` SPIs that are counted from 0, or from 32: the tree does not say.
    fn add_either(&mut self, number: u32, count: u32) {
        self.spis.add(number, count);
        self.spis.add(number.saturating_add(SPIS.start), count);
    }

    /// Adds what a specifier names: its type, 0 or 2, and a number that counts within
    /// that.
    fn add_specifier(&mut self, kind: Option<u32>, number: Option<u32>, count: u32) {
        let set = match kind {
            Some(0) => &mut self.spis,
            Some(2) => &mut self.extended,
            _ => return,
        };
        if let Some(number) = number {
            set.add(number.saturating_add(set.intids.start), count);
        }
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

/// The same in two properties (`arm,gic.yaml`, `amazon,al-msi.txt`), and the models that
/// have them.
const PAIRS: [(&[u8], &[u8], &[u8]); 2] = [
    (
        b"arm,gic-v2m-frame",
        b"arm,msi-base-spi",
        b"arm,msi-num-spis",
    ),
    (b"al,alpine-msix", b"al,msi-base-spi", b"al,msi-num-spis"),
];

/// Adds what a node may name.
fn add_named(named: &mut Named, node: &Node<'_>, gic: Option<u32>, cells: usize) {
    for (name, value) in node.properties() {
        let cell = |index: usize| word(value, index.checked_mul(4)?);
        let count = value.len() / 4;
        let mut specifier = |at: usize, count: u32| {
            named.add_specifier(cell(at), cell(at + 1), count);
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
                    named.add_either(first, size);
                }
            }
        }
    }
    let number = |name: &[u8]| node.property(name).and_then(|value| word(value, 0));
    for (model, first, size) in PAIRS {
        match (number(first), number(size)) {
            (Some(first), Some(size)) => named.add_either(first, size),
            // Its registers say which SPIs it has; only its driver reads these.
            _ if node.is_compatible(model) => named.spis.add(SPIS.start, u32::MAX),
            _ => {}
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
    /// is not `taken`; where there is none, of the highest such extended SPI.
    pub fn find(&self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        let registers = self.gic.distributor();
        if in_memory(&self.fdt, &registers) {
            return None;
        }
        let [end, extended_end] = self.hardware.spi_ends(registers);
        let gic = self.fdt.node(self.gic.node())?;
        let cells = gic.u32("#interrupt-cells").ok().flatten();
        let cells = cells.map_or(3, |cells| cells.clamp(1, 8) as usize);
        let mut named = Named {
            spis: Set::new(SPIS),
            extended: Set::new(EXTENDED),
        };
        for (_, node) in self.fdt.nodes() {
            add_named(&mut named, &node, gic.phandle(), cells);
        }
        let usual = named.spis.highest_other(end, &taken);
        usual.or_else(|| named.extended.highest_other(extended_end, &taken))
    }
}

//! Puts a flattened tree together, front to back.

use crate::error::BootError;
use crate::fdt::{BEGIN_NODE, END, END_NODE, Fdt, HEADER_SIZE, MAGIC, PROP};
use crate::text::{Text, Word};
use core::fmt::Write as _;

/// Names that are not in every source tree. They follow the source's strings.
const NAMES: [&str; 28] = [
    "#address-cells",
    "#interrupt-cells",
    "#iommu-cells",
    "#size-cells",
    "bootargs",
    "clocks",
    "compatible",
    "dma-coherent",
    "dma-noncoherent",
    "interrupt-names",
    "interrupt-parent",
    "interrupts",
    "iommu-map",
    "iommus",
    "linux,initrd-end",
    "linux,initrd-start",
    "msi-parent",
    "no-map",
    "phandle",
    "power-domains",
    "ranges",
    "redistributor-stride",
    "reg",
    "regulator-always-on",
    "regulator-name",
    "resets",
    "status",
    "method",
];

/// The name of a property.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    /// At that offset of the source's strings.
    Source(u32),
    /// One of [`NAMES`].
    New(&'a str),
}

pub(super) struct Writer<'s, 'o> {
    source: Fdt<'s>,
    out: &'o mut [u8],
    at: usize,
    structure: usize,
}

/// The name of a node with its address.
pub(super) struct UnitName(Text<32>);

impl UnitName {
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

impl core::fmt::Write for UnitName {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.append(text.as_bytes());
        Ok(())
    }
}

pub(super) fn unit_name(what: &str, address: u64) -> UnitName {
    let mut name = UnitName(Text::new());
    // 27 bytes at most, and the writer above never fails.
    let _ = write!(name, "{what}@{address:x}");
    name
}

impl<'s, 'o> Writer<'s, 'o> {
    /// Starts a tree, with the memory reservations of `source` or without.
    pub fn new(source: &Fdt<'s>, out: &'o mut [u8], reservations: bool) -> Result<Self, BootError> {
        let mut writer = Self {
            source: *source,
            out,
            at: HEADER_SIZE,
            structure: 0,
        };
        // The header's 40 bytes leave it aligned to 8.
        for (address, size) in source.reservations().filter(|_| reservations) {
            writer.bytes(&address.to_be_bytes())?;
            writer.bytes(&size.to_be_bytes())?;
        }
        // What ends them.
        writer.bytes(&[0; 16])?;
        writer.structure = writer.at;
        Ok(writer)
    }

    /// Starts a node.
    pub fn begin(&mut self, name: &[u8]) -> Result<(), BootError> {
        self.word(BEGIN_NODE)?;
        self.bytes(name)?;
        self.bytes(&[0])?;
        self.align()
    }

    /// Adds a property to the node that was started last.
    pub fn property(&mut self, name: Name<'_>, value: &[u8]) -> Result<(), BootError> {
        self.property_header(name, value.len())?;
        self.bytes(value)?;
        self.align()
    }

    /// Starts a property whose value of `len` bytes is written next; a multiple of 4.
    pub fn property_header(&mut self, name: Name<'_>, len: usize) -> Result<(), BootError> {
        let offset = match name {
            Name::Source(offset) => offset,
            Name::New(name) => self.offset_of(name).ok_or(BootError::UnknownName {
                name: Word::start_of(name.as_bytes()),
            })?,
        };
        self.word(PROP)?;
        let len = u32::try_from(len).map_err(|_| self.too_small())?;
        self.word(len)?;
        self.word(offset)
    }

    /// Ends a node.
    pub fn end(&mut self) -> Result<(), BootError> {
        self.word(END_NODE)
    }

    /// Adds strings and header and returns the size of the tree in bytes.
    pub fn finish(mut self) -> Result<usize, BootError> {
        self.word(END)?;
        let strings = self.at;
        self.bytes(self.source.strings())?;
        self.bytes(&[0])?;
        for name in NAMES {
            self.bytes(name.as_bytes())?;
            self.bytes(&[0])?;
        }
        self.align()?;
        let total = self.at;
        let fields = [
            Some(MAGIC),
            u32::try_from(total).ok(),
            u32::try_from(self.structure).ok(),
            u32::try_from(strings).ok(),
            u32::try_from(HEADER_SIZE).ok(),
            Some(17),
            Some(16),
            Some(self.source.boot_cpu()),
            u32::try_from(total - strings).ok(),
            u32::try_from(strings - self.structure).ok(),
        ];
        self.at = 0;
        for field in fields {
            let field = field.ok_or_else(|| self.too_small())?;
            self.word(field)?;
        }
        Ok(total)
    }

    /// The offset of a new name in the strings to be written.
    fn offset_of(&self, name: &str) -> Option<u32> {
        // A NUL ends the source's strings, whether or not they have one.
        let mut offset = self.source.strings().len() + 1;
        for known in NAMES {
            if known == name {
                return u32::try_from(offset).ok();
            }
            offset += known.len() + 1;
        }
        None
    }

    /// Writes a cell of a property that was started.
    pub fn word(&mut self, word: u32) -> Result<(), BootError> {
        self.bytes(&word.to_be_bytes())
    }

    fn align(&mut self) -> Result<(), BootError> {
        let padding = self.at.next_multiple_of(4) - self.at;
        self.bytes([0; 3].get(..padding).unwrap_or_default())
    }

    /// Writes a part of a value.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), BootError> {
        let too_small = self.too_small();
        let end = self.at.checked_add(bytes.len()).ok_or(too_small)?;
        let slot = self.out.get_mut(self.at..end).ok_or(too_small)?;
        slot.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    fn too_small(&self) -> BootError {
        BootError::OutputTooSmall {
            have: self.out.len() as u64,
        }
    }
}

/// A `reg` that is being put together; 5 cells at most.
#[derive(Default)]
pub(super) struct Cellular {
    bytes: [u8; 20],
    len: usize,
}

impl Cellular {
    /// Adds `value` in `cells` cells; `false` when it does not fit them.
    pub fn push(&mut self, value: u64, cells: usize) -> bool {
        let wide = u128::from(value).to_be_bytes();
        let Some(start) = cells.checked_mul(4).and_then(|n| wide.len().checked_sub(n)) else {
            return false;
        };
        let (unused, used) = wide.split_at(start);
        let end = self.len + used.len();
        let Some(slot) = self.bytes.get_mut(self.len..end) else {
            return false;
        };
        slot.copy_from_slice(used);
        self.len = end;
        unused.iter().all(|byte| *byte == 0)
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len)
    }
}

//! One node of a tree, its properties and children.

use super::{Fdt, Token};
use crate::error::BootError;
use crate::text::Text;

/// Names a node of one particular tree: the offset of its first token in the
/// structure block, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(crate) u32);

/// A node of a checked tree.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    fdt: Fdt<'a>,
    at: usize,
}

/// `#address-cells` and `#size-cells` for the `reg` of a node's children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cells {
    pub address: usize,
    pub size: usize,
}

impl<'a> Node<'a> {
    pub(super) fn at(fdt: Fdt<'a>, at: usize) -> Self {
        Self { fdt, at }
    }

    /// The name that this node keeps as long as its tree exists.
    #[must_use]
    pub fn id(&self) -> NodeId {
        // A tree is at most 2 MiB.
        NodeId(u32::try_from(self.at).unwrap_or(u32::MAX))
    }

    /// The node's name with its unit address; empty for the root.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        match self.fdt.token(self.at).map(|placed| placed.token) {
            Some(Token::Begin { name }) => name,
            _ => &[],
        }
    }

    /// Names and values of the node's properties.
    pub fn properties(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let fdt = self.fdt;
        let mut cursor = fdt.token(self.at).map(|placed| placed.next);
        core::iter::from_fn(move || {
            let placed = fdt.token(cursor?)?;
            cursor = Some(placed.next);
            match placed.token {
                Token::Prop { name, value, .. } => Some((name, value)),
                _ => {
                    cursor = None;
                    None
                }
            }
        })
    }

    /// The value of the first property called `name`.
    #[must_use]
    pub fn property(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.properties()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| value)
    }

    /// The nodes directly inside this one.
    pub fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let fdt = self.fdt;
        let mut cursor = fdt.token(self.at).map(|placed| placed.next);
        let mut depth = 0usize;
        core::iter::from_fn(move || {
            loop {
                let placed = fdt.token(cursor?)?;
                cursor = Some(placed.next);
                match placed.token {
                    Token::Begin { .. } => {
                        depth = depth.checked_add(1)?;
                        if depth == 1 {
                            return Some(Node::at(fdt, placed.at));
                        }
                    }
                    Token::EndNode => match depth.checked_sub(1) {
                        Some(outer) => depth = outer,
                        None => cursor = None,
                    },
                    Token::Prop { .. } => {}
                    Token::End => cursor = None,
                }
            }
        })
    }

    /// This node and every node in it.
    pub(crate) fn within(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let fdt = self.fdt;
        let mut cursor = Some(self.at);
        let mut depth = 0usize;
        core::iter::from_fn(move || {
            loop {
                let placed = fdt.token(cursor?)?;
                cursor = Some(placed.next);
                match placed.token {
                    Token::Begin { .. } => {
                        depth = depth.checked_add(1)?;
                        return Some(Node::at(fdt, placed.at));
                    }
                    Token::EndNode => {
                        depth = depth.checked_sub(1)?;
                        if depth == 0 {
                            cursor = None;
                        }
                    }
                    Token::Prop { .. } => {}
                    Token::End => cursor = None,
                }
            }
        })
    }

    /// The first child called `name`, or called that before its unit address
    /// when `name` has none.
    #[must_use]
    pub fn child(&self, name: &[u8]) -> Option<Node<'a>> {
        let base = |node: &Node<'a>| node.name().split(|byte| *byte == b'@').next();
        self.children()
            .find(|node| node.name() == name || (!name.contains(&b'@') && base(node) == Some(name)))
    }

    /// Whether `compatible` lists `model` (section 2.3.1).
    #[must_use]
    pub fn is_compatible(&self, model: &[u8]) -> bool {
        self.strings(b"compatible").any(|found| found == model)
    }

    /// The strings of a `<stringlist>` property; none when it is absent.
    pub fn strings(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let value = self.property(name).unwrap_or_default();
        let value = value.strip_suffix(b"\0").unwrap_or(value);
        value
            .split(|byte| *byte == 0)
            .filter(|text| !text.is_empty())
    }

    /// The node's phandle (section 2.3.3), also under its old name.
    #[must_use]
    pub fn phandle(&self) -> Option<u32> {
        let value = self
            .property(b"phandle")
            .or_else(|| self.property(b"linux,phandle"))?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }

    /// Whether `status` is absent, `okay` or `ok` (section 2.3.4).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        matches!(self.property(b"status"), None | Some(b"okay\0" | b"ok\0"))
    }

    /// A `<u32>` property.
    ///
    /// # Errors
    /// [`BootError::PropertyLength`] when it is not 4 bytes long.
    pub fn u32(&self, name: &'static str) -> Result<Option<u32>, BootError> {
        let Some(value) = self.property(name.as_bytes()) else {
            return Ok(None);
        };
        match <[u8; 4]>::try_from(value) {
            Ok(four) => Ok(Some(u32::from_be_bytes(four))),
            Err(_) => Err(self.bad_length(name, "one cell")),
        }
    }

    /// A `<string>` property, without its NUL.
    ///
    /// # Errors
    /// [`BootError::PropertyText`] unless it is printable ASCII that ends in
    /// its only NUL.
    pub fn text(&self, name: &'static str) -> Result<Option<&'a str>, BootError> {
        let Some(value) = self.property(name.as_bytes()) else {
            return Ok(None);
        };
        value
            .strip_suffix(b"\0")
            .filter(|text| text.iter().all(|byte| (b' '..=b'~').contains(byte)))
            .and_then(|text| core::str::from_utf8(text).ok())
            .map(Some)
            .ok_or_else(|| BootError::PropertyText {
                node: self.fdt.path(self.id()),
                property: name,
            })
    }

    /// The cells of its children's `reg`; `None` for what is not given.
    pub(crate) fn given_cells(&self) -> Result<(Option<usize>, Option<usize>), BootError> {
        let read = |name: &'static str, most: u32| match self.u32(name)? {
            None => Ok(None),
            Some(count) if count <= most => Ok(usize::try_from(count).ok()),
            Some(count) => Err(self.bad_value(name, count.into(), "at most 2 (3 on PCI)")),
        };
        Ok((read("#address-cells", 3)?, read("#size-cells", 2)?))
    }

    /// The cells of its children's `reg`, with the defaults of section 2.3.5.
    pub(crate) fn cells(&self) -> Result<Cells, BootError> {
        let (address, size) = self.given_cells()?;
        Ok(Cells {
            address: address.unwrap_or(2),
            size: size.unwrap_or(1),
        })
    }

    /// As [`cells`](Self::cells), without the cost of saying what is wrong.
    pub(crate) fn quiet_cells(&self) -> Option<Cells> {
        let read = |name: &[u8], default: u32, most: u32| {
            let count = match self.property(name) {
                None => default,
                Some(value) => u32::from_be_bytes(value.try_into().ok()?),
            };
            usize::try_from(count).ok().filter(|_| count <= most)
        };
        Some(Cells {
            address: read(b"#address-cells", 2, 3)?,
            size: read(b"#size-cells", 1, 2)?,
        })
    }

    pub(crate) fn missing(&self, property: &'static str) -> BootError {
        BootError::MissingProperty {
            node: self.fdt.path(self.id()),
            property,
        }
    }

    pub(crate) fn bad_length(&self, property: &'static str, right: &'static str) -> BootError {
        let value = self.property(property.as_bytes()).unwrap_or_default();
        BootError::PropertyLength {
            node: self.fdt.path(self.id()),
            property,
            length: value.len() as u64,
            right,
        }
    }

    pub(crate) fn bad_word(&self, property: &'static str, right: &'static str) -> BootError {
        let value = self.property(property.as_bytes()).unwrap_or_default();
        BootError::PropertyWord {
            node: self.fdt.path(self.id()),
            property,
            value: Text::start_of(value.strip_suffix(b"\0").unwrap_or(value)),
            right,
        }
    }

    pub(crate) fn bad_value(
        &self,
        property: &'static str,
        value: u64,
        right: &'static str,
    ) -> BootError {
        BootError::PropertyValue {
            node: self.fdt.path(self.id()),
            property,
            value,
            right,
        }
    }
}

/// Takes `count` cells from the front of `value`: a big-endian number, or
/// `None` when `value` is too short or the number needs more than 64 bits.
pub(crate) fn take_cells(value: &mut &[u8], count: usize) -> Option<u64> {
    let (cells, rest) = value.split_at_checked(count.checked_mul(4)?)?;
    let mut number = 0u64;
    for cell in cells.chunks_exact(4) {
        if number >> 32 != 0 {
            return None;
        }
        number = number << 32 | u64::from(u32::from_be_bytes(cell.try_into().ok()?));
    }
    *value = rest;
    Some(number)
}

//! A bounds-checked reader of flattened device trees (Devicetree
//! Specification v0.4, chapter 5).
//!
//! [`Fdt::new`] checks the whole structure once. After that every walk ends,
//! and nothing here indexes or slices without a check, so that even a mistake
//! in the check could only make a node invisible, not stop the hypervisor.
//!
//! The host's tree is written from the same tokens that are read here; two
//! readers that disagree about a strange tree are how a node gets hidden from
//! one side only.

mod header;
mod node;

pub use header::{HEADER_SIZE, Structure, TREE_SIZE_LIMIT};
pub(crate) use node::{Cells, take_cells};
pub use node::{Node, NodeId};

use crate::error::BootError;
use crate::text::NodePath;
pub(crate) use header::MAGIC;

/// Deepest nesting of nodes, the root being 1. The deepest trees of real
/// machines stay below 12.
pub const DEPTH_LIMIT: usize = 32;

/// Most nodes in a tree. Big servers describe a few thousand.
pub const NODE_LIMIT: usize = 1 << 14;

/// Most properties of one node. Finding one means passing the others.
pub const PROPERTY_LIMIT: usize = 4096;

/// Longest name of a node or property in bytes, its NUL included. The
/// specification asks for 31 characters; some real trees have more.
pub const NAME_LIMIT: usize = 256;

pub(crate) const BEGIN_NODE: u32 = 1;
pub(crate) const END_NODE: u32 = 2;
pub(crate) const PROP: u32 = 3;
pub(crate) const NOP: u32 = 4;
pub(crate) const END: u32 = 9;

/// A flattened device tree whose structure was checked.
#[derive(Clone, Copy)]
pub struct Fdt<'a> {
    blob: &'a [u8],
    structure: &'a [u8],
    strings: &'a [u8],
    reservations: &'a [u8],
    boot_cpu: u32,
}

/// One token of the structure block (section 5.4.1), NOPs skipped.
#[derive(Clone, Copy)]
pub(crate) enum Token<'a> {
    Begin {
        name: &'a [u8],
    },
    Prop {
        name: &'a [u8],
        name_offset: u32,
        value: &'a [u8],
    },
    EndNode,
    End,
}

/// A token, where it starts and where the next one starts, in bytes from the
/// start of the structure block.
#[derive(Clone, Copy)]
pub(crate) struct Placed<'a> {
    pub token: Token<'a>,
    pub at: usize,
    pub next: usize,
}

/// The big-endian 32-bit word at `offset`.
pub(crate) fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    let four: [u8; 4] = bytes.get(offset..end)?.try_into().ok()?;
    Some(u32::from_be_bytes(four))
}

/// The bytes from `offset` up to the next NUL, which must come soon: a tree
/// whose every property shared one enormous name would cost a scan of it each
/// time.
fn until_nul(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    let end = rest.iter().take(NAME_LIMIT).position(|byte| *byte == 0)?;
    rest.get(..end)
}

impl<'a> Fdt<'a> {
    /// Checks the tree at the start of `blob`; bytes past the size in its
    /// header are ignored.
    ///
    /// # Errors
    /// One of the `Tree…` variants of [`BootError`] unless the header, every
    /// block and every token obey chapter 5 of the Devicetree Specification
    /// and the limits of this module.
    pub fn new(blob: &'a [u8]) -> Result<Self, BootError> {
        let fdt = header::open(blob)?;
        header::check_structure(&fdt)?;
        Ok(fdt)
    }

    /// How many bytes the tree has that starts with `start`, from its header:
    /// what to map before [`new`](Self::new) can read it. Needs the first
    /// [`TREE_HEADER_SIZE`](HEADER_SIZE) bytes.
    ///
    /// # Errors
    /// [`BootError::TreeTruncated`], [`BootError::TreeMagic`],
    /// [`BootError::TreeTooBig`]
    pub fn size_from_header(start: &[u8]) -> Result<u64, BootError> {
        header::size(start)
    }

    /// Bytes that are in use: header, reservations, structure and strings.
    /// Firmware often leaves most of [`bytes`](Self::bytes) free.
    #[must_use]
    pub fn used(&self) -> usize {
        HEADER_SIZE + self.reservations.len() + self.structure.len() + self.strings.len()
    }

    /// The tree's bytes, as many as its header says.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.blob
    }

    /// The root node.
    #[must_use]
    pub fn root(&self) -> Node<'a> {
        Node::at(*self, self.skip_nops(0))
    }

    /// Every node from the root on, parents before children, with its depth
    /// (the root's is 1).
    pub fn nodes(&self) -> impl Iterator<Item = (usize, Node<'a>)> + use<'a> {
        let fdt = *self;
        let mut cursor = 0;
        let mut depth = 0usize;
        core::iter::from_fn(move || {
            loop {
                let placed = fdt.token(cursor)?;
                cursor = placed.next;
                match placed.token {
                    Token::Begin { .. } => {
                        depth = depth.checked_add(1)?;
                        return Some((depth, Node::at(fdt, placed.at)));
                    }
                    Token::EndNode => depth = depth.checked_sub(1)?,
                    Token::Prop { .. } => {}
                    Token::End => return None,
                }
            }
        })
    }

    /// The node with the absolute `path`. A component without a unit address
    /// matches the first child of that name, as in section 2.2.3.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<Node<'a>> {
        let mut node = self.root();
        let rest = path.strip_prefix(b"/")?;
        for part in rest.split(|byte| *byte == b'/').filter(|p| !p.is_empty()) {
            node = node.child(part)?;
        }
        Some(node)
    }

    /// The node that `id` names, or `None` when `id` came from another tree.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<Node<'a>> {
        self.node_at(usize::try_from(id.0).ok()?)
    }

    /// The node whose first token is at `at`.
    pub(crate) fn node_at(&self, at: usize) -> Option<Node<'a>> {
        let placed = self.token(at)?;
        (matches!(placed.token, Token::Begin { .. }) && placed.at == at)
            .then(|| Node::at(*self, at))
    }

    /// The first node whose `phandle` is `phandle` (section 2.3.3).
    #[must_use]
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'a>> {
        self.nodes()
            .map(|(_, node)| node)
            .find(|node| node.phandle() == Some(phandle))
    }

    /// The node an alias stands for (section 3.3), or the node of an absolute
    /// path; whatever follows a `:` is ignored, as in `stdout-path`.
    #[must_use]
    pub fn resolve(&self, name: &[u8]) -> Option<Node<'a>> {
        let name = name.split(|byte| *byte == b':').next()?;
        if name.starts_with(b"/") {
            return self.find(name);
        }
        let alias = self.find(b"/aliases")?.property(name)?;
        self.find(alias.strip_suffix(b"\0")?)
    }

    /// `node` and the nodes around it, from the root down.
    #[must_use]
    pub(crate) fn ancestry(&self, node: NodeId) -> Ancestry<'a> {
        let mut ancestry = Ancestry::empty(self);
        for (depth, at) in self.nodes() {
            ancestry.enter(depth, at);
            if at.id() == node {
                return ancestry;
            }
        }
        Ancestry::empty(self)
    }

    /// The path of a node, for messages.
    #[must_use]
    pub fn path(&self, node: NodeId) -> NodePath {
        let mut path = NodePath::new();
        let ancestry = self.ancestry(node);
        for ancestor in ancestry.downward().skip(1) {
            path.append(b"/");
            path.append(ancestor.name());
        }
        if ancestry.len == 1 {
            path.append(b"/");
        }
        path
    }

    /// The memory reservation block (section 5.3): pairs of an address and a
    /// size in bytes.
    pub fn reservations(&self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        self.reservations
            .chunks_exact(16)
            .map_while(|entry| {
                let number = |at: usize| {
                    let eight = entry.get(at..at + 8)?;
                    Some(u64::from_be_bytes(eight.try_into().ok()?))
                };
                Some((number(0)?, number(8)?))
            })
            .take_while(|entry| *entry != (0, 0))
    }

    /// The strings block (section 5.5).
    pub(crate) fn strings(&self) -> &'a [u8] {
        self.strings
    }

    /// The physical id of the boot CPU (section 5.2).
    pub(crate) fn boot_cpu(&self) -> u32 {
        self.boot_cpu
    }

    /// The token at or after `at`, NOPs skipped; `None` when none is
    /// well-formed there.
    pub(crate) fn token(&self, at: usize) -> Option<Placed<'a>> {
        let at = self.skip_nops(at);
        let after = at.checked_add(4)?;
        let (token, next) = match word(self.structure, at)? {
            BEGIN_NODE => {
                let name = until_nul(self.structure, after)?;
                let end = after.checked_add(name.len())?.checked_add(1)?;
                (Token::Begin { name }, end)
            }
            PROP => {
                let len = usize::try_from(word(self.structure, after)?).ok()?;
                let name_offset = word(self.structure, after.checked_add(4)?)?;
                let start = after.checked_add(8)?;
                let end = start.checked_add(len)?;
                let prop = Token::Prop {
                    name: until_nul(self.strings, usize::try_from(name_offset).ok()?)?,
                    name_offset,
                    value: self.structure.get(start..end)?,
                };
                (prop, end)
            }
            END_NODE => (Token::EndNode, after),
            END => (Token::End, after),
            _ => return None,
        };
        let next = next.checked_next_multiple_of(4)?;
        Some(Placed { token, at, next })
    }

    fn skip_nops(&self, mut at: usize) -> usize {
        while word(self.structure, at) == Some(NOP) {
            at = at.saturating_add(4);
        }
        at
    }
}

/// A node and all nodes around it.
#[derive(Clone, Copy)]
pub(crate) struct Ancestry<'a> {
    fdt: Fdt<'a>,
    offsets: [u32; DEPTH_LIMIT],
    len: usize,
}

impl<'a> Ancestry<'a> {
    /// Of no node yet.
    pub fn empty(fdt: &Fdt<'a>) -> Self {
        Self {
            fdt: *fdt,
            offsets: [0; DEPTH_LIMIT],
            len: 0,
        }
    }

    /// Moves on to `node`, which comes next in the tree, at `depth` as
    /// [`Fdt::nodes`] counts it.
    pub fn enter(&mut self, depth: usize, node: Node<'a>) {
        self.len = 0;
        if let Some(slot) = self.offsets.get_mut(depth.saturating_sub(1)) {
            *slot = node.id().0;
            self.len = depth;
        }
    }

    /// From the root down to the node itself.
    pub fn downward(&self) -> impl DoubleEndedIterator<Item = Node<'a>> {
        let used = self.offsets.get(..self.len).unwrap_or_default();
        used.iter()
            .filter_map(|offset| self.fdt.node(NodeId(*offset)))
    }

    /// From the node itself up to the root.
    pub fn upward(&self) -> impl Iterator<Item = Node<'a>> {
        self.downward().rev()
    }

    /// The node directly around this one.
    pub fn parent(&self) -> Option<Node<'a>> {
        self.upward().nth(1)
    }
}

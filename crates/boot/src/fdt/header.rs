//! The header of a flattened device tree and the check of its structure.

use super::{DEPTH_LIMIT, Fdt, NODE_LIMIT, PROPERTY_LIMIT, Token, word};
use crate::error::BootError;

/// First word of every tree (Devicetree Specification v0.4, section 5.2).
pub(crate) const MAGIC: u32 = 0xd00d_feed;

/// Bytes in the header of a version 17 tree.
pub const HEADER_SIZE: usize = 40;

/// Largest tree in bytes. Linux accepts no more than 2 MiB (booting.rst of
/// arm64), so nothing larger could be meant for it.
pub const TREE_SIZE_LIMIT: u64 = 2 << 20;

/// What is wrong with the structure of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Structure {
    /// A block of the header lies outside the tree or is not aligned.
    #[error("a block named by the header lies outside the tree or is not aligned")]
    Block,
    /// The memory reservation block has no terminating entry.
    #[error("the memory reservations do not end")]
    Reservations,
    /// A token is unknown or runs past its block.
    #[error("a token is unknown or runs past the end")]
    Token,
    /// A node or property name is not printable ASCII, or a nested node has
    /// no name.
    #[error("a name is empty or not printable")]
    Name,
    /// Nodes do not nest: an end without a start, two roots, no root.
    #[error("nodes do not nest properly")]
    Nesting,
    /// A property follows a child of its node.
    #[error("a property follows a child node")]
    Order,
    /// Nodes nest deeper than [`DEPTH_LIMIT`].
    #[error("nodes nest deeper than 32")]
    Depth,
    /// More nodes than [`NODE_LIMIT`].
    #[error("it has more than 16384 nodes")]
    Nodes,
    /// A node has more properties than [`PROPERTY_LIMIT`].
    #[error("a node has more than 4096 properties")]
    Properties,
}

/// Word `index` of the header.
fn field(blob: &[u8], index: usize) -> Result<u32, BootError> {
    word(blob, index * 4).ok_or(BootError::TreeTruncated {
        have: blob.len() as u64,
        need: HEADER_SIZE as u64,
    })
}

/// The size of the whole tree in bytes.
pub(super) fn size(blob: &[u8]) -> Result<u64, BootError> {
    let field = |index| field(blob, index);
    let magic = field(0)?;
    if magic != MAGIC {
        return Err(BootError::TreeMagic { found: magic });
    }
    let size = u64::from(field(1)?);
    if size > TREE_SIZE_LIMIT {
        return Err(BootError::TreeTooBig {
            size,
            limit: TREE_SIZE_LIMIT,
        });
    }
    Ok(size)
}

/// Reads the header and cuts the blob into its blocks.
pub(super) fn open(blob: &[u8]) -> Result<Fdt<'_>, BootError> {
    let total = size(blob)?;
    let field = |index| field(blob, index);
    let (version, compatible) = (field(5)?, field(6)?);
    if version < 17 || compatible > 17 {
        return Err(BootError::TreeVersion {
            version,
            compatible,
        });
    }
    let short = BootError::TreeTruncated {
        have: blob.len() as u64,
        need: total.max(HEADER_SIZE as u64),
    };
    let blob = usize::try_from(total)
        .ok()
        .and_then(|total| blob.get(..total))
        .ok_or(short)?;
    if blob.len() < HEADER_SIZE {
        return Err(short);
    }
    let bad = BootError::TreeStructure {
        offset: 0,
        problem: Structure::Block,
    };
    let block = |offset: u32, size: Option<u32>, alignment: u32| {
        let start = usize::try_from(offset).ok()?;
        let end = match size {
            Some(size) => start.checked_add(usize::try_from(size).ok()?)?,
            None => blob.len(),
        };
        let aligned = offset.is_multiple_of(alignment) && start >= HEADER_SIZE;
        blob.get(start..end).filter(|_| aligned)
    };
    let structure = block(field(2)?, Some(field(9)?), 4).ok_or(bad)?;
    let strings = block(field(3)?, Some(field(8)?), 1).ok_or(bad)?;
    let reservations = block(field(4)?, None, 8).ok_or(bad)?;
    let last = reservations
        .chunks_exact(16)
        .position(|entry| entry.iter().all(|byte| *byte == 0))
        .ok_or(BootError::TreeStructure {
            offset: field(4)?,
            problem: Structure::Reservations,
        })?;
    Ok(Fdt {
        blob,
        structure,
        strings,
        reservations: reservations.get(..(last + 1) * 16).ok_or(bad)?,
        boot_cpu: field(7)?,
    })
}

/// Walks the structure block once, from its first token to its last.
pub(super) fn check_structure(fdt: &Fdt<'_>) -> Result<(), BootError> {
    let mut cursor = 0;
    let mut depth = 0usize;
    let mut nodes = 0usize;
    // Whether the token before this one may be followed by a property.
    let mut properties_allowed = false;
    let mut properties = 0usize;
    loop {
        let bad = |problem| BootError::TreeStructure {
            offset: u32::try_from(cursor).unwrap_or(u32::MAX),
            problem,
        };
        let placed = fdt.token(cursor).ok_or(bad(Structure::Token))?;
        match placed.token {
            Token::Begin { name } => {
                if depth == 0 && nodes > 0 {
                    return Err(bad(Structure::Nesting));
                }
                if !printable(name) || (depth > 0) == name.is_empty() || name.contains(&b'/') {
                    return Err(bad(Structure::Name));
                }
                depth += 1;
                nodes += 1;
                if depth > DEPTH_LIMIT {
                    return Err(bad(Structure::Depth));
                }
                if nodes > NODE_LIMIT {
                    return Err(bad(Structure::Nodes));
                }
                properties_allowed = true;
                properties = 0;
            }
            Token::Prop { name, .. } => {
                if !properties_allowed {
                    return Err(bad(Structure::Order));
                }
                if name.is_empty() || !printable(name) {
                    return Err(bad(Structure::Name));
                }
                properties += 1;
                if properties > PROPERTY_LIMIT {
                    return Err(bad(Structure::Properties));
                }
            }
            Token::EndNode => {
                depth = depth.checked_sub(1).ok_or(bad(Structure::Nesting))?;
                properties_allowed = false;
            }
            Token::End if depth == 0 && nodes > 0 => return Ok(()),
            Token::End => return Err(bad(Structure::Nesting)),
        }
        cursor = placed.next;
    }
}

fn printable(name: &[u8]) -> bool {
    name.iter().all(u8::is_ascii_graphic)
}

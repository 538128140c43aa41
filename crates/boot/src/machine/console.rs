//! The UART for the hypervisor's log (Linux binding `serial/pl011.yaml`;
//! Devicetree Specification v0.4, section 3.6 for `stdout-path`).

use super::memory::in_memory;
use super::reg::first;
use crate::args::{BootArgs, ConsoleChoice};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId};
use crate::text::Word;
use portcullis_addr::{PhysAddr, Range};

/// A PL011.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// Its registers.
    pub registers: Range<PhysAddr>,
    /// Whether it is the hypervisor's alone: `console=` names a UART that is
    /// not the standard output. The host does not see it then.
    pub dedicated: bool,
    /// Its node.
    pub node: NodeId,
}

impl Console {
    /// A UART that can show why reading the rest of the tree failed: the one
    /// the command line names, else the standard output, else the first PL011
    /// that is enabled. `None` when the tree is too broken to tell.
    #[must_use]
    pub fn for_errors(blob: &[u8]) -> Option<Range<PhysAddr>> {
        let fdt = Fdt::new(blob).ok()?;
        let named = match BootArgs::from_fdt(&fdt).ok().map(|args| args.console) {
            Some(ConsoleChoice::Named(name)) => fdt.resolve(name.as_bytes()),
            _ => None,
        };
        let any = || fdt.nodes().map(|(_, node)| node).find(is_pl011);
        // One that claims to be in RAM would print nowhere.
        [named, stdout(&fdt), any()]
            .into_iter()
            .flatten()
            .filter(is_pl011)
            .filter_map(|node| first(&fdt, node).ok())
            .find(|range| !in_memory(&fdt, range))
    }
}

fn is_pl011(node: &Node<'_>) -> bool {
    node.is_compatible(b"arm,pl011") && node.is_enabled()
}

fn stdout<'a>(fdt: &Fdt<'a>) -> Option<Node<'a>> {
    let chosen = fdt.find(b"/chosen")?;
    let path = chosen
        .property(b"stdout-path")
        .or_else(|| chosen.property(b"linux,stdout-path"))?;
    fdt.resolve(path.strip_suffix(b"\0")?)
}

/// The console that the command line asks for.
pub(super) fn read(fdt: &Fdt<'_>, args: &BootArgs<'_>) -> Result<Option<Console>, BootError> {
    let stdout = stdout(fdt).filter(is_pl011);
    let node = match args.console {
        ConsoleChoice::Stdout => match stdout {
            Some(node) => node,
            None => return Ok(None),
        },
        ConsoleChoice::Named(name) => {
            fdt.resolve(name.as_bytes())
                .filter(is_pl011)
                .ok_or(BootError::Console {
                    name: Word::start_of(name.as_bytes()),
                })?
        }
    };
    Ok(Some(Console {
        registers: first(fdt, node)?,
        dedicated: stdout.is_none_or(|stdout| stdout.id() != node.id()),
        node: node.id(),
    }))
}

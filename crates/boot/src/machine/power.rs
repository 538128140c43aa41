//! What could be switched off under the hypervisor.
//!
//! An SMMU without clock or power does not answer, and one that comes back is as
//! after reset: in bypass. Who may switch it is the host, whose drivers own clocks,
//! power domains and resets (Linux bindings `clock/clock.txt`,
//! `power/power-domain.yaml`, `reset/reset.txt`); and an honest one does so with
//! what no driver of its own uses.

use super::binding::is_interrupt_controller;
use super::smmu::{SMMU_LIMIT, Smmu};
use crate::error::BootError;
use crate::fdt::{Fdt, Node, NodeId, take_cells};
use crate::list::List;

/// Most nodes that hold what the hypervisor's devices need.
pub const SUPPLY_LIMIT: usize = 64;

/// Most clocks, domains or resets of a node. Each is looked up by walking the
/// tree.
const ENTRY_LIMIT: usize = 32;

/// Properties by which a device depends on others, and what these call the cells
/// of one.
const SUPPLIES: [(&str, &str); 3] = [
    ("power-domains", "#power-domain-cells"),
    ("resets", "#reset-cells"),
    ("clocks", "#clock-cells"),
];

/// The nodes that hold what the hypervisor's devices need.
pub type Supplies = List<NodeId, SUPPLY_LIMIT>;

/// Calls `each` with the property and every entry of a node that could be switched:
/// all but clocks that are fixed. An entry is `None` when the rest cannot be read.
pub(crate) fn for_each_entry<'a>(
    fdt: &Fdt<'a>,
    node: Node<'a>,
    mut each: impl FnMut(&'static str, Option<&'a [u8]>) -> Result<(), BootError>,
) -> Result<(), BootError> {
    for (property, cells) in SUPPLIES {
        let mut rest = node.property(property.as_bytes()).unwrap_or_default();
        let mut count = 0;
        while !rest.is_empty() {
            let entry = (count < ENTRY_LIMIT)
                .then(|| take_entry(fdt, &mut rest, cells))
                .flatten();
            let Some((provider, entry)) = entry else {
                each(property, None)?;
                break;
            };
            count += 1;
            // A clock that nothing can stop.
            if property == "clocks" && provider.is_compatible(b"fixed-clock") {
                continue;
            }
            each(property, Some(entry))?;
        }
    }
    Ok(())
}

/// Takes one phandle with its cells off `rest`.
fn take_entry<'a>(
    fdt: &Fdt<'a>,
    rest: &mut &'a [u8],
    cells: &'static str,
) -> Option<(Node<'a>, &'a [u8])> {
    let whole = *rest;
    let phandle = u32::try_from(take_cells(rest, 1)?).ok()?;
    let provider = fdt.by_phandle(phandle)?;
    let count = provider.u32(cells).ok().flatten().unwrap_or(0);
    let bytes = usize::try_from(count).ok()?.checked_mul(4)?;
    let (entry, after) = whole.split_at_checked(bytes.checked_add(4)?)?;
    *rest = after;
    Some((provider, entry))
}

/// The first property of a node by which it could be switched off.
fn switch(fdt: &Fdt<'_>, node: Node<'_>) -> Result<Option<&'static str>, BootError> {
    let mut found = None;
    for_each_entry(fdt, node, |property, _| {
        found = found.or(Some(property));
        Ok(())
    })?;
    Ok(found)
}

/// Adds the nodes by which `node` could be switched off, itself and those around
/// it.
///
/// # Errors
/// [`BootError::Switchable`] unless `trusted`.
fn add(fdt: &Fdt<'_>, node: NodeId, trusted: bool, found: &mut Supplies) -> Result<(), BootError> {
    for around in fdt.ancestry(node).upward() {
        let Some(property) = switch(fdt, around)? else {
            continue;
        };
        if !trusted {
            return Err(BootError::Switchable {
                node: fdt.path(node),
                by: fdt.path(around.id()),
                property,
            });
        }
        if !found.iter().any(|known| *known == around.id()) {
            found.push(around.id()).map_err(|_| BootError::TooMany {
                what: "nodes with clocks, power domains or resets of what the hypervisor uses",
                limit: SUPPLY_LIMIT,
            })?;
        }
    }
    Ok(())
}

/// What the SMMUs and the interrupt controllers need.
pub(super) fn read(
    fdt: &Fdt<'_>,
    smmus: &List<Smmu, SMMU_LIMIT>,
    trusted: bool,
) -> Result<Supplies, BootError> {
    let mut found = Supplies::new();
    for smmu in smmus.iter() {
        add(fdt, smmu.node, trusted, &mut found)?;
    }
    let gic = |node: &Node<'_>| is_interrupt_controller(node) && node.is_enabled();
    for (_, node) in fdt.nodes().filter(|(_, node)| gic(node)) {
        add(fdt, node.id(), trusted, &mut found)?;
    }
    Ok(found)
}

/// Adds what the UART at `node` needs. `false` when it is not to be used: it could
/// be switched off, and nobody is trusted not to.
pub(super) fn add_uart(
    fdt: &Fdt<'_>,
    node: NodeId,
    trusted: bool,
    found: &mut Supplies,
) -> Result<bool, BootError> {
    match add(fdt, node, trusted, found) {
        Err(BootError::Switchable { .. }) => Ok(false),
        result => result.map(|()| true),
    }
}

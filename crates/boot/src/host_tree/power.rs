//! Nodes that keep on what the hypervisor's devices need.
//!
//! Linux switches off every clock and power domain that no driver has asked for,
//! once it is up. So each gets a node whose driver asks and never lets go: a
//! regulator that is always on (Linux binding `regulator/fixed-regulator.yaml`),
//! which has its clock running and its power domain with it. Without that driver
//! in the kernel itself the host is to be started with `clk_ignore_unused` and
//! `pd_ignore_unused`.

use super::writer::{Name, Writer, unit_name};
use crate::error::BootError;
use crate::fdt::Fdt;
use crate::machine::Supplies;
use crate::machine::power::for_each_entry;

/// Bytes of a node but for its one entry: 144, and what goes with more digits.
const NODE_BYTES: usize = 192;

/// Bytes that [`write`] takes at most.
pub(super) fn bytes_needed(source: &Fdt<'_>, supplies: &Supplies) -> usize {
    let mut bytes = 0usize;
    for node in supplies.iter().filter_map(|id| source.node(*id)) {
        let _ = for_each_entry(source, node, |_, entry| {
            let entry = entry.map_or(0, <[u8]>::len);
            bytes = bytes.saturating_add(NODE_BYTES).saturating_add(entry);
            Ok(())
        });
    }
    bytes
}

/// Writes a node for each entry, as children of the root.
pub(super) fn write(
    writer: &mut Writer<'_, '_>,
    source: &Fdt<'_>,
    supplies: &Supplies,
) -> Result<(), BootError> {
    let mut number = 0;
    for node in supplies.iter().filter_map(|id| source.node(*id)) {
        for_each_entry(source, node, |property, entry| {
            // What cannot be read, the host cannot read either.
            let Some(entry) = entry else {
                return Ok(());
            };
            let compatible: &[u8] = match property {
                "clocks" => b"regulator-fixed-clock\0",
                _ => b"regulator-fixed\0",
            };
            writer.begin(unit_name("portcullis-power", number).as_bytes())?;
            number += 1;
            writer.property(Name::New("compatible"), compatible)?;
            writer.property(Name::New("regulator-name"), b"portcullis\0")?;
            writer.property(Name::New("regulator-always-on"), &[])?;
            writer.property(Name::New(property), entry)?;
            writer.end()
        })?;
    }
    Ok(())
}

//! Compares the model of the SMMUv3 with QEMU's.

use portcullis_differential::machine::Machine;
use portcullis_lab::setup::{apt::Apt, qemu};
use portcullis_lab::workspace::Workspace;

fn main() -> anyhow::Result<()> {
    let workspace = Workspace::here();
    let _lock = workspace.lock("set-up")?;
    let qemu = match qemu::find(&workspace, None)? {
        Some(qemu) => qemu,
        None => qemu::install(&workspace, &mut Apt::new(&workspace))?,
    };
    Machine::start(&qemu)?;
    Ok(())
}

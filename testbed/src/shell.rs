//! An interactive shell in the host, on the caller's terminal.

use crate::disk::Disk;
use crate::machine::Machine;
use crate::setup::Lab;
use crate::workspace;
use crate::{Error, Result};

/// Runs `machine` with the host's console on the terminal until it ends; the
/// hypervisor's log goes to `target/portcullis/logs/shell-hypervisor.log`.
///
/// Returns whether QEMU ended well.
///
/// # Errors
///
/// [`Error::Start`] when QEMU cannot be started.
pub fn run(lab: &Lab, mut machine: Machine) -> Result<bool> {
    let disk = Disk::new(&lab.workspace, "shell")?;
    machine.disk = Some(disk.path().to_owned());
    machine.network = true;
    machine.edu = true;
    let logs = lab.workspace.output().join("logs");
    workspace::create_dir(&logs)?;
    let log = logs.join("shell-hypervisor.log");
    eprintln!("The hypervisor's log: {}", log.display());
    let mut command = machine.command(&lab.qemu);
    command.args(["-chardev", "stdio,id=host,mux=on,signal=off"]);
    command.args(["-mon", "chardev=host,mode=readline"]);
    command
        .arg("-chardev")
        .arg(format!("file,id=log,path={}", log.display()));
    command.args(["-serial", "chardev:host", "-serial", "chardev:log"]);
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|source| Error::Start {
        program,
        source,
        fix: "delete target/portcullis-cache and try again",
    })?;
    Ok(status.success())
}

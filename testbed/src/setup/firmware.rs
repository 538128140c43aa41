//! Firmware at EL3 for QEMU's virt machine: Trusted Firmware-A, built from
//! Debian's source package, since its binary packages have no QEMU platform.
//!
//! With it the machine has two security states and a GIC that knows both, as
//! most boards do. It starts an image at EL2 that lies in RAM already.

use super::apt::Apt;
use super::compiler::Compiler;
use super::run;
use crate::progress::Progress;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The source of version 2.12.1 in Debian 13, without Debian's own files: 8 MB.
const SOURCE: &str =
    "pool/main/a/arm-trusted-firmware/arm-trusted-firmware_2.12.1+dfsg.orig.tar.xz";
const SHA256: &str = "332c08d71867b7f0dce0bce4cb2abd80f19cb3e0a2de6fe07245c111189d6fb7";
const FIX: &str = "delete target/portcullis-cache/firmware and try again; when Debian has replaced \
                   the source package, name the new one in testbed/src/setup/firmware.rs";

/// Where the firmware expects the image that it starts.
pub const IMAGE_ADDRESS: u64 = 0x4200_0000;
/// Where QEMU puts the device tree of a machine that starts with firmware.
pub const TREE_ADDRESS: u64 = 0x4000_0000;

/// The stages of the boot, as the platform's loader looks for them.
const STAGES: [&str; 3] = ["bl1.bin", "bl2.bin", "bl31.bin"];

/// Built firmware.
#[derive(Clone, Debug)]
pub struct Firmware {
    directory: PathBuf,
}

impl Firmware {
    /// Finds it, or gets its source and builds it, which takes some seconds.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt, the network or the compiler.
    pub fn set_up(workspace: &Workspace) -> Result<Self> {
        let _lock = workspace.lock("set-up")?;
        let directory = workspace.cache().join("firmware");
        if !directory.join("complete").exists() {
            let _ = fs::remove_dir_all(&directory);
            let mut apt = Apt::new(workspace);
            let compiler = Compiler::set_up(workspace, &mut apt)?;
            let mut progress = Progress::spinner("building firmware for EL3");
            progress.note("downloading its source (8 MB)");
            let source = unpack(&apt, &directory)?;
            progress.note("compiling");
            build(&compiler, &source, &directory)?;
            fs::remove_dir_all(&source).map_err(Error::io("cannot remove", &source))?;
            workspace::write_atomically(&directory.join("complete"), b"")?;
            progress.done();
        }
        Ok(Self { directory })
    }

    /// Where its stages are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

/// Gets the source and unpacks it below `directory`.
fn unpack(apt: &Apt, directory: &Path) -> Result<PathBuf> {
    let archive = directory.join("source.tar.xz");
    apt.file(SOURCE, SHA256, &archive)?;
    let source = directory.join("source");
    workspace::create_dir(&source)?;
    let mut command = Command::new("tar");
    command.arg("-xJf").arg(&archive).arg("-C").arg(&source);
    command.arg("--strip-components=1");
    run("unpacking firmware", &mut command, FIX)?;
    fs::remove_file(&archive).map_err(Error::io("cannot remove", &archive))?;
    Ok(source)
}

/// Builds the stages and leaves them in `directory`.
fn build(compiler: &Compiler, source: &Path, directory: &Path) -> Result<()> {
    let mut command = compiler.make();
    command
        .arg("-C")
        .arg(source)
        .args([
            "PLAT=qemu",
            "QEMU_USE_GIC_DRIVER=QEMU_GICV3",
            "BUILD_STRING=debian",
        ])
        // Starts what lies in RAM, with the tree in x0, as it would a kernel.
        .arg("ARM_LINUX_KERNEL_AS_BL33=1")
        .arg(format!("PRELOADED_BL33_BASE={IMAGE_ADDRESS:#x}"))
        .arg(format!("ARM_PRELOADED_DTB_BASE={TREE_ADDRESS:#x}"))
        .args(["-j2", "bl1", "bl2", "bl31"]);
    run("building firmware", &mut command, FIX)?;
    for stage in STAGES {
        let built = source.join("build/qemu/release").join(stage);
        let to = directory.join(stage);
        fs::copy(&built, &to).map_err(Error::io("cannot copy", &built))?;
    }
    Ok(())
}

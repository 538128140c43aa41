//! What a module for the host kernel is built with: Debian's headers of that
//! very kernel, and a compiler for it.

use super::apt::{Apt, BACKPORTS};
use super::compiler::Compiler;
use super::kernel::{Kernel, Version};
use super::run;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

const FIX: &str = "delete target/portcullis-cache and try again";

/// How to build a module for one kernel.
#[derive(Clone, Debug)]
pub struct Headers {
    /// The directory that kbuild works from.
    tree: PathBuf,
    compiler: Compiler,
}

impl Headers {
    /// Finds or gets what fits `kernel`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`] for a kernel that is not Debian's, or too new for the
    /// tools of this machine; any [`Error`] of apt or the network.
    pub fn set_up(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
        if kernel.package.is_some() && kernel.build.version == Version::V7 {
            // Its modpost is linked with glibc 2.38; Debian 12 has 2.36.
            return Err(Error::unsuitable(
                "what builds modules for Debian's 7.x kernels needs a newer C library than \
                 this machine has",
                "choose what needs no module of ours (run with --host-iommu identity or \
                 nested, interrupts, nested --parts matrix,vfio,attacks, paravirt --parts \
                 matrix,vfio,virtio), or leave --kernel-version away",
            ));
        }
        let _lock = workspace.lock("set-up")?;
        let mut apt = Apt::new(workspace);
        let release = kernel
            .package
            .as_deref()
            .and_then(|package| package.strip_prefix("linux-image-"))
            .ok_or_else(|| {
                let what = "a module can be built for Debian's kernels only";
                Error::unsuitable(what, "leave --kernel away")
            })?;
        let compiler = Compiler::set_up(workspace, &mut apt)?;
        let root = workspace
            .cache()
            .join(format!("headers{}", kernel.build.suffix()));
        let tree = root.join(format!("usr/src/linux-headers-{release}"));
        if !tree.join("complete").exists() {
            let _ = fs::remove_dir_all(&root);
            unpack(&mut apt, release, &root, &tree)?;
        }
        Ok(Self { tree, compiler })
    }

    /// Builds the module whose sources lie in `directory`, which has to be
    /// one that may be written to.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] with what the compiler said.
    pub fn build(&self, directory: &Path) -> Result<()> {
        let mut modules = OsString::from("M=");
        modules.push(directory);
        let mut command = self.compiler.make();
        command
            .arg("-C")
            .arg(&self.tree)
            .arg(modules)
            .arg("ARCH=arm64")
            // Types for BPF, which nobody asks a module of ours for.
            .args(["PAHOLE=true", "CONFIG_DEBUG_INFO_BTF_MODULES="])
            .arg("modules");
        run("building a kernel module", &mut command, FIX).map(drop)
    }
}

/// Gets the headers of `release`, such as `6.12.95+deb12-arm64-16k`, and has
/// them include each other where they were unpacked.
fn unpack(apt: &mut Apt, release: &str, root: &Path, tree: &Path) -> Result<()> {
    let (version, _) = release.split_once("-arm64").ok_or_else(|| {
        let what = format!("the kernel {release} is not for arm64");
        Error::unsuitable(what, FIX)
    })?;
    let headers = format!("linux-headers-{release}:arm64");
    let common = format!("linux-headers-{version}-common");
    // Programs of kbuild, which run on the build machine.
    let programs = format!("linux-kbuild-{version}");
    apt.alone(&[&headers, &common, &programs], BACKPORTS, root)?;
    let included = root.join("usr/src").join(&common).join("Makefile");
    let text = format!("include {}\n", included.display());
    workspace::write_atomically(&tree.join("Makefile"), text.as_bytes())?;
    workspace::write_atomically(&tree.join("complete"), b"")
}

//! What a module for the host kernel is built with: Debian's headers of that
//! very kernel, and a compiler for it.

use super::apt::{Apt, NEXT};
use super::compiler::Compiler;
use super::kernel::{Kernel, Version};
use super::{loader, run};
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
    /// [`Error::Unsuitable`] for a kernel that is not Debian's; any [`Error`] of apt or
    /// the network.
    pub fn set_up(workspace: &Workspace, kernel: &Kernel) -> Result<Self> {
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
            unpack(&mut apt, workspace, release, kernel.build.version, &root)?;
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
            // Types for BPF: no BPF program looks into a module of ours.
            .args(["PAHOLE=true", "CONFIG_DEBUG_INFO_BTF_MODULES="])
            // Kernels of 7.x are built by GCC 14, whose flag for this GCC 12 lacks. Functions
            // of modules need no alignment: no tracer patches the space before them.
            .arg("CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=")
            .arg("modules");
        run("building a kernel module", &mut command, FIX).map(drop)
    }
}

/// Gets the headers of `release`, such as `6.12.95+deb12-arm64-16k`, and has
/// them include each other where they were unpacked.
fn unpack(
    apt: &mut Apt,
    workspace: &Workspace,
    release: &str,
    version: Version,
    root: &Path,
) -> Result<()> {
    let (common, _) = release.split_once("-arm64").ok_or_else(|| {
        let what = format!("the kernel {release} is not for arm64");
        Error::unsuitable(what, FIX)
    })?;
    let headers = format!("linux-headers-{release}:arm64");
    // Programs of kbuild, which run on the build machine.
    let programs = format!("linux-kbuild-{common}");
    let common = format!("linux-headers-{common}-common");
    apt.alone(&[&headers, &common, &programs], version.suite(), root)?;
    let sources = root.join("usr/src");
    let tree = sources.join(format!("linux-headers-{release}"));
    let included = sources.join(&common).join("Makefile");
    // Since 6.13, kbuild takes the directory of a module for that of the kernel's output
    // unless it is told.
    let text = format!(
        "KBUILD_OUTPUT = {}\ninclude {}\n",
        tree.display(),
        included.display()
    );
    workspace::write_atomically(&tree.join("Makefile"), text.as_bytes())?;
    if version == Version::V7 {
        lend_library(workspace, &root.join("usr/lib").join(&programs), root)?;
    }
    workspace::write_atomically(&tree.join("complete"), b"")
}

/// Has kbuild's `modpost` run with the C library that it was linked with: that for 7.x
/// needs glibc 2.38, and Debian 12 has 2.36. The program stays beside a script of its
/// name, which has that library's own loader start it.
fn lend_library(workspace: &Workspace, programs: &Path, root: &Path) -> Result<()> {
    let library = root.join("library");
    Apt::next(workspace).alone(&["libc6:amd64"], NEXT, &library)?;
    let program = programs.join("scripts/mod/modpost.real-lsb-64");
    let moved = program.with_extension("program");
    fs::rename(&program, &moved).map_err(Error::io("cannot rename", &program))?;
    loader::script(&program, &moved, &library)
}

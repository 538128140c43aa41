//! Building for the Arm machine, with or without rustup's server.

use super::apt::{Apt, NEWER_BACKPORTS, STABLE};
use super::compiler::{self, Compiler};
use super::rust_source::{self, Choice, LIBRARY, SOURCE};
use super::{loader, run};
use crate::progress::Progress;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set to anything, it makes the set-up act as if rustup's server were away. Set to
/// [`PAIR`], also as if Debian had no source of the toolchain's version.
pub const FORCE_FALLBACK: &str = "PORTCULLIS_BUILD_STD";
/// See [`FORCE_FALLBACK`].
pub const PAIR: &str = "pair";

const FIX: &str = "install the targets by hand with `rustup target add \
                   aarch64-unknown-none-softfloat aarch64-unknown-linux-musl`";

/// The oldest Rust that the project is for.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// What is built for the Arm machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What runs without an operating system: the hypervisor and the hostile kernels.
    BareMetal,
    /// What runs in the Linux host: static programs, which need nothing of what is
    /// installed there.
    Linux,
}

impl Target {
    const ALL: [Self; 2] = [Self::BareMetal, Self::Linux];

    /// What rustup calls it.
    fn name(self) -> &'static str {
        match self {
            Self::BareMetal => "aarch64-unknown-none-softfloat",
            Self::Linux => "aarch64-unknown-linux-musl",
        }
    }

    /// The library of Rust's that everything for the target is built on.
    fn library(self) -> &'static str {
        match self {
            Self::BareMetal => "core",
            Self::Linux => "std",
        }
    }
}

/// How to build for each [`Target`].
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// What the libraries of some targets are built from first. Those of the others are
    /// installed.
    source: Option<Source>,
    from_source: Vec<Target>,
}

/// Rust's source, and what it takes to build libraries and programs from it.
#[derive(Clone, Debug)]
struct Source {
    /// Its directory `library`.
    library: PathBuf,
    /// The compiler that fits it, where that is not the toolchain's.
    rustc: Option<PathBuf>,
    /// The toolchain's linker.
    linker: PathBuf,
    /// What Linux programs are linked with: rustup's server has the C library of
    /// `aarch64-unknown-linux-musl`, Debian that of `aarch64-unknown-linux-gnu`.
    c: Option<C>,
}

/// A compiler and a library of C.
#[derive(Clone, Debug)]
struct C {
    compiler: Compiler,
    /// Where the library is.
    library: PathBuf,
}

impl Toolchain {
    /// A cargo command `verb` for a target, with a target directory apart from the
    /// one of the build machine, so that neither waits for the other.
    #[must_use]
    pub fn cargo(&self, workspace: &Workspace, target: Target, verb: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        let name = self.name(target);
        command
            .arg(verb)
            .current_dir(workspace.root())
            .args(["--target", name]);
        command
            .arg("--target-dir")
            .arg(self.target_dir(workspace, target));
        // What cargo says about the program that runs us is not for the build
        // it starts.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" {
                command.env_remove(name);
            }
        }
        let linker = format!(
            "CARGO_TARGET_{}_LINKER",
            name.to_uppercase().replace('-', "_")
        );
        match self.source(target) {
            Some(source) => source.add_to(&mut command, target, &linker),
            // The toolchain's own: there may be no C compiler for the target.
            None if target == Target::Linux => {
                command.env(linker, "rust-lld");
            }
            None => {}
        }
        command
    }

    /// Where [`Toolchain::cargo`] leaves release builds.
    #[must_use]
    pub fn release_dir(&self, workspace: &Workspace, target: Target) -> PathBuf {
        self.target_dir(workspace, target)
            .join(self.name(target))
            .join("release")
    }

    fn target_dir(&self, workspace: &Workspace, target: Target) -> PathBuf {
        let name = match target {
            Target::BareMetal => "el2",
            Target::Linux => "linux",
        };
        workspace.target().join(match self.source(target) {
            None => name.to_owned(),
            Some(_) => format!("{name}-from-source"),
        })
    }

    /// What rustc calls a target.
    fn name(&self, target: Target) -> &'static str {
        match (target, self.source(target)) {
            (Target::Linux, Some(_)) => "aarch64-unknown-linux-gnu",
            _ => target.name(),
        }
    }

    fn source(&self, target: Target) -> Option<&Source> {
        let from_source = self.from_source.contains(&target);
        self.source.as_ref().filter(|_| from_source)
    }
}

impl Source {
    /// Has a cargo command build a target's libraries first; `linker` is the variable
    /// that names the target's linker.
    fn add_to(&self, command: &mut Command, target: Target, linker: &str) {
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.library);
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc);
        }
        match (target, &self.c) {
            (Target::Linux, Some(c)) => {
                let mut flags = OsString::from("-Ctarget-feature=+crt-static");
                flags.push("\x1f-Crelocation-model=static");
                // Where the compiler finds the files that a program starts with, and
                // where the linker finds the library.
                for option in ["-B", "-L"] {
                    flags.push(format!("\x1f-Clink-arg={option}"));
                    flags.push(&c.library);
                }
                c.compiler.show_to(command);
                command
                    .arg("-Zbuild-std=std,panic_abort")
                    .env("CARGO_ENCODED_RUSTFLAGS", flags)
                    .env(linker, compiler::PROGRAM);
            }
            _ => {
                command
                    .arg("-Zbuild-std=core,alloc,compiler_builtins")
                    .arg("-Zbuild-std-features=compiler-builtins-mem")
                    .env(linker, &self.linker);
            }
        }
    }
}

/// Makes sure that something can be built for every target.
///
/// # Errors
///
/// Any [`Error`] of apt or the network, when both ways fail.
pub fn prepare(workspace: &Workspace, apt: &mut Apt) -> Result<Toolchain> {
    let forced = std::env::var(FORCE_FALLBACK).ok();
    let mut missing = Vec::new();
    for target in Target::ALL {
        if forced.is_some() || !(installed(target) || install(workspace, target)) {
            missing.push(target);
        }
    }
    let source = if missing.is_empty() {
        None
    } else {
        eprintln!("taking Debian's packages of Rust's source in place of rustup's libraries");
        let release = match forced.as_deref() {
            Some(PAIR) => "any".to_owned(),
            _ => release()?,
        };
        let mut source = source(workspace, apt, &release)?;
        if missing.contains(&Target::Linux) {
            source.c = Some(c(workspace, apt)?);
        }
        Some(source)
    };
    Ok(Toolchain {
        source,
        from_source: missing,
    })
}

/// Has rustup install a target's libraries; whether they are there then.
fn install(workspace: &Workspace, target: Target) -> bool {
    let progress = Progress::spinner(&format!("rustup target add {}", target.name()));
    let mut command = Command::new("rustup");
    command
        .args(["target", "add", target.name()])
        .current_dir(workspace.root());
    let done = run("adding a Rust target", &mut command, FIX).is_ok() && installed(target);
    if done {
        progress.done();
    } else {
        eprintln!("rustup could not");
    }
    done
}

/// Whether the toolchain has the target's libraries.
fn installed(target: Target) -> bool {
    let mut command = Command::new(rustc());
    command.args(["--print", "target-libdir", "--target", target.name()]);
    let Ok(text) = run("asking rustc", &mut command, FIX) else {
        return false;
    };
    let Ok(entries) = fs::read_dir(text.trim()) else {
        return false;
    };
    let name = format!("lib{}-", target.library());
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with(&name))
}

/// Finds or gets source that fits the toolchain of `release`, or source with a compiler.
fn source(workspace: &Workspace, apt: &mut Apt, release: &str) -> Result<Source> {
    let own = workspace.cache().join(format!("rust-src-{release}"));
    let pair = workspace.cache().join("rust-pair");
    let here = |root: &Path| root.join("complete").exists();
    if !here(&own) && !here(&pair) {
        let names = rust_source::NAMES;
        let listed = rust_source::listed(&apt.versions(&names)?);
        let choice = rust_source::choose(release, OLDEST, &listed);
        let choice = choice.map_err(|nothing| {
            let what = format!(
                "rustc {release} lacks a library for the Arm machine, rustup's server does not \
                 give it, and Debian's {NEWER_BACKPORTS} has {nothing}"
            );
            Error::unsuitable(what, FIX)
        })?;
        match choice {
            Choice::Source(version) => {
                let _ = fs::remove_dir_all(&own);
                let package = format!("{SOURCE}={version}");
                apt.alone(&[&package], NEWER_BACKPORTS, &own)?;
                workspace::write_atomically(&own.join("complete"), b"")?;
            }
            Choice::Pair(version) => unpack_pair(workspace, &version, &pair)?,
        }
    }
    let root = if here(&own) { &own } else { &pair };
    let library = library(root).ok_or_else(|| {
        Error::unsuitable(
            format!("{} holds no source of Rust's library", root.display()),
            "delete it and try again",
        )
    })?;
    Ok(Source {
        library,
        rustc: (root == &pair).then(|| pair.join("rustc")),
        linker: linker()?,
        c: None,
    })
}

/// Gets a compiler with all that it needs, and its source.
fn unpack_pair(workspace: &Workspace, version: &str, root: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(root);
    let mut apt = Apt::newer(workspace);
    // The compiler itself would have a C compiler come along, which is here already.
    let library = format!("{LIBRARY}={version}");
    apt.with_dependencies(&library, NEWER_BACKPORTS, root)?;
    let others = [rust_source::COMPILER, SOURCE].map(|name| format!("{name}={version}"));
    apt.alone(&[&others[0], &others[1]], NEWER_BACKPORTS, root)?;
    loader::script(&root.join("rustc"), &root.join("usr/bin/rustc"), root)?;
    workspace::write_atomically(&root.join("complete"), b"")
}

/// Finds or gets what Linux programs are linked with.
fn c(workspace: &Workspace, apt: &mut Apt) -> Result<C> {
    let compiler = Compiler::set_up(workspace, apt)?;
    let root = workspace.cache().join("c-library");
    if !root.join("complete").exists() {
        let _ = fs::remove_dir_all(&root);
        apt.alone(&["libc6-dev-arm64-cross"], STABLE, &root)?;
        workspace::write_atomically(&root.join("complete"), b"")?;
    }
    Ok(C {
        compiler,
        library: root.join("usr/aarch64-linux-gnu/lib/"),
    })
}

/// The linker of the toolchain, which another compiler would not find by its name.
fn linker() -> Result<PathBuf> {
    let root = run(
        "asking rustc",
        Command::new(rustc()).args(["--print", "sysroot"]),
        FIX,
    )?;
    let host = field("host: ")?;
    let programs = format!("lib/rustlib/{host}/bin");
    Ok(Path::new(root.trim()).join(programs).join("rust-lld"))
}

fn rustc() -> OsString {
    std::env::var_os("RUSTC").unwrap_or("rustc".into())
}

/// The toolchain's release, such as 1.95.0: other source does not fit it.
fn release() -> Result<String> {
    field("release: ")
}

/// What rustc says of itself.
fn field(name: &str) -> Result<String> {
    let text = run("asking rustc", Command::new(rustc()).arg("-vV"), FIX)?;
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::to_owned)
        .ok_or_else(|| Error::unsuitable(format!("rustc -vV has no {name}"), FIX))
}

/// The `library` directory below an unpacked package.
fn library(root: &Path) -> Option<PathBuf> {
    let ready = |path: &Path| path.join("core/src/lib.rs").exists();
    let usual = root.join("usr/lib/rustlib/src/rust/library");
    if ready(&usual) {
        return Some(usual);
    }
    let entries = fs::read_dir(root.join("usr/src")).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path().join("library"))
        .find(|path| ready(path))
}

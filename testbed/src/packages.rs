//! The crates that others can take, as the packages that a registry would hand out.
//!
//! Which they are is said in the manifests alone: those that may be published. What
//! is built here is built from the packages, in a directory of its own, so that
//! nothing of the workspace can stand in for something that a package lacks.

use crate::progress::Progress;
use crate::setup::{run, run_watched};
use crate::workspace::{Lock, Workspace, create_dir, write_atomically};
use crate::{Error, Result, check};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const FIX: &str = "look at the manifests of the crates, and at docs/crates.md";

/// Where the program outside of the workspace is.
const OUTSIDE: &str = "examples/outside";

/// Whether cargo may fetch what is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// It may.
    Allowed,
    /// Everything is there since the workspace was built.
    Unused,
}

/// One package.
#[derive(Clone, Debug)]
pub struct Package {
    /// The crate's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The oldest Rust that it says it builds with.
    pub minimal_rust: String,
    /// Lines of its source.
    pub lines: usize,
    /// Files in it.
    pub files: usize,
    /// Bytes of it, compressed.
    pub bytes: u64,
    /// Where it was unpacked.
    pub directory: PathBuf,
}

/// The oldest Rust that some packages name, and what it says of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tried {
    /// It builds them.
    Builds,
    /// rustup has no such toolchain.
    NoToolchain,
}

/// All packages, unpacked.
#[derive(Debug)]
pub struct Packages {
    workspace: Workspace,
    directory: PathBuf,
    network: Network,
    list: Vec<Package>,
    _lock: Lock,
}

impl Packages {
    /// Packages every crate that may be published, in one go, and unpacks them.
    ///
    /// # Errors
    ///
    /// What cargo says of a crate that cannot be packaged, or an [`Error`] of files.
    pub fn make(workspace: &Workspace, network: Network) -> Result<Self> {
        let directory = workspace.target().join("packages");
        create_dir(&directory)?;
        let lock = workspace.lock("packages")?;
        let mut this = Self {
            workspace: workspace.clone(),
            directory,
            network,
            list: Vec::new(),
            _lock: lock,
        };
        let progress = Progress::spinner("packaging");
        let mut list = this.publishable()?;
        this.package(&list)?;
        for package in &mut list {
            this.unpack(package)?;
        }
        this.list = list;
        this.join()?;
        progress.done();
        Ok(this)
    }

    /// The packages, by name.
    #[must_use]
    pub fn list(&self) -> &[Package] {
        &self.list
    }

    /// Builds every package on its own terms: with none of its features, then with
    /// all. (`cargo package` could do that too, but keeps what it unpacked of a
    /// version in cargo's cache, and after an edit builds the next crate on that.)
    ///
    /// # Errors
    ///
    /// What the compiler says.
    pub fn check(&self) -> Result<()> {
        let mut progress = Progress::spinner("checking the packages");
        for features in ["--no-default-features", "--all-features"] {
            let mut command = self.cargo("check", &self.unpacked());
            command.args(["--workspace", features]);
            run_watched("checking the packages", &mut command, FIX, |line| {
                progress.note(line.trim());
            })?;
        }
        progress.done();
        Ok(())
    }

    /// Builds the program outside of the workspace on the packages, and returns what
    /// it prints.
    ///
    /// # Errors
    ///
    /// What the compiler or the program says.
    pub fn run_outside(&self) -> Result<String> {
        let progress = Progress::spinner("a program on the packages");
        let program = self.directory.join("outside");
        // A copy: the paths to the workspace that its manifest has lead nowhere from there.
        for file in ["Cargo.toml", "src/main.rs", "src/machine.rs"] {
            copy_if_new(
                &self.workspace.root().join(OUTSIDE).join(file),
                &program.join(file),
            )?;
        }
        self.seed(&program)?;
        let mut command = self.cargo("run", &program);
        command.arg("--quiet");
        for package in &self.list {
            let path = package.directory.display();
            command.arg("--config");
            command.arg(format!("patch.crates-io.{}.path='{path}'", package.name));
        }
        let printed = run("the program on the packages", &mut command, FIX)?;
        progress.done();
        Ok(printed)
    }

    /// What the program has to print.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn expected(&self) -> Result<String> {
        let path = self.workspace.root().join(OUTSIDE).join("expected.txt");
        fs::read_to_string(&path).map_err(Error::io("cannot read", &path))
    }

    /// Checks each package with the oldest Rust that it names, by that name.
    ///
    /// # Errors
    ///
    /// What that compiler says.
    pub fn check_minimal(&self) -> Result<BTreeMap<String, Tried>> {
        let mut by_rust: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for package in &self.list {
            let names = by_rust.entry(&package.minimal_rust).or_default();
            names.push(&package.name);
        }
        let mut tried = BTreeMap::new();
        for (rust, names) in by_rust {
            let what = format!("checking with Rust {rust}");
            let mut progress = Progress::spinner(&what);
            let outcome = if has_toolchain(rust) {
                let mut command = Command::new("rustup");
                command.args(["run", rust, "cargo", "check", "--all-features"]);
                command.args(names.iter().flat_map(|name| ["--package", name]));
                // What another toolchain made would be made anew each time.
                self.place(&mut command, &self.unpacked(), &format!("target-{rust}"));
                run_watched(&what, &mut command, FIX, |line| progress.note(line.trim()))?;
                Tried::Builds
            } else {
                Tried::NoToolchain
            };
            progress.done();
            tried.insert(rust.to_owned(), outcome);
        }
        Ok(tried)
    }

    /// The packages in a table, and what their oldest Rust says of them where that
    /// was tried.
    #[must_use]
    pub fn table(&self, tried: Option<&BTreeMap<String, Tried>>) -> String {
        let mut heading = vec![
            "crate",
            "version",
            "lines",
            "files",
            "compressed",
            "minimal Rust",
        ];
        if tried.is_some() {
            heading.push("tried");
        }
        let rows: Vec<Vec<String>> = self
            .list
            .iter()
            .map(|package| {
                let mut row = vec![
                    package.name.clone(),
                    package.version.clone(),
                    package.lines.to_string(),
                    package.files.to_string(),
                    format!("{} bytes", package.bytes),
                    package.minimal_rust.clone(),
                ];
                if let Some(tried) = tried {
                    row.push(match tried.get(&package.minimal_rust) {
                        Some(Tried::Builds) => "builds".to_owned(),
                        _ => "no toolchain".to_owned(),
                    });
                }
                row
            })
            .collect();
        check::table(&heading, &rows)
    }

    /// The crates that may be published, with nothing known of their packages yet.
    fn publishable(&self) -> Result<Vec<Package>> {
        let mut command = cargo("metadata");
        command
            .args(["--no-deps", "--format-version", "1"])
            .current_dir(self.workspace.root());
        let text = run("asking cargo for the crates", &mut command, FIX)?;
        let unsuitable = |what: String| Error::unsuitable(what, FIX);
        let metadata: Value = serde_json::from_str(&text)
            .map_err(|error| unsuitable(format!("cargo metadata: {error}")))?;
        let mut list = Vec::new();
        for package in metadata["packages"].as_array().into_iter().flatten() {
            // An empty list of registries is `publish = false`.
            if !package["publish"].is_null() {
                continue;
            }
            let text = |key: &str| {
                let name = &package["name"];
                let text = package[key].as_str().map(str::to_owned);
                text.ok_or_else(|| unsuitable(format!("{name} has no {key}")))
            };
            let (name, version) = (text("name")?, text("version")?);
            list.push(Package {
                directory: self.unpacked().join(format!("{name}-{version}")),
                minimal_rust: text("rust_version")?,
                lines: 0,
                files: 0,
                bytes: 0,
                name,
                version,
            });
        }
        list.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(list)
    }

    /// Makes the packages.
    fn package(&self, list: &[Package]) -> Result<()> {
        let mut command = self.cargo("package", self.workspace.root());
        // A test has to work before a commit too.
        command.args(["--no-verify", "--allow-dirty"]);
        for package in list {
            command.args(["--package", &package.name]);
        }
        run("cargo package", &mut command, FIX).map(drop)
    }

    /// Unpacks a package, unless it is what was unpacked before: cargo would build
    /// everything anew.
    fn unpack(&self, package: &mut Package) -> Result<()> {
        let file = format!("{}-{}.crate", package.name, package.version);
        let made = self.directory.join("target/package").join(&file);
        let bytes = fs::read(&made).map_err(Error::io("cannot read", &made))?;
        let unpacked = self.unpacked().join(&file);
        if fs::read(&unpacked).ok().as_ref() != Some(&bytes) {
            if package.directory.exists() {
                fs::remove_dir_all(&package.directory)
                    .map_err(Error::io("cannot remove", &package.directory))?;
            }
            create_dir(&self.unpacked())?;
            // Every file in a package has the same time, by which cargo would not see that
            // one has changed: `m` gives it the time of now.
            let mut command = Command::new("tar");
            command.arg("-xmzf").arg(&made).arg("-C");
            command.arg(self.unpacked());
            run("unpacking a package", &mut command, FIX)?;
            write_atomically(&unpacked, &bytes)?;
        }
        package.bytes = bytes.len() as u64;
        package.files = files_below(&package.directory)?.len();
        package.lines = 0;
        for path in files_below(&package.directory.join("src"))? {
            let text = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
            package.lines += text.lines().count();
        }
        Ok(())
    }

    /// Makes the packages a workspace of their own, in which each finds the others.
    fn join(&self) -> Result<()> {
        let mut manifest = "[workspace]\nresolver = \"3\"\nmembers = [\n".to_owned();
        let mut patch = "[patch.crates-io]\n".to_owned();
        for Package { name, version, .. } in &self.list {
            manifest.push_str(&format!("    \"{name}-{version}\",\n"));
            patch.push_str(&format!("{name} = {{ path = \"{name}-{version}\" }}\n"));
        }
        manifest.push_str("]\n\n");
        manifest.push_str(&patch);
        write_atomically(&self.unpacked().join("Cargo.toml"), manifest.as_bytes())?;
        self.seed(&self.unpacked())
    }

    /// Has a package use the versions of other crates that the workspace uses, which
    /// are there without a network.
    fn seed(&self, package: &Path) -> Result<()> {
        let lock = self.workspace.root().join("Cargo.lock");
        let text = fs::read(&lock).map_err(Error::io("cannot read", &lock))?;
        write_atomically(&package.join("Cargo.lock"), &text)
    }

    fn unpacked(&self) -> PathBuf {
        self.directory.join("unpacked")
    }

    fn cargo(&self, verb: &str, at: &Path) -> Command {
        let mut command = cargo(verb);
        self.place(&mut command, at, "target");
        command
    }

    /// Has a command of cargo's run at a place and build beside the packages.
    fn place(&self, command: &mut Command, at: &Path, target: &str) {
        command.current_dir(at);
        command.arg("--target-dir").arg(self.directory.join(target));
        // It is built to be run once.
        command.env("CARGO_PROFILE_DEV_DEBUG", "0");
        if self.network == Network::Unused {
            command.arg("--offline");
        }
    }
}

fn cargo(verb: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.arg(verb);
    command
}

/// Whether rustup has a toolchain. Does not install it.
fn has_toolchain(rust: &str) -> bool {
    let mut command = Command::new("rustup");
    command
        .args(["run", rust, "cargo", "--version"])
        .env("RUSTUP_AUTO_INSTALL", "0");
    command.output().is_ok_and(|output| output.status.success())
}

fn copy_if_new(from: &Path, to: &Path) -> Result<()> {
    let text = fs::read(from).map_err(Error::io("cannot read", from))?;
    if fs::read(to).ok().as_ref() == Some(&text) {
        return Ok(());
    }
    write_atomically(to, &text)
}

/// Every file below a directory.
fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let entries = fs::read_dir(directory).map_err(Error::io("cannot read", directory))?;
    for entry in entries {
        let path = entry.map_err(Error::io("cannot read", directory))?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    Ok(files)
}

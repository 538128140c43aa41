//! Copies of the repository in which mistakes are made.

use crate::catalogue::Mutant;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the repository.
#[must_use]
pub fn workspace_root() -> PathBuf {
    // The package lies directly below it.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// One copy, with a target directory of its own, so that a build after a change
/// of one file builds little.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// Held, so that no other run makes its mistakes in the same copy meanwhile.
    _lock: File,
}

impl Tree {
    /// Brings the copy number `number` below `target/mutants` up to date with
    /// the work tree at `from`: what is committed and what is not. Waits for
    /// another run that has the copy.
    ///
    /// # Errors
    /// When git or the file system refuses.
    pub fn prepare(from: &Path, number: usize) -> anyhow::Result<Self> {
        let place = from.join("target/mutants");
        let tree = Self {
            root: place.join(format!("tree-{number}")),
            target: place.join(format!("build-{number}")),
            _lock: lock(&place, number)?,
        };
        let files = files_of(from)?;
        for file in &files {
            let (source, copy) = (from.join(file), tree.root.join(file));
            let bytes = match fs::read(&source) {
                Ok(bytes) => bytes,
                // Deleted, and the deletion not committed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| source.display().to_string()),
            };
            // What stays as it is keeps its time, and is not built again.
            if fs::read(&copy).is_ok_and(|old| old == bytes) {
                continue;
            }
            if let Some(directory) = copy.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(&copy, bytes).with_context(|| copy.display().to_string())?;
        }
        tree.remove_others(&tree.root, from)?;
        Ok(tree)
    }

    /// Removes files of the copy that are not in the work tree any more: cargo
    /// finds members, tests and targets by looking.
    fn remove_others(&self, directory: &Path, from: &Path) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.remove_others(&path, from)?;
            } else if !from.join(path.strip_prefix(&self.root)?).exists() {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    /// Where the copy is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where what is built in it goes.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Does something while the mistake is in the copy.
    ///
    /// # Errors
    /// When the mutant does not fit the source, and what `act` returns.
    pub fn with<T>(
        &self,
        mutant: &Mutant,
        act: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let file = self.root.join(&mutant.file);
        let changed = mutant.applied(&self.root)?;
        let right = fs::read(&file)?;
        fs::write(&file, changed)?;
        let result = act();
        fs::write(&file, right)?;
        result
    }

    /// A cargo command in the copy.
    #[must_use]
    pub fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.arg(verb).current_dir(&self.root);
        command.env("CARGO_TARGET_DIR", &self.target);
        // Quick to build again.
        for (key, value) in [
            ("CODEGEN_UNITS", "64"),
            ("INCREMENTAL", "true"),
            ("DEBUG", "0"),
        ] {
            command.env(format!("CARGO_PROFILE_HUNT_{key}"), value);
        }
        // The model never changes, and does most of the work.
        command.args([
            "--config",
            "profile.hunt.package.smmuv3-model.codegen-units=1",
        ]);
        command
    }
}

/// The lock of the copy number `number` below `place`, when no other run holds it.
fn lock(place: &Path, number: usize) -> anyhow::Result<File> {
    fs::create_dir_all(place)?;
    let path = place.join(format!("tree-{number}.lock"));
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    let file = options
        .open(&path)
        .with_context(|| path.display().to_string())?;
    if file.try_lock().is_err() {
        eprintln!("waiting for another run that uses {}", path.display());
        file.lock().with_context(|| path.display().to_string())?;
    }
    Ok(file)
}

/// What git tracks, and what it would track.
fn files_of(root: &Path) -> anyhow::Result<BTreeSet<PathBuf>> {
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    if !output.status.success() {
        bail!("git: {}", String::from_utf8_lossy(&output.stderr));
    }
    let names = String::from_utf8(output.stdout).context("a file's name is no text")?;
    let names = names.split('\0').filter(|name| !name.is_empty());
    Ok(names.map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A second run that used it would judge its mistakes together with the first's.
    #[test]
    fn one_run_at_a_time_has_a_copy() -> anyhow::Result<()> {
        let place = std::env::temp_dir().join(format!("mutants-lock-{}", std::process::id()));
        let held = lock(&place, 0)?;
        let other = File::open(place.join("tree-0.lock"))?;
        assert!(other.try_lock().is_err());
        // Another copy is free.
        drop(lock(&place, 1)?);
        drop(held);
        assert!(other.try_lock().is_ok());
        fs::remove_dir_all(&place)?;
        Ok(())
    }
}

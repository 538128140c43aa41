//! Finding or getting a QEMU that emulates nested SMMUv3 translation.

use super::apt::{Apt, BACKPORTS};
use super::run;
use crate::workspace::Workspace;
use crate::{Error, Result};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first release whose SMMUv3 has both stages.
const OLDEST: Version = Version { major: 9, minor: 2 };
const PROGRAM: &str = "qemu-system-aarch64";

/// Release of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that can be used.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Root of unpacked packages it needs libraries and firmware from.
    unpacked: Option<PathBuf>,
    version: Version,
}

impl Qemu {
    /// The start of a command that runs it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.unpacked {
            let mut path = root.join("usr/lib/x86_64-linux-gnu").into_os_string();
            path.push(":");
            path.push(root.join("lib/x86_64-linux-gnu"));
            command.env("LD_LIBRARY_PATH", path);
            command.arg("-L").arg(root.join("usr/share/qemu"));
        }
        command
    }

    /// Its release.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Checks that it knows the CPU `model`.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`] with the 64-bit ones it knows when it does not.
    pub fn check_cpu(&self, model: &str) -> Result<()> {
        let mut command = self.command();
        let text = run(
            "asking QEMU for CPUs",
            command.args(["-machine", "virt", "-cpu", "help"]),
            ADVICE,
        )?;
        let name = model.split(',').next().unwrap_or(model);
        let known: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
        if known.contains(&name) {
            return Ok(());
        }
        let fix = "use cortex-a57, cortex-a76, neoverse-n1 or max";
        Err(Error::unsuitable(
            format!("QEMU knows no CPU {name:?} (--cpu)"),
            fix,
        ))
    }

    /// Checks that it knows the device that `description` starts with.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`] when it does not.
    pub fn check_device(&self, description: &str) -> Result<()> {
        let mut command = self.command();
        let text = run(
            "asking QEMU for devices",
            command.args(["-machine", "virt", "-device", "help"]),
            ADVICE,
        )?;
        let name = description.split(',').next().unwrap_or(description);
        if text.contains(&format!("name \"{name}\"")) {
            return Ok(());
        }
        let fix = "use QEMU's name of one, with its properties, such as edu,dma_mask=0xffffffff";
        Err(Error::unsuitable(
            format!("QEMU knows no device {name:?} (--device)"),
            fix,
        ))
    }

    fn probe(program: &Path, unpacked: Option<PathBuf>) -> Result<Self> {
        let version = Version { major: 0, minor: 0 };
        let mut qemu = Self {
            program: program.to_owned(),
            unpacked,
            version,
        };
        let text = run(
            "asking QEMU for its version",
            qemu.command().arg("--version"),
            ADVICE,
        )?;
        qemu.version = parse_version(&text).ok_or_else(|| {
            Error::unsuitable(format!("{} is no QEMU", program.display()), ADVICE)
        })?;
        Ok(qemu)
    }
}

const ADVICE: &str =
    "name a qemu-system-aarch64 of version 9.2 or later with --qemu, or leave --qemu away";

/// The QEMU the caller names, one on the PATH that is new enough, or one that
/// was unpacked before; `None` when one has to be downloaded.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the named one is too old or no QEMU.
pub fn find(workspace: &Workspace, named: Option<&Path>) -> Result<Option<Qemu>> {
    if let Some(path) = named {
        let qemu = Qemu::probe(path, None)?;
        if qemu.version < OLDEST {
            let what = format!("{} is QEMU {}", path.display(), qemu.version);
            return Err(Error::unsuitable(what, ADVICE));
        }
        return Ok(Some(qemu));
    }
    if let Ok(qemu) = Qemu::probe(Path::new(PROGRAM), None)
        && qemu.version >= OLDEST
    {
        return Ok(Some(qemu));
    }
    let root = directory(workspace);
    let program = root.join("usr/bin").join(PROGRAM);
    if !program.exists() {
        return Ok(None);
    }
    // One that no longer starts (a library was removed) is fetched anew.
    Ok(Qemu::probe(&program, Some(root)).ok())
}

/// Downloads and unpacks Debian's.
///
/// # Errors
///
/// Any [`Error`] of apt or the network.
pub fn install(workspace: &Workspace, apt: &mut Apt) -> Result<Qemu> {
    let root = directory(workspace);
    apt.with_dependencies("qemu-system-arm", BACKPORTS, &root)?;
    Qemu::probe(&root.join("usr/bin").join(PROGRAM), Some(root))
}

fn directory(workspace: &Workspace) -> PathBuf {
    workspace.cache().join("qemu")
}

fn parse_version(text: &str) -> Option<Version> {
    let rest = text.split("QEMU emulator version ").nth(1)?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some(Version { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        let version = parse_version(text).expect("a version");
        assert_eq!(
            version,
            Version {
                major: 10,
                minor: 0
            }
        );
        assert!(version > OLDEST);
        assert!(parse_version("QEMU emulator version 7.2.0").expect("a version") < OLDEST);
        assert_eq!(parse_version("GNU bash"), None);
    }
}

//! Debian packages without touching the system: apt with state of its own.

use super::{run, size_below};
use crate::progress::Progress;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// apt's own downloader.
const HELPER: &str = "/usr/lib/apt/apt-helper";
const MIRROR: &str = "http://deb.debian.org/debian";
const FIX: &str = "set-up needs apt and Debian's package archive; without them name a QEMU \
                   with --qemu and put what else is missing where docs/boot.md says";

/// The suite of the system itself.
pub const STABLE: &str = "bookworm";
/// The suite most packages come from.
pub const BACKPORTS: &str = "bookworm-backports";
/// The suite that has Rust as new as the toolchain's.
pub const NEWER_BACKPORTS: &str = "trixie-backports";
/// The suite that those kernels are built in.
pub const NEXT: &str = "trixie";

/// apt with private lists, cache and sources.
pub struct Apt {
    directory: PathBuf,
    suites: &'static [&'static str],
    installed: Installed,
    up_to_date: bool,
}

/// What apt takes for installed already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Installed {
    /// What is installed on this machine.
    Here,
    /// Nothing: what is downloaded is complete in itself.
    Nothing,
}

impl Apt {
    /// Prepares nothing yet: the lists are downloaded when first needed.
    #[must_use]
    pub fn new(workspace: &Workspace) -> Self {
        Self {
            directory: workspace.cache().join("apt"),
            suites: &[STABLE, BACKPORTS, NEWER_BACKPORTS],
            installed: Installed::Here,
            up_to_date: false,
        }
    }

    /// The same for [`NEXT`] alone, with lists of its own: most commands need none of it.
    #[must_use]
    pub fn next(workspace: &Workspace) -> Self {
        Self {
            directory: workspace.cache().join("apt-next"),
            suites: &[NEXT],
            installed: Installed::Here,
            up_to_date: false,
        }
    }

    /// The same for [`NEWER_BACKPORTS`] with the suite that these are for: programs of
    /// theirs come with every library they need.
    #[must_use]
    pub fn newer(workspace: &Workspace) -> Self {
        Self {
            directory: workspace.cache().join("apt-newer"),
            suites: &[NEXT, NEWER_BACKPORTS],
            installed: Installed::Nothing,
            up_to_date: false,
        }
    }

    /// Downloads the package `name` of `suite` and those it depends on that
    /// this machine lacks, and unpacks all of them to `to`.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn with_dependencies(&mut self, name: &str, suite: &str, to: &Path) -> Result<()> {
        let arguments = [
            "--no-install-recommends",
            "-y",
            "-t",
            suite,
            "--download-only",
            "install",
            name,
        ];
        self.fetch(name, &arguments, to)
    }

    /// Downloads the packages `names` of `suite` alone and unpacks them to `to`.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn alone(&mut self, names: &[&str], suite: &str, to: &Path) -> Result<()> {
        let mut arguments = vec!["-t", suite, "download"];
        arguments.extend(names);
        self.fetch(names[0], &arguments, to)
    }

    /// The packages that `name` of `suite` consists of: those of exactly its version
    /// that it depends on, and those that these do. How a kernel is divided into
    /// packages differs from one version to the next; that they go together does not.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`] when there are none.
    pub fn parts(&mut self, name: &str, suite: &str) -> Result<Vec<String>> {
        self.update()?;
        let mut parts = self.parts_of(name, suite)?;
        if parts.is_empty() {
            return Err(Error::unsuitable(
                format!("the package {name} of {suite} names no other of its version"),
                "name a kernel with --kernel",
            ));
        }
        // Each one's are added behind those that are looked at already.
        let mut at = 0;
        while let Some(part) = parts.get(at) {
            for new in self.parts_of(&format!("{part}:arm64"), suite)? {
                if !parts.contains(&new) {
                    parts.push(new);
                }
            }
            at += 1;
        }
        Ok(parts)
    }

    /// What `apt-cache madison` says of packages: each version of each, and where it is.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn versions(&mut self, names: &[&str]) -> Result<String> {
        self.update()?;
        let mut command = self.command("apt-cache");
        command.arg("madison").args(names);
        run("asking for packages", &mut command, FIX)
    }

    fn parts_of(&self, name: &str, suite: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        command.args(["show", &format!("{name}/{suite}")]);
        let text = run("asking for a package", &mut command, FIX)?;
        Ok(same_version(&text))
    }

    /// Downloads one file of the archive, which has to have this SHA-256 hash:
    /// what is named so needs no list of packages.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of apt or the network.
    pub fn file(&self, path: &str, sha256: &str, to: &Path) -> Result<()> {
        let uri = format!("{}/{path}", mirror());
        if let Some(directory) = to.parent() {
            workspace::create_dir(directory)?;
        }
        let mut command = Command::new(HELPER);
        command.args(["download-file", &uri]).arg(to);
        command.arg(format!("SHA256:{sha256}"));
        run("downloading a file", &mut command, FIX).map(drop)
    }

    fn fetch(&mut self, what: &str, arguments: &[&str], to: &Path) -> Result<()> {
        self.update()?;
        let archives = self.directory.join("cache/archives");
        // Leftovers of a broken attempt must not be unpacked with the rest.
        let _ = fs::remove_dir_all(&archives);
        workspace::create_dir(&archives.join("partial"))?;
        let mut uris = self.command("apt-get");
        uris.arg("--print-uris").args(arguments);
        let total = download_size(&run("asking for packages", &mut uris, FIX)?);
        let mut progress = Progress::bytes(&format!("downloading {what}"), total);
        let mut command = self.command("apt-get");
        // `apt-get download` leaves its files in the working directory.
        command.arg("-q").args(arguments).current_dir(&archives);
        wait_watching(&mut command, || progress.at(size_below(&archives)))?;
        progress.done();

        let mut progress = Progress::spinner(&format!("unpacking {what}"));
        workspace::create_dir(to)?;
        let entries = fs::read_dir(&archives).map_err(Error::io("cannot list", &archives))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                progress.note(&entry.file_name().to_string_lossy());
                let mut command = Command::new("dpkg-deb");
                command.arg("-x").arg(&path).arg(to);
                run("unpacking a package", &mut command, FIX)?;
                fs::remove_file(&path).map_err(Error::io("cannot remove", &path))?;
            }
        }
        progress.done();
        Ok(())
    }

    /// Gets the package lists, once per command.
    fn update(&mut self) -> Result<()> {
        if self.up_to_date {
            return Ok(());
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            workspace::create_dir(&self.directory.join(part))?;
        }
        let mirror = mirror();
        let mut sources = String::new();
        for suite in self.suites {
            sources.push_str(&format!(
                "deb [signed-by={KEYRING}] {mirror} {suite} main\n"
            ));
        }
        workspace::write_atomically(&self.directory.join("sources.list"), sources.as_bytes())?;
        if self.installed == Installed::Nothing {
            workspace::write_atomically(&self.directory.join("status"), b"")?;
        }
        let configuration = self.configuration();
        workspace::write_atomically(&self.directory.join("apt.conf"), configuration.as_bytes())?;
        let progress = Progress::spinner("downloading Debian's package lists");
        run(
            "downloading package lists",
            self.command("apt-get").args(["-q", "update"]),
            FIX,
        )?;
        progress.done();
        self.up_to_date = true;
        Ok(())
    }

    fn configuration(&self) -> String {
        let directory = self.directory.display();
        let status = match self.installed {
            Installed::Here => String::new(),
            Installed::Nothing => format!("Dir::State::Status \"{directory}/status\";\n"),
        };
        format!(
            "Dir::Etc::SourceList \"{directory}/sources.list\";\n\
             Dir::Etc::SourceParts \"/dev/null\";\n\
             Dir::State::Lists \"{directory}/lists\";\n\
             Dir::Cache \"{directory}/cache\";\n\
             {status}\
             #clear APT::Architectures;\n\
             APT::Architectures {{ \"amd64\"; \"arm64\"; }};\n\
             APT::Sandbox::User \"root\";\n\
             Debug::NoLocking \"1\";\n\
             Acquire::Languages \"none\";\n\
             Acquire::Retries \"3\";\n\
             // What a system does after its own downloads must not happen for ours.\n\
             #clear APT::Update::Post-Invoke;\n\
             #clear APT::Update::Post-Invoke-Success;\n\
             #clear DPkg::Post-Invoke;\n\
             #clear Acquire::IndexTargets::deb::DEP-11;\n"
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(self.directory.join("apt.conf"))
            .env("LC_ALL", "C");
        command
    }
}

/// Runs `command`, calling `look` several times a second meanwhile.
fn wait_watching(command: &mut Command, mut look: impl FnMut()) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source| Error::Start {
        program: program.clone(),
        source,
        fix: FIX,
    };
    let log = tempfile::NamedTempFile::new().map_err(start)?;
    let out = log.reopen().map_err(start)?;
    let error = log.reopen().map_err(start)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(error)
        .spawn()
        .map_err(start)?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(start)? {
            break status;
        }
        look();
        std::thread::sleep(Duration::from_millis(200));
    };
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(log.path()).unwrap_or_default();
    Err(Error::Program {
        what: "downloading packages".to_owned(),
        status: status.to_string(),
        tail: super::tail(&text),
        fix: FIX,
    })
}

/// The packages that a package depends on in exactly its own version, by what
/// `apt-cache show` says of it.
fn same_version(text: &str) -> Vec<String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let version = field("Version: ").unwrap_or_default();
    let exact = format!(" (= {version})");
    let all = field("Depends: ").unwrap_or_default().split(", ");
    all.filter_map(|one| one.strip_suffix(&exact))
        .map(str::to_owned)
        .collect()
}

/// Sum of the sizes in the output of `apt-get --print-uris`, whose lines are
/// `'URI' FILE SIZE HASH`.
fn download_size(uris: &str) -> u64 {
    uris.lines()
        .filter(|line| line.starts_with('\''))
        .filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok())
        .sum()
}

/// The archive this machine already uses for Debian, or the public one.
fn mirror() -> String {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(SITE) $(CODENAME) $(ORIGIN)"]);
    let text = run("asking for the mirror", &mut command, FIX).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(site, rest)| {
            rest.starts_with("bookworm ") && !site.contains("security") && rest.contains("Debian")
        })
        .map_or_else(
            || MIRROR.to_owned(),
            |(site, _)| site.trim_end_matches('/').to_owned(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_the_same_version() {
        let new = "Package: linux-image-7.3.4+deb13-arm64\nVersion: 7.3.4-1~bpo13+1\n\
                   Pre-Depends: linux-base (>= 4.17~)\n\
                   Depends: dracut | initramfs-tools (>= 0.120+deb8u2), \
                   linux-base-7.3.4+deb13-arm64 (= 7.3.4-1~bpo13+1), \
                   linux-modules-7.3.4+deb13-arm64 (= 7.3.4-1~bpo13+1)\n";
        let parts = [
            "linux-base-7.3.4+deb13-arm64",
            "linux-modules-7.3.4+deb13-arm64",
        ];
        assert_eq!(same_version(new), parts);
        let old = "Version: 6.12.95-1~bpo12+1\nDepends: kmod, linux-base (= 4.9)\n";
        assert!(same_version(old).is_empty());
        assert!(same_version("Version: 1\n").is_empty());
    }

    #[test]
    fn sizes_are_added_up() {
        let text = "Reading…\n'http://a/b.deb' b.deb 100 SHA256:0\n'http://a/c.deb' c.deb 11 \n";
        assert_eq!(download_size(text), 111);
    }
}

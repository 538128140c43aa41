//! The host kernel under test, the modules it needs, and busybox.

use super::apt::{Apt, BACKPORTS, NEWER_BACKPORTS};
use crate::progress::Progress;
use crate::workspace::{self, Workspace};
use crate::{Error, Result};
use object::read::elf::{ElfFile64, FileHeader};
use object::{Object, ObjectSection};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What drives a virtio-iommu, wherever the host finds it: loaded before all
/// others by a host that has one.
const IOMMU: [&str; 2] = ["virtio_mmio", "virtio_iommu"];
/// The drivers of the devices the checks use: loaded by every host.
const WANTED: [&str; 2] = ["nvme", "e1000e"];
/// Modules that only some checks load.
const SPARE: [&str; 3] = ["pci_stub", "vfio_pci", "vfio_iommu_type1"];
/// The drivers of virtio devices, which only some checks load.
const VIRTIO: [&str; 3] = ["virtio_blk", "virtio_net", "virtio_mem"];

/// Every list, in the order in which dependencies go to the first that needs
/// them, with the file that names its modules.
const KINDS: [(&str, &[&str]); 4] = [
    ("iommu", &IOMMU),
    ("modules", &WANTED),
    ("spare", &SPARE),
    ("virtio", &VIRTIO),
];

/// Debian's builds of the kernel, by the page size they use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flavour {
    /// Pages of 4 KiB, the usual one.
    #[default]
    Pages4K,
    /// Pages of 16 KiB.
    Pages16K,
}

impl Flavour {
    /// What the names of its packages end with.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Pages4K => "",
            Self::Pages16K => "-16k",
        }
    }

    /// The size, for people.
    fn size(self) -> &'static str {
        match self {
            Self::Pages4K => "4 KiB",
            Self::Pages16K => "16 KiB",
        }
    }
}

/// Debian's kernels, by the version they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 6.12, of Debian 12's backports: the usual one.
    #[default]
    V6,
    /// 7.x, of Debian 13's backports: as new as these have it.
    V7,
}

impl Version {
    /// Where its packages are.
    #[must_use]
    pub fn suite(self) -> &'static str {
        match self {
            Self::V6 => BACKPORTS,
            Self::V7 => NEWER_BACKPORTS,
        }
    }

    /// Megabytes to download, with busybox.
    pub(super) fn size(self) -> u32 {
        match self {
            Self::V6 => 93,
            Self::V7 => 104,
        }
    }
}

/// One of Debian's kernels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Build {
    /// Its version.
    pub version: Version,
    /// The size of its pages.
    pub flavour: Flavour,
}

impl Build {
    /// What the names of files end with that differ from one kernel to the other.
    #[must_use]
    pub fn suffix(self) -> String {
        let version = match self.version {
            Version::V6 => "",
            Version::V7 => "-7",
        };
        format!("{version}{}", self.flavour.suffix())
    }
}

/// What boots as the host.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Which of Debian's builds it is, or stands in for.
    pub build: Build,
    /// The image, as a boot loader would load it.
    pub image: PathBuf,
    /// The package it comes from, such as `linux-image-6.12.95+deb12-arm64`;
    /// none for an image that the caller named.
    pub package: Option<String>,
    /// The modules that drive a virtio-iommu, uncompressed, in an order in which
    /// they can be loaded.
    pub iommu: Vec<PathBuf>,
    /// The same for the modules that every host loads.
    pub modules: Vec<PathBuf>,
    /// The same for modules that only some checks load; those of `modules`
    /// are to be there.
    pub spare: Vec<PathBuf>,
    /// The same for those of virtio devices; those of `iommu` are to be there.
    pub virtio: Vec<PathBuf>,
    /// Static busybox for arm64.
    pub busybox: PathBuf,
}

impl Kernel {
    /// What it is, for people: its version, and the size of its pages; the name of the
    /// file if the caller has named one.
    #[must_use]
    pub fn title(&self) -> String {
        let Some(package) = &self.package else {
            let name = self.image.file_name().unwrap_or_default();
            return name.to_string_lossy().into_owned();
        };
        let release = package.trim_start_matches("linux-image-");
        let version = release.split(['+', '-']).next().unwrap_or(release);
        format!("Linux {version}, {} pages", self.build.flavour.size())
    }
}

/// What is already there: the kernel the caller names (or the one unpacked
/// before) and busybox; `None` when something has to be downloaded.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the named file is no arm64 kernel.
pub fn find(workspace: &Workspace, build: Build, named: Option<&Path>) -> Result<Option<Kernel>> {
    if let Some(path) = named {
        check_image(path)?;
    }
    let ready = ready(workspace, build);
    // What an earlier release of this program unpacked may lack something.
    if fs::read(ready.join("complete")).ok() != Some(contents().into_bytes()) {
        return Ok(None);
    }
    assemble(&ready, build, named).map(Some)
}

/// What a directory that is complete has unpacked.
fn contents() -> String {
    KINDS.map(|(_, names)| names.join(" ")).join(" ")
}

/// Downloads and unpacks Debian's kernel and busybox.
///
/// # Errors
///
/// Any [`Error`] of apt or the network.
pub fn install(
    workspace: &Workspace,
    apt: &mut Apt,
    build: Build,
    named: Option<&Path>,
) -> Result<Kernel> {
    let unpacked = workspace.cache().join("kernel-unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    let suite = build.version.suite();
    let newest = format!("linux-image-arm64{}:arm64", build.flavour.suffix());
    let mut parts = apt.parts(&newest, suite)?;
    let package = image_package(&parts)?;
    // People are told of the first one.
    parts.sort_by_key(|part| *part != package);
    let mut names: Vec<String> = parts.iter().map(|part| format!("{part}:arm64")).collect();
    names.push("busybox-static:arm64".to_owned());
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    apt.alone(&names, suite, &unpacked)?;

    let ready = ready(workspace, build);
    let _ = fs::remove_dir_all(&ready);
    workspace::create_dir(&ready)?;
    let tree = module_tree(&unpacked)?;
    copy(&image(&unpacked, &tree)?, &ready.join("vmlinuz"))?;
    copy(&busybox(&unpacked)?, &ready.join("busybox"))?;
    let progress = Progress::spinner("unpacking kernel modules");
    let lists = extract_modules(&tree, &ready)?;
    progress.done();
    for (list, names) in lists {
        workspace::write_atomically(&ready.join(list), names.join("\n").as_bytes())?;
    }
    workspace::write_atomically(&ready.join("package"), package.as_bytes())?;
    // Written last: without it the directory counts as not there.
    workspace::write_atomically(&ready.join("complete"), contents().as_bytes())?;
    let _ = fs::remove_dir_all(&unpacked);
    assemble(&ready, build, named)
}

fn ready(workspace: &Workspace, build: Build) -> PathBuf {
    workspace.cache().join(format!("kernel{}", build.suffix()))
}

fn assemble(ready: &Path, build: Build, named: Option<&Path>) -> Result<Kernel> {
    // Modules of one kernel do not fit another: a named one must have its
    // drivers built in, or bring them in an initrd of its own.
    let listed = |list: &str| -> Result<Vec<PathBuf>> {
        let names = text(&ready.join(list))?;
        let paths = names.lines().map(|name| ready.join(name));
        Ok(paths.filter(|_| named.is_none()).collect())
    };
    let package = text(&ready.join("package"))?;
    let image = named.map_or_else(|| ready.join("vmlinuz"), Path::to_owned);
    Ok(Kernel {
        build,
        image,
        package: named.is_none().then_some(package),
        iommu: listed("iommu")?,
        modules: listed("modules")?,
        spare: listed("spare")?,
        virtio: listed("virtio")?,
        busybox: ready.join("busybox"),
    })
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("cannot read", path))
}

/// Checks for the magic number of an arm64 `Image`.
fn check_image(path: &Path) -> Result<()> {
    use std::io::Read;
    let mut header = [0; 64];
    let mut file = fs::File::open(path).map_err(Error::io("cannot open", path))?;
    let whole = file.read_exact(&mut header).is_ok();
    if !whole || header[56..60] != *b"ARM\x64" {
        return Err(Error::unsuitable(
            format!("{} is no arm64 kernel image", path.display()),
            "name an uncompressed `Image` (or a vmlinuz that is one, as Debian's)",
        ));
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map_err(Error::io("cannot copy", from))
        .map(drop)
}

fn busybox(unpacked: &Path) -> Result<PathBuf> {
    let places = ["bin/busybox", "usr/bin/busybox"];
    places
        .iter()
        .map(|place| unpacked.join(place))
        .find(|path| path.exists())
        .ok_or_else(|| {
            Error::unsuitable("the package busybox-static holds no busybox", "report this")
        })
}

/// The package that the kernel is known by, of those that it consists of.
fn image_package(parts: &[String]) -> Result<String> {
    let image = parts.iter().find(|part| part.starts_with("linux-image-"));
    image.cloned().ok_or_else(|| {
        let what = format!("Debian's newest kernel consists of {parts:?}, none of them an image");
        Error::unsuitable(what, "name a kernel with --kernel")
    })
}

/// The kernel's image: up to 6.12 in `/boot`, later on beside the modules.
fn image(unpacked: &Path, tree: &Path) -> Result<PathBuf> {
    let mut found = entries(&unpacked.join("boot"));
    found.extend(entries(tree));
    let image = found.into_iter().find(|path| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("vmlinuz")
    });
    image.ok_or_else(|| lacks("image"))
}

/// The directory of the kernel's modules, which Debian moved to `/usr` after 6.12.
fn module_tree(unpacked: &Path) -> Result<PathBuf> {
    let found = ["lib/modules", "usr/lib/modules"]
        .iter()
        .flat_map(|place| entries(&unpacked.join(place)))
        .find(|tree| tree.join("kernel").is_dir());
    found.ok_or_else(|| lacks("modules"))
}

fn lacks(what: &str) -> Error {
    Error::unsuitable(
        format!("Debian's packages of the kernel hold no {what}"),
        "delete target/portcullis-cache and try again, or name a kernel with --kernel",
    )
}

/// What is in a directory, in the order of the names; nothing if it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Uncompresses the modules of every list and those they depend on to `to`;
/// returns the names of each list's files, dependencies first.
fn extract_modules(tree: &Path, to: &Path) -> Result<Vec<(&'static str, Vec<String>)>> {
    let mut all = BTreeMap::new();
    collect_modules(tree, &mut all);
    let mut order = Vec::new();
    let mut lists = Vec::new();
    for (list, names) in KINDS {
        let before = order.len();
        for name in names {
            extract_one(name, &all, to, &mut order)?;
        }
        lists.push((list, order[before..].to_vec()));
    }
    Ok(lists)
}

fn extract_one(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    to: &Path,
    order: &mut Vec<String>,
) -> Result<()> {
    let file_name = format!("{name}.ko");
    if order.contains(&file_name) {
        return Ok(());
    }
    let path = all.get(name).ok_or_else(|| {
        let what = format!("the kernel package holds no module {name}");
        Error::unsuitable(what, "name a kernel that has it built in with --kernel")
    })?;
    let bytes = uncompress(path)?;
    for dependency in dependencies(&bytes) {
        extract_one(&dependency, all, to, order)?;
    }
    workspace::write_atomically(&to.join(&file_name), &bytes)?;
    order.push(file_name);
    Ok(())
}

/// Module name (as the kernel spells it, with `_` for `-`) to file.
fn collect_modules(directory: &Path, all: &mut BTreeMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_modules(&path, all);
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            all.insert(name.replace('-', "_"), path);
        }
    }
}

fn uncompress(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).map_err(Error::io("cannot read", path))?;
    if path.extension().is_none_or(|extension| extension != "xz") {
        return Ok(bytes);
    }
    let mut plain = Vec::new();
    lzma_rs::xz_decompress(&mut bytes.as_slice(), &mut plain).map_err(|error| {
        let what = format!("cannot uncompress {}: {error}", path.display());
        Error::unsuitable(what, "delete target/portcullis-cache and try again")
    })?;
    Ok(plain)
}

/// The modules that a module names in its `.modinfo` as those it needs.
fn dependencies(module: &[u8]) -> Vec<String> {
    let Ok(elf) = ElfFile64::<object::Endianness>::parse(module) else {
        return Vec::new();
    };
    debug_assert!(elf.elf_header().is_class_64());
    let Some(section) = elf.section_by_name(".modinfo") else {
        return Vec::new();
    };
    let data = section.data().unwrap_or_default();
    data.split(|byte| *byte == 0)
        .filter_map(|entry| entry.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with empty files of these names.
    fn unpacked(files: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for file in files {
            let path = directory.path().join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, b"").expect("a file");
        }
        directory
    }

    #[test]
    fn kernels_are_found_in_both_layouts() {
        let old = [
            "boot/System.map-6.12.95+deb12-arm64",
            "boot/vmlinuz-6.12.95+deb12-arm64",
            "lib/modules/6.12.95+deb12-arm64/kernel/net.ko.xz",
        ];
        let new = [
            "bin/busybox",
            "usr/lib/modules/7.3.4+deb13-arm64/config",
            "usr/lib/modules/7.3.4+deb13-arm64/vmlinuz",
            "usr/lib/modules/7.3.4+deb13-arm64/kernel/net.ko.xz",
        ];
        for (files, image_at) in [(old.as_slice(), old[1]), (&new, new[2])] {
            let unpacked = unpacked(files);
            let root = unpacked.path();
            let tree = module_tree(root).expect("modules");
            assert!(tree.join("kernel/net.ko.xz").exists());
            assert_eq!(image(root, &tree).expect("an image"), root.join(image_at));
        }
        // Packages with nothing in them that counts.
        let unpacked = unpacked(&["usr/share/doc/linux-image-7.3.4+deb13-arm64/copyright"]);
        assert!(module_tree(unpacked.path()).is_err());
        assert!(image(unpacked.path(), unpacked.path()).is_err());
    }

    #[test]
    fn kernels_have_titles() {
        let mut kernel = Kernel {
            build: Build {
                version: Version::V7,
                flavour: Flavour::Pages16K,
            },
            image: PathBuf::from("/a/vmlinuz"),
            package: Some("linux-image-7.3.4+deb13-arm64-16k".to_owned()),
            iommu: Vec::new(),
            modules: Vec::new(),
            spare: Vec::new(),
            virtio: Vec::new(),
            busybox: PathBuf::new(),
        };
        assert_eq!(kernel.title(), "Linux 7.3.4, 16 KiB pages");
        kernel.package = Some("linux-image-6.12-arm64".to_owned());
        kernel.build = Build::default();
        assert_eq!(kernel.title(), "Linux 6.12, 4 KiB pages");
        kernel.package = None;
        assert_eq!(kernel.title(), "vmlinuz");
    }

    #[test]
    fn each_kernel_has_files_of_its_own() {
        let suffix = |version, flavour| Build { version, flavour }.suffix();
        assert_eq!(suffix(Version::V6, Flavour::Pages4K), "");
        assert_eq!(suffix(Version::V6, Flavour::Pages16K), "-16k");
        assert_eq!(suffix(Version::V7, Flavour::Pages4K), "-7");
        assert_eq!(suffix(Version::V7, Flavour::Pages16K), "-7-16k");
    }
}

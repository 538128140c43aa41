//! The host kernel under test, the modules it needs, and busybox.

use super::apt::{Apt, BACKPORTS};
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
const VIRTIO: [&str; 2] = ["virtio_blk", "virtio_net"];

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
}

/// What boots as the host.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Which of Debian's builds it is, or stands in for.
    pub flavour: Flavour,
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

/// What is already there: the kernel the caller names (or the one unpacked
/// before) and busybox; `None` when something has to be downloaded.
///
/// # Errors
///
/// [`Error::Unsuitable`] when the named file is no arm64 kernel.
pub fn find(
    workspace: &Workspace,
    flavour: Flavour,
    named: Option<&Path>,
) -> Result<Option<Kernel>> {
    if let Some(path) = named {
        check_image(path)?;
    }
    let ready = ready(workspace, flavour);
    // What an earlier release of this program unpacked may lack something.
    if fs::read(ready.join("complete")).ok() != Some(contents().into_bytes()) {
        return Ok(None);
    }
    assemble(&ready, flavour, named).map(Some)
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
    flavour: Flavour,
    named: Option<&Path>,
) -> Result<Kernel> {
    let unpacked = workspace.cache().join("kernel-unpacked");
    let _ = fs::remove_dir_all(&unpacked);
    let newest = format!("linux-image-arm64{}:arm64", flavour.suffix());
    let package = apt.dependency(&newest, BACKPORTS)?;
    let image = format!("{package}:arm64");
    apt.alone(&[&image, "busybox-static:arm64"], BACKPORTS, &unpacked)?;

    let ready = ready(workspace, flavour);
    let _ = fs::remove_dir_all(&ready);
    workspace::create_dir(&ready)?;
    let boot = unpacked.join("boot");
    let image = first_entry(&boot, "vmlinuz-")?;
    copy(&image, &ready.join("vmlinuz"))?;
    copy(&busybox(&unpacked)?, &ready.join("busybox"))?;
    let progress = Progress::spinner("unpacking kernel modules");
    let tree = first_entry(&unpacked.join("lib/modules"), "")?;
    let lists = extract_modules(&tree, &ready)?;
    progress.done();
    for (list, names) in lists {
        workspace::write_atomically(&ready.join(list), names.join("\n").as_bytes())?;
    }
    workspace::write_atomically(&ready.join("package"), package.as_bytes())?;
    // Written last: without it the directory counts as not there.
    workspace::write_atomically(&ready.join("complete"), contents().as_bytes())?;
    let _ = fs::remove_dir_all(&unpacked);
    assemble(&ready, flavour, named)
}

fn ready(workspace: &Workspace, flavour: Flavour) -> PathBuf {
    workspace
        .cache()
        .join(format!("kernel{}", flavour.suffix()))
}

fn assemble(ready: &Path, flavour: Flavour, named: Option<&Path>) -> Result<Kernel> {
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
        flavour,
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

/// The one entry of a directory whose name starts with `prefix`.
fn first_entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).map_err(Error::io("cannot list", directory))?;
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths.into_iter().next().ok_or_else(|| {
        let what = format!("no {prefix}* in {}", directory.display());
        Error::unsuitable(what, "delete target/portcullis-cache and try again")
    })
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

//! Building what runs on the Arm machine, and flattening the hypervisor.

use crate::progress::Progress;
use crate::setup::headers::Headers;
use crate::setup::toolchain::Target;
use crate::setup::{Lab, run_watched};
use crate::workspace;
use crate::{Error, Result};
use object::elf::{FileHeader64, PT_LOAD};
use object::endian::LittleEndian;
use object::read::elf::{FileHeader, ProgramHeader};
use std::fs;
use std::path::{Path, PathBuf};

/// Where cargo leaves the hypervisor below its release directory.
const HYPERVISOR: &str = "portcullis";
/// The same for the agent.
const AGENT: &str = "agent";
/// The same for the program that tells when init started.
const STAMP: &str = "stamp";
/// The same for the driver in user space.
const VFIO: &str = "vfio";
const FIX: &str = "correct what the compiler complains about";

/// What was built.
#[derive(Clone, Debug)]
pub struct Payloads {
    /// The program that carries out the lab's commands in the host.
    pub agent: PathBuf,
    /// The program that tells when the host's first program started.
    pub stamp: PathBuf,
    /// The program that has a device do DMA to addresses of its own choice.
    pub vfio: PathBuf,
}

/// Builds the programs that run in the host under test.
///
/// # Errors
///
/// [`Error::Program`] with what the compiler said.
pub fn payloads(lab: &Lab) -> Result<Payloads> {
    let _lock = lab.workspace.lock("build")?;
    let what = "building the programs for the host";
    let features = ["--features", "programs"];
    let package = "portcullis-payloads";
    let directory = cargo_build(lab, Target::Linux, package, &features, what)?;
    Ok(Payloads {
        agent: directory.join(AGENT),
        stamp: directory.join(STAMP),
        vfio: directory.join(VFIO),
    })
}

/// Builds the hypervisor and leaves its flat image at
/// `target/portcullis/portcullis.bin`, whose path it returns.
///
/// # Errors
///
/// [`Error::Program`] with what the compiler said, or [`Error::Unsuitable`]
/// when the result is no image that can be booted.
pub fn hypervisor(lab: &Lab) -> Result<PathBuf> {
    image(
        lab,
        "portcullis-hypervisor",
        &[],
        HYPERVISOR,
        "portcullis.bin",
    )
}

/// The file that [`hypervisor`] made the image of, with symbols and lines.
#[must_use]
pub fn hypervisor_elf(lab: &Lab) -> PathBuf {
    lab.toolchain
        .release_dir(&lab.workspace, Target::BareMetal)
        .join(HYPERVISOR)
}

/// As [`hypervisor`], for an image that fails on demand: its feature `provoke`.
///
/// # Errors
///
/// As [`hypervisor`].
pub fn failing_hypervisor(lab: &Lab) -> Result<PathBuf> {
    let features = ["--features", "provoke"];
    let package = "portcullis-hypervisor";
    image(
        lab,
        package,
        &features,
        HYPERVISOR,
        "portcullis-provoke.bin",
    )
}

/// As [`hypervisor`], for an image that says whether anything of it has changed:
/// its feature `digest`.
///
/// # Errors
///
/// As [`hypervisor`].
pub fn watched_hypervisor(lab: &Lab) -> Result<PathBuf> {
    let features = ["--features", "digest"];
    let package = "portcullis-hypervisor";
    image(lab, package, &features, HYPERVISOR, "portcullis-digest.bin")
}

/// As [`hypervisor`], for an image whose instructions the host may count: its feature
/// `count-el2`.
///
/// # Errors
///
/// As [`hypervisor`].
pub fn counted_hypervisor(lab: &Lab) -> Result<PathBuf> {
    let features = ["--features", "count-el2"];
    let package = "portcullis-hypervisor";
    image(
        lab,
        package,
        &features,
        HYPERVISOR,
        "portcullis-counted.bin",
    )
}

/// Builds the host kernel that attacks from EL1.
///
/// # Errors
///
/// As [`hypervisor`].
pub fn hostile(lab: &Lab) -> Result<PathBuf> {
    image(lab, "portcullis-hostile", &[], "hostile", "hostile.bin")
}

/// Builds the host kernel that attacks through the interrupt controller's
/// tables.
///
/// # Errors
///
/// As [`hypervisor`].
pub fn hostile_its(lab: &Lab) -> Result<PathBuf> {
    let name = "hostile-its.bin";
    image(lab, "portcullis-hostile", &[], "hostile-its", name)
}

/// Builds the kernel module that times DMA mappings, for the kernel of `lab`,
/// and returns its path.
///
/// # Errors
///
/// As [`Headers::set_up`] and [`Headers::build`].
pub fn dma_bench(lab: &Lab) -> Result<PathBuf> {
    module(lab, "dma_bench")
}

/// The same for the module that has the kernel send commands to the interrupt
/// translation service.
///
/// # Errors
///
/// As [`dma_bench`].
pub fn irq_bench(lab: &Lab) -> Result<PathBuf> {
    module(lab, "irq_bench")
}

fn module(lab: &Lab, module: &str) -> Result<PathBuf> {
    let headers = Headers::set_up(&lab.workspace, &lab.kernel)?;
    let _lock = lab.workspace.lock("build")?;
    let progress = Progress::spinner(&format!("building {module}.ko"));
    let from = lab.workspace.root().join("payloads/kernel").join(module);
    let name = format!("{module}{}", lab.kernel.build.suffix());
    let to = lab.workspace.output().join(name);
    for file in ["Kbuild".to_owned(), format!("{module}.c")] {
        let source = from.join(&file);
        let bytes = fs::read(&source).map_err(Error::io("cannot read", &source))?;
        workspace::write_atomically(&to.join(&file), &bytes)?;
    }
    headers.build(&to)?;
    progress.done();
    Ok(to.join(format!("{module}.ko")))
}

/// Builds a package and leaves it as the flat image `name`.
fn image(lab: &Lab, package: &str, features: &[&str], binary: &str, name: &str) -> Result<PathBuf> {
    // Held until the ELF file was read: images with other features land in the
    // same place.
    let _lock = lab.workspace.lock("build")?;
    let what = format!("building {name}");
    let elf = cargo_build(lab, Target::BareMetal, package, features, &what)?.join(binary);
    let image = lab.workspace.output().join(name);
    let bytes = fs::read(&elf).map_err(Error::io("cannot read", &elf))?;
    let flat = flatten(&bytes).map_err(|what| {
        Error::unsuitable(
            format!("{}: {what}", elf.display()),
            "look at its linker script",
        )
    })?;
    workspace::write_atomically(&image, &flat)?;
    Ok(image)
}

/// Builds a package, and returns where its programs are.
fn cargo_build(
    lab: &Lab,
    target: Target,
    package: &str,
    arguments: &[&str],
    what: &str,
) -> Result<PathBuf> {
    let mut progress = Progress::spinner(what);
    let mut command = lab.toolchain.cargo(&lab.workspace, target, "build");
    command.args(["--release", "--package", package]);
    command.args(arguments);
    run_watched(what, &mut command, FIX, |line| progress.note(line.trim()))?;
    progress.done();
    Ok(lab.toolchain.release_dir(&lab.workspace, target))
}

/// Lays the loadable segments of an ELF file out as they lie in memory, from
/// the lowest address to the last byte that has content.
///
/// What the program expects to be zero behind that is its own to clear; its
/// `Image` header says how much room it takes.
///
/// # Errors
///
/// A sentence about what is wrong with the file.
pub fn flatten(elf: &[u8]) -> std::result::Result<Vec<u8>, String> {
    /// No image comes near this; a wrong address in a segment does.
    const LIMIT: u64 = 64 << 20;
    let header = FileHeader64::<LittleEndian>::parse(elf).map_err(|error| error.to_string())?;
    let segments: Vec<_> = header
        .program_headers(LittleEndian, elf)
        .map_err(|error| error.to_string())?
        .iter()
        .filter(|s| s.p_type(LittleEndian) == PT_LOAD && s.p_filesz(LittleEndian) != 0)
        .collect();
    let base = segments.iter().map(|s| s.p_vaddr(LittleEndian)).min();
    let base = base.ok_or("there is no segment to load")?;
    let mut image = Vec::new();
    for segment in segments {
        let data = segment
            .data(LittleEndian, elf)
            .map_err(|()| "a segment is cut off")?;
        let start = segment.p_vaddr(LittleEndian) - base;
        let end = start
            .checked_add(data.len() as u64)
            .filter(|end| *end <= LIMIT);
        let end = end.ok_or("its segments are more than 64 MiB apart")? as usize;
        if image.len() < end {
            image.resize(end, 0);
        }
        image[start as usize..end].copy_from_slice(data);
    }
    Ok(image)
}

/// Size of a file in bytes.
///
/// # Errors
///
/// [`Error::Io`] when it is not there.
pub fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .map_err(Error::io("cannot look at", path))?
        .len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian ELF file with the given (address, content) segments.
    fn elf(segments: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        file.resize(16, 0);
        file.extend(2u16.to_le_bytes());
        file.extend(183u16.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        for word in [0u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0u32.to_le_bytes());
        for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, content) in segments {
            file.extend(1u32.to_le_bytes());
            file.extend(5u32.to_le_bytes());
            let size = content.len() as u64;
            for word in [offset, *address, *address, size, size + 100, 1] {
                file.extend(word.to_le_bytes());
            }
            offset += size;
        }
        for (_, content) in segments {
            file.extend(*content);
        }
        file
    }

    #[test]
    fn segments_are_laid_out_from_the_lowest_address() {
        let file = elf(&[(0x1008, b"world"), (0x1000, b"hello")]);
        assert_eq!(flatten(&file).expect("an image"), b"hello\0\0\0world");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert!(flatten(b"no elf").is_err());
        assert!(flatten(&elf(&[])).is_err());
        let mut cut = elf(&[(0, b"hello")]);
        cut.pop();
        assert!(flatten(&cut).is_err());
        assert!(flatten(&elf(&[(0, b"a"), (1 << 40, b"b")])).is_err());
    }
}

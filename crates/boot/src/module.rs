//! Boot modules: what the boot loader put into memory for the host (the
//! multiboot binding of Xen's `docs/misc/arm/device-tree/booting.txt`, which
//! QEMU's guest-loader, U-Boot and GRUB produce).
//!
//! A module is a child of `/chosen` that is compatible with
//! `multiboot,module` (or one of its older names) and has its address and
//! size in `reg`. A second compatible string says what it is. Where it is
//! absent, the first module is the kernel and the second the ramdisk, as in
//! the binding. The kernel's node has the kernel's command line in `bootargs`.

use crate::error::BootError;
use crate::fdt::{Cells, Fdt, Node, NodeId};
use crate::machine::reg::Reg;
use portcullis_addr::{PhysAddr, Range};

/// A boot module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// Where it was loaded, in bytes as in its file.
    pub range: Range<PhysAddr>,
    /// Its node in `/chosen`.
    pub node: NodeId,
}

/// The host's modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modules {
    /// The host's kernel, an arm64 Image.
    pub kernel: Module,
    /// The host's initial RAM disk.
    pub ramdisk: Option<Module>,
}

const MODULE: [&[u8]; 3] = [b"multiboot,module", b"xen,multiboot-module", b"boot,module"];
const KERNEL: [&[u8]; 2] = [b"multiboot,kernel", b"xen,linux-zimage"];
const RAMDISK: [&[u8]; 2] = [b"multiboot,ramdisk", b"xen,linux-initrd"];

/// Whether a child of `/chosen` describes a boot module.
pub(crate) fn is_module(node: &Node<'_>) -> bool {
    [&MODULE[..], &KERNEL[..], &RAMDISK[..]]
        .iter()
        .any(|names| is_one_of(node, names))
}

fn is_one_of(node: &Node<'_>, names: &[&[u8]]) -> bool {
    names.iter().any(|name| node.is_compatible(name))
}

impl Modules {
    /// Reads the module nodes of `/chosen`.
    ///
    /// # Errors
    /// - [`BootError::NoKernel`] without a kernel
    /// - [`BootError::TwoModules`] for two of a kind
    /// - [`BootError::UnknownModule`] for one that is neither kernel nor
    ///   ramdisk
    /// - those of a property for a `reg` that is not an address and a size
    pub fn read(fdt: &Fdt<'_>) -> Result<Self, BootError> {
        let chosen = fdt.find(b"/chosen").ok_or(BootError::NoKernel)?;
        // QEMU gives /chosen no cells of its own and writes reg with the
        // root's, which is also how Xen reads it.
        let (address, size) = chosen.given_cells()?;
        let root = fdt.root().cells()?;
        let cells = Cells {
            address: address.unwrap_or(root.address),
            size: size.unwrap_or(root.size),
        };
        let (mut kernel, mut ramdisk) = (None, None);
        for node in chosen.children().filter(is_module) {
            let named_kernel = is_one_of(&node, &KERNEL);
            let named_ramdisk = is_one_of(&node, &RAMDISK);
            // A node of another kind, such as a security policy, has a second
            // string; one without is told by its place.
            let unnamed = !node
                .strings(b"compatible")
                .any(|name| !MODULE.contains(&name));
            let (what, slot) = if named_kernel || (unnamed && kernel.is_none()) {
                ("kernel", &mut kernel)
            } else if named_ramdisk || (unnamed && ramdisk.is_none()) {
                ("ramdisk", &mut ramdisk)
            } else {
                return Err(BootError::UnknownModule {
                    node: fdt.path(node.id()),
                });
            };
            let module = Module {
                range: range(node, cells)?,
                node: node.id(),
            };
            if let Some(first) = slot.replace(module) {
                return Err(BootError::TwoModules {
                    what,
                    first: fdt.path(first.node),
                    second: fdt.path(node.id()),
                });
            }
        }
        Ok(Self {
            kernel: kernel.ok_or(BootError::NoKernel)?,
            ramdisk,
        })
    }
}

fn range(node: Node<'_>, cells: Cells) -> Result<Range<PhysAddr>, BootError> {
    if node.property(b"reg").is_none() {
        return Err(node.missing("reg"));
    }
    let mut reg = Reg::of(node, cells)?;
    let entry = reg.next()?;
    match (entry, reg.next()?) {
        (Some((address, size)), None) => crate::machine::reg::physical(node, address, size),
        _ => Err(node.bad_length("reg", "one address and one size")),
    }
}

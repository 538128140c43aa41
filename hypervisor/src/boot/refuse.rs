//! A boot that cannot go on: everything fenced, one line, power off.

use super::devices::smmu_pages;
use super::map_tree;
use crate::log::error;
use crate::mmio::Device;
use crate::refusal::Refusal;
use crate::{mmu, psci, smmu};
use portcullis_addr::PhysAddr;
use portcullis_boot::{Fdt, smmus_to_fence};
use portcullis_pagetable::{Access, MemoryType};
use spin::Once;

/// Why the boot ended, once it has.
static REFUSAL: Once<Refusal> = Once::new();

/// Ends a boot that cannot go on: everything fenced, one line, power off.
pub(super) fn refuse(refusal: Refusal, tree: PhysAddr) -> ! {
    let refusal = REFUSAL.call_once(|| refusal);
    fence_what_the_tree_names(tree);
    #[cfg(feature = "qemu-virt-fallback")]
    fallback::console();
    #[cfg(feature = "qemu-virt-fallback")]
    if open_tree(tree).map_or(true, |tree| smmus_to_fence(&tree).lost != 0) {
        fallback::fence();
    }
    end(refusal, smmu::fence_all())
}

/// Ends a boot that was being refused when something else failed: the
/// registers of a board that is not the one the fallback is for. `fenced` is
/// what became of the SMMUs. Returns when no boot was being refused.
pub fn end_refused(fenced: smmu::Fenced) {
    if let Some(refusal) = REFUSAL.get() {
        end(refusal, fenced);
    }
}

fn end(refusal: &Refusal, fenced: smmu::Fenced) -> ! {
    error!(
        "event=boot_error reason=\"{}\" fix=\"{}\" smmus_fenced={} smmus_silent={}",
        refusal.reason(),
        refusal.fix(),
        fenced.done,
        fenced.failed
    );
    psci::power_off()
}

fn open_tree(at: PhysAddr) -> Result<Fdt<'static>, Refusal> {
    let (_, blob) = map_tree(at)?;
    Ok(Fdt::new(blob)?)
}

/// Fences the SMMUs of a tree that can be read but not used; those that are
/// known keep their places. What goes wrong here shows in the count of the last
/// line.
fn fence_what_the_tree_names(at: PhysAddr) {
    let Ok(tree) = open_tree(at) else { return };
    for (index, registers) in smmus_to_fence(&tree).registers.iter().enumerate() {
        let pages = smmu_pages(*registers);
        if mmu::map_missing(pages, MemoryType::Device, Access::ReadWrite).is_ok() {
            smmu::register(index, Device::from_mapped(pages));
        }
    }
}

/// When the tree did not even say where to print: QEMU's virt machine.
#[cfg(feature = "qemu-virt-fallback")]
mod fallback {
    use crate::mmio::Device;
    use crate::{log, mmu, smmu};
    use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
    use portcullis_boot::SMMU_LIMIT;
    use portcullis_pagetable::{Access, MemoryType};

    /// The first UART, when there is no console yet.
    pub fn console() {
        if !log::has_console()
            && let Ok(uart) = Range::from_size(PhysAddr::new(0x0900_0000), PAGE_SIZE)
        {
            crate::boot::use_console(uart);
        }
    }

    /// The SMMU, if one answers: IDR0 says that there are AArch64 tables. Where
    /// nothing is, the read is an abort, and `end_refused` goes on from there.
    pub fn fence() {
        if let Ok(registers) = Range::from_size(PhysAddr::new(0x0905_0000), 0x2_0000)
            && mmu::map_missing(registers, MemoryType::Device, Access::ReadWrite).is_ok()
            && Device::from_mapped(registers).read32(0) & 1 << 3 != 0
        {
            // Fenced by what follows. The last place is the one that the tree
            // is least likely to have taken.
            smmu::register(SMMU_LIMIT - 1, Device::from_mapped(registers));
        }
    }
}

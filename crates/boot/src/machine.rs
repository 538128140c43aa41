//! What the device tree says about the machine, in the fixed-size form in
//! which the hypervisor uses it.

mod binding;
mod boot_dma;
mod console;
mod cpu;
mod device;
mod emulated;
mod firmware_calls;
mod gic;
mod interrupt;
mod memory;
mod msi;
mod odd;
mod pci;
mod placement;
pub(crate) mod power;
pub(crate) mod reg;
pub(crate) mod reserved;
pub(crate) mod smmu;
mod spare;
pub(crate) mod stream;
pub(crate) mod viommu;

pub use binding::bindings_without_dma;
pub use console::Console;
pub use cpu::{CPU_LIMIT, Conduit, Cpu, Psci, PsciVersion};
pub use device::{DeviceNote, PointedTo, Verdict, WITHHELD_LIMIT, Withheld};
pub use emulated::{HostLineList, HostLines};
pub use gic::{DOORBELL_SIZE, Gic, GicV2, GicV3, ITS_LIMIT, Its, REDISTRIBUTOR_LIMIT};
pub use interrupt::{INTERRUPT_LIMIT, Interrupt, Trigger};
pub use memory::BANK_LIMIT;
pub use msi::{MSI_RANGE_LIMIT, MsiRange};
pub use odd::{ODDITY_LIMIT, Odd, Oddities};
pub use pci::{BUS_BYTES, PCI_HOST_LIMIT, PciHost};
pub use placement::SMMU_BYTES;
pub use power::{SUPPLY_LIMIT, Supplies};
pub use reserved::{RESERVED_LIMIT, Reserved};
pub use smmu::{HIDDEN_LIMIT, SMMU_LIMIT, Smmu, SmmuInterrupts, ToFence, smmus_to_fence};
pub use spare::Hardware;
pub use stream::{Joined, STREAM_RANGE_LIMIT, StreamRange};
pub use viommu::{VIOMMU_LIMIT, Viommu, endpoint};

pub(crate) use device::Device;

use crate::args::{ALLOW_LIMIT, BootArgs, HostIommu, LogLevel};
use crate::error::BootError;
use crate::fdt::{Fdt, NodeId};
use crate::list::List;
use crate::module::Modules;
use crate::text::{NodePath, Word};
use boot_dma::Framebuffers;
use device::Rules;
use portcullis_addr::{PhysAddr, Range};
use spare::{Spare, TreeAlone};

/// Everything the hypervisor needs to know about the machine before it starts
/// the host.
///
/// Nothing in here borrows from the tree. It is a few KiB: keep it in a
/// static, not on a stack.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What the command line wants the host to see of the SMMUs.
    pub host_iommu: HostIommu,
    /// Bytes of memory for the tables of the host's own mappings, which only
    /// paravirt mode takes: a multiple of 4 KiB.
    pub dma_tables: u64,
    /// Whether the host has ITSs, emulated ones in the place of the machine's.
    pub gic_its: bool,
    /// Bytes of memory for interrupt translation tables: a multiple of 4 KiB, or
    /// 0 where the host has no ITS.
    pub its_tables: u64,
    /// The DeviceIDs of the host's devices.
    pub msis: List<MsiRange, MSI_RANGE_LIMIT>,
    /// Bytes of memory for a record of what the host maps, or 0; likewise.
    pub trace: u64,
    /// What the command line wants logged.
    pub log: LogLevel,
    /// `bhb=` of the command line.
    pub bhb: bool,
    /// `mpam=` of the command line.
    pub mpam: bool,
    /// RAM, by address; whole pages only.
    pub memory: List<Range<PhysAddr>, BANK_LIMIT>,
    /// Memory that the command line allows and the tree does not name, by address:
    /// the host's, in the view of CPUs and devices, whether a device has brought it
    /// or not. Nothing of the hypervisor's goes there.
    pub added: List<Range<PhysAddr>, ALLOW_LIMIT>,
    /// Where RAM ends for all who are to share it: what the tree names above is left
    /// out of [`memory`](Self::memory) and of the host's tree.
    pub memory_end: PhysAddr,
    /// Bytes of RAM that are left out.
    pub memory_lost: u64,
    /// Memory that somebody else uses.
    pub reserved: List<Reserved, RESERVED_LIMIT>,
    /// The CPUs that are enabled, in the order of the tree.
    pub cpus: List<Cpu, CPU_LIMIT>,
    /// How CPUs are started.
    pub psci: Psci,
    /// The interrupt controller.
    pub gic: Gic,
    /// The UART for the hypervisor's log; `None` when the machine names no
    /// PL011 as its standard output and the command line asks for no other.
    pub console: Option<Console>,
    /// The UART that the command line asks for and that is not used, since the
    /// host could switch it off and have EL2 wait for it.
    pub console_unused: Option<NodePath>,
    /// Nodes with clocks, power domains or resets without which the hypervisor's
    /// devices do nothing: with `trust-power=yes`, else there are none.
    pub supplies: Supplies,
    /// Every SMMUv3 that is enabled.
    pub smmus: List<Smmu, SMMU_LIMIT>,
    /// The interrupts of the emulated SMMUs, one entry for each of
    /// [`smmus`](Self::smmus) in nested mode, else none.
    pub host_lines: HostLineList,
    /// The virtio-iommus that the host may see in paravirt mode, of which it gets as many as
    /// [`ViommuStreams`](crate::ViommuStreams) says; none in every other mode, and on a machine
    /// without SMMU.
    pub viommus: List<Viommu, VIOMMU_LIMIT>,
    /// Registers that belong to an SMMU but that the hypervisor does not use:
    /// those of disabled SMMUs and of performance monitor counter groups,
    /// which can be told to write a message anywhere. Nobody may reach them.
    pub hidden: List<Range<PhysAddr>, HIDDEN_LIMIT>,
    /// Every stream that a device of the tree can use; none twice.
    pub streams: List<StreamRange, STREAM_RANGE_LIMIT>,
    /// The nodes that name some of them. Of streams that several name, the first has
    /// the range.
    pub stream_nodes: List<NodeId, STREAM_RANGE_LIMIT>,
    /// Which of these name the same streams; when the list is full, some are not in it.
    pub joined: Joined,
    /// Devices that no SMMU confines and that may do DMA, disabled ones
    /// included: whoever reaches their registers may reach all memory. They go
    /// from the host's tree.
    pub withheld: List<NodeId, WITHHELD_LIMIT>,
    /// Those of them that others may point to, since they have a phandle or a node
    /// in them has: they stay in the host's tree, disabled.
    pub pointed_to: PointedTo,
    /// The PCI host bridges that are the host's, since SMMUs confine what is
    /// behind them.
    pub pci_hosts: List<PciHost, PCI_HOST_LIMIT>,
    /// Devices that would be withheld but for the command line.
    pub allow_unconfined: List<NodeId, ALLOW_LIMIT>,
    /// Addresses that the command line gives to the host.
    pub mmio_allow: List<Range<PhysAddr>, ALLOW_LIMIT>,
    /// The host's kernel and ramdisk.
    pub modules: Modules,
    /// What is odd in the tree and does no harm.
    pub odd: Oddities,
}

impl Machine {
    /// Reads the device tree at the start of `blob`, its command line
    /// included.
    ///
    /// A tree without an SMMU is not refused here: [`smmus`](Self::smmus) is
    /// empty then, and [`require_smmu`](Self::require_smmu) refuses it.
    ///
    /// # Errors
    /// Any variant of [`BootError`] that is about the tree, the command line
    /// or the module nodes.
    pub fn from_fdt(blob: &[u8]) -> Result<Self, BootError> {
        Self::from_tree(&Fdt::new(blob)?)
    }

    /// As [`from_fdt`](Self::from_fdt), for a machine that can be asked: without the
    /// RAM that not all reach, and with SPIs that no node names for the host's
    /// SMMUs or virtio-iommu where the physical SMMUs have none to spare.
    ///
    /// # Errors
    /// As [`from_fdt`](Self::from_fdt).
    #[inline(never)]
    pub fn from_fdt_on(blob: &[u8], hardware: &dyn Hardware) -> Result<Self, BootError> {
        Self::from_tree_on(&Fdt::new(blob)?, hardware)
    }

    /// All memory that is somebody's, by address: RAM and what may [come](Self::added).
    pub fn all_memory(&self) -> impl Iterator<Item = &Range<PhysAddr>> + Clone {
        let (mut banks, mut added) = (self.memory.iter().peekable(), self.added.iter().peekable());
        core::iter::from_fn(move || match (banks.peek(), added.peek()) {
            (Some(bank), Some(more)) if more.start() < bank.start() => added.next(),
            (Some(_), _) => banks.next(),
            (None, _) => added.next(),
        })
    }

    /// Everything that turns a write of a device of the host's into an interrupt.
    pub fn doorbells(&self) -> impl Iterator<Item = &Its> {
        let has = match self.gic {
            Gic::V3(_) => self.gic_its,
            Gic::V2(_) => true,
        };
        self.gic.doorbells().filter(move |_| has)
    }

    /// Refuses a machine on which nothing could hold a device back.
    ///
    /// # Errors
    /// [`BootError::MissingNode`] when no SMMU is enabled.
    pub fn require_smmu(&self) -> Result<(), BootError> {
        if self.smmus.is_empty() {
            return Err(smmu::NO_SMMU);
        }
        Ok(())
    }

    /// As [`from_fdt`](Self::from_fdt), for a tree that is open already.
    ///
    /// # Errors
    /// As [`from_fdt`](Self::from_fdt).
    pub fn from_tree(fdt: &Fdt<'_>) -> Result<Self, BootError> {
        Self::from_tree_on(fdt, &TreeAlone)
    }

    fn from_tree_on(fdt: &Fdt<'_>, hardware: &dyn Hardware) -> Result<Self, BootError> {
        let args = BootArgs::from_fdt(fdt)?;
        let mut odd = Oddities::default();
        let gic = gic::read(fdt)?;
        let interrupts = interrupt::Resolver::new(fdt, gic.node());
        let smmu::Found { smmus, hidden } = smmu::read(fdt, &interrupts, &mut odd)?;
        let (mut streams, mut stream_nodes, joined) = stream::read(fdt, &smmus, &mut odd)?;
        for parent in reserved::parents(fdt) {
            boot_dma::take_streams(fdt, &parent, &mut streams, &mut stream_nodes, &mut odd);
        }
        let framebuffers = Framebuffers::of(fdt);
        let spare = Spare::new(fdt, &gic, hardware);
        // An emulated SMMU has registers for messages (`IDR0.MSI`) where all physical ones
        // see the CPUs' caches.
        let messages = args.gic_its && smmus.iter().all(|smmu| smmu.coherent);
        let message = |smmu: &Smmu| {
            let device = msi::device_of(fdt, &gic, smmu.node);
            device.filter(|_| messages)
        };
        let host_lines = match args.host_iommu {
            HostIommu::Nested => emulated::host_lines(&smmus, &spare, message, &mut odd)?,
            HostIommu::Identity | HostIommu::Paravirt => HostLineList::new(),
        };
        let viommus = match args.host_iommu {
            HostIommu::Paravirt => {
                // A trace has one order, and one set of domains.
                let most = if args.trace == 0 { args.viommus } else { 1 };
                viommu::read(fdt, most, &smmus, &streams, &spare, &mut odd)?
            }
            HostIommu::Identity | HostIommu::Nested => List::new(),
        };
        let mut supplies = power::read(fdt, &smmus, args.trust_power)?;
        let mut console = console::read(fdt, &args)?;
        let mut console_unused = None;
        // One that is shared is the host's to keep.
        if let Some(Console { node, .. }) = console.filter(|console| console.dedicated)
            && !power::add_uart(fdt, node, args.trust_power, &mut supplies)?
        {
            console = None;
            console_unused = Some(fdt.path(node));
        }
        let all = memory::banks(fdt, &mut odd)?;
        let memory_end = hardware.memory_end();
        let (memory, memory_lost) = memory::below(&all, memory_end);
        let added = memory::added(&all, &args.memory_allow, memory_end)?;
        let mut machine = Self {
            host_iommu: args.host_iommu,
            dma_tables: args.dma_tables,
            gic_its: false,
            its_tables: 0,
            msis: List::new(),
            trace: args.trace,
            log: args.log,
            bhb: args.bhb,
            mpam: args.mpam,
            memory,
            added,
            memory_end,
            memory_lost,
            reserved: reserved::read(fdt, &framebuffers, &mut odd)?,
            cpus: cpu::cpus(fdt)?,
            psci: cpu::psci(fdt)?,
            console,
            console_unused,
            supplies,
            withheld: List::new(),
            pointed_to: PointedTo::default(),
            pci_hosts: List::new(),
            allow_unconfined: allowed(fdt, &args)?,
            mmio_allow: args.mmio_allow,
            streams,
            stream_nodes,
            joined,
            modules: Modules::read(fdt)?,
            gic,
            smmus,
            host_lines,
            viommus,
            hidden,
            odd,
        };
        let devices = device::read(fdt, machine.rules())?;
        machine.withheld = devices.withheld;
        let full = BootError::TooMany {
            what: "devices without an SMMU",
            limit: WITHHELD_LIMIT,
        };
        if !firmware_calls::withhold(fdt, &mut machine.withheld, &mut machine.odd) {
            return Err(full);
        }
        // Until the host asks for it, no device of its own reaches anything.
        let stopped = !machine.viommus.is_empty() && machine.streams.iter().any(|s| !s.pcie);
        for node in framebuffers.nodes.iter().filter(|_| stopped) {
            machine.odd.add(*node, Odd::FramebufferStopped);
            machine.withheld.push(*node).map_err(|_| full)?;
        }
        machine.pointed_to = PointedTo::of(fdt, &machine.withheld);
        machine.pci_hosts = devices.pci_hosts;
        if let Gic::V3(v3) = &machine.gic
            && args.gic_its
            && !v3.its.is_empty()
        {
            let withheld = |node| machine.withheld.iter().any(|withheld| *withheld == node);
            machine.msis = msi::read(fdt, v3, withheld, &mut machine.odd)?;
            machine.gic_its = true;
            machine.its_tables = args.its_tables;
        }
        Ok(machine)
    }

    fn rules(&self) -> Rules<'_> {
        Rules {
            streams: &self.stream_nodes,
            allowed: &self.allow_unconfined,
            console: self
                .console
                .filter(|console| console.dedicated)
                .map(|console| console.node),
        }
    }

    /// Hands every device of the tree to `each`.
    pub(crate) fn for_each_device<'a>(
        &self,
        fdt: &Fdt<'a>,
        mut each: impl FnMut(Device<'a>) -> Result<(), BootError>,
    ) -> Result<(), BootError> {
        device::for_each_device(fdt, self.rules(), &mut each)
    }

    /// Calls `each` for every enabled device that the host does not get, or gets
    /// only since the command line says so; neighbours are joined. `fdt` is the
    /// tree that the machine was read from.
    ///
    /// # Errors
    /// None that reading the tree did not have.
    pub fn for_each_note(
        &self,
        fdt: &Fdt<'_>,
        each: impl FnMut(&DeviceNote),
    ) -> Result<(), BootError> {
        device::for_each_note(fdt, self.rules(), each)
    }
}

/// The nodes that `allow-unconfined=` names.
fn allowed(fdt: &Fdt<'_>, args: &BootArgs<'_>) -> Result<List<NodeId, ALLOW_LIMIT>, BootError> {
    let mut nodes = List::new();
    for path in args.allow_unconfined.iter() {
        let refused = |problem| BootError::NotToBeAllowed {
            path: Word::start_of(path.as_bytes()),
            problem,
        };
        let node = fdt.find(path.as_bytes());
        let node = node.ok_or_else(|| refused("names no node of the device tree"))?;
        if smmu::is_smmu(&node) || smmu::is_monitor(&node) {
            return Err(refused("names an SMMU or a part of one"));
        }
        // As many slots as arguments.
        let _ = nodes.push(node.id());
    }
    Ok(nodes)
}

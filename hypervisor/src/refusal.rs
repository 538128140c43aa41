//! Why a boot cannot go on, in words for whoever set the machine up.

use crate::mmu::MapError;
use crate::paravirt::ParavirtError;
use crate::smmu::BringUpError;
use core::fmt;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_boot::{BootError, NodePath};
use portcullis_isolation::ShowError;
use portcullis_ownership::{LedgerError, TransferError};
use portcullis_pagetable::GeometryError;
use portcullis_pci_survey::{Finding, Function};
use portcullis_pool::PoolError;
use smmuv3_driver::{EcmdqError, FenceError, ProbeError};

/// Why the host was not started. Every SMMU that is known is fenced.
#[derive(Debug)]
pub enum Refusal {
    /// No device tree where x0 says.
    NoTree(PhysAddr),
    /// Something in the tree, the command line or the modules.
    Boot(BootError),
    /// The tree changed while the SMMUs were being fenced.
    TreeChanged,
    /// An SMMU's registers do not answer as one's.
    SmmuSilent {
        /// Its registers.
        smmu: PhysAddr,
        /// How they do.
        how: &'static str,
    },
    /// A CPU has no redistributor; its affinity.
    NoRedistributor(u64),
    /// An ITS cannot be taken over.
    Its {
        /// Its registers.
        its: PhysAddr,
        /// What is wrong with it.
        error: gicv3_its::TakeOverError,
    },
    /// The LPIs of a redistributor cannot be taken over.
    Lpis {
        /// Its RD frame.
        redistributor: PhysAddr,
        /// What is wrong with it.
        error: gicv3_its::LpiError,
    },
    /// What the host is to see of an ITS could not be set up.
    EmulatedIts {
        /// The physical one's registers.
        its: PhysAddr,
        /// What went wrong.
        error: ShowError,
    },
    /// An SMMU did not answer when it was told to stop all DMA.
    Fence {
        /// Its registers.
        smmu: PhysAddr,
        /// What it did not do.
        error: FenceError,
    },
    /// An SMMU cannot do what is needed.
    Probe {
        /// Its registers.
        smmu: PhysAddr,
        /// What is missing.
        error: ProbeError,
    },
    /// An SMMU has command queues that cannot be stopped.
    SideQueues {
        /// Its registers.
        smmu: PhysAddr,
        /// What is wrong with them.
        error: EcmdqError,
    },
    /// A PCI function is not confined by the SMMU that the tree names for it.
    PciFunction {
        /// Its host bridge.
        host: NodePath,
        /// Where it is, by the bus number that it had for a look.
        function: Function,
        /// What is wrong with it.
        finding: Finding,
    },
    /// An SMMU cannot translate in two stages, as nested mode needs.
    NoNesting {
        /// Its registers.
        smmu: PhysAddr,
        /// It says that it can, and is known not to do it right.
        unreliable: bool,
    },
    /// What the host is to see of an SMMU could not be set up.
    Emulated {
        /// The physical one's registers.
        smmu: PhysAddr,
        /// What went wrong.
        error: ShowError,
    },
    /// An SMMU did not come up.
    BringUp {
        /// Its registers.
        smmu: PhysAddr,
        /// What went wrong.
        error: BringUpError,
    },
    /// The CPUs or SMMUs cannot address all of RAM.
    CpuReach {
        /// Address bits they have.
        have: u8,
        /// Address bits that RAM needs.
        need: u8,
    },
    /// More CPUs than the image has room for.
    TooManyCpus(usize),
    /// The virtio-iommu that the host is to see could not be set up.
    Paravirt(ParavirtError),
    /// The pool is smaller than was planned.
    PoolExhausted,
    /// The SMMUs tell no VMIDs apart.
    NoVmid,
    /// The pool that was planned is too large.
    Pool(PoolError),
    /// EL2's own map.
    OwnMap(MapError),
    /// The host's tables.
    HostTables(portcullis_pagetable::Error<Ipa>),
    /// The shape of the host's tables.
    Geometry(GeometryError),
    /// The ledger's banks.
    Ledger(LedgerError),
    /// The first owners.
    Owners(TransferError),
}

impl Refusal {
    /// The tree puts registers where they cannot be.
    pub fn misplaced(range: Range<PhysAddr>) -> Self {
        Self::Boot(BootError::RegistersInMemory { range })
    }

    /// What is wrong.
    pub fn reason(&self) -> impl fmt::Display + '_ {
        Reason(self)
    }

    /// What would be right.
    pub fn fix(&self) -> impl fmt::Display + '_ {
        Fix(self)
    }
}

struct Reason<'a>(&'a Refusal);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Refusal::NoTree(at) => write!(f, "no device tree at {at}, where x0 pointed"),
            Refusal::Boot(error) => error.reason().fmt(f),
            Refusal::TreeChanged => {
                f.write_str("the device tree changed while the SMMUs were being stopped")
            }
            Refusal::SmmuSilent { smmu, how } => {
                write!(f, "the SMMU at {smmu} answers {how}")
            }
            Refusal::NoRedistributor(affinity) => {
                write!(f, "no GIC redistributor belongs to the CPU {affinity:#x}")
            }
            Refusal::Its { its, error } => {
                write!(f, "the ITS at {its} cannot be taken over: {error}")
            }
            Refusal::Lpis {
                redistributor,
                error,
            } => write!(f, "the GIC redistributor at {redistributor}: {error}"),
            Refusal::EmulatedIts { its, error } => {
                write!(f, "the host's view of the ITS at {its}: {error}")
            }
            Refusal::Fence { smmu, error } => {
                write!(f, "the SMMU at {smmu} cannot be stopped: {error}")
            }
            Refusal::Probe { smmu, error } => write!(f, "the SMMU at {smmu} does not fit: {error}"),
            Refusal::SideQueues { smmu, error } => write!(f, "the SMMU at {smmu}: {error}"),
            Refusal::PciFunction {
                host,
                function,
                finding,
            } => match finding {
                Finding::BringsMemory(kind, address, size) => write!(
                    f,
                    "the PCI function {function} of {host}, {kind}, brings {size:#x} bytes of memory \
                     at {address:#x}, which the device tree does not name"
                ),
                Finding::PastSmmu(kind) | Finding::Unreadable(kind) => write!(
                    f,
                    "the PCI function {function} of {host}, {kind}, does its DMA past the SMMU"
                ),
            },
            Refusal::NoNesting { smmu, unreliable } => write!(
                f,
                "the SMMU at {smmu} {}",
                if *unreliable {
                    "has an erratum that makes two stages of translation unreliable"
                } else {
                    "has no stage 1"
                }
            ),
            Refusal::Emulated { smmu, error } => {
                write!(f, "the host's view of the SMMU at {smmu}: {error}")
            }
            Refusal::BringUp { smmu, error } => {
                write!(f, "the SMMU at {smmu} could not be taken over: {error}")
            }
            Refusal::CpuReach { have, need } => {
                write!(f, "RAM needs {need} address bits and there are {have}")
            }
            Refusal::TooManyCpus(limit) => {
                write!(f, "the device tree names more than {limit} CPUs")
            }
            Refusal::Paravirt(error) => write!(f, "the host's virtio-iommu: {error}"),
            Refusal::Pool(error) => write!(f, "the hypervisor's memory: {error}"),
            Refusal::PoolExhausted => f.write_str("the hypervisor's memory pool is too small"),
            Refusal::NoVmid => f.write_str("the SMMUs tell no VMIDs apart"),
            Refusal::OwnMap(error) => write!(f, "EL2's own map: {error}"),
            Refusal::HostTables(error) => write!(f, "the host's tables: {error}"),
            Refusal::Geometry(error) => write!(f, "the host's tables: {error}"),
            Refusal::Ledger(error) => write!(f, "the ledger: {error}"),
            Refusal::Owners(error) => write!(f, "the ledger: {error}"),
        }
    }
}

struct Fix<'a>(&'a Refusal);

impl fmt::Display for Fix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Refusal::Boot(error) => return error.fix().fmt(f),
            Refusal::NoTree(_) => "start the image like a Linux kernel, with a device tree in x0",
            Refusal::TreeChanged => "keep devices from writing to memory before the image starts",
            Refusal::NoRedistributor(_) => {
                "correct the reg property in the device tree"
            }
            Refusal::Its { .. } => "use gic-its=off, without which devices have no MSIs",
            Refusal::Lpis { .. } => "start the image from reset, not from a kernel that used LPIs",
            Refusal::Probe {
                error: ProbeError::OutputSizeTooSmall { .. },
                ..
            } => "use less memory, or an SMMU whose output size reaches all of it",
            Refusal::Probe { .. } => {
                "use an SMMUv3 with stage 2 and AArch64 tables; QEMU has it from machine virt-9.2 on"
            }
            Refusal::SmmuSilent { .. } => {
                "have firmware give it power and clock, or disable its node, without which its \
                 devices are withheld"
            }
            Refusal::Fence { .. } | Refusal::BringUp { .. } | Refusal::SideQueues { .. } => {
                "check that the SMMU is powered and that nothing else drives it"
            }
            Refusal::PciFunction {
                finding: Finding::BringsMemory(..),
                ..
            } => "remove the device, or let it be the host's with memory-allow=BASE,SIZE",
            Refusal::PciFunction { .. } => {
                "remove the device, or give it VIRTIO_F_ACCESS_PLATFORM, in QEMU with \
                 iommu_platform=on; QEMU adds a virtio-net-pci unless told -nic none"
            }
            Refusal::NoNesting { .. } => "use host-iommu=identity, which needs stage 2 alone",
            Refusal::CpuReach { .. } => "use less memory, or a CPU with more address bits",
            Refusal::TooManyCpus(_) => "use fewer CPUs, or build with a larger MAX_CPUS",
            Refusal::Pool(_) => "use less for dma-tables=, or build with a larger POOL_WORDS",
            Refusal::PoolExhausted
            | Refusal::NoVmid
            | Refusal::OwnMap(_)
            | Refusal::Emulated { .. }
            | Refusal::EmulatedIts { .. }
            | Refusal::Paravirt(_)
            | Refusal::HostTables(_)
            | Refusal::Geometry(_)
            | Refusal::Ledger(_)
            | Refusal::Owners(_) => "report this with the device tree: it is a defect here",
        })
    }
}

macro_rules! from {
    ($($error:ty => $variant:ident),*) => {$(
        impl From<$error> for Refusal {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        }
    )*};
}

from! {
    BootError => Boot,
    MapError => OwnMap,
    ParavirtError => Paravirt,
    portcullis_pagetable::Error<Ipa> => HostTables,
    GeometryError => Geometry,
    LedgerError => Ledger,
    PoolError => Pool,
    TransferError => Owners
}

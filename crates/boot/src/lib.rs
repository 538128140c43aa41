//! What the hypervisor learns from boot input that it does not trust: the
//! device tree, its command line in it, and the boot modules it names; and
//! the device tree that it gives the host in turn.
//!
//! | step | item |
//! |---|---|
//! | open and check the tree | [`Fdt::new`] |
//! | read command line, machine and modules | [`Machine::from_tree`] |
//! | read the host kernel's header | [`KernelHeader::parse`] |
//! | find the memory that is firmware's | [`FirmwareMemory::find`] |
//! | check where things are, choose where the rest goes | [`Layout::plan`] |
//! | find what the host's CPUs reach beside RAM | [`HostRegisters::find`] |
//! | write the host's tree | [`HostTreePlan::write`] |
//!
//! No input makes anything here panic, allocate, recurse, or work longer than
//! in proportion to a tree of at most 2 MiB: lists have fixed limits, and each
//! limit has an error of its own.
//!
//! Sources: the Devicetree Specification v0.4, the bindings in Linux'
//! `Documentation/devicetree/bindings`, Xen's multiboot binding
//! (`docs/misc/arm/device-tree/booting.txt`), and Linux'
//! `Documentation/arch/arm64/booting.rst`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod args;
mod error;
mod fdt;
mod firmware;
mod host_registers;
mod host_tree;
mod kernel;
mod layout;
mod list;
mod machine;
mod module;
mod pieces;
mod text;
mod viommu_streams;

pub use args::{ALLOW_LIMIT, BootArgs, ConsoleChoice, HostIommu, LogLevel};
pub use error::{BootError, Occupant};
pub use fdt::{
    DEPTH_LIMIT, Fdt, HEADER_SIZE as TREE_HEADER_SIZE, NAME_LIMIT, NODE_LIMIT, Node, NodeId,
    PROPERTY_LIMIT, Structure, TREE_SIZE_LIMIT,
};
pub use firmware::{FIRMWARE_LIMIT, FirmwareMemory};
pub use host_registers::{HostRegisters, REGISTER_RANGE_LIMIT};
pub use host_tree::{Emulated, HostTreePlan, Interrupts, NewNode, PATH_LIMIT, ViommuNodes};
pub use kernel::{HEADER_SIZE as KERNEL_HEADER_SIZE, KernelHeader, KernelPages, PLACEMENT};
pub use layout::{BLOCK, Layout, Loaded};
pub use list::{Full, List};
pub use machine::{
    BANK_LIMIT, BUS_BYTES, CPU_LIMIT, Conduit, Console, Cpu, DOORBELL_SIZE, DeviceNote, Gic, GicV2,
    GicV3, HIDDEN_LIMIT, Hardware, HostLineList, HostLines, INTERRUPT_LIMIT, ITS_LIMIT, Interrupt,
    Its, Joined, MSI_RANGE_LIMIT, Machine, MsiRange, ODDITY_LIMIT, Odd, Oddities, PCI_HOST_LIMIT,
    PciHost, PointedTo, Psci, PsciVersion, REDISTRIBUTOR_LIMIT, RESERVED_LIMIT, Reserved,
    SMMU_BYTES, SMMU_LIMIT, STREAM_RANGE_LIMIT, SUPPLY_LIMIT, Smmu, SmmuInterrupts, StreamRange,
    Supplies, ToFence, Trigger, VIOMMU_LIMIT, Verdict, Viommu, WITHHELD_LIMIT, Withheld,
    bindings_without_dma, endpoint, smmus_to_fence,
};
pub use module::{Module, Modules};
pub use text::{NodePath, Text, Word};
pub use viommu_streams::{VIOMMU_RANGE_LIMIT, ViommuRange, ViommuStreams};

//! Every way in which boot input can be wrong.

use crate::fdt::Structure;
use crate::text::{NodePath, Text, Word};
use core::fmt;
use portcullis_addr::{PhysAddr, Range};

/// What occupies a range of physical memory, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Occupant {
    /// The hypervisor's own image.
    Hypervisor,
    /// The device tree that firmware passed.
    DeviceTree,
    /// The host's kernel, up to the `image_size` of its header.
    Kernel,
    /// The host's initial RAM disk.
    Ramdisk,
    /// A range that the device tree reserves.
    Reserved,
    /// Nothing: the memory bank ends there.
    EndOfMemory,
    /// The memory that the hypervisor keeps for itself.
    Pool,
    /// The device tree for the host.
    HostTree,
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hypervisor => "the hypervisor image",
            Self::DeviceTree => "the device tree",
            Self::Kernel => "the kernel",
            Self::Ramdisk => "the ramdisk",
            Self::Reserved => "reserved memory",
            Self::EndOfMemory => "the end of the memory bank",
            Self::Pool => "the hypervisor's pool",
            Self::HostTree => "the host's device tree",
        })
    }
}

/// Why the hypervisor cannot start with this boot input.
///
/// `Display` (and [`reason`](Self::reason)) says in one line what is wrong and
/// where; [`fix`](Self::fix) says what would be right. Neither contains a
/// newline or a double quote, whatever the input was, so that both go into a
/// log line as `reason="…" fix="…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The tree is shorter than its header says, or than a header. In bytes.
    #[error("the device tree has {have} bytes of {need}")]
    TreeTruncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there must be.
        need: u64,
    },
    /// What x0 points at is no device tree.
    #[error("the device tree starts with {found:#010x}, which is not its magic number")]
    TreeMagic {
        /// The first word, as a big-endian number.
        found: u32,
    },
    /// The tree is larger than the host's kernel would accept. In bytes.
    #[error("the device tree has {size} bytes, more than {limit}")]
    TreeTooBig {
        /// Size in the header.
        size: u64,
        /// Largest size.
        limit: u64,
    },
    /// The tree's format is not version 17.
    #[error(
        "the device tree has version {version}, readable by readers of version {compatible} or later"
    )]
    TreeVersion {
        /// `version` of the header.
        version: u32,
        /// `last_comp_version` of the header.
        compatible: u32,
    },
    /// The tree's blocks or tokens are not well-formed.
    #[error("the device tree is damaged at offset {offset:#x}: {problem}")]
    TreeStructure {
        /// Bytes from the start of the structure block.
        offset: u32,
        /// What is wrong there.
        problem: Structure,
    },
    /// A node that every machine needs is absent.
    #[error("the device tree has no {what}")]
    MissingNode {
        /// What is missing.
        what: &'static str,
        /// What would be right.
        right: &'static str,
    },
    /// A node lacks a property it must have.
    #[error("{node} has no property {property}")]
    MissingProperty {
        /// The node.
        node: NodePath,
        /// The property.
        property: &'static str,
    },
    /// A property has the wrong length.
    #[error("{property} of {node} has {length} bytes")]
    PropertyLength {
        /// The node.
        node: NodePath,
        /// The property.
        property: &'static str,
        /// Its length in bytes.
        length: u64,
        /// What would be right.
        right: &'static str,
    },
    /// A property holds a number that cannot be.
    #[error("{property} of {node} holds {value:#x}")]
    PropertyValue {
        /// The node.
        node: NodePath,
        /// The property.
        property: &'static str,
        /// The number.
        value: u64,
        /// What would be right.
        right: &'static str,
    },
    /// A property is not a printable string.
    #[error("{property} of {node} is not a string")]
    PropertyText {
        /// The node.
        node: NodePath,
        /// The property.
        property: &'static str,
    },
    /// A property holds a word that cannot be.
    #[error("{property} of {node} holds {value}")]
    PropertyWord {
        /// The node.
        node: NodePath,
        /// The property.
        property: &'static str,
        /// The word.
        value: Text<16>,
        /// What would be right.
        right: &'static str,
    },
    /// A register address cannot be followed to the physical address space.
    #[error("the address {address:#x} of {node} is not in the ranges of the bus around it")]
    NotTranslatable {
        /// The node whose `reg` it is.
        node: NodePath,
        /// The address, as far as it could be followed.
        address: u64,
    },
    /// More of something than there is room for.
    #[error("the device tree has more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there can be.
        limit: usize,
    },
    /// A phandle that is used names no node.
    #[error("{property} of {node} refers to phandle {phandle:#x}, which no node has")]
    DanglingPhandle {
        /// The node that refers.
        node: NodePath,
        /// The property that refers.
        property: &'static str,
        /// The phandle.
        phandle: u32,
    },
    /// Two nodes have one phandle, and one of them is an SMMU.
    #[error("{first} and {second} both have phandle {phandle:#x}")]
    DuplicatePhandle {
        /// The first node.
        first: NodePath,
        /// The second node.
        second: NodePath,
        /// The phandle.
        phandle: u32,
    },
    /// The host could switch something off that the hypervisor depends on.
    #[error("{property} of {by} lets the host switch off {node}")]
    Switchable {
        /// What would be off.
        node: NodePath,
        /// The node that says by what: the same, or one around it.
        by: NodePath,
        /// The property.
        property: &'static str,
    },
    /// The firmware cannot be called from EL2.
    #[error("PSCI is not called by SMC on this machine")]
    Conduit,
    /// The tree puts registers into RAM.
    #[error("the device tree puts registers into RAM, at {range}")]
    RegistersInMemory {
        /// The registers.
        range: Range<PhysAddr>,
    },
    /// An SMMU has less than its two register pages.
    #[error("the SMMU at {range} has less than two register pages of 64 KiB")]
    SmmuTooSmall {
        /// Its registers.
        range: Range<PhysAddr>,
    },
    /// An ITS or MSI frame lies where something is withheld from everybody.
    #[error("the MSI frame {range} overlaps registers that nobody may reach")]
    DoorbellWithheld {
        /// Its registers.
        range: Range<PhysAddr>,
    },
    /// Two CPUs have one affinity.
    #[error("two CPUs have affinity {affinity:#x}")]
    DuplicateCpu {
        /// The affinity fields of MPIDR_EL1.
        affinity: u64,
    },
    /// The machine has no console that the hypervisor could use under that
    /// name.
    #[error("console={name} names no PL011 of the device tree")]
    Console {
        /// What the command line asked for.
        name: Word,
    },
    /// The command line is not printable ASCII.
    #[error("the command line of the hypervisor is not printable ASCII")]
    ArgumentText,
    /// A word of the command line has no `=`.
    #[error("the command line has {word}, which is not key=value")]
    ArgumentForm {
        /// The word.
        word: Word,
    },
    /// A key of the command line is unknown.
    #[error("the command line has the unknown key {key}")]
    ArgumentKey {
        /// The key.
        key: Word,
    },
    /// A key of the command line comes twice.
    #[error("the command line has {key}= twice")]
    ArgumentTwice {
        /// The key.
        key: &'static str,
    },
    /// A key of the command line that may be repeated comes too often.
    #[error("the command line has {key}= more than {limit} times")]
    ArgumentTooOften {
        /// The key.
        key: &'static str,
        /// How often it may come.
        limit: usize,
    },
    /// A path of the command line leads to no device that could be allowed.
    #[error("allow-unconfined={path} {problem}")]
    NotToBeAllowed {
        /// The path.
        path: Word,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Addresses that the command line allows are not to be had.
    #[error("mmio-allow= of {range} is for {by}")]
    NotRegisters {
        /// The addresses.
        range: Range<PhysAddr>,
        /// What is there.
        by: &'static str,
    },
    /// Memory that the command line allows is not to be had.
    #[error("memory-allow= of {range} {why}")]
    NotMemory {
        /// The addresses.
        range: Range<PhysAddr>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A value of the command line is unknown.
    #[error("the command line has {key}={value}")]
    ArgumentValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: Word,
        /// What would be right.
        right: &'static str,
    },
    /// The SMMU that the host is to see has no interrupt: the hypervisor uses
    /// all that the physical one has.
    #[error("{node} has no SPI that the hypervisor could leave to the host")]
    NoSpareInterrupt {
        /// The SMMU.
        node: NodePath,
    },
    /// A StreamID leaves no room for which SMMU it is of.
    #[error("{node} has stream {stream:#x}, too large for a number among several SMMUs")]
    StreamTooLarge {
        /// The node.
        node: NodePath,
        /// The StreamID.
        stream: u32,
        /// The largest that would do.
        limit: u32,
    },
    /// No kernel module.
    #[error("/chosen has no kernel module")]
    NoKernel,
    /// Two modules of one kind.
    #[error("{first} and {second} are both {what} modules")]
    TwoModules {
        /// `kernel` or `ramdisk`.
        what: &'static str,
        /// The first node.
        first: NodePath,
        /// The second node.
        second: NodePath,
    },
    /// A module of a kind that is not known.
    #[error("{node} is a boot module of an unknown kind")]
    UnknownModule {
        /// The module's node.
        node: NodePath,
    },
    /// A module lies outside RAM.
    #[error("{what} at {range} is not within one memory bank")]
    OutsideMemory {
        /// What lies there.
        what: Occupant,
        /// Where.
        range: Range<PhysAddr>,
    },
    /// Two things occupy the same memory.
    #[error("{first} at {first_range} overlaps {second} at {second_range}")]
    Overlap {
        /// One.
        first: Occupant,
        /// Where.
        first_range: Range<PhysAddr>,
        /// The other.
        second: Occupant,
        /// Where.
        second_range: Range<PhysAddr>,
    },
    /// The kernel is not where the arm64 boot protocol wants it.
    #[error("the kernel is at {at:#x}, which is not {text_offset:#x} past a multiple of 2 MiB")]
    KernelUnaligned {
        /// Where it is.
        at: PhysAddr,
        /// `text_offset` of its header in bytes.
        text_offset: u64,
        /// The next address that would be right.
        right: PhysAddr,
    },
    /// The kernel is shorter than its headers say. In bytes.
    #[error("the kernel module has {have} bytes of {need}")]
    KernelTruncated {
        /// Bytes there are.
        have: u64,
        /// Bytes there must be.
        need: u64,
    },
    /// The kernel module is no arm64 Image.
    #[error("the kernel module has {found:#010x} where the magic number of an arm64 Image belongs")]
    KernelMagic {
        /// The word at offset 0x38, as a little-endian number.
        found: u32,
    },
    /// The kernel module is compressed.
    #[error("the kernel module is compressed ({format})")]
    KernelCompressed {
        /// How.
        format: &'static str,
    },
    /// The kernel is big-endian.
    #[error("the kernel is big-endian")]
    KernelBigEndian,
    /// The kernel predates `image_size` (Linux 3.17).
    #[error("the kernel's header has no image_size")]
    KernelTooOld,
    /// The kernel would grow into something else when it runs.
    #[error("the kernel needs {need} bytes from {at:#x}, but {next} is {have} bytes above")]
    KernelNoRoom {
        /// Where the kernel is.
        at: PhysAddr,
        /// `image_size` of its header in bytes.
        need: u64,
        /// Bytes up to what comes next.
        have: u64,
        /// What comes next.
        next: Occupant,
    },
    /// The ramdisk is too far from the kernel.
    #[error("the ramdisk at {ramdisk} is not within 32 GiB of the kernel at {kernel}")]
    RamdiskTooFar {
        /// Where the ramdisk is.
        ramdisk: Range<PhysAddr>,
        /// Where the kernel is.
        kernel: Range<PhysAddr>,
    },
    /// No free memory for what the hypervisor needs. In bytes.
    #[error("{what} needs {need} bytes of free memory in one piece, the largest piece has {have}")]
    TooLittleMemory {
        /// What it is for.
        what: Occupant,
        /// Bytes needed.
        need: u64,
        /// Bytes in the largest free piece.
        have: u64,
    },
    /// The buffer for the host's tree is too small. In bytes.
    #[error("the host's device tree does not fit {have} bytes")]
    OutputTooSmall {
        /// Size of the buffer.
        have: u64,
    },
    /// An added node has a property whose name the writer does not know.
    #[error("no name {name} is known for a property to add")]
    UnknownName {
        /// The name.
        name: Word,
    },
    /// A protected range cannot be written with the tree's cells.
    #[error("{range} does not fit the address and size cells of {node}")]
    CellsTooSmall {
        /// The range.
        range: Range<PhysAddr>,
        /// The node whose cells are meant.
        node: NodePath,
    },
}

impl BootError {
    /// What is wrong and where: the same as `Display`.
    pub fn reason(&self) -> impl fmt::Display + '_ {
        self
    }

    /// What would be right.
    pub fn fix(&self) -> impl fmt::Display + '_ {
        Fix(self)
    }
}

struct Fix<'a>(&'a BootError);

impl fmt::Display for Fix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use BootError as E;
        let fixed = match self.0 {
            E::TreeTruncated { .. } | E::TreeStructure { .. } => {
                "pass the device tree whole and unmodified, as dtc writes it"
            }
            E::TreeMagic { .. } => "enter the image with the address of a device tree in x0",
            E::TreeTooBig { limit, .. } => {
                return write!(f, "make the device tree {limit} bytes or smaller");
            }
            E::TreeVersion { .. } => "write the device tree in version 17, as dtc does by default",
            E::MissingNode { right, .. }
            | E::PropertyLength { right, .. }
            | E::PropertyValue { right, .. }
            | E::PropertyWord { right, .. }
            | E::ArgumentValue { right, .. } => right,
            E::MissingProperty { property, .. } => {
                return write!(f, "add {property} to that node");
            }
            E::PropertyText { .. } => "make it printable ASCII that ends in one NUL",
            E::NotTranslatable { .. } => "add a ranges property to the bus that covers it",
            E::TooMany { what, limit } => {
                return write!(f, "describe at most {limit} {what}");
            }
            E::DanglingPhandle { .. } => "name the phandle of a node that exists",
            E::DuplicatePhandle { .. } => "give every node a phandle of its own",
            E::Switchable { .. } => {
                "leave it out of the tree where firmware keeps it on, or trust the host with trust-power=yes"
            }
            E::Conduit => "use a machine whose psci node says method = \\\"smc\\\"",
            E::RegistersInMemory { .. } | E::SmmuTooSmall { .. } | E::DoorbellWithheld { .. } => {
                "correct the reg property in the device tree"
            }
            E::DuplicateCpu { .. } => "give every cpu node the affinity of its own CPU in reg",
            E::Console { .. } => {
                "name an alias such as serial1, the path of an arm,pl011 node, or stdout"
            }
            E::ArgumentText => "use printable ASCII in bootargs of /chosen, ended by one NUL",
            E::ArgumentForm { .. } | E::ArgumentKey { .. } => crate::args::KEYS,
            E::ArgumentTwice { .. } => "give each key once",
            E::ArgumentTooOften { limit, .. } => {
                return write!(f, "give it at most {limit} times");
            }
            E::NotToBeAllowed { .. } => {
                "name a device by the path that its line device_withheld has"
            }
            E::NotRegisters { .. } => {
                "name pages that hold nothing but registers, or allow what is there by allow-unconfined="
            }
            E::NotMemory { .. } => {
                "name addresses at which memory can come, outside of RAM and of all registers"
            }
            E::NoSpareInterrupt { .. } => {
                "name an SPI priq or cmdq-sync that nothing else uses, or use host-iommu=identity"
            }
            E::StreamTooLarge { limit, .. } => {
                return write!(
                    f,
                    "name StreamIDs up to {limit:#x}, or use host-iommu=identity or nested"
                );
            }
            E::NoKernel => {
                "load the host's kernel as a module: compatible multiboot,module and multiboot,kernel"
            }
            E::TwoModules { .. } => "pass one module of each kind",
            E::UnknownModule { .. } => "use multiboot,kernel or multiboot,ramdisk",
            E::OutsideMemory { .. } => "load it into one bank of RAM",
            E::Overlap { .. } => "load them to separate ranges",
            E::KernelUnaligned { right, .. } => {
                return write!(f, "load it at {right:#x}");
            }
            E::KernelTruncated { .. } => "load the whole Image and give its size in reg",
            E::KernelMagic { .. } => "pass an uncompressed arm64 Image",
            E::KernelCompressed { .. } => "unpack it to an arm64 Image first",
            E::KernelBigEndian => "pass a little-endian kernel",
            E::KernelTooOld => "pass Linux 3.17 or later",
            E::KernelNoRoom { need, .. } => {
                return write!(f, "leave {need} bytes free from where the kernel starts");
            }
            E::RamdiskTooFar { .. } => "load both into one 32 GiB window",
            E::TooLittleMemory { .. } => {
                "give the machine more memory or place the modules closer together"
            }
            E::OutputTooSmall { .. } => "pass a smaller device tree",
            E::UnknownName { .. } => "add the name to the writer's list",
            E::CellsTooSmall { .. } => "set #address-cells and #size-cells to 2",
        };
        f.write_str(fixed)
    }
}

//! What is odd in a tree and does no harm: what is made of it is one line of the
//! log, and the boot goes on.

use crate::fdt::NodeId;
use crate::list::List;
use core::fmt;

/// Most oddities of which the log tells. The rest is counted.
pub const ODDITY_LIMIT: usize = 32;

/// What is odd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Odd {
    /// Some memory is in two entries of RAM.
    MemoryTwice,
    /// `/reserved-memory` is not as operating systems want it.
    ReservedMemoryRewritten,
    /// A further `/reserved-memory`.
    SecondReservedMemory,
    /// A child of `/reserved-memory` whose `reg` says nothing.
    ReservedUnreadable,
    /// An interrupt of an SMMU's does not go to the GIC by itself.
    InterruptElsewhere,
    /// An SMMU has more interrupts than names for them.
    InterruptUnnamed,
    /// A device names an SMMU, and not only SMMUs that translate what it does.
    StreamsUnclear,
    /// A node names a stream twice.
    StreamTwice,
    /// A node names a stream of another node's.
    StreamShared,
    /// An SMMU has no interrupt that the hypervisor leaves alone.
    NoSpareInterrupt,
    /// The same, and no SPI is free either.
    InterruptsAsMessages,
    /// Fewer virtio-iommus than the command line allows have an interrupt and a page.
    FewerViommus,
    /// A service of firmware's is called in a way that the hypervisor denies.
    FirmwareCalls,
    /// A device used memory before the boot by an address of an IOMMU's.
    BootDmaElsewhere,
    /// A framebuffer of firmware's is shown through an SMMU that blocks it at first.
    FramebufferStopped,
    /// A map of requester IDs has an entry for none, or for more than there are.
    MapEntry,
}

impl Odd {
    /// What became of it.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::MemoryTwice => "it counts once",
            Self::ReservedMemoryRewritten => "the host's has the cells of the root",
            Self::SecondReservedMemory => "the host has its children in the first",
            Self::ReservedUnreadable => "nothing is reserved for it",
            Self::InterruptElsewhere => {
                "its events are looked for when the hypervisor runs for another reason"
            }
            Self::InterruptUnnamed => "the rest is not used",
            Self::StreamsUnclear => "it is taken for a device without an SMMU",
            Self::StreamTwice => "it counts once",
            Self::StreamShared => {
                "the SMMU does not tell the two devices apart, nor does the hypervisor"
            }
            Self::NoSpareInterrupt => "the host's interrupts are on an SPI that no node names",
            Self::FewerViommus => "the host has fewer",
            Self::InterruptsAsMessages => "the host's interrupts are messages to its ITS",
            Self::FirmwareCalls | Self::FramebufferStopped => "the host does not have it",
            Self::BootDmaElsewhere => "the host has none of its streams",
            Self::MapEntry => "the entry counts for the requester IDs that there are",
        }
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MemoryTwice => "it names memory that is named before",
            Self::ReservedMemoryRewritten => {
                "its name, cells or ranges are not those that Linux reads"
            }
            Self::SecondReservedMemory => "there is a node for reserved memory before it",
            Self::ReservedUnreadable => "its reg has an entry that is no range of memory",
            Self::InterruptElsewhere => "an interrupt of it is not one of the GIC's own",
            Self::InterruptUnnamed => "it has more interrupts than interrupt-names",
            Self::StreamsUnclear => {
                "not all of its IOMMUs are SMMUs that are enabled, or not all of it can be read"
            }
            Self::StreamTwice => "it names a StreamID twice",
            Self::StreamShared => "it names a StreamID that a node before it names",
            Self::NoSpareInterrupt => "it has no SPI that the hypervisor does not listen to",
            Self::FewerViommus => {
                "not as many virtio-iommus as viommus= allows have an SPI that no node names, and \
                 a page of its registers"
            }
            Self::InterruptsAsMessages => {
                "it has no SPI that the hypervisor does not listen to, and nodes name all others"
            }
            Self::FirmwareCalls => "firmware is called for it, which the hypervisor denies",
            Self::BootDmaElsewhere => "iommu-addresses has it use memory by an address of its own",
            Self::FramebufferStopped => {
                "what shows it may be behind an SMMU that blocks it until its driver asks"
            }
            Self::MapEntry => "a map of it has an entry without requester IDs from 0 to 0xffff",
        })
    }
}

/// What was odd, in the order in which it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Oddities {
    list: List<(NodeId, Odd), ODDITY_LIMIT>,
    more: usize,
}

impl Oddities {
    /// Notes one. The same is not noted twice.
    pub(super) fn add(&mut self, node: NodeId, odd: Odd) {
        if self.iter().any(|known| known == (node, odd)) {
            return;
        }
        if self.list.push((node, odd)).is_err() {
            self.more = self.more.saturating_add(1);
        }
    }

    /// Each with its node.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, Odd)> {
        self.list.iter().copied()
    }

    /// How many more there were than the list holds.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }
}

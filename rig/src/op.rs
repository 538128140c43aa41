//! What a hostile program consists of.

/// One step of a hostile program. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Gives a stream the translation of a domain: 0 is the host, 1 and 2 are
    /// others.
    Attach {
        /// Number of the stream.
        stream: u32,
        /// Number of the domain.
        domain: u8,
    },
    /// The same for all streams between two StreamIDs.
    AttachRange {
        /// One end, included.
        first: u32,
        /// The other end, included.
        last: u32,
        /// Number of the domain.
        domain: u8,
    },
    /// Makes a stream abort.
    Block {
        /// Number of the stream.
        stream: u32,
    },
    /// Takes pages from the host.
    Take {
        /// First page of RAM.
        page: u64,
        /// How many; 18 and 19 stand for blocks.
        count: u64,
    },
    /// Gives pages to the host.
    Give {
        /// First page of RAM.
        page: u64,
        /// How many; 18 and 19 stand for blocks.
        count: u64,
    },
    /// A device accesses memory.
    Dma {
        /// Number of the stream.
        stream: u32,
        /// The address that it puts on the bus.
        address: u64,
        /// Whether it writes.
        write: bool,
    },
    /// The host writes to memory, if that is its own.
    Scribble {
        /// Page of RAM.
        page: u64,
        /// Word in it.
        word: u64,
        /// What it writes.
        value: u64,
    },
    /// Reads events and errors.
    Drain,
    /// Stops the SMMU and starts it again.
    Restart,
    /// Reuses the VMID of a domain without streams for another table.
    Reuse,
}

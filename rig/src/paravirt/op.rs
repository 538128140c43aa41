//! What a host does to its domains, and to the device that it asks for them.

/// One thing that the host does. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum ParaOp {
    /// A request, see [`Ask`].
    Ask {
        /// What for.
        what: Ask,
        /// Whether a [`Sync`](Self::Sync) follows at once.
        sync: bool,
    },
    /// Has what is under way done, and waits for all invalidations; through the
    /// device, a notification.
    Sync,
    /// Has a request under way go on for so many turns, and leaves it there.
    GoOn {
        /// Turns.
        turns: u8,
    },
    /// Everything is taken back; through the device, by its status register.
    Reset {
        /// Turns before the CPU does something else.
        patience: u16,
    },
    /// Does something to the device. Nothing where there is none.
    Front(FrontOp),
}

/// A request for the domains of the host.
#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Attaches, out of whatever domain the endpoint was in.
    Attach {
        /// Number of the domain.
        domain: u32,
        /// Number of the stream; from 16 on there may be none.
        endpoint: u32,
    },
    /// Detaches.
    Detach {
        /// Number of the domain.
        domain: u32,
        /// Number of the stream; from 16 on there may be none.
        endpoint: u32,
    },
    /// Detaches an endpoint from where it is.
    Leave {
        /// Number of the stream.
        endpoint: u32,
    },
    /// Maps.
    Map {
        /// Number of the domain.
        domain: u32,
        /// Page of the IOVA.
        iova: u64,
        /// How many pages.
        count: u64,
        /// Page of physical memory.
        to: u64,
        /// READ, WRITE, EXECUTE, MMIO.
        access: u8,
    },
    /// Maps the page that follows a mapping that is there, behind it.
    Extend {
        /// Which mapping.
        mapping: u32,
        /// How many pages.
        count: u64,
        /// How many pages of memory are left out.
        gap: u64,
        /// Before it instead.
        before: bool,
    },
    /// Takes away what lies between any two addresses around a mapping.
    Between {
        /// Which mapping.
        mapping: u32,
        /// Bytes from its beginning to the first of them.
        start: i64,
        /// Bytes from its end to the other.
        end: i64,
    },
    /// Takes away all mappings in a range.
    Unmap {
        /// Number of the domain.
        domain: u32,
        /// Page of the IOVA.
        iova: u64,
        /// How many pages.
        count: u64,
    },
    /// Takes away one mapping, or some of its neighbours too.
    Drop {
        /// Which mapping.
        mapping: u32,
        /// Pages more before and behind it.
        around: u64,
        /// Only so many pages of it, if not 0.
        part: u64,
    },
}

/// What a driver does to the device.
#[derive(Clone, Copy, Debug)]
pub enum FrontOp {
    /// Resets and starts it as a driver does.
    BringUp {
        /// log2 of the entries of the request queue.
        log2: u8,
        /// Features: indirect descriptors, event index, no map, no probe.
        features: u8,
        /// Where the rings are.
        place: u8,
    },
    /// Writes a register.
    Register {
        /// Bytes from the start.
        offset: u32,
        /// How wide: 0 to 3 for 1 to 8 bytes.
        width: u8,
        /// What.
        value: u64,
        /// How often a write that is not done is repeated.
        patience: u16,
    },
    /// Writes a word of the rings and the requests.
    Word {
        /// Page behind the first one.
        page: u8,
        /// Word in it.
        word: u16,
        /// What.
        value: u64,
    },
    /// Makes a request of any bytes.
    Bytes {
        /// Its words.
        words: [u64; 5],
        /// Readable bytes.
        len: u8,
        /// Writable bytes.
        room: u16,
        /// How the chain is made.
        shape: Shape,
    },
    /// Later requests are chained like this.
    Shaped(Shape),
    /// Moves `avail.idx`.
    Ahead {
        /// By how many entries.
        by: u16,
    },
    /// A device behind it faults.
    Fault {
        /// Number of the stream.
        endpoint: u32,
        /// Where.
        address: u64,
    },
}

/// How a request becomes a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// Two descriptors, as Linux has it.
    #[default]
    Stock,
    /// The same in a table of its own.
    Indirect,
    /// The readable part in pieces, the writable one byte by byte.
    Pieces,
    /// Nothing to write to.
    Mute,
}

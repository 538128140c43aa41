//! What a host does to its emulated SMMU.

use smmuv3_emulator::Size;

/// Width of a register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

impl From<Width> for Size {
    fn from(width: Width) -> Self {
        match width {
            Width::Byte => Self::Byte,
            Width::Half => Self::Half,
            Width::Word => Self::Word,
            Width::Double => Self::Double,
        }
    }
}

/// One thing that the host does. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum HostOp {
    /// Writes a register.
    Register {
        /// Bytes from the start of page 0.
        offset: u32,
        /// How wide.
        width: Width,
        /// What.
        value: u64,
        /// How often the write is repeated while it is not done, before the
        /// CPU does something else.
        patience: u16,
    },
    /// Turns bits of CR0 on and off: (old & `keep`) | `set`.
    Cr0 {
        /// What stays.
        keep: u32,
        /// What is on.
        set: u32,
    },
    /// Stores commands where the emulated SMMU would read them next, as far as
    /// the host has that memory.
    Commands {
        /// The commands.
        list: [[u64; 2]; 4],
        /// How many of them.
        count: u8,
        /// Moves CMDQ_PROD past them.
        tell: bool,
        /// Waits until they are consumed.
        wait: bool,
    },
    /// Starts from nothing, as a driver does, whatever ran before.
    BringUp(BringUp),
    /// Writes an entry of the stream table that the registers name.
    Entry(Entry),
    /// Reads events and page requests: moves their CONS to PROD, or half-way.
    Consume {
        /// The page request queue instead.
        requests: bool,
        /// Only half of them.
        half: bool,
    },
    /// Answers the stalls that the event queue tells of.
    Resume {
        /// Let them try again.
        retry: bool,
    },
    /// Acknowledges every error that is active.
    Acknowledge,
    /// A device asks for a page.
    Ask {
        /// Number of the stream.
        stream: u32,
        /// The request's second word and the flags of its first.
        bits: [u64; 2],
    },
    /// Time passes for the physical SMMU.
    Pass {
        /// Polls.
        polls: u8,
    },
}

/// How a driver sets the emulated SMMU up.
#[derive(Clone, Copy, Debug)]
pub struct BringUp {
    /// Which 16 pages of RAM it uses for everything.
    pub block: u8,
    /// A stream table of two levels.
    pub two_level: bool,
    /// Two bits for each stream: bypass, stage 1, abort, invalid.
    pub kinds: u64,
    /// log2 of the entries of the command queue.
    pub command_log2: u8,
    /// log2 of the entries of the event queue.
    pub event_log2: u8,
    /// What the stage 1 tables look like, see `plant`.
    pub shape: u64,
    /// Waits by messages.
    pub msi: bool,
    /// Uses ATS and page requests where there are such.
    pub ats: bool,
    /// Makes everything abort before it stops what runs.
    pub gentle: bool,
}

/// An entry of the host's stream table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Number of the stream.
    pub stream: u32,
    /// The first two words.
    pub words: [u64; 2],
    /// Every other word.
    pub rest: u64,
    /// CMD_CFGI_STE and CMD_SYNC follow.
    pub tell: bool,
}

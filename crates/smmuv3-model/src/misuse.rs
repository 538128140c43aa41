//! What software must not do.

use smmuv3_spec::command::Command;

/// Something that the architecture leaves unpredictable, ignores, or refuses.
/// In a test of software it is a defect of the software.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// The access is misaligned, or of a width that the register does not have
    /// (IHI 0070, 6.2).
    #[error("access of {bytes} bytes at {offset:#x}")]
    Access {
        /// Offset from the start of page 0.
        offset: u32,
        /// How wide.
        bytes: u32,
    },
    /// The register may not be written while what it configures is enabled or
    /// an update is under way (6.3.9, 6.3.14, 6.3.16, 6.3.24 to 6.3.29).
    #[error("write of {value:#x} to {offset:#x}, which is in use")]
    Guarded {
        /// Offset from the start of page 0.
        offset: u32,
        /// What was written.
        value: u64,
    },
    /// A bit that the architecture reserves was not written as zero, or an
    /// address above what `IDR5.OAS` reaches (6.2).
    #[error("write of {value:#x} to {offset:#x}, which reserves some of it")]
    Reserved {
        /// Offset from the start of page 0.
        offset: u32,
        /// What was written.
        value: u64,
    },
    /// A register was accessed at the offset that it has on the other page:
    /// whether that works is up to the implementation (6.2). Here it does not.
    #[error("access at {offset:#x}, where the register need not be")]
    Alias {
        /// Offset from the start of page 0.
        offset: u32,
    },
    /// An error was acknowledged that is not active, which may activate it
    /// (6.3.20).
    #[error("GERRORN toggled {bits:#x} without an error")]
    Acknowledge {
        /// The bits that toggled and should not have.
        bits: u32,
    },
    /// The indices of a queue say something that no ring can hold, or moved
    /// backwards (3.5.1).
    #[error("indices PROD {prod:#x} and CONS {cons:#x} of the queue at {offset:#x}")]
    Index {
        /// The queue's base register.
        offset: u32,
        /// Its `PROD`, index and wrap bit.
        prod: u32,
        /// Its `CONS`, index and wrap bit.
        cons: u32,
    },
    /// GBPA was written without `Update` (6.3.14.1).
    #[error("GBPA written without Update")]
    NoUpdate,
    /// More commands than the queue has room for (3.5.1).
    #[error("CMDQ_PROD {prod:#x} is out of reach of CMDQ_CONS {cons:#x}")]
    Overrun {
        /// `CMDQ_PROD`.
        prod: u32,
        /// `CMDQ_CONS`.
        cons: u32,
    },
    /// A queue is larger than IDR1 allows.
    #[error("queue of 2^{log2} entries")]
    QueueSize {
        /// What was asked for.
        log2: u8,
    },
    /// The command is illegal here (4.1).
    #[error("command {0:?}")]
    Command(Command),
    /// A field of the command that is reserved here is not zero (4.1.5); an
    /// implementation may refuse it. This one ignores the field.
    #[error("reserved fields of {0:?}")]
    ReservedField(Command),
    /// A stream, substream, VMID, ASID or size is larger than this SMMU has:
    /// what the command affects is unpredictable (4.1.7, 4.4, 4.5.1). Here it
    /// affects nothing.
    #[error("parameters out of range of {0:?}")]
    OutOfRange(Command),
    /// `CR0.ATSCHK` was cleared while some entry uses split-stage ATS: the
    /// IPAs that its endpoint holds become physical addresses (3.9.2).
    #[error("ATSCHK cleared while stream {stream:#x} uses split-stage ATS")]
    SplitUnchecked {
        /// The stream.
        stream: u32,
    },
    /// A range invalidation whose address is not aligned to its level or
    /// granule: what it covers is unpredictable (4.4.1.1).
    #[error("misaligned range invalidation {0:?}")]
    Misaligned(Command),
    /// More mixtures of old and new words of a stream table entry than the
    /// model looks at.
    #[error("an entry of stream {stream:#x} changed too often without CMD_CFGI")]
    Mixtures {
        /// The stream.
        stream: u32,
    },
    /// More tables of stage 2 than the model looks at: what lies behind the others
    /// goes unnoticed.
    #[error("too many tables, or too large ones, to look at")]
    TooManyTables,
    /// Two cached translations overlap that may not, because the tables changed
    /// without break-before-make (DDI 0487, D8.17.1; IDR3.BBML).
    #[error("VMID {vmid}: levels {levels:?} both translate {input:#x}")]
    Conflict {
        /// Tag of both.
        vmid: u16,
        /// An address that both translate.
        input: u64,
        /// Their levels.
        levels: (u32, u32),
    },
}

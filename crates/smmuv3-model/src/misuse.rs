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
        /// Where.
        offset: u32,
        /// How wide.
        bytes: u32,
    },
    /// The register may not be written while what it configures is enabled or
    /// an update is under way (6.3.9, 6.3.14, 6.3.16, 6.3.24 to 6.3.29).
    #[error("write of {value:#x} to {offset:#x}, which is in use")]
    Guarded {
        /// Where.
        offset: u32,
        /// What.
        value: u64,
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

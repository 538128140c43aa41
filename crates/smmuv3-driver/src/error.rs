//! Errors of the driver.

use crate::{FenceError, OwnStage1Error, ProbeError, Stage1Error, Stage2Error};
use core::fmt;
use smmuv3_spec::StreamId;
use smmuv3_spec::command::{CommandError, Opcode};

/// What a wait that timed out waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Completion of commands (`CMDQ_CONS`).
    Commands,
    /// `CR0ACK` to have the value of `CR0`.
    Cr0,
    /// `IRQ_CTRLACK` to have the value of `IRQ_CTRL`.
    IrqCtrl,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commands => "commands",
            Self::Cr0 => "CR0ACK",
            Self::IrqCtrl => "IRQ_CTRLACK",
        })
    }
}

/// Why an operation on a running SMMU failed, and in which state it left the
/// SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An earlier failure fenced the SMMU; nothing was done. All DMA through it
    /// aborts.
    #[error("the SMMU is fenced after an earlier failure")]
    Fenced,
    /// The stream lies outside the stream table; nothing was done. Its traffic
    /// aborts.
    #[error("stream {stream} needs more than {bits} StreamID bits")]
    StreamOutOfRange {
        /// The value that the caller asked for.
        stream: StreamId,
        /// Bits that the stream table covers.
        bits: u8,
    },
    /// No memory for a table of this many bytes; nothing was done.
    #[error("no memory for a stream table of {bytes} bytes")]
    NoMemory {
        /// The value that the caller asked for.
        bytes: u64,
    },
    /// The stage 2 cannot be used on this SMMU; nothing was done.
    #[error("{0}")]
    Stage2(#[from] Stage2Error),
    /// The stage 1 cannot be used on this SMMU; nothing was done.
    #[error("{0}")]
    Stage1(#[from] Stage1Error),
    /// The hypervisor's own stage 1 cannot be used on this SMMU; nothing was
    /// done.
    #[error("{0}")]
    OwnStage1(#[from] OwnStage1Error),
    /// A range is empty, not aligned to its granule or runs past the end of
    /// the address space; nothing was done.
    #[error("the range is not made of whole granules")]
    BadRange,
    /// The SMMU cannot store messages, or not this one: its address is not
    /// aligned or out of reach, or an attribute is reserved; nothing was done.
    #[error("the SMMU cannot send such a message")]
    Msi,
    /// The SMMU did not do something in time. It is fenced.
    #[error("timed out waiting for {0}")]
    Timeout(Wait),
    /// The SMMU refused a command, which was replaced by a CMD_SYNC; commands
    /// before and after it were carried out.
    #[error("{opcode} ended in {error}")]
    Command {
        /// The error that the SMMU reported.
        error: CommandError,
        /// The opcode of the refused command.
        opcode: Opcode,
    },
    /// `CMDQ_CONS` is outside of the submitted commands. The SMMU is fenced.
    #[error("CMDQ_CONS is {value:#x}, outside the commands submitted")]
    BadConsumer {
        /// The value that was read.
        value: u32,
    },
    /// The SMMU stopped by itself (`GERROR.SFM_ERR`). It is fenced as far as
    /// its registers still work.
    #[error("the SMMU entered service failure mode")]
    ServiceFailure,
    /// A failure needed a fence, and the fence failed too: DMA is unchanged.
    #[error("fencing after a failure failed: {0}")]
    Unfenced(#[from] FenceError),
}

/// Why an SMMU could not be taken over. It is fenced unless the variant says
/// otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    /// The SMMU cannot be driven.
    #[error("{0}")]
    Probe(#[from] ProbeError),
    /// Fencing failed: DMA may be open.
    #[error("{0}")]
    Fence(#[from] FenceError),
    /// No memory for a table or queue of this many bytes.
    #[error("no memory for {bytes} bytes of tables or queues")]
    NoMemory {
        /// The value that the caller asked for.
        bytes: u64,
    },
    /// A register or command failed.
    #[error("{0}")]
    Device(#[from] Error),
}

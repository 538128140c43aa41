//! What software must not do to a GIC.

use std::ops::Range;

/// Something that the architecture (IHI 0069) makes UNPREDICTABLE or forbids.
/// In a test of software it is a defect of the software.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// An access of a width, an alignment or a place that the frame does not
    /// have (12.1.3).
    #[error("{frame} {index}: access of {bytes} bytes at {offset:#x}")]
    Access {
        /// `ITS` or `RD`.
        frame: &'static str,
        /// Which.
        index: usize,
        /// Where.
        offset: u32,
        /// How wide.
        bytes: u32,
    },
    /// A bit that is reserved was written as 1.
    #[error("{frame} {index}: write of {value:#x} to {offset:#x}, which reserves some of it")]
    Reserved {
        /// `ITS` or `RD`.
        frame: &'static str,
        /// Which.
        index: usize,
        /// Where.
        offset: u32,
        /// What.
        value: u64,
    },
    /// `GITS_TRANSLATER` was written by a CPU, with whatever DeviceID it has.
    #[error("ITS {its}: a CPU wrote {value:#x} to the doorbell")]
    Doorbell {
        /// Which.
        its: usize,
        /// What.
        value: u64,
    },
    /// A GICv4 register was written that has the GIC write to an address.
    #[error("{frame} {index}: write of {value:#x} to the GICv4 register {offset:#x}")]
    VirtualRegister {
        /// `ITS` or `RD`.
        frame: &'static str,
        /// Which.
        index: usize,
        /// Where.
        offset: u32,
        /// What.
        value: u64,
    },
    /// `GITS_CBASER` or `GITS_BASER<n>` was written while the ITS is enabled or
    /// not yet quiescent (`GITS_BASER<n>`, `GITS_CBASER`).
    #[error("ITS {its}: write of {value:#x} to {offset:#x} while enabled or not quiescent")]
    InUse {
        /// Which.
        its: usize,
        /// Where.
        offset: u32,
        /// What.
        value: u64,
    },
    /// The ITS was enabled while not quiescent (`GITS_CTLR.Enabled`).
    #[error("ITS {its}: enabled while not quiescent")]
    NotQuiescent {
        /// Which.
        its: usize,
    },
    /// The ITS was enabled without a command queue or a table that it needs.
    #[error("ITS {its}: enabled without {what}")]
    Missing {
        /// Which.
        its: usize,
        /// What there is not.
        what: &'static str,
    },
    /// `GITS_CWRITER` lies outside the command queue (`GITS_CWRITER.Offset`).
    #[error("ITS {its}: GITS_CWRITER {offset:#x} in a queue of {size:#x} bytes")]
    CommandQueue {
        /// Which.
        its: usize,
        /// `GITS_CWRITER`.
        offset: u64,
        /// Bytes of the queue.
        size: u64,
    },
    /// MAPD with V=1 for a device that is mapped (5.3, MAPD).
    #[error("ITS {its}: MAPD of device {device:#x}, which is mapped")]
    DeviceMapped {
        /// Which.
        its: usize,
        /// DeviceID.
        device: u32,
    },
    /// MAPTI or MAPI for an event that is mapped (5.3, MAPTI).
    #[error("ITS {its}: MAPTI of device {device:#x} event {event:#x}, which is mapped to {lpi}")]
    EventMapped {
        /// Which.
        its: usize,
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
        /// What it is mapped to.
        lpi: u32,
    },
    /// MAPC gives another redistributor to a collection that interrupts are
    /// mapped to, or unmaps one (5.3, MAPC).
    #[error(
        "ITS {its}: MAPC moves or unmaps collection {collection}, in use by device {device:#x} event {event:#x}"
    )]
    CollectionInUse {
        /// Which.
        its: usize,
        /// ICID.
        collection: u16,
        /// DeviceID of one of its interrupts.
        device: u32,
        /// EventID of it.
        event: u32,
    },
    /// Events that are mapped to one LPI have different collections (5.1, 5.3).
    #[error("LPI {lpi} in two collections: ITS {} device {:#x} event {:#x} and ITS {} device {:#x} event {:#x}", .first.0, .first.1, .first.2, .second.0, .second.1, .second.2)]
    TwoCollections {
        /// Which LPI.
        lpi: u32,
        /// ITS, DeviceID and EventID.
        first: (usize, u32, u32),
        /// ITS, DeviceID and EventID.
        second: (usize, u32, u32),
    },
    /// A reserved field of a command is not zero (5.3).
    #[error("ITS {its}: reserved bits {bits:#x} in word {word} of a command {opcode:#x}")]
    ReservedField {
        /// Which.
        its: usize,
        /// The opcode.
        opcode: u8,
        /// The word, 0 to 3.
        word: usize,
        /// The bits.
        bits: u64,
    },
    /// A GICv4 command on an ITS that obeys it.
    #[error("ITS {its}: the GICv4 command {opcode:#x} writes to {at:#x}")]
    VirtualCommand {
        /// Which.
        its: usize,
        /// The opcode.
        opcode: u8,
        /// The address that it carries.
        at: u64,
    },
    /// Memory that the GIC was given for one thing overlaps what it has for
    /// another.
    #[error("{what} at {:#x}..{:#x} overlaps {other} at {:#x}..{:#x}", .range.start, .range.end, .taken.start, .taken.end)]
    Overlap {
        /// What it is for.
        what: String,
        /// Where.
        range: Range<u64>,
        /// What it overlaps.
        other: String,
        /// Where that is.
        taken: Range<u64>,
    },
    /// Memory given to the GIC does not read as zero, nor as what it wrote there
    /// itself (`GITS_BASER<n>`; 5.3, MAPD; `GICR_PENDBASER.PTZ`).
    #[error("{what} has {found:#x} at {at:#x} when it is given to the GIC")]
    NotZero {
        /// What it is for.
        what: String,
        /// Where.
        at: u64,
        /// What is there.
        found: u64,
    },
    /// Memory that is the GIC's was changed behind its back.
    #[error("{what} was changed at {at:#x}: {found:#x} instead of {expected:#x}")]
    Changed {
        /// What it is for.
        what: String,
        /// Where.
        at: u64,
        /// What is there.
        found: u64,
        /// What the GIC left there.
        expected: u64,
    },
    /// Where the GIC was told to read or write there is no memory: an external
    /// abort.
    #[error("{what} at {at:#x}, where there is no memory")]
    NoMemory {
        /// What it is for.
        what: String,
        /// Where.
        at: u64,
    },
    /// `GICR_PROPBASER` or `GICR_PENDBASER` was written while `EnableLPIs` is 1
    /// or just being cleared (`GICR_PROPBASER`, `GICR_PENDBASER`).
    #[error("RD {cpu}: write of {value:#x} to {offset:#x} while LPIs are enabled")]
    LpisEnabled {
        /// Which.
        cpu: usize,
        /// Where.
        offset: u32,
        /// What.
        value: u64,
    },
    /// `EnableLPIs` was changed while `RWP` is 1 (`GICR_CTLR.EnableLPIs`).
    #[error("RD {cpu}: EnableLPIs changed while RWP is 1")]
    WritePending {
        /// Which.
        cpu: usize,
    },
    /// `EnableLPIs` cannot be cleared here (`GICR_CTLR.CES`), and was.
    #[error("RD {cpu}: EnableLPIs cleared, which this GIC does not support")]
    StaysEnabled {
        /// Which.
        cpu: usize,
    },
    /// LPIs were enabled with another configuration table than on another
    /// redistributor (`GICR_TYPER.CommonLPIAff`).
    #[error("RD {cpu}: GICR_PROPBASER {value:#x} differs from {other:#x} of RD {peer}")]
    PropbaserDiffers {
        /// Which.
        cpu: usize,
        /// Its `GICR_PROPBASER`.
        value: u64,
        /// The one with LPIs enabled.
        peer: usize,
        /// Its `GICR_PROPBASER`.
        other: u64,
    },
    /// A register was written that this GIC does not have.
    #[error("RD {cpu}: write of {value:#x} to {offset:#x}, which is not implemented")]
    NotImplemented {
        /// Which.
        cpu: usize,
        /// Where.
        offset: u32,
        /// What.
        value: u64,
    },
    /// A command or a register names an invalidation before the last one of the
    /// same redistributor was done (`GICR_SYNCR`).
    #[error("RD {cpu}: write to {offset:#x} while GICR_SYNCR.Busy is 1")]
    Busy {
        /// Which.
        cpu: usize,
        /// Where.
        offset: u32,
    },
}

//! What a hostile program consists of.

use crate::action::Action;
use crate::host::HostOp;
use crate::its::ItsOp;
use crate::paravirt::ParaOp;
use smmuv3_model::Fault;

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
    /// The same with a stage 1 on top, as an entry that the host wrote has it.
    AttachNested {
        /// Number of the stream.
        stream: u32,
        /// Number of the domain.
        domain: u8,
        /// The entry's first two words.
        entry: [u64; 2],
        /// Faults of stage 1 may stall.
        stalls: bool,
    },
    /// The same as [`Attach`](Self::Attach) for all streams between two, as far as they are behind the
    /// SMMU of the first.
    AttachRange {
        /// Number of a stream, included.
        first: u32,
        /// Number of another, included.
        last: u32,
        /// All that share a second-level table with one of them too.
        whole: bool,
        /// Number of the domain.
        domain: u8,
    },
    /// Makes a stream abort.
    Block {
        /// Number of the stream.
        stream: u32,
    },
    /// The same for all streams between two, as [`AttachRange`](Self::AttachRange)
    /// does it.
    CloseRange {
        /// Number of a stream, included.
        first: u32,
        /// Number of another, included.
        last: u32,
        /// All that share a second-level table with one of them too.
        whole: bool,
        /// Each access is reported.
        invalid: bool,
    },
    /// Takes pages from the host.
    Take {
        /// First page of RAM.
        page: u64,
        /// How many; from 18 on what is special, see `perform::pages`.
        count: u64,
        /// They become nobody's instead of the hypervisor's.
        nobody: bool,
    },
    /// Gives pages to the host.
    Give {
        /// First page of RAM.
        page: u64,
        /// How many; from 18 on what is special, see `perform::pages`.
        count: u64,
        /// They are said to be nobody's instead of the hypervisor's.
        nobody: bool,
    },
    /// Takes or gives a range that need not be made of pages, nor be RAM.
    Wild {
        /// Gives instead of taking.
        give: bool,
        /// Where it starts, from 32 KiB below RAM.
        start: u64,
        /// Its bytes.
        size: u64,
    },
    /// Reads events and errors.
    Drain {
        /// Most events.
        limit: u32,
    },
    /// Stops an SMMU and starts it again.
    Restart {
        /// Number of the SMMU.
        smmu: u32,
        /// It loses power in between.
        power: bool,
    },
    /// Breaks an SMMU, until it is restarted after a loss of power.
    Break {
        /// Number of the SMMU.
        smmu: u32,
        /// What is wrong with it.
        fault: Fault,
    },
    /// Flips a bit in the next command for an SMMU, so that it is refused until
    /// it is stored again.
    Flip {
        /// Number of the SMMU.
        smmu: u32,
    },
    /// Reuses the VMID of a domain without streams for another table.
    Reuse,
    /// Lets the next operation run out of memory.
    Starve {
        /// Allocations that still succeed.
        after: u32,
    },
    /// The host does something to its emulated SMMU. Nothing where it has none.
    Host {
        /// Number of the SMMU.
        smmu: u32,
        /// What it does.
        what: HostOp,
    },
    /// The host does something to its domains. Nothing where it has none.
    Para(ParaOp),
    /// The host does something to its ITSs. Nothing where it has none.
    Its(ItsOp),
    /// Something that needs no lock.
    Now(Action),
    /// The same in the middle of the next operation.
    During {
        /// Stores, publications and register accesses to wait for.
        after: u32,
        /// What happens.
        action: Action,
    },
}

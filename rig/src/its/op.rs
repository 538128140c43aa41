//! What the programs of this world consist of.

use gicv3_model::Profile;

/// What a program of this world runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicSetup {
    /// Which of the model's profiles.
    pub profile: u8,
    /// Decides what the GIC does of its own accord.
    pub seed: u64,
    /// The host does nothing that is UNPREDICTABLE.
    pub stock: bool,
    /// Its device tables have two levels.
    pub indirect: bool,
    /// Bytes of memory for what depends on the host's devices.
    pub share: u64,
    /// Somebody had the GIC before and left it running.
    pub used: bool,
}

impl GicSetup {
    /// What the GIC is.
    #[must_use]
    pub fn gic(&self) -> Profile {
        let all = Profile::all();
        let mut profile = all[usize::from(self.profile) % all.len()].clone();
        // Enough for hotplug and MOVI.
        profile.cpus = 3;
        profile
    }
}

/// One step. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItsOp {
    /// What a stock driver does.
    Stock(Stock),
    /// What only a hostile host does.
    Chaos(Chaos),
}

/// A step of a stock driver's, with everything that belongs to it. Where it would
/// be UNPREDICTABLE it is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// The redistributor of a CPU gets tables, and its LPIs are enabled.
    EnableLpis {
        /// Number of the CPU.
        cpu: u8,
    },
    /// They are disabled.
    DisableLpis {
        /// Number of the CPU.
        cpu: u8,
    },
    /// A CPU comes up for the first time.
    Up {
        /// Number of the CPU.
        cpu: u8,
    },
    /// An ITS gets empty tables and is enabled: at boot, and after kexec.
    Boot {
        /// Number of the ITS.
        its: u8,
    },
    /// An ITS is disabled and enabled again with the tables that it had.
    Hibernate {
        /// Number of the ITS.
        its: u8,
    },
    /// MAPC, SYNC, INVALL, SYNC.
    MapCollection {
        /// Number of the ITS.
        its: u8,
        /// ICID.
        collection: u8,
        /// Number of the CPU.
        cpu: u8,
    },
    /// MAPC with V = 0.
    UnmapCollection {
        /// Number of the ITS.
        its: u8,
        /// ICID.
        collection: u8,
    },
    /// MAPD.
    MapDevice {
        /// Number of the ITS.
        its: u8,
        /// Number of the device.
        device: u8,
        /// Bits of its EventIDs.
        bits: u8,
    },
    /// DISCARD of all its events, then MAPD with V = 0.
    UnmapDevice {
        /// Number of the ITS.
        its: u8,
        /// Number of the device.
        device: u8,
        /// The events are not discarded first.
        hasty: bool,
    },
    /// MAPTI or MAPI, SYNC.
    Map {
        /// Number of the ITS.
        its: u8,
        /// Number of the device.
        device: u8,
        /// EventID.
        event: u8,
        /// Number of the LPI.
        lpi: u8,
        /// ICID.
        collection: u8,
    },
    /// DISCARD, SYNC.
    Unmap {
        /// Number of the LPI.
        lpi: u8,
    },
    /// MOVI, SYNC.
    Move {
        /// Number of the LPI.
        lpi: u8,
        /// ICID.
        collection: u8,
    },
    /// A byte of the configuration table; INV and SYNC where it is mapped.
    Configure {
        /// Number of the LPI.
        lpi: u8,
        /// What is written.
        byte: u8,
        /// Without INV.
        silently: bool,
    },
    /// INVALL, SYNC.
    InvalidateAll {
        /// Number of the ITS.
        its: u8,
        /// ICID.
        collection: u8,
    },
    /// INT or CLEAR.
    Generate {
        /// Number of the LPI.
        lpi: u8,
        /// CLEAR.
        clear: bool,
    },
    /// What is pending at the first goes to the second: MOVALL, after the CPU
    /// took all of it.
    MoveAll {
        /// Number of the ITS.
        its: u8,
        /// Number of the CPU.
        from: u8,
        /// Number of the CPU.
        to: u8,
    },
    /// A device sends an interrupt.
    Message {
        /// Number of the LPI that it is mapped to.
        lpi: u8,
    },
    /// A device sends what need not be mapped.
    Stray {
        /// Number of the ITS.
        its: u8,
        /// Number of the device.
        device: u8,
        /// EventID.
        event: u8,
    },
    /// Every CPU takes what is pending.
    Take,
    /// Memory runs out after so many allocations, during the next step.
    Starve {
        /// Allocations that still succeed.
        after: u8,
    },
}

/// What only a hostile host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chaos {
    /// A write to a register of an ITS.
    Write {
        /// Number of the ITS.
        its: u8,
        /// Where.
        offset: u32,
        /// Bytes: 1, 2, 4 or 8.
        bytes: u8,
        /// What.
        value: u64,
        /// The write is not done again where it asks for that.
        once: bool,
    },
    /// A write to a register of a redistributor.
    WriteRd {
        /// Number of the CPU.
        cpu: u8,
        /// Where.
        offset: u32,
        /// Bytes.
        bytes: u8,
        /// What.
        value: u64,
    },
    /// A command, at the end of the queue.
    Command {
        /// Number of the ITS.
        its: u8,
        /// The words.
        words: [u64; 4],
    },
    /// The same command many times, told in one write.
    Flood {
        /// Number of the ITS.
        its: u8,
        /// The words.
        words: [u64; 4],
        /// How many times, as far as the queue has room.
        times: u16,
    },
    /// Memory of the host's changes.
    Poke {
        /// Word of it.
        word: u64,
        /// What.
        value: u64,
    },
    /// The same in the middle of the next step.
    PokeDuring {
        /// Accesses to wait for.
        after: u8,
        /// Word of it.
        word: u64,
        /// What.
        value: u64,
    },
    /// An entry of a table changes place: one word is copied to another.
    Copy {
        /// Word of memory.
        from: u64,
        /// Word of memory.
        to: u64,
    },
    /// A page is the host's no more, or again.
    Revoke {
        /// Page of its memory.
        page: u64,
    },
    /// A device sends an interrupt.
    Message {
        /// Number of the ITS.
        its: u8,
        /// DeviceID.
        device: u32,
        /// EventID.
        event: u32,
    },
    /// Something of the GIC breaks.
    Break {
        /// Which.
        what: u8,
        /// Number of the ITS.
        its: u8,
    },
}

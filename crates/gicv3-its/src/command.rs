//! The commands of an ITS (IHI 0069, 5.3): what of the owner's is understood,
//! and what the physical ITS is sent.
//!
//! Decoding is an allow-list by opcode. A decoded command holds the fields that
//! the architecture names and nothing else, so that what is encoded from it has
//! every reserved bit clear.

use crate::ids::{CollectionId, DeviceId, EventId, Lpi, Target};
use crate::reg::VALID;

/// Bytes of a command.
pub const COMMAND_BYTES: u64 = 32;

mod op {
    pub const MOVI: u64 = 0x01;
    pub const INT: u64 = 0x03;
    pub const CLEAR: u64 = 0x04;
    pub const SYNC: u64 = 0x05;
    pub const MAPD: u64 = 0x08;
    pub const MAPC: u64 = 0x09;
    pub const MAPTI: u64 = 0x0a;
    pub const MAPI: u64 = 0x0b;
    pub const INV: u64 = 0x0c;
    pub const INVALL: u64 = 0x0d;
    pub const MOVALL: u64 = 0x0e;
    pub const DISCARD: u64 = 0x0f;
}

/// The address of an interrupt translation table, bits 51:8 of the word.
const ITT_ADDRESS: u64 = 0x000f_ffff_ffff_ff00;

/// One event of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The device.
    pub device: DeviceId,
    /// Its event.
    pub event: EventId,
}

/// A command that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// MAPD with V = 1: gives a device its interrupt translation table.
    MapDevice {
        /// The device.
        device: DeviceId,
        /// Where the table is, a multiple of 256. In a command of the owner's
        /// an intermediate physical address, else a physical one.
        itt: u64,
        /// Bits of its EventIDs, 1 to 32.
        event_bits: u8,
    },
    /// MAPD with V = 0.
    UnmapDevice(DeviceId),
    /// MAPC with V = 1: sends a collection to a redistributor.
    MapCollection(CollectionId, Target),
    /// MAPC with V = 0.
    UnmapCollection(CollectionId),
    /// MAPTI and MAPI: makes an event an LPI.
    MapInterrupt(Event, Lpi, CollectionId),
    /// MOVI: moves an event to another collection.
    MoveInterrupt(Event, CollectionId),
    /// MOVALL: moves what is pending from one redistributor to another.
    MoveAll(Target, Target),
    /// DISCARD: unmaps an event; its interrupt is pending no longer.
    Discard(Event),
    /// INV: the configuration of the event's LPI is read again.
    Invalidate(Event),
    /// INVALL: likewise of every LPI of a collection.
    InvalidateAll(CollectionId),
    /// INT: makes the event's LPI pending.
    Generate(Event),
    /// CLEAR: makes it not pending.
    Clear(Event),
    /// SYNC: what came before has taken effect on that redistributor.
    Sync(Target),
}

impl Command {
    /// What the four words of a command say. `None` for an opcode that the
    /// emulated ITS does not have, those of GICv4 among them: it has no virtual
    /// LPIs (`GITS_TYPER.Virtual` is 0).
    #[must_use]
    #[inline]
    pub fn decode(words: [u64; 4]) -> Option<Self> {
        let device = DeviceId((words[0] >> 32) as u32);
        let event = Event {
            device,
            // Truncation: bits 31:0.
            event: EventId(words[1] as u32),
        };
        let collection = CollectionId(words[2] as u16);
        let valid = words[2] & VALID != 0;
        Some(match words[0] & 0xff {
            op::MAPD if valid => Self::MapDevice {
                device,
                itt: words[2] & ITT_ADDRESS,
                event_bits: (words[1] & 0x1f) as u8 + 1,
            },
            op::MAPD => Self::UnmapDevice(device),
            op::MAPC if valid => Self::MapCollection(collection, Target::from_word(words[2])),
            op::MAPC => Self::UnmapCollection(collection),
            op::MAPTI => Self::MapInterrupt(event, Lpi((words[1] >> 32) as u32), collection),
            // The EventID is the INTID.
            op::MAPI => Self::MapInterrupt(event, Lpi(event.event.0), collection),
            op::MOVI => Self::MoveInterrupt(event, collection),
            op::MOVALL => Self::MoveAll(Target::from_word(words[2]), Target::from_word(words[3])),
            op::DISCARD => Self::Discard(event),
            op::INV => Self::Invalidate(event),
            op::INVALL => Self::InvalidateAll(collection),
            op::INT => Self::Generate(event),
            op::CLEAR => Self::Clear(event),
            op::SYNC => Self::Sync(Target::from_word(words[2])),
            _ => return None,
        })
    }

    /// The four words, with every reserved bit clear. (Inlined, so that a command which
    /// is known where it is sent is four words there.)
    #[must_use]
    #[inline(always)]
    pub fn encode(self) -> [u64; 4] {
        let of = |event: Event, opcode| [opcode | first(event.device), event.event.0.into()];
        match self {
            Self::MapDevice {
                device,
                itt,
                event_bits,
            } => {
                let bits = u64::from(event_bits.wrapping_sub(1) & 0x1f);
                [op::MAPD | first(device), bits, VALID | itt & ITT_ADDRESS, 0]
            }
            Self::UnmapDevice(device) => [op::MAPD | first(device), 0, 0, 0],
            Self::MapCollection(collection, target) => {
                let word = VALID | target.bits() | u64::from(collection.0);
                [op::MAPC, 0, word, 0]
            }
            Self::UnmapCollection(collection) => [op::MAPC, 0, collection.0.into(), 0],
            Self::MapInterrupt(event, lpi, collection) => {
                let [opcode, id] = of(event, op::MAPTI);
                [opcode, id | u64::from(lpi.0) << 32, collection.0.into(), 0]
            }
            Self::MoveInterrupt(event, collection) => {
                let [opcode, id] = of(event, op::MOVI);
                [opcode, id, collection.0.into(), 0]
            }
            Self::MoveAll(from, to) => [op::MOVALL, 0, from.bits(), to.bits()],
            Self::Discard(event) => plain(of(event, op::DISCARD)),
            Self::Invalidate(event) => plain(of(event, op::INV)),
            Self::InvalidateAll(collection) => [op::INVALL, 0, collection.0.into(), 0],
            Self::Generate(event) => plain(of(event, op::INT)),
            Self::Clear(event) => plain(of(event, op::CLEAR)),
            Self::Sync(target) => [op::SYNC, 0, target.bits(), 0],
        }
    }
}

const fn first(device: DeviceId) -> u64 {
    (device.0 as u64) << 32
}

const fn plain([opcode, id]: [u64; 2]) -> [u64; 4] {
    [opcode, id, 0, 0]
}

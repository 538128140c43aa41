//! Commands as they lie in the queue (IHI 0069, 5.3).

/// The four words of a command.
pub(crate) type Words = [u64; 4];

/// A command with its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields have the names of the architecture")]
pub enum Command {
    Movi {
        device: u32,
        event: u32,
        collection: u16,
    },
    Int {
        device: u32,
        event: u32,
    },
    Clear {
        device: u32,
        event: u32,
    },
    Sync {
        rdbase: u64,
    },
    Mapd {
        device: u32,
        bits: u32,
        itt: u64,
        valid: bool,
    },
    Mapc {
        collection: u16,
        rdbase: u64,
        valid: bool,
    },
    Mapti {
        device: u32,
        event: u32,
        lpi: u32,
        collection: u16,
    },
    Inv {
        device: u32,
        event: u32,
    },
    Invall {
        collection: u16,
    },
    Movall {
        from: u64,
        to: u64,
    },
    Discard {
        device: u32,
        event: u32,
    },
    /// A command of GICv4, and the address that it carries.
    Virtual {
        opcode: u8,
        at: u64,
    },
    /// None that there is.
    Unknown {
        opcode: u8,
    },
}

const DEVICE: u64 = 0xffff_ffff_0000_00ff;
const RDBASE: u64 = 0x000f_ffff_ffff_0000;

impl Command {
    /// What the words say, and which bits of each are used.
    pub(crate) fn decode(words: Words) -> (Self, Words) {
        let [w0, w1, w2, w3] = words;
        let device = (w0 >> 32) as u32;
        let event = w1 as u32;
        let collection = w2 as u16;
        let rdbase = w2 & RDBASE;
        let valid = w2 >> 63 == 1;
        match w0 as u8 {
            0x01 => (
                Self::Movi {
                    device,
                    event,
                    collection,
                },
                [DEVICE, 0xffff_ffff, 0xffff, 0],
            ),
            0x03 => (Self::Int { device, event }, [DEVICE, 0xffff_ffff, 0, 0]),
            0x04 => (Self::Clear { device, event }, [DEVICE, 0xffff_ffff, 0, 0]),
            0x05 => (Self::Sync { rdbase }, [0xff, 0, RDBASE, 0]),
            0x08 => {
                let bits = (w1 & 0x1f) as u32 + 1;
                let itt = w2 & 0x000f_ffff_ffff_ff00;
                (
                    Self::Mapd {
                        device,
                        bits,
                        itt,
                        valid,
                    },
                    [DEVICE, 0x1f, 0x800f_ffff_ffff_ff00, 0],
                )
            }
            0x09 => (
                Self::Mapc {
                    collection,
                    rdbase,
                    valid,
                },
                [0xff, 0, 1 << 63 | RDBASE | 0xffff, 0],
            ),
            0x0a => {
                let lpi = (w1 >> 32) as u32;
                (
                    Self::Mapti {
                        device,
                        event,
                        lpi,
                        collection,
                    },
                    [DEVICE, u64::MAX, 0xffff, 0],
                )
            }
            0x0b => {
                let lpi = event;
                (
                    Self::Mapti {
                        device,
                        event,
                        lpi,
                        collection,
                    },
                    [DEVICE, 0xffff_ffff, 0xffff, 0],
                )
            }
            0x0c => (Self::Inv { device, event }, [DEVICE, 0xffff_ffff, 0, 0]),
            0x0d => (Self::Invall { collection }, [0xff, 0, 0xffff, 0]),
            0x0e => (
                Self::Movall {
                    from: rdbase,
                    to: w3 & RDBASE,
                },
                [0xff, 0, RDBASE, RDBASE],
            ),
            0x0f => (Self::Discard { device, event }, [DEVICE, 0xffff_ffff, 0, 0]),
            opcode @ (0x21..=0x2e) => {
                // VMAPP has the vPT's address in word 3, the others none to speak of.
                let at = if opcode == 0x29 { w3 } else { w2 };
                let at = at & 0x000f_ffff_ffff_0000;
                (Self::Virtual { opcode, at }, [u64::MAX; 4])
            }
            opcode => (Self::Unknown { opcode }, [u64::MAX; 4]),
        }
    }
}

/// Why a command was not carried out (5.3, command errors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// There is no such command.
    #[error("no such command")]
    Opcode,
    /// The DeviceID has more bits than there are, or the device table has no
    /// entry for it.
    #[error("DeviceID out of range")]
    Device,
    /// More EventID bits than `GITS_TYPER.ID_bits`.
    #[error("ITT size out of range")]
    IttSize,
    /// The EventID has no entry in the device's ITT.
    #[error("EventID out of range")]
    Event,
    /// The INTID is no LPI.
    #[error("INTID out of range")]
    Lpi,
    /// There are not so many collections.
    #[error("ICID out of range")]
    Collection,
    /// There is no such redistributor.
    #[error("RDbase out of range")]
    Rdbase,
    /// The device is not mapped.
    #[error("device not mapped")]
    DeviceUnmapped,
    /// The event is not mapped.
    #[error("event not mapped")]
    EventUnmapped,
    /// The collection is not mapped.
    #[error("collection not mapped")]
    CollectionUnmapped,
}

/// A command that was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// By which ITS.
    pub its: usize,
    /// What it was.
    pub command: Command,
    /// Why.
    pub error: CommandError,
}

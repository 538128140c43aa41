//! Who has a page of memory.

use core::fmt;

/// Who may use a page of memory: a party with address spaces of its own.
///
/// The numbers are what the ledger stores; they are stable so that a memory
/// dump can be read.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(u8);

impl Owner {
    /// Memory that is not yet given out. It is in no translation table.
    pub const NOBODY: Self = Self(0);
    /// The hypervisor's image, stacks, tables and queues.
    pub const HYPERVISOR: Self = Self(1);
    /// The host.
    pub const HOST: Self = Self(2);
    /// Firmware that goes on running, or a device that firmware looks after:
    /// EL3, an OP-TEE, a power controller. It is in no translation table, and
    /// no page of it ever changes hands.
    pub const FIRMWARE: Self = Self(3);

    /// How many guests there can be at a time.
    pub const GUESTS: u8 = 240;
    /// The guests' numbers begin here, so that parties of the machine's own can be added.
    const FIRST_GUEST: u8 = 16;

    /// A guest: `number` is below [`GUESTS`](Self::GUESTS). `None` for any other.
    #[must_use]
    pub const fn guest(number: u8) -> Option<Self> {
        if number < Self::GUESTS {
            Some(Self(Self::FIRST_GUEST + number))
        } else {
            None
        }
    }

    /// The number of a guest, `None` for a party that is none.
    #[must_use]
    pub const fn guest_number(self) -> Option<u8> {
        self.0.checked_sub(Self::FIRST_GUEST)
    }

    pub(crate) const fn from_id(id: u8) -> Self {
        Self(id)
    }

    /// The number stored in the ledger.
    #[must_use]
    pub const fn id(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NOBODY => f.write_str("nobody"),
            Self::HYPERVISOR => f.write_str("the hypervisor"),
            Self::HOST => f.write_str("the host"),
            Self::FIRMWARE => f.write_str("firmware"),
            Self(id) => match self.guest_number() {
                Some(number) => write!(f, "guest {number}"),
                None => write!(f, "owner {id}"),
            },
        }
    }
}

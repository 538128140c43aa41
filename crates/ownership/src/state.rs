//! What may be done with a page of memory, and by which owner.

use crate::Owner;
use core::fmt;

/// What the ledger says of one page.
///
/// | state | CPUs of | devices of | what comes next |
/// |---|---|---|---|
/// | `Owned` | the owner | the owner | a transfer, or sharing |
/// | `Leaving` | none, once invalidated | none, once invalidated | commit or cancel |
/// | `Shared` | both | both | the end of the sharing |
/// | `Dirty` | none | none | overwriting, then `Owned` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageState {
    /// The owner may map it, for its CPUs and for its devices.
    Owned(Owner),
    /// Translations of it are being removed and invalidated. It was this owner's, and
    /// no owner may map or pin it until the transfer is committed or cancelled.
    Leaving(Owner),
    /// The page is `owner`'s, and `with` may use it too: both may map and pin it.
    /// One of the two is the host.
    Shared {
        /// Who has it, and gets it back alone.
        owner: Owner,
        /// Who may use it meanwhile.
        with: Owner,
    },
    /// It holds what an earlier owner wrote. This owner gets it when the hypervisor
    /// has overwritten that; until then no owner may map or pin it.
    Dirty(Owner),
}

impl PageState {
    /// The owner: of a leaving page the last one, of a dirty one the next.
    #[must_use]
    pub const fn owner(self) -> Owner {
        match self {
            Self::Owned(owner) | Self::Leaving(owner) | Self::Dirty(owner) => owner,
            Self::Shared { owner, .. } => owner,
        }
    }

    /// Whether `owner` may map the page, for CPUs and for devices.
    #[must_use]
    pub fn lets_map(self, owner: Owner) -> bool {
        match self {
            Self::Owned(has) => has == owner,
            Self::Shared { owner: has, with } => has == owner || with == owner,
            Self::Leaving(_) | Self::Dirty(_) => false,
        }
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owned(owner) => write!(f, "owned by {owner}"),
            Self::Leaving(owner) => write!(f, "leaving {owner}"),
            Self::Shared { owner, with } => write!(f, "owned by {owner} and shared with {with}"),
            Self::Dirty(owner) => write!(f, "to be overwritten for {owner}"),
        }
    }
}

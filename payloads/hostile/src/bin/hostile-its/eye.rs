//! How this kernel sees whether the hypervisor's memory has changed.

use crate::places::{Places, own};
use core::cell::Cell;
use portcullis_hostile::{Checks, NONE, NOT_SUPPORTED, exception, hvc, read64, say, write64};

/// The call that an image built for tests answers with a digest of what must
/// not change.
const DIGEST: u64 = 0xc600_d100;

/// A view of the hypervisor's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eye {
    /// The hypervisor says a number that stands for all of it.
    Digest,
    /// This kernel reads all of RAM, `offset` above where it is: it has taken
    /// over, or there is nothing to be taken over.
    Window {
        /// What to add to an address.
        offset: u64,
    },
    /// None: what an attack does can only be seen by its consequences.
    Closed,
}

impl Eye {
    /// The hypervisor's own digest, where it has one.
    pub fn digest() -> Option<Self> {
        (hvc(DIGEST) != NOT_SUPPORTED).then_some(Self::Digest)
    }

    /// This kernel's own loads, where nothing keeps it from the memory: on a
    /// machine without hypervisor, whose tree says that there is one.
    pub fn direct(places: &Places) -> Option<Self> {
        let at = places.target()?;
        (exception(|| _ = read64(at)) == NONE).then_some(Self::Window { offset: 0 })
    }

    /// Whether nothing is between this kernel and the memory.
    pub fn is_direct(self) -> bool {
        self == Self::Window { offset: 0 }
    }

    /// A number that changes with what it sees: everything, or the pages that
    /// the attacks aim at.
    fn look(self, places: &Places) -> Option<u64> {
        match self {
            Self::Digest => Some(hvc(DIGEST)),
            Self::Window { offset } => places.target().map(|target| {
                let words = (target..target + 0x1_0000).step_by(8);
                words.fold(0, |sum: u64, at| {
                    sum.rotate_left(5)
                        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                        .wrapping_add(read64(at + offset))
                })
            }),
            Self::Closed => None,
        }
    }

    /// Says what it sees each time that something outside has changed memory:
    /// before the first change, and after each of `changes`.
    pub fn look_after_changes(self, places: &Places, changes: u64) {
        write64(own::MARK, 0);
        for done in 0..=changes {
            while read64(own::MARK) != done {
                core::hint::spin_loop();
            }
            say!("its: seen after={done} digest={:x?}", self.look(places));
        }
    }
}

/// An eye that is kept on the hypervisor's memory, from one attack to the next.
pub struct Watch<'a> {
    /// How it sees.
    pub eye: Eye,
    places: &'a Places,
    seen: Cell<Option<u64>>,
}

impl<'a> Watch<'a> {
    /// Has a first look.
    pub fn start(eye: Eye, places: &'a Places) -> Self {
        Self {
            eye,
            places,
            seen: Cell::new(eye.look(places)),
        }
    }

    /// Carries out `attack`, and checks that the hypervisor's memory is as it was
    /// after the one before.
    pub fn over(&self, checks: &mut Checks, name: &str, attack: impl FnOnce(&mut Checks)) {
        attack(checks);
        let now = self.eye.look(self.places);
        let before = self.seen.replace(now);
        if before.is_some() {
            checks.equal(name, now, before);
        } else {
            say!("its: check={name} result=unseen");
        }
    }
}

//! What each instruction of the hypervisor is for.

use crate::{Error, Result};
use addr2line::Loader;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What instructions are spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// The vector, saving the host's registers, and finding out what it did.
    Trap,
    /// Reading what the host asks for: its rings and requests, its queues.
    Requests,
    /// Who owns the pages.
    Ledger,
    /// Tables, and which invalidations follow from what changed in them.
    Tables,
    /// Commands to the SMMU, and waiting for their end.
    Invalidate,
    /// Back into the host.
    Return,
    /// Anything else.
    Other,
}

impl Purpose {
    /// All of them, in the order in which a request meets them.
    pub const ALL: [Self; 7] = [
        Self::Trap,
        Self::Requests,
        Self::Ledger,
        Self::Tables,
        Self::Invalidate,
        Self::Return,
        Self::Other,
    ];

    /// The words for it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Trap => "trap + decode",
            Self::Requests => "requests",
            Self::Ledger => "ledger",
            Self::Tables => "tables",
            Self::Invalidate => "invalidate + wait",
            Self::Return => "return",
            Self::Other => "other",
        }
    }

    /// What the code of a source file is for; none for what others use for their
    /// own purposes, such as newtypes and copies.
    fn of_file(path: &str) -> Option<Self> {
        let place = path
            .find("crates/")
            .or_else(|| path.find("hypervisor/src/"))?;
        let place = path.get(place..)?;
        const FILES: [(&str, Purpose); 13] = [
            ("crates/ownership/", Purpose::Ledger),
            ("crates/pagetable/", Purpose::Tables),
            ("crates/pool/", Purpose::Tables),
            ("crates/isolation/", Purpose::Tables),
            ("crates/smmuv3-driver/", Purpose::Invalidate),
            ("hypervisor/src/smmu", Purpose::Invalidate),
            ("crates/smmuv3-emulator/", Purpose::Requests),
            ("crates/virtio-iommu-device/", Purpose::Requests),
            ("hypervisor/src/paravirt/", Purpose::Requests),
            ("hypervisor/src/emulated", Purpose::Requests),
            ("hypervisor/src/lend", Purpose::Requests),
            ("hypervisor/src/mmu", Purpose::Requests),
            ("hypervisor/src/", Purpose::Trap),
        ];
        // What is only words on the way between two of them.
        const SHARED: [&str; 3] = [
            "hypervisor/src/memory",
            "hypervisor/src/mmio",
            "hypervisor/src/sysreg",
        ];
        if SHARED.iter().any(|shared| place.starts_with(shared)) {
            return None;
        }
        let found = FILES.iter().find(|(start, _)| place.starts_with(start));
        found.map(|(_, purpose)| *purpose)
    }
}

/// The hypervisor's code.
pub struct Symbols(Loader);

impl Symbols {
    /// Reads the ELF file of the hypervisor, which has the lines of its sources.
    ///
    /// # Errors
    ///
    /// [`Error::Unsuitable`] when it has none, or is no ELF file.
    pub fn load(elf: &Path) -> Result<Self> {
        let loader = Loader::new(elf).map_err(|error| {
            Error::unsuitable(
                format!("{}: {error}", elf.display()),
                "build it with debug = \"line-tables-only\"",
            )
        })?;
        Ok(Self(loader))
    }

    /// What the instruction `offset` bytes into the image is for: the innermost
    /// function, of those that were put into each other there, that has a purpose.
    #[must_use]
    pub fn purpose(&self, offset: u64) -> Option<Purpose> {
        if self.0.find_symbol(offset) == Some("to_lower") {
            return Some(Purpose::Return);
        }
        let mut frames = self.0.find_frames(offset).ok()?;
        while let Ok(Some(frame)) = frames.next() {
            let file = frame.location.and_then(|location| location.file);
            if let Some(purpose) = file.and_then(Purpose::of_file) {
                return Some(purpose);
            }
        }
        // What is written in assembly has no lines: vectors and what they call.
        let symbol = self.0.find_symbol(offset)?;
        (!symbol.starts_with("_R") && !symbol.starts_with("_ZN") && !COPIES.contains(&symbol))
            .then_some(Purpose::Trap)
    }
}

/// What the compiler calls by itself: it serves whoever did something before.
const COPIES: [&str; 5] = ["memcpy", "memset", "memmove", "memcmp", "bcmp"];

impl std::fmt::Debug for Symbols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Symbols")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_purposes() {
        let of = |path| Purpose::of_file(path);
        assert_eq!(of("/x/crates/ownership/src/lib.rs"), Some(Purpose::Ledger));
        assert_eq!(of("hypervisor/src/trap.rs"), Some(Purpose::Trap));
        assert_eq!(of("hypervisor/src/smmu/host.rs"), Some(Purpose::Invalidate));
        assert_eq!(of("/y/hypervisor/src/paravirt.rs"), Some(Purpose::Trap));
        assert_eq!(
            of("/y/hypervisor/src/paravirt/platform.rs"),
            Some(Purpose::Requests)
        );
        assert_eq!(of("/rustc/1/library/core/src/num/mod.rs"), None);
        assert_eq!(of("crates/addr/src/lib.rs"), None);
        assert_eq!(of("hypervisor/src/mmio.rs"), None);
    }
}

//! What the simulation asks of a machine, whatever way the host gets its IOMMU.

use super::{Machine, MachineError, Shape, identity, native, nested, paravirt};
use portcullis_addr::{Iova, Ipa, Range};
use std::fmt;

/// How the host gets its IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// No hypervisor: the stock driver has the SMMU, stage 1 only.
    Native,
    /// The host sees none: stage 2 only, made once.
    Identity,
    /// The host sees an emulated SMMU: its stage 1 on our stage 2.
    Nested,
    /// The host asks for mappings: one stage, ours.
    Paravirt,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Native, Self::Identity, Self::Nested, Self::Paravirt];

    /// Its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Identity => "identity",
            Self::Nested => "nested",
            Self::Paravirt => "paravirt",
        }
    }

    /// The mode of this name.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.word() == word)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What something took, beside the commands that the SMMU consumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Times that EL2 was entered.
    pub entries: u64,
}

/// The host's drivers, and whatever serves them.
pub trait Client {
    /// Maps `runs`, one after the other, from `iova` on. Devices of `domain` can
    /// use it when this returns.
    ///
    /// # Errors
    /// [`MachineError`].
    fn map(&mut self, domain: usize, iova: Iova, runs: &[Range<Ipa>])
    -> Result<Work, MachineError>;

    /// Takes a mapping away. No device can use it when this returns.
    ///
    /// # Errors
    /// [`MachineError`].
    fn unmap(&mut self, domain: usize, iova: Range<Iova>) -> Result<Work, MachineError> {
        let work = self.unmap_lazily(domain, iova)?;
        let flushed = self.complete()?;
        Ok(Work {
            entries: work.entries + flushed.entries,
        })
    }

    /// Takes a mapping away. Devices may use it until [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`MachineError`].
    fn unmap_lazily(&mut self, domain: usize, iova: Range<Iova>) -> Result<Work, MachineError>;

    /// Ends what [`unmap_lazily`](Self::unmap_lazily) took away, by address.
    ///
    /// # Errors
    /// [`MachineError`].
    fn complete(&mut self) -> Result<Work, MachineError>;

    /// The same as a lazy host does it: all of a domain at once.
    ///
    /// # Errors
    /// [`MachineError`].
    fn flush(&mut self, domain: usize) -> Result<Work, MachineError> {
        let _ = domain;
        self.complete()
    }
}

/// Makes the client for a mode on a machine out of reset, and lets `run` have it.
///
/// # Errors
/// [`MachineError`]: the machine could not be set up.
pub fn with_client<T>(
    machine: &Machine,
    shape: &Shape<'_>,
    mode: Mode,
    run: impl FnOnce(&mut dyn Client) -> T,
) -> Result<T, MachineError> {
    match mode {
        Mode::Native => native::with(machine, shape, run),
        Mode::Identity => identity::with(machine, shape, run),
        Mode::Nested => nested::with(machine, shape, run),
        Mode::Paravirt => paravirt::with(machine, shape, run),
    }
}

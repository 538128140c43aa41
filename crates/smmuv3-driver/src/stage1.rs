//! The stage 1 of a host or guest, on top of a stage 2 of the hypervisor.

use crate::{Error, Features, Stage2};
use smmuv3_spec::ste::{Config, EATS_OFF, EATS_SPLIT, Ste};

/// `STE.S1DSS` (IHI 0070, 5.2): reserved.
const S1DSS_RESERVED: u8 = 0b11;

/// The part of a stream table entry that a stage 1 consists of, taken from an
/// entry that a host or guest wrote.
///
/// It is an allow-list: the address and format of the table of context
/// descriptors, the handling of traffic without a substream, and the attributes
/// of descriptor fetches. All other parts of stage 1 are in memory that its
/// owner may change at any moment, so nothing there is checked: context
/// descriptors are found and read through stage 2. ATS is not in the list (see
/// [`with_split_ats`](Self::with_split_ats)), nor is a field that changes the
/// identity of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1 {
    entry: Ste,
    stalls: bool,
    ats: bool,
}

/// Why a [`Stage1`] cannot be used: each would make the entry illegal
/// (IHI 0070, 5.2.2 and 5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stage1Error {
    /// The SMMU does not translate in two stages.
    #[error("the SMMU has no stage 1 on top of stage 2")]
    NoNesting,
    /// More substreams than the SMMU has.
    #[error("2^{log2} substreams are more than the 2^{most} of the SMMU")]
    Substreams {
        /// The value of `S1CDMax`.
        log2: u8,
        /// The value of `IDR1.SSIDSIZE`.
        most: u8,
    },
    /// The format of the table is reserved, or not one that the SMMU has.
    #[error("S1Fmt {format} is reserved or not supported")]
    Format {
        /// `S1Fmt`.
        format: u8,
    },
    /// The context descriptors lie beyond every address that stage 2 could
    /// translate (3.4.3).
    #[error("S1ContextPtr {pointer:#x} needs more than {bits} bits")]
    Pointer {
        /// `S1ContextPtr`.
        pointer: u64,
        /// Bits of an IPA.
        bits: u8,
    },
    /// `S1DSS` is reserved.
    #[error("S1DSS 0b11 is reserved")]
    Default,
    /// Devices cannot be answered with IPAs: no ATS, no split stages
    /// (`IDR0.NS1ATS`), or stage 2 must stall (`IDR0.STALL_MODEL`).
    #[error("the SMMU has no ATS of stage 1 alone")]
    NoSplitAts,
}

impl Stage1 {
    /// Takes the stage 1 fields of an entry, and nothing else; `entry` is a
    /// copy. Faults of stage 1 never stall, see
    /// [`with_stalls`](Self::with_stalls).
    #[must_use]
    pub fn from_untrusted(entry: &Ste) -> Self {
        let substreams = entry.s1cdmax() != 0;
        let mut taken = Ste::default()
            .with_s1contextptr(entry.s1contextptr())
            .with_s1cdmax(entry.s1cdmax())
            .with_s1cir(entry.s1cir())
            .with_s1cor(entry.s1cor())
            .with_s1csh(entry.s1csh());
        if substreams {
            // Without substreams both are ignored (5.2).
            taken = taken.with_s1fmt(entry.s1fmt()).with_s1dss(entry.s1dss());
        }
        Self {
            entry: taken,
            stalls: false,
            ats: false,
        }
    }

    /// Lets faults of stage 1 stall if its owner's context descriptors ask for
    /// that. The caller makes sure that each stall is answered and that the
    /// stream's bus may stall: PCIe must not (3.12.2).
    #[must_use]
    pub fn with_stalls(self) -> Self {
        Self {
            stalls: true,
            ..self
        }
    }

    /// Lets the device ask for translations of stage 1 and keep them, as
    /// split-stage ATS does (`STE.EATS` 0b10).
    ///
    /// The device then holds IPAs. Each access with one of them is translated
    /// by stage 2 like any other (13.6.3), so no address that the device keeps
    /// or invents reaches past stage 2, and a change of stage 2 leaves nothing
    /// in the device that grants access. The owner of stage 1 invalidates what
    /// the device holds of it. If stage 2 changed and the device still holds an
    /// old IPA (3.9.1), its access aborts, which harms no other owner.
    ///
    /// It needs `CR0.ATSCHK`, without which translated traffic would bypass the
    /// SMMU; this driver sets it wherever there is ATS, before anything else.
    #[must_use]
    pub fn with_split_ats(self) -> Self {
        Self { ats: true, ..self }
    }

    fn check(&self, features: &Features) -> Result<(), Stage1Error> {
        if !features.stage1() || !features.stage2() {
            return Err(Stage1Error::NoNesting);
        }
        let log2 = self.entry.s1cdmax();
        let most = features.idr1.ssidsize();
        if log2 > most {
            return Err(Stage1Error::Substreams { log2, most });
        }
        let format = self.entry.s1fmt();
        if format > 2 || format != 0 && !features.idr0.cd2l() {
            return Err(Stage1Error::Format { format });
        }
        if self.entry.s1dss() == S1DSS_RESERVED {
            return Err(Stage1Error::Default);
        }
        let (pointer, bits) = (self.entry.s1contextptr(), features.input_bits());
        if pointer >> bits != 0 {
            return Err(Stage1Error::Pointer { pointer, bits });
        }
        if self.ats && !features.split_ats() {
            return Err(Stage1Error::NoSplitAts);
        }
        Ok(())
    }

    /// The entry for a stream that uses this on top of `stage2`.
    ///
    /// # Errors
    /// [`Error::Stage1`], [`Error::Stage2`].
    pub(crate) fn entry(&self, stage2: &Stage2, features: &Features) -> Result<Ste, Error> {
        self.check(features)?;
        let base = stage2.entry(features)?;
        Ok(base
            .with_config(Config::NESTED)
            .with_s1contextptr(self.entry.s1contextptr())
            .with_s1cdmax(self.entry.s1cdmax())
            .with_s1fmt(self.entry.s1fmt())
            .with_s1dss(self.entry.s1dss())
            .with_s1cir(self.entry.s1cir())
            .with_s1cor(self.entry.s1cor())
            .with_s1csh(self.entry.s1csh())
            // Must be 0 where stalling is either forced or not there (5.5).
            .with_s1stalld(!self.stalls && features.idr0.stall_model() == 0)
            .with_eats(if self.ats { EATS_SPLIT } else { EATS_OFF }))
    }
}

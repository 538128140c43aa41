//! From a stream's entry and a SubstreamID to a context descriptor (IHI 0070,
//! 5.2, 5.3, 3.4.3).

use crate::Profile;
use smmuv3_spec::cd::{Cd, L1Cd};
use smmuv3_spec::ste::Ste;

/// How the context descriptors of a stream are laid out (`S1Fmt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CdFormat {
    /// One array.
    Linear,
    /// Level 1 descriptors that point to arrays of 64: 4 KiB leaves.
    TwoLevel4K,
    /// Level 1 descriptors that point to arrays of 1024: 64 KiB leaves.
    TwoLevel64K,
}

/// What becomes of traffic without substream where there are substreams
/// (`S1DSS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DefaultSubstream {
    /// It aborts with F_STREAM_DISABLED.
    Terminate,
    /// Stage 1 is bypassed.
    Bypass,
    /// The CD of substream 0, which is not available by its number then.
    Zero,
}

/// What an entry says about stage 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CdTable {
    /// `S1ContextPtr`: an IPA where stage 2 translates.
    pub pointer: u64,
    /// How the table is laid out; linear where there are no substreams.
    pub format: CdFormat,
    /// log2 of the number of substreams; 0: there are none.
    pub max: u32,
    /// What becomes of traffic without substream.
    pub default: DefaultSubstream,
    /// The world is EL2: with or without E2H, `CR2` says.
    pub el2: bool,
    /// Stalls are not allowed.
    pub stalld: bool,
    /// Tag of the translations; 0 where the world has none.
    pub vmid: u16,
}

/// Where the CD of a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdPlace {
    /// At this address.
    At(u64),
    /// Behind the level 1 descriptor at this address.
    Behind(u64),
}

/// Which CD a transaction uses (5.2, S1CDMax and S1DSS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The one with this index.
    Index(u32),
    /// None: stage 1 is bypassed.
    Bypass,
    /// None: it aborts with C_BAD_SUBSTREAMID.
    BadSubstream,
    /// None: it aborts with F_STREAM_DISABLED.
    Disabled,
}

impl CdTable {
    /// The stage 1 of an entry with stage 1 enabled, or `None` when the entry
    /// is ILLEGAL in what concerns stage 1 (5.2.2).
    #[must_use]
    pub fn of(ste: &Ste, profile: &Profile) -> Option<Self> {
        let (idr0, idr1) = (profile.idr0, profile.idr1);
        let nested = ste.config().stage2();
        if ste.s1stalld() && idr0.stall_model() != 0 {
            return None;
        }
        let substreams = idr1.ssidsize();
        let max = if substreams == 0 { 0 } else { ste.s1cdmax() };
        if max > substreams {
            return None;
        }
        // Reserved behaves as linear; without substreams it is ignored.
        let format = match ste.s1fmt() {
            0b01 if max != 0 => CdFormat::TwoLevel4K,
            0b10 if max != 0 => CdFormat::TwoLevel64K,
            _ => CdFormat::Linear,
        };
        if format != CdFormat::Linear && !idr0.cd2l() {
            return None;
        }
        // Out of range, SMMUv3.1 says C_BAD_STE, and the others may (3.4.3).
        let reach = if nested {
            profile.input_bits()
        } else {
            profile.output_bits()
        };
        if ste.s1contextptr() >> reach != 0 {
            return None;
        }
        // STRW counts for stage 1 alone, and where EL2 exists.
        let strw = if idr0.hyp() && !nested { ste.strw() } else { 0 };
        if strw & 1 != 0 {
            return None;
        }
        let el2 = strw == 0b10;
        let tagged = idr0.s2p() && !el2;
        if tagged && u32::from(ste.s2vmid()) >> profile.vmid_bits() != 0 {
            return None;
        }
        Some(Self {
            pointer: ste.s1contextptr(),
            format,
            max: max.into(),
            default: match ste.s1dss() {
                0b01 => DefaultSubstream::Bypass,
                0b10 => DefaultSubstream::Zero,
                _ => DefaultSubstream::Terminate,
            },
            el2,
            stalld: ste.s1stalld(),
            vmid: if tagged { ste.s2vmid() } else { 0 },
        })
    }

    /// Which CD a transaction with this SubstreamID uses.
    #[must_use]
    pub fn choose(&self, substream: Option<u32>) -> Choice {
        match (substream, self.default) {
            (Some(_), _) if self.max == 0 => Choice::BadSubstream,
            (Some(index), _) if index >> self.max.min(31) != 0 => Choice::BadSubstream,
            (Some(0), DefaultSubstream::Zero) => Choice::Disabled,
            (Some(index), _) => Choice::Index(index),
            (None, _) if self.max == 0 => Choice::Index(0),
            (None, DefaultSubstream::Terminate) => Choice::Disabled,
            (None, DefaultSubstream::Bypass) => Choice::Bypass,
            (None, DefaultSubstream::Zero) => Choice::Index(0),
        }
    }

    /// Index bits that the second level resolves; 0 where there is one level.
    #[must_use]
    pub fn split(&self) -> u32 {
        match self.format {
            CdFormat::Linear => 0,
            CdFormat::TwoLevel4K => 6,
            CdFormat::TwoLevel64K => 10,
        }
    }

    /// Where the CD with this index is. Tables are aligned to their size by
    /// ignoring bits, to 64 bytes at least.
    #[must_use]
    pub fn place(&self, index: u32) -> CdPlace {
        let index = u64::from(index);
        if self.format == CdFormat::Linear {
            let bytes = Cd::SIZE << self.max.min(20);
            return CdPlace::At((self.pointer & !(bytes - 1)) + index * Cd::SIZE);
        }
        let split = self.split();
        let bytes = (L1Cd::SIZE << self.max.min(20).saturating_sub(split)).max(64);
        CdPlace::Behind((self.pointer & !(bytes - 1)) + (index >> split) * L1Cd::SIZE)
    }

    /// Where it is if the level 1 descriptor is `word`; `None` when that is
    /// not valid, or points beyond `reach` bits: C_BAD_SUBSTREAMID (5.3.1,
    /// 3.4.3).
    #[must_use]
    pub fn behind(&self, word: u64, index: u32, reach: u32) -> Option<u64> {
        let l1 = L1Cd([word]);
        let split = self.split();
        let base = l1.l2ptr() & !((Cd::SIZE << split) - 1);
        if !l1.v() || base >> reach != 0 {
            return None;
        }
        Some(base + (u64::from(index) & ((1 << split) - 1)) * Cd::SIZE)
    }
}

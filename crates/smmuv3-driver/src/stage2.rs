//! A stage 2 as a stream uses it, and the stream table entry for it.

use crate::Features;
use portcullis_addr::{Address, PhysAddr};
use smmuv3_spec::control::{CACHE_NC, CACHE_WB, SHARE_INNER, SHARE_OUTER};
use smmuv3_spec::ste::{Config, Ste, TG_4K, TG_16K, TG_64K};
use smmuv3_spec::{Vmid, command};

/// Translation granule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of its bytes.
    #[must_use]
    pub const fn log2(self) -> u8 {
        match self {
            Self::Size4K => 12,
            Self::Size16K => 14,
            Self::Size64K => 16,
        }
    }

    /// Address bits that one table resolves.
    const fn stride(self) -> u8 {
        self.log2() - 3
    }

    /// log2 of the bytes that a leaf of `level` (1 to 3) maps.
    pub(crate) const fn leaf_log2(self, level: u8) -> u8 {
        self.log2() + self.stride() * (3 - level)
    }

    /// The encoding in `STE.S2TG` and `CD.TG0`.
    pub(crate) const fn tg0(self) -> u8 {
        match self {
            Self::Size4K => TG_4K,
            Self::Size16K => TG_16K,
            Self::Size64K => TG_64K,
        }
    }

    /// The encoding in `TG` of a TLBI command.
    pub(crate) const fn tlbi_tg(self) -> u8 {
        match self {
            Self::Size4K => command::TLBI_TG_4K,
            Self::Size16K => command::TLBI_TG_16K,
            Self::Size64K => command::TLBI_TG_64K,
        }
    }

    pub(crate) fn supported(self, features: &Features) -> bool {
        match self {
            Self::Size4K => features.idr5.gran4k(),
            Self::Size16K => features.idr5.gran16k(),
            Self::Size64K => features.idr5.gran64k(),
        }
    }
}

/// A stage 2 translation (IHI 0070, 5.2).
///
/// Every stream with the same VMID must have the same stage 2: the SMMU may use
/// either stream's fields for the translations of both (5.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    /// The tag of the translations.
    pub vmid: Vmid,
    /// First table, or first of the concatenated tables.
    pub root: PhysAddr,
    /// 64 minus the number of IPA bits.
    pub t0sz: u8,
    /// Start level, as `VTCR_EL2.SL0`.
    pub sl0: u8,
    /// Granule of the tables.
    pub granule: Granule,
    /// Output size, as `VTCR_EL2.PS` and `IDR5.OAS`.
    pub ps: u8,
}

/// Why a [`Stage2`] cannot be used: each would make the stream table entry
/// illegal (IHI 0070, 5.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stage2Error {
    /// The SMMU has no stage 2.
    #[error("the SMMU has no stage 2")]
    NoStage2,
    /// The SMMU does not support the granule.
    #[error("the SMMU does not support the granule")]
    Granule,
    /// The VMID needs more bits than the SMMU has.
    #[error("VMID {vmid} needs more than {bits} bits")]
    Vmid {
        /// The value that the caller asked for.
        vmid: Vmid,
        /// The number of bits that the SMMU has.
        bits: u8,
    },
    /// The input size is outside what the SMMU supports.
    #[error("T0SZ {t0sz} is not between {least} and {most}")]
    InputSize {
        /// The value that the caller asked for.
        t0sz: u8,
        /// Smallest that is legal.
        least: u8,
        /// Largest that is legal.
        most: u8,
    },
    /// The start level does not fit the input size and granule.
    #[error("SL0 {sl0} does not fit T0SZ {t0sz} and the granule")]
    StartLevel {
        /// The value that the caller asked for.
        sl0: u8,
        /// The input size with it.
        t0sz: u8,
    },
    /// The output size encoding is reserved or above what the SMMU supports.
    #[error("output size encoding {ps} is more than the SMMU supports")]
    OutputSize {
        /// The value that the caller asked for.
        ps: u8,
    },
    /// The root is not aligned or lies outside the output size.
    #[error("the root table {root} is misaligned or out of reach")]
    Root {
        /// The value that the caller asked for.
        root: PhysAddr,
    },
}

impl Stage2 {
    /// The level at which walks start (DDI 0487, VTCR_EL2.SL0), where `sl0`
    /// means anything without 52-bit addresses.
    fn start_level(&self, features: &Features) -> Option<u8> {
        let output = features.output_bits();
        match (self.granule, self.sl0) {
            (Granule::Size4K, 0) => Some(2),
            (Granule::Size4K, 1) => Some(1),
            (Granule::Size4K, 2) if output >= 44 => Some(0),
            (Granule::Size4K, 3) if features.idr3.stt() => Some(3),
            (Granule::Size16K | Granule::Size64K, 0) => Some(3),
            (Granule::Size16K | Granule::Size64K, 1) => Some(2),
            (Granule::Size16K, 2) if output >= 42 => Some(1),
            (Granule::Size64K, 2) if output >= 44 => Some(1),
            _ => None,
        }
    }

    /// The entry for a stream that uses this stage 2 alone, still without
    /// [`Attributes`](crate::Attributes).
    ///
    /// # Errors
    /// See [`Stage2Error`].
    pub(crate) fn entry(&self, features: &Features) -> Result<Ste, Stage2Error> {
        if !features.stage2() {
            return Err(Stage2Error::NoStage2);
        }
        if !self.granule.supported(features) {
            return Err(Stage2Error::Granule);
        }
        let bits = features.vmid_bits();
        if u32::from(self.vmid.0) >> bits != 0 {
            return Err(Stage2Error::Vmid {
                vmid: self.vmid,
                bits,
            });
        }
        let root_bytes = self.check_input(features)?;
        self.check_output(features, root_bytes)?;

        let (cache, share) = if features.coherent() {
            (CACHE_WB, SHARE_INNER)
        } else {
            (CACHE_NC, SHARE_OUTER)
        };
        Ok(Ste::default()
            .with_v(true)
            .with_config(Config::S2)
            // EATS stays 0: a device must not cache what only stage 2 checks.
            // MEV merges floods of equal events, so that one device cannot
            // push the others' events out of the queue.
            .with_mev(true)
            .with_s2vmid(self.vmid.0)
            .with_s2t0sz(self.t0sz)
            .with_s2sl0(self.sl0)
            .with_s2ir0(cache)
            .with_s2or0(cache)
            .with_s2sh0(share)
            .with_s2tg(self.granule.tg0())
            .with_s2ps(self.ps)
            .with_s2aa64(true)
            // Ignored without stage 1, but all entries of a VMID must agree,
            // and a nested one must not walk through Device memory.
            .with_s2ptw(true)
            // Stalling is off, unless the SMMU makes it illegal not to stall.
            .with_s2s(features.stall_forced())
            .with_s2r(true)
            .with_s2ttb(self.root.raw()))
    }

    /// The size in bytes of the root, all its tables together.
    fn check_input(&self, features: &Features) -> Result<u64, Stage2Error> {
        let input = features.input_bits();
        let large = self.granule == Granule::Size64K && features.aidr.minor() > 0;
        let least = (64 - input).max(if large { 12 } else { 16 });
        let most = match (features.idr3.stt(), self.granule) {
            (false, _) => 39,
            (true, Granule::Size64K) => 47,
            (true, _) => 48,
        };
        if !(least..=most).contains(&self.t0sz) {
            return Err(Stage2Error::InputSize {
                t0sz: self.t0sz,
                least,
                most,
            });
        }
        let error = Stage2Error::StartLevel {
            sl0: self.sl0,
            t0sz: self.t0sz,
        };
        let level = self.start_level(features).ok_or(error)?;
        // Tables below the start level resolve this many bits; the start level
        // must have between 1 bit and a full table with 16 concatenated.
        let below = self.granule.log2() + self.granule.stride() * (3 - level);
        let ipa = 64 - self.t0sz;
        if ipa > below && ipa <= below + self.granule.stride() + 4 {
            Ok(8 << (ipa - below))
        } else {
            Err(error)
        }
    }

    fn check_output(&self, features: &Features, root_bytes: u64) -> Result<(), Stage2Error> {
        let wide = self.granule == Granule::Size64K;
        let bits = match self.ps {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => 0,
        };
        if bits == 0 || bits > features.output_bits() {
            return Err(Stage2Error::OutputSize { ps: self.ps });
        }
        // The SMMU would silently round the root down to its size, and read
        // what is not its table. 64 bytes is the most that small ones need.
        let alignment = root_bytes.max(64);
        let reach = if wide { bits } else { bits.min(48) };
        if !self.root.is_aligned(alignment) || self.root.raw() >> reach != 0 {
            return Err(Stage2Error::Root { root: self.root });
        }
        Ok(())
    }
}

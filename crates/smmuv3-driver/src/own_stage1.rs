//! A stage 1 of the hypervisor without a stage 2, for an SMMU that has none.
//!
//! Its tables and its context descriptor are in memory that no owner of a
//! device can write, so it confines a device as a stage 2 would.

use crate::smmu::Smmu;
use crate::{Clock, Error, Features, Granule, Registers};
use portcullis_addr::{Address, Iova, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::cd::Cd;
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{CACHE_NC, CACHE_WB, SHARE_INNER, SHARE_OUTER};
use smmuv3_spec::ste::{Config, Ste};
use smmuv3_spec::{Asid, StreamId, Vmid};

/// The VMID of every [`OwnStage1`]. Without a stage 2 there are no VMIDs, and
/// this field of an invalidation has to be 0 (IHI 0070, 4.4.2). With a stage 2,
/// streams with a stage 1 alone are tagged with the `S2VMID` of their entry
/// (5.2), so no other owner may have it.
pub const STAGE1_VMID: Vmid = Vmid(0);

/// A stage 1 translation of the hypervisor (IHI 0070, 5.4), in the format of
/// EL1.
///
/// All streams with the same ASID must have the same stage 1: the SMMU may use
/// either context descriptor for both (5.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnStage1 {
    /// The tag of all its translations: no page is global.
    pub asid: Asid,
    /// First table.
    pub root: PhysAddr,
    /// 64 minus the number of input bits.
    pub t0sz: u8,
    /// Granule of the tables.
    pub granule: Granule,
    /// Output size, as `TCR_EL1.IPS` and `IDR5.OAS`.
    pub ips: u8,
    /// The meaning of the attribute indices in the tables, as in `MAIR_EL1`.
    pub mair: u64,
    /// The address of the context descriptor, a multiple of [`Cd::SIZE`]. The
    /// memory there is 0, or has this descriptor for this SMMU already. [`set`]
    /// fills it. It stays in use until no stream has it any more and the cached
    /// translations of the ASID are gone.
    ///
    /// [`set`]: Smmu::set
    pub context: PhysAddr,
}

/// Why an [`OwnStage1`] cannot be used: but for the last, each would make the
/// stream table entry or the context descriptor illegal (IHI 0070, 5.2.2, 5.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnStage1Error {
    /// The SMMU has no stage 1.
    #[error("the SMMU has no stage 1")]
    NoStage1,
    /// The SMMU does not support the granule.
    #[error("the SMMU does not support the granule")]
    Granule,
    /// The ASID needs more bits than the SMMU has.
    #[error("ASID {asid} needs more than {bits} bits")]
    Asid {
        /// The value that the caller asked for.
        asid: Asid,
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
    /// The output size encoding is reserved or above what the SMMU supports.
    #[error("output size encoding {ips} is more than the SMMU supports")]
    OutputSize {
        /// The value that the caller asked for.
        ips: u8,
    },
    /// The root is not aligned or lies outside the output size.
    #[error("the root table {root} is misaligned or out of reach")]
    Root {
        /// The value that the caller asked for.
        root: PhysAddr,
    },
    /// The context descriptor is not aligned or lies out of reach.
    #[error("the context descriptor {context} is misaligned or out of reach")]
    Context {
        /// The value that the caller asked for.
        context: PhysAddr,
    },
    /// Another context descriptor lies there, which may be in use.
    #[error("another context descriptor lies at {context}")]
    ContextTaken {
        /// The value that the caller asked for.
        context: PhysAddr,
    },
}

/// The attributes with which the SMMU reads tables and descriptors:
/// cacheability, shareability.
fn fetch_attributes(features: &Features) -> (u8, u8) {
    if features.coherent() {
        (CACHE_WB, SHARE_INNER)
    } else {
        (CACHE_NC, SHARE_OUTER)
    }
}

impl OwnStage1 {
    /// The entry for a stream that uses this stage 1 alone, still without
    /// [`Attributes`](crate::Attributes).
    ///
    /// # Errors
    /// See [`OwnStage1Error`].
    pub(crate) fn entry(&self, features: &Features) -> Result<Ste, OwnStage1Error> {
        self.check(features)?;
        let (cache, share) = fetch_attributes(features);
        Ok(Ste::default()
            .with_v(true)
            .with_config(Config::S1)
            .with_s1contextptr(self.context.raw())
            .with_s1cir(cache)
            .with_s1cor(cache)
            .with_s1csh(share)
            // S1CDMax stays 0: one descriptor, for traffic without a substream;
            // S1Fmt and S1DSS are ignored then. STRW stays 0: EL1, the world
            // that has ASIDs everywhere and knows who is unprivileged. EATS
            // stays 0: a device must not cache what it cannot be told to drop.
            .with_mev(true)
            // Stalls are off, since nothing would answer them. The bit must be
            // 0 if stalling is forced or not supported (5.5).
            .with_s1stalld(features.idr0.stall_model() == 0)
            .with_s2vmid(STAGE1_VMID.0))
    }

    /// The context descriptor.
    fn descriptor(&self, features: &Features) -> Cd {
        let (cache, share) = fetch_attributes(features);
        Cd::default()
            .with_v(true)
            .with_aa64(true)
            .with_t0sz(self.t0sz)
            .with_tg0(self.granule.tg0())
            .with_ir0(cache)
            .with_or0(cache)
            .with_sh0(share)
            // There is no upper range: its addresses are translation faults.
            .with_epd1(true)
            .with_ips(self.ips)
            // Stalling is off, unless the SMMU makes it illegal not to stall.
            .with_s(features.stall_forced())
            .with_r(true)
            .with_a(true)
            // No CPU has this address space, whatever it has under the number.
            .with_aset(true)
            .with_asid(self.asid.0)
            .with_ttb0(self.root.raw())
            // The halves of the register.
            .with_mair0(self.mair as u32)
            .with_mair1((self.mair >> 32) as u32)
    }

    fn check(&self, features: &Features) -> Result<(), OwnStage1Error> {
        if !features.stage1() {
            return Err(OwnStage1Error::NoStage1);
        }
        if !self.granule.supported(features) {
            return Err(OwnStage1Error::Granule);
        }
        let (asid, bits) = (self.asid, features.asid_bits());
        if u32::from(asid.0) >> bits != 0 {
            return Err(OwnStage1Error::Asid { asid, bits });
        }
        let root_bytes = self.check_input(features)?;
        self.check_output(features, root_bytes)
    }

    /// The size of the root in bytes.
    fn check_input(&self, features: &Features) -> Result<u64, OwnStage1Error> {
        let wide = self.granule == Granule::Size64K;
        // 52 bits without CD.DS only with this granule (5.4, T0SZ).
        let least = if wide && features.idr5.vax() != 0 {
            12
        } else {
            16
        };
        let most = match (features.idr3.stt(), wide) {
            (false, _) => 39,
            (true, true) => 47,
            (true, false) => 48,
        };
        if !(least..=most).contains(&self.t0sz) {
            return Err(OwnStage1Error::InputSize {
                t0sz: self.t0sz,
                least,
                most,
            });
        }
        // Whole tables from the page up, and the root resolves what is left:
        // the start level follows from the input size (DDI 0487, D8.2.5).
        let (page, stride) = (self.granule.log2(), self.granule.log2() - 3);
        let left = (64 - self.t0sz - page - 1) % stride + 1;
        Ok(8 << left)
    }

    fn check_output(&self, features: &Features, root_bytes: u64) -> Result<(), OwnStage1Error> {
        let bits = match self.ips {
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
            return Err(OwnStage1Error::OutputSize { ips: self.ips });
        }
        // The SMMU would silently round both down, and read what is neither its
        // table nor its descriptor.
        let reach = if self.granule == Granule::Size64K {
            bits
        } else {
            bits.min(48)
        };
        if !self.root.is_aligned(root_bytes.max(64)) || self.root.raw() >> reach != 0 {
            return Err(OwnStage1Error::Root { root: self.root });
        }
        let context = self.context;
        if !context.is_aligned(Cd::SIZE) || context.raw() >> features.output_bits() != 0 {
            return Err(OwnStage1Error::Context { context });
        }
        Ok(())
    }
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Fills the context descriptor of `stage1`, unless it is there.
    ///
    /// A descriptor that exists is not changed, because a stream may use it. A
    /// new one cannot be cached before an entry points to it, so the order of
    /// the stores does not matter (3.21.3.1).
    pub(crate) fn fill_descriptor(&self, stage1: &OwnStage1) -> Result<(), Error> {
        let descriptor = stage1.descriptor(&self.features);
        let context = stage1.context;
        let words = || (context.raw()..).step_by(8).map(PhysAddr::new);
        let mem = &self.hw.mem;
        if words()
            .zip(descriptor.0)
            .all(|(at, word)| mem.load(at) == word)
        {
            return Ok(());
        }
        if words().zip(descriptor.0).any(|(at, _)| mem.load(at) != 0) {
            return Err(OwnStage1Error::ContextTaken { context }.into());
        }
        for (at, word) in words().zip(descriptor.0) {
            mem.store(at, word);
        }
        mem.publish(context, Cd::SIZE);
        Ok(())
    }

    /// The ASID and the context descriptor's address of the [`OwnStage1`] that
    /// `stream` uses now; `None` if it aborts or has another translation.
    #[must_use]
    pub fn attached_stage1(&self, stream: StreamId) -> Option<(Asid, PhysAddr)> {
        let entry = self.entry_of(stream)?;
        if !entry.v() || entry.config() != Config::S1 {
            return None;
        }
        // Only this driver writes the descriptor.
        let context = PhysAddr::new(entry.s1contextptr());
        let first = Cd([self.hw.mem.load(context), 0, 0, 0, 0, 0, 0, 0]);
        Some((Asid(first.asid()), context))
    }

    /// Drops every translation of an [`OwnStage1`], and waits until no access
    /// uses one (IHI 0070, 4.4.2.2 and 3.21.1).
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Fenced`], or a failure that fenced: what is
    /// cached is then unknown.
    pub fn tlbi_asid(&mut self, asid: Asid) -> Result<(), Error> {
        self.check_not_fenced()?;
        self.run([Command::tlbi_nh_asid(STAGE1_VMID, asid)])
    }

    /// Drops the translations that an [`OwnStage1`] has for `range`, without
    /// waiting: they may be in use until [`finish`](Self::finish) returns.
    /// `level` and `leaf` are as for
    /// [`issue_ipa_range`](Self::issue_ipa_range).
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Fenced`]: nothing was done. Otherwise a
    /// failure that fenced.
    pub fn issue_va_range(
        &mut self,
        asid: Asid,
        range: Range<Iova>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        self.check_not_fenced()?;
        let template = Command::tlbi_nh_va(STAGE1_VMID, asid, 0, leaf);
        match self.address_commands(template, range, granule, level)? {
            Some(mut commands) => commands.try_for_each(|command| self.issue(command)),
            None => self.issue(Command::tlbi_nh_asid(STAGE1_VMID, asid)),
        }
    }
}

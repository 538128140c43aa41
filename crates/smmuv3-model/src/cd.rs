//! What a context descriptor means, and what makes it C_BAD_CD (IHI 0070, 5.4,
//! 3.4).
//!
//! [`Context::of`] checks a CD; [`Context::half`] picks the [`Half`] of the
//! address space that a virtual address lies in.

use crate::Profile;
use crate::context::CdTable;
use crate::stage1::Half;
use smmuv3_spec::cd::Cd;

/// The Exception level whose tables a stream uses (`StreamWorld`, 3.3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum World {
    /// NS-EL1: tagged by ASID and VMID.
    El1,
    /// NS-EL2: one range, no tags, everything is privileged.
    El2,
    /// NS-EL2 with E2H: tagged by ASID.
    El2E2h,
}

/// A context descriptor, once checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context {
    /// Whose tables they are.
    pub world: World,
    /// TTB0; `None` when its walks are disabled (EPD0).
    pub lower: Option<Half>,
    /// TTB1; `None` when its walks are disabled (EPD1) or there is none.
    pub upper: Option<Half>,
    /// `A`: a terminated transaction aborts; else it reads zero and writes
    /// nothing.
    pub abort: bool,
    /// `R`: faults are recorded.
    pub record: bool,
    /// `S`: faults stall.
    pub stall: bool,
    /// MAIR1 and MAIR0.
    pub mair: u64,
}

/// Why a context descriptor is C_BAD_CD (5.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCd {
    /// `V` is 0.
    #[error("V is 0")]
    NotValid,
    /// `S` is set where stalls are not available or not allowed for the stream,
    /// or clear where they are forced.
    #[error("S does not suit STALL_MODEL or S1STALLD")]
    Stall,
    /// `A` is clear, but the SMMU can only abort.
    #[error("A is 0 with TERM_MODEL")]
    Terminate,
    /// The SMMU has no tables of this endianness.
    #[error("ENDI is not supported")]
    Endianness,
    /// The SMMU, or the stage 2 underneath, does not allow this table format.
    #[error("AA64 is not supported here")]
    Format,
    /// Legal VMSAv8-32 tables, which are not modelled.
    #[error("VMSAv8-32 tables are not modelled")]
    NotModelled,
    /// `HA` or `HD` without hardware updates.
    #[error("HA or HD is not supported")]
    Update,
    /// An ASID above 8 bits without `IDR0.ASID16`.
    #[error("ASID has more than 8 bits")]
    Asid,
    /// `T0SZ` or `T1SZ` is out of range.
    #[error("TxSZ is out of range")]
    Size,
    /// The granule is reserved or not supported.
    #[error("TGx is not supported")]
    Granule,
    /// `TTB0` or `TTB1` is out of range.
    #[error("TTBx is out of range")]
    Base,
}

/// The fields of a CD that exist once for each half.
struct Raw {
    upper: bool,
    size: u8,
    granule: Option<u32>,
    base: u64,
    tbi: bool,
    had: bool,
    e0pd: bool,
}

impl Context {
    /// Checks a CD found through `table` (5.4.2). `e2h` is `CR2.E2H`.
    ///
    /// # Errors
    /// The transaction ends with C_BAD_CD; see [`BadCd`].
    pub fn of(cd: &Cd, table: &CdTable, e2h: bool, profile: &Profile) -> Result<Self, BadCd> {
        let idr0 = profile.idr0;
        let world = match (table.el2, e2h) {
            (false, _) => World::El1,
            (true, false) => World::El2,
            (true, true) => World::El2E2h,
        };
        if !cd.v() {
            return Err(BadCd::NotValid);
        }
        let bad_stall = match idr0.stall_model() {
            0b01 => cd.s(),
            0b10 => !cd.s(),
            _ => cd.s() && table.stalld,
        };
        if bad_stall {
            return Err(BadCd::Stall);
        }
        if idr0.term_model() && !cd.a() {
            return Err(BadCd::Terminate);
        }
        // EL2 knows neither a second range nor a way to disable the first.
        let single = world == World::El2;
        let lower = single || !cd.epd0();
        let upper = !single && !cd.epd1();
        let wrong_endian = match idr0.ttendian() {
            0b10 => cd.endi(),
            0b11 => !cd.endi(),
            _ => false,
        };
        if (lower || upper) && wrong_endian {
            return Err(BadCd::Endianness);
        }
        if !cd.aa64() {
            let legal = idr0.ttf() & 0b01 != 0 && world != World::El2E2h;
            return Err(if legal {
                BadCd::NotModelled
            } else {
                BadCd::Format
            });
        }
        if idr0.ttf() & 0b10 == 0 {
            return Err(BadCd::Format);
        }
        if (cd.ha() || cd.hd()) && idr0.httu() == 0 || cd.hd() && idr0.httu() == 1 {
            return Err(BadCd::Update);
        }
        if !single && !idr0.asid16() && cd.asid() >> 8 != 0 {
            return Err(BadCd::Asid);
        }
        let halves = [
            lower.then(|| Raw {
                upper: false,
                size: cd.t0sz(),
                granule: [Some(12), Some(16), Some(14), None][usize::from(cd.tg0() & 3)],
                base: cd.ttb0(),
                tbi: cd.tbi0(),
                had: cd.had0(),
                e0pd: cd.e0pd0(),
            }),
            upper.then(|| Raw {
                upper: true,
                size: cd.t1sz(),
                granule: [None, Some(14), Some(12), Some(16)][usize::from(cd.tg1() & 3)],
                base: cd.ttb1(),
                tbi: cd.tbi1(),
                had: cd.had1(),
                e0pd: cd.e0pd1(),
            }),
        ];
        let [lower, upper] = halves.map(|raw| {
            raw.map(|raw| Half::of(&raw, cd, table, world, profile))
                .transpose()
        });
        Ok(Self {
            world,
            lower: lower?,
            upper: upper?,
            abort: cd.a(),
            record: cd.r(),
            stall: cd.s(),
            mair: u64::from(cd.mair0()) | u64::from(cd.mair1()) << 32,
        })
    }

    /// The half that translates `address`; `None` when it lies in neither, or
    /// walks of that half are disabled: F_TRANSLATION either way (3.4, 5.4.1.1).
    #[must_use]
    pub fn half(&self, address: u64) -> Option<&Half> {
        let upper = self.world != World::El2 && address >> 55 & 1 != 0;
        let half = if upper { &self.upper } else { &self.lower };
        half.as_ref().filter(|half| half.contains(address))
    }
}

impl Half {
    fn of(
        raw: &Raw,
        cd: &Cd,
        table: &CdTable,
        world: World,
        profile: &Profile,
    ) -> Result<Self, BadCd> {
        let (idr3, idr5) = (profile.idr3, profile.idr5);
        let granule = match raw.granule {
            Some(12) if idr5.gran4k() => 12,
            Some(14) if idr5.gran16k() => 14,
            Some(16) if idr5.gran64k() => 16,
            _ => return Err(BadCd::Granule),
        };
        let largest = match (idr3.stt(), granule) {
            (false, _) => 39,
            (true, 16) => 47,
            (true, _) => 48,
        };
        // Out of range is unpredictable in SMMUv3.0, ILLEGAL being one choice.
        let smallest = if idr5.vax() != 0 && granule == 16 {
            12
        } else {
            16
        };
        let size = u32::from(raw.size);
        if size < smallest || size > largest {
            return Err(BadCd::Size);
        }
        let output_bits = profile.size_bits(cd.ips());
        let reach = if granule == 16 {
            output_bits
        } else {
            output_bits.min(48)
        };
        if raw.base >> reach != 0 {
            return Err(BadCd::Base);
        }
        let input_bits = 64 - size;
        let per_table = granule - 3;
        // The root resolves what whole tables leave over (DDI 0487, D8.2.5).
        let start = 4 - (input_bits - granule).div_ceil(per_table);
        let shift = granule + per_table * (3 - start);
        // The root is aligned to its size by ignoring bits, and to 64 bytes
        // where its address may have 52 bits (5.4, TTB0).
        let least = if output_bits > 48 { 64 } else { 8 };
        let bytes = (8u64 << (input_bits - shift)).max(least);
        let (el1, single) = (world == World::El1, world == World::El2);
        Ok(Self {
            world,
            vmid: if el1 { table.vmid } else { 0 },
            asid: if single { 0 } else { cd.asid() },
            upper: raw.upper,
            granule,
            start,
            input_bits,
            output_bits,
            root: raw.base & !(bytes - 1),
            tbi: raw.tbi,
            had: raw.had && idr3.had(),
            e0pd: raw.e0pd && idr3.e0pd() && !single,
            affd: cd.affd(),
            // HD without HA is reserved and behaves as neither.
            ha: cd.ha(),
            hd: cd.ha() && cd.hd(),
            wxn: cd.wxn(),
            pan: cd.pan() && !single,
            wide: profile.output_bits() > 48,
            big_endian: cd.endi(),
        })
    }
}

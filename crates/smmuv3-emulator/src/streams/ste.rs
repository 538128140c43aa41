//! Checks the owner's stream table entries: which fields are used, and which
//! entries are illegal (IHI 0070, 5.2, 5.2.1 and 5.2.2).
//!
//! The result is built from an empty entry by an allow-list. The emulated SMMU
//! has stage 1 only (`IDR0.S2P` and `HYP` are clear), which makes many fields
//! reserved or ignored. The table lists every field:
//!
//! | field | what becomes of it | why |
//! |---|---|---|
//! | V | 0: [`StreamConfig::Invalid`] | 5.2 |
//! | Config 0b0xx | [`StreamConfig::Abort`], all else ignored | 5.2 |
//! | Config 0b100 | [`StreamConfig::Bypass`], only the attribute overrides | 5.2.1 |
//! | Config 0b101 | [`StreamConfig::Stage1`] | 5.2; illegal without `IDR0.S1P` |
//! | Config 0b11x | illegal | `IDR0.S2P` is clear |
//! | S1Fmt | taken; 0b11 is 0b00; 0 without substreams | illegal if not 0b00 without `IDR0.CD2L` |
//! | S1ContextPtr | taken; low bits that the table's size makes RES0 are zero | beyond the output size: illegal (3.4.3, as SMMUv3.1) |
//! | S1CDMax | taken; 0 without `IDR1.SSIDSIZE` | above SSIDSIZE: illegal |
//! | S1DSS | taken; 0b11 is 0b00; 0 without substreams | 5.2 |
//! | S1CIR, S1COR | taken | the fetch goes through stage 2, which combines |
//! | S1CSH | taken; 0b01 is 0b00 | 5.2 |
//! | S2HWU | dropped | stage 2 is not the owner's |
//! | DRE | dropped | a destructive read could show what a page held before it was the owner's |
//! | CONT | dropped | a hint; physical entries are made stream by stream |
//! | DCP | dropped | a hint to caches that others use too |
//! | PPAR | dropped | page requests are answered by the emulation (8.1) |
//! | MEV | dropped | merging is always on: one device must not flood a queue that is shared (allowed by 5.2) |
//! | SW_RESERVED | dropped | ignored |
//! | S1PIE | dropped | RES0: `IDR3.S1PI` is clear |
//! | S2FWB | dropped | stage 2 is not the owner's |
//! | S1MPAM | dropped | RES0: `IDR3.MPAM` is clear |
//! | S1STALLD | taken | illegal unless `IDR0.STALL_MODEL` is 0b00 |
//! | EATS 0b01 | taken; ignored without `IDR0.ATS` | full ATS of the owner's is split-stage ATS of ours |
//! | EATS 0b10 | illegal; ignored without `IDR0.ATS` | needs two stages |
//! | EATS 0b11 | is 0b00 | reserved without `IDR3.DPT` |
//! | STRW | ignored | RES0 without `IDR0.HYP`; if that were set, other than EL1: illegal |
//! | MemAttr, MTCFG | taken with `IDR1.ATTR_TYPES_OVR` | RES0 else; reserved types are Device-nGnRnE |
//! | ALLOCCFG, SHCFG | taken with `IDR1.ATTR_TYPES_OVR` | RES0 else |
//! | NSCFG | dropped | ignored for Non-secure streams |
//! | PRIVCFG, INSTCFG | taken with `IDR1.ATTR_PERMS_OVR`; 0b01 is 0b00 | RES0 else |
//! | S2VMID | dropped | ignored: `IDR0.S2P` is clear. The tag is ours |
//! | S2T0SZ, S2SL0, S2IR0, S2OR0, S2SH0, S2TG, S2PS, S2AA64, S2ENDI, S2AFFD, S2PTW, S2HD, S2HA, S2R, S2HAFT, S2PIE, S2POE, S2NSW, S2NSA, S2SL0_2, S2DS, S2TTB, S2SKL, S2POI | dropped | ignored: stage 2 bypasses |
//! | S2S | dropped | may count for EATS 0b01 even so (5.2, SMMUv3.0): it does not here |
//! | S_S2T0SZ, S_S2SL0, S_S2SL0_2, S_S2TG, S_S2SKL, S2SW, S2SA, S_S2TTB | dropped | Secure streams only |
//! | DPT_VMATCH | dropped | RES0: `IDR3.DPT` is clear |
//! | PARTID, PMG, MPAM_NS | dropped | RES0: `IDR3.MPAM` is clear. Partitions are ours to give |
//! | MECID, AssuredOnly, TL0, TL1 | dropped | RES0: features that are not offered |
//! | VMSPtr | dropped | RES0: only with two stages and MPAM |
//! | IMPLEMENTATION DEFINED | dropped | its effect is not known |

use crate::{Ids, RangeConfig, StreamConfig};
use smmuv3_spec::control::Gbpa;
use smmuv3_spec::ste::{Config, Ste};

/// Full ATS (`STE.EATS`).
const EATS_FULL: u8 = 0b01;
/// Split-stage ATS (`STE.EATS`).
const EATS_SPLIT: u8 = 0b10;
/// Two-level CD tables with second-level tables of 4 KiB or 64 KiB
/// (`STE.S1Fmt`).
const FMT_4K: u8 = 0b01;
const FMT_64K: u8 = 0b10;

/// The configuration that `entry` asks for on an SMMU with the identification
/// registers `ids`. `entry` is a copy that the owner cannot change. The result
/// holds only fields that the table above calls taken.
#[must_use]
pub fn ste_config(ids: &Ids, entry: &Ste) -> StreamConfig {
    if !entry.v() {
        return StreamConfig::Invalid;
    }
    match entry.config() {
        config if !config.passes() => StreamConfig::Abort,
        Config::BYPASS => {
            let ste = Ste::default().with_v(true).with_config(Config::BYPASS);
            StreamConfig::Bypass(with_overrides(ids, entry, ste))
        }
        Config::S1 if !is_illegal(ids, entry) => StreamConfig::Stage1(stage1(ids, entry)),
        _ => StreamConfig::Invalid,
    }
}

/// The configuration of every stream while translation is off, from `GBPA`
/// (6.3.14).
#[must_use]
pub fn gbpa_config(ids: &Ids, gbpa: Gbpa) -> RangeConfig {
    if gbpa.abort() {
        return RangeConfig::Abort;
    }
    let asked = Ste::default()
        .with_mtcfg(gbpa.mtcfg())
        .with_memattr(gbpa.mem_attr())
        .with_alloccfg(gbpa.alloccfg())
        .with_shcfg(gbpa.shcfg())
        .with_privcfg(gbpa.privcfg())
        .with_instcfg(gbpa.instcfg());
    let ste = Ste::default().with_v(true).with_config(Config::BYPASS);
    RangeConfig::Bypass(with_overrides(ids, &asked, ste))
}

/// log2 of the number of substreams.
fn substream_bits(ids: &Ids, entry: &Ste) -> u8 {
    if ids.idr1.ssidsize() == 0 {
        0
    } else {
        entry.s1cdmax()
    }
}

/// Whether an entry with Config 0b101 is ILLEGAL (5.2.2).
fn is_illegal(ids: &Ids, entry: &Ste) -> bool {
    let fmt = entry.s1fmt();
    let substreams = substream_bits(ids, entry);
    let reach = ids.idr5.output_bits().unwrap_or(32);
    !ids.idr0.s1p()
        || ids.idr0.ats() && entry.eats() == EATS_SPLIT
        || ids.idr0.hyp() && entry.strw() != 0
        || entry.s1stalld() && ids.idr0.stall_model() != 0
        || substreams > ids.idr1.ssidsize()
        || substreams != 0 && !ids.idr0.cd2l() && matches!(fmt, FMT_4K | FMT_64K)
        || entry.s1contextptr() >> reach != 0
}

fn stage1(ids: &Ids, entry: &Ste) -> Ste {
    let substreams = substream_bits(ids, entry);
    let (fmt, dss) = match substreams {
        0 => (0, 0),
        _ => (
            unreserved(entry.s1fmt(), 0b11),
            unreserved(entry.s1dss(), 0b11),
        ),
    };
    // log2 of the size of the CD table. The pointer is aligned to it (5.2).
    let log2 = match fmt {
        FMT_4K => substreams.saturating_sub(6) + 3,
        FMT_64K => substreams.saturating_sub(10) + 3,
        _ => substreams + 6,
    };
    let eats = ids.idr0.ats() && entry.eats() == EATS_FULL;
    let ste = Ste::default()
        .with_v(true)
        .with_config(Config::S1)
        .with_s1fmt(fmt)
        .with_s1contextptr(entry.s1contextptr() & !((1 << log2) - 1))
        .with_s1cdmax(substreams)
        .with_s1dss(dss)
        .with_s1cir(entry.s1cir())
        .with_s1cor(entry.s1cor())
        .with_s1csh(unreserved(entry.s1csh(), 0b01))
        .with_s1stalld(entry.s1stalld())
        .with_eats(if eats { EATS_FULL } else { 0 });
    with_overrides(ids, entry, ste)
}

/// Adds the attribute overrides of `entry` that this SMMU has to `ste`.
fn with_overrides(ids: &Ids, entry: &Ste, mut ste: Ste) -> Ste {
    if ids.idr1.attr_types_ovr() {
        if entry.mtcfg() {
            ste = ste.with_mtcfg(true).with_memattr(match entry.memattr() {
                0b0100 | 0b1000 | 0b1100 => 0,
                known => known,
            });
        }
        ste = ste
            .with_alloccfg(entry.alloccfg())
            .with_shcfg(entry.shcfg());
    }
    if ids.idr1.attr_perms_ovr() {
        ste = ste
            .with_privcfg(unreserved(entry.privcfg(), 0b01))
            .with_instcfg(unreserved(entry.instcfg(), 0b01));
    }
    ste
}

/// The value of a field in which the encoding `reserved` behaves as 0.
const fn unreserved(value: u8, reserved: u8) -> u8 {
    if value == reserved { 0 } else { value }
}

//! The identification registers that the owner reads (IHI 0070, 6.3.1 to
//! 6.3.8). They are those of the physical SMMU without the features that the
//! owner may not use and those that this emulation does not have. They never
//! change.
//!
//! | register | field | value | why |
//! |---|---|---|---|
//! | IDR0 | S2P | 0 | stage 2 is not the owner's |
//! | | S1P | 1 | the owner's translation |
//! | | TTF | 0b10 | AArch64 tables only |
//! | | COHACC | configured | the emulation reads queues and tables as the CPU does |
//! | | BTM | 0 | the host's own VMID on the CPU is not the one of its streams |
//! | | HTTU | physical, at most 0b10 | done by the physical walker under stage 2; table access flags are of SMMUv3.3 |
//! | | DORMHINT | 0 | STATUSR is 0 |
//! | | HYP | 0 | RES0 without S2P |
//! | | ATS | physical, if it does split-stage ATS, and stalls are not forced | a device's cache may hold intermediate addresses only; the entry for that may not let stage 2 stall (5.2) |
//! | | NS1ATS | 0 | RES0 without S2P |
//! | | ASID16 | physical | ASIDs are tagged in hardware |
//! | | MSI | COHACC | a store to memory is all that it takes |
//! | | SEV | 0 | the emulation does not send the event |
//! | | ATOS, VATOS | 0 | answers would be physical addresses |
//! | | PRI | physical, if ATS is offered and the caller hands page requests over | RES0 without ATS; an owner must not wait for what never comes |
//! | | VMW, VMID16 | 0 | there is one VMID, and it is not the owner's |
//! | | CD2L | physical | context descriptors are walked in hardware |
//! | | TTENDIAN | physical | tables are walked in hardware |
//! | | ATSRECERR | 0 | the physical REC_CFG_ATS is not the owner's |
//! | | STALL_MODEL | physical; reserved becomes 0b01 | where stalls are forced, a CD with S = 0 is illegal: hiding that would abort everything. A stall holds up the owner's own streams only, and the owner can end it |
//! | | TERM_MODEL | physical | terminated in hardware |
//! | | ST_LEVEL | 0b01 | both kinds of table are read by the emulation |
//! | | RME_IMPL | 0 | no realm here |
//! | IDR1 | SIDSIZE | configured, at most physical | streams of the owner |
//! | | SSIDSIZE | physical, at most 20 | substreams are looked up in hardware |
//! | | PRIQS | physical, at most 15; 0 without PRI | 1 MiB of memory held at most |
//! | | EVENTQS | physical, at most 15 | the same |
//! | | CMDQS | physical, at most 16 | the same |
//! | | ATTR_PERMS_OVR, ATTR_TYPES_OVR | physical | overrides are done in hardware |
//! | | REL, QUEUES_PRESET, TABLES_PRESET, ECMDQ | 0 | everything lies in the owner's memory |
//! | IDR2 | all | 0 | no VATOS page |
//! | IDR3 | HAD, STT, E0PD, PTWNNC | physical | stage 1 walks are done in hardware |
//! | | RIL, BBML | physical | so are invalidations |
//! | | PPS | physical, with PRI and substreams | RES0 otherwise |
//! | | PBHA, MPAM, DPT | 0 | attributes of the bus and grants of memory are not the owner's |
//! | | XNX, FWB | 0 | stage 2 |
//! | IDR4 | all | 0 | nothing implementation defined |
//! | IDR5 | OAS | the largest size that fits the physical one and the owner's addresses | the output of stage 1 is an IPA |
//! | | GRAN4K, GRAN16K, GRAN64K | physical | stage 1 walks |
//! | | DS, D128 | 0 | not supported |
//! | | VAX | physical, at most 52 bits, and only with 64 KiB granules | without DS nothing else has 52 bits |
//! | | STALL_MAX | physical; 0 without stalls | stalls are held in hardware |
//! | IIDR | all | physical | errata of stage 1 are the owner's to work around |
//! | AIDR | | physical, at most SMMUv3.2 | what the registers follow |

use smmuv3_driver::Features;
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};

/// log2 of the entries of the largest command queue, which has 1 MiB.
const CMDQS: u8 = 16;
/// log2 of the entries of the largest event and PRI queues; such an event queue
/// has 1 MiB.
const OUTPUTS: u8 = 15;
/// The version of the architecture that the registers follow: SMMUv3.2.
const VERSION: u8 = 2;

/// Properties of the emulated SMMU that do not follow from the physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdConfig {
    /// Number of bits of the owner's IPAs, 32 to 52.
    pub ipa_bits: u8,
    /// Number of bits of the owner's highest StreamID, 0 to 32.
    pub stream_bits: u8,
    /// Whether the caller reads the physical PRI queue and hands over its page
    /// requests.
    pub page_requests: bool,
    /// Whether the emulation and the physical SMMU access the owner's memory
    /// coherently with its CPUs.
    pub coherent: bool,
}

/// The identification registers of the emulated SMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// `SMMU_IDR0`.
    pub idr0: Idr0,
    /// `SMMU_IDR1`.
    pub idr1: Idr1,
    /// `SMMU_IDR3`.
    pub idr3: Idr3,
    /// `SMMU_IDR5`.
    pub idr5: Idr5,
    /// `SMMU_IIDR`.
    pub iidr: Iidr,
    /// `SMMU_AIDR`.
    pub aidr: Aidr,
    /// `IDR0.COHACC`, as configured.
    pub coherent: bool,
}

impl Ids {
    /// Derives the registers that an owner sees of a physical SMMU with
    /// `features`.
    #[must_use]
    pub fn derive(features: &Features, config: &IdConfig) -> Self {
        let ats = features.split_ats();
        let pri = features.idr0.pri() && ats && config.page_requests;
        let stall_model = match features.idr0.stall_model() {
            0b11 => 0b01,
            model => model,
        };
        let aidr = Aidr::new().with_minor(features.aidr.minor().min(VERSION));
        let idr0 = Idr0::new()
            .with_s1p(true)
            .with_ttf(0b10)
            .with_cohacc(config.coherent)
            .with_httu(features.idr0.httu().min(0b10))
            .with_ats(ats)
            .with_asid16(features.idr0.asid16())
            .with_msi(config.coherent)
            .with_pri(pri)
            .with_cd2l(features.idr0.cd2l())
            .with_ttendian(features.idr0.ttendian())
            .with_stall_model(stall_model)
            .with_term_model(features.idr0.term_model())
            .with_st_level(0b01);
        let idr1 = Idr1::new()
            .with_sidsize(config.stream_bits.min(features.stream_bits()))
            .with_ssidsize(features.substream_bits())
            .with_priqs(if pri {
                features.idr1.priqs().min(OUTPUTS)
            } else {
                0
            })
            .with_eventqs(features.idr1.eventqs().min(OUTPUTS))
            .with_cmdqs(features.idr1.cmdqs().min(CMDQS))
            .with_attr_perms_ovr(features.idr1.attr_perms_ovr())
            .with_attr_types_ovr(features.idr1.attr_types_ovr());
        let idr3 = Idr3::new()
            .with_had(features.idr3.had())
            .with_pps(features.idr3.pps() && pri && features.substream_bits() > 0)
            .with_stt(features.idr3.stt())
            .with_ril(features.idr3.ril())
            .with_bbml(features.idr3.bbml())
            .with_e0pd(features.idr3.e0pd())
            .with_ptwnnc(features.idr3.ptwnnc());
        let wide = features.idr5.gran64k();
        let idr5 = Idr5::new()
            .with_oas(output_size(
                features.output_bits().min(config.ipa_bits),
                wide,
            ))
            .with_gran4k(features.idr5.gran4k())
            .with_gran16k(features.idr5.gran16k())
            .with_gran64k(wide)
            .with_vax(if wide { features.idr5.vax().min(1) } else { 0 })
            .with_stall_max(if stall_model == 0b01 {
                0
            } else {
                features.idr5.stall_max()
            });
        Self {
            idr0,
            idr1,
            idr3,
            idr5,
            iidr: features.iidr,
            aidr,
            coherent: config.coherent,
        }
    }

    /// Mask of the address bits within `IDR5.OAS`. Higher bits are RES0 in
    /// registers and are dropped from the SMMU's own accesses (3.4.3).
    #[must_use]
    pub fn address_mask(&self) -> u64 {
        let bits = self.idr5.output_bits().unwrap_or(32);
        (1 << bits) - 1
    }
}

/// The largest encoding of `IDR5.OAS` within `bits`. 52 bits need the 64 KiB
/// granule, since DS and D128 are not offered (6.3.6).
fn output_size(bits: u8, wide: bool) -> u8 {
    match bits {
        52.. if wide => 6,
        48.. => 5,
        44.. => 4,
        42.. => 3,
        40.. => 2,
        36.. => 1,
        _ => 0,
    }
}

//! The features of an SMMU, from its identification registers.

use crate::{Quirks, Registers};
use core::fmt;
use smmuv3_spec::id::{Aidr, Idr0, Idr1, Idr3, Idr5, Iidr};
use smmuv3_spec::reg;

/// Why an SMMU cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// `AIDR.ArchMajorRev` is not 0.
    #[error("architecture revision {major} is not SMMUv3")]
    Architecture {
        /// The value that was read.
        major: u8,
    },
    /// The queues lie where the implementation put them (`IDR1.QUEUES_PRESET`).
    #[error("the SMMU has queues at fixed addresses")]
    QueuesPreset,
    /// The stream table lies where the implementation put it
    /// (`IDR1.TABLES_PRESET`).
    #[error("the SMMU has its stream table at a fixed address")]
    TablesPreset,
    /// `IDR1.SIDSIZE` is above 32.
    #[error("{bits} StreamID bits are more than the architecture allows")]
    StreamIdSize {
        /// The value that was read.
        bits: u8,
    },
    /// A queue size is above 19.
    #[error("a queue of 2^{log2} entries is more than the architecture allows")]
    QueueSize {
        /// The value that was read.
        log2: u8,
    },
    /// VMSAv8-64 tables are not supported (`IDR0.TTF`).
    #[error("the SMMU walks no AArch64 tables")]
    NoAarch64Tables,
    /// Little-endian tables are not supported (`IDR0.TTENDIAN`).
    #[error("the SMMU walks no little-endian tables")]
    NoLittleEndianTables,
    /// No granule is supported (`IDR5`).
    #[error("the SMMU supports no translation granule")]
    NoGranule,
    /// Stage 2 is not implemented (`IDR0.S2P`).
    #[error("the SMMU has no stage 2")]
    NoStage2,
    /// Stage 1 is not implemented (`IDR0.S1P`).
    #[error("the SMMU has no stage 1")]
    NoStage1,
    /// Output addresses are too small for this machine.
    #[error("the SMMU reaches {have} address bits, memory needs {need}")]
    OutputSizeTooSmall {
        /// Bits that the SMMU can put out.
        have: u8,
        /// Bits that are needed.
        need: u8,
    },
}

/// What an SMMU can do. The identification registers as they were read once
/// (IHI 0070, 6.3.1 to 6.3.8), with the fields the driver relies on checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
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
    /// Workarounds in force.
    pub quirks: Quirks,
}

impl Features {
    /// Reads the identification registers; changes nothing.
    ///
    /// # Errors
    /// Every [`ProbeError`] but those of
    /// [`require_stage2`](Self::require_stage2) and
    /// [`require_stage1`](Self::require_stage1).
    pub fn probe(regs: &impl Registers) -> Result<Self, ProbeError> {
        let iidr = Iidr::from(regs.read32(reg::IIDR));
        let this = Self {
            idr0: regs.read32(reg::IDR0).into(),
            idr1: regs.read32(reg::IDR1).into(),
            idr3: regs.read32(reg::IDR3).into(),
            idr5: regs.read32(reg::IDR5).into(),
            iidr,
            aidr: regs.read32(reg::AIDR).into(),
            quirks: Quirks::of(iidr),
        };
        if this.aidr.major() != 0 {
            return Err(ProbeError::Architecture {
                major: this.aidr.major(),
            });
        }
        if this.idr1.tables_preset() {
            return Err(ProbeError::TablesPreset);
        }
        if this.idr1.queues_preset() {
            return Err(ProbeError::QueuesPreset);
        }
        if this.idr1.sidsize() > 32 {
            return Err(ProbeError::StreamIdSize {
                bits: this.idr1.sidsize(),
            });
        }
        let log2 = this.idr1.cmdqs().max(this.idr1.eventqs());
        if log2 > 19 {
            return Err(ProbeError::QueueSize { log2 });
        }
        if this.idr0.ttf() & 0b10 == 0 {
            return Err(ProbeError::NoAarch64Tables);
        }
        // 0b01 is reserved; what cannot be relied upon is not used.
        if !matches!(this.idr0.ttendian(), 0b00 | 0b10) {
            return Err(ProbeError::NoLittleEndianTables);
        }
        if !(this.idr5.gran4k() || this.idr5.gran16k() || this.idr5.gran64k()) {
            return Err(ProbeError::NoGranule);
        }
        Ok(this)
    }

    /// Checks that stage 2 exists and reaches addresses of
    /// `needed_output_bits` bits.
    ///
    /// # Errors
    /// [`ProbeError::NoStage2`], [`ProbeError::OutputSizeTooSmall`].
    pub fn require_stage2(&self, needed_output_bits: u8) -> Result<(), ProbeError> {
        if !self.idr0.s2p() {
            return Err(ProbeError::NoStage2);
        }
        self.require_output(needed_output_bits)
    }

    /// Checks that stage 1 exists and reaches addresses of
    /// `needed_output_bits` bits: all that a stage 1 of ours needs.
    ///
    /// # Errors
    /// [`ProbeError::NoStage1`], [`ProbeError::OutputSizeTooSmall`].
    pub fn require_stage1(&self, needed_output_bits: u8) -> Result<(), ProbeError> {
        if !self.idr0.s1p() {
            return Err(ProbeError::NoStage1);
        }
        self.require_output(needed_output_bits)
    }

    fn require_output(&self, need: u8) -> Result<(), ProbeError> {
        let have = self.output_bits();
        if have < need {
            return Err(ProbeError::OutputSizeTooSmall { have, need });
        }
        Ok(())
    }

    /// Stage 1 translates.
    #[must_use]
    pub fn stage1(&self) -> bool {
        self.idr0.s1p()
    }

    /// Stage 2 translates.
    #[must_use]
    pub fn stage2(&self) -> bool {
        self.idr0.s2p()
    }

    /// Both stages translate together, reliably.
    #[must_use]
    pub fn nesting(&self) -> bool {
        self.stage1() && self.stage2() && !self.quirks.contains(Quirks::NO_NESTING)
    }

    /// A device can be given the results of stage 1 to keep, with stage 2 still
    /// to come (`STE.EATS` 0b10, 5.2): illegal where stage 2 stalls.
    #[must_use]
    pub fn split_ats(&self) -> bool {
        self.idr0.ats() && !self.idr0.ns1ats() && !self.stall_forced()
    }

    /// Table and queue accesses see CPU caches (`IDR0.COHACC`).
    #[must_use]
    pub fn coherent(&self) -> bool {
        self.idr0.cohacc()
    }

    /// Bits of an output address. SMMUv3.0 knows nothing above 48, and 56 needs
    /// 128-bit descriptors, so it counts as 52 (6.3.6).
    #[must_use]
    pub fn output_bits(&self) -> u8 {
        let bits = self.idr5.output_bits().unwrap_or(32);
        bits.min(if self.aidr.minor() == 0 { 48 } else { 52 })
    }

    /// Bits of an input address of stage 2: as many as of an output address,
    /// and at least 40 where VMSAv8-32 tables exist (3.4).
    pub(crate) fn input_bits(&self) -> u8 {
        if self.idr0.ttf() & 1 != 0 {
            self.output_bits().max(40)
        } else {
            self.output_bits()
        }
    }

    /// Bits of a StreamID.
    #[must_use]
    pub fn stream_bits(&self) -> u8 {
        self.idr1.sidsize()
    }

    /// Bits of a SubstreamID; 0: no substreams.
    #[must_use]
    pub fn substream_bits(&self) -> u8 {
        self.idr1.ssidsize().min(20)
    }

    /// Two-level stream tables are supported.
    #[must_use]
    pub fn two_level(&self) -> bool {
        self.idr0.st_level() == 0b01
    }

    /// Bits of a VMID.
    #[must_use]
    pub fn vmid_bits(&self) -> u8 {
        if self.idr0.vmid16() { 16 } else { 8 }
    }

    /// Bits of an ASID.
    #[must_use]
    pub fn asid_bits(&self) -> u8 {
        if self.idr0.asid16() { 16 } else { 8 }
    }

    /// Range TLB invalidation (`IDR3.RIL`).
    #[must_use]
    pub fn range_tlbi(&self) -> bool {
        self.idr3.ril()
    }

    /// Every fault that can stall does, whatever the STE says
    /// (`IDR0.STALL_MODEL` 2).
    #[must_use]
    pub fn stall_forced(&self) -> bool {
        self.idr0.stall_model() == 0b10
    }

    /// Stalls can happen; CMD_RESUME and CMD_STALL_TERM are legal.
    #[must_use]
    pub fn stalls(&self) -> bool {
        matches!(self.idr0.stall_model(), 0b00 | 0b10)
    }
}

/// As logfmt fields.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |on: bool| if on { "yes" } else { "no" };
        let stages = match (self.stage1(), self.stage2()) {
            (true, true) => "1+2",
            (true, false) => "1",
            (false, true) => "2",
            (false, false) => "none",
        };
        write!(
            f,
            "version=3.{} iidr={:#x} stages={stages} oas={} sid_bits={} ssid_bits={} two_level={}",
            self.aidr.minor(),
            u32::from(self.iidr),
            self.output_bits(),
            self.stream_bits(),
            self.substream_bits(),
            yes(self.two_level()),
        )?;
        f.write_str(" granules=")?;
        let mut first = true;
        for (name, on) in [
            ("4k", self.idr5.gran4k()),
            ("16k", self.idr5.gran16k()),
            ("64k", self.idr5.gran64k()),
        ] {
            if on {
                f.write_str(if first { "" } else { "+" })?;
                f.write_str(name)?;
                first = false;
            }
        }
        write!(
            f,
            " coherent={} vmid_bits={} asid_bits={} range_tlbi={} bbml={} httu={} stall={} ats={} \
             pri={} msi={} sev={} btm={} hyp={} atos={} vatos={} cmdq_log2={} eventq_log2={} quirks={:#x}",
            yes(self.coherent()),
            self.vmid_bits(),
            self.asid_bits(),
            yes(self.range_tlbi()),
            self.idr3.bbml(),
            self.idr0.httu(),
            match self.idr0.stall_model() {
                0b00 => "optional",
                0b01 => "no",
                0b10 => "forced",
                _ => "reserved",
            },
            yes(self.idr0.ats()),
            yes(self.idr0.pri()),
            yes(self.idr0.msi()),
            yes(self.idr0.sev() && !self.quirks.contains(Quirks::NO_SEV)),
            yes(self.idr0.btm() && !self.quirks.contains(Quirks::NO_BTM)),
            yes(self.idr0.hyp()),
            yes(self.idr0.atos()),
            yes(self.idr0.vatos()),
            self.idr1.cmdqs(),
            self.idr1.eventqs(),
            self.quirks.bits(),
        )
    }
}

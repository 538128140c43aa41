//! Which commands an SMMU has, and what they do (IHI 0070, chapter 4).

use crate::misuse::Misuse;
use crate::smmu::{Mode, Smmu};
use smmuv3_spec::command::{
    Command, CommandError, Opcode, TLBI_TG_4K, TLBI_TG_16K, TLBI_TG_64K, TLBI_TG_ANY,
};

/// Bits of the fields that a command has, low and high word (4.2 to 4.7).
/// `None`: no such command.
fn fields(opcode: Opcode) -> Option<[u64; 2]> {
    const STREAM: u64 = 0xffff_ffff_0000_0000;
    const SUBSTREAM: u64 = 0xffff_f000;
    const SSEC: u64 = 1 << 10;
    const SSV: u64 = 1 << 11;
    const VMID: u64 = 0xffff << 32;
    const ASID: u64 = 0xffff << 48;
    const PAGE: u64 = !0xfff;
    // SCALE 25:20, NUM 16:12; TG 75:74, TTL 73:72, Leaf 64.
    const RANGE: u64 = 0x03f1_f000;
    const HINT: u64 = 0xf01;
    Some(match opcode {
        Opcode::PREFETCH_CONFIG => [STREAM | SUBSTREAM | SSEC | SSV, 0],
        Opcode::PREFETCH_ADDR => [STREAM | SUBSTREAM | SSEC | SSV, PAGE | 0x3ff],
        Opcode::CFGI_STE => [STREAM | SSEC, 1],
        Opcode::CFGI_STE_RANGE => [STREAM | SSEC, 0x1f],
        Opcode::CFGI_CD => [STREAM | SUBSTREAM | SSEC, 1],
        Opcode::CFGI_CD_ALL => [STREAM | SSEC, 0],
        Opcode::CFGI_VMS_PIDM => [VMID | SSEC, 0],
        Opcode::TLBI_NH_ALL | Opcode::TLBI_S12_VMALL => [VMID, 0],
        Opcode::TLBI_NH_ASID => [VMID | ASID, 0],
        Opcode::TLBI_NH_VA => [VMID | ASID | RANGE, PAGE | HINT],
        Opcode::TLBI_NH_VAA => [VMID | RANGE, PAGE | HINT],
        Opcode::TLBI_EL2_ALL | Opcode::TLBI_NSNH_ALL => [0, 0],
        Opcode::TLBI_EL2_ASID => [ASID, 0],
        Opcode::TLBI_EL2_VA => [ASID | RANGE, PAGE | HINT],
        Opcode::TLBI_EL2_VAA => [RANGE, PAGE | HINT],
        // Bits 55:52 of an IPA are RES0 in SMMUv3.1 to 3.3 (4.1.6).
        Opcode::TLBI_S2_IPA => [VMID | RANGE, 0x000f_ffff_ffff_f000 | HINT],
        Opcode::ATC_INV => [STREAM | SUBSTREAM | SSEC | SSV | 1 << 9, PAGE | 0x3f],
        Opcode::PRI_RESP => [STREAM | SUBSTREAM | SSEC | SSV, 0x31ff],
        Opcode::RESUME => [STREAM | SSEC | 0x3000, 0xffff],
        Opcode::STALL_TERM => [STREAM | SSEC, 0],
        Opcode::SYNC => [STREAM | 0x0fc0_3000, 0x000f_ffff_ffff_fffc],
        _ => return None,
    })
}

impl Smmu {
    /// Does what a command says. The command that is returned was consumed.
    pub(crate) fn process(&mut self, command: Command) -> Result<Command, CommandError> {
        if !self.legal(&command) {
            self.misuse.push(Misuse::Command(command));
            return Err(CommandError::ILL);
        }
        if self.reserved(&command) {
            self.misuse.push(Misuse::ReservedField(command));
        }
        if self.out_of_range(&command) {
            self.misuse.push(Misuse::OutOfRange(command));
            return Ok(command);
        }
        if self.misaligned(&command) {
            self.misuse.push(Misuse::Misaligned(command));
        }
        self.execute(&command)?;
        Ok(command)
    }

    /// Whether a command is one that this SMMU has (4.1.1 and the text of
    /// each).
    fn legal(&self, command: &Command) -> bool {
        let (idr0, idr3) = (self.profile.idr0, self.profile.idr3);
        let opcode = command.opcode();
        let Some([low, _]) = fields(opcode) else {
            return false;
        };
        // Secure streams are not this queue's (4.1.6).
        if low & 1 << 10 != 0 && command.ssec() {
            return false;
        }
        match opcode {
            Opcode::PREFETCH_CONFIG | Opcode::PREFETCH_ADDR => true,
            Opcode::CFGI_STE | Opcode::CFGI_STE_RANGE => true,
            Opcode::CFGI_CD | Opcode::CFGI_CD_ALL => idr0.s1p(),
            Opcode::CFGI_VMS_PIDM => idr3.mpam(),
            Opcode::TLBI_NH_ALL | Opcode::TLBI_NH_ASID => idr0.s1p(),
            Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA => idr0.s1p() && self.sensible_range(command),
            Opcode::TLBI_EL2_ALL | Opcode::TLBI_EL2_ASID => idr0.hyp(),
            Opcode::TLBI_EL2_VA | Opcode::TLBI_EL2_VAA => {
                idr0.hyp() && self.sensible_range(command)
            }
            Opcode::TLBI_S12_VMALL => idr0.s2p(),
            Opcode::TLBI_S2_IPA => idr0.s2p() && self.sensible_range(command),
            Opcode::TLBI_NSNH_ALL => true,
            Opcode::ATC_INV => idr0.ats(),
            Opcode::PRI_RESP => idr0.pri() && command.resp() != 0b11,
            Opcode::RESUME | Opcode::STALL_TERM => idr0.stall_model() != 0b01,
            Opcode::SYNC => command.cs() != 0b11,
            _ => false,
        }
    }

    /// The level that a command hints at, if it means anything: level 1 of
    /// 16 KiB tables does not without 52 bits (4.4.1.1).
    fn level(&self, command: &Command) -> u8 {
        let no_level = command.tg() == TLBI_TG_16K && !self.profile.idr5.ds();
        if no_level && command.ttl() == 1 {
            0
        } else {
            command.ttl()
        }
    }

    /// A granule without range and level is reserved (4.4.1.1).
    fn sensible_range(&self, command: &Command) -> bool {
        !self.profile.idr3.ril()
            || command.tg() == TLBI_TG_ANY
            || command.num() != 0
            || self.scale(command) != 0
            || self.level(command) != 0
    }

    /// SCALE has 5 bits without IDR5.DS (4.4.1.1).
    fn scale(&self, command: &Command) -> u8 {
        let bits = if self.profile.idr5.ds() { 63 } else { 31 };
        command.scale() & bits
    }

    /// Whether a field is set that is reserved here (4.1.5, 4.4.1.1).
    fn reserved(&self, command: &Command) -> bool {
        let Some([mut low, mut high]) = fields(command.opcode()) else {
            return false;
        };
        let range = matches!(
            command.opcode(),
            Opcode::TLBI_NH_VA
                | Opcode::TLBI_NH_VAA
                | Opcode::TLBI_EL2_VA
                | Opcode::TLBI_EL2_VAA
                | Opcode::TLBI_S2_IPA
        );
        if range {
            let ril = self.profile.idr3.ril();
            if !ril {
                high &= !0xf00;
            }
            if !ril || command.tg() == TLBI_TG_ANY {
                low &= !0x03f1_f000;
                high &= !0x300;
            } else if !self.profile.idr5.ds() {
                low &= !(1 << 25);
            }
        }
        if command.opcode() == Opcode::PREFETCH_ADDR && self.profile.aidr.minor() == 0 {
            // Stride (4.2.2).
            high &= !0x3e0;
        }
        // The opcode is in 7:0.
        command.0[0] & !(low | 0xff) != 0 || command.0[1] & !high != 0
    }

    /// Whether a parameter is larger than this SMMU has (4.1.7, 4.2, 4.4, 4.5).
    fn out_of_range(&self, command: &Command) -> bool {
        let (idr0, idr1) = (self.profile.idr0, self.profile.idr1);
        let opcode = command.opcode();
        let Some([low, _]) = fields(opcode) else {
            return false;
        };
        let everything = opcode == Opcode::CFGI_STE_RANGE && command.range() == 31;
        let names_stream = low & 1 << 10 != 0 && low & 1 << 63 != 0 && !everything;
        let stream = u64::from(command.stream_bits()) >> idr1.sidsize().min(32) != 0;
        if names_stream && stream {
            return true;
        }
        let names_substream = opcode == Opcode::CFGI_CD || low & 1 << 11 != 0 && command.ssv();
        let substream = command.substream_bits() >> idr1.ssidsize().min(20) != 0;
        let no_substreams = low & 1 << 11 != 0 && command.ssv() && idr1.ssidsize() == 0;
        if names_substream && (substream || no_substreams) {
            return true;
        }
        let tlbi = (0x10..0x40).contains(&opcode.0);
        // NH commands match the VMID where there is stage 2 only (4.4.2).
        let vmid = tlbi && low & 1 << 32 != 0 && !idr0.vmid16() && command.vmid_bits() > 0xff;
        let asid = tlbi && low & 1 << 48 != 0 && !idr0.asid16() && command.asid_bits() > 0xff;
        vmid || asid || opcode == Opcode::ATC_INV && command.atc_size() > 52
    }

    /// Whether a range starts where its level or granule allows (4.4.1.1).
    fn misaligned(&self, command: &Command) -> bool {
        let range =
            fields(command.opcode()).is_some_and(|[low, _]| low & 0x03f1_f000 == 0x03f1_f000);
        let tlbi = (0x10..0x40).contains(&command.opcode().0);
        if !self.profile.idr3.ril() || !tlbi || !range {
            return false;
        }
        let bits = match (command.tg(), self.level(command)) {
            (TLBI_TG_4K, 1) => 30,
            (TLBI_TG_4K, 2) => 21,
            (TLBI_TG_16K, 1) => 36,
            (TLBI_TG_16K, 2) => 25,
            (TLBI_TG_16K, _) => 14,
            (TLBI_TG_64K, 1) => 42,
            (TLBI_TG_64K, 2) => 29,
            (TLBI_TG_64K, _) => 16,
            _ => 12,
        };
        command.address() & ((1 << bits) - 1) != 0
    }

    fn execute(&mut self, command: &Command) -> Result<(), CommandError> {
        // Without translation there is no ATS interface (6.3.9.6).
        let on = self.enabled().smmuen();
        match command.opcode() {
            Opcode::SYNC => self.complete_atc_invalidations()?,
            Opcode::ATC_INV if on => self.invalidate_atc(command),
            Opcode::PRI_RESP if on => self.respond(command),
            Opcode::RESUME => {
                let stream = command.stream();
                self.resume(stream, command.stag(), command.retry(), command.abort());
            }
            Opcode::STALL_TERM => self.stall_term(command.stream()),
            _ => {}
        }
        if self.mode != Mode::Plain {
            self.observe_command(command);
        }
        Ok(())
    }
}

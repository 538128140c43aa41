//! ESR_EL2 of an exception that came from a lower exception level (DDI 0487,
//! ESR_EL2).

/// Class of an exception (ESR_EL2.EC), as far as EL2 tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// HVC of AArch64.
    Hvc,
    /// SMC of AArch64.
    Smc,
    /// MSR, MRS or a system instruction of AArch64.
    SystemRegister,
    /// An instruction fetch from a lower exception level.
    InstructionAbort,
    /// A data access from a lower exception level.
    DataAbort,
    /// Every other.
    Other,
}

/// What the host gets for an access that EL2 does not carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortAnswer {
    /// A synchronous external abort with this fault status, as from a bus on which
    /// nothing answers.
    External(u8),
    /// A fault of the access itself, which has the same status at EL1.
    Own(u8),
    /// The access is done again, when this CPU's TLB has forgotten the host's
    /// translations: there were two for one address.
    Again,
}

/// A value of ESR_EL2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u64);

impl Syndrome {
    const S1PTW: u64 = 1 << 7;

    /// A data abort with the fault status of this one, of a load or store of X0 with
    /// `1 << log2` bytes, which ISV says is all there is to know (DDI 0487, ESR_EL2: SAS,
    /// SRT of 0, SF).
    #[must_use]
    pub const fn of_plain_access(self, log2: u8, store: bool) -> Self {
        const DATA_ABORT: u64 = 0x24 << 26;
        const IL: u64 = 1 << 25;
        const ISV: u64 = 1 << 24;
        const SF: u64 = 1 << 15;
        let size = ((log2 & 3) as u64) << 22;
        let write = (store as u64) << 6;
        Self(DATA_ABORT | IL | ISV | size | SF | write | self.fault_status() as u64)
    }

    /// What kind of exception it is.
    #[must_use]
    pub const fn class(self) -> Class {
        match self.0 >> 26 & 0x3f {
            0x16 => Class::Hvc,
            0x17 => Class::Smc,
            0x18 => Class::SystemRegister,
            0x20 => Class::InstructionAbort,
            0x24 => Class::DataAbort,
            _ => Class::Other,
        }
    }

    /// DFSC or IFSC of an abort.
    #[must_use]
    pub const fn fault_status(self) -> u8 {
        (self.0 & 0x3f) as u8
    }

    /// Whether the host's own table walk faulted in stage 2.
    #[must_use]
    pub const fn is_walk(self) -> bool {
        self.0 & Self::S1PTW != 0
    }

    /// Whether stage 2 maps what was accessed, and does not permit the access. The
    /// host's own table walk is another matter.
    #[inline]
    #[must_use]
    pub const fn is_permission_fault(self) -> bool {
        self.0 & (0x3c | Self::S1PTW) == 0x0c
    }

    /// Whether HPFAR_EL2 holds the IPA of this abort. It does for address size,
    /// translation and access flag faults of stage 2, and for permission faults on
    /// the host's own table walk; after every other abort it is whatever an earlier
    /// one left (DDI 0487, HPFAR_EL2).
    #[must_use]
    pub const fn has_ipa(self) -> bool {
        match self.fault_status() {
            // Levels 0 to 3; 0x29 to 0x2b are the levels before (FEAT_LPA2, FEAT_D128).
            0x00..=0x0b | 0x29..=0x2b => true,
            0x0c..=0x0f => self.is_walk(),
            _ => false,
        }
    }

    /// What the host gets for an abort that EL2 has no other answer to.
    #[must_use]
    pub const fn abort_answer(self) -> AbortAnswer {
        const ALIGNMENT: u8 = 0x21;
        const TLB_CONFLICT: u8 = 0x30;
        const ATOMIC_UPDATE: u8 = 0x31;
        const EXCLUSIVE_OR_ATOMIC: u8 = 0x35;
        const EXTERNAL: u8 = 0x10;
        const EXTERNAL_ON_WALK: u8 = 0x14;
        match self.fault_status() {
            status @ (ALIGNMENT | ATOMIC_UPDATE | EXCLUSIVE_OR_ATOMIC) => AbortAnswer::Own(status),
            TLB_CONFLICT => AbortAnswer::Again,
            // The level is that of stage 2, which is the best there is.
            status if self.is_walk() => AbortAnswer::External(EXTERNAL_ON_WALK | status & 3),
            _ => AbortAnswer::External(EXTERNAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABORT: u64 = 0x24 << 26;

    #[test]
    fn classes_are_those_of_the_architecture() {
        for (class, name) in [
            (0x16, Class::Hvc),
            (0x17, Class::Smc),
            (0x18, Class::SystemRegister),
            (0x20, Class::InstructionAbort),
            (0x24, Class::DataAbort),
            (0x25, Class::Other),
            (0x2f, Class::Other),
        ] {
            assert_eq!(Syndrome(class << 26 | 0x3f).class(), name);
        }
    }

    #[test]
    fn a_plain_access_is_described_as_hardware_does() {
        // STP X1, X2 to a page that is not writable, level 3; then a word of it.
        let pair = Syndrome(0x9200_004f);
        assert_eq!(pair.of_plain_access(3, true), Syndrome(0x93c0_804f));
        assert_eq!(pair.of_plain_access(2, true), Syndrome(0x9380_804f));
        // A load of a byte from an absent page, level 2.
        let load = Syndrome(0x9200_0006).of_plain_access(0, false);
        assert_eq!(load, Syndrome(0x9300_8006));
        assert_eq!(load.class(), Class::DataAbort);
        assert!(load.has_ipa() && !load.is_permission_fault());
    }

    /// Every status that DDI 0487 lists for HPFAR_EL2, and no other.
    #[test]
    fn only_stage_2_translation_faults_have_an_ipa() {
        for status in 0..64u64 {
            let alone = Syndrome(ABORT | status).has_ipa();
            let on_walk = Syndrome(ABORT | status | Syndrome::S1PTW).has_ipa();
            let translation = status < 12 || (0x29..=0x2b).contains(&status);
            let permission = (12..16).contains(&status);
            assert_eq!(alone, translation, "{status:#x}");
            assert_eq!(on_walk, translation || permission, "{status:#x}");
        }
    }

    #[test]
    fn a_fault_of_the_access_itself_stays_one() {
        for status in [0x21, 0x31, 0x35] {
            let answer = Syndrome(ABORT | status).abort_answer();
            assert_eq!(answer, AbortAnswer::Own(status as u8));
        }
        assert_eq!(Syndrome(ABORT | 0x30).abort_answer(), AbortAnswer::Again);
    }

    #[test]
    fn everything_else_is_an_external_abort() {
        for status in [0x00, 0x07, 0x0f, 0x10, 0x18, 0x3d] {
            let answer = Syndrome(ABORT | status).abort_answer();
            assert_eq!(answer, AbortAnswer::External(0x10));
        }
        for level in 0..4 {
            let answer = Syndrome(ABORT | Syndrome::S1PTW | 0x04 | level).abort_answer();
            assert_eq!(answer, AbortAnswer::External(0x14 | level as u8));
        }
    }
}

//! Whose a translation is.

use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::{Asid, Vmid};

/// VMID and ASID, as far as the stages have them (IHI 0070, 3.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(u64);

const HAS_VMID: u64 = 1 << 32;
const HAS_ASID: u64 = 1 << 33;

impl Tag {
    /// Of what both stages, or one of them, translate.
    #[must_use]
    pub fn new(vmid: Option<Vmid>, asid: Option<Asid>) -> Self {
        let vmid = vmid.map_or(0, |vmid| HAS_VMID | u64::from(vmid.0));
        let asid = asid.map_or(0, |asid| HAS_ASID | u64::from(asid.0) << 16);
        Self(vmid | asid)
    }

    /// Of what stage 2 alone makes of an address of stage 1's.
    #[must_use]
    pub const fn stage2_alone(self) -> Self {
        Self(self.0 & (HAS_VMID | 0xffff))
    }

    /// As a number, for hashing.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether stage 1 has a part in it.
    #[must_use]
    pub const fn has_asid(self) -> bool {
        self.0 & HAS_ASID != 0
    }

    const fn vmid(self) -> u16 {
        self.0 as u16
    }

    const fn asid(self) -> Option<u16> {
        if self.0 & HAS_ASID == 0 {
            None
        } else {
            Some((self.0 >> 16) as u16)
        }
    }

    /// Whether a TLBI is about translations with this tag, as far as its opcode,
    /// VMID and ASID say (4.4). Without stage 2, the VMID is 0.
    #[must_use]
    pub fn is_meant_by(self, command: &Command) -> bool {
        let vmid = self.vmid() == command.vmid().0;
        let asid = self.asid();
        match command.opcode() {
            Opcode::TLBI_NSNH_ALL => true,
            Opcode::TLBI_S12_VMALL => vmid,
            Opcode::TLBI_NH_ALL | Opcode::TLBI_NH_VAA => vmid && asid.is_some(),
            Opcode::TLBI_NH_ASID | Opcode::TLBI_NH_VA => vmid && asid == Some(command.asid().0),
            // What combines both stages has no IPA to match (4.4.3.1).
            Opcode::TLBI_S2_IPA => vmid && asid.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_mean_what_they_name() {
        let nested = Tag::new(Some(Vmid(1)), Some(Asid(7)));
        let native = Tag::new(None, Some(Asid(7)));
        let paravirt = Tag::new(Some(Vmid(1)), None);
        let who = |command: Command| {
            [nested, native, paravirt].map(|tag| u8::from(tag.is_meant_by(&command)))
        };
        assert_eq!(
            who(Command::tlbi_nh_va(Vmid(1), Asid(7), 0, true)),
            [1, 0, 0]
        );
        assert_eq!(
            who(Command::tlbi_nh_va(Vmid(0), Asid(7), 0, true)),
            [0, 1, 0]
        );
        assert_eq!(who(Command::tlbi_nh_asid(Vmid(1), Asid(8))), [0, 0, 0]);
        assert_eq!(who(Command::tlbi_nh_all(Vmid(1))), [1, 0, 0]);
        assert_eq!(who(Command::tlbi_s2_ipa(Vmid(1), 0, true)), [0, 0, 1]);
        assert_eq!(who(Command::tlbi_s12_vmall(Vmid(1))), [1, 0, 1]);
        assert_eq!(who(Command::tlbi_nsnh_all()), [1, 1, 1]);
        assert_eq!(who(Command::cfgi_all()), [0, 0, 0]);
        assert_eq!(nested.stage2_alone(), paravirt);
    }
}

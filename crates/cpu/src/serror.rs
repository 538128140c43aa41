//! SErrors on parts that say what became of them (FEAT_RAS): whose they are, and what
//! is to be done.

/// A value of ESR_EL2 for an SError that was taken from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SError(pub u64);

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SErrorAnswer {
    /// The host gets it, with this in VSESR_EL2.
    Forward(u64),
    /// EL2 cannot go on.
    Stop,
}

impl SError {
    /// ISS of the syndrome, which has the same layout in VSESR_EL2.
    const fn iss(self) -> u64 {
        self.0 & 0x1ff_ffff
    }

    /// Whether what is not in error is known to be right: the syndrome is the
    /// architecture's (IDS is 0), it is an SError (DFSC), and it was contained (AET:
    /// DDI 0487, ESR_ELx, ISS encoding for an SError exception).
    const fn is_contained(self) -> bool {
        const IDS: u64 = 1 << 24;
        const SERROR: u64 = 0x11;
        const UNCONTAINABLE: u64 = 0;
        self.0 & IDS == 0 && self.0 & 0x3f == SERROR && self.0 >> 10 & 7 != UNCONTAINABLE
    }

    /// What to do about an SError at `address` of the host's, where EL2 returned to
    /// `returned` last. Errors of EL2's own are made known before a return takes
    /// effect (SCTLR_EL2.IESB, which `synchronised` says is on), so they arrive
    /// before the host has executed an instruction. Those of the host's that arrived
    /// while EL2 ran cannot be told from them. Where it is contained, the host gets
    /// what EL2 did for it; where it is not, EL2 may have lost something of its own.
    #[must_use]
    pub const fn answer(self, address: u64, returned: u64, synchronised: bool) -> SErrorAnswer {
        let may_be_own = synchronised && address == returned;
        if may_be_own && !self.is_contained() {
            SErrorAnswer::Stop
        } else {
            SErrorAnswer::Forward(self.iss())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASS: u64 = 0x2f << 26 | 1 << 25;
    const RECOVERABLE: u64 = CLASS | 3 << 10 | 0x11;
    const UNCONTAINABLE: u64 = CLASS | 0x11;
    const OWN: u64 = CLASS | 1 << 24 | 0x33;

    #[test]
    fn the_hosts_are_the_hosts() {
        for esr in [RECOVERABLE, UNCONTAINABLE, OWN, CLASS] {
            let forward = SErrorAnswer::Forward(esr & 0x1ff_ffff);
            assert_eq!(SError(esr).answer(0x1000, 0x1004, true), forward);
            // Nothing is known without synchronisation.
            assert_eq!(SError(esr).answer(0x1000, 0x1000, false), forward);
        }
    }

    #[test]
    fn one_of_ours_that_was_not_contained_is_the_end() {
        for esr in [UNCONTAINABLE, OWN, CLASS] {
            let answer = SError(esr).answer(0x1000, 0x1000, true);
            assert_eq!(answer, SErrorAnswer::Stop, "{esr:#x}");
        }
        for aet in 1..8 {
            let esr = CLASS | aet << 10 | 0x11;
            let forward = SErrorAnswer::Forward(esr & 0x1ff_ffff);
            assert_eq!(SError(esr).answer(0x1000, 0x1000, true), forward);
        }
    }
}

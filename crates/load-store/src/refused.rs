//! Why an access is not carried out.

/// Why an instruction is not carried out in the place of the CPU that executed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// LDXR, STXR and their relatives: no device has a monitor for them.
    #[error("an exclusive access to an emulated register")]
    Exclusive,
    /// LDADD, SWP, CAS and their relatives, and accesses of 64 bytes.
    #[error("an atomic instruction on an emulated register")]
    Atomic,
    /// LD1 to LD4, ST1 to ST4.
    #[error("a load or store of SIMD structures at an emulated register")]
    Structure,
    /// SVE and SME.
    #[error("an SVE or SME instruction on an emulated register")]
    Scalable,
    /// LDRAA, LDRAB.
    #[error("a load with pointer authentication from an emulated register")]
    Authenticated,
    /// Memory tags, of MTE.
    #[error("an access to the tags of an emulated register")]
    Tag,
    /// CPY and SET, of FEAT_MOPS.
    #[error("a memory copy or set instruction on an emulated register")]
    CopyOrSet,
    /// LDR (literal): a program and registers are not in one page.
    #[error("a load relative to the PC from an emulated register")]
    Literal,
    /// DC ZVA and other instructions on whole cache lines.
    #[error("a cache instruction on an emulated register")]
    Cache,
    /// What the instruction does is CONSTRAINED UNPREDICTABLE: it writes one register
    /// twice, or the base register with two values.
    #[error("an unpredictable load or store of an emulated register")]
    Unpredictable,
    /// Registers are partly in the next page. Over a boundary of the smallest granule
    /// that is CONSTRAINED UNPREDICTABLE (DDI 0487, B2.10.3).
    #[error("an access to emulated registers that crosses a page")]
    CrossesPage,
    /// A prefetch, which never aborts.
    #[error("a prefetch in the place of an access to an emulated register")]
    Prefetch,
    /// No load or store at all.
    #[error("no load or store in the place of an access to an emulated register")]
    NotAnAccess,
    /// Among the loads and stores, and none that is known here.
    #[error("an unknown load or store at an emulated register")]
    Unknown,
    /// It loads, and the abort was a store's, or the other way round; or it would
    /// access another address.
    #[error("another instruction than the one that accessed an emulated register")]
    Another,
}

impl Refused {
    /// Whether this cannot be what caused the abort, or is unlikely to: another CPU has
    /// put it there since, and the CPU is to do what is there now.
    #[must_use]
    pub const fn may_be_new(self) -> bool {
        matches!(
            self,
            Self::Prefetch | Self::NotAnAccess | Self::Unknown | Self::Another
        )
    }
}

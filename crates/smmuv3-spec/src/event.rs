//! Event records (IHI 0070, 7.3).

use crate::{StreamId, SubstreamId};

open! {
    /// Event numbers (7.3.2 to 7.3.21). 0xe0 to 0xef are implementation
    /// defined; the architecture asks software to treat what it does not know
    /// as not fatal.
    pub struct EventKind(u8) {
        /// Unsupported upstream transaction.
        F_UUT = 0x01, "F_UUT";
        /// StreamID out of range or without level 1 descriptor.
        C_BAD_STREAMID = 0x02, "C_BAD_STREAMID";
        /// The STE could not be fetched.
        F_STE_FETCH = 0x03, "F_STE_FETCH";
        /// The STE is invalid or illegal.
        C_BAD_STE = 0x04, "C_BAD_STE";
        /// ATS translation request not allowed.
        F_BAD_ATS_TREQ = 0x05, "F_BAD_ATS_TREQ";
        /// Traffic without substream on a stream that needs one.
        F_STREAM_DISABLED = 0x06, "F_STREAM_DISABLED";
        /// ATS translated traffic not allowed.
        F_TRANSL_FORBIDDEN = 0x07, "F_TRANSL_FORBIDDEN";
        /// Substream not allowed or out of range.
        C_BAD_SUBSTREAMID = 0x08, "C_BAD_SUBSTREAMID";
        /// The CD could not be fetched.
        F_CD_FETCH = 0x09, "F_CD_FETCH";
        /// The CD is invalid or illegal.
        C_BAD_CD = 0x0a, "C_BAD_CD";
        /// A table walk met an external abort.
        F_WALK_EABT = 0x0b, "F_WALK_EABT";
        /// No translation.
        F_TRANSLATION = 0x10, "F_TRANSLATION";
        /// Output address too large.
        F_ADDR_SIZE = 0x11, "F_ADDR_SIZE";
        /// Access flag clear.
        F_ACCESS = 0x12, "F_ACCESS";
        /// Permission denied.
        F_PERMISSION = 0x13, "F_PERMISSION";
        /// Two TLB entries matched.
        F_TLB_CONFLICT = 0x20, "F_TLB_CONFLICT";
        /// Two configuration cache entries matched.
        F_CFG_CONFLICT = 0x21, "F_CFG_CONFLICT";
        /// A device hints at pages that it will want.
        E_PAGE_REQUEST = 0x24, "E_PAGE_REQUEST";
        /// The virtual machine structure could not be fetched.
        F_VMS_FETCH = 0x25, "F_VMS_FETCH";
    }
}

impl EventKind {
    /// Whether the record says which stage, class and access faulted.
    #[must_use]
    pub const fn is_translation_fault(self) -> bool {
        matches!(self.0, 0x0b | 0x10..=0x13)
    }

    /// Whether a transaction with this fault can stall (7.3.21).
    #[must_use]
    pub const fn can_stall(self) -> bool {
        matches!(self.0, 0x10..=0x13)
    }

    /// Whether `InputAddr` is recorded.
    #[must_use]
    pub const fn has_input_address(self) -> bool {
        matches!(
            self.0,
            0x01 | 0x05 | 0x07 | 0x0b | 0x10..=0x13 | 0x20 | 0x24
        )
    }

    /// Whether the kind of access (RnW, InD, PnU) is recorded.
    #[must_use]
    pub const fn has_access(self) -> bool {
        matches!(self.0, 0x01 | 0x07 | 0x0b | 0x10..=0x13 | 0x20)
    }

    /// Whether the address of a failed fetch is recorded.
    #[must_use]
    pub const fn has_fetch_address(self) -> bool {
        matches!(self.0, 0x03 | 0x09 | 0x0b | 0x25)
    }

    /// Whether an IPA is recorded when stage 2 faulted.
    #[must_use]
    pub const fn has_ipa(self) -> bool {
        matches!(self.0, 0x10..=0x13 | 0x20)
    }
}

open! {
    /// What was being accessed when a fault arose (`CLASS`, 7.3).
    pub struct Class(u8) {
        /// A context descriptor.
        CD = 0, "CD";
        /// A stage 1 table descriptor.
        TTD = 1, "TTD";
        /// The transaction's own address.
        IN = 2, "IN";
    }
}

words! {
    /// One record of the event queue, 32 bytes. Which fields mean something
    /// depends on [`kind`](Self::kind).
    pub struct EventRecord[4] {
        /// See [`EventKind`].
        kind_bits, with_kind_bits: u8 @ [7:0];
        /// The substream is valid.
        ssv, with_ssv: bool @ [11:11];
        /// Substream of the transaction.
        substream_bits, with_substream_bits: u32 @ [31:12];
        /// Stream of the transaction.
        stream_bits, with_stream_bits: u32 @ [63:32];
        /// Token of a stalled transaction.
        stag, with_stag: u16 @ [79:64];
        /// Implementation defined reason, where there is no token.
        reason, with_reason: u16 @ [79:64];
        /// The abort was a granule protection fault.
        gpcf, with_gpcf: bool @ [80:80];
        /// The transaction is stalled.
        stall, with_stall: bool @ [95:95];
        /// E_PAGE_REQUEST: unprivileged execute.
        unprivileged_execute, with_unprivileged_execute: bool @ [98:98];
        /// E_PAGE_REQUEST: unprivileged write.
        unprivileged_write, with_unprivileged_write: bool @ [99:99];
        /// E_PAGE_REQUEST: unprivileged read.
        unprivileged_read, with_unprivileged_read: bool @ [100:100];
        /// E_PAGE_REQUEST: privileged execute.
        privileged_execute, with_privileged_execute: bool @ [101:101];
        /// E_PAGE_REQUEST: privileged write.
        privileged_write, with_privileged_write: bool @ [102:102];
        /// E_PAGE_REQUEST: privileged read.
        privileged_read, with_privileged_read: bool @ [103:103];
        /// E_PAGE_REQUEST: pages of 4 KiB.
        span, with_span: u8 @ [115:108];
        /// Privileged access.
        pnu, with_pnu: bool @ [97:97];
        /// Instruction fetch.
        ind, with_ind: bool @ [98:98];
        /// Read access.
        rnw, with_rnw: bool @ [99:99];
        /// The IPA is Non-secure; Secure event queue only.
        nsipa, with_nsipa: bool @ [102:102];
        /// Stage 2 faulted.
        s2, with_s2: bool @ [103:103];
        /// See [`Class`].
        class_bits, with_class_bits: u8 @ [105:104];
        /// With class TTD: the table was read, not updated.
        ttrnw, with_ttrnw: bool @ [108:108];
        /// Address that the device put on the bus.
        input_address, with_input_address: u64 @ [191:128];
        /// IPA of the page that stage 2 refused.
        ipa, with_ipa: addr @ [247:204];
        /// Physical address of a failed fetch.
        fetch_address, with_fetch_address: addr @ [247:195];
    }
}

impl EventRecord {
    /// What happened.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        EventKind(self.kind_bits())
    }

    /// The stream of the transaction.
    #[must_use]
    pub const fn stream(&self) -> StreamId {
        StreamId(self.stream_bits())
    }

    /// The substream of the transaction, where it had one.
    #[must_use]
    pub const fn substream(&self) -> Option<SubstreamId> {
        if self.ssv() {
            Some(SubstreamId(self.substream_bits()))
        } else {
            None
        }
    }

    /// What was being accessed.
    #[must_use]
    pub const fn class(&self) -> Class {
        Class(self.class_bits())
    }
}

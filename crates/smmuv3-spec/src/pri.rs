//! Page request records (IHI 0070, 8.1 and 8.2).

use crate::{StreamId, SubstreamId};

words! {
    /// One record of the page request queue.
    pub struct PageRequest[2] {
        /// Who asks.
        stream, with_stream: u32 @ [31:0];
        /// Its substream, if [`ssv`](Self::ssv).
        substream, with_substream: u32 @ [51:32];
        /// Privileged access is wanted.
        privileged, with_privileged: bool @ [58:58];
        /// Execute access is wanted.
        execute, with_execute: bool @ [59:59];
        /// Read access is wanted.
        read, with_read: bool @ [60:60];
        /// Write access is wanted.
        write, with_write: bool @ [61:61];
        /// Last request of its group.
        last, with_last: bool @ [62:62];
        /// The substream is valid.
        ssv, with_ssv: bool @ [63:63];
        /// Group index.
        prg_index, with_prg_index: u16 @ [72:64];
        /// Page address.
        address, with_address: addr @ [127:76];
    }
}

impl PageRequest {
    /// Who asks.
    #[must_use]
    pub const fn stream_id(&self) -> StreamId {
        StreamId(self.stream())
    }

    /// For which substream, where valid.
    #[must_use]
    pub const fn substream_id(&self) -> Option<SubstreamId> {
        if self.ssv() {
            Some(SubstreamId(self.substream()))
        } else {
            None
        }
    }
}

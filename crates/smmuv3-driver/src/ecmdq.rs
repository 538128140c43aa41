//! Enhanced Command Queues of an earlier owner (IHI 0070, 3.5.6).
//!
//! Beside its command queue an SMMU may have up to 65,536 more, in register
//! pages of their own. Each can do all that the command queue can: a CMD_SYNC
//! there makes the SMMU write a word to any address. The driver uses none of
//! them and disables all. Its caller makes sure that no other software enables
//! one; [`CommandPages`] says where their registers are.

use crate::wait::{REGISTER_US, poll};
use crate::{Clock, Registers};
use smmuv3_spec::ecmdq::{CONS, CONTROL_STRIDE, Cons, ControlPageBase, PAGE_BYTES, PROD, Prod};
use smmuv3_spec::id::{Idr1, Idr6};
use smmuv3_spec::reg;

/// Why an SMMU's Enhanced Command Queues cannot be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EcmdqError {
    /// There are more pages, or more queues in one, than the architecture has.
    #[error("it has more command queues than there can be")]
    TooMany,
    /// A page is not one of registers of 64 KiB, or is where the first two
    /// register pages are.
    #[error("its command queues of page {page} are in no page of registers")]
    NoPage {
        /// The number of the page.
        page: u32,
    },
    /// A queue does not stop.
    #[error("its command queue {queue} does not stop")]
    NoStop {
        /// The number of the queue in its page.
        queue: u32,
    },
}

/// The register pages of an SMMU's Enhanced Command Queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandPages {
    /// Number of pages.
    pages: u32,
    /// log2 of the queues of each.
    queues_log2: u8,
}

impl CommandPages {
    /// Bytes of a page.
    pub const SIZE: u64 = PAGE_BYTES;

    /// Finds the pages of the SMMU with these registers; `None` if it has none.
    ///
    /// # Errors
    /// [`EcmdqError::TooMany`]
    pub fn of(regs: &impl Registers) -> Result<Option<Self>, EcmdqError> {
        if !Idr1::from(regs.read32(reg::IDR1)).ecmdq() {
            return Ok(None);
        }
        let idr6 = Idr6::from(regs.read32(reg::IDR6));
        let (pages_log2, queues_log2) = (idr6.pages_log2(), idr6.queues_log2());
        // 6.3.45: both are at most 8.
        if pages_log2 > 8 || queues_log2 > 8 {
            return Err(EcmdqError::TooMany);
        }
        Ok(Some(Self {
            pages: 1 << pages_log2,
            queues_log2,
        }))
    }

    /// The offsets of the pages from the SMMU's first register, in bytes. Each
    /// page has [`SIZE`](Self::SIZE) bytes.
    pub fn offsets<R: Registers>(&self, regs: &R) -> impl Iterator<Item = Result<u64, EcmdqError>> {
        (0..self.pages).map(move |page| {
            let base = regs.read64(reg::CMDQ_CONTROL_PAGE_BASE + page * CONTROL_STRIDE);
            let base = ControlPageBase::from(base);
            let at = base.addr_16() << 16;
            // The one size and kind there is (6.3.49).
            if base.granule() != 1 || !base.preset() || at < u64::from(reg::SIZE) {
                return Err(EcmdqError::NoPage { page });
            }
            Ok(at)
        })
    }

    /// Disables every queue of the page with the registers `page`, and returns
    /// when no queue is running.
    ///
    /// # Errors
    /// [`EcmdqError::NoStop`]: queues from that one on may still be running.
    pub fn stop(&self, page: &impl Registers, clock: &impl Clock) -> Result<(), EcmdqError> {
        // They are spaced evenly (6.2.5).
        let stride = (PAGE_BYTES as u32) >> self.queues_log2;
        for queue in 0..1u32 << self.queues_log2 {
            let at = queue * stride;
            stop_queue(page, at, clock).ok_or(EcmdqError::NoStop { queue })?;
        }
        Ok(())
    }
}

/// Disables the queue whose registers are at `at`.
fn stop_queue(page: &impl Registers, at: u32, clock: &impl Clock) -> Option<()> {
    let enabled = || {
        let prod = Prod::from(page.read32(at + PROD));
        let cons = Cons::from(page.read32(at + CONS));
        (prod.en(), cons.enack())
    };
    // While the two differ, PROD is read-only (6.3.108).
    let (on, _) = poll(clock, REGISTER_US, || {
        let (on, acknowledged) = enabled();
        (on == acknowledged).then_some((on, acknowledged))
    })?;
    if on {
        let prod = Prod::from(page.read32(at + PROD));
        page.write32(at + PROD, prod.with_en(false).into());
    }
    // With ENACK at 0 the SMMU has stopped consuming (3.5.6.2).
    poll(clock, REGISTER_US, || {
        (enabled() == (false, false)).then_some(())
    })
}

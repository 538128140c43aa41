//! Commands of somebody else, which the caller has checked.
//!
//! This is the path of a guest's or host's invalidations: as short as it can
//! be.

use crate::smmu::Smmu;
use crate::{Clock, Error, Features, Registers};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::{Command, SIG_IRQ};

/// A message that the SMMU writes when a CMD_SYNC completes: a 32-bit write
/// past every translation (IHI 0070, 4.7.3). Whoever names the address must
/// have checked that it may be written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where, a multiple of 4 that is not 0.
    pub address: PhysAddr,
    /// The 32 bits that are stored.
    pub data: u32,
    /// Memory type, encoded as `STE.MemAttr`.
    pub memory: u8,
    /// Shareability: 0 Non-shareable, 2 Outer, 3 Inner Shareable.
    pub share: u8,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Adds a command to the queue, as it is. The SMMU may take it at any time
    /// from now on, and is told of it by [`kick`](Self::kick) or
    /// [`finish`](Self::finish) at the latest. Waits while the queue is full.
    ///
    /// The caller answers for it: the opcode is one that cannot harm, VMID and
    /// stream are the issuer's, and no reserved field is set. A CMD_SYNC is not
    /// issued this way.
    ///
    /// # Errors
    /// [`Error::Fenced`], or a failure that fenced.
    #[inline]
    pub fn issue(&mut self, command: Command) -> Result<(), Error> {
        if !self.fenced && self.commands.push_fast(&self.hw, command) {
            return Ok(());
        }
        self.issue_slow(command)
    }

    #[cold]
    #[inline(never)]
    fn issue_slow(&mut self, command: Command) -> Result<(), Error> {
        self.check_not_fenced()?;
        match self.push(command) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fence_after(error)),
        }
    }

    /// Lets the SMMU see everything issued, and waits for nothing.
    #[inline]
    pub fn kick(&mut self) {
        if !self.fenced {
            self.commands.kick(&self.hw, &mut self.stats);
        }
    }

    /// Adds a CMD_SYNC, and waits until it and everything before it completed.
    ///
    /// # Errors
    /// [`Error::Command`]: the SMMU refused an issued command since this was
    /// last asked for, or an endpoint did not answer a CMD_ATC_INV
    /// (CERROR_ATC_INV_SYNC); everything else was carried out, and the SMMU
    /// works on. [`Error::Fenced`], or a failure that fenced: what is cached is
    /// unknown.
    #[inline]
    pub fn finish(&mut self) -> Result<(), Error> {
        if !self.fenced && self.commands.sync_fast(&self.hw, &mut self.stats) {
            return Ok(());
        }
        self.finish_slow()
    }

    #[cold]
    #[inline(never)]
    fn finish_slow(&mut self) -> Result<(), Error> {
        self.check_not_fenced()?;
        match self.sync() {
            Ok(()) => Ok(()),
            Err(error @ Error::Command { .. }) => Err(error),
            Err(error) => Err(self.fence_after(error)),
        }
    }

    /// Adds one CMD_SYNC for each message, in their order, and lets the SMMU
    /// see them; waits for nothing. Each message is written when everything
    /// before its CMD_SYNC completed, and after the message before it became
    /// visible (4.8).
    ///
    /// A refused command, or a message that is aborted, shows in the next
    /// [`finish`](Self::finish) or [`handle_gerror`](Self::handle_gerror).
    ///
    /// # Errors
    /// [`Error::Msi`]: nothing was done. [`Error::Fenced`], or a failure that
    /// fenced.
    #[inline]
    pub fn complete_by_msi(&mut self, messages: &[Msi]) -> Result<(), Error> {
        self.check_not_fenced()?;
        if !messages.iter().all(|msi| self.is_valid_message(msi)) {
            return Err(Error::Msi);
        }
        for msi in messages {
            let sync = Command::sync(SIG_IRQ)
                .with_msi_data(msi.data)
                .with_msi_attr(msi.memory)
                .with_msh(msi.share)
                .with_msi_address(msi.address.raw());
            self.issue(sync)?;
            self.stats.syncs += 1;
        }
        self.kick();
        Ok(())
    }

    /// An address that the SMMU would cut short would be another one.
    #[inline]
    fn is_valid_message(&self, msi: &Msi) -> bool {
        let at = msi.address.raw();
        at != 0 && at & self.msi_reserved == 0 && msi.memory < 16 && matches!(msi.share, 0 | 2 | 3)
    }
}

/// Bits of an address that no message can be sent to: all, where there are no
/// messages.
pub(crate) fn msi_reserved(features: &Features) -> u64 {
    let reachable = (1 << features.output_bits()) - 1;
    if features.idr0.msi() {
        !reachable | 0b11
    } else {
        u64::MAX
    }
}

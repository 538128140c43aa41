//! Commands that the caller issues for another owner, such as the invalidations
//! of a host or guest. The caller has checked them.
//!
//! This is the hot path of nested mode, so it is as short as possible.

use crate::smmu::Smmu;
use crate::{Clock, Error, Features, Registers};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::{Command, SIG_IRQ, SIG_NONE};

/// A message that the SMMU stores when a CMD_SYNC completes: a 32-bit store
/// that no translation checks (IHI 0070, 4.7.3). The caller has checked that
/// the address may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// The address, a multiple of 4 that is not 0.
    pub address: PhysAddr,
    /// The 32 bits that are stored.
    pub data: u32,
    /// Memory type, encoded as `STE.MemAttr`.
    pub memory: u8,
    /// Shareability: 0 Non-shareable, 2 Outer, 3 Inner Shareable.
    pub share: u8,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Adds a command to the queue without changing it. The SMMU may run it at
    /// any time from now on, and sees it after [`kick`](Self::kick) or
    /// [`finish`](Self::finish) at the latest. Waits while the queue is full.
    ///
    /// The caller is responsible for the command: its opcode is harmless, VMID
    /// and StreamID are those of its owner, and no reserved field is set. A
    /// CMD_SYNC is not issued this way.
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

    /// Makes all issued commands visible to the SMMU, without waiting.
    #[inline]
    pub fn kick(&mut self) {
        if !self.fenced {
            self.commands.kick(&self.hw, &mut self.stats);
        }
    }

    /// Adds a CMD_SYNC and makes all commands visible to the SMMU, without waiting.
    /// [`finish`](Self::finish) has less to wait for then, and returns the result. For a
    /// caller that waits for several SMMUs.
    ///
    /// # Errors
    /// As [`issue`](Self::issue).
    pub fn begin_finish(&mut self) -> Result<(), Error> {
        self.issue(Command::sync(SIG_NONE))?;
        self.stats.syncs += 1;
        self.kick();
        Ok(())
    }

    /// Adds a CMD_SYNC, and waits until it and all commands before it are
    /// complete.
    ///
    /// # Errors
    /// [`Error::Command`]: since the last call that returned this, the SMMU
    /// refused an issued command, or an endpoint did not answer a CMD_ATC_INV
    /// (CERROR_ATC_INV_SYNC). All other commands ran, and the SMMU still works.
    /// [`Error::Fenced`], or a failure that fenced: the content of the caches
    /// is unknown.
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

    /// Adds one CMD_SYNC for each message, in order, and makes them visible to
    /// the SMMU, without waiting. Each message is stored when all commands
    /// before its CMD_SYNC are complete and the message before it is visible
    /// (4.8).
    ///
    /// The next [`finish`](Self::finish) or
    /// [`handle_gerror`](Self::handle_gerror) reports a refused command or an
    /// aborted message.
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

    /// Whether the SMMU can store the message. An address with bits that the
    /// SMMU drops would be another address.
    #[inline]
    fn is_valid_message(&self, msi: &Msi) -> bool {
        let at = msi.address.raw();
        at != 0 && at & self.msi_reserved == 0 && msi.memory < 16 && matches!(msi.share, 0 | 2 | 3)
    }
}

/// Address bits that must be 0 in the address of a message: all bits, if the
/// SMMU has no messages.
pub(crate) fn msi_reserved(features: &Features) -> u64 {
    let reachable = (1 << features.output_bits()) - 1;
    if features.idr0.msi() {
        !reachable | 0b11
    } else {
        u64::MAX
    }
}

//! The command queue (IHI 0070, 3.5, 3.21.2 and 7.1).

use crate::smmu::Hardware;
use crate::wait::{COMMAND_US, poll};
use crate::{Clock, Error, Registers, Stats, Wait};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_spec::command::{Command, CommandError, Opcode, SIG_NONE};
use smmuv3_spec::control::{CmdqCons, Gerror};
use smmuv3_spec::reg;

/// Arithmetic on the positions of a queue. A position is an index with a wrap
/// bit above it (3.5.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// Mask of the index and the wrap bit.
    mask: u32,
}

impl Ring {
    /// `log2` of the number of entries is at most 19.
    pub(crate) fn new(log2: u8) -> Self {
        Self {
            mask: (2 << log2) - 1,
        }
    }

    pub(crate) fn log2(self) -> u8 {
        self.entries().trailing_zeros() as u8
    }

    #[inline]
    pub(crate) fn entries(self) -> u32 {
        (self.mask >> 1) + 1
    }

    /// Mask of the index and the wrap bit.
    #[inline]
    pub(crate) fn mask(self) -> u32 {
        self.mask
    }

    #[inline]
    pub(crate) fn slot(self, position: u32) -> u64 {
        u64::from(position & (self.mask >> 1))
    }

    #[inline]
    pub(crate) fn next(self, position: u32) -> u32 {
        position.wrapping_add(1) & self.mask
    }

    /// Number of entries from `from` to `to`; at most
    /// [`entries`](Self::entries) if the queue is consistent.
    #[inline]
    pub(crate) fn distance(self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & self.mask
    }
}

/// The most commands between two CMD_SYNCs, if a quirk bounds them.
const BOUNDED_BATCH: u32 = 62;

/// The producer's side of the command queue.
pub(crate) struct CommandQueue {
    pub(crate) base: PhysAddr,
    pub(crate) ring: Ring,
    /// The position of the next command.
    prod: u32,
    /// The value of `CMDQ_PROD`.
    published: u32,
    /// The last value read from `CMDQ_CONS.RD`. Commands before it may be
    /// overwritten.
    cons: u32,
    /// The driver's own commands are in the queue, so a refused command may be
    /// one of them.
    own_batch: bool,
    /// While `own_batch` is set: how many commands before the driver's own,
    /// issued for another owner, are not seen consumed yet.
    issued_before: u32,
    /// The first of the driver's own commands that the SMMU refused.
    own_refusal: Option<Error>,
    /// The first command issued for another owner that the SMMU refused since
    /// the last call that returned one.
    issued_refusal: Option<Error>,
    /// The fast path must not be taken, because of one of the above or of a
    /// quirk.
    fast_path_off: bool,
    bounded: bool,
    since_sync: u32,
}

impl CommandQueue {
    pub(crate) fn new(base: PhysAddr, log2: u8, bounded: bool) -> Self {
        Self {
            base,
            ring: Ring::new(log2),
            prod: 0,
            published: 0,
            cons: 0,
            own_batch: false,
            issued_before: 0,
            own_refusal: None,
            issued_refusal: None,
            fast_path_off: bounded,
            bounded,
            since_sync: 0,
        }
    }

    #[inline]
    fn address(&self, position: u32) -> PhysAddr {
        PhysAddr::new(self.base.raw() + self.ring.slot(position) * Command::SIZE)
    }

    /// Marks the commands from now on until [`sync`](Self::sync) as the
    /// driver's own. Their refusals are kept apart from those of commands that
    /// were issued before.
    pub(crate) fn begin(&mut self) {
        if !self.own_batch {
            self.own_batch = true;
            self.fast_path_off = true;
            self.issued_before = self.ring.distance(self.cons, self.prod);
        }
    }

    /// Adds a command on the fast path; `false` if the fast path cannot be
    /// taken and nothing was done. The SMMU sees the command after the next
    /// [`kick`](Self::kick) at the latest.
    #[inline]
    pub(crate) fn push_fast<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        command: Command,
    ) -> bool {
        let room = self.ring.distance(self.cons, self.prod) < self.ring.entries();
        if room && !self.fast_path_off {
            self.store_command(hw, command);
        }
        room && !self.fast_path_off
    }

    #[inline]
    fn store_command<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        command: Command,
    ) {
        let at = self.address(self.prod);
        hw.mem.store(at, command.0[0]);
        hw.mem.store(PhysAddr::new(at.raw() + 8), command.0[1]);
        self.prod = self.ring.next(self.prod);
    }

    /// Adds a command. Waits for room if the queue is full.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::BadConsumer`], [`Error::ServiceFailure`]
    /// when the queue was full and did not drain.
    pub(crate) fn push<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        command: Command,
    ) -> Result<(), Error> {
        if self.bounded {
            self.bound_batch(hw, stats, &command)?;
        }
        self.push_when_room(hw, stats, command)
    }

    /// Adds a CMD_SYNC before `next` if a quirk demands one.
    fn bound_batch<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        next: &Command,
    ) -> Result<(), Error> {
        let sync = next.opcode() == Opcode::SYNC;
        if !sync && self.since_sync >= BOUNDED_BATCH {
            self.push_when_room(hw, stats, Command::sync(SIG_NONE))?;
            stats.syncs += 1;
            self.since_sync = 0;
        }
        self.since_sync = if sync { 0 } else { self.since_sync + 1 };
        Ok(())
    }

    fn push_when_room<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        command: Command,
    ) -> Result<(), Error> {
        if self.ring.distance(self.cons, self.prod) >= self.ring.entries() {
            self.kick(hw, stats);
            let full = self.cons;
            self.wait(hw, stats, |queue| queue.cons != full)?;
        }
        self.store_command(hw, command);
        Ok(())
    }

    /// Makes all pushed commands visible to the SMMU.
    #[inline]
    pub(crate) fn kick<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
    ) {
        let count = u64::from(self.ring.distance(self.published, self.prod));
        if count == 0 {
            return;
        }
        let end = self.ring.slot(self.published) + count;
        let wrapped = end.saturating_sub(self.ring.entries().into());
        let at = self.address(self.published);
        hw.mem.publish(at, (count - wrapped) * Command::SIZE);
        if wrapped != 0 {
            hw.mem.publish(self.base, wrapped * Command::SIZE);
        }
        hw.regs.write32(reg::CMDQ_PROD, self.prod);
        self.published = self.prod;
        stats.commands += count;
    }

    /// Adds a CMD_SYNC on the fast path; `true` if the first read of
    /// `CMDQ_CONS` shows that it is complete. No clock is read.
    ///
    /// With SIG_NONE, a CMD_SYNC is complete when it is consumed (4.7.3), so
    /// reading `CMDQ_CONS` is enough.
    #[inline]
    pub(crate) fn sync_fast<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
    ) -> bool {
        if !self.push_fast(hw, Command::sync(SIG_NONE)) {
            return false;
        }
        stats.syncs += 1;
        self.kick(hw, stats);
        let seen = hw.regs.read32(reg::CMDQ_CONS) & self.ring.mask();
        // If it is not complete, the slow path adds another CMD_SYNC, which
        // does no harm.
        let done = seen == self.prod;
        if done {
            self.cons = seen;
        }
        done
    }

    /// Adds a CMD_SYNC and waits until it and all commands before it are
    /// complete.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Error::Command`] if the SMMU refused a
    /// command: one of the driver's own after [`begin`](Self::begin), else an
    /// issued one. The queue then still works.
    pub(crate) fn sync<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
    ) -> Result<(), Error> {
        self.push(hw, stats, Command::sync(SIG_NONE))?;
        stats.syncs += 1;
        self.kick(hw, stats);
        self.wait(hw, stats, |queue| queue.cons == queue.prod)?;
        let own = core::mem::take(&mut self.own_batch);
        let refused = if own {
            self.own_refusal.take()
        } else {
            self.issued_refusal.take()
        };
        self.fast_path_off = self.bounded || self.issued_refusal.is_some();
        refused.map_or(Ok(()), Err)
    }

    fn wait<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Error> {
        let result = poll(&hw.clock, COMMAND_US, || {
            let before = self.cons;
            if let Err(error) = self.read_cons(hw) {
                return Some(Err(error));
            }
            if done(self) {
                return Some(Ok(()));
            }
            if self.cons != before {
                return None;
            }
            // A second register is read only when the queue makes no progress.
            self.recover_from_error(hw, stats).err().map(Err)
        });
        result.unwrap_or_else(|| {
            stats.timeouts += 1;
            Err(Error::Timeout(Wait::Commands))
        })
    }

    /// Reads `CMDQ_CONS` and checks the index. With an index outside of the
    /// submitted commands, commands would be overwritten before the SMMU has
    /// read them.
    fn read_cons<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
    ) -> Result<CmdqCons, Error> {
        let value = CmdqCons::from(hw.regs.read32(reg::CMDQ_CONS));
        let read = value.rd() & self.ring.mask();
        let done = self.ring.distance(self.cons, read);
        if done > self.ring.distance(self.cons, self.published) {
            return Err(Error::BadConsumer {
                value: value.into(),
            });
        }
        self.issued_before = self.issued_before.saturating_sub(done);
        self.cons = read;
        Ok(value)
    }

    /// Keeps the refusal of the command at `cons` for the owner of the command.
    fn note_refusal(&mut self, opcode: Opcode, error: CommandError) {
        // A CMD_RESUME answers an event, and no operation waits for it. Its
        // refusal must not fail the next operation.
        if opcode == Opcode::RESUME {
            return;
        }
        // The driver itself never sends a CMD_ATC_INV. So if its CMD_SYNC
        // reports a failed one, its own commands did not fail.
        let own = self.own_batch && self.issued_before == 0 && error != CommandError::ATC_INV_SYNC;
        let first = if own {
            &mut self.own_refusal
        } else {
            &mut self.issued_refusal
        };
        first.get_or_insert(Error::Command { error, opcode });
        self.fast_path_off = true;
    }

    /// Checks for a command error. If there is one, replaces the refused
    /// command by a CMD_SYNC and lets the queue continue (7.1).
    ///
    /// # Errors
    /// [`Error::ServiceFailure`], [`Error::BadConsumer`].
    pub(crate) fn recover_from_error<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
    ) -> Result<(), Error> {
        let acknowledged = hw.regs.read32(reg::GERRORN);
        let active = Gerror::from(hw.regs.read32(reg::GERROR) ^ acknowledged);
        if active.sfm_err() {
            return Err(Error::ServiceFailure);
        }
        if !active.cmdq_err() {
            return Ok(());
        }
        let value = self.read_cons(hw)?;
        if self.cons == self.published {
            // The error belongs to no command, so no command can be replaced.
            return Err(Error::BadConsumer {
                value: value.into(),
            });
        }
        let at = self.address(self.cons);
        let command = Command([hw.mem.load(at), hw.mem.load(PhysAddr::new(at.raw() + 8))]);
        let (opcode, error) = (command.opcode(), CommandError(value.err()));
        stats.command_errors += 1;
        self.note_refusal(opcode, error);
        // A CMD_SYNC that reports a failed CMD_ATC_INV is correct itself, and
        // its issuer may wait for its message. So it is sent again (3.9.1.4).
        let again = opcode == Opcode::SYNC && error == CommandError::ATC_INV_SYNC;
        let sync = if again {
            command
        } else {
            Command::sync(SIG_NONE)
        };
        hw.mem.store(at, sync.0[0]);
        hw.mem.store(PhysAddr::new(at.raw() + 8), sync.0[1]);
        hw.mem.publish(at, Command::SIZE);
        // Only this error is acknowledged; `handle_gerror` acknowledges the
        // others.
        let ack = Gerror::from(acknowledged);
        hw.regs
            .write32(reg::GERRORN, ack.with_cmdq_err(!ack.cmdq_err()).into());
        Ok(())
    }
}

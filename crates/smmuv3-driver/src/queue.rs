//! The command queue (IHI 0070, 3.5, 3.21.2 and 7.1).

use crate::smmu::Hardware;
use crate::wait::{COMMAND_US, poll};
use crate::{Clock, Error, Registers, Stats, Wait};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use smmuv3_spec::command::{Command, CommandError, Opcode, SIG_NONE};
use smmuv3_spec::control::{CmdqCons, Gerror};
use smmuv3_spec::reg;

/// Positions of a queue: an index with a wrap bit above it (3.5.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    /// log2 of the number of entries, at most 19.
    pub(crate) log2: u8,
}

impl Ring {
    pub(crate) fn entries(self) -> u32 {
        1 << self.log2
    }

    /// Index and wrap bit.
    pub(crate) fn mask(self) -> u32 {
        (2 << self.log2) - 1
    }

    pub(crate) fn slot(self, position: u32) -> u64 {
        u64::from(position & (self.entries() - 1))
    }

    pub(crate) fn next(self, position: u32) -> u32 {
        position.wrapping_add(1) & self.mask()
    }

    /// Entries from `from` up to `to`, at most [`entries`](Self::entries) in a
    /// consistent queue.
    pub(crate) fn distance(self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & self.mask()
    }
}

/// Most commands between two CMD_SYNC where a quirk bounds them.
const BOUNDED_BATCH: u32 = 62;

/// The producer's side of the command queue.
pub(crate) struct CommandQueue {
    pub(crate) base: PhysAddr,
    pub(crate) ring: Ring,
    /// Where the next command goes.
    prod: u32,
    /// What `CMDQ_PROD` holds.
    published: u32,
    /// The last `CMDQ_CONS.RD` seen; what lies before it may be overwritten.
    cons: u32,
    /// First command that the SMMU refused since the last sync.
    refused: Option<Error>,
    bounded: bool,
    since_sync: u32,
}

impl CommandQueue {
    pub(crate) fn new(base: PhysAddr, log2: u8, bounded: bool) -> Self {
        Self {
            base,
            ring: Ring { log2 },
            prod: 0,
            published: 0,
            cons: 0,
            refused: None,
            bounded,
            since_sync: 0,
        }
    }

    fn address(&self, position: u32) -> PhysAddr {
        PhysAddr::new(self.base.raw() + self.ring.slot(position) * Command::SIZE)
    }

    /// Adds a command. The SMMU sees it at the next [`kick`](Self::kick) at the
    /// latest.
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
        if self.bounded && self.since_sync >= BOUNDED_BATCH && command.opcode() != Opcode::SYNC {
            self.place(hw, stats, Command::sync(SIG_NONE))?;
        }
        self.place(hw, stats, command)
    }

    fn place<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        command: Command,
    ) -> Result<(), Error> {
        if self.ring.distance(self.cons, self.prod) >= self.ring.entries() {
            self.kick(hw);
            let full = self.cons;
            self.wait(hw, stats, |queue| queue.cons != full)?;
        }
        let at = self.address(self.prod);
        hw.mem.store(at, command.0[0]);
        hw.mem.store(PhysAddr::new(at.raw() + 8), command.0[1]);
        self.prod = self.ring.next(self.prod);
        stats.commands += 1;
        if command.opcode() == Opcode::SYNC {
            self.since_sync = 0;
            stats.syncs += 1;
        } else {
            self.since_sync += 1;
        }
        Ok(())
    }

    /// Makes everything pushed visible to the SMMU.
    pub(crate) fn kick<R: Registers, M: Memory, C: Clock>(&mut self, hw: &Hardware<R, M, C>) {
        let count = u64::from(self.ring.distance(self.published, self.prod));
        if count == 0 {
            return;
        }
        let first = self.ring.slot(self.published);
        let until_end = u64::from(self.ring.entries()) - first;
        let at = self.address(self.published);
        hw.mem.publish(at, count.min(until_end) * Command::SIZE);
        if count > until_end {
            hw.mem
                .publish(self.base, (count - until_end) * Command::SIZE);
        }
        hw.regs.write32(reg::CMDQ_PROD, self.prod);
        self.published = self.prod;
    }

    /// Adds a CMD_SYNC and waits until it and everything before it completed.
    ///
    /// # Errors
    /// As [`push`](Self::push), and [`Error::Command`] when the SMMU refused a
    /// command since the last sync: the queue then works on.
    pub(crate) fn sync<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
    ) -> Result<(), Error> {
        // With SIG_NONE, the consumption of the CMD_SYNC is its completion
        // (4.7.3), so CONS is all there is to look at.
        self.push(hw, stats, Command::sync(SIG_NONE))?;
        self.kick(hw);
        self.wait(hw, stats, |queue| queue.cons == queue.prod)?;
        self.refused.take().map_or(Ok(()), Err)
    }

    fn wait<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
        stats: &mut Stats,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), Error> {
        let result = poll(&hw.clock, COMMAND_US, || {
            if let Err(error) = self.observe(hw) {
                return Some(Err(error));
            }
            if done(self) {
                return Some(Ok(()));
            }
            // Only a queue that stands still is worth a second register read.
            self.recover(hw, stats).err().map(Err)
        });
        result.unwrap_or_else(|| {
            stats.timeouts += 1;
            Err(Error::Timeout(Wait::Commands))
        })
    }

    /// Reads how far the SMMU is. The index is checked: a value outside what
    /// was submitted would let commands be overwritten before they are read.
    fn observe<R: Registers, M: Memory, C: Clock>(
        &mut self,
        hw: &Hardware<R, M, C>,
    ) -> Result<CmdqCons, Error> {
        let value = CmdqCons::from(hw.regs.read32(reg::CMDQ_CONS));
        let read = value.rd() & self.ring.mask();
        if self.ring.distance(self.cons, read) > self.ring.distance(self.cons, self.published) {
            return Err(Error::BadConsumer {
                value: value.into(),
            });
        }
        self.cons = read;
        Ok(value)
    }

    /// Looks for a command error and, if there is one, replaces the command by
    /// a CMD_SYNC and lets the queue run on (7.1).
    ///
    /// # Errors
    /// [`Error::ServiceFailure`], [`Error::BadConsumer`].
    pub(crate) fn recover<R: Registers, M: Memory, C: Clock>(
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
        let value = self.observe(hw)?;
        if self.cons == self.published {
            // An error without a command: nothing can be replaced.
            return Err(Error::BadConsumer {
                value: value.into(),
            });
        }
        let at = self.address(self.cons);
        let opcode = Command([hw.mem.load(at), 0]).opcode();
        stats.command_errors += 1;
        // A CMD_RESUME answers an event and belongs to no operation that waits;
        // refusing it must not fail the operation that happens to come next.
        if opcode != Opcode::RESUME {
            self.refused.get_or_insert(Error::Command {
                error: CommandError(value.err()),
                opcode,
            });
        }
        let sync = Command::sync(SIG_NONE);
        hw.mem.store(at, sync.0[0]);
        hw.mem.store(PhysAddr::new(at.raw() + 8), sync.0[1]);
        hw.mem.publish(at, Command::SIZE);
        // Acknowledge this error alone; others are for handle_gerror.
        let ack = Gerror::from(acknowledged);
        hw.regs
            .write32(reg::GERRORN, ack.with_cmdq_err(!ack.cmdq_err()).into());
        Ok(())
    }
}

//! The physical ITS: taken over with tables of our own, and told commands.
//!
//! It fails closed: an ITS that stalls or does not answer is disabled, and
//! nothing that it may still refer to is used again.

mod tables;

pub use tables::DeviceTable;

use crate::command::{COMMAND_BYTES, Command};
use crate::ids::{DeviceId, RedistributorId};
use crate::platform::{Clock, Registers, Share, TableMemory};
use crate::reg::{self, Typer};
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use thiserror::Error;

/// How long the ITS may take to become quiescent, or to consume commands.
const TIMEOUT_US: u64 = 100_000;

/// Bytes of the command queue: 2,048 commands. `GITS_CBASER` holds bits 51:16
/// of an address of that alignment on every implementation.
const QUEUE_BYTES: u64 = 0x1_0000;

/// Why a physical ITS could not be taken over. It is disabled then, or did not
/// even become so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TakeOverError {
    /// `GITS_CTLR.Quiescent` did not become 1 within 100 ms.
    #[error("the ITS does not become quiescent")]
    NotQuiescent,
    /// `GITS_PIDR2.ArchRev` is neither 3 nor 4.
    #[error("its architecture revision is {0}, not 3 or 4")]
    Revision(u8),
    /// No `GITS_BASER<n>` has the type of a device table.
    #[error("it has no device table")]
    NoDeviceTable,
    /// It holds fewer collections than there are CPUs, and has no table for
    /// more.
    #[error("it has no room for a collection of each CPU")]
    NoCollections,
    /// A base register did not keep what was written.
    #[error("base register {0} does not take a table of that size")]
    Table(u32),
    /// The command queue's base register did not keep what was written.
    #[error("it does not take a command queue")]
    Queue,
    /// There is no memory for its tables.
    #[error("there is no memory left for its tables")]
    NoMemory,
}

/// Why a physical ITS is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// `GITS_CREADR.Stalled` stayed 1 after a retry.
    #[error("it stalled at a command")]
    Stalled,
    /// It did not consume its commands within 100 ms.
    #[error("it does not answer")]
    Silent,
}

/// Disables an ITS, whatever state it was left in, and says whether it sees the
/// CPUs' caches. To be called for every ITS before memory for tables is chosen.
///
/// # Errors
/// [`TakeOverError::NotQuiescent`] and [`TakeOverError::Revision`]; the ITS is
/// not to be used then, and may still access memory as it was told before.
pub fn quiesce<R: Registers>(registers: &R, clock: &impl Clock) -> Result<bool, TakeOverError> {
    let revision = (registers.read32(reg::PIDR2) >> 4 & 0xf) as u8;
    if !matches!(revision, 3 | 4) {
        return Err(TakeOverError::Revision(revision));
    }
    disable(registers, clock)?;
    let probe = reg::INNER_SHAREABLE | reg::ITS_WRITE_BACK;
    registers.write64(reg::CBASER, probe);
    let mut coherent = registers.read64(reg::CBASER) & reg::SHAREABILITY != 0;
    registers.write64(reg::CBASER, 0);
    // One table that the ITS reads past the caches is enough for all of EL2's to be
    // cleaned to memory.
    for index in 0..reg::BASERS {
        let offset = reg::BASER + index * 8;
        if reg::baser_type(registers.read64(offset)) != 0 {
            registers.write64(offset, probe);
            coherent &= registers.read64(offset) & reg::SHAREABILITY != 0;
            registers.write64(offset, 0);
        }
    }
    Ok(coherent)
}

/// The highest DeviceID up to `highest` that the ITS has. What is above names no
/// entry of its table, and a command with it is an error, at which it may stall
/// (IHI 0069, `GITS_TYPER.Devbits`).
pub(crate) fn last_device<R: Registers>(registers: &R, highest: DeviceId) -> DeviceId {
    let bits = Typer(registers.read64(reg::TYPER)).device_bits();
    // 1 to 32.
    highest.min(DeviceId(u32::MAX >> (32 - u32::from(bits))))
}

/// Bytes of memory that [`Emulator::add_its`](crate::Emulator::add_its) takes for
/// an ITS that was [quiesced](quiesce), with devices up to `highest`.
///
/// # Errors
/// As when it is taken over.
pub fn table_bytes<R: Registers>(
    registers: &R,
    highest: DeviceId,
    redistributors: u8,
) -> Result<u64, TakeOverError> {
    let highest = last_device(registers, highest);
    let own = crate::devices::Devices::bytes(highest);
    let tables = tables::bytes(registers, highest, redistributors)?;
    // The queue, and what its alignment may cost.
    Ok(own + tables + 2 * QUEUE_BYTES)
}

/// One physical ITS.
#[derive(Debug)]
pub struct Physical<R> {
    registers: R,
    typer: Typer,
    devices: DeviceTable,
    queue: PhysAddr,
    /// Offset of the next command.
    next: u64,
    /// Offset of the first command that the ITS was not told of.
    untold: u64,
    fault: Option<Fault>,
}

impl<R: Registers> Physical<R> {
    /// Takes the ITS over: disabled, then enabled with empty tables for every
    /// DeviceID up to `highest`, and a collection for each of `redistributors`
    /// redistributors, by its index.
    ///
    /// # Errors
    /// See [`TakeOverError`].
    pub fn take_over(
        registers: R,
        memory: &impl TableMemory,
        clock: &impl Clock,
        highest: DeviceId,
        redistributors: u8,
    ) -> Result<Self, TakeOverError> {
        quiesce(&registers, clock)?;
        let typer = Typer(registers.read64(reg::TYPER));
        let devices = tables::install(&registers, memory, highest, redistributors)?;
        let queue = memory
            .take(QUEUE_BYTES, QUEUE_BYTES)
            .ok_or(TakeOverError::NoMemory)?;
        install_queue(&registers, queue)?;
        registers.write32(reg::CTLR, reg::CTLR_ENABLED);
        Ok(Self {
            registers,
            typer,
            devices,
            queue,
            next: 0,
            untold: 0,
            fault: None,
        })
    }

    /// `GITS_TYPER`.
    pub fn typer(&self) -> Typer {
        self.typer
    }

    /// `GITS_IIDR`.
    pub(crate) fn iidr(&self) -> u32 {
        self.registers.read32(reg::IIDR)
    }

    /// The 64 bits at `offset` of the identification registers, which is a
    /// multiple of 8 from 0xffd0 on, of an ITS of architecture revision 3.
    pub(crate) fn id_registers(&self, offset: u32) -> u64 {
        let half = |offset| {
            let value = self.registers.read32(offset);
            if offset == reg::PIDR2 {
                value & !0xf0 | 0x30
            } else {
                value
            }
        };
        u64::from(half(offset.wrapping_add(4))) << 32 | u64::from(half(offset))
    }

    /// The device table.
    pub(crate) fn devices(&self) -> &DeviceTable {
        &self.devices
    }

    /// The failure that ended the use of this ITS, if there was one.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Gives the memory back that the device table took for devices, of which none
    /// is mapped. Whether there was any: the ITS was disabled for a moment then,
    /// since no table may change under one that is not (IHI 0069, `GITS_BASER<n>`).
    pub(crate) fn drop_second_level(&mut self, share: &impl Share, clock: &impl Clock) -> bool {
        if !self.devices.has_second_level(share) || self.complete(share, clock).is_err() {
            return false;
        }
        if disable(&self.registers, clock).is_err() {
            self.fault = Some(Fault::Silent);
            return false;
        }
        self.devices.drop_second_level(share);
        self.registers.write32(reg::CTLR, reg::CTLR_ENABLED);
        true
    }

    /// Puts a command into the queue; [`complete`](Self::complete) tells the ITS
    /// of it. Where the queue is full, what is in it is completed first.
    #[inline(always)]
    pub(crate) fn push(&mut self, memory: &impl Memory, clock: &impl Clock, command: Command) {
        let after = (self.next + COMMAND_BYTES) % QUEUE_BYTES;
        if after == self.untold {
            self.make_room(memory, clock);
        }
        // An ITS that failed never reads what is written to its queue.
        let at = self.queue.raw().wrapping_add(self.next);
        memory.store_words(PhysAddr::new(at), command.encode());
        self.next = after;
    }

    /// The outcome is seen when the caller completes the rest.
    #[cold]
    fn make_room(&mut self, memory: &impl Memory, clock: &impl Clock) {
        let _ = self.complete(memory, clock);
    }

    /// Waits until the ITS has consumed every command.
    ///
    /// # Errors
    /// See [`Fault`]. The ITS is disabled then, for good; the error comes again
    /// at every later call.
    #[inline(always)]
    pub(crate) fn complete(
        &mut self,
        memory: &impl Memory,
        clock: &impl Clock,
    ) -> Result<(), Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.untold == self.next {
            return Ok(());
        }
        self.publish(memory);
        self.untold = self.next;
        self.registers.write64(reg::CWRITER, self.next);
        let read = self.registers.read64(reg::CREADR);
        if read & (reg::QUEUE_OFFSET | reg::CREADR_STALLED) == self.next {
            return Ok(());
        }
        self.wait(clock)
    }

    /// Makes the commands since the last time visible to the ITS.
    fn publish(&self, memory: &impl Memory) {
        let at = |offset: u64| PhysAddr::new(self.queue.raw().wrapping_add(offset));
        if self.untold < self.next {
            memory.publish(at(self.untold), self.next - self.untold);
        } else {
            memory.publish(at(self.untold), QUEUE_BYTES - self.untold);
            memory.publish(at(0), self.next);
        }
    }

    #[cold]
    fn wait(&mut self, clock: &impl Clock) -> Result<(), Fault> {
        let deadline = clock.now_us().saturating_add(TIMEOUT_US);
        let mut retried = false;
        let fault = loop {
            let read = self.registers.read64(reg::CREADR);
            if read & reg::CREADR_STALLED != 0 {
                // Not a command of ours that is wrong, as far as we know: once
                // more (IHI 0069, GITS_CWRITER.Retry).
                if retried {
                    break Fault::Stalled;
                }
                retried = true;
                let again = self.next | reg::CWRITER_RETRY;
                self.registers.write64(reg::CWRITER, again);
            } else if read & reg::QUEUE_OFFSET == self.next {
                return Ok(());
            }
            if clock.now_us() > deadline {
                break if read & reg::CREADR_STALLED != 0 {
                    Fault::Stalled
                } else {
                    Fault::Silent
                };
            }
            clock.relax();
        };
        self.registers.write32(reg::CTLR, 0);
        self.fault = Some(fault);
        Err(fault)
    }
}

/// The collection that sends to a redistributor, on every physical ITS: it is
/// mapped once, when the redistributor comes up, and never moved. So no
/// collection in use ever changes (which is UNPREDICTABLE, IHI 0069, MAPC).
pub(crate) fn collection_of(redistributor: RedistributorId) -> crate::ids::CollectionId {
    crate::ids::CollectionId(redistributor.0.into())
}

fn disable<R: Registers>(registers: &R, clock: &impl Clock) -> Result<(), TakeOverError> {
    registers.write32(reg::CTLR, 0);
    let deadline = clock.now_us().saturating_add(TIMEOUT_US);
    while registers.read32(reg::CTLR) & reg::CTLR_QUIESCENT == 0 {
        if clock.now_us() > deadline {
            return Err(TakeOverError::NotQuiescent);
        }
        clock.relax();
    }
    Ok(())
}

fn install_queue<R: Registers>(registers: &R, queue: PhysAddr) -> Result<(), TakeOverError> {
    let pages = QUEUE_BYTES / 0x1000 - 1;
    let plain = reg::VALID | queue.raw() & reg::CBASER_ADDRESS | pages;
    registers.write64(
        reg::CBASER,
        plain | reg::INNER_SHAREABLE | reg::ITS_WRITE_BACK,
    );
    let mut kept = registers.read64(reg::CBASER);
    if kept & reg::SHAREABILITY == 0 {
        // It does not see the caches, and must not believe that it does.
        registers.write64(reg::CBASER, plain | reg::ITS_NON_CACHEABLE);
        kept = registers.read64(reg::CBASER);
    }
    let right = reg::VALID | reg::CBASER_ADDRESS | 0xff;
    if kept & right != plain & right {
        return Err(TakeOverError::Queue);
    }
    registers.write64(reg::CWRITER, 0);
    Ok(())
}

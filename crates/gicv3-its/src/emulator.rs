//! Every emulated ITS of one owner, the redistributors that they send to, and
//! the LPIs that they share: all under one lock of the caller's.

use crate::command::{Command, Event};
use crate::devices::Devices;
use crate::ids::{FIRST_LPI, Lpi, RedistributorId, Target};
use crate::its::{Counts, DeviceRange, EmulatedIts};
use crate::lpis::{LpiCount, Lpis, Row};
use crate::physical::{Physical, TakeOverError, collection_of, last_device};
use crate::platform::{Clock, Platform, Registers, Report, Share, TableMemory};
use crate::redistributor::{self, LpiError, Redistributor, Redistributors};
use crate::reg;
use crate::register_writes::ItsCall;
use portcullis_addr::{Ipa, Range};
use portcullis_owner_memory::{Progress, Size, Window};

/// Most ITSs.
pub const ITS_LIMIT: usize = 16;

/// Units of work that one call does: a command takes 4, an LPI that is looked at
/// 4, a word of a table 1, a page of a device's tables 1.
pub(crate) const BUDGET: u32 = 1024;

/// The work that a call may still do.
#[derive(Debug)]
pub(crate) struct Budget(u32);

impl Budget {
    pub(crate) fn new() -> Self {
        Self(BUDGET)
    }

    /// Takes `units`; `false` when nothing is left.
    #[inline]
    pub(crate) fn spend(&mut self, units: u32) -> bool {
        let left = self.0 != 0;
        self.0 = self.0.saturating_sub(units);
        left
    }
}

/// The state that all ITSs share.
#[derive(Debug)]
pub(crate) struct Common<T, C, W> {
    pub(crate) share: T,
    pub(crate) clock: C,
    pub(crate) lpis: Lpis,
    pub(crate) redistributors: Redistributors,
    /// The owner's configuration table, held while a redistributor that has it
    /// is enabled. Owners have one for all redistributors.
    pub(crate) table: Option<W>,
    pub(crate) report: Option<Report>,
}

impl<T: Share, C: Clock, W: Window> Common<T, C, W> {
    /// Gives `lpi` the configuration that the owner has for it at its
    /// redistributor. Returns whether the redistributor has to be informed.
    ///
    /// An LPI without a redistributor keeps its configuration: no ITS knows it,
    /// so no command could make a redistributor drop its copy.
    #[inline(always)]
    pub(crate) fn configure(
        &self,
        platform: &impl Platform<Window = W>,
        lpi: Lpi,
        at: Option<RedistributorId>,
    ) -> bool {
        let Some(at) = at else {
            return false;
        };
        let wanted = self.owner_configuration(platform, lpi, at);
        let share = self.share.clone();
        self.lpis.configure(&share, lpi, wanted)
    }

    /// The configuration that the owner has for `lpi` where it is sent to `at`.
    #[inline(always)]
    fn owner_configuration(
        &self,
        platform: &impl Platform<Window = W>,
        lpi: Lpi,
        at: RedistributorId,
    ) -> Option<u8> {
        let at = self.redistributors.get(at)?.configuration_of(lpi)?;
        if let Some(table) = &self.table {
            let range = table.range();
            let offset = at.raw().wrapping_sub(range.start().raw());
            if offset < range.size() {
                return load_byte(table, offset);
            }
        }
        read_byte(platform, at)
    }

    /// Holds the configuration table of the redistributor at `id`, which is
    /// enabled, unless it is held already; or releases the table that no
    /// redistributor uses.
    fn hold_table(&mut self, platform: &impl Platform<Window = W>, id: RedistributorId) {
        let own = self.redistributors.get(id).and_then(|one| one.table());
        let uses = |range: Range<Ipa>| {
            let mut all = self.redistributors.all();
            all.any(|one| one.table().is_some_and(|own| own.overlaps(&range)))
        };
        if let Some(table) = &self.table {
            if uses(table.range()) {
                return;
            }
            if let Some(table) = self.table.take() {
                platform.close(table);
            }
        }
        // Where it is not the owner's memory, no byte of it is read either.
        let bytes = u64::from(self.lpis.count().host);
        if let Some(own) = own
            && let Ok(range) = Range::from_size(own.start(), own.size().min(bytes))
        {
            self.table = platform.open(range).ok();
        }
    }
}

/// The byte at `offset`, which `table` has; `None` where it cannot be read.
#[inline(always)]
fn load_byte(table: &impl Window, offset: u64) -> Option<u8> {
    let byte = (table.load(offset & !7) >> ((offset & 7) * 8)) as u8;
    (!table.aborted()).then_some(byte)
}

#[cold]
fn read_byte(platform: &impl Platform, at: Ipa) -> Option<u8> {
    let mut word = [0];
    platform
        .read(Ipa::new(at.raw() & !7), &mut word)
        .ok()
        .map(|()| (word[0] >> ((at.raw() & 7) * 8)) as u8)
}

/// The result of an owner's write to a redistributor's RD frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum RdWrite {
    /// The emulation handled the write, with this progress.
    Emulated(Progress),
    /// The write is done, and the caller writes this value to the physical
    /// `GICR_CTLR`.
    Control(u32),
    /// The register is not about LPIs.
    Other,
}

/// The emulated ITSs and redistributors of an owner.
///
/// `R` are the physical ITS' registers, `T` the share of memory that the owner's
/// devices use up, `W` memory of the owner's that is held. Every call does a
/// bounded amount of work and waits for the physical ITS a bounded time; it ends
/// with the physical ITS having consumed every command that it was sent.
#[derive(Debug)]
pub struct Emulator<R, T, C, W> {
    common: Common<T, C, W>,
    units: [Option<EmulatedIts<R, W>>; ITS_LIMIT],
}

impl<R: Registers, T: Share, C: Clock, W: Window> Emulator<R, T, C, W> {
    /// No ITS and no redistributor yet. `None` when `memory` has no room for the
    /// tables of `count` LPIs.
    #[must_use]
    pub fn new(memory: &impl TableMemory, share: T, clock: C, count: LpiCount) -> Option<Self> {
        Some(Self {
            common: Common {
                share,
                clock,
                lpis: Lpis::new(memory, count)?,
                redistributors: Redistributors::new(),
                table: None,
                report: None,
            },
            units: [const { None }; ITS_LIMIT],
        })
    }

    /// Adds the redistributor of the CPU at index `id`, which commands name
    /// `target`. Its physical LPIs were disabled.
    ///
    /// `false` when there is no memory for its pending table, or the index is
    /// too large.
    #[must_use]
    pub fn add_redistributor(
        &mut self,
        memory: &impl TableMemory,
        id: RedistributorId,
        target: Target,
    ) -> bool {
        const ALIGNMENT: u64 = 0x1_0000;
        let bytes = self.common.lpis.count().pending_bytes();
        let Some(pending) = memory.take(bytes.next_multiple_of(4096), ALIGNMENT) else {
            return false;
        };
        let one = Redistributor::new(target, pending);
        self.common.redistributors.set(id, one)
    }

    /// Takes a physical ITS over, and gives the owner an emulated one in its
    /// place at index `its`, with the devices of `ranges` as far as the physical one
    /// has them.
    ///
    /// # Errors
    /// See [`TakeOverError`]; the ITS is disabled then, and the index stays
    /// empty.
    pub fn add_its(
        &mut self,
        memory: &impl TableMemory,
        its: usize,
        registers: R,
        ranges: &[DeviceRange],
        redistributors: u8,
    ) -> Result<(), TakeOverError> {
        let highest = ranges.iter().map(|range| range.last).max();
        let highest = last_device(&registers, highest.unwrap_or(crate::DeviceId(0)));
        let physical = Physical::take_over(
            registers,
            memory,
            &self.common.clock,
            highest,
            redistributors,
        )?;
        let devices = Devices::new(memory, highest).ok_or(TakeOverError::NoMemory)?;
        let unit = EmulatedIts::new(physical, devices, ranges).ok_or(TakeOverError::NoMemory)?;
        let slot = self.units.get_mut(its).ok_or(TakeOverError::NoMemory)?;
        *slot = Some(unit);
        Ok(())
    }

    /// Shows the owner which product the ITS at index `its` is, before
    /// [`start`](Self::start): where devices write to a window before it, drivers
    /// find that by the product, and not by the tree alone (Linux, `gic-v3-its`,
    /// `socionext,synquacer-pre-its`).
    pub fn show_product(&mut self, its: usize) {
        if let Some(unit) = self.units.get_mut(its).and_then(Option::as_mut) {
            unit.iidr = unit.physical.iidr();
        }
    }

    /// Shows the value of every register of the ITS at index `its`. The caller
    /// calls this once, before the owner runs. Offsets that are not shown must
    /// read as 0.
    pub fn start(&self, platform: &impl Platform<Window = W>, its: usize) {
        if let Some(unit) = self.units.get(its).and_then(Option::as_ref) {
            unit.show_all(platform, its);
        }
    }

    /// The CPU at index `id` runs from now on: its physical LPIs are enabled, if
    /// they were not before, and every physical ITS may send to it.
    ///
    /// # Errors
    /// See [`LpiError`]; the owner cannot send anything there then.
    pub fn enable_redistributor(
        &mut self,
        id: RedistributorId,
        registers: &impl Registers,
    ) -> Result<(), LpiError> {
        let common = &mut self.common;
        let (count, configuration) = (common.lpis.count(), common.lpis.configuration());
        let Some(one) = common.redistributors.get_mut(id) else {
            return Err(LpiError::Refused);
        };
        if one.up {
            return Ok(());
        }
        redistributor::enable(registers, &common.clock, count, configuration, one.pending)?;
        one.up = true;
        let target = one.target;
        for unit in self.units.iter_mut().flatten() {
            let map = Command::MapCollection(collection_of(id), target);
            for command in [map, Command::Sync(target)] {
                unit.physical.push(&common.share, &common.clock, command);
            }
            // A failure is found with the owner's next command.
            let _ = unit.physical.complete(&common.share, &common.clock);
        }
        Ok(())
    }

    /// The owner's write of the `size` lowest bits of `value` at `offset` of the
    /// control frame of the ITS at index `its`.
    ///
    /// [`Progress::Again`]: the owner's CPU is to do the same write again.
    #[inline]
    pub fn write(
        &mut self,
        platform: &impl Platform<Window = W>,
        its: usize,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Progress {
        let Some(unit) = self.units.get_mut(its).and_then(Option::as_mut) else {
            return Progress::Done;
        };
        ItsCall::new(unit, &mut self.common, platform, its).write(offset, size, value)
    }

    /// Sends the message of a device that the caller emulates for the owner to the ITS at
    /// index `its`. It is as the owner's INT: what the owner has not mapped goes nowhere.
    pub fn send(&mut self, platform: &impl Platform<Window = W>, its: usize, event: Event) {
        if let Some(unit) = self.units.get_mut(its).and_then(Option::as_mut) {
            ItsCall::new(unit, &mut self.common, platform, its).send(event);
        }
    }

    /// What the owner reads at `offset` of the RD frame of the CPU at index `id`,
    /// where hardware gives `physical`. `None` for a register that is not about
    /// LPIs.
    #[must_use]
    pub fn read_redistributor(
        &self,
        id: RedistributorId,
        offset: u32,
        size: Size,
        physical: u64,
    ) -> Option<u64> {
        let one = self.common.redistributors.get(id)?;
        one.read(offset, size, physical)
    }

    /// The owner's write at `offset` of the RD frame of the CPU at index `id`.
    pub fn write_redistributor(
        &mut self,
        platform: &impl Platform<Window = W>,
        id: RedistributorId,
        offset: u32,
        size: Size,
        value: u64,
    ) -> RdWrite {
        let Some(one) = self.common.redistributors.get_mut(id) else {
            return RdWrite::Other;
        };
        if offset == reg::RD_CTLR && size == Size::Word {
            // Truncation: the access has 32 bits.
            let value = value as u32;
            one.set_enabled(value & reg::RD_CTLR_ENABLE != 0);
            let physical = if one.up { reg::RD_CTLR_ENABLE } else { 0 };
            self.common.hold_table(platform, id);
            return match self.apply_enable_lpis(platform, id) {
                Progress::Done => RdWrite::Control(value & reg::RD_CTLR_DPG | physical),
                Progress::Again => RdWrite::Emulated(Progress::Again),
            };
        }
        if offset & !3 == reg::RD_CTLR {
            // An access of another width must not change EnableLPIs either.
            return RdWrite::Emulated(Progress::Done);
        }
        if one.write_base(offset, size, value) {
            return RdWrite::Emulated(Progress::Done);
        }
        // None of them is offered (`GICR_TYPER.DirectLPI`, `GICR_CTLR.IR`), and
        // none may pass.
        if redistributor::is_lpi_register(offset) {
            return RdWrite::Emulated(Progress::Done);
        }
        RdWrite::Other
    }

    /// Applies a change of `GICR_CTLR.EnableLPIs` to the LPIs that go to `id`.
    fn apply_enable_lpis(
        &mut self,
        platform: &impl Platform<Window = W>,
        id: RedistributorId,
    ) -> Progress {
        let common = &mut self.common;
        let mut budget = Budget::new();
        loop {
            let Some(one) = common.redistributors.get(id) else {
                return Progress::Done;
            };
            let Some(from) = one.changing() else {
                return Progress::Done;
            };
            let spend = || budget.spend(1);
            let (found, next) = common.lpis.next_mapped(&common.share, from, spend);
            if let Some(lpi) = found
                && let Some(row) = common.lpis.row(&common.share, lpi)
                && row.at == Some(id)
            {
                budget.spend(3);
                let clear = one.starts_clear();
                common.configure(platform, lpi, row.at);
                let unit = self.units.get_mut(usize::from(row.its));
                if let (true, Some(Some(unit))) = (clear, unit) {
                    let command = Command::Clear(row.event);
                    unit.physical.push(&common.share, &common.clock, command);
                }
            }
            let (target, up) = (one.target, one.up);
            if let Some(one) = common.redistributors.get_mut(id) {
                one.changed_until(next);
            }
            if next.is_some() && found.is_none() {
                return Progress::Again;
            }
            if next.is_some() {
                continue;
            }
            if !up {
                // Nothing is sent there yet, and no ITS has its collection.
                continue;
            }
            // Each ITS speaks for the LPIs that are mapped there (IHI 0069, INVALL),
            // and has what was told it before.
            for unit in self.units.iter_mut().flatten() {
                for command in [
                    Command::InvalidateAll(collection_of(id)),
                    Command::Sync(target),
                ] {
                    unit.physical.push(&common.share, &common.clock, command);
                }
                // A failure is found with the owner's next command.
                let _ = unit.physical.complete(&common.share, &common.clock);
            }
        }
    }

    /// Returns an event that an operator should know of, once.
    #[inline]
    pub fn take_report(&mut self) -> Option<Report> {
        // An ordinary call has nothing to report, and does not pay for taking it.
        self.common.report?;
        self.common.report.take()
    }

    /// The counters of the ITS at index `its`.
    #[must_use]
    pub fn counts(&self, its: usize) -> Option<Counts> {
        let unit = self.units.get(its)?.as_ref()?;
        Some(unit.counts)
    }

    /// How many LPIs there are.
    #[must_use]
    pub fn lpis(&self) -> LpiCount {
        self.common.lpis.count()
    }

    /// The row of `lpi`, if it is mapped.
    #[must_use]
    pub fn row(&self, lpi: Lpi) -> Option<Row> {
        self.common.lpis.row(&self.common.share, lpi)
    }

    /// Every LPI that is mapped.
    pub fn mapped(&self) -> impl Iterator<Item = Lpi> + '_ {
        let mut next = Some(Lpi(FIRST_LPI));
        core::iter::from_fn(move || {
            let lpis = &self.common.lpis;
            let (found, following) = lpis.next_mapped(&self.common.share, next?, || true);
            next = following;
            found
        })
    }
}

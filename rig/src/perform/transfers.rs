//! Pages that the host gives away and gets.

use super::BLOCK;
use crate::everywhere::{Everywhere, HOST_VMID};
use crate::evidence;
use crate::finding::Finding;
use crate::map::{STREAMS, place};
use crate::mutant::Mutant;
use crate::policy::{Allowed, cpu_ranges};
use crate::world::World;
use portcullis_addr::{Identity, PhysAddr, Range};
use portcullis_isolation::{ReceiveError, SpaceError, chunks};
use portcullis_ownership::{Owner, TransferError};
use portcullis_pagetable::Error as TableError;
use smmuv3_driver::Granule;
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::StreamId;

impl World<'_> {
    /// Takes the range away from the host, as far as it goes.
    pub(super) fn take(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<(), Finding> {
        for part in chunks(range) {
            if !self.take_part(part, to)? {
                break;
            }
            // What is gone must not be reached while the next part goes.
            *self.machine.allowed.borrow_mut() = self.allowed();
            self.machine.check();
        }
        Ok(())
    }

    /// Whether it is the new owner's.
    fn take_part(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<bool, Finding> {
        let expected = self.begin(range, Owner::HOST);
        match self.machine.mutant {
            Mutant::LedgerOnly => {
                let ledger = *self.space.ledger();
                if let Ok(transfer) = ledger.begin(range, Owner::HOST, to) {
                    evidence::commit(transfer);
                    self.machine.expected.borrow_mut().commit(range, to);
                }
                return Ok(true);
            }
            Mutant::TooEarly if expected.is_ok() => {
                let at = Identity.ipa(range);
                for unit in 0..self.drivers.len() {
                    self.drive(unit, "tlbi", |d| {
                        d.tlbi_ipa_range(HOST_VMID, at, Granule::Size4K, None, false)
                    })?;
                }
            }
            _ => {}
        }
        let mut everywhere = Everywhere {
            drivers: &mut self.drivers,
            machine: self.machine,
        };
        self.machine.taking.set(expected.is_ok().then_some(range));
        let result = self
            .space
            .release(Identity.ipa(range), to, &mut everywhere)
            .map(|pages| pages.commit());
        self.machine.taking.set(None);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, to);
                true
            }
            (Err(Some(expected)), Err(SpaceError::Ledger(error))) => expected == *error,
            (Err(Some(TransferError::Unaligned(_))), Err(SpaceError::NotOneChunk(_))) => true,
            (Err(None), Err(SpaceError::Unfinished)) => true,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, Owner::HOST, self.space.ledger())
            }
            _ => return Err(Finding::Answer("take", range.start().raw())),
        };
        drop(books);
        self.tear(range, &result);
        if matches!(result, Err(SpaceError::Invalidation(_))) {
            self.in_doubt = Some(range);
        }
        self.explain(fine, "take")?;
        Ok(result.is_ok())
    }

    /// Gives the range to the host, as far as it goes.
    pub(super) fn give(&mut self, range: Range<PhysAddr>, from: Owner) -> Result<(), Finding> {
        for part in chunks(range) {
            let before = self.allowed();
            if !self.give_part(&before, part, from)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether it is the host's.
    fn give_part(
        &mut self,
        before: &Allowed,
        range: Range<PhysAddr>,
        from: Owner,
    ) -> Result<bool, Finding> {
        let expected = self.begin(range, from);
        if expected.is_ok() {
            let host = self.at.iter().filter(|(_, domain)| **domain == 0);
            let given = (0..STREAMS).filter(|stream| self.is_given(*stream));
            let extra = range.start().raw()..range.end().raw();
            self.also(
                before,
                host.map(|(stream, _)| *stream).chain(given),
                std::slice::from_ref(&extra),
            );
            let all = before.cpus.iter().cloned().chain([extra]);
            self.machine.allowed.borrow_mut().cpus = cpu_ranges(all);
        }
        let mut everywhere = Everywhere {
            drivers: &mut self.drivers,
            machine: self.machine,
        };
        let begun = self.space.ledger().begin(range, from, Owner::HOST);
        let result = match begun {
            Err(error) => Err(SpaceError::Ledger(error)),
            Ok(transfer) => {
                let at = Identity.ipa(range).start();
                let pages = evidence::unreachable(transfer);
                let received = self.space.receive(pages, at, &mut everywhere);
                received.map_err(|ReceiveError { error, pages }| {
                    if let Some(pages) = pages {
                        pages.give_back();
                    }
                    error
                })
            }
        };
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, Owner::HOST);
                true
            }
            (Err(Some(expected)), Err(SpaceError::Ledger(error))) => expected == *error,
            // In doubt, but for what the ledger refuses by itself.
            (Err(None), Err(SpaceError::Unfinished | SpaceError::Ledger(_))) => true,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, from, self.space.ledger())
            }
            _ => return Err(Finding::Answer("give", range.start().raw())),
        };
        if matches!(
            result,
            Err(SpaceError::Invalidation(_) | SpaceError::Lost(_))
        ) {
            books.expose(range);
        }
        drop(books);
        self.tear(range, &result);
        if matches!(result, Err(SpaceError::Invalidation(_))) {
            self.in_doubt = Some(range);
        }
        self.explain(fine, "give")?;
        if result.is_ok() {
            self.reach_given(range)?;
        }
        Ok(result.is_ok())
    }

    /// An SMMU was restarted and holds nothing any more: what it did not invalidate is
    /// invalidated now.
    pub(super) fn finish(&mut self, range: Range<PhysAddr>) -> Result<(), Finding> {
        let mut everywhere = Everywhere {
            drivers: &mut self.drivers,
            machine: self.machine,
        };
        let result = self.space.retry_invalidation(&mut everywhere);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match &result {
            Ok(pages) => pages.as_ref().is_some_and(|pages| pages.range() == range),
            Err(error) => {
                if let SpaceError::Table(_) = error {
                    // The ledger is as it was before the pages began to leave.
                    books.cancel(range);
                }
                self.excused(error)
            }
        };
        if let Ok(Some(pages)) = result {
            // What was broken on the way is whole again.
            let start = range.start().raw();
            self.torn.retain(|torn| !torn.contains(&start));
            if pages.to() == Owner::HOST {
                books.cancel(range);
                pages.give_back();
            } else {
                books.commit(range, pages.to());
                pages.commit();
            }
        }
        drop(books);
        if !self.space.is_unfinished() {
            self.in_doubt = None;
        }
        self.explain(fine, "finish")
    }

    /// What was given is reached: between operations only the ends of all that
    /// the host has are looked at, and this may lie in the middle.
    fn reach_given(&self, range: Range<PhysAddr>) -> Result<(), Finding> {
        let units = self.drivers.len();
        for at in [range.start().raw(), range.end().raw() - 8] {
            if self.is_torn(0, at) {
                continue;
            }
            if !self.machine.cpu.reaches(at) {
                return Err(Finding::CpuLost(at));
            }
            for (stream, _) in self.at.iter().filter(|(_, domain)| **domain == 0) {
                // Where its own stage 1 leads is nobody's business.
                if self.nested.get(stream) == Some(&false) {
                    continue;
                }
                let (unit, id) = place(*stream, units);
                if self.drivers[unit].is_fenced() || self.machine.units[unit].broken.get() {
                    continue;
                }
                let access = Transaction::new(StreamId(id), at, Access::Write);
                if self.machine.transact(unit, access) != Ok(at) {
                    return Err(Finding::Lost(*stream, at));
                }
            }
        }
        Ok(())
    }

    /// What a transfer must meet with: nothing, the ledger's refusal, or after
    /// an invalidation failed (`None`) that of the host space.
    fn begin(&self, range: Range<PhysAddr>, from: Owner) -> Result<(), Option<TransferError>> {
        if self.in_doubt.is_some() {
            return Err(None);
        }
        let mut books = self.machine.expected.borrow_mut();
        books.begin(range, from).map_err(Some)
    }

    /// Notes a change of the tables that was left half-way, as far as blocks
    /// reach: when an invalidation failed, whatever made it fail (an SMMU that
    /// ran out of memory is fenced, and completes none), or when the tables did
    /// after that.
    fn tear<E: std::fmt::Debug>(
        &mut self,
        range: Range<PhysAddr>,
        result: &Result<(), SpaceError<E>>,
    ) {
        let half = match result {
            Err(SpaceError::Invalidation(_)) => true,
            Err(SpaceError::Table(_)) => self.scarred,
            Err(SpaceError::Lost(_)) => true,
            Ok(()) | Err(_) => false,
        };
        if half {
            let start = range.start().raw() & !(BLOCK - 1);
            self.torn
                .push(start..range.end().raw().next_multiple_of(BLOCK));
        }
    }

    /// Whether the machine is to blame, and not the code under test.
    fn excused<E: std::fmt::Debug>(&self, error: &SpaceError<E>) -> bool {
        match error {
            SpaceError::Table(TableError::OutOfMemory) if self.machine.starved.get() => true,
            SpaceError::Table(_) => self.scarred,
            SpaceError::Invalidation(_) => {
                let mut units = self.drivers.iter().zip(&self.machine.units);
                units.any(|(driver, unit)| driver.is_fenced() || unit.may_fail())
            }
            SpaceError::Lost(_) => self.scarred || self.machine.starved.get(),
            SpaceError::Ledger(_)
            | SpaceError::Unfinished
            | SpaceError::NotOneChunk(_)
            | SpaceError::NotOnePiece(_) => false,
        }
    }
}

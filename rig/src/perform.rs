//! What each operation does, and how it may end.

use crate::everywhere::{Everywhere, HOST_VMID};
use crate::finding::Finding;
use crate::map::{LEAF, PAGES, RAM, STREAMS, given_id, place};
use crate::mutant::Mutant;
use crate::op::Op;
use crate::policy::{Allowed, cpu_ranges};
use crate::world::World;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::HostError;
use portcullis_ownership::{Owner, TransferError};
use portcullis_pagetable::Error as TableError;
use smmuv3_driver::{Answer, Granule, Uniform};
use smmuv3_model::{Access, Fault, Transaction};
use smmuv3_spec::StreamId;

/// The largest block that RAM is mapped with.
const BLOCK: u64 = 2 << 20;

impl World<'_> {
    pub(crate) fn perform(&mut self, op: &Op, before: &Allowed) -> Result<(), Finding> {
        match *op {
            Op::Attach { stream, domain } => {
                let (stream, domain) = (stream % STREAMS, domain % 3);
                if self.is_given(stream) {
                    return Ok(());
                }
                let (unit, id) = place(stream, self.drivers.len());
                self.also(before, [stream], &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                let mut failed = None;
                let done = self.drive(unit, "attach", |driver| {
                    let result = driver.attach(StreamId(id), &stage2);
                    result.inspect_err(|error| failed = Some(*error))
                })?;
                if done {
                    self.attached(stream, domain);
                }
                self.check_failure(stream, domain, failed)?;
            }
            Op::AttachNested {
                stream,
                domain,
                entry,
                stalls,
            } => self.attach_nested(before, stream % STREAMS, domain % 3, entry, stalls)?,
            Op::AttachRange {
                first,
                last,
                whole,
                domain,
            } => self.attach_range(before, [first, last], whole, domain % 3)?,
            Op::Block { stream } => {
                let stream = stream % STREAMS;
                if self.is_given(stream) {
                    return Ok(());
                }
                let (unit, id) = place(stream, self.drivers.len());
                if self.drive(unit, "block", |d| d.block(StreamId(id)))? {
                    self.blocked(stream);
                } else {
                    self.half_done(stream, None);
                }
            }
            Op::CloseRange {
                first,
                last,
                whole,
                invalid,
            } => self.close_range([first, last], whole, invalid)?,
            Op::Take {
                page,
                count,
                nobody,
            } => self.take(pages(page, count), owner(nobody))?,
            Op::Give {
                page,
                count,
                nobody,
            } => self.give(before, pages(page, count), owner(nobody))?,
            Op::Wild { give, start, size } => {
                let span = RAM.end - RAM.start + 0x1_0000;
                let start = PhysAddr::new(RAM.start - 0x8000 + start % span);
                let Ok(range) = Range::from_size(start, size % 0x2_0000 + 1) else {
                    return Ok(());
                };
                if give {
                    self.give(before, range, Owner::HYPERVISOR)?;
                } else {
                    self.take(range, Owner::HYPERVISOR)?;
                }
            }
            Op::Drain { limit } => self.drain(limit),
            Op::Host { smmu, what } if !self.hosts.is_empty() => self.host(smmu, &what)?,
            Op::Host { .. } => {}
            Op::Reuse => {
                let limbo = self.limbo.iter().map(|(_, domain)| domain);
                if self.at.values().chain(limbo).all(|domain| *domain != 2) {
                    std::mem::swap(&mut self.domains[2], &mut self.spare.0);
                    std::mem::swap(&mut self.last, &mut self.spare.1);
                }
            }
            Op::Restart { smmu, power } => {
                self.restart(smmu as usize % self.drivers.len(), power)?;
            }
            Op::Break { smmu, fault } => {
                self.machine
                    .inject(smmu as usize % self.drivers.len(), fault);
                self.scarred = true;
            }
            Op::Flip { smmu } => {
                let unit = &self.machine.units[smmu as usize % self.drivers.len()];
                unit.flips.set(true);
                unit.refuses.set(true);
                self.scarred = true;
            }
            Op::Now(action) => self.machine.act(&action),
            // Of another world.
            Op::Para(_) | Op::Its(_) => {}
            // Only prepare the next one.
            Op::Starve { .. } | Op::During { .. } => {}
        }
        Ok(())
    }

    fn attach_range(
        &mut self,
        before: &Allowed,
        [first, last]: [u32; 2],
        whole: bool,
        domain: u8,
    ) -> Result<(), Finding> {
        let (unit, ends, streams) = self.between([first, last], whole);
        self.also(before, streams.iter().copied(), &self.ranges_of(domain));
        let stage2 = self.domains[usize::from(domain)];
        let [low, high] = ends;
        let all = self.drive(unit, "attach_range", |d| d.attach_range(low, high, &stage2))?;
        for stream in streams {
            if all {
                self.attached(stream, domain);
            } else {
                self.half_done(stream, Some(domain));
            }
        }
        Ok(())
    }

    fn close_range(&mut self, ends: [u32; 2], whole: bool, invalid: bool) -> Result<(), Finding> {
        let (unit, [low, high], streams) = self.between(ends, whole);
        let uniform = if invalid {
            Uniform::Invalid
        } else {
            Uniform::Abort
        };
        let all = self.drive(unit, "set_range", |driver| {
            let mut next = Some(low);
            while let Some(first) = next {
                next = driver.set_range(first, high, &uniform)?;
            }
            Ok(())
        })?;
        for stream in streams {
            if all {
                self.blocked(stream);
            } else {
                self.half_done(stream, None);
            }
        }
        Ok(())
    }

    /// The SMMU of the first of two streams, its StreamIDs between them, and
    /// which streams these are.
    fn between(&self, [first, last]: [u32; 2], whole: bool) -> (usize, [StreamId; 2], Vec<u32>) {
        let units = self.drivers.len();
        let (unit, a) = place(first, units);
        let (_, b) = place(last, units);
        let (mut low, mut high) = (a.min(b), a.max(b));
        if !self.machine.units[unit].has_tables_of_leaf() {
            // Each would be attached by itself: much work, and nothing new.
            high = high.min(low + 16);
        } else if whole {
            (low, high) = (low / LEAF * LEAF, high / LEAF * LEAF + LEAF - 1);
        }
        let inside = |stream: &u32| {
            let (at, id) = place(*stream, units);
            at == unit && (low..=high).contains(&id)
        };
        let streams: Vec<u32> = (0..STREAMS).filter(inside).collect();
        (unit, [StreamId(low), StreamId(high)], streams)
    }

    /// A change of a stream failed: what it has then is what its entry says,
    /// and until a restart a broken SMMU may hold what it had and what it was
    /// to get.
    fn half_done(&mut self, stream: u32, wanted: Option<u8>) {
        let (unit, id) = place(stream, self.drivers.len());
        let old = self.at.get(&stream).copied();
        if self.machine.units[unit].may_fail() {
            self.limbo
                .extend(old.into_iter().chain(wanted).map(|domain| (stream, domain)));
        }
        let attached = self.drivers[unit].attached(StreamId(id));
        let has = |domain: &u8| {
            let stage2 = &self.domains[usize::from(*domain)];
            attached == Some((stage2.vmid, stage2.root))
        };
        match wanted.into_iter().chain(old).find(has) {
            // With a stage 1 if it had one: a new entry is never left behind.
            Some(domain) => {
                self.at.insert(stream, domain);
            }
            None => {
                self.at.remove(&stream);
                self.nested.remove(&stream);
            }
        }
    }

    fn restart(&mut self, unit: usize, power: bool) -> Result<(), Finding> {
        let hardware = &self.machine.units[unit];
        let fenced = self.drivers[unit].fence();
        self.explain(fenced.is_ok() || hardware.broken.get(), "fence")?;
        let streams = fenced.is_ok().then(|| {
            // Nothing passes a fence.
            let mut allowed = self.machine.allowed.borrow_mut();
            std::mem::take(&mut allowed.streams[unit])
        });
        self.machine.check();
        if let Some(streams) = streams {
            self.machine.allowed.borrow_mut().streams[unit] = streams;
        }
        if power {
            // Devices lose their power first and get it back last.
            hardware.off.set(true);
            hardware.flips.set(false);
            self.machine.inject(unit, Fault::PowerLoss);
        }
        let restarted = self.drivers[unit].restart();
        if power {
            hardware.broken.set(false);
            hardware.refuses.set(false);
            hardware.smmu.borrow_mut().take_misuse();
        }
        self.explain(restarted.is_ok() || hardware.may_fail(), "restart")?;
        if restarted.is_ok() {
            hardware.off.set(false);
            self.limbo
                .retain(|(stream, _)| place(*stream, self.drivers.len()).0 != unit);
        }
        Ok(())
    }

    fn take(&mut self, range: Range<PhysAddr>, to: Owner) -> Result<(), Finding> {
        let expected = self.begin(range, Owner::HOST);
        match self.machine.mutant {
            Mutant::LedgerOnly => {
                let ledger = *self.space.ledger();
                if let Ok(transfer) = ledger.begin(range, Owner::HOST, to) {
                    transfer.commit();
                    self.machine.expected.borrow_mut().commit(range, to);
                }
                return Ok(());
            }
            Mutant::TooEarly if expected.is_ok() => {
                for unit in 0..self.drivers.len() {
                    self.drive(unit, "tlbi", |d| {
                        d.tlbi_ipa_range(HOST_VMID, range.identity(), Granule::Size4K, None, false)
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
        let result = self.space.take(range, to, &mut everywhere);
        self.machine.taking.set(None);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, to);
                true
            }
            (Err(Some(expected)), Err(HostError::Ledger(error))) => expected == *error,
            (Err(None), Err(HostError::InDoubt)) => true,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, Owner::HOST, self.space.ledger())
            }
            _ => return Err(Finding::Answer("take", range.start().raw())),
        };
        drop(books);
        self.tear(range, &result);
        self.in_doubt |= matches!(result, Err(HostError::Invalidation(_)));
        self.explain(fine, "take")
    }

    fn give(
        &mut self,
        before: &Allowed,
        range: Range<PhysAddr>,
        from: Owner,
    ) -> Result<(), Finding> {
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
        let result = self.space.give(range, from, &mut everywhere);
        let mut books = self.machine.expected.borrow_mut();
        let fine = match (expected, &result) {
            (Ok(()), Ok(())) => {
                books.commit(range, Owner::HOST);
                true
            }
            (Err(Some(expected)), Err(HostError::Ledger(error))) => expected == *error,
            (Err(None), Err(HostError::InDoubt)) => true,
            (Ok(()), Err(error)) => {
                self.excused(error) && books.failed(range, from, self.space.ledger())
            }
            _ => return Err(Finding::Answer("give", range.start().raw())),
        };
        if matches!(result, Err(HostError::Invalidation(_))) {
            books.expose(range);
        }
        drop(books);
        self.tear(range, &result);
        self.in_doubt |= matches!(result, Err(HostError::Invalidation(_)));
        self.explain(fine, "give")?;
        if result.is_ok() {
            self.reach_given(range)?;
        }
        Ok(())
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
        if self.in_doubt {
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
        result: &Result<(), HostError<E>>,
    ) {
        let half = match result {
            Err(HostError::Invalidation(_)) => true,
            Err(HostError::Table(_)) => self.scarred,
            Ok(()) | Err(HostError::Ledger(_) | HostError::InDoubt) => false,
        };
        if half {
            let start = range.start().raw() & !(BLOCK - 1);
            self.torn
                .push(start..range.end().raw().next_multiple_of(BLOCK));
        }
    }

    /// Whether the machine is to blame, and not the code under test.
    fn excused<E: std::fmt::Debug>(&self, error: &HostError<E>) -> bool {
        match error {
            HostError::Table(TableError::OutOfMemory) if self.machine.starved.get() => true,
            HostError::Table(_) => self.scarred,
            HostError::Invalidation(_) => {
                let mut units = self.drivers.iter().zip(&self.machine.units);
                units.any(|(driver, unit)| driver.is_fenced() || unit.may_fail())
            }
            HostError::Ledger(_) | HostError::InDoubt => false,
        }
    }

    /// Reads events and compares them with what the SMMU recorded.
    fn drain(&mut self, limit: u32) {
        let mut told = Vec::new();
        let count = self.drivers.len();
        for (index, driver) in self.drivers.iter_mut().enumerate() {
            let mut read = Vec::new();
            let drained = driver.take_events(limit, |event| {
                read.push(event.0);
                let host = self.machine.nested && given_id(event.0.stream_bits(), count).is_some();
                if host { Answer::Later } else { Answer::Refuse }
            });
            self.machine.look_at_drained(index, &read, drained);
            driver.handle_gerror();
            told.extend(read.into_iter().map(|record| (index, record)));
        }
        if !self.hosts.is_empty() {
            for (unit, record) in told {
                self.tell(unit, &record);
            }
        }
    }
}

pub(crate) fn owner(nobody: bool) -> Owner {
    if nobody {
        Owner::NOBODY
    } else {
        Owner::HYPERVISOR
    }
}

/// Pages inside RAM, from `page` on as far as `count` leaves that open: mostly
/// up to sixteen of them, else whole blocks or groups, more than a command may
/// name at once, or what lies at the edge of a table.
pub(crate) fn pages(page: u64, count: u64) -> Range<PhysAddr> {
    const TABLE: u64 = BLOCK / PAGE_SIZE;
    let page = page % PAGES;
    let block = page / TABLE * TABLE;
    let (first, count) = match count % 32 {
        n @ 0..18 => (page, n.clamp(1, 16)),
        18 => (block, TABLE),
        19 => (page / 32 * 32, 32),
        // As many as no single range command covers.
        20..24 => (page, 17 + count / 32 % 784),
        24 => (block, TABLE + 1),
        25 => (block + TABLE - 1, 2),
        26 => (block + TABLE - 1, 1),
        27 => (block, 1),
        28 => (block, 2 * TABLE),
        n => (page / 16 * 16 + n - 28, 16),
    };
    let count = count.min(PAGES);
    let start = RAM.start + first.min(PAGES - count) * PAGE_SIZE;
    // Neither empty nor near the end of the address space.
    Range::from_size(PhysAddr::new(start), count * PAGE_SIZE).unwrap_or_else(|_| unreachable!())
}

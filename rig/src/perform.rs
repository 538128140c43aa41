//! What each operation does, and how it may end.

mod transfers;

use crate::finding::Finding;
use crate::map::{LEAF, PAGES, RAM, STREAMS, given_id, place};
use crate::op::Op;
use crate::policy::Allowed;
use crate::world::World;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::Owner;
use smmuv3_driver::{Answer, RangeTranslation};
use smmuv3_model::Fault;
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
            } => self.give(pages(page, count), owner(nobody))?,
            Op::Wild { give, start, size } => {
                let span = RAM.end - RAM.start + 0x1_0000;
                let start = PhysAddr::new(RAM.start - 0x8000 + start % span);
                let Ok(range) = Range::from_size(start, size % 0x2_0000 + 1) else {
                    return Ok(());
                };
                if give {
                    self.give(range, Owner::HYPERVISOR)?;
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
                if let Some(range) = self.in_doubt {
                    self.finish(range)?;
                }
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
            RangeTranslation::Invalid
        } else {
            RangeTranslation::Abort
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

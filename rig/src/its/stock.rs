//! What a stock driver does, and what it may count on.

use super::books::Mapped;
use super::found;
use super::layout::{Area, COLLECTIONS, CONFIG, DEVICES, LPIS, pending};
use super::op::Stock;
use super::world::World;
use crate::finding::Finding;
use gicv3_its::{Report, Size};
use gicv3_model::Message;
use portcullis_addr::PhysAddr;
use portcullis_memory::Memory;
use std::collections::BTreeSet;

const VALID: u64 = 1 << 63;

/// A number of something there is.
fn of(number: u8, count: usize) -> usize {
    usize::from(number) % count
}

impl World<'_> {
    pub(super) fn do_stock(&mut self, op: Stock) -> Result<(), Finding> {
        match op {
            Stock::EnableLpis { cpu } => self.enable_lpis(of(cpu, self.cpus)),
            Stock::DisableLpis { cpu } => {
                let cpu = of(cpu, self.cpus);
                self.write_rd(cpu, 0, Size::Word, 0)?;
                self.books.lpis.remove(&cpu);
                self.unsettle(cpu);
                Ok(())
            }
            Stock::Up { cpu } => self.bring_up(of(cpu, self.cpus)),
            Stock::Boot { its } => self.boot(of(its, self.units)),
            Stock::Hibernate { its } => self.hibernate(of(its, self.units)),
            Stock::MapCollection {
                its,
                collection,
                cpu,
            } => self.map_collection(
                of(its, self.units),
                collection % COLLECTIONS,
                of(cpu, self.cpus),
            ),
            Stock::UnmapCollection { its, collection } => {
                let (its, collection) = (of(its, self.units), collection % COLLECTIONS);
                if self.is_idle(its) || self.stock && self.books.is_used(its, collection) {
                    return Ok(());
                }
                self.command(its, [0x09, 0, collection.into(), 0])?;
                self.books.collections.remove(&(its, collection));
                Ok(())
            }
            Stock::MapDevice { its, device, bits } => self.map_device(
                of(its, self.units),
                device % DEVICES.len() as u8,
                1 + bits % 9,
            ),
            Stock::UnmapDevice { its, device, hasty } => {
                self.unmap_device(of(its, self.units), device % DEVICES.len() as u8, hasty)
            }
            Stock::Map {
                its,
                device,
                event,
                lpi,
                collection,
            } => {
                let mapped = Mapped {
                    its: of(its, self.units),
                    device: device % DEVICES.len() as u8,
                    event: event.into(),
                    collection: collection % COLLECTIONS,
                };
                self.map(lpi % LPIS, mapped)
            }
            Stock::Unmap { lpi } => self.unmap(lpi % LPIS),
            Stock::Move { lpi, collection } => self.move_to(lpi % LPIS, collection % COLLECTIONS),
            Stock::Configure {
                lpi,
                byte,
                silently,
            } => self.configure(lpi % LPIS, byte, silently),
            Stock::InvalidateAll { its, collection } => {
                let (its, collection) = (of(its, self.units), collection % COLLECTIONS);
                self.invalidate_all(its, collection)
            }
            Stock::Generate { lpi, clear } => self.generate(lpi % LPIS, clear),
            Stock::MoveAll { its, from, to } => {
                let its = of(its, self.units);
                if self.is_idle(its) {
                    return Ok(());
                }
                self.take_all()?;
                let (from, to) = (of(from, self.cpus), of(to, self.cpus));
                let (from, to) = (self.rdbase(from), self.rdbase(to));
                self.command(its, [0x0e, 0, from, to])
            }
            Stock::Message { lpi } => self.message(lpi % LPIS),
            Stock::Stray { its, device, event } => {
                let its = of(its, self.units);
                let device = DEVICES[of(device, DEVICES.len())];
                self.stray(its, device, event.into())
            }
            Stock::Take => self.take_all(),
            Stock::Starve { after } => {
                self.machine.starve.set(Some(after % 4));
                Ok(())
            }
        }
    }

    fn area(&self, its: usize) -> Area {
        Area::new(its, self.second[its])
    }

    pub(super) fn rdbase(&self, cpu: usize) -> u64 {
        self.machine.gic.profile().rdbase(cpu)
    }

    /// Whether nothing comes of a command.
    fn is_idle(&self, its: usize) -> bool {
        !self.books.enabled.contains(&its)
    }

    /// What is pending at a CPU may be lost or kept.
    fn unsettle(&mut self, cpu: usize) {
        let books = &mut self.books;
        let of: Vec<_> = books
            .pending
            .iter()
            .filter(|(_, at)| *at == cpu)
            .copied()
            .collect();
        for one in of {
            books.pending.remove(&one);
            books.maybe.insert(one);
        }
    }

    fn enable_lpis(&mut self, cpu: usize) -> Result<(), Finding> {
        if self.books.lpis.contains(&cpu) {
            return Ok(());
        }
        let bits = u64::from(self.count.intid_bits) - 1;
        self.write_rd(cpu, 0x70, Size::Double, CONFIG | bits | 0x780)?;
        self.write_rd(cpu, 0x78, Size::Double, pending(cpu) | 1 << 62 | 0x780)?;
        self.write_rd(cpu, 0, Size::Word, 1)?;
        if self.stock && self.up.contains(&cpu) {
            self.books.lpis.insert(cpu);
            // PTZ: with another table of zeroes nothing is pending.
            self.books.pending.retain(|(_, at)| *at != cpu);
            self.books.maybe.retain(|(_, at)| *at != cpu);
            if self.books.lpis.len() == 1 {
                // No other redistributor can have read one before.
                (0..LPIS).for_each(|lpi| self.books.invalidated(lpi));
            }
            // Those of this CPU are read now.
            for lpi in 0..LPIS {
                if self.books.target(lpi) == Some(cpu) {
                    self.books.invalidated(lpi);
                }
            }
        }
        Ok(())
    }

    fn boot(&mut self, its: usize) -> Result<(), Finding> {
        self.disable(its)?;
        for lpi in 0..LPIS {
            if self
                .books
                .events
                .get(&lpi)
                .is_some_and(|mapped| mapped.its == its)
            {
                self.books.orphan(lpi);
            }
        }
        self.books.devices.retain(|(of, _), _| *of != its);
        self.books.collections.retain(|(of, _), _| *of != its);
        self.second[its] = !self.second[its];
        let area = self.area(its);
        for at in area.all().step_by(8) {
            self.machine.poke(at, 0);
        }
        self.write(its, 0x80, Size::Double, VALID | area.queue() | 0x780)?;
        self.write(its, 0x88, Size::Double, 0)?;
        // Page size 0, Size; two levels for 1,024 devices, or two pages.
        let level = if self.indirect { 1 << 62 } else { 1 };
        if self.indirect {
            for index in 0..2 {
                self.machine
                    .poke(area.devices() + index * 8, VALID | area.page(index));
            }
        }
        self.write(
            its,
            0x100,
            Size::Double,
            VALID | level | area.devices() | 0x400,
        )?;
        self.write(its, 0x108, Size::Double, VALID | area.collections() | 0x400)?;
        self.enable(its)
    }

    fn disable(&mut self, its: usize) -> Result<(), Finding> {
        self.write(its, 0, Size::Word, 0)?;
        self.books.enabled.remove(&its);
        if self.stock && self.shown(its, 0) as u32 != 0x8000_0000 {
            return Err(found(format!("ITS {its} is not quiescent")));
        }
        let mapped = self.machine.gic.mapped(its);
        if self.stock && !mapped.is_empty() {
            return Err(found(format!("ITS {its} is disabled and has {mapped:x?}")));
        }
        Ok(())
    }

    fn enable(&mut self, its: usize) -> Result<(), Finding> {
        self.write(its, 0, Size::Word, 1)?;
        self.books.enabled.insert(its);
        if self.stock && self.shown(its, 0) as u32 != 1 {
            return Err(found(format!("ITS {its} is not enabled")));
        }
        Ok(())
    }

    fn hibernate(&mut self, its: usize) -> Result<(), Finding> {
        if self.is_idle(its) {
            return Ok(());
        }
        self.disable(its)?;
        let events = self
            .books
            .events
            .iter()
            .filter(|(_, mapped)| mapped.its == its);
        let lpis: Vec<_> = events.map(|(lpi, _)| *lpi).collect();
        // What is pending is so no more, or still; configurations are read.
        for cpu in 0..self.cpus {
            let of: Vec<_> = self.books.pending.iter().copied().collect();
            for one in of
                .into_iter()
                .filter(|(lpi, at)| *at == cpu && lpis.contains(lpi))
            {
                self.books.pending.remove(&one);
                self.books.maybe.insert(one);
            }
        }
        // The same values, as a kernel that wakes up writes them.
        let (cbaser, device, collection) = (
            self.shown(its, 0x80),
            self.shown(its, 0x100),
            self.shown(its, 0x108),
        );
        self.write(its, 0x80, Size::Double, cbaser)?;
        self.write(its, 0x88, Size::Double, 0)?;
        self.write(its, 0x100, Size::Double, device)?;
        self.write(its, 0x108, Size::Double, collection)?;
        self.enable(its)?;
        if self
            .reports
            .iter()
            .any(|report| matches!(report, Report::NoMemory { .. }))
        {
            if !self.machine.starved.get() {
                return Err(found(format!(
                    "no memory, where there is some: {:?}",
                    self.reports
                )));
            }
            // Some devices were left out. A report names one of them.
            // What is left is not known until the next boot.
            self.books.enabled.remove(&its);
            for lpi in lpis {
                self.books.events.remove(&lpi);
                for cpu in 0..self.cpus {
                    self.books.maybe.insert((lpi, cpu));
                    self.books.pending.remove(&(lpi, cpu));
                }
            }
            self.books.devices.retain(|(of, _), _| *of != its);
            self.books.collections.retain(|(of, _), _| *of != its);
        }
        Ok(())
    }

    fn map_collection(&mut self, its: usize, collection: u8, cpu: usize) -> Result<(), Finding> {
        let before = self.books.collections.get(&(its, collection)).copied();
        let moves = before != Some(cpu) && self.books.is_used(its, collection);
        if self.is_idle(its) || self.stock && moves {
            return Ok(());
        }
        let rdbase = self.rdbase(cpu);
        self.command(its, [0x09, 0, VALID | rdbase | u64::from(collection), 0])?;
        self.sync(its, cpu)?;
        // A redistributor that is not up is none.
        if self.up.contains(&cpu) {
            self.books.collections.insert((its, collection), cpu);
        }
        self.invalidate_all(its, collection)
    }

    fn invalidate_all(&mut self, its: usize, collection: u8) -> Result<(), Finding> {
        if self.is_idle(its) {
            return Ok(());
        }
        self.command(its, [0x0d, 0, collection.into(), 0])?;
        let Some(cpu) = self.books.collections.get(&(its, collection)).copied() else {
            return Ok(());
        };
        self.sync(its, cpu)?;
        for lpi in 0..LPIS {
            let mapped = self.books.events.get(&lpi).copied();
            if mapped.is_some_and(|mapped| mapped.its == its && mapped.collection == collection) {
                self.books.invalidated(lpi);
            }
        }
        Ok(())
    }

    fn map_device(&mut self, its: usize, number: u8, bits: u8) -> Result<(), Finding> {
        let known = self.books.devices.contains_key(&(its, number));
        if self.is_idle(its) || self.stock && known {
            return Ok(());
        }
        let itt = self.area(its).itt(number.into());
        for at in (itt..itt + 0x1000).step_by(8) {
            self.machine.poke(at, 0);
        }
        let device = DEVICES[usize::from(number)];
        let first = u64::from(device) << 32 | 0x08;
        self.command(its, [first, u64::from(bits) - 1, VALID | itt, 0])?;
        let no_memory = |report: &Report| matches!(report, Report::NoMemory { device: of, .. } if of.0 == device);
        if self.reports.iter().any(no_memory) {
            if !self.machine.starved.get() {
                return Err(found(format!(
                    "no memory for {device:#x}, where there is some"
                )));
            }
        } else {
            self.books.devices.insert((its, number), bits);
        }
        Ok(())
    }

    fn unmap_device(&mut self, its: usize, number: u8, hasty: bool) -> Result<(), Finding> {
        if self.is_idle(its) {
            return Ok(());
        }
        for lpi in self.books.events_of(its, number) {
            if hasty {
                self.books.orphan(lpi);
            } else {
                self.unmap(lpi)?;
            }
        }
        let device = DEVICES[usize::from(number)];
        self.command(its, [u64::from(device) << 32 | 0x08, 0, 0, 0])?;
        self.books.devices.remove(&(its, number));
        Ok(())
    }

    fn map(&mut self, lpi: u8, mapped: Mapped) -> Result<(), Finding> {
        let Mapped {
            its,
            device,
            event,
            collection,
        } = mapped;
        let bits = self.books.devices.get(&(its, device)).copied();
        let taken = self
            .books
            .events
            .values()
            .any(|other| (other.its, other.device, other.event) == (its, device, event));
        let free = bits.is_some_and(|bits| event >> bits == 0)
            && !taken
            && !self.books.events.contains_key(&lpi);
        if self.is_idle(its) || self.stock && !free {
            return Ok(());
        }
        let intid = u64::from(self.intid(lpi));
        let first = u64::from(DEVICES[usize::from(device)]) << 32 | 0x0a;
        let ids = intid << 32 | u64::from(event);
        self.command(its, [first, ids, collection.into(), 0])?;
        self.books.events.insert(lpi, mapped);
        let Some(cpu) = self.books.target(lpi) else {
            // Not even what the configuration is, once it has a target.
            self.books.known.remove(&lpi);
            return Ok(());
        };
        if !self.books.lpis.contains(&cpu) {
            self.books.known.remove(&lpi);
        }
        self.sync(its, cpu)
    }

    fn event_words(&self, lpi: u8, opcode: u64) -> Option<(usize, [u64; 2])> {
        let mapped = self.books.events.get(&lpi)?;
        let device = DEVICES[usize::from(mapped.device)];
        let words = [u64::from(device) << 32 | opcode, mapped.event.into()];
        Some((mapped.its, words))
    }

    fn unmap(&mut self, lpi: u8) -> Result<(), Finding> {
        let Some((its, [first, event])) = self.event_words(lpi, 0x0f) else {
            return Ok(());
        };
        let cpu = self.books.target(lpi);
        self.command(its, [first, event, 0, 0])?;
        if let Some(cpu) = cpu {
            self.sync(its, cpu)?;
            self.books.clear(lpi, cpu);
        }
        self.books.events.remove(&lpi);
        Ok(())
    }

    fn move_to(&mut self, lpi: u8, collection: u8) -> Result<(), Finding> {
        let Some((its, [first, event])) = self.event_words(lpi, 0x01) else {
            return Ok(());
        };
        let (from, to) = (
            self.books.target(lpi),
            self.books.collections.get(&(its, collection)).copied(),
        );
        let (Some(from), Some(to)) = (from, to) else {
            return Ok(());
        };
        self.command(its, [first, event, collection.into(), 0])?;
        self.sync(its, from)?;
        if let Some(mapped) = self.books.events.get_mut(&lpi) {
            mapped.collection = collection;
        }
        self.books.move_to(lpi, from, to);
        if self.books.lpis.contains(&to) {
            // What it did not know it may have read before.
        } else {
            self.books.known.remove(&lpi);
        }
        if !self.books.lpis.contains(&from) {
            self.books.known.remove(&lpi);
        }
        Ok(())
    }

    fn configure(&mut self, lpi: u8, byte: u8, silently: bool) -> Result<(), Finding> {
        let at = CONFIG + u64::from(self.intid(lpi) - 8192);
        let shift = at % 8 * 8;
        let word = self.machine.ram.load(PhysAddr::new(at & !7));
        let word = word & !(0xff << shift) | u64::from(byte) << shift;
        self.machine.poke(at & !7, word);
        self.books.table.insert(lpi, byte);
        self.books.known.remove(&lpi);
        if silently {
            return Ok(());
        }
        let (Some((its, [first, event])), Some(cpu)) =
            (self.event_words(lpi, 0x0c), self.books.target(lpi))
        else {
            return Ok(());
        };
        self.command(its, [first, event, 0, 0])?;
        self.sync(its, cpu)?;
        if self.books.lpis.contains(&cpu) {
            self.books.invalidated(lpi);
        }
        Ok(())
    }

    fn generate(&mut self, lpi: u8, clear: bool) -> Result<(), Finding> {
        let opcode = if clear { 0x04 } else { 0x03 };
        let Some((its, [first, event])) = self.event_words(lpi, opcode) else {
            return Ok(());
        };
        let Some(cpu) = self.books.target(lpi) else {
            return Ok(());
        };
        self.command(its, [first, event, 0, 0])?;
        if clear {
            self.books.clear(lpi, cpu);
        } else {
            self.books.arrive(lpi, cpu);
        }
        Ok(())
    }

    fn message(&mut self, lpi: u8) -> Result<(), Finding> {
        let Some(mapped) = self.books.events.get(&lpi).copied() else {
            return Ok(());
        };
        let device = DEVICES[usize::from(mapped.device)];
        let came = self.machine.gic.message(mapped.its, device, mapped.event);
        if !self.stock {
            return Ok(());
        }
        let wanted = self.books.target(lpi);
        let intid = self.intid(lpi);
        let right = match (came, wanted) {
            (Message::Pending { cpu, lpi }, Some(wanted)) => cpu == wanted && lpi == intid,
            (Message::Ignored(_), None) => true,
            _ => false,
        };
        if !right {
            let text = format!("LPI {intid} of {mapped:?} should go to {wanted:?}");
            return Err(found(format!("{text}: {came:?}")));
        }
        if let Some(cpu) = wanted {
            self.books.arrive(lpi, cpu);
        }
        Ok(())
    }

    /// An event that need not be mapped.
    fn stray(&mut self, its: usize, device: u32, event: u32) -> Result<(), Finding> {
        let number = DEVICES.iter().position(|id| *id == device);
        let of = |mapped: &super::books::Mapped| {
            mapped.its == its && Some(usize::from(mapped.device)) == number && mapped.event == event
        };
        let lpi = self.books.events.iter().find(|(_, mapped)| of(mapped));
        if let Some((lpi, _)) = lpi {
            return self.message(*lpi);
        }
        let came = self.machine.gic.message(its, device, event);
        if self.stock && !self.is_idle(its) && matches!(came, Message::Pending { .. }) {
            return Err(found(format!("device {device:#x} event {event}: {came:?}")));
        }
        Ok(())
    }

    /// Every CPU takes what is pending and enabled.
    pub(super) fn take_all(&mut self) -> Result<(), Finding> {
        for cpu in 0..self.cpus {
            let priorities = self.machine.gic.pending(cpu);
            let mut taken = BTreeSet::new();
            while let Some(lpi) = self.machine.gic.acknowledge(cpu) {
                taken.insert(lpi);
            }
            if self.stock {
                self.check_taken(cpu, &priorities, &taken)?;
            }
        }
        Ok(())
    }

    fn check_taken(
        &mut self,
        cpu: usize,
        priorities: &[(u32, Option<u8>)],
        taken: &BTreeSet<u32>,
    ) -> Result<(), Finding> {
        for lpi in 0..LPIS {
            let intid = self.intid(lpi);
            let known = self.books.known.get(&lpi).copied();
            let came = taken.contains(&intid);
            let (is, may) = (
                self.books.pending.contains(&(lpi, cpu)),
                self.books.maybe.contains(&(lpi, cpu)),
            );
            let on = self.books.lpis.contains(&cpu) && self.books.target(lpi) == Some(cpu);
            if is && on && known.is_some_and(|byte| byte & 1 == 1) && !came {
                return Err(found(format!("LPI {intid} does not come at CPU {cpu}")));
            }
            if came && (!is && !may || known.is_some_and(|byte| byte & 1 == 0)) {
                return Err(found(format!(
                    "LPI {intid} comes at CPU {cpu}, configured {known:x?}"
                )));
            }
            let priority = priorities.iter().find(|(of, _)| *of == intid);
            if let (Some((_, Some(priority))), Some(byte)) = (priority, known)
                && *priority != (byte & 0xfc).max(0x10)
            {
                let text = format!("LPI {intid} has priority {priority:#x}");
                return Err(found(format!("{text}, configured {byte:#x}")));
            }
            if came {
                self.books.clear(lpi, cpu);
            }
        }
        let all: BTreeSet<_> = (0..LPIS).map(|lpi| self.intid(lpi)).collect();
        if let Some(lpi) = taken.difference(&all).next() {
            return Err(found(format!(
                "LPI {lpi} comes at CPU {cpu} out of nothing"
            )));
        }
        Ok(())
    }
}

//! The driver of the device: stock, nearly so, or hostile.

use crate::finding::Finding;
use crate::machine::Machine;
use crate::paravirt::front::{FRONT, Held, Side, Used};
use crate::paravirt::look::endpoint_of;
use crate::paravirt::op::{FrontOp, Shape};
use crate::paravirt::watched::Watched;
use portcullis_addr::{Iova, PAGE_SIZE};
use portcullis_dma_domain::{DmaUnit, Endpoint, Request};
use std::collections::VecDeque;
use virtio_iommu_device::{
    Device, DeviceStatus, Fault, FaultFlags, FaultReason, Features, Progress, QUEUE_SIZE, Size, reg,
};

/// Times that an unfinished write is repeated before that counts as never done.
const FOREVER: u16 = 4000;

/// Most accesses to memory that one write of a register may cost.
const MOST_CALL: u64 = 60_000;

/// Slots for requests, in the order in which they are used.
const SLOTS: u64 = 32;
/// Most descriptors of a request.
const LONGEST: u16 = 6;
/// Bytes of a slot: body, tail, a table of descriptors.
const SLOT: u64 = 0x100;
const TABLE: u64 = 0x60;

/// Nobody's memory.
const OUTSIDE: u64 = 0x7000_0000;

/// Flags of a descriptor.
const NEXT: u64 = 1 << 32;
const WRITE: u64 = 2 << 32;
const INDIRECT: u64 = 4 << 32;

/// A device and who drives it.
pub(crate) struct Front<'m> {
    pub(crate) device: Device<Held<'m>>,
    /// Where the rings are.
    base: u64,
    log2: u8,
    avail: u16,
    descriptor: u16,
    /// Descriptors and requests since the last notification that was done.
    outstanding: u16,
    waiting: u16,
    requests: u64,
    shape: Shape,
    select: u32,
    indirect: bool,
    /// Turns of the domains that one call may take.
    work: u32,
}

impl<'m> Front<'m> {
    pub(crate) fn new(device: Device<Held<'m>>, work: u32) -> Self {
        Self {
            device,
            base: FRONT.start,
            log2: 0,
            avail: 0,
            descriptor: 0,
            outstanding: 0,
            waiting: 0,
            requests: 0,
            shape: Shape::Stock,
            select: 0,
            indirect: false,
            work,
        }
    }

    /// One write of a register, repeated while it is not done.
    pub(crate) fn write<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        offset: u32,
        (size, value): (Size, u64),
        patience: u16,
    ) -> Result<bool, Finding> {
        let machine = watched.machine;
        let side = Side(machine);
        let ready = offset == reg::QUEUE_READY && size == Size::Word && value as u32 == 1;
        let before = machine.seen.borrow().open.keys().next_back().copied();
        let resets = self.device.counts().resets;
        let mut done = false;
        for _ in 0..=patience {
            machine.calls.set(0);
            machine.turns.set(0);
            let progress = self.device.write(&side, watched, offset, size, value);
            let cost = machine.calls.get();
            let turns = machine.turns.get();
            if cost > MOST_CALL || turns > self.work {
                return Err(Finding::Unbounded(cost.max(turns.into())));
            }
            machine.look_at_windows()?;
            // A queue has all three of its parts or none.
            if let Some(first) = machine.seen.borrow().open.values().next()
                && !machine.seen.borrow().open.len().is_multiple_of(3)
            {
                return Err(Finding::Memory(first.start));
            }
            if machine.finding.get().is_some() || progress == Progress::Done {
                done = progress == Progress::Done;
                break;
            }
        }
        if patience == FOREVER && !done && machine.finding.get().is_none() {
            return Err(Finding::Endless(offset));
        }
        if self.device.counts().resets != resets {
            self.select = 0;
        }
        if offset == reg::QUEUE_SEL && size == Size::Word {
            self.select = value as u32;
        }
        if ready && self.select == 0 {
            let mut seen = machine.seen.borrow_mut();
            let new = seen
                .open
                .keys()
                .filter(|key| before.is_none_or(|last| **key > last));
            if let [_, available, used] = new.copied().collect::<Vec<_>>()[..] {
                seen.available = Some(available);
                seen.used = Some(Used::new(used));
                seen.tails.clear();
                drop(seen);
                machine.para.borrow_mut().forget_outcomes();
            }
        }
        if done && self.device.status() == DeviceStatus::empty() {
            // After a reset nothing of the driver's memory is held.
            if let Some(range) = machine.seen.borrow().open.values().next() {
                return Err(Finding::Memory(range.start));
            }
        }
        Ok(done)
    }

    fn word<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        offset: u32,
        value: u64,
    ) -> Result<bool, Finding> {
        self.write(watched, offset, (Size::Word, value), FOREVER)
    }

    /// A notification, until all is done.
    pub(crate) fn kick<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        patience: Option<u16>,
    ) -> Result<(), Finding> {
        let patience = patience.unwrap_or(FOREVER);
        if self.write(watched, reg::QUEUE_NOTIFY, (Size::Word, 0), patience)? {
            (self.outstanding, self.waiting) = (0, 0);
        }
        Ok(())
    }

    pub(crate) fn reset<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        patience: u16,
    ) -> Result<(), Finding> {
        if self.write(watched, reg::STATUS, (Size::Word, 0), patience)? {
            let machine = watched.machine;
            let mut para = machine.para.borrow_mut();
            para.forget_outcomes();
        }
        Ok(())
    }

    pub(crate) fn act<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        op: &FrontOp,
    ) -> Result<(), Finding> {
        let machine = watched.machine;
        match *op {
            FrontOp::BringUp {
                log2,
                features,
                place,
            } => self.bring_up(watched, log2, features, place)?,
            FrontOp::Register {
                offset,
                width,
                value,
                patience,
            } => {
                let size = match width % 4 {
                    0 => Size::Byte,
                    1 => Size::Half,
                    2 => Size::Word,
                    _ => Size::Double,
                };
                machine.seen.borrow_mut().meddled = true;
                self.write(watched, offset, (size, value), patience)?;
                self.device.read(offset, size);
            }
            FrontOp::Word { page, word, value } => {
                let pages = (FRONT.end - FRONT.start) / PAGE_SIZE;
                let at = FRONT.start + u64::from(page) % pages * PAGE_SIZE;
                machine.seen.borrow_mut().meddled = true;
                poke(machine, at + u64::from(word % 512) * 8, value);
            }
            FrontOp::Bytes {
                words,
                len,
                room,
                shape,
            } => {
                machine.seen.borrow_mut().asked = None;
                self.chain(watched, words, (len.min(40).into(), room), shape, false)?;
            }
            FrontOp::Shaped(shape) => self.shape = shape,
            FrontOp::Ahead { by } => {
                machine.seen.borrow_mut().meddled = true;
                self.avail = self.avail.wrapping_add(by);
                poke16(machine, self.available() + 2, self.avail);
            }
            FrontOp::Fault { endpoint, address } => {
                let fault = Fault {
                    reason: FaultReason::MAPPING,
                    flags: FaultFlags::READ,
                    endpoint: endpoint_of(endpoint % 16, machine.units.len()),
                    address: Some(Iova::new(address)),
                };
                let _ = self.device.fault(&Side(machine), &fault);
                machine.look_at_windows()?;
            }
        }
        Ok(())
    }

    fn bring_up<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        log2: u8,
        features: u8,
        place: u8,
    ) -> Result<(), Finding> {
        let machine = watched.machine;
        self.reset(watched, FOREVER)?;
        self.log2 = log2 % 9;
        self.base = FRONT.start + u64::from(place % 2) * 8 * PAGE_SIZE;
        // A part that is no memory of the driver's, or misaligned.
        let [available, used] = match place / 2 {
            1 => [self.available(), OUTSIDE],
            2 => [OUTSIDE, self.used()],
            3 => [self.available(), self.used() + 2],
            _ => [self.available(), self.used()],
        };
        (self.avail, self.descriptor) = (0, 0);
        (self.outstanding, self.waiting) = (0, 0);
        self.shape = Shape::Stock;
        for page in 0..8 {
            for word in 0..512 {
                poke(machine, self.base + page * PAGE_SIZE + word * 8, 0);
            }
        }
        let mut wanted = Features::BASE;
        wanted.set(Features::INDIRECT_DESC, features & 1 != 0);
        wanted.set(Features::EVENT_IDX, features & 2 != 0);
        wanted.set(Features::MAP_UNMAP, features & 0xc != 0xc);
        wanted.set(Features::PROBE, features & 0x30 != 0x30);
        self.indirect = features & 1 != 0;
        let bits = wanted.bits();
        let steps = [
            (reg::STATUS, 1),
            (reg::STATUS, 3),
            (reg::DRIVER_FEATURES_SEL, 0),
            (reg::DRIVER_FEATURES, bits & 0xffff_ffff),
            (reg::DRIVER_FEATURES_SEL, 1),
            (reg::DRIVER_FEATURES, bits >> 32),
            (reg::STATUS, 11),
            (reg::QUEUE_SEL, 0),
            (reg::QUEUE_NUM, 1 << self.log2),
            (reg::QUEUE_DESC_LOW, self.base),
            (reg::QUEUE_DRIVER_LOW, available),
            (reg::QUEUE_DEVICE_LOW, used),
            (reg::QUEUE_READY, 1),
            (reg::QUEUE_SEL, 1),
            (reg::QUEUE_NUM, 8),
            (reg::QUEUE_DESC_LOW, self.base + 3 * PAGE_SIZE),
            (reg::QUEUE_DRIVER_LOW, self.base + 3 * PAGE_SIZE + 0x200),
            (reg::QUEUE_DEVICE_LOW, self.base + 3 * PAGE_SIZE + 0x400),
            (reg::QUEUE_READY, 1),
            (reg::STATUS, 15),
        ];
        for (offset, value) in steps {
            self.word(watched, offset, value)?;
            // For a driver that has agreed on its features all is as after power-on.
            if (offset, value) == (reg::STATUS, 11)
                && self.device.status().contains(DeviceStatus::FEATURES_OK)
                && !machine.scarred.get()
                && !machine.para.borrow().books.current.is_empty()
            {
                return Err(Finding::Answer("reset", 1));
            }
        }
        // Buffers for events.
        let events = self.base + 3 * PAGE_SIZE;
        for n in 0..8u16 {
            let at = events + 0x800 + u64::from(n) * 24;
            poke(machine, events + u64::from(n) * 16, at);
            poke(machine, events + u64::from(n) * 16 + 8, 24 | WRITE);
            poke16(machine, events + 0x204 + 2 * u64::from(n), n);
        }
        poke16(machine, events + 0x202, 8);
        let mut seen = machine.seen.borrow_mut();
        seen.meddled = false;
        seen.asked = Some(VecDeque::new());
        Ok(())
    }

    fn available(&self) -> u64 {
        self.base + PAGE_SIZE
    }

    fn used(&self) -> u64 {
        self.base + 2 * PAGE_SIZE
    }

    /// Makes a request that a driver would make.
    pub(crate) fn ask<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        request: &Request,
    ) -> Result<(), Finding> {
        let head = |kind: u64, domain: u32| kind | u64::from(domain) << 32;
        let (words, len) = match *request {
            Request::Attach { domain, endpoint } => {
                ([head(1, domain.0), endpoint.0.into(), 0, 0, 0], 20)
            }
            Request::Detach { domain, endpoint } => {
                ([head(2, domain.0), endpoint.0.into(), 0, 0, 0], 20)
            }
            Request::Map {
                domain,
                iova,
                to,
                access,
            } => {
                // READ, WRITE and MMIO are the same bits, but for EXECUTE.
                let flags = access.bits() & 3 | (access.bits() & 8) >> 1;
                let [start, end] = [iova.start().raw(), iova.end().raw() - 1];
                ([head(3, domain.0), start, end, to.raw(), flags.into()], 36)
            }
            Request::Unmap { domain, iova } => {
                let (start, end) = (iova.start().raw(), iova.end().raw());
                // The very last address is in no range, and nothing is mapped there.
                let last = if end == u64::MAX { end } else { end - 1 };
                ([head(4, domain.0), start, last, 0, 0], 28)
            }
        };
        if let Some(asked) = &mut watched.machine.seen.borrow_mut().asked {
            asked.push_back(*request);
        }
        self.chain(watched, words, (len, 4), self.shape, true)
    }

    /// Puts a request into the ring.
    fn chain<U: DmaUnit>(
        &mut self,
        watched: &mut Watched<'_, 'm, U>,
        words: [u64; 5],
        (len, room): (u64, u16),
        shape: Shape,
        known: bool,
    ) -> Result<(), Finding> {
        let machine = watched.machine;
        let size = 1u16 << self.log2;
        let full = self.outstanding + LONGEST > size || u64::from(self.waiting) == SLOTS;
        if full && self.waiting != 0 {
            self.kick(watched, None)?;
        }
        self.waiting += 1;
        let slot = self.base + 4 * PAGE_SIZE + self.requests % SLOTS * SLOT;
        self.requests += 1;
        for (n, word) in (0..).zip(words) {
            poke(machine, slot + n * 8, word);
        }
        let tail = if room > 0x30 {
            self.base + 7 * PAGE_SIZE
        } else {
            // As Linux has it, right behind the readable part.
            slot + len.next_multiple_of(4)
        };
        for half in [tail, tail + 2] {
            poke16(machine, half, !0);
        }
        let stock = [(slot, len, 0), (tail, u64::from(room), WRITE)];
        let pieces: Vec<(u64, u64, u64)> = match shape {
            Shape::Stock | Shape::Indirect => stock.to_vec(),
            Shape::Mute => vec![stock[0]],
            Shape::Pieces => {
                let cut = len.min(13);
                let body = [(slot, cut, 0), (slot + cut, len - cut, 0)];
                let tail = (0..4).map(|n| (tail + n, 1, WRITE));
                body.into_iter().chain(tail).collect()
            }
        };
        let table = shape == Shape::Indirect && self.indirect;
        let needed = if table { 1 } else { pieces.len() as u16 };
        let head = self.descriptor % size;
        let write = |at: u64, n: u64, index: u16| {
            let (buffer, len, flags) = pieces[n as usize];
            let more = n + 1 < pieces.len() as u64;
            let next = if more {
                NEXT | u64::from(index) << 48
            } else {
                0
            };
            poke(machine, at, buffer);
            poke(machine, at + 8, len | flags | next);
        };
        if table {
            let bytes = pieces.len() as u64 * 16;
            for n in 0..pieces.len() as u64 {
                write(slot + TABLE + n * 16, n, n as u16 + 1);
            }
            poke(machine, self.base + u64::from(head) * 16, slot + TABLE);
            poke(
                machine,
                self.base + u64::from(head) * 16 + 8,
                bytes | INDIRECT,
            );
        } else {
            for n in 0..pieces.len() as u64 {
                let index = (self.descriptor + n as u16) % size;
                write(self.base + u64::from(index) * 16, n, (index + 1) % size);
            }
        }
        self.descriptor = (self.descriptor + needed) % size;
        self.outstanding += needed;
        let entry = self.available() + 4 + 2 * u64::from(self.avail % size);
        poke16(machine, entry, head);
        self.avail = self.avail.wrapping_add(1);
        poke16(machine, self.available() + 2, self.avail);
        self.note(machine, head, tail, known && shape != Shape::Mute);
        Ok(())
    }

    /// Notes where a status goes, if the device has the rings where they were
    /// made, and the memory is the driver's.
    fn note(&self, machine: &Machine, head: u16, tail: u64, known: bool) {
        let mut seen = machine.seen.borrow_mut();
        let mut rings = seen.open.values();
        let same = rings.any(|range| range.start == self.used());
        let usable = machine
            .expected
            .borrow()
            .has(tail & !(PAGE_SIZE - 1), tail + 4);
        if known && same && usable && seen.used.is_some() {
            seen.tails.insert(head, tail);
        } else {
            seen.tails.remove(&head);
        }
    }
}

/// The driver stores a word, if the page is the host's.
fn poke(machine: &Machine, at: u64, value: u64) {
    if machine.cpu.reaches(at & !7) {
        machine.store_of_driver(at, value);
    }
}

fn poke16(machine: &Machine, at: u64, value: u16) {
    let word = machine.ram.borrow().load(at & !7).unwrap_or(0);
    let shift = 8 * (at & 7);
    poke(
        machine,
        at & !7,
        word & !(0xffff << shift) | u64::from(value) << shift,
    );
}

const _: () = assert!(QUEUE_SIZE as u64 * 16 <= PAGE_SIZE);

/// The endpoint of a stream, or a number beside it.
pub(crate) fn wild_endpoint(number: u32, units: usize) -> Endpoint {
    if number < 16 {
        endpoint_of(number, units)
    } else {
        // One past a stream: mostly none.
        let past = endpoint_of(number % 16, units);
        Endpoint(past.0.wrapping_add(1 + (number >> 8) % 2))
    }
}

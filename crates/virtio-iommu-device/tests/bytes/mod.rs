//! Any bytes as what a driver does to its device, and what must hold after each
//! step: bounded work, no store but to buffers given, nothing held that is not
//! in use, one used entry for each chain taken.
//!
//! The first byte chooses features and the share of work, the second whether
//! the device is brought up. Then come steps, each a byte and what it takes; the
//! end of the bytes is the end.

use crate::world::{
    BUFFERS, EVENT_IDX, EVENTS, INDIRECT, Layout, PLAIN, Pace, RAM, REQUESTS, World,
};
use portcullis_addr::Iova;
use portcullis_dma_domain::{Endpoint, Refusal};
use std::ops::Range;
use virtio_iommu_device::{
    Config, DeviceStatus, Fault, FaultFlags, FaultReason, Progress, Size, reg,
};

/// The device is brought up first.
pub const SET_UP: u8 = 1;
/// With INDIRECT_DESC and EVENT_IDX; the rest of the byte is the share of work.
pub const WITH_INDIRECT: u8 = 0x80;
pub const WITH_EVENT_IDX: u8 = 0x40;

/// Steps.
pub const WRITE: u8 = 0;
pub const READ: u8 = 1;
pub const STORE: u8 = 2;
pub const DESCRIPTOR: u8 = 3;
pub const OFFER: u8 = 4;
pub const REQUEST: u8 = 5;
pub const CALL: u8 = 6;
pub const FINISH: u8 = 7;
pub const PACE: u8 = 8;
pub const FAULT: u8 = 9;
pub const REFUSE: u8 = 10;
pub const TAKE: u8 = 11;
pub const BRING_UP: u8 = 12;

/// Registers by number.
pub const REGISTERS: [u32; 24] = [
    reg::STATUS,
    reg::QUEUE_NOTIFY,
    reg::QUEUE_SEL,
    reg::QUEUE_NUM,
    reg::QUEUE_READY,
    reg::QUEUE_DESC_LOW,
    reg::QUEUE_DESC_HIGH,
    reg::QUEUE_DRIVER_LOW,
    reg::QUEUE_DRIVER_HIGH,
    reg::QUEUE_DEVICE_LOW,
    reg::QUEUE_DEVICE_HIGH,
    reg::DRIVER_FEATURES_SEL,
    reg::DRIVER_FEATURES,
    reg::DEVICE_FEATURES_SEL,
    reg::DEVICE_FEATURES,
    reg::INTERRUPT_ACK,
    reg::INTERRUPT_STATUS,
    reg::SHM_SEL,
    reg::QUEUE_RESET,
    reg::CONFIG_GENERATION,
    reg::CONFIG,
    0x104,
    0x124,
    0x03c,
];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, later) = self.0.split_first_chunk()?;
        self.0 = later;
        Some(*now)
    }
    fn byte(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }
    fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn double(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// A run.
struct Run {
    world: World,
    features: u64,
    layouts: [Layout; 2],
    available: [u16; 2],
    /// Where the device may store: since it was last done with everything.
    allowed: Vec<Range<u64>>,
    buffer: u64,
    descriptor: u16,
}

/// What the bytes say is done. Returns how many requests were taken.
pub fn run(bytes: &[u8]) -> u64 {
    let mut bytes = Bytes(bytes);
    let Some([config, mode]) = bytes.take() else {
        return 0;
    };
    let indirect = config & WITH_INDIRECT != 0;
    let event_idx = config & WITH_EVENT_IDX != 0;
    let mut features = PLAIN;
    if indirect {
        features |= INDIRECT;
    }
    if event_idx {
        features |= EVENT_IDX;
    }
    let config = Config {
        indirect,
        event_idx,
        work: u32::from(config & 0x3f) + 1,
        ..Config::default()
    };
    let mut run = Run {
        world: World::new(&config),
        features,
        layouts: [REQUESTS, EVENTS],
        available: [0; 2],
        allowed: Vec::new(),
        buffer: BUFFERS,
        descriptor: 0,
    };
    if mode & SET_UP != 0 {
        run.bring_up();
    }
    // As many steps as there are bytes, at most.
    while run.step(&mut bytes).is_some() {}
    run.end()
}

impl Run {
    fn bring_up(&mut self) {
        // Not after a page of the rings changed hands.
        if self.world.machine.is_whole() {
            self.world.bring_up(self.features);
            self.available = [0; 2];
            let _ = self.world.machine.written();
            self.allowed.clear();
        }
    }

    fn step(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        match bytes.byte()? {
            WRITE => {
                let number = usize::from(bytes.byte()?);
                let offset = match REGISTERS.get(number) {
                    Some(offset) => *offset,
                    None => u32::from(bytes.half()?),
                };
                let size = match bytes.byte()? {
                    1 => Size::Byte,
                    2 => Size::Half,
                    3 => Size::Double,
                    _ => Size::Word,
                };
                let value = bytes.word()?;
                self.write(offset, size, value.into());
            }
            READ => {
                let offset = u32::from(bytes.half()?);
                let _ = self.world.device.read(offset, Size::Word);
                let _ = self.world.device.read(offset, Size::Byte);
            }
            STORE => {
                let at = RAM.start + 8 * u64::from(bytes.half()? & 0x3fff);
                self.world.machine.put64(at, bytes.double()?);
            }
            DESCRIPTOR => {
                let [queue, index, len, flags, next] = bytes.take()?;
                let (at, scale) = (bytes.half()?, bytes.byte()?);
                let layout = self.layouts[usize::from(queue & 1)];
                let index = u64::from(index) % u64::from(layout.size);
                let to = layout.descriptors + 16 * index;
                // Mostly buffers, sometimes anywhere.
                let at = match scale {
                    0xff => u64::from(at) << 48 | 0xffff_ffff_ffff,
                    0xfe => RAM.end - u64::from(at & 0xff),
                    0xfd => RAM.start + u64::from(at),
                    _ => BUFFERS + u64::from(at),
                };
                let rest = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
                self.world.machine.put64(to, at);
                self.world.machine.put64(to + 8, rest);
            }
            OFFER => {
                let [queue, head] = bytes.take()?;
                self.offer(usize::from(queue & 1), head.into());
            }
            REQUEST => self.request(bytes)?,
            CALL => self.write(reg::QUEUE_NOTIFY, Size::Word, 0),
            FINISH => self.finish(reg::QUEUE_NOTIFY),
            PACE => {
                let turns = u32::from(bytes.byte()?);
                self.world.book.pace.push_back(Pace::Turns(turns));
            }
            FAULT => {
                let [reason, flags] = bytes.take()?;
                let address = bytes.double()?;
                let fault = Fault {
                    reason: FaultReason(reason),
                    flags: FaultFlags::from_bits_truncate(flags.into()),
                    endpoint: Endpoint(flags.into()),
                    address: (flags & 4 == 0).then_some(Iova::new(address)),
                };
                self.permit();
                self.world.machine.begin();
                let _ = self.world.device.fault(&self.world.machine, &fault);
                self.world.machine.end();
                self.check(Progress::Again);
            }
            REFUSE => {
                let refusal = match bytes.byte()? & 3 {
                    0 => Refusal::NoMemory,
                    1 => Refusal::Failed,
                    2 => Refusal::NotOwned,
                    _ => {
                        self.world.book.sync_fails ^= true;
                        return Some(());
                    }
                };
                self.world.book.refusals.push_back(refusal);
            }
            TAKE => {
                let page = u64::from(bytes.byte()?);
                self.world.machine.take(RAM.start + 0x1000 * page);
            }
            BRING_UP => self.bring_up(),
            _ => {}
        }
        Some(())
    }

    fn offer(&mut self, queue: usize, head: u16) {
        let layout = self.layouts[queue];
        let index = &mut self.available[queue];
        let slot = u64::from(*index) % u64::from(layout.size);
        self.world
            .machine
            .put16(layout.available + 4 + 2 * slot, head);
        *index = index.wrapping_add(1);
        self.world.machine.put16(layout.available + 2, *index);
    }

    /// A request as Linux has it, or nearly so.
    fn request(&mut self, bytes: &mut Bytes<'_>) -> Option<()> {
        let [kind, domain, first, count, flags, odd] = bytes.take()?;
        let start = 0x1_0000 + 0x1000 * u64::from(first);
        let last = start + 0x1000 * u64::from(count) + 0xfff;
        let mut body = vec![kind, 0, 0, 0, domain & 3, 0, 0, 0];
        let (len, answer) = match kind {
            1 | 2 => {
                body.extend([8 * (first & 3), 0, 0, 0, flags & 0x80, 0, 0, 0]);
                (20, 4)
            }
            5 => (72, 260),
            _ => {
                body.extend(start.to_le_bytes());
                body.extend(last.to_le_bytes());
                if kind == 3 {
                    body.extend([0; 8]);
                    body.extend([flags & 7, 0, 0, 0]);
                }
                (if kind == 3 { 36 } else { 28 }, 4)
            }
        };
        body.resize(len, 0);
        if let Some(byte) = body.get_mut(usize::from(odd)) {
            *byte ^= flags;
        }
        if self.buffer + 0x400 > RAM.end {
            self.buffer = BUFFERS;
        }
        let at = self.buffer;
        self.buffer += 0x170;
        self.world.machine.put(at, &body);
        let size = REQUESTS.size as u16;
        let (head, tail) = (self.descriptor % size, (self.descriptor + 1) % size);
        self.descriptor = (self.descriptor + 2) % size;
        let table = REQUESTS.descriptors;
        let entry = |index: u16| table + 16 * u64::from(index);
        let machine = &self.world.machine;
        machine.put64(entry(head), at);
        let flags = 1u64 << 32 | u64::from(tail) << 48;
        machine.put64(entry(head) + 8, len as u64 | flags);
        machine.put64(entry(tail), at + len as u64);
        machine.put64(entry(tail) + 8, answer | 2 << 32);
        self.offer(0, head);
        Some(())
    }

    fn finish(&mut self, offset: u32) {
        self.permit();
        for _ in 0..2000 {
            let progress = self.world.write_once(offset, Size::Word, 0);
            self.check(progress);
            if progress == Progress::Done {
                return;
            }
        }
        panic!("the write to {offset:#x} is never done");
    }

    fn write(&mut self, offset: u32, size: Size, value: u64) {
        self.permit();
        let progress = self.world.write_once(offset, size, value);
        self.check(progress);
    }

    /// Adds what the rings give now to where the device may store.
    fn permit(&mut self) {
        let mut structures = Vec::new();
        for parts in self.world.machine.parts() {
            let [descriptors, available, _] = &parts;
            structures.extend([descriptors.clone(), available.clone()]);
            buffers(&self.world, &parts, &mut self.allowed, &mut structures);
        }
        merge(&mut self.allowed);
        merge(&mut structures);
        // What the device writes for one chain may become part of the next:
        // silly, and nothing that can be foreseen here.
        let overlap = |range: &Range<u64>| {
            let next = structures.partition_point(|other| other.end <= range.start);
            let other = structures.get(next);
            other.is_some_and(|other| other.start < range.end)
        };
        if self.allowed.iter().any(overlap) {
            self.allowed = vec![RAM];
        }
    }

    fn check(&mut self, progress: Progress) {
        for at in self.world.machine.written() {
            let given = self.allowed.iter().any(|range| range.contains(&at));
            assert!(given, "a store to {at:#x}");
        }
        let status = self.world.device.status();
        if status.is_empty() {
            assert_eq!(self.world.machine.open_windows(), 0);
        }
        let broken = self.world.device.broken().is_some();
        assert!(!broken || status.contains(DeviceStatus::NEEDS_RESET));
        // Until then a request may be answered that was taken long ago.
        if progress == Progress::Done && !self.world.book.is_busy() {
            self.allowed.clear();
        }
    }

    fn end(mut self) -> u64 {
        self.finish(reg::STATUS);
        assert!(self.world.device.status().is_empty());
        assert_eq!(self.world.machine.open_windows(), 0);
        assert!(!self.world.book.is_busy());
        self.world.device.counts().requests
    }
}

/// Sorts ranges and joins those that touch.
fn merge(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let joined = next.start <= range.end;
        if joined {
            range.end = range.end.max(next.end);
        }
        joined
    });
}

/// The used ring, and every writable piece of every chain that the available
/// ring names, in a way of its own; and what of tables was looked at.
fn buffers(
    world: &World,
    parts: &[Range<u64>; 3],
    ranges: &mut Vec<Range<u64>>,
    structures: &mut Vec<Range<u64>>,
) {
    let [descriptors, available, used] = parts;
    ranges.push(used.clone());
    let size = (descriptors.end - descriptors.start) / 16;
    for slot in 0..size {
        let head = world.machine.get16(available.start + 4 + 2 * slot);
        let (mut table, mut limit) = (descriptors.start, size);
        let mut index = u64::from(head);
        for _ in 0..=size {
            let at = table.checked_add(16 * index);
            let Some(at) = at.filter(|at| *at >= RAM.start && *at <= RAM.end - 16) else {
                break;
            };
            if index >= limit {
                break;
            }
            structures.push(at..at + 16);
            let bytes = world.machine.get(at, 16);
            let address = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let len = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
            let next = u16::from_le_bytes(bytes[14..].try_into().unwrap());
            match bytes[12] & 7 {
                flags if flags & 4 != 0 => {
                    (table, limit, index) = (address, u64::from(len) / 16, 0);
                    continue;
                }
                flags => {
                    if flags & 2 != 0 {
                        ranges.push(address..address.saturating_add(len.into()));
                    }
                    if flags & 1 == 0 {
                        break;
                    }
                    index = next.into();
                }
            }
        }
    }
}

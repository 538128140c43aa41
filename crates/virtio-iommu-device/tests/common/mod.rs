//! A driver that writes rings.
#![allow(dead_code)]

#[path = "../world/mod.rs"]
pub mod world;

pub use world::*;

use virtio_iommu_device::{Config, reg};

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const TABLE: u16 = 4;

/// A descriptor as bytes.
#[must_use]
pub fn descriptor(at: u64, len: u32, flags: u16, next: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&at.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.to_le_bytes());
    bytes
}

fn request(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    for field in fields {
        bytes.extend_from_slice(field);
    }
    bytes
}

#[must_use]
pub fn attach(domain: u32, endpoint: u32) -> Vec<u8> {
    let (domain, endpoint) = (domain.to_le_bytes(), endpoint.to_le_bytes());
    request(1, &[&domain, &endpoint, &[0; 4], &[0; 4]])
}

#[must_use]
pub fn detach(domain: u32, endpoint: u32) -> Vec<u8> {
    let (domain, endpoint) = (domain.to_le_bytes(), endpoint.to_le_bytes());
    request(2, &[&domain, &endpoint, &[0; 8]])
}

#[must_use]
pub fn map(domain: u32, start: u64, last: u64, to: u64, flags: u32) -> Vec<u8> {
    let (start, last, to) = (start.to_le_bytes(), last.to_le_bytes(), to.to_le_bytes());
    let domain = domain.to_le_bytes();
    request(3, &[&domain, &start, &last, &to, &flags.to_le_bytes()])
}

#[must_use]
pub fn unmap(domain: u32, start: u64, last: u64) -> Vec<u8> {
    let (start, last) = (start.to_le_bytes(), last.to_le_bytes());
    request(4, &[&domain.to_le_bytes(), &start, &last, &[0; 4]])
}

#[must_use]
pub fn probe(endpoint: u32) -> Vec<u8> {
    request(5, &[&endpoint.to_le_bytes(), &[0; 64]])
}

/// Bytes that the answer to a request has.
#[must_use]
pub fn answer_size(body: &[u8]) -> u32 {
    if body[0] == 5 { 260 } else { 4 }
}

/// A world with a driver in it.
pub struct Driver {
    pub world: World,
    pub layout: Layout,
    /// `avail.idx` and what was seen of `used.idx`.
    pub available: u16,
    pub seen: u16,
    /// The next free descriptor and byte for buffers.
    pub descriptor: u16,
    pub buffer: u64,
}

impl Driver {
    #[must_use]
    pub fn new(features: u64) -> Self {
        Self::with(features, &Config::default())
    }

    #[must_use]
    pub fn with(features: u64, config: &Config) -> Self {
        let mut world = World::new(config);
        world.bring_up(features);
        Self {
            world,
            layout: REQUESTS,
            available: 0,
            seen: 0,
            descriptor: 0,
            buffer: BUFFERS,
        }
    }

    /// Room for a buffer, somewhere of its own.
    pub fn room(&mut self, bytes: u64) -> u64 {
        let at = self.buffer;
        self.buffer += (bytes + 15) & !7;
        at
    }

    /// Writes a descriptor of the table.
    pub fn describe(&mut self, index: u16, bytes: [u8; 16]) {
        let at = self.layout.descriptors + 16 * u64::from(index);
        self.world.machine.put(at, &bytes);
    }

    /// Writes a chain, returns its head.
    pub fn chain(&mut self, pieces: &[(u64, u32, bool)]) -> u16 {
        let size = self.layout.size as u16;
        let first = self.descriptor;
        for (n, (at, len, writable)) in pieces.iter().enumerate() {
            let index = (first + n as u16) % size;
            let last = n + 1 == pieces.len();
            let flags = if last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
            let next = if last { 0 } else { (index + 1) % size };
            self.describe(index, descriptor(*at, *len, flags, next));
        }
        self.descriptor = (first + pieces.len() as u16) % size;
        first
    }

    /// Makes a chain available.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.available) % u64::from(self.layout.size);
        let ring = self.layout.available;
        self.world.machine.put16(ring + 4 + 2 * slot, head);
        self.available = self.available.wrapping_add(1);
        self.world.machine.put16(ring + 2, self.available);
    }

    /// A request as Linux has it: in one piece, with its answer after it.
    /// Returns where the answer is to be.
    pub fn queue(&mut self, body: &[u8]) -> (u16, u64) {
        let answer = answer_size(body);
        let at = self.room(body.len() as u64 + u64::from(answer));
        self.world.machine.put(at, body);
        let tail = at + body.len() as u64;
        self.world.machine.fill(tail, u64::from(answer), 0xee);
        let head = self.chain(&[(at, body.len() as u32, false), (tail, answer, true)]);
        self.offer(head);
        (head, tail)
    }

    /// Notifies of the requests; how often it took.
    pub fn notify(&mut self) -> u32 {
        self.world.write(reg::QUEUE_NOTIFY, 0)
    }

    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.world.machine.get16(self.layout.used + 2)
    }

    /// What came back since the last time: head and length.
    pub fn used(&mut self) -> Vec<(u32, u32)> {
        let mut back = Vec::new();
        while self.seen != self.used_idx() {
            let slot = u64::from(self.seen) % u64::from(self.layout.size);
            let at = self.layout.used + 4 + 8 * slot;
            let machine = &self.world.machine;
            back.push((machine.get32(at), machine.get32(at + 4)));
            self.seen = self.seen.wrapping_add(1);
        }
        back
    }

    /// Sends one request; its status, or `None` if it was not answered.
    pub fn send(&mut self, body: &[u8]) -> Option<u8> {
        let (head, tail) = self.queue(body);
        self.notify();
        let back = self.used();
        let answer = answer_size(body);
        let bytes = self.world.machine.get(tail, u64::from(answer));
        match back[..] {
            [(id, 0)] if id == u32::from(head) => {
                assert!(bytes.iter().all(|byte| *byte == 0xee), "nothing is written");
                None
            }
            [(id, len)] if id == u32::from(head) => {
                assert_eq!(len, answer, "used length");
                let tail = &bytes[answer as usize - 4..];
                assert_eq!(tail[1..], [0; 3], "reserved bytes of the tail");
                Some(tail[0])
            }
            _ => panic!("used: {back:?}"),
        }
    }

    /// A domain with an endpoint in it.
    pub fn attached(&mut self, domain: u32) {
        assert_eq!(self.send(&attach(domain, 8)), Some(0));
    }
}

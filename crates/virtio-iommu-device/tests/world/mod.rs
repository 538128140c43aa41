//! A driver's machine and a back end with the right answers. Used by every
//! test, by the fuzz target `virtio_iommu` and by the test that replays its
//! corpus.
#![allow(dead_code)]

mod book;
mod machine;

#[allow(unused_imports)]
pub use book::{Book, Call, Pace, map as book_map};
#[allow(unused_imports)]
pub use machine::{Held as Window, Machine, PAGE, RAM};

use portcullis_dma_domain::Endpoint;
use virtio_iommu_device::{Config, Device, Progress, Size, reg};

/// Times that an unfinished write is repeated.
pub const PATIENCE: u32 = 100_000;

/// All of it.
pub struct World {
    pub machine: Machine,
    pub book: Book,
    pub device: Device<machine::Held>,
}

impl World {
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let book = Book::new();
        let device = Device::new(&book.limits, config).expect("sound limits");
        Self {
            machine: Machine::new(),
            book,
            device,
        }
    }

    /// One call.
    pub fn write_once(&mut self, offset: u32, size: Size, value: u64) -> Progress {
        self.machine.begin();
        self.book.begin_call();
        let progress = self
            .device
            .write(&self.machine, &mut self.book, offset, size, value);
        self.machine.end();
        progress
    }

    /// A write of 32 bits, repeated until it is done; how often.
    pub fn write(&mut self, offset: u32, value: u32) -> u32 {
        for times in 1..PATIENCE {
            if self.write_once(offset, Size::Word, u64::from(value)) == Progress::Done {
                return times;
            }
        }
        panic!("the write to {offset:#x} is never done");
    }

    pub fn read(&mut self, offset: u32) -> u32 {
        self.device.read(offset, Size::Word) as u32
    }

    /// Two words of features.
    pub fn accept(&mut self, features: u64) {
        for word in 0..2 {
            self.write(reg::DRIVER_FEATURES_SEL, word);
            self.write(reg::DRIVER_FEATURES, (features >> (32 * word)) as u32);
        }
    }

    /// The queue is laid out and made ready.
    pub fn ready(&mut self, queue: u32, at: &Layout) {
        self.write(reg::QUEUE_SEL, queue);
        self.write(reg::QUEUE_NUM, at.size);
        for (low, value) in [
            (reg::QUEUE_DESC_LOW, at.descriptors),
            (reg::QUEUE_DRIVER_LOW, at.available),
            (reg::QUEUE_DEVICE_LOW, at.used),
        ] {
            self.write(low, value as u32);
            self.write(low + 4, (value >> 32) as u32);
        }
        self.write(reg::QUEUE_READY, 1);
    }

    /// What a driver does until its device works (3.1.1).
    pub fn bring_up(&mut self, features: u64) {
        self.write(reg::STATUS, 0);
        self.write(reg::STATUS, 1);
        self.write(reg::STATUS, 3);
        self.accept(features);
        self.write(reg::STATUS, 11);
        assert_eq!(self.read(reg::STATUS), 11, "features");
        for (queue, layout) in (0..).zip([REQUESTS, EVENTS]) {
            self.machine
                .fill(layout.descriptors, 16 * u64::from(layout.size), 0);
            self.machine
                .fill(layout.available, 6 + 2 * u64::from(layout.size), 0);
            self.machine
                .fill(layout.used, 6 + 8 * u64::from(layout.size), 0);
            self.ready(queue, &layout);
        }
        self.write(reg::STATUS, 15);
        assert_eq!(self.read(reg::STATUS), 15, "a device that works");
    }
}

/// Where a queue lies.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub size: u32,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

pub const REQUESTS: Layout = Layout {
    size: 64,
    descriptors: RAM.start + 0x1000,
    available: RAM.start + 0x2000,
    used: RAM.start + 0x3000,
};
pub const EVENTS: Layout = Layout {
    size: 16,
    descriptors: RAM.start + 0x4000,
    available: RAM.start + 0x5000,
    used: RAM.start + 0x6000,
};
/// From here on memory is for buffers.
pub const BUFFERS: u64 = RAM.start + 0x1_0000;

/// Endpoints that there are.
pub const ENDPOINTS: [Endpoint; 3] = [Endpoint(0), Endpoint(8), Endpoint(0x1234)];

/// VERSION_1 and the features of an IOMMU.
pub const PLAIN: u64 = 1 << 32 | 0b11_0111;
/// VIRTIO_F_INDIRECT_DESC.
pub const INDIRECT: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const EVENT_IDX: u64 = 1 << 29;

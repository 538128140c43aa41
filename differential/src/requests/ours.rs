//! Our device, on a back end that keeps books.

use super::ask::{ENDPOINTS, LAST};
use super::driver::{AVAILABLE, DESCRIPTORS, ENTRIES, Side, USED};
use super::world::{EVENT_IDX, INDIRECT, Layout, PLAIN, RAM, World};
use portcullis_addr::{Iova, Range};
use portcullis_dma_domain::Endpoint;
use std::convert::Infallible;
use virtio_iommu_device::{Config, Device, PROBE_SIZE, reg};

/// Our side.
pub struct Ours {
    world: World,
}

impl Ours {
    /// A device with the endpoints and the doorbell that QEMU's has.
    #[must_use]
    pub fn new(doorbell: Option<(u64, u64)>) -> Self {
        let mut world = World::new(&Config::default());
        let book = &mut world.book;
        if let Ok(input) = Range::new(Iova::new(0), Iova::new(LAST + 1)) {
            book.limits.input = input;
        }
        book.limits.domains = (0, u32::MAX);
        book.endpoints = ENDPOINTS.map(Endpoint).to_vec();
        if let Some((first, last)) = doorbell
            && let Ok(range) = Range::new(Iova::new(first), Iova::new(last + 1))
        {
            book.doorbell = range;
            book.one_doorbell = true;
        }
        if let Ok(device) = Device::new(&book.limits, &Config::default()) {
            world.device = device;
        }
        Self { world }
    }
}

impl Side for Ours {
    type Error = Infallible;

    fn base(&self) -> u64 {
        RAM.start
    }

    fn probe_size(&self) -> usize {
        PROBE_SIZE as usize
    }

    fn bring_up(&mut self, event_idx: bool) -> Result<(), Infallible> {
        let world = &mut self.world;
        world.machine.fill(RAM.start, super::driver::MEMORY, 0);
        world.write(reg::STATUS, 0);
        world.write(reg::STATUS, 3);
        world.accept(PLAIN | INDIRECT | if event_idx { EVENT_IDX } else { 0 });
        world.write(reg::STATUS, 11);
        let layout = Layout {
            size: ENTRIES.into(),
            descriptors: RAM.start + DESCRIPTORS,
            available: RAM.start + AVAILABLE,
            used: RAM.start + USED,
        };
        world.ready(0, &layout);
        world.write(reg::STATUS, 15);
        let _ = (world.machine.written(), world.machine.loads());
        Ok(())
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Infallible> {
        self.world.machine.put(RAM.start + offset, bytes);
        Ok(())
    }

    fn get(&mut self, offset: u64, bytes: u64) -> Result<Vec<u8>, Infallible> {
        Ok(self.world.machine.get(RAM.start + offset, bytes))
    }

    fn notify(&mut self, _used: u16) -> Result<(), Infallible> {
        self.world.write(reg::QUEUE_NOTIFY, 0);
        self.world.book.calls.clear();
        let _ = (self.world.machine.written(), self.world.machine.loads());
        Ok(())
    }
}

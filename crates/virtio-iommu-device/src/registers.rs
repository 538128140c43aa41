//! Registers but for the quick notification (4.2.2, 4.2.3).

use crate::features::Features;
use crate::held::Held;
use crate::ring::{QUEUE_SIZE, Rings};
use crate::serve::{Server, notify};
use crate::status::{DeviceStatus, Reset};
use crate::{Device, Fault, Platform, Progress, Queue, Size, Window, event, reg};
use portcullis_dma_domain::Iommu;

/// InterruptStatus: a buffer was used.
pub(crate) const USED_BUFFER: u32 = 1;
/// InterruptStatus: the configuration, or the status, changed.
pub(crate) const CONFIGURATION: u32 = 2;

/// What the driver wrote, since the last reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub(crate) status: DeviceStatus,
    /// InterruptStatus.
    pub(crate) interrupts: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    queue_sel: u32,
    /// DriverFeatures, words 0 and 1.
    pub(crate) driver_features: u64,
    /// A feature of another word was acknowledged.
    pub(crate) beyond: bool,
}

impl Registers {
    pub(crate) fn new() -> Self {
        Self {
            status: DeviceStatus::empty(),
            interrupts: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            driver_features: 0,
            beyond: false,
        }
    }
}

/// Replaces one half of `whole`.
fn set_half(whole: &mut u64, high: bool, value: u32) {
    let (keep, shift) = if high {
        (0xffff_ffff, 32)
    } else {
        (!0xffff_ffff, 0)
    };
    *whole = *whole & keep | u64::from(value) << shift;
}

impl<W: Window> Device<W> {
    /// Reads `size` bytes, `offset` bytes from the start of the registers. Any
    /// access is taken; what no register has reads as 0 and is counted.
    pub fn read(&mut self, offset: u32, size: Size) -> u64 {
        if let Some(at) = offset.checked_sub(reg::CONFIG) {
            return self.read_configuration(at, size);
        }
        if size != Size::Word || !offset.is_multiple_of(4) {
            self.counts.illegal_accesses += 1;
            return 0;
        }
        let value = match offset {
            reg::MAGIC_VALUE => reg::MAGIC,
            reg::VERSION => 2,
            reg::DEVICE_ID => reg::IOMMU,
            reg::VENDOR_ID => self.config.vendor,
            reg::DEVICE_FEATURES => {
                let offered = self.config.offered().bits();
                match self.registers.device_features_sel {
                    // Truncation: the low word.
                    0 => offered as u32,
                    1 => (offered >> 32) as u32,
                    _ => 0,
                }
            }
            reg::QUEUE_NUM_MAX => match self.selected() {
                Some(_) => u32::from(QUEUE_SIZE),
                None => 0,
            },
            reg::QUEUE_READY => self.selected().map_or(0, |queue| u32::from(queue.ready)),
            reg::INTERRUPT_STATUS => self.registers.interrupts,
            reg::STATUS => self.status().bits(),
            // There is no shared memory (4.2.2).
            reg::SHM_LEN_LOW | reg::SHM_LEN_HIGH | reg::SHM_BASE_LOW | reg::SHM_BASE_HIGH => {
                u32::MAX
            }
            // VIRTIO_F_RING_RESET is not offered; the configuration is constant.
            reg::QUEUE_RESET | reg::CONFIG_GENERATION => 0,
            _ => {
                self.wrong(offset);
                0
            }
        };
        u64::from(value)
    }

    /// Whether the interrupt is asserted, for a machine whose interrupts are
    /// levels.
    #[must_use]
    pub fn asserted(&self) -> bool {
        self.registers.interrupts != 0
    }

    /// 8, 16 and 32 bits, aligned (4.2.2.2).
    fn read_configuration(&mut self, at: u32, size: Size) -> u64 {
        let bytes = size.bytes();
        let field = self
            .configuration
            .get(at as usize..at.saturating_add(bytes) as usize);
        match field {
            Some(field) if size != Size::Double && at.is_multiple_of(bytes) => field
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte)),
            _ => {
                self.counts.illegal_accesses += 1;
                0
            }
        }
    }

    fn wrong(&mut self, offset: u32) {
        match offset {
            reg::MAGIC_VALUE..=reg::QUEUE_SEL
            | reg::QUEUE_NUM_MAX
            | reg::QUEUE_NUM
            | reg::QUEUE_NOTIFY
            | reg::INTERRUPT_STATUS
            | reg::INTERRUPT_ACK
            | reg::QUEUE_DESC_LOW
            | reg::QUEUE_DESC_HIGH
            | reg::QUEUE_DRIVER_LOW
            | reg::QUEUE_DRIVER_HIGH
            | reg::QUEUE_DEVICE_LOW
            | reg::QUEUE_DEVICE_HIGH
            | reg::SHM_SEL..=reg::QUEUE_RESET
            | reg::CONFIG_GENERATION => self.counts.wrong_direction += 1,
            _ => self.counts.illegal_accesses += 1,
        }
    }

    fn selected(&self) -> Option<&Queue<W>> {
        self.queues.get(self.registers.queue_sel as usize)
    }

    /// Any write but the quick notification.
    #[cold]
    #[inline(never)]
    pub(crate) fn register<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Progress {
        if offset >= reg::CONFIG {
            self.counts.wrong_direction += 1;
            return Progress::Done;
        }
        if size != Size::Word || !offset.is_multiple_of(4) {
            self.counts.illegal_accesses += 1;
            return Progress::Done;
        }
        // The next write helps to complete a reset: it may be another CPU's,
        // and the one that asked for it may never come again.
        let resetting = self.reset == Reset::Settling;
        if self.go_on_with_reset(iommu) == Progress::Again {
            return self.again();
        }
        // Truncation: the access has 32 bits.
        let value = value as u32;
        if resetting && offset == reg::STATUS && value == 0 {
            // That was the reset that this asks for.
            return Progress::Done;
        }
        match offset {
            reg::DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            reg::DRIVER_FEATURES => self.acknowledge(value),
            reg::QUEUE_SEL => self.registers.queue_sel = value,
            reg::QUEUE_NUM => self.lay_out(|layout| layout.size = value),
            reg::QUEUE_DESC_LOW | reg::QUEUE_DESC_HIGH => {
                let high = offset == reg::QUEUE_DESC_HIGH;
                self.lay_out(|layout| set_half(&mut layout.descriptors, high, value));
            }
            reg::QUEUE_DRIVER_LOW | reg::QUEUE_DRIVER_HIGH => {
                let high = offset == reg::QUEUE_DRIVER_HIGH;
                self.lay_out(|layout| set_half(&mut layout.available, high, value));
            }
            reg::QUEUE_DEVICE_LOW | reg::QUEUE_DEVICE_HIGH => {
                let high = offset == reg::QUEUE_DEVICE_HIGH;
                self.lay_out(|layout| set_half(&mut layout.used, high, value));
            }
            reg::QUEUE_READY => return self.set_ready(platform, iommu, value),
            reg::QUEUE_NOTIFY => match value {
                // New buffers for events: nothing waits for them.
                1 if self.running() && self.queues[1].rings.is_some() => {}
                // Queue 0 in use is the quick case.
                _ => self.counts.idle_notifications += 1,
            },
            reg::INTERRUPT_ACK => self.registers.interrupts &= !value,
            reg::STATUS => return self.set_status(platform, iommu, value),
            reg::SHM_SEL => {}
            _ => self.wrong(offset),
        }
        Progress::Done
    }

    pub(crate) fn again(&mut self) -> Progress {
        self.counts.again += 1;
        Progress::Again
    }

    fn acknowledge(&mut self, value: u32) {
        if self.registers.status.contains(DeviceStatus::FEATURES_OK) {
            self.counts.guarded += 1;
            return;
        }
        match self.registers.driver_features_sel {
            0 => set_half(&mut self.registers.driver_features, false, value),
            1 => set_half(&mut self.registers.driver_features, true, value),
            _ => self.registers.beyond |= value != 0,
        }
    }

    /// Changes where the selected queue lies, unless it is ready.
    fn lay_out(&mut self, change: impl FnOnce(&mut crate::ring::Layout)) {
        match self.queues.get_mut(self.registers.queue_sel as usize) {
            Some(queue) if !queue.ready => change(&mut queue.layout),
            _ => self.counts.guarded += 1,
        }
    }

    fn set_ready<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
        value: u32,
    ) -> Progress {
        let index = self.registers.queue_sel as usize;
        let Some(queue) = self.queues.get_mut(index) else {
            self.counts.guarded += 1;
            return Progress::Done;
        };
        match value {
            1 if !queue.ready => {
                queue.ready = true;
                match Rings::open(platform, &queue.layout) {
                    Ok(rings) => queue.rings = Some(rings),
                    Err(broken) => self.needs_reset(platform, broken),
                }
            }
            0 if queue.ready => {
                // What the back end is in the middle of is ended and answered
                // while the queue is still there.
                if index == 0 && !self.settle(platform, iommu) {
                    return self.again();
                }
                self.close(platform, index);
            }
            0 | 1 => {}
            _ => self.counts.guarded += 1,
        }
        self.look();
        Progress::Done
    }

    /// Lets go of a queue's memory.
    pub(crate) fn close<P: Platform<Window = W>>(&mut self, platform: &P, index: usize) {
        if let Some(queue) = self.queues.get_mut(index) {
            queue.ready = false;
            if let Some(rings) = queue.rings.take() {
                rings.close(platform);
            }
        }
        self.look();
    }

    /// Ends the request that the back end is in the middle of. `false`: there
    /// was not work enough.
    fn settle<P: Platform<Window = W>, I: Iommu>(&mut self, platform: &P, iommu: &mut I) -> bool {
        if self.burst.under_way.is_none() {
            return true;
        }
        let work = self.config.work.max(1);
        let Some(mut server) = self.server(platform, iommu, work) else {
            return true;
        };
        let settled = server.settle();
        if settled {
            server.finish();
        }
        settled
    }

    /// Everything of a call about the request queue.
    #[inline]
    pub(crate) fn server<'a, P: Platform<Window = W>, I: Iommu>(
        &'a mut self,
        platform: &'a P,
        iommu: &'a mut I,
        budget: u32,
    ) -> Option<Server<'a, P, I>> {
        let [requests, _] = &mut self.queues;
        let rings = requests.rings.as_mut()?;
        Some(Server {
            platform,
            iommu,
            held: Held::new(platform),
            rings,
            burst: &mut self.burst,
            terms: &self.terms,
            pieces: &mut self.pieces,
            counts: &mut self.counts,
            interrupts: &mut self.registers.interrupts,
            budget,
        })
    }

    /// Tells the driver of a fault, if it has a buffer for it (5.13.6.9). Never
    /// waits.
    pub fn fault<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        fault: &Fault,
    ) -> event::Delivery {
        let running = self.running();
        let [_, events] = &mut self.queues;
        let delivered = match &mut events.rings {
            Some(rings) if running => {
                let delivered =
                    event::deliver(platform, rings, &self.terms, &mut self.counts, fault);
                let event_idx = self.terms.features.contains(Features::EVENT_IDX);
                if rings.publish(event_idx) {
                    notify(platform, &mut self.registers.interrupts, &mut self.counts);
                }
                delivered
            }
            _ => Ok(false),
        };
        if let Err(broken) = delivered {
            self.needs_reset(platform, broken);
        }
        if delivered == Ok(true) {
            self.counts.faults_delivered += 1;
            event::Delivery::Delivered
        } else {
            self.counts.faults_dropped += 1;
            event::Delivery::Dropped
        }
    }
}

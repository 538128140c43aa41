//! Status, from a reset to the next (2.1, 2.2, 2.4).

use crate::chain::Broken;
use crate::features::Features;
use crate::registers::{CONFIGURATION, Registers};
use crate::{Device, Platform, Progress, Window};
use bitflags::bitflags;
use portcullis_dma_domain::{Iommu, Step};

bitflags! {
    /// Status (2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DeviceStatus: u32 {
        /// ACKNOWLEDGE: a driver found the device.
        const ACKNOWLEDGE = 1;
        /// DRIVER: it knows how to drive it.
        const DRIVER = 2;
        /// DRIVER_OK: it is ready.
        const DRIVER_OK = 4;
        /// FEATURES_OK: features are agreed on.
        const FEATURES_OK = 8;
        /// DEVICE_NEEDS_RESET: nothing works until a reset.
        const NEEDS_RESET = 64;
        /// FAILED: the driver gave up.
        const FAILED = 128;
    }
}

impl DeviceStatus {
    /// What a driver may set.
    const DRIVERS: Self = Self::ACKNOWLEDGE
        .union(Self::DRIVER)
        .union(Self::DRIVER_OK)
        .union(Self::FEATURES_OK)
        .union(Self::FAILED);
}

/// What takes longer than one write of Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reset {
    /// Nothing does.
    None,
    /// A reset: the back end is in the middle of a request, perhaps.
    Settling,
    /// A new driver: the back end is to forget what an earlier one asked for.
    ToForget,
    /// It is about to.
    Forgetting,
}

impl<W: Window> Device<W> {
    /// Status as it is read: not 0 before a reset is complete (2.4).
    #[must_use]
    pub fn status(&self) -> DeviceStatus {
        match self.reset {
            Reset::Settling => self.registers.status | DeviceStatus::NEEDS_RESET,
            Reset::None | Reset::ToForget | Reset::Forgetting => self.registers.status,
        }
    }

    /// A write of Status. A reset (2.4) ends what the driver has begun, and no more:
    /// Linux resets its IOMMU at shutdown before the drivers of what is behind it
    /// have stopped their devices (since 6.16), and a crashed kernel does not stop
    /// them at all. What devices reach stays as it is until another driver has agreed
    /// on features, before which it can attach nothing; it starts with no domain.
    pub(crate) fn set_status<P: Platform<Window = W>, I: Iommu>(
        &mut self,
        platform: &P,
        iommu: &mut I,
        value: u32,
    ) -> Progress {
        if value == 0 {
            self.counts.resets += 1;
            self.begin_reset(platform);
            return match self.go_on_with_reset(iommu) {
                Progress::Done => Progress::Done,
                Progress::Again => self.again(),
            };
        }
        let old = self.registers.status;
        let wanted = DeviceStatus::from_bits_truncate(value);
        let mut new = old | wanted & DeviceStatus::DRIVERS;
        // A driver must not clear a bit, nor set one that is not its own (2.1.1).
        if !wanted.contains(old) || !(old | DeviceStatus::DRIVERS).contains(wanted) {
            self.counts.guarded += 1;
        }
        if !old.contains(DeviceStatus::FEATURES_OK)
            && new.contains(DeviceStatus::FEATURES_OK)
            && !self.agree()
        {
            self.counts.features_refused += 1;
            new.remove(DeviceStatus::FEATURES_OK);
        }
        if !new.contains(DeviceStatus::FEATURES_OK) && new.contains(DeviceStatus::DRIVER_OK) {
            self.counts.guarded += 1;
            new.remove(DeviceStatus::DRIVER_OK);
        }
        if self.used && new.contains(DeviceStatus::FEATURES_OK) {
            self.used = false;
            self.reset = Reset::ToForget;
            if self.go_on_with_reset(iommu) == Progress::Again {
                // The write comes again, and finds that this was done.
                return self.again();
            }
        }
        self.registers.status = new;
        self.look();
        Progress::Done
    }

    /// Whether the driver's features can be had (2.2.2).
    fn agree(&mut self) -> bool {
        let features = Features::from_bits_retain(self.registers.driver_features);
        let agreed = !self.registers.beyond
            && self.config.offered().contains(features)
            && features.contains(Features::VERSION_1);
        if agreed {
            self.terms.features = features;
        }
        agreed
    }

    /// The driver is ready, and so is the device.
    pub(crate) fn running(&self) -> bool {
        let status = self.registers.status;
        status.contains(DeviceStatus::DRIVER_OK)
            && !status.contains(DeviceStatus::NEEDS_RESET)
            && self.reset == Reset::None
    }

    /// Looks whether requests may be processed.
    pub(crate) fn look(&mut self) {
        self.live = self.running() && self.queues[0].rings.is_some();
    }

    /// The device cannot go on (2.1.2).
    #[cold]
    pub(crate) fn needs_reset<P: Platform>(&mut self, platform: &P, broken: Broken) {
        self.counts.broken += 1;
        self.broken.get_or_insert(broken);
        self.registers.status |= DeviceStatus::NEEDS_RESET;
        self.look();
        if self.registers.status.contains(DeviceStatus::DRIVER_OK) {
            self.registers.interrupts |= CONFIGURATION;
            self.counts.interrupts += 1;
            platform.raise();
        }
    }

    /// From here on nothing of the driver's memory is touched.
    fn begin_reset<P: Platform<Window = W>>(&mut self, platform: &P) {
        for index in 0..self.queues.len() {
            self.close(platform, index);
        }
        for queue in &mut self.queues {
            queue.layout = Default::default();
        }
        // Not 0 to the driver before the end.
        let status = self.registers.status;
        self.registers = Registers::new();
        self.registers.status = status;
        self.terms.features = Features::empty();
        // Only a driver that was ready has asked for anything.
        self.used |= status.contains(DeviceStatus::DRIVER_OK);
        self.reset = Reset::Settling;
        self.look();
    }

    /// Goes on with what takes longer than a write of Status, as far as the work of a
    /// call goes.
    pub(crate) fn go_on_with_reset<I: Iommu>(&mut self, iommu: &mut I) -> Progress {
        let progress = match self.reset {
            Reset::None => return Progress::Done,
            Reset::Settling => self.finish_reset(iommu),
            Reset::ToForget | Reset::Forgetting => self.forget(iommu),
        };
        if progress == Progress::Done {
            self.reset = Reset::None;
        }
        progress
    }

    fn finish_reset<I: Iommu>(&mut self, iommu: &mut I) -> Progress {
        // The answer goes nowhere, but the back end does one thing after the other.
        let mut budget = self.config.work.max(1);
        while self.burst.under_way.is_some() {
            if budget == 0 {
                return Progress::Again;
            }
            budget -= 1;
            match iommu.go_on() {
                Step::More => {}
                Step::Done(_) => self.burst.under_way = None,
                Step::AfterSync => {
                    self.burst.under_way = None;
                    self.unsynced = true;
                }
            }
        }
        if (self.unsynced || !self.burst.is_empty()) && iommu.sync().is_err() {
            self.counts.failed_syncs += 1;
        }
        self.unsynced = false;
        self.burst.clear();
        self.registers.status = DeviceStatus::empty();
        self.broken = None;
        Progress::Done
    }

    fn forget<I: Iommu>(&mut self, iommu: &mut I) -> Progress {
        for _ in 0..self.config.work.max(1) {
            let step = if self.reset == Reset::Forgetting {
                iommu.go_on()
            } else {
                self.reset = Reset::Forgetting;
                iommu.reset()
            };
            let forgotten = match step {
                Step::More => continue,
                Step::AfterSync => iommu.sync().is_ok(),
                Step::Done(result) => result.is_ok(),
            };
            if !forgotten {
                self.counts.failed_resets += 1;
            }
            return Progress::Done;
        }
        Progress::Again
    }
}

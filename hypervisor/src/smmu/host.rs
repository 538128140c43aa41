//! The SMMU that the host sees in the place of a physical one.

use super::serve::{Reporter, attend};
use super::{Driver, Instance, Port, SMMUS, State, SystemCounter, instances};
use crate::memory::Shared;
use crate::owner_memory::MappedMemory;
use crate::smmu::platform::HostPlatform;
use core::sync::atomic::Ordering;
use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{Machine, STREAM_RANGE_LIMIT};
use smmuv3_driver::{Event, Stage2};
use smmuv3_emulator::{
    AssignedStreams, ConfinedSmmu, Counts, Delivery, Emulator, IdConfig, Progress, Size,
};
use smmuv3_spec::StreamId;
use spin::Once;

/// Offsets that belong to an SMMU: register pages 0 and 1.
const REGISTERS: u64 = 0x2_0000;

/// How often the lock is tried before the host's CPU goes back and comes again:
/// about as long as another CPU's longest work takes.
const TRIES: u32 = 4096;

/// The emulated SMMU with everything it works on but the physical one.
pub(super) struct Emulated {
    host: HostPlatform,
    /// The pages of ours that the host reads registers from.
    shown: Option<Range<PhysAddr>>,
    emulator: Emulator<MappedMemory>,
    stage2: Stage2,
    streams: Streams,
    reporter: Reporter,
}

/// The streams of an SMMU that the host has: those that the device tree names,
/// by the same numbers.
struct Streams {
    /// The first `count` are meant.
    given: [AssignedStreams; STREAM_RANGE_LIMIT],
    count: usize,
}

const NONE: AssignedStreams = AssignedStreams {
    first: StreamId(0),
    physical: StreamId(0),
    count: 0,
    pcie: true,
};

impl Streams {
    fn of(machine: &Machine, index: usize) -> Self {
        let mut streams = Self {
            given: [NONE; STREAM_RANGE_LIMIT],
            count: 0,
        };
        let ranges = machine.streams.iter().filter(|range| range.smmu == index);
        for (slot, range) in streams.given.iter_mut().zip(ranges) {
            *slot = AssignedStreams {
                first: StreamId(range.first),
                physical: StreamId(range.first),
                count: (range.last - range.first).saturating_add(1),
                pcie: range.pcie,
            };
            streams.count += 1;
        }
        streams
    }

    #[inline]
    fn list(&self) -> &[AssignedStreams] {
        self.given.get(..self.count).unwrap_or_default()
    }
}

impl Emulated {
    /// An SMMU after reset in the place of the one that `driver` has, with the
    /// streams of which it has given `stage2` to each. `reporter` is for the
    /// physical one.
    pub(super) fn new(
        host: HostPlatform,
        driver: &Driver,
        stage2: &Stage2,
        (machine, index): (&Machine, usize),
        reporter: Reporter,
    ) -> Self {
        let streams = Streams::of(machine, index);
        let highest = streams
            .list()
            .iter()
            .map(|given| given.first.0.saturating_add(given.count.saturating_sub(1)))
            .max()
            .unwrap_or(0);
        let config = IdConfig {
            // Nobody drains them: the line that would say so is the host's own.
            page_requests: false,
            ipa_bits: 64 - stage2.t0sz,
            // At most 32.
            stream_bits: (u32::BITS - highest.leading_zeros()) as u8,
            coherent: host.coherent(),
        };
        let emulator = Emulator::new(driver.features(), &config);
        emulator.show_registers(&host);
        Self {
            host,
            shown: Some(host.range()),
            emulator,
            stage2: *stage2,
            streams,
            reporter,
        }
    }

    #[inline]
    fn write(&mut self, driver: &mut Driver, offset: u32, size: Size, value: u64) -> Progress {
        let mut confined: ConfinedSmmu<'_, Port, Shared, SystemCounter, Reporter> = ConfinedSmmu {
            smmu: driver,
            stage2: self.stage2,
            streams: self.streams.list(),
            device: self.shown,
            report: self.reporter,
        };
        self.emulator
            .write(&self.host, &mut confined, offset, size, value)
    }

    /// Hands the host an event of the physical SMMU.
    pub(super) fn event(&mut self, event: &Event) -> Delivery {
        self.emulator
            .deliver_event(&self.host, self.streams.list(), &event.0)
    }

    /// The physical SMMU aborts everything from now on.
    pub(super) fn failed(&mut self) {
        self.emulator.enter_service_failure(&self.host);
    }

    /// What was done and refused so far.
    pub(super) fn counts(&self) -> &Counts {
        self.emulator.counts()
    }
}

/// Lets the host have an emulated SMMU in the place of the one at `index`, which
/// is yet to be brought up.
pub fn create_emulated(index: usize, host: HostPlatform) {
    if let Some(instance) = SMMUS.get(index).and_then(Once::get) {
        instance.host.call_once(|| host);
    }
}

#[inline(always)]
fn at(ipa: u64) -> Option<(&'static Instance, u32)> {
    instances().find_map(|instance| {
        let offset = ipa.wrapping_sub(instance.registers.range().start().raw());
        // Truncation: below the limit.
        (offset < REGISTERS).then_some((instance, offset as u32))
    })
}

/// Whether `ipa` is a register of an emulated SMMU.
#[must_use]
pub fn is_register(ipa: u64) -> bool {
    at(ipa).is_some_and(|(instance, _)| instance.host.get().is_some())
}

/// The host's write to a register of the emulated SMMU at `ipa`; `None` when
/// there is none.
#[inline]
#[must_use]
pub fn store(ipa: u64, size: Size, value: u64) -> Option<Progress> {
    let (instance, offset) = at(ipa)?;
    let mutex = instance.state.get()?;
    let mut tries = 0;
    let mut state = loop {
        if let Some(state) = mutex.try_lock() {
            break state;
        }
        tries += 1;
        if tries == TRIES {
            return Some(Progress::Again);
        }
        core::hint::spin_loop();
    };
    let State { driver, emulated } = &mut *state;
    let progress = match emulated {
        Some(emulated) => emulated.write(driver, offset, size, value),
        None => Progress::Done,
    };
    drop(state);
    if instance.wanted.load(Ordering::SeqCst) {
        attend(instance);
    }
    Some(progress)
}

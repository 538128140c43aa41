//! The stock driver has an emulated SMMU on top of the physical one.

use super::client::Client;
use super::memory::SHOWN;
use super::stage2::{Driver, host, take_over};
use super::stock::{Front, Stock};
use super::window::{Held, Side};
use super::{Machine, MachineError, Shape, stream};
use portcullis_addr::{PhysAddr, Range};
use smmuv3_driver::Stage2;
use smmuv3_emulator::{AssignedStreams, ConfinedSmmu, Emulator, IdConfig, Progress, Size};
use smmuv3_spec::reg;

/// Times that a write is repeated before it counts as never done.
const FOREVER: u32 = 100_000;

/// Bits of a StreamID: 4,096 initiators.
pub(super) const STREAM_BITS: u8 = 12;

struct Emulated<'m> {
    machine: &'m Machine,
    driver: Driver<'m>,
    emulator: Emulator<Held<'m>>,
    stage2: Stage2,
    given: [AssignedStreams; 1],
    entries: u64,
}

impl Front for Emulated<'_> {
    /// Every write is a trap, and so is its repetition.
    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), MachineError> {
        for _ in 0..FOREVER {
            self.entries += 1;
            let shown = Range::from_size(PhysAddr::new(SHOWN), u64::from(reg::SIZE));
            let mut below = ConfinedSmmu {
                smmu: &mut self.driver,
                stage2: self.stage2,
                streams: &self.given,
                device: shown.ok(),
                report: (),
            };
            let side = Side(self.machine);
            let progress = self.emulator.write(&side, &mut below, offset, size, value);
            if progress == Progress::Done {
                return Ok(());
            }
        }
        Err(MachineError::Stuck("finish a write of a register"))
    }

    /// Reads enter nothing.
    fn read32(&self, offset: u32) -> u32 {
        Side(self.machine).shown(offset)
    }

    fn entries(&self) -> u64 {
        self.entries
    }
}

pub(super) fn with<T>(
    machine: &Machine,
    shape: &Shape<'_>,
    run: impl FnOnce(&mut dyn Client) -> T,
) -> Result<T, MachineError> {
    let mut driver = take_over(machine)?;
    let stage2 = host(machine, shape, &driver)?;
    driver.attach_range(stream(0), stream(shape.initiators() - 1), &stage2)?;
    let config = IdConfig {
        // 36 to 48.
        ipa_bits: shape.platform.memory.ipa_bits.get().get() as u8,
        stream_bits: STREAM_BITS,
        page_requests: false,
        coherent: driver.features().coherent(),
    };
    let emulator = Emulator::new(driver.features(), &config);
    emulator.show_registers(&Side(machine));
    let front = Emulated {
        machine,
        driver,
        emulator,
        stage2,
        given: [AssignedStreams {
            first: stream(0),
            physical: stream(0),
            // At most 4096.
            count: shape.initiators() as u32,
            pcie: true,
        }],
        entries: 0,
    };
    let mut stock = Stock::start(machine, shape, front)?;
    Ok(run(&mut stock))
}

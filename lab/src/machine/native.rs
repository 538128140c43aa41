//! The stock driver has the physical SMMU.

use super::client::Client;
use super::memory::Port;
use super::stock::{Front, Stock};
use super::{Machine, MachineError, Shape};
use smmuv3_driver::Registers;
use smmuv3_emulator::Size;

/// Its registers.
struct Direct<'m>(&'m Machine);

impl Front for Direct<'_> {
    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), MachineError> {
        match size {
            Size::Double => Port(self.0).write64(offset, value),
            // Truncation: the access has 32 bits.
            _ => Port(self.0).write32(offset, value as u32),
        }
        Ok(())
    }

    fn read32(&self, offset: u32) -> u32 {
        Port(self.0).read32(offset)
    }

    fn entries(&self) -> u64 {
        0
    }
}

pub(super) fn with<T>(
    machine: &Machine,
    shape: &Shape<'_>,
    run: impl FnOnce(&mut dyn Client) -> T,
) -> Result<T, MachineError> {
    let mut stock = Stock::start(machine, shape, Direct(machine))?;
    Ok(run(&mut stock))
}

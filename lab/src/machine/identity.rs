//! The host sees no IOMMU: an address is where memory is.

use super::client::{Client, Work};
use super::stage2::{host, take_over};
use super::{Machine, MachineError, Shape, stream};
use portcullis_addr::{Iova, Ipa, Range};

struct Identity;

impl Client for Identity {
    fn map(&mut self, _: usize, _: Iova, _: &[Range<Ipa>]) -> Result<Work, MachineError> {
        Ok(Work::default())
    }

    fn unmap_lazily(&mut self, _: usize, _: Range<Iova>) -> Result<Work, MachineError> {
        Ok(Work::default())
    }

    fn complete(&mut self) -> Result<Work, MachineError> {
        Ok(Work::default())
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
    Ok(run(&mut Identity))
}

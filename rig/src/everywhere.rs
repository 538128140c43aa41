//! Invalidation on every CPU and every SMMU.

use crate::machine::Machine;
use crate::mutant::Mutant;
use crate::world::Driver;
use portcullis_addr::{Ipa, PAGE_SIZE, Range};
use portcullis_isolation::Invalidate;
use portcullis_pagetable::Invalidation;
use smmuv3_driver::{Error, Granule};
use smmuv3_spec::Vmid;

/// VMID of the host, on CPUs and SMMUs.
pub(crate) const HOST_VMID: Vmid = Vmid(1);

pub(crate) struct Everywhere<'a, 'm> {
    pub(crate) drivers: &'a mut [Driver<'m>],
    pub(crate) machine: &'m Machine,
}

fn first_page(range: Range<Ipa>) -> Range<Ipa> {
    Range::from_size(range.start(), PAGE_SIZE).unwrap_or(range)
}

impl Invalidate for Everywhere<'_, '_> {
    type Error = Error;

    fn cpus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Error> {
        let mutant = self.machine.mutant;
        let Some(range) = plan.range().filter(|_| mutant != Mutant::ForgetCpus) else {
            return Ok(());
        };
        let range = match mutant {
            Mutant::CpuFirstPageOnly => first_page(range),
            _ => range,
        };
        let leaf = plan.leaf_only() || mutant == Mutant::CpuLeafOnly;
        let cpu = &self.machine.cpu;
        cpu.invalidate(HOST_VMID, range, plan.level(), leaf);
        Ok(())
    }

    fn smmus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Error> {
        let Some(range) = plan.range() else {
            return Ok(());
        };
        let mutant = self.machine.mutant;
        let range = match mutant {
            Mutant::ForgetSmmus | Mutant::TooEarly => return Ok(()),
            Mutant::FirstPageOnly => first_page(range),
            _ => range,
        };
        let leaf = plan.leaf_only() || mutant == Mutant::CallerLeaf;
        let mut result = Ok(());
        for (index, driver) in self.drivers.iter_mut().enumerate() {
            if mutant == Mutant::ForgetSecond && index == 1 {
                continue;
            }
            let (level, granule) = (plan.level(), Granule::Size4K);
            match driver.tlbi_ipa_range(HOST_VMID, range, granule, level, leaf) {
                // A fenced one reaches nothing, and drops everything before it
                // reaches something again.
                Ok(()) | Err(Error::Fenced) => {}
                Err(error) => result = Err(error),
            }
        }
        result
    }
}

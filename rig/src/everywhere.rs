//! Invalidation on every CPU and every SMMU.

use crate::machine::Machine;
use crate::mutant::Mutant;
use crate::world::Driver;
use portcullis_addr::{Ipa, PAGE_SIZE, Range};
use portcullis_isolation::{Invalidate, SmmuError, invalidate_smmus};
use portcullis_pagetable::Invalidation;
use smmuv3_driver::Granule;
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

impl Everywhere<'_, '_> {
    /// The same as [`invalidate_smmus`], with a mistake in it.
    fn smmus_wrongly(&mut self, plan: &Invalidation<Ipa>) -> Result<(), SmmuError> {
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
            let done = driver.tlbi_ipa_range(HOST_VMID, range, granule, level, leaf);
            result = result.and(done.map_err(|error| SmmuError { index, error }));
        }
        result
    }
}

impl Invalidate for Everywhere<'_, '_> {
    type Error = SmmuError;

    fn cpus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), SmmuError> {
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
        cpu.invalidate(vmid, range, plan.level(), leaf);
        Ok(())
    }

    fn smmus(&mut self, vmid: Vmid, plan: &Invalidation<Ipa>) -> Result<(), SmmuError> {
        match self.machine.mutant {
            Mutant::ForgetSmmus
            | Mutant::TooEarly
            | Mutant::FirstPageOnly
            | Mutant::CallerLeaf
            | Mutant::ForgetSecond => self.smmus_wrongly(plan),
            _ => invalidate_smmus(self.drivers.iter_mut(), vmid, plan),
        }
    }
}

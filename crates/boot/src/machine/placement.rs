//! Where registers may be: what the hypervisor drives or withholds is no RAM.

use super::{Conduit, Gic, Machine, Smmu};
use crate::args::HostIommu;
use crate::error::BootError;
use portcullis_addr::{PhysAddr, Range};

/// Bytes of the register pages 0 and 1 of an SMMU (IHI 0070, 6.2).
pub const SMMU_BYTES: u64 = 0x2_0000;

impl Machine {
    /// Refuses registers that the tree puts into RAM: the hypervisor would drive
    /// its own memory, and the host would have as memory what is to be withheld.
    ///
    /// # Errors
    /// [`BootError::RegistersInMemory`]
    pub fn outside_memory(&self, registers: Range<PhysAddr>) -> Result<(), BootError> {
        let refused = BootError::RegistersInMemory { range: registers };
        let pages = registers.page_outward().ok_or(refused)?;
        match self.all_memory().any(|bank| bank.overlaps(&pages)) {
            true => Err(refused),
            false => Ok(()),
        }
    }

    /// Checks the registers of one SMMU before the hypervisor maps them. One that has
    /// page 0 alone will do where the host does not see it.
    ///
    /// # Errors
    /// [`BootError::SmmuTooSmall`], [`BootError::RegistersInMemory`]
    pub fn check_smmu(&self, smmu: &Smmu) -> Result<(), BootError> {
        let registers = smmu.registers;
        let one = smmu.page_0_only && self.host_iommu != HostIommu::Nested;
        if registers.size() < if one { SMMU_BYTES / 2 } else { SMMU_BYTES } {
            return Err(BootError::SmmuTooSmall { range: registers });
        }
        self.outside_memory(registers)
    }

    /// Checks what the hypervisor counts on before it looks at any register but
    /// those of the SMMUs: firmware that it can call, an SMMU, and registers of
    /// everything that it drives or withholds outside of RAM.
    ///
    /// # Errors
    /// [`BootError::Conduit`], [`BootError::MissingNode`],
    /// [`BootError::RegistersInMemory`], [`BootError::DoorbellWithheld`]
    pub fn check_hardware(&self) -> Result<(), BootError> {
        if self.psci.conduit != Conduit::Smc {
            return Err(BootError::Conduit);
        }
        self.require_smmu()?;
        let console = self.console.iter().map(|console| console.registers);
        for range in console.chain(self.hidden.iter().copied()) {
            self.outside_memory(range)?;
        }
        let doorbells = self.gic.doorbells();
        let doorbells = doorbells.flat_map(|its| [its.registers, its.doorbell]);
        for range in doorbells.chain([self.gic.distributor()]) {
            self.outside_memory(range)?;
        }
        if let Gic::V3(v3) = &self.gic {
            let frames = v3.redistributors.iter().copied();
            for range in frames.chain(v3.compatibility.iter().copied()) {
                self.outside_memory(range)?;
            }
        }
        self.check_doorbells()
    }

    /// Checks that what devices write is none of the interrupt controller's other
    /// registers: with those they would have it walk tables of their choice.
    fn check_doorbells(&self) -> Result<(), BootError> {
        let clear = |range: Range<PhysAddr>, other: &Range<PhysAddr>| {
            let refused = BootError::DoorbellWithheld { range };
            (!range.overlaps(other)).then_some(()).ok_or(refused)
        };
        for (index, its) in self.gic.doorbells().enumerate() {
            clear(its.doorbell, &self.gic.distributor())?;
            match &self.gic {
                Gic::V3(v3) => {
                    let mut all = v3.redistributors.iter().chain(v3.compatibility.iter());
                    all.try_for_each(|frame| clear(its.doorbell, frame))?;
                }
                Gic::V2(v2) => {
                    let mut all = v2.virtualization.iter().chain([&v2.cpu_interface]);
                    all.try_for_each(|frame| clear(its.doorbell, frame))?;
                }
            }
            for (other, found) in self.gic.doorbells().enumerate() {
                if other != index {
                    clear(its.doorbell, &found.registers)?;
                    clear(its.doorbell, &found.doorbell)?;
                } else if its.id_in_address {
                    clear(its.doorbell, &its.registers)?;
                }
            }
        }
        Ok(())
    }
}

//! The SMMUs, as domains reach them.

use crate::memory::Shared;
use crate::smmu::{self, Port, SystemCounter};
use portcullis_isolation::Smmus;
use smmuv3_driver::Smmu;

/// Every SMMU of the machine.
#[derive(Clone, Copy, Debug)]
pub struct HostSmmus;

impl Smmus for HostSmmus {
    type Registers = Port;
    type Memory = Shared;
    type Clock = SystemCounter;

    #[inline]
    fn at<T>(
        &self,
        index: usize,
        with: impl FnOnce(&mut Smmu<Port, Shared, SystemCounter>) -> T,
    ) -> Option<T> {
        smmu::with_driver(index, with)
    }
}

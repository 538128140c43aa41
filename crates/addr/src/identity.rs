//! Address spaces in which an address has the same number as in another.

use crate::{Address, Iova, Ipa, PhysAddr, Range, Va};

/// The map to physical addresses that changes no number: how a host sees its machine,
/// and how a hypervisor maps its own.
///
/// Its functions are the only way from a physical address to one of another kind, and
/// back. A caller that names it says that the two spaces are mapped one to one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity;

impl Identity {
    /// Where CPUs and devices behind stage 2 see physical memory.
    #[must_use]
    #[inline(always)]
    pub fn ipa(self, range: Range<PhysAddr>) -> Range<Ipa> {
        same(range)
    }

    /// Where intermediate physical addresses lie.
    #[must_use]
    #[inline(always)]
    pub fn physical(self, range: Range<Ipa>) -> Range<PhysAddr> {
        same(range)
    }

    /// Where devices see registers that are mapped for them where they are, such as the
    /// doorbell of an ITS.
    #[must_use]
    #[inline(always)]
    pub fn iova(self, range: Range<PhysAddr>) -> Range<Iova> {
        same(range)
    }

    /// Where a CPU sees physical memory by its own stage 1.
    #[must_use]
    #[inline(always)]
    pub fn va(self, range: Range<PhysAddr>) -> Range<Va> {
        same(range)
    }
}

/// The kinds of address that the first stage of a device's translation takes: what the
/// device puts out is the input of stage 1, or without a stage 1 that of stage 2.
pub trait DeviceInput: Address + sealed::Sealed {}

impl DeviceInput for Iova {}
impl DeviceInput for Ipa {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::Iova {}
    impl Sealed for crate::Ipa {}
}

impl Iova {
    /// What the first stage of a device's translation takes.
    #[must_use]
    #[inline(always)]
    pub fn input<A: DeviceInput>(self) -> A {
        A::new(self.raw())
    }
}

impl Range<Iova> {
    /// What the first stage of a device's translation takes.
    #[must_use]
    #[inline(always)]
    pub fn input<A: DeviceInput>(&self) -> Range<A> {
        same(*self)
    }

    /// What a device puts out where its first stage takes `input`.
    #[must_use]
    #[inline(always)]
    pub fn of_input<A: DeviceInput>(input: Range<A>) -> Self {
        same(input)
    }
}

#[inline(always)]
fn same<A: Address, B: Address>(range: Range<A>) -> Range<B> {
    range.map_ends(B::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_stay() {
        let ram = Range::new(PhysAddr::new(4096), PhysAddr::new(12288)).unwrap();
        let ipa = Identity.ipa(ram);
        assert_eq!((ipa.start(), ipa.size()), (Ipa::new(4096), 8192));
        assert_eq!(Identity.physical(ipa), ram);
        let iova = Identity.iova(ram);
        assert_eq!(iova.input::<Ipa>(), ipa);
        assert_eq!(Range::of_input(ipa), iova);
        assert_eq!(Identity.va(ram).end(), Va::new(12288));
    }
}

//! Device registers, one access at a time.

use crate::fixup;
use portcullis_addr::{PhysAddr, Range};

/// A block of device registers that is mapped at EL2 with device attributes.
///
/// Copies may exist (a trap handler and a driver); registers are shared by
/// nature, and no Rust reference to them ever exists.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    range: Range<PhysAddr>,
}

/// Registers that EL2 reaches for somebody else, or that somebody else may have
/// switched off: an access that is answered with an error has no effect.
#[derive(Clone, Copy, Debug)]
pub struct Tolerant(Device);

macro_rules! read {
    ($read:ident, $type:ty) => {
        /// Reads the register at `offset` bytes. 0 outside the block or when
        /// `offset` is not a multiple of the size.
        #[must_use]
        pub fn $read(&self, offset: u64) -> $type {
            match self.register(offset, size_of::<$type>() as u64) {
                // SAFETY: `register` checked that the whole aligned access is
                // inside the block, which is mapped as device memory for as
                // long as a `Device` exists (the promise of
                // `Device::from_mapped`).
                Some(address) => unsafe { core::ptr::read_volatile(address as *const $type) },
                None => 0,
            }
        }
    };
}

macro_rules! write {
    ($write:ident, $type:ty) => {
        /// Writes the register at `offset` bytes. Does nothing outside the
        /// block or when `offset` is not a multiple of the size.
        pub fn $write(&self, offset: u64, value: $type) {
            if let Some(address) = self.register(offset, size_of::<$type>() as u64) {
                // SAFETY: as for the read; what the write makes the device do
                // was accepted with `Device::from_mapped`.
                unsafe { core::ptr::write_volatile(address as *mut $type, value) }
            }
        }
    };
}

macro_rules! tolerant {
    ($read:ident, $write:ident, $type:ty, $load:ident, $store:ident) => {
        /// As [`Device`] has it; `None` when the answer was an error.
        #[must_use]
        pub fn $read(&self, offset: u64) -> Option<$type> {
            let Some(address) = self.0.register(offset, size_of::<$type>() as u64) else {
                return Some(0);
            };
            // SAFETY: as for `Device`: registers that are mapped.
            let value = unsafe { fixup::$load::<0>(address) };
            (!fixup::take_abort()).then_some(value)
        }

        /// As [`Device`] has it; `false` when the answer was an error.
        pub fn $write(&self, offset: u64, value: $type) -> bool {
            let Some(address) = self.0.register(offset, size_of::<$type>() as u64) else {
                return true;
            };
            // SAFETY: as for the read.
            unsafe { fixup::$store(address, value) }
            !fixup::take_abort()
        }
    };
}

impl Tolerant {
    tolerant!(read8, write8, u8, load8, store8);
    tolerant!(read16, write16, u16, load16, store16);
    tolerant!(read32, write32, u32, load32, store32);
    tolerant!(read64, write64, u64, load64, store64);
}

impl Device {
    /// The device whose registers lie at `range`.
    ///
    /// `range` must hold device registers only and be mapped one to one at EL2
    /// with device attributes. An access where nothing is mapped faults, which
    /// stops the hypervisor; an access to other memory is kept out by EL2 never
    /// mapping its own memory as a device: every caller maps the range first,
    /// and mapping what is mapped already as memory fails.
    #[must_use]
    pub const fn from_mapped(range: Range<PhysAddr>) -> Self {
        Self { range }
    }

    /// The same registers, for accesses that may be answered with an error.
    #[must_use]
    pub const fn tolerant(self) -> Tolerant {
        Tolerant(self)
    }

    /// Where the registers are.
    #[must_use]
    pub fn range(&self) -> Range<PhysAddr> {
        self.range
    }

    fn register(&self, offset: u64, size: u64) -> Option<u64> {
        let last = offset.checked_add(size)?;
        (last <= self.range.size() && offset.is_multiple_of(size))
            .then(|| self.range.start().raw().wrapping_add(offset))
    }

    write!(write8, u8);
    read!(read32, u32);
    write!(write32, u32);
    read!(read64, u64);
    write!(write64, u64);
}

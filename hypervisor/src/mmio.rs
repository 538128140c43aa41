//! Device registers, one access at a time.

use portcullis_addr::{PhysAddr, Range};

/// A block of device registers that is mapped at EL2 with device attributes.
///
/// Copies may exist (a trap handler and a driver); registers are shared by
/// nature, and no Rust reference to them ever exists.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    range: Range<PhysAddr>,
}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
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

    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);
}

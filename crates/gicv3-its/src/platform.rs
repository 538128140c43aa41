//! The interfaces that the caller provides: the owner's machine, the physical
//! registers, memory for physical tables, and a clock.

use crate::ids::DeviceId;
use crate::physical::Fault;
use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use portcullis_owner_memory::{Outside, Window};

/// The machine of the owner, as the emulated ITSs find it.
pub trait Platform {
    /// Memory of the owner that is held.
    type Window: Window;

    /// Copies `words.len()` words from `at`, which is a multiple of 8; each is
    /// loaded once. At most 512 bytes are asked for, of one page.
    ///
    /// # Errors
    /// [`Outside`]: what `words` holds then means nothing.
    fn read(&self, at: Ipa, words: &mut [u64]) -> Result<(), Outside>;

    /// Stores 64 bits at `at`, which is a multiple of 8, as an ITS stores an
    /// entry of a table.
    ///
    /// # Errors
    /// [`Outside`]: nothing was stored.
    fn store(&self, at: Ipa, value: u64) -> Result<(), Outside>;

    /// Holds all pages that `range` touches, until [`close`](Self::close).
    /// `range` is never larger than 1 MiB.
    ///
    /// # Errors
    /// [`Outside`]: nothing is held.
    fn open(&self, range: Range<Ipa>) -> Result<Self::Window, Outside>;

    /// Releases the memory that [`open`](Self::open) held.
    fn close(&self, window: Self::Window);

    /// Makes the owner's reads of the 64 bits at `offset` of the control
    /// registers of the ITS at index `its` give `value`. `offset` is a multiple
    /// of 8 below 4 KiB, or from 0xf000 to 0xfff8.
    fn show(&self, its: usize, offset: u32, value: u64);

    /// Does the same for the 64 bits at `offset`, and then for the next 64
    /// bits.
    #[inline]
    fn show_pair(&self, its: usize, offset: u32, [first, second]: [u64; 2]) {
        self.show(its, offset, first);
        self.show(its, offset + 8, second);
    }
}

/// An event that an operator should know of. The caller prints it after it has
/// released its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The share of memory for interrupt translation tables has no room for
    /// this device's; its MAPD was skipped.
    NoMemory {
        /// Index of the ITS.
        its: usize,
        /// The device.
        device: DeviceId,
        /// Bits of EventID that were asked for.
        event_bits: u8,
    },
    /// The owner named a device that is not its own; the command was skipped.
    ForeignDevice {
        /// Index of the ITS.
        its: usize,
        /// The device.
        device: DeviceId,
    },
    /// A physical ITS does not work any more, and was disabled.
    Failed {
        /// Index of the ITS.
        its: usize,
        /// The failure.
        fault: Fault,
    },
}

/// One 64 KiB frame of registers: the control frame of an ITS, or the RD frame
/// of a redistributor.
pub trait Registers {
    /// Reads 32 bits at `offset`, a multiple of 4.
    fn read32(&self, offset: u32) -> u32;
    /// Writes 32 bits at `offset`, a multiple of 4.
    fn write32(&self, offset: u32, value: u32);
    /// Reads 64 bits at `offset`, a multiple of 8.
    fn read64(&self, offset: u32) -> u64;
    /// Writes 64 bits at `offset`, a multiple of 8.
    fn write64(&self, offset: u32, value: u64);
}

/// Time, for waits that end.
pub trait Clock {
    /// Microseconds since some moment; does not go back.
    fn now_us(&self) -> u64;
    /// Called while waiting.
    fn relax(&self);
}

/// Memory for tables that last as long as the machine runs.
pub trait TableMemory: Memory {
    /// `bytes` of zeroed, published memory at a multiple of `alignment`, a power
    /// of two of 4096 at least. `None` when there is none left. It is never given
    /// back.
    fn take(&self, bytes: u64, alignment: u64) -> Option<PhysAddr>;
}

/// Memory for tables whose size the owner chooses: a share of its own, so that
/// an owner that uses it up takes nothing from others. It is a handle, which a command
/// copies, so that what it knows of its memory is in registers meanwhile.
pub trait Share: Memory + Allocator + Clone {}

impl<T: Memory + Allocator + Clone> Share for T {}

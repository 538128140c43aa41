//! Memory straight from the kernel: for this program, or for it and a device.

#![allow(
    unsafe_code,
    reason = "what a device looks at is memory that no reference may cover"
)]

use core::arch::asm;
use rustix::fd::AsFd;
use rustix::io::Result;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::ops::{Deref, DerefMut};
use std::ptr;

/// Whole pages of this program alone, zero at first.
#[derive(Debug)]
pub struct Memory {
    at: *mut u8,
    length: usize,
}

impl Memory {
    /// `length` bytes; their pages are there at once, or each from when it is written.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(length: usize, present: bool) -> Result<Self> {
        let flags = if present {
            MapFlags::PRIVATE | MapFlags::POPULATE
        } else {
            MapFlags::PRIVATE
        };
        let at = anonymous(length, flags)?;
        Ok(Self { at, length })
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel mapped so many bytes for this value alone, all of them zero.
        unsafe { std::slice::from_raw_parts(self.at, self.length) }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's, whose last use this is. That it cannot be
        // removed is no harm.
        let _ = unsafe { munmap(self.at.cast(), self.length) };
    }
}

/// Memory that this program shares with a device, or registers of one. It stays mapped
/// until the program ends: no value can tell when the device has done with it.
#[derive(Debug)]
pub struct Window {
    at: *mut u8,
    length: usize,
}

/// What one access reads or writes.
pub trait Word: Copy + private::Sealed {}

impl Word for u8 {}
impl Word for u32 {}
impl Word for u64 {}

mod private {
    /// Any bytes are a value of a type that is this.
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for u32 {}
    impl Sealed for u64 {}
}

impl Window {
    /// Memory of `length` bytes, zero at first, whose pages come when they are touched.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn memory(length: usize) -> Result<Self> {
        let at = anonymous(length, MapFlags::PRIVATE)?;
        Ok(Self { at, length })
    }

    /// The same with all pages present, which stay where they are in memory: they are
    /// neither swapped, nor copied for a child of this program.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn locked(length: usize) -> Result<Self> {
        let flags = MapFlags::SHARED | MapFlags::POPULATE | MapFlags::LOCKED;
        let at = anonymous(length, flags)?;
        Ok(Self { at, length })
    }

    /// `length` bytes of a device, from `offset` of its file on.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn of_file(file: impl AsFd, offset: u64, length: usize) -> Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks an unused range.
        let at = unsafe {
            mmap(
                ptr::null_mut(),
                length,
                access,
                MapFlags::SHARED,
                file,
                offset,
            )
        };
        let at = at?.cast();
        Ok(Self { at, length })
    }

    /// Asks for pages of the kernel's smallest size.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn keep_pages_small(&self) -> Result<()> {
        // SAFETY: the range is this value's, and the advice changes no content.
        unsafe { madvise(self.at.cast(), self.length, Advice::LinuxNoHugepage) }
    }

    /// Where it is for this program.
    #[must_use]
    pub fn address(&self) -> usize {
        self.at.addr()
    }

    /// Its size in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// Reads a word in one access.
    ///
    /// # Panics
    ///
    /// When it does not lie within, or not at a multiple of its size.
    #[must_use]
    pub fn load<T: Word>(&self, offset: usize) -> T {
        let at = self.word::<T>(offset);
        // SAFETY: it is mapped and aligned, and any bytes are a value.
        unsafe { ptr::read_volatile(at) }
    }

    /// Writes a word in one access.
    ///
    /// # Panics
    ///
    /// As [`Window::load`].
    pub fn store<T: Word>(&self, offset: usize, value: T) {
        let at = self.word::<T>(offset);
        // SAFETY: it is mapped and aligned, and no reference covers it.
        unsafe { ptr::write_volatile(at, value) }
    }

    fn word<T: Word>(&self, offset: usize) -> *mut T {
        let size = size_of::<T>();
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.length) && offset.is_multiple_of(size),
            "an access of {size} bytes at {offset:#x} of {:#x}",
            self.length
        );
        self.at.wrapping_add(offset).cast()
    }
}

/// Makes what the CPU wrote visible to devices before what follows.
pub fn barrier() {
    // SAFETY: a barrier changes no state.
    unsafe {
        asm!("dsb sy", options(nostack));
    }
}

fn anonymous(length: usize, flags: MapFlags) -> Result<*mut u8> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel picks an unused range.
    let at = unsafe { mmap_anonymous(ptr::null_mut(), length, access, flags) };
    at.map(|at| at.cast())
}

//! Pages whose physical address is known, and CPU accesses to physical memory.

use crate::pages::{self, Pages};
use crate::sys::{self, End, Fork};
use crate::text::{Context, Failure};
use core::ptr;

/// What the edu device moves at most: a page, or a part of a larger one.
pub const PAGE: usize = 4096;

/// One locked page of the agent's own, for a device to reach.
pub struct DmaPage {
    at: *mut u8,
    physical: u64,
}

impl DmaPage {
    /// Takes a page from the kernel and finds out where it lies.
    pub fn new() -> Result<Self, Failure> {
        // Shared memory is neither merged nor moved by copy-on-write when the
        // agent forks, so the physical address stays what it is.
        let flags = sys::MAP_SHARED | sys::MAP_ANONYMOUS | sys::MAP_POPULATE | sys::MAP_LOCKED;
        let at = sys::map(None, 0, PAGE, flags).context("mmap of a page for DMA")?;
        let physical = Pages::open()?.physical(at as usize)?;
        Ok(Self { at, physical })
    }

    /// Its physical address.
    pub fn physical(&self) -> u64 {
        self.physical
    }

    /// Copies `data` to the start of the page.
    pub fn store(&mut self, data: &[u8]) {
        for (i, byte) in data.iter().enumerate().take(PAGE) {
            // SAFETY: `i` is within the page, which lives as long as `self`;
            // volatile because a device looks at it.
            unsafe { ptr::write_volatile(self.at.add(i), *byte) };
        }
        sys::barrier();
    }

    /// Copies the start of the page to `data`.
    pub fn load(&self, data: &mut [u8]) {
        sys::barrier();
        for (i, byte) in data.iter_mut().enumerate().take(PAGE) {
            // SAFETY: `i` is within the page, which lives as long as `self`;
            // volatile because a device may have written it.
            *byte = unsafe { ptr::read_volatile(self.at.add(i)) };
        }
    }
}

/// What became of a CPU access.
pub enum Poke {
    /// It went through; the value read or written.
    Done(u64),
    /// The process got this signal.
    Signal(i32),
    /// The kernel did not even map the page.
    Refused(i32),
}

/// Width of a CPU access.
#[derive(Clone, Copy)]
pub enum Width {
    /// 32 bits.
    Word,
    /// 64 bits.
    Double,
}

/// Reads (or writes, given a value) physical memory at `address` through
/// `/dev/mem`, in a child process, so that a fault kills that one.
pub fn poke(address: u64, value: Option<u64>, width: Width) -> Result<Poke, Failure> {
    let flags = sys::MAP_SHARED | sys::MAP_ANONYMOUS | sys::MAP_POPULATE;
    let result = sys::map(None, 0, PAGE, flags)
        .context("mmap of the result")?
        .cast::<u64>();
    let size = pages::size()?;
    let memory = sys::open(c"/dev/mem", sys::O_RDWR | sys::O_SYNC).context("open /dev/mem")?;
    let outcome = match sys::fork().context("fork")? {
        Fork::Child => {
            let page = address & !(size as u64 - 1);
            let at = match sys::map(Some(memory), page, size, sys::MAP_SHARED) {
                Ok(at) => at,
                Err(errno) => sys::exit(errno.0),
            };
            let at = at.wrapping_add((address - page) as usize);
            let seen = access(at, value, width);
            // SAFETY: the result page is shared with the parent, which waits.
            unsafe { ptr::write_volatile(result, seen) };
            sys::exit(0)
        }
        Fork::Parent(child) => sys::wait(child).context("wait")?,
    };
    sys::close(memory);
    // SAFETY: the child is gone; the page is mapped until below.
    let seen = unsafe { ptr::read_volatile(result) };
    // SAFETY: nothing refers to the page any more.
    unsafe { sys::unmap(result.cast(), PAGE) };
    Ok(match outcome {
        End::Exited(0) => Poke::Done(seen),
        End::Exited(errno) => Poke::Refused(errno),
        End::Killed(signal) => Poke::Signal(signal),
    })
}

/// The access itself; it may be the child's last act.
fn access(at: *mut u8, value: Option<u64>, width: Width) -> u64 {
    match (width, value) {
        // SAFETY: `at` is in a page the child mapped for this; it is aligned
        // (checked by the command) and what lies there is a plain number.
        (Width::Word, None) => u64::from(unsafe { ptr::read_volatile(at.cast::<u32>()) }),
        // SAFETY: as above.
        (Width::Double, None) => unsafe { ptr::read_volatile(at.cast::<u64>()) },
        (Width::Word, Some(value)) => {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(at.cast::<u32>(), value as u32) };
            sys::barrier();
            value
        }
        (Width::Double, Some(value)) => {
            // SAFETY: as above.
            unsafe { ptr::write_volatile(at.cast::<u64>(), value) };
            sys::barrier();
            value
        }
    }
}

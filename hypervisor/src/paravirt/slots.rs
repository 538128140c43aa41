//! Memory for the domains of the host's, from the share for its tables.

use super::Domain;
use crate::memory::{DMA_TABLES, Tables};
use core::ptr;
use portcullis_addr::{PAGE_SIZE, PhysAddr};
use portcullis_isolation::{Directory, Slot, SlotBlock, SlotMemory};
use portcullis_memory::Allocator;

/// How many domains always have room, and are found at once: what a small
/// machine has.
const FIRST: usize = 16;

/// Pages of the pool.
#[derive(Clone, Copy, Debug)]
pub struct SlotPages {
    memory: Tables,
}

/// What an array of this type takes, as the pool gives it.
const fn bytes_of<T>() -> u64 {
    let bytes = (size_of::<T>() as u64).next_power_of_two();
    if bytes < PAGE_SIZE { PAGE_SIZE } else { bytes }
}

// One page for each of the many.
const _: () = assert!(bytes_of::<SlotBlock<Domain>>() == PAGE_SIZE);
const _: () = assert!(bytes_of::<Directory<'static, Domain>>() == PAGE_SIZE);

impl SlotPages {
    /// Pages of the share for tables.
    pub fn new(coherent: bool) -> Self {
        Self {
            memory: Tables::new(&DMA_TABLES, coherent),
        }
    }

    /// Room for the domains that always have it.
    pub fn first(&self) -> Option<&'static mut [Option<Slot<Domain>>; FIRST]> {
        self.array()
    }

    /// `N` times `None`, in whole pages.
    fn array<T, const N: usize>(&self) -> Option<&'static mut [Option<T>; N]> {
        const { assert!(align_of::<T>() <= PAGE_SIZE as usize) };
        let bytes = bytes_of::<[Option<T>; N]>();
        let page = self.memory.allocate(bytes)?;
        let first = ptr::with_exposed_provenance_mut::<Option<T>>(page.raw() as usize);
        for index in 0..N {
            // SAFETY: the pool is mapped at EL2, one to one and writable, for good;
            // it has just given these pages to this function alone. They begin at
            // a multiple of a page, and `N` values are not more than `bytes`.
            unsafe { first.add(index).write(None) };
        }
        // SAFETY: as above, and all of it was just written. There is no other
        // reference to it until `give_back` has taken this one.
        Some(unsafe { &mut *first.cast::<[Option<T>; N]>() })
    }
}

impl SlotMemory<'static, Domain> for SlotPages {
    fn chunk(&mut self) -> Option<&'static mut SlotBlock<Domain>> {
        self.array()
    }

    fn directory(&mut self) -> Option<&'static mut Directory<'static, Domain>> {
        self.array()
    }

    fn give_back(&mut self, chunk: &'static mut SlotBlock<Domain>) {
        let page = ptr::from_mut(chunk).expose_provenance() as u64;
        let bytes = bytes_of::<SlotBlock<Domain>>();
        self.memory.free(PhysAddr::new(page), bytes);
    }
}

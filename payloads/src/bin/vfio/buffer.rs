//! Memory of this process that a device reaches.

use crate::pages::Pages;
use crate::sys;
use crate::text::{Context, Failure};
use core::ptr;
use portcullis_payloads::pattern;

/// Some pages, contiguous for this process.
pub struct Buffer {
    at: *mut u8,
    length: usize,
}

impl Buffer {
    /// `length` bytes, present and zero.
    pub fn new(length: usize) -> Result<Self, Failure> {
        Self::map(length, sys::MAP_POPULATE)
    }

    /// `length` bytes whose pages of `page` bytes were asked for in an order
    /// that scatters them over the memory of the machine.
    pub fn scattered(length: usize, page: usize) -> Result<Self, Failure> {
        const MADV_NOHUGEPAGE: usize = 15;
        let buffer = Self::map(length, 0)?;
        let range = [buffer.at as usize, length, MADV_NOHUGEPAGE, 0, 0, 0];
        // SAFETY: advice changes no content.
        unsafe { sys::call(233, range) }.context("madvise")?;
        let pages = length / page;
        // An odd step meets every page of a power of two once.
        let step = pages / 8 * 5 + 3;
        for i in 0..pages {
            let index = i.wrapping_mul(step) % pages;
            buffer.store(index * page, &[0]);
        }
        Ok(buffer)
    }

    fn map(length: usize, flags: usize) -> Result<Self, Failure> {
        let flags = flags | sys::MAP_PRIVATE | sys::MAP_ANONYMOUS;
        let at = sys::map(None, 0, length, flags).context("mmap of a buffer")?;
        Ok(Self { at, length })
    }

    /// Where it is for this process.
    pub fn address(&self) -> usize {
        self.at as usize
    }

    /// How many of its pages lie right behind the one before.
    pub fn adjacent(&self, page: usize) -> Result<usize, Failure> {
        let pages = Pages::open()?;
        let mut before = pages.physical(self.address())?;
        let mut count = 0;
        for offset in (page..self.length).step_by(page) {
            let here = pages.physical(self.address() + offset)?;
            count += usize::from(here == before + page as u64);
            before = here;
        }
        Ok(count)
    }

    /// Puts `length` bytes of the pattern `seed` at `offset`.
    pub fn fill(&self, offset: usize, length: usize, seed: u64) {
        let mut word = [0; pattern::WORD];
        for at in (0..length).step_by(word.len()) {
            pattern::fill(&mut word, seed, at as u64);
            self.store(offset + at, &word);
        }
        sys::barrier();
    }

    /// Whether `length` bytes at `offset` are the pattern `seed`.
    pub fn holds(&self, offset: usize, length: usize, seed: u64) -> bool {
        sys::barrier();
        let mut expected = [0; pattern::WORD];
        (0..length).step_by(expected.len()).all(|at| {
            pattern::fill(&mut expected, seed, at as u64);
            self.load(offset + at) == expected
        })
    }

    fn store(&self, offset: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            if offset + i < self.length {
                // SAFETY: within the mapping, which is never removed; volatile
                // because a device looks at it.
                unsafe { ptr::write_volatile(self.at.add(offset + i), *byte) };
            }
        }
    }

    fn load(&self, offset: usize) -> [u8; pattern::WORD] {
        let mut bytes = [0; pattern::WORD];
        for (i, byte) in bytes.iter_mut().enumerate() {
            if offset + i < self.length {
                // SAFETY: as above; a device may have written it.
                *byte = unsafe { ptr::read_volatile(self.at.add(offset + i)) };
            }
        }
        bytes
    }
}

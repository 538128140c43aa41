//! Memory of this process that a device reaches.

use anyhow::{Context, Result};
use portcullis_payloads::mapping::{Window, barrier};
use portcullis_payloads::pages::Pages;
use portcullis_payloads::pattern;

/// Some pages, contiguous for this process.
pub struct Buffer(Window);

impl Buffer {
    /// `length` bytes, present and zero.
    pub fn new(length: usize) -> Result<Self> {
        Window::locked(length).context("mmap of a buffer").map(Self)
    }

    /// `length` bytes whose pages of `page` bytes were asked for in an order
    /// that scatters them over the memory of the machine.
    pub fn scattered(length: usize, page: usize) -> Result<Self> {
        let window = Window::memory(length).context("mmap of a buffer")?;
        window.keep_pages_small().context("madvise")?;
        for index in pattern::scattered(length / page) {
            window.store(index * page, 0_u8);
        }
        Ok(Self(window))
    }

    /// Where it is for this process.
    pub fn address(&self) -> usize {
        self.0.address()
    }

    /// How many of its pages lie right behind the one before.
    pub fn adjacent(&self, page: usize) -> Result<usize> {
        let pages = Pages::open()?;
        let mut before = pages.physical(self.address())?;
        let mut count = 0;
        for offset in (page..self.0.length()).step_by(page) {
            let here = pages.physical(self.address() + offset)?;
            count += usize::from(here == before + page as u64);
            before = here;
        }
        Ok(count)
    }

    /// Puts `length` bytes of the pattern `seed` at `offset`; both are whole words.
    pub fn fill(&self, offset: usize, length: usize, seed: u64) {
        for at in (0..length).step_by(pattern::WORD) {
            let word = pattern::word(seed, (at / pattern::WORD) as u64);
            self.0.store(offset + at, word.to_le());
        }
        barrier();
    }

    /// Whether `length` bytes at `offset` are the pattern `seed`.
    pub fn holds(&self, offset: usize, length: usize, seed: u64) -> bool {
        barrier();
        (0..length).step_by(pattern::WORD).all(|at| {
            let word = pattern::word(seed, (at / pattern::WORD) as u64);
            self.0.load::<u64>(offset + at) == word.to_le()
        })
    }
}

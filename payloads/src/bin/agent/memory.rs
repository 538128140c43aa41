//! A page whose physical address is known.

use anyhow::{Context, Result};
use portcullis_payloads::mapping::{Window, barrier};
use portcullis_payloads::pages::Pages;

/// What the edu device moves at most: a page, or a part of a larger one.
pub const PAGE: usize = 4096;

/// One locked page of the agent's own, for a device to reach.
pub struct DmaPage {
    window: Window,
    physical: u64,
}

impl DmaPage {
    /// Takes a page from the kernel and finds out where it lies.
    pub fn new() -> Result<Self> {
        let window = Window::locked(PAGE).context("mmap of a page for DMA")?;
        let physical = Pages::open()?.physical(window.address())?;
        Ok(Self { window, physical })
    }

    /// Its physical address.
    pub fn physical(&self) -> u64 {
        self.physical
    }

    /// Copies `data` to the start of the page.
    pub fn store(&mut self, data: &[u8]) {
        for (i, byte) in data.iter().enumerate().take(PAGE) {
            self.window.store(i, *byte);
        }
        barrier();
    }

    /// Copies the start of the page to `data`.
    pub fn load(&self, data: &mut [u8]) {
        barrier();
        for (i, byte) in data.iter_mut().enumerate().take(PAGE) {
            *byte = self.window.load(i);
        }
    }
}

//! The one page of the driver's that a call holds, and copies through it.

use crate::{Outside, Platform, Window};
use portcullis_addr::{Ipa, PAGE_SIZE};

const OFFSET: u64 = PAGE_SIZE - 1;

/// At most one page, let go of when this is dropped.
pub(crate) struct Held<'a, P: Platform> {
    platform: &'a P,
    page: Option<(u64, P::Page)>,
}

impl<'a, P: Platform> Held<'a, P> {
    #[inline]
    pub(crate) fn new(platform: &'a P) -> Self {
        Self {
            platform,
            page: None,
        }
    }

    /// The page around `at`, and the offset of `at` in it.
    #[inline]
    pub(crate) fn page(&mut self, at: u64) -> Result<(&P::Page, u64), Outside> {
        let base = at & !OFFSET;
        if !matches!(&self.page, Some((held, _)) if *held == base) {
            self.release();
            let page = self.platform.hold(Ipa::new(base))?;
            self.page = Some((base, page));
        }
        match &self.page {
            Some((_, page)) => Ok((page, at & OFFSET)),
            None => Err(Outside),
        }
    }

    #[inline]
    fn release(&mut self) {
        if let Some((_, page)) = self.page.take() {
            self.platform.release(page);
        }
    }

    /// Copies from `at`; each byte is loaded once.
    pub(crate) fn copy_in(&mut self, at: u64, to: &mut [u8]) -> Result<(), Outside> {
        for (n, byte) in (0..).zip(to) {
            let (page, offset) = self.page(at.checked_add(n).ok_or(Outside)?)?;
            *byte = page.load8(offset);
        }
        Ok(())
    }

    /// Copies to `at`.
    pub(crate) fn copy_out(&mut self, at: u64, from: &[u8]) -> Result<(), Outside> {
        for (n, byte) in (0..).zip(from) {
            let (page, offset) = self.page(at.checked_add(n).ok_or(Outside)?)?;
            page.store8(offset, *byte);
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Held<'_, P> {
    #[inline]
    fn drop(&mut self) {
        self.release();
    }
}

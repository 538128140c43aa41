//! Which domains are to be flushed.

use portcullis_dma_domain::FlushFirst;

/// Most domains that are waited for together.
const MOST: usize = 32;

/// Domains in which something was taken away that may still be in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dirty {
    which: Which,
    /// The first `count` are meant where it is many.
    many: [usize; MOST],
    count: usize,
}

/// How many they are, and which if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    None,
    /// As nearly always, one.
    One(usize),
    /// Those of [`Dirty::many`].
    Many,
}

impl Default for Dirty {
    fn default() -> Self {
        Self {
            which: Which::None,
            many: [0; MOST],
            count: 0,
        }
    }
}

impl Dirty {
    #[inline(always)]
    pub(super) fn which(&self) -> Which {
        self.which
    }

    /// The domains, where they are many.
    pub(super) fn many(&self) -> &[usize] {
        self.many.get(..self.count).unwrap_or_default()
    }

    /// All are flushed.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.which = Which::None;
    }

    /// Notes that something is about to be taken away from the domain `index`.
    ///
    /// # Errors
    /// [`FlushFirst`] where there is no room for another. Nothing has changed then.
    #[inline(always)]
    pub(super) fn mark(&mut self, index: usize) -> Result<(), FlushFirst> {
        match self.which {
            Which::None => self.which = Which::One(index),
            Which::One(other) if other == index => {}
            _ => return self.mark_another(index),
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn mark_another(&mut self, index: usize) -> Result<(), FlushFirst> {
        if let Which::One(other) = self.which {
            self.many[0] = other;
            self.count = 1;
        }
        if !self.many().contains(&index) {
            *self.many.get_mut(self.count).ok_or(FlushFirst)? = index;
            self.count += 1;
        }
        self.which = Which::Many;
        Ok(())
    }
}

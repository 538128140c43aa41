//! A list of bounded length that lives where it is declared.

use core::fmt;

/// At most `N` values, in the order they were added.
///
/// The hypervisor has no heap while it reads its boot input, and no tree may
/// make it take more memory than was set aside when it was built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct List<T, const N: usize> {
    slots: [Option<T>; N],
    len: usize,
}

/// The list already holds as many values as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl<T: Copy, const N: usize> List<T, N> {
    /// An empty list.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [None; N],
            len: 0,
        }
    }

    /// Adds `value` at the end.
    ///
    /// # Errors
    /// [`Full`] when `N` values are in the list; it is unchanged then.
    pub fn push(&mut self, value: T) -> Result<(), Full> {
        let slot = self.slots.get_mut(self.len).ok_or(Full)?;
        *slot = Some(value);
        self.len += 1;
        Ok(())
    }

    /// Takes the last value off.
    pub fn pop(&mut self) -> Option<T> {
        self.len = self.len.checked_sub(1)?;
        self.slots.get_mut(self.len)?.take()
    }

    /// Takes out the value at `index`; the last one comes to its place.
    pub(crate) fn swap_remove(&mut self, index: usize) -> Option<T> {
        if index >= self.len {
            return None;
        }
        let last = self.pop()?;
        match self.slots.get_mut(index) {
            Some(slot) if index < self.len => slot.replace(last),
            _ => Some(last),
        }
    }

    /// How many values are in the list.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the list holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values fit.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        N
    }

    /// The value at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.slots.get(index)?.as_ref()
    }

    /// The values in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.slots.iter().flatten()
    }

    /// The values in order, to be changed in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().flatten()
    }

    /// Sorts by `key`, in place: there is
    /// no scratch memory to sort in.
    pub(crate) fn sort_by_key<K: Ord>(&mut self, key: impl Fn(&T) -> K) {
        if let Some(used) = self.slots.get_mut(..self.len) {
            used.sort_unstable_by_key(|slot| slot.as_ref().map(&key));
        }
    }
}

impl<T: Copy, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Copy + fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_its_capacity() {
        let mut list = List::<u8, 2>::new();
        assert_eq!(list.push(9), Ok(()));
        assert_eq!(list.push(3), Ok(()));
        assert_eq!(list.push(5), Err(Full));
        list.sort_by_key(|value| *value);
        assert!(list.iter().eq(&[3, 9]));
        assert_eq!((list.len(), list.get(1), list.get(2)), (2, Some(&9), None));
        assert_eq!((list.swap_remove(2), list.len()), (None, 2));
        assert_eq!((list.swap_remove(0), list.get(0)), (Some(3), Some(&9)));
        assert_eq!((list.swap_remove(0), list.len()), (Some(9), 0));
    }
}

//! Half-open address ranges that cannot wrap.

use crate::{Address, PAGE_SIZE};
use core::fmt;

/// A non-empty range `start..end` of one address space.
///
/// `start < end` always holds, so no length is zero and no arithmetic inside
/// the range overflows. The last byte of the 64-bit space cannot be part of a
/// range; no implementation has an address there (DDI 0487, D8.1.6: at most 56
/// bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range<A> {
    start: A,
    end: A,
}

/// Why a range could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The end is not above the start.
    Empty,
    /// `start + size` does not fit 64 bits.
    Overflow,
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the range is empty",
            Self::Overflow => "the range runs past the end of the address space",
        })
    }
}

impl core::error::Error for RangeError {}

impl<A: Address> Range<A> {
    /// The range `start..end`.
    ///
    /// # Errors
    /// [`RangeError::Empty`] unless `start < end`.
    pub fn new(start: A, end: A) -> Result<Self, RangeError> {
        if start < end {
            Ok(Self { start, end })
        } else {
            Err(RangeError::Empty)
        }
    }

    /// The range of `size` bytes from `start`.
    ///
    /// # Errors
    /// [`RangeError::Empty`] when `size` is 0, [`RangeError::Overflow`] when
    /// the end does not fit 64 bits.
    pub fn from_size(start: A, size: u64) -> Result<Self, RangeError> {
        let end = start.checked_add(size).ok_or(RangeError::Overflow)?;
        Self::new(start, end)
    }

    /// First address of the range.
    pub fn start(&self) -> A {
        self.start
    }

    /// First address past the range.
    pub fn end(&self) -> A {
        self.end
    }

    /// Length in bytes, never 0.
    pub fn size(&self) -> u64 {
        self.end.raw() - self.start.raw()
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: A) -> bool {
        self.start <= address && address < self.end
    }

    /// Whether every address of `other` lies inside.
    pub fn covers(&self, other: &Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Whether the two share an address.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// What the two share.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end)).ok()
    }

    /// What is left of `self` below and above `other`.
    pub fn subtract(&self, other: &Self) -> [Option<Self>; 2] {
        [
            Self::new(self.start, self.end.min(other.start)).ok(),
            Self::new(self.start.max(other.end), self.end).ok(),
        ]
    }

    /// Whether both ends are multiples of `alignment` (a power of two).
    pub fn is_aligned(&self, alignment: u64) -> bool {
        self.start.is_aligned(alignment) && self.end.is_aligned(alignment)
    }

    /// The smallest page-aligned range around this one, or `None` when its end
    /// would not fit 64 bits.
    pub fn page_outward(&self) -> Option<Self> {
        let end = self.end.raw().checked_next_multiple_of(PAGE_SIZE)?;
        Self::new(A::new(self.start.raw() & !(PAGE_SIZE - 1)), A::new(end)).ok()
    }

    /// The largest page-aligned range inside this one, or `None` when it
    /// holds no whole page.
    pub fn page_inward(&self) -> Option<Self> {
        let start = self.start.raw().checked_next_multiple_of(PAGE_SIZE)?;
        Self::new(A::new(start), A::new(self.end.raw() & !(PAGE_SIZE - 1))).ok()
    }

    /// The range between what `to` makes of the ends, in another address space where
    /// both have the same order and distance.
    #[inline(always)]
    pub(crate) fn map_ends<B: Address>(self, to: impl Fn(u64) -> B) -> Range<B> {
        Range {
            start: to(self.start.raw()),
            end: to(self.end.raw()),
        }
    }
}

impl<A: Address> fmt::Debug for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}..{:?}", self.start, self.end)
    }
}

impl<A: Address> fmt::Display for Range<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start.raw(), self.end.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PhysAddr;

    fn range(start: u64, end: u64) -> Range<PhysAddr> {
        Range::new(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
    }

    #[test]
    fn refuses_empty_and_wrapping() {
        let at = PhysAddr::new;
        assert_eq!(Range::new(at(4), at(4)), Err(RangeError::Empty));
        assert_eq!(Range::new(at(5), at(4)), Err(RangeError::Empty));
        assert_eq!(Range::from_size(at(5), 0), Err(RangeError::Empty));
        assert_eq!(Range::from_size(at(u64::MAX), 1), Err(RangeError::Overflow));
    }

    #[test]
    fn overlap_is_half_open() {
        assert!(!range(0, 4).overlaps(&range(4, 8)));
        assert!(range(0, 5).overlaps(&range(4, 8)));
        assert_eq!(range(0, 5).intersection(&range(4, 8)), Some(range(4, 5)));
        assert_eq!(range(0, 4).intersection(&range(4, 8)), None);
    }

    #[test]
    fn subtraction_leaves_both_sides() {
        assert_eq!(
            range(0, 10).subtract(&range(3, 5)),
            [Some(range(0, 3)), Some(range(5, 10))]
        );
        assert_eq!(range(0, 10).subtract(&range(0, 10)), [None, None]);
        assert_eq!(
            range(0, 10).subtract(&range(0, 4)),
            [None, Some(range(4, 10))]
        );
        assert_eq!(
            range(0, 10).subtract(&range(20, 30)),
            [Some(range(0, 10)), None]
        );
        assert_eq!(
            range(20, 30).subtract(&range(0, 10)),
            [None, Some(range(20, 30))]
        );
    }

    #[test]
    fn page_rounding() {
        assert_eq!(range(1, 4097).page_outward(), Some(range(0, 8192)));
        assert_eq!(range(1, 8193).page_inward(), Some(range(4096, 8192)));
        assert_eq!(range(1, 4097).page_inward(), None);
        assert_eq!(range(1, u64::MAX).page_outward(), None);
    }
}

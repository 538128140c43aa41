//! Where the memory of a trace's mappings is: a trace does not say.

use crate::trace::{Ends, Trace, What};
use std::collections::BTreeMap;

/// Nothing is aligned to more: it is the largest block that matters.
const LARGEST: u64 = 2 << 20;

/// Where each mapping is, by its record, from the start of the buffers' memory on.
#[derive(Debug)]
pub(super) struct Places {
    at: Vec<u64>,
    bytes: u64,
}

/// What is free: what was freed last is used first, as the host's allocator has it.
#[derive(Debug, Default)]
struct Free {
    /// By size.
    lists: BTreeMap<u64, Vec<u64>>,
    next: u64,
}

impl Free {
    /// Powers of two up to 2 MiB, and multiples of that.
    fn rounded(bytes: u64) -> u64 {
        if bytes <= LARGEST {
            bytes.next_power_of_two()
        } else {
            bytes.next_multiple_of(LARGEST)
        }
    }

    fn take(&mut self, bytes: u64) -> u64 {
        let size = Self::rounded(bytes);
        if let Some(at) = self.lists.get_mut(&size).and_then(Vec::pop) {
            return at;
        }
        let at = self.next.next_multiple_of(size.min(LARGEST));
        // Of 4 million mappings, none is larger than 64 GiB: below 2^59.
        self.next = at + size;
        at
    }

    fn put(&mut self, at: u64, bytes: u64) {
        self.lists.entry(Self::rounded(bytes)).or_default().push(at);
    }
}

impl Places {
    pub(super) fn of(trace: &Trace) -> Self {
        let (mut free, mut ends) = (Free::default(), Ends::new(trace));
        let records = trace.records();
        let mut at = vec![0; records.len()];
        for (index, record) in records.iter().enumerate() {
            let ended = ends.at(index);
            if let What::Map { iova, .. } = record.what
                && let Some(at) = at.get_mut(index)
            {
                *at = free.take(iova.size());
            }
            for map in ended {
                if let Some(What::Map { iova, .. }) = records.get(map).map(|map| map.what)
                    && let Some(at) = at.get(map)
                {
                    free.put(*at, iova.size());
                }
            }
        }
        Self {
            at,
            bytes: free.next,
        }
    }

    /// Where the memory of the mapping is that the record `index` made.
    pub(super) fn at(&self, index: usize) -> u64 {
        self.at.get(index).copied().unwrap_or_default()
    }

    /// How much there is of it, with what is free.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_and_used_again() {
        let mut free = Free::default();
        assert_eq!(free.take(0x1000), 0);
        assert_eq!(free.take(0x3000), 0x4000);
        assert_eq!(free.take(0x2000), 0x8000);
        assert_eq!(free.take(0x30_1000), 0x20_0000);
        assert_eq!(free.next, 0x60_0000);
        free.put(0x4000, 0x3000);
        assert_eq!(free.take(0x1000), 0x60_0000);
        assert_eq!(free.take(0x4000), 0x4000);
    }
}

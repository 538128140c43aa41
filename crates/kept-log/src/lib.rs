//! The last lines of a log, kept in memory.
//!
//! A machine may have no UART that the hypervisor can use. What it logs stays in
//! a ring of bytes then, where a debugger or a dump of the machine's memory finds
//! it: [`KeptLog`] starts with [`MAGIC`], and [`read`] puts what follows in order.
//! What is written is text, so that `strings` finds the lines, too.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What the first eight bytes of a log that has a line are, as a little-endian
/// number: `KEPT-LOG`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"KEPT-LOG");

/// Bytes of the header: the magic, how many bytes the ring has, and how many were
/// ever written to it, 8 bytes each.
pub const HEADER: usize = 24;

/// The last `BYTES` bytes of a log. All zero before the first line, so that a static
/// one takes no room in an image.
#[derive(Debug)]
#[repr(C)]
pub struct KeptLog<const BYTES: usize> {
    magic: AtomicU64,
    size: AtomicU64,
    written: AtomicU64,
    bytes: [AtomicU8; BYTES],
}

impl<const BYTES: usize> KeptLog<BYTES> {
    /// One without a line.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            magic: AtomicU64::new(0),
            size: AtomicU64::new(0),
            written: AtomicU64::new(0),
            bytes: [const { AtomicU8::new(0) }; BYTES],
        }
    }

    /// Appends `text`, over the oldest bytes where the ring is full. Texts that two
    /// CPUs append at the same time may be mixed.
    pub fn append(&self, text: &str) {
        let order = Ordering::Relaxed;
        self.magic.store(MAGIC, order);
        self.size.store(BYTES as u64, order);
        let first = self.written.fetch_add(text.len() as u64, order);
        for (at, byte) in (first..).zip(text.bytes()) {
            if let Some(place) = at.checked_rem(BYTES as u64)
                && let Some(slot) = self.bytes.get(place as usize)
            {
                slot.store(byte, order);
            }
        }
    }
}

impl<const BYTES: usize> Default for KeptLog<BYTES> {
    fn default() -> Self {
        Self::new()
    }
}

/// The two parts, older and newer, of the log that starts at the first byte of
/// `dump`. `None` when there is none, or not all of it.
#[must_use]
pub fn read(dump: &[u8]) -> Option<[&[u8]; 2]> {
    let word = |n: usize| {
        let bytes = dump.get(n * 8..n * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    if word(0)? != MAGIC {
        return None;
    }
    let (size, written) = (usize::try_from(word(1)?).ok()?, word(2)?);
    let ring = dump.get(HEADER..HEADER.checked_add(size)?)?;
    let end = usize::try_from(written.checked_rem(size as u64)?).ok()?;
    let (newer, older) = ring.split_at(end);
    // What was never written is no text.
    let older = if written < size as u64 { &[] } else { older };
    Some([older, newer])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a log, as a dump of memory has them.
    fn dump<const BYTES: usize>(log: &KeptLog<BYTES>) -> Vec<u8> {
        let words = [&log.magic, &log.size, &log.written];
        let mut dump = Vec::new();
        for word in words {
            dump.extend(word.load(Ordering::Relaxed).to_le_bytes());
        }
        dump.extend(log.bytes.iter().map(|byte| byte.load(Ordering::Relaxed)));
        dump
    }

    fn text<const BYTES: usize>(log: &KeptLog<BYTES>) -> String {
        let bytes = dump(log);
        String::from_utf8(read(&bytes).unwrap().concat()).unwrap()
    }

    #[test]
    fn lines_are_kept_in_order() {
        let log = KeptLog::<16>::new();
        log.append("one\n");
        log.append("two\n");
        assert_eq!(text(&log), "one\ntwo\n");
        assert_eq!(&dump(&log)[..8], b"KEPT-LOG");
        assert_eq!(&dump(&log)[HEADER..HEADER + 8], b"one\ntwo\n");
    }

    #[test]
    fn the_oldest_bytes_go_first() {
        let log = KeptLog::<8>::new();
        for line in ["one\n", "two\n", "three\n"] {
            log.append(line);
        }
        assert_eq!(text(&log), "o\nthree\n");
        // Longer than all of it.
        log.append("0123456789\n");
        assert_eq!(text(&log), "3456789\n");
        let full = KeptLog::<4>::new();
        full.append("four");
        assert_eq!(text(&full), "four");
    }

    #[test]
    fn what_is_no_log_is_not_read() {
        let log = KeptLog::<8>::new();
        assert_eq!(read(&dump(&log)), None, "no line yet");
        log.append("line\n");
        let whole = dump(&log);
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None);
        }
        let mut odd = whole.clone();
        odd[8..16].fill(0);
        assert_eq!(read(&odd), None, "a ring of no bytes");
        odd[8..16].fill(0xff);
        assert_eq!(read(&odd), None, "more than memory");
        KeptLog::<0>::new().append("nothing");
    }
}

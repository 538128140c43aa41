//! Short texts taken from untrusted input for messages.

use core::fmt;

/// A text of at most `N` bytes, safe to put between quotes in a log line.
///
/// Holds printable ASCII without `"` and `\`; any other byte was replaced by
/// `?`. When the source was longer than `N` bytes, a `~` stands for the part
/// that is missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

/// The path of a node of the device tree. Long paths keep their end, which
/// names the node itself.
pub type NodePath = Text<48>;

/// A word of the command line. Long words keep their start.
pub type Word = Text<40>;

impl<const N: usize> Text<N> {
    /// The empty text.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// The first bytes of `source`.
    #[must_use]
    pub fn start_of(source: &[u8]) -> Self {
        let mut text = Self::new();
        for byte in source {
            if !text.push(*byte) {
                if let Some(last) = text.bytes.last_mut() {
                    *last = b'~';
                }
                break;
            }
        }
        text
    }

    /// The text, printable.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let used = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(used).unwrap_or_default()
    }

    /// Adds `source` at the end, dropping bytes at the start when it is full.
    pub(crate) fn append(&mut self, source: &[u8]) {
        for byte in source {
            if !self.push(*byte) {
                self.bytes.copy_within(1.., 0);
                if let Some(last) = self.bytes.last_mut() {
                    *last = printable(*byte);
                }
                if let Some(first) = self.bytes.first_mut() {
                    *first = b'~';
                }
            }
        }
    }

    fn push(&mut self, byte: u8) -> bool {
        match self.bytes.get_mut(usize::from(self.len)) {
            Some(slot) if self.len < u8::MAX => {
                *slot = printable(byte);
                self.len += 1;
                true
            }
            _ => false,
        }
    }
}

fn printable(byte: u8) -> u8 {
    match byte {
        b'"' | b'\\' => b'?',
        b' '..=b'~' => byte,
        _ => b'?',
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_asked_for_and_stays_printable() {
        assert_eq!(Text::<4>::start_of(b"abcdef").as_str(), "abc~");
        assert_eq!(Text::<6>::start_of(b"a\"\n\\\xff").as_str(), "a????");
        let mut path = Text::<6>::new();
        path.append(b"/soc");
        path.append(b"/smmu");
        assert_eq!(path.as_str(), "~/smmu");
    }
}

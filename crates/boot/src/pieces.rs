//! What is left of a range.

use portcullis_addr::{PhysAddr, Range};

/// The pieces of `range` that are in none of `taken`, ascending.
pub(crate) fn pieces_without(
    range: Range<PhysAddr>,
    taken: impl Iterator<Item = Range<PhysAddr>> + Clone,
) -> impl Iterator<Item = Range<PhysAddr>> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        // Each round passes one range that is taken, or ends.
        while let Some(over) = taken.clone().find(|taken| taken.contains(at)) {
            at = over.end();
        }
        let next = taken.clone().map(|taken| taken.start());
        let end = next.filter(|start| *start > at).min();
        let end = end.unwrap_or(range.end()).min(range.end());
        let piece = Range::new(at, end).ok()?;
        at = end;
        Some(piece)
    })
}

//! Reproducible data for verified transfers.
//!
//! Word `i` of a pattern depends only on the seed and `i`, so any part of a
//! disk or a stream can be checked without generating what comes before it.

/// Bytes in one word of a pattern.
pub const WORD: usize = 8;

/// The 64-bit word at index `index` of the pattern `seed`.
///
/// This is the SplitMix64 generator in counter form. It never has to resist
/// anybody: it only has to make accidental agreement implausible.
#[must_use]
pub const fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills `buffer` with the pattern `seed` from byte `offset` on.
///
/// `offset` must be a multiple of [`WORD`]; what is left below that is ignored.
pub fn fill(buffer: &mut [u8], seed: u64, offset: u64) {
    let first = offset / WORD as u64;
    for (i, chunk) in buffer.chunks_mut(WORD).enumerate() {
        let bytes = word(seed, first + i as u64).to_le_bytes();
        chunk.copy_from_slice(&bytes[..chunk.len()]);
    }
}

/// Position within `buffer` of the first byte that differs from the pattern
/// `seed` at byte `offset`, or `None` when all agree.
#[must_use]
pub fn first_difference(buffer: &[u8], seed: u64, offset: u64) -> Option<usize> {
    let first = offset / WORD as u64;
    for (i, chunk) in buffer.chunks(WORD).enumerate() {
        let bytes = word(seed, first + i as u64).to_le_bytes();
        if *chunk != bytes[..chunk.len()] {
            let within = chunk.iter().zip(bytes).position(|(a, b)| *a != b);
            return Some(i * WORD + within.unwrap_or(0));
        }
    }
    None
}

/// Bytes that are not those of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("data differs at byte {0}")]
pub struct Differs(pub u64);

/// Compares `buffer` with the pattern `seed` from byte `offset` on.
///
/// # Errors
///
/// [`Differs`] with the place of the first byte that is another, as the pattern counts.
pub fn check(buffer: &[u8], seed: u64, offset: u64) -> Result<(), Differs> {
    let found = first_difference(buffer, seed, offset);
    found.map_or(Ok(()), |at| Err(Differs(offset + at as u64)))
}

/// The numbers below `count`, in an order that leaves few of them side by side: pages
/// that are asked for in this order lie scattered in memory.
pub fn scattered(count: usize) -> impl Iterator<Item = usize> {
    // An odd step meets every number below a power of two once.
    let step = count / 16 * 10 + 3;
    (0..count).map(move |i| i.wrapping_mul(step) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_is_recognised() {
        let mut buffer = [0; 100];
        fill(&mut buffer, 7, 4096);
        assert_eq!(first_difference(&buffer, 7, 4096), None);
        assert!(first_difference(&buffer, 8, 4096).is_some());
        assert!(first_difference(&buffer, 7, 4104).is_some());
    }

    #[test]
    fn one_changed_byte_is_found() {
        let mut buffer = [0; 100];
        fill(&mut buffer, 1, 0);
        buffer[97] ^= 1;
        assert_eq!(first_difference(&buffer, 1, 0), Some(97));
    }

    #[test]
    fn parts_fit_together() {
        let mut whole = [0; 64];
        fill(&mut whole, 3, 0);
        let mut part = [0; 32];
        fill(&mut part, 3, 32);
        assert_eq!(whole[32..], part);
    }

    #[test]
    fn all_of_a_power_of_two_are_met_apart() {
        for count in [1, 2, 8, 64, 16384] {
            let order: Vec<usize> = scattered(count).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert!(sorted.iter().copied().eq(0..count), "{count}");
            let side_by_side = order.windows(2).filter(|two| two[1] == two[0] + 1);
            assert!(count < 8 || side_by_side.count() == 0, "{count}");
        }
    }
}

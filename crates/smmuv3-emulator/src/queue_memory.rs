//! Memory of the owner's queues (IHI 0070, 3.5.1).

use crate::Platform;
use portcullis_addr::{Ipa, Range};
use smmuv3_spec::control::QueueBase;

/// Holds the memory of a queue of 2^`log2` entries of `entry` bytes; `None` if
/// not all of it is the owner's memory. The base is aligned to the size of the
/// queue, but at least to 32 bytes, by ignoring its lower bits (6.3.26).
pub(crate) fn open_queue<P: Platform>(
    platform: &P,
    base: QueueBase,
    log2: u32,
    entry: u64,
) -> Option<P::Window> {
    let bytes = entry.checked_shl(log2)?;
    let start = (base.addr_5() << 5) & !(bytes.max(32) - 1);
    let range = Range::from_size(Ipa::new(start), bytes).ok()?;
    platform.open(range).ok()
}

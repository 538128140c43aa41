//! Bounded waits.

use crate::{Clock, Registers};

/// Longest wait for a register to follow, in microseconds. The architecture
/// gives no bound; implementations answer in microseconds.
pub(crate) const REGISTER_US: u64 = 100_000;

/// Longest wait for commands to complete, in microseconds. Far above what any
/// invalidation takes, since the price of running out of it is a fence.
pub(crate) const COMMAND_US: u64 = 1_000_000;

/// Polls until `done` gives a value; `None` when `limit` microseconds passed
/// first. Polls once more after the time is up, so that a caller that was
/// itself stopped for long does not take a finished wait for a failed one.
pub(crate) fn poll<T>(
    clock: &impl Clock,
    limit: u64,
    mut done: impl FnMut() -> Option<T>,
) -> Option<T> {
    let start = clock.now_us();
    loop {
        let late = clock.now_us().wrapping_sub(start) > limit;
        if let Some(value) = done() {
            return Some(value);
        }
        if late {
            return None;
        }
        clock.relax();
    }
}

/// Waits until the fields in `mask` of a register are as its acknowledgement
/// says: a field must not change again before its last change is in force
/// (6.3.9, 6.3.16). If that never ends, the caller's own wait will tell.
pub(crate) fn wait_for_acknowledgement(
    regs: &impl Registers,
    clock: &impl Clock,
    (register, acknowledgement): (u32, u32),
    mask: u32,
) {
    let _ = poll(clock, REGISTER_US, || {
        let differ = regs.read32(register) ^ regs.read32(acknowledgement);
        (differ & mask == 0).then_some(())
    });
}

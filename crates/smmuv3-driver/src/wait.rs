//! Waits with a time limit.

use crate::{Clock, Registers};

/// Longest wait for an acknowledgement register, in microseconds. The
/// architecture gives no bound; implementations answer in microseconds.
pub(crate) const REGISTER_US: u64 = 100_000;

/// Longest wait for commands to complete, in microseconds. It is far above the
/// time of any invalidation, because a timeout fences the SMMU.
pub(crate) const COMMAND_US: u64 = 1_000_000;

/// Polls until `done` gives a value; `None` if `limit` microseconds pass first.
/// It polls once more after that, so that a caller that was interrupted for
/// long does not take a finished wait for a failed one.
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

/// Waits until a register and its acknowledgement have the same fields in
/// `mask`. A field must not change again before its last change has taken
/// effect (6.3.9, 6.3.16). If this never ends, the caller's next wait fails.
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

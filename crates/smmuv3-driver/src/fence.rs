//! Stops all DMA of an SMMU.

use crate::wait::{REGISTER_US, poll, wait_for_acknowledgement};
use crate::{Clock, Registers};
use smmuv3_spec::control::{Cr0, Gbpa};
use smmuv3_spec::reg;

/// Why DMA could not be shown to have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// `GBPA.Update` did not clear, or `GBPA.ABORT` did not read back as 1.
    /// `SMMUEN` was not changed: clearing it without the abort would open DMA
    /// that translation may still stop.
    #[error("GBPA did not take the abort")]
    Abort,
    /// `CR0ACK.SMMUEN` did not clear. The abort takes effect when it does;
    /// until then the stream table decides.
    #[error("CR0ACK did not follow SMMUEN=0")]
    Disable,
}

/// Makes the SMMU abort every transaction of Non-secure streams: global bypass
/// is set to abort first, only then is translation switched off (IHI 0070,
/// 6.3.14.1 and 6.3.9.6). Queues stay as they are. May be called at any time
/// and any number of times, also by another CPU than the one that drives the
/// SMMU, for instance in a panic.
///
/// # Errors
/// See [`FenceError`]. Which state is left depends on the step that failed, but
/// no failed step opens DMA that was closed.
pub fn fence(regs: &impl Registers, clock: &impl Clock) -> Result<(), FenceError> {
    let update_done = || {
        poll(clock, REGISTER_US, || {
            let gbpa = Gbpa::from(regs.read32(reg::GBPA));
            (!gbpa.update()).then_some(gbpa)
        })
    };
    // An earlier update must end before the next (6.3.14.1). If it never ends,
    // writing is still the best choice; the check below decides.
    let before = update_done().unwrap_or_else(|| Gbpa::from(regs.read32(reg::GBPA)));
    regs.write32(reg::GBPA, before.with_abort(true).with_update(true).into());
    match update_done() {
        Some(gbpa) if gbpa.abort() => {}
        _ => return Err(FenceError::Abort),
    }

    // A field must not change again before its last change has taken effect
    // (6.3.9), and an earlier owner may just have enabled the SMMU. If that
    // never ends, writing is still the best choice.
    let smmuen = Cr0::new().with_smmuen(true).into();
    wait_for_acknowledgement(regs, clock, (reg::CR0, reg::CR0ACK), smmuen);
    let cr0 = Cr0::from(regs.read32(reg::CR0));
    regs.write32(reg::CR0, cr0.with_smmuen(false).into());
    poll(clock, REGISTER_US, || {
        (!Cr0::from(regs.read32(reg::CR0ACK)).smmuen()).then_some(())
    })
    .ok_or(FenceError::Disable)
}

//! Faults of the host's devices, on their way to its virtio-iommu.
//!
//! They are found under the lock of an SMMU, which whoever holds the lock of the
//! virtio-iommu may wait for. So they are put down here, under a lock that
//! nothing else is taken in, and whoever has or gets the virtio-iommu next
//! delivers them.

use super::{PARAVIRT, State};
use crate::lock::Mutex;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use portcullis_addr::Iova;
use smmuv3_spec::event::{EventKind, EventRecord};
use virtio_iommu_device::{Fault, FaultFlags, FaultReason};

/// Faults that can wait. As many more are counted and dropped.
const ROOM: usize = 64;

/// How often one call looks at the list again while it fills up.
const ROUNDS: usize = 2;

struct Queue {
    faults: [Option<(usize, EventRecord)>; ROOM],
    /// Where the oldest is.
    first: usize,
    len: usize,
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    faults: [None; ROOM],
    first: 0,
    len: 0,
});
static WAITING: AtomicBool = AtomicBool::new(false);
static DROPPED: AtomicU32 = AtomicU32::new(0);

/// Faults that there was no room for. Wraps.
pub fn dropped() -> u32 {
    DROPPED.load(Ordering::Relaxed)
}

/// Puts down what the SMMU at `index` recorded of a stream.
pub fn report(index: usize, record: EventRecord) {
    if PARAVIRT.get().is_none() {
        return;
    }
    let mut queue = QUEUE.lock();
    let at = (queue.first + queue.len) % ROOM;
    if queue.len == ROOM {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    } else if let Some(slot) = queue.faults.get_mut(at) {
        *slot = Some((index, record));
        queue.len += 1;
    }
    drop(queue);
    WAITING.store(true, Ordering::SeqCst);
}

/// Whether there is something to deliver.
#[inline]
pub fn waiting() -> bool {
    WAITING.load(Ordering::SeqCst)
}

/// Hands them to the virtio-iommu, unless another CPU has it, which does so when
/// it is done.
pub fn deliver() {
    let Some(paravirt) = PARAVIRT.get() else {
        return;
    };
    // Whoever faults faster than that has the rest delivered with the next look.
    for _ in 0..ROUNDS {
        if !WAITING.load(Ordering::SeqCst) {
            return;
        }
        let Some(mut state) = paravirt.state.try_lock() else {
            return;
        };
        WAITING.store(false, Ordering::SeqCst);
        for _ in 0..ROOM {
            let Some((index, record)) = take() else { break };
            let State {
                device, domains, ..
            } = &mut *state;
            let Some(endpoint) = domains.unit().endpoint(index, record.stream()) else {
                continue;
            };
            let fault = Fault {
                reason: reason(record.kind()),
                flags: if !record.kind().has_access() {
                    FaultFlags::empty()
                } else if record.rnw() {
                    FaultFlags::READ
                } else {
                    FaultFlags::WRITE
                },
                endpoint,
                address: record
                    .kind()
                    .has_input_address()
                    .then(|| Iova::new(record.input_address())),
            };
            // What does not fit is counted by the device.
            let _ = device.fault(&paravirt.machine, &fault);
        }
        drop(state);
    }
}

fn take() -> Option<(usize, EventRecord)> {
    let mut queue = QUEUE.lock();
    let first = queue.first;
    let fault = queue.faults.get_mut(first)?.take()?;
    queue.first = (first + 1) % ROOM;
    queue.len -= 1;
    Some(fault)
}

/// virtio 1.2, 5.13.6.9.
fn reason(kind: EventKind) -> FaultReason {
    match kind {
        EventKind::C_BAD_STREAMID | EventKind::C_BAD_STE => FaultReason::DOMAIN,
        EventKind::F_TRANSLATION
        | EventKind::F_ADDR_SIZE
        | EventKind::F_ACCESS
        | EventKind::F_PERMISSION => FaultReason::MAPPING,
        _ => FaultReason::UNKNOWN,
    }
}

//! Faults of the host's devices, on their way to its virtio-iommus.
//!
//! The lock of a virtio-iommu comes before that of an SMMU, and a fault is found with the
//! SMMU locked. So the fault is queued here, under a lock inside which no other is taken,
//! and the CPU that has, or next gets, the virtio-iommu delivers it.

use super::{Paravirt, State, all};
use crate::lock::Mutex;
use core::sync::atomic::{AtomicU32, Ordering};
use portcullis_addr::Iova;
use portcullis_isolation::EndpointRange;
use smmuv3_spec::event::{EventKind, EventRecord};
use virtio_iommu_device::{Fault, FaultFlags, FaultReason};

/// Faults that can wait for one virtio-iommu. As many more are counted and dropped.
const ROOM: usize = 64;

/// How often one call looks at the lists again while they fill up.
const ROUNDS: usize = 2;

struct Queue {
    faults: [Option<(usize, EventRecord)>; ROOM],
    /// Where the oldest is.
    first: usize,
    len: usize,
}

/// The faults that wait for one virtio-iommu.
pub(super) struct Faults {
    queue: Mutex<Queue>,
    dropped: AtomicU32,
    /// The virtio-iommu's bit in [`WAITING`].
    bit: u32,
}

/// A bit for each virtio-iommu that has faults to deliver.
static WAITING: AtomicU32 = AtomicU32::new(0);

impl Faults {
    /// None, for the virtio-iommu at `index`.
    pub(super) const fn new(index: usize) -> Self {
        Self {
            queue: Mutex::new(Queue {
                faults: [None; ROOM],
                first: 0,
                len: 0,
            }),
            dropped: AtomicU32::new(0),
            bit: 1 << index,
        }
    }

    /// Faults that there was no room for. Wraps.
    pub(super) fn dropped(&self) -> u32 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn put(&self, index: usize, record: EventRecord) {
        let mut queue = self.queue.lock();
        let at = (queue.first + queue.len) % ROOM;
        if queue.len == ROOM {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        } else if let Some(slot) = queue.faults.get_mut(at) {
            *slot = Some((index, record));
            queue.len += 1;
        }
        drop(queue);
        WAITING.fetch_or(self.bit, Ordering::SeqCst);
    }

    fn take(&self) -> Option<(usize, EventRecord)> {
        let mut queue = self.queue.lock();
        let first = queue.first;
        let fault = queue.faults.get_mut(first)?.take()?;
        queue.first = (first + 1) % ROOM;
        queue.len -= 1;
        Some(fault)
    }
}

/// Puts down what the SMMU at `index` recorded of a stream.
pub fn report(index: usize, record: EventRecord) {
    let stream = record.stream();
    let has = |range: &EndpointRange| {
        let offset = stream.0.checked_sub(range.stream.0);
        range.smmu == index && offset.is_some_and(|offset| offset < range.count)
    };
    // A stream that no virtio-iommu has: no driver is to be told.
    if let Some(paravirt) = all().find(|paravirt| paravirt.endpoints.iter().any(has)) {
        paravirt.faults.put(index, record);
    }
}

/// Whether there is something to deliver.
#[inline]
pub fn waiting() -> bool {
    WAITING.load(Ordering::SeqCst) != 0
}

/// Hands them to the virtio-iommus, but to those that another CPU has, which does so when
/// it is done. This one has none.
pub fn deliver() {
    // Whoever faults faster than that has the rest delivered with the next look.
    for _ in 0..ROUNDS {
        let waiting = WAITING.load(Ordering::SeqCst);
        if waiting == 0 {
            return;
        }
        all()
            .filter(|paravirt| waiting & paravirt.faults.bit != 0)
            .for_each(deliver_to);
    }
}

fn deliver_to(paravirt: &Paravirt) {
    let faults = &paravirt.faults;
    let Some(mut state) = paravirt.state.try_lock() else {
        return;
    };
    WAITING.fetch_and(!faults.bit, Ordering::SeqCst);
    for _ in 0..ROOM {
        let Some((index, record)) = faults.take() else {
            break;
        };
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

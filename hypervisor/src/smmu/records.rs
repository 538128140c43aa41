//! What an SMMU has to say, put down under its lock and printed without.
//!
//! A line takes as long as the UART does, 17 ms at 115,200 baud, and while one is
//! printed under the lock of an SMMU every other CPU that needs it waits. So only
//! a record is written there, to a ring with room for some, and a few are printed
//! each time that EL2 has let go of the lock.

use crate::lock::Mutex;
use crate::log::{RateLimit, debug, error, warning};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Event, GlobalErrors};

/// Records that can wait.
const ROOM: usize = 64;

/// Lines that are printed before the CPU goes back to the host: at 115,200 baud
/// some 70 ms.
const LINES: usize = 4;

static FAULTS: RateLimit = RateLimit::new();
static HOST_FAULTS: RateLimit = RateLimit::new();
static ERRORS: RateLimit = RateLimit::new();

/// What there is to say.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A device did what the host has not allowed, or nobody.
    Fault(Event),
    /// A device did what the host has not allowed by its own tables.
    HostFault(Event),
    /// The SMMU reported errors.
    Errors(GlobalErrors),
    /// It aborts everything from now on.
    Fenced,
    /// It had no room for events.
    EventsLost,
    /// Its event queue makes no sense.
    Inconsistent,
}

impl What {
    /// What bounds the lines of this kind; `None` for what happens once.
    fn limit(&self) -> Option<&'static RateLimit> {
        Some(match self {
            Self::Fault(_) => &FAULTS,
            Self::HostFault(_) => &HOST_FAULTS,
            Self::Errors(_) | Self::EventsLost | Self::Inconsistent => &ERRORS,
            Self::Fenced => return None,
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Record {
    smmu: PhysAddr,
    what: What,
    dropped: u64,
}

struct Ring {
    records: [Option<Record>; ROOM],
    /// Where the oldest is.
    first: usize,
    len: usize,
}

static RING: Mutex<Ring> = Mutex::new(Ring {
    records: [None; ROOM],
    first: 0,
    len: 0,
});

/// Whether there is one. Written under the lock of the ring.
static WAITING: AtomicBool = AtomicBool::new(false);

/// Puts down what the SMMU with its registers at `smmu` has to say, as often as the
/// log has room for it.
#[cold]
pub(super) fn put(smmu: PhysAddr, what: What) {
    let limit = what.limit();
    let dropped = match limit.map(RateLimit::take) {
        Some(None) => return,
        Some(Some(dropped)) => dropped,
        None => 0,
    };
    let mut ring = RING.lock();
    if ring.len == ROOM {
        if let Some(limit) = limit {
            limit.lose(dropped.saturating_add(1));
        }
        return;
    }
    let at = (ring.first + ring.len) % ROOM;
    if let Some(slot) = ring.records.get_mut(at) {
        *slot = Some(Record {
            smmu,
            what,
            dropped,
        });
        ring.len += 1;
    }
    WAITING.store(true, Ordering::SeqCst);
}

fn take() -> Option<Record> {
    let mut ring = RING.lock();
    let first = ring.first;
    let record = ring.records.get_mut(first)?.take();
    if record.is_some() {
        ring.first = (first + 1) % ROOM;
        ring.len -= 1;
    }
    WAITING.store(ring.len != 0, Ordering::SeqCst);
    record
}

/// Prints a few of them; `true` when there are more. No lock is held.
#[inline]
pub(super) fn print() -> bool {
    WAITING.load(Ordering::SeqCst) && print_some()
}

#[cold]
#[inline(never)]
fn print_some() -> bool {
    for _ in 0..LINES {
        let Some(record) = take() else { return false };
        line(&record);
    }
    WAITING.load(Ordering::SeqCst)
}

/// Prints all that there are when the machine is about to go off.
pub(super) fn print_all() {
    for _ in 0..ROOM / LINES {
        if !print() {
            return;
        }
    }
}

fn line(record: &Record) {
    let (smmu, dropped) = (record.smmu, record.dropped);
    match record.what {
        What::Fault(event) => {
            warning!("event=dma_fault smmu={smmu} {event} dropped={dropped}");
        }
        What::HostFault(event) => {
            debug!("event=dma_fault_of_host smmu={smmu} {event} dropped={dropped}");
        }
        What::Errors(errors) => error!("event=smmu_error smmu={smmu} {errors} dropped={dropped}"),
        What::Fenced => error!("event=smmu_fenced smmu={smmu} reason=\"it stopped serving\""),
        What::EventsLost => warning!("event=smmu_events_lost smmu={smmu} dropped={dropped}"),
        What::Inconsistent => {
            error!("event=smmu_queue_inconsistent smmu={smmu} dropped={dropped}");
        }
    }
}

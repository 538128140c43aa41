//! What the SMMUs report: their interrupts, events and errors.

use super::records::{self, What};
use super::{Instance, State, instances};
use crate::gic;
use crate::lock::Mutex;
use crate::log::info;
use crate::paravirt;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Drained, Event};
use smmuv3_emulator::{Counts, Delivery, EventReport};

/// Records handled at once before the CPU goes back to the host.
const BATCH: u32 = 64;

/// How often a queue is looked at again while it fills up: all of it, once.
const ROUNDS: u32 = 2048 / BATCH + 1;

/// See [`needs_polling`].
static POLLED: AtomicBool = AtomicBool::new(true);

/// Looks at the lines again, which say whether to poll.
pub(super) fn note_lines() {
    let polled = instances().any(|instance| !instance.lines().suffice());
    POLLED.store(polled, Ordering::Relaxed);
}

/// An interrupt of an SMMU arrived. `false` when its work is not finished and
/// the interrupt was made pending again.
#[must_use]
pub fn interrupt(intid: u32) -> bool {
    let mut finished = true;
    for instance in instances() {
        let lines = instance.lines();
        if [lines.event, lines.error].contains(&Some(intid)) {
            finished &= attend(instance);
        }
    }
    finished
}

/// Whether some SMMU has no interrupt that comes to EL2, so that it is looked
/// at whenever EL2 runs for another reason.
#[must_use]
pub fn needs_polling() -> bool {
    POLLED.load(Ordering::Relaxed)
}

/// Looks at every SMMU.
pub fn poll() {
    for instance in instances() {
        attend(instance);
    }
}

/// Looks at an SMMU and prints a few of the lines that there are. `false` when there
/// was more than one turn's work. The caller holds no lock.
pub(super) fn attend(instance: &Instance) -> bool {
    let finished = look_often(instance, paravirt::deliver_faults);
    if !records::print() {
        return finished;
    }
    // This CPU comes again for the rest.
    if let Some(intid) = instance.lines().event {
        gic::pend_again(intid);
    }
    false
}

/// As [`attend`], for a caller that holds a lock: nothing is printed, and no fault delivered
/// to the host, which takes the lock of a virtio-iommu. That is for the caller to do when it
/// has none.
pub(super) fn attend_silently(instance: &Instance) {
    look_often(instance, || ());
}

/// Looks at an SMMU until it has nothing to say, `between` two looks and after the last
/// doing something else. `false` when there was more than one turn's work.
fn look_often(instance: &Instance, between: fn()) -> bool {
    let Some(mutex) = instance.state.get() else {
        return true;
    };
    instance.wanted.store(true, Ordering::SeqCst);
    for _ in 0..ROUNDS {
        // Another CPU that holds the lock looks at `wanted` when it is done.
        let Some(mut state) = mutex.try_lock() else {
            return true;
        };
        instance.wanted.store(false, Ordering::SeqCst);
        let more = look(instance, &mut state);
        drop(state);
        between();
        if !more && !instance.wanted.load(Ordering::SeqCst) {
            return true;
        }
    }
    // A queue that fills as fast as it is read raises no interrupt again,
    // since it is never empty (IHI 0070, 3.18.2). So the interrupt is made
    // pending: whoever faults that fast takes its own CPU's time.
    if let Some(intid) = instance.lines().event {
        gic::pend_again(intid);
    }
    false
}

/// Prints a few of the lines that there are; the rest when an SMMU is looked at next.
pub fn print_lines() {
    records::print();
}

/// Handles what an SMMU has to say, in a bounded amount; `true` when there was
/// something.
fn look(instance: &Instance, state: &mut State) -> bool {
    let State { driver, emulated } = state;
    let smmu = instance.registers.range().start();
    let was_fenced = driver.is_fenced();
    if let Some(errors) = driver.handle_gerror() {
        records::put(smmu, What::Errors(errors));
        if driver.is_fenced() && !was_fenced {
            records::put(smmu, What::Fenced);
            if let Some(emulated) = emulated {
                emulated.failed();
            }
        }
    }
    let mut reporter = Reporter { smmu, wanted: None };
    let drained = driver.take_events(BATCH, |event| {
        let delivery = match emulated {
            Some(emulated) => emulated.event(&event),
            None => {
                paravirt::report_fault(instance.index, event.0);
                Delivery::NotOwned
            }
        };
        reporter.event(&event, delivery);
        delivery.answer()
    });
    reporter.drained(&drained);
    drained.events != 0
}

/// Puts down what an SMMU recorded, to be printed when its lock is free.
#[derive(Clone, Copy)]
pub(super) struct Reporter {
    /// Its registers.
    pub(super) smmu: PhysAddr,
    /// Where the caller does not print what was put down, the wish that somebody
    /// looks at the SMMU, which does.
    pub(super) wanted: Option<&'static AtomicBool>,
}

impl Reporter {
    fn put(&self, what: What) {
        records::put(self.smmu, what);
        if let Some(wanted) = self.wanted {
            wanted.store(true, Ordering::SeqCst);
        }
    }
}

impl EventReport for Reporter {
    fn event(&mut self, event: &Event, delivery: Delivery) {
        let ours = match delivery {
            Delivery::NotOwned | Delivery::Report => true,
            Delivery::Done => false,
            Delivery::Terminate { .. } => event.0.s2(),
        };
        let what = if ours { What::Fault } else { What::HostFault };
        self.put(what(*event));
    }

    fn drained(&mut self, drained: &Drained) {
        if drained.overflowed {
            self.put(What::EventsLost);
        }
        if drained.inconsistent {
            self.put(What::Inconsistent);
        }
    }
}

/// Prints what each SMMU did.
pub fn report() {
    records::print_all();
    for instance in instances() {
        let Some(state) = instance.state.get().and_then(Mutex::try_lock) else {
            continue;
        };
        let (stats, fenced) = (state.driver.stats(), state.driver.is_fenced());
        let emulated = state.emulated.as_ref().map(|emulated| *emulated.counts());
        drop(state);
        let smmu = instance.registers.range().start();
        info!(
            "event=smmu_counts smmu={smmu} commands={} syncs={} command_errors={} events={} \
             overflows={} timeouts={} global_errors={} fenced={}",
            stats.commands,
            stats.syncs,
            stats.command_errors,
            stats.events,
            stats.overflows,
            stats.timeouts,
            stats.global_errors,
            YesNo(fenced),
        );
        if let Some(counts) = &emulated {
            info!("event=emulated_counts smmu={smmu} {}", Emulated(counts));
        }
    }
}

/// A flag as the log writes it.
struct YesNo(bool);

impl Display for YesNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "yes" } else { "no" })
    }
}

/// What an emulated SMMU did and refused, as logfmt fields.
struct Emulated<'a>(&'a Counts);

impl Display for Emulated<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = self.0;
        let refused_writes = c.illegal_accesses + c.read_only + c.guarded;
        write!(
            f,
            "writes={} refused_writes={refused_writes} again={} commands={} syncs={} \
             signalled={} issued={} illegal_commands={} fetch_aborts={} failed_syncs={} \
             foreign_streams={} bad_substreams={} no_effect={} inconsistent={} bad_queues={}",
            c.writes,
            c.again,
            c.commands,
            c.syncs,
            c.signalled,
            c.issued,
            c.illegal_commands,
            c.fetch_aborts,
            c.failed_syncs,
            c.foreign_streams,
            c.bad_substreams,
            c.no_effect,
            c.inconsistent,
            c.bad_queues,
        )?;
        write!(
            f,
            " interrupts={} aborted_messages={} errors={} refused={} streams_refused={} \
             entries_read={} events_delivered={} events_dropped={} events_overflowed={} \
             stalls_terminated={}",
            c.interrupts,
            c.aborted_messages,
            c.errors,
            c.refused,
            c.streams_refused,
            c.entries_read,
            c.events_delivered,
            c.events_dropped,
            c.events_overflowed,
            c.stalls_terminated,
        )
    }
}

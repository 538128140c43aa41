//! What the SMMUs report: their interrupts, events and errors.

use super::{Instance, State, instances};
use crate::gic;
use crate::log::{RateLimit, debug, error, info, warning};
use crate::paravirt;
use core::fmt::{self, Display};
use core::sync::atomic::{AtomicBool, Ordering};
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Drained, Event};
use smmuv3_emulator::{Counts, Delivery, Report};
use spin::Mutex;

/// Records handled at once before the CPU goes back to the host.
const BATCH: u32 = 64;

/// How often a queue is looked at again while it fills up: all of it, once.
const ROUNDS: u32 = 2048 / BATCH + 1;

static FAULTS: RateLimit = RateLimit::new();
static HOST_FAULTS: RateLimit = RateLimit::new();
static ERRORS: RateLimit = RateLimit::new();

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

/// Looks at an SMMU; `false` when there was more than one turn's work.
pub(super) fn attend(instance: &Instance) -> bool {
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
        paravirt::deliver_faults();
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

/// Handles what an SMMU has to say, in a bounded amount; `true` when there was
/// something.
fn look(instance: &Instance, state: &mut State) -> bool {
    let State { driver, emulated } = state;
    let smmu = instance.registers.range().start();
    let was_fenced = driver.is_fenced();
    if let Some(errors) = driver.handle_gerror() {
        if let Some(dropped) = ERRORS.take() {
            error!("event=smmu_error smmu={smmu} {errors} dropped={dropped}");
        }
        if driver.is_fenced() && !was_fenced {
            error!("event=smmu_fenced smmu={smmu} reason=\"it stopped serving\"");
            if let Some(emulated) = emulated {
                emulated.failed();
            }
        }
    }
    let mut reporter = Reporter { smmu };
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

/// Prints what an SMMU recorded, as often as the log has room for it.
#[derive(Clone, Copy)]
pub(super) struct Reporter {
    /// Its registers.
    pub(super) smmu: PhysAddr,
}

impl Report for Reporter {
    fn event(&mut self, event: &Event, delivery: Delivery) {
        let smmu = self.smmu;
        let ours = match delivery {
            Delivery::NotOwned | Delivery::Ours => true,
            Delivery::Done => false,
            Delivery::Terminate { .. } => event.0.s2(),
        };
        if ours && let Some(dropped) = FAULTS.take() {
            warning!("event=dma_fault smmu={smmu} {event} dropped={dropped}");
        }
        if !ours && let Some(dropped) = HOST_FAULTS.take() {
            debug!("event=dma_fault_of_host smmu={smmu} {event} dropped={dropped}");
        }
    }

    fn drained(&mut self, drained: &Drained) {
        let smmu = self.smmu;
        if drained.overflowed
            && let Some(dropped) = ERRORS.take()
        {
            warning!("event=smmu_events_lost smmu={smmu} dropped={dropped}");
        }
        if drained.inconsistent
            && let Some(dropped) = ERRORS.take()
        {
            error!("event=smmu_queue_inconsistent smmu={smmu} dropped={dropped}");
        }
    }
}

/// Prints what each SMMU did.
pub fn report() {
    for instance in instances() {
        if let Some(state) = instance.state.get().and_then(Mutex::try_lock) {
            let driver = &state.driver;
            let stats = driver.stats();
            info!(
                "event=smmu_counts smmu={} commands={} syncs={} command_errors={} events={} \
                 overflows={} timeouts={} global_errors={} fenced={}",
                instance.registers.range().start(),
                stats.commands,
                stats.syncs,
                stats.command_errors,
                stats.events,
                stats.overflows,
                stats.timeouts,
                stats.global_errors,
                YesNo(driver.is_fenced()),
            );
            if let Some(emulated) = &state.emulated {
                info!(
                    "event=emulated_counts smmu={} {}",
                    instance.registers.range().start(),
                    Emulated(emulated.counts()),
                );
            }
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

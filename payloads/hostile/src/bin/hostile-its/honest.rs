//! The same interrupt controller used as a driver uses it: what must go on
//! working, whatever is refused to an attacker. Natively all of it works.

use crate::its::{Its, Kind, Outcome, command};
use crate::lpi::{self, FIRST, PTZ, Redistributor};
use crate::places::{Places, clear, own};
use core::sync::atomic::{AtomicU64, Ordering};
use portcullis_hostile::{Checks, say, start_cpu};

/// Functions of PCI that QEMU's tree gives DeviceIDs to.
const DEVICE: u64 = 0x18;
const OTHER: u64 = 0x20;
const EVENT: u64 = 0;
const LPI: u64 = FIRST;
/// Events of the device: 32.
const SIZE: u64 = 4;

/// RD frame of the second CPU's redistributor, for that CPU.
static FRAME: AtomicU64 = AtomicU64::new(0);
/// What the second CPU took last; 1 when it has nothing yet.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Expects every interrupt where it belongs.
pub fn check(checks: &mut Checks, places: &Places, its: &mut Its, here: Redistributor) {
    let target = its.target(here.frame, here.number());
    checks.equal("honest_undescribed_start", its.start_undescribed(), true);
    let end = its.put([command::mapc(0, target), command::sync(target)]);
    let went = its.go_undescribed(end);
    checks.equal("honest_undescribed_commands", went, (true, Outcome::Done));
    its.start();
    here.wake();
    here.start(0);
    lpi::drain();
    let set_up = its.run([
        command::mapc(0, target),
        command::invall(0),
        command::mapd(DEVICE, SIZE, own::TRANSLATIONS),
        command::mapti(DEVICE, EVENT, LPI, 0),
        command::inv(DEVICE, EVENT),
        command::mapti(DEVICE, EVENT + 1, LPI + 1, 0),
        command::inv(DEVICE, EVENT + 1),
        command::mapd(OTHER, SIZE, own::TRANSLATIONS + 0x1_0000),
        command::mapti(OTHER, EVENT, LPI + 2, 0),
        command::inv(OTHER, EVENT),
        command::sync(target),
    ]);
    checks.equal("honest_set_up", set_up, Outcome::Done);
    let its = &mut Driver { its, target };
    checks.equal("honest_int", its.int(DEVICE, EVENT), Some(LPI));
    checks.equal("honest_int_again", its.int(DEVICE, EVENT), Some(LPI));
    checks.equal(
        "honest_second_event",
        its.int(DEVICE, EVENT + 1),
        Some(LPI + 1),
    );
    checks.equal("honest_second_device", its.int(OTHER, EVENT), Some(LPI + 2));
    checks.equal("honest_unmapped_event", its.int(DEVICE, EVENT + 2), None);
    checks.equal("honest_unmapped_device", its.int(OTHER + 8, EVENT), None);
    configuration(checks, its);
    pending_tables(checks, its, here);
    tables(checks, its);
    if places.cpus > 1 {
        second_cpu(checks, places, its);
    }
    same_number(checks, its);
    its.run([command::discard(DEVICE, EVENT)]);
    checks.equal("honest_discarded", its.int(DEVICE, EVENT), None);
    its.run([
        command::mapti(DEVICE, EVENT, LPI, 0),
        command::inv(DEVICE, EVENT),
    ]);
    checks.equal("honest_mapped_again", its.int(DEVICE, EVENT), Some(LPI));
    here.off();
    checks.equal("honest_lpis_off", its.int(DEVICE, EVENT), None);
    here.start(0);
    lpi::drain();
    its.run([command::invall(0)]);
    checks.equal("honest_lpis_on", its.int(DEVICE, EVENT), Some(LPI));
    its.run([command::unmapd(DEVICE)]);
    checks.equal("honest_device_gone", its.int(DEVICE, EVENT), None);
    checks.equal(
        "honest_other_device_stays",
        its.int(OTHER, EVENT),
        Some(LPI + 2),
    );
    its.run([command::unmapd(OTHER)]);
    let left = its.its.off();
    checks.equal("honest_quiet_at_the_end", left, true);
    here.off();
}

struct Driver<'a> {
    its: &'a mut Its,
    target: u64,
}

impl Driver<'_> {
    fn run<const N: usize>(&mut self, commands: [crate::its::Command; N]) -> Outcome {
        let sync = command::sync(self.target);
        self.its.run(commands.into_iter().chain([sync]))
    }

    /// Raises an event, and says which LPI this CPU takes.
    fn int(&mut self, device: u64, event: u64) -> Option<u64> {
        self.run([command::int(device, event)]);
        lpi::take()
    }
}

/// An LPI that is disabled waits, or is taken back.
fn configuration(checks: &mut Checks, its: &mut Driver<'_>) {
    let inv = command::inv(DEVICE, EVENT);
    lpi::enable(LPI, false);
    its.run([inv]);
    checks.equal("honest_disabled", its.int(DEVICE, EVENT), None);
    lpi::enable(LPI, true);
    its.run([inv]);
    checks.equal("honest_enabled_later", lpi::take(), Some(LPI));
    lpi::enable(LPI, false);
    its.run([
        inv,
        command::int(DEVICE, EVENT),
        command::clear(DEVICE, EVENT),
    ]);
    lpi::enable(LPI, true);
    its.run([command::invall(0)]);
    checks.equal("honest_cleared", lpi::take(), None);
}

/// What is pending stays so while LPIs are off, and stays with its table: another
/// one, of zeroes, has nothing pending, as a new kernel expects.
fn pending_tables(checks: &mut Checks, its: &mut Driver<'_>, here: Redistributor) {
    const OTHER_TABLE: u64 = own::VIRTUAL_PENDING;
    let mut pend = || {
        lpi::enable(LPI, false);
        its.run([command::inv(DEVICE, EVENT), command::int(DEVICE, EVENT)]);
        here.off();
        lpi::enable(LPI, true);
    };
    pend();
    here.on();
    checks.equal("honest_pending_while_off", lpi::take(), Some(LPI));
    pend();
    clear(OTHER_TABLE, 0x1_0000);
    here.start_with(own::CONFIGURATION, OTHER_TABLE, PTZ);
    checks.equal("honest_other_pending_table", lpi::take(), None);
    here.start(0);
    checks.equal("honest_pending_table_of_zeroes", lpi::take(), None);
}

/// What is mapped stays with the tables: others, of zeroes, have no mapping, as
/// the kernel that hibernation starts with expects, and the same ones given back
/// have all, as the kernel expects that comes back.
fn tables(checks: &mut Checks, its: &mut Driver<'_>) {
    its.its.off();
    its.its.set_queue(own::QUEUE);
    its.its.on();
    checks.equal("honest_off_and_on", its.int(DEVICE, EVENT), Some(LPI));
    its.its.off();
    clear(own::FIRST_LEVEL, 0x1000);
    clear(own::PROCESSORS, 0x1000);
    its.its.set_table(Kind::Devices, own::FIRST_LEVEL, 1, 0);
    its.its.set_table(Kind::Collections, own::PROCESSORS, 1, 0);
    its.its.set_queue(own::QUEUE);
    its.its.on();
    checks.equal("honest_other_tables", its.int(DEVICE, EVENT), None);
    its.its.off();
    its.its
        .set_table(Kind::Devices, own::DEVICES, own::DEVICE_PAGES, 0);
    its.its.set_table(Kind::Collections, own::COLLECTIONS, 1, 0);
    its.its.set_queue(own::QUEUE);
    its.its.on();
    checks.equal("honest_same_tables", its.int(DEVICE, EVENT), Some(LPI));
    let second = its.int(DEVICE, EVENT + 1);
    checks.equal("honest_same_tables_second_event", second, Some(LPI + 1));
    checks.equal(
        "honest_same_tables_second_device",
        its.int(OTHER, EVENT),
        Some(LPI + 2),
    );
}

/// Collections of two CPUs: MOVI, MOVALL.
fn second_cpu(checks: &mut Checks, places: &Places, its: &mut Driver<'_>) {
    let there = Redistributor {
        frame: places.redistributor(1),
    };
    FRAME.store(there.frame, Ordering::Relaxed);
    TAKEN.store(0, Ordering::Relaxed);
    checks.equal("second_cpu", start_cpu(1, own::STACK, take_for_ever), 0);
    checks.equal("second_cpu_is_up", taken_there(0), Some(1));
    let target = its.its.target(there.frame, there.number());
    its.run([
        command::mapc(1, target),
        command::invall(1),
        command::movi(DEVICE, EVENT, 1),
        command::inv(DEVICE, EVENT),
        command::sync(target),
    ]);
    checks.equal("honest_movi_not_here", its.int(DEVICE, EVENT), None);
    checks.equal("honest_movi", taken_there(1), Some(LPI));
    lpi::enable(LPI, false);
    TAKEN.store(1, Ordering::Relaxed);
    let inv = command::inv(DEVICE, EVENT);
    its.run([inv, command::int(DEVICE, EVENT), command::sync(target)]);
    its.run([
        command::movall(target, its.target),
        command::movi(DEVICE, EVENT, 0),
    ]);
    lpi::enable(LPI, true);
    its.run([inv]);
    checks.equal("honest_movall", lpi::take(), Some(LPI));
    checks.equal("honest_movall_not_there", TAKEN.load(Ordering::Relaxed), 1);
    checks.equal("honest_movi_back", its.int(DEVICE, EVENT), Some(LPI));
}

/// What the second CPU took after `before`. It comes in any case, so that the wait is
/// made for a build machine that lets one of two CPUs wait for half a minute.
fn taken_there(before: u64) -> Option<u64> {
    (0..400_000_000).find_map(|_| {
        let taken = TAKEN.load(Ordering::Relaxed);
        (taken != before).then_some(taken)
    })
}

/// What the second CPU does.
fn take_for_ever() -> ! {
    let here = Redistributor {
        frame: FRAME.load(Ordering::Relaxed),
    };
    lpi::open();
    here.wake();
    here.start(1);
    TAKEN.store(1, Ordering::Relaxed);
    loop {
        if let Some((lpi, _)) = lpi::take_with_priority() {
            TAKEN.store(lpi, Ordering::Relaxed);
        }
    }
}

/// MAPI, where an EventID can be an LPI's number.
fn same_number(checks: &mut Checks, its: &mut Driver<'_>) {
    const BITS: u64 = 13;
    if its.its.event_bits() < BITS {
        say!("its: EventIDs are too short for MAPI");
        return;
    }
    let event = LPI + 20;
    its.run([
        command::mapd(OTHER + 8, BITS, own::TRANSLATIONS + 0x10_0000),
        command::mapi(OTHER + 8, event, 0),
        command::inv(OTHER + 8, event),
    ]);
    checks.equal("honest_mapi", its.int(OTHER + 8, event), Some(event));
    its.run([command::unmapd(OTHER + 8)]);
}

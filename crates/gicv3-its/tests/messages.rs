//! Messages of a device that is emulated for the owner: they come as those of a device
//! that is there, and name nothing to the physical ITS that the owner did not map.

mod machine;

use gicv3_its::{DeviceId, Event, EventId, Progress};
use gicv3_model::{OnError, Profile};
use machine::*;

fn machine() -> Machine {
    Machine::new(Profile {
        on_error: OnError::Stall,
        ..Profile::qemu()
    })
}

fn ready(machine: &Machine) -> Host<'_> {
    let mut host = Host::new(machine, 0x3ff);
    for lpi in 0..2000 {
        machine.poke(CONFIGURATION + lpi, 0xa3a3_a3a3_a3a3_a3a3);
    }
    host.give_tables(QUEUE);
    host.enable_lpis(0);
    host.write(CTLR, 1);
    host
}

/// The message, and the LPIs that come of it.
fn send(host: &mut Host<'_>, device: u32, event: u32) -> Vec<u32> {
    let event = Event {
        device: DeviceId(device),
        event: EventId(event),
    };
    host.emulator.send(&host.machine, 0, event);
    let gic = &host.machine.gic;
    gic.settle();
    let lpis = std::iter::from_fn(|| gic.acknowledge(0)).collect();
    host.check();
    lpis
}

#[test]
fn a_message_comes_as_what_it_is_mapped_to() {
    let machine = machine();
    let mut host = ready(&machine);
    let target = machine.gic.profile().rdbase(0);
    host.send([mapc(0, target), mapd(7, 4), mapti(7, 3, 8201, 0)]);
    assert_eq!(send(&mut host, 7, 3), [8201]);
    // Each of them.
    assert_eq!(send(&mut host, 7, 3), [8201]);
}

#[test]
fn what_is_not_mapped_goes_nowhere() {
    let machine = machine();
    let mut host = ready(&machine);
    let target = machine.gic.profile().rdbase(0);
    assert_eq!(send(&mut host, 7, 3), []);
    host.send([mapc(0, target), mapd(7, 4), mapti(7, 3, 8201, 0)]);
    // Another event, one beyond its table, another device, one that the host does not have.
    for (device, event) in [
        (7, 2),
        (7, 16),
        (7, u32::MAX),
        (6, 3),
        (0x400, 3),
        (u32::MAX, 3),
    ] {
        assert_eq!(send(&mut host, device, event), [], "{device:#x} {event:#x}");
    }
    // Its collection goes nowhere, then it is discarded, then its device is gone.
    host.send([[9, 0, 0, 0]]);
    assert_eq!(send(&mut host, 7, 3), []);
    host.send([mapc(0, target), [7 << 32 | 0xf, 3, 0, 0]]);
    assert_eq!(send(&mut host, 7, 3), []);
    host.send([mapti(7, 3, 8201, 0), [7 << 32 | 8, 0, 0, 0]]);
    assert_eq!(send(&mut host, 7, 3), []);
    // No such ITS.
    let event = Event {
        device: DeviceId(7),
        event: EventId(3),
    };
    host.emulator.send(&host.machine, 1, event);
}

/// A device with so many events that to change them takes several calls.
fn thousand(target: u64) -> Vec<[u64; 4]> {
    let events = (0..1000).map(|n| mapti(7, n, 8192 + n, 0));
    [mapc(0, target), mapd(7, 10)]
        .into_iter()
        .chain(events)
        .collect()
}

#[test]
fn an_its_that_is_off_takes_none() {
    let machine = machine();
    let mut host = ready(&machine);
    let target = machine.gic.profile().rdbase(0);
    host.send(thousand(target));
    // From the owner's write on, though that is not done.
    assert_eq!(host.write_once(CTLR, 0), Progress::Again);
    for event in 0..1000 {
        assert_eq!(send(&mut host, 7, event), []);
    }
    host.write(CTLR, 0);
    assert_eq!(send(&mut host, 7, 3), []);
}

/// Every command that takes several calls, and messages between them.
#[test]
fn a_change_may_be_half_done() {
    let machine = machine();
    let mut host = ready(&machine);
    let target = machine.gic.profile().rdbase(0);
    host.send(thousand(target));
    // The collection goes nowhere and comes back, and the device goes.
    for command in [[9, 0, 0, 0], mapc(0, target), [7 << 32 | 8, 0, 0, 0]] {
        let end = host.queue([command]);
        let mut calls = 0;
        while host.write_once(CWRITER, end) == Progress::Again {
            calls += 1;
            for event in [0, 255, 256, 511, 767, 999] {
                let lpis = send(&mut host, 7, event);
                assert!(lpis.iter().all(|lpi| *lpi == 8192 + event), "{lpis:?}");
            }
        }
        assert!(calls > 0, "{command:x?} took one call");
    }
    host.write(CTLR, 0);
    assert_eq!(send(&mut host, 7, 0), []);
}

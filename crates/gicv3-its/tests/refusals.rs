//! What the host may not have, and what becomes of what it had.

mod machine;

use gicv3_its::Lpi;
use gicv3_model::{Fault, Profile};
use machine::*;

/// MAPD with V = 0.
fn unmap_device(device: u64) -> [u64; 4] {
    [device << 32 | 8, 0, 0, 0]
}

/// A host whose first CPU takes LPIs, and whose collection 0 goes there.
fn running<'m>(machine: &'m Machine, devices: &[(u32, u32)]) -> Host<'m> {
    let mut host = Host::with_devices(machine, devices);
    host.give_tables(QUEUE);
    host.enable_lpis(0);
    host.write(CTLR, 1);
    host.send([mapc(0, machine.gic.profile().rdbase(0))]);
    host
}

#[test]
fn the_product_is_shown_only_where_drivers_have_to_know_it() {
    let machine = Machine::new(Profile::qemu());
    let mut host = Host::with_devices(&machine, &[(0, 0x3ff)]);
    let product = || machine.shown.borrow()[&CTLR] >> 32;
    assert_eq!(product(), 0x43b);
    host.emulator.show_product(0);
    host.emulator.start(&&machine, 0);
    assert_eq!(
        product(),
        u64::from(gicv3_its::Registers::read32(&Port::Its(&machine), 4))
    );
    assert_ne!(product(), 0x43b);
}

#[test]
fn a_device_has_no_more_events_than_are_offered() {
    let machine = Machine::new(Profile::qemu());
    let mut host = running(&machine, &[(0, 0x3ff)]);
    let offered = machine.shown.borrow()[&TYPER] >> 8 & 0x1f;
    for bits in offered + 2..=32 {
        host.send([mapd(1, bits), mapti(1, 0, 8192, 0)]);
        assert_eq!(machine.gic.mapped(0), [], "{bits} bits");
        host.check();
    }
    host.send([mapd(1, offered + 1), mapti(1, 0, 8192, 0)]);
    assert_eq!(machine.gic.mapped(0), [(1, 0, 8192)]);
    host.check();
}

#[test]
fn an_lpi_that_is_kept_from_the_host_is_not_mapped() {
    let machine = Machine::new(Profile::qemu());
    let mut host = running(&machine, &[(0, 0x3ff)]);
    let count = host.emulator.lpis();
    let (first, end) = (8192 + u64::from(count.host), 1u64 << count.intid_bits);
    assert!(first < end, "some are kept");
    host.send([mapd(1, 4)]);
    for lpi in [0, 8191, first, end - 1, end, u64::from(u32::MAX)] {
        host.send([mapti(1, 0, lpi, 0)]);
        assert_eq!(machine.gic.mapped(0), [], "{lpi}");
    }
    host.send([mapti(1, 0, first - 1, 0)]);
    assert_eq!(machine.gic.mapped(0), [(1, 0, first as u32 - 1)]);
    host.check();
}

/// Neither a command nor the host's table, which is read when the ITS is enabled.
#[test]
fn a_device_that_is_not_the_hosts_is_not_mapped() {
    const FOREIGN: u64 = 5;
    let machine = Machine::new(Profile::qemu());
    let mut host = running(&machine, &[(0, 3), (8, 0x3ff)]);
    host.send([mapd(FOREIGN, 4), mapti(FOREIGN, 0, 8192, 0)]);
    host.send([mapd(2, 4), mapti(2, 0, 8193, 0)]);
    assert_eq!(machine.gic.mapped(0), [(2, 0, 8193)]);
    // What the table has of a device of its own, with another LPI, for the other one.
    let own = machine.peek(DEVICES + 2 * 8);
    machine.poke(DEVICES + FOREIGN * 8, own + 0x1000);
    machine.poke(ITT + 0x1000, machine.peek(ITT) - 1);
    host.write(CTLR, 0);
    host.write(CTLR, 1);
    assert_eq!(machine.gic.mapped(0), [(2, 0, 8193)]);
    host.check();
}

/// IHI 0069 leaves it open; the next owner of the LPI must not get it.
#[test]
fn what_is_pending_goes_with_its_device() {
    let machine = Machine::new(Profile::qemu());
    let mut host = running(&machine, &[(0, 0x3ff)]);
    for events in [1, 70] {
        let all = (0..events).map(|n| mapti(1, n, 8192 + n, 0));
        host.send([mapd(1, 8)].into_iter().chain(all));
        for event in 0..events {
            machine.gic.message(0, 1, event as u32);
        }
        machine.gic.settle();
        assert_eq!(machine.gic.pending(0).len(), events as usize);
        host.send([unmap_device(1)]);
        machine.gic.settle();
        assert_eq!(machine.gic.pending(0), []);
        assert_eq!(host.emulator.row(Lpi(8192)), None);
    }
    host.check();
}

/// The host sees an ITS that does not go on.
#[test]
fn a_physical_its_that_failed_has_consumed_nothing_more() {
    let machine = Machine::new(Profile::qemu());
    let mut host = running(&machine, &[(0, 0x3ff)]);
    let before = machine.shown.borrow()[&CREADR];
    machine.gic.inject(Fault::CommandsStop { its: 0 });
    for _ in 0..3 {
        host.send([mapd(1, 4), mapti(1, 0, 8192, 0)]);
        assert_eq!(machine.shown.borrow()[&CREADR], before);
    }
}

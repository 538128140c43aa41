//! Single accesses of a hostile host, each with what it must not lead to.

mod machine;

use gicv3_its::{LpiCount, Progress};
use gicv3_model::{Caching, OnError, Profile};
use machine::*;

fn profile() -> Profile {
    Profile {
        on_error: OnError::Stall,
        ..Profile::qemu()
    }
}

#[test]
fn a_device_beyond_the_physical_its_is_never_named_to_it() {
    let machine = Machine::new(Profile {
        device_bits: 10,
        ..profile()
    });
    // The tree says that a bridge has all of them.
    let mut host = Host::new(&machine, 0xffff);
    let shown = machine.shown.borrow()[&TYPER];
    assert_eq!(shown >> 13 & 0x1f, 9, "Devbits");
    host.give_tables(QUEUE);
    host.write(CTLR, 1);
    host.send([mapd(0x3ff, 4), mapd(0x400, 4), mapd(0xffff, 4)]);
    host.check();
    let counts = host.emulator.counts(0).unwrap();
    assert_eq!((counts.commands, counts.refused), (1, 2));
}

#[test]
fn disabling_that_another_write_finishes_ends_everything() {
    let machine = Machine::new(profile());
    let mut host = Host::new(&machine, 0x3ff);
    host.give_tables(QUEUE);
    host.write(CTLR, 1);
    let mut commands = vec![mapc(0, 0), mapd(1, 10)];
    commands.extend((0..1000).map(|n| mapti(1, n, 8192 + n, 0)));
    host.send(commands);
    assert_eq!(host.write_once(CTLR, 0), Progress::Again);
    // The host does not do that write again, but another.
    let again = |progress| progress == Progress::Again;
    while again(host.write_once(CWRITER, 0)) {}
    assert_eq!(machine.windows.get(), 0, "the queue is still held");
    assert_eq!(machine.shown.borrow()[&CTLR] & 0xffff_ffff, 1 << 31);
    // New tables, new queue: no collection goes anywhere.
    host.write(BASER + 8, 0);
    host.give_queue(QUEUE + 0x10_0000);
    host.write(CTLR, 1);
    host.send([mapd(2, 4), mapti(2, 0, 8192, 0)]);
    let row = host.emulator.row(gicv3_its::Lpi(8192)).unwrap();
    assert_eq!(row.at, None);
    host.check();
}

#[test]
fn a_smaller_queue_does_not_leave_an_end_that_is_never_reached() {
    let machine = Machine::new(profile());
    let mut host = Host::new(&machine, 0x3ff);
    host.give_tables(QUEUE);
    host.write(CWRITER, 0xffe0);
    host.write(CBASER, 1 << 63 | QUEUE);
    host.write(CTLR, 1);
    host.check();
}

/// While its collection goes nowhere no ITS knows of an LPI, and the configuration that
/// a redistributor holds of it cannot be invalidated.
#[test]
fn what_was_disabled_while_it_went_nowhere_stays_disabled() {
    const LPI: u64 = 8200;
    let machine = Machine::new(Profile {
        caching: Caching::Greedy,
        ..profile()
    });
    let mut host = Host::new(&machine, 0x3ff);
    let target = machine.gic.profile().rdbase(0);
    let configure = |byte: u64| machine.poke(CONFIGURATION + (LPI - 8192), byte);
    configure(0xa3);
    host.give_tables(QUEUE);
    host.enable_lpis(0);
    host.write(CTLR, 1);
    host.send([mapc(0, target), mapd(1, 4), mapti(1, 0, LPI, 0)]);
    machine.gic.message(0, 1, 0);
    machine.gic.settle();
    assert_eq!(machine.gic.acknowledge(0), Some(LPI as u32));
    host.send([[9, 0, 0, 0]]);
    configure(0xa2);
    host.send([[1 << 32 | 0xc, 0, 0, 0], mapc(0, target)]);
    machine.gic.message(0, 1, 0);
    machine.gic.settle();
    assert_eq!(machine.gic.acknowledge(0), None);
    host.check();
}

/// INVALL and MAPC look whether there is an LPI at all, and a queue has room for 255.
#[test]
fn work_of_one_write_is_bounded_where_no_lpi_is_mapped() {
    for command in [[0xd, 0, 0, 0], mapc(0, 1 << 16), [9, 0, 0, 0]] {
        let machine = Machine::new(profile());
        let mut host = Host::new(&machine, 0x3ff);
        host.bring_up(1);
        host.give_tables(QUEUE);
        host.write(CTLR, 1);
        host.send([mapc(0, 0)]);
        let end = host.queue((0..254).flat_map(|_| [mapc(0, 0), command]));
        machine.loads.set(0);
        let _ = host.write_once(CWRITER, end);
        assert!(machine.loads.get() <= 16_384, "{}", machine.loads.get());
        host.write(CWRITER, end);
        host.check();
    }
}

#[test]
fn work_of_one_write_is_bounded_by_the_tables_that_it_makes_too() {
    let machine = Machine::new(profile());
    let mut host = Host::new(&machine, 0x3ff);
    host.give_tables(QUEUE);
    host.write(CTLR, 1);
    let end = host.queue((0..10).map(|_| mapd(1, 16)));
    machine.given.set(0);
    let _ = host.write_once(CWRITER, end);
    // A table of 1 MiB for the physical ITS, and one of 512 KiB; and as much for
    // what goes over the budget.
    assert!(machine.given.get() <= 8 << 20, "{:#x}", machine.given.get());
    host.write(CWRITER, end);
    host.check();
}

#[test]
fn a_gic_with_hardly_any_lpis_has_none_to_share_out() {
    for limit in 1..=31u32 {
        let Some(count) = LpiCount::new(0x0f << 19 | limit << 11) else {
            continue;
        };
        assert!(count.host >= 64, "num_LPIs {limit}: {count:?}");
        // What is shown is how many there are.
        let shown = count.show(0x0f << 19) >> 11 & 0x1f;
        assert_eq!(2 << shown, count.host);
    }
}

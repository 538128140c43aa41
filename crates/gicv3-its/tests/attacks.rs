//! Single accesses of a hostile host, each with what it must not lead to.

mod machine;

use gicv3_model::{OnError, Profile};
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

//! A host kernel that attacks the hypervisor through the interrupt controller's
//! tables: those of the ITS, of the LPIs and of virtual LPIs, all of which a GIC
//! reads and writes past every SMMU. It prints one line for each attempt,
//! `its: check=NAME result=ok|wrong …`, then `its: done wrong=N`, and powers off.
//!
//! In between it uses them as a driver does, and expects interrupts.
#![no_std]
#![no_main]

mod eye;
mod honest;
mod its;
mod lpi;
mod malformed;
mod mapped;
mod places;
mod primitives;
mod takeover;

use eye::{Eye, Watch};
use its::Its;
use lpi::Redistributor;
use places::Places;
use portcullis_hostile::{Checks, say, write};
use primitives::Attack;

// SAFETY: the one function of this name, which `portcullis_hostile` calls.
#[unsafe(no_mangle)]
extern "C" fn payload_main(tree: u64) -> ! {
    let mut checks = Checks::of("its");
    let places = Places::of(tree);
    for range in places.ranges() {
        say!(
            "its: hypervisor memory {:#x}..{:#x}",
            range.start,
            range.end
        );
    }
    let mut its = Its::at(places.its);
    say!(
        "its: ITS at {:#x}, in the tree: {}, answers: {}",
        its.base,
        places.its_is_named,
        its.is_there()
    );
    lpi::open();
    // Groups 1 of both kinds of GIC, affinity routing.
    write(places.distributor, 0x12);
    let here = Redistributor {
        frame: places.redistributor(0),
    };
    say!(
        "its: {} CPUs, LPIs: {}, virtual ones: {}",
        places.cpus,
        here.has_lpis(),
        here.has_virtual_lpis()
    );
    if places.only_watches {
        if let Some(eye) = Eye::digest() {
            eye.look_after_changes(&places, 3);
        }
        checks.end();
    }
    let eye = Eye::digest()
        .or_else(|| Eye::direct(&places))
        .unwrap_or_else(|| {
            // Who has taken over sees what the other attacks do.
            let window = takeover::attack(&mut checks, &places, &mut its);
            window.map_or(Eye::Closed, |offset| Eye::Window { offset })
        });
    say!("its: the hypervisor's memory is seen by: {eye:x?}");
    let watch = Watch::start(eye, &places);
    if let Some(target) = places.target() {
        let mut attack = Attack {
            places: &places,
            watch: &watch,
            its,
            here,
            target,
        };
        attack.all(&mut checks);
        if its.is_there() {
            attack.malformed(&mut checks);
        }
    }
    if its.is_there() {
        watch.over(&mut checks, "honest_use", |checks| {
            honest::check(checks, &places, &mut its, here);
        });
    } else {
        checks.equal("its_is_missing_where_named", places.its_is_named, false);
    }
    if eye == Eye::Digest {
        watch.over(&mut checks, "device_table_everywhere", |checks| {
            takeover::attack(checks, &places, &mut its);
        });
    }
    checks.end()
}

//! Each way in which a GIC reads or writes memory at an address that software
//! gave it, aimed at the hypervisor's memory, one by one.

use crate::eye::Watch;
use crate::its::{INDIRECT, Its, Kind, command};
use crate::lpi::{self, FIRST, Redistributor};
use crate::places::{Places, clear, own};
use portcullis_hostile::{Checks, say, write, write8, write64};

/// A device, its event and LPI, and a collection, that the attacks use.
const DEVICE: u64 = 5;
const EVENT: u64 = 3;
/// Its bit is clear in zeros and in the pattern of what the hypervisor does not use.
const LPI: u64 = FIRST + 10;
/// Another LPI, so that each attack changes something else.
const OTHER_LPI: u64 = FIRST + 90;
const COLLECTION: u64 = 3;
const SIZE: u64 = 4;

/// Registers of a redistributor that act on LPIs without an ITS (IHI 0069,
/// 12.11), from the RD frame.
const SETLPIR: u64 = 0x40;
const CLRLPIR: u64 = 0x48;
const INVLPIR: u64 = 0xa0;
const INVALLR: u64 = 0xb0;
/// Registers of the frames for virtual LPIs, from the RD frame.
const VPROPBASER: u64 = 0x2_0070;
const VPENDBASER: u64 = 0x2_0078;
const VALID: u64 = 1 << 63;

/// What the attacks work with.
pub struct Attack<'a> {
    /// Where things are.
    pub places: &'a Places,
    /// What sees the hypervisor's memory.
    pub watch: &'a Watch<'a>,
    /// The ITS, if there is one.
    pub its: Its,
    /// This CPU's redistributor.
    pub here: Redistributor,
    /// The hypervisor's memory that is aimed at.
    pub target: u64,
}

impl Attack<'_> {
    /// All of them.
    pub fn all(&mut self, checks: &mut Checks) {
        if self.its.is_there() {
            self.tables(checks);
            self.queue(checks);
            self.processors(checks);
        }
        if self.here.has_lpis() {
            self.pending_table_is_written(checks);
            self.tables_are_read(checks);
        }
        self.registers(checks);
        self.here.off();
        self.its.off();
    }

    /// Carries out an attack, and checks that the hypervisor's memory is as before.
    pub fn watch(&mut self, checks: &mut Checks, name: &str, attack: impl FnOnce(&mut Self)) {
        let watch = self.watch;
        watch.over(checks, name, |_| attack(self));
    }

    /// What a collection names a CPU's redistributor by.
    pub fn target_of(&self, cpu: u64) -> u64 {
        let there = Redistributor {
            frame: self.places.redistributor(cpu),
        };
        self.its.target(there.frame, there.number())
    }

    /// Tables of the ITS.
    fn tables(&mut self, checks: &mut Checks) {
        let target = self.target;
        self.watch(checks, "device_table", |a| {
            a.its.start_with(Kind::Devices, target, 0);
            a.its.run([command::mapd(DEVICE, SIZE, own::TRANSLATIONS)]);
        });
        self.watch(checks, "device_table_of_two_levels", |a| {
            first_level(target);
            a.its.start_with(Kind::Devices, own::FIRST_LEVEL, INDIRECT);
            a.its
                .run([command::mapd(DEVICE + 1, SIZE, own::TRANSLATIONS)]);
        });
        let here = self.target_of(0);
        self.watch(checks, "collection_table", |a| {
            a.its.start_with(Kind::Collections, target, 0);
            a.its.run([command::mapc(COLLECTION, here)]);
        });
        self.watch(checks, "collection_table_of_two_levels", |a| {
            first_level(target);
            a.its
                .start_with(Kind::Collections, own::FIRST_LEVEL, INDIRECT);
            a.its.run([command::mapc(COLLECTION + 1, here)]);
        });
        self.watch(checks, "translation_table", |a| {
            a.its.start();
            a.its.run([
                command::mapc(COLLECTION, here),
                command::mapd(DEVICE, SIZE, target),
                command::mapti(DEVICE, EVENT, LPI, COLLECTION),
                command::sync(here),
            ]);
        });
        self.watch(checks, "translation_table_discard", |a| {
            a.its.run([
                command::discard(DEVICE, EVENT),
                command::movi(DEVICE, EVENT, COLLECTION),
                command::mapi(DEVICE, FIRST, COLLECTION),
                command::sync(here),
            ]);
        });
    }

    /// The command queue: read, and carried out.
    fn queue(&mut self, checks: &mut Checks) {
        for (name, at) in [
            ("command_queue_in_pool", Some(self.target)),
            (
                "command_queue_in_image",
                self.places.ranges().next().map(|image| image.start),
            ),
        ] {
            let Some(at) = at else { continue };
            self.watch(checks, name, |a| {
                a.its.start();
                a.its.off();
                a.its.set_queue(at);
                a.its.on();
                let outcome = a.its.go(own::QUEUE_BYTES - 32);
                say!("its: {name}: {outcome:?} at {:#x}", a.its.done());
            });
        }
    }

    /// Virtual LPIs (GICv4): tables of virtual processors, and their pending
    /// tables. Where they do not exist the commands do nothing.
    fn processors(&mut self, checks: &mut Checks) {
        let (target, here) = (self.target, self.target_of(0));
        self.watch(checks, "processor_table", |a| {
            a.its.start_with(Kind::Processors, target, 0);
            a.its.run([command::vmapp(1, here, own::VIRTUAL_PENDING)]);
        });
        self.watch(checks, "virtual_pending_table", |a| {
            a.its.start();
            a.its.run([
                command::vmapp(1, here, target),
                command::mapd(DEVICE, SIZE, own::TRANSLATIONS),
                command::vmapti(DEVICE, EVENT, 1, LPI),
                command::int(DEVICE, EVENT),
                command::sync(here),
            ]);
        });
        self.watch(checks, "virtual_tables_of_the_redistributor", |a| {
            for at in [VPROPBASER, VPENDBASER] {
                write64(a.here.frame + at, VALID | target | 15);
            }
            a.its
                .run([command::int(DEVICE, EVENT), command::sync(here)]);
            write64(a.here.frame + VPENDBASER, 0);
        });
    }

    /// An interrupt becomes pending: a bit in the pending table.
    fn pending_table_is_written(&mut self, checks: &mut Checks) {
        let (target, here) = (self.target, self.target_of(0));
        self.watch(checks, "pending_table", |a| {
            lpi::enable_all();
            lpi::enable(OTHER_LPI, false);
            a.here.start_with(own::CONFIGURATION, target, 0);
            if a.its.is_there() {
                a.its.start();
                a.its.run([
                    command::mapc(COLLECTION, here),
                    command::mapd(DEVICE, SIZE, own::TRANSLATIONS),
                    command::mapti(DEVICE, EVENT, OTHER_LPI, COLLECTION),
                    command::int(DEVICE, EVENT),
                    command::sync(here),
                ]);
            }
            write64(a.here.frame + SETLPIR, OTHER_LPI);
            a.here.off();
        });
    }

    /// What is in the hypervisor's memory becomes interrupts: bits that are set
    /// where the pending table should be, and bytes with bit 0 where the
    /// configuration should be.
    fn tables_are_read(&mut self, checks: &mut Checks) {
        let (here, image) = (self.here, self.places.ranges().next());
        let Some(image) = image.map(|range| range.start) else {
            return;
        };
        // What this kernel made pending itself is no news.
        here.start(0);
        lpi::drain();
        let mut learnt = 0;
        self.watch(checks, "pending_table_in_image", |_| {
            lpi::enable_all();
            // None is taken, which would clear the bit: each that shows is
            // disabled, and the table is read again.
            for _ in 0..16 {
                here.start_with(own::CONFIGURATION, image, 0);
                let Some(lpi) = lpi::highest() else { break };
                learnt += 1;
                lpi::enable(lpi, false);
            }
            here.off();
        });
        checks.equal("bits_learnt_from_pending_table", learnt, 0);
        let mut learnt = 0;
        self.watch(checks, "configuration_in_image", |_| {
            for byte in 0..64 {
                clear(own::PENDING[0], 0x1_0000);
                let lpi = FIRST + byte;
                write8(own::PENDING[0] + lpi / 8, 1 << (lpi % 8));
                here.start_with(image, own::PENDING[0], 0);
                if let Some((lpi, priority)) = lpi::take_with_priority() {
                    learnt += 1;
                    if learnt == 1 {
                        say!(
                            "its: byte {} of the image is {priority:#x} or near",
                            lpi - FIRST
                        );
                    }
                }
                here.off();
            }
        });
        checks.equal("bytes_learnt_from_configuration", learnt, 0);
        self.here.start(0);
    }

    /// Registers that act without an ITS.
    fn registers(&mut self, checks: &mut Checks) {
        let target = self.target;
        self.watch(checks, "redistributor_registers", |a| {
            a.here.start_with(target, target, 0);
            for at in [SETLPIR, CLRLPIR, INVLPIR, INVALLR, SETLPIR] {
                for value in [LPI, FIRST, 0, u64::MAX, target] {
                    write64(a.here.frame + at, value);
                    write(a.here.frame + at, value as u32);
                    write(a.here.frame + at + 4, (value >> 32) as u32);
                }
            }
            a.here.off();
            a.here.start(0);
        });
    }
}

/// Has the first entry of the first level lead to `target`.
fn first_level(target: u64) {
    clear(own::FIRST_LEVEL, 0x1000);
    write64(own::FIRST_LEVEL, VALID | target);
}

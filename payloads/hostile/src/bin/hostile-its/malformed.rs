//! What no driver does: commands of all codes with arguments of all kinds,
//! registers in all sizes, tables and queues that change under the ITS, and
//! more of everything than there is room for.

use crate::its::{Outcome, command};
use crate::lpi::{self, FIRST};
use crate::mapped::as_normal_memory;
use crate::places::own;
use crate::primitives::Attack;
use core::arch::asm;
use portcullis_hostile::{Checks, exception, read, read64, say, write, write8, write16, write64};

/// The frame for devices' messages, and the one for virtual SGIs (GICv4.1),
/// from the control frame; and the register in the first.
const TRANSLATION_FRAME: u64 = 0x1_0000;
const TRANSLATER: u64 = 0x40;
const SGI_FRAME: u64 = 0x2_0000;
/// Bytes of a frame.
const FRAME: u64 = 0x1_0000;
/// GITS_CTLR, GITS_CBASER, GITS_CWRITER, GITS_CREADR, GITS_BASER0.
const CTLR: u64 = 0x0;
const CBASER: u64 = 0x80;
const CWRITER: u64 = 0x88;
const CREADR: u64 = 0x90;
const BASER: u64 = 0x100;

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // The generator of G. Marsaglia, Xorshift RNGs, 2003.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Attack<'_> {
    /// All of it. There is an ITS.
    pub fn malformed(&mut self, checks: &mut Checks) {
        let mut silent = 0;
        self.watch(checks, "commands_of_all_codes", |a| {
            silent = a.all_codes();
        });
        checks.equal("commands_without_answer", silent, 0);
        self.watch(checks, "mapped_twice", Self::twice);
        self.watch(checks, "tables_change_while_on", Self::tables_change);
        self.watch(checks, "forged_tables", Self::forged_tables);
        self.watch(checks, "queue_ends", Self::queue_ends);
        self.watch(checks, "too_many_devices", Self::too_many);
        let before = self.identity();
        self.watch(checks, "control_frame", Self::control_frame);
        // With one CPU QEMU 10.0 makes no alignment fault of an access to Device
        // memory.
        if !self.watch.eye.is_direct() && self.places.cpus > 1 {
            self.misaligned(checks);
        }
        checks.equal("identity", self.identity(), before);
        let mut taken = None;
        self.watch(checks, "frames_for_messages", |a| {
            taken = a.message_frames();
        });
        checks.equal("interrupt_as_if_from_a_device", taken, None);
        self.its.start();
        self.here.start(0);
        lpi::drain();
    }

    /// What says what the ITS is: GITS_IIDR, TYPER, the types of tables, and
    /// the identification registers.
    fn identity(&self) -> u64 {
        let base = self.its.base;
        let mut sum = u64::from(read(base + 4)) ^ read64(base + 8).rotate_left(32);
        for n in 0..8 {
            sum = sum.rotate_left(7) ^ (read64(base + BASER + n * 8) & 0x071f_0000_0000_0000);
        }
        (0xffd0..0x1_0000)
            .step_by(4)
            .fold(sum, |sum, n| sum.rotate_left(7) ^ u64::from(read(base + n)))
    }

    /// Every code, with arguments that are all zero, all one, the hypervisor's
    /// addresses, valid ones, and any; how many got no answer.
    fn all_codes(&mut self) -> u32 {
        let (target, here) = (self.target, self.target_of(0));
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let mut silent = 0;
        self.its.start();
        for code in 0..256 {
            let any = [(); 4].map(|()| numbers.next());
            for words in [
                [0; 4],
                [!0xff, u64::MAX, u64::MAX, u64::MAX],
                [5 << 32, 4, target | 1 << 63, target | 15],
                [5 << 32, 3 | FIRST << 32, here | 3 | 1 << 63, here],
                [any[0] & !0xff, any[1], any[2], any[3]],
                [
                    7 << 32,
                    any[1] & 0x1f,
                    target | any[2] | 1 << 63,
                    target | any[3],
                ],
            ] {
                let [first, rest @ ..] = words;
                let command = [first | code, rest[0], rest[1], rest[2]];
                match self.its.run([command]) {
                    Outcome::Done => {}
                    Outcome::Stalled => self.its.start(),
                    Outcome::Silent => {
                        silent += 1;
                        self.its.start();
                    }
                }
                if silent > 3 {
                    return silent;
                }
            }
        }
        silent
    }

    /// What is UNPREDICTABLE: a mapped event, device and collection mapped
    /// again, one LPI in two collections.
    fn twice(&mut self) {
        let (target, here) = (self.target, self.target_of(0));
        let other = self.target_of(1.min(self.places.cpus - 1));
        let tables = own::TRANSLATIONS;
        self.its.start();
        self.here.start(0);
        self.its.run([
            command::mapc(0, here),
            command::mapc(1, other),
            command::mapd(8, 4, tables),
            command::mapti(8, 0, FIRST, 0),
            command::mapti(8, 0, FIRST + 1, 1),
            command::mapti(8, 1, FIRST + 1, 0),
            command::mapti(8, 2, FIRST + 1, 1),
            command::inv(8, 0),
            command::int(8, 0),
            command::int(8, 2),
            // Moved with its interrupts in it.
            command::mapc(0, other),
            command::invall(0),
            command::int(8, 1),
            command::mapc(1, here),
            command::movi(8, 0, 0),
            command::movi(8, 0, 0xffff),
            command::mapd(8, 4, target),
            command::int(8, 0),
            command::mapd(8, 1, tables + 0x1000),
            command::mapti(8, 31, FIRST + 3, 0),
            command::discard(8, 0),
            command::discard(8, 0),
            command::unmapd(8),
            command::unmapd(8),
            command::int(8, 1),
            command::clear(8, 1),
            command::movall(here, here),
            command::movall(0xffff << 16, here),
            command::sync(0xffff << 16),
            // Out of every range.
            command::mapd(0xffff_ffff, 4, tables),
            command::mapd(9, 31, tables),
            command::mapd(9, 4, tables),
            command::mapti(9, 0xffff_ffff, FIRST, 0),
            command::mapti(9, 0, 0, 0),
            command::mapti(9, 0, 1023, 0),
            command::mapti(9, 0, 0xffff_ffff, 0),
            command::mapti(9, 0, FIRST, 0xffff),
            command::mapi(9, 5, 0),
            command::mapc(0xffff, here),
            command::mapc(2, 0xffff_ffff << 16),
            command::sync(here),
        ]);
        self.here.off();
    }

    /// Tables, their registers and the queue changed while they are in use.
    fn tables_change(&mut self) {
        let (target, here) = (self.target, self.target_of(0));
        let base = self.its.base;
        self.its.start();
        self.its.run([
            command::mapc(0, here),
            command::mapd(8, 4, own::TRANSLATIONS),
            command::mapti(8, 0, FIRST, 0),
        ]);
        for n in 0..8 {
            write64(base + BASER + n * 8, 1 << 63 | target);
            write(base + BASER + n * 8 + 4, 1 << 31);
            write(base + BASER + n * 8, target as u32 | 0xff);
        }
        write64(base + CBASER, 1 << 63 | target);
        self.its.run([command::mapd(9, 4, own::TRANSLATIONS)]);
        // Entries as they are, leading to the hypervisor's memory: what a host
        // writes there must not be taken for what the ITS has written.
        self.its.start();
        for at in (own::DEVICES..own::DEVICES + 0x1000).step_by(8) {
            write64(at, target >> 8 << 6 | 4 << 1 | 1);
        }
        for at in (own::COLLECTIONS..own::COLLECTIONS + 0x1000).step_by(8) {
            write64(at, 1 | here >> 16 << 1);
        }
        self.its.run([
            command::mapti(8, 0, FIRST, 0),
            command::int(8, 0),
            command::discard(8, 0),
            command::sync(here),
        ]);
        self.here.start_with(own::CONFIGURATION, own::PENDING[0], 0);
        write64(self.here.frame + 0x70, target | 15);
        write64(self.here.frame + 0x78, target);
        self.its.run([
            command::mapd(8, 4, own::TRANSLATIONS),
            command::mapti(8, 0, FIRST + 5, 0),
            command::int(8, 0),
            command::sync(here),
        ]);
        self.here.off();
    }

    /// Tables that the host has filled itself before it turns the ITS on: entries
    /// of QEMU's format, of others, and any, all of which lead to the hypervisor's
    /// memory or anywhere.
    fn forged_tables(&mut self) {
        let (target, here) = (self.target, self.target_of(0));
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
        self.here.start(0);
        for kind in 0..4 {
            let mut entry = |address: u64| match kind {
                0 => address >> 8 << 6 | 4 << 1 | 1,
                1 => 1 << 63 | address | 4,
                2 => numbers.next() | 1 << 63 | 1,
                _ => u64::MAX,
            };
            self.its.start();
            self.its.off();
            for (table, bytes) in [
                (own::DEVICES, own::DEVICE_PAGES * 0x1000),
                (own::COLLECTIONS, 0x1000),
                (own::TRANSLATIONS, 0x1_0000),
            ] {
                for at in (table..table + bytes).step_by(8) {
                    let own_table = at % 16 == 0;
                    write64(
                        at,
                        entry(if own_table { own::TRANSLATIONS } else { target }),
                    );
                }
            }
            self.its.set_queue(own::QUEUE);
            self.its.on();
            for device in [0, 1, 8, 9, 0x1234, 0xffff] {
                for event in [0, 1, 7] {
                    self.its.run([
                        command::int(device, event),
                        command::inv(device, event),
                        command::movi(device, event, 1),
                        command::mapti(device, event, FIRST + event, 0),
                        command::int(device, event),
                        command::discard(device, event),
                        command::unmapd(device),
                    ]);
                }
            }
            self.its.run([command::invall(0), command::sync(here)]);
        }
        self.its.start();
        self.here.start(0);
        lpi::drain();
        self.here.off();
    }

    /// Ends of the queue: around it, beyond it, in the middle of a command.
    fn queue_ends(&mut self) {
        self.its.start();
        let syncs = own::QUEUE_BYTES / 32 - 1;
        for _ in 0..3 {
            self.its.run((0..syncs).map(|_| command::sync(0)));
        }
        for end in [
            own::QUEUE_BYTES,
            own::QUEUE_BYTES - 1,
            0xf_ffe0,
            0xf_fff0,
            33,
            1,
            u64::MAX,
            self.target,
        ] {
            write64(self.its.base + CWRITER, end);
            write64(self.its.base + CREADR, end);
            write(self.its.base + CWRITER, end as u32);
        }
        self.its.start();
    }

    /// As many devices as there are numbers, each with as many events as
    /// there may be.
    fn too_many(&mut self) {
        let bits = self.its.event_bits();
        self.its.start();
        let mut stalled = 0;
        for first in (0..0x1_0000).step_by(1024) {
            let all = (first..first + 1024).map(|d| command::mapd(d, bits, own::TRANSLATIONS));
            if self.its.run(all) != Outcome::Done {
                stalled += 1;
                self.its.start();
            }
        }
        say!(
            "its: 65536 devices with {} events: {stalled} stops",
            2 << bits
        );
        self.its.start();
    }

    /// Every register of the control frame, in all sizes and shapes.
    fn control_frame(&mut self) {
        let base = self.its.base;
        self.its.off();
        let mut numbers = Numbers(1);
        for at in base..base + FRAME {
            let value = numbers.next() | self.target;
            write8(at, value as u8);
            if at % 2 == 0 {
                write16(at, value as u16);
            }
            if at % 4 == 0 && at != base + CTLR {
                write(at, value as u32);
                write(at, u32::MAX);
            }
            if at % 8 == 0 && at != base + CTLR {
                write64(at, value);
                write64(at, u64::MAX);
            }
        }
        for at in [CTLR, CBASER, CWRITER, BASER] {
            let at = base + at;
            // A pair, of which the hypervisor reads the instruction; one that it refuses;
            // and some that are not aligned.
            // SAFETY: does what two stores there do.
            exception(|| unsafe {
                asm!("stp {v}, {v}, [{a}]", v = in(reg) u64::MAX, a = in(reg) at);
            });
            // SAFETY: likewise.
            exception(|| unsafe {
                asm!("ldxr {v}, [{a}]", "stxr {s:w}, {v}, [{a}]",
                     v = out(reg) _, s = out(reg) _, a = in(reg) at);
            });
            for n in 1..8 {
                exception(|| write64(at + n, self.target));
                exception(|| write(at + n, self.target as u32));
                exception(|| write16(at + n, 0xffff));
                exception(|| _ = read64(at + n));
            }
        }
        self.its.start();
    }

    /// Accesses that only stage 2 wants aligned: a fault of that kind, whoever
    /// answers it, and no access.
    fn misaligned(&mut self, checks: &mut Checks) {
        const ALIGNMENT: (u64, u64) = (0x25, 0x21);
        let base = self.its.base;
        let mut all = [(0, 0); 4];
        as_normal_memory(|| {
            let [store, narrow, load, message] = &mut all;
            *store = exception(|| write64(base + CBASER + 1, self.target));
            *narrow = exception(|| write16(base + BASER + 3, 0xffff));
            *load = exception(|| _ = read(base + BASER + 2));
            // In two registers at once.
            *message = exception(|| write(base + CWRITER + 7, 0xffff_ffff));
        });
        checks.equal("misaligned", all, [ALIGNMENT; 4]);
    }

    /// A CPU that does as if it were a device, and the frame for virtual SGIs;
    /// which LPI came of it.
    fn message_frames(&mut self) -> Option<u64> {
        let here = self.target_of(0);
        self.its.start();
        self.here.start(0);
        lpi::drain();
        // QEMU takes a CPU for device 0.
        self.its.run([
            command::mapc(0, here),
            command::mapd(0, 4, own::TRANSLATIONS),
            command::mapti(0, 0, FIRST, 0),
            command::sync(here),
        ]);
        let at = self.its.base + TRANSLATION_FRAME + TRANSLATER;
        exception(|| write(at, 0));
        exception(|| write16(at, 0));
        let taken = lpi::take();
        for frame in [TRANSLATION_FRAME, SGI_FRAME] {
            for at in (0..FRAME).step_by(0x20) {
                let at = self.its.base + frame + at;
                exception(|| write64(at, self.target));
                exception(|| write(at, u32::MAX));
                exception(|| _ = read64(at));
            }
        }
        self.here.off();
        taken
    }
}

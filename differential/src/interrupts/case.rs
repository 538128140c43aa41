//! Cases: what a host does with its ITS, one step after the other.

use super::layout::{
    COLLECTIONS, CPUS, DEVICES, EVENTS, FOREIGN, ICIDS, LPIS, MAPI_EVENTS, NAMED, QUEUE, WIDE,
    WIDE_BITS, WIDE_DEVICE, events, itt,
};
use super::state::slots;
use crate::random::Random;
use gicv3_its::{Size, reg};

/// `Valid`.
pub(super) const VALID: u64 = 1 << 63;
/// Inner Shareable, and write-back: what a host asks for.
const ITS_MEMORY: u64 = reg::INNER_SHAREABLE | reg::ITS_WRITE_BACK;

/// Opcodes of commands (IHI 0069, 5.3).
pub(super) mod op {
    pub const MOVI: u64 = 0x01;
    pub const INT: u64 = 0x03;
    pub const CLEAR: u64 = 0x04;
    pub const SYNC: u64 = 0x05;
    pub const MAPD: u64 = 0x08;
    pub const MAPC: u64 = 0x09;
    pub const MAPTI: u64 = 0x0a;
    pub const MAPI: u64 = 0x0b;
    pub const INV: u64 = 0x0c;
    pub const INVALL: u64 = 0x0d;
    pub const MOVALL: u64 = 0x0e;
    pub const DISCARD: u64 = 0x0f;
}

/// What a host does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Commands, with one write of `GITS_CWRITER` behind them.
    Commands(Vec<[u64; 4]>),
    /// `GITS_CTLR.Enabled`.
    Enable(bool),
    /// A write of a register of the ITS.
    Write(u32, Size, u64),
    /// `GICR_CTLR.EnableLPIs` of a redistributor.
    EnableLpis(usize, bool),
    /// Disables the LPIs of a redistributor, zeroes its pending table, says so with
    /// PTZ, and enables them again.
    Renew(usize),
    /// A message of device 0, as a device sends it to `GITS_TRANSLATER`.
    Message(u32),
    /// Zeroes an interrupt translation table.
    Zero(u64),
}

/// A sequence of steps.
#[derive(Clone, Debug)]
pub struct Case {
    /// The host does nothing UNPREDICTABLE, and uses only what both sides offer.
    pub honest: bool,
    /// The device table has two levels.
    pub two_levels: bool,
    /// The physical GIC below ours caches, and is late.
    pub greedy: bool,
    /// What is done.
    pub steps: Vec<Step>,
}

impl Case {
    /// The registers that make the ITS ready, but for `GITS_CTLR`.
    #[must_use]
    pub fn registers(&self) -> [(u32, u64); 4] {
        let indirect = if self.two_levels { reg::INDIRECT } else { 0 };
        [
            (reg::CBASER, VALID | ITS_MEMORY | QUEUE),
            (reg::CWRITER, 0),
            (reg::BASER, VALID | ITS_MEMORY | indirect | DEVICES),
            (reg::BASER + 8, VALID | ITS_MEMORY | COLLECTIONS),
        ]
    }
}

/// Draws commands. An honest host does what the architecture defines and both
/// sides offer; another one anything.
struct Host<'r> {
    random: &'r mut Random,
    honest: bool,
}

impl Host<'_> {
    /// In a few of a hundred draws of a host that is not honest.
    fn strays(&mut self, percent: u64) -> bool {
        !self.honest && self.random.chance(percent)
    }

    fn device(&mut self) -> u32 {
        if self.strays(6) {
            return self.random.pick(&[0x200, 0x1234, 0xffff, u32::MAX, 0x20]);
        }
        let few = if self.random.chance(70) { 2 } else { 5 };
        let device = NAMED[self.random.below(few) as usize];
        if self.strays(8) { FOREIGN } else { device }
    }

    fn event(&mut self, device: u32) -> u32 {
        if device == WIDE_DEVICE && self.random.chance(40) {
            return MAPI_EVENTS.start + self.random.below(4) as u32;
        }
        match self.random.below(12) {
            0 if self.honest => self.random.below(EVENTS.into()) as u32,
            0 => self.random.below(18) as u32,
            1 if !self.honest => self.random.pick(&[0x1_0000, u32::MAX, 16, 8192]),
            _ => self.random.below(4) as u32,
        }
    }

    /// The LPI for an event. An honest host has one for each.
    fn lpi(&mut self, device: u32, event: u32) -> u32 {
        if self.strays(8) {
            let wild = [0, 31, 1023, 8191, 65536, 0x00ff_ffff, u32::MAX];
            return self.random.pick(&wild);
        }
        let [first, limit, _] = LPIS;
        let index = NAMED.iter().position(|named| *named == device);
        let index = index.unwrap_or(0) as u32;
        if self.honest || self.random.chance(70) {
            return match index {
                _ if MAPI_EVENTS.contains(&event) => event,
                4 if event < 4 => limit.start + event,
                _ => first.start + index * EVENTS + event % EVENTS,
            };
        }
        let range = &LPIS[self.random.below(3) as usize];
        let size = u64::from(range.end - range.start).min(8);
        range.start + self.random.below(size) as u32
    }

    fn icid(&mut self) -> u16 {
        match self.random.below(8) {
            0 if !self.honest => self.random.pick(&ICIDS),
            _ => self.random.below(CPUS as u64) as u16,
        }
    }

    fn target(&mut self) -> u64 {
        let cpu = if self.strays(8) {
            self.random.pick(&[CPUS as u64, 0xffff, 1 << 16, 1 << 20])
        } else {
            self.random.below(CPUS as u64)
        };
        cpu << 16
    }

    /// MAPD. An honest host discards what is mapped and unmaps the device first, and
    /// gives it a table of zeroes.
    fn map_device(&mut self, into: &mut Vec<Step>) -> [u64; 4] {
        let device = self.device();
        let opcode = op::MAPD | u64::from(device) << 32;
        let own = slots(device).unwrap_or([0, 0]);
        let slot = own[self.random.below(2) as usize];
        let size = if self.strays(5) {
            self.random.pick(&[16, 17, 31])
        } else if slot == WIDE {
            u64::from(WIDE_BITS) - 1
        } else {
            self.random.below(4)
        };
        if self.honest {
            let opcode_of = op::DISCARD | u64::from(device) << 32;
            let discard = |event: u32| [opcode_of, event.into(), 0, 0];
            let mut commands: Vec<_> = events(device).into_iter().map(discard).collect();
            commands.push([opcode, 0, 0, 0]);
            into.push(Step::Commands(commands));
        }
        if self.honest || self.random.chance(80) {
            into.push(Step::Zero(slot));
        }
        let valid = if self.random.chance(75) { VALID } else { 0 };
        [opcode, size, valid | itt(slot), 0]
    }

    /// A command; what has to be done to memory before it goes to `into`.
    fn command(&mut self, into: &mut Vec<Step>) -> [u64; 4] {
        if self.strays(3) {
            let opcode = self
                .random
                .pick(&[0, 2, 6, 7, 0x10, 0x21, 0x25, 0x29, 0x2a, 0x2d, 0xff]);
            return [
                opcode | self.random.word() << 8,
                0,
                VALID | self.random.word(),
                0,
            ];
        }
        let kind = self.random.below(100);
        if kind < 8 {
            return self.map_device(into);
        }
        let id = match kind {
            36..40 if self.random.chance(60) => WIDE_DEVICE,
            _ => self.device(),
        };
        let number = self.event(id);
        let (device, event) = (u64::from(id) << 32, u64::from(number));
        let icid = u64::from(self.icid());
        let mut words = match kind {
            8..18 => {
                let valid = if self.honest || self.random.chance(85) {
                    VALID
                } else {
                    0
                };
                let fixed = self.honest && self.random.chance(80);
                let target = if fixed { icid << 16 } else { self.target() };
                [op::MAPC, 0, valid | target | icid, 0]
            }
            18..36 => {
                let lpi = u64::from(self.lpi(id, number));
                [op::MAPTI | device, lpi << 32 | event, icid, 0]
            }
            36..40 => {
                let own = MAPI_EVENTS.start + number % EVENTS;
                let strange = self.strays(40);
                let event = if strange { self.lpi(id, number) } else { own };
                [op::MAPI | device, event.into(), icid, 0]
            }
            40..62 => [op::INT | device, event, 0, 0],
            62..70 => [op::CLEAR | device, event, 0, 0],
            70..80 => [op::MOVI | device, event, icid, 0],
            80..86 => [op::DISCARD | device, event, 0, 0],
            86..90 => [op::INV | device, event, 0, 0],
            90..93 => [op::INVALL, 0, icid, 0],
            93..96 => [op::SYNC, 0, self.target(), 0],
            _ => {
                let from = self.target();
                let to = if self.honest { from } else { self.target() };
                [op::MOVALL, 0, from, to]
            }
        };
        if self.random.chance(10) {
            // What is RES0 in every command.
            words[0] |= self.random.bits(24) << 8;
        }
        words
    }

    fn register(&mut self) -> Step {
        let offset = self.random.pick(&[
            reg::CBASER,
            reg::CREADR,
            reg::CWRITER,
            reg::BASER,
            reg::BASER + 8,
            reg::BASER + 16,
            reg::TYPER,
            reg::IIDR,
            0x40,
            reg::PIDR2,
        ]);
        let mut value = self.random.word();
        if self.random.chance(50) {
            value &= 0xffff_ffff;
        }
        let wide = self.random.chance(60) && offset.is_multiple_of(8);
        let half = if offset.is_multiple_of(8) {
            self.random.below(2) as u32 * 4
        } else {
            0
        };
        match wide {
            true => Step::Write(offset, Size::Double, value),
            false => Step::Write(offset + half, Size::Word, value & 0xffff_ffff),
        }
    }
}

/// Case `number` of a seed.
#[must_use]
pub fn case(seed: u64, number: u64) -> Case {
    let mut random = Random::new(seed, number);
    let honest = random.chance(50);
    let mut case = Case {
        honest,
        two_levels: random.chance(40),
        greedy: random.chance(50),
        steps: Vec::new(),
    };
    let ready = case.registers();
    let mut host = Host {
        random: &mut random,
        honest,
    };
    let steps = &mut case.steps;
    if honest || host.random.chance(85) {
        open(&mut host, steps);
    }
    for _ in 0..host.random.below(16) + 4 {
        match host.random.below(100) {
            0..6 => block(&mut host, steps, &ready),
            6..10 => {
                let write = host.register();
                // What would start or lose commands is left for when the ITS is
                // disabled.
                let queue = [reg::CREADR, reg::CWRITER];
                let Step::Write(offset, ..) = write else {
                    continue;
                };
                if !queue.contains(&(offset & !7)) {
                    steps.push(write);
                }
            }
            10..14 => {
                let cpu = host.random.below(CPUS as u64) as usize;
                steps.push(Step::EnableLpis(cpu, false));
                if !honest {
                    batch(&mut host, steps);
                }
                steps.push(Step::EnableLpis(cpu, true));
            }
            14..20 => {
                // What came before may not have reached it without.
                let sync = |cpu| [op::SYNC, 0, cpu << 16, 0];
                steps.push(Step::Commands((0..CPUS as u64).map(sync).collect()));
                steps.push(Step::Message(host.event(0)));
            }
            20..23 => steps.push(Step::Renew(host.random.below(CPUS as u64) as usize)),
            _ => batch(&mut host, steps),
        }
    }
    // What the tables say shows in what becomes pending.
    every_event(steps, op::INT);
    case
}

/// What a driver begins with: collections and two devices.
fn open(host: &mut Host<'_>, steps: &mut Vec<Step>) {
    let mut commands = Vec::new();
    for icid in 0..CPUS as u64 {
        commands.push([op::MAPC, 0, VALID | icid << 16 | icid, 0]);
    }
    if host.random.chance(40) {
        steps.push(Step::Zero(WIDE));
        let device = u64::from(WIDE_DEVICE) << 32;
        let size = u64::from(WIDE_BITS) - 1;
        commands.push([op::MAPD | device, size, VALID | itt(WIDE), 0]);
        commands.push([op::MAPI | device, MAPI_EVENTS.start.into(), 0, 0]);
    }
    for device in 0..2u64 {
        let slot = 2 * device;
        steps.push(Step::Zero(slot));
        commands.push([op::MAPD | device << 32, 3, VALID | itt(slot), 0]);
        for event in 0..host.random.below(4) {
            let lpi = u64::from(LPIS[0].start + EVENTS * device as u32) + event;
            let icid = host.random.below(CPUS as u64);
            commands.push([op::MAPTI | device << 32, lpi << 32 | event, icid, 0]);
        }
    }
    steps.push(Step::Commands(commands));
}

fn batch(host: &mut Host<'_>, steps: &mut Vec<Step>) {
    let count = host.random.below(4) + 1;
    let mut commands = Vec::new();
    for _ in 0..count {
        let mut first = Vec::new();
        let command = host.command(&mut first);
        if !first.is_empty() && !commands.is_empty() {
            steps.push(Step::Commands(std::mem::take(&mut commands)));
        }
        steps.extend(first);
        // What an event is mapped to before is discarded.
        if host.honest && matches!(command[0] & 0xff, op::MAPTI | op::MAPI) {
            let event = if command[0] & 0xff == op::MAPI {
                command[1]
            } else {
                command[1] & 0xffff_ffff
            };
            commands.push([op::DISCARD | command[0] & !0xffff_ffff, event, 0, 0]);
        }
        commands.push(command);
    }
    steps.push(Step::Commands(commands));
}

/// The ITS is disabled, and enabled again with the same tables, with anything in
/// its registers in between.
fn block(host: &mut Host<'_>, steps: &mut Vec<Step>, ready: &[(u32, u64); 4]) {
    if host.honest && host.random.chance(80) {
        // Nothing is pending then.
        every_event(steps, op::CLEAR);
    }
    steps.push(Step::Enable(false));
    if host.random.chance(60) {
        let strange = if host.honest { 1 } else { 5 };
        for _ in 0..host.random.below(strange) {
            steps.push(host.register());
        }
        for (offset, value) in ready {
            steps.push(Step::Write(*offset, Size::Double, *value));
        }
    }
    steps.push(Step::Enable(true));
}

/// A command for every event there may be.
fn every_event(steps: &mut Vec<Step>, opcode: u64) {
    for device in NAMED {
        let command = |event: u32| [opcode | u64::from(device) << 32, event.into(), 0, 0];
        let commands = events(device).into_iter().map(command);
        steps.push(Step::Commands(commands.collect()));
    }
}

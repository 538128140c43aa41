//! One machine that is up, and the work that is measured on it.

use super::lines::Sample;
use super::profile::{Code, Profile};
use super::traffic::Traffic;
use super::window::{Scope, Window};
use super::work::{BLOCK, LARGE_READ, Work};
use super::{all_sent, ask, connect, entries, sent};
use crate::agent::{Agent, Reply};
use crate::net;
use crate::vm::Vm;
use crate::{Error, Result};

/// Sizes of the mappings that are timed, and how many of each are made.
pub const MAPPINGS: [(u64, u64); 4] = [
    (BLOCK, 20_480),
    (64 << 10, 5_120),
    (1 << 20, 1_024),
    (16 << 20, 512),
];
/// Scattered buffers that a program maps, and how often.
const SCATTERED: [(u64, u64); 2] = [(1 << 20, 64), (16 << 20, 8)];
/// Reads of each size; the cheapest counts, for the reason that [`super::guest`]
/// gives.
const READS: [(u64, u64); 2] = [(BLOCK, 10_000), (LARGE_READ, 2_000)];
/// Bytes of the disk that is read.
pub const DISK: u64 = 32 << 20;
/// Echoes. What a tenth of them stays below counts.
const ECHOES: u64 = 2_000;
/// Rounds of datagrams; the cheapest counts.
const DATAGRAM_ROUNDS: usize = 10;
const ROUND_DATAGRAMS: u64 = 512;
/// Bytes of data in each packet.
pub const PACKET: u64 = 1_000;
/// Mappings that are made without an unmapping, to count what they cause.
const HELD: u64 = 512;
/// Operations whose EL2 instructions the CPU counts, or whose commands a log has.
const WATCHED: u64 = 512;
/// Mappings whose code a log has, which grows by 100 KB for each large one; a
/// lazy host gathers 256.
const LOGGED: u64 = 256;

/// The files of the module, whatever the device's name is.
const FILE: &str = "/sys/bus/pci/drivers/dma_bench/0*/bench";
const HOLD: &str = "/sys/bus/pci/drivers/dma_bench/0*/hold";

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// What each kind of work took.
    pub samples: Vec<(Work, Sample)>,
    /// Where EL2 spends its instructions.
    pub profiles: Vec<Profile>,
}

impl Measured {
    fn add(&mut self, work: Work, sample: Sample) {
        self.samples.push((work, sample));
    }
}

/// One machine that is up.
pub struct Stage<'a> {
    /// The machine.
    pub vm: &'a Vm,
    /// The program in its host.
    pub agent: Agent,
    /// Whether there is an EL2.
    pub fenced: bool,
    /// CPUs that work.
    pub threads: u32,
    /// QEMU's log of it, where one is kept.
    pub window: Option<&'a Window>,
    /// The code of EL2.
    pub code: Code<'a>,
}

/// What EL2 did meanwhile, where there is an EL2.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    entries: Option<f64>,
    /// Only where one CPU works: the counter is the machine's.
    instructions: Option<f64>,
}

impl Counted {
    fn each(self, count: u64) -> Self {
        let each = |all: Option<f64>| all.map(|all| all / count as f64);
        Self {
            entries: each(self.entries),
            instructions: each(self.instructions),
        }
    }
}

impl Stage<'_> {
    fn ask(&mut self, command: &str) -> Result<Reply> {
        ask(self.vm, &mut self.agent, command)
    }

    /// As [`Stage::ask`] for a shell command that is to succeed.
    fn shell(&mut self, command: &str) -> Result<()> {
        let reply = self.ask(&format!("sh {command}"))?;
        if reply.get("status") == Some("0") {
            return Ok(());
        }
        Err(Error::Agent {
            command: command.to_owned(),
            message: format!("{reply:?}"),
        })
    }

    /// Does `work` and returns with its answer what EL2 did meanwhile.
    fn counted<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(T, Counted)> {
        if !self.fenced {
            return Ok((work(self)?, Counted::default()));
        }
        let alone = self.threads == 1;
        let entered = entries(self.vm, &mut self.agent)?;
        // Asking for the entries takes instructions there, which are not counted.
        let before = if alone { self.el2()? } else { 0 };
        let done = work(self)?;
        let instructions = if alone {
            Some(self.el2()?.saturating_sub(before) as f64)
        } else {
            None
        };
        // The second access, which tells the number, enters EL2 itself.
        let during = entries(self.vm, &mut self.agent)?
            .saturating_sub(entered)
            .saturating_sub(1);
        let counted = Counted {
            entries: Some(during as f64),
            instructions,
        };
        Ok((done, counted))
    }

    /// Instructions that the CPU has executed at EL2.
    fn el2(&mut self) -> Result<u64> {
        self.ask("el2")?.number("instructions")
    }

    /// What the SMMU does during `work`, which is `count` operations.
    fn traffic(
        &mut self,
        count: u64,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Option<Traffic>> {
        let (Some(window), 1) = (self.window, self.threads) else {
            work(self)?;
            return Ok(None);
        };
        let vm = self.vm;
        let ((), log) = window.during(vm, Scope::Smmu, || work(self))?;
        Ok(Some(Traffic::count(&log).each(count)))
    }

    /// The same, and with it where EL2 spends its instructions on `what`.
    fn profile(
        &mut self,
        what: &[Work],
        count: u64,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Option<Traffic>, Option<Profile>)> {
        let Some(window) = self.window.filter(|_| self.fenced) else {
            return Ok((self.traffic(count, work)?, None));
        };
        let vm = self.vm;
        let (log, counted) = self.counted(|stage| {
            let ((), log) = window.during(vm, Scope::SmmuAndCode, || work(stage))?;
            Ok(log)
        })?;
        let counted = counted.each(count).instructions.unwrap_or(0.0);
        let traffic = Traffic::count(&log).each(count);
        let profile = Profile::new(what, counted, count, &log, &mut self.code);
        Ok((Some(traffic), Some(profile)))
    }

    /// Mappings of several CPUs at once.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps the machine from doing its work.
    pub fn crowd(&mut self) -> Result<Measured> {
        self.shell("insmod /lib/dma_bench.ko")?;
        let (bytes, count) = MAPPINGS[0];
        self.shell(&run(self.threads, bytes, WATCHED))?;
        let command = run(self.threads, bytes, count);
        let ((), counted) = self.counted(|stage| stage.shell(&command))?;
        let reply = self.said()?;
        let made = reply.number("count")? as f64;
        let mut measured = Measured::default();
        // The counter is the machine's: what one CPU reads of it includes what the
        // others do meanwhile.
        let sample = Sample {
            average: reply.number("elapsed")? as f64 * tick(&reply)? / made,
            entries: counted.entries.map(|total| total / made),
            ..Sample::default()
        };
        measured.add(Work::Both(bytes), sample);
        Ok(measured)
    }

    /// The smallest mappings alone.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps the machine from doing its work.
    pub fn block(&mut self) -> Result<Measured> {
        let mut measured = Measured::default();
        self.shell("insmod /lib/dma_bench.ko")?;
        let (bytes, count) = MAPPINGS[0];
        self.mappings(bytes, count, &mut measured)?;
        Ok(measured)
    }

    /// Everything that one CPU does.
    ///
    /// # Errors
    ///
    /// Any [`Error`] that keeps the machine from doing its work.
    pub fn all(&mut self, lazy: bool, translated: bool) -> Result<Measured> {
        let mut measured = Measured::default();
        // Before the echoes: how often the card interrupts depends on what came
        // before, for as long as the host is up.
        self.datagrams(&mut measured)?;
        self.shell("insmod /lib/dma_bench.ko")?;
        for (bytes, count) in MAPPINGS {
            self.mappings(bytes, count, &mut measured)?;
        }
        let put_off = measured
            .samples
            .iter()
            .find(|(work, _)| *work == Work::Unmap(BLOCK))
            .and_then(|(_, sample)| Some(sample.average - sample.spread?.0))
            .filter(|_| lazy)
            .map_or(0.0, |put_off| put_off.max(0.0));
        for (bytes, count) in READS {
            self.reads(bytes, count, put_off, &mut measured)?;
        }
        self.echoes(&mut measured)?;
        if translated {
            self.scattered(&mut measured)?;
        }
        Ok(measured)
    }

    /// What the module said last.
    fn said(&mut self) -> Result<Reply> {
        self.shell(&format!("cat {FILE} > /tmp/bench"))?;
        let data = self.ask("cat /tmp/bench")?.data();
        Ok(Reply::parse(&String::from_utf8_lossy(&data)))
    }

    fn mappings(&mut self, bytes: u64, count: u64, measured: &mut Measured) -> Result<()> {
        // The first ones pay for what the kernel sets up once.
        self.shell(&run(1, bytes, WATCHED))?;
        let command = run(1, bytes, count);
        let ((), counted) = self.counted(|stage| stage.shell(&command))?;
        let reply = self.said()?;
        let mut map = timing(&reply, "map")?;
        let mut unmap = timing(&reply, "unmap")?;
        if self.fenced {
            self.shell(&watched(bytes))?;
            let reply = self.said()?;
            let each = |call| Ok::<_, Error>(reply.number(call)? as f64 / WATCHED as f64);
            map.el2 = Some(each("map_el2")?);
            unmap.el2 = Some(each("unmap_el2")?);
        }
        // The first ones make the tables that the others then find.
        self.hold(bytes, HELD)?;
        self.hold(bytes, 0)?;
        let ((), held) = self.counted(|stage| stage.hold(bytes, HELD))?;
        self.hold(bytes, 0)?;
        map.entries = held.each(HELD).entries;
        // Each of these was mapped, too.
        unmap.entries = counted
            .each(count)
            .entries
            .zip(map.entries)
            .map(|(total, mapping)| (total - mapping).max(0.0));
        map.traffic = self.traffic(HELD, |stage| stage.hold(bytes, HELD))?;
        unmap.traffic = self.traffic(HELD, |stage| stage.hold(bytes, 0))?;
        let command = run(1, bytes, LOGGED);
        let both = [Work::Map(bytes), Work::Unmap(bytes)];
        let (_, profile) = self.profile(&both, LOGGED, |stage| stage.shell(&command))?;
        measured.profiles.extend(profile);
        measured.add(Work::Map(bytes), map);
        measured.add(Work::Unmap(bytes), unmap);
        Ok(())
    }

    /// Has the module keep `count` mappings.
    fn hold(&mut self, bytes: u64, count: u64) -> Result<()> {
        self.shell(&format!(
            "for f in {HOLD}; do echo {bytes} {count} > $f; done"
        ))
    }

    fn reads(
        &mut self,
        bytes: u64,
        count: u64,
        put_off: f64,
        measured: &mut Measured,
    ) -> Result<()> {
        let read = |count: u64, seed: u64| format!("nvme random {count} {DISK} {seed} 1 {bytes}");
        self.ask(&read(1_000, 1))?;
        let (reply, counted) = self.counted(|stage| stage.ask(&read(count, 2)))?;
        let work = Work::Read(bytes);
        let command = read(WATCHED, 3);
        let (traffic, profile) =
            self.profile(&[work], WATCHED, |stage| stage.ask(&command).map(drop))?;
        // The cheapest read is none that had to invalidate for the 255 before.
        let least = reply.number("instructions")? as f64 + put_off;
        measured.profiles.extend(profile);
        measured.add(
            work,
            of_rounds(least, &reply, counted.each(count), traffic)?,
        );
        Ok(())
    }

    fn echoes(&mut self, measured: &mut Measured) -> Result<()> {
        let echo = |count: u64| format!("net echo {count} {PACKET} 1");
        self.ask(&echo(100))?;
        let (reply, counted) = self.counted(|stage| stage.ask(&echo(ECHOES)))?;
        let (traffic, profile) = self.profile(&[Work::Echo], WATCHED, |stage| {
            stage.ask(&echo(WATCHED)).map(drop)
        })?;
        let tenth = reply.number("tenth")? as f64;
        measured.profiles.extend(profile);
        measured.add(
            Work::Echo,
            of_rounds(tenth, &reply, counted.each(ECHOES), traffic)?,
        );
        Ok(())
    }

    fn datagrams(&mut self, measured: &mut Measured) -> Result<()> {
        let (_sink, port) = net::sink()?;
        let flood = format!("net flood {port} {ROUND_DATAGRAMS} {PACKET}");
        connect(self.vm, &mut self.agent)?;
        self.ask(&flood)?;
        let before = sent(self.vm, &mut self.agent)?;
        let (mut rounds, counted) = self.counted(|stage| {
            (0..DATAGRAM_ROUNDS)
                .map(|_| stage.ask(&flood)?.number("instructions"))
                .collect::<Result<Vec<u64>>>()
        })?;
        let count = DATAGRAM_ROUNDS as u64 * ROUND_DATAGRAMS;
        all_sent(self.vm, &mut self.agent, before, count)?;
        let work = Work::Datagram;
        let (traffic, profile) = self.profile(&[work], ROUND_DATAGRAMS, |stage| {
            stage.ask(&flood).map(drop)
        })?;
        rounds.sort_unstable();
        let each =
            |round: Option<&u64>| round.map_or(0.0, |round| *round as f64 / ROUND_DATAGRAMS as f64);
        let counted = counted.each(count);
        measured.profiles.extend(profile);
        let sample = Sample {
            average: each(rounds.first()),
            spread: Some((each(rounds.get(rounds.len() / 2)), each(rounds.last()))),
            entries: counted.entries,
            el2: counted.instructions,
            traffic,
        };
        measured.add(work, sample);
        Ok(())
    }

    /// Buffers of a program, whose pages lie anywhere.
    fn scattered(&mut self, measured: &mut Measured) -> Result<()> {
        self.shell("spare")?;
        for (bytes, count) in SCATTERED {
            let rounds =
                |count: u64| format!("edu vfio-pci vfio bench {bytes} {count} > /tmp/vfio");
            self.shell(&rounds(count))?;
            let data = self.ask("cat /tmp/vfio")?.data();
            let reply = Reply::parse(&String::from_utf8_lossy(&data));
            let mut both = Sample::default();
            for (work, call) in [
                (Work::VfioMap(bytes), "map"),
                (Work::VfioUnmap(bytes), "unmap"),
            ] {
                let mut sample = timing(&reply, call)?;
                both.average += sample.average;
                if self.fenced {
                    let el2 = reply.number(&format!("{call}_el2"))? as f64 / count as f64;
                    sample.el2 = Some(el2);
                    both.el2 = Some(both.el2.unwrap_or(0.0) + el2);
                }
                measured.add(work, sample);
            }
            // The program also attaches the device: what one round more causes is what
            // a round causes.
            let mut caused = |count: u64| {
                self.counted(|stage| stage.traffic(1, |stage| stage.shell(&rounds(count))))
            };
            let (one, two) = (caused(1)?, caused(2)?);
            both.entries = two.1.entries.zip(one.1.entries).map(|(two, one)| two - one);
            both.traffic = two.0.zip(one.0).map(|(two, one)| two.minus(one));
            measured.add(Work::VfioBoth(bytes), both);
        }
        Ok(())
    }
}

/// Has the module map and unmap.
fn run(threads: u32, bytes: u64, count: u64) -> String {
    format!("for f in {FILE}; do echo {threads} {bytes} both {count} > $f; done")
}

/// The same, with the CPU's count of EL2's instructions.
fn watched(bytes: u64) -> String {
    format!("for f in {FILE}; do echo 1 {bytes} both {WATCHED} el2 > $f; done")
}

/// Nanoseconds, which are instructions, in a tick of the counter.
fn tick(reply: &Reply) -> Result<f64> {
    Ok(1e9 / reply.number("cntfrq")? as f64)
}

/// What one of the calls took, in what module or program said.
fn timing(reply: &Reply, call: &str) -> Result<Sample> {
    let tick = tick(reply)?;
    let made = reply.number("count")? as f64;
    let figure = |what: &str| Ok(reply.number(&format!("{call}_{what}"))? as f64 * tick);
    Ok(Sample {
        average: figure("sum")? / made,
        spread: Some((figure("p50")?, figure("p99")?)),
        ..Sample::default()
    })
}

/// What rounds took of which `figure` counts.
fn of_rounds(
    figure: f64,
    reply: &Reply,
    counted: Counted,
    traffic: Option<Traffic>,
) -> Result<Sample> {
    Ok(Sample {
        average: figure,
        spread: Some((reply.number("p50")? as f64, reply.number("p99")? as f64)),
        entries: counted.entries,
        el2: counted.instructions,
        traffic,
    })
}

/// Instructions of a mapping and of an unmapping, on average, in what the module
/// says.
///
/// # Errors
///
/// [`Error::Agent`] when it said something else.
pub fn timings(said: &[u8]) -> Result<(f64, f64)> {
    let reply = Reply::parse(&String::from_utf8_lossy(said));
    Ok((
        timing(&reply, "map")?.average,
        timing(&reply, "unmap")?.average,
    ))
}

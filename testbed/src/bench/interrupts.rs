//! What the host pays for the commands that its driver sends to the interrupt
//! translation service, each with its SYNC.

mod host;

use super::number;
use super::results::Interrupts;
use crate::check::table;
use crate::machine::Machine;
use crate::progress::Progress;
use crate::setup::Lab;
use crate::{Error, Result};
use host::{Host, measure};
use std::collections::BTreeMap;

/// What a command with its SYNC may take of EL2.
const LIMIT: f64 = 800.0;
/// One call that is measured.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// As the table has it.
    name: &'static str,
    /// The commands that Linux sends for it, in the alphabet's order.
    commands: &'static [&'static str],
    /// Whether that is one command with its SYNC, for which there is a goal.
    pair: bool,
}

const READ: Call = Call {
    name: "read of an ITS register",
    commands: &[],
    pair: false,
};
const MASK: Call = Call {
    name: "interrupt masked",
    commands: &["inv", "sync"],
    pair: true,
};
const UNMASK: Call = Call {
    name: "interrupt unmasked",
    ..MASK
};
const MAP: Call = Call {
    name: "interrupt requested",
    commands: &["mapti", "sync"],
    pair: true,
};
const MOVE: Call = Call {
    name: "interrupt moved to another CPU",
    commands: &["movi", "sync"],
    pair: true,
};
const TELL: Call = Call {
    name: "another CPU interrupted (SGI)",
    commands: &[],
    pair: false,
};
const FREE: Call = Call {
    name: "interrupt freed",
    commands: &["discard", "sync"],
    pair: true,
};
const MAP_NEXT: Call = Call {
    name: "interrupt requested, of functions in turn",
    ..MAP
};
const FREE_NEXT: Call = Call {
    name: "interrupt freed, of functions in turn",
    ..FREE
};
const FIRST: Call = Call {
    name: "first vector of a function allocated",
    commands: &["mapd", "mapti", "sync"],
    pair: false,
};
const LAST: Call = Call {
    name: "last vector of a function freed",
    commands: &["discard", "mapd", "sync"],
    pair: false,
};

/// What one call took on one machine.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    /// Calls.
    count: f64,
    /// Instructions in all: of the middle call.
    all: f64,
    /// EL2 entries for each, where there is an EL2.
    entries: f64,
    /// Instructions at EL2, as the CPU counted them: of the middle call, too.
    el2: f64,
    /// Those of the most expensive call.
    most: f64,
    /// Commands that QEMU's service was sent, by name.
    commands: BTreeMap<String, f64>,
}

impl Sample {
    /// Adds another round.
    fn add(&mut self, round: &Self) {
        let all = self.count + round.count;
        let mean = |a: f64, b: f64| (a * self.count + b * round.count) / all;
        self.all = mean(self.all, round.all);
        self.entries = mean(self.entries, round.entries);
        self.el2 = mean(self.el2, round.el2);
        self.most = self.most.max(round.most);
        for (name, count) in &round.commands {
            *self.commands.entry(name.clone()).or_default() += count;
        }
        self.count = all;
    }

    /// `1 INV, 1 SYNC`: the commands of each call.
    fn told(&self) -> String {
        let each = self.commands.iter().map(|(name, count)| {
            let each = number((count / self.count * 1e3).round() / 1e3);
            format!("{each} {}", name.to_uppercase())
        });
        let all: Vec<String> = each.collect();
        if all.is_empty() {
            return "-".to_owned();
        }
        all.join(", ")
    }
}

/// One call on all machines.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    call: &'static Call,
    native: Sample,
    /// Under the hypervisor, with `bhb=off`.
    with: Sample,
    /// Under the hypervisor as it is.
    by_default: Sample,
}

impl Row {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.call.name
    }

    /// Instructions in all, with `bhb=off` and without.
    #[must_use]
    pub fn all(&self) -> [f64; 2] {
        [self.with.all, self.by_default.all]
    }

    /// The same of EL2.
    #[must_use]
    pub fn el2(&self) -> [f64; 2] {
        [self.with.el2, self.by_default.el2]
    }

    /// EL2 entries.
    #[must_use]
    pub fn entries(&self) -> f64 {
        self.with.entries
    }

    /// Whether EL2 does not store in a table of the host's for it, so that what it takes
    /// is not up to where that lies.
    #[must_use]
    pub fn is_simple(&self) -> bool {
        [READ, MASK, UNMASK, TELL].contains(self.call)
    }

    /// Whether it is what it is to be: a command with its SYNC is one entry, within the
    /// limit; a read is none.
    ///
    /// The most expensive entry says nothing of the command: at most once in 50 ms an
    /// entry looks after the SMMU as well, and on two CPUs the other one may have run in
    /// the middle of it, since the counter is the machine's.
    #[must_use]
    pub fn reached(&self) -> bool {
        // What else happens to be trapped meanwhile, in so many calls.
        const ALLOWANCE: f64 = 0.002;
        let entries = |right: f64| {
            [&self.with, &self.by_default]
                .iter()
                .all(|sample| (sample.entries - right).abs() <= ALLOWANCE)
        };
        if self.call.pair {
            return entries(1.0) && self.with.el2 <= LIMIT;
        }
        *self.call != READ || entries(0.0)
    }

    fn goal(&self) -> String {
        if self.call.pair {
            format!("entries 1, EL2 <= {}", number(LIMIT))
        } else if *self.call == READ {
            "entries 0".to_owned()
        } else {
            "-".to_owned()
        }
    }

    /// The row for programs.
    #[must_use]
    pub fn result(&self) -> Interrupts {
        Interrupts {
            name: self.call.name.to_owned(),
            commands: self.native.told(),
            native: self.native.all,
            with: self.with.all,
            by_default: self.by_default.all,
            el2_entries: self.with.entries,
            el2_instructions: self.with.el2,
            el2_most: self.with.most,
            el2_by_default: self.by_default.el2,
            goal: self.goal(),
            reached: self.reached(),
        }
    }
}

/// Measures on three machines: without the hypervisor, with it and `bhb=off`, and
/// with it as it is. They are to boot with the module `irq_bench.ko` at `/lib`.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from doing its work; [`Error::Unsuitable`] when
/// a call does not send what it is measured for.
pub fn run(lab: &Lab, native: Machine, with: Machine, by_default: Machine) -> Result<Vec<Row>> {
    let one = |machine: Machine, what: &str| {
        let progress = Progress::spinner(&format!("measuring interrupts: {what}"));
        let name = what.replace([' ', '='], "-");
        let mut samples = Vec::new();
        for host in [Host::Plain, Host::Functions, Host::TwoCpus] {
            samples.extend(measure(lab, machine.clone(), &name, host)?);
        }
        progress.done();
        Ok::<_, Error>(samples)
    };
    let native = one(native, "native")?;
    let with = one(with, "bhb=off")?;
    let by_default = one(by_default, "by default")?;
    let mut rows = Vec::new();
    for (((call, native), (_, with)), (_, by_default)) in
        native.into_iter().zip(with).zip(by_default)
    {
        sends(call, &native)?;
        rows.push(Row {
            call,
            native,
            with,
            by_default,
        });
    }
    Ok(rows)
}

/// Whether the driver sends what the row is about: else the figures would be those
/// of something else.
fn sends(call: &Call, native: &Sample) -> Result<()> {
    let mut commands = native.commands.iter();
    let right = native.commands.len() == call.commands.len()
        && call.commands.iter().all(|name| {
            let found = commands.next();
            found.is_some_and(|(known, count)| known == name && *count == native.count)
        });
    if right {
        return Ok(());
    }
    Err(Error::unsuitable(
        format!("{}: the driver sends {}", call.name, native.told()),
        "use Debian's kernel, and a QEMU with the trace backend `log`, such as Debian's",
    ))
}

/// The rows as a table for people.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let round = |value: f64| number(value.round());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.call.name.to_owned(),
                row.native.told(),
                row.with.told(),
                round(row.native.all),
                round(row.with.all),
                format!("{:.3}", row.with.entries),
                format!("{} ({})", round(row.with.el2), round(row.with.most)),
                round(row.by_default.el2),
                row.goal(),
                if row.reached() { "ok" } else { "MISSED" }.to_owned(),
            ]
        })
        .collect();
    table(
        &[
            "instructions, bhb=off",
            "Linux sends",
            "the ITS is sent",
            "native",
            "with",
            "entries",
            "EL2 (most)",
            "EL2 by default",
            "goal",
            "",
        ],
        &cells,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(call: &'static Call, entries: f64, el2: f64, most: f64) -> Row {
        let sample = Sample {
            count: 512.0,
            all: 2_000.0,
            entries,
            el2,
            most,
            commands: BTreeMap::new(),
        };
        Row {
            call,
            native: Sample::default(),
            with: sample.clone(),
            by_default: sample,
        }
    }

    #[test]
    fn a_pair_is_one_entry_within_the_limit_and_a_read_is_none() {
        assert!(row(&MASK, 1.0, 800.0, 1_008.0).reached());
        assert!(!row(&MASK, 1.0, 801.0, 801.0).reached());
        assert!(!row(&MASK, 2.0, 700.0, 700.0).reached());
        assert!(!row(&MASK, 0.0, 0.0, 0.0).reached());
        assert!(row(&READ, 0.0, 0.0, 0.0).reached());
        assert!(!row(&READ, 1.0, 100.0, 100.0).reached());
        // By default, too.
        let mut worse = row(&READ, 0.0, 0.0, 0.0);
        worse.by_default.entries = 1.0;
        assert!(!worse.reached());
        assert!(row(&FIRST, 3.0, 14_000.0, 14_000.0).reached());
        assert!(text(&[worse]).contains("MISSED"));
    }

    #[test]
    fn what_the_driver_sends_is_checked() {
        let log = "\
gicv3_its_cmd_inv GICv3 ITS: command INV DeviceID 0x8 EventID 0x1\n\
gicv3_its_cmd_sync GICv3 ITS: command SYNC\n\
12@3.5:gicv3_its_cmd_inv GICv3 ITS: command INV DeviceID 0x8 EventID 0x2\n\
12@3.5:gicv3_its_cmd_sync GICv3 ITS: command SYNC\n\
smmuv3_cmdq_opcode <--- SMMU_CMD_SYNC\n";
        let sent = |log: &str| Sample {
            count: 2.0,
            commands: host::commands(log),
            ..Sample::default()
        };
        let seen = sent(log);
        assert_eq!(seen.told(), "1 INV, 1 SYNC");
        assert!(sends(&MASK, &seen).is_ok());
        assert!(sends(&MAP, &seen).is_err());
        assert!(sends(&READ, &seen).is_err());
        assert!(sends(&MASK, &sent("")).is_err());
        assert!(sends(&MASK, &sent(&log.replacen("cmd_inv", "cmd_int", 1))).is_err());
    }
}

//! Our emulated ITS beside QEMU's: the same commands and register accesses make
//! the same interrupts pending and leave the same in registers.

pub mod case;
mod driver;
mod layout;
mod memory;
mod ours;
mod predict;
mod state;
mod theirs;

use crate::machine::Error;
use case::{Case, Step};
use driver::{Driver, Side as _};
use gicv3_its::reg;
use layout::CPUS;
use ours::Ours;
use portcullis_testbed::setup::qemu::Qemu;
use predict::{Names, Side, after};
use state::State;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use theirs::Theirs;

/// Cases that a run has unless told otherwise.
pub const CASES: u64 = 2_000;

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Cases that were run.
    pub cases: u64,
    /// Of them, those in which both sides showed the same throughout.
    pub agree: u64,
    /// Cases of a host that does nothing UNPREDICTABLE, and of them those that agree.
    pub honest: [u64; 2],
    /// Steps after which both were compared.
    pub steps: u64,
    /// Of them, those after which both showed the same.
    pub alike: u64,
    /// Steps after which an interrupt was pending.
    pub pending: u64,
    /// Differences that are known, by name, with in how many cases.
    pub explained: BTreeMap<&'static str, u64>,
    /// The first difference that nothing explains.
    pub difference: Option<String>,
}

impl Summary {
    /// The last line of a run.
    #[must_use]
    pub fn line(&self) -> String {
        let explained = self.cases - self.agree - u64::from(self.difference.is_some());
        format!(
            "interrupts: cases={} agree={} explained={explained}",
            self.cases, self.agree
        )
    }
}

/// Runs cases `numbers` of a seed on both sides, until one differs.
///
/// # Errors
/// When QEMU does not start, ends or does not answer.
pub fn run(qemu: &Qemu, seed: u64, numbers: std::ops::Range<u64>) -> Result<Summary, Error> {
    run_with(qemu, seed, numbers, |_| {})
}

/// As [`run`], with cases that are changed on our side alone, on purpose.
///
/// # Errors
/// See [`run`].
pub fn run_with(
    qemu: &Qemu,
    seed: u64,
    numbers: std::ops::Range<u64>,
    change: impl Fn(&mut Step),
) -> Result<Summary, Error> {
    let mut theirs = Theirs::start(qemu)?;
    let mut summary = Summary {
        difference: identify(&mut theirs)?,
        ..Summary::default()
    };
    if summary.difference.is_some() {
        return Ok(summary);
    }
    for number in numbers {
        let case = case::case(seed, number);
        let during = |error: Error| error.during(format!("interrupts {number} of seed {seed}"));
        summary.cases += 1;
        let outcome = one(&mut theirs, &case, &mut summary, &change).map_err(during)?;
        summary.honest[0] += u64::from(case.honest);
        match outcome {
            Ok(names) if names.is_empty() => {
                summary.agree += 1;
                summary.honest[1] += u64::from(case.honest);
            }
            Ok(names) => {
                for name in names {
                    *summary.explained.entry(name).or_default() += 1;
                }
            }
            Err(text) => {
                let text = format!(
                    "interrupts {number} of seed {seed}:\n{text}\n\
                     again: cargo run -p portcullis-differential -- \
                     --interrupts --seed {seed} --only {number}"
                );
                summary.difference = Some(text);
                break;
            }
        }
    }
    Ok(summary)
}

/// What a host may meet that does nothing UNPREDICTABLE: where what is pending
/// goes when a collection moves, and when the ITS is disabled.
const HONEST: [&str; 2] = ["collection-pending", "disable-pending"];

/// What explains the differences of a case, or one that nothing does.
type Outcome = Result<Names, String>;

fn one(
    theirs: &mut Theirs,
    case: &Case,
    summary: &mut Summary,
    change: &impl Fn(&mut Step),
) -> Result<Outcome, Error> {
    // An error of ours is a difference.
    macro_rules! ours {
        ($result:expr, $before:expr) => {
            match $result {
                Ok(value) => value,
                Err(error) => return Ok(Err(format!("{}ours: {error}", $before))),
            }
        };
    }
    let mut before = String::new();
    let mut ours = ours!(Ours::new(case.greedy), before);
    let mut left = ours!(Driver::new(&mut ours, case), before);
    let mut right = Driver::new(theirs, case)?;
    let mut first = ours!(left.look(), before);
    let mut second = right.look()?;
    if !first.is_like(&second) {
        return Ok(Err(differ(&first, &second)));
    }
    let mut names = Names::new();
    for (number, step) in case.steps.iter().enumerate() {
        let mut changed = step.clone();
        change(&mut changed);
        ours!(left.step(&changed), before);
        right.step(step)?;
        let last = number + 1 == case.steps.len();
        let (mine, other) = if last {
            (ours!(left.look_at_all(), before), right.look_at_all()?)
        } else {
            (ours!(left.look(), before), right.look()?)
        };
        let _ = writeln!(before, "{step:x?}");
        summary.steps += 1;
        summary.pending += u64::from(!other.pending.is_empty());
        // Also where both are alike: what is said here of a side is so.
        let (expected, met) = after(Side::Ours, &first, step);
        if expected != mine {
            let text = format!("ours is not what it says:\n{}", differ(&mine, &expected));
            return Ok(Err(before + &text));
        }
        let (expected, also) = after(Side::Qemu, &second, step);
        if expected != other {
            let text = format!("QEMU is not what it says:\n{}", differ(&expected, &other));
            return Ok(Err(before + &text));
        }
        if mine.is_like(&other) {
            summary.alike += 1;
        } else {
            let met: Names = met.into_iter().chain(also).collect();
            if met.is_empty() && first.is_like(&second) {
                return Ok(Err(before + &differ(&mine, &other)));
            }
            let stranger = met.iter().find(|name| !HONEST.contains(name));
            if let (true, Some(name)) = (case.honest, stranger) {
                let text = format!("an honest host meets {name}:\n{}", differ(&mine, &other));
                return Ok(Err(before + &text));
            }
            names.extend(met);
        }
        (first, second) = (mine, other);
    }
    Ok(Ok(names))
}

/// What is fixed: the identification registers, each difference of which has a
/// reason.
fn identify(theirs: &mut Theirs) -> Result<Option<String>, Error> {
    let registers = [reg::TYPER, reg::CTLR, reg::PIDR2];
    let mut ours = match Ours::new(false) {
        Ok(ours) => ours,
        Err(error) => return Ok(Some(error)),
    };
    let Ok(mine) = ours.read(&registers) else {
        return Ok(Some("ours cannot be read".to_owned()));
    };
    let other = theirs.read(&registers)?;
    // ITT_entry_size, Devbits and CIDbits are 12 bytes, 16 bits and 16 bits on
    // QEMU; 8 bytes, the bits of our host's devices and 8 bits on ours.
    let fields = |typer: u64| (typer >> 4 & 0xf, typer >> 13 & 0x1f, typer >> 32 & 0xf);
    let rest = |typer: u64| typer & !(0xf << 4 | 0x1f << 13 | 0xf << 32);
    let typers = (fields(mine[0]), fields(other[0]));
    // GITS_IIDR is the upper half of the second.
    let same = rest(mine[0]) == rest(other[0])
        && typers == ((7, 8, 7), (11, 15, 15))
        && mine[1] == other[1]
        && mine[2] >> 4 & 0xf == other[2] >> 4 & 0xf;
    if !same {
        return Ok(Some(format!(
            "identification\nours: {mine:x?}\nQEMU: {other:x?}"
        )));
    }
    for cpu in 0..CPUS {
        // PLPIS, VLPIS, Dirty, DirectLPI, Last, RVPEID and Processor_Number.
        const LPI: u64 = 0x00ff_ff9f;
        let Ok([control, typer, ..]) = ours.read_rd(cpu) else {
            return Ok(Some("ours cannot be read".to_owned()));
        };
        let other = theirs.read_rd(cpu)?;
        if control != other[0] || typer & LPI != other[1] & LPI {
            return Ok(Some(format!(
                "identification of redistributor {cpu}\nours: {control:#x} {typer:#x}\nQEMU: {other:x?}"
            )));
        }
    }
    Ok(None)
}

/// What of two states is not the same.
fn differ(ours: &State, theirs: &State) -> String {
    let (ours, theirs) = (format!("{ours:#x?}"), format!("{theirs:#x?}"));
    let mut text = String::new();
    for (name, of, not) in [("ours", &ours, &theirs), ("QEMU", &theirs, &ours)] {
        let other: std::collections::BTreeSet<&str> = not.lines().collect();
        let _ = writeln!(text, "{name}:");
        for line in of.lines().filter(|line| !other.contains(line)) {
            let _ = writeln!(text, "{line}");
        }
    }
    text
}

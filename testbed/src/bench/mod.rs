//! What the hypervisor costs, in numbers that repeat.
//!
//! QEMU counts instructions instead of time, so the figures depend neither on
//! the build machine nor on its load; they say nothing about latency. See
//! `docs/bench.md` for what each row means.

pub mod against;
pub mod bhb;
pub mod dma;
pub mod guest;
pub mod interrupts;
pub mod lines;
pub mod pagetable;
pub mod parts;
pub mod profile;
pub mod report;
pub mod results;
pub mod scale;
pub mod stage;
pub mod symbols;
pub mod tables;
pub mod traffic;
pub mod window;
pub mod work;

use crate::agent::{Agent, Reply};
use crate::check::table;
use crate::demo::WITHHELD;
use crate::vm::Vm;
use crate::{Error, Result};
use results::Compared;
use std::thread;
use std::time::{Duration, Instant};

/// Longest time one measurement may take.
const BENCH_TIMEOUT: Duration = Duration::from_secs(600);

/// Whether the network card has a link, and how many packets it has sent.
const CARRIER: &str = "/sys/class/net/eth0/carrier";
const SENT: &str = "/sys/class/net/eth0/statistics/tx_packets";

/// One figure with and without the hypervisor.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What one unit of the figures is.
    pub unit: &'static str,
    /// Without the hypervisor, or of the best rival; none where there is none.
    pub baseline: Option<f64>,
    /// With it.
    pub measured: f64,
    /// What is to be reached.
    pub goal: Goal,
}

/// What a row is to reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// Measured over baseline is this at most.
    Ratio(f64),
    /// Measured over baseline is less than this.
    RatioBelow(f64),
    /// Measured is this at most.
    AtMost(f64),
}

impl Row {
    /// Measured over baseline.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        self.baseline
            .filter(|baseline| *baseline > 0.0)
            .map(|baseline| self.measured / baseline)
    }

    /// Whether the goal is reached; a ratio to nothing is none.
    #[must_use]
    pub fn reached(&self) -> bool {
        match self.goal {
            Goal::Ratio(limit) => self.ratio().is_some_and(|ratio| ratio <= limit),
            Goal::RatioBelow(limit) => self.ratio().is_some_and(|ratio| ratio < limit),
            Goal::AtMost(limit) => self.measured <= limit,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::Ratio(limit) => format!("ratio <= {limit:.2}"),
            Goal::RatioBelow(limit) => format!("ratio < {limit:.2}"),
            Goal::AtMost(limit) => format!("<= {}", number(limit)),
        }
    }

    /// The figure for programs.
    #[must_use]
    pub fn result(&self) -> Compared {
        Compared {
            name: self.name.clone(),
            unit: self.unit.to_owned(),
            baseline: self.baseline,
            measured: self.measured,
            ratio: self.ratio(),
            goal: self.goal_text(),
            reached: self.reached(),
        }
    }
}

/// The rows as a table for people; `columns` head baseline and measured.
#[must_use]
pub fn text(rows: &[Row], columns: [&str; 2]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                row.baseline.map_or_else(|| "-".to_owned(), number),
                number(row.measured),
                row.unit.to_owned(),
                row.ratio()
                    .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.4}")),
                row.goal_text(),
                if row.reached() { "ok" } else { "MISSED" }.to_owned(),
            ]
        })
        .collect();
    table(
        &["what", columns[0], columns[1], "unit", "ratio", "goal", ""],
        &cells,
    )
}

/// A figure, with thousands apart and no more digits than help.
fn number(value: f64) -> String {
    if value.fract() != 0.0 && value < 1000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 {
        text.push('-');
    }
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn ask(vm: &Vm, agent: &mut Agent, command: &str) -> Result<Reply> {
    agent.ask_within(vm, command, BENCH_TIMEOUT)
}

/// Starts the random numbers of the host's kernel, which it takes one of in every
/// system call.
///
/// A machine in which nothing is unpredictable has none for a long time: a system
/// call takes 3,700 instructions, then 1,000, then 500 as the kernel gathers what
/// interrupts leave it, at another point of each run.
fn settle(vm: &Vm, agent: &mut Agent) -> Result<()> {
    ask(vm, agent, "seed").map(drop)
}

/// Waits until the network card can send, and knows to whom. Until then datagrams
/// go nowhere, in few instructions.
fn connect(vm: &Vm, agent: &mut Agent) -> Result<()> {
    let end = Instant::now() + BENCH_TIMEOUT;
    while ask(vm, agent, &format!("cat {CARRIER}"))?.data() != b"1\n" {
        if Instant::now() > end {
            return Err(vm.timeout("the network card to have a link", BENCH_TIMEOUT));
        }
        thread::sleep(Duration::from_millis(100));
    }
    ask(vm, agent, "net echo 1 100 1").map(drop)
}

/// Packets that the network card has sent.
fn sent(vm: &Vm, agent: &mut Agent) -> Result<u64> {
    let data = ask(vm, agent, &format!("cat {SENT}"))?.data();
    let text = String::from_utf8_lossy(&data);
    text.trim().parse().map_err(|_| Error::Machine {
        what: format!("{SENT} says {text:?}"),
        tail: vm.tails(),
    })
}

/// Fails unless `count` packets were sent since there were `before`.
fn all_sent(vm: &Vm, agent: &mut Agent, before: u64, count: u64) -> Result<()> {
    let packets = sent(vm, agent)?.saturating_sub(before);
    // Others may have something to send, too.
    if packets >= count {
        return Ok(());
    }
    Err(Error::Machine {
        what: format!("of {count} datagrams the card sent {packets}"),
        tail: vm.tails(),
    })
}

/// The number of EL2 entries so far, which the report of a refused access of
/// the CPU tells. Asking is an entry itself.
fn entries(vm: &Vm, agent: &mut Agent) -> Result<u64> {
    let mark = vm.log.mark();
    let reply = ask(vm, agent, &format!("poke read {WITHHELD:#x}"))?;
    if reply.get("outcome") != Some("blocked") {
        return Err(Error::Machine {
            what: "the hypervisor lets the CPU reach a device that it withholds".to_owned(),
            tail: vm.tails(),
        });
    }
    let what = "a cpu_fault line with the number of entries";
    let event = vm.wait_event(mark, what, Duration::from_secs(30), |event| {
        event.kind() == "cpu_fault" && event.number("entries").is_some()
    })?;
    Ok(event.number("entries").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(baseline: Option<f64>, measured: f64, goal: Goal) -> Row {
        Row {
            name: "x".to_owned(),
            unit: "y",
            baseline,
            measured,
            goal,
        }
    }

    #[test]
    fn goals_can_be_missed() {
        assert!(row(Some(100.0), 101.0, Goal::Ratio(1.01)).reached());
        assert!(!row(Some(100.0), 101.1, Goal::Ratio(1.01)).reached());
        assert!(!row(None, 1.0, Goal::Ratio(1.01)).reached());
        assert!(!row(Some(0.0), 1.0, Goal::Ratio(1.01)).reached());
        assert!(row(None, 0.0, Goal::AtMost(0.0)).reached());
        assert!(!row(None, 1.0, Goal::AtMost(0.0)).reached());
        assert!(!row(Some(5.0), 5.0, Goal::RatioBelow(1.0)).reached());
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.0), "0");
    }
}

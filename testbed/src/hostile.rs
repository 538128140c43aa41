//! What a hostile kernel says on its console: a line for each check, and one at
//! its end.

use crate::Result;
use crate::logfmt::Event;
use crate::machine::Machine;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use std::time::Duration;

/// Longest time such a kernel may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Not so.
    Wrong,
    /// It was tried, and its effect could not be seen.
    Unseen,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

impl Check {
    /// Takes a line `its: check=NAME result=ok …` of the kernel `its` apart.
    #[must_use]
    pub fn parse(kernel: &str, line: &str) -> Option<Self> {
        let line = line.strip_prefix(kernel)?.strip_prefix(": check=")?;
        let (name, rest) = line.split_once(" result=")?;
        let outcome = match rest.split(' ').next()? {
            "ok" => Outcome::Ok,
            "wrong" => Outcome::Wrong,
            "unseen" => Outcome::Unseen,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            outcome,
        })
    }
}

/// Everything that a kernel said until it switched its machine off.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its checks, in order.
    pub checks: Vec<Check>,
    /// Its other lines.
    pub lines: Vec<String>,
    /// Whether it came to its end.
    pub finished: bool,
    /// The hypervisor's events.
    pub events: Vec<Event>,
    /// The ends of both consoles.
    pub tails: String,
}

impl Said {
    /// Runs `machine` to its end and listens to `kernel`.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`](crate::Error::Timeout) when it has none.
    pub fn by(kernel: &str, lab: &Lab, machine: &Machine, name: &str) -> Result<Self> {
        let mut vm = Vm::start(lab, machine, &Watch::quietly(name))?;
        vm.wait_exit(PATIENCE)?;
        let lines = vm.host.lines_since(0).into_iter().map(|line| line.text);
        let lines = lines.filter(|text| text.starts_with(kernel));
        let mut said = Self {
            checks: Vec::new(),
            lines: Vec::new(),
            finished: false,
            events: vm.events_since(0),
            tails: vm.tails(),
        };
        for line in lines {
            said.finished |= line.contains(": done wrong=");
            match Check::parse(kernel, &line) {
                Some(check) => said.checks.push(check),
                None => said.lines.push(line),
            }
        }
        Ok(said)
    }

    /// Names of the checks with this outcome.
    pub fn with(&self, outcome: Outcome) -> impl Iterator<Item = &str> {
        let checks = self.checks.iter();
        checks
            .filter(move |check| check.outcome == outcome)
            .map(|check| check.name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_checks_are_taken_apart() {
        let check = |line| Check::parse("its", line);
        let ok = check("its: check=a_b result=ok got=\"1\" want=\"1\"").expect("a check");
        assert_eq!((ok.name.as_str(), ok.outcome), ("a_b", Outcome::Ok));
        let unseen = check("its: check=c result=unseen").expect("a check");
        assert_eq!(unseen.outcome, Outcome::Unseen);
        assert_eq!(check("its: done wrong=0"), None);
        assert_eq!(check("hostile: check=a result=ok"), None);
        assert_eq!(check("its: check=a result=fine"), None);
    }
}

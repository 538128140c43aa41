//! Talking to the agent in the host under test.

use crate::logfmt::parse_number;
use crate::vm::Vm;
use crate::{Error, Result};
use std::time::Duration;

/// Longest time a host may take to start under emulation.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest time an ordinary command may take.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// What the agent answered to a command it carried out.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    fields: Vec<(String, String)>,
}

impl Reply {
    /// Takes `KEY=VALUE …` apart.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let fields = text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Self { fields }
    }

    /// The value of field `key`, or nothing.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// The value of field `key` as a number.
    ///
    /// # Errors
    ///
    /// [`Error::Agent`] when there is none.
    pub fn number(&self, key: &str) -> Result<u64> {
        self.get(key)
            .and_then(parse_number)
            .ok_or_else(|| Error::Agent {
                command: key.to_owned(),
                message: format!("the answer has no number {key}: {:?}", self.fields),
            })
    }

    /// The bytes of the field `data`.
    #[must_use]
    pub fn data(&self) -> Vec<u8> {
        let text = self.get("data").unwrap_or("").as_bytes();
        let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
        text.chunks_exact(2)
            .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
            .collect()
    }
}

/// The agent of one running machine.
#[derive(Debug)]
pub struct Agent {
    next: u64,
    /// The host's virtual counter when its first program started.
    pub init_at: u64,
    /// The host's virtual counter when the agent started.
    pub started_at: u64,
    /// Ticks of that counter in a second.
    pub frequency: u64,
}

impl Agent {
    /// Waits until the host is up and its agent answers.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with the ends of both logs.
    pub fn wait(vm: &Vm) -> Result<Self> {
        Self::wait_within(vm, 0, BOOT_TIMEOUT)
    }

    /// As [`Agent::wait`], looking at the host's console from line `mark` on
    /// (for a host that starts again) and for `timeout` at most.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with the ends of both logs.
    pub fn wait_within(vm: &Vm, mark: usize, timeout: Duration) -> Result<Self> {
        let reply = answer(vm, mark, 0, "start", timeout)?;
        let started_at = reply.number("cntvct")?;
        // An initrd of the user's may have no such line.
        let init = vm.host.wait(mark, Duration::ZERO, |line| {
            line.text.strip_prefix("@init ").map(Reply::parse)
        });
        let init_at = init.map_or(Ok(started_at), |reply| reply.number("cntvct"))?;
        Ok(Self {
            next: 1,
            init_at,
            started_at,
            frequency: reply.number("cntfrq")?,
        })
    }

    /// Has a command carried out and returns the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Agent`] when it was refused, [`Error::Timeout`] or
    /// [`Error::Machine`] when there is no answer.
    pub fn ask(&mut self, vm: &Vm, command: &str) -> Result<Reply> {
        self.ask_within(vm, command, COMMAND_TIMEOUT)
    }

    /// As [`Agent::ask`] with a time limit of the caller's.
    ///
    /// # Errors
    ///
    /// As [`Agent::ask`].
    pub fn ask_within(&mut self, vm: &Vm, command: &str, timeout: Duration) -> Result<Reply> {
        let mark = vm.host.mark();
        let number = self.tell(vm, command)?;
        answer(vm, mark, number, command, timeout)
    }

    /// Sends a command without waiting for its answer, such as `off`.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when the machine is gone.
    pub fn tell(&mut self, vm: &Vm, command: &str) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        vm.host.send(&format!("{number} {command}\n"))?;
        Ok(number)
    }
}

fn answer(vm: &Vm, mark: usize, number: u64, command: &str, timeout: Duration) -> Result<Reply> {
    let good = format!("@{number} ok");
    let bad = format!("@{number} err ");
    let picked = vm.host.wait(mark, timeout, |line| {
        if let Some(rest) = line.text.strip_prefix(&good) {
            return Some(Ok(Reply::parse(rest)));
        }
        if let Some(message) = line.text.strip_prefix(&bad) {
            return Some(Err((command.to_owned(), message.to_owned())));
        }
        // A dead agent or host will not answer any more: say so at once.
        let dead = line.text.starts_with("@panic") || line.text.contains("Kernel panic");
        dead.then(|| Err((command.to_owned(), line.text.clone())))
    });
    match picked {
        Some(Ok(reply)) => Ok(reply),
        Some(Err((command, message))) => Err(Error::Agent { command, message }),
        None if vm.host.closed() => Err(Error::Machine {
            what: format!("the machine ended before it answered `{command}`"),
            tail: vm.tails(),
        }),
        None => Err(vm.timeout(&format!("the answer to `{command}`"), timeout)),
    }
}

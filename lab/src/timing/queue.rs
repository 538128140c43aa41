//! The command queue: commands are consumed one after the other.

use super::turns::Turns;
use crate::platform::{Smmu, nanos};
use crate::units::Picos;
use smmuv3_spec::command::{Command, Opcode};

/// The queue, and what went through it.
#[derive(Clone, Debug)]
pub struct Queue {
    command: Picos,
    sync: Picos,
    turns: Turns,
    /// Commands consumed, CMD_SYNC included.
    pub commands: u64,
    /// CMD_SYNC among them.
    pub syncs: u64,
    /// How long it was not empty.
    pub busy: Picos,
}

impl Queue {
    /// An empty one.
    #[must_use]
    pub fn new(smmu: &Smmu) -> Self {
        Self {
            command: nanos(&smmu.command_ns),
            sync: nanos(&smmu.sync_ns),
            turns: Turns::default(),
            commands: 0,
            syncs: 0,
            busy: Picos::ZERO,
        }
    }

    /// Commands come in at `now`; when software knows that they are done. Without
    /// a CMD_SYNC it does not ask.
    pub fn run(&mut self, now: Picos, commands: &[Command]) -> Picos {
        let syncs = commands
            .iter()
            .filter(|command| command.opcode() == Opcode::SYNC)
            .count() as u64;
        let count = commands.len() as u64;
        let length = self.command.times(count);
        self.commands += count;
        self.syncs += syncs;
        self.busy += length;
        let begun = self.turns.take(now, length);
        if syncs == 0 {
            now
        } else {
            begun + length + self.sync
        }
    }

    /// Counts from here on.
    pub fn reset(&mut self) {
        (self.commands, self.syncs, self.busy) = (0, 0, Picos::ZERO);
    }
}

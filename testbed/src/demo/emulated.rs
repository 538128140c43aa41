//! What differs when the host has an SMMU of its own: the registers it sees
//! are not those that decide, and its SMMU may let everything through.

use super::attack::{self, Access, Actor, Target};
use super::{SMMU, Stage};
use crate::check::Check;
use crate::{Error, Result};

/// CR0 with its acknowledgement: whether the SMMU translates.
const CR0: u64 = 0x20;
/// Registers that say where tables and queues lie.
const BASES: [(&str, u64); 3] = [
    ("STRTAB_BASE", 0x80),
    ("CMDQ_BASE", 0x90),
    ("EVENTQ_BASE", 0xa0),
];
/// What is written there: another address, as the first page of a host would be.
const ELSEWHERE: u64 = 0x4000_0000;

impl Stage<'_> {
    /// Has the host's own SMMU pass whatever the edu device does: what stops
    /// the device then is nothing of the host's.
    pub(super) fn let_through(&mut self) -> Result<()> {
        let script = "spare && edu pci-stub sh -c \
                      'echo identity > /sys/kernel/iommu_groups/$2/type; \
                      grep -q identity /sys/kernel/iommu_groups/$2/type' x && edu ''";
        let reply = self.agent.ask(self.vm, &format!("sh {script}"))?;
        let result = match reply.get("status") {
            Some("0") => Ok("its domain is the identity".to_owned()),
            other => Err(format!("the shell ended with {other:?}")),
        };
        let check = Check::of(
            "The host's SMMU lets edu pass",
            "the host's own kernel is told to",
            result,
        );
        self.report.add(check);
        Ok(())
    }

    /// The CPU reads and writes registers of an SMMU that is none: it may,
    /// and the physical ones stay as they are.
    pub(super) fn emulated_registers(&mut self) -> Result<()> {
        let mut wrong = Vec::new();
        for (name, offset) in BASES {
            let at = SMMU + offset;
            let physical = self.vm.memory(at, 8)?;
            let seen = self.cpu(&format!("poke read {at:#x} 8"))?;
            if seen.to_le_bytes()[..] == physical[..] {
                wrong.push(format!("the host sees the physical {name}, {seen:#x}"));
            }
            self.cpu(&format!("poke write {at:#x} {ELSEWHERE:#x} 8"))?;
            if self.vm.memory(at, 8)? != physical {
                wrong.push(format!("the host wrote the physical {name}"));
            }
        }
        let result = match wrong.first() {
            None => Ok("others than the physical ones, which stay".to_owned()),
            Some(first) => Err(first.clone()),
        };
        let tried = format!("{} reads, {0} writes by /dev/mem", BASES.len());
        let check = Check::of("CPU uses the emulated SMMU", tried, result);
        self.report.add(check.with("wrong", wrong));
        Ok(())
    }

    /// With the host's SMMU switched off the device is where it was.
    pub(super) fn switched_off(&mut self, device: Actor, memory: &[Target]) -> Result<()> {
        let at = SMMU + CR0;
        let physical = self.vm.memory(at, 4)?;
        let before = self.cpu(&format!("poke read {at:#x}"))?;
        self.cpu(&format!("poke write {at:#x} 0"))?;
        let mut wrong = Vec::new();
        if self.vm.memory(at, 4)? != physical {
            wrong.push("the physical SMMU changed".to_owned());
        }
        if self.cpu(&format!("poke read {:#x}", at + 4))? & 1 != 0 {
            wrong.push("the host's SMMU does not say that it is off".to_owned());
        }
        for access in [Access::Read, Access::Write] {
            for target in memory {
                let outcome = attack::attack(self.vm, self.agent, device, access, target)?;
                wrong.extend(outcome);
            }
        }
        self.cpu(&format!("poke write {at:#x} {before:#x}"))?;
        let result = match wrong.first() {
            None => Ok("all blocked and reported; then on again".to_owned()),
            Some(first) => Err(first.clone()),
        };
        let tried = format!("{} accesses by edu DMA", memory.len() * 2);
        let name = "Host switches its SMMU off";
        let check = Check::of(name, tried, result);
        self.report.add(check.with("wrong", wrong));
        Ok(())
    }

    /// An access of the CPU that is to go through, and what it read.
    pub(super) fn cpu(&mut self, command: &str) -> Result<u64> {
        let reply = self.agent.ask(self.vm, command)?;
        if reply.get("outcome") != Some("done") {
            return Err(Error::Agent {
                command: command.to_owned(),
                message: format!("{reply:?}"),
            });
        }
        reply.number("value")
    }
}

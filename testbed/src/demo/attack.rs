//! Accesses that must be refused, by a device and by the CPU.

use crate::agent::Agent;
use crate::logfmt::Event;
use crate::vm::{REPORT_TIMEOUT, Vm};
use crate::{Error, Result};
use portcullis_payloads::pattern;

/// Page size the faults are compared at.
pub const PAGE: u64 = 4096;
/// Bytes an attack moves: few, so that it makes few faults.
const LENGTH: u64 = 8;

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The edu device, with this stream.
    Device {
        /// Its StreamID, if it is known.
        stream: u64,
    },
    /// The same while it is in no domain: what is recorded of its accesses is
    /// that its entry is not valid, without an address (IHI 0070, 7.3.5).
    Blocked {
        /// Its StreamID.
        stream: u64,
    },
    /// A process of the host, through `/dev/mem`.
    Cpu,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Read,
    /// Write.
    Write,
}

impl Access {
    /// The word for it in the log and in commands.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Something that must not be reached.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is.
    pub what: String,
    /// Where the attack goes.
    pub address: u64,
}

impl Target {
    /// A target.
    #[must_use]
    pub fn new(what: impl Into<String>, address: u64) -> Self {
        Self {
            what: what.into(),
            address,
        }
    }
}

/// A range of memory the hypervisor keeps from everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// What it holds.
    pub what: String,
    /// Its first address.
    pub base: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Range {
    /// The ranges the hypervisor has announced.
    #[must_use]
    pub fn announced(events: &[Event]) -> Vec<Self> {
        events
            .iter()
            .filter(|event| event.kind() == "memory_reserved")
            .filter_map(|event| {
                Some(Self {
                    what: event.get("what").unwrap_or("memory").to_owned(),
                    base: event.number("base")?,
                    size: event.number("size").filter(|size| *size > 0)?,
                })
            })
            .collect()
    }

    /// Its first, a middle and its last page, as far as these are different.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        // Away from the start of the page, where a header might legitimately
        // change while the attack goes on.
        const WITHIN: u64 = 0x7f8;
        let last = self.base + (self.size - 1) / PAGE * PAGE;
        let middle = self.base + self.size / 2 / PAGE * PAGE;
        let mut pages = vec![self.base, middle, last];
        pages.dedup();
        pages
            .into_iter()
            .map(|page| Target::new(&self.what, page + WITHIN))
            .collect()
    }
}

/// Makes one access that must be refused; `None` when it was refused,
/// reported and without effect, otherwise what was wrong.
///
/// # Errors
///
/// Any [`Error`] of the machine, as opposed to a check that did not hold.
pub fn attack(
    vm: &mut Vm,
    agent: &mut Agent,
    actor: Actor,
    access: Access,
    target: &Target,
) -> Result<Option<String>> {
    let address = target.address;
    let before = vm.memory(address, LENGTH)?;
    let mark = vm.log.mark();
    // Another pattern for each attack: what an earlier one left is not taken
    // for this one's.
    let seed = pattern::word(address, access as u64 + 1);
    let wrong = match actor {
        Actor::Device { .. } | Actor::Blocked { .. } => {
            by_device(vm, agent, access, address, seed, &before)?
        }
        Actor::Cpu => by_cpu(vm, agent, access, address, seed)?,
    };
    let describe = |what: String| {
        let who = if actor == Actor::Cpu { "CPU" } else { "device" };
        format!(
            "{who} {} of {} at {address:#x}: {what}",
            access.word(),
            target.what
        )
    };
    if let Some(wrong) = wrong {
        return Ok(Some(describe(wrong)));
    }
    if access == Access::Write {
        let mut written = [0; LENGTH as usize];
        pattern::fill(&mut written, seed, 0);
        let after = vm.memory(address, LENGTH)?;
        if after[..4] == written[..4] || after == written {
            return Ok(Some(describe("what was written arrived".to_owned())));
        }
    }
    let reported = vm.wait_event(mark, "a report", REPORT_TIMEOUT, |event| {
        matches(event, actor, access, address)
    });
    match reported {
        Ok(_) => Ok(None),
        Err(Error::Timeout { .. }) => {
            let seen: Vec<String> = vm
                .events_since(mark)
                .iter()
                .map(|event| format!("{} {:?}", event.kind(), event.get("address")))
                .collect();
            let what = format!(
                "it is not in the hypervisor's log (there: {})",
                seen.join(", ")
            );
            Ok(Some(describe(what)))
        }
        Err(error) => Err(error),
    }
}

/// Whether an event reports this very access.
fn matches(event: &Event, actor: Actor, access: Access, address: u64) -> bool {
    let kind_fits = match actor {
        Actor::Device { stream } => {
            event.kind() == "dma_fault" && event.number("stream") == Some(stream)
        }
        Actor::Blocked { stream } => {
            return event.kind() == "dma_fault"
                && event.number("stream") == Some(stream)
                && event.get("type") == Some("C_BAD_STE");
        }
        Actor::Cpu => event.kind() == "cpu_fault",
    };
    let at = event.number("address");
    kind_fits
        && event.get("access") == Some(access.word())
        && at.is_some_and(|at| (address..address + LENGTH).contains(&at))
}

fn by_device(
    vm: &Vm,
    agent: &mut Agent,
    access: Access,
    address: u64,
    seed: u64,
    before: &[u8],
) -> Result<Option<String>> {
    match access {
        Access::Write => {
            agent.ask(vm, &format!("edu write {address:#x} {seed:#x} {LENGTH}"))?;
            Ok(None)
        }
        Access::Read => {
            let data = agent
                .ask(vm, &format!("edu read {address:#x} {LENGTH}"))?
                .data();
            // QEMU gives the device zeros for a read that was refused, so a
            // target that holds zeros shows nothing here: there the report
            // alone decides.
            let leaked = data == before && data.iter().any(|byte| *byte != 0);
            Ok(leaked.then(|| "the device got the content".to_owned()))
        }
    }
}

fn by_cpu(
    vm: &Vm,
    agent: &mut Agent,
    access: Access,
    address: u64,
    seed: u64,
) -> Result<Option<String>> {
    let command = match access {
        Access::Read => format!("poke read {address:#x}"),
        Access::Write => {
            let mut value = [0; 4];
            pattern::fill(&mut value, seed, 0);
            format!("poke write {address:#x} {:#x}", u32::from_le_bytes(value))
        }
    };
    let reply = agent.ask(vm, &command)?;
    Ok(match reply.get("outcome") {
        Some("blocked") => None,
        Some("refused") => Some(
            "the host's own kernel refused, so nothing was shown: the range is not \
             reserved in its device tree"
                .to_owned(),
        ),
        other => Some(format!(
            "the process was not stopped by SIGBUS but: {other:?}"
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_come_from_the_log_and_give_three_pages() {
        let line = "portcullis: event=memory_reserved base=0x40200000 size=0x5000 what=image";
        let events = [Event::parse(line).expect("an event")];
        let ranges = Range::announced(&events);
        assert_eq!(ranges.len(), 1);
        let pages: Vec<u64> = ranges[0]
            .targets()
            .iter()
            .map(|t| t.address / PAGE)
            .collect();
        assert_eq!(pages, [0x40200, 0x40202, 0x40204]);
        let one = Range {
            what: "x".to_owned(),
            base: 0x1000,
            size: 0x1000,
        };
        assert_eq!(one.targets().len(), 1);
    }

    #[test]
    fn only_the_very_access_counts_as_its_report() {
        let line = "portcullis: event=dma_fault stream=0x18 address=0x1004 access=write";
        let event = Event::parse(line).expect("an event");
        let device = Actor::Device { stream: 0x18 };
        assert!(matches(&event, device, Access::Write, 0x1000));
        assert!(!matches(&event, device, Access::Read, 0x1000));
        assert!(!matches(&event, device, Access::Write, 0x2000));
        assert!(!matches(
            &event,
            Actor::Device { stream: 8 },
            Access::Write,
            0x1000
        ));
        assert!(!matches(&event, Actor::Cpu, Access::Write, 0x1000));
    }
}

//! What a stock host maps in paravirt mode while it works, as the hypervisor records it.

use crate::agent::Agent;
use crate::demo::OFF_TIMEOUT;
use crate::disk::Disk;
use crate::machine::{Boot, Machine};
use crate::net::Exchange;
use crate::setup::Lab;
use crate::vm::{Vm, Watch};
use crate::{Error, Result};
use std::fmt::Write as _;

/// Memory for the record: 32 bytes for a request.
const ROOM: &str = " trace=4M";

/// A device at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A disk.
    Nvme,
    /// A network card.
    E1000e,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Nvme, Self::E1000e];

    /// Its name in files.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nvme => "nvme",
            Self::E1000e => "e1000e",
        }
    }

    /// What is done, in words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Nvme => {
                "NVMe: 1,000 reads of 4 KiB at random, 8 MiB written and 8 MiB read in a row, O_DIRECT"
            }
            Self::E1000e => {
                "e1000e: 500 echoes of 1,000 bytes, 1 MiB sent and 1 MiB received by TCP"
            }
        }
    }

    fn run(self, vm: &Vm, agent: &mut Agent) -> Result<()> {
        match self {
            Self::Nvme => {
                let size = 8 << 20;
                agent.ask(vm, &format!("nvme random 1000 {size} 1"))?;
                agent.ask(vm, &format!("nvme fill 0x7ace 0 {size}"))?;
                agent.ask(vm, &format!("nvme verify 0x7ace 0 {size}"))?;
            }
            Self::E1000e => {
                agent.ask(vm, "net echo 50 1000")?;
                let (bytes, up, down) = (1 << 20, 0xa, 0xb);
                let exchange = Exchange::listen(bytes, up, down)?;
                let port = exchange.port();
                let asked = agent.ask(vm, &format!("net exchange {port} {bytes} {up} {down}"));
                exchange.finish()?;
                asked?;
            }
        }
        Ok(())
    }
}

/// Boots `machine`, a paravirt host, has it do `work` and returns the record, a
/// line for each request, from the host's first to its last.
///
/// # Errors
///
/// Any [`Error`] of the machine, and [`Error::Machine`] when the record is not whole.
pub fn record(lab: &Lab, machine: &Machine, work: Work) -> Result<String> {
    let name = format!("trace-{}", work.word());
    let mut machine = machine.clone();
    let disk = Disk::new(&lab.workspace, &name)?;
    machine.disk = Some(disk.path().to_owned());
    machine.network = work == Work::E1000e;
    if let Boot::Portcullis { arguments, .. } = &mut machine.boot {
        arguments.push_str(ROOM);
    }
    let mut vm = Vm::start(lab, &machine, &Watch::quietly(&name))?;
    let mut agent = Agent::wait(&vm)?;
    work.run(&vm, &mut agent)?;
    agent.tell(&vm, "off")?;
    vm.wait_exit(OFF_TIMEOUT)?;
    let events = vm.events_since(0);
    let mut text = String::new();
    let mut records = 0;
    for line in events.iter().filter_map(|event| event.get("trace")) {
        records += 1;
        let _ = writeln!(text, "trace={line}");
    }
    let end = events.iter().find(|event| event.kind() == "trace_end");
    let told = |key| end.and_then(|event| event.number(key));
    if (told("records"), told("dropped")) != (Some(records), Some(0)) {
        return Err(Error::Machine {
            what: format!("the record of {} is not whole: {end:?}", work.word()),
            tail: vm.tails(),
        });
    }
    let _ = writeln!(text, "event=trace_end records={records} dropped=0");
    Ok(text)
}

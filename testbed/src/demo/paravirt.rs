//! What differs when the host has a virtio-iommu: its devices reach only what it
//! asks the hypervisor to map. So it asks for more than it has, and uses what it
//! has given back.

use super::attack::{self, Access, Actor, PAGE, Target};
use super::{SMMU, Stage};
use crate::check::Check;
use crate::vm::REPORT_TIMEOUT;
use crate::{Error, Result};

/// The file of our module in which a device's mappings are asked for.
const FILE: &str = "/sys/bus/pci/drivers/dma_bench/0*/domain";

/// Registers of virtio-mmio (virtio 1.3, 4.2.2), and the SMMU's at the same place.
const MAGIC: u64 = 0x00;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SEL: u64 = 0x24;
const STATUS: u64 = 0x70;
/// Bits of Status (2.1), and of the second word of features (6).
const ACKNOWLEDGE: u64 = 1;
const DRIVER: u64 = 2;
const FEATURES_OK: u64 = 8;
const VERSION_1: u64 = 1;
/// "virt".
const MAGIC_VALUE: u64 = 0x7472_6976;

/// Bytes of a page, as the module takes them.
const BYTES: u64 = PAGE;

impl Stage<'_> {
    /// Has the edu device reach the pages at `pages`, at their own addresses.
    pub(super) fn map_for_edu(&mut self, pages: &[u64]) -> Result<()> {
        for page in pages {
            self.iommu(&format!("map {page:#x} {page:#x} {BYTES}"))?;
        }
        Ok(())
    }

    /// Where the registers of the host's virtio-iommus are.
    fn viommus(&self) -> Vec<u64> {
        let events = self.vm.events_since(0);
        let ready = events.iter().filter(|event| event.kind() == "viommu_ready");
        ready
            .filter_map(|event| event.number("registers"))
            .collect()
    }

    /// Registers of the SMMU that are in no page of a virtio-iommu's.
    pub(super) fn registers_beyond(&self) -> Vec<Target> {
        let end = self.viommus().into_iter().max().unwrap_or(SMMU) + PAGE;
        vec![
            Target::new("SMMU registers", end + 0x80),
            Target::new("SMMU registers", SMMU + 0x1_00a0),
        ]
    }

    /// The host asks for mappings of what is not its own.
    pub(super) fn forbidden_mappings(
        &mut self,
        device: Actor,
        what: &str,
        targets: &[Target],
    ) -> Result<()> {
        let mut wrong = Vec::new();
        if targets.is_empty() {
            wrong.push("there was nothing to map".to_owned());
        }
        for target in targets {
            let page = target.address & !(PAGE - 1);
            let mark = self.vm.log.mark();
            // Linux 6.12 does not look at the status of such a request.
            self.iommu(&format!("map {page:#x} {page:#x} {BYTES}"))?;
            if !self.refused_mapping(mark, page)? {
                wrong.push(format!("no map_refused of {page:#x} in the log"));
            }
            for access in [Access::Read, Access::Write] {
                wrong.extend(attack::attack(self.vm, self.agent, device, access, target)?);
            }
            self.iommu(&format!("unmap {page:#x} {BYTES}"))?;
        }
        let name = format!("Host maps {what}");
        let tried = format!("{} mappings by a module, then edu DMA", targets.len());
        let good = "all refused and reported, nothing moved";
        self.judge(&name, tried, good, wrong);
        Ok(())
    }

    /// What was unmapped a moment ago is out of reach.
    pub(super) fn just_unmapped(&mut self, device: Actor, page: u64) -> Result<()> {
        let target = Target::new("a page just unmapped", page);
        let mut wrong = Vec::new();
        for access in [Access::Read, Access::Write] {
            // It is in the IOMMU's caches, if there are any.
            let seed = 0xaa10 + access as u64;
            self.agent
                .ask(self.vm, &format!("edu write {page:#x} {seed:#x} 4096"))?;
            if let Err(why) = self.held(&format!("edu check {seed:#x}"))? {
                wrong.push(format!("before: {why}"));
            }
            self.iommu(&format!("unmap {page:#x} {BYTES}"))?;
            wrong.extend(attack::attack(
                self.vm, self.agent, device, access, &target,
            )?);
            if let Err(why) = self.held(&format!("edu check {seed:#x}"))? {
                wrong.push(format!("after: {why}"));
            }
            self.iommu(&format!("map {page:#x} {page:#x} {BYTES}"))?;
        }
        let tried = "edu DMA, unmapping, edu DMA again";
        let good = "blocked and reported at once, page unchanged";
        self.judge("Device uses an unmapped page", tried, good, wrong);
        Ok(())
    }

    /// The CPU uses the pages of registers that it has: no physical one follows.
    pub(super) fn virtio_registers(&mut self) -> Result<()> {
        let mut wrong = Vec::new();
        for viommu in self.viommus() {
            let magic = self.cpu(&format!("poke read {:#x}", viommu + MAGIC))?;
            if magic != MAGIC_VALUE {
                wrong.push(format!(
                    "the first register at {viommu:#x} holds {magic:#x}"
                ));
            }
        }
        let at = SMMU + DRIVER_FEATURES;
        let physical = self.vm.memory(at, 4)?;
        self.cpu(&format!("poke write {at:#x} 0"))?;
        if self.vm.memory(at, 4)? != physical {
            wrong.push("the host wrote the physical CR0".to_owned());
        }
        let tried = "a read and a write by /dev/mem";
        let good = "a virtio device; the physical registers stay";
        self.judge("CPU uses the virtio-iommu", tried, good, wrong);
        Ok(())
    }

    /// A mapping of the hypervisor's memory is refused with a status that the
    /// host's kernel passes on. Leaves the edu device without mappings.
    pub(super) fn refused_with_status(&mut self, memory: &[Target], own: u64) -> Result<()> {
        let mut wrong = Vec::new();
        // The control: the same with a page of the host's.
        if let Err(why) = self.asked(&format!("try {own:#x} {BYTES}"))? {
            wrong.push(format!("the host's own page: {why}"));
        }
        if memory.is_empty() {
            wrong.push("there was nothing to map".to_owned());
        }
        for target in memory {
            let page = target.address & !(PAGE - 1);
            let mark = self.vm.log.mark();
            if self.asked(&format!("try {page:#x} {BYTES}"))?.is_ok() {
                wrong.push(format!("the kernel has a mapping of {page:#x}"));
            }
            if !self.refused_mapping(mark, page)? {
                wrong.push(format!("no map_refused of {page:#x} in the log"));
            }
        }
        let tried = format!("{} domains of a module with such a page", memory.len());
        let good = "the kernel gets an error each time";
        self.judge("Host is told what was refused", tried, good, wrong);
        Ok(())
    }

    /// The host resets its virtio-iommus, with its disk and network unbound, as Linux
    /// does when it shuts down: devices go on with what is mapped, and nothing else. Then
    /// another driver agrees on features with each: all mappings are gone.
    pub(super) fn reset(&mut self, device: Actor, own: u64, memory: &[Target]) -> Result<()> {
        let unbind = "for n in nvme e1000e; do for d in /sys/bus/pci/drivers/$n/0*; do \
                      echo ${d##*/} > /sys/bus/pci/drivers/$n/unbind; done; done";
        self.shell(unbind)?;
        let mut wrong = Vec::new();
        let viommus = self.viommus();
        for viommu in &viommus {
            self.cpu(&format!("poke write {:#x} 0", viommu + STATUS))?;
        }
        for target in memory {
            for access in [Access::Read, Access::Write] {
                wrong.extend(attack::attack(self.vm, self.agent, device, access, target)?);
            }
        }
        let driver = [
            (STATUS, ACKNOWLEDGE | DRIVER),
            (DRIVER_FEATURES_SEL, 1),
            (DRIVER_FEATURES, VERSION_1),
            (STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK),
        ];
        for viommu in &viommus {
            for (register, value) in driver {
                self.cpu(&format!("poke write {:#x} {value}", viommu + register))?;
            }
        }
        let device = match device {
            Actor::Device { stream } => Actor::Blocked { stream },
            other => other,
        };
        let own = Target::new("a page of the host's", own);
        for target in memory.iter().chain([&own]) {
            for access in [Access::Read, Access::Write] {
                wrong.extend(attack::attack(self.vm, self.agent, device, access, target)?);
            }
        }
        let tried = format!("{} accesses by edu DMA", memory.len() * 4 + 2);
        let good = "all blocked and reported; then the host's page, too";
        self.judge("Host resets its virtio-iommu", tried, good, wrong);
        Ok(())
    }

    /// Whether the hypervisor reports from line `mark` of its log on that it
    /// refused to map the page at `page`.
    fn refused_mapping(&self, mark: usize, page: u64) -> Result<bool> {
        let reported = self
            .vm
            .wait_event(mark, "a report", REPORT_TIMEOUT, |event| {
                let at = event.number("address");
                event.kind() == "map_refused"
                    && at.is_some_and(|at| (page..page + PAGE).contains(&at))
            });
        match reported {
            Ok(_) => Ok(true),
            Err(Error::Timeout { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks our module for something that it is to get.
    fn iommu(&mut self, command: &str) -> Result<()> {
        self.shell(&format!("for f in {FILE}; do echo {command} > $f; done"))
    }

    /// Asks our module for something; its refusal is a result.
    fn asked(&mut self, command: &str) -> Result<std::result::Result<(), String>> {
        match self.iommu(command) {
            Ok(()) => Ok(Ok(())),
            Err(Error::Agent { message, .. }) => Ok(Err(message)),
            Err(error) => Err(error),
        }
    }

    /// Adds a check that held when nothing is `wrong`.
    fn judge(&mut self, name: &str, tried: impl Into<String>, good: &str, wrong: Vec<String>) {
        let result = match wrong.first() {
            None => Ok(good.to_owned()),
            Some(first) => Err(first.clone()),
        };
        let check = Check::of(name, tried, result);
        self.report.add(check.with("wrong", wrong));
    }
}

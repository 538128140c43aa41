//! What must hold after every step, whatever the host did.

use super::found;
use super::layout::is_host;
use super::world::World;
use crate::finding::Finding;
use gicv3_its::{DeviceId, Event, EventId, Lpi, Report};
use gicv3_model::Caching;

impl World<'_> {
    pub(super) fn check(&mut self) -> Result<(), Finding> {
        // Whatever is under way or may be done at any time is done.
        for _ in 0..4 {
            self.machine.gic.step();
        }
        self.machine.check_accesses();
        if let Some(finding) = *self.machine.finding.borrow() {
            return Err(finding);
        }
        if let Some(violation) = self.machine.gic.take_violations().first() {
            return Err(found(format!("UNPREDICTABLE: {violation}")));
        }
        let refused = self.machine.gic.take_refused();
        let refused = refused
            .iter()
            .find(|refused| !self.broken.contains(&refused.its));
        if let Some(refused) = refused {
            return Err(found(format!("EL2 sent what is an error: {refused:x?}")));
        }
        self.check_reports()?;
        self.check_mappings()?;
        self.check_priorities()
    }

    fn check_reports(&self) -> Result<(), Finding> {
        for report in &self.reports {
            let (right, its) = match *report {
                Report::Failed { its, .. } => (self.broken.contains(&its), its),
                Report::ForeignDevice { its, device } => (!is_host(device.0), its),
                Report::NoMemory { its, device, .. } => (is_host(device.0), its),
            };
            if !right || its >= self.units {
                return Err(found(format!("wrong report: {report:?}")));
            }
        }
        Ok(())
    }

    /// What the physical ITSs have mapped is what the emulation says.
    fn check_mappings(&self) -> Result<(), Finding> {
        for its in 0..self.units {
            for (device, event, lpi) in self.machine.gic.mapped(its) {
                let host = lpi >= 8192 && lpi - 8192 < self.count.host;
                if !is_host(device) || !host {
                    let text = format!("ITS {its}: device {device:#x} event {event:#x} is {lpi}");
                    return Err(found(format!("{text}, which is not the host's")));
                }
                let row = self.emulator.row(Lpi(lpi));
                let named = Event {
                    device: DeviceId(device),
                    event: EventId(event),
                };
                let right = row.is_some_and(|row| {
                    let (_, _, cpu) = self
                        .machine
                        .gic
                        .mapping(its, device, event)
                        .unwrap_or_default();
                    let at = row.at.map(|at| usize::from(at.0));
                    usize::from(row.its) == its && row.event == named && at == cpu
                });
                if !right && !self.broken.contains(&its) {
                    let text = format!("ITS {its}: device {device:#x} event {event:#x} is {lpi}");
                    return Err(found(format!("{text}, and the table says {row:?}")));
                }
            }
        }
        for lpi in self.emulator.mapped() {
            let Some(row) = self.emulator.row(lpi) else {
                return Err(found(format!("{lpi} is mapped from nothing")));
            };
            let its = usize::from(row.its);
            if row.at.is_none() || self.broken.contains(&its) || self.begun.contains(&its) {
                continue;
            }
            let Event { device, event } = row.event;
            let mapping = self.machine.gic.mapping(its, device.0, event.0);
            if mapping.is_none_or(|(physical, ..)| physical != lpi.0) {
                let text = format!("{lpi} is {row:?}, and the ITS has {mapping:?}");
                return Err(found(text));
            }
        }
        Ok(())
    }

    /// What could interrupt a CPU now.
    fn check_priorities(&self) -> Result<(), Finding> {
        for cpu in 0..self.cpus {
            let on = self.rd_on.contains(&cpu) || self.begun_rd.contains(&cpu);
            for (lpi, priority) in self.machine.gic.pending(cpu) {
                let Some(priority) = priority else { continue };
                if priority < 0x10 {
                    return Err(found(format!("{lpi} has the priority {priority:#x}")));
                }
                // An ITS that is broken invalidates nothing any more, and one that
                // caches may send where an event was until a SYNC that only a
                // stock driver remembers.
                let sure = self.stock || self.machine.gic.profile().caching == Caching::None;
                if !on && sure && self.broken.is_empty() {
                    return Err(found(format!(
                        "{lpi} interrupts CPU {cpu}, whose LPIs are off"
                    )));
                }
                if lpi - 8192 >= self.count.host {
                    return Err(found(format!("{lpi} is not the host's")));
                }
            }
        }
        Ok(())
    }
}

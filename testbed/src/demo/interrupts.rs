//! The interrupt controller's own reads and writes of memory, which pass no
//! SMMU: a second, short machine whose host is a kernel that does nothing but
//! aim them at the hypervisor's memory.
//!
//! It runs twice: under the image of the demonstration, where a success would be
//! seen by what it leads to, and under one that says whether any of its memory
//! has changed.

use crate::build;
use crate::check::Check;
use crate::hostile::{Outcome, Said};
use crate::machine::{self, Boot, Machine};
use crate::progress::Progress;
use crate::setup::Lab;
use crate::{Error, Result};
use std::path::Path;

/// Checks of the kernel's that make one for a newcomer.
struct Group {
    name: &'static str,
    tried: &'static str,
    good: &'static str,
    /// Names of the checks that have to be there, or what they start with.
    checks: &'static [&'static str],
    /// Names of checks that are only there when something is wrong.
    bad: &'static [&'static str],
}

const GROUPS: [Group; 6] = [
    Group {
        name: "GIC writes hypervisor memory",
        tried: "11 uses of tables that point there",
        good: "memory unchanged",
        checks: &[
            "device_table",
            "device_table_of_two_levels",
            "collection_table",
            "collection_table_of_two_levels",
            "translation_table",
            "translation_table_discard",
            "processor_table",
            "virtual_pending_table",
            "virtual_tables_of_the_redistributor",
            "pending_table",
            "redistributor_registers",
        ],
        bad: &[],
    },
    Group {
        name: "GIC reads hypervisor memory",
        tried: "queue and LPI tables that are there",
        good: "nothing learnt, memory unchanged",
        checks: &[
            "command_queue_in_pool",
            "command_queue_in_image",
            "pending_table_in_image",
            "bits_learnt_from_pending_table",
            "configuration_in_image",
            "bytes_learnt_from_configuration",
        ],
        bad: &[],
    },
    Group {
        name: "GIC writes the CPU's page tables",
        tried: "an entry in every page of the pool",
        good: "no memory opened, EL2 not reached",
        checks: &["image_is_out_of_reach", "device_table_opens_a_window"],
        bad: &["code_runs_at_el2", "device_table_everywhere"],
    },
    Group {
        name: "GIC is told nonsense",
        tried: "all commands, odd accesses, too many",
        good: "all answered, memory unchanged",
        checks: &[
            "commands_of_all_codes",
            "commands_without_answer",
            "mapped_twice",
            "tables_change_while_on",
            "forged_tables",
            "queue_ends",
            "too_many_devices",
            "control_frame",
            "identity",
        ],
        bad: &[],
    },
    Group {
        name: "CPU raises a device's interrupt",
        tried: "writes of the ITS's message register",
        good: "no interrupt came",
        checks: &["frames_for_messages", "interrupt_as_if_from_a_device"],
        bad: &[],
    },
    Group {
        name: "Interrupts arrive",
        tried: "what a driver asks of an ITS",
        good: "each came where and when it should",
        checks: &["honest_set_up", "honest_int", "honest_discarded"],
        bad: &["honest_", "second_cpu"],
    },
];

impl Group {
    /// Whether a check of the kernel's belongs here.
    fn has(&self, name: &str) -> bool {
        self.checks.contains(&name) || self.bad.iter().any(|start| name.starts_with(start))
    }

    /// What both runs say of it.
    fn judge(&self, runs: &[(&str, &Said)]) -> Check {
        let mut count = 0;
        for (image, said) in runs {
            if let Some(wrong) = said.with(Outcome::Wrong).find(|name| self.has(name)) {
                let what = format!("{wrong} with {image}");
                return Check::failed(self.name, self.tried, what);
            }
            let missing = |name: &&&str| !said.checks.iter().any(|check| check.name == **name);
            if let Some(name) = self.checks.iter().find(missing) {
                let what = format!("{name} was not tried with {image}");
                return Check::failed(self.name, self.tried, what);
            }
            count += said.with(Outcome::Ok).filter(|name| self.has(name)).count();
        }
        Check::held(self.name, self.tried, self.good).with("seen", count)
    }
}

/// Attacks on a machine like `like`, with the mode that its hypervisor has.
///
/// # Errors
///
/// Any [`Error`] that keeps a machine from running to its end.
pub(super) fn attack(lab: &Lab, like: &Machine, name: &str) -> Result<Vec<Check>> {
    let Boot::Portcullis {
        image, arguments, ..
    } = &like.boot
    else {
        let what = "a machine without hypervisor";
        return Err(Error::unsuitable(what, "run it under one"));
    };
    let kernel = build::hostile_its(lab)?;
    let watched = build::watched_hypervisor(lab)?;
    let progress = Progress::spinner("the interrupt controller attacks");
    let machine = |image: &Path| {
        let mut machine = Machine::new(machine::kernel_alone(image, arguments, &kernel));
        machine.cpus = like.cpus;
        machine.cpu.clone_from(&like.cpu);
        machine.memory.clone_from(&like.memory);
        machine
    };
    let usual = Said::by("its", lab, &machine(image), &format!("{name}-its"))?;
    let digest = Said::by(
        "its",
        lab,
        &machine(&watched),
        &format!("{name}-its-digest"),
    )?;
    progress.done();
    let runs = [("the usual image", &usual), ("the watched image", &digest)];
    let mut checks: Vec<_> = GROUPS.iter().map(|group| group.judge(&runs)).collect();
    // The watched image sees all that there is to see.
    let unseen = digest.with(Outcome::Unseen).next();
    let broken = runs.iter().find(|(_, said)| !said.finished);
    let failure = match (broken, unseen) {
        (Some((image, said)), _) => Some(format!("{image} did not live on\n{}", said.tails)),
        (None, Some(name)) => Some(format!("{name} could not be seen")),
        (None, None) => None,
    };
    if let Some(what) = failure {
        checks.push(Check::failed(
            "Interrupt attacks end",
            "both machines",
            what,
        ));
    }
    Ok(checks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostile;

    fn said(outcome: impl Fn(&str) -> Outcome) -> Said {
        let names = GROUPS.iter().flat_map(|group| group.checks);
        let checks = names.map(|name| hostile::Check {
            name: (*name).to_owned(),
            outcome: outcome(name),
        });
        Said {
            checks: checks.collect(),
            lines: Vec::new(),
            finished: true,
            events: Vec::new(),
            tails: String::new(),
        }
    }

    fn failed(said: &Said) -> Vec<&'static str> {
        let judged = GROUPS
            .iter()
            .map(|group| (group.name, group.judge(&[("it", said)])));
        let failed = judged.filter(|(_, check)| !check.held);
        failed.map(|(name, _)| name).collect()
    }

    #[test]
    fn a_check_that_is_wrong_or_missing_fails_its_group_alone() {
        let good = said(|_| Outcome::Ok);
        assert!(failed(&good).is_empty());
        for group in &GROUPS {
            for name in group.checks {
                let wrong = said(|check| match check == *name {
                    true => Outcome::Wrong,
                    false => Outcome::Ok,
                });
                assert_eq!(failed(&wrong), [group.name], "{name}");
                let mut missing = said(|_| Outcome::Ok);
                missing.checks.retain(|check| check.name != *name);
                assert_eq!(failed(&missing), [group.name], "{name}");
            }
            for name in group.bad {
                let mut bad = said(|_| Outcome::Ok);
                bad.checks.push(hostile::Check {
                    name: format!("{name}x"),
                    outcome: Outcome::Wrong,
                });
                assert_eq!(failed(&bad), [group.name], "{name}");
            }
        }
    }
}

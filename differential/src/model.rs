//! A case on the model.

use crate::case::{Access, Case, Seen, Step, new_records};
use crate::layout;
use crate::machine::DEVICES;
use smmuv3_model::{Mode, Profile, Refusal, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};
use std::collections::BTreeMap;

/// What a step gave on the model.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What can be seen.
    pub seen: Seen,
    /// Where memory is to be looked at after a write.
    pub probe: Option<u64>,
    /// Why an access was refused, or that it could not be tried.
    pub refusal: Option<Refusal>,
    /// What a read gave is not compared: memory that QEMU may have written by
    /// mistake in an earlier case, and that nobody cleans.
    pub unclean: bool,
    /// A write that would change what tables are made of: it is left out.
    pub skip: bool,
}

/// The model with a case in it.
pub struct Model<'a> {
    case: &'a Case,
    smmu: Smmu,
    data: BTreeMap<u64, u32>,
    produced: u32,
    commands: u32,
}

impl<'a> Model<'a> {
    /// An SMMU that is set up for `case` and enabled.
    #[must_use]
    pub fn new(case: &'a Case) -> Self {
        let mut smmu = Smmu::new(Profile::qemu(), [layout::RAM], Mode::Plain, []);
        for (at, word) in &case.words {
            smmu.ram_mut().settle(*at, *word);
        }
        smmu.write64(reg::STRTAB_BASE, case.table);
        smmu.write32(reg::STRTAB_BASE_CFG, case.table_config);
        smmu.write32(reg::CR2, case.cr2);
        smmu.write64(reg::CMDQ_BASE, layout::CMDQ | u64::from(case.command_log2));
        smmu.write64(
            reg::EVENTQ_BASE,
            layout::EVENTQ | u64::from(case.event_log2),
        );
        smmu.write32(reg::CMDQ_PROD, case.command_start);
        smmu.write32(reg::CMDQ_CONS, case.command_start);
        smmu.write32(reg::EVENTQ_PROD, case.event_start);
        smmu.write32(reg::EVENTQ_CONS, case.event_start);
        smmu.write32(reg::CR0, 0b1101);
        Self {
            case,
            smmu,
            data: BTreeMap::new(),
            produced: case.event_start,
            commands: case.command_start,
        }
    }

    /// Does one step.
    pub fn step(&mut self, step: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        match step {
            Step::Access(access) => self.access(access, &mut outcome),
            Step::Store(words) => {
                for (at, word) in words {
                    self.smmu.ram_mut().settle(*at, *word);
                }
            }
            Step::Commands(commands) => {
                let mask = (2 << self.case.command_log2) - 1;
                for command in commands {
                    let at = layout::CMDQ + u64::from(self.commands & (mask >> 1)) * 16;
                    self.smmu.ram_mut().settle(at, command[0]);
                    self.smmu.ram_mut().settle(at + 8, command[1]);
                    self.commands = (self.commands + 1) & mask;
                }
                self.smmu.write32(reg::CMDQ_PROD, self.commands);
            }
            Step::Acknowledge => {
                let errors = self.smmu.read32(reg::GERROR);
                self.smmu.write32(reg::GERRORN, errors);
            }
        }
        let seen = &mut outcome.seen;
        seen.produced = self.smmu.read32(reg::EVENTQ_PROD);
        for at in new_records(self.produced, seen.produced, self.case.event_log2) {
            let word = |offset| self.smmu.load(at + offset).unwrap_or(0);
            seen.events.push([word(0), word(8), word(16), word(24)]);
        }
        self.produced = seen.produced;
        if self.case.drain {
            self.smmu.write32(reg::EVENTQ_CONS, seen.produced);
        }
        seen.consumed = self.smmu.read32(reg::CMDQ_CONS);
        seen.errors = self.smmu.read32(reg::GERROR) ^ self.smmu.read32(reg::GERRORN);
        outcome
    }

    fn access(&mut self, access: &Access, outcome: &mut Outcome) {
        let kind = match access.write {
            Some(_) => smmuv3_model::Access::Write,
            None => smmuv3_model::Access::Read,
        };
        let stream = StreamId(DEVICES[access.device].stream);
        let result = self
            .smmu
            .translate(Transaction::new(stream, access.address, kind));
        outcome.probe = access.lands;
        match (result, access.write) {
            (Ok(at), None) => {
                let known = [layout::RAM.start..layout::STREAMS.end, layout::TABLES];
                let known = known.iter().any(|range| range.contains(&at));
                outcome.unclean = !known && !layout::is_data(at);
                outcome.seen.data = Some(self.look(at));
            }
            (Err(_), None) => outcome.seen.data = Some(0),
            (Ok(at), Some(value)) if layout::is_data(at) => {
                self.data.insert(at, value);
                outcome.probe = Some(at);
            }
            // Beyond memory a write goes nowhere.
            (Ok(at), Some(_)) => outcome.skip = self.smmu.load(at & !7).is_some(),
            (Err(_), Some(_)) => {}
        }
        if access.write.is_some() {
            outcome.seen.data = outcome.probe.map(|at| self.look(at));
        }
        outcome.refusal = result.err();
    }

    /// 32 bits of memory; 0 where there is none.
    fn look(&self, at: u64) -> u32 {
        if layout::is_data(at) {
            return self
                .data
                .get(&at)
                .copied()
                .unwrap_or_else(|| layout::initial(at));
        }
        let word = self.smmu.load(at & !7).unwrap_or(0);
        (word >> (8 * (at & 4))) as u32
    }
}

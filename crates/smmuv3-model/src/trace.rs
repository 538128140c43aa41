//! A walk step by step, the way an engineer would draw it.

use crate::cd::{BadCd, Context, World};
use crate::context::{CdFormat, CdTable};
use crate::dma::Transaction;
use crate::smmu::Smmu;
use crate::stage1::{Half, Stage1Meaning};
use crate::stage2::{Access, Meaning};
use crate::stream::Plan;
use crate::translate::Ending;
use crate::walk::Walk;
use crate::words;
use smmuv3_spec::cd::Cd;
use smmuv3_spec::ste::Ste;
use std::fmt;

/// One thing that the SMMU looked at on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// 0, or 1 within the stage 2 translation of an address of stage 1.
    pub depth: usize,
    /// What it is: `STE`, `CD`, `S1 L2` and so on.
    pub what: String,
    /// Its physical address; the IPA where `raw` is empty.
    pub address: Option<u64>,
    /// Its words, without zeros at the end.
    pub raw: Vec<u64>,
    /// What they mean.
    pub meaning: String,
}

/// The way of a transaction, without any effect on the SMMU or its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The transaction.
    pub transaction: Transaction,
    /// What was looked at, in order.
    pub steps: Vec<Step>,
    /// Where it ends, in words.
    pub outcome: String,
}

impl Smmu {
    /// The way that a transaction would take now, by the very same walk as
    /// [`translate`](Self::translate). Nothing is recorded or updated.
    #[must_use]
    pub fn trace(&self, transaction: Transaction) -> Trace {
        let mut walk = Walk::recording(self);
        let result = walk.attempt(&transaction);
        let outcome = match &result {
            Ok(at) => format!("output {at:#x}"),
            Err(Ending::Abort(None)) => "aborted, no event".to_owned(),
            Err(Ending::Abort(Some(event))) => {
                format!("aborted with {}", words::say(event))
            }
            Err(Ending::Zero(None)) => "reads zero or is not written, no event".to_owned(),
            Err(Ending::Zero(Some(event))) => {
                format!("reads zero or is not written, {}", words::say(event))
            }
            Err(Ending::Stall(event)) => format!("stalled with {}", words::say(event)),
            Err(Ending::NotModelled) => "VMSAv8-32 is not modelled".to_owned(),
        };
        Trace {
            transaction,
            steps: walk.steps.take().unwrap_or_default(),
            outcome,
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.transaction;
        write!(f, "stream {}", t.stream)?;
        if let Some(substream) = t.substream {
            write!(f, ", substream {substream:#x}")?;
        }
        let access = match t.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Execute => "instruction fetch",
        };
        let who = if t.privileged { "privileged " } else { "" };
        writeln!(f, ": {who}{access} at {:#x}", t.address)?;
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        write!(f, "=> {}", self.outcome)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let indent = 2 + 4 * self.depth;
        write!(f, "{:indent$}{:<9}", "", self.what)?;
        if let Some(address) = self.address {
            write!(f, " {address:#014x}")?;
        }
        if let Some(first) = self.raw.first() {
            write!(f, ": {first:#018x}")?;
        }
        if !self.meaning.is_empty() {
            write!(f, "  {}", self.meaning)?;
        }
        // The other words of a structure are below the first.
        for word in self.raw.iter().skip(1) {
            write!(f, "\n{:width$}{word:#018x}", "", width = indent + 26)?;
        }
        Ok(())
    }
}

impl Step {
    fn new(what: impl Into<String>, address: u64, raw: &[u64], meaning: String) -> Self {
        let last = raw.iter().rposition(|word| *word != 0).unwrap_or(0);
        Self {
            depth: 0,
            what: what.into(),
            address: Some(address),
            raw: raw.iter().take(last + 1).copied().collect(),
            meaning,
        }
    }

    pub(crate) fn at_depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    pub(crate) fn l1std(at: u64, word: u64, behind: Option<u64>) -> Self {
        Self::new("L1STD", at, &[word], points(behind, "an STE"))
    }

    pub(crate) fn l1cd(at: u64, word: u64, behind: Option<u64>) -> Self {
        Self::new("L1CD", at, &[word], points(behind, "a CD"))
    }

    pub(crate) fn ste(at: u64, ste: &Ste, plan: &Plan) -> Self {
        let meaning = match plan {
            Plan::Abort => "abort, no event".to_owned(),
            Plan::Bad => "invalid or ILLEGAL".to_owned(),
            Plan::NotModelled => "VMSAv8-32".to_owned(),
            Plan::Bypass => "bypass".to_owned(),
            Plan::Stage1 { cds } => format!("stage 1: {}", table(cds)),
            Plan::Stage2(s2) => format!(
                "stage 2: VMID {:#x}, {} bits from level {}, root {:#x}",
                s2.vmid, s2.input_bits, s2.start, s2.root
            ),
            Plan::Nested { cds, stage2: s2 } => format!(
                "nested: {}; VMID {:#x}, {} bits from level {}, root {:#x}",
                table(cds),
                s2.vmid,
                s2.input_bits,
                s2.start,
                s2.root
            ),
        };
        Self::new("STE", at, &ste.0, meaning)
    }

    pub(crate) fn cd(at: u64, cd: &Cd, context: &Result<Context, BadCd>) -> Self {
        let meaning = match context {
            Err(why) => format!("ILLEGAL: {why}"),
            Ok(context) => {
                let half = |half: &Option<Half>| match half {
                    Some(half) => format!("{} bits at {:#x}", half.input_bits, half.root),
                    None => "off".to_owned(),
                };
                let world = match context.world {
                    World::El1 => "EL1",
                    World::El2 => "EL2",
                    World::El2E2h => "EL2 with E2H",
                };
                format!(
                    "{world}, ASID {:#x}, TTB0 {}, TTB1 {}",
                    cd.asid(),
                    half(&context.lower),
                    half(&context.upper)
                )
            }
        };
        Self::new("CD", at, &cd.0, meaning)
    }

    pub(crate) fn half(address: u64, half: Option<&Half>) -> Self {
        let meaning = match half {
            Some(half) => format!(
                "by {}, from level {}",
                if half.upper { "TTB1" } else { "TTB0" },
                half.start
            ),
            None => "in no range that is walked".to_owned(),
        };
        Self::new("VA", address, &[], meaning)
    }

    pub(crate) fn intermediate(what: &str, ipa: u64) -> Self {
        Self::new(what, ipa, &[], "an IPA, by stage 2:".to_owned())
    }

    pub(crate) fn update(at: u64, new: u64) -> Self {
        Self::new("update", at, &[new], "written by the SMMU".to_owned())
    }

    pub(crate) fn aborted(what: impl Into<String>, at: u64) -> Self {
        Self::new(what, at, &[], "no memory".to_owned())
    }

    pub(crate) fn stage1(level: u32, at: u64, word: u64, meaning: &Stage1Meaning) -> Self {
        let words = words::stage1(meaning);
        Self::new(format!("S1 L{level}"), at, &[word], words)
    }

    pub(crate) fn stage2(level: u32, at: u64, word: u64, meaning: &Meaning) -> Self {
        let words = words::stage2(meaning);
        Self::new(format!("S2 L{level}"), at, &[word], words)
    }
}

fn points(behind: Option<u64>, to: &str) -> String {
    match behind {
        Some(at) => format!("{to} at {at:#x}"),
        None => "leads nowhere".to_owned(),
    }
}

fn table(cds: &CdTable) -> String {
    let layout = match cds.format {
        CdFormat::Linear => "",
        CdFormat::TwoLevel4K => ", two levels of 4 KiB",
        CdFormat::TwoLevel64K => ", two levels of 64 KiB",
    };
    match cds.max {
        0 => format!("CD at {:#x}", cds.pointer),
        max => format!("2^{max} CDs at {:#x}{layout}", cds.pointer),
    }
}

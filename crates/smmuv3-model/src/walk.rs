//! The table walks: stage 2, and stage 1 whose descriptors may be behind stage
//! 2 (IHI 0070, 3.12, 3.13, 7.3.22; DDI 0487, D8).
//!
//! Nothing is written here: what the SMMU would write to descriptors (access
//! flags and dirty state) is collected, and made so by whoever asked. That way
//! a trace is the same walk as a transaction's.

use crate::cd::World;
use crate::fetch::Fetches;
use crate::smmu::Smmu;
use crate::stage1::{Half, Limits, Stage1Leaf, Stage1Meaning};
use crate::stage2::{Access, LeafEntry, Meaning, Regime};
use crate::trace::Step;
use smmuv3_spec::event::{Class, EventKind};

/// Access flag of a descriptor of either stage.
const AF: u64 = 1 << 10;
/// AP[2] of a stage 1 descriptor: read-only.
const AP2: u64 = 1 << 7;
/// S2AP[1] of a stage 2 descriptor: writable.
const S2AP1: u64 = 1 << 7;

/// What went wrong in a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: EventKind,
    /// Stage 2 faulted.
    pub(crate) stage2: bool,
    /// What was being accessed.
    pub(crate) class: Class,
    /// The IPA that stage 2 refused.
    pub(crate) ipa: u64,
    /// Physical address of a descriptor that could not be read.
    pub(crate) fetch: Option<u64>,
    /// A descriptor was to be read, not updated.
    pub(crate) read: bool,
}

/// What an access is, once the entry's overrides are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) access: Access,
    pub(crate) privileged: bool,
    pub(crate) class: Class,
}

impl Request {
    /// The SMMU's own read of a structure: data, privileged (13.1.2).
    pub(crate) const fn own(class: Class) -> Self {
        Self {
            access: Access::Read,
            privileged: true,
            class,
        }
    }
}

/// A descriptor that the SMMU writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) at: u64,
    pub(crate) old: u64,
    pub(crate) new: u64,
}

/// One transaction's way through the tables.
pub(crate) struct Walk<'a> {
    pub(crate) smmu: &'a Smmu,
    pub(crate) updates: Vec<Update>,
    /// Stage 2 does not translate the output of stage 1: split-stage ATS.
    pub(crate) split: bool,
    /// What was looked at, for those who want to know.
    pub(crate) steps: Option<Vec<Step>>,
    /// What was read, likewise.
    pub(crate) fetches: Option<Fetches>,
    depth: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(smmu: &'a Smmu) -> Self {
        Self {
            smmu,
            updates: Vec::new(),
            split: false,
            steps: None,
            fetches: None,
            depth: 0,
        }
    }

    pub(crate) fn recording(smmu: &'a Smmu) -> Self {
        Self {
            steps: Some(Vec::new()),
            ..Self::new(smmu)
        }
    }

    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.steps {
            steps.push(step().at_depth(self.depth));
        }
    }

    /// What the SMMU reads at `at`, its own updates included.
    pub(crate) fn load(&self, at: u64) -> Option<u64> {
        let own = self.updates.iter().rev().find(|update| update.at == at);
        match own {
            Some(update) => Some(update.new),
            None => self.smmu.ram.views(at).map(|(seen, _)| seen),
        }
    }

    fn update(&mut self, at: u64, old: u64, new: u64) {
        self.updates.push(Update { at, old, new });
        self.note(|| Step::update(at, new));
    }

    /// Where a structure of stage 1 lies: behind stage 2, if there is one. The
    /// steps of that are one deeper.
    pub(crate) fn locate(
        &mut self,
        what: &str,
        address: u64,
        stage2: Option<&Regime>,
        request: Request,
    ) -> Result<u64, Fault> {
        let Some(regime) = stage2 else {
            return Ok(address);
        };
        self.note(|| Step::intermediate(what, address));
        self.depth += 1;
        let result = self.stage2(regime, address, request);
        self.depth -= 1;
        result
    }

    /// Stage 2, with the priority of faults that 7.3.22 gives.
    pub(crate) fn stage2(
        &mut self,
        regime: &Regime,
        ipa: u64,
        request: Request,
    ) -> Result<u64, Fault> {
        let fault = |kind| Fault {
            read: request.access != Access::Write,
            ..of_stage2(kind, ipa, request.class)
        };
        let (leaf, at, word) = self.stage2_leaf(regime, ipa, request.class)?;
        if !leaf.accessed && !regime.ha {
            return Err(fault(EventKind::F_ACCESS));
        }
        // S2PTW: the SMMU's own accesses may not touch devices (5.2).
        let protected = request.class != Class::IN && regime.ptw && leaf.device;
        if protected || !leaf.allows(request.access, request.privileged) {
            return Err(fault(EventKind::F_PERMISSION));
        }
        let mut descriptor = regime.order(word);
        if !leaf.accessed {
            descriptor |= AF;
        }
        if request.access == Access::Write && !leaf.write {
            descriptor |= S2AP1;
        }
        let new = regime.order(descriptor);
        if new != word {
            self.update(at, word, new);
        }
        Ok(leaf.output | ipa & (leaf.size - 1))
    }

    /// The block or page of an IPA, where its descriptor is, and its value.
    fn stage2_leaf(
        &mut self,
        regime: &Regime,
        ipa: u64,
        class: Class,
    ) -> Result<(LeafEntry, u64, u64), Fault> {
        let fault = |kind| of_stage2(kind, ipa, class);
        if ipa >> regime.input_bits != 0 {
            return Err(fault(EventKind::F_TRANSLATION));
        }
        let mut table = regime.root;
        for level in regime.start..4 {
            let index = (ipa >> regime.shift(level)) % regime.entries(level);
            let at = table + index * 8;
            let Some(word) = self.load(at) else {
                self.note(|| Step::aborted(format!("S2 L{level}"), at));
                return Err(Fault {
                    fetch: Some(at),
                    ..fault(EventKind::F_WALK_EABT)
                });
            };
            let meaning = regime.meaning(word, level);
            self.note(|| Step::stage2(level, at, word, &meaning));
            self.fetch_stage2(regime, (ipa, level, class), at, &meaning);
            match meaning {
                Meaning::Invalid => break,
                Meaning::AddressSize => return Err(fault(EventKind::F_ADDR_SIZE)),
                Meaning::Leaf(leaf) => return Ok((leaf, at, word)),
                Meaning::Table(next) => table = next,
            }
        }
        Err(fault(EventKind::F_TRANSLATION))
    }

    /// Stage 1: an IPA, or the physical address where there is no stage 2.
    pub(crate) fn stage1(
        &mut self,
        half: &Half,
        stage2: Option<&Regime>,
        address: u64,
        request: Request,
    ) -> Result<u64, Fault> {
        // At EL2 everything is privileged (13.4.1).
        let privileged = request.privileged || half.world == World::El2;
        if half.e0pd && !privileged {
            return Err(of_stage1(EventKind::F_TRANSLATION));
        }
        let offset = half.offset(address);
        let mut table = half.root;
        let mut limits = Limits::default();
        for level in half.start..4 {
            let index = (offset >> half.shift(level)) % half.entries(level);
            let from = table + index * 8;
            let own = Request::own(Class::TTD);
            let what = ["S1 L0", "S1 L1", "S1 L2", "S1 L3"][level.min(3) as usize];
            let at = self.locate(what, from, stage2, own)?;
            let Some(word) = self.load(at) else {
                self.note(|| Step::aborted(what, at));
                return Err(Fault {
                    fetch: Some(at),
                    class: Class::TTD,
                    ..of_stage1(EventKind::F_WALK_EABT)
                });
            };
            let meaning = half.meaning(word, level);
            self.note(|| Step::stage1(level, at, word, &meaning));
            self.fetch_stage1(half, (address, level), at, &meaning);
            match meaning {
                Stage1Meaning::Invalid => break,
                Stage1Meaning::AddressSize => return Err(of_stage1(EventKind::F_ADDR_SIZE)),
                Stage1Meaning::Table {
                    address,
                    limits: more,
                } => {
                    table = address;
                    limits = limits.and(more);
                }
                Stage1Meaning::Leaf(leaf) => {
                    if !leaf.accessed && !half.ha {
                        return Err(of_stage1(EventKind::F_ACCESS));
                    }
                    let rights = half.rights(&leaf, limits);
                    if !rights.allow(request.access, privileged) {
                        return Err(of_stage1(EventKind::F_PERMISSION));
                    }
                    let place = Place { from, at, word };
                    self.flags(half, stage2, &leaf, place, request.access)?;
                    return Ok(leaf.output | offset & (leaf.size - 1));
                }
            }
        }
        Err(of_stage1(EventKind::F_TRANSLATION))
    }

    /// Updates a stage 1 descriptor: a write, which stage 2 has to allow
    /// (3.13.5).
    fn flags(
        &mut self,
        half: &Half,
        stage2: Option<&Regime>,
        leaf: &Stage1Leaf,
        place: Place,
        access: Access,
    ) -> Result<(), Fault> {
        let Place { from, at, word } = place;
        let mut descriptor = half.order(word);
        if !leaf.accessed {
            descriptor |= AF;
        }
        if access == Access::Write && leaf.read_only {
            descriptor &= !AP2;
        }
        let new = half.order(descriptor);
        if new == word {
            return Ok(());
        }
        let write = Request {
            access: Access::Write,
            ..Request::own(Class::TTD)
        };
        self.locate("S1 update", from, stage2, write)?;
        // The descriptor may lie in a table of stage 2 that this changed.
        let old = self.load(at).unwrap_or(word);
        let changed = old ^ word;
        self.update(at, old, new ^ changed);
        Ok(())
    }
}

/// A stage 1 descriptor: where stage 1 says, where it is, its value.
struct Place {
    from: u64,
    at: u64,
    word: u64,
}

fn of_stage2(kind: EventKind, ipa: u64, class: Class) -> Fault {
    Fault {
        kind,
        stage2: true,
        class,
        ipa,
        fetch: None,
        read: true,
    }
}

/// A fault of stage 1 is always of the input address, but for an abort (7.3.12).
pub(crate) fn of_stage1(kind: EventKind) -> Fault {
    Fault {
        kind,
        stage2: false,
        class: Class::IN,
        ipa: 0,
        fetch: None,
        read: true,
    }
}

impl Smmu {
    /// What a walk of what the SMMU sees for certain gives, if anything.
    pub(crate) fn peek(&self, regime: &Regime, address: u64) -> Option<LeafEntry> {
        let found = Walk::new(self).stage2_leaf(regime, address, Class::IN);
        found.ok().map(|(leaf, ..)| leaf)
    }
}

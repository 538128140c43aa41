//! From a transaction to its output address or its end: configuration first,
//! then the walks (IHI 0070, 3.3, 3.4, 5.5, 7.3.22, chapter 15).

use crate::cd::{BadCd, Context};
use crate::context::{CdPlace, CdTable, Choice};
use crate::dma::Transaction;
use crate::fault_record;
use crate::fetch::Fetched;
use crate::stage2::{Access, Regime};
use crate::stream::{Place, Plan};
use crate::trace::Step;
use crate::walk::{Fault, Request, Walk, of_stage1};
use smmuv3_spec::cd::Cd;
use smmuv3_spec::control::{Cr2, Gbpa};
use smmuv3_spec::event::{Class, EventKind, EventRecord};
use smmuv3_spec::ste::Ste;

/// How a transaction ends that does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// An abort, with the event if one is recorded.
    Abort(Option<EventRecord>),
    /// It seems to work: reads give zero, writes are ignored.
    Zero(Option<EventRecord>),
    /// It waits for CMD_RESUME. The record has no STAG yet.
    Stall(EventRecord),
    /// It uses what is not modelled.
    NotModelled,
}

impl Ending {
    fn abort(record: EventRecord) -> Self {
        Self::Abort(Some(record))
    }
}

/// What the stages do with their faults (5.5).
#[derive(Clone, Copy)]
struct OnFault {
    stall: bool,
    record: bool,
    abort: bool,
}

/// A transaction on its way: who, the entry, what it asks for.
struct Way<'t> {
    t: &'t Transaction,
    request: Request,
    stage2_faults: OnFault,
}

impl Way<'_> {
    fn ends(&self, fault: &Fault, on: OnFault) -> Ending {
        let record = fault_record::translation(self.t, self.request, fault);
        // Only the four faults of 5.5 can stall or stay silent.
        if !fault.kind.can_stall() {
            return Ending::abort(record);
        }
        let recorded = on.record.then_some(record);
        match on {
            OnFault { stall: true, .. } => Ending::Stall(record),
            OnFault { abort: true, .. } => Ending::Abort(recorded),
            _ => Ending::Zero(recorded),
        }
    }

    fn stage2(&self, fault: &Fault) -> Ending {
        self.ends(fault, self.stage2_faults)
    }
}

impl Walk<'_> {
    /// Where a transaction gets, or how it ends.
    pub(crate) fn attempt(&mut self, t: &Transaction) -> Result<u64, Ending> {
        let smmu = self.smmu;
        if !smmu.enabled().smmuen() {
            let large = t.address >> smmu.profile.output_bits() != 0;
            if Gbpa::from(smmu.regs.gbpa.acting).abort() || large {
                return Err(Ending::Abort(None));
            }
            return Ok(t.address);
        }
        let ste = self.entry(t)?;
        let way = self.way(&ste, t);
        let plan = Plan::of(&ste, &smmu.profile);
        let bad_substream = || Ending::abort(fault_record::bad_substream(t));
        match plan {
            Plan::Abort => Err(Ending::Abort(None)),
            Plan::Bad => Err(Ending::abort(fault_record::bare(t, EventKind::C_BAD_STE))),
            Plan::NotModelled => Err(Ending::NotModelled),
            Plan::Bypass | Plan::Stage2(_) if t.substream.is_some() => Err(bad_substream()),
            Plan::Bypass => self.no_stage1(&way, None),
            Plan::Stage2(regime) => self.no_stage1(&way, Some(&regime)),
            Plan::Stage1 { cds } => self.stages(&way, &cds, None),
            Plan::Nested { cds, stage2 } => self.stages(&way, &cds, Some(&stage2)),
        }
    }

    /// Where stage 2 alone takes an address that stage 1 gave: split-stage ATS
    /// (3.9.1.3).
    pub(crate) fn second(
        &mut self,
        ste: &Ste,
        regime: &Regime,
        t: &Transaction,
    ) -> Result<u64, Ending> {
        let way = self.way(ste, t);
        self.no_stage1(&way, Some(regime))
    }

    fn way<'t>(&self, ste: &Ste, t: &'t Transaction) -> Way<'t> {
        Way {
            t,
            request: self.request(ste, t),
            stage2_faults: OnFault {
                stall: ste.s2s(),
                record: ste.s2r(),
                abort: true,
            },
        }
    }

    /// The stream table entry of a transaction's stream (3.3.2).
    fn entry(&mut self, t: &Transaction) -> Result<Ste, Ending> {
        let smmu = self.smmu;
        let failed = |at| Ending::abort(fault_record::fetch(t, EventKind::F_STE_FETCH, at));
        let at = match smmu.place(t.stream) {
            Place::Outside => return Err(self.bad_stream(t)),
            Place::At(at) => at,
            Place::Behind { at, .. } => {
                let word = self.word("L1STD", at).ok_or_else(|| failed(at))?;
                let behind = smmu.behind(word, t.stream);
                self.note(|| Step::l1std(at, word, behind));
                self.fetch_config(Fetched::StreamTable, at);
                behind.ok_or_else(|| self.bad_stream(t))?
            }
        };
        let words = self.words("STE", at).ok_or_else(|| failed(at))?;
        let ste = Ste(words);
        self.note(|| Step::ste(at, &ste, &Plan::of(&ste, &smmu.profile)));
        self.fetch_config(Fetched::Ste, at);
        Ok(ste)
    }

    /// The 8 words of a structure.
    fn words(&mut self, what: &str, at: u64) -> Option<[u64; 8]> {
        let mut words = [0; 8];
        for (word, offset) in words.iter_mut().zip((0..).step_by(8)) {
            let value = at.checked_add(offset).and_then(|at| self.load(at));
            *word = self.fetched(what, at, value)?;
        }
        Some(words)
    }

    /// A level 1 descriptor.
    fn word(&mut self, what: &str, at: u64) -> Option<u64> {
        self.fetched(what, at, self.load(at))
    }

    /// Notes a fetch that failed.
    fn fetched(&mut self, what: &str, at: u64, value: Option<u64>) -> Option<u64> {
        if value.is_none() {
            self.note(|| Step::aborted(what, at));
        }
        value
    }

    /// C_BAD_STREAMID, where it is recorded at all (6.3.12, RECINVSID).
    fn bad_stream(&self, t: &Transaction) -> Ending {
        let recorded = Cr2::from(self.smmu.regs.cr2).recinvsid();
        Ending::Abort(recorded.then(|| fault_record::bare(t, EventKind::C_BAD_STREAMID)))
    }

    /// What a transaction asks for, with `PRIVCFG` and `INSTCFG` applied (5.2,
    /// 13.1.2).
    fn request(&self, ste: &Ste, t: &Transaction) -> Request {
        let overrides = self.smmu.profile.idr1.attr_perms_ovr();
        let privileged = match ste.privcfg() {
            0b10 if overrides => false,
            0b11 if overrides => true,
            _ => t.privileged,
        };
        let access = match (t.access, ste.instcfg()) {
            (Access::Write, _) => Access::Write,
            (_, 0b10) if overrides => Access::Read,
            (_, 0b11) if overrides => Access::Execute,
            (access, _) => access,
        };
        Request {
            access,
            privileged,
            class: Class::IN,
        }
    }

    /// Stage 1 is bypassed: an address that is too large is its fault, and
    /// never stalls (3.4, 3.12).
    fn no_stage1(&mut self, way: &Way, stage2: Option<&Regime>) -> Result<u64, Ending> {
        let profile = &self.smmu.profile;
        let bits = match stage2 {
            Some(_) => profile.input_bits(),
            None => profile.output_bits(),
        };
        let address = way.t.address;
        if address >> bits != 0 {
            let fault = of_stage1(EventKind::F_ADDR_SIZE);
            let record = fault_record::translation(way.t, way.request, &fault);
            return Err(Ending::abort(record));
        }
        match stage2 {
            None => Ok(address),
            Some(regime) => self
                .stage2(regime, address, way.request)
                .map_err(|fault| way.stage2(&fault)),
        }
    }

    /// Stage 1, and stage 2 if there is one.
    fn stages(&mut self, way: &Way, cds: &CdTable, stage2: Option<&Regime>) -> Result<u64, Ending> {
        let t = way.t;
        let index = match cds.choose(t.substream) {
            Choice::Index(index) => index,
            Choice::Bypass if self.split => return self.no_stage1(way, None),
            Choice::Bypass => return self.no_stage1(way, stage2),
            Choice::BadSubstream => return Err(Ending::abort(fault_record::bad_substream(t))),
            Choice::Disabled => return Err(Ending::abort(fault_record::disabled(t))),
        };
        let context = self.context(way, cds, index, stage2)?;
        let on_fault = OnFault {
            stall: context.stall,
            record: context.record,
            abort: context.abort,
        };
        let ends = |fault: Fault| {
            if fault.stage2 {
                way.stage2(&fault)
            } else {
                way.ends(&fault, on_fault)
            }
        };
        let half = context.half(t.address);
        self.note(|| Step::half(t.address, half));
        let Some(half) = half else {
            return Err(ends(of_stage1(EventKind::F_TRANSLATION)));
        };
        let output = self
            .stage1(half, stage2, t.address, way.request)
            .map_err(ends)?;
        if self.split {
            return Ok(output);
        }
        self.locate("output", output, stage2, way.request)
            .map_err(ends)
    }

    /// Fetches a context descriptor, through stage 2 if there is one, and
    /// checks it (5.3, 5.4).
    fn context(
        &mut self,
        way: &Way,
        cds: &CdTable,
        index: u32,
        stage2: Option<&Regime>,
    ) -> Result<Context, Ending> {
        let (smmu, t) = (self.smmu, way.t);
        let own = Request::own(Class::CD);
        let failed = |at| Ending::abort(fault_record::fetch(t, EventKind::F_CD_FETCH, at));
        let reach = match stage2 {
            Some(_) => smmu.profile.input_bits(),
            None => smmu.profile.output_bits(),
        };
        let from = match cds.place(index) {
            CdPlace::At(at) => at,
            CdPlace::Behind(from) => {
                let at = self
                    .locate("L1CD", from, stage2, own)
                    .map_err(|fault| way.stage2(&fault))?;
                let word = self.word("L1CD", at).ok_or_else(|| failed(at))?;
                let behind = cds.behind(word, index, reach);
                self.note(|| Step::l1cd(at, word, behind));
                self.fetch_config(Fetched::CdTable, at);
                behind.ok_or_else(|| Ending::abort(fault_record::bad_substream(t)))?
            }
        };
        let at = self
            .locate("CD", from, stage2, own)
            .map_err(|fault| way.stage2(&fault))?;
        let cd = Cd(self.words("CD", at).ok_or_else(|| failed(at))?);
        let e2h = Cr2::from(smmu.regs.cr2).e2h();
        let context = Context::of(&cd, cds, e2h, &smmu.profile);
        self.note(|| Step::cd(at, &cd, &context));
        self.fetch_cd(at, &cd, context.as_ref().ok());
        context.map_err(|why| match why {
            BadCd::NotModelled => Ending::NotModelled,
            _ => Ending::abort(fault_record::bare(t, EventKind::C_BAD_CD)),
        })
    }
}

//! Address translation services: what endpoints ask for, and use (IHI 0070,
//! 3.9, 13.6).

use crate::atc::AtcEntry;
use crate::dma::{Refusal, Transaction};
use crate::misuse::Misuse;
use crate::smmu::Smmu;
use crate::stage2::Access;
use crate::stream::{Place, Plan};
use crate::translate::Ending;
use smmuv3_spec::control::Cr2;
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::ste::{Config, Ste};
use smmuv3_spec::{StreamId, SubstreamId};

/// What an endpoint asks for: always to read, and possibly more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationRequest {
    /// The endpoint.
    pub stream: StreamId,
    /// Its substream, if the request has a PASID.
    pub substream: Option<SubstreamId>,
    /// Any address in the page.
    pub address: u64,
    /// To write, too ("no write" is clear).
    pub write: bool,
    /// To execute, too; only with a substream.
    pub execute: bool,
    /// With privilege; only with a substream.
    pub privileged: bool,
}

/// What an endpoint was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// First address of the range that the endpoint may use as translated.
    pub address: u64,
    /// Bytes of the range.
    pub size: u64,
    /// It may read. Without this and `write` there is no translation.
    pub read: bool,
    /// It may write.
    pub write: bool,
    /// It may execute.
    pub execute: bool,
}

/// The answer to a translation request (3.9.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Success, possibly with no access at all.
    Success(Translation),
    /// Unsupported Request: ATS is off for the stream.
    Unsupported,
    /// Completer Abort: the configuration is broken.
    Aborted,
    /// The stream's configuration is not modelled.
    NotModelled,
}

/// What ATS a valid entry allows (`STE.EATS`, 5.2).
enum Allowed {
    /// None.
    No,
    /// Translated addresses are physical.
    Full,
    /// Translated addresses are IPAs.
    Split,
    /// The entry is ILLEGAL for its EATS.
    Illegal,
}

impl Smmu {
    /// The stream's entry, or the event that says why there is none.
    pub(crate) fn entry(&self, stream: StreamId) -> Result<Ste, EventRecord> {
        let event = EventRecord::default().with_stream_bits(stream.0);
        let failed = |kind: EventKind| event.with_kind_bits(kind.0);
        let unread = |at| failed(EventKind::F_STE_FETCH).with_fetch_address(at);
        let at = match self.place(stream) {
            Place::Outside => return Err(failed(EventKind::C_BAD_STREAMID)),
            Place::At(at) => at,
            Place::Behind { at, .. } => {
                let (word, _) = self.ram.views(at).ok_or_else(|| unread(at))?;
                let behind = self.behind(word, stream);
                behind.ok_or_else(|| failed(EventKind::C_BAD_STREAMID))?
            }
        };
        let mut ste = Ste::default();
        for (word, offset) in ste.0.iter_mut().zip((0..).step_by(8)) {
            let views = self.ram.views(at.wrapping_add(offset));
            *word = views.ok_or_else(|| unread(at))?.0;
        }
        let illegal = matches!(self.allows(&ste), Allowed::Illegal);
        if illegal || matches!(Plan::of(&ste, &self.profile), Plan::Bad) {
            return Err(failed(EventKind::C_BAD_STE));
        }
        Ok(ste)
    }

    fn allows(&self, ste: &Ste) -> Allowed {
        let (idr0, config) = (self.profile.idr0, ste.config());
        if !idr0.ats() || !config.passes() || config == Config::BYPASS {
            return Allowed::No;
        }
        // Of streams without stage 2 the check of S2S is left open; Arm
        // recommends that it is not made.
        let stalls = config.stage2() && ste.s2s();
        match ste.eats() {
            0b01 if stalls => Allowed::Illegal,
            0b01 => Allowed::Full,
            0b10 if config != Config::NESTED || stalls || idr0.ns1ats() => Allowed::Illegal,
            0b10 if self.enabled().atschk() => Allowed::Split,
            _ => Allowed::No,
        }
    }

    /// Records an error of configuration that ATS or PRI met, where that is
    /// asked for (6.3.12; 8.1, 3.9.1.2 and 3.9.1.3 differ in whether
    /// C_BAD_STREAMID depends on RECINVSID).
    pub(crate) fn record_of_ats(&mut self, event: EventRecord, recinvsid: bool) {
        let cr2 = Cr2::from(self.regs.cr2);
        let stream = event.kind() == EventKind::C_BAD_STREAMID && recinvsid;
        if cr2.rec_cfg_ats() && (!stream || cr2.recinvsid()) {
            self.record(event);
        }
    }

    /// An endpoint asks for a translation. What is granted is in its cache
    /// afterwards.
    pub fn ats_request(&mut self, request: TranslationRequest) -> Completion {
        if !self.profile.idr0.ats() {
            return Completion::Unsupported;
        }
        let mut event = EventRecord::default()
            .with_kind_bits(EventKind::F_BAD_ATS_TREQ.0)
            .with_stream_bits(request.stream.0)
            .with_input_address(request.address);
        if let Some(substream) = request.substream {
            event = event.with_ssv(true).with_substream_bits(substream.0);
        }
        if !self.enabled().smmuen() {
            self.record(event);
            return Completion::Unsupported;
        }
        let ste = match self.entry(request.stream) {
            Ok(ste) => ste,
            Err(event) => {
                self.record_of_ats(event, true);
                return Completion::Aborted;
            }
        };
        if !ste.config().passes() {
            return Completion::Unsupported;
        }
        match self.allows(&ste) {
            Allowed::No | Allowed::Illegal => {
                self.record(event);
                Completion::Unsupported
            }
            Allowed::Split => self.translate_for(&request, true),
            Allowed::Full => self.translate_for(&request, false),
        }
    }

    /// `split`: what stage 1 gives, alone.
    fn translate_for(&mut self, request: &TranslationRequest, split: bool) -> Completion {
        let mut ask = |access| {
            let transaction = Transaction {
                substream: request.substream.map(|substream| substream.0),
                privileged: request.privileged && request.substream.is_some(),
                ..Transaction::new(request.stream, request.address, access)
            };
            // Both stages permit, whichever the output is of (13.6.3).
            let output = self.pass(&transaction)?;
            if !split {
                return Ok(output);
            }
            self.pass_by(|walk| {
                walk.split = true;
                walk.attempt(&transaction)
            })
        };
        let read = ask(Access::Read);
        let write = request.write.then(|| ask(Access::Write));
        let execute = request.execute && request.substream.is_some();
        let execute = execute.then(|| ask(Access::Execute));
        let write = write.and_then(Result::ok);
        let page = self.smallest_page();
        let mut granted = Translation {
            address: 0,
            size: page,
            read: read.is_ok(),
            write: write.is_some(),
            execute: read.is_ok() && execute.is_some_and(|result| result.is_ok()),
        };
        match (read, write) {
            (Ok(at), _) | (Err(_), Some(at)) => granted.address = at & !(page - 1),
            (Err(Ending::Abort(Some(event))), None) if !event.kind().can_stall() => {
                self.record_of_ats(event, true);
                return Completion::Aborted;
            }
            (Err(Ending::NotModelled), None) => return Completion::NotModelled,
            // No access; no event either (3.9.1.2).
            (Err(_), None) => return Completion::Success(granted),
        }
        let entry = AtcEntry {
            substream: request.substream,
            input: request.address & !(page - 1),
            size: page,
            output: granted.address,
            read: granted.read,
            write: granted.write,
            any_input: false,
            any_substream: false,
        };
        self.atcs.entry(request.stream).or_default().hold(entry);
        Completion::Success(granted)
    }

    /// The smallest translation unit that software may program (3.9.1).
    fn smallest_page(&self) -> u64 {
        let idr5 = self.profile.idr5;
        match (idr5.gran4k(), idr5.gran16k()) {
            (true, _) => 1 << 12,
            (false, true) => 1 << 14,
            (false, false) => 1 << 16,
        }
    }

    /// An access that an endpoint marks as translated. Nothing makes it say
    /// the truth: `access.address` may be anything.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn translated(&mut self, access: Transaction) -> Result<u64, Refusal> {
        let result = self.attempt_translated(&access);
        if let Err(Refusal::Event(event)) = result {
            match event.kind() {
                // Whether C_BAD_STREAMID is recorded does not depend on
                // RECINVSID here (3.9.1.3).
                EventKind::C_BAD_STREAMID | EventKind::F_STE_FETCH | EventKind::C_BAD_STE => {
                    self.record_of_ats(event, false);
                }
                _ => self.record(event),
            }
        }
        result
    }

    fn attempt_translated(&mut self, access: &Transaction) -> Result<u64, Refusal> {
        let forbidden = EventRecord::default()
            .with_kind_bits(EventKind::F_TRANSL_FORBIDDEN.0)
            .with_stream_bits(access.stream.0)
            .with_rnw(access.access != Access::Write)
            .with_input_address(access.address);
        if !self.profile.idr0.ats() || self.regs.stopped {
            return Err(Refusal::Silent);
        }
        let enabled = self.enabled();
        if !enabled.smmuen() {
            return Err(Refusal::Event(forbidden));
        }
        // Of the two that 3.9.1.1 allows, not the truncation.
        let large = access.address >> self.profile.output_bits() != 0;
        let passed = if large {
            Err(Refusal::Silent)
        } else {
            Ok(access.address)
        };
        if !enabled.atschk() {
            return passed;
        }
        let ste = self.entry(access.stream).map_err(Refusal::Event)?;
        if !ste.config().passes() {
            return Err(Refusal::Silent);
        }
        match self.allows(&ste) {
            Allowed::No | Allowed::Illegal => Err(Refusal::Event(forbidden)),
            Allowed::Full => passed,
            Allowed::Split => {
                let Plan::Nested { stage2, .. } = Plan::of(&ste, &self.profile) else {
                    return Err(Refusal::NotModelled);
                };
                // A fault of a translated access never stalls (3.9.1.3).
                self.pass_by(|walk| walk.second(&ste, &stage2, access))
                    .map_err(|ending| match ending {
                        Ending::Abort(Some(event)) | Ending::Stall(event) => Refusal::Event(event),
                        Ending::Abort(None) => Refusal::Silent,
                        Ending::Zero(event) => Refusal::Ignored(event),
                        Ending::NotModelled => Refusal::NotModelled,
                    })
            }
        }
    }

    /// ATSCHK is being cleared: no entry may use split-stage ATS (3.9.2).
    pub(crate) fn look_for_split(&mut self) {
        if !self.enabled().smmuen() {
            return;
        }
        for stream in self.streams.clone() {
            if self.uses_ats(stream, 0b10) {
                let stream = stream.0;
                self.misuse.push(Misuse::SplitUnchecked { stream });
            }
        }
    }
}

//! Streams with a stage 1 that the host owns.

use crate::finding::Finding;
use crate::map::place;
use crate::policy::Allowed;
use crate::world::World;
use smmuv3_driver::{Error, Stage1};
use smmuv3_model::Profile;
use smmuv3_spec::StreamId;
use smmuv3_spec::ste::Ste;

/// What an entry says about stage 1 (5.2).
struct Asked {
    /// `S1CDMax`.
    substreams: u64,
    /// `S1Fmt`.
    format: u64,
    /// `S1ContextPtr`.
    pointer: u64,
    /// `S1DSS`.
    default: u64,
}

impl Asked {
    fn of([low, high]: [u64; 2]) -> Self {
        Self {
            substreams: low >> 59,
            format: low >> 4 & 0b11,
            pointer: low & 0x00ff_ffff_ffff_ffc0,
            default: high & 0b11,
        }
    }

    /// Whether an SMMU with this profile takes it: where not, the entry would
    /// be ILLEGAL or its meaning reserved (5.2.2, 3.4.3).
    fn is_legal(&self, profile: &Profile) -> bool {
        let (idr0, idr1) = (profile.idr0, profile.idr1);
        let format = match self.format {
            0 => true,
            3 => false,
            _ => idr0.cd2l(),
        };
        idr0.s1p()
            && idr0.s2p()
            && self.substreams <= u64::from(idr1.ssidsize())
            && (self.substreams == 0 || format && self.default != 0b11)
            && self.pointer >> profile.input_bits() == 0
    }

    /// Whether traffic without substream passes stage 1 as it is.
    fn bypasses(&self) -> bool {
        self.substreams != 0 && self.default == 0b01
    }
}

impl World<'_> {
    pub(crate) fn attach_nested(
        &mut self,
        before: &Allowed,
        stream: u32,
        domain: u8,
        entry: [u64; 2],
        stalls: bool,
    ) -> Result<(), Finding> {
        let (unit, id) = place(stream, self.drivers.len());
        let id = StreamId(id);
        self.also(before, [stream], &self.ranges_of(domain));
        let stage2 = self.domains[usize::from(domain)];
        let [low, high] = entry;
        // What the host wrote in the other words must not matter.
        let stage1 = Stage1::from_untrusted(&Ste([low, high, !0, low, !0, high, !0, low]));
        let (stage1, stalls) = {
            let smmu = self.machine.units[unit].smmu.borrow();
            let stalls = stalls && smmu.profile().idr0.stall_model() == 0;
            let with = if stalls { stage1.with_stalls() } else { stage1 };
            (with, stalls)
        };
        let may = (unit, id);
        if stalls {
            self.machine.may_stall.borrow_mut().insert(may);
        }
        let (mut refused, mut failed) = (false, None);
        let done = self.drive(unit, "attach_nested", |driver| {
            let result = driver.attach_nested(id, &stage1, &stage2);
            refused = matches!(result, Err(Error::Stage1(_)));
            if refused {
                return Ok(());
            }
            result.inspect_err(|error| failed = Some(*error))
        })?;
        if !done {
            return self.check_failure(stream, domain, failed);
        }
        let asked = Asked::of(entry);
        let profile = *self.machine.units[unit].smmu.borrow().profile();
        if refused == asked.is_legal(&profile) {
            return Err(Finding::Answer("attach_nested", low));
        }
        if !refused {
            self.at.insert(stream, domain);
            self.nested.insert(stream, asked.bypasses());
            if !stalls {
                self.no_stalls(stream);
            }
        }
        Ok(())
    }

    /// If attaching a stream failed, it has what it had or it aborts, as the
    /// error says.
    pub(crate) fn check_failure(
        &mut self,
        stream: u32,
        domain: u8,
        failed: Option<Error>,
    ) -> Result<(), Finding> {
        let Some(error) = failed else {
            return Ok(());
        };
        let (unit, id) = place(stream, self.drivers.len());
        let old = self.at.get(&stream).copied();
        let has = self.drivers[unit].attached(StreamId(id));
        let expected = match error {
            Error::NoMemory { .. } | Error::Fenced => {
                let stage2 = old.map(|old| self.domains[usize::from(old)]);
                stage2.map(|stage2| (stage2.vmid, stage2.root))
            }
            _ => {
                // Until it starts again, it may hold both.
                let both = old.into_iter().chain([domain]);
                self.limbo.extend(both.map(|domain| (stream, domain)));
                self.at.remove(&stream);
                self.nested.remove(&stream);
                None
            }
        };
        if has == expected {
            Ok(())
        } else {
            Err(Finding::Answer("attach", id.into()))
        }
    }

    /// A stream has the stage 2 of a domain and nothing else.
    pub(crate) fn attached(&mut self, stream: u32, domain: u8) {
        self.at.insert(stream, domain);
        self.nested.remove(&stream);
        self.no_stalls(stream);
    }

    /// A stream aborts.
    pub(crate) fn blocked(&mut self, stream: u32) {
        self.at.remove(&stream);
        self.nested.remove(&stream);
        self.no_stalls(stream);
    }

    /// None of a stream's transactions waits any more, or will: what waited
    /// under its old entry ended with it, since nobody would answer it.
    fn no_stalls(&self, stream: u32) {
        let (unit, id) = place(stream, self.drivers.len());
        let id = StreamId(id);
        self.machine.may_stall.borrow_mut().remove(&(unit, id));
        let waiting = self.machine.units[unit].smmu.borrow().stalled();
        if waiting.iter().any(|(stream, _)| *stream == id) {
            self.machine.find(Finding::Waits(id));
        }
    }
}

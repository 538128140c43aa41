//! What a driver does to start an SMMU (IHI 0070, 3.11, 6.3.9, 6.3.24 to
//! 6.3.36), as stores and writes of registers.

use crate::host::op::{BringUp, Width};
use crate::map::{PAGES, RAM, STREAMS, place};
use portcullis_addr::PAGE_SIZE;
use smmuv3_spec::command::{Command, SIG_IRQ, SIG_NONE};
use smmuv3_spec::control::{Cr0, Cr2, Gbpa};
use smmuv3_spec::id::{Idr0, Idr1};
use smmuv3_spec::ste::{Config, L1Std, Ste};
use smmuv3_spec::{StreamId, reg};

/// Streams that the table has: as many as the rig's StreamIDs need.
const STREAM_BITS: u8 = 8;
/// log2 of the entries of a second-level table.
const SPLIT: u8 = 6;

/// One thing that the driver does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Store(u64, u64),
    Write(u32, Width, u64),
    /// Puts commands into the queue and waits until they are consumed.
    Commands([[u64; 2]; 2]),
}

/// What the emulated SMMU says that it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) idr0: Idr0,
    pub(crate) idr1: Idr1,
}

/// What a stream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Bypass,
    Stage1,
    Abort,
    Invalid,
}

impl BringUp {
    /// The address of one of its 16 pages.
    pub(crate) fn page(&self, n: u64) -> u64 {
        RAM.start + (u64::from(self.block) * 16 % PAGES + n) * PAGE_SIZE
    }

    /// Number of the first page of the stage 1 tables.
    pub(crate) fn planted(&self) -> u64 {
        u64::from(self.block) * 16 % PAGES + 8
    }

    /// What a stream gets, by its number.
    pub(crate) fn kind(&self, stream: u32) -> Kind {
        match self.kinds >> (stream % STREAMS * 2) & 0b11 {
            0 => Kind::Bypass,
            1 => Kind::Stage1,
            2 => Kind::Abort,
            _ => Kind::Invalid,
        }
    }

    fn entry(&self, kind: Kind, seen: &Seen) -> Ste {
        let ats = self.ats && seen.idr0.ats();
        let valid = Ste::default().with_v(true);
        match kind {
            Kind::Bypass => valid.with_config(Config::BYPASS).with_shcfg(1),
            Kind::Stage1 => valid
                .with_config(Config::S1)
                .with_s1contextptr(RAM.start + self.planted() * PAGE_SIZE)
                // Only where stalls can be had and need not be (5.5).
                .with_s1stalld(seen.idr0.stall_model() == 0)
                .with_eats(u8::from(ats)),
            Kind::Abort => valid.with_config(Config::ABORT),
            Kind::Invalid => Ste::default(),
        }
    }

    /// log2 of the entries of the queues, as far as the SMMU has that many.
    fn command_log2(&self, seen: &Seen) -> u8 {
        (self.command_log2 % 8 + 1).min(seen.idr1.cmdqs())
    }

    fn sync(&self, seen: &Seen, n: u64) -> [u64; 2] {
        let sync = if self.msi && seen.idr0.msi() {
            // Into the slot of a command that is consumed already.
            let slots = 1 << self.command_log2(seen);
            let at = self.page(5) + (n % slots) * Command::SIZE + 8;
            Command::sync(SIG_IRQ).with_msi_address(at)
        } else {
            Command::sync(SIG_NONE)
        };
        sync.0
    }

    fn tables(&self, seen: &Seen, units: usize, unit: usize) -> Vec<Step> {
        let mut words = vec![[0; 8]; 1 << STREAM_BITS];
        for stream in 0..STREAMS {
            let (at, id) = place(stream, units);
            if at == unit {
                words[id as usize] = self.entry(self.kind(stream), seen).0;
            }
        }
        let (first, mut steps) = if self.two_level {
            let descriptors = (0..4).map(|n| {
                let at = self.page(1 + n);
                let descriptor = L1Std([0]).with_span(SPLIT + 1).with_l2ptr(at);
                Step::Store(self.page(0) + n * 8, descriptor.0[0])
            });
            (self.page(1), descriptors.collect())
        } else {
            (self.page(0), Vec::new())
        };
        let words = words.into_iter().flatten();
        let stores = (first..).step_by(8).zip(words);
        steps.extend(stores.map(|(at, word)| Step::Store(at, word)));
        steps
    }

    /// All of it. `on` is CR0 as it is.
    pub(crate) fn steps(&self, seen: &Seen, on: Cr0, units: usize, unit: usize) -> Vec<Step> {
        let word = |offset, value: u32| Step::Write(offset, Width::Word, value.into());
        let double = |offset, value| Step::Write(offset, Width::Double, value);
        let mut steps = Vec::new();
        if self.gentle && on.smmuen() {
            let gbpa = Gbpa::new().with_abort(true).with_update(true);
            steps.push(word(reg::GBPA, gbpa.into()));
        }
        let mut cr0 = Cr0::new();
        steps.push(word(reg::CR0, cr0.into()));
        steps.extend(self.tables(seen, units, unit));
        steps.push(word(reg::CR1, 0xd75));
        let cr2 = Cr2::new().with_recinvsid(true).with_ptm(true);
        steps.push(word(reg::CR2, cr2.into()));
        let format = if self.two_level {
            1 << 16 | u32::from(SPLIT) << 6
        } else {
            0
        };
        steps.push(double(reg::STRTAB_BASE, self.page(0) | 1 << 62));
        steps.push(word(reg::STRTAB_BASE_CFG, format | u32::from(STREAM_BITS)));

        let log2 = u64::from(self.command_log2(seen));
        steps.push(double(reg::CMDQ_BASE, self.page(5) | 1 << 62 | log2));
        steps.push(word(reg::CMDQ_PROD, 0));
        steps.push(word(reg::CMDQ_CONS, 0));
        cr0 = cr0.with_cmdqen(true);
        steps.push(word(reg::CR0, cr0.into()));
        steps.push(Step::Commands([Command::cfgi_all().0, self.sync(seen, 1)]));
        steps.push(Step::Commands([
            Command::tlbi_nsnh_all().0,
            self.sync(seen, 3),
        ]));

        let log2 = u64::from((self.event_log2 % 8).min(seen.idr1.eventqs()));
        steps.push(double(reg::EVENTQ_BASE, self.page(6) | 1 << 62 | log2));
        steps.push(word(reg::EVENTQ_PROD, 0));
        steps.push(word(reg::EVENTQ_CONS, 0));
        cr0 = cr0.with_eventqen(true);
        steps.push(word(reg::CR0, cr0.into()));
        if self.ats && seen.idr0.pri() {
            let log2 = u64::from(seen.idr1.priqs().min(4));
            steps.push(double(reg::PRIQ_BASE, self.page(7) | 1 << 62 | log2));
            steps.push(word(reg::PRIQ_PROD, 0));
            steps.push(word(reg::PRIQ_CONS, 0));
            cr0 = cr0.with_priqen(true);
            steps.push(word(reg::CR0, cr0.into()));
        }
        if self.ats && seen.idr0.ats() {
            cr0 = cr0.with_atschk(true);
            steps.push(word(reg::CR0, cr0.into()));
        }
        steps.push(word(reg::IRQ_CTRL, 0));
        for offset in [reg::GERROR_IRQ_CFG0, reg::EVENTQ_IRQ_CFG0] {
            steps.push(double(offset, 0));
        }
        steps.push(word(reg::IRQ_CTRL, 0b101));
        cr0 = cr0.with_smmuen(true);
        steps.push(word(reg::CR0, cr0.into()));
        steps
    }
}

/// CMD_CFGI_STE and CMD_SYNC, which is told by a message to `word` if there is
/// one.
pub(crate) fn tell_of(stream: u32, word: Option<u64>) -> [[u64; 2]; 2] {
    let sync = match word {
        Some(at) => Command::sync(SIG_IRQ).with_msi_address(at),
        None => Command::sync(SIG_NONE),
    };
    [Command::cfgi_ste(StreamId(stream), true).0, sync.0]
}

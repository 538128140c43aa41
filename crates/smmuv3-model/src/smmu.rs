//! The SMMU as a whole: what it consists of, and how the CPU side reaches it.

use crate::atc::Atc;
use crate::cache::Caches;
use crate::fault::Faults;
use crate::irq::Interrupt;
use crate::misuse::Misuse;
use crate::pri::PageResponse;
use crate::stall::Stalls;
use crate::{Profile, Ram};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::Command;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// What the SMMU does of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is cached, and every update and command completes at once.
    Plain,
    /// Whatever may be cached is, from every single store on and until a
    /// completed invalidation that covers it. Updates and commands complete
    /// late: some polls later, how many is drawn from `seed`.
    Greedy {
        /// Seed of what is drawn.
        seed: u64,
    },
    /// As greedy, but about one translation or table in eight is dropped at
    /// every command.
    Random {
        /// Seed of what is drawn.
        seed: u64,
    },
}

/// A register with an acknowledgement: what was written, what is in force, and
/// how many polls it still takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lagging {
    pub(crate) written: u32,
    pub(crate) acting: u32,
    pub(crate) lag: u32,
    /// Polls that the next change takes at least: an injected fault.
    pub(crate) stuck: u32,
}

/// What the registers hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) cr0: Lagging,
    pub(crate) irq_ctrl: Lagging,
    pub(crate) gbpa: Lagging,
    pub(crate) cr1: u32,
    pub(crate) cr2: u32,
    pub(crate) gerror: u32,
    pub(crate) gerrorn: u32,
    pub(crate) strtab_base: u64,
    pub(crate) strtab_base_cfg: u32,
    pub(crate) cmdq_base: u64,
    pub(crate) cmdq_prod: u32,
    pub(crate) cmdq_cons: u32,
    pub(crate) eventq_base: u64,
    pub(crate) eventq_prod: u32,
    pub(crate) eventq_cons: u32,
    pub(crate) priq_base: u64,
    pub(crate) priq_prod: u32,
    pub(crate) priq_cons: u32,
    /// CFG0, CFG1 and CFG2 of a source of interrupts.
    pub(crate) gerror_irq: (u64, u32, u32),
    pub(crate) eventq_irq: (u64, u32, u32),
    pub(crate) priq_irq: (u64, u32, u32),
    /// In service failure mode (12.3).
    pub(crate) stopped: bool,
}

impl Registers {
    /// What they hold after reset (6.3). Zero stands for UNKNOWN.
    pub(crate) fn reset(profile: &Profile) -> Self {
        let gbpa = Lagging {
            written: profile.gbpa,
            acting: profile.gbpa,
            ..Lagging::default()
        };
        Self {
            gbpa,
            ..Self::default()
        }
    }
}

/// What happened so far, for tests that want to know that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands consumed.
    pub commands: u64,
    /// CMD_SYNC among them.
    pub syncs: u64,
    /// Events recorded.
    pub events: u64,
    /// Events and page requests lost to a full queue or an abort.
    pub lost: u64,
    /// Interrupts, wired and message-signalled.
    pub interrupts: u64,
    /// Wake-up events sent to CPUs.
    pub wakeups: u64,
    /// Page requests queued.
    pub requests: u64,
    /// Answers to page requests, by command or by the SMMU itself.
    pub responses: u64,
    /// Descriptors looked at by the greedy cache.
    pub descriptors: u64,
}

/// An SMMU with the memory it is attached to.
pub struct Smmu {
    pub(crate) profile: Profile,
    pub(crate) mode: Mode,
    pub(crate) regs: Registers,
    pub(crate) ram: Ram,
    pub(crate) streams: Vec<StreamId>,
    pub(crate) caches: Caches,
    pub(crate) consumed: Vec<Command>,
    pub(crate) misuse: Vec<Misuse>,
    pub(crate) counts: Counts,
    pub(crate) interrupts: VecDeque<Interrupt>,
    pub(crate) doorbells: Vec<Range<u64>>,
    pub(crate) responses: VecDeque<PageResponse>,
    pub(crate) atcs: BTreeMap<StreamId, Atc>,
    pub(crate) faults: Faults,
    /// Words that this SMMU or its devices wrote, where somebody asked.
    writes: Option<Vec<u64>>,
    pub(crate) stalled: Stalls,
    draw: u64,
}

impl Smmu {
    /// An SMMU out of reset. In a mode that caches, it does so for `streams`.
    /// Memory comes from [`Ram::new`], with the coherency that the profile says.
    #[must_use]
    pub fn new(
        profile: Profile,
        banks: impl IntoIterator<Item = std::ops::Range<u64>>,
        mode: Mode,
        streams: impl IntoIterator<Item = StreamId>,
    ) -> Self {
        let ram = Ram::new(banks, profile.idr0.cohacc());
        Self::on(profile, ram, mode, streams)
    }

    /// An SMMU out of reset that is attached to memory which others may use
    /// too. Whether that is coherent was said to [`Ram::new`].
    ///
    /// Each SMMU follows the stores made through it; of those made through
    /// another one it is told by [`saw_store`](Self::saw_store). What is
    /// published or refreshed through any of them is so for all.
    #[must_use]
    pub fn on(
        profile: Profile,
        ram: Ram,
        mode: Mode,
        streams: impl IntoIterator<Item = StreamId>,
    ) -> Self {
        let seed = match mode {
            Mode::Plain => 0,
            Mode::Greedy { seed } | Mode::Random { seed } => seed,
        };
        Self {
            regs: Registers::reset(&profile),
            profile,
            mode,
            ram,
            streams: streams.into_iter().collect(),
            caches: Caches::default(),
            consumed: Vec::new(),
            misuse: Vec::new(),
            counts: Counts::default(),
            interrupts: VecDeque::new(),
            doorbells: Vec::new(),
            responses: VecDeque::new(),
            atcs: BTreeMap::new(),
            faults: Faults::default(),
            writes: None,
            stalled: Stalls::default(),
            draw: seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// What the SMMU says it is.
    #[must_use]
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The memory.
    #[must_use]
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The memory, for what no CPU does: filling it before a test. The caches
    /// do not follow.
    pub fn ram_mut(&mut self) -> &mut Ram {
        &mut self.ram
    }

    /// The commands consumed since the last call.
    pub fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.consumed)
    }

    /// What software did since the last call that the architecture leaves
    /// unpredictable or makes pointless.
    pub fn take_misuse(&mut self) -> Vec<Misuse> {
        std::mem::take(&mut self.misuse)
    }

    /// A CPU's 64-bit load; `None` outside memory or misaligned.
    #[must_use]
    pub fn load(&self, at: u64) -> Option<u64> {
        self.ram.load(at)
    }

    /// A CPU's 64-bit store. The SMMU may see it from now on, and does so for
    /// certain once [`publish`](Self::publish) covers it. `false` outside
    /// memory.
    pub fn store(&mut self, at: u64, value: u64) -> bool {
        let stored = self.ram.store(at, value);
        if stored && self.mode != Mode::Plain {
            self.observe_store(at);
        }
        stored
    }

    /// Makes earlier stores visible: a barrier where the SMMU is coherent, a
    /// clean of `at .. at + bytes` too where it is not.
    pub fn publish(&mut self, at: u64, bytes: u64) {
        self.ram.publish(at, bytes);
    }

    /// Makes the CPU see what devices and the SMMU wrote to `at .. at + bytes`:
    /// an invalidate of its cache. Nothing to do where the SMMU is coherent.
    pub fn refresh(&mut self, at: u64, bytes: u64) {
        self.ram.refresh(at, bytes);
    }

    /// Somebody else stored to `at`: a CPU through another SMMU's handle, or a
    /// device behind another SMMU. What this one caches follows.
    pub fn saw_store(&mut self, at: u64) {
        if self.mode != Mode::Plain {
            self.observe_store(at);
        }
    }

    /// Whether to note where this SMMU and the devices behind it write, for
    /// [`take_writes`](Self::take_writes). Off at first.
    pub fn log_writes(&mut self, on: bool) {
        self.writes = on.then(Vec::new);
    }

    /// The addresses that this SMMU and the devices behind it wrote since the
    /// last call, 8 bytes at each, in order. Empty unless
    /// [`log_writes`](Self::log_writes) asked for it.
    pub fn take_writes(&mut self) -> Vec<u64> {
        self.writes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// A write by the SMMU or by a device behind it. `false` outside memory.
    pub(crate) fn device_store(&mut self, at: u64, value: u64) -> bool {
        let stored = self.ram.device_store(at, value);
        if stored {
            self.wrote(at);
        }
        stored
    }

    /// The same with the 32 bits at `at`.
    pub(crate) fn device_store32(&mut self, at: u64, value: u32) -> bool {
        let stored = self.ram.device_store32(at, value);
        if stored {
            self.wrote(at & !7);
        }
        stored
    }

    fn wrote(&mut self, at: u64) {
        if let Some(writes) = &mut self.writes {
            writes.push(at);
        }
        self.saw_store(at);
    }

    /// A number below `bound`, from the seed (xorshift).
    pub(crate) fn draw(&mut self, bound: u32) -> u32 {
        self.draw ^= self.draw << 13;
        self.draw ^= self.draw >> 7;
        self.draw ^= self.draw << 17;
        ((self.draw >> 32) as u32) % bound
    }

    /// Polls until an update is in force.
    pub(crate) fn lag(&mut self) -> u32 {
        match self.mode {
            Mode::Plain => 0,
            _ => 1 + self.draw(3),
        }
    }
}

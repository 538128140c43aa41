//! The machine that the code under test runs on: the models behind the seams,
//! with one deliberate mistake in between if asked for.

use crate::action::Action;
use crate::cpu::Cpu;
use crate::earlier::{Earlier, is_fenced};
use crate::everywhere::HOST_VMID;
use crate::expected::Expected;
use crate::finding::Finding;
use crate::host::Emulated;
use crate::map::{CPU, CPU_POOL, OLD, OTHER, PAGES, PARA_POOL, POOL, RAM, REGISTERS, SPARE, ids};
use crate::mutant::Mutant;
use crate::paravirt::front::Seen;
use crate::paravirt::soft::Soft;
use crate::paravirt::{Para, para};
use crate::policy::{Allowed, Rules, for_cpus};
use crate::recorded::Recorded;
use crate::setup::Setup;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_ownership::{Bank, Entry, Ledger, Owner};
use smmuv3_model::{Fault, Misuse, Ram, Refusal, Smmu, Transaction};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::id::{Idr0, Idr1};
use smmuv3_spec::{StreamId, reg};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops;
use std::sync::atomic::AtomicU32;

/// One SMMU.
pub(crate) struct Unit {
    pub(crate) smmu: RefCell<Smmu>,
    /// Its command queue.
    pub(crate) ring: RefCell<ops::Range<u64>>,
    pub(crate) recorded: RefCell<Recorded>,
    /// Something was broken on purpose: the driver may fail.
    pub(crate) broken: Cell<bool>,
    /// Commands were made to be refused, and nothing worse: the driver may say
    /// so, and go on.
    pub(crate) refuses: Cell<bool>,
    /// A bit flips in the next command on its way to memory.
    pub(crate) flips: Cell<bool>,
    /// It has no power, and the devices behind it have none.
    pub(crate) off: Cell<bool>,
    /// What an earlier owner may still do.
    pub(crate) earlier: Cell<Earlier>,
    /// First word of a command whose second is still to come.
    pub(crate) half: Cell<Option<(u64, u64)>>,
    /// The emulated SMMU above it.
    pub(crate) emulated: Emulated,
}

impl Unit {
    /// Whether its stream table has two levels, and so few StreamIDs that the
    /// driver makes second levels of [`LEAF`](crate::map::LEAF) entries.
    pub(crate) fn has_tables_of_leaf(&self) -> bool {
        let mut smmu = self.smmu.borrow_mut();
        let idr0 = Idr0::from(smmu.read32(reg::IDR0));
        let idr1 = Idr1::from(smmu.read32(reg::IDR1));
        idr0.st_level() != 0 && idr1.sidsize() <= 16
    }

    /// Whether what is asked of it may fail.
    pub(crate) fn may_fail(&self) -> bool {
        self.broken.get() || self.refuses.get()
    }
}

pub(crate) struct Machine {
    pub(crate) units: Vec<Unit>,
    pub(crate) cpu: Cpu,
    pub(crate) ram: RefCell<Ram>,
    pub(crate) mutant: Mutant,
    /// What the ledger keeps, of pages and of many at once.
    entries: Vec<AtomicU32>,
    words: Vec<AtomicU32>,
    banks: Vec<Range<PhysAddr>>,
    /// What other CPUs have pinned.
    pub(crate) pinned: RefCell<Vec<Range<PhysAddr>>>,
    pub(crate) expected: RefCell<Expected>,
    pub(crate) live: RefCell<BTreeMap<u64, u64>>,
    pub(crate) time: Cell<u64>,
    pub(crate) held: RefCell<Vec<(u64, u64)>>,
    pub(crate) finding: Cell<Option<Finding>>,
    /// What holds between operations, and during the one under way.
    pub(crate) allowed: RefCell<Allowed>,
    pub(crate) armed: Cell<bool>,
    /// The driver changes the stream table.
    pub(crate) in_driver: Cell<bool>,
    /// What other CPUs do during the operation under way, each after a number
    /// of further seams.
    pub(crate) interrupts: RefCell<VecDeque<(u32, Action)>>,
    interrupted: Cell<bool>,
    /// Streams whose faults may stall, by SMMU.
    pub(crate) may_stall: RefCell<BTreeSet<(usize, StreamId)>>,
    /// What is being taken from the host.
    pub(crate) taking: Cell<Option<Range<PhysAddr>>>,
    /// Allocations until memory runs out.
    pub(crate) starve: Cell<Option<u32>>,
    /// An allocation failed.
    pub(crate) starved: Cell<bool>,
    /// The host has emulated SMMUs.
    pub(crate) nested: bool,
    /// The physical SMMU may store to the registers that the host sees.
    pub(crate) messages: bool,
    /// The host has domains.
    pub(crate) paravirt: Option<Para>,
    pub(crate) para: RefCell<para::Para>,
    /// An IOMMU that is no SMMU.
    pub(crate) soft: Option<RefCell<Soft>>,
    /// What the oracle sees of the device in front of the domains.
    pub(crate) seen: RefCell<Seen>,
    /// Accesses since the call under way began: one of the domains, one of the
    /// device.
    pub(crate) work: Cell<u64>,
    pub(crate) calls: Cell<u64>,
    /// Requests begun and gone on with since then.
    pub(crate) turns: Cell<u32>,
    /// Hardware was broken at some time.
    pub(crate) scarred: Cell<bool>,
}

/// The banks of RAM that the ledger describes: one, or two that touch.
fn ram_banks(setup: &Setup) -> Vec<Range<PhysAddr>> {
    let border = border(setup).unwrap_or(RAM.end);
    let banks = [(RAM.start, border), (border, RAM.end)];
    let range = |(start, end)| Range::new(PhysAddr::new(start), PhysAddr::new(end)).ok();
    banks.into_iter().filter_map(range).collect()
}

/// Where the second one begins.
fn border(setup: &Setup) -> Option<u64> {
    let pages = setup.paravirt?.border?;
    Some(RAM.start + u64::from(pages) * PAGE_SIZE)
}

impl Machine {
    pub(crate) fn new(setup: &Setup, mutant: Mutant) -> Self {
        let banks = [RAM, POOL, CPU_POOL, OTHER, SPARE, OLD, CPU];
        let more = [
            setup.nested.then_some(REGISTERS),
            setup.paravirt.map(|_| PARA_POOL),
        ];
        let banks = banks.into_iter().chain(more.into_iter().flatten());
        let soft = setup.paravirt.is_some_and(|para| para.soft);
        let profiles = setup.profiles();
        let coherent = profiles.iter().all(|profile| profile.idr0.cohacc());
        let ram = Ram::new(banks, coherent);
        let units = profiles.iter().map(|profile| {
            let streams = ids(profiles.len()).map(StreamId);
            let mut smmu = Smmu::on(*profile, ram.clone(), setup.mode, streams);
            smmu.log_writes(true);
            Unit {
                smmu: RefCell::new(smmu),
                ring: RefCell::new(0..0),
                recorded: RefCell::default(),
                broken: Cell::new(false),
                refuses: Cell::new(false),
                flips: Cell::new(false),
                off: Cell::new(false),
                earlier: Cell::new(Earlier::Anything),
                half: Cell::new(None),
                emulated: Emulated::default(),
            }
        });
        Self {
            units: units.collect(),
            cpu: Cpu::new(ram.clone(), setup.mode, if setup.cpu_bbm { 2 } else { 0 }),
            ram: RefCell::new(ram),
            mutant,
            entries: (0..PAGES)
                .map(|page| AtomicU32::new(Entry::initial(setup.first_owner(page))))
                .collect(),
            words: (0..ram_banks(setup).into_iter().map(Bank::words).sum())
                .map(|_| AtomicU32::new(0))
                .collect(),
            banks: ram_banks(setup),
            pinned: RefCell::default(),
            expected: RefCell::new(Expected::new(border(setup), |page| setup.first_owner(page))),
            live: RefCell::default(),
            time: Cell::new(0),
            held: RefCell::default(),
            finding: Cell::new(None),
            allowed: RefCell::default(),
            armed: Cell::new(false),
            in_driver: Cell::new(false),
            interrupts: RefCell::default(),
            interrupted: Cell::new(false),
            may_stall: RefCell::default(),
            taking: Cell::new(None),
            starve: Cell::new(None),
            starved: Cell::new(false),
            nested: setup.nested,
            messages: setup.messages,
            paravirt: setup.paravirt,
            para: RefCell::default(),
            soft: soft.then(RefCell::default),
            seen: RefCell::default(),
            work: Cell::new(0),
            calls: Cell::new(0),
            turns: Cell::new(0),
            scarred: Cell::new(false),
        }
    }

    /// The banks of the ledger.
    ///
    /// # Panics
    /// Never: the banks are made of whole pages and have an entry for each, and
    /// the words that they need.
    pub(crate) fn banks(&self) -> Vec<Bank<'_>> {
        let (mut entries, mut words) = (&self.entries[..], &self.words[..]);
        let bank = |range: &Range<PhysAddr>| {
            let (own, rest) = entries.split_at((range.size() / PAGE_SIZE) as usize);
            let (own_words, rest_words) = words.split_at(Bank::words(*range) as usize);
            (entries, words) = (rest, rest_words);
            Bank::new(*range, own, own_words).expect("an entry for each page")
        };
        self.banks.iter().map(bank).collect()
    }

    /// The ledger as another CPU sees it.
    pub(crate) fn with_ledger<T>(&self, look: impl FnOnce(&Ledger<'_>) -> T) -> T {
        look(&Ledger::new(&self.banks()).expect("the banks are in order"))
    }

    pub(crate) fn find(&self, finding: Finding) {
        if self.finding.get().is_none() {
            self.finding.set(Some(finding));
        }
    }

    /// Asks the oracle about every observer.
    pub(crate) fn check(&self) {
        if !self.armed.get() || self.finding.get().is_some() {
            return;
        }
        self.look_at_ledger();
        let (allowed, live) = (self.allowed.borrow(), self.live.borrow());
        let none = BTreeMap::new();
        for (index, unit) in self.units.iter().enumerate() {
            if unit.off.get() {
                continue;
            }
            let rules = Rules {
                streams: allowed.streams.get(index).unwrap_or(&none),
                live: &live,
                pools: &[POOL, PARA_POOL],
            };
            let mut smmu = unit.smmu.borrow_mut();
            if let Err(violation) = smmu.check(&rules) {
                if !unit.earlier.get().excuses(&mut smmu) {
                    self.find(Finding::Violation(index, violation));
                }
            } else if unit.earlier.get() != Earlier::Nothing && is_fenced(&mut smmu) {
                unit.earlier.set(Earlier::Nothing);
            }
            // Registers that are stuck are written all the same, to fence.
            let misuse = smmu.take_misuse();
            let mut misuse = misuse.iter().filter(|misuse| !self.is_hosts_own(misuse));
            if let Some(misuse) = misuse.next().filter(|_| !unit.may_fail()) {
                self.find(Finding::Misuse(*misuse));
            }
        }
        if self.paravirt.is_some() {
            self.look_at_domains();
        }
        let rules = Rules {
            streams: &for_cpus(&allowed.cpus),
            live: &live,
            pools: &[POOL, CPU_POOL, CPU],
        };
        let mut smmu = self.cpu.smmu.borrow_mut();
        if let Err(violation) = smmu.check(&rules) {
            self.find(Finding::Cpu(violation));
        }
        if let Some(misuse) = smmu.take_misuse().first() {
            self.find(Finding::Misuse(*misuse));
        }
    }

    /// Whether it concerns the host's own stage 1 alone, and what is cached of
    /// it: the host's invalidations are passed on with its addresses.
    fn is_hosts_own(&self, misuse: &Misuse) -> bool {
        let Misuse::Misaligned(command) = misuse else {
            return false;
        };
        let by_address = matches!(command.opcode(), Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA);
        self.nested && by_address && command.vmid() == HOST_VMID
    }

    /// From the moment on at which the ledger says that pages have another
    /// owner, the host must not reach them any more.
    fn look_at_ledger(&self) {
        let Some(range) = self.taking.get() else {
            return;
        };
        let owner = self.with_ledger(|ledger| ledger.entry(range.start()));
        if owner.is_some_and(|entry| entry.owner() != Owner::HOST) {
            self.taking.set(None);
            let gone = range.start().raw()..range.end().raw();
            self.allowed.borrow_mut().forbid(&gone);
        }
    }

    /// A device's access, by a walk; what it reaches is judged by the oracle.
    pub(crate) fn transact(&self, unit: usize, access: Transaction) -> Result<u64, Refusal> {
        self.noted(unit, access.stream, |smmu| smmu.translate(access))
    }

    /// Something that a device does: its event, if any, is noted, and what it
    /// and the SMMU write to memory is told to every observer.
    pub(crate) fn noted<T>(
        &self,
        index: usize,
        stream: StreamId,
        act: impl FnOnce(&mut Smmu) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let unit = &self.units[index];
        if unit.off.get() {
            return Err(Refusal::Silent);
        }
        let before = unit.smmu.borrow().counts();
        let result = act(&mut unit.smmu.borrow_mut());
        let after = unit.smmu.borrow().counts();
        let (kept, lost) = (after.events - before.events, after.lost > before.lost);
        let record = result.as_ref().err().and_then(Refusal::event);
        let mut recorded = unit.recorded.borrow_mut();
        match record {
            Some(record) => recorded.note(record, kept == 1, lost),
            // What was ignored counts as done, and may have been recorded.
            None => recorded.flood(kept, lost),
        }
        let waits = matches!(result, Err(Refusal::Stalled(_)));
        if waits && !self.may_stall.borrow().contains(&(index, stream)) {
            self.find(Finding::Waits(stream));
        }
        self.spread(index);
        result
    }

    /// Tells every other observer what an SMMU and its devices wrote.
    pub(crate) fn spread(&self, unit: usize) {
        let writes = self.units[unit].smmu.borrow_mut().take_writes();
        for at in writes {
            self.meddle(at);
            self.seen_by_others(unit, at);
        }
    }

    /// Breaks an SMMU.
    pub(crate) fn inject(&self, unit: usize, fault: Fault) {
        let unit = &self.units[unit];
        let mut smmu = unit.smmu.borrow_mut();
        let before = smmu.counts();
        smmu.inject(fault);
        let after = smmu.counts();
        unit.recorded
            .borrow_mut()
            .flood(after.events - before.events, after.lost > before.lost);
        match fault {
            // No excuse for anything.
            Fault::EventFlood(_) => {}
            Fault::CommandError(_) => unit.refuses.set(true),
            _ => unit.broken.set(true),
        }
    }

    /// Another CPU may act now.
    pub(crate) fn seam(&self) {
        if self.interrupted.get() || !self.armed.get() {
            return;
        }
        let due = match self.interrupts.borrow_mut().front_mut() {
            None => return,
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
        };
        if due {
            self.interrupt();
        }
    }

    /// What did not come to pass during the operation does so after it.
    pub(crate) fn rest(&self) {
        while !self.interrupts.borrow().is_empty() {
            self.interrupt();
        }
    }

    fn interrupt(&self) {
        let next = self.interrupts.borrow_mut().pop_front();
        if let Some((_, action)) = next {
            self.interrupted.set(true);
            self.act(&action);
            self.check();
            self.interrupted.set(false);
        }
    }
}

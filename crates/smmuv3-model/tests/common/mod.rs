//! The rig: driver, tables, ledger and host space on the model, driven by a
//! program, with the oracle asked at every step.
#![allow(dead_code, missing_docs)]

pub mod machine;
pub mod mutant;
pub mod program;

pub use machine::{Allowed, Finding, Machine, OLD, OTHER, POOL, RAM, SPARE, STREAMS};
pub use mutant::Mutant;
use portcullis_addr::{Ipa, PAGE_SIZE, PhysAddr, Range};
use portcullis_isolation::{HostError, HostSpace, HostTables, Invalidate, Ledger};
use portcullis_memory::Arena;
use portcullis_ownership::{Bank, Owner};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, Invalidation, MemoryType, Stage2 as Stage2Format,
    Stage2Attributes, Table,
};
use smmuv3_driver::{self as driver, Error, Stage2};
use smmuv3_model::{Access, Counts, Mode, Profile, Transaction};
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;

const DOORBELL: Ranges = 0x0809_0000..0x0809_1000;
const PAGES: u64 = (RAM.end - RAM.start) / PAGE_SIZE;

/// One step of a hostile program. Numbers are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Attach {
        stream: u32,
        domain: u8,
    },
    AttachRange {
        first: u32,
        last: u32,
        domain: u8,
    },
    Block {
        stream: u32,
    },
    Take {
        page: u64,
        count: u64,
    },
    Give {
        page: u64,
        count: u64,
    },
    Dma {
        stream: u32,
        address: u64,
        write: bool,
    },
    Scribble {
        page: u64,
        word: u64,
        value: u64,
    },
    Drain,
    Restart,
    /// Reuses the VMID of a domain without streams for another table.
    Reuse,
}

type Driver<'m> = driver::Smmu<&'m Machine, &'m Machine, &'m Machine>;

/// Invalidates on the one SMMU. The CPUs are not modelled.
struct Everywhere<'a, 'm> {
    driver: &'a mut Driver<'m>,
    mutant: Mutant,
}

impl Invalidate for Everywhere<'_, '_> {
    type Error = Error;

    fn cpus(&mut self, _plan: &Invalidation<Ipa>) -> Result<(), Error> {
        Ok(())
    }

    fn smmus(&mut self, plan: &Invalidation<Ipa>) -> Result<(), Error> {
        let Some(range) = plan.range() else {
            return Ok(());
        };
        let range = match self.mutant {
            Mutant::ForgetSmmus | Mutant::TooEarly => return Ok(()),
            Mutant::FirstPageOnly => Range::from_size(range.start(), PAGE_SIZE).unwrap(),
            _ => range,
        };
        let leaf = plan.leaf_only() || self.mutant == Mutant::CallerLeaf;
        let granule = driver::Granule::Size4K;
        self.driver
            .tlbi_ipa_range(Vmid(1), range, granule, plan.level(), leaf)
    }
}

struct World<'a, 'm> {
    machine: &'m Machine,
    driver: Driver<'m>,
    space: HostSpace<'a, &'a Arena, &'m Machine>,
    domains: [Stage2; 3],
    /// What the last domain is when it is reused, and what its streams reach.
    spare: (Stage2, Ranges),
    last: Ranges,
    /// Which domain each stream is in.
    at: BTreeMap<u32, u8>,
}

/// What a program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub profile: Profile,
    pub mode: Mode,
    /// Somebody had the SMMU before, and left it running.
    pub used: bool,
}

/// Runs a program.
pub fn run(setup: Setup, mutant: Mutant, program: &[Op]) -> Result<Counts, Finding> {
    let machine = Machine::new(setup.profile, setup.mode, mutant);
    if setup.used {
        earlier_owner(&machine);
    }
    machine.smmu.borrow_mut().take_misuse();
    let config = driver::Config {
        command_log2: 4,
        event_log2: 3,
        ..driver::Config::default()
    };
    let driver = Driver::new(&machine, &machine, &machine, config)
        .map_err(|_| Finding::Failed("taking over"));
    machine.armed.set(true);
    machine.check();
    if let Some(finding) = machine.finding.get() {
        return Err(finding);
    }
    let driver = driver?;

    let entries: Vec<_> = (0..PAGES).map(|_| AtomicU32::new(0)).collect();
    let banks = [Bank::new(range(RAM.start, RAM.end - RAM.start), &entries).unwrap()];
    let ledger = Ledger::new(&banks).unwrap();
    let all = range(RAM.start, RAM.end - RAM.start);
    let to_host = ledger.begin(all, Owner::NOBODY, Owner::HOST);
    to_host.unwrap().commit();
    let arena = Arena::new(PhysAddr::new(0x20_0000_0000), 1 << 20);
    let geometry = Geometry::stage2(Granule::Size4K, 40, 40).unwrap();
    let bbm = if mutant == Mutant::WrongBbm || machine.smmu.borrow().profile().idr3.bbml() >= 2 {
        Bbm::Level2
    } else {
        Bbm::Level0
    };
    let tables = HostTables {
        geometry,
        cpu_bbm: bbm,
        dma_bbm: bbm,
    };
    let doorbell = [range(DOORBELL.start, PAGE_SIZE)];
    let none = std::iter::empty();
    let space = HostSpace::new(ledger, tables, &arena, &machine, none, doorbell.into_iter());
    let mut space_other = Table::<Stage2Format, _>::new(geometry, bbm, &machine).unwrap();
    let attributes = Stage2Attributes {
        memory: MemoryType::Normal,
        read: true,
        write: true,
        execute: Execute::Never,
    };
    let mut space_spare = Table::<Stage2Format, _>::new(geometry, bbm, &machine).unwrap();
    for (table, memory) in [(&mut space_other, OTHER), (&mut space_spare, SPARE)] {
        let memory = range(memory.start, memory.end - memory.start);
        table
            .map(memory.identity(), memory.start(), attributes)
            .unwrap();
    }

    let space = space.unwrap();
    let stage2 = |vmid, root| Stage2 {
        vmid: Vmid(vmid),
        root,
        granule: driver::Granule::Size4K,
        t0sz: geometry.t0sz() as u8,
        sl0: geometry.sl0() as u8,
        ps: geometry.ps() as u8,
    };
    let domains = [
        stage2(1, space.dma().root()),
        stage2(2, space_other.root()),
        stage2(3, space_other.root()),
    ];
    let mut world = World {
        machine: &machine,
        driver,
        space,
        domains,
        spare: (stage2(3, space_spare.root()), SPARE),
        last: OTHER,
        at: BTreeMap::new(),
    };
    for op in program {
        world.step(op)?;
    }
    let counts = machine.smmu.borrow().counts();
    Ok(counts)
}

/// Somebody used the SMMU before, with the same VMID as ours, and left
/// everything on. Its translations lead into what is now the hypervisor's.
fn earlier_owner(machine: &Machine) {
    let (table, root) = (OLD.start, OLD.start + 0x4_0000);
    {
        let mut smmu = machine.smmu.borrow_mut();
        let ste = [
            1 | 0b110 << 1,
            0,
            // VMID 1, T0SZ 24, SL0 1, PS 40 bits, AA64, R.
            1 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58,
            root,
            0,
            0,
            0,
            0,
        ];
        for stream in 0..256 {
            for (word, value) in (0..).zip(ste) {
                smmu.ram_mut().settle(table + stream * 64 + word * 8, value);
            }
        }
        // A block of 1 GiB over the pool.
        let index = POOL.start >> 30;
        let block = (POOL.start & !0x3fff_ffff) | 0x7c1;
        smmu.ram_mut().settle(root + index * 8, block);
        let base = StrtabBase::new().with_addr_6(table >> 6);
        smmu.write64(reg::STRTAB_BASE, base.into());
        let cfg = StrtabBaseCfg::new().with_log2size(8);
        smmu.write32(reg::STRTAB_BASE_CFG, cfg.into());
        smmu.write32(reg::CR0, 1);
        while smmu.read32(reg::CR0ACK) != 1 {}
    }
}

impl World<'_, '_> {
    fn step(&mut self, op: &Op) -> Result<(), Finding> {
        let before = self.allowed();
        *self.machine.allowed.borrow_mut() = before.clone();
        self.perform(op, &before)?;
        *self.machine.allowed.borrow_mut() = self.allowed();
        self.machine.check();
        if let Some(finding) = self.machine.finding.get() {
            return Err(finding);
        }
        self.reachable()
    }

    /// What each stream may use now: the host's devices its pages and the
    /// doorbell, those of the other domain what is theirs.
    fn allowed(&self) -> Allowed {
        let mut host = vec![DOORBELL];
        let runs = self.space.ledger().runs(Owner::HOST);
        host.extend(runs.map(|run| run.start().raw()..run.end().raw()));
        let mut allowed = Allowed::default();
        for (stream, domain) in &self.at {
            let ranges = match domain {
                0 => host.clone(),
                1 => vec![OTHER],
                _ => vec![self.last.clone()],
            };
            allowed.streams.insert(*stream, ranges);
        }
        allowed
    }

    /// Allows during an operation what is allowed before or after it.
    fn also(&self, before: &Allowed, streams: impl Iterator<Item = u32>, extra: &[Ranges]) {
        let mut allowed = before.clone();
        for stream in streams {
            let list = allowed.streams.entry(stream).or_default();
            list.extend(extra.iter().cloned());
        }
        for list in allowed.streams.values_mut() {
            list.sort_by_key(|range| (range.start, range.end));
        }
        *self.machine.allowed.borrow_mut() = allowed;
    }

    fn ranges_of(&self, domain: u8) -> Vec<Ranges> {
        match domain {
            0 => {}
            1 => return vec![OTHER],
            _ => return vec![self.last.clone()],
        }
        let runs = self.space.ledger().runs(Owner::HOST);
        let runs = runs.map(|run| run.start().raw()..run.end().raw());
        runs.chain([DOORBELL]).collect()
    }

    fn perform(&mut self, op: &Op, before: &Allowed) -> Result<(), Finding> {
        match *op {
            Op::Attach { stream, domain } => {
                let (stream, domain) = (stream % STREAMS * 5, domain % 3);
                self.also(before, [stream].into_iter(), &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                self.drive(|d| d.attach(StreamId(stream), &stage2), "attach")?;
                self.at.insert(stream, domain);
            }
            Op::AttachRange {
                first,
                last,
                domain,
            } => {
                let (a, b) = (first % (STREAMS * 5), last % (STREAMS * 5));
                let (first, last, domain) = (a.min(b), a.max(b), domain % 3);
                let streams = (first..=last).filter(|stream| stream % 5 == 0);
                self.also(before, streams.clone(), &self.ranges_of(domain));
                let stage2 = self.domains[usize::from(domain)];
                let (first, last) = (StreamId(first), StreamId(last));
                self.drive(|d| d.attach_range(first, last, &stage2), "attach_range")?;
                self.at.extend(streams.map(|stream| (stream, domain)));
            }
            Op::Block { stream } => {
                let stream = stream % STREAMS * 5;
                self.drive(|d| d.block(StreamId(stream)), "block")?;
                self.at.remove(&stream);
            }
            Op::Take { page, count } => self.take(pages(page, count))?,
            Op::Give { page, count } => {
                let range = pages(page, count);
                let host = self.at.iter().filter(|(_, domain)| **domain == 0);
                let streams: Vec<u32> = host.map(|(stream, _)| *stream).collect();
                let extra = range.start().raw()..range.end().raw();
                self.also(before, streams.into_iter(), std::slice::from_ref(&extra));
                let mut everywhere = Everywhere {
                    driver: &mut self.driver,
                    mutant: self.machine.mutant,
                };
                let given = self.space.give(range, Owner::HYPERVISOR, &mut everywhere);
                self.judge(given, "give")?;
            }
            Op::Dma {
                stream,
                address,
                write,
            } => {
                let access = if write { Access::Write } else { Access::Read };
                let stream = StreamId(stream % STREAMS * 5);
                let transaction = Transaction::new(stream, address, access);
                // What it reaches is judged by the oracle.
                let _ = self.machine.smmu.borrow_mut().translate(transaction);
            }
            Op::Scribble { page, word, value } => {
                let at = PhysAddr::new(RAM.start + page % PAGES * PAGE_SIZE + word % 512 * 8);
                if self.space.is_host_ram(at) {
                    self.machine.smmu.borrow_mut().store(at.raw(), value);
                }
            }
            Op::Drain => {
                self.driver.drain_events(64, |_| {});
                self.driver.handle_gerror();
            }
            Op::Reuse => {
                if self.at.values().all(|domain| *domain != 2) {
                    std::mem::swap(&mut self.domains[2], &mut self.spare.0);
                    std::mem::swap(&mut self.last, &mut self.spare.1);
                }
            }
            Op::Restart => {
                self.driver.fence().map_err(|_| Finding::Failed("fence"))?;
                self.machine.check();
                let restarted = self.driver.restart();
                self.explain(restarted.is_ok(), "restart")?;
            }
        }
        Ok(())
    }

    fn take(&mut self, range: Range<PhysAddr>) -> Result<(), Finding> {
        let mutant = self.machine.mutant;
        let ledger = *self.space.ledger();
        if mutant == Mutant::LedgerOnly {
            if let Ok(transfer) = ledger.begin(range, Owner::HOST, Owner::HYPERVISOR) {
                transfer.commit();
            }
            return Ok(());
        }
        if mutant == Mutant::TooEarly {
            let granule = driver::Granule::Size4K;
            self.drive(
                |d| d.tlbi_ipa_range(Vmid(1), range.identity(), granule, None, false),
                "tlbi",
            )?;
        }
        let mut everywhere = Everywhere {
            driver: &mut self.driver,
            mutant,
        };
        let taken = self.space.take(range, Owner::HYPERVISOR, &mut everywhere);
        self.judge(taken, "take")
    }

    fn drive(
        &mut self,
        call: impl FnOnce(&mut Driver<'_>) -> Result<(), Error>,
        what: &'static str,
    ) -> Result<(), Finding> {
        self.machine.in_driver.set(true);
        let result = call(&mut self.driver);
        self.machine.in_driver.set(false);
        self.explain(result.is_ok(), what)
    }

    /// What the ledger refuses is part of the game; nothing else may fail.
    fn judge(
        &self,
        result: Result<(), HostError<Error>>,
        what: &'static str,
    ) -> Result<(), Finding> {
        self.explain(matches!(result, Ok(()) | Err(HostError::Ledger(_))), what)
    }

    fn explain(&self, fine: bool, what: &'static str) -> Result<(), Finding> {
        if fine {
            return Ok(());
        }
        // What came first is the better explanation.
        self.machine.check();
        Err(self.machine.finding.get().unwrap_or(Finding::Failed(what)))
    }

    /// Each attached stream must reach what it has: a rig in which nothing
    /// works would find nothing.
    fn reachable(&self) -> Result<(), Finding> {
        let mut smmu = self.machine.smmu.borrow_mut();
        for (stream, domain) in &self.at {
            let stage2 = &self.domains[usize::from(*domain)];
            let lost = Err(Finding::Lost(*stream, 0));
            match smmu.agreed(StreamId(*stream)) {
                Some(r) if r.vmid == stage2.vmid.0 && r.root == stage2.root.raw() => {}
                _ => return lost,
            }
            for range in self.ranges_of(*domain) {
                for at in [range.start, range.end - 8] {
                    let access = Transaction::new(StreamId(*stream), at, Access::Write);
                    if smmu.translate(access) != Ok(at) {
                        return Err(Finding::Lost(*stream, at));
                    }
                }
            }
        }
        Ok(())
    }
}

type Ranges = std::ops::Range<u64>;

fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).unwrap()
}

/// `count` pages (1 to 16, or a whole block) from `page`, inside RAM.
fn pages(page: u64, count: u64) -> Range<PhysAddr> {
    let count = match count % 20 {
        18 => 512,
        19 => 32,
        n => n.clamp(1, 16),
    };
    let first = (page % PAGES).min(PAGES - count);
    let first = if count > 16 {
        first / count * count
    } else {
        first
    };
    range(RAM.start + first * PAGE_SIZE, count * PAGE_SIZE)
}

/// The words of an entry, for tests that write one by hand.
pub const ABORT: [u64; 8] = Ste::ABORT.0;

//! What Linux 6.12's arm-smmu-v3 does: one space of stage 1 for each domain, and
//! the commands that it sends when a mapping goes.
//!
//! Its tables are written by `portcullis-pagetable`, entry by entry and without the
//! contiguous hint, as its io-pgtable does. They come and go with what is mapped;
//! Linux keeps them.

mod start;

use super::client::{Client, Work};
use super::zone::ZoneRef;
use super::{Machine, MachineError};
use portcullis_addr::{Iova, Ipa, Range};
use portcullis_pagetable::{Access, El1Attributes, Invalidation, MemoryType, Stage1El1, Table};
use smmuv3_emulator::Size;
use smmuv3_spec::command::{Command, SIG_IRQ, SIG_NONE, TLBI_TG_4K};
use smmuv3_spec::{Asid, Vmid, reg};

/// Commands that it collects before it puts them into the queue
/// (CMDQ_BATCH_ENTRIES).
const BATCH: usize = 64;
/// Bytes of a block at level 2.
const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4096;
/// The host's VMID, as the host sees it.
const VMID: Vmid = Vmid(0);

/// The registers of its SMMU.
pub(super) trait Front {
    /// Writes one.
    fn write(&mut self, offset: u32, size: Size, value: u64) -> Result<(), MachineError>;
    /// Reads one.
    fn read32(&self, offset: u32) -> u32;
    /// Times that EL2 was entered so far.
    fn entries(&self) -> u64;
}

/// What went and is not invalidated yet.
struct Gathered {
    domain: usize,
    start: u64,
    end: u64,
    level: Option<u8>,
    leaf: bool,
}

/// The driver.
pub(super) struct Stock<'m, F> {
    machine: &'m Machine,
    front: F,
    tables: Vec<Table<Stage1El1, ZoneRef<'m>>>,
    /// Its command queue.
    queue: u64,
    log2: u8,
    prod: u32,
    /// The SMMU tells of a CMD_SYNC by a message.
    messages: bool,
    ranges: bool,
    gathered: Vec<Gathered>,
    plans: Vec<(usize, Invalidation<Iova>)>,
}

/// As Linux numbers them: from 1 on.
fn asid(domain: usize) -> Asid {
    // At most 4096.
    Asid(domain as u16 + 1)
}

impl<F: Front> Stock<'_, F> {
    fn attributes() -> El1Attributes {
        El1Attributes {
            memory: MemoryType::Normal,
            access: Access::ReadWrite,
            unprivileged: true,
            not_global: true,
        }
    }

    /// Puts commands into the queue, and says so once.
    fn put(&mut self, commands: &[Command]) -> Result<(), MachineError> {
        let slots = 1u32 << self.log2;
        for command in commands {
            let at = self.queue + u64::from(self.prod % slots) * Command::SIZE;
            self.machine.store(at, command.0[0]);
            self.machine.store(at + 8, command.0[1]);
            self.prod = (self.prod + 1) % (2 * slots);
        }
        self.front
            .write(reg::CMDQ_PROD, Size::Word, self.prod.into())
    }

    /// The same with a CMD_SYNC behind them, and waits.
    fn put_and_sync(&mut self, commands: &[Command]) -> Result<(), MachineError> {
        let mut list = commands.to_vec();
        let slots = 1u32 << self.log2;
        let slot = (self.prod + commands.len() as u32) % slots;
        let at = self.queue + u64::from(slot) * Command::SIZE;
        // Linux has the message overwrite the CMD_SYNC itself.
        list.push(if self.messages {
            Command::sync(SIG_IRQ)
                .with_msi_address(at)
                .with_msh(0b11)
                .with_msi_attr(0b1111)
        } else {
            Command::sync(SIG_NONE)
        });
        self.put(&list)?;
        let done = if self.messages {
            self.machine.load32(at) == 0
        } else {
            self.front.read32(reg::CMDQ_CONS) == self.prod
        };
        done.then_some(())
            .ok_or(MachineError::Stuck("complete a CMD_SYNC"))
    }

    /// Everything in batches, the last of them with a CMD_SYNC.
    fn submit(&mut self, commands: &[Command]) -> Result<(), MachineError> {
        let mut left = commands;
        while left.len() > BATCH {
            let (now, later) = left.split_at(BATCH);
            self.put(now)?;
            left = later;
        }
        self.put_and_sync(left)
    }

    /// What arm_smmu_tlb_inv_range makes of it.
    fn commands(&self, what: &Gathered, list: &mut Vec<Command>) {
        let command = Command::tlbi_nh_va(VMID, asid(what.domain), 0, what.leaf);
        if !self.ranges {
            let step = match what.level {
                Some(2) => BLOCK,
                _ => PAGE,
            };
            let all = (what.start..what.end).step_by(step as usize);
            list.extend(all.map(|at| command.with_address(at)));
            return;
        }
        let ttl = match what.level {
            Some(level) if what.leaf => level,
            _ => 0,
        };
        let command = command.with_tg(TLBI_TG_4K).with_ttl(ttl);
        let (mut at, mut left) = (what.start, (what.end - what.start) / PAGE);
        if !what.leaf && left & 31 == 1 {
            // Neither range nor level is reserved.
            left += 1;
        }
        while left != 0 {
            // 31 at most: at most 2^36 pages are left.
            let scale = left.trailing_zeros() as u8;
            let count = left >> scale & 31;
            let ranged = command
                .with_address(at)
                .with_scale(scale)
                .with_num(count as u8 - 1);
            list.push(ranged);
            at += count << scale << 12;
            left -= count << scale;
        }
    }

    /// Adds to what is gathered, or begins something new.
    fn gather(&mut self, domain: usize, plan: &Invalidation<Iova>) {
        let Some(range) = plan.range() else {
            return;
        };
        let (level, leaf) = (plan.level(), plan.leaf_only());
        if let Some(last) = self.gathered.last_mut()
            && (last.domain, last.end, last.level, last.leaf)
                == (domain, range.start().raw(), level, leaf)
        {
            last.end = range.end().raw();
            return;
        }
        self.gathered.push(Gathered {
            domain,
            start: range.start().raw(),
            end: range.end().raw(),
            level,
            leaf,
        });
    }

    fn free_tables(&mut self, domain: Option<usize>) {
        let all = std::mem::take(&mut self.plans);
        for (owner, plan) in all {
            if domain.is_some_and(|domain| domain != owner) {
                self.plans.push((owner, plan));
            } else if let Some(table) = self.tables.get_mut(owner) {
                let own = table.complete(plan);
                debug_assert!(own.is_ok(), "the plan is of its own table");
            }
        }
    }
}

impl<F: Front> Client for Stock<'_, F> {
    fn map(
        &mut self,
        domain: usize,
        iova: Iova,
        runs: &[Range<Ipa>],
    ) -> Result<Work, MachineError> {
        let before = self.front.entries();
        let table = self
            .tables
            .get_mut(domain)
            .ok_or(MachineError::Stuck("have such a domain"))?;
        let mut at = iova.raw();
        for run in runs {
            let (mut from, end) = (run.start().raw(), run.end().raw());
            while from < end {
                let block = (at | from).is_multiple_of(BLOCK) && end - from >= BLOCK;
                let size = if block { BLOCK } else { PAGE };
                let range = Range::from_size(Iova::new(at), size)
                    .map_err(|_| MachineError::Stuck("have such an address"))?;
                table.map(range, Ipa::new(from), Self::attributes())?;
                at += size;
                from += size;
            }
        }
        Ok(Work {
            entries: self.front.entries() - before,
        })
    }

    fn unmap_lazily(&mut self, domain: usize, iova: Range<Iova>) -> Result<Work, MachineError> {
        loop {
            let table = self
                .tables
                .get_mut(domain)
                .ok_or(MachineError::Stuck("have such a domain"))?;
            let Some(taken) = table.unmap_first(iova)? else {
                return Ok(Work::default());
            };
            self.gather(domain, &taken.plan);
            if !taken.plan.is_done() {
                self.plans.push((domain, taken.plan));
            }
            if taken.range.end() >= iova.end() {
                return Ok(Work::default());
            }
        }
    }

    fn complete(&mut self) -> Result<Work, MachineError> {
        let before = self.front.entries();
        let mut list = Vec::new();
        for what in std::mem::take(&mut self.gathered) {
            self.commands(&what, &mut list);
        }
        if !list.is_empty() {
            self.submit(&list)?;
        }
        self.free_tables(None);
        Ok(Work {
            entries: self.front.entries() - before,
        })
    }

    fn flush(&mut self, domain: usize) -> Result<Work, MachineError> {
        let before = self.front.entries();
        self.gathered.retain(|what| what.domain != domain);
        self.submit(&[Command::tlbi_nh_asid(VMID, asid(domain))])?;
        self.free_tables(Some(domain));
        Ok(Work {
            entries: self.front.entries() - before,
        })
    }
}

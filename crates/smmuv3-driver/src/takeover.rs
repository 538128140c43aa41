//! Takes an SMMU over from its earlier owner (IHI 0070, 3.11), restarts it, and
//! stops it.

use crate::command_queue::CommandQueue;
use crate::event_queue::EventQueue;
use crate::issued_commands::msi_reserved;
use crate::nested_vmids::NestedVmids;
use crate::pri_queue::PriQueue;
use crate::smmu::Hardware;
use crate::stream_table::shared_tables::MAX_SHARED_TABLES;
use crate::stream_table::{Shape, StreamTable, fill_with_abort};
use crate::wait::{REGISTER_US, poll, wait_for_acknowledgement};
use crate::{
    Clock, Config, Error, Features, InitError, Quirks, Registers, Smmu, Stats, Wait, fence,
};
use portcullis_addr::PhysAddr;
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{
    CACHE_NC, CACHE_WB, Cr0, Cr1, Cr2, IrqCtrl, OutputIndex, QueueBase, SHARE_INNER, SHARE_OUTER,
    StrtabBase,
};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::reg;
use smmuv3_spec::ste::Ste;

/// A block of allocated memory.
#[derive(Clone, Copy)]
struct Allocation {
    at: PhysAddr,
    bytes: u64,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// Takes the SMMU over from its earlier owner. DMA is fenced first, every
    /// cache is invalidated, and translation is enabled only when every stream
    /// aborts.
    ///
    /// # Errors
    /// See [`InitError`]. The SMMU stays fenced, unless fencing itself failed.
    /// Memory is freed if the SMMU is known not to use it any more.
    pub fn new(regs: R, memory: M, clock: C, config: Config) -> Result<Self, InitError> {
        // The fence comes before all that can fail, since an SMMU that cannot
        // be driven must not let DMA through either.
        fence(&regs, &clock)?;
        let features = Features::probe(&regs)?;
        let hw = Hardware {
            regs,
            mem: memory,
            clock,
        };
        quiesce(&hw)?;

        let shape = Shape::choose(&features, &config);
        let command_log2 = config.command_log2.min(features.idr1.cmdqs());
        let event_log2 = config.event_log2.min(features.idr1.eventqs());
        let pri_log2 = config
            .pri_log2
            .filter(|_| features.idr0.pri())
            .map(|log2| log2.min(features.idr1.priqs()).min(MAX_REQUESTS_LOG2));
        let sizes = [
            shape.bytes(),
            command_bytes(command_log2),
            event_bytes(event_log2),
            pri_log2.map_or(0, request_bytes),
        ];
        let blocks = allocate_all(&hw.mem, sizes)?;
        if shape.split.is_none() {
            fill_with_abort(&hw.mem, blocks[0].at, blocks[0].bytes);
        }
        let mut this = Self {
            features,
            config,
            table: StreamTable {
                base: blocks[0].at,
                shape,
            },
            commands: CommandQueue::new(
                blocks[1].at,
                command_log2,
                features.quirks.contains(Quirks::BOUNDED_BATCH),
            ),
            events: EventQueue::new(blocks[2].at, event_log2),
            requests: pri_log2.map(|log2| PriQueue::new(blocks[3].at, log2)),
            stats: Stats::default(),
            fenced: false,
            nested: NestedVmids::new(),
            msi_reserved: msi_reserved(&features),
            shared_tables: [None; MAX_SHARED_TABLES],
            last_passing_entry: Ste::ABORT,
            hw,
        };
        match this.start() {
            Ok(()) => Ok(this),
            Err(error) => {
                this.stop()?;
                Err(error.into())
            }
        }
    }

    /// Starts a fenced SMMU again, also one that lost its registers with its
    /// power: everything is reset through abort, programmed and invalidated as
    /// by [`new`](Self::new). Streams keep what they were given; events, page
    /// requests and refusals of issued commands that were not read are lost.
    ///
    /// # Errors
    /// As [`new`](Self::new). The SMMU is then still fenced, and the caller may
    /// try again. Its features must not have changed.
    pub fn restart(&mut self) -> Result<(), InitError> {
        // The fence comes before the registers are changed. The SMMU counts as
        // fenced until the end.
        self.fence()?;
        quiesce(&self.hw)?;
        self.commands = CommandQueue::new(
            self.commands.base,
            self.commands.ring.log2(),
            self.features.quirks.contains(Quirks::BOUNDED_BATCH),
        );
        self.events = EventQueue::new(self.events.base, self.events.ring.log2());
        self.requests = self
            .requests
            .take()
            .map(|queue| PriQueue::new(queue.base, queue.ring.log2()));
        self.fenced = false;
        self.start().map_err(|error| match self.fence() {
            Ok(()) => error.into(),
            Err(fence) => fence.into(),
        })
    }

    /// Fences the SMMU for good, stops its queues and frees all memory.
    ///
    /// # Errors
    /// [`InitError::Fence`], [`InitError::Device`]: the SMMU may still access
    /// its tables and queues, so their memory is not freed.
    pub fn stop(mut self) -> Result<(), InitError> {
        self.fence()?;
        // When CR0ACK follows, no access to the queues is under way, and with
        // translation off none to the stream table (6.3.9).
        write_cr0(&self.hw, Cr0::new())?;
        let mem = &self.hw.mem;
        let shared = self.shared_tables.iter().flatten().map(|shared| shared.at);
        self.table.free_second_levels(mem, shared);
        mem.free(self.table.base, self.table.shape.bytes());
        mem.free(self.commands.base, command_bytes(self.commands.ring.log2()));
        mem.free(self.events.base, event_bytes(self.events.ring.log2()));
        if let Some(queue) = &self.requests {
            mem.free(queue.base, request_bytes(queue.ring.log2()));
        }
        Ok(())
    }

    /// Programs the registers and enables the SMMU. Before, everything is off
    /// and aborts.
    fn start(&mut self) -> Result<(), Error> {
        self.program_registers();
        let base = Cr0::new()
            .with_cmdqen(true)
            .with_eventqen(true)
            .with_priqen(self.requests.is_some())
            // Without this check, traffic that a device marks as translated
            // would bypass the stream table (6.3.9.2).
            .with_atschk(self.features.idr0.ats());
        write_cr0(&self.hw, base)?;

        // Configuration is invalidated first. If the TLB were, a stale entry
        // could fill it again (4.3.6).
        self.run([Command::cfgi_all()])?;
        let el2 = self.features.idr0.hyp().then(Command::tlbi_el2_all);
        self.run([Command::tlbi_nsnh_all()].into_iter().chain(el2))?;

        if self.config.interrupts {
            let on = IrqCtrl::new()
                .with_eventq_irqen(true)
                .with_priq_irqen(self.requests.is_some())
                .with_gerror_irqen(true);
            write_irq_ctrl(&self.hw, on)?;
        }
        write_cr0(&self.hw, base.with_smmuen(true))
    }

    fn program_registers(&self) {
        let regs = &self.hw.regs;
        let (cache, share) = if self.features.coherent() {
            (CACHE_WB, SHARE_INNER)
        } else {
            (CACHE_NC, SHARE_OUTER)
        };
        let cr1 = Cr1::new()
            .with_queue_ic(cache)
            .with_queue_oc(cache)
            .with_queue_sh(share)
            .with_table_ic(cache)
            .with_table_oc(cache)
            .with_table_sh(share);
        regs.write32(reg::CR1, cr1.into());
        // With private TLB maintenance (PTM), a TLBI of a CPU invalidates
        // nothing here; only this driver decides. E2H only concerns EL2
        // streams.
        let cr2 = Cr2::new().with_ptm(true).with_recinvsid(true);
        regs.write32(reg::CR2, cr2.into());

        let table = StrtabBase::new()
            .with_ra(true)
            .with_addr_6(self.table.base.raw() >> 6);
        regs.write64(reg::STRTAB_BASE, table.into());
        regs.write32(reg::STRTAB_BASE_CFG, self.table.shape.register().into());

        let queue = |at: PhysAddr, log2: u8| {
            QueueBase::new()
                .with_alloc(true)
                .with_log2size(log2)
                .with_addr_5(at.raw() >> 5)
        };
        let commands = &self.commands;
        regs.write64(
            reg::CMDQ_BASE,
            queue(commands.base, commands.ring.log2()).into(),
        );
        regs.write32(reg::CMDQ_PROD, 0);
        regs.write32(reg::CMDQ_CONS, 0);
        let events = &self.events;
        regs.write64(
            reg::EVENTQ_BASE,
            queue(events.base, events.ring.log2()).into(),
        );
        regs.write32(reg::EVENTQ_PROD, OutputIndex::new().into());
        regs.write32(reg::EVENTQ_CONS, OutputIndex::new().into());
        if let Some(requests) = &self.requests {
            regs.write64(
                reg::PRIQ_BASE,
                queue(requests.base, requests.ring.log2()).into(),
            );
            regs.write32(reg::PRIQ_PROD, OutputIndex::new().into());
            regs.write32(reg::PRIQ_CONS, OutputIndex::new().into());
        }

        if self.features.idr0.msi() {
            // Address 0 turns an MSI off, so that the wired interrupt is used
            // (6.3.21). The address of an earlier owner must not be written.
            regs.write64(reg::GERROR_IRQ_CFG0, 0);
            regs.write64(reg::EVENTQ_IRQ_CFG0, 0);
            if self.features.idr0.pri() {
                regs.write64(reg::PRIQ_IRQ_CFG0, 0);
            }
        }
        // An unacknowledged error of an earlier owner would keep the command
        // queue stopped (7.1).
        regs.write32(reg::GERRORN, regs.read32(reg::GERROR));
    }
}

/// A queue's base is aligned to its size and to 32 bytes at least (6.3.26).
fn command_bytes(log2: u8) -> u64 {
    (Command::SIZE << log2).max(32)
}

fn event_bytes(log2: u8) -> u64 {
    EventRecord::SIZE << log2
}

/// The alignment is that of the command queue.
fn request_bytes(log2: u8) -> u64 {
    (PageRequest::SIZE << log2).max(32)
}

/// log2 of the entries of the largest PRI queue (6.3.2).
const MAX_REQUESTS_LOG2: u8 = 19;

/// Turns queues and interrupts off, so that their registers can be written
/// (6.3.9, 6.3.16).
fn quiesce<R: Registers, M, C: Clock>(hw: &Hardware<R, M, C>) -> Result<(), Error> {
    write_cr0(hw, Cr0::new())?;
    write_irq_ctrl(hw, IrqCtrl::new())
}

/// Allocates one block for each size that is not 0.
fn allocate_all<M: Allocator>(mem: &M, sizes: [u64; 4]) -> Result<[Allocation; 4], InitError> {
    let mut blocks = [Allocation {
        at: PhysAddr::new(0),
        bytes: 0,
    }; 4];
    for (index, bytes) in sizes
        .into_iter()
        .enumerate()
        .filter(|(_, bytes)| *bytes != 0)
    {
        let Some(at) = mem.allocate(bytes) else {
            for block in &blocks[..index] {
                mem.free(block.at, block.bytes);
            }
            return Err(InitError::NoMemory { bytes });
        };
        blocks[index] = Allocation { at, bytes };
    }
    Ok(blocks)
}

/// The bits of CR0 that this driver writes, SMMUEN to ATSCHK. Other bits that
/// the SMMU shows in CR0ACK must not delay a finished update.
const CR0_MASK: u32 = 0x1f;
/// The same for IRQ_CTRL.
const IRQ_CTRL_MASK: u32 = 0x7;

/// Writes CR0 and waits until CR0ACK is the same (6.3.9, 6.3.10).
fn write_cr0<R: Registers, M, C: Clock>(hw: &Hardware<R, M, C>, value: Cr0) -> Result<(), Error> {
    let value = u32::from(value);
    wait_for_acknowledgement(&hw.regs, &hw.clock, (reg::CR0, reg::CR0ACK), CR0_MASK);
    hw.regs.write32(reg::CR0, value);
    poll(&hw.clock, REGISTER_US, || {
        (hw.regs.read32(reg::CR0ACK) & CR0_MASK == value).then_some(())
    })
    .ok_or(Error::Timeout(Wait::Cr0))
}

/// Writes IRQ_CTRL and waits until IRQ_CTRLACK is the same (6.3.16, 6.3.18).
fn write_irq_ctrl<R: Registers, M, C: Clock>(
    hw: &Hardware<R, M, C>,
    value: IrqCtrl,
) -> Result<(), Error> {
    let value = u32::from(value);
    let registers = (reg::IRQ_CTRL, reg::IRQ_CTRLACK);
    wait_for_acknowledgement(&hw.regs, &hw.clock, registers, IRQ_CTRL_MASK);
    hw.regs.write32(reg::IRQ_CTRL, value);
    poll(&hw.clock, REGISTER_US, || {
        (hw.regs.read32(reg::IRQ_CTRLACK) & IRQ_CTRL_MASK == value).then_some(())
    })
    .ok_or(Error::Timeout(Wait::IrqCtrl))
}

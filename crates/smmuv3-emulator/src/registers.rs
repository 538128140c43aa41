//! The registers (IHI 0070, 6.2 and 6.3): which writes take effect, which
//! values they store, and which values the owner reads.
//!
//! Choices that the architecture leaves open. Ignored writes are: an access
//! that is not aligned or of 8 or 16 bits, a 64-bit access to two 32-bit
//! registers, and a write to a register that is fixed while something is
//! enabled (SMMUv3.2 asks for the last). Reserved bits, and address bits above
//! `IDR5.OAS`, read as 0. Page 0 has no alias of the registers of page 1, nor
//! the other way round. A write of `CMDQ_CONS` also sets ERR, which reads as 0
//! unless CMDQ_ERR is active.

use crate::interrupts::Source;
use crate::{Emulator, Physical, Platform, Progress, Size, Window};
use smmuv3_spec::command::CommandError;
use smmuv3_spec::control::{
    CmdqCons, Cr0, Cr1, Cr2, Gbpa, Gerror, IrqCfg2, IrqCtrl, OutputIndex, QueueBase, StrtabBase,
    StrtabBaseCfg,
};
use smmuv3_spec::reg;

/// Mask of the index and the wrap bit in `CMDQ_PROD` and `CMDQ_CONS`.
pub(crate) const INDEX: u32 = 0xf_ffff;

/// Mask of the attributes of an MSI: `SH` and `MemAttr` (6.3.23).
const ATTRIBUTES: u32 = 0x3f;

/// Registers that are only stored until something is enabled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    /// `SMMU_CR0`.
    pub(crate) cr0: Cr0,
    /// `SMMU_CR0ACK`: the part of `CR0` that has taken effect.
    pub(crate) cr0ack: Cr0,
    /// `SMMU_CR1`. Stored only, since the CPU's accesses have the attributes of
    /// the memory.
    pub(crate) cr1: Cr1,
    /// `SMMU_CR2`.
    cr2: Cr2,
    /// `SMMU_GBPA`.
    pub(crate) gbpa: Gbpa,
    /// `SMMU_STRTAB_BASE`.
    pub(crate) strtab_base: StrtabBase,
    /// `SMMU_STRTAB_BASE_CFG`.
    pub(crate) strtab_base_cfg: StrtabBaseCfg,
    /// `SMMU_CMDQ_BASE`.
    pub(crate) cmdq_base: QueueBase,
    /// `SMMU_EVENTQ_BASE`.
    pub(crate) eventq_base: QueueBase,
    /// `SMMU_PRIQ_BASE`.
    pub(crate) priq_base: QueueBase,
}

impl Registers {
    /// The values after reset: 0, but `GBPA` lets traffic pass with its own
    /// shareability.
    pub(crate) fn new() -> Self {
        Self {
            cr0: Cr0::new(),
            cr0ack: Cr0::new(),
            cr1: Cr1::new(),
            cr2: Cr2::new(),
            gbpa: Gbpa::new().with_shcfg(0b01),
            strtab_base: StrtabBase::new(),
            strtab_base_cfg: StrtabBaseCfg::new(),
            cmdq_base: QueueBase::new(),
            eventq_base: QueueBase::new(),
            priq_base: QueueBase::new(),
        }
    }

    /// `SMMU_CR2`.
    pub(crate) fn cr2(&self) -> Cr2 {
        self.cr2
    }

    /// The bits that are set in `CR0` or in `CR0ACK`. A register that such a
    /// bit guards must not be changed.
    pub(crate) fn guards(&self) -> Cr0 {
        Cr0::from(u32::from(self.cr0) | u32::from(self.cr0ack))
    }
}

/// Why a write is ignored.
enum Ignored {
    ReadOnly,
    Guarded,
}

type WriteResult = Result<(), Ignored>;

impl<W: Window> Emulator<W> {
    /// Handles all writes but the plain 32-bit write of `CMDQ_PROD`, which
    /// [`write`](Self::write) hands to
    /// [`write_cmdq_prod`](Self::write_cmdq_prod) itself.
    #[inline(never)]
    pub(crate) fn write_register<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        offset: u32,
        size: Size,
        value: u64,
    ) -> Progress {
        let base = offset & !7;
        let result = match (size, is_64_bit_register(base)) {
            _ if offset >= reg::SIZE => Err(Ignored::ReadOnly),
            (Size::Double, true) if offset == base => self.store64(platform, base, value),
            (Size::Word, true) if offset == base => {
                let high = self.load64(base) & !0xffff_ffff;
                self.store64(platform, base, high | (value & 0xffff_ffff))
            }
            (Size::Word, true) if offset == base + 4 => {
                let low = self.load64(base) & 0xffff_ffff;
                self.store64(platform, base, low | (value << 32))
            }
            (Size::Word, false) if offset.is_multiple_of(4) => {
                // The truncation is intended: the access has 32 bits.
                let value = value as u32;
                match offset {
                    reg::CR0 => {
                        self.counts.writes += 1;
                        return self.set_cr0(platform, physical, value);
                    }
                    reg::GBPA => {
                        self.counts.writes += 1;
                        return self.set_gbpa(platform, physical, value);
                    }
                    reg::GERRORN => {
                        self.counts.writes += 1;
                        return self.set_gerrorn(platform, physical, value);
                    }
                    reg::CMDQ_PROD => {
                        return self.write_cmdq_prod(platform, physical, value);
                    }
                    _ => self.store32(platform, offset, value),
                }
            }
            _ => {
                self.counts.illegal_accesses += 1;
                return Progress::Done;
            }
        };
        match result {
            Ok(()) => self.counts.writes += 1,
            Err(Ignored::ReadOnly) => self.counts.read_only += 1,
            Err(Ignored::Guarded) => self.counts.guarded += 1,
        }
        Progress::Done
    }

    /// Shows the value of every register.
    pub(crate) fn show_all<P: Platform<Window = W>>(&self, platform: &P) {
        let ids = &self.ids;
        for (offset, value) in [
            (reg::IDR0, u32::from(ids.idr0)),
            (reg::IDR1, ids.idr1.into()),
            (reg::IDR2, 0),
            (reg::IDR3, ids.idr3.into()),
            (reg::IDR4, 0),
            (reg::IDR5, ids.idr5.into()),
            (reg::IIDR, ids.iidr.into()),
            (reg::AIDR, ids.aidr.into()),
            (reg::CR0, self.regs.cr0.into()),
            (reg::CR0ACK, self.regs.cr0ack.into()),
            (reg::CR1, self.regs.cr1.into()),
            (reg::CR2, self.regs.cr2().into()),
            (reg::STATUSR, 0),
            (reg::GBPA, self.regs.gbpa.into()),
            (reg::AGBPA, 0),
            (reg::IRQ_CTRL, self.irq.control.into()),
            (reg::IRQ_CTRLACK, self.irq.control.into()),
            (reg::GERROR, self.irq.gerror.into()),
            (reg::GERRORN, self.irq.gerrorn.into()),
            (reg::STRTAB_BASE_CFG, self.regs.strtab_base_cfg.into()),
            (reg::CMDQ_PROD, self.queue.prod),
            (reg::CMDQ_CONS, self.queue.cons),
            (reg::EVENTQ_PROD, self.events.prod()),
            (reg::EVENTQ_CONS, self.events.cons()),
            (reg::PRIQ_PROD, self.pri.prod()),
            (reg::PRIQ_CONS, self.pri.cons()),
        ] {
            platform.show(offset, value);
        }
        for (offset, source) in IRQ_CFG0 {
            let config = self.irq.of(source);
            show64(platform, offset, config.address);
            platform.show(offset + 8, config.data);
            platform.show(offset + 12, config.attributes);
        }
        for offset in [
            reg::STRTAB_BASE,
            reg::CMDQ_BASE,
            reg::EVENTQ_BASE,
            reg::PRIQ_BASE,
        ] {
            show64(platform, offset, self.load64(offset));
        }
    }

    fn load64(&self, offset: u32) -> u64 {
        match offset {
            reg::STRTAB_BASE => self.regs.strtab_base.into(),
            reg::CMDQ_BASE => self.regs.cmdq_base.into(),
            reg::EVENTQ_BASE => self.regs.eventq_base.into(),
            reg::PRIQ_BASE => self.regs.priq_base.into(),
            _ => source_of(offset).map_or(0, |source| self.irq.of(source).address),
        }
    }

    fn store64<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        offset: u32,
        value: u64,
    ) -> WriteResult {
        let guards = self.regs.guards();
        let address = self.ids.address_mask();
        // These bits are RA or WA, ADDR from bit 5 or 6 on, and LOG2SIZE.
        let queue = |raw: u64| QueueBase::from(raw & ((address & !0x1f) | 1 << 62 | 0x1f));
        let guard = |enabled: bool| {
            if enabled {
                Err(Ignored::Guarded)
            } else {
                Ok(())
            }
        };
        match offset {
            reg::STRTAB_BASE => {
                guard(guards.smmuen())?;
                self.regs.strtab_base = StrtabBase::from(value & ((address & !0x3f) | 1 << 62));
            }
            reg::CMDQ_BASE => {
                guard(guards.cmdqen())?;
                self.regs.cmdq_base = queue(value);
            }
            reg::EVENTQ_BASE => {
                guard(guards.eventqen())?;
                self.regs.eventq_base = queue(value);
            }
            reg::PRIQ_BASE => {
                self.check_pri()?;
                guard(guards.priqen())?;
                self.regs.priq_base = queue(value);
            }
            _ => {
                let source = source_of(offset).ok_or(Ignored::ReadOnly)?;
                self.message_config(source)?.address = value & address & !0b11;
            }
        }
        show64(platform, offset, self.load64(offset));
        Ok(())
    }

    fn store32<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        offset: u32,
        value: u32,
    ) -> WriteResult {
        let guards = self.regs.guards();
        let guard = |enabled: bool| {
            if enabled {
                Err(Ignored::Guarded)
            } else {
                Ok(())
            }
        };
        let output = OutputIndex::from(value);
        let index = OutputIndex::new()
            .with_index(output.index())
            .with_overflow(output.overflow());
        let shown: u32 = match offset {
            reg::CR1 => {
                // The attributes of tables and of queues are guarded
                // separately.
                let mut mask = 0;
                if !guards.smmuen() {
                    mask |= 0xfc0;
                }
                if !(guards.eventqen() || guards.cmdqen() || guards.priqen()) {
                    mask |= 0x03f;
                }
                let kept = u32::from(self.regs.cr1) & !mask;
                self.regs.cr1 = Cr1::from(kept | (value & mask));
                guard(mask == 0)?;
                self.regs.cr1.into()
            }
            reg::CR2 => {
                guard(guards.smmuen())?;
                // All other bits are RES0 without HYP, BTM and ATSRECERR.
                self.regs.cr2 = Cr2::new().with_recinvsid(Cr2::from(value).recinvsid());
                self.regs.cr2.into()
            }
            reg::IRQ_CTRL => {
                let asked = IrqCtrl::from(value);
                self.irq.control = IrqCtrl::new()
                    .with_gerror_irqen(asked.gerror_irqen())
                    .with_eventq_irqen(asked.eventq_irqen())
                    .with_priq_irqen(asked.priq_irqen() && self.ids.idr0.pri());
                let shown = self.irq.control.into();
                platform.show(reg::IRQ_CTRLACK, shown);
                shown
            }
            reg::STRTAB_BASE_CFG => {
                guard(guards.smmuen())?;
                let asked = StrtabBaseCfg::from(value);
                self.regs.strtab_base_cfg = StrtabBaseCfg::new()
                    .with_log2size(asked.log2size())
                    .with_split(asked.split())
                    .with_fmt(asked.fmt());
                self.regs.strtab_base_cfg.into()
            }
            reg::CMDQ_CONS => {
                guard(guards.cmdqen())?;
                self.queue.cons = value & INDEX;
                self.queue.shown_cons = self.queue.cons;
                self.queue.last_error = CommandError(CmdqCons::from(value).err());
                self.cmdq_cons_value()
            }
            reg::EVENTQ_PROD => {
                guard(guards.eventqen())?;
                self.events.set_prod(index.into());
                self.events.prod()
            }
            reg::EVENTQ_CONS => {
                self.events.owner_cons(index.into());
                self.events.cons()
            }
            reg::PRIQ_PROD => {
                self.check_pri()?;
                guard(guards.priqen())?;
                self.pri.set_prod(index.into());
                self.pri.prod()
            }
            reg::PRIQ_CONS => {
                self.check_pri()?;
                self.pri.owner_cons(index.into());
                self.pri.cons()
            }
            _ => self.store_message_register(offset, value)?,
        };
        platform.show(offset, shown);
        Ok(())
    }

    /// Stores `SMMU_*_IRQ_CFG1` or `CFG2`; the value that reads show.
    fn store_message_register(&mut self, offset: u32, value: u32) -> Result<u32, Ignored> {
        if let Some(source) = offset.checked_sub(8).and_then(source_of) {
            self.message_config(source)?.data = value;
            return Ok(value);
        }
        let source = offset
            .checked_sub(12)
            .and_then(source_of)
            .ok_or(Ignored::ReadOnly)?;
        let mut attributes = value & ATTRIBUTES;
        if source == Source::Pages {
            // The bit LO exists with and without messages (6.3.1, MSI).
            attributes |= value & u32::from(IrqCfg2::new().with_lo(true));
        }
        if self.ids.idr0.msi() {
            self.message_config(source)?.attributes = attributes;
        } else if source == Source::Pages {
            self.check_pri()?;
            attributes &= !ATTRIBUTES;
            self.irq.config(source).attributes = attributes;
        } else {
            return Err(Ignored::ReadOnly);
        }
        Ok(attributes)
    }

    /// The message of `source`, if it exists and may be changed now.
    fn message_config(
        &mut self,
        source: Source,
    ) -> Result<&mut crate::interrupts::IrqConfig, Ignored> {
        if !self.ids.idr0.msi() {
            return Err(Ignored::ReadOnly);
        }
        if source == Source::Pages {
            self.check_pri()?;
        }
        if self.irq.enabled(source) {
            return Err(Ignored::Guarded);
        }
        Ok(self.irq.config(source))
    }

    fn check_pri(&self) -> WriteResult {
        if self.ids.idr0.pri() {
            Ok(())
        } else {
            Err(Ignored::ReadOnly)
        }
    }

    /// Handles a write of `GERRORN`, which acknowledges errors. The queue
    /// continues with the command that was refused (7.1); the owner could
    /// replace it before.
    fn set_gerrorn<P: Platform<Window = W>>(
        &mut self,
        platform: &P,
        physical: &mut impl Physical,
        value: u32,
    ) -> Progress {
        // The errors that this SMMU has; other bits are reserved.
        let mut known = Gerror::new()
            .with_cmdq_err(true)
            .with_eventq_abt_err(true)
            .with_priq_abt_err(self.ids.idr0.pri())
            .with_sfm_err(true);
        if self.ids.idr0.msi() {
            known = known
                .with_msi_cmdq_abt_err(true)
                .with_msi_eventq_abt_err(true)
                .with_msi_priq_abt_err(self.ids.idr0.pri())
                .with_msi_gerror_abt_err(true);
        }
        self.irq.gerrorn = Gerror::from(value & u32::from(known));
        // An error that this write makes active stops the queue like any other.
        self.queue_ready = false;
        platform.show(reg::GERRORN, self.irq.gerrorn.into());
        self.resume(platform, physical)
    }
}

/// The three interrupt sources that have registers.
const IRQ_CFG0: [(u32, Source); 3] = [
    (reg::GERROR_IRQ_CFG0, Source::Errors),
    (reg::EVENTQ_IRQ_CFG0, Source::Events),
    (reg::PRIQ_IRQ_CFG0, Source::Pages),
];

fn source_of(cfg0: u32) -> Option<Source> {
    IRQ_CFG0
        .into_iter()
        .find_map(|(offset, source)| (offset == cfg0).then_some(source))
}

/// Whether a 64-bit register starts at `offset` (6.2.1).
fn is_64_bit_register(offset: u32) -> bool {
    matches!(
        offset,
        reg::GERROR_IRQ_CFG0
            | reg::STRTAB_BASE
            | reg::CMDQ_BASE
            | reg::EVENTQ_BASE
            | reg::EVENTQ_IRQ_CFG0
            | reg::PRIQ_BASE
            | reg::PRIQ_IRQ_CFG0
    )
}

fn show64(platform: &impl Platform, offset: u32, value: u64) {
    // The truncation is intended: these are the two halves.
    platform.show(offset, value as u32);
    platform.show(offset + 4, (value >> 32) as u32);
}

//! The command queue and the event queue (IHI 0070, 3.5, chapter 4, 7.1 to 7.4).

use crate::misuse::Misuse;
use crate::smmu::{Mode, Smmu};
use smmuv3_spec::command::{Command, CommandError, Opcode, TLBI_TG_ANY};
use smmuv3_spec::control::{CmdqCons, Gerror, OutputIndex, QueueBase};
use smmuv3_spec::event::EventRecord;

impl Smmu {
    fn gerror_active(&self) -> Gerror {
        Gerror::from(self.regs.gerror ^ self.regs.gerrorn)
    }

    /// `CMDQ_PROD` was written.
    pub(crate) fn produced(&mut self, value: u32) {
        let log2 = QueueBase::from(self.regs.cmdq_base).log2size();
        let mask = wrap_mask(log2);
        let cons = self.regs.cmdq_cons & mask;
        let prod = value & mask;
        if self.enabled().cmdqen() && prod.wrapping_sub(cons) & mask > 1 << log2.min(19) {
            self.misuse.push(Misuse::Overrun { prod, cons });
            return;
        }
        self.regs.cmdq_prod = value & 0xf_ffff;
        self.poll_if_plain();
    }

    /// `CMDQ_CONS` is being read: a greedy SMMU moves only now, and not far.
    pub(crate) fn poll_commands(&mut self) {
        if self.mode != Mode::Plain {
            let most = self.draw(4);
            self.run_commands(most);
        }
    }

    pub(crate) fn run_commands(&mut self, most: u32) {
        for _ in 0..most {
            if !self.enabled().cmdqen() || self.gerror_active().cmdq_err() {
                return;
            }
            let base = QueueBase::from(self.regs.cmdq_base);
            let mask = wrap_mask(base.log2size());
            let cons = self.regs.cmdq_cons & mask;
            if cons == self.regs.cmdq_prod & mask {
                return;
            }
            let at = ring_base(base, Command::SIZE) + u64::from(cons & (mask >> 1)) * Command::SIZE;
            // What was not published is not seen.
            let words = (self.ram.views(at), self.ram.views(at + 8));
            let error = match words {
                (Some((low, _)), Some((high, _))) => {
                    let command = Command([low, high]);
                    if self.legal(&command) {
                        self.execute(command);
                        self.counts.commands += 1;
                        self.consumed.push(command);
                        CommandError::NONE
                    } else {
                        self.misuse.push(Misuse::Command(command));
                        CommandError::ILL
                    }
                }
                _ => CommandError::ABT,
            };
            let next = if error == CommandError::NONE {
                (cons + 1) & mask
            } else {
                // CONS stays at the command (7.1).
                self.regs.gerror ^= u32::from(Gerror::new().with_cmdq_err(true));
                cons
            };
            let value = CmdqCons::new().with_rd(next).with_err(error.0);
            self.regs.cmdq_cons = value.into();
        }
    }

    /// Whether a command is one that this SMMU has (4.1.1 and the text of
    /// each).
    fn legal(&self, command: &Command) -> bool {
        let (idr0, idr3) = (self.profile.idr0, self.profile.idr3);
        if command.ssec() && names_stream(command.opcode()) {
            return false;
        }
        match command.opcode() {
            Opcode::PREFETCH_CONFIG | Opcode::PREFETCH_ADDR => true,
            Opcode::CFGI_STE | Opcode::CFGI_STE_RANGE => true,
            Opcode::CFGI_CD | Opcode::CFGI_CD_ALL => idr0.s1p(),
            Opcode::TLBI_NH_ALL
            | Opcode::TLBI_NH_ASID
            | Opcode::TLBI_NH_VA
            | Opcode::TLBI_NH_VAA => idr0.s1p(),
            Opcode::TLBI_EL2_ALL
            | Opcode::TLBI_EL2_ASID
            | Opcode::TLBI_EL2_VA
            | Opcode::TLBI_EL2_VAA => idr0.hyp(),
            Opcode::TLBI_S12_VMALL => idr0.s2p(),
            Opcode::TLBI_S2_IPA => {
                // A granule without range and hint is reserved (4.4.1.1).
                let reserved = idr3.ril()
                    && command.tg() != TLBI_TG_ANY
                    && command.num() == 0
                    && command.scale() == 0
                    && command.ttl() == 0;
                idr0.s2p() && !reserved
            }
            Opcode::TLBI_NSNH_ALL => true,
            Opcode::ATC_INV => idr0.ats(),
            Opcode::PRI_RESP => idr0.pri(),
            Opcode::RESUME | Opcode::STALL_TERM => idr0.stall_model() != 0b01,
            Opcode::SYNC => command.cs() != 0b11,
            _ => false,
        }
    }

    fn execute(&mut self, command: Command) {
        if command.opcode() == Opcode::SYNC {
            self.counts.syncs += 1;
        }
        self.resolve_stalls(&command);
        if self.mode != Mode::Plain {
            self.observe_command(&command);
        }
    }

    /// Writes an event record, or notes that it was lost (7.2, 7.4).
    pub(crate) fn record(&mut self, record: EventRecord) {
        if !self.enabled().eventqen() {
            return;
        }
        let base = QueueBase::from(self.regs.eventq_base);
        let mask = wrap_mask(base.log2size());
        let prod = OutputIndex::from(self.regs.eventq_prod);
        let cons = OutputIndex::from(self.regs.eventq_cons);
        let write = prod.index() & mask;
        if write ^ (cons.index() & mask) == mask ^ (mask >> 1) {
            self.counts.lost += 1;
            if prod.overflow() == cons.overflow() {
                self.regs.eventq_prod = prod.with_overflow(!prod.overflow()).into();
            }
            return;
        }
        let at =
            ring_base(base, EventRecord::SIZE) + u64::from(write & (mask >> 1)) * EventRecord::SIZE;
        if !(self.ram.contains(at) && self.ram.contains(at + 24)) {
            if !self.gerror_active().eventq_abt_err() {
                self.regs.gerror ^= u32::from(Gerror::new().with_eventq_abt_err(true));
            }
            self.counts.lost += 1;
            return;
        }
        for (index, word) in (0..).zip(record.0) {
            self.device_store(at + index * 8, word);
        }
        self.counts.events += 1;
        self.regs.eventq_prod = prod.with_index((write + 1) & mask).into();
    }
}

/// Index and wrap bit of a queue (3.5.1).
fn wrap_mask(log2: u8) -> u32 {
    (2 << log2.min(19)) - 1
}

/// A queue is aligned to its size, and to 32 bytes, by ignoring address bits
/// (6.3.26).
fn ring_base(base: QueueBase, entry: u64) -> u64 {
    let bytes = (entry << base.log2size().min(19)).max(32);
    (base.addr_5() << 5) & !(bytes - 1)
}

fn names_stream(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::CFGI_STE
            | Opcode::CFGI_STE_RANGE
            | Opcode::CFGI_CD
            | Opcode::CFGI_CD_ALL
            | Opcode::PREFETCH_CONFIG
            | Opcode::PREFETCH_ADDR
            | Opcode::ATC_INV
            | Opcode::PRI_RESP
            | Opcode::RESUME
            | Opcode::STALL_TERM
    )
}

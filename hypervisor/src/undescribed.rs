//! Accesses to emulated registers that no syndrome describes (ESR_EL2.ISV = 0): those
//! with writeback, of pairs, of SIMD&FP registers.
//!
//! EL2 reads the instruction once, through the host's own translation, and does what it
//! says where that agrees with what hardware says of the abort; `portcullis-load-store`
//! decides. Each access of a register goes to the device in the way that a plain one of
//! its width does, with the syndrome that hardware would give that: what the device
//! ignores or refuses of the one, it does of the other, and the code of that way is as it
//! would be without this module. Also where the host's data is big-endian: SCTLR_EL1.EE
//! and E0E are looked at for neither. What is refused gets the external abort that it
//! would get without all this, and a line in the log.

use crate::log::{RateLimit, warning};
use crate::owner_memory::OwnerMemory;
use crate::percpu::{PerCpu, Reason};
use crate::sysreg::{host_ipa, read_sysreg, write_sysreg};
use crate::trap::{Described, Frame, described};
use crate::{emulated_writes, gic, paravirt, vector};
use core::sync::atomic::Ordering;
use portcullis_addr::{Ipa, PAGE_SIZE};
use portcullis_cpu::Syndrome;
use portcullis_load_store::{
    Abort, Access, Answer, Direction, File, Outcome, Placed, Refused, Registers,
};
use portcullis_pagetable::MemoryType;

static REFUSED: RateLimit = RateLimit::new();

/// Why an instruction is not carried out.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Reject {
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The host's translation of the PC, or of the address that was accessed, is gone.
    /// It was there a moment ago, so that another CPU has changed the tables since, or
    /// they permit EL1 no load there.
    #[error("an access to an emulated register by an instruction that cannot be read")]
    Untranslated,
    /// EL2 reads nothing but memory of the host's, which devices are not.
    #[error("an access to an emulated register by an instruction outside of the host's memory")]
    Outside,
}

impl Reject {
    /// Whether another CPU may have put there what is there now; see [`send_back`].
    fn may_be_new(self) -> bool {
        match self {
            Self::Refused(refused) => refused.may_be_new(),
            Self::Untranslated => true,
            Self::Outside => false,
        }
    }
}

/// Carries out the data access that ended in the abort `esr`, at `ipa` where hardware
/// has said so. `false` when that is not to be, or it is not about emulated registers:
/// then the host gets an abort.
#[cold]
#[inline(never)]
pub fn carry_out(cpu: &PerCpu, frame: &mut Frame, esr: u64, ipa: Option<u64>) -> bool {
    const ISV: u64 = 1 << 24;
    const CACHE_OR_WALK: u64 = 1 << 8 | 1 << 7;
    const AARCH32: u64 = 1 << 4;
    let syndrome = Syndrome(esr);
    let shown = syndrome.is_permission_fault();
    if esr & (ISV | CACHE_OR_WALK) != 0
        || frame.spsr & AARCH32 != 0
        || !(shown || syndrome.has_ipa())
    {
        return false;
    }
    let far = read_sysreg!("far_el2");
    // Only a permission fault leaves it open (see `emulated_writes::store`).
    let emulated = match ipa.or_else(|| host_ipa(far)) {
        Some(ipa) if emulated_writes::is_register(ipa) => Some(ipa),
        Some(ipa) if !shown && (gic::is_filtered(ipa) || paravirt::is_register(ipa)) => Some(ipa),
        _ => None,
    };
    let Some(ipa) = emulated else {
        // Pages that the host may not write have registers. Where the address translates
        // no longer, or to something else, the access is done again under the new tables.
        return shown && send_back(cpu, frame.elr, Reject::Untranslated);
    };
    let direction = if esr & 1 << 6 != 0 {
        Direction::Store
    } else {
        Direction::Load
    };
    let abort = Abort {
        direction,
        address: far,
    };
    let instruction = fetch(frame.elr);
    let placed = instruction.and_then(|instruction| place(instruction, frame, abort));
    match placed {
        Ok(placed) => {
            cpu.sent_back.store(0, Ordering::Relaxed);
            perform(frame, syndrome, far, ipa, &placed)
        }
        Err(reject) => {
            let again = send_back(cpu, frame.elr, reject);
            if !again {
                report(frame, ipa, instruction.ok(), reject);
            }
            again
        }
    }
}

/// The instruction at `pc`, as the host's memory has it now. An instruction is
/// little-endian, and aligned to its four bytes, so that one load of the eight around
/// it has all of it (DDI 0487, B2.2.1).
fn fetch(pc: u64) -> Result<u32, Reject> {
    const UPPER: u64 = 4;
    // The same for EL0 and EL1, which differ in what they permit and not in where it is.
    // What may be executed and not read is readable for EL1 where EL0 executes it.
    let at = host_ipa(pc).ok_or(Reject::Untranslated)?;
    let mut words = [0];
    // Where the host's translation leads is for the ledger to judge. Instructions are
    // Normal memory, and cached, however devices see it.
    if !OwnerMemory::HOST.read_as(MemoryType::Normal, Ipa::new(at & !7), &mut words) {
        return Err(Reject::Outside);
    }
    let [word] = words;
    // Truncation: the half that is asked for.
    Ok((word >> ((at & UPPER) * 8)) as u32)
}

fn place(instruction: u32, frame: &mut Frame, abort: Abort) -> Result<Placed, Reject> {
    let access = Access::decode(instruction)?;
    if access.file == File::Vector && !vector::are_on(frame.spsr) {
        return Err(Refused::Another.into());
    }
    Ok(access.place(&Host(frame), abort)?)
}

/// Whether the host's CPU is to do once more what is at `pc` now. Where `reject` says
/// that it cannot have caused the abort, another CPU has rewritten it between the abort
/// and the load, as kernels do with breakpoints, and the new instruction does not come
/// here. One that does at the same address gets an abort: a CPU that does for ever what
/// EL2 does not understand would hang without a word.
fn send_back(cpu: &PerCpu, pc: u64, reject: Reject) -> bool {
    // An instruction begins at a multiple of 4, so that this is never 0: none.
    let here = pc | 1;
    let again = reject.may_be_new() && cpu.sent_back.load(Ordering::Relaxed) != here;
    let next = if again { here } else { 0 };
    cpu.sent_back.store(next, Ordering::Relaxed);
    if again {
        cpu.count(Reason::Other);
    }
    again
}

fn report(frame: &Frame, ipa: u64, instruction: Option<u32>, reject: Reject) {
    if let Some(dropped) = REFUSED.take() {
        warning!(
            "event=access_refused reason=\"{reject}\" instruction={:#010x} address={ipa:#x} \
             pc={:#x} dropped={dropped}",
            instruction.unwrap_or(0),
            frame.elr
        );
    }
}

/// Carries out what `placed` says, in the page of which `far` and `ipa` are addresses.
/// Each access of a register is one more entry of EL2 in its counts.
fn perform(frame: &mut Frame, syndrome: Syndrome, far: u64, ipa: u64, placed: &Placed) -> bool {
    let spsr = frame.spsr;
    let in_page = |address: u64, offset: u16| address & !(PAGE_SIZE - 1) | u64::from(offset);
    let outcome = placed.perform(&mut Host(frame), |single| {
        // 0 to 3.
        let log2 = single.size.bytes().trailing_zeros() as u8;
        let plain = syndrome.of_plain_access(log2, single.store.is_some());
        let [va, ipa] = [far, ipa].map(|address| in_page(address, single.offset));
        match described(spsr, plain, va, ipa, single.store.unwrap_or(0)) {
            Described::Done(value) => Answer::Done(value),
            Described::Again => Answer::Again,
            Described::Aborted => Answer::Absent,
        }
    });
    match outcome {
        Outcome::Done => frame.skip(),
        Outcome::Again => {}
        // The registers of EL1 that say so are written again, with what is true of the
        // host's own instruction.
        Outcome::Absent => return false,
    }
    true
}

/// The host's registers where it was interrupted.
struct Host<'a>(&'a mut Frame);

impl Host<'_> {
    /// Whether the stack pointer is SP_EL1: at EL1 with PSTATE.SP set.
    fn uses_sp_el1(&self) -> bool {
        const EL1H: u64 = 0b0101;
        self.0.spsr & 0xf == EL1H
    }
}

impl Registers for Host<'_> {
    fn general(&self, number: u8) -> u64 {
        self.0.get(number.into())
    }

    fn set_general(&mut self, number: u8, value: u64) {
        self.0.set(number.into(), value);
    }

    fn stack_pointer(&self) -> u64 {
        if self.uses_sp_el1() {
            read_sysreg!("sp_el1")
        } else {
            read_sysreg!("sp_el0")
        }
    }

    fn set_stack_pointer(&mut self, value: u64) {
        // SAFETY: both are the host's; EL2 runs on SP_EL2.
        unsafe {
            if self.uses_sp_el1() {
                write_sysreg!("sp_el1", value);
            } else {
                write_sysreg!("sp_el0", value);
            }
        }
    }

    fn vector(&self, number: u8) -> [u64; 2] {
        vector::get(number)
    }

    fn set_vector(&mut self, number: u8, value: [u64; 2]) {
        vector::set(number, value);
    }
}

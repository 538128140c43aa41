//! Commands and queues.

use super::{Context, Deviation};
use crate::case::{Case, Step};

/// CERROR_ILL in CMDQ_CONS.
const ILLEGAL: u32 = 1;

/// The command at which the model stopped, if it did so in this step.
fn stopped(context: &Context<'_>) -> Option<[u64; 2]> {
    let error = context.model.seen.consumed >> 24 & 0x7f;
    if error != ILLEGAL {
        return None;
    }
    let mask = (2 << context.case.command_log2) - 1;
    let index = context
        .model
        .seen
        .consumed
        .wrapping_sub(context.case.command_start)
        & mask;
    commands(context.case, context.step).nth(index as usize)
}

fn commands(case: &Case, step: usize) -> impl Iterator<Item = [u64; 2]> {
    case.steps[..=step].iter().flat_map(|step| match step {
        Step::Commands(commands) => commands.clone(),
        _ => Vec::new(),
    })
}

/// In the order in which they are tried.
pub(super) const KNOWN: &[Deviation] = &[
    Deviation {
        name: "absent-commands",
        section: "4.1.3, 4.4.2, 4.5, 4.6, 4.7",
        qemu: "ignores commands of EL2, EL3, ATS, PRI and the stall model, which it does not \
               have, where CERROR_ILL is right",
        explains: |context| {
            stopped(context).is_some_and(|command| {
                let opcode = command[0] & 0xff;
                let absent = [0x18, 0x1a, 0x20, 0x21, 0x22, 0x23, 0x40, 0x41, 0x44, 0x45];
                absent.contains(&opcode)
            })
        },
    },
    Deviation {
        name: "reserved-sync",
        section: "4.7.3 CS",
        qemu: "takes CMD_SYNC with the reserved CS of 0b11",
        explains: |context| {
            stopped(context)
                .is_some_and(|command| command[0] & 0xff == 0x46 && command[0] >> 12 & 3 == 3)
        },
    },
    Deviation {
        name: "secure-prefetch",
        section: "4.1.6, 4.2",
        qemu: "takes CMD_PREFETCH_* with SSec set",
        explains: |context| {
            stopped(context).is_some_and(|command| {
                matches!(command[0] & 0xff, 0x01 | 0x02) && command[0] >> 10 & 1 != 0
            })
        },
    },
    Deviation {
        name: "event-overflow",
        section: "7.4, 6.3.19 GERROR.EVENTQ_ABT_ERR",
        qemu: "reports a full event queue as an abort, EVENTQ_ABT_ERR, instead of OVFLG",
        explains: |context| {
            let (ours, theirs) = (&context.model.seen, context.qemu);
            !context.case.drain
                && ours.produced >> 31 != theirs.produced >> 31
                && theirs.errors >> 2 & 1 != 0
        },
    },
];

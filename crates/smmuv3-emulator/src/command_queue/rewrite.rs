//! The allow-list of commands (IHI 0070, chapter 4). Each command of the owner
//! is read field by field, and a new command for the physical SMMU is built
//! from these fields. No word of the owner's command is passed on.
//!
//! | command | what becomes of it |
//! |---|---|
//! | PREFETCH_CONFIG, PREFETCH_ADDR | nothing: no SMMU has to prefetch |
//! | CFGI_STE, CFGI_STE_RANGE, CFGI_ALL | the streams are read again from the owner's table; with a stream that had nothing, those around it too |
//! | CFGI_CD, CFGI_CD_ALL | the same, of the physical stream |
//! | TLBI_NH_ALL, _ASID, _VA, _VAA | the same, of the owner's VMID |
//! | TLBI_NSNH_ALL | TLBI_NH_ALL of the owner's VMID |
//! | ATC_INV, PRI_RESP | the same, of the physical stream, where ATS and PRI are offered |
//! | RESUME, STALL_TERM | the same, of the physical stream, where stalls are offered |
//! | SYNC | see the sync module |
//! | everything else | CERROR_ILL |
//!
//! Choices that the architecture leaves open: reserved fields are ignored
//! (4.1.5); a prefetch is IGNORED; a command with a stream or substream out of
//! range does nothing (4.1.7); a size of ATC_INV above 52 is illegal (4.5.1);
//! SSV without substreams counts as 0 (4.5); upper bits of an ASID that are not
//! implemented are dropped (4.4).

use crate::{Counts, Ids, Physical};
use smmuv3_spec::command::{Command, Opcode, TLBI_TG_16K, TLBI_TG_ANY};
use smmuv3_spec::{Asid, StreamId, SubstreamId, Vmid};

/// What the emulation does about a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Issues this command to the physical SMMU. It may run twice.
    IssueRepeatable(Command),
    /// Issues this command after all earlier CMD_SYNCs are complete. It must
    /// run once only.
    IssueOnce(Command),
    /// Updates the streams from the first to the last from the owner's table.
    UpdateStreams(StreamId, StreamId),
    /// Updates all streams that share the level 1 descriptor of this stream
    /// (4.3.1).
    UpdateDescriptor(StreamId),
    /// Has no effect.
    Nothing,
    /// Is refused with CERROR_ILL.
    Illegal,
}

/// Rewrites CMD_TLBI_NH_VA and CMD_TLBI_NH_VAA (4.4.2); `None` if the command
/// is illegal.
#[inline]
pub(crate) fn rewrite_tlbi_va(ids: &Ids, vmid: Vmid, command: Command) -> Option<Command> {
    let (address, leaf) = (command.address(), command.leaf());
    let new = if command.opcode_bits() == Opcode::TLBI_NH_VA.0 {
        Command::tlbi_nh_va(vmid, asid(ids, command), address, leaf)
    } else {
        Command::tlbi_nh_vaa(vmid, address, leaf)
    };
    // Without a granule there is neither range nor hint, and their fields are
    // RES0 (4.4.1.1).
    if command.tg() == TLBI_TG_ANY || !ids.idr3.ril() {
        return Some(new);
    }
    with_range(command, new)
}

/// The fast path of [`rewrite_tlbi_va`]. It takes CMD_TLBI_NH_VA with a level
/// or without a range; `None` for all other commands, which `rewrite_tlbi_va`
/// has to look at.
#[inline]
pub(crate) fn rewrite_tlbi_va_fast(ids: &Ids, vmid: Vmid, command: Command) -> Option<Command> {
    if command.opcode_bits() != Opcode::TLBI_NH_VA.0 || !ids.idr0.asid16() {
        return None;
    }
    let kept = if command.tg() == TLBI_TG_ANY || !ids.idr3.ril() {
        OWNER_FIELDS
    } else if command.tg() == TLBI_TG_16K || command.ttl() == 0 {
        return None;
    } else {
        OWNER_FIELDS_WITH_RANGE
    };
    let [a, b] = command.0;
    Some(Command([a & kept.0[0], b & kept.0[1]]).with_vmid_bits(vmid.0))
}

/// The opcode and all fields of CMD_TLBI_NH_VA that the owner may choose.
const OWNER_FIELDS: Command = Command::tlbi_nh_va(Vmid(0), Asid(0xffff), u64::MAX, true);

/// The same with the fields of range and level.
const OWNER_FIELDS_WITH_RANGE: Command = OWNER_FIELDS
    .with_num(0x1f)
    .with_scale(0x1f)
    .with_ttl(0b11)
    .with_tg(0b11);

/// Adds range and level. TTL, SCALE and NUM that are all zero are illegal.
/// Level 1 of the 16 KiB granule counts as no level, since `IDR5.DS` is 0, and
/// the sixth bit of the scale is dropped for the same reason. A range that is
/// not aligned to its level invalidates more or less of the owner's own
/// translations than the owner meant, which harms nothing else.
fn with_range(command: Command, new: Command) -> Option<Command> {
    let ttl = if command.tg() == TLBI_TG_16K && command.ttl() == 1 {
        0
    } else {
        command.ttl()
    };
    let scale = command.scale() & 0x1f;
    if ttl == 0 && scale == 0 && command.num() == 0 {
        return None;
    }
    Some(
        new.with_tg(command.tg())
            .with_ttl(ttl)
            .with_scale(scale)
            .with_num(command.num()),
    )
}

fn asid(ids: &Ids, command: Command) -> Asid {
    if ids.idr0.asid16() {
        command.asid()
    } else {
        Asid(command.asid().0 & 0xff)
    }
}

/// Rewrites every command but CMD_SYNC, CMD_TLBI_NH_VA and CMD_TLBI_NH_VAA.
/// `smmuen` says whether translation is enabled.
pub(crate) fn rewrite_command(
    ids: &Ids,
    physical: &impl Physical,
    smmuen: bool,
    command: Command,
    counts: &mut Counts,
) -> Action {
    let opcode = command.opcode();
    if has_ssec_field(opcode) && command.ssec() {
        return Action::Illegal;
    }
    if is_unknown_opcode(ids, opcode) {
        return Action::Illegal;
    }
    let stream = command.stream();
    match opcode {
        Opcode::PREFETCH_CONFIG | Opcode::PREFETCH_ADDR => {
            counts.no_effect += 1;
            return Action::Nothing;
        }
        // A driver that links a level 2 array may name only the stream that it
        // needs, and with Leaf set. Linux does so, which works on an SMMU that
        // caches no invalid descriptor. An SMMU may look at more than it was
        // asked for.
        Opcode::CFGI_STE if !command.leaf() || physical.is_invalid(stream) => {
            return Action::UpdateDescriptor(stream);
        }
        Opcode::CFGI_STE => return Action::UpdateStreams(stream, stream),
        Opcode::CFGI_STE_RANGE => {
            // 2^(range + 1) streams, aligned (4.3.2).
            let span = u32::MAX >> (31 - command.range());
            return Action::UpdateStreams(StreamId(stream.0 & !span), StreamId(stream.0 | span));
        }
        Opcode::TLBI_NH_ALL | Opcode::TLBI_NSNH_ALL => {
            return Action::IssueRepeatable(Command::tlbi_nh_all(physical.vmid()));
        }
        Opcode::TLBI_NH_ASID => {
            return Action::IssueRepeatable(Command::tlbi_nh_asid(
                physical.vmid(),
                asid(ids, command),
            ));
        }
        // The errors of these two commands are checked before the conditions
        // that make them IGNORED (4.1.3).
        Opcode::ATC_INV if command.atc_size() > 52 => return Action::Illegal,
        Opcode::PRI_RESP if command.resp() == 0b11 => return Action::Illegal,
        Opcode::ATC_INV | Opcode::PRI_RESP if !smmuen => {
            counts.no_effect += 1;
            return Action::Nothing;
        }
        _ => {}
    }
    let Some(target) = physical.stream(stream) else {
        counts.foreign_streams += 1;
        return Action::Nothing;
    };
    match opcode {
        Opcode::CFGI_CD => match valid_substream(ids, command.substream_bits(), counts) {
            Some(s) => Action::IssueOnce(Command::cfgi_cd(target, s, command.leaf())),
            None => Action::Nothing,
        },
        Opcode::CFGI_CD_ALL => Action::IssueOnce(Command::cfgi_cd_all(target)),
        Opcode::ATC_INV => match optional_substream(ids, command, counts) {
            Ok(s) => Action::IssueOnce(Command::atc_inv(
                target,
                s,
                s.is_some() && command.global(),
                command.address(),
                command.atc_size(),
            )),
            Err(()) => Action::Nothing,
        },
        Opcode::PRI_RESP => match optional_substream(ids, command, counts) {
            Ok(s) => Action::IssueOnce(Command::pri_resp(
                target,
                s,
                command.prg_index() & 0x1ff,
                command.resp(),
            )),
            Err(()) => Action::Nothing,
        },
        Opcode::RESUME => {
            let retry = command.retry();
            // Ab is IGNORED with a retry. With `TERM_MODEL` set, a terminated
            // transaction always aborts (4.7.1).
            let abort = !retry && (command.abort() || ids.idr0.term_model());
            Action::IssueOnce(Command::resume(target, command.stag(), retry, abort))
        }
        Opcode::STALL_TERM => Action::IssueOnce(Command::stall_term(target)),
        _ => Action::Illegal,
    }
}

/// The commands with a field SSec, which must be 0 (4.1.6).
const fn has_ssec_field(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::PREFETCH_CONFIG
            | Opcode::PREFETCH_ADDR
            | Opcode::CFGI_STE
            | Opcode::CFGI_STE_RANGE
            | Opcode::CFGI_CD
            | Opcode::CFGI_CD_ALL
            | Opcode::RESUME
            | Opcode::STALL_TERM
    )
}

/// Whether the emulated SMMU does not have this command.
const fn is_unknown_opcode(ids: &Ids, opcode: Opcode) -> bool {
    match opcode {
        Opcode::PREFETCH_CONFIG
        | Opcode::PREFETCH_ADDR
        | Opcode::CFGI_STE
        | Opcode::CFGI_STE_RANGE
        | Opcode::CFGI_CD
        | Opcode::CFGI_CD_ALL
        | Opcode::TLBI_NH_ALL
        | Opcode::TLBI_NH_ASID
        | Opcode::TLBI_NSNH_ALL => false,
        Opcode::ATC_INV => !ids.idr0.ats(),
        Opcode::PRI_RESP => !ids.idr0.pri(),
        Opcode::RESUME | Opcode::STALL_TERM => ids.idr0.stall_model() == 0b01,
        _ => true,
    }
}

fn valid_substream(ids: &Ids, number: u32, counts: &mut Counts) -> Option<SubstreamId> {
    if number >> ids.idr1.ssidsize() == 0 {
        Some(SubstreamId(number))
    } else {
        counts.bad_substreams += 1;
        None
    }
}

/// The substream of a command that has the field SSV.
fn optional_substream(
    ids: &Ids,
    command: Command,
    counts: &mut Counts,
) -> Result<Option<SubstreamId>, ()> {
    match command.substream() {
        Some(s) if ids.idr1.ssidsize() > 0 => valid_substream(ids, s.0, counts).map(Some).ok_or(()),
        _ => Ok(None),
    }
}

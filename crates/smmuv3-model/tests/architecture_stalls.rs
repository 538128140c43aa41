//! What becomes of a faulting transaction: abort, silence, read as zero, stall
//! (IHI 0070, 3.12, 4.7.1, 4.7.2, 5.5, 7.2, 7.4).
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, Completed, Done, Profile, Refusal, Smmu};
use smmuv3_spec::event::EventKind;
use smmuv3_spec::reg;

/// CD.S 44, R 45, A 46.
fn with_ars(a: u64, r: u64, s: u64) -> Smmu {
    let word0 = WORD0 & !(7 << 44) | s << 44 | r << 45 | a << 46;
    stage1([word0, ONE, 0, 0, 0, 0, 0, 0])
}

/// Not mapped by [`stage1`].
const HOLE: u64 = 0x2008;

#[test]
fn abort_record_and_ignore() {
    let outcome = |a, r| with_ars(a, r, 0).dma_read(S, HOLE);
    assert_eq!(outcome(1, 0), Err(Refusal::Silent));
    assert!(matches!(outcome(1, 1), Err(Refusal::Event(_))));
    // A 0: to the device it works.
    assert_eq!((outcome(0, 0), outcome(0, 1)), (Ok(0), Ok(0)));
    let mut smmu = with_ars(0, 1, 0);
    assert_eq!(smmu.dma_write(S, HOLE, 7), Ok(()));
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 1);
    let ignored = reads(&mut smmu, HOLE).unwrap_err();
    assert!(matches!(ignored, Refusal::Ignored(Some(_))));
    let mut smmu = with_ars(0, 0, 0);
    assert_eq!(reads(&mut smmu, HOLE), Err(Refusal::Ignored(None)));
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 0);
}

#[test]
fn what_is_no_fault_of_a_translation_always_aborts() {
    // F_WALK_EABT with A, R, S = 0b000, and with S.
    for s in [0, 1] {
        let mut smmu = with_ars(0, 0, s);
        put(&mut smmu, ONE, 0x7000_0003);
        refused(&mut smmu, 0, EventKind::F_WALK_EABT);
        put(&mut smmu, CD, 0);
        refused(&mut smmu, 0, EventKind::C_BAD_CD);
    }
}

fn command(smmu: &mut Smmu, words: [u64; 2]) {
    let at = smmu.read32(reg::CMDQ_PROD);
    put(smmu, COMMANDS + u64::from(at & 15) * 16, words[0]);
    put(smmu, COMMANDS + u64::from(at & 15) * 16 + 8, words[1]);
    smmu.write32(reg::CMDQ_PROD, (at + 1) & 31);
    assert_eq!(smmu.read32(reg::CMDQ_CONS), (at + 1) & 31);
}

/// CMD_RESUME 0x44: Ac 12, Ab 13, StreamID 63:32, STAG 79:64.
fn resume(smmu: &mut Smmu, stream: u64, stag: u16, retry: u64, abort: u64) {
    command(
        smmu,
        [0x44 | retry << 12 | abort << 13 | stream << 32, stag.into()],
    );
}

#[track_caller]
fn stalls(result: Result<u64, Refusal>) -> u16 {
    match result {
        Err(Refusal::Stalled(record)) => {
            assert!(record.stall());
            record.stag()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_retry_sees_what_changed() {
    // S alone: recorded although R is 0.
    let mut smmu = with_ars(0, 0, 1);
    let write = smmu.dma_write(S, HOLE, 0x5eed);
    let Err(Refusal::Stalled(record)) = write else {
        panic!("{write:?}")
    };
    // Stall 95, STAG 79:64; CLASS IN; RnW 0.
    let stag = record.0[1] as u16;
    let word1 = 0x2_00 << 32 | 1 << 31 | u64::from(stag);
    assert_eq!(record.0, [5 << 32 | 0x10, word1, HOLE, 0]);
    assert_eq!(smmu.load(EVENTS + 8), Some(word1));
    assert_eq!(smmu.stalled(), [(S, stag)]);
    assert_eq!(smmu.take_completed(), []);

    put(&mut smmu, ONE + 0x2010, 0x80cc_0000 | RW | 3);
    // Another stream's tag, or another tag, is nobody's.
    resume(&mut smmu, 6, stag, 1, 0);
    resume(&mut smmu, 6, stag, 0, 1);
    resume(&mut smmu, 5, stag.wrapping_add(1), 0, 1);
    assert_eq!(smmu.stalled(), [(S, stag)]);
    resume(&mut smmu, 5, stag, 1, 0);
    assert_eq!(smmu.load(0x80cc_0008), Some(0x5eed));
    let done: Vec<Completed> = smmu.take_completed();
    assert_eq!(
        (done.len(), done[0].stag, done[0].outcome),
        (1, stag, Ok(Done::Written))
    );
    assert_eq!(smmu.stalled(), []);
}

#[test]
fn a_retry_may_stall_again() {
    let mut smmu = with_ars(0, 0, 1);
    let first = stalls(reads(&mut smmu, HOLE));
    resume(&mut smmu, 5, first, 1, 0);
    // A new record, as though it had just arrived.
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 2);
    let second = smmu.stalled()[0].1;
    put(&mut smmu, ONE + 0x2010, 0x80cc_0000 | RW | 3);
    resume(&mut smmu, 5, second, 1, 0);
    let done = smmu.take_completed();
    assert_eq!(done[0].outcome, Ok(Done::Translated(0x80cc_0008)));
    assert_eq!(done[0].transaction, access(HOLE, Access::Read));
}

#[test]
fn software_says_how_it_ends() {
    let ends = |abort: u64, profile: Profile| {
        let mut smmu = running(profile, STAGE1);
        put_all(&mut smmu, CD, [WORD0 | 1 << 44, ONE, 0, 0, 0, 0, 0, 0]);
        let stag = stalls(reads(&mut smmu, HOLE));
        resume(&mut smmu, 5, stag, 0, abort);
        smmu.take_completed()[0].outcome
    };
    let full = Profile::full();
    assert_eq!(ends(1, full), Err(Refusal::Silent));
    assert_eq!(ends(0, full), Err(Refusal::Ignored(None)));
    // TERM_MODEL: only aborts.
    assert_eq!(ends(0, Profile::mmu700()), Err(Refusal::Silent));
}

#[test]
fn the_stalls_of_a_stream_end_together() {
    let mut smmu = with_ars(1, 1, 1);
    let entry = [0b1011 | CD, 0, 0, 0, 0, 0, 0, 0];
    put_all(&mut smmu, TABLE + 6 * 64, entry);
    let one = stalls(reads(&mut smmu, HOLE));
    let two = stalls(writes(&mut smmu, HOLE));
    let mut other = access(HOLE, Access::Read);
    other.stream.0 = 6;
    let three = stalls(smmu.translate(other));
    assert!(one != two && two != three && one != three);
    // CMD_STALL_TERM 0x45.
    command(&mut smmu, [0x45 | 5 << 32, 0]);
    assert_eq!(smmu.stalled(), [(other.stream, three)]);
    let done = smmu.take_completed();
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|c| c.outcome == Err(Refusal::Silent)));
    // SMMUEN 0 ends the rest.
    smmu.write32(reg::CR0, 0b1100);
    assert_eq!(smmu.stalled(), []);
    assert_eq!(smmu.take_completed()[0].stag, three);
}

#[test]
fn stage_2_stalls_by_its_own_bit() {
    // S2S 185; the fault may be of the CD's fetch.
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 1 << 57);
    put(&mut smmu, BLOCK_DATA, 0);
    let stag = stalls(reads(&mut smmu, 0x1238));
    put(&mut smmu, BLOCK_DATA, 0x80a0_0000 | RW2 | 1);
    resume(&mut smmu, 5, stag, 1, 0);
    assert_eq!(
        smmu.take_completed()[0].outcome,
        Ok(Done::Translated(0x80bb_0238))
    );
    put(&mut smmu, BLOCK_CD, 0);
    let Err(Refusal::Stalled(record)) = reads(&mut smmu, 0) else {
        panic!()
    };
    assert_eq!(record.0[1] >> 32, 0x0_88);
    // A fault of stage 1 does not stall then.
    let mut smmu = nested(NESTED, CONTEXT);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 1 << 57);
    put(&mut smmu, ONE, 0);
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
    // Nor does an address that a bypassed stage 1 does not take.
    let mut smmu = running(Profile::full(), STAGE2);
    put(&mut smmu, TABLE + 5 * 64 + 16, WORD2 | 1 << 57);
    refused(&mut smmu, 1 << 48, EventKind::F_ADDR_SIZE);
}

#[test]
fn the_record_of_a_stall_waits_for_room() {
    let mut smmu = with_ars(1, 1, 1);
    for _ in 0..16 {
        stalls(reads(&mut smmu, HOLE));
    }
    stalls(reads(&mut smmu, HOLE));
    // Full, and neither lost nor overflown: OVFLG 31 is clear.
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 16);
    assert_eq!(smmu.counts().lost, 0);
    assert_eq!(smmu.stalled().len(), 17);
    smmu.write32(reg::EVENTQ_CONS, 1);
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 17);
    assert_eq!(smmu.stalled().len(), 17);
    let tags: Vec<u16> = smmu.stalled().iter().map(|(_, stag)| *stag).collect();
    let recorded = smmu.load(EVENTS + 8).unwrap() as u16;
    assert!(tags.contains(&recorded));
}

#[test]
fn a_tag_is_not_used_twice_while_it_counts() {
    let mut smmu = with_ars(1, 1, 1);
    let first = stalls(reads(&mut smmu, HOLE));
    for _ in 0..=u16::MAX {
        let other = stalls(reads(&mut smmu, HOLE));
        assert_ne!(other, first);
        resume(&mut smmu, 5, other, 0, 1);
        let prod = smmu.read32(reg::EVENTQ_PROD);
        smmu.write32(reg::EVENTQ_CONS, prod);
    }
    assert_eq!(smmu.stalled(), [(S, first)]);
}

#[test]
fn the_model_of_stalls_decides_what_is_legal() {
    let bad = |model: u8, s2s: u64| {
        let mut profile = Profile::full();
        profile.idr0.set_stall_model(model);
        let mut entry = STAGE2;
        entry[2] |= s2s << 57;
        let mut smmu = running(profile, entry);
        reads(&mut smmu, 0).unwrap_err().kind() == Some(EventKind::C_BAD_STE)
    };
    assert!(!bad(0, 0) && !bad(0, 1));
    assert!(!bad(1, 0) && bad(1, 1));
    assert!(bad(2, 0) && !bad(2, 1));
}

//! Address translation services (IHI 0070, 3.9, 4.5.1, 13.6).
#![allow(missing_docs)]

mod interface;

use interface::{
    EVENTS, IDR0, ROOT, S, entry, everything, put, read, running, running_as, stage2, submit, write,
};
use smmuv3_model::{
    AtcEntry, Completion, Misuse, Mode, Profile, Refusal, Smmu, Transaction, Translation,
    TranslationRequest,
};
use smmuv3_spec::StreamId;
use smmuv3_spec::id::Idr0;

/// A block of 1 GiB at 0, read and write, accessed; and a read-only one.
const RW: u64 = 0x4c1;
const RO: u64 = 0x441;
/// ATC_INV of everything without substream.
const ATC_INV: [u64; 2] = [(S as u64) << 32 | 0x40, 52];
const TLBI_VMID: [u64; 2] = [9 << 32 | 0x28, 0];
const SYNC: [u64; 2] = [0x46, 0];

fn request(address: u64, write: bool) -> TranslationRequest {
    TranslationRequest {
        stream: StreamId(S),
        substream: None,
        address,
        write,
        execute: false,
        privileged: false,
    }
}

fn granted(address: u64, read: bool, write: bool) -> Completion {
    Completion::Success(Translation {
        address,
        size: 0x1000,
        read,
        write,
        execute: false,
    })
}

/// With full ATS, 0x4000_0000 read-write and 0x8000_0000 read-only.
fn full_ats(profile: Profile) -> Smmu {
    let mut smmu = running(profile);
    entry(&mut smmu, stage2(1));
    put(&mut smmu, ROOT + 8, 0x80_4000_0000 | RW);
    put(&mut smmu, ROOT + 16, 0x80_8000_0000 | RO);
    smmu
}

#[track_caller]
fn last_event(smmu: &mut Smmu) -> [u64; 4] {
    let prod = smmu.read32(0x1_00a8);
    assert_ne!(prod, 0, "no event");
    let at = EVENTS + u64::from((prod - 1) & 3) * 32;
    [0, 8, 16, 24].map(|word| smmu.load(at + word).unwrap())
}

#[track_caller]
fn no_event(smmu: &mut Smmu) {
    assert_eq!(smmu.read32(0x1_00a8), 0);
}

#[test]
fn what_is_granted() {
    let mut smmu = full_ats(everything());
    let at = 0x80_4012_3000;
    assert_eq!(
        smmu.ats_request(request(0x4012_3456, true)),
        granted(at, true, true)
    );
    assert_eq!(
        smmu.ats_request(request(0x4012_3456, false)),
        granted(at, true, false)
    );
    let at = 0x80_8000_0000;
    assert_eq!(
        smmu.ats_request(request(0x8000_0fff, true)),
        granted(at, true, false)
    );
    // No translation, no access flag, address too large: success, no access.
    put(&mut smmu, ROOT + 32, RW & !0x400);
    put(&mut smmu, ROOT + 40, 1 << 44 | RW);
    for address in [0xc000_0000, 0x1_0000_0000, 0x1_4000_0000, 1 << 48] {
        let none = granted(0, false, false);
        assert_eq!(smmu.ats_request(request(address, true)), none);
    }
    no_event(&mut smmu);
    let held = |input, output, write| AtcEntry {
        substream: None,
        input,
        size: 0x1000,
        output,
        read: true,
        write,
        any_input: false,
        any_substream: false,
    };
    assert_eq!(
        smmu.atc(StreamId(S)),
        [
            held(0x4012_3000, 0x80_4012_3000, false),
            held(0x4012_3000, 0x80_4012_3000, true),
            held(0x8000_0000, 0x80_8000_0000, false),
        ]
    );
}

#[test]
fn who_is_not_allowed_to_ask() {
    let bad_treq = [u64::from(S) << 32 | 0x05, 0, 0x4000_0123, 0];
    let asked = |smmu: &mut Smmu| smmu.ats_request(request(0x4000_0123, true));
    // SMMUEN 0.
    let mut smmu = full_ats(everything());
    smmu.write32(0x20, 0b1110);
    assert_eq!(asked(&mut smmu), Completion::Unsupported);
    assert_eq!(last_event(&mut smmu), bad_treq);
    // EATS 0; reserved 3 without DPT; bypass.
    for words in [stage2(0), stage2(3), [9, 1 << 28, 0, 0]] {
        let mut smmu = full_ats(everything());
        entry(&mut smmu, words);
        assert_eq!(asked(&mut smmu), Completion::Unsupported);
        assert_eq!(last_event(&mut smmu), bad_treq);
        assert_eq!(smmu.atc(StreamId(S)), []);
    }
    // Abort: silently.
    let mut smmu = full_ats(everything());
    entry(&mut smmu, [1, 1 << 28, 0, 0]);
    assert_eq!(asked(&mut smmu), Completion::Unsupported);
    no_event(&mut smmu);
    // No ATS.
    let mut without = everything();
    without.idr0 = Idr0::from(IDR0 & !(1 << 10));
    let mut smmu = full_ats(without);
    assert_eq!(asked(&mut smmu), Completion::Unsupported);
    no_event(&mut smmu);
}

#[test]
fn broken_configuration_aborts() {
    // V 0; S2S with EATS 1; split-stage without stage 1.
    let mut stalls = stage2(1);
    stalls[2] |= 1 << 57;
    for words in [[0; 4], stalls, stage2(2)] {
        for (cr2, recorded) in [(0b0010, false), (0b1000, true)] {
            let mut smmu = full_ats(everything());
            smmu.write32(0x20, 0b1110);
            smmu.write32(0x2c, cr2);
            smmu.write32(0x20, 0b1111);
            entry(&mut smmu, words);
            let completion = smmu.ats_request(request(0x4000_0000, false));
            assert_eq!(completion, Completion::Aborted);
            if recorded {
                assert_eq!(last_event(&mut smmu)[0], u64::from(S) << 32 | 0x04);
            } else {
                no_event(&mut smmu);
            }
        }
    }
    // C_BAD_STREAMID needs RECINVSID, too.
    for (cr2, recorded) in [(0b1000, false), (0b0010, false), (0b1010, true)] {
        let mut smmu = full_ats(everything());
        smmu.write32(0x20, 0b1110);
        smmu.write32(0x2c, cr2);
        smmu.write32(0x20, 0b1111);
        let outside = TranslationRequest {
            stream: StreamId(256),
            ..request(0, false)
        };
        assert_eq!(smmu.ats_request(outside), Completion::Aborted);
        assert_eq!(smmu.read32(0x1_00a8) != 0, recorded, "{cr2:#b}");
    }
    // A walk that aborts.
    let mut smmu = full_ats(everything());
    put(&mut smmu, ROOT + 8, 0x7000_0000 | 3);
    let completion = smmu.ats_request(request(0x4000_0000, true));
    assert_eq!(completion, Completion::Aborted);
    no_event(&mut smmu);
}

#[test]
fn translated_access_without_checks_goes_anywhere() {
    let mut smmu = full_ats(everything());
    entry(&mut smmu, [0; 4]);
    assert_eq!(smmu.translated(write(0x1234)), Ok(0x1234));
    assert_eq!(smmu.translated(write(1 << 48)), Err(Refusal::Silent));
    let mut other = write(0x1234);
    other.stream = StreamId(999_999);
    assert_eq!(smmu.translated(other), Ok(0x1234));
    no_event(&mut smmu);
}

#[test]
fn translated_access_with_checks() {
    let forbidden = |access: u64| [u64::from(S) << 32 | 0x07, access, 0x1234, 0];
    // SMMUEN 0, whatever ATSCHK says. RnW is bit 99.
    for cr0 in [0b1110, 0b1_1110] {
        let mut smmu = full_ats(everything());
        smmu.write32(0x20, cr0);
        assert!(smmu.translated(write(0x1234)).is_err());
        assert_eq!(last_event(&mut smmu), forbidden(0));
        assert!(smmu.translated(read(0x1234)).is_err());
        assert_eq!(last_event(&mut smmu), forbidden(1 << 35));
    }
    let checked = |words| {
        let mut smmu = full_ats(everything());
        smmu.write32(0x20, 0b1_1111);
        entry(&mut smmu, words);
        smmu
    };
    let mut smmu = checked(stage2(1));
    assert_eq!(smmu.translated(write(0x1234)), Ok(0x1234));
    assert_eq!(smmu.translated(write(1 << 48)), Err(Refusal::Silent));
    no_event(&mut smmu);
    for words in [stage2(0), [9, 1 << 28, 0, 0]] {
        let mut smmu = checked(words);
        assert!(smmu.translated(write(0x1234)).is_err());
        assert_eq!(last_event(&mut smmu), forbidden(0));
    }
    // Abort; invalid without REC_CFG_ATS.
    for words in [[1, 1 << 28, 0, 0], [0; 4]] {
        let mut smmu = checked(words);
        assert!(smmu.translated(write(0x1234)).is_err());
        no_event(&mut smmu);
    }
    let mut smmu = full_ats(everything());
    smmu.write32(0x20, 0b1110);
    // REC_CFG_ATS without RECINVSID: enough here (3.9.1.3).
    smmu.write32(0x2c, 8);
    smmu.write32(0x20, 0b1_1111);
    let mut outside = write(0x1234);
    outside.stream = StreamId(256);
    assert!(smmu.translated(outside).is_err());
    assert_eq!(last_event(&mut smmu)[0], 256 << 32 | 0x02);
}

#[test]
fn split_stage_gives_the_output_of_stage_1() {
    let mut smmu = substreams();
    smmu.write32(0x20, 0b1_1111);
    // Nested, S1CDMax 0, EATS 2; stage 2 by blocks of 1 GiB from ROOT + 0x2000:
    // IPA 0x8000_0000 is itself, 0xc000_0000 is read-only.
    let mut words = stage2(2);
    (words[0], words[3]) = (0b1111 | CDS, ROOT + 0x2000);
    entry(&mut smmu, words);
    put(&mut smmu, ROOT + 0x2010, 0x8000_0000 | RW);
    put(&mut smmu, ROOT + 0x2018, 0x40_0000_0000 | RO);
    // Stage 1: IPS 2 (40 bits).
    let word0 = 25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 7 << 48;
    put(&mut smmu, CDS, word0);
    put(&mut smmu, ROOT, 0xc000_0000 | 1 << 10 | 1 << 6 | 1);
    let at = 0xc012_3000;
    // Both stages permit; the address is an IPA.
    assert_eq!(
        smmu.ats_request(request(0x12_3456, true)),
        granted(at, true, false)
    );
    assert_eq!(smmu.translated(read(at)), Ok(0x40_0012_3000));
    assert!(smmu.translated(write(at)).is_err());
    assert_eq!(last_event(&mut smmu)[0], u64::from(S) << 32 | 0x13);
    // Stage 2 has nothing: no access at all.
    put(&mut smmu, ROOT + 8, 0x1_0000_0000 | 1 << 10 | 1 << 6 | 1);
    let none = granted(0, false, false);
    assert_eq!(smmu.ats_request(request(0x4000_0000, true)), none);
}

#[test]
fn split_stage_still_meets_stage_2() {
    let mut smmu = full_ats(everything());
    // Nested; the context descriptor is not looked at.
    let mut words = stage2(2);
    words[0] = 0xf;
    entry(&mut smmu, words);
    // Without ATSCHK, EATS 2 is 0 for requests, and nothing is checked.
    let asked = smmu.ats_request(request(0x4000_0000, false));
    assert_eq!(asked, Completion::Unsupported);
    smmu.write32(0x1_00ac, 1);
    assert_eq!(smmu.translated(write(0x4000_1234)), Ok(0x4000_1234));
    smmu.write32(0x20, 0b1_1111);
    assert_eq!(smmu.translated(write(0x4000_1234)), Ok(0x80_4000_1234));
    assert!(smmu.translated(write(0x8000_1234)).is_err());
    // F_PERMISSION of stage 2 (103), CLASS IN (105:104).
    let fault = [
        u64::from(S) << 32 | 0x13,
        0x280 << 32,
        0x8000_1234,
        0x8000_1000,
    ];
    assert_eq!(last_event(&mut smmu), fault);
    // IDR0.NS1ATS 1: not supported, so ILLEGAL.
    let mut profile = everything();
    profile.idr0 = Idr0::from(IDR0 | 1 << 11);
    let mut smmu = full_ats(profile);
    smmu.write32(0x20, 0b1_1111);
    entry(&mut smmu, words);
    assert!(smmu.translated(write(0x4000_1234)).is_err());
    let asked = smmu.ats_request(request(0x4000_0000, false));
    assert_eq!(asked, Completion::Aborted);
}

const CDS: u64 = 0x8020_0000;

/// With full ATS and stage 1 alone: eight context descriptors of the same
/// tables, of which requests without substream use the first. 0x4000_0000 and
/// 0x8000_0000 are blocks of 1 GiB.
fn substreams() -> Smmu {
    let mut smmu = running(everything());
    // Config 0b101, S1CDMax 3 (63:59); S1DSS 2 (65:64).
    entry(&mut smmu, [0b1011 | CDS | 3 << 59, 1 << 28 | 2, 0, 0]);
    // T0SZ 25, EPD1, V, IPS 5, AA64, R, A, ASID 7; TTB0.
    let word0 = 25 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 7 << 48;
    for n in 0..8 {
        put(&mut smmu, CDS + n * 64, word0);
        put(&mut smmu, CDS + n * 64 + 8, ROOT);
    }
    // AP 0b01, AF.
    put(&mut smmu, ROOT + 8, 0x80_4000_0000 | 1 << 10 | 1 << 6 | 1);
    put(&mut smmu, ROOT + 16, 0x80_8000_0000 | 1 << 10 | 1 << 6 | 1);
    smmu
}

#[test]
fn a_substream_is_translated_by_its_own_context() {
    let mut smmu = substreams();
    // Substream 3 has no more than a read-only page (AP[2]) with execute never
    // (54) for the unprivileged.
    put(&mut smmu, CDS + 3 * 64 + 8, ROOT + 0x1000);
    let low = 1 << 10 | 1 << 7 | 1 << 6 | 1;
    put(&mut smmu, ROOT + 0x1008, 0x40_4000_0000 | 1 << 54 | low);
    let of = |substream: u32, execute| TranslationRequest {
        substream: Some(smmuv3_spec::SubstreamId(substream)),
        execute,
        ..request(0x4000_0000, true)
    };
    let granted = |address, write, execute| {
        Completion::Success(Translation {
            address,
            size: 0x1000,
            read: true,
            write,
            execute,
        })
    };
    let three = granted(0x40_4000_0000, false, false);
    assert_eq!(smmu.ats_request(of(3, true)), three);
    let four = granted(0x80_4000_0000, true, true);
    assert_eq!(smmu.ats_request(of(4, true)), four);
    // Executing is only asked for with a substream.
    let none = TranslationRequest {
        substream: None,
        ..of(4, true)
    };
    let expected = granted(0x80_4000_0000, true, false);
    assert_eq!(smmu.ats_request(none), expected);
    // Out of range: C_BAD_SUBSTREAMID, which aborts.
    assert_eq!(smmu.ats_request(of(8, false)), Completion::Aborted);
    no_event(&mut smmu);
}

fn hold(smmu: &mut Smmu) {
    for page in [0x4000_0000, 0x4000_1000, 0x4000_4000, 0x8000_0000] {
        assert!(matches!(
            smmu.ats_request(request(page, false)),
            Completion::Success(_)
        ));
        let with = TranslationRequest {
            substream: Some(smmuv3_spec::SubstreamId(3)),
            ..request(page, false)
        };
        smmu.ats_request(with);
    }
}

/// What is left after a CMD_ATC_INV and a CMD_SYNC: pages without substream,
/// and with it.
fn left(invalidation: [u64; 2]) -> (Vec<u64>, Vec<u64>) {
    let mut smmu = substreams();
    hold(&mut smmu);
    submit(&mut smmu, &[invalidation]);
    let all = smmu.atc(StreamId(S)).len();
    assert_eq!(all, 8, "not before the CMD_SYNC");
    submit(&mut smmu, &[SYNC]);
    let entries = smmu.atc(StreamId(S));
    let pages = |with: bool| {
        let chosen = entries.iter().filter(|e| e.substream.is_some() == with);
        chosen.map(|e| e.input).collect()
    };
    (pages(false), pages(true))
}

#[test]
fn what_an_invalidation_covers() {
    let (a, b, c, d) = (0x4000_0000, 0x4000_1000, 0x4000_4000, 0x8000_0000);
    let sid = u64::from(S) << 32 | 0x40;
    let with = sid | 3 << 12 | 1 << 11;
    let all = vec![a, b, c, d];
    assert_eq!(left([sid, 52]), (vec![], all.clone()));
    assert_eq!(left([with, 52]), (all.clone(), vec![]));
    // Another substream; with Global every one.
    assert_eq!(
        left([sid | 4 << 12 | 1 << 11, 52]),
        (all.clone(), all.clone())
    );
    let global = sid | 4 << 12 | 1 << 11 | 1 << 9;
    assert_eq!(left([global, 52]), (all.clone(), vec![]));
    // One page; two, from the middle; eight.
    assert_eq!(left([sid, a]), (vec![b, c, d], all.clone()));
    assert_eq!(left([sid, b | 1]), (vec![c, d], all.clone()));
    assert_eq!(left([sid, b | 3]), (vec![d], all.clone()));
    // 2^51 pages: the lower half.
    assert_eq!(left([sid, 51]), (vec![], all.clone()));
    // Another stream.
    assert_eq!(left([6 << 32 | 0x40, 52]), (all.clone(), all));
}

#[test]
fn an_endpoint_that_does_not_answer() {
    let mut smmu = substreams();
    hold(&mut smmu);
    smmu.set_endpoint_silent(StreamId(S), true);
    submit(&mut smmu, &[ATC_INV, SYNC]);
    // CERROR_ATC_INV_SYNC at the CMD_SYNC.
    assert_eq!(smmu.read32(0x9c), 3 << 24 | 1);
    assert_eq!(smmu.read32(0x60), 1);
    assert_eq!(smmu.atc(StreamId(S)).len(), 8);
    // It is fetched again, and does not wait again.
    smmu.write32(0x64, 1);
    assert_eq!(smmu.read32(0x9c), 2);
    assert_eq!(smmu.atc(StreamId(S)).len(), 8);
    submit(&mut smmu, &[SYNC]);
    assert_eq!(smmu.read32(0x9c), 3);
    smmu.set_endpoint_silent(StreamId(S), false);
    submit(&mut smmu, &[ATC_INV, SYNC]);
    assert_eq!(smmu.atc(StreamId(S)).len(), 4);
    smmu.reset_endpoint(StreamId(S));
    assert_eq!(smmu.atc(StreamId(S)), []);
}

#[test]
fn invalidations_are_ignored_while_off() {
    let mut smmu = substreams();
    hold(&mut smmu);
    smmu.write32(0x20, 0b1110);
    submit(&mut smmu, &[ATC_INV, SYNC]);
    assert_eq!(smmu.atc(StreamId(S)).len(), 8);
    assert_eq!(smmu.atc_reaches(StreamId(S)), []);
}

fn wait(smmu: &mut Smmu) {
    while smmu.read32(0x9c) != smmu.read32(0x98) {}
}

/// Greedy, with one block mapped through a store that it saw.
fn greedy() -> Smmu {
    let mut smmu = running_as(everything(), Mode::Greedy { seed: 7 });
    for (word, value) in (0..).zip(stage2(1)) {
        assert!(smmu.store(interface::TABLE + u64::from(S) * 64 + word * 8, value));
    }
    assert!(smmu.store(ROOT + 8, 0x80_4000_0000 | RW));
    smmu.publish(ROOT, 4096);
    submit(&mut smmu, &[[u64::from(S) << 32 | 0x03, 1], SYNC]);
    wait(&mut smmu);
    smmu
}

fn reaches(smmu: &mut Smmu) -> bool {
    let entries = smmu.atc_reaches(StreamId(S));
    entries.iter().any(|entry| entry.output == 0x80_4000_0000)
}

#[test]
fn a_greedy_endpoint_has_asked_for_everything() {
    let mut smmu = greedy();
    assert!(reaches(&mut smmu));
    assert!(smmu.store(ROOT + 8, 0));
    smmu.publish(ROOT, 4096);
    // The TLB alone.
    submit(&mut smmu, &[TLBI_VMID, SYNC]);
    wait(&mut smmu);
    assert!(reaches(&mut smmu));
    submit(&mut smmu, &[ATC_INV]);
    wait(&mut smmu);
    assert!(reaches(&mut smmu), "without CMD_SYNC");
    submit(&mut smmu, &[SYNC]);
    wait(&mut smmu);
    assert!(!reaches(&mut smmu));
}

#[test]
fn the_tlb_goes_first() {
    // In the wrong order, and with one CMD_SYNC for both: the endpoint asked
    // again in between.
    for commands in [
        &[ATC_INV, SYNC, TLBI_VMID, SYNC][..],
        &[TLBI_VMID, ATC_INV, SYNC],
    ] {
        let mut smmu = greedy();
        assert!(smmu.store(ROOT + 8, 0));
        smmu.publish(ROOT, 4096);
        submit(&mut smmu, commands);
        wait(&mut smmu);
        assert!(reaches(&mut smmu), "{commands:#x?}");
        submit(&mut smmu, &[ATC_INV, SYNC]);
        wait(&mut smmu);
        assert!(!reaches(&mut smmu));
    }
}

#[test]
fn somebody_elses_stage_1_leads_there_from_anywhere() {
    let mut smmu = running_as(everything(), Mode::Greedy { seed: 7 });
    let mut words = stage2(1);
    // Nested, with substreams.
    words[0] = 0b1111 | CDS | 3 << 59;
    for (word, value) in (0..).zip(words) {
        assert!(smmu.store(interface::TABLE + u64::from(S) * 64 + word * 8, value));
    }
    assert!(smmu.store(ROOT + 8, 0x80_4000_0000 | RW));
    smmu.publish(ROOT, 4096);
    submit(&mut smmu, &[[u64::from(S) << 32 | 0x03, 1], SYNC]);
    wait(&mut smmu);
    assert!(reaches(&mut smmu));
    assert!(smmu.store(ROOT + 8, 0));
    smmu.publish(ROOT, 4096);
    submit(&mut smmu, &[TLBI_VMID, SYNC]);
    wait(&mut smmu);
    // Its IPA is not where the endpoint has it; one substream is not all, and
    // none is not those that there are.
    let sid = u64::from(S) << 32 | 0x40;
    let one = sid | 3 << 12 | 1 << 11;
    for (command, plain) in [
        ([sid, 0x4000_0000 | 18], true),
        ([sid, 51], true),
        ([one, 52], true),
        ([sid, 52], false),
    ] {
        submit(&mut smmu, &[command, SYNC]);
        wait(&mut smmu);
        let held = smmu.atc(StreamId(S));
        let without = held.iter().any(|entry| entry.substream.is_none());
        assert_eq!(without, plain, "{command:#x?}");
        assert!(held.iter().any(|entry| entry.substream.is_some()));
    }
    submit(&mut smmu, &[[one | 1 << 9, 52], SYNC]);
    wait(&mut smmu);
    assert!(!reaches(&mut smmu));
}

#[test]
fn atschk_keeps_a_stale_endpoint_out() {
    let mut smmu = greedy();
    smmu.write32(0x20, 0b1_1111);
    while smmu.read32(0x24) != 0b1_1111 {}
    assert!(reaches(&mut smmu));
    // EATS 0.
    assert!(smmu.store(interface::TABLE + u64::from(S) * 64 + 8, 0));
    smmu.publish(interface::TABLE, 0x4000);
    assert!(reaches(&mut smmu), "the old entry is cached");
    submit(&mut smmu, &[[u64::from(S) << 32 | 0x03, 1], SYNC]);
    wait(&mut smmu);
    assert!(!reaches(&mut smmu));
    assert_eq!(smmu.take_misuse(), []);
}

#[test]
fn clearing_atschk_under_split_stage_is_reported() {
    let mut smmu = running(everything());
    smmu.write32(0x20, 0b1_1111);
    let mut words = stage2(2);
    words[0] = 0xf;
    entry(&mut smmu, words);
    smmu.write32(0x20, 0b1111);
    let stream = S;
    assert_eq!(smmu.take_misuse(), [Misuse::SplitUnchecked { stream }]);
}

#[test]
fn a_translated_access_is_a_transaction_like_any() {
    let mut smmu = full_ats(everything());
    assert_eq!(
        smmu.translated(Transaction::new(
            StreamId(S),
            0x8000_0000,
            smmuv3_model::Access::Execute
        )),
        Ok(0x8000_0000)
    );
}

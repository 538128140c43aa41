//! What stays reachable through stage 1 until a completed invalidation says
//! otherwise. All structures are raw words, from the bit numbers of 5.2 and 5.4.
#![allow(missing_docs)]

use smmuv3_model::{How, Mode, Policy, Profile, Smmu, Violation};
use smmuv3_spec::command::{Command, SIG_NONE};
use smmuv3_spec::{Asid, StreamId, SubstreamId, Vmid, reg};
use std::ops::Range;

const TABLE: u64 = 0x8000_0000;
const COMMANDS: u64 = 0x8001_0000;
/// Stage 2: levels 1, 2 and 3.
const S2: [u64; 3] = [0x8010_0000, 0x8010_1000, 0x8010_2000];
/// IPAs and addresses of the stream's owner: the CD, and stage 1 levels 1 to 3.
const CD: u64 = 0x8020_0000;
const S1: [u64; 3] = [0x8020_1000, 0x8020_2000, 0x8020_3000];
/// A page of the owner.
const PAGE: u64 = 0x8020_4000;
/// A page that the owner had.
const LOST: u64 = 0x8020_5000;
/// A page that was never the owner's.
const SECRET: u64 = 0x8030_0000;
const S: StreamId = StreamId(5);
const VMID: Vmid = Vmid(9);
const ASID: Asid = Asid(3);

/// V, Config 0b111, one CD; S1STALLD; VMID 9, T0SZ 25 from level 1, 4 KiB, PS 5,
/// AA64, PTW, R.
const NESTED: [u64; 8] = [
    0xf | CD,
    1 << 27,
    9 | 25 << 32 | 1 << 38 | 5 << 48 | 1 << 51 | 1 << 54 | 1 << 58,
    S2[0],
    0,
    0,
    0,
    0,
];

/// The same with Config 0b101.
const ALONE: [u64; 8] = [0xb | CD, 1 << 27, 9, 0, 0, 0, 0, 0];

/// T0SZ 25, 4 KiB, EPD1, V; IPS 5, AA64, R, A, ASID 3; TTB0.
const CONTEXT: [u64; 2] = [
    25 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 3 << 48,
    S1[0],
];

/// Stage 2 page: readable, writable, accessed, inner shareable, write-back.
const S2_PAGE: u64 = 0x7ff;
/// Stage 1 page: unprivileged, accessed; nG is bit 11.
const S1_PAGE: u64 = 0x743;
const NG: u64 = 1 << 11;

struct Owned(Vec<Range<u64>>);

impl Policy for Owned {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, _: bool) -> Option<u64> {
        let mut pages = range.step_by(4096);
        pages.find(|page| !self.0.iter().any(|owned| owned.contains(page)))
    }

    fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

/// Everything that the owner has.
fn all() -> Owned {
    Owned(std::iter::once(CD..LOST + 0x1000).collect())
}

/// Without the page that it lost.
fn less() -> Owned {
    Owned(std::iter::once(CD..LOST).collect())
}

fn store(smmu: &mut Smmu, at: u64, value: u64) {
    assert!(smmu.store(at, value), "{at:#x}");
    smmu.publish(at, 8);
}

fn run(smmu: &mut Smmu, commands: &[Command]) {
    for command in commands {
        let prod = smmu.read32(reg::CMDQ_PROD);
        let at = COMMANDS + u64::from(prod & 0xff) * 16;
        store(smmu, at, command.0[0]);
        store(smmu, at + 8, command.0[1]);
        smmu.write32(reg::CMDQ_PROD, (prod + 1) & 0x1ff);
        for _ in 0..8 {
            smmu.read32(reg::CMDQ_CONS);
        }
        assert_eq!(smmu.read32(reg::CMDQ_CONS), (prod + 1) & 0x1ff);
    }
    assert_eq!(smmu.take_misuse(), []);
}

const fn sync() -> Command {
    Command::sync(SIG_NONE)
}

/// An SMMU that runs, with one stream; stage 2 and stage 1 map the owner's pages
/// where they are, LOST as a page of one ASID.
fn running(entry: [u64; 8]) -> Smmu {
    let banks = std::iter::once(0x8000_0000..0x8100_0000);
    let mut smmu = Smmu::new(Profile::full(), banks, Mode::Greedy { seed: 1 }, [S]);
    let mut put = |at: u64, value: u64| assert!(smmu.ram_mut().settle(at, value));
    for (word, value) in (0..).zip(entry) {
        put(TABLE + u64::from(S.0) * 64 + word * 8, value);
    }
    for table in [S2, S1] {
        put(table[0] + 2 * 8, table[1] | 3);
        put(table[1] + 8, table[2] | 3);
    }
    for page in (CD..=LOST).step_by(4096) {
        put(S2[2] + (page >> 12) % 512 * 8, page | S2_PAGE);
        put(S1[2] + (page >> 12) % 512 * 8, page | S1_PAGE | NG);
    }
    put(CD, CONTEXT[0]);
    put(CD + 8, CONTEXT[1]);
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 8);
    smmu.write64(reg::CMDQ_BASE, COMMANDS | 8);
    smmu.write32(reg::CR0, 0b1_1001);
    for _ in 0..8 {
        smmu.read32(reg::CR0ACK);
    }
    run(&mut smmu, &[sync()]);
    assert_eq!(smmu.check(&all()), Ok(()));
    smmu
}

/// Index of the entry of stage 2 and of stage 1 for LOST.
const LOST_ENTRY: u64 = (LOST >> 12) % 512 * 8;

fn lose_stage2(smmu: &mut Smmu) {
    store(smmu, S2[2] + LOST_ENTRY, 0);
}

#[track_caller]
fn combined(smmu: &mut Smmu) {
    match smmu.check(&less()) {
        Err(Violation::Reach {
            page: LOST,
            how: How::Combined(_),
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_ipa_does_not_drop_what_combines_both_stages() {
    let mut smmu = running(NESTED);
    lose_stage2(&mut smmu);
    run(&mut smmu, &[Command::tlbi_s2_ipa(VMID, LOST, true), sync()]);
    combined(&mut smmu);
    // Not by the address either: another one may lead there.
    run(
        &mut smmu,
        &[Command::tlbi_nh_vaa(VMID, LOST, false), sync()],
    );
    combined(&mut smmu);
    run(&mut smmu, &[Command::tlbi_nh_all(Vmid(8)), sync()]);
    combined(&mut smmu);
    run(&mut smmu, &[Command::tlbi_nh_all(VMID), sync()]);
    assert_eq!(smmu.check(&less()), Ok(()));
}

#[test]
fn stage_1_goes_only_after_stage_2_is_gone() {
    let ipa = Command::tlbi_s2_ipa(VMID, LOST, true);
    let mut smmu = running(NESTED);
    lose_stage2(&mut smmu);
    run(&mut smmu, &[ipa, Command::tlbi_nh_all(VMID), sync()]);
    combined(&mut smmu);
    let mut smmu = running(NESTED);
    lose_stage2(&mut smmu);
    run(&mut smmu, &[Command::tlbi_nh_all(VMID), ipa, sync()]);
    combined(&mut smmu);
    let mut smmu = running(NESTED);
    lose_stage2(&mut smmu);
    let all = [ipa, sync(), Command::tlbi_nh_all(VMID), sync()];
    run(&mut smmu, &all);
    assert_eq!(smmu.check(&less()), Ok(()));
    for both in [Command::tlbi_s12_vmall(VMID), Command::tlbi_nsnh_all()] {
        let mut smmu = running(NESTED);
        lose_stage2(&mut smmu);
        run(&mut smmu, &[both, sync()]);
        assert_eq!(smmu.check(&less()), Ok(()));
    }
}

#[test]
fn a_table_of_stage_1_is_read_where_it_was() {
    let mut smmu = running(NESTED);
    // The owner loses the page of its level 3 table.
    store(&mut smmu, S2[2] + (S1[2] >> 12) % 512 * 8, 0);
    let policy = Owned(vec![CD..S1[2], PAGE..LOST + 0x1000]);
    run(
        &mut smmu,
        &[Command::tlbi_s2_ipa(VMID, S1[2], true), sync()],
    );
    assert!(matches!(
        smmu.check(&policy),
        Err(Violation::Reach { page, .. }) if page == S1[2]
    ));
    run(&mut smmu, &[Command::tlbi_nh_all(VMID), sync()]);
    assert_eq!(smmu.check(&policy), Ok(()));
}

/// Stage 2 is what counts: stage 1 may say what it likes.
fn granted(smmu: &mut Smmu) -> bool {
    match smmu.check(&less()) {
        Ok(()) => false,
        Err(Violation::Reach {
            page: LOST,
            how: How::Atc(_),
            ..
        }) => true,
        other => panic!("{other:?}"),
    }
}

/// With `EATS` 1, at 93:92, what the endpoint was granted stays with it.
#[test]
fn an_endpoint_keeps_what_it_was_granted() {
    let mut entry = NESTED;
    entry[1] |= 1 << 28;
    let drop = [Command::tlbi_s12_vmall(VMID), sync()];
    let mut smmu = running(entry);
    lose_stage2(&mut smmu);
    run(&mut smmu, &drop);
    assert!(granted(&mut smmu));
    // The page's IPA is no help: stage 1 may have it at any address.
    let page = Command::atc_inv(S, None, false, LOST, 0);
    let all = |stream| Command::atc_inv(stream, None, false, 0, 52);
    for command in [all(StreamId(6)), page] {
        run(&mut smmu, &[command, sync()]);
        assert!(granted(&mut smmu));
    }
    run(&mut smmu, &[all(S)]);
    assert!(granted(&mut smmu), "not before the CMD_SYNC");
    run(&mut smmu, &[sync()]);
    assert!(!granted(&mut smmu));
    // In the other order it asks again in between.
    let mut smmu = running(entry);
    lose_stage2(&mut smmu);
    run(&mut smmu, &[all(S), drop[0], drop[1]]);
    assert!(granted(&mut smmu));
}

#[test]
fn without_a_check_an_endpoint_may_say_anything() {
    let mut smmu = running(NESTED);
    smmu.write32(reg::CR0, 0b1001);
    for _ in 0..8 {
        smmu.read32(reg::CR0ACK);
    }
    assert!(matches!(
        smmu.check(&all()),
        Err(Violation::Reach {
            how: How::Unchecked,
            ..
        })
    ));
}

#[test]
fn a_hostile_stage_1_gets_no_further() {
    let mut smmu = running(NESTED);
    for index in (0..512).step_by(9) {
        store(&mut smmu, S1[0] + index * 8, S1[0] | 3);
        store(
            &mut smmu,
            S1[2] + index * 8,
            (SECRET + (index << 12)) | S1_PAGE,
        );
        store(&mut smmu, CD + index % 8 * 8, u64::MAX << (index % 64));
    }
    run(&mut smmu, &[sync()]);
    assert_eq!(smmu.check(&all()), Ok(()));
    assert!(!smmu.held_stage1().is_empty());
}

#[track_caller]
fn stale(smmu: &mut Smmu) {
    match smmu.check(&less()) {
        Err(Violation::Reach {
            page: LOST,
            how: How::Stage1(_),
            ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn stage_1_alone_is_held_by_asid_and_address() {
    let mut smmu = running(ALONE);
    store(&mut smmu, S1[2] + LOST_ENTRY, 0);
    stale(&mut smmu);
    for command in [
        Command::tlbi_nh_va(VMID, Asid(4), LOST, false),
        Command::tlbi_nh_va(Vmid(8), ASID, LOST, false),
        Command::tlbi_nh_va(VMID, ASID, PAGE, false),
        Command::tlbi_nh_asid(VMID, Asid(4)),
        Command::tlbi_s2_ipa(VMID, LOST, false),
        Command::tlbi_el2_all(),
        Command::cfgi_all(),
    ] {
        run(&mut smmu, &[command, sync()]);
        stale(&mut smmu);
    }
    // Not before the CMD_SYNC.
    run(&mut smmu, &[Command::tlbi_nh_va(VMID, ASID, LOST, true)]);
    stale(&mut smmu);
    run(&mut smmu, &[sync()]);
    assert_eq!(smmu.check(&less()), Ok(()));
}

#[test]
fn a_global_page_is_nobodys_asid() {
    let mut smmu = running(ALONE);
    store(&mut smmu, S1[2] + LOST_ENTRY, LOST | S1_PAGE);
    run(&mut smmu, &[Command::tlbi_nh_asid(VMID, ASID), sync()]);
    store(&mut smmu, S1[2] + LOST_ENTRY, 0);
    run(&mut smmu, &[Command::tlbi_nh_asid(VMID, ASID), sync()]);
    stale(&mut smmu);
    run(
        &mut smmu,
        &[Command::tlbi_nh_va(VMID, Asid(7), LOST, true), sync()],
    );
    assert_eq!(smmu.check(&less()), Ok(()));
}

#[test]
fn a_context_descriptor_stays_until_it_is_dropped() {
    let mut smmu = running(ALONE);
    // ASID 4 has other tables, and never had LOST.
    let fresh = SECRET;
    store(&mut smmu, CD, CONTEXT[0] + (1 << 48));
    store(&mut smmu, CD + 8, fresh);
    run(&mut smmu, &[Command::tlbi_nh_all(VMID), sync()]);
    stale(&mut smmu);
    let other = Command::cfgi_cd(S, SubstreamId(1), false);
    run(&mut smmu, &[other, Command::tlbi_nh_all(VMID), sync()]);
    stale(&mut smmu);
    for drop in [
        Command::cfgi_cd(S, SubstreamId(0), true),
        Command::cfgi_cd_all(S),
        Command::cfgi_ste(S, true),
    ] {
        let mut smmu = running(ALONE);
        store(&mut smmu, CD, CONTEXT[0] + (1 << 48));
        store(&mut smmu, CD + 8, fresh);
        run(
            &mut smmu,
            &[drop, sync(), Command::tlbi_nh_all(VMID), sync()],
        );
        assert_eq!(smmu.check(&less()), Ok(()));
    }
}

#[test]
fn stage_1_alone_must_not_be_a_strangers() {
    let mut smmu = running(ALONE);
    store(&mut smmu, S1[2] + LOST_ENTRY, SECRET | S1_PAGE);
    assert!(matches!(
        smmu.check(&all()),
        Err(Violation::Reach { page: SECRET, .. })
    ));
}

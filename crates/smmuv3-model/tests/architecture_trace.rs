//! What a trace prints; the two in the README are printed there.
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, Profile};
use smmuv3_spec::reg;

#[test]
fn a_trace_has_no_effect() {
    // HA and HD; a page that would be made accessed and dirty.
    let mut smmu = stage1([WORD0 | 3 << 42, ONE, 0, 0, 0, 0, 0, 0]);
    let clean = 1 << 51 | 0x80aa_0000 | 3 << 6 | 3;
    put(&mut smmu, ONE + 0x2000, clean);
    let trace = smmu.trace(access(0, Access::Write));
    assert_eq!(trace.outcome, "output 0x80aa0000");
    assert_eq!(smmu.load(ONE + 0x2000), Some(clean));
    let last: Vec<String> = trace
        .steps
        .iter()
        .rev()
        .take(2)
        .map(|s| s.to_string())
        .collect();
    assert_eq!(
        last[1],
        "  S1 L3     0x000080102000: 0x0008000080aa00c3  4 KiB at 0x80aa0000, RO, DBM, AF clear, global"
    );
    assert_eq!(
        last[0],
        "  update    0x000080102000: 0x0008000080aa0443  written by the SMMU"
    );
    // A fault records nothing.
    let trace = smmu.trace(access(1 << 39, Access::Write));
    assert_eq!(
        trace.outcome,
        "aborted with F_TRANSLATION of stage 1, class IN"
    );
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 0);
}

#[test]
fn every_fetch_is_there() {
    // Two levels of streams and of CDs.
    let mut smmu = running(Profile::full(), [0; 8]);
    smmu.write32(reg::CR0, 0b1100);
    smmu.write32(reg::STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 8);
    smmu.write32(reg::CR0, 0b1101);
    put(&mut smmu, TABLE, (TABLE + 0x1000) | 7);
    let word0 = 0b1011 | 1 << 4 | CD | 8 << 59;
    put_all(
        &mut smmu,
        TABLE + 0x1000 + 5 * 64,
        [word0, 0, 0, 0, 0, 0, 0, 0],
    );
    put(&mut smmu, CD + 8, (CD + 0x1000) | 1);
    put_all(&mut smmu, CD + 0x1000, [WORD0, ONE, 0, 0, 0, 0, 0, 0]);
    put(&mut smmu, ONE, 1 << 61 | 0x7000_0003);
    let t = access(8, Access::Execute).with_substream(64).privileged();
    let want = "\
stream 0x5, substream 0x40: privileged instruction fetch at 0x8
  L1STD     0x000080000000: 0x0000000080001007  an STE at 0x80001140
  STE       0x000080001140: 0x400000008003001b  stage 1: 2^8 CDs at 0x80030000, two levels of 4 KiB
  L1CD      0x000080030008: 0x0000000080031001  a CD at 0x80031000
  CD        0x000080031000: 0x00076202c0000019  EL1, ASID 0x7, TTB0 39 bits at 0x80100000, TTB1 off
                            0x0000000080100000
  VA        0x000000000008  by TTB0, from level 1
  S1 L1     0x000080100000: 0x2000000070000003  table at 0x70000000, privileged below
  S1 L2     0x000070000000  no memory
=> aborted with F_WALK_EABT of stage 1, class TTD, fetching 0x70000000";
    let trace = smmu.trace(t);
    assert_eq!(trace.to_string(), want, "\n{trace}\n");
    // What cannot be fetched, or means nothing, says so.
    put(&mut smmu, CD + 0x1000, 0);
    let trace = smmu.trace(t).to_string();
    assert!(trace.ends_with("ILLEGAL: V is 0\n                            0x0000000080100000\n=> aborted with C_BAD_CD"), "{trace}");
    put(&mut smmu, CD + 8, 0x7000_0001);
    let trace = smmu.trace(t).to_string();
    let end =
        "  CD        0x000070000000  no memory\n=> aborted with F_CD_FETCH, fetching 0x70000000";
    assert!(trace.ends_with(end), "{trace}");
    put(&mut smmu, TABLE, 0);
    let trace = smmu.trace(t).to_string();
    let end = "  L1STD     0x000080000000: 0x0000000000000000  leads nowhere\n=> aborted with C_BAD_STREAMID";
    assert!(trace.ends_with(end), "{trace}");
}

#[test]
fn other_ends() {
    // Stalled; read as zero; silent.
    let stalled = stage1([WORD0 | 1 << 44, ONE, 0, 0, 0, 0, 0, 0]);
    let outcome = stalled.trace(access(0x5000, Access::Read)).outcome;
    assert_eq!(outcome, "stalled with F_TRANSLATION of stage 1, class IN");
    let zero = stage1([WORD0 & !(3 << 45), ONE, 0, 0, 0, 0, 0, 0]);
    let outcome = zero.trace(access(0x5000, Access::Read)).outcome;
    assert_eq!(outcome, "reads zero or is not written, no event");
    let abort = running(Profile::full(), [1, 0, 0, 0, 0, 0, 0, 0]);
    let trace = abort.trace(access(0x5000, Access::Read)).to_string();
    assert!(
        trace.ends_with("abort, no event\n=> aborted, no event"),
        "{trace}"
    );
}

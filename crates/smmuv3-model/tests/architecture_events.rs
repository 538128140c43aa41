//! The event records that no walk gives, word by word (IHI 0070, 7.3).
#![allow(missing_docs)]

mod plain;

use plain::*;
use smmuv3_model::{Access, PageHint, Profile, Refusal, Transaction};
use smmuv3_spec::{StreamId, reg};

fn transaction() -> Transaction {
    access(0x1_2345_6789, Access::Execute)
        .with_substream(0xabcde)
        .privileged()
}

/// Stream 5, SSV 11, SubstreamID 31:12.
const WHO: u64 = 5 << 32 | 0xabcde << 12 | 1 << 11;

#[test]
fn what_the_implementation_raises() {
    let mut smmu = running(Profile::full(), [9, 0, 0, 0, 0, 0, 0, 0]);
    let t = transaction();
    // Reason 79:64; PnU 97, InD 98, RnW 99; InputAddr.
    let uut = smmu.unsupported(t, 0x1234);
    assert_eq!(uut.0, [WHO | 0x01, 0xe << 32 | 0x1234, 0x1_2345_6789, 0]);
    // CLASS IN; S2 103 and the IPA 247:204 if it was one.
    let tlb = smmu.tlb_conflict(t, None, 7);
    assert_eq!(tlb.0, [WHO | 0x20, 0x2_0e << 32 | 7, 0x1_2345_6789, 0]);
    let tlb = smmu.tlb_conflict(t, Some(0x8765_4321), 7);
    assert_eq!(
        tlb.0,
        [WHO | 0x20, 0x2_8e << 32 | 7, 0x1_2345_6789, 0x8765_4000]
    );
    let config = smmu.config_conflict(t, 9);
    assert_eq!(config.0, [WHO | 0x21, 9, 0, 0]);
    // Span 115:108; pR 103, pW 102, pX 101, uR 100, uW 99, uX 98.
    let hint = smmu.page_hint(PageHint {
        transaction: t,
        pages: 3,
        privileged: (true, false, true),
        unprivileged: (false, true, false),
    });
    let flags = 0b1010_1000 << 32 | 3 << 44;
    assert_eq!(hint.0, [WHO | 0x24, flags, 0x1_2345_6000, 0]);
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 5);
    assert_eq!(smmu.load(EVENTS + 3 * 32), Some(WHO | 0x21));
}

#[test]
fn configuration_errors() {
    let mut smmu = running(Profile::full(), [0; 8]);
    let Err(Refusal::Event(bad)) = smmu.translate(transaction()) else {
        panic!()
    };
    assert_eq!(bad.0, [WHO | 0x04, 0, 0, 0]);
    let far = Transaction {
        stream: StreamId(256),
        ..transaction()
    };
    let Err(Refusal::Event(bad)) = smmu.translate(far) else {
        panic!()
    };
    assert_eq!(bad.0, [256 << 32 | 0xabcde << 12 | 1 << 11 | 0x02, 0, 0, 0]);
    // RECINVSID 0: it aborts all the same.
    smmu.write32(reg::CR0, 0b1100);
    smmu.write32(reg::CR2, 0);
    smmu.write32(reg::CR0, 0b1101);
    assert_eq!(smmu.translate(far), Err(Refusal::Silent));
    // A table that is no memory.
    smmu.write32(reg::CR0, 0b1100);
    smmu.write64(reg::STRTAB_BASE, 0x7000_0000);
    smmu.write32(reg::CR0, 0b1101);
    let Err(Refusal::Event(fetch)) = smmu.translate(transaction()) else {
        panic!()
    };
    assert_eq!(fetch.0, [WHO | 0x03, 0, 0, 0x7000_0140]);
}

#[test]
fn a_bypass_takes_what_the_smmu_can_output() {
    let mut smmu = running(Profile::full(), [9, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(reads(&mut smmu, (1 << 48) - 8), Ok((1 << 48) - 8));
    let refusal = writes(&mut smmu, 1 << 48).unwrap_err();
    assert_eq!(
        refusal.event().unwrap().0,
        [5 << 32 | 0x11, 0x2_00 << 32, 1 << 48, 0]
    );
}

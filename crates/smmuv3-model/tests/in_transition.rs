//! What a change of SMMUEN or GBPA allows before it is acknowledged: anything
//! of before and after (IHI 0070, 6.3.9, 6.3.14).
#![allow(missing_docs)]

use smmuv3_model::{How, Mode, Policy, Profile, Smmu, Violation};
use smmuv3_spec::StreamId;
use std::ops::Range;

const RAM: u64 = 0x8000_0000;
const CR0: u32 = 0x20;
const CR0ACK: u32 = 0x24;
/// SMMUEN, ATSCHK.
const ON: u32 = 0x11;
const GBPA: u32 = 0x44;
/// Update.
const OPEN: u32 = 1 << 31;
/// Update, ABORT.
const CLOSED: u32 = 1 << 31 | 1 << 20;
/// V, Config: bypass.
const BYPASS: u64 = 1 | 0b100 << 1;

/// Nobody may touch anything.
struct Nothing;

impl Policy for Nothing {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, _: bool) -> Option<u64> {
        Some(range.start)
    }
    fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

/// An SMMU that is off and whose GBPA says `gbpa`. The table is all zero.
fn off(gbpa: u32) -> Smmu {
    let banks = std::iter::once(RAM..RAM + 0x1_0000);
    let mode = Mode::Greedy { seed: 1 };
    let mut smmu = Smmu::new(Profile::full(), banks, mode, [StreamId(0)]);
    smmu.write64(0x80, RAM);
    smmu.write32(0x88, 1);
    smmu.write32(GBPA, gbpa);
    while smmu.read32(GBPA) & OPEN != 0 {}
    smmu
}

fn how(smmu: &mut Smmu) -> Option<How> {
    match smmu.check(&Nothing) {
        Ok(()) => None,
        Err(Violation::Reach { how, .. }) => Some(how),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn disabling_may_have_happened_before_it_is_acknowledged() {
    let mut smmu = off(OPEN);
    assert_eq!(how(&mut smmu), Some(How::Disabled));
    smmu.write32(CR0, ON);
    assert_eq!(how(&mut smmu), Some(How::Disabled), "not yet on");
    while smmu.read32(CR0ACK) != ON {}
    assert_eq!(how(&mut smmu), None);
    smmu.write32(CR0, 0);
    assert_eq!(how(&mut smmu), Some(How::Disabled), "perhaps off");
}

#[test]
fn gbpa_may_have_changed_before_update_says_so() {
    let mut smmu = off(CLOSED);
    assert_eq!(how(&mut smmu), None);
    smmu.write32(GBPA, OPEN);
    assert_eq!(how(&mut smmu), Some(How::Disabled), "perhaps open");
    let mut smmu = off(OPEN);
    smmu.write32(GBPA, CLOSED);
    assert_eq!(how(&mut smmu), Some(How::Disabled), "perhaps still open");
    while smmu.read32(GBPA) & OPEN != 0 {}
    assert_eq!(how(&mut smmu), None);
}

#[test]
fn entries_may_be_fetched_before_enabling_is_acknowledged() {
    let mut smmu = off(CLOSED);
    assert!(smmu.ram_mut().settle(RAM, BYPASS));
    smmu.write32(CR0, ON);
    // Too late: it may have been fetched, and nothing was invalidated.
    smmu.store(RAM, 0);
    smmu.publish(RAM, 8);
    while smmu.read32(CR0ACK) != ON {}
    assert_eq!(how(&mut smmu), Some(How::Bypass));
}

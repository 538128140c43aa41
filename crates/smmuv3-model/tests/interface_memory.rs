//! Memory that several SMMUs and a CPU share.
#![allow(missing_docs)]

use smmuv3_model::{Mode, Policy, Profile, Ram, Smmu, Violation};
use smmuv3_spec::{StreamId, reg};
use std::ops::Range;

const TABLE: u64 = 0x8000_0000;
const ROOT: u64 = 0x8010_0000;
const S: StreamId = StreamId(5);

/// Words of a stream table entry: stage 2 with 40 bits from level 1.
const ENTRY: [u64; 4] = [
    0xd,
    0,
    9 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58,
    ROOT,
];

fn memory(coherent: bool) -> Ram {
    let mut ram = Ram::new([0x8000_0000..0x8100_0000, 1 << 40..1 << 47], coherent);
    for (word, value) in (0..).zip(ENTRY) {
        assert!(ram.settle(TABLE + 5 * 64 + word * 8, value));
    }
    ram
}

fn attached(ram: &Ram, mode: Mode) -> Smmu {
    let mut smmu = Smmu::on(Profile::minimal(), ram.clone(), mode, [S]);
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 8);
    smmu.write32(reg::CR0, 1);
    while smmu.read32(reg::CR0ACK) != 1 {}
    smmu
}

/// Nothing is allowed.
struct Nothing;

impl Policy for Nothing {
    fn first_forbidden(&self, _: StreamId, range: Range<u64>, _: bool) -> Option<u64> {
        Some(range.start)
    }
    fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
        None
    }
}

#[test]
fn one_publication_counts_for_every_smmu() {
    let ram = memory(false);
    let (mut one, mut two) = (attached(&ram, Mode::Plain), attached(&ram, Mode::Plain));
    // A page of 1 GiB at 0, S2AP 0b11, AF.
    assert!(one.store(ROOT, 0x4c1));
    assert!(two.dma_read(S, 0x8000_0000).is_err());
    one.publish(ROOT, 8);
    assert!(one.store(ROOT + 16, 0x8000_04c1) && one.store(0x8020_0000, 7));
    two.publish(ROOT + 16, 8);
    assert_eq!(two.dma_read(S, 0x8020_0000), Ok(0));
    two.publish(0x8020_0000, 8);
    assert_eq!(one.dma_read(S, 0x8020_0000), Ok(7));
}

#[test]
fn another_smmu_follows_a_store_once_told() {
    let ram = memory(true);
    let mode = Mode::Greedy { seed: 1 };
    let (mut one, mut two) = (attached(&ram, mode), attached(&ram, mode));
    assert!(one.store(ROOT + 16, 0x8000_04c1));
    // Gone again before anybody published.
    assert!(matches!(one.check(&Nothing), Err(Violation::Reach { .. })));
    assert_eq!(two.check(&Nothing), Ok(()));
    two.saw_store(ROOT + 16);
    assert!(matches!(two.check(&Nothing), Err(Violation::Reach { .. })));
}

#[test]
fn a_devices_write_is_logged_and_followed() {
    let mut ram = memory(true);
    // 0x4000_0000 is the tables' memory.
    ram.settle(ROOT + 8, 0x8000_04c1);
    let mode = Mode::Greedy { seed: 1 };
    let mut smmu = attached(&ram, mode);
    assert_eq!(smmu.dma_write(S, 0x4000_0100, 1), Ok(()));
    assert_eq!(smmu.take_writes(), []);
    smmu.log_writes(true);
    assert_eq!(smmu.dma_write(S, 0x4010_0018, 0xc000_04c1), Ok(()));
    assert_eq!(smmu.take_writes(), [ROOT + 24]);
    assert_eq!(smmu.take_writes(), []);
    // The table entry that the device made is cached although it goes.
    ram.settle(ROOT + 24, 0);
    ram.settle(ROOT + 8, 0);
    struct But;
    impl Policy for But {
        fn first_forbidden(&self, _: StreamId, range: Range<u64>, _: bool) -> Option<u64> {
            range.contains(&0xc000_0000).then_some(0xc000_0000)
        }
        fn first_foreign(&self, _: Range<u64>) -> Option<u64> {
            None
        }
    }
    assert!(matches!(
        smmu.check(&But),
        Err(Violation::Reach {
            address: 0xc000_0000,
            ..
        })
    ));
}

#[test]
fn a_cpu_without_coherency_must_refresh() {
    let mut ram = memory(false);
    ram.settle(ROOT + 16, 0x8000_04c1);
    let mut smmu = attached(&ram, Mode::Plain);
    let at = 0x8020_0000;
    ram.settle(at, 1);
    ram.settle(at + 8, 1);
    assert_eq!(smmu.dma_write(S, at, 2), Ok(()));
    assert_eq!(smmu.dma_write(S, at, 3), Ok(()));
    assert_eq!(smmu.dma_write(S, at + 8, 3), Ok(()));
    assert_eq!((smmu.load(at), smmu.load(at + 8)), (Some(1), Some(1)));
    assert_eq!(smmu.dma_read(S, at), Ok(3));
    smmu.refresh(at, 8);
    assert_eq!((ram.load(at), ram.load(at + 8)), (Some(3), Some(1)));
    ram.refresh(at, u64::MAX);
    assert_eq!(smmu.load(at + 8), Some(3));
    // What the CPU stores itself, it sees.
    assert_eq!(smmu.dma_write(S, at, 4), Ok(()));
    assert!(smmu.store(at, 5));
    assert_eq!(smmu.load(at), Some(5));
    assert_eq!(smmu.dma_read(S, at), Ok(4));
}

#[test]
fn a_coherent_cpu_sees_it_at_once() {
    let mut ram = memory(true);
    ram.settle(ROOT + 16, 0x8000_04c1);
    let mut smmu = attached(&ram, Mode::Plain);
    assert_eq!(smmu.dma_write(S, 0x8020_0000, 2), Ok(()));
    assert_eq!(smmu.load(0x8020_0000), Some(2));
}

#[test]
fn banks_of_any_size() {
    let mut ram = memory(true);
    assert!(ram.settle((1 << 47) - 8, 3));
    assert_eq!(ram.load((1 << 47) - 8), Some(3));
    assert_eq!(ram.load(1 << 47), None);
    assert_eq!(ram.load(0x8000_0001), None);
    assert!(!ram.contains((1 << 47) - 4));
    let odd = Ram::new([0x1008..0x1010, u64::MAX - 8..u64::MAX], true);
    assert_eq!(odd.load(0x1008), Some(0));
    assert_eq!(odd.load(0x1000), None);
    assert_eq!(odd.load(0x1010), None);
}

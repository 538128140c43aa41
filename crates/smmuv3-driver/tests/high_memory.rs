//! Memory above 2^36: no address of a table or queue loses a bit on its way to the SMMU.
#![allow(missing_docs)]

mod common;

use common::Fake;
use portcullis_addr::PhysAddr;
use portcullis_memory::Arena;
use smmuv3_driver::{Config, Granule, Registers, Smmu, Stage1, Stage2};
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};

const BASE: u64 = 0xa5_8000_0000;
/// Bits 51:6 of an address.
const ADDRESS: u64 = 0x000f_ffff_ffff_ffc0;

const STAGE2: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0xb_7a5a_6000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 4,
};

fn fake() -> Fake {
    let mut fake = Fake::new();
    fake.arena = Arena::new(PhysAddr::new(BASE), 4 << 20);
    fake
}

/// IHI 0070, 6.3.24 (`STRTAB_BASE`), 6.3.26 (`CMDQ_BASE`), 6.3.29 (`EVENTQ_BASE`): bits 51:5
/// or 51:6 are the address.
#[test]
fn tables_and_queues_are_where_the_registers_say() {
    let fake = fake();
    let smmu = Smmu::new(&fake, &fake, &fake, Config::default()).unwrap();
    let mut seen = Vec::new();
    for register in [reg::STRTAB_BASE, reg::CMDQ_BASE, reg::EVENTQ_BASE] {
        let at = smmu.registers().read64(register) & ADDRESS;
        assert!((BASE..BASE + (4 << 20)).contains(&at), "{at:#x}");
        assert!(!seen.contains(&at));
        seen.push(at);
    }
    // The queue that the registers name is the one that the driver fills.
    let command = fake.take_consumed();
    assert!(!command.is_empty());
}

/// 5.2: S2TTB is bits 247:196 of an STE (word 3, 51:4), S1ContextPtr bits 55:6.
#[test]
fn an_entry_has_every_bit_of_a_root() {
    let fake = fake();
    let mut smmu = Smmu::new(&fake, &fake, &fake, Config::default()).unwrap();
    let (plain, other) = (StreamId(3), StreamId(67));
    smmu.attach(plain, &STAGE2).unwrap();
    assert_eq!(fake.entry(plain).0[3], 0xb_7a5a_6000);
    assert_eq!(smmu.attached(plain), Some((Vmid(1), STAGE2.root)));
    let context = 0x9_8765_4000;
    let stage1 = Stage1::from_untrusted(&Ste::default().with_s1contextptr(context));
    smmu.attach_nested(other, &stage1, &STAGE2).unwrap();
    assert_eq!(fake.entry(other).0[0] & 0x00ff_ffff_ffff_ffc0, context);
    assert_eq!(fake.entry(other).0[3], 0xb_7a5a_6000);
}

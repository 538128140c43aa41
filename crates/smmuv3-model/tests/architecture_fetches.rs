//! What a walk reads, beside what its trace prints.
#![allow(missing_docs)]

use smmuv3_model::{Access, Fetched, Leaf, Mode, Profile, Smmu, Transaction};
use smmuv3_spec::{Asid, StreamId, Vmid, reg};

/// The nested walk of the README, with its access flag set.
fn nested() -> Smmu {
    let memory = std::iter::once(0x8000_0000..0x8100_0000);
    let mut smmu = Smmu::new(Profile::full(), memory, Mode::Plain, []);
    let mut put = |at: u64, value: u64| assert!(smmu.ram_mut().settle(at, value));
    put(0x8000_00c0, 1 | 0b111 << 1 | 0x4003_0000);
    put(
        0x8000_00d0,
        7 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58,
    );
    put(0x8000_00d8, 0x8001_0000);
    put(
        0x8001_0008,
        0x8000_0000 | 1 << 10 | 0b11 << 6 | 0b1111 << 2 | 0b01,
    );
    put(
        0x8003_0000,
        34 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 3 << 45 | 9 << 48,
    );
    put(0x8003_0008, 0x4004_0000);
    put(0x8004_0000, 0x4004_1000 | 0b11);
    put(0x8004_1010, 0x4080_0000 | 1 << 10 | 0b01 << 6 | 0b11);
    smmu.write64(reg::STRTAB_BASE, 0x8000_0000);
    smmu.write32(reg::STRTAB_BASE_CFG, 8);
    smmu.write32(reg::CR0, 1);
    smmu
}

#[test]
fn every_read_of_the_trace_is_there_in_its_order() {
    let smmu = nested();
    for (address, access) in [
        (0x2008, Access::Read),
        (0x3008, Access::Read),
        (1 << 40, Access::Write),
    ] {
        let access = Transaction::new(StreamId(3), address, access);
        let (trace, fetches) = (smmu.trace(access), smmu.fetches(access));
        let steps = trace.steps.iter().filter(|step| !step.raw.is_empty());
        let steps: Vec<_> = steps.map(|step| step.address).collect();
        let reads: Vec<_> = fetches.list.iter().map(|fetch| Some(fetch.at)).collect();
        assert_eq!(reads, steps, "{address:#x}");
        let passes = trace.outcome.starts_with("output");
        assert_eq!(fetches.output.is_some(), passes, "{address:#x}");
    }
}

#[test]
fn each_says_what_it_is_about() {
    let access = Transaction::new(StreamId(3), 0x2008, Access::Read);
    let fetches = nested().fetches(access);
    assert_eq!(
        (fetches.vmid, fetches.asid, fetches.output),
        (Some(Vmid(7)), Some(Asid(9)), Some(0x8080_0008))
    );
    let what: Vec<_> = fetches
        .list
        .iter()
        .map(|fetch| (fetch.of, fetch.input, fetch.shift, fetch.inner))
        .collect();
    assert_eq!(
        what,
        [
            (Fetched::Ste, 0, 0, false),
            (Fetched::Stage2(1), 0x4003_0000, 30, true),
            (Fetched::Cd, 0, 0, false),
            (Fetched::Stage2(1), 0x4004_0000, 30, true),
            (Fetched::Stage1(2), 0x2008, 21, false),
            (Fetched::Stage2(1), 0x4004_1010, 30, true),
            (Fetched::Stage1(3), 0x2008, 12, false),
            (Fetched::Stage2(1), 0x4080_0008, 30, false),
        ]
    );
    let leaf = |at: usize| fetches.list[at].leaf;
    assert_eq!(leaf(4), None);
    let page = Leaf {
        output: 0x4080_0000,
        size: 0x1000,
        group: 1,
    };
    assert_eq!(leaf(6), Some(page));
    let block = Leaf {
        output: 0x8000_0000,
        size: 1 << 30,
        group: 1,
    };
    assert_eq!(leaf(7), Some(block));
}

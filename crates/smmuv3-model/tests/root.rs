//! Where the root of stage 2 begins (IHI 0070, 5.2, STE.S2TTB): bits below the
//! alignment of the table are taken as zero, and no others.

use smmuv3_model::{Access, Mode, Profile, Smmu, Transaction};
use smmuv3_spec::{StreamId, reg};

const TABLE: u64 = 0x4000_0000;
const ROOT: u64 = 0x4001_0000;

/// What a device reads at 0 through a stage 2 with pages of 16 KiB, 27 bits of
/// input and so 4 entries, 32 bytes, at level 2, and this S2TTB. Each entry of
/// the page of the root maps 32 MiB to another address.
fn root_entry(s2ttb: u64) -> u64 {
    let banks = std::iter::once(TABLE..TABLE + 0x4000_0000);
    let mut smmu = Smmu::new(Profile::qemu(), banks, Mode::Plain, []);
    // V, Config stage 2; S2T0SZ 37, S2SL0 1, S2TG 16 KiB, S2PS 44 bits,
    // S2AA64, S2R.
    let word2 = 37 << 32 | 1 << 38 | 0b10 << 46 | 4 << 48 | 1 << 51 | 1 << 58;
    let ste = [1 | 0b110 << 1, 0, word2, s2ttb, 0, 0, 0, 0];
    for (at, word) in (TABLE..).step_by(8).zip(ste) {
        smmu.ram_mut().settle(at, word);
    }
    for index in 0..16 {
        // A block: S2AP read, AF.
        let output = 0x5000_0000 + (index << 25);
        smmu.ram_mut()
            .settle(ROOT + index * 8, output | 0b01 | 0b01 << 6 | 1 << 10);
    }
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 0);
    smmu.write32(reg::CR0, 1);
    let access = Transaction::new(StreamId(0), 0, Access::Read);
    let output = smmu.translate(access).expect("a translation");
    (output - 0x5000_0000) >> 25
}

#[test]
fn a_root_is_aligned_to_its_size_alone() {
    assert_eq!(root_entry(ROOT), 0);
    assert_eq!(root_entry(ROOT + 0x10), 0, "16 bytes are below its 32");
    assert_eq!(root_entry(ROOT + 0x20), 4, "32 bytes are not");
    assert_eq!(root_entry(ROOT + 0x30), 4);
    assert_eq!(root_entry(ROOT + 0x40), 8);
}

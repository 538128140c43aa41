//! The profiles by their raw registers (IHI 0070, 6.3.1 to 6.3.8).
#![allow(missing_docs)]

use smmuv3_model::Profile;

#[test]
fn profiles_have_names() {
    let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name).collect();
    assert_eq!(names, ["qemu", "minimal", "mmu600", "mmu700", "full"]);
    for profile in Profile::ALL {
        assert_eq!(Profile::by_name(profile.name), Some(profile));
    }
    assert_eq!(Profile::by_name("mmu500"), None);
}

#[test]
fn what_they_offer() {
    let idr = |p: Profile| {
        [
            u32::from(p.idr0),
            p.idr1.into(),
            p.idr3.into(),
            p.idr5.into(),
        ]
    };
    // What QEMU 10 shows on `virt`.
    assert_eq!(
        idr(Profile::qemu()),
        [0x0d44_101b, 0x0273_0010, 0x1414, 0x74]
    );
    // S2P, TTF 0b10, TTENDIAN 0b10; 256 streams and commands, 128 events; 40
    // bits of 4 KiB.
    assert_eq!(idr(Profile::minimal()), [0x0040_0009, 0x0107_0008, 0, 0x12]);
    // S1P in the place of S2P.
    assert_eq!(idr(Profile::stage1()), [0x0040_000a, 0x0107_0008, 0, 0x12]);
    // S1P, S2P, TTF 0b10, COHACC, HTTU 2, HYP, ATS, ASID16, MSI, SEV, PRI,
    // VMID16, CD2L, TTENDIAN 0b10, STALL_MODEL 0, TERM_MODEL, ST_LEVEL 1.
    let arm = 0b0000_1100_0100_1101_0111_0110_1001_1011;
    let mmu600 = Profile::mmu600();
    assert_eq!(
        u32::from(mmu600.idr0),
        arm,
        "{:#034b}",
        u32::from(mmu600.idr0)
    );
    assert_eq!(u32::from(Profile::mmu700().idr0), arm);
    // ProductID 31:20, Variant 19:16, Implementer 11:0.
    assert_eq!(u32::from(mmu600.iidr), 0x4832_043b);
    assert_eq!(u32::from(Profile::mmu700().iidr), 0x4871_043b);
    // SMMUv3.1 and 3.2; RIL 10 and BBML 12:11 are the later one's.
    assert_eq!(
        (u32::from(mmu600.aidr), u32::from(Profile::mmu700().aidr)),
        (1, 2)
    );
    let later = u32::from(Profile::mmu700().idr3);
    assert_eq!((u32::from(mmu600.idr3) >> 10, later >> 10), (0, 0b101));
}

//! Descriptors and register fields against bit patterns written by hand from
//! DDI 0487. Nothing here is computed by the code under test.

use portcullis_addr::{Iova, Ipa, PhysAddr, Range, Va};
use portcullis_memory::{Arena, Memory};
use portcullis_pagetable::{
    Access, Bbm, El1Attributes, El2Attributes, Execute, Format, Geometry, GeometryError, Granule,
    MAIR, MemoryType, Stage1El1, Stage1El2, Stage2, Stage2Attributes, Table,
};

use Access::{ReadExecute, ReadOnly, ReadWrite};
use MemoryType::{Device, Normal, NormalNonCacheable};

/// Table D8-52, one privilege level: AP[1] (6) is RES1, AP[2] (7) read-only, SH
/// (9:8) 0b11, AF (10), XN (54), AttrIndx (4:2).
#[test]
fn el2_stage_1() {
    for (memory, access, raw) in [
        (Device, ReadWrite, 0x0040_0000_0000_0740),
        (Device, ReadOnly, 0x0040_0000_0000_07c0),
        (Normal, ReadWrite, 0x0040_0000_0000_0744),
        (Normal, ReadOnly, 0x0040_0000_0000_07c4),
        (Normal, ReadExecute, 0x0000_0000_0000_07c4),
        (NormalNonCacheable, ReadWrite, 0x0040_0000_0000_0748),
        (NormalNonCacheable, ReadExecute, 0x0000_0000_0000_07c8),
    ] {
        let attributes = El2Attributes { memory, access };
        assert_eq!(Stage1El2::encode(attributes), raw, "{attributes:?}");
        assert_eq!(Stage1El2::decode(raw), Ok(attributes));
    }
    // A device is never executable.
    let device = El2Attributes {
        memory: Device,
        access: ReadExecute,
    };
    assert_eq!(Stage1El2::encode(device), 0x0040_0000_0000_07c0);
    // Writable and executable, no access flag, other shareability, AttrIndx 3
    // and 5, AP[1] clear, NS: none of them is ever written.
    for raw in [
        0x0000_0000_0000_0744,
        0x0040_0000_0000_0344,
        0x0040_0000_0000_0644,
        0x0040_0000_0000_074c,
        0x0040_0000_0000_0754,
        0x0040_0000_0000_0704,
        0x0040_0000_0000_0764,
    ] {
        assert!(Stage1El2::decode(raw).is_err(), "{raw:#x}");
    }
}

/// Table D8-52, two privilege levels: AP[1] (6) unprivileged access, UXN (54),
/// PXN (53), nG (11).
#[test]
fn el1_stage_1() {
    for (memory, access, unprivileged, not_global, raw) in [
        (Normal, ReadWrite, false, false, 0x0060_0000_0000_0704),
        (Normal, ReadWrite, true, false, 0x0060_0000_0000_0744),
        (Normal, ReadWrite, true, true, 0x0060_0000_0000_0f44),
        (Normal, ReadOnly, true, true, 0x0060_0000_0000_0fc4),
        (Normal, ReadExecute, false, false, 0x0040_0000_0000_0784),
        (Normal, ReadExecute, true, false, 0x0020_0000_0000_07c4),
        (Device, ReadWrite, false, true, 0x0060_0000_0000_0f00),
        (
            NormalNonCacheable,
            ReadOnly,
            false,
            false,
            0x0060_0000_0000_0788,
        ),
    ] {
        let attributes = El1Attributes {
            memory,
            access,
            unprivileged,
            not_global,
        };
        assert_eq!(Stage1El1::encode(attributes), raw, "{attributes:?}");
        assert_eq!(Stage1El1::decode(raw), Ok(attributes));
    }
    // Writable with PXN or UXN clear; both clear.
    for raw in [
        0x0020_0000_0000_0744,
        0x0040_0000_0000_0704,
        0x0000_0000_0000_0784,
    ] {
        assert!(Stage1El1::decode(raw).is_err(), "{raw:#x}");
    }
}

/// Table D8-53: MemAttr (5:2) as in Table D8-96, S2AP (7:6) write and read, SH
/// (9:8), AF (10), XN[1:0] (54:53) as in Table D8-78.
#[test]
fn stage_2() {
    for (memory, read, write, execute, raw) in [
        (Device, true, true, Execute::Never, 0x0040_0000_0000_07c4),
        (Normal, true, true, Execute::Always, 0x0000_0000_0000_07fc),
        (Normal, true, false, Execute::Always, 0x0000_0000_0000_077c),
        (Normal, false, true, Execute::Never, 0x0040_0000_0000_07bc),
        (Normal, false, false, Execute::Never, 0x0040_0000_0000_073c),
        (
            Normal,
            true,
            true,
            Execute::PrivilegedOnly,
            0x0060_0000_0000_07fc,
        ),
        (
            Normal,
            true,
            true,
            Execute::UnprivilegedOnly,
            0x0020_0000_0000_07fc,
        ),
        (
            NormalNonCacheable,
            true,
            true,
            Execute::Always,
            0x0000_0000_0000_07d4,
        ),
    ] {
        let attributes = Stage2Attributes {
            memory,
            read,
            write,
            execute,
        };
        assert_eq!(Stage2::encode(attributes), raw, "{attributes:?}");
        assert_eq!(Stage2::decode(raw), Ok(attributes));
    }
    // MemAttr 0b1000 is reserved, 0b0000 (nGnRnE) is never written.
    for raw in [0x0000_0000_0000_07e0, 0x0000_0000_0000_07c0] {
        assert!(Stage2::decode(raw).is_err(), "{raw:#x}");
    }
}

/// `MAIR_EL2`: Attr0 in bits 7:0 is Device-nGnRE 0x04, Attr1 0xff, Attr2 0x44.
#[test]
fn mair() {
    assert_eq!(MAIR & 0xff, 0x04);
    assert_eq!(MAIR >> 8 & 0xff, 0xff);
    assert_eq!(MAIR >> 16, 0x44);
}

/// Whole descriptors, at every level, as a walker sees them: the type bits of
/// Table D8-48, the address of Tables D8-50 to D8-53, the hint in bit 52.
#[test]
fn descriptors_in_memory() {
    let arena = Arena::new(PhysAddr::new(0x10_0000), 0x10_0000);
    let geometry = Geometry::stage2(Granule::Size4K, 40, 44).unwrap();
    let mut table = Table::<Stage2, _>::new(geometry, Bbm::Level0, &arena).unwrap();
    let attributes = Stage2Attributes {
        memory: Normal,
        read: true,
        write: true,
        execute: Execute::Always,
    };
    let range = |at, size| Range::from_size(Ipa::new(at), size).unwrap();
    let pa = PhysAddr::new;
    table
        .map(
            range(0x40_0000_0000, 0x4000_0000),
            pa(0xc000_0000),
            attributes,
        )
        .unwrap();
    table
        .map(range(0x20_0000, 0x20_0000), pa(0x8_0020_0000), attributes)
        .unwrap();
    table
        .map(range(0x1000, 0x1000), pa(0xfff_ffff_f000), attributes)
        .unwrap();
    table
        .map(range(0x1_0000, 0x1_0000), pa(0x5_0000), attributes)
        .unwrap();
    let root = table.root().raw();
    let load = |at| arena.load(pa(at));
    // Block at level 1 of the concatenated root: entry 256.
    assert_eq!(load(root + 256 * 8), 0x0000_0000_c000_07fd);
    let level2 = load(root);
    assert_eq!(level2 & 0xfff0_0000_0000_0fff, 0x003);
    let level2 = level2 & 0xffff_f000;
    assert_eq!(load(level2 + 8), 0x0000_0008_0020_07fd);
    let level3 = load(level2) & 0xffff_f000;
    assert_eq!(load(level3 + 8), 0x0000_0fff_ffff_f7ff);
    assert_eq!(load(level3 + 16 * 8), 0x0010_0000_0005_07ff);
    assert_eq!(load(level3 + 31 * 8), 0x0010_0000_0005_f7ff);
    assert_eq!(load(level3 + 15 * 8), 0);
}

/// 64 KiB granule with 52 bits: OA[51:48] in bits 15:12 (Tables D8-50, D8-52).
#[test]
fn addresses_above_48_bits() {
    let arena = Arena::new(PhysAddr::new(0x000a_0000_0000_0000), 0x100_0000);
    let geometry = Geometry::stage1(Granule::Size64K, 48, 52).unwrap();
    let mut table = Table::<Stage1El2, _>::new(geometry, Bbm::Level0, &arena).unwrap();
    let attributes = El2Attributes {
        memory: Normal,
        access: ReadWrite,
    };
    let range = Range::from_size(Va::new(0x1_0000), 0x1_0000).unwrap();
    table
        .map(range, PhysAddr::new(0x000f_8765_4321_0000), attributes)
        .unwrap();
    assert_eq!(geometry.start_level(), 1);
    let level2 = arena.load(table.root());
    assert_eq!(level2 & 0xf003, 0xa003);
    let found = table.walk(Va::new(0x1_1234)).unwrap();
    assert_eq!(found.output, PhysAddr::new(0x000f_8765_4321_1234));
    let level2_at = PhysAddr::new(level2 & 0x0000_ffff_ffff_0000 | 0x000a_0000_0000_0000);
    let level3 = arena.load(level2_at);
    let level3_at = level3 & 0x0000_ffff_ffff_0000 | 0x000a_0000_0000_0000;
    assert_eq!(
        arena.load(PhysAddr::new(level3_at + 8)),
        0x0040_8765_4321_f747
    );
}

/// Fields of `VTCR_EL2`, `TCR_EL2` and their SMMU twins: T0SZ, SL0 (D24.2; 4 KiB:
/// 0b10 level 0, 0b01 level 1, 0b00 level 2; 16 and 64 KiB: 0b10 level 1, 0b01
/// level 2, 0b00 level 3), PS, TG0, and the concatenation of D8.2.2.
#[test]
fn register_fields() {
    // granule, ipa, pa, start, sl0, t0sz, ps, tables, root bytes
    let rows: [(Granule, u8, u8, [u64; 6], u64); 13] = [
        (Granule::Size4K, 48, 48, [0, 2, 16, 5, 1, 4096], 0),
        (Granule::Size4K, 44, 44, [0, 2, 20, 4, 1, 256], 0),
        (Granule::Size4K, 43, 44, [1, 1, 21, 4, 16, 65536], 0),
        (Granule::Size4K, 40, 40, [1, 1, 24, 2, 2, 8192], 0),
        (Granule::Size4K, 39, 40, [1, 1, 25, 2, 1, 4096], 0),
        (Granule::Size4K, 34, 36, [2, 0, 30, 1, 16, 65536], 0),
        (Granule::Size4K, 32, 32, [2, 0, 32, 0, 4, 16384], 0),
        (Granule::Size16K, 48, 48, [1, 2, 16, 5, 2, 32768], 2),
        (Granule::Size16K, 40, 40, [2, 1, 24, 2, 16, 262144], 2),
        (Granule::Size16K, 36, 36, [2, 1, 28, 1, 1, 16384], 2),
        (Granule::Size64K, 48, 48, [1, 2, 16, 5, 1, 512], 1),
        (Granule::Size64K, 46, 48, [2, 1, 18, 5, 16, 1 << 20], 1),
        (Granule::Size64K, 32, 32, [3, 0, 32, 0, 8, 524288], 1),
    ];
    for (granule, ipa, pa, [start, sl0, t0sz, ps, tables, bytes], tg0) in rows {
        let g = Geometry::stage2(granule, ipa, pa).unwrap();
        let found = [
            u64::from(g.start_level()),
            g.sl0(),
            g.t0sz(),
            g.ps(),
            g.root_tables(),
            g.root_bytes(),
        ];
        let want = [start, sl0, t0sz, ps, tables, bytes];
        assert_eq!(found, want, "{granule:?} {ipa}");
        assert_eq!(g.tg0(), tg0);
    }
    // Stage 1: Tables D8-17, D8-28, D8-37.
    for (granule, bits, start) in [
        (Granule::Size4K, 48, 0),
        (Granule::Size4K, 40, 0),
        (Granule::Size4K, 39, 1),
        (Granule::Size4K, 30, 2),
        (Granule::Size4K, 25, 2),
        (Granule::Size16K, 48, 0),
        (Granule::Size16K, 47, 1),
        (Granule::Size16K, 36, 2),
        (Granule::Size16K, 25, 3),
        (Granule::Size64K, 48, 1),
        (Granule::Size64K, 42, 2),
        (Granule::Size64K, 29, 3),
        (Granule::Size64K, 52, 1),
    ] {
        let g = Geometry::stage1(granule, bits, 48).unwrap();
        assert_eq!(g.start_level(), start, "{granule:?} {bits}");
        assert_eq!(g.root_tables(), 1);
    }
}

#[test]
fn impossible_shapes() {
    use GeometryError::{InputBits, InputExceedsOutput, OutputBits, StartLevel};
    assert_eq!(
        Geometry::stage2(Granule::Size4K, 49, 52),
        Err(InputBits { bits: 49 })
    );
    assert_eq!(
        Geometry::stage1(Granule::Size64K, 24, 48),
        Err(InputBits { bits: 24 })
    );
    assert_eq!(
        Geometry::stage1(Granule::Size4K, 48, 52),
        Err(OutputBits { bits: 52 })
    );
    assert_eq!(
        Geometry::stage2(Granule::Size4K, 40, 41),
        Err(OutputBits { bits: 41 })
    );
    assert_eq!(
        Geometry::stage2(Granule::Size4K, 44, 40),
        Err(InputExceedsOutput {
            input: 44,
            output: 40
        })
    );
    for (ipa, pa, level) in [(44, 44, 1), (40, 40, 0), (30, 32, 3), (30, 32, 1)] {
        assert_eq!(
            Geometry::stage2_from_level(Granule::Size4K, ipa, pa, level),
            Err(StartLevel { level }),
            "{ipa}"
        );
    }
}

/// The address types keep spaces apart; this is here so that a change of one is
/// seen.
#[test]
fn spaces() {
    fn takes<F: Format>(_: F::Input, _: F::Output) {}
    takes::<Stage1El2>(Va::new(0), PhysAddr::new(0));
    takes::<Stage1El1>(Iova::new(0), Ipa::new(0));
    takes::<Stage2>(Ipa::new(0), PhysAddr::new(0));
}

//! The tables that `portcullis-pagetable` writes, as the model reads them:
//! what one maps is what the other translates, for every granule.
#![allow(missing_docs)]

use portcullis_addr::{Ipa, PhysAddr, Range};
use portcullis_memory::{Arena, Memory};
use portcullis_pagetable::{
    Bbm, Execute, Geometry, Granule, MemoryType, Stage2, Stage2Attributes, Table,
};
use proptest::prelude::*;
use smmuv3_model::{Access, Mode, Profile, Smmu, Transaction};
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};
use smmuv3_spec::{StreamId, reg};

const ARENA: u64 = 0x8000_0000;
const ARENA_BYTES: u64 = 2 << 20;
const STREAMS: u64 = 0x9000_0000;

/// STE.S2TG.
fn tg(granule: Granule) -> u64 {
    match granule {
        Granule::Size4K => 0,
        Granule::Size64K => 1,
        Granule::Size16K => 2,
    }
}

#[derive(Clone, Debug)]
struct Piece {
    start: u64,
    pages: u64,
    output: u64,
    read: bool,
    write: bool,
    unmap: bool,
}

fn piece() -> impl Strategy<Value = Piece> {
    // Close together, so that pieces meet; long enough for blocks and groups.
    let pages = prop_oneof![1..4u64, 16..64u64, 500..3000u64];
    let flags = (any::<bool>(), any::<bool>(), 0..4u8);
    (0..8192u64, pages, 0..8192u64, flags).prop_map(|(start, pages, output, flags)| Piece {
        start,
        pages,
        output,
        read: flags.0,
        write: flags.1 || !flags.0,
        unmap: flags.2 == 0,
    })
}

fn granule() -> impl Strategy<Value = Granule> {
    prop_oneof![
        Just(Granule::Size4K),
        Just(Granule::Size16K),
        Just(Granule::Size64K),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn both_read_the_same(
        granule in granule(),
        input_bits in 32..=44u8,
        pieces in prop::collection::vec(piece(), 1..6),
        probes in prop::collection::vec(any::<u64>(), 64),
    ) {
        let Ok(geometry) = Geometry::stage2(granule, input_bits, 44) else {
            return Ok(());
        };
        let arena = Arena::new(PhysAddr::new(ARENA), ARENA_BYTES);
        let mut table = Table::<Stage2, _>::new(geometry, Bbm::Level0, &arena).unwrap();
        let page = granule.bytes();
        let mut points = probes;
        for piece in pieces {
            let range = Range::from_size(Ipa::new(piece.start * page), piece.pages * page).unwrap();
            let attributes = Stage2Attributes {
                memory: MemoryType::Normal,
                read: piece.read,
                write: piece.write,
                execute: Execute::Always,
            };
            if piece.unmap {
                if let Ok(plan) = table.unmap(range) {
                    table.complete(plan).unwrap();
                }
            } else {
                // Where something is mapped already, the table refuses.
                let _ = table.map(range, PhysAddr::new(piece.output * page), attributes);
            }
            let (start, end) = (range.start().raw(), range.end().raw());
            points.extend([start.wrapping_sub(1), start, end - 1, end, (start + end) / 2]);
        }

        let banks = [ARENA..ARENA + ARENA_BYTES, STREAMS..STREAMS + 0x1000];
        let mut profile = Profile::full();
        profile.idr5.set_oas(4);
        let mut smmu = Smmu::new(profile, banks, Mode::Plain, []);
        for at in (ARENA..ARENA + ARENA_BYTES).step_by(8) {
            let word = arena.load(PhysAddr::new(at));
            if word != 0 {
                smmu.ram_mut().settle(at, word);
            }
        }
        let word2 = geometry.t0sz() << 32 | geometry.sl0() << 38 | tg(granule) << 46
            | geometry.ps() << 48 | 1 << 51 | 1 << 58;
        for (at, word) in [(0, 0xd), (16, word2), (24, table.root().raw())] {
            smmu.ram_mut().settle(STREAMS + at, word);
        }
        smmu.write64(reg::STRTAB_BASE, StrtabBase::new().with_addr_6(STREAMS >> 6).into());
        smmu.write32(reg::STRTAB_BASE_CFG, StrtabBaseCfg::new().into());
        smmu.write32(reg::CR0, 1);

        for point in points {
            // Anywhere in the input range and a little beyond.
            let address = if point >> 36 == 0 { point } else { point >> (63 - input_bits) };
            let mapping = table.walk(Ipa::new(address)).ok();
            for access in [Access::Read, Access::Write] {
                let expected = mapping
                    .filter(|m| match access {
                        Access::Write => m.attributes.write,
                        _ => m.attributes.read,
                    })
                    .map(|m| m.output.raw());
                let found = smmu.translate(Transaction::new(StreamId(0), address, access));
                prop_assert_eq!(found.ok(), expected, "{:#x} {:?}", address, access);
            }
        }
    }
}

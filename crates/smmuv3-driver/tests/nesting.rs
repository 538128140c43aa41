//! A stage 1 of somebody else on top of our stage 2.

mod common;

use common::Fake;
use portcullis_addr::PhysAddr;
use smmuv3_driver::{Config, Error, Granule, Smmu, Stage1, Stage1Error, Stage2};
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const STREAM: StreamId = StreamId(0x18);

const HOST: Stage2 = Stage2 {
    vmid: Vmid(1),
    root: PhysAddr::new(0x8010_0000),
    t0sz: 24,
    sl0: 1,
    granule: Granule::Size4K,
    ps: 2,
};

/// SSIDSIZE 16, no ATTR_TYPES_OVR; CD2L, stall model 0.
fn able() -> Fake {
    Fake::with(|state| {
        let idr0 = state.idr0().with_cd2l(true).with_stall_model(0);
        state.set(reg::IDR0, u32::from(idr0));
        state.set(reg::IDR1, 0x0273_0410_u32);
    })
}

fn driver(fake: &Fake) -> Driver<'_> {
    Smmu::new(fake, fake, fake, Config::default()).unwrap()
}

/// An STE with every bit set that an untrusted party could set, but legal in
/// what is taken: S1Fmt 0b01 (5:4), S1ContextPtr of 44 bits (55:6), S1CDMax 5
/// (63:59), S1DSS 0b10 (65:64).
const GREEDY: Ste = Ste([
    0x2f00_0fff_ffff_ffdf,
    0xffff_ffff_ffff_fffe,
    u64::MAX,
    u64::MAX,
    u64::MAX,
    u64::MAX,
    u64::MAX,
    u64::MAX,
]);

/// 5.2: of word 0, Config becomes 0b111 and V 1; of word 1, S1DSS, S1CIR,
/// S1COR and S1CSH (71:64) pass, MEV (83) and S1STALLD (91) are set, EATS
/// (93:92) and everything else is not. Words 2 and 3 are ours.
#[test]
fn only_what_is_listed_passes() {
    let fake = able();
    let mut smmu = driver(&fake);
    smmu.attach(StreamId(0), &HOST).unwrap();
    let own = fake.entry(StreamId(0));
    smmu.attach_nested(STREAM, &Stage1::from_untrusted(&GREEDY), &HOST)
        .unwrap();
    let entry = fake.entry(STREAM);
    assert_eq!(entry.0[0], 0x2800_0fff_ffff_ffdf);
    assert_eq!(entry.0[1], 0xfe | 1 << 19 | 1 << 27);
    assert_eq!(entry.0[2..], own.0[2..]);
    assert_eq!(smmu.attached(STREAM), Some((HOST.vmid, HOST.root)));
    // Without substreams, the format and the default have no meaning.
    let one = Ste([GREEDY.0[0] & !(0x1f << 59), u64::MAX, 0, 0, 0, 0, 0, 0]);
    smmu.attach_nested(STREAM, &Stage1::from_untrusted(&one), &HOST)
        .unwrap();
    assert_eq!(fake.entry(STREAM).0[0], 0x0000_0fff_ffff_ffcf);
    assert_eq!(fake.entry(STREAM).0[1] & 0xff, 0xfc);
}

/// 5.5: `S1STALLD` is illegal unless the SMMU can both stall and terminate.
#[test]
fn stage_1_stalls_only_if_allowed() {
    for (model, allowed, disabled) in [
        (0, false, true),
        (0, true, false),
        (1, false, false),
        (2, false, false),
    ] {
        let fake = Fake::with(|state| {
            let idr0 = state.idr0().with_stall_model(model);
            state.set(reg::IDR0, u32::from(idr0));
        });
        let mut smmu = driver(&fake);
        let stage1 = Stage1::from_untrusted(&Ste::default());
        let stage1 = if allowed {
            stage1.with_stalls()
        } else {
            stage1
        };
        smmu.attach_nested(STREAM, &stage1, &HOST).unwrap();
        assert_eq!(fake.entry(STREAM).0[1] >> 27 & 1 != 0, disabled);
    }
}

#[test]
fn what_would_be_illegal_is_refused() {
    let refuse = |fake: &Fake, word0: u64, word1: u64| {
        let mut smmu = driver(fake);
        let stage1 = Stage1::from_untrusted(&Ste([word0, word1, 0, 0, 0, 0, 0, 0]));
        let result = smmu.attach_nested(STREAM, &stage1, &HOST);
        assert_eq!(smmu.attached(STREAM), None);
        match result {
            Err(Error::Stage1(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let substreams = |log2: u64| log2 << 59;
    assert_eq!(
        refuse(&able(), substreams(17), 0),
        Stage1Error::Substreams { log2: 17, most: 16 }
    );
    assert_eq!(
        refuse(&able(), substreams(2) | 3 << 4, 0),
        Stage1Error::Format { format: 3 }
    );
    assert_eq!(refuse(&able(), substreams(2), 3), Stage1Error::Default);
    // OAS of 44 bits, and no VMSAv8-32 that would make it 40 at least.
    let pointer = 1 << 44;
    assert_eq!(
        refuse(&able(), pointer, 0),
        Stage1Error::Pointer { pointer, bits: 44 }
    );
    // S1P, no CD2L.
    let linear = Fake::with(|state| {
        state.set(reg::IDR0, 0x0d44_101b_u32);
        state.set(reg::IDR1, 0x0273_0410_u32);
    });
    assert_eq!(
        refuse(&linear, substreams(2) | 1 << 4, 0),
        Stage1Error::Format { format: 1 }
    );
    let flat = Fake::with(|state| state.set(reg::IDR0, 0x0d44_1019_u32));
    assert_eq!(refuse(&flat, 0, 0), Stage1Error::NoNesting);
}

/// Old, new or abort at every store, as for a stage 2 alone.
#[test]
fn every_store_leaves_old_new_or_abort() {
    let stage1 = |at: u64| Stage1::from_untrusted(&Ste::default().with_s1contextptr(at));
    let entry = |at: Option<u64>| {
        let fake = able();
        let mut smmu = driver(&fake);
        match at {
            Some(at) => smmu.attach_nested(STREAM, &stage1(at), &HOST).unwrap(),
            None => smmu.attach(STREAM, &HOST).unwrap(),
        }
        fake.entry(STREAM)
    };
    let cases = [None, Some(0x4000), Some(0x8000)];
    for old in cases {
        for new in cases {
            let fake = able();
            let mut smmu = driver(&fake);
            let mut put = |at| match at {
                Some(at) => smmu.attach_nested(STREAM, &stage1(at), &HOST).unwrap(),
                None => smmu.attach(STREAM, &HOST).unwrap(),
            };
            put(old);
            fake.watch(STREAM, &[entry(old), entry(new)]);
            put(new);
            assert_eq!(fake.entry(STREAM), entry(new));
        }
    }
}

/// 5.2: EATS (93:92) is 0b10, and only where it is not ILLEGAL: ATS, split
/// stages, and no stalls at stage 2. CR0.ATSCHK is on, without which it would
/// say something else.
#[test]
fn split_ats_where_the_smmu_has_it() {
    for (ats, ns1ats, model, possible) in [
        (true, false, 0, true),
        (true, false, 1, true),
        (true, false, 2, false),
        (true, true, 0, false),
        (false, false, 0, false),
    ] {
        let fake = Fake::with(|state| {
            let idr0 = state.idr0().with_ats(ats).with_ns1ats(ns1ats);
            state.set(reg::IDR0, u32::from(idr0.with_stall_model(model)));
        });
        let mut smmu = driver(&fake);
        assert_eq!(smmu.features().split_ats(), possible);
        let stage1 = Stage1::from_untrusted(&GREEDY_BUT_SMALL).with_split_ats();
        let result = smmu.attach_nested(STREAM, &stage1, &HOST);
        if possible {
            assert_eq!(result, Ok(()));
            assert_eq!(fake.entry(STREAM).0[1] >> 28 & 3, 0b10);
            assert!(fake.state.borrow().ack().atschk());
        } else {
            assert_eq!(result, Err(Error::Stage1(Stage1Error::NoSplitAts)));
            assert_eq!(smmu.attached(STREAM), None);
        }
        // Not because the entry asks for it.
        let stage1 = Stage1::from_untrusted(&GREEDY_BUT_SMALL);
        smmu.attach_nested(STREAM, &stage1, &HOST).unwrap();
        assert_eq!(fake.entry(STREAM).0[1] >> 28 & 3, 0);
    }
}

/// As [`GREEDY`], without substreams.
const GREEDY_BUT_SMALL: Ste = Ste([0x0000_0fff_ffff_ffdf, u64::MAX, 0, 0, 0, 0, 0, 0]);

//! A stage 1 of ours on an SMMU without stage 2: what is refused, what is stored
//! and in which order, and the commands word by word.
#![allow(missing_docs)]

mod common;

use common::{Fake, Op, RAM};
use portcullis_addr::{Iova, PhysAddr, Range};
use portcullis_memory::Memory;
use smmuv3_driver::{
    Attributes, Config, Error, Features, Granule, OwnStage1, OwnStage1Error, ProbeError, Smmu,
    Stage2, Stage2Error, Translation,
};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::{Asid, StreamId, Vmid, reg};

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

const STREAM: StreamId = StreamId(0x18);

/// In memory where no table is.
const CONTEXT: u64 = RAM + 0x3f_0040;

const OWN: OwnStage1 = OwnStage1 {
    asid: Asid(0x1234),
    root: PhysAddr::new(0x80_1234_5200),
    // 36 bits: a root of 64 entries.
    t0sz: 28,
    granule: Granule::Size4K,
    ips: 4,
    mair: 0x0102_0304_0506_0708,
    context: PhysAddr::new(CONTEXT),
};

/// As QEMU's, without S2P (bit 0) and RIL (bit 10 of IDR3) if `ranges` is not.
fn alone(ranges: bool) -> Fake {
    Fake::with(|state| {
        state.set(reg::IDR0, 0x0d44_101a_u32);
        state.set(reg::IDR3, if ranges { 0x1414_u32 } else { 0x1014 });
    })
}

fn driver(fake: &Fake) -> Driver<'_> {
    Smmu::new(fake, fake, fake, Config::default()).unwrap()
}

fn set(smmu: &mut Driver<'_>, stream: StreamId, stage1: OwnStage1) -> Result<(), Error> {
    let attributes = Attributes::INCOMING;
    smmu.set(stream, &Translation::Stage1 { stage1, attributes })
}

fn words(fake: &Fake, at: u64) -> [u64; 8] {
    std::array::from_fn(|word| fake.arena.load(PhysAddr::new(at + word as u64 * 8)))
}

#[test]
fn each_mode_asks_for_its_stage() {
    let features = Features::probe(&alone(true)).unwrap();
    assert_eq!(features.require_stage1(44), Ok(()));
    assert_eq!(features.require_stage2(44), Err(ProbeError::NoStage2));
    let small = ProbeError::OutputSizeTooSmall { have: 44, need: 48 };
    assert_eq!(features.require_stage1(48), Err(small));
    let stage2 = Fake::with(|state| state.set(reg::IDR0, 0x0d44_1019_u32));
    let features = Features::probe(&stage2).unwrap();
    assert_eq!(features.require_stage1(44), Err(ProbeError::NoStage1));
    assert_eq!(features.require_stage2(44), Ok(()));
}

#[test]
fn the_descriptor_is_there_before_anything_points_to_it() {
    let fake = alone(true);
    let mut smmu = driver(&fake);
    assert_eq!(smmu.attached_stage1(STREAM), None);
    set(&mut smmu, STREAM, OWN).unwrap();
    // Bits as in 5.4. This SMMU never stalls.
    let first = 28 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 30 | 1 << 31 | 4 << 32 | 1 << 41;
    assert_eq!(
        words(&fake, CONTEXT),
        [
            first | 0b111 << 45 | 0x1234 << 48,
            0x80_1234_5200,
            0,
            0x0102_0304_0506_0708,
            0,
            0,
            0,
            0
        ]
    );
    // V, Config 0b101; S1CIR, S1COR, S1CSH, MEV.
    let entry = fake.entry(STREAM);
    assert_eq!(entry.0[0], 0b1011 | CONTEXT);
    assert_eq!(entry.0[1], 1 << 2 | 1 << 4 | 3 << 6 | 1 << 19);
    assert_eq!(entry.0[2..], [0; 6]);
    let at = smmu.attached_stage1(STREAM);
    assert_eq!(at, Some((Asid(0x1234), PhysAddr::new(CONTEXT))));

    let log = fake.log();
    let stores = |at: u64| move |op: &Op| matches!(op, Op::Store(to, _) if *to & !63 == at);
    let last = log.iter().rposition(stores(CONTEXT)).unwrap();
    let entry_at = fake.entry_address(STREAM).unwrap();
    let valid = Op::Store(entry_at, entry.0[0]);
    let linked = log.iter().rposition(|op| *op == valid).unwrap();
    assert!(last < linked);
    // Before the entry counts, nothing is cached of other address spaces, and
    // the commands for both stages are not there to be used.
    let commands = |range: std::ops::Range<usize>| {
        log[range]
            .iter()
            .filter_map(|op| match op {
                Op::Command(command) => Some(*command),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert!(commands(last..linked).contains(&Command::tlbi_nh_all(Vmid(0))));
    let cfgi = Command::cfgi_ste(STREAM, true);
    assert_eq!(commands(linked..log.len())[0], cfgi);
}

#[test]
fn a_descriptor_that_is_there_is_shared_and_never_changed() {
    let fake = alone(true);
    let mut smmu = driver(&fake);
    set(&mut smmu, STREAM, OWN).unwrap();
    let before = words(&fake, CONTEXT);
    let stores = || {
        let log = fake.log();
        let to_context = |op: &&Op| matches!(op, Op::Store(at, _) if *at & !63 == CONTEXT);
        log.iter().filter(to_context).count()
    };
    assert_eq!(stores(), 8);
    set(&mut smmu, StreamId(0x19), OWN).unwrap();
    let other = OwnStage1 {
        asid: Asid(2),
        ..OWN
    };
    let context = OWN.context;
    assert_eq!(
        set(&mut smmu, StreamId(0x20), other),
        Err(Error::OwnStage1(OwnStage1Error::ContextTaken { context }))
    );
    assert_eq!((stores(), words(&fake, CONTEXT)), (8, before));
    assert_eq!(smmu.attached_stage1(StreamId(0x20)), None);
    assert!(smmu.attached_stage1(StreamId(0x19)).is_some());
}

#[test]
fn what_would_be_illegal_is_refused() {
    let fake = Fake::with(|state| {
        // ASID16 is bit 12; 44 bits, 4 and 64 KiB; no small tables.
        state.set(reg::IDR0, 0x0d44_001a_u32);
        state.set(reg::IDR5, 0x54_u32);
    });
    let mut smmu = driver(&fake);
    let good = OwnStage1 {
        asid: Asid(0xff),
        ..OWN
    };
    let size = |t0sz| OwnStage1Error::InputSize {
        t0sz,
        least: 16,
        most: 39,
    };
    let (asid, bits) = (Asid(0x100), 8);
    let root = PhysAddr::new(0x80_1234_5300);
    let far = PhysAddr::new(1 << 44);
    let context = PhysAddr::new(CONTEXT + 32);
    let beside = |change: fn(&mut OwnStage1)| {
        let mut stage1 = good;
        change(&mut stage1);
        stage1
    };
    for (bad, error) in [
        (
            beside(|s| s.granule = Granule::Size16K),
            OwnStage1Error::Granule,
        ),
        (
            beside(|s| s.asid.0 += 1),
            OwnStage1Error::Asid { asid, bits },
        ),
        (beside(|s| s.t0sz = 15), size(15)),
        (beside(|s| s.t0sz = 40), size(40)),
        (beside(|s| s.ips = 5), OwnStage1Error::OutputSize { ips: 5 }),
        (beside(|s| s.ips = 7), OwnStage1Error::OutputSize { ips: 7 }),
        (OwnStage1 { root, ..good }, OwnStage1Error::Root { root }),
        (
            OwnStage1 { root: far, ..good },
            OwnStage1Error::Root { root: far },
        ),
        (
            OwnStage1 { context, ..good },
            OwnStage1Error::Context { context },
        ),
        (
            OwnStage1 {
                context: far,
                ..good
            },
            OwnStage1Error::Context { context: far },
        ),
    ] {
        let result = set(&mut smmu, STREAM, bad);
        assert_eq!(result, Err(Error::OwnStage1(error)));
        assert_eq!(words(&fake, CONTEXT), [0; 8], "{error}");
    }
    let stage2 = Stage2 {
        vmid: Vmid(1),
        root: PhysAddr::new(0x8010_0000),
        t0sz: 24,
        sl0: 1,
        granule: Granule::Size4K,
        ps: 2,
    };
    let result = smmu.attach(STREAM, &stage2);
    assert_eq!(result, Err(Error::Stage2(Stage2Error::NoStage2)));
    assert_eq!(smmu.attached(STREAM), None);
    set(&mut smmu, STREAM, good).unwrap();

    let stage2 = Fake::with(|state| state.set(reg::IDR0, 0x0d44_1019_u32));
    let result = set(&mut driver(&stage2), STREAM, OWN);
    let no_stage1 = Error::OwnStage1(OwnStage1Error::NoStage1);
    assert_eq!(result, Err(no_stage1));
}

/// Alignment of the root by input size (DDI 0487, Table D8-21 and those after
/// it): what is left over after whole tables from the page up.
#[test]
fn a_root_is_aligned_to_what_it_has() {
    let fake = alone(true);
    let mut smmu = driver(&fake);
    let mut context = CONTEXT;
    for (granule, input, bytes) in [
        (Granule::Size4K, 25, 128),
        (Granule::Size4K, 30, 4096),
        (Granule::Size4K, 31, 64),
        (Granule::Size4K, 39, 4096),
        (Granule::Size4K, 48, 4096),
        (Granule::Size64K, 29, 65536),
        (Granule::Size64K, 42, 65536),
        (Granule::Size64K, 48, 512),
    ] {
        for (below, good) in [(bytes, true), (bytes / 2, bytes == 64)] {
            // At 32 bytes, the field has them, and the table is 64 bytes all
            // the same.
            let root = PhysAddr::new((1 << 40) + below.max(64));
            let stage1 = OwnStage1 {
                root,
                t0sz: 64 - input,
                granule,
                context: PhysAddr::new(context),
                ..OWN
            };
            let result = set(&mut smmu, STREAM, stage1);
            let refused = Err(Error::OwnStage1(OwnStage1Error::Root { root }));
            assert_eq!(result, if good { Ok(()) } else { refused }, "{input}");
            context += 64;
        }
    }
}

fn issue(smmu: &mut Driver<'_>, fake: &Fake, pages: u64, level: Option<u8>) -> Vec<[u64; 2]> {
    fake.take_consumed();
    let range = Range::from_size(Iova::new(0x4000_0000), pages << 12).unwrap();
    smmu.issue_va_range(Asid(0x1234), range, Granule::Size4K, level, true)
        .unwrap();
    smmu.finish().unwrap();
    let mut commands = fake.take_consumed();
    assert_eq!(commands.pop().unwrap().opcode(), Opcode::SYNC);
    commands.iter().map(|command| command.0).collect()
}

/// CMD_TLBI_NH_VA is 0x12: ASID 63:48, VMID 47:32 of 0, SCALE 25:20, NUM 16:12;
/// the address, TG 11:10, TTL 9:8, Leaf 0 of the second word.
#[test]
fn raw_words_of_invalidations() {
    let fake = alone(true);
    let mut smmu = driver(&fake);
    let asid = 0x1234 << 48;
    let (tg, leaf) = (1 << 10, 1);
    let mut words = |pages, level| issue(&mut smmu, &fake, pages, level);
    assert_eq!(
        words(1, Some(3)),
        [[asid | 0x12, 0x4000_0000 | tg | 3 << 8 | leaf]]
    );
    assert_eq!(words(1, None), [[asid | 0x12, 0x4000_0000 | leaf]]);
    assert_eq!(
        words(512, Some(2)),
        [[asid | 9 << 20 | 0x12, 0x4000_0000 | tg | 2 << 8 | leaf]]
    );
    // 33 pages are 1 and 32.
    assert_eq!(
        words(33, Some(3)),
        [
            [asid | 0x12, 0x4000_0000 | tg | 3 << 8 | leaf],
            [asid | 5 << 20 | 0x12, 0x4000_1000 | tg | 3 << 8 | leaf],
        ]
    );
    smmu.tlbi_asid(Asid(0x1234)).unwrap();
    let commands = fake.take_consumed();
    assert_eq!(commands[0].0, [asid | 0x11, 0]);
    assert_eq!(commands[1].opcode(), Opcode::SYNC);
}

#[test]
fn without_ranges_each_page_or_the_whole_asid() {
    let fake = alone(false);
    let mut smmu = driver(&fake);
    let asid = 0x1234 << 48;
    let pages = issue(&mut smmu, &fake, 3, Some(3));
    let page = |n: u64| [asid | 0x12, (0x4000_0000 + (n << 12)) | 1];
    assert_eq!(pages, [page(0), page(1), page(2)]);
    // One address drops a whole block.
    assert_eq!(issue(&mut smmu, &fake, 512, Some(2)), [page(0)]);
    assert_eq!(issue(&mut smmu, &fake, 64, None).len(), 64);
    assert_eq!(issue(&mut smmu, &fake, 65, None), [[asid | 0x11, 0]]);
}

#[test]
fn a_refused_invalidation_is_told() {
    let fake = alone(true);
    let mut smmu = driver(&fake);
    fake.faults(|faults| faults.refuse = vec![(Opcode::TLBI_NH_VA, 1)]);
    let range = Range::from_size(Iova::new(0x1000), 0x1000).unwrap();
    let odd = Range::from_size(Iova::new(0x1000), 0x800).unwrap();
    let mut issue = |range| smmu.issue_va_range(Asid(1), range, Granule::Size4K, None, true);
    assert_eq!(issue(odd), Err(Error::BadRange));
    issue(range).unwrap();
    assert!(matches!(smmu.finish(), Err(Error::Command { .. })));
    smmu.fence().unwrap();
    let result = smmu.issue_va_range(Asid(1), range, Granule::Size4K, None, true);
    assert_eq!(result, Err(Error::Fenced));
    assert_eq!(smmu.tlbi_asid(Asid(1)), Err(Error::Fenced));
}

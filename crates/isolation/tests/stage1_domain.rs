//! Domains in stage 1 format on SMMUs that do the worst: what devices reach, what
//! the entries and descriptors say bit by bit, and whose memory comes back when.
#![allow(missing_docs)]

mod model;

use model::{All, DATA, Machine, PAGE, STREAMS};
use portcullis_addr::{Iova, Ipa, PhysAddr, Range};
use portcullis_dma_domain::{
    Access, AttachError, DmaDomain, DmaUnit, Endpoint, FlushError, MapError,
};
use portcullis_isolation::{CommonStage, EndpointRange, SmmuUnitConfig, Stage1Domain, Stage1Unit};
use portcullis_memory::Memory;
use portcullis_pagetable::{Bbm, Geometry, Granule};
use smmuv3_model::{Access as Dma, Fault, Profile, Refusal as Refused, Transaction, Violation};
use smmuv3_spec::command::{CommandError, Opcode};
use smmuv3_spec::event::EventKind;
use smmuv3_spec::{StreamId, Vmid};

type Unit<'d, 'm> = Stage1Unit<'d, &'m Machine, All<'d, 'm>>;
type Domain<'d, 'm> = Stage1Domain<&'m Machine, All<'d, 'm>>;

const ONE: Endpoint = Endpoint(0);
const TWO: Endpoint = Endpoint(1);
const A: StreamId = STREAMS[0];
const B: StreamId = STREAMS[1];

const READ: Access = Access::READ;
const RW: Access = Access::READ.union(Access::WRITE);

/// Where most of it happens.
const AT: u64 = 0x1_2345_6000;

const CONFIG: SmmuUnitConfig = SmmuUnitConfig {
    geometry: match Geometry::stage1(Granule::Size4K, 36, 40) {
        Ok(geometry) => geometry,
        Err(_) => panic!("36 and 40 bits are possible"),
    },
    bbm: Bbm::Level0,
    first_vmid: Vmid(5),
    slots: 4,
};

/// Both streams of the first SMMU.
const ENDPOINTS: [EndpointRange; 2] = [on(0, ONE, A), on(0, TWO, B)];

const fn on(smmu: usize, first: Endpoint, stream: StreamId) -> EndpointRange {
    EndpointRange {
        first,
        count: 1,
        smmu,
        stream,
    }
}

/// With everything but a stage 2: coherent, ranges, two levels, 16-bit ASIDs.
fn large() -> Profile {
    let full = Profile::full();
    Profile {
        name: "large",
        idr0: full.idr0.with_s2p(false),
        ..full
    }
}

/// A machine on which something is done, after which nothing was found wrong.
#[track_caller]
fn with(profile: Profile, test: impl FnOnce(&Machine, &mut Unit<'_, '_>)) {
    let machine = Machine::new(&[profile]);
    let drivers = machine.drivers();
    let all = All(&drivers);
    assert_eq!(
        CommonStage::choose(&ENDPOINTS, &all),
        Ok(CommonStage::Stage1)
    );
    let mut unit = Stage1Unit::new(CONFIG, &ENDPOINTS, &machine, all).unwrap();
    test(&machine, &mut unit);
    machine.assert_clean();
}

fn both(test: impl Fn(&Machine, &mut Unit<'_, '_>)) {
    for profile in [Profile::stage1(), large()] {
        with(profile, &test);
    }
}

fn iova(at: u64, pages: u64) -> Range<Iova> {
    Range::from_size(Iova::new(at), pages * PAGE).unwrap()
}

/// Maps pages for streams of the first SMMU.
#[track_caller]
fn map(
    machine: &Machine,
    domain: &mut Domain<'_, '_>,
    streams: &[StreamId],
    (at, to, pages): (u64, u64, u64),
    access: Access,
) {
    allow(
        machine,
        streams,
        (to, pages),
        access.contains(Access::WRITE),
    );
    let mapped = domain.map(iova(at, pages), PhysAddr::new(to), access, false);
    assert_eq!(mapped, Ok(()));
    machine.assert_clean();
}

fn allow(machine: &Machine, streams: &[StreamId], (to, pages): (u64, u64), write: bool) {
    for page in (to..to + pages * PAGE).step_by(PAGE as usize) {
        for stream in streams {
            machine.allow(0, *stream, page, write);
        }
    }
}

/// Takes away what is mapped, and flushes; how many runs that were.
#[track_caller]
fn unmap(domain: &mut Domain<'_, '_>, at: u64, pages: u64) -> usize {
    let (mut left, mut runs) = (iova(at, pages), 0);
    while let Some(taken) = domain.unmap_first(left).unwrap() {
        runs += 1;
        match Range::new(taken.iova.end(), left.end()) {
            Ok(rest) => left = rest,
            Err(_) => break,
        }
        if runs % 4 == 0 {
            assert_eq!(domain.flush(), Ok(()));
        }
    }
    assert_eq!(domain.flush(), Ok(()));
    runs
}

fn ask(machine: &Machine, access: Transaction) -> Result<u64, EventKind> {
    let result = machine.units[0].borrow_mut().translate(access);
    result.map_err(|refused| match refused {
        Refused::Event(event) => event.kind(),
        other => panic!("{other}"),
    })
}

fn read(machine: &Machine, stream: StreamId, at: u64) -> Result<u64, EventKind> {
    ask(machine, Transaction::new(stream, at, Dma::Read))
}

fn write(machine: &Machine, stream: StreamId, at: u64) -> Result<u64, EventKind> {
    ask(machine, Transaction::new(stream, at, Dma::Write))
}

const NOT_MAPPED: Result<u64, EventKind> = Err(EventKind::F_TRANSLATION);
const NOT_ALLOWED: Result<u64, EventKind> = Err(EventKind::F_PERMISSION);
const BLOCKED: Result<u64, EventKind> = Err(EventKind::C_BAD_STE);

/// Ends an empty domain.
fn end<'m, 'e>(unit: &mut Unit<'m, 'e>, mut domain: Domain<'m, 'e>) {
    unit.forget(&mut domain).unwrap();
    unit.destroy(domain);
}

#[test]
fn entry_and_descriptor_bit_by_bit() {
    let full = Profile::full();
    let no_stall = full.idr0.with_stall_model(1).with_s2p(false);
    let forced = full.idr0.with_stall_model(2).with_s2p(false);
    let linear = |idr0: smmuv3_spec::id::Idr0| Profile {
        idr0: idr0.with_st_level(0),
        idr1: full.idr1.with_sidsize(8),
        ..full
    };
    // MEV is bit 83, S1STALLD 91, SHCFG 109:108 ("incoming"); S1CSH 71:70,
    // S1COR 69:68, S1CIR 67:66: outer shareable and not cacheable, or inner
    // shareable and write-back.
    let (mev, stalld, shcfg) = (1 << 19, 1 << 27, 1 << 44);
    let (far, near) = (0b10 << 6, 0b11 << 6 | 1 << 4 | 1 << 2);
    // SH0 13:12, OR0 11:10, IR0 9:8, the same.
    let (far_walk, near_walk) = (0b10 << 12, 0b11 << 12 | 1 << 10 | 1 << 8);
    let cases = [
        (Profile::stage1(), far | mev | stalld, far_walk),
        (linear(large().idr0), near | mev | stalld | shcfg, near_walk),
        (linear(no_stall), near | mev | shcfg, near_walk),
        // CD.S is 44.
        (linear(forced), near | mev | shcfg, near_walk | 1 << 44),
    ];
    for (profile, second, walk) in cases {
        with(profile, |machine, unit| {
            // The second slot: ASID 6.
            let mut domain = unit.create(1).unwrap();
            unit.attach(ONE, &mut domain, None).unwrap();
            let context = domain.context_on(0).unwrap();
            // V is 0, Config 3:1 is 0b101.
            let first = 1 | 0b101 << 1 | context.raw();
            assert_eq!(machine.entry(0, A), [first, second, 0, 0, 0, 0, 0, 0]);
            // T0SZ 5:0 of 28, EPD1 30, V 31, IPS 34:32 of 40 bits, AA64 41, R 45,
            // A 46, ASET 47, ASID 63:48.
            let fixed = 28 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 0b111 << 45 | 6 << 48;
            let root = domain.table().root().raw();
            // MAIR: Device-nGnRE, write-back, not cacheable.
            let mair = 0x44_ff_04;
            assert_eq!(
                machine.words(context),
                [fixed | walk, root, 0, mair, 0, 0, 0, 0],
                "{}",
                profile.name
            );
            // A page: nG 11, AF 10, inner shareable, AP[1] 6, AttrIndx 1, UXN 54
            // and PXN 53; read-only, AP[2] 7; of registers, AttrIndx 0.
            let mut leaf = |at: u64, access: Access| {
                map(machine, &mut domain, &[A], (at, DATA, 1), access);
                let view = domain.table().view();
                let mapping = view.walk(Iova::new(at)).unwrap();
                assert_eq!(mapping.output, Ipa::new(DATA));
                last_descriptor(machine, root, at)
            };
            let page = DATA | 1 << 11 | 1 << 10 | 0b11 << 8 | 1 << 6 | 0b11;
            let (never, write_back) = (1 << 54 | 1 << 53, 1 << 2);
            assert_eq!(leaf(AT, RW), page | never | write_back);
            assert_eq!(leaf(AT + PAGE, READ), page | never | write_back | 1 << 7);
            let fetch = READ.union(Access::EXECUTE);
            assert_eq!(
                leaf(AT + 2 * PAGE, fetch),
                page | write_back | 1 << 53 | 1 << 7
            );
            let registers = Access::WRITE.union(Access::MMIO);
            assert_eq!(leaf(AT + 3 * PAGE, registers), page | never);
        });
    }
}

/// The descriptor of level 3 of 36-bit tables of 4 KiB, without the software's
/// bit.
fn last_descriptor(machine: &Machine, root: u64, at: u64) -> u64 {
    let mut table = root;
    for shift in [30, 21] {
        let entry = table + (at >> shift & 0x1ff) * 8;
        table = machine.words(PhysAddr::new(entry & !63))[(entry / 8 % 8) as usize] & !0xfff;
    }
    let entry = table + (at >> 12 & 0x1ff) * 8;
    machine.words(PhysAddr::new(entry & !63))[(entry / 8 % 8) as usize] & !(1 << 57)
}

#[test]
fn devices_reach_what_is_mapped_as_it_is_mapped() {
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        assert_eq!(unit.slot_of(ONE), None);
        unit.attach(ONE, &mut domain, None).unwrap();
        assert_eq!((unit.slot_of(ONE), unit.slot_of(TWO)), (Some(0), None));
        map(machine, &mut domain, &[A], (AT, DATA, 1), RW);
        map(
            machine,
            &mut domain,
            &[A],
            (AT + PAGE, DATA + 5 * PAGE, 1),
            READ,
        );
        machine.put(DATA + 0x18, 0x5eed);
        let mut model = machine.units[0].borrow_mut();
        assert_eq!(model.dma_read(A, AT + 0x18), Ok(0x5eed));
        assert_eq!(model.dma_write(A, AT + 0x20, 7), Ok(()));
        drop(model);
        machine.refresh(PhysAddr::new(DATA), 64);
        assert_eq!(machine.words(PhysAddr::new(DATA))[4], 7);

        assert_eq!(read(machine, A, AT + PAGE + 8), Ok(DATA + 5 * PAGE + 8));
        assert_eq!(write(machine, A, AT + PAGE), NOT_ALLOWED);
        for at in [
            AT - 8,
            AT + 2 * PAGE,
            0,
            (1 << 36) + AT,
            AT | 1 << 63,
            !0 << 36,
        ] {
            assert_eq!(read(machine, A, at & !7), NOT_MAPPED, "{at:#x}");
        }
        // The other device is in no domain.
        let other = Transaction::new(B, AT, Dma::Read);
        let refused = machine.units[0].borrow_mut().translate(other);
        assert!(refused.is_err());
        // Nor does a device get anywhere with a substream.
        let substream = Transaction::new(A, AT, Dma::Read).with_substream(0);
        assert_eq!(ask(machine, substream), Err(EventKind::C_BAD_SUBSTREAMID));
        unit.block(ONE, &mut domain).unwrap();
        machine.forbid(|_, _| true);
        assert_eq!(read(machine, A, AT), BLOCKED);
    });
}

#[test]
fn privileged_devices_read_and_write_the_same() {
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        map(machine, &mut domain, &[A], (AT, DATA, 1), RW);
        map(machine, &mut domain, &[A], (AT + PAGE, DATA, 1), READ);
        let fetch = READ.union(Access::EXECUTE);
        map(machine, &mut domain, &[A], (AT + 2 * PAGE, DATA, 1), fetch);
        let ask = |page: u64, dma| {
            let unprivileged = Transaction::new(A, AT + page * PAGE, dma);
            [unprivileged, unprivileged.privileged()].map(|access| ask(machine, access))
        };
        let yes = Ok(DATA);
        assert_eq!(ask(0, Dma::Read), [yes, yes]);
        assert_eq!(ask(0, Dma::Write), [yes, yes]);
        assert_eq!(ask(0, Dma::Execute), [NOT_ALLOWED, NOT_ALLOWED]);
        assert_eq!(ask(1, Dma::Read), [yes, yes]);
        assert_eq!(ask(1, Dma::Write), [NOT_ALLOWED, NOT_ALLOWED]);
        assert_eq!(ask(1, Dma::Execute), [NOT_ALLOWED, NOT_ALLOWED]);
        assert_eq!(ask(2, Dma::Read), [yes, yes]);
        assert_eq!(ask(2, Dma::Write), [NOT_ALLOWED, NOT_ALLOWED]);
        // Of a page that both may use, the format lets one of them fetch.
        assert_eq!(ask(2, Dma::Execute), [yes, NOT_ALLOWED]);
    });
}

#[test]
fn what_the_format_cannot_say_is_refused() {
    with(Profile::stage1(), |machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        let before = machine.bytes_in_use();
        for access in [
            Access::WRITE,
            Access::WRITE.union(Access::EXECUTE),
            RW.union(Access::EXECUTE),
            Access::EXECUTE,
            Access::empty(),
            READ.union(Access::EXECUTE).union(Access::MMIO),
        ] {
            let mapped = domain.map(iova(AT, 1), PhysAddr::new(DATA), access, false);
            assert_eq!(mapped, Err(MapError::BadAccess), "{access:?}");
        }
        assert_eq!(machine.bytes_in_use(), before);
    });
}

/// Single pages, pages side by side, a block, a whole table; more of them than
/// the SMMU is told one by one.
#[test]
fn nothing_is_in_use_after_a_flush() {
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        unit.attach(TWO, &mut domain, None).unwrap();
        for (at, to, pages) in [
            (AT, DATA + 3 * PAGE, 1),
            (AT, DATA, 40),
            (AT + 7 * PAGE, DATA, 100),
            (0x4020_0000, DATA, 512),
            (0x4040_0000 - 3 * PAGE, DATA + PAGE, 6),
            ((1 << 36) - PAGE, DATA, 1),
        ] {
            for _ in 0..2 {
                map(machine, &mut domain, &[A, B], (at, to, pages), RW);
                assert_eq!(read(machine, B, at), Ok(to));
                unmap(&mut domain, at, pages);
                machine.forbid(|_, _| true);
                machine.assert_clean();
                assert_eq!(read(machine, A, at), NOT_MAPPED);
            }
        }
    });
}

#[test]
fn neighbours_stay_and_several_share_one_completion() {
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        for page in 0..6 {
            let at = (AT + page * PAGE, DATA + page * PAGE, 1);
            map(machine, &mut domain, &[A], at, RW);
        }
        machine.opcodes(0);
        for page in [1, 2, 4] {
            let taken = domain.unmap_first(iova(AT + page * PAGE, 1)).unwrap();
            assert_eq!(taken.unwrap().to.raw(), DATA + page * PAGE);
        }
        let again = domain.map(iova(AT + PAGE, 1), PhysAddr::new(DATA), RW, false);
        assert_eq!(again, Err(MapError::FlushFirst));
        domain.flush().unwrap();
        let opcodes = machine.opcodes(0);
        // The driver adds another CMD_SYNC when the first is not complete at
        // once.
        let syncs = opcodes.iter().position(|opcode| *opcode == Opcode::SYNC);
        let (tlbi, rest) = opcodes.split_at(syncs.unwrap());
        assert!(tlbi.iter().all(|opcode| *opcode == Opcode::TLBI_NH_VA));
        assert!(rest.iter().all(|opcode| *opcode == Opcode::SYNC));
        let gone = |page| [1, 2, 4].contains(&((page - DATA) / PAGE));
        machine.forbid(|_, page| gone(page));
        for page in 0..6 {
            let to = DATA + page * PAGE;
            let expected = if gone(to) { NOT_MAPPED } else { Ok(to) };
            assert_eq!(read(machine, A, AT + page * PAGE), expected);
        }
    });
}

/// What these tests rest on: that each of the commands is needed.
#[test]
fn a_lost_command_shows() {
    for profile in [Profile::stage1(), large()] {
        for lost in [Opcode::TLBI_NH_VA, Opcode::TLBI_NH_ASID, Opcode::CFGI_STE] {
            let machine = Machine::new(&[profile]);
            let drivers = machine.drivers();
            let all = All(&drivers);
            let mut unit: Unit<'_, '_> =
                Stage1Unit::new(CONFIG, &ENDPOINTS, &machine, all).unwrap();
            let mut domain = unit.create(0).unwrap();
            unit.attach(ONE, &mut domain, None).unwrap();
            map(&machine, &mut domain, &[A], (AT, DATA, 1), RW);
            machine.lost.set(Some(lost));
            unmap(&mut domain, AT, 1);
            machine.forbid(|_, _| true);
            let reached = matches!(
                machine.take_finding(),
                Some(Violation::Reach { page: DATA, .. })
            );
            assert_eq!(reached, lost == Opcode::TLBI_NH_VA);
            unit.block(ONE, &mut domain).unwrap();
            machine.take_finding();
            end(&mut unit, domain);
            // Tables, or the descriptor, are given back too early.
            let early = machine.take_finding();
            assert_eq!(early.is_some(), lost != Opcode::TLBI_NH_VA, "{lost}");
        }
    }
}

/// Bytes of an empty domain: a root of 64 entries, and descriptors of 64 bytes.
const ROOT: u64 = 64 * 8;
const CONTEXT: u64 = 64;

#[test]
fn a_stream_moves_and_takes_nothing_along() {
    both(|machine, unit| {
        let empty = machine.bytes_in_use();
        let mut old = unit.create(0).unwrap();
        let mut new = unit.create(1).unwrap();
        assert_eq!(machine.bytes_in_use(), empty + 2 * ROOT);
        unit.attach(ONE, &mut old, None).unwrap();
        unit.attach(TWO, &mut old, None).unwrap();
        map(machine, &mut old, &[A, B], (AT, DATA, 3), RW);
        map(machine, &mut new, &[A], (AT, DATA + 8 * PAGE, 3), RW);
        machine.opcodes(0);
        unit.attach(ONE, &mut new, Some(&mut old)).unwrap();
        let opcodes = machine.opcodes(0);
        // What is cached of the descriptor goes with the entry.
        assert!(opcodes.contains(&Opcode::CFGI_STE), "{opcodes:?}");
        machine.forbid(|stream, page| stream == A && page < DATA + 8 * PAGE);
        assert_eq!((unit.slot_of(ONE), unit.slot_of(TWO)), (Some(1), Some(0)));
        assert_eq!(read(machine, A, AT), Ok(DATA + 8 * PAGE));
        assert_eq!(read(machine, B, AT), Ok(DATA));
        unmap(&mut new, AT, 3);
        machine.forbid(|stream, _| stream == A);
        assert_eq!(read(machine, A, AT), NOT_MAPPED);
        assert_eq!(read(machine, B, AT), Ok(DATA));

        unit.attach(TWO, &mut new, Some(&mut old)).unwrap();
        machine.forbid(|_, _| true);
        unmap(&mut old, AT, 3);
        end(unit, old);
        assert_eq!(unit.slot_of(TWO), Some(1));
        machine.assert_clean();
        unit.block(ONE, &mut new).unwrap();
        unit.block(TWO, &mut new).unwrap();
        assert_eq!(unit.next_attached(ONE, 99), Ok(None));
        let second_level = machine.bytes_in_use();
        end(unit, new);
        // What is left are the second levels of the stream table, if it has any.
        assert!(machine.bytes_in_use() < second_level);
        let streams = machine.bytes_in_use() - empty;
        assert!(streams == 0 || streams == 2 * 4096, "{streams:#x}");
    });
}

/// The number of a domain that is gone, and its memory, are another's.
#[test]
fn the_next_domain_has_nothing_of_the_last() {
    both(|machine, unit| {
        let mut in_use = None;
        for round in 0..4 {
            let mut domain = unit.create(2).unwrap();
            unit.attach(TWO, &mut domain, None).unwrap();
            let to = DATA + round * 16 * PAGE;
            map(machine, &mut domain, &[B], (AT, to, 9), RW);
            assert_eq!(read(machine, B, AT + 8 * PAGE), Ok(to + 8 * PAGE));
            unit.block(TWO, &mut domain).unwrap();
            machine.forbid(|_, _| true);
            assert_eq!(read(machine, B, AT), BLOCKED);
            unmap(&mut domain, AT, 9);
            end(unit, domain);
            machine.assert_clean();
            let now = machine.bytes_in_use();
            assert_eq!(*in_use.get_or_insert(now), now);
        }
    });
}

#[test]
fn a_failed_invalidation_keeps_the_memory() {
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        map(machine, &mut domain, &[A], (AT, DATA, 1), RW);
        let (root, context) = (domain.table().root(), domain.context_on(0).unwrap());
        machine.inject(0, Fault::CommandError(CommandError::ILL));
        assert!(domain.unmap_first(iova(AT, 1)).unwrap().is_some());
        assert_eq!(domain.flush(), Err(FlushError));
        // For good: nobody knows what was refused.
        assert_eq!(domain.flush(), Err(FlushError));
        // It is fenced, and blocked that way.
        let blocked = unit.block(ONE, &mut domain);
        assert_eq!(blocked, Err(AttachError::Failed));
        machine.forbid(|_, _| true);
        let before = machine.bytes_in_use();
        assert_eq!(unit.forget(&mut domain), Err(FlushError));
        assert_eq!(machine.bytes_in_use(), before);
        assert!(machine.is_live(root.raw()) && machine.is_live(context.raw()));
    });
    // The last one fails.
    both(|machine, unit| {
        let mut domain = unit.create(0).unwrap();
        unit.attach(ONE, &mut domain, None).unwrap();
        unit.block(ONE, &mut domain).unwrap();
        let before = machine.bytes_in_use();
        machine.inject(0, Fault::CommandError(CommandError::ILL));
        assert_eq!(unit.forget(&mut domain), Err(FlushError));
        assert_eq!(machine.bytes_in_use(), before);
    });
}

#[test]
fn without_memory_nothing_changes() {
    both(|machine, unit| {
        let mut old = unit.create(0).unwrap();
        let mut new = unit.create(1).unwrap();
        unit.attach(ONE, &mut old, None).unwrap();
        map(machine, &mut old, &[A], (AT, DATA, 1), RW);
        machine.starve.set(true);
        let attached = unit.attach(ONE, &mut new, Some(&mut old));
        assert_eq!(attached, Err(AttachError::NoMemory));
        assert_eq!(read(machine, A, AT), Ok(DATA));
        machine.starve.set(false);
        let before = machine.bytes_in_use();
        unit.attach(ONE, &mut new, Some(&mut old)).unwrap();
        assert_eq!(machine.bytes_in_use(), before + CONTEXT);
        machine.assert_clean();
        machine.forbid(|_, _| true);
    });
}

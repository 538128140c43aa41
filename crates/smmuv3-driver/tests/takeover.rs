//! Taking an SMMU over, and stopping it.

mod common;

use common::{Fake, Op, State, set_cmdq_limit};
use smmuv3_driver::{Config, Error, FenceError, InitError, ProbeError, Smmu, Wait, fence};
use smmuv3_spec::command::Opcode;
use smmuv3_spec::control::{Cr0, Gbpa};
use smmuv3_spec::id::{Idr0, Idr1, Idr5};
use smmuv3_spec::{StreamId, reg};

fn smmu(fake: &Fake) -> Result<Smmu<&Fake, &Fake, &Fake>, InitError> {
    Smmu::new(fake, fake, fake, Config::default())
}

/// How a device is made to differ from QEMU's.
type Break = fn(&mut State);

fn position(log: &[Op], what: impl Fn(&Op) -> bool) -> usize {
    log.iter().position(what).expect("it happened")
}

fn idr0(state: &mut State, change: impl FnOnce(Idr0) -> Idr0) {
    let idr0 = change(state.idr0());
    state.set(reg::IDR0, u32::from(idr0));
}

/// The fake itself checks that nothing guarded is written while enabled, that
/// SMMUEN follows invalidation and that closed DMA stays closed.
#[test]
fn the_order_of_a_take_over() {
    let fake = Fake::with(|state| {
        // An earlier owner left it translating with a table of its own.
        state.set(reg::CR0, 0xd_u32);
        state.set(reg::CR0ACK, 0xd_u32);
        state.set(reg::STRTAB_BASE, 0x1234_0000_u64);
        state.set(reg::GERROR, 0x5_u32);
        state.set(reg::CMDQ_PROD, 7_u32);
        state.set(reg::CMDQ_CONS, 3_u32);
    });
    let smmu = smmu(&fake).unwrap();
    let log = fake.log();
    let abort = position(
        &log,
        |op| matches!(op, Op::Write32(reg::GBPA, v) if Gbpa::from(*v).abort()),
    );
    let off = position(
        &log,
        |op| matches!(op, Op::Write32(reg::CR0, v) if !Cr0::from(*v).smmuen()),
    );
    let on = position(
        &log,
        |op| matches!(op, Op::Write32(reg::CR0, v) if Cr0::from(*v).smmuen()),
    );
    assert_eq!(abort, 0, "nothing comes before the abort");
    assert!(abort < off && off < on);
    let opcodes: Vec<_> = fake.take_consumed().iter().map(|c| c.opcode()).collect();
    assert_eq!(
        opcodes,
        [
            Opcode::CFGI_STE_RANGE,
            Opcode::SYNC,
            Opcode::TLBI_NSNH_ALL,
            Opcode::SYNC
        ]
    );
    let state = fake.state.borrow();
    assert_eq!(state.get32(reg::CR0ACK), 0b1101);
    // Write-back, inner shareable, for table and queues (6.3.11).
    assert_eq!(state.get32(reg::CR1), 0b11_01_01_11_01_01);
    assert_eq!(state.get32(reg::CR2), 0b110);
    assert_eq!(state.get32(reg::IRQ_CTRLACK), 0b101);
    // Two levels, 16 bits, 6 of them in the second.
    assert_eq!(state.get32(reg::STRTAB_BASE_CFG), 1 << 16 | 6 << 6 | 16);
    assert_eq!(state.gerror_active(), 0);
    assert_eq!(fake.arena.bytes_in_use(), 20 << 10);
    assert_eq!(smmu.stream_bits(), 16);
    drop(state);
    for stream in [0, 8, 0xffff, 0x1_0000] {
        assert_eq!(fake.entry_address(StreamId(stream)), None);
    }
}

#[test]
fn a_linear_table_aborts_everywhere_and_is_bounded() {
    let fake = Fake::with(|state| idr0(state, |i| i.with_st_level(0)));
    let smmu = smmu(&fake).unwrap();
    assert_eq!(smmu.stream_bits(), 11);
    for stream in [0, 1, 0x7ff] {
        assert_eq!(fake.entry(StreamId(stream)).0, [1, 0, 0, 0, 0, 0, 0, 0]);
    }
    assert_eq!(fake.entry_address(StreamId(0x800)), None);
    assert_eq!(fake.arena.bytes_in_use(), (128 + 12) << 10);
}

#[test]
fn table_size_is_bounded_whatever_the_stream_id_size() {
    for (sid, bits) in [
        (0, 0),
        (5, 5),
        (16, 16),
        (17, 17),
        (18, 18),
        (20, 20),
        (32, 20),
    ] {
        let fake = Fake::with(|state| {
            let idr1 = Idr1::from(state.get32(reg::IDR1)).with_sidsize(sid);
            state.set(reg::IDR1, u32::from(idr1));
        });
        assert_eq!(smmu(&fake).unwrap().stream_bits(), bits, "{sid}");
        assert!(fake.arena.bytes_in_use() <= 20 << 10, "{sid}");
        // The base has no bits below 64 bytes (6.3.24).
        assert!(fake.arena.bytes_in_use() >= (12 << 10) + 64, "{sid}");
    }
}

#[test]
fn without_coherency_nothing_is_cacheable() {
    let fake = Fake::with(|state| idr0(state, |i| i.with_cohacc(false)));
    smmu(&fake).unwrap();
    assert_eq!(fake.state.borrow().get32(reg::CR1), 0b10_00_00_10_00_00);
}

#[test]
fn el2_is_invalidated_only_where_it_exists() {
    for hyp in [false, true] {
        let fake = Fake::with(|state| idr0(state, |i| i.with_hyp(hyp)));
        smmu(&fake).unwrap();
        let consumed = fake.take_consumed();
        let found = consumed.iter().any(|c| c.opcode() == Opcode::TLBI_EL2_ALL);
        assert_eq!(found, hyp);
    }
}

#[test]
fn message_interrupts_of_an_earlier_owner_are_off() {
    let fake = Fake::with(|state| {
        idr0(state, |i| i.with_msi(true).with_pri(true).with_ats(true));
        for offset in [
            reg::GERROR_IRQ_CFG0,
            reg::EVENTQ_IRQ_CFG0,
            reg::PRIQ_IRQ_CFG0,
        ] {
            state.set(offset, 0x8000_0000_u64);
        }
        state.set(reg::IRQ_CTRL, 7_u32);
        state.set(reg::IRQ_CTRLACK, 7_u32);
    });
    smmu(&fake).unwrap();
    let state = fake.state.borrow();
    for offset in [
        reg::GERROR_IRQ_CFG0,
        reg::EVENTQ_IRQ_CFG0,
        reg::PRIQ_IRQ_CFG0,
    ] {
        assert_eq!(state.regs[&offset], 0);
    }
    // Traffic that a device calls translated is checked (6.3.9.2).
    assert!(state.ack().atschk());
}

/// Whatever does not answer, the result is an error and no DMA.
#[test]
fn every_timeout_leaves_it_fenced() {
    let smmuen = u32::from(Cr0::new().with_smmuen(true));
    let cmdqen = u32::from(Cr0::new().with_cmdqen(true));
    let timeout = |wait| InitError::Device(Error::Timeout(wait));
    let cases: [(Break, InitError); 5] = [
        (|s| s.faults.irq_stuck = true, timeout(Wait::IrqCtrl)),
        (|s| s.faults.cr0_set_stuck = 1, timeout(Wait::Cr0)),
        (|s| s.faults.cr0_set_stuck = 8, timeout(Wait::Cr0)),
        (|s| s.faults.commands_stuck = true, timeout(Wait::Commands)),
        (
            |s| s.faults.refuse = vec![(Opcode::CFGI_STE_RANGE, 1)],
            InitError::Device(Error::Command {
                error: smmuv3_spec::command::CommandError::ILL,
                opcode: Opcode::CFGI_STE_RANGE,
            }),
        ),
    ];
    assert_eq!((smmuen, cmdqen), (1, 8));
    for (broken, want) in cases {
        let fake = Fake::with(broken);
        assert_eq!(smmu(&fake).err(), Some(want));
        assert!(fake.is_fenced(), "{want:?}");
        assert_eq!(fake.arena.bytes_in_use(), 0, "{want:?}");
    }
}

#[test]
fn memory_stays_taken_when_the_queues_cannot_be_stopped() {
    let fake = Fake::with(|state| {
        state.faults.cr0_clear_stuck = 8;
        state.faults.commands_stuck = true;
    });
    assert!(smmu(&fake).is_err());
    assert!(fake.is_fenced());
    assert_eq!(fake.arena.bytes_in_use(), 20 << 10);
}

#[test]
fn no_memory_is_an_error_and_nothing_leaks() {
    let fake = Fake::new();
    let rest = portcullis_memory::Allocator::allocate(&fake.arena, 4 << 20).unwrap();
    assert_eq!(
        smmu(&fake).err(),
        Some(InitError::NoMemory { bytes: 8 << 10 })
    );
    assert!(fake.is_fenced());
    portcullis_memory::Allocator::free(&fake.arena, rest, 4 << 20);
    assert_eq!(fake.arena.bytes_in_use(), 0);
}

/// Translation left by an earlier owner may be all that holds DMA back, so it
/// goes only when the abort is in force.
#[test]
fn fence_never_opens_dma() {
    for fault in 0..2 {
        let fake = Fake::with(|state| {
            state.set(reg::CR0, 1_u32);
            state.set(reg::CR0ACK, 1_u32);
            match fault {
                0 => state.faults.gbpa_stuck = true,
                _ => state.faults.gbpa_deaf = true,
            }
        });
        assert_eq!(fence(&fake, &fake), Err(FenceError::Abort));
        assert!(fake.state.borrow().ack().smmuen());
    }
    let fake = Fake::with(|state| {
        state.set(reg::CR0, 0xd_u32);
        state.set(reg::CR0ACK, 0xd_u32);
        state.set(reg::GBPA, 0x8000_1000_u32);
        state.faults.cr0_clear_stuck = 1;
    });
    assert_eq!(fence(&fake, &fake), Err(FenceError::Disable));
    let gbpa = Gbpa::from(fake.state.borrow().get32(reg::GBPA));
    assert!(
        gbpa.abort() && gbpa.shcfg() == 1,
        "the other fields are kept"
    );
}

#[test]
fn fencing_twice_is_fencing_once() {
    let fake = Fake::new();
    let mut smmu = smmu(&fake).unwrap();
    assert_eq!(smmu.fence(), Ok(()));
    assert_eq!(fence(&fake, &fake), Ok(()));
    assert!(fake.is_fenced() && smmu.is_fenced());
    assert_eq!(smmu.block(StreamId(8)), Err(Error::Fenced));
    assert_eq!(smmu.invalidate_all_config(), Err(Error::Fenced));
}

/// An SMMU that cannot be driven is fenced all the same.
#[test]
fn what_cannot_be_driven_is_refused_and_fenced() {
    let cases: [(Break, ProbeError); 9] = [
        (
            |s| s.set(reg::AIDR, 0x10_u32),
            ProbeError::Architecture { major: 1 },
        ),
        (
            |s| s.set(reg::IDR1, 0x4273_0010_u32),
            ProbeError::TablesPreset,
        ),
        (
            |s| s.set(reg::IDR1, 0x2273_0010_u32),
            ProbeError::QueuesPreset,
        ),
        (
            |s| s.set(reg::IDR1, 0x0273_0021_u32),
            ProbeError::StreamIdSize { bits: 33 },
        ),
        (
            |s| set_cmdq_limit(s, 20),
            ProbeError::QueueSize { log2: 20 },
        ),
        (|s| idr0(s, |i| i.with_ttf(1)), ProbeError::NoAarch64Tables),
        (
            |s| idr0(s, |i| i.with_ttendian(3)),
            ProbeError::NoLittleEndianTables,
        ),
        (
            |s| idr0(s, |i| i.with_ttendian(1)),
            ProbeError::NoLittleEndianTables,
        ),
        (|s| s.set(reg::IDR5, 4_u32), ProbeError::NoGranule),
    ];
    for (change, want) in cases {
        let fake = Fake::with(change);
        assert_eq!(smmu(&fake).err(), Some(InitError::Probe(want)));
        assert!(fake.is_fenced(), "{want}");
    }
}

#[test]
fn features_of_qemu() {
    let fake = Fake::with(|state| state.set(reg::IIDR, 0_u32));
    let smmu = smmu(&fake).unwrap();
    let features = smmu.features();
    assert_eq!(
        features.to_string(),
        "version=3.1 iidr=0x0 stages=1+2 oas=44 sid_bits=16 ssid_bits=0 two_level=yes \
         granules=4k+16k+64k coherent=yes vmid_bits=16 asid_bits=16 range_tlbi=yes bbml=2 httu=0 \
         stall=no ats=no pri=no msi=no sev=no btm=no hyp=no atos=no vatos=no cmdq_log2=19 \
         eventq_log2=19 quirks=0x10"
    );
    assert_eq!(features.require_stage2(44), Ok(()));
    assert_eq!(
        features.require_stage2(45),
        Err(ProbeError::OutputSizeTooSmall { have: 44, need: 45 })
    );
    let mut none = *features;
    none.idr0 = none.idr0.with_s2p(false);
    assert_eq!(none.require_stage2(32), Err(ProbeError::NoStage2));
}

#[test]
fn output_size_of_early_versions_is_48_at_most() {
    for (oas, minor, bits) in [(6, 0, 48), (6, 1, 52), (7, 3, 52), (0, 0, 32), (5, 1, 48)] {
        let fake = Fake::with(|state| {
            state.set(reg::AIDR, u32::from(minor as u8));
            let idr5 = Idr5::from(state.get32(reg::IDR5)).with_oas(oas);
            state.set(reg::IDR5, u32::from(idr5));
        });
        assert_eq!(smmu(&fake).unwrap().features().output_bits(), bits);
    }
}

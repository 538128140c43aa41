//! The model against numbers worked out by hand from the architecture text.
#![allow(missing_docs)]

use smmuv3_model::{Access, Misuse, Mode, Profile, Refusal, Smmu, Transaction};
use smmuv3_spec::command::Command;
use smmuv3_spec::control::{CmdqCons, OutputIndex};
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::id::Idr5;
use smmuv3_spec::{StreamId, Vmid, reg};

const TABLE: u64 = 0x8000_0000;
const COMMANDS: u64 = 0x8001_0000;
const EVENTS: u64 = 0x8002_0000;
const ROOT: u64 = 0x8010_0000;
const S: StreamId = StreamId(5);

/// Words 0, 2 and 3 of an entry with stage 2, from the bit numbers of 5.2:
/// V 0, Config 3:1, S2VMID 143:128, S2T0SZ 165:160, S2SL0 167:166, S2TG
/// 175:174, S2PS 178:176, S2AA64 179, S2R 186, S2TTB from word 3.
fn entry(t0sz: u64, sl0: u64, tg: u64, ps: u64) -> [u64; 8] {
    let word2 = 9 | t0sz << 32 | sl0 << 38 | tg << 46 | ps << 48 | 1 << 51 | 1 << 58;
    [0xd, 0, word2, ROOT, 0, 0, 0, 0]
}

fn put(smmu: &mut Smmu, at: u64, value: u64) {
    assert!(smmu.ram_mut().settle(at, value), "{at:#x}");
}

/// An SMMU that runs, with a linear table of 256 streams of which one has an
/// entry, 16 commands and 4 events.
fn running(profile: Profile, entry: [u64; 8]) -> Smmu {
    let banks = std::iter::once(0x8000_0000..0x8100_0000);
    let mut smmu = Smmu::new(profile, banks, Mode::Plain, []);
    for (word, value) in (0..).zip(entry) {
        put(&mut smmu, TABLE + u64::from(S.0) * 64 + word * 8, value);
    }
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 8);
    smmu.write64(reg::CMDQ_BASE, COMMANDS | 4);
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 2);
    smmu.write32(reg::CR2, 0b110);
    smmu.write32(reg::CR0, 0b1101);
    assert_eq!(smmu.read32(reg::CR0ACK), 0b1101);
    smmu
}

fn reads(smmu: &mut Smmu, address: u64) -> Result<u64, Refusal> {
    smmu.translate(Transaction::new(S, address, Access::Read))
}

#[track_caller]
fn refused(smmu: &mut Smmu, address: u64, kind: EventKind) -> EventRecord {
    match reads(smmu, address) {
        Err(Refusal::Event(event)) if event.kind() == kind => event,
        other => panic!("{other:?}"),
    }
}

/// Readable, writable, accessed page or block.
const RW: u64 = 0x4c1;

#[test]
fn a_concatenated_root_of_4_kib_tables() {
    // 40 bits from level 1: two tables of 512 entries of 1 GiB.
    let mut smmu = running(Profile::full(), entry(24, 1, 0, 2));
    put(&mut smmu, ROOT + 512 * 8, 0x40_0000_0000 | RW);
    assert_eq!(reads(&mut smmu, 0x80_0012_3456), Ok(0x40_0012_3456));
    refused(&mut smmu, 0x7f_ffff_f000, EventKind::F_TRANSLATION);
    // Beyond T0SZ.
    refused(&mut smmu, 0x100_0000_0000, EventKind::F_TRANSLATION);
    // Beyond the IAS of 48 bits: a fault of stage 1 (3.4).
    let event = refused(&mut smmu, 1 << 48, EventKind::F_ADDR_SIZE);
    assert!(!event.s2());
}

#[test]
fn sixteen_tables_of_16_kib() {
    // 40 bits from level 2 (SL0 1): 2^15 entries of 32 MiB, 256 KiB of root.
    let mut smmu = running(Profile::full(), entry(24, 1, 2, 2));
    let last = (1 << 15) - 1;
    put(&mut smmu, ROOT + last * 8, 0x200_0000 | RW);
    assert_eq!(reads(&mut smmu, 0xff_fe00_4321), Ok(0x200_4321));
    // A table of level 3: entry 3 is bytes 0xc000 to 0xffff.
    put(&mut smmu, ROOT, (ROOT + 0x4_0000) | 3);
    put(&mut smmu, ROOT + 0x4_0000 + 24, 0x8_4000 | RW | 2);
    assert_eq!(reads(&mut smmu, 0xc010), Ok(0x8_4010));
}

#[test]
fn addresses_of_52_bits_with_64_kib() {
    let mut profile = Profile::full();
    profile.idr5 = Idr5::new().with_oas(6).with_gran64k(true);
    // 48 bits from level 1 (SL0 2): entries of 4 TiB, then of 512 MiB. Bits 51
    // to 48 of the output are in bits 15 to 12.
    let mut smmu = running(profile, entry(16, 2, 1, 6));
    put(&mut smmu, ROOT, (ROOT + 0x1_0000) | 3);
    put(&mut smmu, ROOT + 0x1_0000, (0xa << 12) | 0x2000_0000 | RW);
    assert_eq!(reads(&mut smmu, 0x1234), Ok(0xa_0000_2000_1234));
}

#[test]
fn each_fault_has_its_event() {
    let mut smmu = running(Profile::full(), entry(24, 1, 0, 2));
    put(&mut smmu, ROOT, (ROOT + 0x2000) | 3);
    let level2 = |n: u64| ROOT + 0x2000 + n * 8;
    put(&mut smmu, level2(1), 1 << 44 | RW);
    put(&mut smmu, level2(2), 0x4c1 & !0x400);
    put(&mut smmu, level2(3), 0x481);
    put(&mut smmu, level2(4), 0x7000_0000 | 3);
    // Level 3 knows no blocks.
    put(&mut smmu, level2(5), (ROOT + 0x3000) | 3);
    put(&mut smmu, ROOT + 0x3000, RW);

    let event = refused(&mut smmu, 0x1abc, EventKind::F_TRANSLATION);
    // 0x10, stream 5; CLASS IN (105:104), S2 (103), RnW (99); address; IPA.
    let words = [5 << 32 | 0x10, 0x2_88 << 32, 0x1abc, 0x1000];
    assert_eq!(event.0, words);
    for (n, word) in (0..).zip(words) {
        assert_eq!(smmu.load(EVENTS + n * 8), Some(word));
    }
    refused(&mut smmu, 0x20_0000, EventKind::F_ADDR_SIZE);
    refused(&mut smmu, 0x40_0000, EventKind::F_ACCESS);
    refused(&mut smmu, 0x60_0000, EventKind::F_PERMISSION);
    let event = refused(&mut smmu, 0x80_0000, EventKind::F_WALK_EABT);
    assert_eq!(event.fetch_address(), 0x7000_0000);
    refused(&mut smmu, 0xa0_0000, EventKind::F_TRANSLATION);
}

#[test]
fn entries_that_are_not_legal() {
    let good = entry(24, 1, 0, 2);
    let bad = |change: fn(&mut [u64; 8])| {
        let mut words = good;
        change(&mut words);
        let mut smmu = running(Profile::minimal(), words);
        reads(&mut smmu, 0)
    };
    let is_bad =
        |result| matches!(result, Err(Refusal::Event(e)) if e.kind() == EventKind::C_BAD_STE);
    assert!(is_bad(bad(|w| w[0] = 0)), "V");
    assert!(is_bad(bad(|w| w[0] = 0xb)), "stage 1 without S1P");
    assert!(is_bad(bad(|w| w[2] |= 0x100)), "VMID of 9 bits");
    assert!(is_bad(bad(|w| w[2] |= 1 << 46)), "64 KiB granule");
    assert!(is_bad(bad(|w| w[2] ^= 3 << 38)), "level 0 of 40 bits");
    assert!(is_bad(bad(|w| w[2] -= 1 << 32)), "41 bits with 40");
    assert!(is_bad(bad(|w| w[2] &= !(1 << 51))), "AArch32");
    assert!(is_bad(bad(|w| w[2] |= 1 << 56)), "HTTU");
    assert!(is_bad(bad(|w| w[3] = 1 << 40)), "root out of reach");
    assert_eq!(bad(|w| w[0] = 1), Err(Refusal::Silent), "abort");
    assert_eq!(bad(|w| w[0] = 9), Ok(0), "bypass");
}

#[test]
fn streams_outside_the_table() {
    let mut smmu = running(Profile::full(), entry(24, 1, 0, 2));
    let access = Transaction::new(StreamId(256), 0, Access::Read);
    let Err(Refusal::Event(event)) = smmu.translate(access) else {
        panic!()
    };
    assert_eq!(event.0[0], 256 << 32 | 0x02);

    // Two levels: stream 5 is the second level's, of which Span 3 has 4.
    smmu.write32(reg::CR0, 0);
    smmu.write32(reg::STRTAB_BASE_CFG, 1 << 16 | 6 << 6 | 8);
    smmu.write32(reg::CR0, 0b1101);
    let entries = TABLE + 0x1000;
    put(&mut smmu, entries + 5 * 64, 9);
    put(&mut smmu, TABLE, entries | 3);
    refused(&mut smmu, 0, EventKind::C_BAD_STREAMID);
    put(&mut smmu, TABLE, entries | 4);
    assert_eq!(reads(&mut smmu, 0x77), Ok(0x77));
    // A span beyond the split is reserved; no memory is a failed fetch.
    put(&mut smmu, TABLE, entries | 8);
    refused(&mut smmu, 0, EventKind::C_BAD_STREAMID);
    put(&mut smmu, TABLE, 0x7000_0000 | 4);
    let event = refused(&mut smmu, 0, EventKind::F_STE_FETCH);
    assert_eq!(event.fetch_address(), 0x7000_0140);
}

#[test]
fn a_full_event_queue_overflows_once() {
    let mut smmu = running(Profile::full(), [0; 8]);
    for _ in 0..6 {
        refused(&mut smmu, 0, EventKind::C_BAD_STE);
    }
    // Four of them fit; the wrap bit and OVFLG are set.
    let prod = OutputIndex::from(smmu.read32(reg::EVENTQ_PROD));
    assert_eq!((prod.index(), prod.overflow()), (4, true));
    assert_eq!(smmu.counts().lost, 2);
    smmu.write32(reg::EVENTQ_CONS, 1 << 31 | 1);
    refused(&mut smmu, 0, EventKind::C_BAD_STE);
    assert_eq!(smmu.read32(reg::EVENTQ_PROD), 1 << 31 | 5);
}

fn submit(smmu: &mut Smmu, commands: &[Command]) {
    let start = smmu.read32(reg::CMDQ_PROD);
    for (n, command) in (start..).zip(commands) {
        let at = COMMANDS + u64::from(n & 15) * 16;
        put(smmu, at, command.0[0]);
        put(smmu, at + 8, command.0[1]);
    }
    let end = (start + commands.len() as u32) & 31;
    smmu.write32(reg::CMDQ_PROD, end);
}

#[test]
fn commands_wrap_and_stop_at_an_illegal_one() {
    let mut smmu = running(Profile::minimal(), [0; 8]);
    submit(&mut smmu, &[Command::sync(0); 12]);
    submit(&mut smmu, &[Command::tlbi_s12_vmall(Vmid(1)); 8]);
    assert_eq!(smmu.read32(reg::CMDQ_CONS), 20);
    assert_eq!(smmu.counts().commands, 20);
    // EL2 does not exist here (4.4.2.7).
    submit(&mut smmu, &[Command::tlbi_el2_all(), Command::sync(0)]);
    let cons = CmdqCons::from(smmu.read32(reg::CMDQ_CONS));
    assert_eq!((cons.rd(), cons.err()), (20, 1));
    assert_eq!(smmu.read32(reg::GERROR), 1);
    assert_eq!(
        smmu.take_misuse(),
        [Misuse::Command(Command::tlbi_el2_all())]
    );
    // Replaced and acknowledged, the queue runs on.
    put(&mut smmu, COMMANDS + 4 * 16, 0x46);
    put(&mut smmu, COMMANDS + 4 * 16 + 8, 0);
    smmu.write32(reg::GERRORN, 1);
    assert_eq!(smmu.read32(reg::CMDQ_CONS), 22);
}

#[test]
fn a_queue_outside_memory_is_cerror_abt() {
    let mut smmu = Smmu::new(Profile::minimal(), [], Mode::Plain, []);
    smmu.write64(reg::CMDQ_BASE, 0x7000_0000 | 4);
    smmu.write32(reg::CR0, 0b1000);
    smmu.write32(reg::CMDQ_PROD, 1);
    assert_eq!(smmu.read32(reg::CMDQ_CONS), 2 << 24);
}

#[test]
fn what_is_in_use_is_not_written() {
    let mut smmu = running(Profile::full(), [0; 8]);
    smmu.write64(reg::STRTAB_BASE, 0);
    smmu.write32(reg::STRTAB_BASE_CFG, 0);
    smmu.write64(reg::CMDQ_BASE, 0);
    smmu.write32(reg::CMDQ_CONS, 7);
    smmu.write32(reg::EVENTQ_PROD, 7);
    smmu.write32(reg::CR1, 7);
    assert_eq!(smmu.take_misuse().len(), 6);
    assert_eq!(smmu.read64(reg::STRTAB_BASE), TABLE);
    assert_eq!(smmu.read32(reg::CR1), 0);
    // Without Update, GBPA stays as it was.
    smmu.write32(reg::GBPA, 1 << 20);
    assert_eq!(smmu.take_misuse(), [Misuse::NoUpdate]);
    assert_eq!(smmu.read32(reg::GBPA), 0x1000);
    smmu.read32(2);
    assert_eq!(
        smmu.take_misuse(),
        [Misuse::Access {
            offset: 2,
            bytes: 4
        }]
    );
}

#[test]
fn off_is_bypass_unless_it_aborts() {
    let mut smmu = Smmu::new(Profile::qemu(), [], Mode::Plain, []);
    assert_eq!(reads(&mut smmu, 0x1234), Ok(0x1234));
    assert_eq!(reads(&mut smmu, 1 << 44), Err(Refusal::Silent));
    smmu.write32(reg::GBPA, 1 << 31 | 1 << 20);
    assert_eq!(smmu.read32(reg::GBPA), 1 << 20);
    assert_eq!(reads(&mut smmu, 0x1234), Err(Refusal::Silent));
}

#[test]
fn without_coherency_only_what_was_cleaned_is_seen() {
    let mut smmu = running(Profile::minimal(), entry(24, 1, 0, 2));
    assert!(smmu.store(ROOT, RW) && smmu.store(ROOT + 8, 0x4000_0000 | RW));
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
    smmu.publish(ROOT + 8, 8);
    refused(&mut smmu, 0, EventKind::F_TRANSLATION);
    assert_eq!(reads(&mut smmu, 0x4000_0000), Ok(0x4000_0000));
    smmu.publish(ROOT, 8);
    assert_eq!(reads(&mut smmu, 0), Ok(0));
}

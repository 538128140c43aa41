//! An SMMU in plain mode and raw words for it: every number is worked out from
//! the bit positions of IHI 0070, chapter 5, and DDI 0487, D8.
#![allow(dead_code, reason = "each test file uses its part")]

use smmuv3_model::{Access, Mode, Profile, Refusal, Smmu, Transaction};
use smmuv3_spec::event::{EventKind, EventRecord};
use smmuv3_spec::{StreamId, reg};

pub const TABLE: u64 = 0x8000_0000;
pub const COMMANDS: u64 = 0x8001_0000;
pub const EVENTS: u64 = 0x8002_0000;
pub const CD: u64 = 0x8003_0000;
/// Stage 1 tables.
pub const ONE: u64 = 0x8010_0000;
/// Stage 2 tables.
pub const TWO: u64 = 0x8020_0000;
pub const S: StreamId = StreamId(5);

/// Access flag, both stages.
pub const AF: u64 = 1 << 10;
/// Stage 1: AP[2:1] 0b01, read and write for everybody, and the access flag.
pub const RW: u64 = 1 << 6 | AF;
/// Stage 2: S2AP 0b11, Normal memory (MemAttr 0b1111), and the access flag.
pub const RW2: u64 = 3 << 6 | 0xf << 2 | AF;

/// V, Config 0b101, S1ContextPtr.
pub const STAGE1: [u64; 8] = [0b1011 | CD, 0, 0, 0, 0, 0, 0, 0];

/// Stage 2 fields: VMID 9, T0SZ 24 (40 bits), SL0 1 (level 1), 4 KiB, S2PS 2
/// (40 bits), S2AA64, S2R; S2TTB.
pub const WORD2: u64 = 9 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58;
pub const STAGE2: [u64; 8] = [0b1101, 0, WORD2, TWO, 0, 0, 0, 0];

/// Nested. Stage 2 has memory, of which the CD and the stage 1 tables are
/// part, from IPA 0x4000_0000 on, see [`nested`].
pub const NESTED: [u64; 8] = [0b1111 | (CD - 0x4000_0000), 0, WORD2, TWO, 0, 0, 0, 0];

/// T0SZ 25 (39 bits, from level 1), TG0 4 KiB, EPD1, V, IPS 2 (40 bits), AA64,
/// R, A, ASID 7; TTB0.
pub const WORD0: u64 = 25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 1 << 45 | 1 << 46 | 7 << 48;
pub const CONTEXT: [u64; 8] = [WORD0, ONE, 0, 0, 0, 0, 0, 0];

pub fn put(smmu: &mut Smmu, at: u64, value: u64) {
    assert!(smmu.ram_mut().settle(at, value), "{at:#x}");
}

pub fn put_all(smmu: &mut Smmu, at: u64, words: [u64; 8]) {
    for (n, word) in (0..).zip(words) {
        put(smmu, at + n * 8, word);
    }
}

/// 16 MiB of memory; a linear table of 256 streams, 16 commands, 16 events,
/// RECINVSID.
pub fn running(profile: Profile, entry: [u64; 8]) -> Smmu {
    let banks = std::iter::once(0x8000_0000..0x8100_0000);
    let mut smmu = Smmu::new(profile, banks, Mode::Plain, []);
    put_all(&mut smmu, TABLE + u64::from(S.0) * 64, entry);
    smmu.write64(reg::STRTAB_BASE, TABLE);
    smmu.write32(reg::STRTAB_BASE_CFG, 8);
    smmu.write64(reg::CMDQ_BASE, COMMANDS | 4);
    smmu.write64(reg::EVENTQ_BASE, EVENTS | 4);
    smmu.write32(reg::CR2, 0b10);
    smmu.write32(reg::CR0, 0b1101);
    assert_eq!(smmu.read32(reg::CR0ACK), 0b1101);
    smmu
}

/// Stage 1 alone: VA 0 to 0x1fff are two pages behind levels 1, 2 and 3.
pub fn stage1(context: [u64; 8]) -> Smmu {
    let mut smmu = running(Profile::full(), STAGE1);
    put_all(&mut smmu, CD, context);
    put(&mut smmu, ONE, (ONE + 0x1000) | 3);
    put(&mut smmu, ONE + 0x1000, (ONE + 0x2000) | 3);
    put(&mut smmu, ONE + 0x2000, 0x80aa_0000 | RW | 3);
    put(&mut smmu, ONE + 0x2008, 0x80bb_0000 | RW | 3);
    smmu
}

/// Both stages: what [`stage1`] has, with every address in it an IPA; stage 2
/// maps IPA 0x4000_0000 to 0x7fff_ffff to 0x8000_0000 by tables of 2 MiB
/// blocks, the first eight of which exist.
pub fn nested(entry: [u64; 8], context: [u64; 8]) -> Smmu {
    let mut smmu = running(Profile::full(), entry);
    let mut context = context;
    context[1] -= 0x4000_0000;
    put_all(&mut smmu, CD, context);
    let ipa = ONE - 0x4000_0000;
    put(&mut smmu, ONE, (ipa + 0x1000) | 3);
    put(&mut smmu, ONE + 0x1000, (ipa + 0x2000) | 3);
    put(&mut smmu, ONE + 0x2000, 0x40aa_0000 | RW | 3);
    put(&mut smmu, ONE + 0x2008, 0x40bb_0000 | RW | 3);
    put(&mut smmu, TWO + 8, (TWO + 0x2000) | 3);
    for n in 0..8 {
        put(
            &mut smmu,
            TWO + 0x2000 + n * 8,
            (0x8000_0000 + n * 0x20_0000) | RW2 | 1,
        );
    }
    smmu
}

/// The stage 2 descriptor of the 2 MiB block with the CD.
pub const BLOCK_CD: u64 = TWO + 0x2000;
/// ... with the pages of VA 0.
pub const BLOCK_DATA: u64 = TWO + 0x2000 + 5 * 8;

pub fn access(address: u64, access: Access) -> Transaction {
    Transaction::new(S, address, access)
}

pub fn reads(smmu: &mut Smmu, address: u64) -> Result<u64, Refusal> {
    smmu.translate(access(address, Access::Read))
}

pub fn writes(smmu: &mut Smmu, address: u64) -> Result<u64, Refusal> {
    smmu.translate(access(address, Access::Write))
}

#[track_caller]
pub fn event(result: Result<u64, Refusal>, kind: EventKind) -> EventRecord {
    match result {
        Err(Refusal::Event(event)) if event.kind() == kind => event,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn refused(smmu: &mut Smmu, address: u64, kind: EventKind) -> EventRecord {
    event(reads(smmu, address), kind)
}

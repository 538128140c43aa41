//! An SMMU with everything, set up by raw offsets and literals.
#![allow(dead_code)]

use smmuv3_model::{Access, Mode, Profile, Smmu, Transaction};
use smmuv3_spec::StreamId;
use smmuv3_spec::id::{Idr0, Idr1, Idr3, Idr5};

pub const TABLE: u64 = 0x8000_0000;
pub const COMMANDS: u64 = 0x8001_0000;
pub const EVENTS: u64 = 0x8002_0000;
pub const REQUESTS: u64 = 0x8003_0000;
pub const ROOT: u64 = 0x8010_0000;
pub const S: u32 = 5;

/// S1P, S2P, TTF 2, COHACC, DORMHINT, Hyp, ATS, ASID16, MSI, SEV, PRI, VMW,
/// VMID16, CD2L, TTENDIAN 2, ATSRECERR, both stall models, two levels.
pub const IDR0: u32 = 0x03
    | 2 << 2
    | 1 << 4
    | 1 << 8
    | 1 << 9
    | 1 << 10
    | 0xf << 12 & !(1 << 15)
    | 1 << 16
    | 1 << 17
    | 1 << 18
    | 1 << 19
    | 2 << 21
    | 1 << 23
    | 1 << 27;
/// SIDSIZE 16, SSIDSIZE 8, PRIQS, EVENTQS and CMDQS 10.
pub const IDR1: u32 = 16 | 8 << 6 | 10 << 11 | 10 << 16 | 10 << 21;

pub fn everything() -> Profile {
    let mut profile = Profile::full();
    profile.idr0 = Idr0::from(IDR0);
    profile.idr1 = Idr1::from(IDR1);
    // RIL, PPS.
    profile.idr3 = Idr3::from(1 << 10 | 1 << 5);
    // 48 bits, 4, 16 and 64 KiB.
    profile.idr5 = Idr5::from(0x75);
    profile
}

/// Stage 2 alone, nothing optional.
pub fn minimal() -> Profile {
    Profile::minimal()
}

pub fn fresh(profile: Profile, mode: Mode) -> Smmu {
    let banks = [0x8000_0000..0x8100_0000, 0x10_0000_0000..0x10_0000_1000];
    let mut smmu = Smmu::new(profile, banks, mode, [StreamId(S)]);
    // GITS_TRANSLATER of an imaginary ITS.
    smmu.add_doorbell(0x0808_0040..0x0808_0044);
    smmu
}

/// 16 commands, 4 events, 4 page requests, 256 streams; all of CR0 but ATSCHK.
pub fn running(profile: Profile) -> Smmu {
    running_as(profile, Mode::Plain)
}

pub fn running_as(profile: Profile, mode: Mode) -> Smmu {
    let mut smmu = fresh(profile, mode);
    smmu.write64(0x80, TABLE);
    smmu.write32(0x88, 8);
    smmu.write64(0x90, COMMANDS | 4);
    smmu.write64(0xa0, EVENTS | 2);
    smmu.write64(0xc0, REQUESTS | 2);
    smmu.write32(0x20, 0b1111);
    while smmu.read32(0x24) & 0b1101 != 0b1101 {}
    assert_eq!(smmu.take_misuse(), []);
    smmu
}

pub fn put(smmu: &mut Smmu, at: u64, value: u64) {
    assert!(smmu.ram_mut().settle(at, value), "{at:#x}");
}

/// Writes words 0 to 3 of the entry of stream 5.
pub fn entry(smmu: &mut Smmu, words: [u64; 4]) {
    for (word, value) in (0..).zip(words) {
        put(smmu, TABLE + u64::from(S) * 64 + word * 8, value);
    }
}

/// Stage 2 with 40 bits from level 1, VMID 9, S2R, and `EATS` of word 1.
pub fn stage2(eats: u64) -> [u64; 4] {
    let word2 = 9 | 24 << 32 | 1 << 38 | 2 << 48 | 1 << 51 | 1 << 58;
    [0xd, eats << 28, word2, ROOT]
}

/// Puts commands at CMDQ_PROD and moves it; 16 fit.
pub fn submit(smmu: &mut Smmu, commands: &[[u64; 2]]) {
    let start = smmu.read32(0x98);
    for (n, command) in (start..).zip(commands) {
        let at = COMMANDS + u64::from(n & 15) * 16;
        put(smmu, at, command[0]);
        put(smmu, at + 8, command[1]);
    }
    smmu.write32(0x98, (start + commands.len() as u32) & 31);
}

/// CMDQ_CONS.ERR after one command; the queue goes on behind it.
#[track_caller]
pub fn error_of(smmu: &mut Smmu, command: [u64; 2]) -> u32 {
    submit(smmu, &[command]);
    let (cons, gerror) = (smmu.read32(0x9c), smmu.read32(0x60));
    let err = cons >> 24;
    assert_eq!(err != 0, (gerror ^ smmu.read32(0x64)) & 1 != 0);
    if err != 0 {
        // A CMD_SYNC in its place.
        let at = COMMANDS + u64::from(cons & 15) * 16;
        put(smmu, at, 0x46);
        put(smmu, at + 8, 0);
        smmu.write32(0x64, gerror);
    }
    assert_eq!(smmu.read32(0x9c), smmu.read32(0x98), "stuck");
    err
}

pub fn read(address: u64) -> Transaction {
    Transaction::new(StreamId(S), address, Access::Read)
}

pub fn write(address: u64) -> Transaction {
    Transaction::new(StreamId(S), address, Access::Write)
}

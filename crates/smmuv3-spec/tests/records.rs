//! Commands, events and page requests against raw words (IHI 0070, chapters 4,
//! 7 and 8).

use smmuv3_spec::command::{Command, CommandError, Opcode, SIG_SEV, TLBI_TG_4K, TLBI_TG_64K};
use smmuv3_spec::event::{Class, EventKind, EventRecord};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{Asid, StreamId, SubstreamId, Vmid};

const SID: StreamId = StreamId(0x8765_4321);
const SSID: SubstreamId = SubstreamId(0xa_bcde);
const VMID: Vmid = Vmid(0x1234);
const ASID: Asid = Asid(0x5678);
const VA: u64 = 0xffff_8765_4321_0000;

#[track_caller]
fn is(command: Command, low: u64, high: u64) {
    assert_eq!(
        (command.0[0], command.0[1]),
        (low, high),
        "{:#x} {:#x}",
        command.0[0],
        command.0[1]
    );
}

/// 4.2: opcode [7:0], SSV [11], SubstreamID [31:12], StreamID [63:32].
#[test]
fn prefetch() {
    is(
        Command::prefetch_config(SID, None),
        0x8765_4321_0000_0001,
        0,
    );
    is(
        Command::prefetch_config(SID, Some(SSID)),
        0x8765_4321_abcd_e801,
        0,
    );
    is(
        Command::prefetch_addr(SID, None, VA, 3, 9),
        0x8765_4321_0000_0002,
        0xffff_8765_4321_0000 | 9 << 5 | 3,
    );
}

/// 4.3: Leaf [64], Range [68:64].
#[test]
fn configuration_invalidation() {
    is(Command::cfgi_ste(SID, true), 0x8765_4321_0000_0003, 1);
    is(Command::cfgi_ste(SID, false), 0x8765_4321_0000_0003, 0);
    is(Command::cfgi_ste_range(SID, 7), 0x8765_4321_0000_0004, 7);
    is(Command::cfgi_all(), 0x4, 0x1f);
    is(Command::cfgi_cd(SID, SSID, true), 0x8765_4321_abcd_e005, 1);
    is(Command::cfgi_cd_all(SID), 0x8765_4321_0000_0006, 0);
}

/// 4.4: VMID [47:32], ASID [63:48] as the figure of 4.4.2.2 gives them.
#[test]
fn tlb_invalidation() {
    is(Command::tlbi_nh_all(VMID), 0x0000_1234_0000_0010, 0);
    is(Command::tlbi_nh_asid(VMID, ASID), 0x5678_1234_0000_0011, 0);
    is(
        Command::tlbi_nh_va(VMID, ASID, VA, true),
        0x5678_1234_0000_0012,
        VA | 1,
    );
    is(
        Command::tlbi_nh_vaa(VMID, VA, false),
        0x0000_1234_0000_0013,
        VA,
    );
    is(Command::tlbi_el2_all(), 0x20, 0);
    is(Command::tlbi_s12_vmall(VMID), 0x0000_1234_0000_0028, 0);
    is(
        Command::tlbi_s2_ipa(VMID, 0x4000_1000, true),
        0x0000_1234_0000_002a,
        0x4000_1001,
    );
    is(Command::tlbi_nsnh_all(), 0x30, 0);
}

/// 4.4.1.1: NUM [16:12], SCALE [25:20], TG [75:74], TTL [73:72], TTL128 [71].
#[test]
fn range_fields() {
    let base = Command::tlbi_s2_ipa(VMID, 0x4000_0000, false);
    is(base.with_num(31), 0x0000_1234_0001_f02a, 0x4000_0000);
    is(base.with_scale(63), 0x0000_1234_03f0_002a, 0x4000_0000);
    is(base.with_tg(TLBI_TG_4K), 0x0000_1234_0000_002a, 0x4000_0400);
    is(
        base.with_tg(TLBI_TG_64K),
        0x0000_1234_0000_002a,
        0x4000_0c00,
    );
    is(base.with_ttl(3), 0x0000_1234_0000_002a, 0x4000_0300);
    is(base.with_ttl128(true), 0x0000_1234_0000_002a, 0x4000_0080);
}

/// 4.5 and 4.7.
#[test]
fn the_others() {
    is(
        Command::atc_inv(SID, Some(SSID), true, VA, 52),
        0x8765_4321_abcd_ea40,
        VA | 52,
    );
    is(
        Command::pri_resp(SID, None, 0x1ff, 2),
        0x8765_4321_0000_0041,
        0x21ff,
    );
    is(
        Command::resume(SID, 0xbeef, true, false),
        0x8765_4321_0000_1044,
        0xbeef,
    );
    is(
        Command::resume(SID, 0xbeef, false, true),
        0x8765_4321_0000_2044,
        0xbeef,
    );
    is(Command::stall_term(SID), 0x8765_4321_0000_0045, 0);
    is(Command::sync(SIG_SEV), 0x2046, 0);
    is(Command::new(Opcode::SYNC).with_msh(3), 0x00c0_0046, 0);
    is(Command::new(Opcode::SYNC).with_msi_attr(15), 0x0f00_0046, 0);
    is(
        Command::new(Opcode::SYNC)
            .with_msi_data(0x1234_5678)
            .with_msi_address(u64::MAX),
        0x1234_5678_0000_0046,
        0x00ff_ffff_ffff_fffc,
    );
}

/// Every opcode of 4.1.1 has its name and no other has one; 7.1 likewise.
#[test]
fn open_enumerations() {
    let named = (0..=255).filter(|o| Opcode(*o).name().is_some()).count();
    assert_eq!(named, 25);
    assert_eq!(Opcode(0x46).name(), Some("CMD_SYNC"));
    assert_eq!(
        format!("{} {:?}", Opcode(0x99), CommandError(1)),
        "0x99 CERROR_ILL"
    );
    assert_eq!(CommandError(9).name(), None);
    assert_eq!(EventKind(0x13).name(), Some("F_PERMISSION"));
    assert_eq!(format!("{} {}", EventKind(0xe3), Class(3)), "0xe3 0x3");
}

/// 7.3.2: StreamID [63:32], SubstreamID [31:12], SSV [11], Reason [79:64],
/// PnU [97], InD [98], RnW [99], InputAddr [191:128].
#[test]
fn event_words() {
    let f_uut = EventRecord([0x8765_4321_abcd_e801, 0x0000_0008_0000_beef, VA, 0]);
    assert_eq!(f_uut.kind(), EventKind::F_UUT);
    assert_eq!(f_uut.stream(), SID);
    assert_eq!(f_uut.substream(), Some(SSID));
    assert_eq!(f_uut.reason(), 0xbeef);
    assert!(f_uut.rnw() && !f_uut.ind() && !f_uut.pnu());
    assert_eq!(f_uut.input_address(), VA);

    let one = |word: usize, bit: u32| {
        let mut words = [0; 4];
        words[word] = 1u64 << bit;
        EventRecord(words)
    };
    assert!(one(1, 97 - 64).pnu() && one(1, 98 - 64).ind() && one(1, 99 - 64).rnw());
    assert!(one(1, 95 - 64).stall() && one(1, 80 - 64).gpcf());
    assert!(one(1, 102 - 64).nsipa() && one(1, 103 - 64).s2() && one(1, 108 - 64).ttrnw());
    assert_eq!(EventRecord([0, 3 << 40, 0, 0]).class(), Class(3));
    assert_eq!(
        EventRecord([0x800, 0, 0, 0]).substream(),
        Some(SubstreamId(0))
    );
    assert_eq!(EventRecord([0xffff_f000, 0, 0, 0]).substream(), None);
    // 7.3.4: FetchAddr [55:3] from bit 195; 7.3.13: IPA [55:12] from bit 204.
    let all = EventRecord([0, 0, 0, u64::MAX]);
    assert_eq!(all.fetch_address(), 0x00ff_ffff_ffff_fff8);
    assert_eq!(all.ipa(), 0x00ff_ffff_ffff_f000);
}

/// 7.3.19: pR [103] to uX [98], Span [115:108].
#[test]
fn page_request_hint() {
    let words = |bits: u64| EventRecord([0x24, bits << 32, 0, 0]);
    assert!(words(1 << 7).privileged_read() && words(1 << 6).privileged_write());
    assert!(words(1 << 5).privileged_execute() && words(1 << 4).unprivileged_read());
    assert!(words(1 << 3).unprivileged_write() && words(1 << 2).unprivileged_execute());
    assert_eq!(words(0xab << 12).span(), 0xab);
}

/// Chapter 8.
#[test]
fn page_request() {
    let one = PageRequest([0x8765_4321 | 0xa_bcde << 32 | 1 << 63, VA | 0x1ff]);
    assert_eq!(
        (one.stream(), one.substream(), one.ssv()),
        (SID.0, SSID.0, true)
    );
    assert_eq!((one.address(), one.prg_index()), (VA, 0x1ff));
    assert!(PageRequest([1 << 58, 0]).privileged() && PageRequest([1 << 59, 0]).execute());
    assert!(PageRequest([1 << 60, 0]).read() && PageRequest([1 << 61, 0]).write());
    assert!(PageRequest([1 << 62, 0]).last());
}

//! The SMMU that a host drives in nested mode, used as no driver would. What is
//! expected is what the architecture says of an SMMU with stage 1 (IHI 0070);
//! that the hypervisor goes on is expected throughout.

use crate::{FIRMWARE, HOLLOW, HYPERVISOR, SMMU, stage1, undescribed};
use core::arch::asm;
use core::cell::UnsafeCell;
use portcullis_hostile::{
    ALIGNMENT, Checks, DATA, LAST, NONE, exception, read, read64, write, write8, write16, write64,
};

const CR0: u64 = SMMU + 0x20;
const CR0ACK: u64 = SMMU + 0x24;
const GBPA: u64 = SMMU + 0x44;
const IRQ_CTRL: u64 = SMMU + 0x50;
const GERROR: u64 = SMMU + 0x60;
const GERRORN: u64 = SMMU + 0x64;
const GERROR_IRQ_CFG0: u64 = SMMU + 0x68;
const STRTAB_BASE: u64 = SMMU + 0x80;
const STRTAB_BASE_CFG: u64 = SMMU + 0x88;
const CMDQ_BASE: u64 = SMMU + 0x90;
const CMDQ_PROD: u64 = SMMU + 0x98;
const CMDQ_CONS: u64 = SMMU + 0x9c;
const EVENTQ_BASE: u64 = SMMU + 0xa0;

const SMMUEN: u32 = 1 << 0;
const EVENTQEN: u32 = 1 << 2;
const CMDQEN: u32 = 1 << 3;
/// Global errors: the command queue's, and a CMD_SYNC's message that aborted.
const CMDQ_ERR: u32 = 1 << 0;
const MSI_CMDQ_ABT_ERR: u32 = 1 << 4;

/// Reasons why the command queue stopped.
const NO_ERROR: u32 = 0;
const ILLEGAL: u32 = 1;
const ABORTED: u32 = 2;

const SYNC: [u64; 2] = [0x46, 0];
/// log2 of the entries of [`QUEUE`].
const LOG2: u64 = 10;

/// Where a device would find nothing: no RAM, a device, the end of RAM, RAM in which
/// nothing answers.
const NOWHERE: [u64; 4] = [0x0900_0000, 0x3fff_f000, 0x1_0000_0000, HOLLOW];

#[repr(C, align(16384))]
struct Memory(UnsafeCell<[u8; 16384]>);

// SAFETY: one CPU runs, and nothing makes a reference to the bytes.
unsafe impl Sync for Memory {}

static QUEUE: Memory = Memory(UnsafeCell::new([0; 16384]));
static TABLE: Memory = Memory(UnsafeCell::new([0; 16384]));
static TARGET: Memory = Memory(UnsafeCell::new([0; 16384]));

fn address(memory: &Memory) -> u64 {
    memory.0.get() as u64
}

/// Whether the host has an SMMU of its own.
pub fn is_there() -> bool {
    exception(|| _ = read(SMMU)) == NONE && read(SMMU) != 0
}

pub fn attack(checks: &mut Checks) {
    accesses(checks);
    undescribed::at_smmu(checks, address(&QUEUE), LOG2 as u32, || {
        (0..1 << LOG2).for_each(|n| place(n, [0x10, 0]));
    });
    settle();
    misaligned(checks);
    registers(checks);
    queues_elsewhere(checks);
    queue_in_firmware(checks);
    commands(checks);
    messages(checks);
    tables(checks);
    write(CR0, 0);
}

/// Every register, narrowly and exclusively; and what is reserved.
fn accesses(checks: &mut Checks) {
    let pages = [SMMU, SMMU + 0x1_0000];
    let sum = || {
        let words = pages
            .iter()
            .flat_map(|page| (*page..page + 0x1000).step_by(4));
        words.fold(0u64, |sum, at| sum.rotate_left(7) ^ u64::from(read(at)))
    };
    let before = sum();
    let narrow = || {
        for page in pages {
            for at in page..page + 0x1000 {
                write8(at, 0xff);
            }
            for at in (page..page + 0x1000).step_by(2) {
                write16(at, 0xffff);
            }
        }
    };
    checks.equal("smmu_narrow_writes", exception(narrow), NONE);
    checks.equal("smmu_narrow_writes_change_nothing", sum(), before);
    let exclusive = || {
        // SAFETY: the store aborts: the emulation has no monitor.
        unsafe {
            asm!("ldxr {v:w}, [{a}]", "stxr {s:w}, {v:w}, [{a}]",
                 v = out(reg) _, s = out(reg) _, a = in(reg) CR0)
        }
    };
    checks.equal("smmu_exclusive", exception(exclusive), DATA);
    for (name, at) in [
        ("smmu_reserved", SMMU + 0x1000),
        ("smmu_secure", SMMU + 0x8000),
        ("smmu_reserved_page_1", SMMU + 0x1_1000),
        ("smmu_last", SMMU + 0x1_fffc),
    ] {
        checks.equal(name, exception(|| write(at, u32::MAX)), NONE);
        checks.equal(name, exception(|| _ = read(at)), NONE);
        checks.equal(name, read(at), 0);
    }
    checks.equal(
        "smmu_beyond",
        exception(|| _ = read64(SMMU + 0x1_fff8)),
        NONE,
    );
}

/// Accesses that cross registers. Stage 1 says that they are memory, so only stage
/// 2, which says that they are registers, stands in the way.
fn misaligned(checks: &mut Checks) {
    for (name, offset) in [
        ("smmu_misaligned", 0x21),
        ("smmu_misaligned_page_1", 0x1_00a6),
    ] {
        let at = stage1::AS_MEMORY + SMMU + offset;
        let before = read(SMMU + (offset & !3));
        for (name, load) in [(name, true), (name, false)] {
            let mut got = NONE;
            stage1::with(|| {
                got = exception(|| {
                    if load {
                        _ = read(at)
                    } else {
                        write(at, u32::MAX)
                    }
                });
            });
            checks.equal(name, got, ALIGNMENT);
            checks.equal(name, LAST.far(), at);
        }
        checks.equal(name, read(SMMU + (offset & !3)), before);
    }
}

/// Every register but CR0 with all bits set, in both sizes: what identifies the
/// SMMU stays.
fn registers(checks: &mut Checks) {
    let identity = || (0..8).map(|n| u64::from(read(SMMU + n * 4))).fold(0, fold);
    let before = identity();
    for value in [u64::MAX, 0] {
        for page in [SMMU, SMMU + 0x1_0000] {
            for at in (page..page + 0x1000).step_by(4) {
                if at != CR0 {
                    write(at, value as u32);
                }
            }
            for at in (page..page + 0x1000).step_by(8) {
                if at != CR0 {
                    write64(at, value);
                }
            }
        }
    }
    checks.equal("smmu_identity", identity(), before);
    checks.equal("smmu_cr0ack_is_read_only", read(CR0ACK), 0);
    // Update, with no abort: as after reset.
    write(GBPA, 1 << 31);
    checks.equal("smmu_gbpa", read(GBPA) >> 20, 0);
    settle();
}

fn fold(sum: u64, word: u64) -> u64 {
    sum.rotate_left(7) ^ word
}

/// Acknowledges every error, and says which there were.
fn settle() -> u32 {
    let active = read(GERROR) ^ read(GERRORN);
    write(GERRORN, read(GERROR));
    active
}

/// Starts the command queue at `base` with `1 << log2` entries.
fn start(base: u64, log2: u64) {
    write(CR0, 0);
    write64(CMDQ_BASE, base | log2);
    write(CMDQ_PROD, 0);
    write(CMDQ_CONS, 0);
    settle();
    write(CR0, CMDQEN);
}

/// Why the queue stopped.
fn stopped() -> u32 {
    let active = (read(GERROR) ^ read(GERRORN)) & CMDQ_ERR != 0;
    if active {
        read(CMDQ_CONS) >> 24 & 0x7f
    } else {
        NO_ERROR
    }
}

/// Puts `command` at `index` and everything up to it into force.
fn submit(index: u32, command: [u64; 2]) {
    place(index, command);
    write(CMDQ_PROD, index + 1);
}

fn place(index: u32, command: [u64; 2]) {
    let at = address(&QUEUE) + u64::from(index) * 16;
    write64(at, command[0]);
    write64(at + 8, command[1]);
}

/// Queues where the host has no memory.
fn queues_elsewhere(checks: &mut Checks) {
    for base in [HYPERVISOR, HYPERVISOR + 0x8_0000]
        .into_iter()
        .chain(NOWHERE)
    {
        for log2 in [0, 8, 19, 31] {
            // Aligned to their size, as the register makes them.
            start(base, log2);
            checks.equal("smmu_foreign_queue_is_on", read(CR0ACK), CMDQEN);
            write(CMDQ_PROD, 1);
            checks.equal("smmu_foreign_queue", stopped(), ABORTED);
            checks.equal("smmu_foreign_queue_stays", read(CMDQ_CONS) & 0xf_ffff, 0);
        }
    }
    write(CR0, 0);
    for base in [HYPERVISOR].into_iter().chain(NOWHERE) {
        write64(EVENTQ_BASE, base | 31);
        write(CR0, EVENTQEN);
        checks.equal("smmu_foreign_events", read(CR0ACK), EVENTQEN);
        write(CR0, 0);
    }
}

/// A queue in memory that the tree says is firmware's, on a machine that has
/// such memory there and nothing behind it: EL2 must not be the one to find out.
fn queue_in_firmware(checks: &mut Checks) {
    if exception(|| _ = read(FIRMWARE)) != DATA {
        return;
    }
    start(FIRMWARE, 8);
    write(CMDQ_PROD, 1);
    checks.equal("smmu_queue_in_firmware", stopped(), ABORTED);
    write(CR0, 0);
    write64(EVENTQ_BASE, FIRMWARE | 8);
    write(CR0, EVENTQEN);
    checks.equal("smmu_events_in_firmware", read(CR0ACK), EVENTQEN);
    write(CR0, 0);
    start(address(&QUEUE), LOG2);
    write64(STRTAB_BASE, FIRMWARE);
    write(STRTAB_BASE_CFG, 8);
    write(CR0, CMDQEN | SMMUEN);
    place(0, [0x04, 31]);
    submit(1, SYNC);
    checks.equal("smmu_table_in_firmware", read(CMDQ_CONS), 2);
    write(CR0, 0);
    settle();
}

/// Commands that are not the host's to give, and more of them than fit.
fn commands(checks: &mut Checks) {
    start(address(&QUEUE), LOG2);
    let ssec = 1 << 10;
    let mut index = 0;
    for (name, word) in [
        ("zero", 0),
        ("unknown", 0xff),
        ("tlbi_el3_all", 0x18),
        ("tlbi_el2_all", 0x20),
        ("tlbi_el2_va", 0x22),
        ("tlbi_s12_vmall", 0x28),
        ("tlbi_s2_ipa", 0x2a),
        ("tlbi_snh_all", 0x60),
        ("cfgi_vms_pidm", 0x07),
        ("dpti_all", 0x70),
        ("atc_inv", 0x40),
        ("pri_resp", 0x41),
        ("cfgi_ste_secure", 0x03 | ssec),
        ("cfgi_all_secure", 0x04 | ssec),
        ("prefetch_secure", 0x01 | ssec),
        ("sync_reserved", 0x46 | 3 << 12),
    ] {
        submit(index, [word, 0]);
        checks.equal(name, stopped(), ILLEGAL);
        checks.equal(name, read(CMDQ_CONS) & 0xf_ffff, index);
        place(index, SYNC);
        settle();
        index += 1;
        checks.equal(name, read(CMDQ_CONS), index);
    }
    // Somebody else's VMID, streams that nobody has, garbage in reserved bits.
    for command in [
        [0x10 | 0xbeef << 32, 0],
        [0x30, 0],
        [0x12 | 0xffff << 48 | 0xbeef << 32, !0xfff],
        [0x03 | 0xffff_ffff << 32, 1],
        [0x04 | 0xffff_ffff << 32, 31],
        [0x05 | 0xdead_beef << 32, 0],
        [0x46 | u64::MAX << 14, u64::MAX],
    ] {
        submit(index, command);
        index += 1;
        checks.equal(
            "smmu_harmless",
            (stopped(), read(CMDQ_CONS)),
            (NO_ERROR, index),
        );
    }
    // Indices that no queue has, then a whole queue at once.
    for prod in [0xf_ffff, 0x7_ffff, 1 << 19, u32::MAX] {
        write(CMDQ_PROD, prod);
        checks.equal("smmu_indices", stopped(), NO_ERROR);
    }
    start(address(&QUEUE), LOG2);
    let entries = 1 << LOG2;
    (0..entries).for_each(|n| place(n, [0x10, 0]));
    write(CMDQ_PROD, entries);
    checks.equal("smmu_full_queue", read(CMDQ_CONS), entries);
    (0..entries).for_each(|n| place(n, SYNC));
    write(CMDQ_PROD, 0);
    checks.equal("smmu_full_queue_of_syncs", read(CMDQ_CONS), 0);
}

/// Messages to where the host may not write.
fn messages(checks: &mut Checks) {
    let signal = 1 << 12 | 0x1234_5678 << 32;
    start(address(&QUEUE), LOG2);
    let target = address(&TARGET);
    write(target, 0);
    submit(0, [0x46 | signal, target]);
    checks.equal("smmu_message", read(target), 0x1234_5678);
    let elsewhere = [
        HYPERVISOR,
        HYPERVISOR + 0x9_0000,
        0x0800_0200,
        SMMU + 0x20,
        HOLLOW,
    ];
    for (n, at) in (1..).zip(elsewhere) {
        submit(n, [0x46 | signal, at]);
        checks.equal("smmu_foreign_message", settle(), MSI_CMDQ_ABT_ERR);
        checks.equal("smmu_foreign_message_completes", read(CMDQ_CONS), n + 1);
    }
    // The message about an error has nowhere to go either.
    write64(GERROR_IRQ_CFG0, HYPERVISOR);
    write(IRQ_CTRL, 1);
    submit(6, [0xff, 0]);
    checks.equal("smmu_foreign_error_message", stopped(), ILLEGAL);
    write(CR0, 0);
    settle();
    write(IRQ_CTRL, 0);
}

/// Stream tables that the host has no memory for.
fn tables(checks: &mut Checks) {
    let own = address(&TABLE);
    // A first level whose descriptors lead to the hypervisor.
    for n in 0..64 {
        write64(own + n * 8, HYPERVISOR | 7);
    }
    for (base, cfg) in [
        (HYPERVISOR, 16),
        (HYPERVISOR, 1 << 16 | 6 << 6 | 16),
        (0x0900_0000, 31),
        (HOLLOW, 6),
        (HOLLOW, 1 << 16 | 6 << 6 | 12),
        (own, 1 << 16 | 6 << 6 | 12),
        (own, 3 << 16 | 31 << 6 | 63),
    ] {
        start(address(&QUEUE), LOG2);
        write64(STRTAB_BASE, base);
        write(STRTAB_BASE_CFG, cfg);
        write(CR0, CMDQEN | SMMUEN);
        checks.equal("smmu_foreign_table", read(CR0ACK), CMDQEN | SMMUEN);
        place(0, [0x04, 31]);
        place(1, [0x03 | 8 << 32, 1]);
        submit(2, SYNC);
        checks.equal("smmu_foreign_table_read", read(CMDQ_CONS), 3);
        write(CR0, 0);
        checks.equal("smmu_off", read(CR0ACK), 0);
    }
}

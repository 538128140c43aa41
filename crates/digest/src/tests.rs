use super::*;
use std::cell::RefCell;
use std::collections::BTreeMap;

const START: u64 = 0x4000_0000;
const SIZE: u64 = 0x10_0000;
/// Where the host's memory is.
const HOST: u64 = 0x8000_0000;

/// A MiB of memory, zero where nothing was stored.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<u64, u64>>);

impl Memory {
    fn store(&self, at: u64, value: u64) {
        self.0.borrow_mut().insert(at, value);
    }

    /// A page that nothing uses.
    fn fill(&self, page: u64) {
        (0..512).for_each(|n| self.store(page + n * 8, PATTERN));
    }
}

impl View for Memory {
    fn load(&self, at: PhysAddr) -> Option<u64> {
        let at = at.raw();
        (START..START + SIZE)
            .contains(&at)
            .then(|| self.0.borrow().get(&at).copied().unwrap_or(0))
    }
}

const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Stage 2 at `START`, EL2's own tables 64 KiB above, a stream table at 128 KiB,
/// two unused pages at 192 KiB.
fn machine() -> Memory {
    let memory = Memory::default();
    let table = |at: u64| at | 3;
    memory.store(START + 8, table(START + 0x2000));
    memory.store(START + 0x1000 + 8 * 7, 0x4000_0401);
    memory.store(START + 0x2000, table(START + 0x3000));
    memory.store(START + 0x3000 + 8 * 3, HOST | 0x7ff);
    for level in 0..3 {
        let at = START + 0x1_0000 + level * 0x1000;
        memory.store(at, table(at + 0x1000));
    }
    memory.store(START + 0x1_3000, START | 0x783);
    memory.store(START + 0x2_0000 + 8, (START + 0x2_1000) | 7);
    memory.store(START + 0x2_1000, 0xd);
    memory.fill(START + 0x3_0000);
    memory.fill(START + 0x3_1000);
    memory
}

fn digest(memory: &Memory) -> u64 {
    digest_unused(memory, &[START + 0x3_0000, START + 0x3_1000])
}

fn digest_unused(memory: &Memory, unused: &[u64]) -> u64 {
    let mut digest = Digest::new(memory);
    let code = Range::from_size(PhysAddr::new(START + 0x4_0000), 0x1000).unwrap();
    digest.words(code);
    digest.tables(PhysAddr::new(START), 1, 2);
    let is_lent = |at: PhysAddr| at.raw() >= HOST;
    digest.own_tables(PhysAddr::new(START + 0x1_0000), 0, &is_lent);
    let cfg = StrtabBaseCfg::new()
        .with_fmt(FMT_TWO_LEVEL)
        .with_log2size(8)
        .with_split(6);
    let base = StrtabBase::new().with_addr_6((START + 0x2_0000) >> 6);
    digest.streams(base, cfg);
    digest.unused(unused.iter().map(|at| PhysAddr::new(*at)), PATTERN);
    digest.finish()
}

#[test]
fn the_same_is_the_same() {
    assert_eq!(digest(&machine()), digest(&machine()));
}

#[test]
fn each_word_that_must_not_change_counts() {
    let before = digest(&machine());
    for (what, at, value) in [
        ("code", START + 0x4_0000, 1),
        ("the last word of it", START + 0x4_0ff8, 1),
        ("a root", START + 344 * 8, 0x4000_04d5),
        ("the second root", START + 0x1000, 0x4000_04d5),
        ("an entry of a lower level", START + 0x3000, HOST | 0x7ff),
        (
            "what an invalid entry holds",
            START + 0x2000 + 8 * 5,
            1 << 60,
        ),
        ("EL2's own entry", START + 0x1_3000, START | 0x703),
        ("a new one", START + 0x1_3000 + 8, (START + 0x5000) | 0x783),
        ("a table of EL2's gone", START + 0x1_0000, 0),
        (
            "a first level of streams",
            START + 0x2_0000,
            (START + 0x2_2000) | 7,
        ),
        ("a stream's first word", START + 0x2_1000 + 64, 1),
        (
            "the last stream's last word",
            START + 0x2_1000 + 64 * 64 - 8,
            1,
        ),
        ("an unused page", START + 0x3_1000 + 8, 0),
        ("the end of one", START + 0x3_0ff8, !PATTERN),
    ] {
        let memory = machine();
        memory.store(at, value);
        assert_ne!(digest(&memory), before, "{what}");
    }
}

#[test]
fn what_may_change_does_not_count() {
    let before = digest(&machine());
    for (what, at, value) in [
        (
            "a page of the host's that EL2 looks at",
            START + 0x1_3000 + 8 * 9,
            HOST | 0x783,
        ),
        (
            "a table for such pages",
            START + 0x1_2000 + 8 * 4,
            START + 0x1_5003,
        ),
        ("memory in use", START + 0x5_0000, 1),
    ] {
        let memory = machine();
        memory.store(at, value);
        assert_eq!(digest(&memory), before, "{what}");
    }
    // A page that is taken, whatever is in it now.
    let memory = machine();
    memory.store(START + 0x3_1000, 17);
    assert_eq!(digest_unused(&memory, &[START + 0x3_0000]), before);
}

#[test]
fn forged_entries_are_not_followed() {
    // Into the host's memory, and in a circle.
    let before = digest(&machine());
    for entry in [HOST | 3, (START + 0x1_0000) | 3, u64::MAX] {
        for at in [START + 16, START + 0x1_0000 + 16, START + 0x1_0000] {
            let memory = machine();
            memory.store(at, entry);
            assert_ne!(digest(&memory), before, "{entry:#x} at {at:#x}");
        }
    }
}

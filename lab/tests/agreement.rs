//! Where something was measured too: the same numbers, exactly. What was measured is
//! in the shared notes on QEMU and in README.md.
#![allow(missing_docs)]

use portcullis_addr::{Iova, Ipa, Range};
use portcullis_lab::input;
use portcullis_lab::machine::{Machine, Mode, Shape, with_client};
use portcullis_lab::platform::Platform;
use portcullis_lab::scenario::Scenario;
use portcullis_lab::timing::{Memo, Outcome, Unit};
use portcullis_lab::units::Picos;
use smmuv3_spec::command::{Command, Opcode};

fn qemu() -> Platform {
    input::parse(include_str!("qemu.toml"), "qemu.toml").unwrap()
}

fn scenario() -> Scenario {
    let text = include_str!("../scenarios/nvme-4k.toml");
    input::parse(text, "nvme-4k.toml").unwrap()
}

/// Reads of accesses to two pages of a mapping, one of them twice: descriptors and
/// structures of the configuration.
fn reads(mode: Mode) -> [(u32, u32); 3] {
    let (platform, scenario) = (qemu(), scenario());
    let shape = Shape::of(&platform, &scenario);
    let machine = Machine::new(&shape).unwrap();
    with_client(&machine, &shape, mode, |client| {
        let base = machine.buffers();
        let page = |n: u64| Range::from_size(Ipa::new(base + n * 4096), 4096).unwrap();
        let iova = match mode {
            Mode::Identity => base,
            _ => 0xfff0_0000,
        };
        client.map(0, Iova::new(iova), &[page(0), page(1)]).unwrap();
        let mut unit = Unit::of(&platform);
        let mut memo = Memo::new(&machine, &shape);
        [0, 4096, 4096].map(|offset| {
            let done = unit.translate(&mut memo, 0, iova + offset, Picos::ZERO);
            match done.unwrap().outcome {
                Outcome::Walk(charged) => (charged.descriptors, charged.structures),
                Outcome::Micro | Outcome::Main => (0, 0),
            }
        })
    })
    .unwrap()
}

#[test]
fn nested_reads_28_descriptors_cold_8_warm_and_none_on_a_hit() {
    // The second-level stream table's descriptor, the entry, the context descriptor.
    assert_eq!(reads(Mode::Nested), [(28, 3), (8, 0), (0, 0)]);
}

#[test]
fn a_single_stage_reads_4_descriptors_and_none_on_a_hit() {
    assert_eq!(reads(Mode::Paravirt), [(4, 2), (4, 0), (0, 0)]);
    assert_eq!(reads(Mode::Identity), [(4, 2), (4, 0), (0, 0)]);
    assert_eq!(reads(Mode::Native), [(4, 3), (4, 0), (0, 0)]);
}

/// Entries to EL2 and commands of a mapping, and of its unmapping.
fn operations(mode: Mode, platform: &Platform, bytes: u64) -> [(u64, Vec<Opcode>); 2] {
    let scenario = scenario();
    let shape = Shape::of(platform, &scenario);
    let machine = Machine::new(&shape).unwrap();
    with_client(&machine, &shape, mode, |client| {
        let pages = Range::from_size(Ipa::new(machine.buffers()), bytes).unwrap();
        let iova = Range::from_size(Iova::new(0xff00_0000), bytes).unwrap();
        // Another mapping beside it, as nearly always.
        let other = Range::from_size(Ipa::new(machine.buffers() + (64 << 20)), 4096).unwrap();
        client.map(0, Iova::new(0xfefe_0000), &[other]).unwrap();
        // The first unmapping also ends what starting the SMMU left in its queue.
        client.map(0, iova.start(), &[pages]).unwrap();
        client.unmap(0, iova).unwrap();
        machine.take_commands();
        let opcodes = || -> Vec<Opcode> {
            machine
                .take_commands()
                .iter()
                .map(Command::opcode)
                .collect()
        };
        let mapped = client.map(0, iova.start(), &[pages]).unwrap().entries;
        let map = (mapped, opcodes());
        let unmapped = client.unmap(0, iova).unwrap().entries;
        [map, (unmapped, opcodes())]
    })
    .unwrap()
}

#[test]
fn an_unmapping_is_one_invalidation_one_sync_and_one_entry() {
    let platform = qemu();
    for bytes in [4096, 65536, 1 << 20] {
        let of = |mode| operations(mode, &platform, bytes);
        let nested = vec![Opcode::TLBI_NH_VA, Opcode::SYNC];
        assert_eq!(
            of(Mode::Nested),
            [(0, vec![]), (1, nested.clone())],
            "{bytes}"
        );
        assert_eq!(of(Mode::Native), [(0, vec![]), (0, nested)], "{bytes}");
        let paravirt = vec![Opcode::TLBI_S2_IPA, Opcode::SYNC];
        assert_eq!(of(Mode::Paravirt), [(1, vec![]), (1, paravirt)], "{bytes}");
        assert_eq!(of(Mode::Identity), [(0, vec![]), (0, vec![])], "{bytes}");
    }
}

#[test]
fn without_ranges_the_stock_driver_sends_a_command_a_page_in_batches_of_64() {
    let platform = Platform::named("mmu600").unwrap();
    let [map, (entries, commands)] = operations(Mode::Nested, &platform, 1 << 20);
    assert_eq!(map, (0, vec![]));
    let invalidations = commands.iter().filter(|o| **o == Opcode::TLBI_NH_VA);
    assert_eq!((invalidations.count(), entries), (256, 4));
    for (pages, entries) in [(64, 1), (65, 2)] {
        let [_, (found, _)] = operations(Mode::Nested, &platform, pages * 4096);
        assert_eq!(found, entries, "{pages}");
    }
    // More pages than the driver names one by one: all of the domain goes.
    let [_, (entries, commands)] = operations(Mode::Paravirt, &platform, 1 << 20);
    assert_eq!(
        (entries, commands),
        (1, vec![Opcode::TLBI_S12_VMALL, Opcode::SYNC])
    );
}

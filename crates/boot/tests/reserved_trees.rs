//! Reserved memory as trees say it and as Linux does not read it: the host's tree
//! says all of it as Linux does read it.
//!
//! What Linux reads is from its `drivers/of/fdt.c` and `drivers/of/of_reserved_mem.c`
//! (github.com/torvalds/linux): `__reserved_mem_check_root` wants both cells given
//! and equal to the root's, and `ranges`; `__reserved_mem_reserve_reg` passes a `reg`
//! that is not whole entries; `early_init_dt_reserve_memory` refuses `no-map` for
//! what is reserved already; `fdt_scan_reserved_mem` looks at the first node of that
//! name. A case in the field: <202601131101.q65jw7p0-lkp@intel.com> quotes what Linux says,
//! "Reserved memory: unsupported node format, ignoring". Framebuffers with `iommu-addresses`:
//! the binding `reserved-memory.yaml`, and <647ca0c3-9ea5-42e4-8f76-038987d5ae1e@arm.com>
//! ("decon device is constantly reading splash screen pixel data").

mod support;

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    Fdt, FirmwareMemory, HostTreePlan, KernelHeader, KernelPages, Loaded, Machine, Odd,
};
use support::{Board, Tree, cells, listing, machine, range, reg};

const IMAGE: u64 = 0x4020_0000;

fn loaded() -> Loaded {
    Loaded {
        image: range(IMAGE, 0x8_0000),
        tree: range(0x4400_0000, 0x1800),
        kernel: KernelHeader {
            text_offset: 0,
            image_size: 0x20_0000,
            pages: KernelPages::Size4K,
            anywhere: true,
        },
    }
}

/// The host's tree for `tree`, and what is firmware's.
fn host_tree(tree: &Tree, reservations: &[(u64, u64)]) -> (Vec<u8>, Vec<Range<PhysAddr>>) {
    let blob = tree.flatten_with(reservations);
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let firmware = FirmwareMemory::find(&machine, &loaded()).unwrap();
    let protected = [range(IMAGE, 0x8_0000), range(0x7fc0_0000, 0x40_0000)];
    let plan = HostTreePlan::new(&machine, &protected, true).with_firmware(&firmware);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    out.truncate(size);
    (out, firmware.ranges().collect())
}

/// What Linux takes for reserved, in the order in which it reads it.
#[derive(Debug, Default, PartialEq)]
struct Linux {
    /// Not in the linear map.
    no_map: Vec<(u64, u64)>,
    /// In the linear map.
    mapped: Vec<(u64, u64)>,
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

/// Reads a tree as Linux does; `first_only` as one does that takes the first entry
/// of a `reg` alone.
fn as_linux(blob: &[u8], first_only: bool) -> Linux {
    let fdt = Fdt::new(blob).unwrap();
    let mut found = Linux::default();
    found.mapped.extend(fdt.reservations());
    let root = fdt.root();
    let (address, size) = ["#address-cells", "#size-cells"]
        .map(|name| number(root.property(name.as_bytes()).unwrap()) as usize * 4)
        .into();
    let mut all = root.children();
    // Before 6.10, `strcmp`.
    let Some(node) = all.find(|node| node.name() == b"reserved-memory") else {
        return found;
    };
    let same = |name: &str, bytes: usize| {
        node.property(name.as_bytes()).map(number) == Some(bytes as u64 / 4)
    };
    if !same("#size-cells", size)
        || !same("#address-cells", address)
        || node.property(b"ranges").is_none()
    {
        return found;
    }
    for child in node.children().filter(|child| child.is_enabled()) {
        let value = child.property(b"reg").unwrap_or_default();
        if !value.len().is_multiple_of(address + size) {
            continue;
        }
        for entry in value.chunks(address + size) {
            let (base, bytes) = (number(&entry[..address]), number(&entry[address..]));
            let overlaps = |(at, size): &(u64, u64)| *at < base + bytes && base < at + size;
            match child.property(b"no-map") {
                Some(_) if found.mapped.iter().any(overlaps) => {}
                Some(_) => found.no_map.push((base, bytes)),
                None => found.mapped.push((base, bytes)),
            }
            if first_only {
                break;
            }
        }
    }
    found
}

/// Whether Linux, of whatever age, leaves out of its linear map all that is the
/// hypervisor's and firmware's.
fn assert_told(tree: &Tree, reservations: &[(u64, u64)], expected: &[(u64, u64)]) -> Vec<u8> {
    let (out, firmware) = host_tree(tree, reservations);
    for (at, size) in expected {
        let part = |found: &&Range<PhysAddr>| found.covers(&range(*at, *size));
        assert!(
            firmware.iter().any(|found| part(&found)),
            "{at:#x}: {firmware:x?}"
        );
    }
    for first_only in [false, true] {
        let linux = as_linux(&out, first_only);
        let own = [(IMAGE, 0x8_0000), (0x7fc0_0000, 0x40_0000)];
        let firmware = firmware
            .iter()
            .map(|range| (range.start().raw(), range.size()));
        for (start, size) in own.into_iter().chain(firmware) {
            for page in (start..start + size).step_by(4096) {
                let covers = |(at, size): &(u64, u64)| *at <= page && page + 4096 <= at + size;
                assert!(
                    linux.no_map.iter().any(covers),
                    "{page:#x}, first_only={first_only}\n{}",
                    listing(&out).join("\n")
                );
            }
        }
    }
    out
}

fn odd(tree: &Tree) -> Vec<Odd> {
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    machine.odd.iter().map(|(_, odd)| odd).collect()
}

fn parent(name: &str, address: u32, size: u32) -> Tree {
    Tree::new(name)
        .with("#address-cells", cells(&[address]))
        .with("#size-cells", cells(&[size]))
        .with("ranges", [])
}

/// A child whose `reg` has that many cells.
fn carve_out(start: u64, bytes: u64, address: usize, size: usize) -> Tree {
    let cut = |value: u64, cells: usize| value.to_be_bytes()[8 - cells * 4..].to_vec();
    Tree::new(&format!("fw@{start:x}"))
        .with("reg", [cut(start, address), cut(bytes, size)].concat())
        .with("no-map", [])
}

const FIRMWARE: (u64, u64) = (0x6000_0000, 0x2000);

#[test]
fn cells_that_are_not_the_roots() {
    for (address, size) in [(1, 1), (2, 1), (1, 2), (2, 2)] {
        let child = carve_out(FIRMWARE.0, FIRMWARE.1, address, size);
        let tree =
            machine().child(parent("reserved-memory", address as u32, size as u32).child(child));
        assert_told(&tree, &[], &[FIRMWARE]);
        let rewritten = (address, size) != (2, 2);
        assert_eq!(
            odd(&tree).contains(&Odd::ReservedMemoryRewritten),
            rewritten
        );
    }
}

/// By the specification what is not given is two cells and one (2.3.5); most who
/// leave it out mean the root's.
#[test]
fn cells_that_are_not_given() {
    for (address, size) in [(2, 2), (2, 1)] {
        let child = carve_out(FIRMWARE.0, FIRMWARE.1, address, size);
        let mut tree = machine().child(parent("reserved-memory", 2, 2).child(child));
        let node = tree.at("reserved-memory");
        node.remove("#address-cells");
        node.remove("#size-cells");
        assert_told(&tree, &[], &[FIRMWARE]);
    }
}

#[test]
fn a_node_without_ranges_with_an_address_or_that_is_disabled() {
    let child = || carve_out(FIRMWARE.0, FIRMWARE.1, 2, 2);
    let mut tree = machine().child(parent("reserved-memory", 2, 2).child(child()));
    tree.at("reserved-memory").remove("ranges");
    assert_told(&tree, &[], &[FIRMWARE]);
    let tree = machine().child(parent("reserved-memory@60000000", 2, 2).child(child()));
    assert_told(&tree, &[], &[FIRMWARE]);
    // Linux looks at the status of the children alone.
    let disabled = parent("reserved-memory", 2, 2).text("status", "disabled");
    assert_told(&machine().child(disabled.child(child())), &[], &[FIRMWARE]);
}

/// Linux takes the addresses for physical ones, the specification translates them:
/// what is meant is one of both.
#[test]
fn ranges_that_say_something() {
    let windows = [
        reg(&[(0x6000_0000, 0x6800_0000)]),
        0x1000_0000_u64.to_be_bytes().to_vec(),
    ]
    .concat();
    let child = carve_out(FIRMWARE.0, FIRMWARE.1, 2, 2);
    let node = parent("reserved-memory", 2, 2).with("ranges", windows);
    let elsewhere = (0x6800_0000, FIRMWARE.1);
    assert_told(
        &machine().child(node.child(child)),
        &[],
        &[FIRMWARE, elsewhere],
    );
}

#[test]
fn two_nodes() {
    let first = parent("reserved-memory", 2, 2).child(carve_out(0x6000_0000, 0x1000, 2, 2));
    let second = parent("reserved-memory@1", 1, 1)
        .child(carve_out(0x6100_0000, 0x1000, 1, 1).with("phandle", cells(&[77])));
    let tree = machine().child(first).child(second);
    let expected = [(0x6000_0000, 0x1000), (0x6100_0000, 0x1000)];
    let out = assert_told(&tree, &[], &expected);
    let host = Fdt::new(&out).unwrap();
    let moved = host.by_phandle(77).unwrap();
    assert_eq!(
        host.path(moved.id()).as_str(),
        "/reserved-memory/fw@61000000"
    );
    assert!(host.find(b"/reserved-memory@1").is_none());
    assert_eq!(odd(&tree), [Odd::SecondReservedMemory]);
}

#[test]
fn several_entries_in_one_reg() {
    let child = Tree::new("fw@60000000")
        .with(
            "reg",
            reg(&[(0x6000_0000, 0x1000), (0, 0), (0x6100_0000, 0x1000)]),
        )
        .with("no-map", []);
    let tree = machine().child(parent("reserved-memory", 2, 2).child(child));
    assert_told(&tree, &[], &[(0x6000_0000, 0x1000), (0x6100_0000, 0x1000)]);
}

/// Less than a page is a page of the linear map.
#[test]
fn a_range_that_is_not_whole_pages() {
    let child = carve_out(0x6000_0800, 0x400, 2, 2);
    let tree = machine().child(parent("reserved-memory", 2, 2).child(child));
    assert_told(&tree, &[], &[(0x6000_0000, 0x1000)]);
}

#[test]
fn what_something_else_reserves_first() {
    let mut mapped = carve_out(0x6000_0000, 0x1000, 2, 2);
    mapped.remove("no-map");
    mapped.name = "display".into();
    let child = carve_out(FIRMWARE.0, FIRMWARE.1, 2, 2);
    let node = parent("reserved-memory", 2, 2).child(mapped).child(child);
    let tree = machine().child(node);
    assert_told(&tree, &[], &[FIRMWARE]);
    // The loader lists what it has loaded, and firmware's memory once more.
    let listed = [
        (IMAGE, 0x8_0000),
        (0x6000_0000, 0x1000),
        (0x7000_0000, 0x800),
    ];
    let child = carve_out(FIRMWARE.0, FIRMWARE.1, 2, 2);
    let tree = machine().child(parent("reserved-memory", 2, 2).child(child));
    assert_told(&tree, &listed, &[FIRMWARE, (0x7000_0000, 0x1000)]);
}

/// 64 places is what Linux has for nodes that drivers look up (`MAX_RESERVED_REGIONS`);
/// it keeps the memory of the others out of its map all the same.
#[test]
fn more_than_linux_has_places_for() {
    let mut node = parent("reserved-memory", 1, 1);
    for index in 0..80 {
        node = node.child(carve_out(0x6000_0000 + index * 0x1000, 0x1000, 1, 1));
    }
    let out = assert_told(&machine().child(node), &[], &[(0x6004_f000, 0x1000)]);
    // Ours take none from a driver's.
    let host = Fdt::new(&out).unwrap();
    let parent = host.find(b"/reserved-memory").unwrap();
    let names: Vec<_> = parent.children().map(|node| node.name()).collect();
    assert!(
        names[80..]
            .iter()
            .all(|name| name.starts_with(b"portcullis@"))
    );
}

/// What cannot be read is nothing for Linux, and the rest of the tree is worth the
/// boot; but where it says that not even an operating system may map it, it is
/// somebody's, and nothing says what.
#[test]
fn a_child_that_says_nothing() {
    for bad in [
        vec![0; 12],
        reg(&[(u64::MAX - 0xfff, 0x2000)]),
        vec![0xff; 3],
    ] {
        let child = carve_out(FIRMWARE.0, FIRMWARE.1, 2, 2);
        let bad = Tree::new("odd").with("reg", bad);
        let firmware = bad.clone().with("no-map", []);
        let node = parent("reserved-memory", 2, 2).child(firmware);
        let refused = Machine::from_fdt(&machine().child(node).flatten()).unwrap_err();
        assert!(refused.to_string().contains("odd"), "{refused}");
        let node = parent("reserved-memory", 2, 2).child(bad.clone());
        let tree = machine().child(node.child(child.clone()));
        assert_told(&tree, &[], &[FIRMWARE]);
        assert_eq!(odd(&tree), [Odd::ReservedUnreadable]);
        // Nor does it say something else in other cells.
        let mut node = parent("reserved-memory", 2, 2).child(bad).child(child);
        node.remove("ranges");
        assert_told(&machine().child(node), &[], &[FIRMWARE]);
    }
}

/// What the operating system places itself: `size` and `alignment` are in cells of
/// the node around, too (3.5.2).
#[test]
fn sizes_without_an_address() {
    let pool = Tree::new("linux,cma")
        .text("compatible", "shared-dma-pool")
        .with("size", cells(&[0x100_0000]))
        .with("alignment", cells(&[0x20_0000]))
        .with("alloc-ranges", cells(&[0x4000_0000, 0x4000_0000]))
        .with("reusable", []);
    let child = carve_out(FIRMWARE.0, FIRMWARE.1, 1, 1);
    let node = parent("reserved-memory", 1, 1).child(pool).child(child);
    let out = assert_told(&machine().child(node), &[], &[FIRMWARE]);
    let host = Fdt::new(&out).unwrap();
    let pool = host.find(b"/reserved-memory/linux,cma").unwrap();
    let value = |name: &str| pool.property(name.as_bytes()).unwrap().to_vec();
    assert_eq!(value("size"), 0x100_0000_u64.to_be_bytes());
    assert_eq!(value("alignment"), 0x20_0000_u64.to_be_bytes());
    assert_eq!(value("alloc-ranges"), reg(&[(0x4000_0000, 0x4000_0000)]));
    assert_eq!(value("reusable"), []);
}

/// Linux takes one cell of each for granted where the root says nothing, the
/// specification two and one.
#[test]
fn a_root_without_cells_gets_those_by_which_it_was_read() {
    let mut tree = machine();
    tree.remove("#size-cells");
    let entry = |start: u64, size: u32| [&start.to_be_bytes()[..], &size.to_be_bytes()].concat();
    for path in ["memory@40000000", "pl011@9000000", "pl011@9040000"] {
        let start = u64::from_str_radix(path.split('@').nth(1).unwrap(), 16).unwrap();
        let size = if start == 0x4000_0000 {
            0x4000_0000
        } else {
            0x1000
        };
        tree.at(path).set("reg", entry(start, size));
    }
    tree.at("smmu@9050000")
        .set("reg", entry(0x905_0000, 0x2_0000));
    let gic = [entry(0x800_0000, 0x1_0000), entry(0x80a_0000, 0xf6_0000)].concat();
    tree.at("intc@8000000").set("reg", gic);
    for (path, start) in [
        ("module@48000000", 0x4800_0000),
        ("module@50000000", 0x5000_0000),
    ] {
        tree.at("chosen")
            .at(path)
            .set("reg", entry(start, 0x10_0000));
    }
    let out = assert_told(&tree, &[], &[]);
    let root = Fdt::new(&out).unwrap().root();
    assert_eq!(root.property(b"#size-cells"), Some(&cells(&[1])[..]));
}

#[test]
fn memory_that_is_named_twice_counts_once() {
    let mut tree = machine();
    let twice = reg(&[
        (0x8000_0000, 0x10_0000),
        (0x4000_0000, 0x4010_0000),
        (0x8010_0000, 0x800),
        (0x8010_0800, 0x800),
    ]);
    tree.at("memory@40000000").set("reg", twice);
    let machine = Machine::from_fdt(&tree.flatten()).unwrap();
    let banks: Vec<_> = machine.memory.iter().copied().collect();
    assert_eq!(banks, [range(0x4000_0000, 0x4010_1000)]);
    assert_eq!(odd(&tree), [Odd::MemoryTwice]);
}

/// What CPUs or SMMUs cannot address is left out: QEMU's SMMUv3 has 44 bits, and a
/// machine may have RAM above (`-m 20T`).
#[test]
fn memory_that_not_all_reach_is_left_out() {
    let bank = |start: u64, size: u64| {
        Tree::new(&format!("memory@{start:x}"))
            .text("device_type", "memory")
            .with("reg", reg(&[(start, size)]))
    };
    let end = 1 << 44;
    let mut tree = machine()
        .child(bank(end - 0x4000_0000, 0x8000_0000))
        .child(bank(end + 0x4000_0000, 0x4000_0000));
    let both = reg(&[(0x4000_0000, 0x4000_0000), (end << 1, 0x1000)]);
    tree.at("memory@40000000").set("reg", both);
    let blob = tree.flatten();
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_fdt_on(
        &blob,
        &Board {
            end,
            spis: 0,
            extended: 0,
        },
    )
    .unwrap();
    let expected = [
        range(0x4000_0000, 0x4000_0000),
        range(end - 0x4000_0000, 0x4000_0000),
    ];
    assert!(machine.memory.iter().eq(&expected));
    assert_eq!(machine.memory_lost, 0x8000_0000 + 0x1000);
    let plan = HostTreePlan::new(&machine, &[], true);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let host = Machine::from_fdt(&{
        // The host's tree names no module.
        let mut tree = Tree::read(&out[..size]);
        *tree.at("chosen") = support::machine().at("chosen").clone();
        tree.flatten()
    });
    assert!(host.unwrap().memory.iter().eq(&expected));
    let lines = listing(&out[..size]);
    assert!(!lines.iter().any(|line| line == "/memory@100040000000"));
}

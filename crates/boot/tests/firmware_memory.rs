//! Memory that is firmware's: what the tree reserves, but for what was loaded
//! for us and for what drivers map.

mod support;

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    BootError, FIRMWARE_LIMIT, Fdt, FirmwareMemory, HostTreePlan, KernelHeader, KernelPages,
    Loaded, Machine, Occupant,
};
use support::{Tree, cells, listing, machine, range, reg};

fn loaded() -> Loaded {
    Loaded {
        image: range(0x4020_0000, 0x8_0000),
        tree: range(0x4400_0000, 0x1800),
        kernel: KernelHeader {
            text_offset: 0,
            image_size: 0x20_0000,
            pages: KernelPages::Size4K,
            anywhere: true,
        },
    }
}

fn reserved(children: Vec<Tree>) -> Tree {
    Tree {
        children,
        ..Tree::new("reserved-memory")
            .with("#address-cells", cells(&[2]))
            .with("#size-cells", cells(&[2]))
            .with("ranges", [])
    }
}

fn carve_out(start: u64, size: u64) -> Tree {
    Tree::new(&format!("fw@{start:x}"))
        .with("reg", reg(&[(start, size)]))
        .with("no-map", [])
}

fn find(
    children: Vec<Tree>,
    reservations: &[(u64, u64)],
) -> Result<Vec<Range<PhysAddr>>, BootError> {
    let blob = machine()
        .child(reserved(children))
        .flatten_with(reservations);
    let machine = Machine::from_fdt(&blob).unwrap();
    Ok(FirmwareMemory::find(&machine, &loaded())?
        .ranges()
        .collect())
}

#[test]
fn carve_outs_are_whole_pages_of_ram() {
    let children = vec![
        carve_out(0x6000_0800, 0x1000),
        // Twice, and half of it above the only bank.
        carve_out(0x6000_1000, 0x2000),
        carve_out(0x7fff_f000, 0x2000),
        // No RAM: registers' business.
        carve_out(0x0400_0000, 0x1000),
    ];
    assert_eq!(
        find(children, &[]),
        Ok(vec![
            range(0x6000_1000, 0x2000),
            range(0x7fff_f000, 0x1000),
            // Not whole pages in the tree.
            range(0x6000_0000, 0x1000),
        ])
    );
}

/// Devicetree Specification v0.4, 3.5.4: a node without `no-map` is memory that
/// the system maps; one that is not enabled is none.
#[test]
fn what_the_host_uses_itself_stays_the_hosts() {
    let with = |name: &str, value: &str| carve_out(0x6000_0000, 0x1000).text(name, value);
    for model in ["shared-dma-pool", "ramoops", "arm,scmi-shmem"] {
        assert_eq!(find(vec![with("compatible", model)], &[]), Ok(vec![]));
    }
    assert_eq!(find(vec![with("status", "disabled")], &[]), Ok(vec![]));
    let mut mapped = carve_out(0x6000_0000, 0x1000);
    mapped.remove("no-map");
    assert_eq!(find(vec![mapped], &[]), Ok(vec![]));
    // A binding that is not known has no driver that is known to map it.
    let other = with("compatible", "vendor,secure-monitor");
    assert_eq!(find(vec![other], &[]), Ok(vec![range(0x6000_0000, 0x1000)]));
}

/// U-Boot lists ramdisk and tree in the memory reservation block, the tree with
/// some room behind it.
#[test]
fn what_was_loaded_is_not_firmwares() {
    let loaded: [(u64, u64); 4] = [
        (0x4020_0000, 0x8_0000),
        (0x4400_0000, 0x1800),
        (0x4800_0000, 0x10_0000),
        (0x5000_0000, 0x10_0000),
    ];
    assert_eq!(find(vec![], &loaded), Ok(vec![]));
    // The kernel has its `image_size`, whatever the loader lists.
    assert_eq!(find(vec![], &[(0x4810_0000, 0x10_0000)]), Ok(vec![]));
    let monitor = (0x4000_0000, 0x1_0000);
    let around = (0x43ff_f000, 0x5000);
    assert_eq!(
        find(vec![carve_out(0x4000_8000, 0x1000)], &[monitor, around]),
        Ok(vec![
            range(0x4000_8000, 0x1000),
            range(0x4000_0000, 0x8000),
            range(0x4000_9000, 0x7000),
            range(0x43ff_f000, 0x1000),
            range(0x4400_2000, 0x2000),
        ])
    );
}

#[test]
fn nothing_is_loaded_into_a_carve_out() {
    for (start, first) in [
        (0x4020_0000, Occupant::Hypervisor),
        (0x4400_1c00, Occupant::DeviceTree),
        // Behind the kernel's file, in its `image_size`.
        (0x481f_f000, Occupant::Kernel),
        (0x5000_0000, Occupant::Ramdisk),
    ] {
        match find(vec![carve_out(start, 0x100)], &[]) {
            Err(BootError::Overlap { first: found, .. }) => assert_eq!(found, first),
            other => panic!("{start:#x}: {other:?}"),
        }
    }
}

#[test]
fn there_is_a_limit() {
    // Each carve-out cuts one long entry of the block in two.
    let children: Vec<_> = (0..63)
        .map(|n| carve_out(0x6000_0000 + n * 0x2000, 0x1000))
        .collect();
    let found = find(children.clone(), &[(0x6000_0000, 0x20_0000)]).unwrap();
    assert_eq!(found.len(), 126);
    let many = [(0x6000_0000, 0x3_0000), (0x7000_0000, 0x1000)];
    assert!(find(children[..62].to_vec(), &many).is_ok());
    let all: u64 = found.iter().map(Range::size).sum();
    assert_eq!(all, 0x20_0000);
    assert!(found.len() < FIRMWARE_LIMIT);
}

#[test]
fn the_host_is_told_in_nodes_without_map() {
    let blob = machine()
        .child(reserved(vec![carve_out(0x6000_0000, 0x1000)]))
        .flatten_with(&[
            (0x5000_0000, 0x10_0000),
            (0x7000_0000, 0x1000),
            (0x6000_0000, 0x1000),
        ]);
    let fdt = Fdt::new(&blob).unwrap();
    let machine = Machine::from_tree(&fdt).unwrap();
    let firmware = FirmwareMemory::find(&machine, &loaded()).unwrap();
    let plan = HostTreePlan::new(&machine, &[], true).with_firmware(&firmware);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    let lines = listing(&out[..size]);
    let nodes: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("/reserved-memory/") && line.contains("no-map"))
        .collect();
    // Linux takes no `no-map` for what its block has reserved already
    // (drivers/of/fdt.c, early_init_dt_reserve_memory), so the block goes.
    assert_eq!(
        nodes,
        [
            "/reserved-memory/firmware@70000000 no-map = ",
            "/reserved-memory/fw@60000000 no-map = "
        ]
    );
    let host = Fdt::new(&out[..size]).unwrap();
    assert_eq!(host.reservations().count(), 0);
}

//! From any bytes as a device tree to the host's device tree: nothing panics,
//! nothing takes long, and what is written is a tree that shows no SMMU.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::{
    Console, Fdt, FirmwareMemory, HostTreePlan, KernelHeader, KernelPages, Layout, Loaded, Machine, Node,
};

const TREE_BYTES: u64 = 0x4000;

fn range(start: u64, size: u64) -> Range<PhysAddr> {
    Range::from_size(PhysAddr::new(start), size).expect("a constant of this file")
}

/// What the layout promises: nothing it chose touches anything else.
fn check_layout(machine: &Machine, loaded: &Loaded, layout: &Layout) {
    let chosen = [layout.pool, layout.host_tree];
    let taken = [loaded.image, loaded.tree, layout.kernel]
        .into_iter()
        .chain(layout.ramdisk)
        .chain(machine.reserved.iter().map(|reserved| reserved.range));
    for other in taken {
        assert!(chosen.iter().all(|range| !range.overlaps(&other)));
    }
    assert!(!layout.pool.overlaps(&layout.host_tree));
    for range in chosen {
        assert!(machine.memory.iter().any(|bank| bank.covers(&range)));
    }
}

/// Firmware has whole pages of RAM, none twice, and none of what was loaded.
fn check_firmware(machine: &Machine, loaded: &Loaded) {
    let Ok(firmware) = FirmwareMemory::find(machine, loaded) else {
        return;
    };
    let modules = &machine.modules;
    let ramdisk = modules.ramdisk.map(|module| module.range);
    for (index, range) in firmware.ranges().enumerate() {
        assert!(range.is_aligned(0x1000));
        assert!(machine.memory.iter().any(|bank| bank.covers(&range)));
        assert!(
            firmware
                .ranges()
                .skip(index + 1)
                .all(|other| !other.overlaps(&range))
        );
        let own = [loaded.image, loaded.tree, modules.kernel.range];
        for own in own.into_iter().chain(ramdisk) {
            assert!(!own.overlaps(&range));
        }
    }
}

/// In nested and in paravirt mode what the host sees has interrupts that are
/// nobody else's, and no two streams have one number.
fn check_emulated(source: &Fdt<'_>, machine: &Machine, protected: &[Range<PhysAddr>]) {
    let plan = HostTreePlan::new(machine, protected, true);
    let mut out = vec![0; plan.bytes_needed(source)];
    let Ok(size) = plan.write(source, &mut out) else {
        return;
    };
    Fdt::new(&out[..size]).expect("what was written is a tree");
    for smmu in machine.smmus.iter() {
        let lines = &smmu.interrupts;
        for listened in [
            lines.event.or(lines.combined),
            lines.gerror.or(lines.combined),
        ] {
            let same = |intid: u32| listened.is_some_and(|line| line.intid == intid);
            for given in machine.host_lines.iter() {
                assert!(!given.event().is_some_and(same) && !given.error().is_some_and(same));
            }
            assert!(!machine.viommus.iter().any(|viommu| same(viommu.line)));
        }
    }
    if !machine.viommus.is_empty() {
        for range in machine.streams.iter() {
            let found = machine.stream_of(range.first_endpoint());
            assert_eq!(found, Some((range.smmu, range.first)));
        }
    }
}

fn check_host_tree(source: &Fdt<'_>, machine: &Machine, protected: &[Range<PhysAddr>]) {
    check_emulated(source, machine, protected);
    let plan = HostTreePlan::identity(machine, protected);
    let mut out = vec![0; plan.bytes_needed(source)];
    let Ok(size) = plan.write(source, &mut out) else {
        return;
    };
    let host = Fdt::new(&out[..size]).expect("what was written is a tree");
    let smmu = |node: &Node<'_>| node.is_compatible(b"arm,smmu-v3");
    let phandles: Vec<u32> = machine.smmus.iter().filter_map(|s| s.phandle).collect();
    for (_, node) in host.nodes() {
        assert!(!smmu(&node));
        for (name, value) in node.properties() {
            let at = match name {
                b"iommus" => 0,
                b"iommu-map" => 4,
                _ => continue,
            };
            let Some(cell) = value.get(at..at + 4) else {
                continue;
            };
            let phandle = u32::from_be_bytes(cell.try_into().expect("4 bytes"));
            assert!(!phandles.contains(&phandle), "a stream is still named");
        }
    }
    let reserved = host.find(b"/reserved-memory").expect("it was added");
    let ours = |node: &Node<'_>| node.name().starts_with(b"portcullis@");
    assert!(reserved.children().filter(ours).count() >= protected.len());
}

fuzz_target!(|blob: &[u8]| {
    let _ = Console::for_errors(blob);
    let Ok(fdt) = Fdt::new(blob) else {
        return;
    };
    let machine = match Machine::from_tree(&fdt) {
        Ok(machine) => machine,
        Err(error) => {
            let line = format!("{}{}", error.reason(), error.fix());
            assert!(
                line.bytes()
                    .all(|b| (b' '..=b'~').contains(&b) && b != b'"')
            );
            return;
        }
    };
    let loaded = Loaded {
        image: range(0x4020_0000, 0x8_0000),
        tree: range(0x4400_0000, 0x2000),
        kernel: KernelHeader {
            text_offset: 0,
            image_size: 0x20_0000,
            pages: KernelPages::Size4K,
            anywhere: true,
        },
    };
    check_firmware(&machine, &loaded);
    let layout = Layout::plan(&machine, &loaded, 4 << 20, TREE_BYTES);
    let mut protected = vec![loaded.image];
    if let Ok(layout) = &layout {
        check_layout(&machine, &loaded, layout);
        protected.push(layout.pool);
    }
    check_host_tree(&fdt, &machine, &protected);
});

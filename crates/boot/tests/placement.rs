//! Kernel headers, where modules may be, and where the rest goes.

mod support;

use portcullis_boot::{
    BLOCK, BootError, KernelHeader, KernelPages, Layout, Loaded, Machine, Occupant,
};
use support::{Tree, changed, machine, range, reg};

/// An arm64 Image of `len` bytes.
fn image(len: usize, text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
    let mut file = vec![0; len];
    file[8..16].copy_from_slice(&text_offset.to_le_bytes());
    file[16..24].copy_from_slice(&image_size.to_le_bytes());
    file[24..32].copy_from_slice(&flags.to_le_bytes());
    file[0x38..0x3c].copy_from_slice(b"ARM\x64");
    file
}

/// The same with an EFI stub that has one section of `size` bytes at `start`.
fn with_stub(mut file: Vec<u8>, start: u32, size: u32) -> Vec<u8> {
    file[..2].copy_from_slice(b"MZ");
    file[0x3c..0x40].copy_from_slice(&0x40u32.to_le_bytes());
    file[0x40..0x44].copy_from_slice(b"PE\0\0");
    file[0x46] = 1;
    file[0x54] = 8;
    let section = 0x40 + 24 + 8;
    file[section + 16..section + 20].copy_from_slice(&size.to_le_bytes());
    file[section + 20..section + 24].copy_from_slice(&start.to_le_bytes());
    file
}

#[test]
fn kernel_header() {
    assert_eq!(
        KernelHeader::parse(&image(4096, 0, 0x30_0000, 0b1010)),
        Ok(KernelHeader {
            text_offset: 0,
            image_size: 0x30_0000,
            pages: KernelPages::Size4K,
            anywhere: true,
        })
    );
    // A file that is longer than it says still occupies its own bytes.
    let longer = KernelHeader::parse(&image(4096, 0x8_0000, 64, 0b110)).unwrap();
    assert_eq!(
        (longer.image_size, longer.pages),
        (4096, KernelPages::Size64K)
    );
    assert!(!longer.anywhere);
    assert!(KernelHeader::parse(&with_stub(image(4096, 0, 8192, 0), 1024, 3072)).is_ok());
}

#[test]
fn kernels_that_are_refused() {
    let refused = |file: &[u8]| {
        let error = KernelHeader::parse(file).unwrap_err();
        (error.reason().to_string(), error.fix().to_string())
    };
    let both = |reason: &str, fix: &str| (reason.to_owned(), fix.to_owned());
    assert_eq!(
        refused(&image(64, 0, 1, 0)[..63]),
        both(
            "the kernel module has 63 bytes of 64",
            "load the whole Image and give its size in reg"
        )
    );
    assert_eq!(
        refused(&[0; 64]),
        both(
            "the kernel module has 0x00000000 where the magic number of an arm64 Image belongs",
            "pass an uncompressed arm64 Image"
        )
    );
    assert_eq!(
        refused(&with_stub(image(4096, 0, 8192, 0), 1024, 3073)).0,
        "the kernel module has 4096 bytes of 4097"
    );
    for (start, name) in [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"MZ\0\0zimg", "EFI zboot"),
    ] {
        let mut file = image(64, 0, 1, 0);
        file[..start.len()].copy_from_slice(start);
        assert_eq!(
            refused(&file),
            both(
                &format!("the kernel module is compressed ({name})"),
                "unpack it to an arm64 Image first"
            )
        );
    }
    assert_eq!(
        refused(&image(64, 0, 1, 1)),
        both("the kernel is big-endian", "pass a little-endian kernel")
    );
    assert_eq!(
        refused(&image(64, 0, 0, 0)),
        both(
            "the kernel's header has no image_size",
            "pass Linux 3.17 or later"
        )
    );
}

const IMAGE: (u64, u64) = (0x4020_0000, 0x8_0000);
const TREE: (u64, u64) = (0x4400_0000, 0x2000);

fn loaded(image_size: u64) -> Loaded {
    Loaded {
        image: range(IMAGE.0, IMAGE.1),
        tree: range(TREE.0, TREE.1),
        kernel: KernelHeader {
            text_offset: 0,
            image_size,
            pages: KernelPages::Size4K,
            anywhere: true,
        },
    }
}

fn plan(change: impl FnOnce(&mut Tree), loaded: &Loaded) -> Result<Layout, BootError> {
    let machine = Machine::from_fdt(&changed(change)).unwrap();
    Layout::plan(&machine, loaded, 6 << 20, 0x3000)
}

fn line(result: Result<Layout, BootError>) -> String {
    let error = result.expect_err("must be refused");
    format!("{} | {}", error.reason(), error.fix())
}

fn move_to(node: &'static str, at: u64, size: u64) -> impl FnOnce(&mut Tree) {
    move |tree| tree.at(node).set("reg", reg(&[(at, size)]))
}

const KERNEL: &str = "chosen/module@48000000";
const RAMDISK: &str = "chosen/module@50000000";

#[test]
fn the_pool_is_as_high_as_possible() {
    let layout = plan(|_| (), &loaded(0x20_0000)).unwrap();
    assert_eq!(layout.pool, range(0x7fa0_0000, 6 << 20));
    assert_eq!(layout.host_tree, range(0x7f80_0000, 0x3000));
    assert_eq!(layout.kernel, range(0x4800_0000, 0x20_0000));
    assert_eq!(layout.ramdisk, Some(range(0x5000_0000, 0x10_0000)));
    // A ramdisk at the top pushes both below it.
    let layout = plan(move_to(RAMDISK, 0x7ff0_0800, 0x1234), &loaded(0x20_0000)).unwrap();
    assert_eq!(layout.pool, range(0x7f80_0000, 6 << 20));
    assert_eq!(layout.host_tree, range(0x7fe0_0000, 0x3000));
}

#[test]
fn reserved_memory_is_left_alone() {
    let tree = machine().flatten_with(&[(0x4000_0000, 0x1000), (0x6000_0000, 0x2000_0000)]);
    let machine = Machine::from_fdt(&tree).unwrap();
    let layout = Layout::plan(&machine, &loaded(0x20_0000), 6 << 20, 0x3000).unwrap();
    assert_eq!(layout.pool, range(0x5fa0_0000, 6 << 20));
}

#[test]
fn a_loader_may_list_what_it_loaded() {
    let tree = machine().flatten_with(&[(0x4800_0000, 0x20_0000), (0x5000_0000, 0x10_0000)]);
    let machine = Machine::from_fdt(&tree).unwrap();
    assert!(Layout::plan(&machine, &loaded(0x20_0000), 6 << 20, 0x3000).is_ok());
}

#[test]
fn unaligned_kernel() {
    assert_eq!(
        line(plan(
            move_to(KERNEL, 0x4800_1000, 0x10_0000),
            &loaded(0x20_0000)
        )),
        "the kernel is at 0x48001000, which is not 0x0 past a multiple of 2 MiB | load it at 0x48200000"
    );
    let mut old = loaded(0x20_0000);
    old.kernel.text_offset = 0x8_0000;
    assert_eq!(
        line(plan(|_| (), &old)),
        "the kernel is at 0x48000000, which is not 0x80000 past a multiple of 2 MiB | load it at 0x48080000"
    );
    assert!(plan(move_to(KERNEL, 0x4808_0000, 0x10_0000), &old).is_ok());
}

#[test]
fn overlaps() {
    let with = |change| line(plan(change, &loaded(0x20_0000)));
    assert_eq!(
        with(move_to(KERNEL, 0x4020_0000, 0x10_0000)),
        "the kernel at 0x40200000..0x40300000 overlaps the hypervisor image at 0x40200000..0x40280000 | load them to separate ranges"
    );
    assert_eq!(
        line(plan(
            move_to(RAMDISK, 0x4400_1000, 0x1000),
            &loaded(0x20_0000)
        )),
        "the ramdisk at 0x44001000..0x44002000 overlaps the device tree at 0x44000000..0x44002000 | load them to separate ranges"
    );
    assert_eq!(
        line(plan(
            move_to(RAMDISK, 0x480f_f000, 0x2000),
            &loaded(0x20_0000)
        )),
        "the kernel at 0x48000000..0x48100000 overlaps the ramdisk at 0x480ff000..0x48101000 | load them to separate ranges"
    );
    let mut tree = loaded(0x20_0000);
    tree.tree = range(IMAGE.0 + 0x1000, 0x1000);
    assert!(matches!(
        plan(|_| (), &tree),
        Err(BootError::Overlap {
            first: Occupant::DeviceTree,
            second: Occupant::Hypervisor,
            ..
        })
    ));
    let reserve = |tree: &mut Tree| {
        let node = Tree::new("fw@50000000").with("reg", reg(&[(0x5000_0000, 0x1000)]));
        let parent = Tree::new("reserved-memory")
            .with("#address-cells", [0, 0, 0, 2])
            .with("#size-cells", [0, 0, 0, 2])
            .with("ranges", []);
        tree.children.push(parent.child(node));
    };
    assert_eq!(
        line(plan(reserve, &loaded(0x20_0000))),
        "the ramdisk at 0x50000000..0x50100000 overlaps reserved memory at 0x50000000..0x50001000 | load them to separate ranges"
    );
}

#[test]
fn outside_memory() {
    assert_eq!(
        line(plan(
            move_to(KERNEL, 0x2000_0000, 0x1000),
            &loaded(0x20_0000)
        )),
        "the kernel at 0x20000000..0x20001000 is not within one memory bank | load it into one bank of RAM"
    );
    assert_eq!(
        line(plan(
            move_to(RAMDISK, 0x7fff_f000, 0x2000),
            &loaded(0x20_0000)
        )),
        "the ramdisk at 0x7ffff000..0x80001000 is not within one memory bank | load it into one bank of RAM"
    );
}

#[test]
fn no_room_for_a_running_kernel() {
    assert_eq!(
        line(plan(|_| (), &loaded(0x800_0001))),
        "the kernel needs 134217729 bytes from 0x48000000, but the ramdisk is 134217728 bytes above | leave 134217729 bytes free from where the kernel starts"
    );
    assert!(plan(|_| (), &loaded(0x800_0000)).is_ok());
    assert_eq!(
        line(plan(
            move_to(RAMDISK, 0x4810_0000, 0x1000),
            &loaded(0x20_0000)
        )),
        "the kernel needs 2097152 bytes from 0x48000000, but the ramdisk is 1048576 bytes above | leave 2097152 bytes free from where the kernel starts"
    );
    let top = move_to(KERNEL, 0x7fe0_0000, 0x1000);
    assert_eq!(
        line(plan(top, &loaded(0x20_0001))),
        "the kernel needs 2097153 bytes from 0x7fe00000, but the end of the memory bank is 2097152 bytes above | leave 2097153 bytes free from where the kernel starts"
    );
}

#[test]
fn ramdisk_far_away() {
    let far = |tree: &mut Tree| {
        let banks = reg(&[(0x4000_0000, 0x4000_0000), (0x10_0000_0000, 0x1000_0000)]);
        tree.at("memory@40000000").set("reg", banks);
        tree.at(RAMDISK)
            .set("reg", reg(&[(0x10_0000_0000, 0x1000)]));
    };
    assert_eq!(
        line(plan(far, &loaded(0x20_0000))),
        "the ramdisk at 0x1000000000..0x1000001000 is not within 32 GiB of the kernel at 0x48000000..0x48200000 | load both into one 32 GiB window"
    );
}

#[test]
fn too_little_memory() {
    let tiny = |tree: &mut Tree| {
        let bank = reg(&[(0x4000_0000, 0x80_0000)]);
        tree.at("memory@40000000").set("reg", bank);
        tree.at(KERNEL).set("reg", reg(&[(0x4040_0000, 0x1000)]));
        tree.at("chosen").remove_child("module@50000000");
    };
    let mut small = loaded(0x10_0000);
    small.tree = range(0x4000_0000, 0x1000);
    assert_eq!(
        line(plan(tiny, &small)),
        "the hypervisor's pool needs 6291456 bytes of free memory in one piece, the largest piece has 2097152 | give the machine more memory or place the modules closer together"
    );
    let machine = Machine::from_fdt(&changed(tiny)).unwrap();
    assert!(
        Layout::plan(&machine, &small, BLOCK, 0x3000).is_err_and(|error| matches!(
            error,
            BootError::TooLittleMemory {
                what: Occupant::HostTree,
                have: 0,
                ..
            }
        ))
    );
    assert!(Layout::plan(&machine, &small, u64::MAX, u64::MAX).is_err());
}

//! A kernel module of ours is built for Debian's newer kernel, too, whose tools want a
//! newer C library than Debian 12 has.

use portcullis_testbed::build;
use portcullis_testbed::setup::kernel::{Build, Flavour, Version};
use portcullis_testbed::setup::{Lab, Wishes};
use std::fs;

#[test]
fn a_module_is_for_the_kernel_it_was_built_for() {
    for version in [Version::V6, Version::V7] {
        let wishes = Wishes {
            build: Build {
                version,
                flavour: Flavour::Pages4K,
            },
            ..Wishes::default()
        };
        let lab = Lab::set_up(&wishes).expect("the set-up works");
        let package = lab.kernel.package.clone().expect("a kernel of Debian's");
        let release = package.strip_prefix("linux-image-").expect("a kernel");
        let module = build::dma_bench(&lab).expect("the module builds");
        let bytes = fs::read(&module).expect("the module can be read");
        // What the kernel compares before it loads a module.
        let magic = format!("vermagic={release} ");
        let found = bytes
            .windows(magic.len())
            .any(|part| part == magic.as_bytes());
        assert!(found, "{}: no {magic}", module.display());
    }
}

//! Trees that QEMU 10.0.2 wrote.

use portcullis_addr::{PhysAddr, Range};
use portcullis_boot::*;

const MODULES: &[u8] = include_bytes!("trees/gicv3-smmu-modules.dtb");

#[test]
fn smoke() {
    let machine = Machine::from_fdt(MODULES).unwrap();
    let fdt = Fdt::new(MODULES).unwrap();
    let protected = [Range::from_size(PhysAddr::new(0x8000_0000), 0x20_0000).unwrap()];
    let plan = HostTreePlan::identity(&machine, &protected);
    let mut out = vec![0; plan.bytes_needed(&fdt)];
    let size = plan.write(&fdt, &mut out).unwrap();
    assert!(Fdt::new(&out[..size]).is_ok());
    assert!(size_of::<Machine>() <= 12 << 10);
}

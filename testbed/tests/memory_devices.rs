//! Memory that a device brings and the device tree does not name.
//!
//! Public sources: github.com/cloud-hypervisor/cloud-hypervisor, issue 942 ("the guest might
//! refer some memory that the device won't be able to access as not part of the IOMMU
//! tables") and issue 1884 (virtio-mem).

mod common;

use portcullis_testbed::disk::{self, Disk};
use portcullis_testbed::machine::Machine;

/// A GiB of memory, all of which the device is asked to plug.
fn with_memory(mut machine: Machine) -> Machine {
    machine.memory = "1G,maxmem=4G,slots=1".to_owned();
    let backend = ["-object", "memory-backend-ram,id=more,size=1G"];
    machine.extra.extend(backend.map(Into::into));
    machine.devices.push(
        "virtio-mem-pci,memdev=more,requested-size=1G,iommu_platform=on,disable-legacy=on".into(),
    );
    machine
}

/// Where QEMU's `virt` puts it: behind RAM, at a multiple of a GiB.
const MEMORY: &str = " memory-allow=0x80000000,0x40000000";

/// The kernel uses the memory for programs, page cache and their DMA alone, so that
/// these do not go elsewhere.
fn is_memory(mode: &str) {
    let prepared = common::prepared();
    let arguments = common::arguments(mode) + MEMORY;
    let mut machine = with_memory(prepared.proof_machine(&arguments));
    let name = format!("memory-{mode}");
    let disk = Disk::new(&prepared.lab.workspace, &name).expect("a disk");
    machine.disk = Some(disk.path().to_owned());
    machine.append_for_host(" memhp_default_state=online_movable");
    let (mut vm, mut agent) = prepared.start(&machine, &name);
    let mut shell = |command: &str| {
        let reply = agent.ask(&vm, &format!("sh {command}")).expect("a shell");
        assert_eq!(reply.get("status"), Some("0"), "{command}\n{}", vm.tails());
    };
    shell("virtio");
    shell(
        "i=0; until [ $(busybox awk '/MemTotal/{print $2}' /proc/meminfo) -gt 1800000 ]; do \
         i=$((i+1)); [ $i -lt 60 ] || exit 1; sleep 1; done",
    );
    // 256 MiB of page cache, of which some are a program.
    shell("dd if=/dev/zero of=/tmp/much bs=1M count=256 2> /dev/null");
    shell("cp /bin/busybox /tmp/busybox && /tmp/busybox true");
    shell(
        "[ $(busybox awk '/zone/{m=/Movable/} m&&/pages free/{f=$3} m&&/managed/{print $2-f}' \
         /proc/zoneinfo) -gt 60000 ]",
    );
    let verify = format!("nvme verify {:#x} 0 {}", disk::SEED, 16 << 20);
    agent.ask(&vm, &verify).expect("data of the disk");
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(portcullis_testbed::demo::OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
    let faults = vm.events_since(0);
    let fault = |kind: &str| kind == "dma_fault" || kind == "cpu_fault";
    assert!(
        !faults.iter().any(|event| fault(event.kind())),
        "{faults:?}"
    );
}

#[test]
fn it_is_ram_of_a_host_without_an_iommu() {
    is_memory("identity");
}

#[test]
fn it_is_ram_of_a_host_with_an_emulated_smmu() {
    is_memory("nested");
}

#[test]
fn it_is_ram_of_a_host_with_a_virtio_iommu() {
    is_memory("paravirt");
}

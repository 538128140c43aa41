//! Stock Debian comes up under the hypervisor on machines of all sizes.

mod common;

use dtoolkit::model::DeviceTreeProperty;
use portcullis_testbed::console::Line;
use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::demo::attack::Range;
use portcullis_testbed::disk::{self, Disk};
use portcullis_testbed::logfmt::Event;
use portcullis_testbed::machine::{HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::setup::firmware::Firmware;
use portcullis_testbed::setup::kernel::{Flavour, Version};
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};
use std::time::Duration;

/// Boots one machine of QEMU's, without firmware.
fn boots(cpus: u32, memory: &str, mebibytes: u64, cpu: &str) {
    let mut machine = common::prepared().machine();
    machine.cpus = cpus;
    machine.memory = memory.to_owned();
    machine.cpu = cpu.to_owned();
    boots_machine(machine, mebibytes, &format!("matrix-{cpus}-{cpu}"));
}

/// Boots a machine, uses all its CPUs and its disk, and switches it off; the
/// hypervisor's events.
fn boots_machine(mut machine: Machine, mebibytes: u64, name: &str) -> Vec<Event> {
    let prepared = common::prepared();
    let cpus = machine.cpus;
    let disk = Disk::new(&prepared.lab.workspace, name).expect("a disk");
    machine.disk = Some(disk.path().to_owned());
    machine.network = true;
    let (mut vm, mut agent) = prepared.start(&machine, name);

    let online = agent
        .ask(&vm, "cat /sys/devices/system/cpu/online")
        .expect("a file")
        .data();
    let expected = if cpus == 1 {
        "0\n".to_owned()
    } else {
        format!("0-{}\n", cpus - 1)
    };
    assert_eq!(String::from_utf8_lossy(&online), expected);
    let command = format!("nvme verify {:#x} 0 0x100000", disk::SEED);
    agent.ask(&vm, &command).expect("the disk's data");
    let groups = agent
        .ask(&vm, "sh [ -z \"$(ls /sys/kernel/iommu_groups)\" ]")
        .expect("a shell");
    assert_eq!(groups.get("status"), Some("0"), "the host sees an IOMMU");

    let events = vm.events_since(0);
    let taken: u64 = Range::announced(&events)
        .iter()
        .map(|range| range.size)
        .sum();
    let limit = (4 << 20) + (mebibytes << 20) * 4 / 1000;
    assert!(
        taken > 0 && taken <= limit,
        "{taken} bytes taken, {limit} allowed"
    );

    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(OFF_TIMEOUT)
        .unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(0);
    let counts = events
        .iter()
        .find(|event| event.kind() == "exit_counts")
        .expect("exit_counts");
    assert!(
        counts.fields().count() > 2,
        "EL2 entries by reason: {counts:?}"
    );
    events
}

#[test]
fn one_cpu_512m_cortex_a57() {
    boots(1, "512M", 512, "cortex-a57");
}

#[test]
fn two_cpus_1g_neoverse_n1() {
    boots(2, "1G", 1024, "neoverse-n1");
}

#[test]
fn eight_cpus_8g_max() {
    boots(8, "8G", 8192, "max");
}

#[test]
fn four_cpus_3g_cortex_a76() {
    boots(4, "3G", 3072, "cortex-a76");
}

/// Debian's newest kernel, with pages of both sizes.
fn boots_newer(flavour: Flavour, name: &str) {
    let host = common::host_of(Version::V7, flavour, HYPERVISOR_ARGUMENTS, &[]);
    boots_machine(host.machine, 1024, name);
}

#[test]
fn linux_7_with_pages_of_4_kib() {
    boots_newer(Flavour::Pages4K, "matrix-7");
}

#[test]
fn linux_7_with_pages_of_16_kib() {
    boots_newer(Flavour::Pages16K, "matrix-7-16k");
}

/// Firmware at EL3: two security states, PSCI that is not QEMU's, and a GIC
/// whose Group 0 is not ours to take.
#[test]
fn two_cpus_1g_with_firmware_at_el3() {
    let prepared = common::prepared();
    let workspace = &prepared.lab.workspace;
    let firmware = Firmware::set_up(workspace).expect("firmware");
    let directory = tempfile::tempdir_in(workspace.output()).expect("a directory");
    // The one UART there is for both.
    let mut machine = Machine::new(prepared.boot("host-iommu=identity log=info"));
    machine.start_with(firmware, &directory.path().join("ram"));
    let events = boots_machine(machine, 1024, "matrix-firmware");
    let polled = events
        .iter()
        .find(|event| event.kind() == "interrupts_polled");
    let reason = polled.and_then(|event| event.get("reason"));
    assert_eq!(reason, Some("the GIC has two security states"));
}

/// The GIC has the redistributor of a CPU that the tree disables, before that of
/// the last one that it has: Linux looks at each.
#[test]
fn a_host_passes_the_redistributor_of_a_cpu_that_it_does_not_have() {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    let mut machine = prepared.machine();
    machine.cpus = 3;
    machine.memory = "512M".to_owned();
    machine.ram_file = Some(ram.clone());
    let watch = Watch::quietly("disabled-cpu");
    let vm = Vm::start_after(&prepared.lab, &machine, &watch, || {
        tree::edit(&ram, |tree| {
            let cpu = tree.find_node_mut("/cpus/cpu@1").expect("a second CPU");
            let status = DeviceTreeProperty::new("status", "disabled").expect("a property");
            cpu.add_property(status);
        })
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let up = |line: &Line| {
        line.text
            .contains("Brought up 1 node, 2 CPUs")
            .then_some(())
    };
    let seen = vm.host.wait(0, Duration::from_secs(120), up);
    assert!(seen.is_some(), "{}", vm.tails());
}

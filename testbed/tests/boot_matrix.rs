//! Stock Debian comes up under the hypervisor on machines of all sizes.

mod common;

use portcullis_testbed::demo::OFF_TIMEOUT;
use portcullis_testbed::demo::attack::Range;
use portcullis_testbed::disk::{self, Disk};
use portcullis_testbed::logfmt::Event;
use portcullis_testbed::machine::Machine;
use portcullis_testbed::setup::firmware::Firmware;

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

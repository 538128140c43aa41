//! A host kernel that attacks from EL1, where Linux would not.
//!
//! Public sources of accesses that no syndrome describes: github.com/virtio-win/
//! kvm-guest-drivers-windows, issue 177 ("the HSR.ISV flag will be 0 ... Linux KVM ... merely
//! errors out", for `str w8, [x10], #4`); Xen, `xen/arch/arm/decode.c` ("ldr/str post indexing
//! for vector types are not supported").

mod common;

use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use portcullis_testbed::build;
use portcullis_testbed::logfmt::Event;
use portcullis_testbed::machine::{self, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::tree;
use portcullis_testbed::vm::{Vm, Watch};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// With an SMMU of the host's own to attack.
const NESTED: &str = "host-iommu=nested log=info console=serial1";

/// With a virtio-iommu of the host's own.
const PARAVIRT: &str = "host-iommu=paravirt bhb=off mpam=off log=info console=serial1";

/// Runs the attacks, and checks what each mode has to say of them.
fn attacks(cpu: &str, arguments: &str) -> Vec<Event> {
    attacks_on(cpu, arguments, false)
}

/// The same; `hollow` says that the tree has a bank of RAM more than the machine,
/// which answers every access with an error.
fn attacks_on(cpu: &str, arguments: &str, hollow: bool) -> Vec<Event> {
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let boot = prepared.boot_kernel(arguments, &kernel);
    let mut machine = Machine::new(boot);
    machine.cpus = 2;
    machine.cpu = cpu.to_owned();
    let (suffix, faults) = match arguments {
        NESTED => ("-nested", 11),
        PARAVIRT => ("-paravirt", 9),
        _ => ("", 12),
    };
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    if hollow {
        machine.memory = "512M".to_owned();
        machine.ram_file = Some(ram.clone());
    }
    let suffix = format!("{suffix}{}", if hollow { "-hollow" } else { "" });
    let watch = Watch::quietly(&format!("hostile-{cpu}{suffix}"));
    let mut vm = if hollow {
        Vm::start_after(&prepared.lab, &machine, &watch, || {
            tree::edit(&ram, add_bank)
        })
    } else {
        Vm::start(&prepared.lab, &machine, &watch)
    }
    .unwrap_or_else(|error| panic!("{error}"));
    let status = vm
        .wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(status.success(), "{status}\n{}", vm.tails());
    let lines: Vec<String> = vm
        .host
        .lines_since(0)
        .into_iter()
        .map(|line| line.text)
        .filter(|text| text.starts_with("hostile: "))
        .collect();
    let wrong: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("result=wrong"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", vm.tails());
    assert!(
        lines.iter().any(|line| line.contains("done wrong=0")),
        "the kernel did not finish\n{}",
        vm.tails()
    );
    // What it tried is in the log, and was counted.
    let events = vm.events_since(0);
    let count = |kind: &str| events.iter().filter(|event| event.kind() == kind).count();
    assert!(count("cpu_fault") >= faults, "{}", vm.tails());
    assert_eq!(count("smc_denied"), 3, "{}", vm.tails());
    for reason in refused_accesses(cpu) {
        let named =
            |event: &Event| event.kind() == "access_refused" && event.get("reason") == Some(reason);
        assert!(events.iter().any(named), "{reason}\n{}", vm.tails());
    }
    let exits = events
        .iter()
        .find(|event| event.kind() == "exit_counts")
        .expect("the counts at power-off");
    assert_eq!(exits.number("hvc"), Some(1));
    assert_eq!(exits.number("fetch_abort"), Some(1));
    // Three SMCs and the HVC; of the GIC: each route write and the rest that no
    // single register write can leave out.
    assert_eq!(exits.number("refused_calls"), Some(4));
    assert!(exits.number("refused_gic_writes") >= Some(4));
    events
}

/// Why accesses to emulated registers are not carried out.
fn refused_accesses(cpu: &str) -> Vec<&'static str> {
    let mut all = vec![
        "an exclusive access to an emulated register",
        "a load or store of SIMD structures at an emulated register",
        "an access to emulated registers that crosses a page",
        "a cache instruction on an emulated register",
    ];
    if cpu != "cortex-a57" {
        all.push("an atomic instruction on an emulated register");
    }
    all
}

/// A bank of RAM where the machine has nothing, too small for the hypervisor to put
/// anything of its own there.
fn add_bank(tree: &mut DeviceTree) {
    let mut bank = DeviceTreeNode::new("memory@200000000").expect("a node");
    let reg = [0x2_0000_0000u64, 4 << 10].map(u64::to_be_bytes).concat();
    for property in [
        DeviceTreeProperty::new("device_type", "memory"),
        DeviceTreeProperty::new("reg", reg),
    ] {
        bank.add_property(property.expect("a property"));
    }
    tree.root.add_child(bank);
}

/// What EL2 reads and writes for the host may answer with errors: that is the host's
/// to see, and not the end.
#[test]
fn memory_that_answers_with_errors_is_the_hosts_trouble() {
    let events = attacks_on("cortex-a76", NESTED, true);
    let counts = events
        .iter()
        .find(|event| event.kind() == "emulated_counts");
    let counts = counts.expect("the emulated SMMU's counts at power-off");
    assert!(counts.number("fetch_aborts") >= Some(20), "{counts:?}");
    let events = attacks_on("cortex-a76", PARAVIRT, true);
    let counts = events.iter().find(|event| event.kind() == "viommu_counts");
    let counts = counts.expect("the virtio-iommu's counts at power-off");
    // Three queues, a request and an answer.
    assert_eq!(counts.number("needs_reset"), Some(5), "{counts:?}");
}

#[test]
fn a_virtio_iommu_of_its_own_gives_a_host_no_more() {
    attacks("cortex-a57", PARAVIRT);
}

#[test]
fn what_linux_never_does_is_refused_on_an_old_core() {
    attacks("cortex-a57", HYPERVISOR_ARGUMENTS);
}

#[test]
fn what_linux_never_does_is_refused_on_the_newest_core() {
    attacks("max", HYPERVISOR_ARGUMENTS);
}

#[test]
fn an_smmu_of_its_own_gives_a_host_no_more() {
    for cpu in ["cortex-a57", "max"] {
        let events = attacks(cpu, NESTED);
        let counts = events
            .iter()
            .find(|event| event.kind() == "emulated_counts")
            .expect("the emulated SMMU's counts at power-off");
        let count = |name: &str| counts.number(name).unwrap_or(0);
        // Two pages, byte by byte and half word by half word.
        assert!(count("refused_writes") >= 12_288, "{counts:?}");
        assert!(count("illegal_commands") >= 16, "{counts:?}");
        assert!(count("fetch_aborts") >= 20, "{counts:?}");
        assert!(count("bad_queues") >= 20, "{counts:?}");
        assert!(count("aborted_messages") >= 5, "{counts:?}");
        let physical = events
            .iter()
            .find(|event| event.kind() == "smmu_counts")
            .expect("the physical SMMU's counts at power-off");
        for none in ["command_errors", "timeouts", "global_errors"] {
            assert_eq!(physical.number(none), Some(0), "{physical:?}");
        }
        let exits = events.iter().find(|event| event.kind() == "exit_counts");
        let reserved = exits.and_then(|event| event.number("reserved_smmu"));
        assert!(reserved >= Some(12), "{exits:?}");
    }
}

#[test]
fn without_the_filters_the_attacks_are_seen_to_work() {
    // The kernel's checks can fail: natively, where nobody filters, they do.
    let prepared = common::prepared();
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let mut machine = Machine::new(machine::Boot::Native {
        kernel,
        initrd: prepared.initrd().to_owned(),
        arguments: String::new(),
    });
    machine.cpus = 2;
    let mut vm = Vm::start(&prepared.lab, &machine, &Watch::quietly("hostile-native"))
        .unwrap_or_else(|error| panic!("{error}"));
    let _ = vm.wait_exit(Duration::from_secs(20));
    let wrong = vm
        .host
        .lines_since(0)
        .into_iter()
        .filter(|line| line.text.contains("result=wrong"))
        .count();
    assert!(wrong > 0, "{}", vm.tails());
}

//! A host kernel that attacks through the interrupt controller's tables, which a
//! GIC reads and writes past every SMMU.

mod common;

use portcullis_testbed::build;
use portcullis_testbed::demo::attack::Range;
use portcullis_testbed::hostile::{Outcome, Said};
use portcullis_testbed::machine::{self, Boot, HYPERVISOR_ARGUMENTS, Machine};
use portcullis_testbed::setup::firmware::Firmware;
use portcullis_testbed::vm::{Vm, Watch};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(120);
/// A word of the attacking kernel's, which it waits for where it only watches.
const MARK: u64 = 0x5870_0000;
/// What an unused page of the hypervisor's is full of.
const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Every check is as it should be, none was without sight of the hypervisor's
/// memory, and the machine goes on.
fn nothing_wrong(said: &Said) {
    let unseen: Vec<_> = said.with(Outcome::Unseen).collect();
    assert!(unseen.is_empty(), "{unseen:#?}\n{}", said.tails);
    nothing_seen_wrong(said);
}

/// Every check that could be made is as it should be.
fn nothing_seen_wrong(said: &Said) {
    let wrong: Vec<_> = said.with(Outcome::Wrong).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", said.tails);
    assert!(said.with(Outcome::Ok).count() > 0, "{}", said.tails);
    for event in &said.events {
        let bad = ["hypervisor_exception", "dma_fenced", "panic"];
        assert!(!bad.contains(&event.kind()), "{event:?}\n{}", said.tails);
    }
}

/// Interrupts came where and when they should.
fn interrupts_work(said: &Said) {
    for name in [
        "honest_int",
        "honest_movi",
        "honest_movall",
        "honest_discarded",
    ] {
        assert!(
            said.with(Outcome::Ok).any(|ok| ok == name),
            "{name}: {}",
            said.tails
        );
    }
}

/// Runs a machine to its end.
fn run(machine: &Machine, name: &str) -> Said {
    let lab = &common::prepared().lab;
    let said = Said::by("its", lab, machine, &format!("its-{name}"))
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        said.finished,
        "{name}: the kernel did not finish\n{}",
        said.tails
    );
    said
}

/// The attacking kernel under a hypervisor that says whether anything of its own
/// has changed.
fn confined(mode: &str, cpu: &str) -> Machine {
    let lab = &common::prepared().lab;
    let image = build::watched_hypervisor(lab).expect("the hypervisor builds");
    confined_by(&image, mode, cpu)
}

/// The attacking kernel under an image of the hypervisor in a mode.
fn confined_by(image: &Path, mode: &str, cpu: &str) -> Machine {
    let prepared = common::prepared();
    let kernel = build::hostile_its(&prepared.lab).expect("the kernel builds");
    let arguments = HYPERVISOR_ARGUMENTS.replace("identity", mode);
    let initrd = prepared.initrd();
    let mut machine = Machine::new(machine::portcullis(image, &arguments, &kernel, initrd, ""));
    machine.cpu = cpu.to_owned();
    machine
}

/// The same kernel by itself.
fn native() -> Machine {
    let prepared = common::prepared();
    let kernel = build::hostile_its(&prepared.lab).expect("the kernel builds");
    Machine::new(Boot::Native {
        kernel,
        initrd: prepared.initrd().to_owned(),
        arguments: String::new(),
    })
}

fn attacks(mode: &str) {
    for cpu in ["cortex-a76", "neoverse-n1", "max"] {
        let said = run(&confined(mode, cpu), &format!("{mode}-{cpu}"));
        nothing_wrong(&said);
        interrupts_work(&said);
    }
}

#[test]
fn interrupt_tables_give_a_host_nothing_in_identity_mode() {
    attacks("identity");
}

#[test]
fn interrupt_tables_give_a_host_nothing_in_nested_mode() {
    attacks("nested");
}

#[test]
fn interrupt_tables_give_a_host_nothing_in_paravirt_mode() {
    attacks("paravirt");
}

#[test]
fn interrupt_tables_give_a_host_nothing_on_one_cpu_and_on_four() {
    for cpus in [1, 4] {
        let mut machine = confined("nested", "max");
        machine.cpus = cpus;
        machine.memory = "512M".to_owned();
        let said = run(&machine, &format!("{cpus}-cpus"));
        nothing_wrong(&said);
        assert!(
            said.with(Outcome::Ok).any(|ok| ok == "honest_int"),
            "{}",
            said.tails
        );
    }
}

/// GICv4: tables of virtual processors and virtual LPIs beside the others.
#[test]
fn virtual_interrupt_tables_give_a_host_nothing() {
    let mut machine = confined("identity", "max");
    machine.gic = 4;
    let said = run(&machine, "gicv4");
    nothing_wrong(&said);
    interrupts_work(&said);
}

/// Without an ITS GICR_TYPER.PLPIS still reads 1 in QEMU, and a redistributor
/// reads and writes its tables.
#[test]
fn lpi_tables_without_an_its_give_a_host_nothing() {
    for mode in ["identity", "nested", "paravirt"] {
        let mut machine = confined(mode, "cortex-a76");
        machine.model = "virt,its=off".to_owned();
        nothing_wrong(&run(&machine, &format!("its-off-{mode}")));
    }
}

#[test]
fn an_its_that_was_taken_away_gives_a_host_nothing() {
    for mode in ["identity", "nested", "paravirt"] {
        let mut machine = confined(mode, "cortex-a76");
        if let Boot::Portcullis { arguments, .. } = &mut machine.boot {
            arguments.push_str(" gic-its=off");
        }
        let said = run(&machine, &format!("gic-its-off-{mode}"));
        nothing_wrong(&said);
        let gone = |line: &String| line.contains("in the tree: false, answers: false");
        assert!(said.lines.iter().any(gone), "{}", said.tails);
        let lpis = |line: &String| line.contains("LPIs: false");
        assert!(said.lines.iter().any(lpis), "{}", said.tails);
    }
}

/// The image as it is built for use, in which only consequences can be seen.
#[test]
fn interrupt_tables_give_a_host_nothing_of_the_usual_image() {
    let image = build::hypervisor(&common::prepared().lab).expect("the hypervisor builds");
    let said = run(&confined_by(&image, "identity", "cortex-a76"), "usual");
    nothing_seen_wrong(&said);
    interrupts_work(&said);
}

/// A changed word of code, of an unused page, or of a table is seen.
#[test]
fn what_must_not_change_is_watched() {
    let prepared = common::prepared();
    let directory = tempfile::tempdir_in(prepared.lab.workspace.output()).expect("a directory");
    let ram = directory.path().join("ram");
    for mode in ["identity", "nested", "paravirt"] {
        let mut machine = confined(mode, "max");
        machine.append_for_host("watch");
        machine.ram_file = Some(ram.clone());
        let watch = Watch::quietly(&format!("its-watched-{mode}"));
        let mut vm = Vm::start(&prepared.lab, &machine, &watch).expect("QEMU starts");
        let digest = |after: u64| {
            let mark = format!("its: seen after={after} digest=");
            let seen = vm.host.wait(0, PATIENCE, |line| {
                line.text.strip_prefix(&mark).map(str::to_owned)
            });
            seen.unwrap_or_else(|| panic!("{mode} {after}\n{}", vm.tails()))
        };
        let before = digest(0);
        let [image, pool] = &Range::announced(&vm.events_since(0))[..] else {
            panic!("{}", vm.tails());
        };
        let file = File::options().write(true).open(&ram).expect("RAM");
        let write = |address: u64, value: u64| {
            let at = address - 0x4000_0000;
            file.write_all_at(&value.to_le_bytes(), at).expect("RAM");
        };
        let mut seen = vec![before];
        // The header's magic number, which nothing looks at any more; the end of
        // the pool, which nothing gets to.
        for (n, at) in (1..).zip([image.base + 0x38, pool.base + pool.size - 8]) {
            write(at, 0);
            write(MARK, n);
            let now = digest(n);
            assert!(!seen.contains(&now), "{mode}: {at:#x}\n{}", vm.tails());
            seen.push(now);
        }
        // What is as it was gives the same number.
        write(pool.base + pool.size - 8, PATTERN);
        write(MARK, 3);
        assert_eq!(digest(3), seen[1], "{mode}");
        vm.wait_exit(PATIENCE)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Firmware at EL3 and a GIC with two security states.
#[test]
fn interrupt_tables_give_a_host_nothing_below_firmware() {
    let workspace = &common::prepared().lab.workspace;
    let firmware = Firmware::set_up(workspace).expect("firmware");
    let directory = tempfile::tempdir_in(workspace.output()).expect("a directory");
    for mode in ["identity", "nested", "paravirt"] {
        let mut machine = confined(mode, "max");
        if let Boot::Portcullis { arguments, .. } = &mut machine.boot {
            // The one UART there is for both.
            *arguments = format!("host-iommu={mode} log=info");
        }
        machine.start_with(firmware.clone(), &directory.path().join(mode));
        let said = run(&machine, &format!("firmware-{mode}"));
        nothing_wrong(&said);
        interrupts_work(&said);
    }
}

#[test]
fn natively_the_same_interrupts_come() {
    let said = run(&native(), "native");
    nothing_seen_wrong(&said);
    interrupts_work(&said);
}

/// The kernel's checks can fail: where it is told that some memory is a
/// hypervisor's, and there is none to keep the GIC from it, each attack is seen.
#[test]
fn without_a_hypervisor_the_attacks_are_seen_to_work() {
    let mut machine = native();
    if let Boot::Native { arguments, .. } = &mut machine.boot {
        arguments.push_str("pretend");
    }
    let said = run(&machine, "native-seen");
    interrupts_work(&said);
    let wrong: Vec<_> = said.with(Outcome::Wrong).collect();
    for name in [
        "device_table",
        "device_table_of_two_levels",
        "collection_table",
        "collection_table_of_two_levels",
        "translation_table",
        "translation_table_discard",
        "pending_table",
        "bits_learnt_from_pending_table",
        "bytes_learnt_from_configuration",
        "tables_change_while_on",
        "forged_tables",
        "interrupt_as_if_from_a_device",
    ] {
        assert!(wrong.contains(&name), "{name}\n{}", said.tails);
    }
}

//! When EL2 itself fails: DMA fenced first, then a report, then the end.

mod common;

use portcullis_testbed::build;
use portcullis_testbed::machine::{HYPERVISOR_ARGUMENTS, Machine, portcullis};
use portcullis_testbed::vm::{Vm, Watch};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where the image is.
fn image_base(vm: &Vm) -> u64 {
    vm.events_since(0)
        .into_iter()
        .find(|event| event.get("what") == Some("image"))
        .and_then(|event| event.number("base"))
        .expect("where the image is")
}

/// Provokes failure `number` and returns the kinds of the events from it on,
/// with the whole lines.
fn fails(number: u32) -> (Vec<String>, String) {
    let prepared = common::prepared();
    let image = build::failing_hypervisor(&prepared.lab).expect("the image builds");
    let mut machine = Machine::new(prepared.boot_image(&image, HYPERVISOR_ARGUMENTS));
    machine.cpus = 2;
    let (mut vm, mut agent) = prepared.start(&machine, &format!("failure-{number}"));
    let base = image_base(&vm);
    let mark = vm.log.mark();
    let command = format!("poke write {base:#x} {:#x}", 0x0bad_0000 + number);
    agent.tell(&vm, &command).expect("a command");
    vm.wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    let events = vm.events_since(mark);
    let kinds = events.iter().map(|event| event.kind().to_owned()).collect();
    let text: Vec<String> = vm
        .log
        .lines_since(mark)
        .into_iter()
        .map(|line| line.text)
        .collect();
    (kinds, text.join("\n"))
}

/// The first line says that every SMMU was fenced, the next what happened.
fn reported(number: u32, kind: &str, words: &[&str]) {
    let (kinds, text) = fails(number);
    assert_eq!(
        kinds.first().map(String::as_str),
        Some("dma_fenced"),
        "{text}"
    );
    assert!(text.contains("smmus=1 failed=0"), "{text}");
    assert_eq!(kinds.get(1).map(String::as_str), Some(kind), "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
}

#[test]
fn a_panic_is_fenced_and_reported() {
    reported(1, "hypervisor_panic", &["provoke.rs", "provoked"]);
}

#[test]
fn a_stack_overflow_hits_its_guard_page() {
    let words = ["fault=\"translation\"", "a stack overflowed", "x28="];
    reported(2, "hypervisor_exception", &words);
}

#[test]
fn a_stray_pointer_faults() {
    reported(3, "hypervisor_exception", &["far=0x10", "access=write"]);
}

#[test]
fn code_cannot_be_written() {
    let words = ["fault=\"permission\"", "the image's code"];
    reported(4, "hypervisor_exception", &words);
}

#[test]
fn an_undefined_instruction_is_decoded() {
    reported(5, "hypervisor_exception", &["unknown instruction"]);
}

/// What EL2 reaches for somebody else, and what the host's tables lead a walk to,
/// may answer with errors: nothing fails then, and the host goes on.
#[test]
fn answers_that_are_errors_are_survived() {
    let prepared = common::prepared();
    let image = build::failing_hypervisor(&prepared.lab).expect("the image builds");
    let machine = Machine::new(prepared.boot_image(&image, HYPERVISOR_ARGUMENTS));
    let (mut vm, mut agent) = prepared.start(&machine, "survived");
    let base = image_base(&vm);
    for (number, what, errors) in [(6, "registers", 8), (7, "walk", 1)] {
        let mark = vm.log.mark();
        // The write is refused all the same.
        let _ = agent.ask(
            &vm,
            &format!("poke write {base:#x} {:#x}", 0x0bad_0000 + number),
        );
        let survived = vm
            .wait_event(mark, "that it was survived", PATIENCE, |event| {
                event.kind() == "survived"
            })
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(survived.get("what"), Some(what));
        assert_eq!(survived.number("errors"), Some(errors));
        assert_ne!(survived.get("par_kept"), Some("false"));
    }
    agent.tell(&vm, "off").expect("a command");
    vm.wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// EL2 fails on one CPU while another prints without a pause, to the UART that the
/// report goes to, and lets no interrupt come: from the first line on there is
/// nothing but the report.
#[test]
fn every_cpu_stops_before_the_report() {
    let prepared = common::prepared();
    let image = build::failing_hypervisor(&prepared.lab).expect("the image builds");
    let kernel = build::hostile(&prepared.lab).expect("the hostile kernel builds");
    let (arguments, initrd) = ("host-iommu=identity", prepared.initrd());
    let mut machine = Machine::new(portcullis(&image, arguments, &kernel, initrd, ""));
    machine.cpus = 2;
    let mut vm = Vm::start(&prepared.lab, &machine, &Watch::quietly("every-cpu-stops"))
        .unwrap_or_else(|error| panic!("{error}"));
    vm.wait_exit(PATIENCE)
        .unwrap_or_else(|error| panic!("{error}"));
    let lines = vm.host.lines_since(0).into_iter();
    let text: Vec<String> = lines.map(|line| line.text).collect();
    let text = text.join("\n");
    // The other CPU may be in the middle of a line.
    let (before, after) = text
        .split_once("portcullis: event=dma_fenced")
        .unwrap_or_else(|| panic!("nothing was fenced\n{}", vm.tails()));
    let printed = |text: &str| text.matches('~').count();
    assert!(printed(before) >= 40, "{}", vm.tails());
    // An SError that EL2 handed on, with its syndrome: class, IL, recoverable. The
    // other CPU's output may be in it.
    let before: String = before.chars().filter(|c| !"~\n\r".contains(*c)).collect();
    assert!(before.contains("serror esr=0xbe000c11"), "{}", vm.tails());
    assert_eq!(printed(after), 0, "{}", vm.tails());
    assert!(
        after.contains("event=hypervisor_exception"),
        "{}",
        vm.tails()
    );
}

/// An SMMU that lost its power or was reset is seen when EL2 next runs, 50 ms later
/// at the earliest.
#[test]
fn an_smmu_that_was_reset_stops_everything() {
    let (kinds, text) = fails(8);
    // The host's own store comes first: this failure is seen later than it.
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    assert_eq!(
        kinds,
        ["cpu_fault", "dma_fenced", "hypervisor_failure"],
        "{text}"
    );
    assert!(text.contains("smmus=1 failed=0"), "{text}");
    assert!(text.contains("translates no longer"), "{text}");
}

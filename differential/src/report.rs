//! A difference as a person wants to read it.

use crate::case::{Case, Seen, Step};
use crate::compare::Difference;
use crate::machine::DEVICES;
use smmuv3_spec::event::EventRecord;
use std::fmt::Write as _;

/// The case, what both sides did at the step that differs, and how to see it
/// again.
#[must_use]
pub fn text(seed: u64, number: u64, case: &Case, difference: &Difference) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "case {number} differs at step {}, made smaller:",
        difference.step
    );
    let _ = writeln!(
        text,
        "  STRTAB_BASE {:#x}  STRTAB_BASE_CFG {:#x}  CR2 {:#x}",
        case.table, case.table_config, case.cr2
    );
    for (stream, at) in &case.entries {
        let ste: Vec<String> = (0..4)
            .map(|index| format!("{:#x}", case.words.get(&(at + index * 8)).unwrap_or(&0)))
            .collect();
        if ste.iter().any(|word| word != "0x0") {
            let _ = writeln!(text, "  stream {stream:#x} at {at:#x}: {}", ste.join(" "));
        }
    }
    for (at, word) in &case.words {
        let _ = writeln!(text, "  [{at:#x}] = {word:#018x}");
    }
    for (index, step) in case.steps.iter().enumerate() {
        let _ = writeln!(text, "  {index}: {}", describe(step));
    }
    let model = &difference.model;
    let _ = writeln!(text, "model: {}", seen(&model.seen));
    if let Some(refusal) = model.refusal {
        let _ = writeln!(text, "       ({refusal})");
    }
    let _ = writeln!(text, "QEMU:  {}", seen(&difference.qemu));
    let _ = write!(
        text,
        "again: cargo run -p portcullis-differential -- --seed {seed} --only {number}"
    );
    text
}

fn describe(step: &Step) -> String {
    match step {
        Step::Access(access) => {
            let stream = DEVICES[access.device].stream;
            match access.write {
                Some(value) => format!(
                    "stream {stream:#x} writes {value:#x} to {:#x}",
                    access.address
                ),
                None => format!("stream {stream:#x} reads {:#x}", access.address),
            }
        }
        Step::Store(words) => {
            let words: Vec<String> = words
                .iter()
                .map(|(at, word)| format!("[{at:#x}] = {word:#x}"))
                .collect();
            format!("store {}", words.join(", "))
        }
        Step::Commands(commands) => {
            let commands: Vec<String> = commands
                .iter()
                .map(|[low, high]| format!("{low:#x}:{high:#x}"))
                .collect();
            format!("commands {}", commands.join(", "))
        }
        Step::Acknowledge => "acknowledge the global errors".to_owned(),
    }
}

fn seen(seen: &Seen) -> String {
    let mut text = match seen.data {
        Some(data) => format!("data {data:#010x}"),
        None => "no data".to_owned(),
    };
    let _ = write!(
        text,
        "  EVENTQ_PROD {:#x}  CMDQ_CONS {:#x}  errors {:#x}",
        seen.produced, seen.consumed, seen.errors
    );
    for event in &seen.events {
        let words: Vec<String> = event.iter().map(|word| format!("{word:016x}")).collect();
        let kind = EventRecord(*event).kind();
        let _ = write!(text, "\n       {kind}: {}", words.join(" "));
    }
    text
}

//! Compares the model of the SMMUv3 with QEMU's.

use clap::Parser;
use portcullis_differential::campaign::{self, CASES, Plan};
use portcullis_differential::machine::Error;
use portcullis_differential::{interrupts, requests};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Compares the model of the SMMUv3 with the one that QEMU emulates.
///
/// Exit status 0 when everything agrees or is a known deviation of QEMU's, 3
/// when something else was found. The last line says what was run.
#[derive(Parser)]
struct Arguments {
    /// Random cases to run [default: 26000, with --requests or --interrupts
    /// 2000].
    #[arg(long, value_name = "N")]
    cases: Option<u64>,
    /// Compare the virtio-iommu devices instead: one sequence of requests after
    /// the other.
    #[arg(long, conflicts_with_all = ["jobs", "keep_going"])]
    requests: bool,
    /// Compare the ITSs instead: one sequence of commands and register accesses
    /// after the other.
    #[arg(long, conflicts_with_all = ["requests", "jobs", "keep_going"])]
    interrupts: bool,
    /// Seed of the cases.
    #[arg(long, value_name = "S", default_value = "1", value_parser = number)]
    seed: u64,
    /// Run this case of the seed alone.
    #[arg(long, value_name = "K")]
    only: Option<u64>,
    /// Workers, with two QEMUs each.
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: u64,
    /// Go on after a difference, and count them by kind.
    #[arg(long)]
    keep_going: bool,
    /// The qemu-system-aarch64 to use, 9.2 or later [default: the project's].
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = Plan {
        cases: arguments.cases.unwrap_or(CASES),
        seed: arguments.seed,
        only: arguments.only,
        jobs: arguments.jobs,
        keep_going: arguments.keep_going,
        qemu: arguments.qemu,
    };
    let numbers = |cases: u64| match plan.only {
        Some(number) => number..number + 1,
        None => 0..arguments.cases.unwrap_or(cases),
    };
    if arguments.requests {
        let numbers = numbers(requests::CASES);
        let summary =
            campaign::qemu(&plan).and_then(|qemu| requests::run(&qemu, plan.seed, numbers));
        return finish(summary.map(|summary| {
            let line = summary.line();
            (summary.explained, summary.difference, line)
        }));
    }
    if arguments.interrupts {
        let numbers = numbers(interrupts::CASES);
        let summary =
            campaign::qemu(&plan).and_then(|qemu| interrupts::run(&qemu, plan.seed, numbers));
        return finish(summary.map(|summary| {
            let line = summary.line();
            (summary.explained, summary.difference, line)
        }));
    }
    match campaign::run(&plan) {
        Ok(summary) => {
            for (name, count) in &summary.explained {
                println!("{count:6} {name}");
            }
            for (kind, (count, first)) in &summary.kinds {
                println!("{count:6} differ, such as case {first}: {kind}");
            }
            if let Some(text) = &summary.difference {
                println!("{text}");
            }
            println!("{}", summary.line());
            if summary.passed() {
                ExitCode::SUCCESS
            } else {
                FOUND.into()
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What is known and not known to differ, and the last line.
type Outcome = (BTreeMap<&'static str, u64>, Option<String>, String);

fn finish(outcome: Result<Outcome, Error>) -> ExitCode {
    match outcome {
        Ok((explained, difference, line)) => {
            for (name, count) in &explained {
                println!("{count:6} {name}");
            }
            if let Some(text) = &difference {
                println!("{text}");
            }
            println!("{line}");
            match difference {
                None => ExitCode::SUCCESS,
                Some(_) => FOUND.into(),
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Exit status when both sides differ.
const FOUND: u8 = 3;

/// A number, decimal or with 0x before it.
fn number(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "give a number, such as 7 or 0x7".to_owned())
}

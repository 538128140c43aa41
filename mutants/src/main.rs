//! Shows that each mistake of the catalogue is found.

use anyhow::{Context, bail};
use clap::Parser;
use portcullis_mutants::{
    Catalogue, Hunter, Mutant, Outcome, Row, Search, Tree, With, markdown, summary, table,
    workspace_root,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Make each mistake of the catalogue in a copy of the source and see whether it
/// is found. Exit status 1 when one is not.
#[derive(Parser)]
#[command(name = "portcullis-mutants")]
struct Arguments {
    /// Only mutants whose name contains this; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only mutants of this file of the catalogue, and none of the rig's own; may
    /// be given several times.
    #[arg(long, value_name = "FILE")]
    catalogue: Vec<String>,
    /// Mutants to build and run at the same time.
    #[arg(long, value_name = "K", default_value_t = cores())]
    jobs: usize,
    /// Operations that the rig may run for one mutant.
    #[arg(long, value_name = "N", default_value_t = 40_000)]
    ops: u64,
    /// Decides the rig's programs.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Seconds after which a run has hung.
    #[arg(long, value_name = "T", default_value_t = 600)]
    patience: u64,
    /// Name the mutants of the source, check that each fits it, and do no more.
    #[arg(long)]
    list: bool,
    /// Print the table of the documentation.
    #[arg(long)]
    markdown: bool,
}

/// A mistake in the source, or one that the rig makes.
enum Job<'c> {
    Source(&'c Mutant),
    Seam(String),
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let root = workspace_root();
    let catalogue = Catalogue::load(&root.join("mutants/catalogue"))?;
    let chosen = |name: &str| {
        arguments.only.is_empty() || arguments.only.iter().any(|only| name.contains(only))
    };
    let mutants: Vec<&Mutant> = catalogue
        .mutants
        .iter()
        .filter(|mutant| chosen(&mutant.name))
        .filter(|mutant| {
            arguments.catalogue.is_empty() || arguments.catalogue.contains(&mutant.catalogue)
        })
        .collect();
    // Before an hour of work: does everything fit?
    for mutant in &mutants {
        mutant.applied(&root)?;
        if arguments.list {
            println!(
                "{}: {} ({})",
                mutant.name,
                mutant.mistake,
                mutant.file.display()
            );
        }
    }
    if arguments.list {
        return Ok(ExitCode::SUCCESS);
    }

    let search = Search {
        ops: arguments.ops,
        seed: arguments.seed,
        patience: Duration::from_secs(arguments.patience),
    };
    let first = Hunter::new(Tree::prepare(&root, 0)?, search);
    let mut jobs: Vec<Job<'_>> = mutants.iter().map(|mutant| Job::Source(mutant)).collect();
    let seams = first.seam_mutants()?;
    if arguments.catalogue.is_empty() {
        jobs.extend(seams.into_iter().filter(|name| chosen(name)).map(Job::Seam));
    }
    if jobs.is_empty() {
        bail!("no mutant has such a name");
    }
    check_clean(&first, &jobs)?;

    let rows = work(arguments, &root, search, first, &jobs)?;
    print!(
        "{}",
        if arguments.markdown {
            markdown(&rows)
        } else {
            table(&rows)
        }
    );
    println!("{}", summary(&rows));
    let unexplained = |row: &Row| !row.outcome.is_kill() && row.explained.is_none();
    Ok(if rows.iter().any(unexplained) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What finds a mistake where there is none proves nothing.
fn check_clean(hunter: &Hunter, jobs: &[Job<'_>]) -> anyhow::Result<()> {
    let mut needed = BTreeMap::new();
    for job in jobs {
        let (with, file) = match job {
            Job::Source(mutant) => (mutant.with, mutant.file.as_path()),
            Job::Seam(_) => (With::Rig, Path::new("")),
        };
        // Tests are a package's; the others are the same for every file.
        let place = match with {
            With::Tests => file.ancestors().nth(2).unwrap_or(file),
            _ => Path::new(""),
        };
        needed.insert((by(with), place), (with, file));
    }
    for ((by, place), (with, file)) in needed {
        eprintln!("without a mistake: {by} {}", place.display());
        hunter.check_clean(with, file)?;
    }
    Ok(())
}

/// Runs the jobs on several copies. Rows are in the order of the jobs.
fn work(
    arguments: &Arguments,
    root: &Path,
    search: Search,
    first: Hunter,
    jobs: &[Job<'_>],
) -> anyhow::Result<Vec<Row>> {
    let mut hunters = vec![first];
    for number in 1..arguments.jobs.clamp(1, jobs.len()) {
        hunters.push(Hunter::new(Tree::prepare(root, number)?, search));
    }
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(BTreeMap::new());
    thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = hunters
            .iter()
            .map(|hunter| {
                scope.spawn(|| -> anyhow::Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(number) else {
                            return Ok(());
                        };
                        let row = hunt(hunter, job).inspect_err(|_| {
                            // A defect of the catalogue: the others stop too.
                            next.store(jobs.len(), Ordering::Relaxed);
                        })?;
                        eprint!("{}", table(std::slice::from_ref(&row)));
                        if let Ok(mut rows) = rows.lock() {
                            rows.insert(number, row);
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(result) => result?,
                Err(_) => bail!("a worker panicked"),
            }
        }
        Ok(())
    })?;
    let rows = rows.into_inner().ok().context("a worker panicked")?;
    Ok(rows.into_values().collect())
}

fn hunt(hunter: &Hunter, job: &Job<'_>) -> anyhow::Result<Row> {
    let row = |name: &str, mistake: &str, by, (outcome, took): (Outcome, Duration)| Row {
        name: name.to_owned(),
        mistake: mistake.to_owned(),
        by,
        outcome,
        explained: None,
        took,
    };
    Ok(match job {
        Job::Source(mutant) => Row {
            explained: mutant.explained.clone(),
            ..row(
                &mutant.name,
                &mutant.mistake,
                by(mutant.with),
                hunter.hunt(mutant)?,
            )
        },
        Job::Seam(name) => row(name, "made by the rig", "rig", hunter.hunt_at_seam(name)?),
    })
}

fn by(with: With) -> &'static str {
    match with {
        With::Rig => "rig",
        With::Nested => "nested",
        With::Paravirt => "paravirt",
        With::Its => "its",
        With::Conformance => "conformance",
        With::Loom => "loom",
        With::Tests => "tests",
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

//! The program: `portcullis-lab run SCENARIO.toml --platform mmu700`.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use portcullis_lab::advice::{self, Replayed, Settings, Workload};
use portcullis_lab::description::{Asked, Description};
use portcullis_lab::import;
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::published;
use portcullis_lab::replay::{self, Options};
use portcullis_lab::scenario::{Invalidation, Placement, Scenario};
use portcullis_lab::sim;
use portcullis_lab::sweep::{self, Grid, Kind, Load, Store};
use portcullis_lab::trace::Trace;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

/// What the ways to give a host its IOMMU cost: the real code on an SMMU whose time
/// is modelled.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a scenario and prints what it comes to in each mode.
    Run {
        /// The scenario.
        scenario: PathBuf,
        /// mmu600, mmu700, grace, morello, or a file.
        #[arg(long, default_value = "mmu700")]
        platform: String,
        /// native, identity, nested, paravirt, or all of them.
        #[arg(long, default_value = "all")]
        mode: String,
        /// strict or lazy, whatever the scenario says.
        #[arg(long)]
        invalidation: Option<String>,
        /// The host's memory is in pages of 4 KiB in the hypervisor's tables, whatever
        /// the platform says.
        #[arg(long)]
        pages: bool,
        /// Counts of instructions, instead of those that are built in.
        #[arg(long)]
        measured: Option<PathBuf>,
    },
    /// Says which of nested and paravirt to take, how sure that is, and what would
    /// change it.
    Advise {
        /// A short description of the devices and of what they ask for.
        #[arg(required_unless_present_any = ["scenario", "trace"])]
        description: Option<PathBuf>,
        /// A scenario, instead.
        #[arg(long, conflicts_with_all = ["description", "trace"])]
        scenario: Option<PathBuf>,
        /// What a host mapped, instead: the hypervisor's log of a run with `trace=`,
        /// replayed as a strict host's by `replay`'s assumptions.
        #[arg(long, conflicts_with = "description")]
        trace: Option<PathBuf>,
        /// mmu600, mmu700, grace, morello, or a file.
        #[arg(long, default_value = "mmu700")]
        platform: String,
        /// The host's memory is in pages of 4 KiB in the hypervisor's tables, if the
        /// description does not say.
        #[arg(long)]
        pages: bool,
        /// Counts of instructions, instead of those that are built in.
        #[arg(long)]
        measured: Option<PathBuf>,
        /// Accesses of each simulation.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
        accesses: u64,
    },
    /// Prints the published para-virtual benchmark beside what the lab makes of it.
    Published,
    /// Prints the counts of a file that `cargo xtask bench --json FILE` wrote, as
    /// `run --measured` takes them.
    Import {
        /// The file.
        json: PathBuf,
    },
    /// Runs what a host mapped and unmapped once more, as the hypervisor recorded it
    /// with `trace=`, and prints what it comes to in each mode.
    Replay {
        /// The hypervisor's log.
        trace: PathBuf,
        /// mmu600, mmu700, grace, morello, or a file.
        #[arg(long, default_value = "mmu700")]
        platform: String,
        /// native, identity, nested, paravirt, or all of them.
        #[arg(long, default_value = "all")]
        mode: String,
        /// strict or lazy.
        #[arg(long, default_value = "strict")]
        invalidation: String,
        /// The host's memory is in pages of 4 KiB in the hypervisor's tables, whatever
        /// the platform says.
        #[arg(long)]
        pages: bool,
        /// Bytes of an access: 64, 128, ... or 4096.
        #[arg(long, default_value_t = 4096)]
        access: u64,
        /// How often each mapping is read.
        #[arg(long, default_value_t = 1)]
        passes: u64,
        /// Only says what is in the trace.
        #[arg(long)]
        summary: bool,
    },
    /// Draws which of nested and paravirt is better, over how often buffers are
    /// mapped anew and the working set, the devices, or what a trap costs. An
    /// interrupted sweep goes on where it was.
    Sweep {
        /// mmu600, mmu700, grace, morello, or a file.
        #[arg(long, default_value = "mmu700")]
        platform: String,
        /// Where the pictures and the finished cells go.
        #[arg(long, default_value = "target/lab")]
        out: PathBuf,
        /// working-set, initiators, trap, or all of them.
        #[arg(long, default_value = "all")]
        map: String,
        /// The host's memory is in pages of 4 KiB in the hypervisor's tables.
        #[arg(long)]
        pages: bool,
        /// The host is lazy.
        #[arg(long)]
        lazy: bool,
        /// The pages of a buffer lie anywhere.
        #[arg(long)]
        scattered: bool,
        /// Accesses simulated for each cell and mode.
        #[arg(long, default_value_t = 200_000)]
        accesses: u64,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn named(name: &str, pages: bool) -> Result<Platform, Box<dyn Error>> {
    let mut platform = Platform::named(name)?;
    if pages {
        platform = platform.in_pages();
    }
    Ok(platform)
}

fn modes_named(word: &str) -> Result<Vec<Mode>, String> {
    match word {
        "all" => Ok(Mode::ALL.to_vec()),
        word => Mode::named(word)
            .map(|mode| vec![mode])
            .ok_or_else(|| format!("{word}: native, identity, nested, paravirt or all")),
    }
}

fn invalidation_named(word: &str) -> Result<Invalidation, String> {
    match word {
        "strict" => Ok(Invalidation::Strict),
        "lazy" => Ok(Invalidation::Lazy),
        other => Err(format!("{other}: strict or lazy")),
    }
}

/// Where the counts of instructions come from.
fn counts_of(measured: &Measured) -> String {
    format!(
        "CPU instructions: {} ({})\n",
        measured.command, measured.machine
    )
}

fn table_of(reports: &[sim::Report]) -> String {
    let accesses: u64 = reports.iter().map(|r| r.simulated).sum();
    let wall: f64 = reports.iter().map(|r| r.wall.as_secs_f64()).sum();
    let speed = accesses as f64 / wall.max(1e-9) / 1e6;
    format!(
        "{}\n{accesses} DMAs simulated in {wall:.2} s: {speed:.2} million a second",
        sim::table(reports)
    )
}

fn replay_all(
    platform: &Platform,
    trace: &Trace,
    options: &Options,
    modes: &[Mode],
) -> Result<(), Box<dyn Error>> {
    let measured = Measured::built_in()?;
    let mut reports = Vec::new();
    for mode in modes {
        reports.push(replay::run(platform, trace, options, &measured, *mode)?);
    }
    let how = options.invalidation().word();
    println!("\nreplayed on {}, {how}", platform.name);
    println!("{}", counts_of(&measured));
    println!("{}", table_of(&reports));
    print!("\n{}", options.assumptions());
    Ok(())
}

fn sweep_all(platform: &Platform, grids: &[Grid], out: &Path) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(out)?;
    let measured = Measured::built_in()?;
    let store = Mutex::new(Store::open(&out.join("cells.csv"), platform, &measured)?);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    let told = |done, all| eprint!("\r{done} of {all} cells");
    let progress = sweep::run(platform, &measured, grids, &store, threads, &told)?;
    let wall = began.elapsed().as_secs_f64();
    eprintln!();
    let store = store.into_inner().map_err(|_| "a thread panicked")?;
    for grid in grids {
        let load = grid.load.words().replace(',', "-");
        let kind = grid.kind.word();
        let path = out.join(format!("{}-{load}-{kind}.svg", platform.name));
        let words = grid.load.words().replace(',', ", ");
        let title = format!("Paravirt or nested? {}, {words}", platform.name);
        sweep::draw(&path, &title, grid, &store)?;
        println!("{}", path.display());
    }
    println!(
        "{} cells computed, {} found; {} DMAs in {wall:.1} s on {threads} threads: {:.2} million a second",
        progress.computed,
        progress.found,
        progress.accesses,
        progress.accesses as f64 / wall.max(1e-9) / 1e6
    );
    Ok(())
}

fn title(scenario: &Scenario, platform: &Platform) -> String {
    let (name, invalidation) = (&scenario.name, scenario.host.invalidation.word());
    format!("{name}, on {}, {invalidation}", platform.name)
}

/// Advises on a workload and prints it.
fn advise(
    workload: &dyn Workload,
    title: &str,
    (platform, measured): (&Platform, &Measured),
    asked: Asked,
    accesses: u64,
) -> Result<(), Box<dyn Error>> {
    let settings = Settings {
        accesses,
        threads: thread::available_parallelism().map_or(1, usize::from),
        buffers: 4 << 30,
    };
    let began = Instant::now();
    let advice = advice::advise(workload, platform, measured, asked, &settings)
        .map_err(|error| error.to_string())?;
    print!("{}", advice::text(title, &advice, &settings));
    println!(
        "\n{} DMAs simulated in {:.1} s on {} threads",
        advice.simulated,
        began.elapsed().as_secs_f64(),
        settings.threads
    );
    Ok(())
}

fn counts(path: Option<PathBuf>) -> Result<Measured, Box<dyn Error>> {
    Ok(match path {
        Some(path) => Measured::load(&path)?,
        None => Measured::built_in()?,
    })
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    match arguments.command {
        Command::Published => {
            let platform = Platform::named("morello")?;
            let measured = Measured::built_in()?;
            let predictions = published::predict(&platform, &measured)?;
            print!("{}", published::text(&predictions, &measured));
        }
        Command::Import { json } => {
            let text = fs::read_to_string(&json)
                .map_err(|error| format!("{}: {error}", json.display()))?;
            print!("{}", import::import(&text)?);
        }
        Command::Replay {
            trace,
            platform,
            mode,
            invalidation,
            pages,
            access,
            passes,
            summary,
        } => {
            let platform = named(&platform, pages)?;
            let modes = modes_named(&mode)?;
            let invalidation = invalidation_named(&invalidation)?;
            let options = Options::new(access, passes, invalidation)?;
            let trace = Trace::load(&trace)?;
            print!("{}", trace.summary().text());
            if !summary {
                replay_all(&platform, &trace, &options, &modes)?;
            }
        }
        Command::Sweep {
            platform,
            out,
            map,
            pages,
            lazy,
            scattered,
            accesses,
        } => {
            let kinds = match map.as_str() {
                "all" => Kind::ALL.to_vec(),
                word => vec![
                    Kind::named(word)
                        .ok_or_else(|| format!("{word}: working-set, initiators, trap or all"))?,
                ],
            };
            let platform = named(&platform, pages)?;
            let load = Load {
                invalidation: if lazy {
                    Invalidation::Lazy
                } else {
                    Invalidation::Strict
                },
                memory: if scattered {
                    Placement::Scattered
                } else {
                    Placement::Contiguous
                },
                accesses,
            };
            let all = kinds.into_iter().map(|kind| Grid::new(kind, load));
            sweep_all(&platform, &all.collect::<Vec<_>>(), &out)?;
        }
        Command::Advise {
            description,
            scenario,
            trace,
            platform,
            pages,
            measured,
            accesses,
        } => {
            let measured = counts(measured)?;
            match (description, scenario, trace) {
                (Some(path), ..) => {
                    let description = Description::load(&path)?;
                    let pages = pages && description.host_memory.is_none();
                    let platform = description.platform(named(&platform, pages)?);
                    let (scenario, asked) = (description.scenario(), description.asked());
                    let title = title(&scenario, &platform);
                    advise(&scenario, &title, (&platform, &measured), asked, accesses)?;
                }
                (None, Some(path), _) => {
                    let platform = named(&platform, pages)?;
                    let scenario = Scenario::load(&path)?;
                    let (title, asked) = (title(&scenario, &platform), Asked::default());
                    advise(&scenario, &title, (&platform, &measured), asked, accesses)?;
                }
                (None, None, Some(path)) => {
                    let platform = named(&platform, pages)?;
                    let (trace, options) = (Trace::load(&path)?, Options::default());
                    let title = format!("{}, replayed on {}", path.display(), platform.name);
                    let replayed = Replayed::new(&trace, options);
                    let (on, asked) = ((&platform, &measured), Asked::default());
                    let each = options.accesses(&trace);
                    advise(&replayed, &title, on, asked, each)?;
                    print!("\n{}", options.assumptions());
                }
                (None, None, None) => {
                    return Err("a description, --scenario or --trace".into());
                }
            }
        }
        Command::Run {
            scenario,
            platform,
            mode,
            invalidation,
            pages,
            measured,
        } => {
            let platform = named(&platform, pages)?;
            let mut scenario = Scenario::load(&scenario)?;
            if let Some(word) = invalidation {
                scenario.host.invalidation = invalidation_named(&word)?;
            }
            let measured = counts(measured)?;
            let mut reports = Vec::new();
            for mode in modes_named(&mode)? {
                reports.push(sim::run(&platform, &scenario, &measured, mode)?);
            }
            println!(
                "{}, on {}, {}",
                scenario.name,
                platform.name,
                scenario.host.invalidation.word()
            );
            println!("{}", counts_of(&measured));
            println!("{}", table_of(&reports));
            if scenario.host.viommus.is_some() {
                let [one, shared, each] = sim::several(&platform, &scenario, &measured)?;
                println!(
                    "paravirt, mappings and unmappings of all CPUs, in those of one CPU: {:.2} with \
                     one virtio-iommu, {:.2} with as many as the scenario has",
                    shared / one,
                    each / one
                );
            }
        }
    }
    Ok(())
}

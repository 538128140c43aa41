//! Hunts for mistakes of the code that isolates devices.

use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use portcullis_rig::program::profiles;
use portcullis_rig::{Catch, Hunt, Kind, Mutant, STREAMS};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

/// Exit status when something was found.
const FOUND: u8 = 3;

#[derive(Parser)]
#[command(
    name = "portcullis-rig",
    about = "Hunts for mistakes of the code that isolates devices"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Hunt(Options),
}

/// Run random hostile programs until something is found or enough was run.
///
/// Exit status 0 when nothing was found, 3 when something was.
#[derive(Args)]
struct Options {
    /// Operations to run.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    ops: u64,
    /// Decides every program; random and printed when not given.
    #[arg(long, value_name = "S", value_parser = number)]
    seed: Option<u64>,
    /// Run one program again, by the seed that was printed with it.
    #[arg(long, value_name = "S", value_parser = number)]
    repeat: Option<u64>,
    /// What the SMMUs can do: the name of a profile, or all.
    #[arg(long, value_name = "P", default_value = "all", value_parser = profile)]
    profile: Profile,
    /// What the host sees: `plain` is no SMMU, `nested` an emulated one,
    /// `paravirt` domains, `its` emulated ITSs.
    #[arg(long, value_name = "W", default_value = "plain")]
    world: World,
    /// Make this mistake between the code under test and the model.
    #[arg(long, value_name = "NAME", value_parser = mutant, default_value = "none")]
    mutant: Mutant,
    /// Most operations of one program.
    #[arg(long, value_name = "L", default_value_t = 80, value_parser = clap::value_parser!(u16).range(1..=1000))]
    max_len: u16,
    /// Most runs that are spent on making what was found shorter.
    #[arg(long, value_name = "K", default_value_t = 4096)]
    shorten: u32,
    /// Name the mistakes that --mutant knows, and do nothing else.
    #[arg(long)]
    list_mutants: bool,
}

/// What the host sees of the SMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum World {
    /// Nothing: its streams are attached for it.
    Plain,
    /// An emulated SMMU on each.
    Nested,
    /// Domains that it maps its pages into, with or without a virtio-iommu.
    Paravirt,
    /// Emulated ITSs; there is no SMMU.
    Its,
}

impl World {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Nested => "nested",
            Self::Paravirt => "paravirt",
            Self::Its => "its",
        }
    }
}

impl From<World> for Kind {
    fn from(world: World) -> Self {
        match world {
            World::Plain => Self::Plain,
            World::Nested => Self::Nested,
            World::Paravirt => Self::Paravirt,
            World::Its => Self::Its,
        }
    }
}

/// Wrapped, since clap takes an `Option` for an argument that may be missing.
#[derive(Clone, Copy)]
struct Profile(Option<&'static str>);

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

fn profile(text: &str) -> Result<Profile, String> {
    if text == "all" {
        return Ok(Profile(None));
    }
    let mut names: Vec<_> = profiles().iter().map(|profile| profile.name).collect();
    names.extend(
        gicv3_model::Profile::all()
            .iter()
            .map(|profile| profile.name),
    );
    match names.iter().find(|name| **name == text) {
        Some(name) => Ok(Profile(Some(name))),
        None => Err(format!(
            "no such profile; there are all, {}",
            names.join(", ")
        )),
    }
}

fn mutant(text: &str) -> Result<Mutant, String> {
    if text == "none" {
        return Ok(Mutant::None);
    }
    Mutant::named(text).ok_or_else(|| "no such mistake; see --list-mutants".to_owned())
}

fn main() -> ExitCode {
    let Command::Hunt(options) = Arguments::parse().command;
    options.run()
}

/// Seed of the program that runs, for a panic of the code under test.
static RUNNING: AtomicU64 = AtomicU64::new(0);

impl Options {
    fn run(self) -> ExitCode {
        if self.list_mutants {
            for mutant in Mutant::all() {
                println!("{}", mutant.name());
            }
            return ExitCode::SUCCESS;
        }
        let seed = self.seed.unwrap_or_else(random);
        let hunt = Hunt {
            ops: self.ops,
            seed,
            profile: self.profile.0,
            world: self.world.into(),
            mutant: self.mutant,
            lengths: 1..=usize::from(self.max_len),
            shorten: self.shorten,
        };
        self.report_panics();
        let (ops, catch) = match self.repeat {
            Some(seed) => {
                RUNNING.store(seed, Ordering::Relaxed);
                let (ops, catch) = hunt.repeat(seed);
                (ops, catch.map(Box::new))
            }
            None => {
                let bar = bar(self.ops);
                let outcome = hunt.run(|seed, ops| {
                    RUNNING.store(seed, Ordering::Relaxed);
                    bar.set_position(ops);
                });
                bar.finish_and_clear();
                (outcome.ops, outcome.catch)
            }
        };
        if let Some(catch) = &catch {
            self.print(catch);
        }
        let violations = u8::from(catch.is_some());
        let shown = self.repeat.unwrap_or(seed);
        println!("verify: ops={ops} streams={STREAMS} violations={violations} seed={shown:#x}");
        if catch.is_some() {
            FOUND.into()
        } else {
            ExitCode::SUCCESS
        }
    }

    fn print(&self, catch: &Catch) {
        println!("found: {}", catch.finding);
        println!("       {:?}", catch.finding);
        println!("on {}, by", catch.setup);
        for (number, op) in (1..).zip(&catch.program) {
            println!("{number:4}  {op:?}");
        }
        println!("again: {}", self.again(catch.seed));
    }

    /// The command that runs one program again.
    fn again(&self, seed: u64) -> String {
        let mut command = format!(
            "cargo run --profile hunt -p portcullis-rig -- hunt --repeat {seed:#x} --max-len {}",
            self.max_len
        );
        if let Profile(Some(name)) = self.profile {
            command += &format!(" --profile {name}");
        }
        if self.world != World::Plain {
            command += &format!(" --world {}", self.world.name());
        }
        if self.mutant != Mutant::None {
            command += &format!(" --mutant {}", self.mutant.name());
        }
        command
    }

    /// A panic of the code under test ends the process, and is a finding too.
    fn report_panics(&self) {
        let again = self.again(0);
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            default(info);
            let seed = RUNNING.load(Ordering::Relaxed);
            println!("found: a panic, see above");
            println!(
                "again: {}",
                again.replace("--repeat 0x0", &format!("--repeat {seed:#x}"))
            );
            println!("verify: ops=0 streams={STREAMS} violations=1 seed={seed:#x}");
            std::process::exit(FOUND.into());
        }));
    }
}

fn bar(ops: u64) -> ProgressBar {
    let bar = ProgressBar::new(ops);
    let style = ProgressStyle::with_template(
        "{bar:30} {human_pos}/{human_len} operations, {per_sec}, {eta} left",
    );
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// From the process's hash keys, which the system draws.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0u8)
}

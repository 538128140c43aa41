//! `cargo xtask trees`: what becomes of real boards.

use anyhow::Context;
use clap::Args;
use portcullis_boards::board::Board;
use portcullis_boards::{corpus, record, table};
use portcullis_testbed::setup::trees;
use portcullis_testbed::workspace::Workspace;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Boot the device trees of Debian's arm64 kernel up to the host's tree and tables,
/// in each mode, and print what becomes of each board.
#[derive(Args)]
pub struct Trees {
    /// Only trees whose name contains one of these, such as `ti/` or `rk3588`.
    names: Vec<String>,
    /// Print each board, with its reasons in full, instead of a summary by chip.
    #[arg(long)]
    all: bool,
    /// Write everything that is known of each board to FILE.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Make what is found the state that the tests expect: boards/verdicts.txt and the
    /// tables of docs/boards.md.
    #[arg(long, conflicts_with = "names")]
    bless: bool,
}

impl Trees {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let workspace = Workspace::here();
        let trees = trees::Trees::set_up(&workspace)?;
        let wanted = |name: &str| {
            self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
        };
        let boards = corpus::try_all(&trees, wanted)?;
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&boards)?;
            std::fs::write(path, text)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        if self.bless {
            bless(workspace.root(), &boards)?;
        }
        println!("trees of {}", trees::Trees::package());
        if self.all {
            print!("{}", table::each(&boards));
        } else {
            print!("{}", table::summary(&boards));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes what is committed of the boards.
fn bless(root: &Path, boards: &[Board]) -> anyhow::Result<()> {
    let document = root.join("docs/boards.md");
    let text = std::fs::read_to_string(&document).context("cannot read docs/boards.md")?;
    let text = record::with_tables(&text, &record::markdown(boards));
    let text = text.context("docs/boards.md lacks the marks of its tables")?;
    std::fs::write(&document, text).context("cannot write docs/boards.md")?;
    std::fs::write(root.join("boards/verdicts.txt"), record::verdicts(boards))
        .context("cannot write boards/verdicts.txt")
}

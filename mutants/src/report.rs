//! What is printed.

use crate::hunt::Outcome;
use std::fmt::Write;
use std::time::Duration;

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Row {
    /// The mutant.
    pub name: String,
    /// The mistake in words.
    pub mistake: String,
    /// Who looked for it.
    pub by: &'static str,
    /// What came of it.
    pub outcome: Outcome,
    /// Why it is right that it survives.
    pub explained: Option<String>,
    /// How long it was looked for.
    pub took: Duration,
}

impl Row {
    fn killer(&self) -> String {
        match &self.outcome {
            Outcome::Killed { found, .. } => format!("{}: {found}", self.by),
            Outcome::Crashed(message) => format!("{}, crashed: {message}", self.by),
            Outcome::Hung => format!("{}: hung", self.by),
            Outcome::Survived if self.explained.is_some() => "survived, explained".into(),
            Outcome::Survived => "SURVIVED".into(),
        }
    }

    fn ops(&self) -> String {
        match self.outcome {
            Outcome::Killed { ops: Some(ops), .. } => ops.to_string(),
            _ => "-".into(),
        }
    }
}

/// One line for each mutant, for a terminal.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let width = |text: fn(&Row) -> String| rows.iter().map(|r| text(r).len()).max().unwrap_or(0);
    let name = width(|row| row.name.clone());
    let killer = width(Row::killer).min(60);
    let mut text = String::new();
    for row in rows {
        let cut: String = row.killer().chars().take(60).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:name$}  {cut:killer$}  ops={:>2}  {:5.1} s",
            row.name,
            row.ops(),
            row.took.as_secs_f64(),
        );
    }
    text
}

/// The table of the documentation.
#[must_use]
pub fn markdown(rows: &[Row]) -> String {
    let mut text =
        String::from("| mutant | the mistake | found by | operations |\n|---|---|---|---|\n");
    for row in rows {
        let killer = row.killer().replace('|', "\\|");
        let why = row.explained.as_deref().map(|why| format!(": {why}"));
        let _ = writeln!(
            text,
            "| `{}` | {} | {killer}{} | {} |",
            row.name,
            row.mistake.replace('|', "\\|"),
            why.unwrap_or_default(),
            row.ops(),
        );
    }
    text
}

/// The last line.
#[must_use]
pub fn summary(rows: &[Row]) -> String {
    let killed = rows.iter().filter(|row| row.outcome.is_kill()).count();
    format!("mutants: total={} killed={killed}", rows.len())
}

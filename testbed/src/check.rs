//! Checks, and the table they end in.

use serde_json::{Map, Value, json};

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Check {
    /// What must hold, for a newcomer.
    pub name: String,
    /// What was done to find out.
    pub tried: String,
    /// What came out of it.
    pub result: String,
    /// Whether it holds.
    pub held: bool,
    /// Numbers for programs.
    pub figures: Map<String, Value>,
}

impl Check {
    /// A check that held.
    #[must_use]
    pub fn held(name: &str, tried: impl Into<String>, result: impl Into<String>) -> Self {
        Self::new(name, tried.into(), result.into(), true)
    }

    /// A check that did not.
    #[must_use]
    pub fn failed(name: &str, tried: impl Into<String>, result: impl Into<String>) -> Self {
        Self::new(name, tried.into(), result.into(), false)
    }

    /// A check that held exactly when `result` is good; an error says why not.
    #[must_use]
    pub fn of<E: std::fmt::Display>(
        name: &str,
        tried: impl Into<String>,
        result: Result<String, E>,
    ) -> Self {
        match result {
            Ok(good) => Self::held(name, tried, good),
            Err(bad) => Self::failed(name, tried, bad.to_string()),
        }
    }

    /// Adds a number.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.figures.insert(key.to_owned(), value.into());
        self
    }

    fn new(name: &str, tried: String, result: String, held: bool) -> Self {
        Self {
            name: name.to_owned(),
            tried,
            result,
            held,
            figures: Map::new(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "check": self.name,
            "tried": self.tried,
            "result": self.result,
            "held": self.held,
            "figures": self.figures,
        })
    }
}

/// All checks of one command.
#[derive(Clone, Debug, Default)]
pub struct Report {
    checks: Vec<Check>,
}

impl Report {
    /// Adds a check.
    pub fn add(&mut self, check: Check) {
        self.checks.push(check);
    }

    /// Whether there are checks and all of them held.
    #[must_use]
    pub fn held(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.held)
    }

    /// The checks in the order they were made.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// The table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .checks
            .iter()
            .map(|check| {
                let verdict = if check.held { "ok" } else { "FAILED" };
                // Only the first line: what follows are logs, shown elsewhere.
                let result = check.result.lines().next().unwrap_or("").to_owned();
                vec![
                    check.name.clone(),
                    check.tried.clone(),
                    verdict.to_owned(),
                    result,
                ]
            })
            .collect();
        table(&["check", "what was tried", "", "result"], &rows)
    }

    /// The same for programs.
    #[must_use]
    pub fn json(&self, command: &str) -> Value {
        let checks: Vec<Value> = self.checks.iter().map(Check::json).collect();
        json!({ "command": command, "held": self.held(), "checks": checks })
    }
}

/// Lays rows out in columns below a heading.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            text.extend(std::iter::repeat_n(' ', padding));
        }
        format!("{}\n", text.trim_end())
    };
    let mut text = line(&mut heading.iter().copied());
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    text.push_str(&line(&mut rule.iter().map(String::as_str)));
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_check_is_no_success() {
        assert!(!Report::default().held());
    }

    #[test]
    fn one_failure_is_a_failure() {
        let mut report = Report::default();
        report.add(Check::held("a", "b", "c"));
        assert!(report.held());
        report.add(Check::failed("longer", "b", "first\nsecond"));
        assert!(!report.held());
        let table = report.table();
        assert!(table.contains("FAILED"));
        assert!(!table.contains("second"));
        assert_eq!(report.json("run")["checks"][1]["held"], false);
    }
}

//! Progress of downloads and builds: a bar on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a plain line is printed.
const PLAIN_PERIOD: Duration = Duration::from_secs(10);

/// One job under way.
#[derive(Debug)]
pub struct Progress {
    what: String,
    total: Option<u64>,
    bar: Option<ProgressBar>,
    start: Instant,
    last: Instant,
}

impl Progress {
    /// A job whose size in bytes is known.
    #[must_use]
    pub fn bytes(what: &str, total: u64) -> Self {
        Self::new(
            what,
            Some(total),
            "{spinner} {msg} [{bar:30}] {bytes} of {total_bytes}, {eta}",
        )
    }

    /// A job of a known number of steps.
    #[must_use]
    pub fn count(what: &str, total: u64) -> Self {
        Self::new(
            what,
            Some(total),
            "{spinner} {msg} [{bar:30}] {pos} of {len}, {eta}",
        )
    }

    /// A job that takes as long as it takes.
    #[must_use]
    pub fn spinner(what: &str) -> Self {
        Self::new(what, None, "{spinner} {msg} ({elapsed})")
    }

    fn new(what: &str, total: Option<u64>, template: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{what} …");
        }
        let now = Instant::now();
        Self {
            what: what.to_owned(),
            total,
            bar,
            start: now,
            last: now,
        }
    }

    /// Says how far the job is.
    pub fn at(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last.elapsed() >= PLAIN_PERIOD {
            self.last = Instant::now();
            if let Some(total) = self.total.filter(|total| *total > 0) {
                eprintln!("{} … {} %", self.what, done.min(total) * 100 / total);
            }
        }
    }

    /// Says what the job is doing now.
    pub fn note(&mut self, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{}: {note}", self.what));
        } else if self.last.elapsed() >= PLAIN_PERIOD {
            self.last = Instant::now();
            eprintln!("{}: {note}", self.what);
        }
    }

    /// Ends the job well.
    pub fn done(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!(
            "{}: done in {:.1} s",
            self.what,
            self.start.elapsed().as_secs_f64()
        );
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

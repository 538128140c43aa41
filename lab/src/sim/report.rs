//! What came of it, as a table.

use crate::machine::Mode;
use crate::timing::{Distribution, Queue, Translations};
use crate::units::{Instructions, Picos};
use std::fmt::Write as _;
use std::time::Duration;

/// What was counted since the warm-up.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// What accesses waited for.
    pub translations: Translations,
    /// What mappings took a CPU, waiting included.
    pub maps: Distribution,
    /// The same for unmappings.
    pub unmaps: Distribution,
    /// Instructions of all mappings.
    pub map_instructions: Instructions,
    /// And of all unmappings.
    pub unmap_instructions: Instructions,
    /// Times that EL2 was entered.
    pub entries: u64,
}

/// The outcome of a simulation.
#[derive(Clone, Debug)]
pub struct Report {
    /// In which mode.
    pub mode: Mode,
    /// What was counted.
    pub counted: Counted,
    /// The command queue.
    pub queue: Queue,
    /// Simulated time.
    pub elapsed: Picos,
    /// Bytes of an access.
    pub dma_bytes: u64,
    /// Most bytes of tables and queues: the hypervisor's, and the host's.
    pub tables: (u64, u64),
    /// Walks asked of the model.
    pub asked: u64,
    /// Accesses simulated, the warm-up included.
    pub simulated: u64,
    /// What the simulation took.
    pub wall: Duration,
}

impl Report {
    /// Accesses.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.counted.translations.cost.count()
    }

    /// Bytes that devices moved in a second, all together.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let bytes = self.accesses() * self.dma_bytes;
        bytes as f64 / self.elapsed.as_secs().max(f64::MIN_POSITIVE)
    }

    /// Share of the time in which the command queue was not empty.
    #[must_use]
    pub fn queue_load(&self) -> f64 {
        self.queue.busy.as_secs() / self.elapsed.as_secs().max(f64::MIN_POSITIVE)
    }

    /// Accesses simulated in a second.
    #[must_use]
    pub fn speed(&self) -> f64 {
        self.simulated as f64 / self.wall.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn per_access(&self, count: u64) -> f64 {
        count as f64 / (self.accesses() as f64).max(1.0)
    }

    fn per_unmap(&self, count: u64) -> f64 {
        count as f64 / (self.counted.unmaps.count() as f64).max(1.0)
    }

    fn row(&self) -> Vec<String> {
        let (counted, dash) = (&self.counted, || "-".to_owned());
        let translations = &counted.translations;
        let some = self.accesses() != 0;
        let when = |has: bool, text: String| if has { text } else { dash() };
        let (maps, unmaps) = (&counted.maps, &counted.unmaps);
        let has_jobs = unmaps.count() != 0;
        vec![
            self.mode.word().to_owned(),
            when(
                some,
                format!("{:.1}", translations.cost.average().as_nanos()),
            ),
            when(
                some,
                format!("{:.0}", translations.cost.quantile(0.99).as_nanos()),
            ),
            when(some, format!("{:.4}", self.per_access(translations.walks))),
            when(
                some,
                format!("{:.4}", self.per_access(translations.charged.reads())),
            ),
            when(has_jobs, format!("{:.0}", maps.average().as_nanos())),
            when(has_jobs, format!("{:.0}", unmaps.average().as_nanos())),
            when(has_jobs, format!("{:.3}", self.per_unmap(counted.entries))),
            when(
                has_jobs,
                format!("{:.2}", self.per_unmap(self.queue.commands)),
            ),
            when(has_jobs, format!("{:.1} %", 100.0 * self.queue_load())),
            when(some, format!("{:.2}", self.rate() / 1e9)),
            format!("{}", self.tables.0 / 1024),
            format!("{}", self.tables.1 / 1024),
        ]
    }
}

const HEADING: [&str; 13] = [
    "modelled",
    "wait ns",
    "p99",
    "walks/DMA",
    "reads/DMA",
    "map ns",
    "unmap ns",
    "EL2/pair",
    "cmds/pair",
    "queue",
    "GB/s",
    "EL2 KiB",
    "host KiB",
];

/// A line for each report.
#[must_use]
pub fn table(reports: &[Report]) -> String {
    let rows: Vec<Vec<String>> = reports.iter().map(Report::row).collect();
    lines(&HEADING, &rows)
}

/// The same with one more column.
#[must_use]
pub(crate) fn table_with(reports: &[&Report], heading: &str, cells: &[String]) -> String {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .zip(cells)
        .map(|(report, cell)| {
            let mut row = report.row();
            row.push(cell.clone());
            row
        })
        .collect();
    let headings: Vec<&str> = HEADING.into_iter().chain([heading]).collect();
    lines(&headings, &rows)
}

/// Columns, the first aligned to the left.
pub(crate) fn lines(heading: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let most = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        most.max(heading.get(column).map_or(0, |head| head.chars().count()))
    };
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut whole = String::new();
        for (column, cell) in cells.enumerate() {
            let width = width(column);
            // Writing to a string does not fail.
            let _ = if column == 0 {
                write!(whole, "{cell:<width$}")
            } else {
                write!(whole, "  {cell:>width$}")
            };
        }
        text.push_str(whole.trim_end());
        text.push('\n');
    };
    line(&mut heading.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

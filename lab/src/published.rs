//! The only benchmark of a para-virtual SMMU that was published, beside what the lab
//! makes of the same work.
//!
//! One set of parameters for every row: the Morello-like platform, and the counts of
//! instructions of *this* hypervisor. Nothing was fitted.

use crate::input;
use crate::machine::Mode;
use crate::measured::{Measured, Operation};
use crate::platform::Platform;
use crate::scenario::{Invalidation, Scenario};
use crate::sim::{self, SimError, lines};
use crate::units::{Instructions, Picos};
use std::fmt::Write as _;

/// Averages of dma_map_benchmark, in microseconds: a mapping and an unmapping.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Of a mapping.
    pub map: f64,
    /// Of an unmapping.
    pub unmap: f64,
}

/// A row that was published ("KVM: Arm SMMUv3 driver for pKVM", v2, December 2024;
/// Morello, 4 cores).
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Bytes of a mapping.
    pub bytes: u64,
    /// Threads that map and unmap.
    pub threads: u64,
    /// With the stock driver.
    pub stock: Pair,
    /// With the para-virtual one.
    pub paravirt: Pair,
}

const fn pair(map: f64, unmap: f64) -> Pair {
    Pair { map, unmap }
}

/// What was published.
pub const ROWS: [Row; 4] = [
    Row {
        bytes: 4096,
        threads: 1,
        stock: pair(0.1, 0.7),
        paravirt: pair(0.3, 1.3),
    },
    Row {
        bytes: 4096,
        threads: 4,
        stock: pair(0.1, 1.1),
        paravirt: pair(0.5, 3.3),
    },
    Row {
        bytes: 1 << 20,
        threads: 1,
        stock: pair(0.8, 21.5),
        paravirt: pair(2.6, 27.3),
    },
    Row {
        bytes: 1 << 20,
        threads: 4,
        stock: pair(1.1, 45.7),
        paravirt: pair(3.6, 46.2),
    },
];

/// Bytes in a nanosecond with which the benchmark fills its buffer before each
/// mapping: assumed.
const FILLED: u64 = 10;

impl Row {
    /// The work as a scenario: each thread fills a buffer, maps it, unmaps it.
    ///
    /// # Errors
    /// Never in practice: the text is in order.
    fn scenario(&self) -> Result<Scenario, input::InputError> {
        let Self { bytes, threads, .. } = self;
        let pause = bytes / FILLED;
        let count = if *bytes > 65536 { 400 } else { 4000 };
        let text = format!(
            r#"
name = "dma_map_benchmark"
[initiators]
count = 1
domains = "each"
[buffers]
bytes = {bytes}
live = {threads}
lifetime = {{ transfers = 0 }}
memory = "contiguous"
iova = "recycled"
[dma]
bytes = 4096
pattern = "sequential"
outstanding = 1
link_mbytes_per_s = 1000
[host]
cpus = {threads}
invalidation = "strict"
pause_ns = {pause}
[run]
count = {count}
warm_up = 100
seed = 1
"#
        );
        input::parse(&text, "dma_map_benchmark")
    }

    fn name(&self) -> String {
        let size = if self.bytes >= 1 << 20 {
            format!("{} MiB", self.bytes >> 20)
        } else {
            format!("{} KiB", self.bytes >> 10)
        };
        let s = if self.threads == 1 { "" } else { "s" };
        format!("{size}, {} thread{s}", self.threads)
    }
}

/// What the lab says of a row, in the modes that were published.
#[derive(Clone, Copy, Debug)]
pub struct Prediction {
    /// The row.
    pub row: Row,
    /// The stock driver.
    pub stock: Pair,
    /// The para-virtual one.
    pub paravirt: Pair,
    /// Nested, of which nothing is published.
    pub nested: Pair,
}

/// Predicts every row.
///
/// # Errors
/// [`SimError`], and never an [`input::InputError`]: the scenarios are in order.
pub fn predict(
    platform: &Platform,
    measured: &Measured,
) -> Result<Vec<Prediction>, Box<dyn std::error::Error>> {
    let one = |scenario: &Scenario, mode| -> Result<Pair, SimError> {
        let report = sim::run(platform, scenario, measured, mode)?;
        let micros = |time: Picos| time.as_micros();
        Ok(Pair {
            map: micros(report.counted.maps.average()),
            unmap: micros(report.counted.unmaps.average()),
        })
    };
    let mut all = Vec::new();
    for row in ROWS {
        let scenario = row.scenario()?;
        all.push(Prediction {
            row,
            stock: one(&scenario, Mode::Native)?,
            paravirt: one(&scenario, Mode::Paravirt)?,
            nested: one(&scenario, Mode::Nested)?,
        });
    }
    Ok(all)
}

/// By how much the lab is off, in percent of what was published.
#[must_use]
pub fn deviation(modelled: f64, published: f64) -> f64 {
    100.0 * (modelled - published) / published
}

/// What is off by more than this is explained.
pub const NOTABLE: f64 = 25.0;

/// Why the lab is off: which cells, and what is behind it.
#[derive(Clone, Copy, Debug)]
pub struct Reason {
    /// Rows with so many bytes.
    bytes: u64,
    /// Rows with so many threads; `None`: with any.
    threads: Option<u64>,
    paravirt: bool,
    map: bool,
    /// In words; `{host}` and `{el2}` stand for the instructions that were counted.
    text: &'static str,
}

const fn reason(
    (bytes, threads): (u64, Option<u64>),
    (paravirt, map): (bool, bool),
    text: &'static str,
) -> Reason {
    Reason {
        bytes,
        threads,
        paravirt,
        map,
        text,
    }
}

const SMALL: u64 = 4096;
const LARGE: u64 = 1 << 20;

/// All that is known.
const REASONS: [Reason; 9] = [
    reason(
        (SMALL, None),
        (false, true),
        "Published with one digit: 0.1 is anything from 0.05 to 0.15. The lab has {host} instructions at two a cycle.",
    ),
    reason(
        (LARGE, None),
        (false, true),
        "The lab has {host} instructions, Debian 6.12's count. In the 0.8 us of one thread that would be more than 3 a cycle, on a core that decodes 4: the kernel measured there probably takes fewer.",
    ),
    reason(
        (SMALL, Some(4)),
        (false, false),
        "Cores that fight for the lines of the command queue's indices are not modelled, only that commands are consumed in a row.",
    ),
    reason(
        (LARGE, None),
        (false, false),
        "256 commands in 21.5 us would be 84 ns each; the platform file assumes 40. With four threads the queue is what they wait for, and its speed counts once more.",
    ),
    reason(
        (SMALL, None),
        (true, true),
        "Another protocol: the stock virtio-iommu driver runs {host} instructions around the {el2} of EL2; pKVM's driver makes one hypercall. With four threads they wait for our lock around it.",
    ),
    reason(
        (SMALL, Some(4)),
        (true, false),
        "As for the stock driver: a lock costs the lab waiting, and not the lines that move between cores.",
    ),
    reason(
        (LARGE, None),
        (true, true),
        "Our EL2 maps 256 neighbouring pages in one run with contiguous groups and counts them by 16 ({el2} instructions); pKVM's probably goes page by page.",
    ),
    reason(
        (LARGE, Some(1)),
        (true, false),
        "Without range invalidation our driver drops the whole domain by one command from 65 pages on. That the published figure is near the stock driver's suggests a command a page there. Ours is less here, and costs the domain its other translations.",
    ),
    reason(
        (LARGE, Some(4)),
        (true, false),
        "As with one thread, and the published threads wait for the queue besides.",
    ),
];

impl Reason {
    /// Why the lab is off at a cell, if somebody knows.
    #[must_use]
    pub fn of(row: &Row, paravirt: bool, map: bool) -> Option<&'static Self> {
        REASONS.iter().find(|reason| {
            (reason.bytes, reason.paravirt, reason.map) == (row.bytes, paravirt, map)
                && reason.threads.is_none_or(|threads| threads == row.threads)
        })
    }

    /// It, with what was counted.
    fn words(&self, measured: &Measured) -> String {
        let mode = if self.paravirt {
            Mode::Paravirt
        } else {
            Mode::Native
        };
        let operation = if self.map {
            Operation::Map
        } else {
            Operation::Unmap
        };
        let cost = measured.cost(mode, Invalidation::Strict, operation, (self.bytes, 1));
        let number = |count: Instructions| format!("{:.0}", count.0);
        self.text
            .replace("{host}", &number(cost.host))
            .replace("{el2}", &number(cost.el2))
    }
}

impl Prediction {
    /// Every cell: whether it is paravirt's, whether it is of mappings, what was
    /// published and what the lab says.
    #[must_use]
    pub fn cells(&self) -> [(bool, bool, f64, f64); 4] {
        let Self {
            row,
            stock,
            paravirt,
            ..
        } = self;
        [
            (false, true, row.stock.map, stock.map),
            (false, false, row.stock.unmap, stock.unmap),
            (true, true, row.paravirt.map, paravirt.map),
            (true, false, row.paravirt.unmap, paravirt.unmap),
        ]
    }
}

/// All of it as text.
#[must_use]
pub fn text(predictions: &[Prediction], measured: &Measured) -> String {
    let cell = |pair: &Pair| format!("{:.2} / {:.2}", pair.map, pair.unmap);
    let off = |modelled: &Pair, published: &Pair| {
        let mark = |modelled: f64, published: f64| {
            let off = deviation(modelled, published);
            let mark = if off.abs() > NOTABLE { "*" } else { "" };
            format!("{off:+.0} %{mark}")
        };
        format!(
            "{} / {}",
            mark(modelled.map, published.map),
            mark(modelled.unmap, published.unmap)
        )
    };
    let rows: Vec<Vec<String>> = predictions
        .iter()
        .map(|p| {
            vec![
                p.row.name(),
                cell(&p.row.stock),
                cell(&p.stock),
                off(&p.stock, &p.row.stock),
                cell(&p.row.paravirt),
                cell(&p.paravirt),
                off(&p.paravirt, &p.row.paravirt),
                cell(&p.nested),
            ]
        })
        .collect();
    let heading = [
        "map / unmap, us",
        "stock, published",
        "modelled",
        "off by",
        "paravirt, published",
        "modelled",
        "off by",
        "nested, modelled",
    ];
    let mut text = lines(&heading, &rows);
    // Writing to a string does not fail.
    let _ = writeln!(text, "\n* more than {NOTABLE} %, because:");
    let mut told: Vec<String> = Vec::new();
    for prediction in predictions {
        for (paravirt, map, published, modelled) in prediction.cells() {
            if deviation(modelled, published).abs() <= NOTABLE {
                continue;
            }
            let reason = Reason::of(&prediction.row, paravirt, map);
            let reason = reason.map(|reason| reason.words(measured));
            let reason = reason.unwrap_or_else(|| "nobody knows.".to_owned());
            if told.contains(&reason) {
                continue;
            }
            let _ = writeln!(
                text,
                "- {}, {} {}: {reason}",
                prediction.row.name(),
                if paravirt { "paravirt" } else { "stock" },
                if map { "map" } else { "unmap" },
            );
            told.push(reason);
        }
    }
    text
}

//! The report for people: one HTML file that needs nothing else.

mod axes;
mod page;
mod plots;
mod style;

use super::lines::Mode;
use super::results::Results;
use super::tables::present;
use super::work::size;
use crate::Result;
use crate::workspace;
use plots::{Bar, Curve, Shape};
use std::path::{Path, PathBuf};

/// What most axes tell.
const COST: &str = "instructions";

/// The columns, in the order in which they are shown.
pub(super) const COLUMNS: [Mode; 6] = [
    Mode::Native,
    Mode::Untranslated,
    Mode::Identity,
    Mode::Nested,
    Mode::Free,
    Mode::Paravirt,
];

/// One plot with what there is to say about it.
struct Figure {
    /// Of a file of its own.
    name: &'static str,
    title: &'static str,
    text: &'static str,
    svg: String,
}

/// Writes the report to `path`.
///
/// # Errors
///
/// [`crate::Error::Io`] when that is not possible.
pub fn save(results: &Results, path: &Path) -> Result<()> {
    let text = page::html(results, &figures(results)?);
    workspace::write_atomically(path, text.as_bytes())
}

/// Writes each plot to a file of its own in `directory`; their paths.
///
/// # Errors
///
/// [`crate::Error::Io`] when that is not possible.
pub fn save_plots(results: &Results, directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for figure in figures(results)? {
        let path = directory.join(figure.name).with_extension("svg");
        workspace::write_atomically(&path, figure.svg.as_bytes())?;
        paths.push(path);
    }
    Ok(paths)
}

fn figures(results: &Results) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, setting, operations, title, text) in [
        (
            "map-and-unmap-strict",
            "strict",
            &["map", "unmap"] as &[&str],
            "A mapping and its end, strict",
            "The next two together: what a buffer costs that is mapped for one transfer.",
        ),
        (
            "map-strict",
            "strict",
            &["map"],
            "A mapping, strict",
            "dma_map_single, on average. In paravirt mode it is a request to the hypervisor; \
             everywhere else the host fills its own table, an entry for each page, until from \
             2 MiB on one entry stands for 512: nested lies on native. Without translation, \
             and in identity mode, which lie on each other, there is nothing to do.",
        ),
        (
            "unmap-strict",
            "strict",
            &["unmap"],
            "The end of a mapping, strict",
            "dma_unmap_single, complete when it returns. Nested mode adds one entry to EL2, \
             which is the same for each size; paravirt mode replaces the host's work by a \
             request.",
        ),
        (
            "map-lazy",
            "lazy",
            &["map"],
            "A mapping, lazy",
            "The same with iommu.strict=0: each mapping gets another address, so tables come \
             and go.",
        ),
        (
            "unmap-lazy",
            "lazy",
            &["unmap"],
            "The end of a mapping, lazy",
            "Invalidation, or the request, is put off and done for 256 at once; the average \
             has its share.",
        ),
    ] {
        let curves = by_size(results, setting, operations);
        if let Some((labels, curves)) = curves {
            let svg = plots::curves(
                &labels,
                ["size of the mapping", COST],
                Shape::Lines,
                &curves,
            )?;
            figures.push(Figure {
                name,
                title,
                text,
                svg,
            });
        }
    }
    if let Some((labels, curves)) = by_cpus(results) {
        figures.push(Figure {
            name: "cpus-strict",
            title: "Several CPUs at once, strict",
            text: "A mapping of 4 KiB and its end, for each pair of them. QEMU runs one CPU at \
                   a time, so what shows is work, waiting for locks included, and no speed-up.",
            svg: plots::curves(
                &labels,
                ["CPUs that map at once", COST],
                Shape::LinesFromZero,
                &curves,
            )?,
        });
    }
    if let Some((labels, curves)) = work(results) {
        figures.push(Figure {
            name: "work-strict",
            title: "Disk, network and user space, strict",
            text: "Instructions of the whole operation over those of the native column, from \
                   the system call on: NVMe reads, e1000e packets of 1000 bytes, and VFIO \
                   mappings of memory whose pages are scattered (+ map, − unmap), where each \
                   page is pinned and mapped: with a virtio-iommu, by a request for each page.",
            svg: plots::curves(
                &labels,
                ["operation", "over native"],
                Shape::Points,
                &curves,
            )?,
        });
    }
    for (name, setting, title) in [
        (
            "parts-strict",
            "strict",
            "Where a mapping and its end go, strict",
        ),
        ("parts-lazy", "lazy", "Where a mapping and its end go, lazy"),
    ] {
        let bars = parts(results, setting);
        if !bars.is_empty() {
            figures.push(Figure {
                name,
                title,
                text: "The instructions of one mapping with its end: below EL2 (the host's \
                       kernel and its driver), and at EL2 by the source file they come from. \
                       Trap + decode has the vector and saving registers; requests are the \
                       host's rings or command queue; tables have the decision what to \
                       invalidate, too.",
                svg: plots::bars(&bars)?,
            });
        }
    }
    Ok(figures)
}

/// The values of operations together by size, for each column that has all of them.
fn by_size(
    results: &Results,
    setting: &str,
    operations: &[&str],
) -> Option<(Vec<String>, Vec<Curve>)> {
    let mut sizes: Vec<u64> = results
        .rows
        .iter()
        .filter(|row| operations.contains(&row.operation.as_str()) && row.setting == setting)
        .map(|row| row.size)
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    let curves = present(results, &COLUMNS).into_iter().map(|mode| {
        let point = |(at, size): (usize, &u64)| {
            let values = operations.iter().map(|operation| {
                let row = results.row(mode, setting, operation, *size)?;
                Some(row.value)
            });
            Some((at, values.sum::<Option<f64>>()?))
        };
        let points = sizes.iter().enumerate().filter_map(point).collect();
        (mode, points)
    });
    some(sizes.iter().map(|bytes| size(*bytes)).collect(), curves)
}

/// Those of a mapping and its end by the number of CPUs.
fn by_cpus(results: &Results) -> Option<(Vec<String>, Vec<Curve>)> {
    let crowded = |mode: Mode, cpus: u32| {
        if cpus == 1 {
            let one = |operation| Some(results.row(mode, "strict", operation, 4096)?.value);
            return Some(one("map")? + one("unmap")?);
        }
        let row = results.rows.iter().find(|row| {
            row.column == mode.word() && row.operation == "map_unmap" && row.cpus == cpus
        });
        row.map(|row| row.value)
    };
    let mut all: Vec<u32> = results.rows.iter().map(|row| row.cpus).collect();
    all.sort_unstable();
    all.dedup();
    if all.len() < 2 {
        return None;
    }
    let curves = present(results, &COLUMNS).into_iter().map(|mode| {
        let point = |(at, cpus): (usize, &u32)| Some((at, crowded(mode, *cpus)?));
        let points: Vec<_> = all.iter().enumerate().filter_map(point).collect();
        // One CPU alone is in the other plots.
        (mode, if points.len() > 1 { points } else { Vec::new() })
    });
    some(all.iter().map(u32::to_string).collect(), curves)
}

/// Those of everything that is no mapping of the module's, over the native ones.
fn work(results: &Results) -> Option<(Vec<String>, Vec<Curve>)> {
    const WORK: [(&str, u64, &str); 8] = [
        ("nvme_read", 4 << 10, "NVMe 4K"),
        ("nvme_read", 128 << 10, "NVMe 128K"),
        ("e1000e_datagram", 1000, "send"),
        ("e1000e_echo", 1000, "echo"),
        ("vfio_map", 1 << 20, "VFIO +1M"),
        ("vfio_unmap", 1 << 20, "VFIO −1M"),
        ("vfio_map", 16 << 20, "VFIO +16M"),
        ("vfio_unmap", 16 << 20, "VFIO −16M"),
    ];
    let curves = present(results, &COLUMNS).into_iter().map(|mode| {
        let point = |(at, (operation, size, _)): (usize, &(&str, u64, &str))| {
            let value = |mode| Some(results.row(mode, "strict", operation, *size)?.value);
            Some((at, value(mode)? / value(Mode::Native)?))
        };
        (mode, WORK.iter().enumerate().filter_map(point).collect())
    });
    some(WORK.map(|(_, _, label)| label.to_owned()).to_vec(), curves)
}

/// The curves that have points; none when there are none.
fn some(
    labels: Vec<String>,
    curves: impl Iterator<Item = Curve>,
) -> Option<(Vec<String>, Vec<Curve>)> {
    let curves: Vec<Curve> = curves.filter(|(_, points)| !points.is_empty()).collect();
    (!curves.is_empty()).then_some((labels, curves))
}

/// Where the instructions of mappings go.
fn parts(results: &Results, setting: &str) -> Vec<Bar> {
    results
        .breakdown
        .iter()
        .filter(|one| one.setting == setting && one.operation == "map_unmap")
        .filter(|one| one.column != Mode::Identity.word())
        .map(|one| {
            let label = format!("{}, {}", one.column, size(one.size));
            let el2 = one.el2.iter().map(|(purpose, value)| (*purpose, *value));
            (label, one.host, el2.collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn the_report_has_all_plots_and_needs_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("bench.html");
        save(&sample(), &path).expect("a report");
        let text = std::fs::read_to_string(&path).expect("a report");
        assert_eq!(text.matches("<svg").count(), 6);
        for part in [
            "not latencies",
            "c0ffee",
            "1 INV, 1 SYNC",
            "2,078",
            "<table",
        ] {
            assert!(text.contains(part), "no {part}");
        }
        for part in ["src=", "href=\"http", "<script"] {
            assert!(!text.contains(part), "{part} is there");
        }
        let plots = save_plots(&sample(), directory.path()).expect("plots");
        assert_eq!(plots.len(), 6);
        for path in plots {
            let svg = std::fs::read_to_string(path).expect("a plot");
            // The report adds what it is called.
            let drawn = svg.trim_start_matches("<svg ");
            assert!(drawn.len() < svg.len() && text.contains(drawn), "{drawn}");
        }
    }
}

//! The page around the plots.

use super::{COLUMNS, Figure};
use crate::bench::number;
use crate::bench::results::{BranchHistory, Breakdown, Compared, Facts, Interrupts, Results, Row};
use crate::bench::symbols::Purpose;
use crate::bench::tables::{groups, of, present};
use std::fmt::Write;

const CSS: &str = "\
body{font:16px/1.5 sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}\
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.2rem}\
figure{margin:1rem 0 2rem;break-inside:avoid}figure h3{margin:0 0 .2rem;font-size:1.05rem}\
figcaption{max-width:52rem}svg{max-width:100%;height:auto;border:1px solid #ddd;margin-top:.5rem}\
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem;margin:.7rem 0}\
th,td{padding:.2rem .55rem;border-bottom:1px solid #ddd;text-align:right;vertical-align:top}\
th{border-bottom:2px solid #111;text-align:right}th:first-child,td:first-child{text-align:left}\
h2,h2+p{break-after:avoid}td small{display:block;color:#444}tr{break-inside:avoid}thead{display:table-header-group}\
.missed{font-weight:bold;text-decoration:underline}\
@media print{body{font-size:10.5pt;margin:0;max-width:none}table{font-size:6.5pt}\
th,td{padding:.1rem .25rem}.wide{overflow:visible}a{color:inherit}@page{size:A4;margin:12mm}}";

/// The whole page.
pub fn html(results: &Results, figures: &[Figure]) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>Portcullis: what DMA isolation costs</title>\n<style>",
    );
    page.push_str(CSS);
    page.push_str("</style></head><body>\n<h1>What DMA isolation costs</h1>\n");
    page.push_str(INTRODUCTION);
    page.push_str(&facts(&results.facts));
    page.push_str("<h2>Plots</h2>\n");
    for figure in figures {
        // The library is used without a way to escape, and needs none: all text in
        // the plots is this program's.
        let label = escape(figure.title);
        let svg = figure.svg.replacen(
            "<svg ",
            &format!("<svg role=\"img\" aria-label=\"{label}\" "),
            1,
        );
        let _ = writeln!(
            page,
            "<figure><h3>{label}</h3><figcaption>{}</figcaption>{svg}</figure>",
            escape(figure.text)
        );
    }
    page.push_str(&costs(results));
    page.push_str(&el2(results));
    page.push_str(&traffic(results));
    page.push_str(&breakdown(&results.breakdown));
    page.push_str(&interrupts(&results.interrupts));
    page.push_str(&branch_history(&results.branch_history));
    page.push_str(&memory(results));
    page.push_str(&goals(results));
    page.push_str(&compared("The same host with and without", &results.guest));
    page.push_str(&compared("The page-table crate", &results.pagetable));
    page.push_str("</body></html>\n");
    page
}

const INTRODUCTION: &str = "\
<p>The same Debian kernel and devices, with the hypervisor and without. <b>native</b>: no hypervisor, \
the host drives the SMMU. <b>no translation</b>: the same with <code>iommu.passthrough=1</code>. \
<b>identity</b>: under the hypervisor, the host sees no IOMMU, stage 2 alone confines its devices. \
<b>nested</b>: the host drives an emulated SMMUv3. <b>paravirt</b>: the host drives a virtio-iommu of the \
hypervisor's. <b>device free</b>: no hypervisor, QEMU's own virtio-iommu, whose work no instruction pays \
for: what the stock driver takes by itself. <b>strict</b>: an unmapping is complete when it returns; \
<b>lazy</b>: many are completed at once.</p>\n\
<h2>What the figures are, and are not</h2>\n\
<p>All figures are <b>counts of instructions, not latencies</b>: QEMU counts each instruction of all CPUs \
and exception levels. They depend neither on the machine that QEMU ran on nor on its load. An \
access to a device, a cache miss and an add count the same; what the SMMU itself does counts nothing, and \
its invalidations are complete at once, so that waiting for them is a few instructions. On a real \
machine an exit to EL2, a write to a device and an invalidation cost far more than their \
instructions. What the counts do show is how much work each way has, and how it grows.</p>\n\
<p>Mappings are averages. The cheapest NVMe read and datagram counts, and the echo that a tenth stayed \
below: when the CPU goes idle is up to the machine that QEMU ran on. Median and 99th percentile, which are given \
below, show how far that goes.</p>\n";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn facts(facts: &Facts) -> String {
    let commit = facts.commit.as_deref().unwrap_or("unknown");
    let modified = if facts.modified { ", with changes" } else { "" };
    format!(
        "<p>QEMU {}, {} with {} of RAM, {}; commit {}{modified}; <code>{}</code></p>\n",
        escape(&facts.qemu),
        escape(&facts.cpu),
        escape(&facts.memory),
        escape(&facts.kernel),
        escape(commit),
        escape(&facts.recipe)
    )
}

fn table(title: &str, text: &str, heading: &[String], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut html =
        format!("<h2>{title}</h2>\n<p>{text}</p>\n<div class=\"wide\"><table><thead><tr>");
    for cell in heading {
        let _ = write!(html, "<th>{}</th>", escape(cell));
    }
    html.push_str("</tr></thead><tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            // Cells are made of figures and of words of this program's.
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

/// A table with a row for each work and a column for each way.
fn by_column(
    results: &Results,
    title: &str,
    text: &str,
    cell: impl Fn(&Row) -> Option<String>,
) -> String {
    let mut columns = present(results, &COLUMNS);
    // Without a figure in any row it takes only room.
    columns.retain(|mode| {
        let mut rows = results.rows.iter();
        rows.any(|row| row.column == mode.word() && cell(row).is_some())
    });
    let mut heading = vec!["operation".to_owned()];
    heading.extend(columns.iter().map(|mode| mode.word().to_owned()));
    let rows: Vec<Vec<String>> = groups(results)
        .into_iter()
        .filter(|group| group.iter().any(|row| cell(row).is_some()))
        .map(|group| {
            let mut cells = vec![escape(&group[0].name())];
            cells.extend(columns.iter().map(|mode| {
                of(&group, *mode)
                    .and_then(&cell)
                    .unwrap_or_else(|| "–".to_owned())
            }));
            cells
        })
        .collect();
    table(title, text, &heading, &rows)
}

fn costs(results: &Results) -> String {
    by_column(
        results,
        "Instructions of each operation",
        "Below each figure the median and the 99th percentile, where each one was measured.",
        |row| {
            let spread = row
                .median
                .zip(row.p99)
                .map_or_else(String::new, |(median, high)| {
                    format!(
                        "<small>{}, {}</small>",
                        number(median.round()),
                        number(high.round())
                    )
                });
            Some(format!("{}{spread}", number(row.value.round())))
        },
    )
}

fn el2(results: &Results) -> String {
    by_column(
        results,
        "EL2",
        "Entries of each operation, and below them the instructions at EL2: as the CPU's own counter has \
         them, which counts at EL2 alone, and as the difference to a machine without a hypervisor. The two \
         differ by what the host itself does otherwise: for a virtio-iommu of QEMU's, for instance, its \
         driver allocates an indirect descriptor for each request, which the hypervisor's does not offer. On \
         several CPUs the counter tells nothing.",
        |row| {
            let entries = row.el2_entries.map(|entries| format!("{entries:.3}"));
            let counted = row.el2_instructions.map(|all| number(all.round()));
            if entries.is_none() && counted.is_none() {
                return None;
            }
            let dash = || "–".to_owned();
            let difference = row.el2_difference.map(|all| number(all.round()));
            Some(format!(
                "{}<small>{} ({})</small>",
                entries.unwrap_or_else(dash),
                counted.unwrap_or_else(dash),
                difference.unwrap_or_else(dash)
            ))
        },
    )
}

fn traffic(results: &Results) -> String {
    by_column(
        results,
        "What the SMMU was told and what it read",
        "Commands that QEMU's SMMU consumed for each operation, and below them how many of these were TLB \
         invalidations and CMD_SYNC; then the table entries that its walker read. The module's mappings are \
         not used by a device, so nothing is read for them. QEMU's walker has no walk caches but a TLB, so \
         each miss reads a whole walk.",
        |row| {
            let all = row.traffic?;
            Some(format!(
                "{:.3}<small>{:.3} + {:.3}</small><small>{:.2} read</small>",
                all.commands(),
                all.tlbi,
                all.sync,
                all.walker_reads
            ))
        },
    )
}

fn breakdown(all: &[Breakdown]) -> String {
    let mut heading = vec!["operation".to_owned(), "host".to_owned()];
    heading.extend(Purpose::ALL.map(|purpose| purpose.words().to_owned()));
    heading.extend(["EL2 by blocks", "EL2 by counter"].map(str::to_owned));
    let round = |value: f64| number(value.round());
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            let mut cells = vec![
                escape(&format!("{}: {}, {}", one.column, one.words(), one.setting)),
                round(one.host),
            ];
            cells.extend(
                Purpose::ALL.map(|purpose| round(one.el2.get(&purpose).copied().unwrap_or(0.0))),
            );
            cells.extend([one.el2_traced, one.el2_counted].map(round));
            cells
        })
        .collect();
    table(
        "Where the instructions go",
        "From QEMU's log of each block of code executed at EL2, each instruction by the source file of the \
         innermost function it comes from. The last two columns are counted apart from each other.",
        &heading,
        &rows,
    )
}

fn interrupts(all: &[Interrupts]) -> String {
    let round = |value: f64| number(value.round());
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                escape(&one.name),
                escape(&one.commands),
                round(one.native),
                round(one.with),
                format!("{:.3}", one.el2_entries),
                format!(
                    "{}<small>{} at most</small><small>{} by default</small>",
                    round(one.el2_instructions),
                    round(one.el2_most),
                    round(one.el2_by_default)
                ),
                escape(&one.goal),
                verdict(one.reached),
            ]
        })
        .collect();
    table(
        "Commands to the interrupt translation service",
        "What Linux calls, and which commands it sends for that: instructions of the call without the \
         hypervisor and with it, its entries to EL2 and the instructions there, with <code>bhb=off</code>.",
        &[
            "call", "commands", "native", "with", "entries", "EL2", "goal", "",
        ]
        .map(str::to_owned),
        &rows,
    )
}

fn branch_history(all: &BranchHistory) -> String {
    let round = |value: f64| number(value.round());
    let rows: Vec<Vec<String>> = all
        .rows
        .iter()
        .map(|one| {
            let mut cells = vec![escape(&one.name)];
            cells.extend([one.all, one.el2].concat().into_iter().map(round));
            cells.extend([
                format!("{:.3}", one.el2_entries),
                one.each.map_or_else(|| "–".to_owned(), round),
                verdict(one.reached),
            ]);
            cells
        })
        .collect();
    let heading = [
        "operation",
        "bhb=off",
        "by default",
        "EL2, bhb=off",
        "EL2, by default",
        "entries",
        "for each",
        "",
    ];
    let text = format!(
        "On a CPU that needs it, EL2 does so on each entry (Spectre-BHB): {} instructions, goal {}, {}. All other \
         figures of the modes are measured with <code>bhb=off</code>; by default, an operation takes this much \
         more, and one without an entry the same.",
        all.each.map_or_else(|| "–".to_owned(), round),
        escape(&all.goal),
        verdict(all.reached)
    );
    table(
        "Forgetting the host's branch history",
        &text,
        &heading.map(str::to_owned),
        &rows,
    )
}

fn memory(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .memory
        .iter()
        .map(|one| {
            vec![
                escape(&one.column),
                escape(&one.what),
                number(one.bytes as f64),
            ]
        })
        .collect();
    table(
        "Memory that the hypervisor takes",
        "From a machine with the RAM that is named above.",
        &["column", "what", "bytes"].map(str::to_owned),
        &rows,
    )
}

fn verdict(reached: bool) -> String {
    if reached {
        "ok".to_owned()
    } else {
        "<span class=\"missed\">missed</span>".to_owned()
    }
}

fn goals(results: &Results) -> String {
    let rows: Vec<Vec<String>> = results
        .goals
        .iter()
        .map(|goal| {
            vec![
                escape(&format!("{}: {}", goal.column, goal.name)),
                goal.ratio
                    .map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.4}")),
                escape(&goal.goal),
                verdict(goal.reached),
            ]
        })
        .collect();
    table(
        "Goals",
        "The ratio is to the native column; EL2's share is the difference to the free device.",
        &["operation", "ratio", "goal", ""].map(str::to_owned),
        &rows,
    )
}

fn compared(title: &str, all: &[Compared]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                escape(&one.name),
                one.baseline.map_or_else(|| "–".to_owned(), number),
                number(one.measured),
                escape(&one.unit),
                escape(&one.goal),
                verdict(one.reached),
            ]
        })
        .collect();
    table(
        title,
        "Nanoseconds are times of the machine that it ran on; instructions are not.",
        &["what", "baseline", "measured", "unit", "goal", ""].map(str::to_owned),
        &rows,
    )
}

//! What a trace has in it.

use super::{Trace, What};
use crate::sim::lines;
use rustc_hash::FxHashSet;
use std::fmt::Write as _;

/// Sizes of mappings, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Half of them are no larger.
    pub p50: u64,
    /// Nine in ten are no larger.
    pub p90: u64,
    /// The largest.
    pub max: u64,
    /// How many are from a power of two on, up to the next, by that power of two;
    /// none where there are none.
    pub histogram: Vec<(u64, u64)>,
}

/// Figures of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Requests.
    pub records: u64,
    /// Requests that came when the hypervisor's memory for them was full; `None` if
    /// the trace does not say.
    pub dropped: Option<u64>,
    /// Domains.
    pub domains: u64,
    /// Endpoints that were in one.
    pub endpoints: u64,
    /// From the first record to the last, on the machine that made them.
    pub seconds: f64,
    /// Mappings.
    pub maps: u64,
    /// Unmappings; each may end several mappings.
    pub unmaps: u64,
    /// Sizes of the mappings.
    pub sizes: Sizes,
    /// How many later mappings of its domain a mapping saw that was unmapped: the
    /// number that half of them do not exceed, and nine in ten. `None` if none was.
    pub lives: Option<(u64, u64)>,
    /// Mappings that nothing unmapped: they stay to the end, of the trace or of
    /// their domain.
    pub stay: u64,
    /// Most bytes that were mapped at a time.
    pub peak_bytes: u64,
    /// Most mappings at a time.
    pub peak_mappings: u64,
    /// Mappings that began where one of the domain had begun before.
    pub reused: u64,
}

/// The value that `tenths` in ten do not exceed.
fn quantile<T: Copy + Default>(sorted: &[T], tenths: usize) -> T {
    let at = (sorted.len() * tenths).div_ceil(10).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

impl Sizes {
    fn of(mut all: Vec<u64>) -> Self {
        all.sort_unstable();
        let mut histogram: Vec<(u64, u64)> = Vec::new();
        for size in &all {
            // No mapping is empty.
            let power = 1 << size.max(&1).ilog2();
            match histogram.last_mut() {
                Some((last, count)) if *last == power => *count += 1,
                _ => histogram.push((power, 1)),
            }
        }
        Self {
            p50: quantile(&all, 5),
            p90: quantile(&all, 9),
            max: all.last().copied().unwrap_or_default(),
            histogram,
        }
    }
}

impl Trace {
    /// What is in it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        // Mappings of each domain so far, and as each record found it.
        let mut counts = vec![0_u32; self.domains];
        let mut found = Vec::with_capacity(self.records.len());
        let mut seen = FxHashSet::default();
        let (mut sizes, mut unmaps, mut reused) = (Vec::new(), 0, 0);
        for record in &self.records {
            let count = counts.get_mut(record.domain as usize);
            let before = count.as_ref().map_or(0, |count| **count);
            match record.what {
                What::Map { iova, .. } => {
                    if let Some(count) = count {
                        *count += 1;
                    }
                    sizes.push(iova.size());
                    let fresh = seen.insert((record.domain, iova.start().raw()));
                    reused += u64::from(!fresh);
                }
                What::Unmap { .. } => unmaps += 1,
                What::Attach | What::Detach => {}
            }
            found.push(before);
        }
        let (mut lives, mut stay) = (Vec::new(), 0);
        for (record, before) in self.records.iter().zip(&found) {
            let What::Map { until, .. } = record.what else {
                continue;
            };
            let by = until.map(|until| until as usize);
            let unmapped = by.filter(|by| {
                let by = self.records.get(*by).map(|record| record.what);
                matches!(by, Some(What::Unmap { .. }))
            });
            match unmapped.and_then(|by| found.get(by)) {
                // It is one of those that its end found.
                Some(then) => lives.push(then.saturating_sub(before + 1)),
                None => stay += 1,
            }
        }
        lives.sort_unstable();
        let first = self.records.first().map_or(0, |record| record.nanos);
        let last = self.records.last().map_or(0, |record| record.nanos);
        Summary {
            records: self.records.len() as u64,
            dropped: self.dropped,
            domains: self.domains as u64,
            endpoints: self.endpoints as u64,
            seconds: last.saturating_sub(first) as f64 / 1e9,
            maps: sizes.len() as u64,
            unmaps,
            sizes: Sizes::of(sizes),
            lives: (!lives.is_empty())
                .then(|| (quantile(&lives, 5).into(), quantile(&lives, 9).into())),
            stay,
            peak_bytes: self.peak_bytes,
            peak_mappings: self.peak_mappings,
            reused,
        }
    }
}

/// Bytes in the largest unit of which they are a whole number.
fn bytes(count: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if count != 0 && count.is_multiple_of(1 << shift) {
            return format!("{} {unit}", count >> shift);
        }
    }
    format!("{count} bytes")
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1} %", 100.0 * part as f64 / (whole as f64).max(1.0))
}

impl Summary {
    /// Mappings in a second of the machine that made the trace.
    #[must_use]
    pub fn maps_per_second(&self) -> f64 {
        self.maps as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }

    /// A table.
    #[must_use]
    pub fn text(&self) -> String {
        let rate = if self.seconds > 0.0 {
            format!("{:.0} a second", self.maps_per_second())
        } else {
            "at one time".to_owned()
        };
        let cut = match self.dropped {
            None => "; the line that ends a trace is not there",
            Some(0) => "; nothing is missing",
            Some(_) => "; it was cut when its memory was full",
        };
        let dropped = self.dropped.filter(|dropped| *dropped != 0);
        let (sizes, stay) = (&self.sizes, percent(self.stay, self.maps));
        let mut rows = vec![
            (
                "records",
                format!("{} in {:.6} s{cut}", self.records, self.seconds),
            ),
            (
                "domains",
                format!("{}, endpoints {}", self.domains, self.endpoints),
            ),
            ("maps", format!("{}, {rate}", self.maps)),
            ("unmaps", self.unmaps.to_string()),
            (
                "sizes",
                format!(
                    "p50 {}, p90 {}, largest {}",
                    bytes(sizes.p50),
                    bytes(sizes.p90),
                    bytes(sizes.max)
                ),
            ),
            (
                "live for",
                self.lives
                    .map_or("none was unmapped".to_owned(), |(half, most)| {
                        format!("p50 {half}, p90 {most} later maps of the domain")
                    }),
            ),
            ("stay", format!("{} ({stay}), to the end", self.stay)),
            (
                "at a time",
                format!(
                    "{} mappings, {} at most",
                    self.peak_mappings,
                    bytes(self.peak_bytes)
                ),
            ),
            (
                "same IOVA",
                format!(
                    "{} began where one had begun before",
                    percent(self.reused, self.maps)
                ),
            ),
        ];
        if let Some(dropped) = dropped {
            rows.insert(1, ("dropped", format!("{dropped} later requests")));
        }
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for (name, value) in rows {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<width$}  {value}");
        }
        if !sizes.histogram.is_empty() {
            text.push('\n');
            let rows: Vec<Vec<String>> = sizes
                .histogram
                .iter()
                .map(|(power, count)| {
                    let share = percent(*count, self.maps);
                    vec![bytes(*power), count.to_string(), share]
                })
                .collect();
            text.push_str(&lines(&["from", "maps", "share"], &rows));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_that_so_many_do_not_exceed() {
        let all: Vec<u64> = (1..=10).collect();
        assert_eq!((quantile(&all, 5), quantile(&all, 9)), (5, 9));
        assert_eq!(quantile(&[7_u64], 9), 7);
        assert_eq!(quantile::<u64>(&[], 5), 0);
    }

    #[test]
    fn sizes_are_counted_by_powers_of_two() {
        let sizes = Sizes::of(vec![0x3000, 0x1000, 0x1000, 0x2000, 0x10_0000]);
        let histogram = vec![(0x1000, 2), (0x2000, 2), (0x10_0000, 1)];
        assert_eq!(sizes.histogram, histogram);
        assert_eq!(
            (sizes.p50, sizes.p90, sizes.max),
            (0x2000, 0x10_0000, 0x10_0000)
        );
        assert_eq!(bytes(0x3000), "12 KiB");
        assert_eq!(bytes(1 << 30), "1 GiB");
        assert_eq!(bytes(0), "0 bytes");
    }
}

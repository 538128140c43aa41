//! What is finished, in a file, so that a sweep that was interrupted goes on.

use super::grid::Cell;
use crate::measured::Measured;
use crate::platform::Platform;
use crate::score::{Comparison, Score};
use rustc_hash::{FxHashMap, FxHasher};
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher as _;
use std::io::{self, Write};
use std::path::Path;
use thiserror::Error;

/// Why the file cannot be used.
#[derive(Debug, Error)]
#[error("{file}: {error}")]
pub struct StoreError {
    file: String,
    error: io::Error,
}

/// What a cell came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Nanoseconds of a transfer in nested mode.
    pub nested: f64,
    /// The same in paravirt mode.
    pub paravirt: f64,
    /// Bytes a second in nested mode.
    pub nested_rate: f64,
    /// The same in paravirt mode.
    pub paravirt_rate: f64,
}

impl Outcome {
    /// Which is better, and by what.
    #[must_use]
    pub fn comparison(&self) -> Comparison {
        let score = |nanos, rate| Score { nanos, rate };
        Comparison::of(
            &score(self.nested, self.nested_rate),
            &score(self.paravirt, self.paravirt_rate),
        )
    }
}

/// Finished cells of one platform and one set of counts.
pub struct Store {
    name: String,
    file: File,
    fingerprint: u64,
    cells: FxHashMap<String, Outcome>,
}

/// Counts up with every change of what is simulated, so that what was found before
/// does not count any more.
const MODEL: u32 = 2;

const HEADING: &str = "# fingerprint,map,invalidation,memory,value,transfers,accesses,\
    nested ns,paravirt ns,nested B/s,paravirt B/s\n";

impl Store {
    /// Opens or makes a file. Lines of other platforms or counts stay there, and
    /// do not count; nor does one that was cut short.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path, platform: &Platform, measured: &Measured) -> Result<Self, StoreError> {
        let name = path.display().to_string();
        let failed = |error| StoreError {
            file: name.clone(),
            error,
        };
        let mut hasher = FxHasher::default();
        hasher.write(format!("{platform:?}{measured:?}").as_bytes());
        hasher.write(env!("CARGO_PKG_VERSION").as_bytes());
        hasher.write_u32(MODEL);
        let fingerprint = hasher.finish();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let options = OpenOptions::new().append(true).create(true).open(path);
        let mut file = options.map_err(failed)?;
        if text.is_empty() {
            file.write_all(HEADING.as_bytes()).map_err(failed)?;
        } else if !text.ends_with('\n') {
            file.write_all(b"\n").map_err(failed)?;
        }
        // Only a line with its end is whole.
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let cells = whole.filter_map(|line| read(line, fingerprint)).collect();
        Ok(Self {
            name,
            file,
            fingerprint,
            cells,
        })
    }

    /// What a cell came to, if it is finished.
    #[must_use]
    pub fn get(&self, cell: &Cell) -> Option<&Outcome> {
        self.cells.get(&cell.key())
    }

    /// Keeps a cell.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put(&mut self, cell: &Cell, outcome: Outcome) -> Result<(), StoreError> {
        let Outcome {
            nested,
            paravirt,
            nested_rate,
            paravirt_rate,
        } = outcome;
        let line = format!(
            "{:016x},{},{nested},{paravirt},{nested_rate},{paravirt_rate}\n",
            self.fingerprint,
            cell.key()
        );
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|error| StoreError {
            file: self.name.clone(),
            error,
        })?;
        self.cells.insert(cell.key(), outcome);
        Ok(())
    }
}

fn read(line: &str, fingerprint: u64) -> Option<(String, Outcome)> {
    let (found, rest) = line.trim_end().split_once(',')?;
    if u64::from_str_radix(found, 16).ok()? != fingerprint {
        return None;
    }
    let fields: Vec<&str> = rest.split(',').collect();
    let [key @ .., nested, paravirt, nested_rate, paravirt_rate] = fields.as_slice() else {
        return None;
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let outcome = Outcome {
        nested: number(nested)?,
        paravirt: number(paravirt)?,
        nested_rate: number(nested_rate)?,
        paravirt_rate: number(paravirt_rate)?,
    };
    Some((key.join(","), outcome))
}

//! Files that people write: read with the place of every mistake.

use serde::de::{DeserializeOwned, Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use std::fs;
use std::ops::Range;
use std::path::Path;
use thiserror::Error;
use toml::Spanned;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum InputError {
    /// It cannot be read.
    #[error("{file}: {error}")]
    Unreadable {
        /// Its name.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// It says something that it must not.
    #[error("{file}:{line}: {message}")]
    Wrong {
        /// Its name.
        file: String,
        /// Where, counted from 1.
        line: usize,
        /// What, and what would be allowed.
        message: String,
    },
    /// It does not have what it is read for.
    #[error("{file}: {message}")]
    Missing {
        /// Its name.
        file: String,
        /// What, and how to get it.
        message: String,
    },
}

/// Values that contradict each other: where, and why.
#[derive(Debug)]
pub struct Impossible {
    /// Bytes of the file.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
}

impl Impossible {
    /// At `value`.
    pub fn at<T>(value: &Spanned<T>, message: impl Into<String>) -> Self {
        Self {
            span: value.span(),
            message: message.into(),
        }
    }
}

/// What a file says as a whole must be possible.
pub trait Check {
    /// Looks for values that contradict each other.
    ///
    /// # Errors
    /// The first such value.
    fn check(&self) -> Result<(), Impossible>;
}

/// Reads `text`; `file` is for messages.
///
/// # Errors
/// [`InputError::Wrong`]: not TOML, an unknown or a missing field, a value out of
/// its range, or values that contradict each other.
pub fn parse<T: DeserializeOwned + Check>(text: &str, file: &str) -> Result<T, InputError> {
    let wrong = |span: Range<usize>, message: &str| InputError::Wrong {
        file: file.to_owned(),
        line: line_of(text, span.start),
        message: message.trim_end().replace('\n', "; "),
    };
    let value: T = toml::from_str(text)
        .map_err(|error| wrong(error.span().unwrap_or(0..0), error.message()))?;
    value
        .check()
        .map_err(|impossible| wrong(impossible.span, &impossible.message))?;
    Ok(value)
}

/// Reads a file.
///
/// # Errors
/// As [`parse`], and [`InputError::Unreadable`].
pub fn load<T: DeserializeOwned + Check>(path: &Path) -> Result<T, InputError> {
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(&text, &file),
        Err(error) => Err(InputError::Unreadable { file, error }),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// A number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Bounded<MIN, MAX> {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number, where it indexes something.
    #[must_use]
    pub fn size(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// The nearest that is allowed.
    #[must_use]
    pub fn clamped(value: u64) -> Self {
        Self(value.clamp(MIN, MAX))
    }
}

impl<'de, const MIN: u64, const MAX: u64> Deserialize<'de> for Bounded<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = i64::deserialize(deserializer)?;
        let allowed = format!("a whole number from {MIN} to {MAX}");
        u64::try_from(found)
            .ok()
            .filter(|value| (MIN..=MAX).contains(value))
            .map(Self)
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Signed(found), &allowed.as_str()))
    }
}

/// Where a number comes from, in words; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source(String);

impl Source {
    /// The words.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether nobody vouches for the number.
    #[must_use]
    pub fn is_assumed(&self) -> bool {
        self.0.starts_with("assumed")
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.trim().is_empty() {
            return Err(D::Error::custom(
                "a source must say where the number comes from, or that it is assumed",
            ));
        }
        Ok(Self(text))
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sourced<T> {
    /// The value, with its place in the file.
    pub value: Spanned<T>,
    /// Where it comes from.
    pub source: Source,
}

impl<T: Copy> Sourced<T> {
    /// The value.
    pub fn get(&self) -> T {
        *self.value.get_ref()
    }
}

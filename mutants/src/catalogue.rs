//! The list of mistakes, kept in `catalogue/*.toml`.

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::{fs, io};
use thiserror::Error;

/// Who is to find a mutant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum With {
    /// Hostile programs on the SMMU model.
    #[default]
    Rig,
    /// The same, of a host with an emulated SMMU.
    Nested,
    /// The same, of a host with domains.
    Paravirt,
    /// The same, of a host with ITSs, on the model of a GIC.
    Its,
    /// The emulated SMMU compared with a model of what it says that it is.
    Conformance,
    /// The ledger under every order of events, for what takes two CPUs.
    Loom,
    /// The crate's own tests, for what no SMMU can see, such as a CPU's tables.
    Tests,
}

/// One deliberate mistake.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// How it is called.
    pub name: String,
    /// What is wrong, in a sentence without a full stop.
    pub mistake: String,
    /// The file that is changed, from the root of the repository.
    pub file: PathBuf,
    /// What to replace; it is in the file exactly once.
    pub find: String,
    /// What to put in its place.
    pub replace: String,
    /// Who is to find it.
    #[serde(default)]
    pub with: With,
    /// Why it is right that nobody finds it. Only for mutants that survive.
    pub explained: Option<String>,
    /// Name of the file of the catalogue that it is in, without its ending.
    #[serde(skip)]
    pub catalogue: String,
}

/// What is wrong with the catalogue.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// A file could not be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of the catalogue is not as described in [`Mutant`].
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// Two mutants have the same name.
    #[error("two mutants are called {name}")]
    Twice {
        /// The name.
        name: String,
    },
    /// The text to be replaced is not in the file, or more than once.
    #[error("mutant {name}: what it replaces is in {file} {times} times, not once")]
    Match {
        /// The mutant.
        name: String,
        /// The file.
        file: PathBuf,
        /// How often it was found.
        times: usize,
    },
    /// The change changes nothing.
    #[error("mutant {name}: the replacement is what stands there already")]
    Nothing {
        /// The mutant.
        name: String,
    },
}

/// All mutants, in the order of the files' names and of their lines.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// The mutants.
    pub mutants: Vec<Mutant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mutant: Vec<Mutant>,
}

impl Catalogue {
    /// Reads every file that ends in `.toml` in a directory.
    ///
    /// # Errors
    /// [`CatalogueError::Read`], [`CatalogueError::Syntax`],
    /// [`CatalogueError::Twice`].
    pub fn load(directory: &Path) -> Result<Self, CatalogueError> {
        let read = |error| CatalogueError::Read {
            path: directory.into(),
            error,
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).map_err(read)? {
            paths.push(entry.map_err(read)?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|end| end == "toml"));
        paths.sort();
        let mut mutants: Vec<Mutant> = Vec::new();
        for path in paths {
            let file: File =
                toml::from_str(&text(&path)?).map_err(|error| CatalogueError::Syntax {
                    path: path.clone(),
                    error: Box::new(error),
                })?;
            let stem = path.file_stem().unwrap_or_default();
            let catalogue = stem.to_string_lossy().into_owned();
            for mut mutant in file.mutant {
                mutant.catalogue.clone_from(&catalogue);
                if mutants.iter().any(|other| other.name == mutant.name) {
                    return Err(CatalogueError::Twice { name: mutant.name });
                }
                mutants.push(mutant);
            }
        }
        Ok(Self { mutants })
    }
}

impl Mutant {
    /// The file below `root` with the mistake in it.
    ///
    /// # Errors
    /// [`CatalogueError::Read`], [`CatalogueError::Match`],
    /// [`CatalogueError::Nothing`].
    pub fn applied(&self, root: &Path) -> Result<String, CatalogueError> {
        let source = text(&root.join(&self.file))?;
        // Lines of a snippet stand on lines of their own in the catalogue.
        let find = self.find.trim_end_matches('\n');
        let replace = self.replace.trim_end_matches('\n');
        let times = source.matches(find).count();
        if times != 1 || find.is_empty() {
            return Err(CatalogueError::Match {
                name: self.name.clone(),
                file: self.file.clone(),
                times,
            });
        }
        if find == replace {
            return Err(CatalogueError::Nothing {
                name: self.name.clone(),
            });
        }
        Ok(source.replacen(find, replace, 1))
    }
}

fn text(path: &Path) -> Result<String, CatalogueError> {
    fs::read_to_string(path).map_err(|error| CatalogueError::Read {
        path: path.into(),
        error,
    })
}

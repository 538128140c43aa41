//! What can go wrong around the hypervisor, said so that a person can act.

use std::path::{Path, PathBuf};

/// Result of the lab's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// One failure; its text says what was wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or socket could not be used.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, such as `cannot read`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}; {fix}")]
    Start {
        /// The program.
        program: String,
        /// Why it failed.
        source: std::io::Error,
        /// What would help.
        fix: &'static str,
    },
    /// A program ran and failed.
    #[error("{what} failed ({status}); {fix}\n{tail}")]
    Program {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: String,
        /// The end of what it printed.
        tail: String,
        /// What would help.
        fix: &'static str,
    },
    /// A file, a program or a value is not what is needed.
    #[error("{what}; {fix}")]
    Unsuitable {
        /// What was found.
        what: String,
        /// What would be right.
        fix: String,
    },
    /// Something that had to happen did not happen in time.
    #[error("waited {seconds} s for {what}, in vain\n{tail}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// For how long.
        seconds: u64,
        /// The end of what the machine printed.
        tail: String,
    },
    /// The machine ended or stopped talking.
    #[error("{what}\n{tail}")]
    Machine {
        /// What happened.
        what: String,
        /// The end of what the machine printed.
        tail: String,
    },
    /// The agent in the host refused a command.
    #[error("the agent could not do `{command}`: {message}")]
    Agent {
        /// The command.
        command: String,
        /// The agent's words.
        message: String,
    },
}

impl Error {
    /// Makes an [`Error::Io`] out of what a file operation returned.
    pub fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Makes an [`Error::Unsuitable`].
    pub fn unsuitable(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Unsuitable {
            what: what.into(),
            fix: fix.into(),
        }
    }
}

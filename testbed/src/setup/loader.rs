//! Programs of a newer Debian, on a machine whose C library is older.

use crate::workspace;
use crate::{Error, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where a package's libraries are below where it was unpacked.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Writes a script `to` that runs `program` with the libraries that were unpacked to
/// `root`: the C library's own loader starts it.
///
/// # Errors
///
/// [`Error::Io`].
pub fn script(to: &Path, program: &Path, root: &Path) -> Result<()> {
    let libraries = root.join(LIBRARIES);
    let text = format!(
        "#!/bin/sh\nexec '{}' --library-path '{}' '{}' \"$@\"\n",
        libraries.join("ld-linux-x86-64.so.2").display(),
        libraries.display(),
        program.display()
    );
    workspace::write_atomically(to, text.as_bytes())?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(to, mode).map_err(Error::io("cannot make executable", to))
}

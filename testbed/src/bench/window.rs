//! QEMU's log, switched on for as long as something is of interest.

use crate::vm::Vm;
use crate::{Error, Result};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Where QEMU puts an image with a header like the hypervisor's: 2 MiB into RAM
/// (QEMU, `hw/arm/boot.c`).
pub const IMAGE_ADDRESS: u64 = 0x4020_0000;

/// What the SMMU does for its commands and its walks.
const SMMU: [&str; 4] = [
    "smmuv3_cmdq_opcode",
    "smmu_get_pte",
    "smmu_iotlb_lookup_miss",
    "smmuv3_config_cache_miss",
];

/// What the interrupt translation service does: its commands, each in a line of its
/// own, whose names begin alike.
pub const ITS_COMMAND: &str = "gicv3_its_cmd_";

/// A log of one machine.
#[derive(Debug)]
pub struct Window {
    path: PathBuf,
    /// Addresses of the code whose blocks are told.
    code: Option<Range<u64>>,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The SMMU's commands and walks.
    Smmu,
    /// The same, and each block of EL2's code as it is executed.
    SmmuAndCode,
    /// The commands of the interrupt translation service.
    Its,
}

impl Scope {
    /// What QEMU calls it.
    fn items(self, sees_code: bool) -> Vec<String> {
        if self == Self::Its {
            return vec![format!("trace:{ITS_COMMAND}*")];
        }
        let mut items: Vec<String> = SMMU.iter().map(|name| format!("trace:{name}")).collect();
        if self == Self::SmmuAndCode && sees_code {
            items.extend(["in_asm", "exec", "nochain"].map(str::to_owned));
        }
        items
    }
}

impl Window {
    /// A log at `path`; blocks of code can be told when `code` says where it is.
    #[must_use]
    pub fn new(path: PathBuf, code: Option<Range<u64>>) -> Self {
        Self { path, code }
    }

    /// What QEMU is to be started with.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let mut arguments = vec!["-D".into(), self.path.clone().into_os_string()];
        if let Some(code) = &self.code {
            let filter = format!("{:#x}+{:#x}", code.start, code.end - code.start);
            arguments.extend(["-dfilter".into(), filter.into()]);
        }
        arguments
    }

    /// Whether blocks of code can be told.
    #[must_use]
    pub fn sees_code(&self) -> bool {
        self.code.is_some()
    }

    /// Logs while `work` goes on, and returns what was logged.
    ///
    /// Blocks are looked up anew when the way in which they are chained changes,
    /// so each is listed before it is first executed.
    ///
    /// # Errors
    ///
    /// Those of `work`, of the control connection and of the file.
    pub fn during<T>(
        &self,
        vm: &Vm,
        scope: Scope,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, String)> {
        let items = scope.items(self.sees_code());
        // Without any log there is no file yet.
        let before = fs::metadata(&self.path).map_or(0, |file| file.len());
        set(vm, &items.join(","))?;
        let result = work();
        set(vm, "none")?;
        Ok((result?, since(&self.path, before)?))
    }
}

/// Takes the file away: it is large.
impl Drop for Window {
    fn drop(&mut self) {
        // One left behind goes with the target directory.
        let _ = fs::remove_file(&self.path);
    }
}

fn set(vm: &Vm, items: &str) -> Result<()> {
    let line = format!("log {items}");
    let said = vm.command(
        "human-monitor-command",
        json!({ "command-line": line.as_str() }),
    )?;
    match said.as_str().map(str::trim) {
        None | Some("") => Ok(()),
        Some(complaint) => Err(Error::Machine {
            what: format!("QEMU refused `{line}`: {complaint}"),
            tail: String::new(),
        }),
    }
}

fn since(path: &Path, offset: u64) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io("cannot open", path))?;
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(Error::io("cannot read", path))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

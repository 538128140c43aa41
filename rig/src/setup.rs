//! What a program runs on, and how it ends.

use crate::finding::Finding;
use crate::its::GicSetup;
use crate::map::first_owner;
use crate::paravirt::Para;
use portcullis_ownership::Owner;
use smmuv3_model::{Mode, Profile};
use std::fmt;

/// What a program runs on.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What the first SMMU can do.
    pub profile: Profile,
    /// What the second can do, if there is one.
    pub second: Option<Profile>,
    /// What SMMUs and CPUs do of their own accord.
    pub mode: Mode,
    /// Somebody had the SMMUs before and left them running; the number decides
    /// what else was written to their registers, 0 is nothing.
    pub used: Option<u64>,
    /// Some pages are not the host's at first.
    pub carved: bool,
    /// CPUs allow block sizes to change at any time (BBM level 2).
    pub cpu_bbm: bool,
    /// The host's input addresses have 40 bits instead of 36.
    pub wide: bool,
    /// The host has an emulated SMMU on each SMMU, and most of its streams.
    pub nested: bool,
    /// The host has domains that it maps its pages into.
    pub paravirt: Option<Para>,
    /// The physical SMMU may store to the registers that the host sees.
    pub messages: bool,
    /// It is about interrupts, and there is no SMMU.
    pub gic: Option<GicSetup>,
}

impl Setup {
    /// One SMMU of this profile, never used before.
    #[must_use]
    pub fn new(profile: Profile, mode: Mode) -> Self {
        Self {
            profile,
            second: None,
            mode,
            used: None,
            carved: false,
            cpu_bbm: false,
            wide: false,
            nested: false,
            paravirt: None,
            messages: false,
            gic: None,
        }
    }

    /// Who has a page of RAM at first.
    pub(crate) fn first_owner(&self, page: u64) -> Owner {
        if self.carved {
            first_owner(page)
        } else {
            Owner::HOST
        }
    }

    pub(crate) fn profiles(&self) -> Vec<Profile> {
        [self.profile].into_iter().chain(self.second).collect()
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gic) = self.gic {
            return write!(f, "{}: {gic:x?}", gic.gic().name);
        }
        write!(f, "{}", self.profile.name)?;
        if let Some(second) = self.second {
            write!(f, " and {}", second.name)?;
        }
        write!(f, ", {:?}", self.mode)?;
        if let Some(seed) = self.used {
            write!(f, ", used before (noise {seed:#x})")?;
        }
        if self.carved {
            f.write_str(", some pages not the host's")?;
        }
        if self.cpu_bbm {
            f.write_str(", CPUs with BBM level 2")?;
        }
        if self.wide {
            f.write_str(", 40 bits of input")?;
        }
        if self.nested {
            f.write_str(", emulated SMMUs")?;
        }
        if let Some(para) = self.paravirt {
            f.write_str(", domains")?;
            if let Some(work) = para.device {
                write!(f, " behind a device (work {work})")?;
            }
            if para.flicker {
                f.write_str(" whose requests change")?;
            }
            if !self.profile.idr0.cohacc() {
                f.write_str(", not coherent")?;
            }
            if para.soft {
                f.write_str(" of software")?;
            }
        }
        if self.messages {
            f.write_str(", messages to their registers")?;
        }
        Ok(())
    }
}

/// What happened during a program, over all SMMUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// CMD_SYNC consumed.
    pub syncs: u64,
    /// Descriptors looked at by the greedy caches, the CPUs' included.
    pub descriptors: u64,
    /// Events recorded.
    pub events: u64,
}

/// Where a program was stopped, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stopped {
    /// Operations that were complete by then.
    pub step: usize,
    /// What was found.
    pub finding: Finding,
}

impl From<Finding> for Stopped {
    fn from(finding: Finding) -> Self {
        Self { step: 0, finding }
    }
}

//! The SMMUs that the host is to see, in nested mode: where the physical ones
//! are, with interrupts that these leave alone.
//!
//! The hypervisor listens to a physical SMMU's `eventq` and `gerror`, or to its
//! `combined` line. It never enables the PRI queue's interrupt and never asks
//! for one at the end of a CMD_SYNC (IHI 0070, 3.18.2 and 4.7.3), so that the
//! SMMU asserts neither `priq` nor `cmdq-sync`: software alone raises them.

use super::odd::{Odd, Oddities};
use super::smmu::{SMMU_LIMIT, Smmu};
use super::spare::{Spare, is_spi};
use crate::error::BootError;
use crate::list::List;

/// The interrupts of an emulated SMMU: SPIs that the hypervisor makes pending, or
/// messages to an ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostLines {
    /// One for each cause.
    Separate {
        /// INTID of `eventq`.
        event: u32,
        /// INTID of `gerror`.
        error: u32,
    },
    /// INTID of one for all, `combined`.
    Combined(u32),
    /// None: the host's driver configures messages to an ITS that it has, as a device of
    /// that ITS.
    Message {
        /// Index into [`GicV3::its`](super::GicV3::its).
        its: usize,
        /// The SMMU's DeviceID.
        device: u32,
    },
}

impl HostLines {
    /// The INTID for events; `None` where they are messages.
    #[must_use]
    pub fn event(&self) -> Option<u32> {
        match *self {
            Self::Separate { event, .. } | Self::Combined(event) => Some(event),
            Self::Message { .. } => None,
        }
    }

    /// The INTID for global errors; `None` where they are messages.
    #[must_use]
    pub fn error(&self) -> Option<u32> {
        match *self {
            Self::Separate { error, .. } | Self::Combined(error) => Some(error),
            Self::Message { .. } => None,
        }
    }

    /// Whether one of them is `intid`.
    fn have(&self, intid: u32) -> bool {
        [self.event(), self.error()].contains(&Some(intid))
    }
}

/// The INTIDs on which the hypervisor listens to an SMMU.
fn listened(smmu: &Smmu) -> [Option<u32>; 2] {
    let lines = &smmu.interrupts;
    [lines.event, lines.gerror].map(|line| line.or(lines.combined).map(|line| line.intid))
}

/// The lines that `smmu` leaves alone and that are not in `given`; `None` when
/// there is none.
pub(super) fn spare_lines(
    smmus: &List<Smmu, SMMU_LIMIT>,
    smmu: &Smmu,
    given: &HostLineList,
) -> Option<HostLines> {
    // What any SMMU needs or was given is not to be had again.
    let free = |intid: &u32| {
        is_spi(*intid)
            && !smmus
                .iter()
                .any(|other| listened(other).contains(&Some(*intid)))
            && !given.iter().any(|lines| lines.have(*intid))
    };
    let lines = &smmu.interrupts;
    let mut spare = [lines.pri, lines.sync, lines.combined]
        .into_iter()
        .flatten()
        .map(|line| line.intid)
        .filter(free);
    let first = spare.next();
    let second = spare.find(|other| Some(*other) != first);
    match (first, second) {
        (Some(event), Some(error)) => Some(HostLines::Separate { event, error }),
        (Some(only), None) => Some(HostLines::Combined(only)),
        _ => None,
    }
}

/// The INTID of a line that is no SMMU's and that no node names, for `smmu`, which has
/// none to spare.
///
/// # Errors
/// [`BootError::NoSpareInterrupt`] when the distributor has no such SPI.
pub(super) fn foreign_line(
    smmus: &List<Smmu, SMMU_LIMIT>,
    smmu: &Smmu,
    given: &HostLineList,
    spare: &Spare<'_>,
    odd: &mut Oddities,
) -> Result<u32, BootError> {
    let none = BootError::NoSpareInterrupt { node: smmu.path };
    let line = unnamed_line(smmus, given, spare).ok_or(none)?;
    odd.add(smmu.node, Odd::NoSpareInterrupt);
    Ok(line)
}

/// The INTID of a line that is no SMMU's, that no node names and that is not in `given`.
pub(super) fn unnamed_line(
    smmus: &List<Smmu, SMMU_LIMIT>,
    given: &HostLineList,
    spare: &Spare<'_>,
) -> Option<u32> {
    spare.find(|intid| {
        let listened = smmus
            .iter()
            .any(|smmu| listened(smmu).contains(&Some(intid)));
        let mut given = given.iter();
        listened || given.any(|lines| lines.have(intid))
    })
}

/// The lines of each SMMU's likeness, in the order of the SMMUs. `message` finds the ITS
/// and the DeviceID of one that may send messages instead; it does where there is no line.
///
/// # Errors
/// [`BootError::NoSpareInterrupt`] when there is no SPI but those that the
/// hypervisor listens to and those that others have, and no ITS for messages.
pub(super) fn host_lines(
    smmus: &List<Smmu, SMMU_LIMIT>,
    spare: &Spare<'_>,
    message: impl Fn(&Smmu) -> Option<(usize, u32)>,
    odd: &mut Oddities,
) -> Result<HostLineList, BootError> {
    let mut all = HostLineList::new();
    for smmu in smmus.iter() {
        let lines = match spare_lines(smmus, smmu, &all) {
            Some(lines) => lines,
            None => match (foreign_line(smmus, smmu, &all, spare, odd), message(smmu)) {
                (Ok(line), _) => HostLines::Combined(line),
                (Err(_), Some((its, device))) => {
                    odd.add(smmu.node, Odd::InterruptsAsMessages);
                    HostLines::Message { its, device }
                }
                (Err(error), None) => return Err(error),
            },
        };
        // As many slots as SMMUs.
        let _ = all.push(lines);
    }
    Ok(all)
}

/// One entry for each SMMU.
pub type HostLineList = List<HostLines, SMMU_LIMIT>;

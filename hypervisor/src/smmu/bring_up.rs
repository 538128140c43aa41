//! Taking an SMMU over.

use super::host::Emulated;
use super::serve::{Reporter, note_lines};
use super::{SMMUS, State, SystemCounter};
use crate::lock::Mutex;
use crate::log::{info, warning};
use crate::memory::Shared;
use portcullis_boot::Machine;
use smmuv3_driver::{Config, Smmu, Stage2};
use smmuv3_spec::StreamId;
use spin::Once;

/// Why an SMMU could not be brought up. It is fenced.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    /// The driver could not take it over.
    #[error(transparent)]
    Init(#[from] smmuv3_driver::InitError),
    /// A stream could not be given its translation.
    #[error("stream {0}: {1}")]
    Attach(StreamId, smmuv3_driver::Error),
}

/// Takes an SMMU over, with every stream in abort, and attaches to `stage2`
/// those that the device tree names; with none, they stay so.
///
/// # Errors
/// [`BringUpError`]; the SMMU is then fenced.
pub fn bring_up(
    index: usize,
    machine: &Machine,
    coherent: bool,
    stage2: Option<&Stage2>,
) -> Result<(), BringUpError> {
    let Some(instance) = SMMUS.get(index).and_then(Once::get) else {
        return Ok(());
    };
    let mut driver = Smmu::new(
        instance.port(),
        Shared::new(coherent),
        SystemCounter,
        Config {
            // A transfer of 4 KiB that faults in pieces of 4 bytes, as QEMU
            // makes them, fits with room to spare.
            event_log2: 11,
            ..Config::default()
        },
    )?;
    let bits = driver.stream_bits();
    let mut attached = 0u64;
    let streams = machine.streams.iter().filter(|range| range.smmu == index);
    for (range, stage2) in streams.filter_map(|range| Some((range, stage2?))) {
        // What the SMMU cannot tell apart, no device can send.
        let limit = u32::try_from((1u64 << bits) - 1).unwrap_or(u32::MAX);
        if range.last > limit {
            // A device that is dead without a line costs a day.
            warning!(
                "event=streams_beyond smmu={} first={:#x} last={:#x} bits={bits} reason=\"the tree \
                 names StreamIDs that the SMMU's stream table does not have: they abort\"",
                instance.registers.range().start(),
                range.first.max(limit.saturating_add(1)),
                range.last,
            );
        }
        if range.first > limit {
            continue;
        }
        let last = range.last.min(limit);
        let (first, last) = (StreamId(range.first), StreamId(last));
        if let Err(error) = driver.attach_range(first, last, stage2) {
            // The driver fences on what leaves it in doubt; the rest is ours.
            let _ = driver.fence();
            return Err(BringUpError::Attach(first, error));
        }
        attached += u64::from(last.0 - first.0) + 1;
    }
    info!(
        "event=smmu_ready smmu={} {} streams_attached={attached}",
        instance.registers.range().start(),
        driver.features(),
    );
    let reporter = Reporter {
        smmu: instance.registers.range().start(),
        wanted: Some(&instance.wanted),
    };
    let host = instance.host.get().zip(stage2);
    let emulated = host
        .map(|(host, stage2)| Emulated::new(*host, &driver, stage2, (machine, index), reporter));
    instance
        .state
        .call_once(|| Mutex::new(State { driver, emulated }));
    note_lines();
    Ok(())
}

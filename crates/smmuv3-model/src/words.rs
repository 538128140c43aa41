//! Descriptors and events in words, for traces.

use crate::stage1::Stage1Meaning;
use crate::stage2::Meaning;
use smmuv3_spec::event::EventRecord;

/// An event with the fields that its kind has.
pub(crate) fn say(event: &EventRecord) -> String {
    let kind = event.kind();
    let mut text = kind.to_string();
    if kind.is_translation_fault() {
        let stage = if event.s2() { 2 } else { 1 };
        text += &format!(" of stage {stage}, class {}", event.class());
    }
    if kind.has_fetch_address() {
        text += &format!(", fetching {:#x}", event.fetch_address());
    } else if kind.has_ipa() && event.s2() {
        text += &format!(", IPA {:#x}", event.ipa());
    }
    text
}

/// Bytes of a page or block.
fn size(bytes: u64) -> String {
    match bytes.trailing_zeros() {
        40.. => format!("{} TiB", bytes >> 40),
        30.. => format!("{} GiB", bytes >> 30),
        20.. => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

fn flags(list: &[(bool, &str)]) -> String {
    let set = list.iter().filter(|(set, _)| *set);
    set.map(|(_, name)| format!(", {name}")).collect()
}

/// What a stage 1 descriptor says.
pub(crate) fn stage1(meaning: &Stage1Meaning) -> String {
    match meaning {
        Stage1Meaning::Invalid => "invalid".to_owned(),
        Stage1Meaning::AddressSize => "address too large".to_owned(),
        Stage1Meaning::Table { address, limits } => {
            let more = flags(&[
                (limits.read_only, "read-only below"),
                (limits.no_unprivileged, "privileged below"),
                (limits.uxn, "UXN below"),
                (limits.pxn, "PXN below"),
            ]);
            format!("table at {address:#x}{more}")
        }
        Stage1Meaning::Leaf(leaf) => {
            let access = match (leaf.read_only, leaf.unprivileged) {
                (false, false) => "RW privileged",
                (false, true) => "RW",
                (true, false) => "RO privileged",
                (true, true) => "RO",
            };
            let more = flags(&[
                (leaf.uxn, "UXN"),
                (leaf.pxn, "PXN"),
                (leaf.dbm, "DBM"),
                (!leaf.accessed, "AF clear"),
                (leaf.group > 1, "contiguous"),
                (leaf.global, "global"),
            ]);
            format!("{} at {:#x}, {access}{more}", size(leaf.size), leaf.output)
        }
    }
}

/// What a stage 2 descriptor says.
pub(crate) fn stage2(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Invalid => "invalid".to_owned(),
        Meaning::AddressSize => "address too large".to_owned(),
        Meaning::Table(address) => format!("table at {address:#x}"),
        Meaning::Leaf(leaf) => {
            let access = match (leaf.read, leaf.write) {
                (true, true) => "RW",
                (true, false) => "RO",
                (false, true) => "WO",
                (false, false) => "no data access",
            };
            let more = flags(&[
                (!leaf.execute && !leaf.execute_privileged, "XN"),
                (leaf.clean && !leaf.write, "DBM"),
                (!leaf.accessed, "AF clear"),
                (leaf.group > 1, "contiguous"),
                (leaf.device, "Device"),
            ]);
            format!("{} at {:#x}, {access}{more}", size(leaf.size), leaf.output)
        }
    }
}

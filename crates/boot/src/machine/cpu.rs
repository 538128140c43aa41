//! CPUs and how they are started (Devicetree Specification v0.4, section 3.8;
//! Linux bindings `arm/cpus.yaml` and `arm/psci.yaml`).

use super::reg::Reg;
use crate::error::BootError;
use crate::fdt::{Fdt, NodeId};
use crate::list::List;

/// Most CPUs.
pub const CPU_LIMIT: usize = 64;

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Aff3, Aff2, Aff1 and Aff0 at their places in MPIDR_EL1, every other
    /// bit 0. PSCI calls it `target_cpu`.
    pub affinity: u64,
    /// Its node.
    pub node: NodeId,
}

/// The instruction that calls the PSCI firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `SMC #0`: the firmware is at EL3.
    Smc,
    /// `HVC #0`: the firmware is at EL2.
    Hvc,
}

/// The oldest version of PSCI that the firmware promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PsciVersion {
    /// 0.2: standard function numbers.
    V0_2,
    /// 1.0: also `PSCI_FEATURES`.
    V1_0,
}

/// How PSCI is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Psci {
    /// The instruction.
    pub conduit: Conduit,
    /// The version.
    pub version: PsciVersion,
}

const AFFINITY: u64 = 0xff_00ff_ffff;

/// The enabled CPUs.
pub(super) fn cpus(fdt: &Fdt<'_>) -> Result<List<Cpu, CPU_LIMIT>, BootError> {
    let missing = BootError::MissingNode {
        what: "CPU",
        right: "describe every CPU in /cpus with device_type = cpu",
    };
    let parent = fdt.find(b"/cpus").ok_or(missing)?;
    let cells = parent.cells()?;
    let mut cpus = List::<Cpu, CPU_LIMIT>::new();
    for node in parent.children() {
        if node.property(b"device_type") != Some(b"cpu\0") || !node.is_enabled() {
            continue;
        }
        let entry = Reg::of(node, cells)?.next()?;
        let (affinity, _) = entry.ok_or_else(|| node.missing("reg"))?;
        if affinity & !AFFINITY != 0 {
            return Err(node.bad_value("reg", affinity, "the affinity fields of MPIDR_EL1 only"));
        }
        if cpus.iter().any(|cpu| cpu.affinity == affinity) {
            return Err(BootError::DuplicateCpu { affinity });
        }
        if !matches!(node.text("enable-method")?, None | Some("psci")) {
            return Err(node.bad_word("enable-method", "psci"));
        }
        let cpu = Cpu {
            affinity,
            node: node.id(),
        };
        cpus.push(cpu).map_err(|_| BootError::TooMany {
            what: "CPUs",
            limit: CPU_LIMIT,
        })?;
    }
    if cpus.is_empty() {
        return Err(missing);
    }
    Ok(cpus)
}

/// The PSCI node.
pub(super) fn psci(fdt: &Fdt<'_>) -> Result<Psci, BootError> {
    // Version 0.1 chooses its own function numbers and cannot turn the machine
    // off, which is how every refusal ends.
    let right = "add a node compatible with arm,psci-0.2 or later";
    for (_, node) in fdt.nodes() {
        let version = if node.is_compatible(b"arm,psci-1.0") {
            PsciVersion::V1_0
        } else if node.is_compatible(b"arm,psci-0.2") {
            PsciVersion::V0_2
        } else {
            continue;
        };
        if !node.is_enabled() {
            continue;
        }
        let conduit = match node.text("method")? {
            None => return Err(node.missing("method")),
            Some("smc") => Conduit::Smc,
            Some("hvc") => Conduit::Hvc,
            Some(_) => return Err(node.bad_word("method", "smc or hvc")),
        };
        return Ok(Psci { conduit, version });
    }
    Err(BootError::MissingNode {
        what: "PSCI firmware",
        right,
    })
}

//! Nodes that stand for calls to firmware.
//!
//! The hypervisor relays PSCI, the TRNG and what SMCCC asks of the architecture, and
//! denies every other call: what firmware does on a caller's behalf with an address
//! that it was given, no SMMU and no stage 2 sees. A driver that is told of such a
//! service would call, and wait or fail. So the host does not have its node.

use super::odd::{Odd, Oddities};
use crate::fdt::{Fdt, Node, NodeId};
use crate::list::List;

/// Bindings of services that are called by SMC or HVC and have no property that says
/// so (Linux bindings `firmware/qcom,scm.yaml`, `firmware/amlogic,meson-gxbb-sm.yaml`,
/// `watchdog/arm,smc-wdt.yaml`, `firmware/arm,scmi.yaml`).
const CALLED: [&[u8]; 5] = [
    b"qcom,scm",
    b"qcom,scmi-smc",
    b"amlogic,meson-gxbb-sm",
    b"arm,smc-wdt",
    b"linaro,scmi-optee",
];

/// Whether a node is a service of firmware's that is called and that is not PSCI.
fn is_called(node: &Node<'_>) -> bool {
    // OP-TEE, SDEI, the firmware of Xilinx' and Intel's parts, and whatever else has
    // to say by which instruction it is called.
    let method = matches!(node.property(b"method"), Some(b"smc\0" | b"hvc\0"));
    let psci = node
        .strings(b"compatible")
        .any(|model| model.starts_with(b"arm,psci"));
    // SCMI and mailboxes by SMC.
    let function = node.property(b"arm,smc-id").is_some();
    ((method || function) && !psci) || CALLED.iter().any(|model| node.is_compatible(model))
}

/// Adds the enabled ones to `withheld`; `false` when there is no room.
pub(super) fn withhold<const N: usize>(
    fdt: &Fdt<'_>,
    withheld: &mut List<NodeId, N>,
    odd: &mut Oddities,
) -> bool {
    for (_, node) in fdt.nodes() {
        if node.is_enabled() && is_called(&node) {
            odd.add(node.id(), Odd::FirmwareCalls);
            let known = withheld.iter().any(|known| *known == node.id());
            if !known && withheld.push(node.id()).is_err() {
                return false;
            }
        }
    }
    true
}

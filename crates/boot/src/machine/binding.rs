//! Bindings of devices that do no DMA.
//!
//! A device tree does not say which nodes are bus masters: on arm64 a master
//! that is not coherent, which is the default, has no property that tells
//! (Devicetree Specification v0.4, 2.3.10; Linux binding `dma-noncoherent`). So
//! a node that no SMMU confines is the host's only if its binding is in this
//! table: its registers make it read or write nothing but itself.
//!
//! What is looked up is the first string of `compatible`, the most specific
//! model (2.3.1). A later one says what else a driver may take the device for,
//! such as `syscon`, and not what the device cannot do.

use crate::fdt::Node;

/// Bindings with one reason in common.
struct Harmless {
    /// Why such a device reads and writes no memory.
    reason: &'static str,
    models: &'static [&'static str],
}

/// The GIC and its parts.
const INTERRUPT_CONTROLLERS: [&str; 9] = [
    "arm,gic-v3",
    "arm,gic-v3-its",
    "arm,gic-v2m-frame",
    "arm,gic-400",
    "arm,cortex-a15-gic",
    "arm,cortex-a9-gic",
    "arm,cortex-a7-gic",
    "arm,eb11mp-gic",
    "arm,pl390",
];

static HARMLESS: [Harmless; 14] = [
    Harmless {
        reason: "an interrupt controller: what it does write is the hypervisor's to look after",
        models: &INTERRUPT_CONTROLLERS,
    },
    Harmless {
        reason: "a UART with FIFOs that a CPU or another device's DMA channel empties",
        models: &[
            "arm,pl010",
            "arm,pl011",
            "arm,sbsa-uart",
            "ns16550",
            "ns16550a",
            "snps,dw-apb-uart",
        ],
    },
    Harmless {
        reason: "a clock that is read and set",
        models: &["arm,pl030", "arm,pl031", "google,goldfish-rtc"],
    },
    Harmless {
        reason: "a counter that interrupts",
        models: &[
            "arm,armv7-timer-mem",
            "arm,sp804",
            "snps,dw-apb-timer",
            "snps,dw-apb-timer-osc",
            "snps,dw-apb-timer-sp",
        ],
    },
    Harmless {
        reason: "a counter that resets the machine",
        models: &["arm,sp805", "arm,sbsa-gwdt", "snps,dw-wdt"],
    },
    Harmless {
        reason: "pins that are read and driven",
        models: &[
            "arm,pl061",
            "snps,dw-apb-gpio",
            "gpio-keys",
            "pinctrl-single",
            "ti,pinctrl-single",
            "pinconf-single",
        ],
    },
    Harmless {
        reason: "memory of its own behind a bus interface",
        models: &[
            "cfi-flash",
            "jedec-flash",
            "mtd-ram",
            "mtd-rom",
            "mmio-sram",
        ],
    },
    Harmless {
        reason: "a serial bus with FIFOs that a CPU or another device's DMA channel empties",
        models: &[
            "arm,pl022",
            "arm,versatile-i2c",
            "arm,versatile-spi",
            "snps,designware-i2c",
            "snps,dw-apb-ssi",
            "opencores,i2c-ocores",
        ],
    },
    Harmless {
        reason: "keyboard, mouse, sound or memory card with FIFOs that a CPU empties",
        models: &["arm,pl041", "arm,pl050", "arm,pl180"],
    },
    Harmless {
        reason: "a network interface whose packets a CPU copies",
        models: &["smsc,lan91c111", "smsc,lan9115", "smsc,lan9118"],
    },
    Harmless {
        reason: "registers of the system that do no more than their bits say",
        models: &[
            "syscon",
            "arm,sp810",
            "arm,vexpress-sysreg",
            "arm,versatile-sysreg",
        ],
    },
    Harmless {
        reason: "a bus, or parts of a device with a node for each",
        models: &["simple-bus", "simple-mfd", "simple-pm-bus", "arm,amba-bus"],
    },
    Harmless {
        reason: "memory that firmware set up for the system",
        models: &["simple-framebuffer", "ramoops", "qemu,pvpanic-mmio"],
    },
    Harmless {
        reason: "firmware that is called, with values in its registers",
        models: &["arm,psci", "arm,psci-0.2", "arm,psci-1.0"],
    },
];

/// Bindings of devices that do DMA, whether or not their node says how their
/// DMA relates to the caches. They are only named for what a log line says.
const MASTERS: [&[u8]; 5] = [
    b"virtio,mmio",
    b"qemu,fw-cfg-mmio",
    b"arm,pl330",
    b"arm,pl080",
    b"arm,pl081",
];

/// The models of devices that do no DMA, each with the reason.
pub fn bindings_without_dma() -> impl Iterator<Item = (&'static str, &'static str)> {
    let of = |group: &'static Harmless| group.models.iter().map(|model| (*model, group.reason));
    HARMLESS.iter().flat_map(of)
}

/// Whether a node is the GIC or a part of it.
pub(super) fn is_interrupt_controller(node: &Node<'_>) -> bool {
    let mut models = INTERRUPT_CONTROLLERS.iter();
    models.any(|model| node.is_compatible(model.as_bytes()))
}

/// Whether the node's binding is of devices that do no DMA.
pub(super) fn does_no_dma(node: &Node<'_>) -> bool {
    let Some(model) = node.strings(b"compatible").next() else {
        return false;
    };
    let mut known = HARMLESS.iter().flat_map(|group| group.models);
    known.any(|known| known.as_bytes() == model) && !says_dma(node)
}

/// Whether the node itself says that the device does DMA: a coherency property, an
/// IOMMU or channels for others only mean something for one that does.
fn says_dma(node: &Node<'_>) -> bool {
    const SIGNS: [&[u8]; 5] = [
        b"dma-coherent",
        b"dma-noncoherent",
        b"iommus",
        b"iommu-map",
        b"#dma-cells",
    ];
    // The tables and queues of an ITS are its DMA.
    let its = node.is_compatible(b"arm,gic-v3") || node.is_compatible(b"arm,gic-v3-its");
    !its && SIGNS.iter().any(|sign| node.property(sign).is_some())
}

/// Whether the device is known to do DMA.
pub(super) fn does_dma(node: &Node<'_>) -> bool {
    says_dma(node) || is_pci(node) || MASTERS.iter().any(|model| node.is_compatible(model))
}

/// Whether a node is a PCI bridge (Devicetree Specification v0.4, 2.3.1; PCI Bus
/// Binding to IEEE 1275).
pub(super) fn is_pci(node: &Node<'_>) -> bool {
    node.property(b"device_type") == Some(b"pci\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_binding_has_a_reason_and_one_place() {
        let all: Vec<_> = HARMLESS.iter().flat_map(|group| group.models).collect();
        for (index, model) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(model), "{model}");
            assert!(!MASTERS.contains(&model.as_bytes()), "{model}");
        }
        assert!(HARMLESS.iter().all(|group| group.reason.len() > 16));
    }
}

//! What the device numbers of a root bus have.

use crate::{ConfigSpace, Function};

/// Device numbers of a bus.
pub const SLOTS: usize = 32;

/// Vendor and device.
const ID: u8 = 0x00;
/// Class in bits 31:24.
const CLASS: u8 = 0x08;
/// Header type in bits 22:16.
const HEADER: u8 = 0x0c;
/// Primary, secondary and subordinate bus number of a bridge, from bit 0 on.
const BUS_NUMBERS: u8 = 0x18;
/// Header types: a function that is no bridge, and a PCI-to-PCI bridge.
const ENDPOINT: u32 = 0;
const BRIDGE: u32 = 1;
/// The class of bridges. One with a header of an endpoint is that of the host to the
/// bus, and does no DMA.
const BRIDGES: u32 = 6;

/// What one device number of a root bus has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slot {
    /// Nothing that does DMA.
    #[default]
    Empty,
    /// Functions, none of which leads to another bus.
    Functions,
    /// A function that leads to other buses: the first and the last of their numbers,
    /// where all such functions of the slot have some.
    Bridge(Option<(u8, u8)>),
}

/// Looks at every function of the bus `bus`, the root of a host bridge, as firmware left
/// it. Nothing is written.
pub fn root_slots(space: &dyn ConfigSpace, bus: u8) -> [Slot; SLOTS] {
    let mut slots = [Slot::Empty; SLOTS];
    for (slot, first) in slots.iter_mut().zip((0..=u8::MAX).step_by(8)) {
        for devfn in first..=first | 7 {
            *slot = with(*slot, space, Function { bus, devfn });
        }
    }
    slots
}

/// What a slot has with one more of its functions.
fn with(slot: Slot, space: &dyn ConfigSpace, function: Function) -> Slot {
    // As in the survey: neither all ones nor 0 is a vendor.
    if matches!(space.read(function, ID) & 0xffff, 0 | 0xffff) {
        return slot;
    }
    let numbers = match space.read(function, HEADER) >> 16 & 0x7f {
        ENDPOINT => {
            let bridge = space.read(function, CLASS) >> 24 == BRIDGES;
            return match slot {
                Slot::Empty if !bridge => Slot::Functions,
                other => other,
            };
        }
        BRIDGE => {
            let [primary, secondary, subordinate, _] =
                space.read(function, BUS_NUMBERS).to_le_bytes();
            let right = primary == function.bus && secondary > primary && subordinate >= secondary;
            right.then_some((secondary, subordinate))
        }
        // CardBus, or what is not defined.
        _ => None,
    };
    Slot::Bridge(match (slot, numbers) {
        (Slot::Bridge(Some(others)), Some(these)) => {
            Some((others.0.min(these.0), others.1.max(these.1)))
        }
        (Slot::Bridge(None), _) | (_, None) => None,
        (_, numbers) => numbers,
    })
}

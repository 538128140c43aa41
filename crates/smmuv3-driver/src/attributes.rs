//! Overrides of the attributes that a device's traffic has.

use crate::Features;
use smmuv3_spec::ste::{SHCFG_INCOMING, Ste};

/// The overrides of a stream table entry (IHI 0070, 5.2): memory type,
/// allocation hints, shareability, privilege, and instruction or data.
///
/// None of them weakens stage 2. The memory type, the hints and the
/// shareability are those of the access that comes *into* the translation:
/// stage 2 combines its own with them, and the stronger of the two counts, so
/// that no override makes memory more cacheable than stage 2 says (13.1.5).
/// Privilege and "instruction" choose which of stage 2's permissions is asked
/// for; they add none. A stage 2 that lets pages be executed and not read
/// would be read through `INSTCFG`, and ours has none. Neither touches an
/// address. What can lead out of stage 2, `STRW`, `NSCFG`, `DRE` and the
/// partition of the cache, is not among them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Attributes(Ste);

/// `MemAttr` that is reserved and behaves as Device-nGnRnE (5.2).
const RESERVED_TYPES: [u8; 3] = [0b0100, 0b1000, 0b1100];
/// The bit of `ALLOCCFG` that makes the others count.
const ALLOC_OVERRIDE: u8 = 0b1000;
/// The bit of `PRIVCFG` and `INSTCFG` that makes the other count.
const PERMISSION_OVERRIDE: u8 = 0b10;

impl Attributes {
    /// Everything as the device says.
    pub const INCOMING: Self = Self(Ste([0; 8]).with_shcfg(SHCFG_INCOMING));

    /// Takes the overrides of an entry, and nothing else; `entry` is a copy.
    /// What the SMMU cannot override is left out, since it is RES0 there
    /// (`IDR1.ATTR_TYPES_OVR`, `IDR1.ATTR_PERMS_OVR`); an encoding that is
    /// reserved becomes the one that it behaves as.
    #[must_use]
    pub fn from_untrusted(entry: &Ste, features: &Features) -> Self {
        let mut taken = Self::INCOMING.0;
        if features.idr1.attr_types_ovr() {
            taken = taken.with_shcfg(entry.shcfg());
            if entry.mtcfg() {
                let memory = entry.memattr();
                let reserved = RESERVED_TYPES.contains(&memory);
                taken = taken
                    .with_mtcfg(true)
                    .with_memattr(if reserved { 0 } else { memory });
            }
            if entry.alloccfg() & ALLOC_OVERRIDE != 0 {
                taken = taken.with_alloccfg(entry.alloccfg());
            }
        }
        if features.idr1.attr_perms_ovr() {
            let forced = |field: u8| {
                if field & PERMISSION_OVERRIDE == 0 {
                    0
                } else {
                    field
                }
            };
            taken = taken
                .with_privcfg(forced(entry.privcfg()))
                .with_instcfg(forced(entry.instcfg()));
        }
        Self(taken)
    }

    /// Puts them into the entry of a stream of this SMMU; what it does not have
    /// is left out here too, whatever SMMU the overrides were taken for.
    pub(crate) fn apply(&self, entry: Ste, features: &Features) -> Ste {
        let Self(own) = Self::from_untrusted(&self.0, features);
        // The field is RES0 where attributes cannot be overridden.
        let shcfg = if features.idr1.attr_types_ovr() {
            own.shcfg()
        } else {
            0
        };
        entry
            .with_shcfg(shcfg)
            .with_mtcfg(own.mtcfg())
            .with_memattr(own.memattr())
            .with_alloccfg(own.alloccfg())
            .with_privcfg(own.privcfg())
            .with_instcfg(own.instcfg())
    }
}

impl Default for Attributes {
    fn default() -> Self {
        Self::INCOMING
    }
}

impl core::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Attributes({:#x})", self.0.0[1])
    }
}

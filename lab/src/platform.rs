//! What an SMMU, a CPU and memory are like, with the source of every number.

use crate::input::{self, Bounded, Check, Impossible, InputError, Sourced};
use crate::units::Picos;
use serde::Deserialize;
use smmuv3_model::Profile;
use std::path::Path;
use toml::Spanned;

/// One machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// A name for tables.
    pub name: String,
    /// The SMMU.
    pub smmu: Smmu,
    /// The CPUs.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
}

/// Which identification registers the SMMU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// QEMU's.
    Qemu,
    /// MMU-600: no range invalidation, break-before-make.
    Mmu600,
    /// MMU-700: range invalidation, block sizes may change.
    Mmu700,
}

impl Kind {
    /// The model's profile.
    #[must_use]
    pub const fn profile(self) -> Profile {
        match self {
            Self::Qemu => Profile::qemu(),
            Self::Mmu600 => Profile::mmu600(),
            Self::Mmu700 => Profile::mmu700(),
        }
    }
}

/// Entries of a cache; 0 where there is none.
pub type Entries = Bounded<0, 4_194_304>;
/// Cycles of a lookup or a hop.
pub type Cycles = Bounded<0, 10_000>;
/// Nanoseconds of an access or an operation.
pub type Nanos = Bounded<0, 1_000_000>;

/// A set-associative cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How many translations it holds; 0: there is no such cache.
    pub entries: Sourced<Entries>,
    /// In how many of its places one of them may be; 0: in all.
    pub ways: Sourced<Entries>,
    /// What a lookup takes, in cycles of the SMMU.
    pub cycles: Sourced<Cycles>,
}

/// The caches of table descriptors: one for each level of each stage.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalkCaches {
    /// Entries for stage 1, levels 0 to 3.
    pub stage1: Sourced<[Entries; 4]>,
    /// Entries for stage 2, levels 0 to 3.
    pub stage2: Sourced<[Entries; 4]>,
    /// As [`Cache::ways`], for each of them.
    pub ways: Sourced<Entries>,
    /// What looking all of them up takes, in cycles of the SMMU.
    pub cycles: Sourced<Cycles>,
    /// They serve the stage 2 translations of stage 1's own descriptors too.
    pub inner: Sourced<bool>,
}

/// The SMMU.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smmu {
    /// What its identification registers say.
    pub kind: Sourced<Kind>,
    /// Length of a cycle in picoseconds.
    pub cycle_ps: Sourced<Bounded<100, 100_000>>,
    /// How many translation buffer units there are; initiators are spread over
    /// them, and those on one share its TLBs.
    pub buffer_units: Sourced<Bounded<1, 4096>>,
    /// The small TLB of each of them.
    pub micro_tlb: Cache,
    /// The large TLB of each of them.
    pub main_tlb: Cache,
    /// A TLB entry covers a whole contiguous group.
    pub contiguous: Sourced<bool>,
    /// Cycles from a translation buffer unit to the unit that walks, and as many
    /// back.
    pub link_cycles: Sourced<Cycles>,
    /// Stream table entries with their context descriptors.
    pub config_cache: Cache,
    /// Table descriptors.
    pub walk_caches: WalkCaches,
    /// Whole translations of stage 2.
    pub ipa_cache: Cache,
    /// Walks at a time.
    pub walk_slots: Sourced<Bounded<1, 4096>>,
    /// Nanoseconds for each command that is consumed.
    pub command_ns: Sourced<Nanos>,
    /// Nanoseconds from the consumption of a CMD_SYNC until software sees it.
    pub sync_ns: Sourced<Nanos>,
}

/// The CPUs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpu {
    /// Length of a cycle in picoseconds.
    pub cycle_ps: Sourced<Bounded<50, 100_000>>,
    /// Instructions in a thousand cycles of driver code.
    pub instructions_per_1000_cycles: Sourced<Bounded<50, 10_000>>,
    /// Nanoseconds that entering EL2 and coming back take beyond the
    /// instructions that are counted.
    pub trap_ns: Sourced<Nanos>,
}

/// Memory, and what is in it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Nanoseconds for the SMMU to read a descriptor.
    pub descriptor_ns: Sourced<Nanos>,
    /// Nanoseconds for a device to read or write its data.
    pub data_ns: Sourced<Nanos>,
    /// Bits of the host's addresses.
    pub ipa_bits: Sourced<Bounded<36, 48>>,
    /// Level at which stage 2 starts.
    pub stage2_start_level: Sourced<Bounded<0, 2>>,
    /// How the host's memory is in the hypervisor's stage 2.
    pub host_memory: Sourced<HostMemory>,
}

/// The largest entries of the host's stage 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostMemory {
    /// Blocks, up to 1 GiB.
    Blocks,
    /// Pages of 4 KiB: any of them was given away and came back, or the
    /// hypervisor does not use blocks.
    Pages,
}

impl Platform {
    /// Names of the platforms that are built in.
    pub const NAMES: [&'static str; 4] = ["mmu600", "mmu700", "grace", "morello"];

    /// One that is built in, or a file.
    ///
    /// # Errors
    /// As [`input::load`].
    pub fn named(name: &str) -> Result<Self, InputError> {
        let text = match name {
            "mmu600" => include_str!("../platforms/mmu600.toml"),
            "mmu700" => include_str!("../platforms/mmu700.toml"),
            "grace" => include_str!("../platforms/grace.toml"),
            "morello" => include_str!("../platforms/morello.toml"),
            path => return input::load(Path::new(path)),
        };
        input::parse(text, &format!("lab/platforms/{name}.toml"))
    }
}

impl Platform {
    /// The same with the host's memory in pages of 4 KiB.
    #[must_use]
    pub fn in_pages(mut self) -> Self {
        self.name.push_str("-pages");
        self.with_host_memory(HostMemory::Pages)
    }

    /// The same, under the same name, with the host's memory like that.
    #[must_use]
    pub fn with_host_memory(mut self, host_memory: HostMemory) -> Self {
        self.memory.host_memory.value = Spanned::new(0..0, host_memory);
        self
    }
}

impl Smmu {
    /// So many cycles.
    #[must_use]
    pub fn cycles(&self, count: &Sourced<Cycles>) -> Picos {
        Picos(self.cycle_ps.get().get()).times(count.get().get())
    }
}

impl Cpu {
    /// What a thousand instructions take.
    #[must_use]
    pub fn thousand(&self) -> Picos {
        let cycle = self.cycle_ps.get().get();
        // At least 50.
        let rate = self.instructions_per_1000_cycles.get().get();
        Picos(cycle * 1_000_000 / rate)
    }
}

/// A number of nanoseconds.
#[must_use]
pub fn nanos(value: &Sourced<Nanos>) -> Picos {
    Picos::from_nanos(value.get().get())
}

impl Check for Platform {
    fn check(&self) -> Result<(), Impossible> {
        let smmu = &self.smmu;
        for cache in [
            &smmu.micro_tlb,
            &smmu.main_tlb,
            &smmu.config_cache,
            &smmu.ipa_cache,
        ] {
            divides(&cache.ways, cache.entries.get().get())?;
        }
        let walks = &smmu.walk_caches;
        for entries in walks.stage1.get().iter().chain(&walks.stage2.get()) {
            divides(&walks.ways, entries.get())?;
        }
        let (bits, level) = (&self.memory.ipa_bits, &self.memory.stage2_start_level);
        let output = u64::from(smmu.kind.get().profile().output_bits());
        if bits.get().get() > output {
            return Err(Impossible::at(
                &bits.value,
                format!(
                    "this kind of SMMU has addresses of {output} bits, from 36 to {output} are possible"
                ),
            ));
        }
        let shift = 39 - 9 * level.get().get();
        let range = shift + 1..=(shift + 13).min(output);
        if !range.contains(&bits.get().get()) {
            return Err(Impossible::at(
                &level.value,
                format!(
                    "a walk from level {} resolves {} to {} bits, ipa_bits is {}",
                    level.get().get(),
                    range.start(),
                    range.end(),
                    bits.get().get()
                ),
            ));
        }
        Ok(())
    }
}

/// A cache is made of whole sets.
fn divides(ways: &Sourced<Entries>, entries: u64) -> Result<(), Impossible> {
    let count = ways.get().get();
    if count == 0 || entries.is_multiple_of(count) {
        return Ok(());
    }
    Err(Impossible::at(
        &ways.value,
        format!("{entries} entries cannot be in sets of {count}; 0 is fully associative"),
    ))
}

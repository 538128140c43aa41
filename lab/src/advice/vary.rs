//! What nobody vouches for, and the same with other values.

use super::Case;
use crate::input::{Bounded, Check, Sourced};
use crate::measured::{Measured, NotMeasured};
use crate::platform::{Entries, HostMemory, Kind, Platform};
use crate::scenario::{Invalidation, Placement};
use toml::Spanned;

/// Something that is varied, and to what.
pub(super) struct Row {
    pub(super) what: &'static str,
    pub(super) here: String,
    pub(super) told: bool,
    pub(super) tries: Vec<(String, Case)>,
}

/// By how much a number is off.
#[derive(Clone, Copy)]
enum Scale {
    Halved,
    Doubled,
}

impl Scale {
    const ALL: [Self; 2] = [Self::Halved, Self::Doubled];

    const fn of(self, value: u64) -> u64 {
        match self {
            Self::Halved => value / 2,
            Self::Doubled => value.saturating_mul(2),
        }
    }
}

fn scale<const MIN: u64, const MAX: u64>(value: &mut Sourced<Bounded<MIN, MAX>>, scale: Scale) {
    let scaled = scale.of(value.get().get());
    value.value = Spanned::new(0..0, Bounded::clamped(scaled));
}

/// Whole sets; a cache that there is does not vanish.
fn entries(found: Entries, ways: u64, scale: Scale) -> Entries {
    let scaled = Entries::clamped(scale.of(found.get())).get();
    let rest = scaled.checked_rem(ways).unwrap_or(0);
    match scaled - rest {
        0 => found,
        whole => Entries::clamped(whole),
    }
}

fn scale_cache(cache: &mut crate::platform::Cache, scale: Scale) {
    let scaled = entries(cache.entries.get(), cache.ways.get().get(), scale);
    cache.entries.value = Spanned::new(0..0, scaled);
}

/// A number of a platform.
struct Knob {
    name: &'static str,
    /// It is varied, whoever vouches for it: what others measured elsewhere is an
    /// assumption here.
    always: bool,
    assumed: fn(&Platform) -> bool,
    read: fn(&Platform) -> u64,
    scale: fn(&mut Platform, Scale),
}

/// The length of a CPU's cycle is not among them: it does what the instructions in a
/// cycle do.
const KNOBS: [Knob; 14] = [
    Knob {
        name: "reading a descriptor, ns",
        always: true,
        assumed: |p| p.memory.descriptor_ns.source.is_assumed(),
        read: |p| p.memory.descriptor_ns.get().get(),
        scale: |p, by| scale(&mut p.memory.descriptor_ns, by),
    },
    Knob {
        name: "reading data, ns",
        always: false,
        assumed: |p| p.memory.data_ns.source.is_assumed(),
        read: |p| p.memory.data_ns.get().get(),
        scale: |p, by| scale(&mut p.memory.data_ns, by),
    },
    Knob {
        name: "large TLB, entries",
        always: true,
        assumed: |p| p.smmu.main_tlb.entries.source.is_assumed(),
        read: |p| p.smmu.main_tlb.entries.get().get(),
        scale: |p, by| scale_cache(&mut p.smmu.main_tlb, by),
    },
    Knob {
        name: "small TLB, entries",
        always: false,
        assumed: |p| p.smmu.micro_tlb.entries.source.is_assumed(),
        read: |p| p.smmu.micro_tlb.entries.get().get(),
        scale: |p, by| scale_cache(&mut p.smmu.micro_tlb, by),
    },
    Knob {
        name: "TLBs (buffer units)",
        always: false,
        assumed: |p| p.smmu.buffer_units.source.is_assumed(),
        read: |p| p.smmu.buffer_units.get().get(),
        scale: |p, by| scale(&mut p.smmu.buffer_units, by),
    },
    Knob {
        name: "walk caches, entries a level",
        always: false,
        assumed: |p| {
            let walks = &p.smmu.walk_caches;
            walks.stage1.source.is_assumed() || walks.stage2.source.is_assumed()
        },
        read: |p| {
            let walks = &p.smmu.walk_caches;
            let all = walks.stage1.get().into_iter().chain(walks.stage2.get());
            all.map(Bounded::get).max().unwrap_or(0)
        },
        scale: |p, by| {
            let walks = &mut p.smmu.walk_caches;
            let ways = walks.ways.get().get();
            for stage in [&mut walks.stage1, &mut walks.stage2] {
                let scaled = stage.get().map(|level| entries(level, ways, by));
                stage.value = Spanned::new(0..0, scaled);
            }
        },
    },
    Knob {
        name: "config cache, entries",
        always: false,
        assumed: |p| p.smmu.config_cache.entries.source.is_assumed(),
        read: |p| p.smmu.config_cache.entries.get().get(),
        scale: |p, by| scale_cache(&mut p.smmu.config_cache, by),
    },
    Knob {
        name: "stage 2 cache, entries",
        always: false,
        assumed: |p| p.smmu.ipa_cache.entries.source.is_assumed(),
        read: |p| p.smmu.ipa_cache.entries.get().get(),
        scale: |p, by| scale_cache(&mut p.smmu.ipa_cache, by),
    },
    Knob {
        name: "walks at a time",
        always: true,
        assumed: |p| p.smmu.walk_slots.source.is_assumed(),
        read: |p| p.smmu.walk_slots.get().get(),
        scale: |p, by| scale(&mut p.smmu.walk_slots, by),
    },
    Knob {
        name: "a cycle of the SMMU, ps",
        always: false,
        assumed: |p| p.smmu.cycle_ps.source.is_assumed(),
        read: |p| p.smmu.cycle_ps.get().get(),
        scale: |p, by| scale(&mut p.smmu.cycle_ps, by),
    },
    Knob {
        name: "a command, ns",
        always: true,
        assumed: |p| p.smmu.command_ns.source.is_assumed(),
        read: |p| p.smmu.command_ns.get().get(),
        scale: |p, by| scale(&mut p.smmu.command_ns, by),
    },
    Knob {
        name: "CMD_SYNC, ns",
        always: true,
        assumed: |p| p.smmu.sync_ns.source.is_assumed(),
        read: |p| p.smmu.sync_ns.get().get(),
        scale: |p, by| scale(&mut p.smmu.sync_ns, by),
    },
    Knob {
        name: "a trap, ns",
        always: true,
        assumed: |p| p.cpu.trap_ns.source.is_assumed(),
        read: |p| p.cpu.trap_ns.get().get(),
        scale: |p, by| scale(&mut p.cpu.trap_ns, by),
    },
    Knob {
        name: "instructions in 1,000 cycles",
        always: true,
        assumed: |p| p.cpu.instructions_per_1000_cycles.source.is_assumed(),
        read: |p| p.cpu.instructions_per_1000_cycles.get().get(),
        scale: |p, by| scale(&mut p.cpu.instructions_per_1000_cycles, by),
    },
];

/// Everything that is varied, in turn.
pub(super) fn rows(base: &Case) -> Vec<Row> {
    let mut rows: Vec<Row> = KNOBS.iter().filter_map(|knob| scaled(base, knob)).collect();
    rows.extend(uncounted(base));
    rows.extend(further_runs(base));
    rows.extend(switches(base));
    rows.extend(said(base));
    rows
}

fn scaled(base: &Case, knob: &Knob) -> Option<Row> {
    if !knob.always && !(knob.assumed)(&base.platform) {
        return None;
    }
    let here = (knob.read)(&base.platform);
    let tries = Scale::ALL.into_iter().filter_map(|by| {
        let mut case = base.clone();
        (knob.scale)(&mut case.platform, by);
        let to = (knob.read)(&case.platform);
        // Nothing is half of nothing, and some things cannot be.
        (to != here && case.platform.check().is_ok()).then(|| (to.to_string(), case))
    });
    let tries: Vec<_> = tries.collect();
    (!tries.is_empty()).then(|| Row {
        what: knob.name,
        here: here.to_string(),
        told: false,
        tries,
    })
}

/// Instructions that no measurement told, all together.
fn uncounted(base: &Case) -> Option<Row> {
    fn all(measured: &mut Measured) -> [&mut Sourced<Bounded<0, 100_000>>; 4] {
        let NotMeasured {
            further_command,
            further_command_el2,
            further_entry_el2,
            further_command_paravirt,
        } = &mut measured.not_measured;
        [
            further_command,
            further_command_el2,
            further_entry_el2,
            further_command_paravirt,
        ]
    }
    let mut measured = base.measured.clone();
    if !all(&mut measured)
        .iter()
        .any(|count| count.source.is_assumed())
    {
        return None;
    }
    let tries = Scale::ALL.map(|by| {
        let mut case = base.clone();
        for count in all(&mut case.measured) {
            scale(count, by);
        }
        let to = match by {
            Scale::Halved => "half",
            Scale::Doubled => "twice",
        };
        (to.to_owned(), case)
    });
    Some(Row {
        what: "instructions not counted",
        here: "-".to_owned(),
        told: false,
        tries: tries.into(),
    })
}

/// What pages cost that lie apart: worked out, from reads of 32 of them.
fn further_runs(base: &Case) -> Option<Row> {
    let scenario = base.scenario.as_ref()?;
    if scenario.buffers.memory != Placement::Scattered {
        return None;
    }
    let tries = [(0.5, "half"), (2.0, "twice")].map(|(times, to)| {
        let mut case = base.clone();
        case.measured.scale_further_runs(times);
        (to.to_owned(), case)
    });
    Some(Row {
        what: "instructions of a further page",
        here: "-".to_owned(),
        told: false,
        tries: tries.into(),
    })
}

/// One other value.
fn other(
    base: &Case,
    what: &'static str,
    (here, to): (&str, &str),
    change: impl Fn(&mut Case),
) -> Row {
    let mut case = base.clone();
    change(&mut case);
    Row {
        what,
        here: here.to_owned(),
        told: false,
        tries: vec![(to.to_owned(), case)],
    }
}

const fn yes(is: bool) -> (&'static str, &'static str) {
    if is { ("yes", "no") } else { ("no", "yes") }
}

/// What a platform has or does not have.
fn switches(base: &Case) -> Vec<Row> {
    let smmu = &base.platform.smmu;
    let mut rows = vec![other(
        base,
        "TLB uses the contiguous hint",
        yes(smmu.contiguous.get()),
        |case| {
            let contiguous = &mut case.platform.smmu.contiguous;
            contiguous.value = Spanned::new(0..0, !contiguous.get());
        },
    )];
    if smmu.walk_caches.inner.source.is_assumed() {
        rows.push(other(
            base,
            "walk caches serve stage 1's reads",
            yes(smmu.walk_caches.inner.get()),
            |case| {
                let inner = &mut case.platform.smmu.walk_caches.inner;
                inner.value = Spanned::new(0..0, !inner.get());
            },
        ));
    }
    let kinds = match smmu.kind.get() {
        Kind::Mmu600 => Some((Kind::Mmu700, "no", "yes")),
        Kind::Mmu700 => Some((Kind::Mmu600, "yes", "no")),
        Kind::Qemu => None,
    };
    if let Some((kind, here, to)) = kinds.filter(|_| smmu.kind.source.is_assumed()) {
        let row = other(base, "range invalidation", (here, to), |case| {
            case.platform.smmu.kind.value = Spanned::new(0..0, kind);
        });
        let possible = |(_, case): &(String, Case)| case.platform.check().is_ok();
        rows.extend(Some(row).filter(|row| row.tries.iter().all(possible)));
    }
    let (memory, words) = match base.platform.memory.host_memory.get() {
        HostMemory::Blocks => (HostMemory::Pages, ("blocks", "pages")),
        HostMemory::Pages => (HostMemory::Blocks, ("pages", "blocks")),
    };
    rows.push(other(base, "host memory in EL2's tables", words, |case| {
        case.platform = case.platform.clone().with_host_memory(memory);
    }));
    rows
}

/// What the scenario says.
fn said(base: &Case) -> Vec<Row> {
    let Some(scenario) = &base.scenario else {
        return Vec::new();
    };
    let (memory, words) = match scenario.buffers.memory {
        Placement::Contiguous => (Placement::Scattered, ("contiguous", "scattered")),
        Placement::Scattered => (Placement::Contiguous, ("scattered", "contiguous")),
    };
    let mut placement = other(base, "pages of a buffer", words, |case| {
        if let Some(scenario) = &mut case.scenario {
            scenario.buffers.memory = memory;
        }
    });
    let (invalidation, words) = match scenario.host.invalidation {
        Invalidation::Strict => (Invalidation::Lazy, ("strict", "lazy")),
        Invalidation::Lazy => (Invalidation::Strict, ("lazy", "strict")),
    };
    let mut when = other(base, "invalidation", words, |case| {
        if let Some(scenario) = &mut case.scenario {
            scenario.host.invalidation = invalidation;
        }
    });
    let seed = scenario.run.seed.get();
    let tries = [1, 2].map(|further| {
        let mut case = base.clone();
        if let Some(scenario) = &mut case.scenario {
            scenario.run.seed = Bounded::clamped(seed ^ (0x5eed + further));
        }
        (format!("another {further}"), case)
    });
    let seed = Row {
        what: "seed",
        here: seed.to_string(),
        told: false,
        tries: tries.into(),
    };
    (placement.told, when.told) = (true, true);
    vec![placement, when, seed]
}

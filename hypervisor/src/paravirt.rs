//! The virtio-iommus that the host sees in paravirt mode.
//!
//! Their registers are absent from the host's stage 2, so that every access
//! traps; a driver at work makes one for each burst of requests. What a request
//! does is decided in `virtio-iommu-device` and `isolation`.
//!
//! Each has a lock, and no CPU has two. What a request writes is of its virtio-iommu
//! alone, but for the SMMUs that its devices are behind and the pages that it names.

mod faults;
mod platform;
mod slots;
mod smmus;
mod trace;

pub use faults::{deliver as deliver_faults, report as report_fault};

use crate::lock::{Mutex, MutexGuard};
use crate::log::{RateLimit, info, warning};
use crate::machine;
use crate::memory::{DMA_TABLES, Tables};
use crate::owner_memory::MappedRing;
use crate::percpu::{PerCpu, Reason};
use crate::smmu;
use crate::sysreg::read_sysreg;
use crate::trap::Frame;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::HostMachine;
use portcullis_boot::{Machine, VIOMMU_LIMIT, VIOMMU_RANGE_LIMIT, ViommuStreams, endpoint};
use portcullis_dma_domain::{Endpoint, Iommu};
use portcullis_isolation::{
    Domains, EndpointRange, Slots, SmmuDomain, SmmuUnit, SmmuUnitConfig, Trouble,
};
use portcullis_ownership::Owner;
use portcullis_pagetable::{Bbm, Geometry, Granule};
use slots::SlotPages;
use smmus::HostSmmus;
use smmuv3_spec::StreamId;
use spin::Once;
use trace::{Trace, Traced};
use virtio_iommu_device::{Config, Device, Progress, Size};

type Domain = SmmuDomain<Tables, HostSmmus>;
type Unit = SmmuUnit<'static, Tables, HostSmmus>;

/// Address bits of a domain: 512 GiB, which one root page resolves in three
/// levels.
const IOVA_BITS: u8 = 39;

/// How often the lock is tried before the host's CPU goes back, takes its
/// interrupts, and comes again.
const TRIES: u32 = 4096;

/// The endpoints of all virtio-iommus, those of each side by side.
static ENDPOINTS: Once<[EndpointRange; VIOMMU_RANGE_LIMIT]> = Once::new();
static PARAVIRT: [Once<Paravirt>; VIOMMU_LIMIT] = [const { Once::new() }; VIOMMU_LIMIT];
/// The registers of the first: those of the others follow, a page for each. Of no use
/// while there is none.
static REGISTERS: AtomicU64 = AtomicU64::new(u64::MAX);
static REFUSED: RateLimit = RateLimit::new();
static FULL: RateLimit = RateLimit::new();

/// What one lock holds together.
struct State {
    device: Device<MappedRing>,
    domains: Domains<'static, Unit, SlotPages>,
    trace: Option<Trace>,
}

/// One of them. CPUs that are at work with two write to no line of a cache in common.
#[repr(align(128))]
struct Paravirt {
    machine: HostMachine,
    state: Mutex<State>,
    endpoints: &'static [EndpointRange],
    faults: faults::Faults,
}

/// All that there are.
fn all() -> impl Iterator<Item = &'static Paravirt> {
    PARAVIRT.iter().map_while(Once::get)
}

/// Why there is no virtio-iommu.
#[derive(Debug, thiserror::Error)]
pub enum ParavirtError {
    /// The shape of the tables is not one that the SMMUs and the CPUs take.
    #[error("translation tables: {0}")]
    Geometry(#[from] portcullis_pagetable::GeometryError),
    /// The pool has no memory for the trace in one piece.
    #[error("no memory for a trace of {0:#x} bytes")]
    Trace(u64),
    /// There are more interrupt controllers or SMMUs than there is room for.
    #[error("too many doorbells or SMMUs")]
    TooMany,
    /// The driver could not be told of the limits.
    #[error("the limits of a domain: {0}")]
    Limits(#[from] virtio_iommu_device::BadLimits),
    /// The pool has no memory for the first domains.
    #[error("no memory for domains")]
    Domains,
}

/// Makes the virtio-iommus, in front of SMMUs in which every stream aborts; `instances`
/// says what each has. `bits` are those of a physical address, and `bbm` is what every SMMU
/// promises.
///
/// # Errors
/// [`ParavirtError`].
pub fn create_viommus(
    machine: &Machine,
    instances: &ViommuStreams,
    bits: u8,
    bbm: Bbm,
    coherent: bool,
) -> Result<(), ParavirtError> {
    let mut rest = ENDPOINTS.call_once(|| endpoints(instances)).as_slice();
    // Each has as many VMIDs as the others.
    let count = instances.count();
    let slots = machine::free_vmids() / count.max(1) as u32;
    let viommus = machine.viommus.iter().zip(PARAVIRT.iter()).take(count);
    for (index, (viommu, place)) in viommus.enumerate() {
        let shares = instances.shares();
        let own = shares.filter(|share| usize::from(share.instance) == index);
        let (endpoints, others) = rest.split_at_checked(own.count()).unwrap_or_default();
        rest = others;
        let memory = SlotPages::new(coherent);
        let (Some(ledger), Some(first)) = (machine::ledger(), memory.first()) else {
            return Err(ParavirtError::Domains);
        };
        // For as long as the machine runs.
        let vmids = machine::take_vmids(slots).ok_or(ParavirtError::TooMany)?;
        let config = SmmuUnitConfig {
            geometry: Geometry::stage2(Granule::Size4K, bits.min(IOVA_BITS), bits)?,
            bbm,
            first_vmid: vmids.first(),
            slots: vmids.count(),
        };
        let tables = Tables::new(&DMA_TABLES, coherent);
        let unit = SmmuUnit::new(config, endpoints, tables, HostSmmus);
        let unit = unit.ok_or(ParavirtError::TooMany)?;
        // Devices get the page of the one register.
        let doorbells = machine.doorbells();
        let doorbells = doorbells.map(|its| its.target);
        let slots = Slots::growing(first, memory);
        let domains = Domains::new(*ledger, Owner::HOST, unit, slots, doorbells)
            .ok_or(ParavirtError::TooMany)?;
        let config = Config {
            // Linux would put the two descriptors of each request into a table of
            // their own: one more page to hold, and a detour.
            indirect: false,
            ..Config::default()
        };
        let limits = domains.limits();
        let most = limits.domains.1.saturating_add(1);
        let device = Device::new(&limits, &config)?;
        let trace = match machine.trace {
            0 => None,
            bytes => Some(Trace::new(bytes).ok_or(ParavirtError::Trace(bytes))?),
        };
        place.call_once(|| Paravirt {
            machine: HostMachine { line: viommu.line },
            state: Mutex::new(State {
                device,
                domains,
                trace,
            }),
            endpoints,
            faults: faults::Faults::new(index),
        });
        let registers = viommu.registers.start();
        REGISTERS.fetch_min(registers.raw(), Ordering::Relaxed);
        info!(
            "event=viommu_ready registers={registers} line={} domains={most} iova_bits={} \
             table_bytes={:#x} stream_ranges={}",
            viommu.line,
            bits.min(IOVA_BITS),
            machine.dma_tables,
            endpoints.len(),
        );
    }
    Ok(())
}

/// The streams of all, as endpoints, those of each after those of the one before.
fn endpoints(instances: &ViommuStreams) -> [EndpointRange; VIOMMU_RANGE_LIMIT] {
    const NONE: EndpointRange = EndpointRange {
        first: Endpoint(0),
        count: 0,
        smmu: 0,
        stream: StreamId(0),
    };
    let mut all = [NONE; VIOMMU_RANGE_LIMIT];
    let mut slots = all.iter_mut();
    for index in 0..instances.count() {
        let shares = instances.shares();
        let own = shares.filter(|share| usize::from(share.instance) == index);
        for (share, slot) in own.zip(slots.by_ref()) {
            *slot = EndpointRange {
                first: Endpoint(endpoint(share.smmu, share.first)),
                count: (share.last - share.first).saturating_add(1),
                smmu: share.smmu,
                stream: StreamId(share.first),
            };
        }
    }
    all
}

/// Carries out an access of the host's to a register. `false` when it is none,
/// or no plain load or store of one register.
#[inline]
pub fn access(cpu: &PerCpu, frame: &mut Frame, esr: u64) -> bool {
    const ISV: u64 = 1 << 24;
    const CACHE_OR_WALK: u64 = 1 << 8 | 1 << 7;
    const AARCH32: u64 = 1 << 4;
    const WRITE: u64 = 1 << 6;
    // A translation fault, of which HPFAR_EL2 holds the page (DDI 0487,
    // HPFAR_EL2).
    let page = (read_sysreg!("hpfar_el2") & 0xfff_ffff_fff0) << 8;
    if esr & (ISV | CACHE_OR_WALK | 0x3c) != ISV | 0x04 || frame.spsr & AARCH32 != 0 {
        return false;
    }
    let Some(paravirt) = at(page) else {
        return false;
    };
    cpu.count(Reason::Viommu);
    let offset = (read_sysreg!("far_el2") & 0xfff) as u32;
    let size = match esr >> 22 & 3 {
        0 => Size::Byte,
        1 => Size::Half,
        2 => Size::Word,
        _ => Size::Double,
    };
    let register = (esr >> 16 & 0x1f) as usize;
    let Some(mut state) = paravirt.lock() else {
        // Another CPU is at work; the instruction is done again.
        return true;
    };
    let State {
        device,
        domains,
        trace,
    } = &mut *state;
    if esr & WRITE != 0 {
        let value = frame.get(register);
        // Nobody else pays for a trace.
        let progress = match trace {
            Some(trace) => {
                let mut traced = Traced { domains, trace };
                device.write(&paravirt.machine, &mut traced, offset, size, value)
            }
            None => device.write(&paravirt.machine, domains, offset, size, value),
        };
        let trouble = domains.take_trouble();
        drop(state);
        if progress == Progress::Done {
            frame.skip();
        }
        if let Some(trouble) = trouble {
            report_trouble(trouble);
        }
    } else {
        let value = device.read(offset, size);
        drop(state);
        frame.set(register, extended(value, esr));
        frame.skip();
    }
    if faults::waiting() {
        faults::deliver();
        smmu::print_lines();
    }
    true
}

/// The one that has its registers in the page at `page`.
#[inline(always)]
fn at(page: u64) -> Option<&'static Paravirt> {
    let offset = page.wrapping_sub(REGISTERS.load(Ordering::Relaxed));
    PARAVIRT.get((offset >> 12) as usize)?.get()
}

/// Whether `ipa` is in a page of their registers.
#[must_use]
pub fn is_register(ipa: u64) -> bool {
    at(ipa & !0xfff).is_some()
}

/// What a load makes of a value: some repeat its sign (DDI 0487, ESR_EL2: SSE,
/// SF, SAS).
fn extended(value: u64, esr: u64) -> u64 {
    const SSE: u64 = 1 << 21;
    const SF: u64 = 1 << 15;
    if esr & SSE == 0 {
        return value;
    }
    let above = 64 - (8 << (esr >> 22 & 3));
    let signed = ((value << above) as i64 >> above) as u64;
    if esr & SF == 0 {
        signed & 0xffff_ffff
    } else {
        signed
    }
}

impl Paravirt {
    /// `None` when another CPU holds it for long.
    #[inline]
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        (0..TRIES).find_map(|_| {
            let state = self.state.try_lock();
            if state.is_none() {
                core::hint::spin_loop();
            }
            state
        })
    }
}

#[cold]
fn report_trouble(trouble: Trouble) {
    let memory = match trouble {
        Trouble::NotOwned(memory) => memory,
        Trouble::NoRoom(domain, endpoint) => {
            if let Some(dropped) = FULL.take() {
                warning!(
                    "event=domain_refused domain={domain} endpoint={endpoint} \
                     reason=\"the memory for tables of domains is used up\" \
                     fix=\"more than dma-tables={:#x}\" dropped={dropped}",
                    DMA_TABLES.limit(),
                );
            }
            return;
        }
        Trouble::NoTables(domain) => {
            if let Some(dropped) = FULL.take() {
                warning!(
                    "event=map_refused domain={domain} \
                     reason=\"the memory for tables of domains is used up\" \
                     fix=\"more than dma-tables={:#x}\" dropped={dropped}",
                    DMA_TABLES.limit(),
                );
            }
            return;
        }
    };
    if let Some(dropped) = REFUSED.take() {
        warning!(
            "event=map_refused address={} size={:#x} reason=\"it is not the host's memory\" \
             dropped={dropped}",
            memory.start(),
            memory.size()
        );
    }
}

/// Prints what was done and refused.
pub fn report() {
    for paravirt in all() {
        report_one(paravirt);
    }
}

fn report_one(paravirt: &Paravirt) {
    let Some(state) = paravirt.lock() else {
        return;
    };
    let (d, c) = (state.device.counts(), state.domains.counts());
    info!(
        "event=viommu_counts requests={} refused={} malformed={} needs_reset={} general={} \
         syncs={} failed_syncs={} again={} interrupts={} resets={} illegal_accesses={} \
         faults_delivered={} faults_dropped={} faults_lost={}",
        d.requests,
        d.refused,
        d.unanswered + d.outside,
        d.broken,
        d.general,
        d.syncs,
        d.failed_syncs,
        d.again,
        d.interrupts,
        d.resets,
        d.illegal_accesses,
        d.faults_delivered,
        d.faults_dropped,
        paravirt.faults.dropped(),
    );
    let (used, most) = DMA_TABLES.used();
    info!(
        "event=domain_counts attaches={} detaches={} maps={} unmaps={} syncs={} not_owned={} \
         no_memory={} failed={} lost_pages={} domains={} table_bytes={used:#x} \
         table_bytes_most={most:#x}",
        c.attaches,
        c.detaches,
        c.maps,
        c.unmaps,
        c.syncs,
        c.not_owned,
        c.no_memory,
        c.failed,
        c.lost_pages,
        state.domains.iter().count(),
    );
    if let Some(trace) = &state.trace {
        trace.print();
    }
}

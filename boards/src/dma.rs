//! What the devices of a board reach: the SMMU model walks the tables that the boot made,
//! for streams that the driver attached.

use crate::memory::Pool;
use crate::space::{BITS, SpaceError};
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};
use portcullis_boot::Machine;
use smmuv3_driver::{Clock, Config, Registers, Smmu, Stage2};
use smmuv3_model as model;
use smmuv3_model::{Access, Mode, Profile, Transaction};
use smmuv3_spec::StreamId;
use std::cell::{Cell, RefCell};

/// Memory by who has it.
pub(crate) struct Map<'a> {
    /// What devices reach: the host's.
    pub(crate) open: &'a [Range<PhysAddr>],
    /// What they write and do not read: doorbells.
    pub(crate) doorbells: &'a [Range<PhysAddr>],
    /// What they do not, and what it is.
    pub(crate) closed: &'a [(&'static str, Range<PhysAddr>)],
}

/// Takes over each SMMU of `machine`, as the image does it, attaches the streams that the
/// tree names to `stage2`, or none in paravirt mode, and has the first and the last stream of
/// each range reach for the first and the last page of each range of memory.
///
/// # Errors
/// [`SpaceError`], where a device reaches what it must not, or misses what it needs.
pub(crate) fn try_streams(
    machine: &Machine,
    pool: &Pool,
    stage2: Option<&Stage2>,
    map: &Map<'_>,
) -> Result<(), SpaceError> {
    pool.turn_to_smmus();
    for (index, smmu) in machine.smmus.iter().enumerate() {
        let mut profile = Profile::full();
        profile.idr0 = profile.idr0.with_cohacc(smmu.coherent);
        // StreamIDs of any size, and addresses as wide as the tables.
        profile.idr1 = profile.idr1.with_sidsize(32);
        debug_assert_eq!(profile.output_bits(), u32::from(BITS));
        let smmu = model::Smmu::on(profile, pool.ram(), Mode::Plain, []);
        let port = Port(RefCell::new(smmu));
        let config = Config {
            interrupts: false,
            ..Config::default()
        };
        let mut driver = Smmu::new(&port, pool, Steps::default(), config)?;
        let of_this = |range: &&portcullis_boot::StreamRange| range.smmu == index;
        for range in machine.streams.iter().filter(of_this) {
            let (first, last) = (StreamId(range.first), StreamId(range.last));
            if let Some(stage2) = stage2 {
                driver.attach_range(first, last, stage2)?;
            }
        }
        for range in machine.streams.iter().filter(of_this) {
            for stream in [range.first, range.last] {
                reach(&port, StreamId(stream), stage2.is_some(), map)?;
            }
        }
        // A stream that the tree does not name.
        let named = |id: u32| {
            let mut ranges = machine.streams.iter().filter(of_this);
            ranges.any(|range| (range.first..=range.last).contains(&id))
        };
        if let Some(stream) = (0..=u32::MAX).find(|id| !named(*id)) {
            reach(&port, StreamId(stream), false, map)?;
        }
    }
    Ok(())
}

/// Reads and writes as one device, at both ends of every range.
fn reach(port: &Port, stream: StreamId, attached: bool, map: &Map<'_>) -> Result<(), SpaceError> {
    let ends = |range: &Range<PhysAddr>| {
        let last = (range.end().raw() - 1) & !(PAGE_SIZE - 1);
        [range.start().raw() & !(PAGE_SIZE - 1), last]
    };
    let mut smmu = port.0.borrow_mut();
    let mut try_page = |page: u64| {
        [Access::Read, Access::Write]
            .map(|access| smmu.translate(Transaction::new(stream, page, access)).ok())
    };
    let doorbells = map.doorbells.iter().map(|range| (range, false));
    for (range, read) in map.open.iter().map(|range| (range, true)).chain(doorbells) {
        for page in ends(range) {
            let wanted = [attached && read, attached].map(|reached| reached.then_some(page));
            if try_page(page) != wanted {
                let at = PhysAddr::new(page);
                return Err(SpaceError::Memory {
                    stream,
                    at,
                    attached,
                });
            }
        }
    }
    for (what, range) in map.closed {
        for page in ends(range) {
            if try_page(page).iter().any(Option::is_some) {
                let (who, at) = ("devices, as the SMMU model walks,", PhysAddr::new(page));
                return Err(SpaceError::Reach { who, what, at });
            }
        }
    }
    Ok(())
}

/// The registers of an SMMU model.
struct Port(RefCell<model::Smmu>);

impl Registers for &Port {
    fn read32(&self, offset: u32) -> u32 {
        self.0.borrow_mut().read32(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.borrow_mut().write32(offset, value);
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.borrow_mut().read64(offset)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.borrow_mut().write64(offset, value);
    }
}

/// A clock that goes on whenever the driver looks at it.
#[derive(Default)]
struct Steps(Cell<u64>);

impl Clock for Steps {
    fn now_us(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn relax(&self) {
        self.0.set(self.0.get() + 1000);
    }
}

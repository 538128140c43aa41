//! The host asks the domains, as the virtio-iommu device in front of them does.

use super::client::{Client, Work};
use super::stage2::{Driver, geometry, take_over};
use super::zone::ZoneRef;
use super::{Machine, MachineError, Shape, stream};
use portcullis_addr::{Iova, Ipa, Range};
use portcullis_dma_domain::{Access, DomainId, Endpoint, Iommu, Refusal, Request, Step};
use portcullis_isolation::{
    Domains, EndpointRange, Ledger, Slot, Slots, SmmuUnit, SmmuUnitConfig, Smmus,
};
use portcullis_ownership::Owner;
use smmuv3_spec::Vmid;
use std::cell::RefCell;

/// The SMMU, for the domains.
#[derive(Clone, Copy)]
struct Near<'d, 'm>(&'d RefCell<Driver<'m>>);

impl<'m> Smmus for Near<'_, 'm> {
    type Registers = super::memory::Port<'m>;
    type Memory = ZoneRef<'m>;
    type Clock = &'m Machine;

    fn at<T>(&self, index: usize, with: impl FnOnce(&mut Driver<'m>) -> T) -> Option<T> {
        (index == 0).then(|| with(&mut self.0.borrow_mut()))
    }
}

/// Asks for what the host wants. A call to EL2 carries everything that is asked
/// for at a time, and waits for what it took away.
struct Paravirt<I> {
    iommu: I,
    /// Requests are under way that nobody told EL2 of.
    asked: bool,
}

impl<I: Iommu> Paravirt<I> {
    fn ask(&mut self, request: Request) -> Result<(), MachineError> {
        let mut step = self.iommu.begin(request);
        loop {
            step = match step {
                Step::Done(result) => return Ok(result?),
                Step::AfterSync => return Ok(()),
                Step::More => self.iommu.go_on(),
            };
        }
    }
}

fn id(domain: usize) -> DomainId {
    // At most 4096.
    DomainId(domain as u32)
}

impl<I: Iommu> Client for Paravirt<I> {
    fn map(
        &mut self,
        domain: usize,
        iova: Iova,
        runs: &[Range<Ipa>],
    ) -> Result<Work, MachineError> {
        let mut at = iova.raw();
        for run in runs {
            let range =
                Range::from_size(Iova::new(at), run.size()).map_err(|_| Refusal::OutOfRange)?;
            self.ask(Request::Map {
                domain: id(domain),
                iova: range,
                to: run.start(),
                access: Access::READ | Access::WRITE,
            })?;
            at += run.size();
        }
        self.asked = true;
        self.complete()
    }

    fn unmap_lazily(&mut self, domain: usize, iova: Range<Iova>) -> Result<Work, MachineError> {
        self.ask(Request::Unmap {
            domain: id(domain),
            iova,
        })?;
        self.asked = true;
        Ok(Work::default())
    }

    fn complete(&mut self) -> Result<Work, MachineError> {
        self.iommu.sync()?;
        let entries = u64::from(std::mem::take(&mut self.asked));
        Ok(Work { entries })
    }
}

pub(super) fn with<T>(
    machine: &Machine,
    shape: &Shape<'_>,
    run: impl FnOnce(&mut dyn Client) -> T,
) -> Result<T, MachineError> {
    let driver = take_over(machine)?;
    let (geometry, bbm) = geometry(shape, &driver)?;
    let driver = RefCell::new(driver);
    let slots = shape.domains();
    let endpoints = [EndpointRange {
        first: Endpoint(0),
        // At most 4096.
        count: shape.initiators() as u32,
        smmu: 0,
        stream: stream(0),
    }];
    let config = SmmuUnitConfig {
        geometry,
        bbm,
        first_vmid: Vmid(1),
        slots,
    };
    let unit = SmmuUnit::new(config, &endpoints, machine.hypervisor(), Near(&driver))
        .ok_or(MachineError::Stuck("take so many domains"))?;
    let banks = [machine.bank()?];
    let ledger = Ledger::new(&banks)?;
    let mut places: Vec<Option<Slot<_>>> = (0..slots).map(|_| None).collect();
    let iommu = Domains::new(
        ledger,
        Owner::HOST,
        unit,
        Slots::fixed(&mut places),
        std::iter::empty(),
    )
    .ok_or(MachineError::Stuck("take its doorbells"))?;
    let mut client = Paravirt {
        iommu,
        asked: false,
    };
    for initiator in 0..shape.initiators() {
        client.ask(Request::Attach {
            domain: id(shape.domain_of(initiator)),
            endpoint: Endpoint(initiator as u32),
        })?;
    }
    client.complete()?;
    Ok(run(&mut client))
}

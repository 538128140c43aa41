//! Endpoints come to a domain, which begins with the first, and leave it.

use super::{Domains, Trouble};
use crate::slots::{Slot, SlotMemory};
use portcullis_addr::Identity;
use portcullis_dma_domain::{
    Access, AttachError, CreateError, DmaDomain, DmaUnit, DomainId, Endpoint, Refusal, Step,
};

/// Devices may only write it, if the hardware can say so.
const DOORBELL: Access = Access::WRITE.union(Access::MMIO);

impl<'a, U: DmaUnit, M: SlotMemory<'a, U::Domain>> Domains<'a, U, M> {
    /// Makes the domain `index`, with its doorbells. After an error there is
    /// none.
    fn create(&mut self, index: usize) -> Result<(), Refusal> {
        if !self.slots.reserve(index) {
            return Err(Refusal::NoMemory);
        }
        let created = self.create_there(index);
        if created.is_err() {
            self.slots.release(index);
        }
        created
    }

    fn create_there(&mut self, index: usize) -> Result<(), Refusal> {
        let mut domain = self.unit.create(index).map_err(|error| match error {
            CreateError::NoMemory => Refusal::NoMemory,
            CreateError::Failed => Refusal::Failed,
        })?;
        for doorbell in self.doorbells.iter().flatten().take(self.fixed) {
            let at = Identity.iova(*doorbell);
            if domain.map(at, doorbell.start(), DOORBELL, false).is_err() {
                // Nobody was attached to it yet.
                self.abandon(domain);
                return Err(Refusal::NoMemory);
            }
        }
        let slot = Slot {
            domain,
            endpoints: 0,
            dead: false,
        };
        match self.slots.put(index, slot) {
            None => Ok(()),
            Some(slot) => {
                self.abandon(slot.domain);
                Err(Refusal::NoMemory)
            }
        }
    }

    /// Ends a domain that has nothing but doorbells and never had an endpoint.
    fn abandon(&mut self, mut domain: U::Domain) {
        let whole = self.unit.input();
        while let Ok(Some(_)) = domain.unmap_first(whole) {}
        // Nobody could hold anything of it.
        match domain.flush().and_then(|()| self.unit.forget(&mut domain)) {
            Ok(()) => self.unit.destroy(domain),
            Err(_) => self.counts.failed += 1,
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn attach(&mut self, id: DomainId, endpoint: Endpoint) -> Step {
        match self.try_attach(id, endpoint) {
            Ok(Some(empty)) => self.close(empty, Ok(())),
            Ok(None) => Step::Done(Ok(())),
            Err((refusal, empty)) => {
                self.count(refusal);
                if refusal == Refusal::NoMemory {
                    self.trouble = Some(Trouble::NoRoom(id, endpoint));
                }
                match empty {
                    [Some(first), next] | [next @ None, Some(first)] => {
                        self.close_both(first, next, Err(refusal))
                    }
                    [None, None] => Step::Done(Err(refusal)),
                }
            }
        }
    }

    /// Attaches, and says which domain has no endpoint any more. After a refusal
    /// it may be the one that the endpoint has left, and the one that was made
    /// for it.
    fn try_attach(
        &mut self,
        id: DomainId,
        endpoint: Endpoint,
    ) -> Result<Option<usize>, (Refusal, [Option<usize>; 2])> {
        let refused = |refusal| (refusal, [None; 2]);
        if !self.unit.has(endpoint) {
            return Err(refused(Refusal::NoEndpoint));
        }
        let index = self.index(id).ok_or(refused(Refusal::BadDomain))?;
        if let Some(old) = self.unit.stranded(endpoint) {
            // It leaves where it was, and what failed takes it nowhere else.
            let (_, empty) = self.block(old, endpoint);
            return Err((Refusal::Failed, [empty.then_some(old), None]));
        }
        let old = self.unit.slot_of(endpoint);
        if old == Some(index) {
            return Ok(None);
        }
        match self.existing(id) {
            Err(Refusal::NoDomain) => self.create(index).map_err(refused)?,
            other => {
                other.map_err(refused)?;
            }
        }
        // The old one is out of its place for as long as both are needed.
        let mut from = old.and_then(|old| Some((old, self.slots.lift(old)?)));
        let Some(to) = self.slots.get_mut(index) else {
            self.put_back(from);
            return Err(refused(Refusal::Failed));
        };
        let leaving = from.as_mut().map(|(_, slot)| &mut slot.domain);
        let result = self.unit.attach(endpoint, &mut to.domain, leaving);
        if result.is_ok() {
            to.endpoints = to.endpoints.saturating_add(1);
            self.counts.attaches += 1;
        }
        let made = (to.endpoints == 0).then_some(index);
        let emptied = match &mut from {
            Some((old, slot)) if result != Err(AttachError::NoMemory) => {
                slot.endpoints = slot.endpoints.saturating_sub(1);
                (slot.endpoints == 0).then_some(*old)
            }
            _ => None,
        };
        self.put_back(from);
        match result {
            Ok(()) => Ok(emptied),
            Err(AttachError::NoMemory) => Err((Refusal::NoMemory, [emptied, made])),
            Err(AttachError::Failed) => Err((Refusal::Failed, [emptied, made])),
        }
    }

    fn put_back(&mut self, lifted: Option<(usize, Slot<U::Domain>)>) {
        if let Some((index, slot)) = lifted {
            let left = self.slots.put(index, slot);
            debug_assert!(left.is_none(), "the room of a lifted domain stays");
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn detach(&mut self, id: DomainId, endpoint: Endpoint) -> Step {
        if !self.unit.has(endpoint) {
            return self.refuse(Refusal::NoEndpoint);
        }
        let index = match self.existing(id) {
            Ok(index) => index,
            // Also out of a domain that nothing else can be done with.
            Err(Refusal::Failed) => id.0 as usize,
            Err(refusal) => return self.refuse(refusal),
        };
        // One that a failure of its hardware blocks has to leave it all the same, once:
        // else the domain would never end. The driver is told of the failure.
        let at = self.unit.slot_of(endpoint);
        if at.or_else(|| self.unit.stranded(endpoint)) != Some(index) {
            return self.refuse(Refusal::NotAttached);
        }
        let (result, empty) = self.block(index, endpoint);
        if let Err(refusal) = result {
            self.count(refusal);
        } else {
            self.counts.detaches += 1;
        }
        if empty {
            self.close(index, result)
        } else {
            Step::Done(result)
        }
    }

    /// Blocks an endpoint of the domain `index`; whether that was the last.
    pub(super) fn block(
        &mut self,
        index: usize,
        endpoint: Endpoint,
    ) -> (Result<(), Refusal>, bool) {
        let Some(slot) = self.slots.get_mut(index) else {
            return (Err(Refusal::NoDomain), false);
        };
        let blocked = self.unit.block(endpoint, &mut slot.domain);
        slot.endpoints = slot.endpoints.saturating_sub(1);
        let empty = slot.endpoints == 0;
        (blocked.map_err(|_| Refusal::Failed), empty)
    }
}

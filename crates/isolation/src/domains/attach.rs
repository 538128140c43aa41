//! Endpoints come to a domain, which begins with the first, and leave it.

use super::{Domains, Slot};
use portcullis_dma_domain::{
    Access, AttachError, CreateError, DmaDomain, DmaUnit, DomainId, Endpoint, Refusal, Step,
};

/// Devices may only write it, if the hardware can say so.
const DOORBELL: Access = Access::WRITE.union(Access::MMIO);

impl<U: DmaUnit> Domains<'_, U> {
    /// Makes the domain `index`, with its doorbells. After an error there is
    /// none.
    fn create(&mut self, index: usize) -> Result<(), Refusal> {
        let mut domain = self.unit.create(index).map_err(|error| match error {
            CreateError::NoMemory => Refusal::NoMemory,
            CreateError::Failed => Refusal::Failed,
        })?;
        for doorbell in self.doorbells.iter().flatten().take(self.fixed) {
            let at = doorbell.identity();
            if domain.map(at, doorbell.start(), DOORBELL, false).is_err() {
                // Nobody was attached to it yet.
                self.abandon(domain);
                return Err(Refusal::NoMemory);
            }
        }
        if let Some(place) = self.places.get_mut(index) {
            *place = Some(Slot {
                domain,
                endpoints: 0,
                dead: false,
            });
        }
        Ok(())
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
                match empty {
                    Some(empty) => self.close(empty, Err(refusal)),
                    None => Step::Done(Err(refusal)),
                }
            }
        }
    }

    /// Attaches, and says which domain has no endpoint any more.
    fn try_attach(
        &mut self,
        id: DomainId,
        endpoint: Endpoint,
    ) -> Result<Option<usize>, (Refusal, Option<usize>)> {
        let refused = |refusal| (refusal, None);
        if !self.unit.has(endpoint) {
            return Err(refused(Refusal::NoEndpoint));
        }
        let index = self.index(id).ok_or(refused(Refusal::BadDomain))?;
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
        let pair = match old {
            Some(old) => match self.places.get_disjoint_mut([index, old]) {
                Ok([Some(to), from]) => Some((to, from.as_mut())),
                _ => None,
            },
            None => match self.places.get_mut(index) {
                Some(Some(to)) => Some((to, None)),
                _ => None,
            },
        };
        let Some((to, mut from)) = pair else {
            return Err(refused(Refusal::Failed));
        };
        let leaving = from.as_mut().map(|slot| &mut slot.domain);
        let result = self.unit.attach(endpoint, &mut to.domain, leaving);
        if result.is_ok() {
            to.endpoints = to.endpoints.saturating_add(1);
            self.counts.attaches += 1;
        }
        let made = to.endpoints == 0;
        let emptied = match from {
            Some(from) if result != Err(AttachError::NoMemory) => {
                from.endpoints = from.endpoints.saturating_sub(1);
                old.filter(|_| from.endpoints == 0)
            }
            _ => None,
        };
        let unused = emptied.or(made.then_some(index));
        match result {
            Ok(()) => Ok(emptied),
            Err(AttachError::NoMemory) => Err((Refusal::NoMemory, unused)),
            // If both are without endpoints, the old one is closed now and the
            // new one stays, empty, for the next attempt.
            Err(AttachError::Failed) => Err((Refusal::Failed, unused)),
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
        if self.unit.slot_of(endpoint) != Some(index) {
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
        let Some(slot) = self.places.get_mut(index).and_then(Option::as_mut) else {
            return (Err(Refusal::NoDomain), false);
        };
        let blocked = self.unit.block(endpoint, &mut slot.domain);
        slot.endpoints = slot.endpoints.saturating_sub(1);
        let empty = slot.endpoints == 0;
        (blocked.map_err(|_| Refusal::Failed), empty)
    }
}

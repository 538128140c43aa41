//! Mappings and unmappings of a scenario's buffers.

use super::SimError;
use super::engine::Engine;
use super::host::Done;
use crate::machine::Mode;
use crate::units::Picos;
use portcullis_addr::{Iova, Range};

/// Something for a CPU to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) map: bool,
    pub(super) initiator: usize,
    pub(super) slot: usize,
}

impl Engine<'_> {
    /// Does a job at `now`; when it is done.
    pub(super) fn work(&mut self, job: Job, now: Picos) -> Result<Picos, SimError> {
        let done = if job.map {
            self.map(job)?
        } else {
            self.unmap(job)?
        };
        Ok(self.host.pay(&done, now))
    }

    /// Maps a buffer, without any time passing.
    pub(super) fn map(&mut self, job: Job) -> Result<Done, SimError> {
        let domain = self.shape.domain_of(job.initiator);
        let (buffer, bytes) = (self.buffer_number(job), self.bytes);
        let mode = self.host.mode();
        let iova = match mode {
            // Where memory is.
            Mode::Identity => self.layout.physical(buffer, 0),
            _ => self
                .spaces
                .get_mut(domain)
                .and_then(|space| space.take(bytes))
                .ok_or(SimError::Addresses { mode })?,
        };
        let left = self.transfers;
        if let Some(buffer) = self.slot(job) {
            (buffer.iova, buffer.left) = (iova, left);
        }
        self.host.map(domain, iova, &self.layout.runs(buffer))
    }

    fn unmap(&mut self, job: Job) -> Result<Done, SimError> {
        let domain = self.shape.domain_of(job.initiator);
        let iova = self.slot(job).map_or(0, |buffer| buffer.iova);
        let mode = self.host.mode();
        let range = Range::from_size(Iova::new(iova), self.bytes)
            .map_err(|_| SimError::Addresses { mode })?;
        let (done, free) = self
            .host
            .unmap(domain, range, (self.bytes, self.layout.pieces()))?;
        if let Some(space) = self.spaces.get_mut(domain) {
            for range in free {
                space.put(range.start().raw(), range.size());
            }
        }
        Ok(done)
    }
}

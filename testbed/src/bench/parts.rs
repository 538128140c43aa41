//! A run, before it is put together.

use super::dma::Figures;
use super::lines::Line;
use super::{Row, bhb, interrupts, scale};

/// All that was measured, as its parts have it.
#[derive(Debug, Default)]
pub struct Parts {
    /// What the host pays for its DMA.
    pub dma: Figures,
    /// Few mappings and many.
    pub scale: Vec<scale::Row>,
    /// Commands to the interrupt translation service.
    pub interrupts: Vec<interrupts::Row>,
    /// What forgetting the host's branch history costs.
    pub branch_history: bhb::Costs,
    /// The same host with and without the hypervisor.
    pub guest: Vec<Row>,
    /// The page-table crate and others.
    pub pagetable: Vec<Row>,
}

impl Parts {
    /// How many goals are missed.
    #[must_use]
    pub fn missed(&self) -> usize {
        let missed = |reached: &bool| !reached;
        let compared = self.guest.iter().chain(&self.pagetable);
        compared
            .map(Row::reached)
            .chain(self.dma.lines.iter().map(Line::reached))
            .chain(self.scale.iter().map(scale::Row::reached))
            .chain(self.interrupts.iter().map(interrupts::Row::reached))
            .filter(missed)
            .count()
            + self.branch_history.missed()
    }
}

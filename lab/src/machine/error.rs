//! Why the real code did not do what the lab asked.

use portcullis_addr::{Iova, Ipa};
use portcullis_dma_domain::{Refusal, SyncError};
use portcullis_ownership::LedgerError;
use portcullis_pagetable::{Error as TableError, GeometryError};
use smmuv3_driver::{Error as DriverError, InitError};
use thiserror::Error;

/// A machine that cannot be set up, or does not work on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// The driver did not take the SMMU over.
    #[error("taking the SMMU over: {0}")]
    Init(#[from] InitError),
    /// The driver failed.
    #[error("the SMMU's driver: {0}")]
    Driver(#[from] DriverError),
    /// A shape of tables that there is not.
    #[error("translation tables: {0}")]
    Geometry(#[from] GeometryError),
    /// The host's own tables.
    #[error("stage 1 tables: {0}")]
    Stage1(#[from] TableError<Iova>),
    /// The hypervisor's tables.
    #[error("stage 2 tables: {0}")]
    Stage2(#[from] TableError<Ipa>),
    /// A domain refused.
    #[error("the domains refused: {0}")]
    Refused(#[from] Refusal),
    /// A domain failed.
    #[error("the domains: {0}")]
    Sync(#[from] SyncError),
    /// The ledger of pages.
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The SMMU did not do what it was told.
    #[error("the SMMU did not {0}")]
    Stuck(&'static str),
    /// Memory for tables is used up.
    #[error("memory for {0} is used up")]
    Memory(&'static str),
}

//! Deliberate mistakes, each made between the code under test and the model, as
//! if the code had made it.

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// No mistake.
    None,
    /// No invalidation of translations at all.
    NoTlbi,
    /// Stage 2 changes are not invalidated.
    NoTlbiIpa,
    /// A VMID is not invalidated before a stream uses it.
    NoTlbiVmid,
    /// A changed stream table entry is not invalidated.
    NoCfgi,
    /// Takes an SMMU over without dropping its configuration.
    NoCfgiAll,
    /// Takes an SMMU over without dropping its translations.
    NoTlbiAll,
    /// No CMD_SYNC.
    NoSync,
    /// Does not wait for commands.
    NoWait,
    /// Does not wait for CR0ACK.
    NoFenceWait,
    /// Does not set GBPA.ABORT.
    NoGbpa,
    /// Drops the wrap bit of the producer index.
    NoWrap,
    /// Invalidates another VMID.
    WrongVmid,
    /// Invalidates another stream.
    WrongStream,
    /// Spares walk caches always.
    LeafOnly,
    /// Spares level 1 stream table descriptors always.
    ConfigLeafOnly,
    /// Claims that all was at level 3.
    LevelHint,
    /// One unit of a range is missing.
    ShortRange,
    /// The unit of a range is half of what it should be.
    SmallScale,
    /// The range starts a block later.
    NextPage,
    /// Table memory is not cleaned.
    NoPublish,
    /// Stream table entries are not cleaned.
    NoEntryPublish,
    /// The first word of an entry is stored before the others.
    EntryValidFirst,
    /// The caller of the tables forgets the SMMUs.
    ForgetSmmus,
    /// ... invalidates the first page of a plan only.
    FirstPageOnly,
    /// ... always says that no table was freed.
    CallerLeaf,
    /// ... changes the ledger only, not the tables.
    LedgerOnly,
    /// ... believes that block sizes may change at any time.
    WrongBbm,
    /// ... invalidates before the tables change.
    TooEarly,
}

//! Deliberate mistakes, each made between the code under test and the model, as
//! if the code had made it.

use smmuv3_spec::StreamId;
use smmuv3_spec::command::{Command, Opcode};

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
    /// ... forgets the CPUs.
    ForgetCpus,
    /// ... forgets the second SMMU.
    ForgetSecond,
    /// ... invalidates the first page of a plan only, on the CPUs.
    CpuFirstPageOnly,
    /// ... says on the CPUs always that no table was freed.
    CpuLeafOnly,
    /// Memory that the SMMU wrote is read without invalidating the cache.
    NoRefresh,
}

/// Every mistake and its name.
const NAMES: &[(Mutant, &str)] = &[
    (Mutant::NoTlbi, "no-tlbi"),
    (Mutant::NoTlbiIpa, "no-tlbi-ipa"),
    (Mutant::NoTlbiVmid, "no-tlbi-vmid"),
    (Mutant::NoCfgi, "no-cfgi"),
    (Mutant::NoCfgiAll, "no-cfgi-all"),
    (Mutant::NoTlbiAll, "no-tlbi-all"),
    (Mutant::NoSync, "no-sync"),
    (Mutant::NoWait, "no-wait"),
    (Mutant::NoFenceWait, "no-fence-wait"),
    (Mutant::NoGbpa, "no-gbpa"),
    (Mutant::NoWrap, "no-wrap"),
    (Mutant::WrongVmid, "wrong-vmid"),
    (Mutant::WrongStream, "wrong-stream"),
    (Mutant::LeafOnly, "leaf-only"),
    (Mutant::ConfigLeafOnly, "config-leaf-only"),
    (Mutant::LevelHint, "level-hint"),
    (Mutant::ShortRange, "short-range"),
    (Mutant::SmallScale, "small-scale"),
    (Mutant::NextPage, "next-page"),
    (Mutant::NoPublish, "no-publish"),
    (Mutant::NoEntryPublish, "no-entry-publish"),
    (Mutant::EntryValidFirst, "entry-valid-first"),
    (Mutant::ForgetSmmus, "forget-smmus"),
    (Mutant::FirstPageOnly, "first-page-only"),
    (Mutant::CallerLeaf, "caller-leaf"),
    (Mutant::LedgerOnly, "ledger-only"),
    (Mutant::WrongBbm, "wrong-bbm"),
    (Mutant::TooEarly, "too-early"),
    (Mutant::ForgetCpus, "forget-cpus"),
    (Mutant::ForgetSecond, "forget-second"),
    (Mutant::CpuFirstPageOnly, "cpu-first-page-only"),
    (Mutant::CpuLeafOnly, "cpu-leaf-only"),
    (Mutant::NoRefresh, "no-refresh"),
];

impl Mutant {
    /// Every mistake there is.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(mutant, _)| *mutant)
    }

    /// The name on the command line; `none` for no mistake.
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = NAMES.iter();
        names
            .find(|(mutant, _)| *mutant == self)
            .map_or("none", |(_, name)| *name)
    }

    /// The mistake of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut names = NAMES.iter();
        names.find(|(_, n)| *n == name).map(|(mutant, _)| *mutant)
    }
}

impl Mutant {
    pub(crate) fn skips_publish(self, bytes: u64) -> bool {
        match self {
            Self::NoPublish => true,
            Self::NoEntryPublish => bytes == 64,
            _ => false,
        }
    }

    /// The command that is sent in place of `command`.
    pub(crate) fn command(self, command: Command) -> Command {
        let idle = Command::sync(0);
        let opcode = command.opcode();
        match (self, opcode) {
            (Self::NoTlbi, Opcode::TLBI_S2_IPA | Opcode::TLBI_S12_VMALL)
            | (Self::NoTlbiIpa, Opcode::TLBI_S2_IPA)
            | (Self::NoTlbiVmid, Opcode::TLBI_S12_VMALL)
            | (Self::NoCfgi, Opcode::CFGI_STE)
            | (Self::NoCfgiAll, Opcode::CFGI_STE_RANGE)
            | (Self::NoTlbiAll, Opcode::TLBI_NSNH_ALL) => idle,
            (Self::NoSync, Opcode::SYNC) => Command::prefetch_config(StreamId(0), None),
            (Self::WrongVmid, Opcode::TLBI_S2_IPA | Opcode::TLBI_S12_VMALL) => {
                command.with_vmid_bits(command.vmid_bits() ^ 4)
            }
            (Self::LeafOnly, Opcode::TLBI_S2_IPA) => command.with_leaf(true),
            (Self::ConfigLeafOnly, Opcode::CFGI_STE) => command.with_leaf(true),
            (Self::WrongStream, Opcode::CFGI_STE) => {
                command.with_stream_bits(command.stream_bits() + 1)
            }
            (Self::LevelHint, Opcode::TLBI_S2_IPA) if command.tg() != 0 => command.with_ttl(3),
            (Self::ShortRange, Opcode::TLBI_S2_IPA) if command.num() > 0 => {
                command.with_num(command.num() - 1)
            }
            (Self::SmallScale, Opcode::TLBI_S2_IPA) if command.scale() > 0 => {
                command.with_scale(command.scale() - 1)
            }
            (Self::NextPage, Opcode::TLBI_S2_IPA) => {
                command.with_address(command.address() + 0x20_0000)
            }
            _ => command,
        }
    }
}

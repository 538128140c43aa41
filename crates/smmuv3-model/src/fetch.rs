//! What a walk reads, as data: for those who charge for each read, where a
//! [`Trace`](crate::Trace) is for those who look at it.

use crate::cd::Context;
use crate::dma::Transaction;
use crate::smmu::Smmu;
use crate::stage1::{Half, Stage1Meaning};
use crate::stage2::{Meaning, Regime};
use crate::walk::Walk;
use smmuv3_spec::cd::Cd;
use smmuv3_spec::event::Class;
use smmuv3_spec::{Asid, Vmid};

/// What a read is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fetched {
    /// A level 1 descriptor of the stream table: 8 bytes.
    StreamTable,
    /// A stream table entry: 64 bytes.
    Ste,
    /// A level 1 descriptor of the table of context descriptors: 8 bytes.
    CdTable,
    /// A context descriptor: 64 bytes.
    Cd,
    /// A descriptor of stage 1 at this level, 0 to 3: 8 bytes.
    Stage1(u8),
    /// A descriptor of stage 2 at this level, 0 to 3: 8 bytes.
    Stage2(u8),
}

/// Input addresses that one descriptor translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// First output address.
    pub output: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// Neighbours that the contiguous hint promises to be alike; 1 without.
    pub group: u64,
}

/// One read of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// What of.
    pub of: Fetched,
    /// Its physical address.
    pub at: u64,
    /// The address that is being translated: a VA in stage 1, an IPA in stage 2,
    /// 0 for configuration.
    pub input: u64,
    /// log2 of the bytes of input that the descriptor is about; 0 for
    /// configuration.
    pub shift: u32,
    /// Where the walk ends with it.
    pub leaf: Option<Leaf>,
    /// It belongs to the stage 2 translation of an address of stage 1's own: of
    /// a descriptor, a CD or its table, not of the output.
    pub inner: bool,
}

/// Everything that a transaction makes an SMMU read that has cached nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetches {
    /// In their order.
    pub list: Vec<Fetch>,
    /// Tags what stage 2 translates, where there is one.
    pub vmid: Option<Vmid>,
    /// Tags what stage 1 translates, where there is one.
    pub asid: Option<Asid>,
    /// The output address; `None` where the transaction does not pass.
    pub output: Option<u64>,
}

impl Smmu {
    /// The reads that a transaction would take now, by the very same walk as
    /// [`translate`](Self::translate) and [`trace`](Self::trace). Nothing is
    /// recorded or updated.
    #[must_use]
    pub fn fetches(&self, transaction: Transaction) -> Fetches {
        let mut walk = Walk::new(self);
        walk.fetches = Some(Fetches::default());
        let output = walk.attempt(&transaction).ok();
        Fetches {
            output,
            ..walk.fetches.take().unwrap_or_default()
        }
    }
}

impl Walk<'_> {
    fn fetch(&mut self, fetch: Fetch) {
        if let Some(fetches) = &mut self.fetches {
            fetches.list.push(fetch);
        }
    }

    /// A structure of the configuration was read.
    pub(crate) fn fetch_config(&mut self, of: Fetched, at: u64) {
        self.fetch(Fetch {
            of,
            at,
            input: 0,
            shift: 0,
            leaf: None,
            inner: false,
        });
    }

    /// A context descriptor was read.
    pub(crate) fn fetch_cd(&mut self, at: u64, cd: &Cd, context: Option<&Context>) {
        self.fetch_config(Fetched::Cd, at);
        if let Some(fetches) = &mut self.fetches {
            fetches.asid = context.map(|_| Asid(cd.asid()));
        }
    }

    /// A descriptor of stage 1 was read.
    pub(crate) fn fetch_stage1(
        &mut self,
        half: &Half,
        (address, level): (u64, u32),
        at: u64,
        meaning: &Stage1Meaning,
    ) {
        let leaf = match meaning {
            Stage1Meaning::Leaf(leaf) => Some(Leaf {
                output: leaf.output,
                size: leaf.size,
                group: leaf.group,
            }),
            _ => None,
        };
        self.fetch(Fetch {
            // Levels are 0 to 3.
            of: Fetched::Stage1(level as u8),
            at,
            input: address,
            shift: half.shift(level),
            leaf,
            inner: false,
        });
    }

    /// A descriptor of stage 2 was read.
    pub(crate) fn fetch_stage2(
        &mut self,
        regime: &Regime,
        (ipa, level, class): (u64, u32, Class),
        at: u64,
        meaning: &Meaning,
    ) {
        let leaf = match meaning {
            Meaning::Leaf(leaf) => Some(Leaf {
                output: leaf.output,
                size: leaf.size,
                group: leaf.group,
            }),
            _ => None,
        };
        self.fetch(Fetch {
            of: Fetched::Stage2(level as u8),
            at,
            input: ipa,
            shift: regime.shift(level),
            leaf,
            inner: class != Class::IN,
        });
        if let Some(fetches) = &mut self.fetches {
            fetches.vmid = Some(Vmid(regime.vmid));
        }
    }
}

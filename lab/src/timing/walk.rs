//! The reads of one walk, sorted into what a cache can spare.

use super::tag::Tag;
use smmuv3_model::{Fetch, Fetched, Fetches};

/// A read of a table descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// Level.
    pub level: u8,
    /// log2 of the bytes of input that it is about.
    pub shift: u32,
}

/// A translation of stage 2, and the read that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The address that stage 2 translates.
    pub ipa: u64,
    /// Reads of stage 2; empty where there is none.
    pub stage2: Vec<Read>,
    /// log2 of the bytes that stage 2 maps alike.
    pub stage2_shift: u32,
    /// The read behind it: a descriptor of stage 1, or for the output nothing.
    pub stage1: Option<Read>,
}

/// How an input address becomes an output address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Whose translation.
    pub tag: Tag,
    /// One for each descriptor of stage 1, and one for the output if there is
    /// stage 2.
    pub groups: Vec<Group>,
    /// log2 of the bytes that are mapped alike, without contiguous hints.
    pub shift: u32,
    /// The same with the hints.
    pub group_shift: u32,
    /// Level of the leaf of stage 1, or of stage 2 where that is alone.
    pub level: u8,
    /// The output address.
    pub output: u64,
}

/// What the configuration of a stream takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigWalk {
    /// Reads of the stream table and of context descriptors.
    pub structures: u32,
    /// Translations of stage 2 for those of them that are the host's.
    pub groups: Vec<Group>,
}

/// Sorts what the model said; `None` where the transaction does not pass.
#[must_use]
pub fn sort(fetches: &Fetches) -> Option<(ConfigWalk, Walk)> {
    let output = fetches.output?;
    let mut config = ConfigWalk::default();
    let mut walk = Walk {
        tag: Tag::new(fetches.vmid, fetches.asid),
        groups: Vec::new(),
        shift: 64,
        group_shift: 64,
        level: 0,
        output,
    };
    let mut open: Option<Group> = None;
    for fetch in &fetches.list {
        match fetch.of {
            Fetched::StreamTable | Fetched::Ste | Fetched::CdTable | Fetched::Cd => {
                config.structures += 1;
                config.groups.extend(open.take());
            }
            Fetched::Stage2(level) => {
                let group = open.get_or_insert_with(|| Group {
                    ipa: fetch.input,
                    stage2: Vec::new(),
                    stage2_shift: fetch.shift,
                    stage1: None,
                });
                group.stage2.push(Read {
                    level,
                    shift: fetch.shift,
                });
                group.stage2_shift = fetch.shift;
                if !fetch.inner {
                    walk.narrow(fetch, level);
                }
            }
            Fetched::Stage1(level) => {
                let mut group = open.take().unwrap_or(Group {
                    ipa: 0,
                    stage2: Vec::new(),
                    stage2_shift: 0,
                    stage1: None,
                });
                group.stage1 = Some(Read {
                    level,
                    shift: fetch.shift,
                });
                walk.groups.push(group);
                walk.narrow(fetch, level);
            }
        }
    }
    walk.groups.extend(open);
    // Neither stage: a stream that bypasses is not for us.
    (walk.shift < 64).then_some((config, walk))
}

impl Walk {
    /// Takes a leaf of either stage into account: the smaller one decides.
    fn narrow(&mut self, fetch: &Fetch, level: u8) {
        if let Some(leaf) = fetch.leaf {
            self.shift = self.shift.min(fetch.shift);
            // Commands by VA hint at the level of stage 1.
            if matches!(fetch.of, Fetched::Stage1(_)) || !self.tag.has_asid() {
                self.level = level;
            }
            let group = fetch.shift + leaf.group.trailing_zeros();
            self.group_shift = self.group_shift.min(group);
        }
    }
}

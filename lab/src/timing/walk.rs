//! The reads of one walk, sorted into what a cache can spare.

use super::tag::Tag;
use smmuv3_model::{Fetch, Fetched, Fetches};
use std::rc::Rc;

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
    /// Reads of stage 2; empty where there is none.
    pub stage2: Vec<Read>,
    /// log2 of the bytes that stage 2 maps alike.
    pub stage2_shift: u32,
    /// The read behind it: a descriptor of stage 1, or for the output nothing.
    pub stage1: Option<Read>,
}

/// Most groups of a walk: four levels of stage 1, and the output.
const GROUPS: usize = 5;

/// How an input address becomes an output address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Whose translation.
    pub tag: Tag,
    /// One for each descriptor of stage 1, and one for the output if there is
    /// stage 2. Few walks differ in it, so that they share it.
    pub groups: Rc<[Group]>,
    /// The address that stage 2 translates, for each of them.
    pub ipas: [u64; GROUPS],
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
    /// Translations of stage 2 for those of them that are the host's, with the
    /// addresses.
    pub groups: Vec<(u64, Group)>,
}

/// The groups of walks that were met.
#[derive(Debug, Default)]
pub struct Shapes(Vec<Rc<[Group]>>);

impl Shapes {
    /// One of them.
    fn of(&mut self, groups: Vec<Group>) -> Rc<[Group]> {
        if let Some(known) = self.0.iter().find(|known| ***known == *groups) {
            return Rc::clone(known);
        }
        let new: Rc<[Group]> = groups.into();
        self.0.push(Rc::clone(&new));
        new
    }
}

/// Sorts what the model said; `None` where the transaction does not pass.
#[must_use]
pub fn sort(fetches: &Fetches, shapes: &mut Shapes) -> Option<(ConfigWalk, Walk)> {
    let output = fetches.output?;
    let mut config = ConfigWalk::default();
    let mut leaves = Leaves {
        // Commands by VA hint at the level of stage 1.
        stage1: fetches.asid.is_some(),
        shift: 64,
        group_shift: 64,
        level: 0,
    };
    let mut open: Option<(u64, Group)> = None;
    let mut groups: Vec<(u64, Group)> = Vec::with_capacity(GROUPS);
    for fetch in &fetches.list {
        let read = |level| Read {
            level,
            shift: fetch.shift,
        };
        let empty = Group {
            stage2: Vec::new(),
            stage2_shift: 0,
            stage1: None,
        };
        match fetch.of {
            Fetched::StreamTable | Fetched::Ste | Fetched::CdTable | Fetched::Cd => {
                config.structures += 1;
                config.groups.extend(open.take());
            }
            Fetched::Stage2(level) => {
                let (_, group) = open.get_or_insert((fetch.input, empty));
                group.stage2.push(read(level));
                group.stage2_shift = fetch.shift;
                if !fetch.inner {
                    leaves.narrow(fetch, level);
                }
            }
            Fetched::Stage1(level) => {
                let (ipa, mut group) = open.take().unwrap_or((0, empty));
                group.stage1 = Some(read(level));
                groups.push((ipa, group));
                leaves.narrow(fetch, level);
            }
        }
    }
    groups.extend(open);
    // Neither stage: a stream that bypasses is not for us.
    if leaves.shift == 64 {
        return None;
    }
    let mut ipas = [0; GROUPS];
    for (slot, (ipa, _)) in ipas.iter_mut().zip(&groups) {
        *slot = *ipa;
    }
    let groups = groups.into_iter().map(|(_, group)| group).collect();
    let walk = Walk {
        tag: Tag::new(fetches.vmid, fetches.asid),
        groups: shapes.of(groups),
        ipas,
        shift: leaves.shift,
        group_shift: leaves.group_shift,
        level: leaves.level,
        output,
    };
    Some((config, walk))
}

/// What the leaves of both stages come to: the smaller one decides.
struct Leaves {
    stage1: bool,
    shift: u32,
    group_shift: u32,
    level: u8,
}

impl Leaves {
    fn narrow(&mut self, fetch: &Fetch, level: u8) {
        if let Some(leaf) = fetch.leaf {
            self.shift = self.shift.min(fetch.shift);
            if matches!(fetch.of, Fetched::Stage1(_)) || !self.stage1 {
                self.level = level;
            }
            let group = fetch.shift + leaf.group.trailing_zeros();
            self.group_shift = self.group_shift.min(group);
        }
    }
}

//! Walks that were asked of the model, kept until an invalidation is about them.
//!
//! A table that changes without an invalidation is one where nothing was, or one
//! that translates as before: neither changes a walk that was found.

use super::tag::Tag;
use super::walk::{ConfigWalk, Shapes, Walk, sort};
use crate::machine::{Machine, Shape, stream};
use rustc_hash::FxHashMap;
use smmuv3_model::Scope;
use smmuv3_spec::command::{Command, Opcode};

/// Pages have this log2.
const PAGE: u32 = 12;

/// Walks of one domain, by page.
#[derive(Default)]
struct Pages {
    index: FxHashMap<u64, u32>,
    walks: Vec<Walk>,
    /// Places in `walks` that nothing is at.
    free: Vec<u32>,
}

impl Pages {
    fn get(&self, page: u64) -> Option<usize> {
        self.index.get(&page).map(|at| *at as usize)
    }

    fn put(&mut self, page: u64, walk: Walk) -> usize {
        let at = match self.free.pop() {
            Some(at) => {
                self.walks[at as usize] = walk;
                at
            }
            None => {
                self.walks.push(walk);
                // Of 64 GiB, at most 2^24.
                self.walks.len() as u32 - 1
            }
        };
        self.index.insert(page, at);
        at as usize
    }

    /// Removes the pages from `first` to `last`.
    fn drop(&mut self, first: u64, last: u64) {
        let Self { index, free, .. } = self;
        if last - first < index.len() as u64 {
            free.extend((first..=last).filter_map(|page| index.remove(&page)));
        } else {
            let gone = index.extract_if(|page, _| (first..=last).contains(page));
            free.extend(gone.map(|(_, at)| at));
        }
    }
}

/// What is known of the walks of a machine.
pub struct Memo<'m> {
    machine: &'m Machine,
    ranges: bool,
    domains: Vec<usize>,
    configs: Vec<Option<(Tag, ConfigWalk)>>,
    pages: Vec<Pages>,
    shapes: Shapes,
    tags: Vec<Option<Tag>>,
    /// Walks asked of the model.
    pub asked: u64,
}

impl<'m> Memo<'m> {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(machine: &'m Machine, shape: &Shape<'_>) -> Self {
        let count = shape.domains();
        Self {
            machine,
            ranges: machine.has_ranges(),
            domains: (0..shape.initiators())
                .map(|i| shape.domain_of(i))
                .collect(),
            configs: vec![None; shape.initiators()],
            pages: (0..count).map(|_| Pages::default()).collect(),
            shapes: Shapes::default(),
            tags: vec![None; count],
            asked: 0,
        }
    }

    /// Whether the SMMU has ranges.
    #[must_use]
    pub fn ranges(&self) -> bool {
        self.ranges
    }

    /// The walks of an initiator for an address; `None` where it does not pass.
    pub fn walk(&mut self, initiator: usize, address: u64) -> Option<(&ConfigWalk, &Walk)> {
        let domain = *self.domains.get(initiator)?;
        let page = address >> PAGE;
        let mut at = self.pages.get(domain)?.get(page);
        if at.is_none() || self.configs.get(initiator)?.is_none() {
            self.asked += 1;
            let fetches = self.machine.fetches(stream(initiator), address);
            let (config, walk) = sort(&fetches, &mut self.shapes)?;
            if let Some(tag) = self.tags.get_mut(domain) {
                *tag = Some(walk.tag);
            }
            if let Some(slot) = self.configs.get_mut(initiator) {
                *slot = Some((walk.tag, config));
            }
            let pages = self.pages.get_mut(domain)?;
            at = Some(at.unwrap_or_else(|| pages.put(page, walk)));
        }
        let (_, config) = self.configs.get(initiator)?.as_ref()?;
        let walk = self.pages.get(domain)?.walks.get(at?)?;
        Some((config, walk))
    }

    /// Whose translations an initiator uses, if that is known.
    #[must_use]
    pub fn tag(&self, initiator: usize) -> Option<Tag> {
        let (tag, _) = self.configs.get(initiator)?.as_ref()?;
        Some(*tag)
    }

    /// A command was consumed.
    pub fn drop(&mut self, command: &Command) {
        match command.opcode() {
            Opcode::TLBI_NH_VA | Opcode::TLBI_NH_VAA | Opcode::TLBI_S2_IPA => {
                let (start, last) = Scope::of(command, self.ranges).bounds();
                self.drop_pages(command, start >> PAGE, last >> PAGE);
            }
            Opcode::TLBI_NH_ALL
            | Opcode::TLBI_NH_ASID
            | Opcode::TLBI_S12_VMALL
            | Opcode::TLBI_NSNH_ALL => self.drop_pages(command, 0, u64::MAX),
            Opcode::CFGI_STE | Opcode::CFGI_CD | Opcode::CFGI_CD_ALL => {
                let at = command.stream_bits() as usize;
                if let Some(config) = self.configs.get_mut(at) {
                    *config = None;
                }
            }
            Opcode::CFGI_STE_RANGE => self.configs.fill(None),
            _ => {}
        }
    }

    fn drop_pages(&mut self, command: &Command, first: u64, last: u64) {
        for (tag, pages) in self.tags.iter().zip(&mut self.pages) {
            if !tag.is_some_and(|tag| tag.is_meant_by(command)) {
                continue;
            }
            pages.drop(first, last);
        }
    }
}

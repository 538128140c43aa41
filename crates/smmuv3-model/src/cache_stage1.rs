//! What the SMMU holds of stage 1: context descriptors, tables, translations
//! (IHI 0070, 4.3.3, 4.3.4, 4.4.2; 16.2).

use crate::cache::{Entry, Held, Which};
use crate::cd::World;
use crate::scope::Scope;
use crate::stage1::{Half, Limits, Rights};
use rustc_hash::FxHashMap;
use smmuv3_spec::StreamId;
use smmuv3_spec::command::{Command, Opcode};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of table that are looked at as one: no stage 2 page is smaller.
pub(crate) const PIECE: u64 = 4096;

/// Most pieces and translations that are held: whoever owns stage 1 can make as
/// many as memory has room for.
const PIECES: usize = 1 << 12;
const LEAVES: usize = 1 << 16;

/// A stage 1 translation in the TLB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CachedStage1 {
    /// Whose it is.
    pub world: World,
    /// VMID that it belongs to; 0 where the world has none.
    pub vmid: u16,
    /// ASID that it belongs to; `None` when it is global.
    pub asid: Option<u16>,
    /// log2 of the granule of the table that it came from.
    pub granule: u32,
    /// Level of the descriptor.
    pub level: u32,
    /// First input address, with its upper bits.
    pub input: u64,
    /// How many bytes it translates.
    pub size: u64,
    /// First output address: an IPA where stage 2 translates.
    pub output: u64,
    /// Who may do what.
    pub rights: Rights,
}

/// A piece of a table in the walk cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Piece {
    /// Stage 2 that translates its address and its output.
    pub(crate) under: Option<u16>,
    pub(crate) half: Half,
    pub(crate) level: u32,
    /// First input address that goes through it.
    pub(crate) input: u64,
    /// Where it lies in physical memory.
    pub(crate) at: u64,
    /// Its entries.
    pub(crate) entries: u64,
    /// What the tables above took away.
    pub(crate) limits: Limits,
}

impl Piece {
    /// Input bytes that go through it.
    fn span(&self) -> u64 {
        self.entries << self.half.shift(self.level)
    }
}

/// Everything held of stage 1. `true`: doomed.
#[derive(Default)]
pub(crate) struct Stage1Caches {
    /// Level 1 descriptors by stream and index.
    pub(crate) l1: BTreeMap<(StreamId, u64), Held>,
    /// Context descriptors by stream and index.
    pub(crate) cds: BTreeMap<(StreamId, u32), Entry>,
    pub(crate) pieces: FxHashMap<Piece, bool>,
    pub(crate) leaves: FxHashMap<CachedStage1, bool>,
    /// Which pieces lie in a 4 KiB page.
    pub(crate) tables: FxHashMap<u64, Vec<Piece>>,
    /// Pages that context descriptors were fetched from.
    pub(crate) pages: BTreeSet<u64>,
}

impl Stage1Caches {
    /// Adds a piece; `true` if it was not there, or only doomed and is now live.
    pub(crate) fn add_piece(&mut self, piece: Piece, doomed: bool) -> bool {
        let full = self.pieces.len() >= PIECES;
        match self.pieces.get_mut(&piece) {
            Some(was) if *was && !doomed => {
                *was = false;
                true
            }
            Some(_) => false,
            None if full => false,
            None => {
                self.pieces.insert(piece, doomed);
                self.tables.entry(piece.at >> 12).or_default().push(piece);
                true
            }
        }
    }

    pub(crate) fn add_leaf(&mut self, leaf: CachedStage1, doomed: bool) {
        let full = self.leaves.len() >= LEAVES;
        match self.leaves.get_mut(&leaf) {
            Some(was) => *was &= doomed,
            None if full => {}
            None => {
                self.leaves.insert(leaf, doomed);
            }
        }
    }

    /// Dooms the context descriptors of the streams that `of` names, and their
    /// level 1 descriptors.
    pub(crate) fn doom_streams(&mut self, of: impl Fn(StreamId) -> bool) {
        for ((stream, _), entry) in &mut self.cds {
            if of(*stream) {
                entry.doom();
            }
        }
        for ((stream, _), held) in &mut self.l1 {
            if of(*stream) {
                held.doom();
            }
        }
    }

    /// Dooms what a command covers; those for STEs are told by
    /// [`doom_streams`](Self::doom_streams).
    pub(crate) fn doom(&mut self, command: &Command, ril: bool) {
        let vmid = command.vmid().0;
        let asid = command.asid().0;
        let el1 = |world: World| world == World::El1;
        let el2 = |world: World| world != World::El1;
        match command.opcode() {
            Opcode::CFGI_CD => self.doom_cd(command),
            Opcode::CFGI_CD_ALL => self.doom_streams(|stream| stream == command.stream()),
            Opcode::TLBI_NH_ALL | Opcode::TLBI_S12_VMALL => {
                self.doom_tlb(|tag| el1(tag.world) && tag.vmid == vmid, None);
            }
            Opcode::TLBI_NSNH_ALL => self.doom_tlb(|tag| el1(tag.world), None),
            Opcode::TLBI_NH_ASID => self.doom_tlb(
                |tag| el1(tag.world) && tag.vmid == vmid && tag.asid == Some(asid),
                None,
            ),
            Opcode::TLBI_NH_VA => {
                let scope = Scope::of(command, ril);
                let of = |tag: &Tag| el1(tag.world) && tag.vmid == vmid && tag.is(asid);
                self.doom_tlb(of, Some(scope));
            }
            Opcode::TLBI_NH_VAA => {
                let scope = Scope::of(command, ril);
                self.doom_tlb(|tag| el1(tag.world) && tag.vmid == vmid, Some(scope));
            }
            Opcode::TLBI_EL2_ALL => self.doom_tlb(|tag| el2(tag.world), None),
            Opcode::TLBI_EL2_ASID => {
                self.doom_tlb(|tag| el2(tag.world) && tag.asid == Some(asid), None);
            }
            Opcode::TLBI_EL2_VA => {
                let scope = Scope::of(command, ril);
                let of = |tag: &Tag| el2(tag.world) && tag.is(asid);
                self.doom_tlb(of, Some(scope));
            }
            Opcode::TLBI_EL2_VAA => {
                let scope = Scope::of(command, ril);
                self.doom_tlb(|tag| el2(tag.world), Some(scope));
            }
            _ => {}
        }
    }

    fn doom_cd(&mut self, command: &Command) {
        let (stream, index) = (command.stream(), command.substream_bits());
        if let Some(entry) = self.cds.get_mut(&(stream, index)) {
            entry.doom();
        }
        if command.leaf() {
            return;
        }
        // The descriptor that leads to it: which one depends on the format,
        // and both are held by index.
        for ((of, l1), held) in &mut self.l1 {
            if *of == stream && [6, 10].contains(&(l1 >> 32)) && index >> (l1 >> 32) == *l1 as u32 {
                held.doom();
            }
        }
    }

    fn doom_tlb(&mut self, of: impl Fn(&Tag) -> bool, scope: Option<Scope>) {
        for (leaf, doomed) in &mut self.leaves {
            let tag = Tag {
                world: leaf.world,
                vmid: leaf.vmid,
                asid: leaf.asid,
            };
            let hits =
                |scope: &Scope| scope.hits_leaf(leaf.granule, leaf.level, leaf.input, leaf.size);
            *doomed |= of(&tag) && scope.as_ref().is_none_or(hits);
        }
        for (piece, doomed) in &mut self.pieces {
            let half = &piece.half;
            let tag = Tag {
                world: half.world,
                vmid: half.vmid,
                // A table descriptor is nobody's but its own ASID's.
                asid: (half.world != World::El2).then_some(half.asid),
            };
            let hits = |scope: &Scope| {
                let (granule, span) = (half.granule, piece.span());
                scope.hits_table(granule, piece.level, piece.input, span)
            };
            *doomed |= of(&tag) && scope.as_ref().is_none_or(hits);
        }
    }

    /// A CMD_SYNC completed: what is doomed goes.
    pub(crate) fn settle(&mut self) {
        self.leaves.retain(|_, doomed| !*doomed);
        let before = self.pieces.len();
        self.pieces.retain(|_, doomed| !*doomed);
        if self.pieces.len() != before {
            self.reindex();
        }
        for held in self.l1.values_mut() {
            held.doomed.clear();
        }
        self.cds.values_mut().for_each(Entry::settle);
        self.l1.retain(|_, held| !held.live.is_empty());
        self.cds.retain(|_, entry| entry.is_held(Which::Live));
    }

    /// Drops what `goes` says, for no reason.
    pub(crate) fn forget(&mut self, goes: impl Fn(u64, u64) -> bool) {
        self.leaves.retain(|leaf, _| !goes(leaf.input, leaf.output));
        self.pieces.retain(|piece, _| !goes(piece.input, piece.at));
        self.reindex();
    }

    fn reindex(&mut self) {
        let pieces = &self.pieces;
        self.tables.retain(|_, list| {
            list.retain(|piece| pieces.contains_key(piece));
            !list.is_empty()
        });
    }
}

/// What an entry is tagged with.
struct Tag {
    world: World,
    vmid: u16,
    asid: Option<u16>,
}

impl Tag {
    /// Whether it is this ASID's, or everybody's.
    fn is(&self, asid: u16) -> bool {
        self.asid.is_none_or(|own| own == asid)
    }
}

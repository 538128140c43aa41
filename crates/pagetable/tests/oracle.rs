//! Random operations against a plain list of ranges, with a walker that looks
//! at the tables after every single store.

mod watcher;

use portcullis_addr::{Address, Range};
use portcullis_pagetable::{
    Access, Bbm, El1Attributes, El2Attributes, Error, Execute, Format, Geometry, Granule,
    MemoryType, Stage1El1, Stage1El2, Stage2, Stage2Attributes, Table,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use watcher::{Probe, To, Watcher};

/// Ranges that are mapped: start to end, output, attribute bits.
#[derive(Clone, Default, Debug)]
struct Oracle(BTreeMap<u64, (u64, u64, u64)>);

impl Oracle {
    fn at(&self, address: u64) -> To {
        let (&start, &(end, out, bits)) = self.0.range(..=address).next_back()?;
        (address < end).then_some((out + (address - start), bits))
    }

    fn cut(&mut self, at: u64) {
        let Some((&start, &(end, out, bits))) = self.0.range(..at).next_back() else {
            return;
        };
        if at < end {
            self.0.insert(start, (at, out, bits));
            self.0.insert(at, (end, out + (at - start), bits));
        }
    }

    fn first(&self, lo: u64, hi: u64) -> Option<u64> {
        if self.at(lo).is_some() {
            return Some(lo);
        }
        self.0.range(lo..hi).next().map(|(&start, _)| start)
    }

    fn hole(&self, lo: u64, hi: u64) -> Option<u64> {
        let mut at = lo;
        while at < hi {
            match self.0.range(..=at).next_back() {
                Some((_, &(end, ..))) if at < end => at = end,
                _ => return Some(at),
            }
        }
        None
    }

    fn unmap(&mut self, lo: u64, hi: u64) {
        self.cut(lo);
        self.cut(hi);
        let gone: Vec<u64> = self.0.range(lo..hi).map(|(&start, _)| start).collect();
        for start in gone {
            self.0.remove(&start);
        }
    }

    fn protect(&mut self, lo: u64, hi: u64, bits: u64) {
        self.cut(lo);
        self.cut(hi);
        for (_, to) in self.0.range_mut(lo..hi) {
            to.2 = bits;
        }
    }

    /// Neighbours that continue each other joined.
    fn joined(&self) -> Vec<(u64, u64, u64, u64)> {
        let mut all: Vec<(u64, u64, u64, u64)> = Vec::new();
        for (&start, &(end, out, bits)) in &self.0 {
            match all.last_mut() {
                Some(last)
                    if last.1 == start && last.2 + (start - last.0) == out && last.3 == bits =>
                {
                    last.1 = end;
                }
                _ => all.push((start, end, out, bits)),
            }
        }
        all
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Map {
        lo: u64,
        size: u64,
        delta: u64,
        attr: usize,
    },
    Unmap {
        lo: u64,
        size: u64,
    },
    Protect {
        lo: u64,
        size: u64,
        attr: usize,
    },
    Split {
        lo: u64,
        size: u64,
        level: u8,
    },
}

/// Addresses and sizes near the boundaries that matter: pages, contiguous
/// groups, blocks of each level.
fn place(granule: Granule) -> impl Strategy<Value = u64> {
    let page = granule.bytes();
    let group = page * granule.contiguous_entries(3);
    let block = page * granule.entries();
    let (high, most) = if granule == Granule::Size4K {
        (block * granule.entries(), 3u64)
    } else {
        (block * granule.contiguous_entries(2), 2u64)
    };
    (0..most, 0u64..3, 0u64..3, 0u64..4)
        .prop_map(move |(a, b, c, d)| a * high + b * block + c * group + d * page)
}

fn op(granule: Granule) -> impl Strategy<Value = Op> {
    let page = granule.bytes();
    let block = page * granule.entries();
    let high = if granule == Granule::Size4K {
        block * granule.entries()
    } else {
        block * granule.contiguous_entries(2)
    };
    let size = prop_oneof![
        4 => (1u64..40).prop_map(move |n| n * page),
        2 => (1u64..4).prop_map(move |n| n * page * granule.contiguous_entries(3)),
        2 => (1u64..4, 0u64..3).prop_map(move |(n, more)| n * block + more * page),
        1 => Just(high),
    ]
    .boxed();
    let at = || place(granule);
    let first = at().boxed();
    prop_oneof![
        5 => (first, size.clone(), 0u64..4, 0usize..4, any::<bool>()).prop_map(
            move |(lo, size, delta, attr, odd)| {
                // A shift by pages makes every mapping of pages, so keep it small.
                let odd = odd && size < 4 * block;
                let delta = if odd { delta * page } else { delta * high };
                Op::Map { lo, size, delta, attr }
            }
        ),
        3 => (at(), size.clone()).prop_map(|(lo, size)| Op::Unmap { lo, size }),
        2 => (at(), size.clone(), 0usize..4)
            .prop_map(|(lo, size, attr)| Op::Protect { lo, size, attr }),
        1 => (at(), size.clone(), 2u8..=3)
            .prop_map(|(lo, size, level)| Op::Split { lo, size, level }),
    ]
}

/// Visits start where the last operation near them ended, so they are what
/// would show that a table was not forgotten.
fn visits_see_the_tables<F: Format>(
    table: &Table<F, &Watcher>,
    watcher: &Watcher,
    addresses: &[u64],
) {
    let granule = table.geometry().granule();
    // The one that may have been left behind comes first.
    for &at in addresses.iter().rev() {
        for size in [granule.bytes(), granule.bytes() * granule.entries()] {
            let start = at & !(size - 1);
            let range = Range::from_size(F::Input::new(start), size).unwrap();
            let mut first = None;
            let found = table.visit(range, |at, mapping| {
                let to = (mapping.output.raw(), F::encode(mapping.attributes));
                first = first.or((at.raw() == start).then_some(to));
            });
            assert_eq!((found, first), (Ok(()), watcher.walk(start)), "{start:#x}");
        }
    }
}

fn check<F: Format + Debug>(
    geometry: Geometry,
    bbm: Bbm,
    tables: u64,
    attributes: [F::Attributes; 4],
    ops: &[Op],
) {
    let watcher = Watcher::new(0x100_0000, tables);
    let mut table = Table::<F, _>::new(geometry, bbm, &watcher).unwrap();
    let root_only = watcher.arena.bytes_in_use();
    watcher
        .tables
        .set(Some((geometry, table.root().raw(), F::MASK)));
    let mut oracle = Oracle::default();
    let page = geometry.granule().bytes();
    let range = |lo: u64, size: u64| Range::from_size(F::Input::new(lo), size).unwrap();
    let everything = Op::Unmap {
        lo: 0,
        size: geometry.input_end(),
    };
    for &op in ops.iter().chain([&everything]) {
        let before = oracle.clone();
        let used = watcher.arena.bytes_in_use();
        let mut after = before.clone();
        let mut refusal = None;
        let mut same_may_fault = bbm < Bbm::Level2;
        let (lo, size) = match op {
            Op::Map { lo, size, .. }
            | Op::Unmap { lo, size }
            | Op::Protect { lo, size, .. }
            | Op::Split { lo, size, .. } => (lo, size),
        };
        let hi = lo + size;
        match op {
            Op::Map { delta, attr, .. } => {
                same_may_fault = false;
                match before.first(lo, hi) {
                    Some(address) => {
                        let address = F::Input::new(address);
                        refusal = Some(Error::AlreadyMapped { address });
                    }
                    None => {
                        after
                            .0
                            .insert(lo, (hi, lo + delta, F::encode(attributes[attr])));
                    }
                }
            }
            Op::Unmap { .. } => after.unmap(lo, hi),
            Op::Protect { attr, .. } => match before.hole(lo, hi) {
                Some(address) => {
                    let address = F::Input::new(address);
                    refusal = Some(Error::NotMapped { address });
                }
                None => after.protect(lo, hi, F::encode(attributes[attr])),
            },
            Op::Split { level, .. } => {
                if level < geometry.first_leaf_level() {
                    refusal = Some(Error::Level { level });
                }
            }
        }
        let mut near = vec![lo, hi - 1, lo + size / 2, lo + size / 2 / page * page];
        for step in [1, page, page * 16, page * geometry.granule().entries()] {
            near.extend([
                lo.saturating_sub(step),
                hi - 1 + step,
                lo + step,
                hi.saturating_sub(step),
            ]);
        }
        near.retain(|&at| at < geometry.input_end());
        *watcher.probes.borrow_mut() = near
            .iter()
            .map(|&address| {
                let (old, new) = (before.at(address), after.at(address));
                Probe {
                    address,
                    old,
                    new,
                    may_fault: old != new || same_may_fault,
                }
            })
            .collect();
        let result = match op {
            Op::Map { delta, attr, .. } => table
                .map(
                    range(lo, size),
                    F::Output::new(lo + delta),
                    attributes[attr],
                )
                .map(|()| None),
            Op::Unmap { .. } => table.unmap(range(lo, size)).map(Some),
            Op::Protect { attr, .. } => table.protect(range(lo, size), attributes[attr]).map(Some),
            Op::Split { level, .. } => table.split(range(lo, size), level).map(Some),
        };
        match result {
            Err(error) => {
                let out_of_memory = error == Error::OutOfMemory;
                assert!(
                    out_of_memory || Some(error) == refusal,
                    "{error:?} for {op:x?}"
                );
                assert_eq!(watcher.arena.bytes_in_use(), used);
            }
            Ok(plan) => {
                assert_eq!(refusal, None, "{op:x?} was not refused");
                if let Some(plan) = plan {
                    for &at in &near {
                        let covered = plan.range().is_some_and(|r| r.contains(F::Input::new(at)));
                        let unchanged = before.at(at) == watcher.walk(at);
                        assert!(covered || unchanged, "{at:#x} changed beside the plan");
                    }
                    // Entries may be pending here, and tables retired.
                    visits_see_the_tables(&table, &watcher, &near);
                    assert!(table.complete(plan).is_ok());
                }
                oracle = after;
            }
        }
        watcher.probes.borrow_mut().clear();
        visits_see_the_tables(&table, &watcher, &near);
        let ends = oracle
            .0
            .iter()
            .flat_map(|(&start, &(end, ..))| [start, end - 1, end]);
        for at in ends.chain(near) {
            let found = table.walk(F::Input::new(at)).ok();
            let found = found.map(|m| (m.output.raw(), F::encode(m.attributes)));
            assert_eq!(found, oracle.at(at), "{at:#x} after {op:x?}");
            assert_eq!(watcher.walk(at), oracle.at(at), "{at:#x} after {op:x?}");
        }
        let all: Vec<_> = table
            .mappings()
            .map(|m| {
                let bits = F::encode(m.attributes);
                (
                    m.range.start().raw(),
                    m.range.end().raw(),
                    m.output.raw(),
                    bits,
                )
            })
            .collect();
        assert_eq!(all, oracle.joined());
    }
    assert_eq!(watcher.arena.bytes_in_use(), root_only, "tables leaked");
    table.destroy();
    assert_eq!(watcher.arena.bytes_in_use(), 0);
}

fn bbm() -> impl Strategy<Value = Bbm> {
    prop::sample::select(vec![Bbm::Level0, Bbm::Level1, Bbm::Level2])
}

fn sequence() -> impl Strategy<Value = (Granule, Bbm, u64, Vec<Op>)> {
    let granule = prop::sample::select(vec![Granule::Size4K, Granule::Size16K, Granule::Size64K]);
    (granule, bbm(), prop_oneof![Just(200u64), 1u64..12]).prop_flat_map(|(granule, bbm, tables)| {
        (
            Just(granule),
            Just(bbm),
            Just(tables),
            prop::collection::vec(op(granule), 1..24),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn stage_2((granule, bbm, tables, ops) in sequence()) {
        let geometry = Geometry::stage2(granule, 40, 40).unwrap();
        let of = |memory, write, execute| Stage2Attributes { memory, read: true, write, execute };
        let attributes = [
            of(MemoryType::Normal, true, Execute::Always),
            of(MemoryType::Normal, false, Execute::Always),
            of(MemoryType::Device, true, Execute::Never),
            of(MemoryType::NormalNonCacheable, true, Execute::PrivilegedOnly),
        ];
        check::<Stage2>(geometry, bbm, tables, attributes, &ops);
    }

    #[test]
    fn el2_stage_1((granule, bbm, tables, ops) in sequence()) {
        let geometry = Geometry::stage1(granule, 48, 48).unwrap();
        let of = |memory, access| El2Attributes { memory, access };
        let attributes = [
            of(MemoryType::Normal, Access::ReadWrite),
            of(MemoryType::Normal, Access::ReadOnly),
            of(MemoryType::Normal, Access::ReadExecute),
            of(MemoryType::Device, Access::ReadWrite),
        ];
        check::<Stage1El2>(geometry, bbm, tables, attributes, &ops);
    }

    #[test]
    fn smmu_stage_1((granule, bbm, tables, ops) in sequence()) {
        let geometry = Geometry::stage1(granule, 39, 44).unwrap();
        let of = |memory, access, not_global| El1Attributes {
            memory, access, unprivileged: true, not_global,
        };
        let attributes = [
            of(MemoryType::Normal, Access::ReadWrite, true),
            of(MemoryType::Normal, Access::ReadOnly, true),
            of(MemoryType::Normal, Access::ReadWrite, false),
            of(MemoryType::Device, Access::ReadWrite, true),
        ];
        check::<Stage1El1>(geometry, bbm, tables, attributes, &ops);
    }
}

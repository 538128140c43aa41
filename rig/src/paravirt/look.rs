//! What each endpoint could reach now, and what the ledger says of it, compared
//! with the books.

use crate::earlier::Earlier;
use crate::finding::Finding;
use crate::machine::Machine;
use crate::map::{PARA_POOL, RAM, STREAMS, place};
use crate::paravirt::books::{Leaf, Mapping};
use crate::policy::ranges;
use portcullis_addr::{PAGE_SIZE, PhysAddr};
use portcullis_dma_domain::Endpoint;
use portcullis_ownership::Owner;
use smmuv3_model::{Access, Transaction};
use smmuv3_spec::StreamId;
use std::collections::{BTreeMap, BTreeSet};

/// What the streams of one SMMU are told apart by, as endpoints: some of them
/// are neighbours then, as their StreamIDs are.
const UNIT: u32 = 0x1_0000;

/// The endpoint that a stream is.
pub(crate) fn endpoint_of(stream: u32, units: usize) -> Endpoint {
    let (unit, id) = place(stream, units);
    Endpoint(unit as u32 * UNIT + id)
}

impl Machine {
    /// Where an endpoint is, if there is such a one: its SMMU and StreamID.
    pub(crate) fn endpoint(&self, endpoint: Endpoint) -> Option<(usize, u32)> {
        let units = self.units.len();
        let mut streams = 0..STREAMS;
        let stream = streams.find(|stream| endpoint_of(*stream, units) == endpoint)?;
        Some(place(stream, units))
    }

    fn endpoints(&self) -> impl Iterator<Item = (u32, (usize, u32))> {
        let units = self.units.len();
        (0..STREAMS).map(move |stream| (endpoint_of(stream, units).0, place(stream, units)))
    }

    /// What each stream may use, by page.
    pub(crate) fn refresh_allowed(&self) {
        if self.soft.is_some() {
            return;
        }
        let para = self.para.borrow();
        let mut streams = vec![BTreeMap::new(); self.units.len()];
        for (endpoint, (unit, id)) in self.endpoints() {
            let among = para.books.of(endpoint);
            if !among.is_empty() {
                streams[unit].insert(id, ranges(para.books.outputs(&among)));
            }
        }
        self.allowed.borrow_mut().streams = streams;
    }

    /// Whatever any endpoint could reach is mapped in its domain, at that
    /// address and for such an access, and is held.
    pub(crate) fn look_at_domains(&self) {
        let para = self.para.borrow();
        if let Some(soft) = &self.soft {
            let soft = soft.borrow();
            for (endpoint, _) in self.endpoints() {
                let among = para.books.of(endpoint);
                for leaf in soft.reachable(endpoint) {
                    self.look_at_leaf(endpoint, &leaf, para.books.first_wrong(&among, &leaf));
                }
            }
            return;
        }
        for (index, unit) in self.units.iter().enumerate() {
            if unit.earlier.get() != Earlier::Nothing {
                continue;
            }
            let mut smmu = unit.smmu.borrow_mut();
            // Endpoints in the same domains with the same VMID reach the same.
            let mut groups: BTreeMap<(u16, BTreeSet<usize>), u32> = BTreeMap::new();
            for (endpoint, (_, id)) in self.endpoints().filter(|(_, (at, _))| *at == index) {
                for vmid in smmu.stage2_of(StreamId(id)) {
                    groups
                        .entry((vmid, para.books.of(endpoint)))
                        .or_insert(endpoint);
                }
            }
            for ((vmid, among), endpoint) in groups {
                let all = smmu.cached().filter(|leaf| leaf.vmid == vmid);
                let leaves = all.map(|leaf| Leaf {
                    input: leaf.input,
                    size: leaf.size,
                    output: leaf.output,
                    read: leaf.read,
                    write: leaf.write,
                });
                // The report must not depend on the order of a hash.
                let bad = |leaf: &Leaf| {
                    para.books.first_wrong(&among, leaf).is_some()
                        || self.first_free(leaf).is_some()
                };
                if let Some(leaf) = leaves.filter(bad).min() {
                    self.look_at_leaf(endpoint, &leaf, para.books.first_wrong(&among, &leaf));
                }
            }
        }
    }

    fn look_at_leaf(&self, endpoint: u32, leaf: &Leaf, wrong: Option<u64>) {
        if let Some(at) = wrong {
            self.find(Finding::Mapped(
                endpoint,
                at,
                leaf.output + (at - leaf.input),
            ));
        } else if let Some(page) = self.first_free(leaf) {
            self.find(Finding::Unheld(endpoint, page));
        }
    }

    /// The first page of RAM in a translation that the ledger does not hold for
    /// the host.
    fn first_free(&self, leaf: &Leaf) -> Option<u64> {
        if !RAM.contains(&leaf.output) {
            return None;
        }
        let mut pages = (leaf.output..leaf.output + leaf.size).step_by(PAGE_SIZE as usize);
        self.with_ledger(|ledger| {
            pages.find(|page| {
                let entry = ledger.entry(PhysAddr::new(*page));
                !entry.is_some_and(|e| e.owner() == Owner::HOST && e.dma_count() > 0)
            })
        })
    }

    /// Takes over how often pages are held for mappings, where the books leave
    /// that open; what they do not is a finding.
    pub(crate) fn observe(&self) {
        if self.paravirt.is_none() {
            return;
        }
        let holds = {
            let para = self.para.borrow();
            let mut holds = para.books.holds();
            let coming = para.pinning.map(|m| m.to..m.to + (m.end - m.start));
            for (page, hold) in (RAM.start..).step_by(PAGE_SIZE as usize).zip(&mut holds) {
                if coming.as_ref().is_some_and(|coming| coming.contains(&page)) {
                    hold.1 += 1;
                }
            }
            holds
        };
        let mut expected = self.expected.borrow_mut();
        let wrong = self.with_ledger(|ledger| expected.observe(ledger, &holds));
        if let Some(page) = wrong {
            self.find(Finding::Ledger(page));
        }
    }

    /// Where an access of an endpoint leads.
    fn reached(&self, endpoint: u32, iova: u64, write: bool) -> Option<u64> {
        if let Some(soft) = &self.soft {
            return soft.borrow().translate(endpoint, iova, write);
        }
        let (unit, id) = self.endpoint(Endpoint(endpoint))?;
        let access = if write { Access::Write } else { Access::Read };
        self.transact(unit, Transaction::new(StreamId(id), iova, access))
            .ok()
    }

    /// Every endpoint reaches what its domain maps: a rig in which nothing works
    /// would find nothing.
    pub(crate) fn all_reached(&self, works: impl Fn(usize) -> bool) -> Result<(), Finding> {
        let para = self.para.borrow();
        let mut seen = BTreeSet::new();
        for (endpoint, index) in &para.books.at {
            let unit = self
                .endpoint(Endpoint(*endpoint))
                .map_or(0, |(unit, _)| unit);
            let book = &para.books.all[*index];
            if book.doubt || !works(unit) {
                continue;
            }
            let whole = seen.insert((unit, *index));
            for mapping in book.live.values() {
                for at in pages_of(mapping, whole) {
                    let to = mapping.to + (at - mapping.start);
                    for write in [false, true] {
                        let may = if write { mapping.write } else { mapping.read };
                        // What it may not is not tried, since that is an event:
                        // caches say it.
                        if may && self.reached(*endpoint, at, write) != Some(to) {
                            return Err(Finding::Lost(*endpoint, at));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// No more memory is used for tables than what is mapped needs, and for each
    /// domain one that became empty last, with what leads to it: it stays until
    /// something is unmapped elsewhere.
    pub(crate) fn look_at_tables(&self, root: u64) -> Result<(), Finding> {
        let live = self.live.borrow();
        let used: u64 = live.range(PARA_POOL).map(|(_, bytes)| *bytes).sum();
        let para = self.para.borrow();
        let settled = para.books.all.iter().all(|book| book.fleeting.is_empty());
        let kept = para.books.current.len() as u64 * 2 * PAGE_SIZE;
        if settled && para.under.is_none() && used > para.books.table_bytes(root) + kept {
            return Err(Finding::Tables(used));
        }
        Ok(())
    }
}

/// Addresses of a mapping to look at.
fn pages_of(mapping: &Mapping, whole: bool) -> Vec<u64> {
    let count = (mapping.end - mapping.start) / PAGE_SIZE;
    let step = if !whole {
        count
    } else if count <= 20 {
        1
    } else {
        count / 7
    };
    let mut pages: Vec<_> = (0..count)
        .step_by(step.max(1) as usize)
        .map(|page| mapping.start + page * PAGE_SIZE)
        .collect();
    pages.push(mapping.end - 8);
    pages
}

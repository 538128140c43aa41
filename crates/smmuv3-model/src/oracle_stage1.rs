//! What streams with a stage 1 could reach.

use crate::cache::Which;
use crate::context::{CdTable, DefaultSubstream};
use crate::oracle::{How, Policy, Violation};
use crate::smmu::Smmu;
use crate::stage1::Half;
use smmuv3_spec::StreamId;
use std::ops::Range;

impl Smmu {
    /// Stage 1 on top of stage 2: what was combined before stage 2 changed, and
    /// where the tables of stage 1 are still read, or written for a flag.
    pub(crate) fn check_nested(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        vmid: u16,
    ) -> Result<(), Violation> {
        let reach = self.caches.reach_combined.get(&vmid);
        if reach.is_some_and(|reach| !reach.is_allowed(policy, stream)) {
            self.check_combined(policy, stream, vmid)?;
        }
        let forbidden = self.caches.stage1.pieces.keys().filter_map(|piece| {
            let range = piece.at..piece.at + piece.entries * 8;
            let write = piece.half.ha;
            let page = (piece.under == Some(vmid))
                .then(|| policy.first_forbidden(stream, range, write))??;
            Some((page, write))
        });
        match forbidden.min() {
            Some((page, write)) => Err(Violation::Reach {
                stream,
                address: page,
                page,
                write,
                how: How::Walker,
            }),
            None => Ok(()),
        }
    }

    /// Whether the SMMU may still use a table or a context descriptor of a stage
    /// 1 alone in `at .. at + bytes`.
    pub(crate) fn holds_stage1_in(&self, at: u64, bytes: u64) -> Option<Violation> {
        let pieces = self.caches.stage1.pieces.keys().filter(|piece| {
            let end = piece.at + piece.entries * 8;
            piece.under.is_none() && piece.at < at + bytes && at < end
        });
        let table = pieces.min().map(|piece| Violation::Table {
            vmid: piece.half.vmid,
            table: piece.at,
            at,
            level: piece.level,
        });
        let mut held = self.caches.stage1.cds.iter();
        table.or_else(|| {
            held.find_map(|((stream, _), entry)| {
                let from = entry.from.range(at..at + bytes).next()?;
                let held = entry.is_held(Which::All) && self.enabled().smmuen();
                held.then_some(Violation::Context {
                    stream: *stream,
                    at: *from,
                })
            })
        })
    }

    fn check_combined(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        vmid: u16,
    ) -> Result<(), Violation> {
        let combined = self.caches.combined.keys();
        let mut combined: Vec<_> = combined.filter(|leaf| leaf.vmid == vmid).collect();
        combined.sort_unstable();
        for leaf in combined {
            let range = leaf.output..leaf.output + leaf.size;
            if let Some(page) = policy.first_forbidden(stream, range, leaf.write) {
                return Err(Violation::Reach {
                    stream,
                    address: leaf.input + (page - leaf.output),
                    page,
                    write: leaf.write,
                    how: How::Combined(*leaf),
                });
            }
        }
        Ok(())
    }

    /// Stage 1 alone: its tables decide, so they must be no stranger's, and
    /// lead nowhere else.
    pub(crate) fn check_stage1(
        &self,
        policy: &impl Policy,
        stream: StreamId,
        cds: &CdTable,
    ) -> Result<(), Violation> {
        if cds.max != 0 && cds.default == DefaultSubstream::Bypass {
            self.check_bypass(policy, stream, How::Bypass)?;
        }
        let held = &self.caches.stage1.cds;
        for (_, entry) in held.range((stream, 0)..=(stream, u32::MAX)) {
            for at in &entry.from {
                if policy.first_foreign(*at..*at + 64).is_some() {
                    return Err(Violation::Context { stream, at: *at });
                }
            }
        }
        let mut halves: Vec<Half> = self
            .contexts(stream, cds, Which::All)
            .into_iter()
            .flat_map(|context| [context.lower, context.upper])
            .flatten()
            .collect();
        halves.sort_unstable();
        halves.dedup();
        let own = |half: &Half| halves.binary_search(half).is_ok();
        let pieces = self.caches.stage1.pieces.keys();
        let mut pieces: Vec<_> = pieces
            .filter(|piece| piece.under.is_none() && own(&piece.half))
            .collect();
        pieces.sort_unstable();
        for piece in pieces {
            let range: Range<u64> = piece.at..piece.at + piece.entries * 8;
            if let Some(at) = policy.first_foreign(range) {
                return Err(Violation::Table {
                    vmid: piece.half.vmid,
                    table: piece.at,
                    at,
                    level: piece.level,
                });
            }
        }
        for leaf in self.held_stage1() {
            let theirs = halves.iter().any(|half| {
                half.world == leaf.world
                    && half.vmid == leaf.vmid
                    && leaf.asid.is_none_or(|asid| asid == half.asid)
            });
            if !theirs {
                continue;
            }
            let write = leaf.rights.write || leaf.rights.write_privileged;
            let range = leaf.output..leaf.output + leaf.size;
            if let Some(page) = policy.first_forbidden(stream, range, write) {
                return Err(Violation::Reach {
                    stream,
                    address: leaf.input + (page - leaf.output),
                    page,
                    write,
                    how: How::Stage1(leaf),
                });
            }
        }
        Ok(())
    }
}

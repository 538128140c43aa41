//! Enabling and disabling an ITS (IHI 0069, `GITS_CTLR`).

use crate::bus::Bus;
use crate::gic::Fault;
use crate::inner::Inner;
use crate::its::VALID;
use crate::profile::{Caching, TableKind};
use crate::violation::Violation;

impl<B: Bus> Inner<B> {
    pub(crate) fn enable(&mut self, its: usize) {
        if !self.units[its].is_quiescent() {
            self.violate(Violation::NotQuiescent { its });
            self.finish_quiescing(its);
        }
        self.units[its].enabled = true;
        self.units[its].quiescing = None;
        if self.units[its].cbaser & VALID == 0 {
            self.violate(Violation::Missing {
                its,
                what: "a command queue",
            });
        }
        if self.table_of(its, TableKind::Device).is_none() {
            self.violate(Violation::Missing {
                its,
                what: "a device table",
            });
        }
        if self.collection_count(its) == 0 {
            self.violate(Violation::Missing {
                its,
                what: "a collection table",
            });
        }
        // What the tables say is in force.
        self.units[its].devices.clear();
        self.units[its].events.clear();
        self.units[its].level1.clear();
        let taken: Vec<_> = self.regions();
        let own = format!("of ITS {its}");
        for (what, range) in taken.iter().filter(|(what, _)| what.ends_with(&own)) {
            self.check_overlap(what, range);
        }
        let own = u64::from(self.profile.hcc);
        let in_table = self.table_of(its, TableKind::Collection).is_some();
        let own = if in_table && !self.profile.cct {
            0
        } else {
            own
        };
        // What it held itself may be lost as well.
        let own = if self.profile.caching == Caching::Random {
            0
        } else {
            own
        };
        self.units[its]
            .collections
            .retain(|id, _| u64::from(*id) < own);
        for n in 0..self.profile.tables.len() {
            if self.units[its].baser[n] & VALID == 0 {
                continue;
            }
            let range = self.table_range(its, n);
            if self.is_indirect(its, n) {
                for index in 0..(range.end - range.start) / 8 {
                    self.level2(its, n, index);
                }
            } else {
                self.adopt_page(its, n, 0, range);
            }
        }
    }

    pub(crate) fn disable(&mut self, its: usize) {
        self.units[its].enabled = false;
        let lag = self.lag();
        self.units[its].quiescing = Some(lag);
        if lag == 0 {
            self.poll_quiescing(its);
        }
    }

    /// One poll of an ITS that is to be quiescent.
    pub(crate) fn poll_quiescing(&mut self, its: usize) {
        match self.units[its].quiescing {
            Some(0) if self.has_fault(Fault::NeverQuiescent { its }) => {}
            Some(0) => self.finish_quiescing(its),
            Some(polls) => self.units[its].quiescing = Some(polls - 1),
            None => {}
        }
    }

    fn finish_quiescing(&mut self, its: usize) {
        self.flush(its);
        self.units[its].quiescing = None;
    }
}

//! An SMMU with page 0 alone (Cavium ThunderX2; Linux,
//! `cavium,cn9900-broken-page1-regspace`).

mod common;

use common::Fake;
use smmuv3_driver::{Config, Registers, Smmu, in_page_0};
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::reg;

/// Where the model has what this SMMU has at `offset`; `None` where it has nothing.
fn behind(offset: u32) -> Option<u32> {
    match offset {
        0x1_0000.. => None,
        reg::EVENTQ_PROD_ALIAS => Some(reg::EVENTQ_PROD),
        reg::EVENTQ_CONS_ALIAS => Some(reg::EVENTQ_CONS),
        reg::PRIQ_PROD_ALIAS => Some(reg::PRIQ_PROD),
        reg::PRIQ_CONS_ALIAS => Some(reg::PRIQ_CONS),
        offset => Some(offset),
    }
}

/// The SMMU, and whether who drives it knows.
struct Port<'a>(&'a Fake, bool);

impl Port<'_> {
    fn at(&self, offset: u32) -> Option<u32> {
        behind(if self.1 { in_page_0(offset) } else { offset })
    }
}

impl Registers for Port<'_> {
    fn read32(&self, offset: u32) -> u32 {
        self.at(offset).map_or(0, |offset| self.0.read32(offset))
    }
    fn write32(&self, offset: u32, value: u32) {
        if let Some(offset) = self.at(offset) {
            self.0.write32(offset, value);
        }
    }
    fn read64(&self, offset: u32) -> u64 {
        self.at(offset).map_or(0, |offset| self.0.read64(offset))
    }
    fn write64(&self, offset: u32, value: u64) {
        if let Some(offset) = self.at(offset) {
            self.0.write64(offset, value);
        }
    }
}

fn events(knows: bool) -> u32 {
    let fake = Fake::new();
    let mut smmu = Smmu::new(Port(&fake, knows), &fake, &fake, Config::default()).unwrap();
    let mut seen = 0;
    for n in 0..5 {
        assert!(fake.raise(EventRecord([0x10 | n << 32, 0, n, 0])));
        seen += smmu.drain_events(8, |_| {}).events;
    }
    seen
}

#[test]
fn its_events_are_read_by_who_knows() {
    assert_eq!(events(true), 5);
    assert_eq!(events(false), 0);
}

#[test]
fn no_other_register_moves() {
    for offset in (0..0x2_0000).step_by(4) {
        let moves = [0x100a8, 0x100ac, 0x100c8, 0x100cc].contains(&offset);
        let expected = if moves { offset - 0x1_0000 } else { offset };
        assert_eq!(in_page_0(offset), expected);
    }
}

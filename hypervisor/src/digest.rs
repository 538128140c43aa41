//! A digest of what must not change, for tests that attack: only in images built
//! with the feature `digest`, which are for nothing else. Such an image fills its
//! unused pages with a pattern, and answers one call more than others.

use crate::sysreg::read_sysreg;
use crate::trap::Frame;
use crate::{image, machine, memory, mmu, smmu};
use portcullis_addr::{Address, PAGE_SIZE, PhysAddr, Range};
use portcullis_digest::{Digest, View};
use portcullis_ownership::Owner;
use smmuv3_spec::control::{StrtabBase, StrtabBaseCfg};

/// The HVC that asks for it: a number of those for a hypervisor's own calls
/// (SMCCC, 6.2), as `payloads/hostile` knows it.
const CALL: u64 = 0xc600_d100;

/// What every word of an unused page is. Valid as no descriptor of any table.
pub const PATTERN: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Answers the call, if it is this one.
pub fn answer(frame: &mut Frame) -> bool {
    let asked = frame.get(0) == CALL;
    if asked {
        frame.set(0, digest());
    }
    asked
}

/// Code and constants, the pool, and EL2's own tables.
struct Own {
    constants: Range<PhysAddr>,
}

impl View for Own {
    fn load(&self, at: PhysAddr) -> Option<u64> {
        let readable = self.constants.contains(at) || memory::is_own(at);
        if !readable || !at.is_aligned(8) {
            return None;
        }
        // SAFETY: the hypervisor's own memory, mapped at EL2, and aligned; others
        // may store to it as atomic words at the same time. Of the pool, guards of
        // stacks are not mapped: an entry that leads to one is forged, and a load
        // from there ends in a failure that the test sees.
        Some(unsafe { (at.raw() as *const u64).read_volatile() })
    }

    fn is_full_of(&self, page: PhysAddr, word: u64) -> bool {
        let last = PhysAddr::new(page.raw().saturating_add(PAGE_SIZE - 8));
        if !page.is_aligned(PAGE_SIZE) || !memory::is_own(page) || !memory::is_own(last) {
            return false;
        }
        let first = page.raw() as *const u64;
        // SAFETY: as above; the whole page is the hypervisor's.
        let other = |n: usize| unsafe { first.add(n).read_volatile() } ^ word;
        (0..PAGE_SIZE as usize / 8).fold(0, |seen, n| seen | other(n)) == 0
    }
}

fn digest() -> u64 {
    // Code, then constants.
    let [text, constants, ..] = image::sections();
    let Ok(constants) = Range::new(text.range.start(), constants.range.end()) else {
        return 0;
    };
    let own = Own { constants };
    let mut digest = Digest::new(&own);
    digest.words(constants);
    for register in [
        read_sysreg!("vbar_el2"),
        read_sysreg!("ttbr0_el2"),
        read_sysreg!("vttbr_el2"),
        read_sysreg!("vtcr_el2"),
    ] {
        digest.number(register);
    }
    // What EL2 looks at of the host's it maps for a while.
    let is_lent = |at: PhysAddr| {
        let entry = machine::ledger().and_then(|ledger| ledger.entry(at));
        entry.is_some_and(|entry| entry.owner() == Owner::HOST)
    };
    digest.own_tables(mmu::root(), 0, &is_lent);
    machine::with_host(|host| {
        for (root, geometry) in [
            (host.cpu().root(), host.cpu().geometry()),
            (host.dma().root(), host.dma().geometry()),
        ] {
            digest.tables(root, geometry.start_level(), geometry.root_tables());
        }
    });
    smmu::stream_tables(|base, cfg| {
        digest.streams(StrtabBase::from(base), StrtabBaseCfg::from(cfg));
    });
    memory::with_unused_pages(|pages| digest.unused(pages, PATTERN));
    digest.finish()
}

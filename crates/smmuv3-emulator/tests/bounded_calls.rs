//! How long one call may take, whatever the owner's devices do.
#![allow(missing_docs)]

mod common;

use common::{Act, CONFIG, Machine, RAM, features};
use smmuv3_spec::reg;

#[test]
fn a_call_waits_only_so_often() {
    let mut m = Machine::with(features(), &CONFIG);
    let queue = RAM + 0x2_0000;
    m.double(reg::CMDQ_BASE, queue | 9);
    m.word(reg::CR0, 0x8);
    // CMD_CFGI_CD does not overtake a CMD_SYNC, so each is a wait.
    for pair in 0..200 {
        let at = queue + pair * 32;
        m.board.write64(at, 0x05 | 8 << 32);
        m.board.write64(at + 16, 0x46);
    }
    m.take();
    let mut all = 0;
    for acts in m.repeat(reg::CMDQ_PROD, 400) {
        let waits = acts.iter().filter(|act| **act == Act::Finish).count();
        assert!(waits <= 32, "{waits} waits");
        all += waits;
    }
    assert_eq!(all, 200);
    assert_eq!(m.reads(reg::CMDQ_CONS), 400);
}

//! Updates of an earlier owner that are still in flight (IHI 0070, 6.3.9).

use smmuv3_driver::{Clock, FenceError, Registers, fence};
use smmuv3_spec::reg;
use std::cell::Cell;

/// CR0 and GBPA of an SMMU that takes `lag` polls to follow.
struct Slow {
    cr0: Cell<u32>,
    acting: Cell<u32>,
    left: Cell<u32>,
    gbpa: Cell<u32>,
    stuck: bool,
}

impl Registers for Slow {
    fn read32(&self, offset: u32) -> u32 {
        match offset {
            reg::CR0 => self.cr0.get(),
            reg::CR0ACK => {
                self.left.set(self.left.get().saturating_sub(1));
                if self.left.get() == 0 && !self.stuck {
                    self.acting.set(self.cr0.get());
                }
                self.acting.get()
            }
            reg::GBPA => self.gbpa.get(),
            _ => panic!("{offset:#x}"),
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        match offset {
            reg::CR0 => {
                let flying = self.cr0.get() ^ self.acting.get();
                let again = flying & (self.cr0.get() ^ value);
                assert!(again == 0 || self.stuck, "changed in flight: {again:#x}");
                self.cr0.set(value);
                self.left.set(3);
            }
            // Bit 31 is Update.
            reg::GBPA => self.gbpa.set(value & !(1 << 31)),
            _ => panic!("{offset:#x}"),
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        panic!("{offset:#x}")
    }

    fn write64(&self, offset: u32, _: u64) {
        panic!("{offset:#x}")
    }
}

struct Ticks(Cell<u64>);

impl Clock for Ticks {
    fn now_us(&self) -> u64 {
        self.0.get()
    }

    fn relax(&self) {
        self.0.set(self.0.get() + 1000);
    }
}

fn enabling(stuck: bool) -> Slow {
    Slow {
        cr0: Cell::new(1),
        acting: Cell::new(0),
        left: Cell::new(3),
        gbpa: Cell::new(0),
        stuck,
    }
}

#[test]
fn enabling_ends_before_the_fence_disables() {
    let smmu = enabling(false);
    assert_eq!(fence(&smmu, &Ticks(Cell::new(0))), Ok(()));
    assert_eq!((smmu.acting.get(), smmu.gbpa.get()), (0, 1 << 20));
}

/// Whoever never answers is written to all the same, and what it says decides:
/// here it had not been enabled.
#[test]
fn a_stuck_update_does_not_stop_the_fence() {
    let smmu = enabling(true);
    assert_eq!(fence(&smmu, &Ticks(Cell::new(0))), Ok(()));
    assert_eq!(smmu.cr0.get(), 0);
    let smmu = enabling(true);
    smmu.acting.set(1);
    smmu.cr0.set(0);
    let fenced = fence(&smmu, &Ticks(Cell::new(0)));
    assert_eq!(fenced, Err(FenceError::Disable));
}

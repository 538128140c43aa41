//! Events and global errors.

mod common;

use common::Fake;
use proptest::prelude::*;
use smmuv3_driver::{Config, Drained, Event, Features, Registers, Smmu};
use smmuv3_spec::command::{Command, Opcode};
use smmuv3_spec::control::OutputIndex;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::{StreamId, Vmid, reg};
use std::cell::Cell;

type Driver<'a> = Smmu<&'a Fake, &'a Fake, &'a Fake>;

fn driver(fake: &Fake, event_log2: u8) -> Driver<'_> {
    let config = Config {
        event_log2,
        ..Config::default()
    };
    let driver = Smmu::new(fake, fake, fake, config).unwrap();
    fake.take_consumed();
    driver
}

fn numbered(n: u64) -> EventRecord {
    EventRecord([0x10 | n << 32, 0, n, 0])
}

fn drain(smmu: &mut Driver<'_>, limit: u32) -> (Drained, Vec<u64>) {
    let mut seen = Vec::new();
    let drained = smmu.drain_events(limit, |event| seen.push(event.0.input_address()));
    assert_eq!(seen.len() as u32, drained.events);
    (drained, seen)
}

#[test]
fn records_come_once_and_in_order_over_many_wraps() {
    for log2 in 0..=3 {
        let fake = Fake::new();
        let mut smmu = driver(&fake, log2);
        let (mut raised, mut read) = (0, 0);
        for round in 0..100u64 {
            for _ in 0..round % 5 {
                if fake.raise(numbered(raised)) {
                    raised += 1;
                }
            }
            let limit = (round % 4) as u32;
            let (drained, seen) = drain(&mut smmu, limit);
            assert!(drained.events <= limit);
            for n in seen {
                assert_eq!(n, read);
                read += 1;
            }
            assert_eq!(drained.more, read < raised);
        }
        drain(&mut smmu, 8);
        assert!(raised > 20);
        assert_eq!(smmu.stats().events, raised);
    }
}

#[test]
fn an_empty_queue_costs_one_read() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    let before = fake.log().len();
    assert_eq!(drain(&mut smmu, 10).0, Drained::default());
    assert_eq!(fake.log().len(), before, "nothing was written");
}

/// 7.4: an overflow is PROD.OVFLG against CONS.OVACKFLG, and acknowledging it
/// copies the one to the other.
#[test]
fn overflows_are_counted_once_each_and_acknowledged() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 2);
    for overflow in 1..=3 {
        for n in 0..7 {
            fake.raise(numbered(n));
        }
        let (drained, seen) = drain(&mut smmu, 2);
        assert!(drained.overflowed && drained.more);
        assert_eq!(seen, [0, 1]);
        let state = fake.state.borrow();
        let prod = OutputIndex::from(state.get32(reg::EVENTQ_PROD));
        let cons = OutputIndex::from(state.get32(reg::EVENTQ_CONS));
        assert_eq!(prod.overflow(), cons.overflow());
        drop(state);
        let (drained, seen) = drain(&mut smmu, 9);
        assert!(!drained.overflowed && !drained.more);
        assert_eq!(seen, [2, 3]);
        assert_eq!(smmu.stats().overflows, overflow);
    }
}

#[test]
fn a_producer_index_out_of_range_drops_the_queue() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 2);
    fake.state.borrow_mut().set(reg::EVENTQ_PROD, 0x7_u32);
    let (drained, seen) = drain(&mut smmu, 100);
    assert!(drained.inconsistent && seen.is_empty());
    fake.raise(numbered(5));
    assert_eq!(drain(&mut smmu, 100).1, [5]);
    // Bits above the index and its wrap bit mean nothing.
    fake.state
        .borrow_mut()
        .set(reg::EVENTQ_PROD, 0x000f_fff8_u32);
    assert!(!drain(&mut smmu, 100).0.inconsistent);
}

#[test]
fn stalled_transactions_are_terminated() {
    for (model, answered) in [(0, true), (1, false), (2, true)] {
        let fake = Fake::with(|state| {
            let idr0 = state.idr0().with_stall_model(model);
            state.set(reg::IDR0, u32::from(idr0));
        });
        let mut smmu = driver(&fake, 4);
        let stalled = EventRecord([0x10 | 8 << 32, 0x8000_beef, 0x1000, 0]);
        fake.raise(stalled);
        fake.raise(numbered(1));
        drain(&mut smmu, 8);
        let want = Command::resume(StreamId(8), 0xbeef, false, true);
        let want = if answered { vec![want] } else { vec![] };
        assert_eq!(fake.take_consumed(), want);
        assert_eq!(smmu.tlbi_vmid(Vmid(1)), Ok(()));
    }
}

#[test]
fn events_are_read_after_a_fence_too() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    fake.raise(numbered(3));
    smmu.fence().unwrap();
    assert_eq!(drain(&mut smmu, 8).1, [3]);
}

#[test]
fn a_restart_begins_with_an_empty_queue() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    for n in 0..3 {
        fake.raise(numbered(n));
    }
    drain(&mut smmu, 2);
    smmu.restart().unwrap();
    assert_eq!(
        drain(&mut smmu, 8).0,
        Drained::default(),
        "lost, as it says"
    );
    fake.raise(numbered(9));
    assert_eq!(drain(&mut smmu, 8).1, [9]);
}

#[test]
fn as_log_fields() {
    let show = |words| Event(EventRecord(words)).to_string();
    // Stage 2, class IN, write.
    assert_eq!(
        show([0x8_0000_0010, 0x280 << 32, 0x1234_5678, 0x1234_5000]),
        "stream=0x8 type=F_TRANSLATION stage=2 address=0x12345678 ipa=0x12345000 access=write \
         class=IN"
    );
    assert_eq!(
        show([0x8_0000_2813, 0x1_08 << 32, 0x40, 0x7000]),
        "stream=0x8 substream=0x2 type=F_PERMISSION stage=1 address=0x40 access=read class=TTD"
    );
    assert_eq!(
        show([0x9_0000_0010, 0x08 << 32 | 0x8000_0007, 0x40, 0]),
        "stream=0x9 type=F_TRANSLATION stage=1 address=0x40 access=read class=CD stall=yes stag=0x7"
    );
    assert_eq!(
        show([0x99_0000_0002, 0, 0, 0]),
        "stream=0x99 type=C_BAD_STREAMID"
    );
    assert_eq!(
        show([0x9_0000_0003, 5, 0, 0x8000_0040]),
        "stream=0x9 type=F_STE_FETCH fetch=0x80000040 reason=0x5"
    );
    assert_eq!(
        show([0x9_0000_00e7, u64::MAX, 1, 2]),
        "stream=0x9 type=0xe7"
    );
}

#[test]
fn global_errors_are_decoded_and_acknowledged() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    assert_eq!(smmu.handle_gerror(), None);
    fake.state.borrow_mut().set(reg::GERROR, 0x24_u32);
    let errors = smmu.handle_gerror().unwrap();
    assert_eq!(
        errors.to_string(),
        "gerror=0x24 errors=EVENTQ_ABT_ERR+MSI_EVENTQ_ABT_ERR"
    );
    assert_eq!(fake.state.borrow().gerror_active(), 0);
    assert_eq!(smmu.handle_gerror(), None);
    // The same again: an error is a difference, not a level.
    fake.state.borrow_mut().set(reg::GERROR, 0x20_u32);
    assert!(smmu.handle_gerror().unwrap().active.eventq_abt_err());
    assert!(!smmu.is_fenced());
    assert_eq!(smmu.stats().global_errors, 2);
}

#[test]
fn a_command_error_found_by_interrupt_lets_the_queue_run_on() {
    let fake = Fake::with(|state| {
        let idr0 = state.idr0().with_stall_model(0);
        state.set(reg::IDR0, u32::from(idr0));
    });
    let mut smmu = driver(&fake, 4);
    fake.faults(|f| f.refuse = vec![(Opcode::RESUME, 1)]);
    fake.raise(EventRecord([0x10, 0x8000_0000, 0, 0]));
    drain(&mut smmu, 1);
    let errors = smmu.handle_gerror().unwrap();
    assert_eq!(
        errors.to_string(),
        "gerror=0x1 errors=CMDQ_ERR command=CERROR_ILL"
    );
    assert_eq!(fake.state.borrow().gerror_active(), 0);
    assert_eq!(fake.take_consumed(), [Command::sync(0)]);
    assert_eq!(smmu.stats().command_errors, 1);
    // It was nobody's command who now asks for something else.
    assert_eq!(smmu.block(StreamId(0)), Ok(()));
    fake.faults(|f| f.refuse = vec![(Opcode::RESUME, 1)]);
    fake.raise(EventRecord([0x10, 0x8000_0000, 0, 0]));
    drain(&mut smmu, 1);
    assert_eq!(smmu.tlbi_vmid(Vmid(1)), Ok(()));
    assert_eq!(smmu.stats().command_errors, 2);
}

#[test]
fn service_failure_fences() {
    let fake = Fake::new();
    let mut smmu = driver(&fake, 4);
    fake.state.borrow_mut().set(reg::GERROR, 0x100_u32);
    assert!(smmu.handle_gerror().unwrap().active.sfm_err());
    assert!(smmu.is_fenced() && fake.is_fenced());
}

/// A device of which the registers from some offset on read as noise.
struct Noise {
    fake: Fake,
    seed: Cell<u64>,
    from: Cell<u32>,
}

impl Registers for Noise {
    fn read32(&self, offset: u32) -> u32 {
        if offset < self.from.get() {
            return self.fake.read32(offset);
        }
        let mut x = self.seed.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.seed.set(x);
        // Also the values that the driver takes for plausible.
        if x & 0x300 == 0 {
            self.fake.read32(offset)
        } else {
            x as u32 >> (x >> 59)
        }
    }
    fn write32(&self, offset: u32, value: u32) {
        self.fake.write32(offset, value);
    }
    fn read64(&self, offset: u32) -> u64 {
        u64::from(self.read32(offset))
    }
    fn write64(&self, offset: u32, value: u64) {
        self.fake.write64(offset, value);
    }
}

proptest! {
    /// Registers are checked, not believed: no value of any of them panics, and
    /// every call returns.
    #[test]
    fn no_register_value_panics(
        seed in 1u64..,
        from in prop_oneof![Just(0), Just(reg::CR0), Just(reg::GERROR), Just(reg::CMDQ_PROD), Just(reg::EVENTQ_PROD)],
        late: bool,
    ) {
        let fake = Fake::new();
        fake.faults(|f| f.lenient = true);
        let start = if late { u32::MAX } else { from };
        let noise = Noise { fake, seed: Cell::new(seed), from: Cell::new(start) };
        if let Ok(features) = Features::probe(&noise) {
            let _ = features.to_string();
        }
        if let Ok(mut smmu) = Smmu::new(&noise, &noise.fake, &noise.fake, Config::default()) {
            noise.from.set(from);
            for _ in 0..4 {
                let _ = smmu.drain_events(100, |event| { let _ = event.to_string(); });
                let _ = smmu.handle_gerror().map(|e| e.to_string());
                let _ = smmu.block(StreamId(seed as u32));
                let _ = smmu.tlbi_vmid(Vmid(1));
            }
        }
    }

    /// Nor does any record.
    #[test]
    fn any_record_can_be_shown(words in any::<[u64; 4]>()) {
        prop_assert!(Event(EventRecord(words)).to_string().starts_with("stream="));
    }
}

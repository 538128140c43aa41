//! Interrupts, messages and wake-ups (IHI 0070, 3.18, 4.7.3, 7.5).
#![allow(missing_docs)]

mod interface;

use interface::{IDR0, everything, minimal, running, submit};
use smmuv3_model::{Fault, Interrupt, Signal, Smmu, Source};
use smmuv3_spec::id::Idr0;

const ITS: u64 = 0x0808_0040;

fn wired(source: Source) -> Interrupt {
    let signal = Signal::Wired;
    Interrupt { source, signal }
}

fn msi(source: Source, address: u64, data: u32) -> Interrupt {
    let signal = Signal::Msi { address, data };
    Interrupt { source, signal }
}

/// MSIs of the event queue, page requests and errors to `address`, `address`
/// + 4 and + 8, with data 0x11, 0x22 and 0x33.
fn messages(smmu: &mut Smmu, address: u64) {
    smmu.write64(0xb0, address);
    smmu.write32(0xb8, 0x11);
    smmu.write64(0xd0, address + 4);
    smmu.write32(0xd8, 0x22);
    smmu.write64(0x68, address + 8);
    smmu.write32(0x70, 0x33);
    smmu.write32(0x50, 0b111);
}

#[test]
fn an_event_tells_when_the_queue_was_empty() {
    let mut smmu = running(everything());
    messages(&mut smmu, 0x80f0_0000);
    let _ = smmu.translate(interface::read(0));
    let _ = smmu.translate(interface::read(0));
    let expected = [
        wired(Source::EventQueue),
        msi(Source::EventQueue, 0x80f0_0000, 0x11),
    ];
    assert_eq!(smmu.take_interrupts(), expected);
    assert_eq!(smmu.load(0x80f0_0000), Some(0x11));
    smmu.write32(0x1_00ac, 2);
    let _ = smmu.translate(interface::read(0));
    assert_eq!(smmu.take_interrupts(), expected);
}

#[test]
fn no_interrupt_without_its_enable() {
    let mut smmu = running(everything());
    messages(&mut smmu, 0x80f0_0000);
    smmu.write32(0x50, 0);
    let _ = smmu.translate(interface::read(0));
    smmu.inject(Fault::Gerror(1 << 2));
    assert_eq!(smmu.take_interrupts(), []);
    // Nor one later for what happened before (6.3.16).
    smmu.write32(0x50, 0b111);
    assert_eq!(smmu.take_interrupts(), []);
}

#[test]
fn messages_need_an_address_and_idr0() {
    let mut smmu = running(everything());
    smmu.write32(0x50, 0b111);
    let _ = smmu.translate(interface::read(0));
    assert_eq!(smmu.take_interrupts(), [wired(Source::EventQueue)]);
    let mut smmu = running(minimal());
    messages(&mut smmu, 0x80f0_0000);
    let _ = smmu.translate(interface::read(0));
    assert_eq!(smmu.take_interrupts(), [wired(Source::EventQueue)]);
    assert_eq!(smmu.load(0x80f0_0000), Some(0));
}

#[test]
fn a_sync_signals_as_it_is_asked_to() {
    let mut smmu = running(everything());
    submit(&mut smmu, &[[0x46, 0]]);
    assert_eq!(smmu.take_interrupts(), []);
    // Memory, upper half of a word; data 0xcafe.
    submit(&mut smmu, &[[0xcafe << 32 | 1 << 12 | 0x46, 0x80f0_0004]]);
    let first = [wired(Source::Sync), msi(Source::Sync, 0x80f0_0004, 0xcafe)];
    assert_eq!(smmu.take_interrupts(), first);
    assert_eq!(smmu.load(0x80f0_0000), Some(0xcafe << 32));
    submit(&mut smmu, &[[7 << 32 | 1 << 12 | 0x46, ITS]]);
    let second = [wired(Source::Sync), msi(Source::Sync, ITS, 7)];
    assert_eq!(smmu.take_interrupts(), second);
    // Address 0: the wire alone.
    submit(&mut smmu, &[[7 << 32 | 1 << 12 | 0x46, 0]]);
    assert_eq!(smmu.take_interrupts(), [wired(Source::Sync)]);
    submit(&mut smmu, &[[2 << 12 | 0x46, 0x80f0_0000]]);
    assert_eq!(smmu.take_interrupts(), []);
    assert_eq!(smmu.counts().wakeups, 1);
    // Truncated to OAS (48 bits).
    let high = 1 << 48 | 0x80f0_0008;
    submit(&mut smmu, &[[7 << 32 | 1 << 12 | 0x46, high]]);
    assert_eq!(smmu.load(0x80f0_0008), Some(7));
}

#[test]
fn no_wake_up_without_idr0_sev() {
    let mut profile = everything();
    profile.idr0 = Idr0::from(IDR0 & !(1 << 14));
    let mut smmu = running(profile);
    submit(&mut smmu, &[[2 << 12 | 0x46, 0]]);
    assert_eq!(smmu.counts().wakeups, 0);
}

#[test]
fn a_full_command_queue_wakes_when_it_is_not() {
    let mut smmu = running(everything());
    submit(&mut smmu, &[[0x30, 0]; 15]);
    assert_eq!(smmu.counts().wakeups, 0);
    submit(&mut smmu, &[[0x30, 0]; 16]);
    assert_eq!(smmu.counts().wakeups, 1);
}

#[test]
fn messages_that_abort_are_errors() {
    let mut smmu = running(everything());
    messages(&mut smmu, 0x7000_0000);
    let _ = smmu.translate(interface::read(0));
    // MSI_EVENTQ_ABT_ERR 5; the error's own message aborts too: 7, which
    // raises no interrupt.
    assert_eq!(smmu.read32(0x60), 1 << 5 | 1 << 7);
    let expected = [wired(Source::EventQueue), wired(Source::GlobalError)];
    assert_eq!(smmu.take_interrupts(), expected);
    // MSI_CMDQ_ABT_ERR 4; 7 is active already.
    submit(&mut smmu, &[[1 << 12 | 0x46, 0x7000_0000]]);
    assert_eq!(smmu.read32(0x60), 0b1011 << 4);
    assert_eq!(smmu.read32(0x9c), 1, "the command is consumed");
    smmu.write32(0x64, 0b1011 << 4);
    assert_eq!(smmu.take_misuse(), []);
    // And again: they toggle back.
    submit(&mut smmu, &[[1 << 12 | 0x46, 0x7000_0000]]);
    assert_eq!(smmu.read32(0x60), 1 << 5);
}

#[test]
fn a_command_error_interrupts_after_it_is_visible() {
    let mut smmu = running(everything());
    messages(&mut smmu, ITS - 8);
    submit(&mut smmu, &[[0xff, 0]]);
    let expected = [
        wired(Source::GlobalError),
        msi(Source::GlobalError, ITS, 0x33),
    ];
    assert_eq!(smmu.take_interrupts(), expected);
    assert_eq!(smmu.read32(0x9c) >> 24, 1);
    // Not again while it is active.
    smmu.inject(Fault::Gerror(1));
    assert_eq!(smmu.take_interrupts(), []);
}

#[test]
fn unclaimed_interrupts_do_not_pile_up() {
    let mut smmu = running(everything());
    for n in 0..2000 {
        submit(&mut smmu, &[[n << 32 | 1 << 12 | 0x46, ITS]]);
    }
    let kept = smmu.take_interrupts();
    assert_eq!(kept.len(), 1024);
    assert_eq!(kept[1023], msi(Source::Sync, ITS, 1999));
    assert_eq!(smmu.counts().interrupts, 4000);
}

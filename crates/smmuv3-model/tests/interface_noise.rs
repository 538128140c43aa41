//! No program of registers, commands, endpoints and faults makes the model
//! panic, and indices stay inside their queues.
#![allow(missing_docs)]

mod interface;

use interface::{COMMANDS, REQUESTS, S, everything, fresh, minimal};
use proptest::prelude::*;
use smmuv3_model::{Acknowledgement, Fault, Mode, Profile, Transaction, TranslationRequest};
use smmuv3_spec::command::CommandError;
use smmuv3_spec::id::{Idr0, Idr1, Idr3, Idr5};
use smmuv3_spec::pri::PageRequest;
use smmuv3_spec::{StreamId, SubstreamId};

#[derive(Clone, Debug)]
enum Step {
    Write32(u32, u32),
    Write64(u32, u64),
    Read(u32),
    /// A command into the queue at its producer index.
    Command(u64, u64),
    Store(u64, u64),
    Refresh(u64, u64),
    Request(u64, u64),
    Ask(u32, u64, bool),
    Translated(u32, u64),
    Silent(u32, bool),
    Fault(Fault),
    Take,
}

fn offset() -> impl Strategy<Value = u32> {
    let page0 = (0..0x120u32).prop_map(|offset| offset & !3);
    let page1 = prop::sample::select(vec![0x1_00a8, 0x1_00ac, 0x1_00c8, 0x1_00cc]);
    prop_oneof![6 => page0, 2 => page1, 1 => any::<u32>()]
}

fn value() -> impl Strategy<Value = u64> {
    let inside = (0x8000_0000..0x8020_0000u64, 0..32u64).prop_map(|(at, low)| (at & !0xfff) | low);
    prop_oneof![2 => inside, 3 => 0..0x40u64, 1 => any::<u64>()]
}

/// Opcodes that exist, with anything else.
fn command() -> impl Strategy<Value = (u64, u64)> {
    let opcodes = vec![
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28,
        0x2a, 0x30, 0x40, 0x41, 0x44, 0x45, 0x46, 0x46,
    ];
    let low = prop_oneof![Just(5 << 32), any::<u64>().prop_map(|low| low & !(1 << 10))];
    let parts = (prop::sample::select(opcodes), low, any::<u64>());
    parts.prop_map(|(opcode, low, high)| ((low & !0xff) | opcode, high))
}

fn fault() -> impl Strategy<Value = Fault> {
    let polls = prop_oneof![Just(None), (0..9u32).prop_map(Some)];
    let registers = vec![
        Acknowledgement::Cr0,
        Acknowledgement::IrqCtrl,
        Acknowledgement::Gbpa,
    ];
    let stuck = (prop::sample::select(registers), polls.clone());
    prop_oneof![
        any::<u8>().prop_map(|code| Fault::CommandError(CommandError(code))),
        polls.prop_map(|polls| Fault::CommandStuck { polls }),
        stuck.prop_map(|(register, polls)| Fault::AckStuck { register, polls }),
        any::<u32>().prop_map(Fault::Gerror),
        (0..40u32).prop_map(Fault::EventFlood),
        Just(Fault::PowerLoss),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stream = prop_oneof![Just(S), any::<u32>()];
    prop_oneof![
        6 => (offset(), value()).prop_map(|(o, v)| Step::Write32(o, v as u32)),
        2 => (0..4u32).prop_map(|keep| Step::Write32(0x20, 0x1f >> keep)),
        3 => (offset(), value()).prop_map(|(o, v)| Step::Write64(o, v)),
        4 => offset().prop_map(Step::Read),
        6 => command().prop_map(|(low, high)| Step::Command(low, high)),
        3 => (value(), any::<u64>()).prop_map(|(at, v)| Step::Store(at, v)),
        1 => (value(), any::<u64>()).prop_map(|(at, bytes)| Step::Refresh(at, bytes)),
        2 => (any::<u64>(), any::<u64>()).prop_map(|(low, high)| Step::Request(low, high)),
        2 => (stream.clone(), value(), any::<bool>()).prop_map(|(s, a, w)| Step::Ask(s, a, w)),
        2 => (stream.clone(), value()).prop_map(|(s, a)| Step::Translated(s, a)),
        1 => (stream, any::<bool>()).prop_map(|(s, silent)| Step::Silent(s, silent)),
        1 => fault().prop_map(Step::Fault),
        1 => Just(Step::Take),
    ]
}

/// Any ID registers at all.
fn profile() -> impl Strategy<Value = Profile> {
    let any = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    let wild = any.prop_map(|(idr0, idr1, idr3, idr5)| Profile {
        idr0: Idr0::from(idr0),
        idr1: Idr1::from(idr1),
        idr3: Idr3::from(idr3),
        idr5: Idr5::from(idr5),
        ..everything()
    });
    prop_oneof![3 => Just(everything()), 1 => Just(minimal()), 1 => wild]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        profile in profile(),
        mode in prop::sample::select(vec![
            Mode::Plain, Mode::Plain, Mode::Greedy { seed: 1 }, Mode::Random { seed: 2 },
        ]),
        ready in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut smmu = fresh(profile, mode);
        smmu.log_writes(true);
        if ready {
            smmu.write64(0x80, interface::TABLE);
            smmu.write32(0x88, 8);
            smmu.write64(0x90, COMMANDS | 4);
            smmu.write64(0xc0, REQUESTS | 3);
            smmu.write32(0x20, 0b1111);
        }
        for step in steps {
            match step {
                Step::Write32(offset, value) => smmu.write32(offset, value),
                Step::Write64(offset, value) => smmu.write64(offset, value),
                Step::Read(offset) => drop((smmu.read32(offset), smmu.read64(offset))),
                Step::Command(low, high) => {
                    let (base, prod) = (smmu.read64(0x90), smmu.read32(0x98));
                    let log2 = (base & 0x1f).min(u64::from(profile.idr1.cmdqs())).min(19);
                    let size = 1u32 << log2;
                    let at = (base & 0xf_ffff_ffe0) + u64::from(prod & (size - 1)) * 16;
                    smmu.store(at, low);
                    smmu.store(at + 8, high);
                    smmu.publish(at, 16);
                    smmu.write32(0x98, (prod + 1) & (2 * size - 1));
                    smmu.read32(0x9c);
                }
                Step::Store(at, value) => drop(smmu.store(at & !7, value)),
                Step::Refresh(at, bytes) => smmu.refresh(at, bytes),
                Step::Request(low, high) => drop(smmu.page_request(PageRequest([low, high]))),
                Step::Ask(stream, address, write) => {
                    let substream = write.then_some(SubstreamId(stream & 0xff));
                    let stream = StreamId(stream);
                    let (execute, privileged) = (address & 1 != 0, address & 2 != 0);
                    smmu.ats_request(TranslationRequest {
                        stream, substream, address, write, execute, privileged,
                    });
                }
                Step::Translated(stream, address) => {
                    let mut access: Transaction = interface::write(address);
                    access.stream = StreamId(stream);
                    let _ = smmu.translated(access);
                }
                Step::Silent(stream, silent) => smmu.set_endpoint_silent(StreamId(stream), silent),
                Step::Fault(fault) => smmu.inject(fault),
                Step::Take => {
                    drop((smmu.take_interrupts(), smmu.take_responses(), smmu.take_misuse()));
                    drop((smmu.take_writes(), smmu.atc(StreamId(S)), smmu.atc_reaches(StreamId(S))));
                }
            }
            prop_assert!(smmu.read32(0x9c) & 0x80f0_0000 == 0);
        }
    }
}

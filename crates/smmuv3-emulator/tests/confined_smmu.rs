//! A physical SMMU as the emulation may use it: whose streams are reached, and
//! what is left where the driver fails.
#![allow(missing_docs)]

mod world;

use portcullis_addr::{PhysAddr, Range};
use smmuv3_driver::Error;
use smmuv3_emulator::{
    AssignedStreams, ConfinedSmmu, Failure, Msi, Physical, RangeConfig, StreamConfig, StreamLookup,
};
use smmuv3_model::{Profile, Refusal};
use smmuv3_spec::StreamId;
use smmuv3_spec::command::CommandError;
use smmuv3_spec::ste::Ste;
use world::*;

fn with<T>(world: &mut World<'_>, act: impl FnOnce(&mut dyn Act) -> T) -> T {
    let mut confined = ConfinedSmmu {
        smmu: &mut world.smmu,
        stage2: STAGE2,
        streams: &GIVEN,
        device: Range::from_size(PhysAddr::new(PHYS + 0x1000), 0x1000).ok(),
        report: (),
    };
    act(&mut confined)
}

/// [`Physical`] without the parameters.
trait Act {
    fn number(&self, stream: u32) -> Option<u32>;
    fn owner(&self, physical: u32) -> Option<u32>;
    fn next(&self, from: u32) -> Option<(u32, u32)>;
    fn set(&mut self, stream: u32, wanted: &StreamConfig) -> Result<(), Failure>;
    fn range(&mut self, first: u32, last: u32, same: &RangeConfig) -> Result<Option<u32>, Failure>;
    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure>;
    fn command(&mut self, command: [u64; 2]) -> Result<(), Failure>;
}

impl<P: Physical> Act for P {
    fn number(&self, stream: u32) -> Option<u32> {
        self.stream(StreamId(stream)).map(|stream| stream.0)
    }
    fn owner(&self, physical: u32) -> Option<u32> {
        Physical::owner_stream(self, StreamId(physical)).map(|stream| stream.0)
    }
    fn next(&self, from: u32) -> Option<(u32, u32)> {
        self.next_streams(StreamId(from)).map(|(a, b)| (a.0, b.0))
    }
    fn set(&mut self, stream: u32, wanted: &StreamConfig) -> Result<(), Failure> {
        Physical::set(self, StreamId(stream), wanted)
    }
    fn range(&mut self, first: u32, last: u32, same: &RangeConfig) -> Result<Option<u32>, Failure> {
        let left = self.set_range(StreamId(first), StreamId(last), same)?;
        Ok(left.map(|stream| stream.0))
    }
    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure> {
        Physical::signal(self, messages)
    }
    fn command(&mut self, command: [u64; 2]) -> Result<(), Failure> {
        self.issue(smmuv3_spec::command::Command(command))?;
        self.finish()
    }
}

#[test]
fn only_streams_that_were_given() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    with(&mut world, |physical| {
        for stream in [0, 63, 64, 255, 0x400, 0x40f] {
            let number = world::physical(stream).0;
            assert_eq!(physical.number(stream), Some(number));
            assert_eq!(physical.owner(number), Some(stream));
        }
        for stream in [256, 0x3ff, 0x410, u32::MAX] {
            assert_eq!(physical.number(stream), None, "{stream:#x}");
        }
        for number in [0, 0xfff, 0x1100, 0x1fff, 0x2010, u32::MAX] {
            assert_eq!(physical.owner(number), None, "{number:#x}");
        }
        assert_eq!(physical.next(0), Some((0, 63)));
        assert_eq!(physical.next(65), Some((65, 255)));
        assert_eq!(physical.next(256), Some((0x400, 0x40f)));
        assert_eq!(physical.next(0x410), None);
        // Others are left alone.
        assert_eq!(physical.set(0x410, &StreamConfig::Invalid), Ok(()));
        let bypass = RangeConfig::Bypass(Ste(BYPASS));
        assert_eq!(physical.range(0x100, 0x3ff, &bypass), Ok(None));
        assert_eq!(physical.range(0x410, u32::MAX, &bypass), Ok(None));
    });
    let other =
        smmuv3_model::Transaction::new(StreamId(0x1100), 0x4000_0000, smmuv3_model::Access::Read);
    assert!(hw.smmu.borrow_mut().translate(other).is_err());
}

/// What would lie past the end of either numbering is not assigned.
#[test]
fn numbers_that_end() {
    let assigned = [
        AssignedStreams {
            first: StreamId(u32::MAX - 1),
            physical: StreamId(8),
            count: 4,
            pcie: false,
        },
        AssignedStreams {
            first: StreamId(16),
            physical: StreamId(u32::MAX),
            count: u32::MAX,
            pcie: false,
        },
        AssignedStreams {
            first: StreamId(0),
            physical: StreamId(0),
            count: 0,
            pcie: false,
        },
    ];
    let owner = |number| assigned.as_slice().owner_stream(StreamId(number));
    assert_eq!(owner(9), Some(StreamId(u32::MAX)));
    assert_eq!(owner(10), None);
    assert_eq!(owner(u32::MAX), Some(StreamId(16)));
    assert_eq!(owner(0), None);
}

/// The driver refuses S1DSS 0b11, and leaves the stream as it was; it must not
/// stay so.
#[test]
fn a_stream_that_cannot_have_what_it_should_aborts() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    assert_eq!(world.reads(S, 0x4000_0123), Ok(0x8000_0123));
    let mut bad = STAGE1;
    bad[0] |= 1 << 59;
    bad[1] |= 3;
    let failure = with(&mut world, |p| p.set(S, &StreamConfig::Stage1(Ste(bad)))).unwrap_err();
    assert!(matches!(
        failure,
        Failure::Stream {
            stream: StreamId(S),
            error: Error::Stage1(_)
        }
    ));
    assert_eq!(world.reads(S, 0x4000_0123), Err(Refusal::Silent));
    assert_eq!(world.reads(S + 1, 0x4000_0123), Ok(0x8000_0123));
}

/// Streams of a shared table cannot be changed without memory for one of their
/// own: either they change, or nothing passes at all.
#[test]
fn no_stream_is_passed_over_for_want_of_memory() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    hw.starved.set(true);
    let same = RangeConfig::Bypass(Ste([BYPASS[0], 2 << 44, 0, 0, 0, 0, 0, 0]));
    let result = with(&mut world, |p| p.range(70, 75, &same));
    assert!(matches!(result, Err(Failure::Fenced(_))), "{result:?}");
    for stream in [70, 75, 80] {
        assert!(world.reads(stream, 0x4000_0123).is_err());
    }
}

/// Memory that CPUs access as Device gets the message as Device, other memory
/// as Write-Back: MSIAttr (27:24) and MSH (23:22) of the CMD_SYNC.
#[test]
fn messages() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    hw.smmu.borrow_mut().take_commands();
    let message = |at, data| Msi {
        address: PhysAddr::new(PHYS + at),
        data,
    };
    let sent = with(&mut world, |p| {
        p.signal(&[message(0x1ffc, 7), message(0x2004, 8)])
    });
    assert_eq!(sent, Ok(true));
    let syncs: Vec<_> = hw
        .smmu
        .borrow_mut()
        .take_commands()
        .iter()
        .map(|command| command.0)
        .collect();
    // CS (13:12) 1, MSH (23:22), MSIAttr (27:24), MSIData (63:32); the address.
    let sync = |share: u64, memory: u64, data: u64| {
        0x46 | 1 << 12 | share << 22 | memory << 24 | data << 32
    };
    assert_eq!(
        syncs,
        [
            [sync(2, 1, 7), PHYS + 0x1ffc],
            [sync(3, 0xf, 8), PHYS + 0x2004]
        ]
    );
    assert_eq!(hw.smmu.borrow().load(PHYS + 0x1ff8), Some(7 << 32));
    // More than are ever needed, or an address that is none.
    assert_eq!(
        with(&mut world, |p| p.signal(&[message(0, 0); 5])),
        Ok(false)
    );
    assert_eq!(with(&mut world, |p| p.signal(&[message(2, 0)])), Ok(false));
}

#[test]
fn a_refused_command_is_told() {
    let (hw, side) = (hardware(Profile::full()), Side::default());
    let mut world = World::new(&hw, &side);
    let result = with(&mut world, |p| p.command([0xff, 0]));
    assert_eq!(result, Err(Failure::Command(CommandError::ILL)));
    let result = with(&mut world, |p| p.command([0x11, 0]));
    assert_eq!(result, Ok(()));
}

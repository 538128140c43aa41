//! A physical SMMU, confined to what its owner may use: only the owner's
//! streams, and each of them with stage 2.

use crate::Delivery;
use crate::physical::{Failure, Msi, Physical, RangeConfig, StreamConfig};
use crate::streams::{AssignedStreams, StreamLookup as _};
use portcullis_addr::{PhysAddr, Range};
use portcullis_memory::{Allocator, Memory};
use smmuv3_driver::{
    Attributes, Clock, Drained, Error, Event, Features, Msi as Message, RangeTranslation,
    Registers, Smmu, Stage1, Stage2, Translation,
};
use smmuv3_spec::command::Command;
use smmuv3_spec::event::EventRecord;
use smmuv3_spec::ste::Ste;
use smmuv3_spec::{StreamId, Vmid};

/// How many messages one [`signal`](Physical::signal) sends at most.
const MAX_MESSAGES: usize = 4;

/// Memory type and shareability of a message (`STE.MemAttr`, 5.2; 4.7.3).
type MessageAttributes = (u8, u8);
const DEVICE: MessageAttributes = (0b0001, 0b10);
const WRITE_BACK: MessageAttributes = (0b1111, 0b11);
const NON_CACHEABLE: MessageAttributes = (0b0101, 0b10);

/// Receives the events that the emulation reads from the physical SMMU, to
/// report them.
pub trait EventReport {
    /// `event` was read, and `delivery` says what became of it.
    fn event(&mut self, event: &Event, delivery: Delivery);

    /// The physical event queue was read, with this result. Called after all
    /// its events.
    fn drained(&mut self, drained: &Drained);
}

/// Reports nothing.
impl EventReport for () {
    fn event(&mut self, _: &Event, _: Delivery) {}
    fn drained(&mut self, _: &Drained) {}
}

/// A physical SMMU for one owner, for the time of one call.
pub struct ConfinedSmmu<'a, R, M, C, E = ()> {
    /// The physical SMMU.
    pub smmu: &'a mut Smmu<R, M, C>,
    /// The stage 2 of all streams of the owner.
    pub stage2: Stage2,
    /// The streams that are assigned to the owner. No stream is named twice.
    pub streams: &'a [AssignedStreams],
    /// The page where the owner reads registers. CPUs access it as Device
    /// memory, so messages to it are Device accesses too. All other memory is
    /// Normal.
    pub device: Option<Range<PhysAddr>>,
    /// Receives the events that are read from the physical event queue.
    pub report: E,
}

impl<R: Registers, M: Memory + Allocator, C: Clock, E: EventReport> ConfinedSmmu<'_, R, M, C, E> {
    /// The translation of a stream of the owner. It always has stage 2, unless
    /// the stream aborts.
    fn translation(&self, assigned: &AssignedStreams, config: &StreamConfig) -> Translation {
        match config {
            StreamConfig::Invalid => Translation::Invalid,
            StreamConfig::Abort => Translation::Abort,
            StreamConfig::Bypass(ste) => Translation::Stage2 {
                stage2: self.stage2,
                attributes: self.attributes(ste),
            },
            StreamConfig::Stage1(ste) => Translation::Nested {
                stage1: self.stage1(assigned, ste),
                stage2: self.stage2,
                attributes: self.attributes(ste),
            },
        }
    }

    /// The first run of the owner's streams from `from` on, and the assignment
    /// that it is part of.
    fn next_run(&self, from: StreamId) -> Option<(StreamId, StreamId, AssignedStreams)> {
        self.streams
            .iter()
            .filter_map(|assigned| {
                assigned
                    .range()
                    .map(|(first, last)| (first, last, *assigned))
            })
            .filter(|(_, last, _)| *last >= from)
            .map(|(first, last, assigned)| (first.max(from), last, assigned))
            .min_by_key(|(first, ..)| *first)
    }

    fn attributes(&self, ste: &Ste) -> Attributes {
        Attributes::from_untrusted(ste, self.smmu.features())
    }

    fn stage1(&self, assigned: &AssignedStreams, ste: &Ste) -> Stage1 {
        let mut stage1 = Stage1::from_untrusted(ste);
        // PCIe transactions must not stall (3.12.2).
        if !assigned.pcie && !ste.s1stalld() {
            stage1 = stage1.with_stalls();
        }
        // A device's cache sees the owner's SMMU only, so full ATS of the
        // owner's is ATS of stage 1 on the physical SMMU.
        if assigned.pcie && ste.eats() != 0 && self.smmu.features().split_ats() {
            stage1 = stage1.with_split_ats();
        }
        stage1
    }

    /// Makes `stream` abort because it could not be configured. If that fails,
    /// the SMMU is fenced and everything aborts.
    #[cold]
    fn abort_stream(&mut self, stream: StreamId, physical: StreamId, error: Error) -> Failure {
        if self.smmu.is_fenced() {
            return Failure::Fenced(error);
        }
        // This fails without a fence only where the stream aborts anyway:
        // beyond the physical stream table, or when there is no memory for an
        // entry that would say abort too.
        match self.smmu.set(physical, &Translation::Abort) {
            Err(error) if self.smmu.is_fenced() => Failure::Fenced(error),
            _ => Failure::Stream { stream, error },
        }
    }

    fn set_stream(
        &mut self,
        assigned: &AssignedStreams,
        stream: StreamId,
        config: &StreamConfig,
    ) -> Result<(), Failure> {
        let Some(physical) = assigned.physical_of(stream) else {
            return Ok(());
        };
        let translation = self.translation(assigned, config);
        if let Err(error) = self.smmu.set(physical, &translation) {
            return Err(self.abort_stream(stream, physical, error));
        }
        // If the entry did not change, the driver invalidated nothing. But the
        // owner's command also drops the context descriptors that were found
        // through the entry (4.3.1).
        match config {
            StreamConfig::Stage1(_) => self.issue(Command::cfgi_cd_all(physical)),
            StreamConfig::Invalid | StreamConfig::Abort | StreamConfig::Bypass(_) => Ok(()),
        }
    }
}

/// Converts an error of a command or a wait.
#[cold]
fn failure(error: Error) -> Failure {
    match error {
        Error::Command { error, .. } => Failure::Command(error),
        other => Failure::Fenced(other),
    }
}

impl<R: Registers, M: Memory + Allocator, C: Clock, E: EventReport> Physical
    for ConfinedSmmu<'_, R, M, C, E>
{
    #[inline]
    fn features(&self) -> &Features {
        self.smmu.features()
    }

    #[inline]
    fn vmid(&self) -> Vmid {
        self.stage2.vmid
    }

    #[inline]
    fn stream(&self, stream: StreamId) -> Option<StreamId> {
        self.streams.iter().find_map(|g| g.physical_of(stream))
    }

    fn owner_stream(&self, physical: StreamId) -> Option<StreamId> {
        self.streams.owner_stream(physical)
    }

    fn is_invalid(&self, stream: StreamId) -> bool {
        let physical = Physical::stream(self, stream);
        physical.is_some_and(|physical| self.smmu.is_invalid(physical))
    }

    fn next_streams(&self, from: StreamId) -> Option<(StreamId, StreamId)> {
        self.next_run(from).map(|(first, last, _)| (first, last))
    }

    fn set(&mut self, stream: StreamId, config: &StreamConfig) -> Result<(), Failure> {
        match self
            .streams
            .iter()
            .find(|assigned| assigned.contains(stream))
        {
            Some(assigned) => self.set_stream(assigned, stream, config),
            None => Ok(()),
        }
    }

    fn set_range(
        &mut self,
        first: StreamId,
        last: StreamId,
        config: &RangeConfig,
    ) -> Result<Option<StreamId>, Failure> {
        let after = |stream: StreamId| {
            let next = stream.0.checked_add(1).map(StreamId);
            next.filter(|next| *next <= last)
        };
        let Some((start, end, assigned)) =
            self.next_run(first).filter(|(start, ..)| *start <= last)
        else {
            return Ok(None);
        };
        let end = end.min(last);
        let (Some(from), Some(to)) = (assigned.physical_of(start), assigned.physical_of(end))
        else {
            return Ok(None);
        };
        let same = match config {
            RangeConfig::Invalid => RangeTranslation::Invalid,
            RangeConfig::Abort => RangeTranslation::Abort,
            RangeConfig::Bypass(ste) => RangeTranslation::Stage2 {
                stage2: self.stage2,
                attributes: self.attributes(ste),
            },
        };
        match self.smmu.set_range(from, to, &same) {
            Ok(Some(left)) => Ok(assigned.owner_of(left).or_else(|| after(end))),
            Ok(None) => Ok(after(end)),
            Err(error) if self.smmu.is_fenced() => Err(Failure::Fenced(error)),
            // It is not known how many streams are done, so the first is set
            // alone.
            Err(_) => {
                self.set_stream(&assigned, start, &config.for_one_stream())?;
                Ok(after(start))
            }
        }
    }

    #[inline]
    fn issue(&mut self, command: Command) -> Result<(), Failure> {
        self.smmu.issue(command).map_err(failure)
    }

    #[inline]
    fn kick(&mut self) {
        self.smmu.kick();
    }

    #[inline]
    fn finish(&mut self) -> Result<(), Failure> {
        self.smmu.finish().map_err(failure)
    }

    fn take_events(
        &mut self,
        mut tell: impl FnMut(Option<StreamId>, &EventRecord) -> Delivery,
    ) -> u32 {
        let Self {
            smmu,
            streams,
            report,
            ..
        } = self;
        // Reads the events up to the index read first; later events come with
        // the next call.
        let drained = smmu.take_events(u32::MAX, |event| {
            let stream = streams.owner_stream(event.0.stream());
            let delivery = tell(stream, &event.0);
            report.event(&event, delivery);
            delivery.answer()
        });
        report.drained(&drained);
        drained.events
    }

    #[inline]
    fn signal(&mut self, messages: &[Msi]) -> Result<bool, Failure> {
        let features = self.smmu.features();
        let coherent = features.coherent();
        if !features.idr0.msi() || messages.len() > MAX_MESSAGES {
            return Ok(false);
        }
        let mut translated = [NO_MESSAGE; MAX_MESSAGES];
        for (to, from) in translated.iter_mut().zip(messages) {
            let device = self
                .device
                .is_some_and(|range| range.contains(from.address));
            let (memory, share) = match (device, coherent) {
                (true, _) => DEVICE,
                (false, true) => WRITE_BACK,
                (false, false) => NON_CACHEABLE,
            };
            *to = Message {
                address: from.address,
                data: from.data,
                memory,
                share,
            };
        }
        let count = messages.len().min(MAX_MESSAGES);
        match self.smmu.complete_by_msi(&translated[..count]) {
            Ok(()) => Ok(true),
            Err(Error::Msi) => Ok(false),
            Err(error) => Err(failure(error)),
        }
    }
}

const NO_MESSAGE: Message = Message {
    address: PhysAddr::new(0),
    data: 0,
    memory: 0,
    share: 0,
};

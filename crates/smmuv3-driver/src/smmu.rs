//! One SMMU: taking it over, giving streams a translation, invalidation.

use crate::command_queue::CommandQueue;
use crate::event_queue::EventQueue;
use crate::pri_queue::PriQueue;
use crate::range_commands::{RangeCommands, usable_level};
use crate::stream_table::StreamTable;
use crate::stream_table::shared_tables::{MAX_SHARED_TABLES, SharedTable};
use crate::{Clock, Error, Features, FenceError, Granule, Quirks, Registers, fence};
use portcullis_addr::{Address, Ipa, Range};
use portcullis_memory::{Allocator, Memory};
use smmuv3_spec::Vmid;
use smmuv3_spec::command::{Command, SIG_NONE};
use smmuv3_spec::ste::Ste;

/// Sizes that the owner of the SMMU chooses. With the defaults and 16 bits of
/// StreamID an SMMU takes 20 KiB, and 4 KiB more for every 64 streams of which
/// one was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// log2 of the entries (16 bytes) of the command queue; less where the SMMU
    /// supports less.
    pub command_log2: u8,
    /// log2 of the entries (32 bytes) of the event queue; less where the SMMU
    /// supports less.
    pub event_log2: u8,
    /// log2 of the entries (16 bytes) of the page request queue; less where the
    /// SMMU supports less. `None`, or no page requests (`IDR0.PRI`): it stays
    /// off, and the SMMU answers every request with a failure.
    pub pri_log2: Option<u8>,
    /// log2 of the entries (64 bytes) of a linear stream table, at most.
    /// Streams beyond abort and cannot be attached.
    pub linear_log2: u8,
    /// log2 of the entries (8 bytes) of the first level of a two-level stream
    /// table, at most. Streams that even the largest second level (2^10
    /// entries) leaves out abort and cannot be attached.
    pub l1_log2: u8,
    /// Enable the queues' and the global error interrupt.
    pub interrupts: bool,
    /// Most invalidations by address in one call where the SMMU knows no ranges
    /// (`IDR3.RIL` clear); a larger range invalidates the whole VMID, or ASID.
    pub page_commands: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            command_log2: 8,
            event_log2: 8,
            pri_log2: None,
            linear_log2: 11,
            l1_log2: 10,
            interrupts: true,
            page_commands: 64,
        }
    }
}

/// What happened so far. Counters wrap at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands submitted, CMD_SYNC included.
    pub commands: u64,
    /// CMD_SYNC submitted.
    pub syncs: u64,
    /// Commands that the SMMU refused.
    pub command_errors: u64,
    /// Event records read.
    pub events: u64,
    /// Times that the event queue was found to have overflowed.
    pub overflows: u64,
    /// Page requests read.
    pub requests: u64,
    /// Times that the page request queue was found to have overflowed.
    pub request_overflows: u64,
    /// Waits that ran out of time.
    pub timeouts: u64,
    /// Global errors acknowledged.
    pub global_errors: u64,
}

/// What the driver reaches the world through.
pub(crate) struct Hardware<R, M, C> {
    pub(crate) regs: R,
    pub(crate) mem: M,
    pub(crate) clock: C,
}

/// An SMMU that this driver owns. Streams abort unless attached.
///
/// There is no lock inside: the owner serialises calls. Dropping it leaves the
/// SMMU as it is, with its tables and queues in memory that is not given back.
pub struct Smmu<R, M, C> {
    pub(crate) hw: Hardware<R, M, C>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    pub(crate) table: StreamTable,
    pub(crate) commands: CommandQueue,
    pub(crate) events: EventQueue,
    /// Where there is one, and it was asked for.
    pub(crate) requests: Option<PriQueue>,
    pub(crate) stats: Stats,
    pub(crate) fenced: bool,
    pub(crate) nested: bool,
    /// Bits of an address that no message can be sent to.
    pub(crate) msi_reserved: u64,
    /// Second-level tables that several descriptors may point to.
    pub(crate) shared_tables: [Option<SharedTable>; MAX_SHARED_TABLES],
    /// The stage 2 that many streams had last.
    pub(crate) last_passing_entry: Ste,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// What the SMMU can do.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a failure or [`fence`](Self::fence) stopped the SMMU. It then
    /// stays so: only [`Smmu::new`] starts it again, with everything
    /// invalidated.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Number of low StreamID bits that the stream table covers.
    #[must_use]
    pub fn stream_bits(&self) -> u8 {
        self.table.shape.bits
    }

    /// The registers, for what the driver does not do.
    pub fn registers(&self) -> &R {
        &self.hw.regs
    }

    /// Stops all DMA through this SMMU for good, see [`fence()`](crate::fence()).
    ///
    /// # Errors
    /// As [`fence()`](crate::fence()). The driver counts the SMMU as fenced in
    /// any case.
    pub fn fence(&mut self) -> Result<(), FenceError> {
        self.fenced = true;
        fence(&self.hw.regs, &self.hw.clock)
    }

    /// Fences after a failure that leaves the SMMU's caches in doubt.
    #[cold]
    pub(crate) fn fence_after(&mut self, error: Error) -> Error {
        self.fence().map_or_else(Error::Unfenced, |()| error)
    }

    #[inline]
    pub(crate) fn check_not_fenced(&self) -> Result<(), Error> {
        if self.fenced {
            Err(Error::Fenced)
        } else {
            Ok(())
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, command: Command) -> Result<(), Error> {
        self.commands.push(&self.hw, &mut self.stats, command)
    }

    #[inline]
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        self.commands.sync(&self.hw, &mut self.stats)
    }

    /// Runs a batch of commands and one CMD_SYNC. A refused command is only
    /// reported; when commands stop completing, the SMMU is fenced.
    pub(crate) fn run(&mut self, commands: impl IntoIterator<Item = Command>) -> Result<(), Error> {
        let mut result = Ok(());
        self.commands.begin();
        for command in commands {
            result = self.push(command);
            if result.is_err() {
                break;
            }
        }
        match result.and_then(|()| self.sync()) {
            Err(error @ Error::Command { .. }) => Err(error),
            Err(error) => Err(self.fence_after(error)),
            Ok(()) => Ok(()),
        }
    }

    /// As [`run`](Self::run), for changes to the stream table: there, a refused
    /// command leaves it open which entry the SMMU uses, so it fences too.
    pub(crate) fn run_or_fence(&mut self, commands: &[Command]) -> Result<(), Error> {
        match self.run(commands.iter().copied()) {
            Err(error @ Error::Command { .. }) => Err(self.fence_after(error)),
            other => other,
        }
    }

    /// Drops all cached configuration (IHI 0070, 4.3.6).
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Fenced`], or a failure that fenced.
    pub fn invalidate_all_config(&mut self) -> Result<(), Error> {
        self.check_not_fenced()?;
        self.run([Command::cfgi_all()])
    }

    /// Drops every translation of `vmid`, both stages, and waits until no
    /// access uses one (IHI 0070, 4.4.3.2 and 3.21.1).
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Fenced`], or a failure that fenced: what is
    /// cached is then unknown.
    pub fn tlbi_vmid(&mut self, vmid: Vmid) -> Result<(), Error> {
        self.check_not_fenced()?;
        let after = self.after_stage2_change(None);
        self.run([Command::tlbi_s12_vmall(vmid)].into_iter().chain(after))
    }

    /// Drops the stage 2 translations of `vmid` in `range` and waits until no
    /// access uses one. `level` (1 to 3) promises that all leaf entries of the
    /// range were at that level; `leaf` spares cached table entries, for
    /// changes that freed no table.
    ///
    /// Once a stream of this SMMU translates in two stages
    /// ([`attach_nested`](Self::attach_nested)), stage 1 of the VMID is dropped
    /// too: entries that combine both stages do not match an IPA (4.4.3.1).
    ///
    /// # Errors
    /// [`Error::BadRange`]: nothing was done. Otherwise as
    /// [`tlbi_vmid`](Self::tlbi_vmid).
    pub fn tlbi_ipa_range(
        &mut self,
        vmid: Vmid,
        range: Range<Ipa>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        self.check_not_fenced()?;
        let after = self.after_stage2_change(Some(vmid));
        match self.stage2_commands(vmid, range, granule, level, leaf)? {
            Some(commands) => self.run(commands.chain(after)),
            None => self.tlbi_vmid(vmid),
        }
    }

    /// As [`tlbi_ipa_range`](Self::tlbi_ipa_range), and waits for nothing: what
    /// it drops may be in use until [`finish`](Self::finish) says otherwise.
    /// Several of these share one CMD_SYNC.
    ///
    /// # Errors
    /// [`Error::BadRange`], [`Error::Fenced`]: nothing was done. Otherwise a
    /// failure that fenced.
    #[inline(always)]
    pub fn issue_ipa_range(
        &mut self,
        vmid: Vmid,
        range: Range<Ipa>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        // One leaf, and nothing that must follow: most of what is asked for.
        if !self.nested
            && self.features.range_tlbi()
            && let Some(3) = level
            && granule == Granule::Size4K
            && range.size() == 1 << 12
        {
            let page = Command::tlbi_s2_ipa(vmid, range.start().raw(), leaf);
            let page = page.with_tg(granule.tlbi_tg()).with_ttl(3);
            return self.issue(page);
        }
        self.issue_ipa_range_slow(vmid, range, granule, level, leaf)
    }

    #[inline(never)]
    fn issue_ipa_range_slow(
        &mut self,
        vmid: Vmid,
        range: Range<Ipa>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<(), Error> {
        self.check_not_fenced()?;
        if !self.nested && self.features.range_tlbi() {
            let ranges = RangeCommands::new(vmid, range, granule, level, leaf);
            for command in ranges.ok_or(Error::BadRange)? {
                self.issue(command)?;
            }
            return Ok(());
        }
        let after = self.after_stage2_change(Some(vmid));
        let Some(commands) = self.stage2_commands(vmid, range, granule, level, leaf)? else {
            self.issue(Command::tlbi_s12_vmall(vmid))?;
            return self
                .after_stage2_change(None)
                .try_for_each(|c| self.issue(c));
        };
        for command in commands.chain(after) {
            // Where a CMD_SYNC has to stand between two commands, it is one of
            // them.
            self.issue(command)?;
        }
        Ok(())
    }

    /// As [`address_commands`](Self::address_commands), for stage 2.
    fn stage2_commands(
        &self,
        vmid: Vmid,
        range: Range<Ipa>,
        granule: Granule,
        level: Option<u8>,
        leaf: bool,
    ) -> Result<Option<impl Iterator<Item = Command> + use<R, M, C>>, Error> {
        let template = Command::tlbi_s2_ipa(vmid, 0, leaf);
        self.address_commands(template, range, granule, level)
    }

    /// The commands like `what` that drop `range`; `None` when it takes so many
    /// that everything with the same tag goes.
    pub(crate) fn address_commands<A: Address>(
        &self,
        template: Command,
        range: Range<A>,
        granule: Granule,
        level: Option<u8>,
    ) -> Result<Option<impl Iterator<Item = Command> + use<A, R, M, C>>, Error> {
        let ranges =
            RangeCommands::from_template(template, range, granule, level).ok_or(Error::BadRange)?;
        // One address drops the whole entry that maps it, so one command for
        // each leaf is enough where there are no ranges.
        let step = match usable_level(range, granule, level) {
            0 => granule.log2(),
            level => granule.leaf_log2(level),
        };
        let count = range.size() >> step;
        let ril = self.features.range_tlbi();
        if !ril && count > u64::from(self.config.page_commands) {
            return Ok(None);
        }
        let start = range.start().raw();
        let pages = (0..if ril { 0 } else { count })
            .map(move |n| template.with_address(start + (n << step)));
        Ok(Some(ranges.take_while(move |_| ril).chain(pages)))
    }

    /// What must follow a stage 2 invalidation, see
    /// [`tlbi_ipa_range`](Self::tlbi_ipa_range) and
    /// [`Quirks::CFGI_AFTER_STAGE2`].
    fn after_stage2_change(
        &self,
        vmid: Option<Vmid>,
    ) -> impl Iterator<Item = Command> + use<R, M, C> {
        // Until the first is complete, a walk may combine a stage 1 entry with
        // the stage 2 entry that is about to go; the second must come after
        // that, so the CMD_SYNC between them is needed.
        let stage1 = vmid
            .filter(|_| self.nested && self.features.stage1())
            .map(|vmid| [Command::sync(SIG_NONE), Command::tlbi_nh_all(vmid)]);
        // Without a stage 1 there is no physical address in what is cached of the
        // configuration.
        let config = (self.nested && self.features.quirks.contains(Quirks::CFGI_AFTER_STAGE2))
            .then(Command::cfgi_all);
        stage1.into_iter().flatten().chain(config)
    }
}

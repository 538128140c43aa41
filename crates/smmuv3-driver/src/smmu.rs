//! One physical SMMU: its configuration, its counters, and invalidation.

use crate::command_queue::CommandQueue;
use crate::event_queue::EventQueue;
use crate::nested_vmids::NestedVmids;
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
/// StreamID, an SMMU takes 20 KiB, and 4 KiB more for each block of 64 streams
/// in which a stream was attached.
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

/// Counters of the driver. They wrap at 2^64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Commands that were submitted, CMD_SYNC included.
    pub commands: u64,
    /// CMD_SYNCs that were submitted.
    pub syncs: u64,
    /// Commands that the SMMU refused.
    pub command_errors: u64,
    /// Event records that were read.
    pub events: u64,
    /// How often the event queue had overflowed.
    pub overflows: u64,
    /// Page requests that were read.
    pub requests: u64,
    /// How often the page request queue had overflowed.
    pub request_overflows: u64,
    /// Waits that ran out of time.
    pub timeouts: u64,
    /// Global errors that were acknowledged.
    pub global_errors: u64,
}

/// The registers, memory and clock that the driver uses.
pub(crate) struct Hardware<R, M, C> {
    pub(crate) regs: R,
    pub(crate) mem: M,
    pub(crate) clock: C,
}

/// An SMMU that this driver owns. A stream aborts unless it is attached.
///
/// There is no lock inside: the owner serialises calls. Dropping it leaves the
/// SMMU as it is; its tables and queues stay allocated.
pub struct Smmu<R, M, C> {
    pub(crate) hw: Hardware<R, M, C>,
    pub(crate) features: Features,
    pub(crate) config: Config,
    pub(crate) table: StreamTable,
    pub(crate) commands: CommandQueue,
    pub(crate) events: EventQueue,
    /// The page request queue, if the SMMU has one and the configuration asks
    /// for it.
    pub(crate) requests: Option<PriQueue>,
    pub(crate) stats: Stats,
    pub(crate) fenced: bool,
    /// Whose stage 2 invalidations have to drop stage 1 too.
    pub(crate) nested: NestedVmids,
    /// Address bits that must be 0 in the address of a message.
    pub(crate) msi_reserved: u64,
    /// Second-level tables that several level 1 descriptors may point to.
    pub(crate) shared_tables: [Option<SharedTable>; MAX_SHARED_TABLES],
    /// The last entry that `set_range` gave to streams whose traffic passes.
    /// Shared tables that abort keep its other words.
    pub(crate) last_passing_entry: Ste,
}

impl<R: Registers, M: Memory + Allocator, C: Clock> Smmu<R, M, C> {
    /// The features of the SMMU.
    #[must_use]
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Whether a failure or [`fence`](Self::fence) stopped the SMMU. Only
    /// [`Smmu::restart`] and [`Smmu::new`] start it again, with everything
    /// invalidated.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// How many low StreamID bits the stream table covers.
    #[must_use]
    pub fn stream_bits(&self) -> u8 {
        self.table.shape.bits
    }

    /// The registers, for callers that need more than this driver does.
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

    /// Fences the SMMU after a failure that leaves the content of its caches
    /// unknown.
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
        let after = self.config_after_stage2_change(vmid);
        self.run([Command::tlbi_s12_vmall(vmid)].into_iter().chain(after))
    }

    /// Drops the stage 2 translations of `vmid` in `range` and waits until no
    /// access uses one. `level` (1 to 3) promises that all leaf entries of the
    /// range were at that level; `leaf` spares cached table entries, for
    /// changes that freed no table.
    ///
    /// Once a stream of this VMID translates in two stages
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
        let after = self.after_stage2_change(vmid);
        match self.stage2_commands(vmid, range, granule, level, leaf)? {
            Some(commands) => self.run(commands.chain(after)),
            None => self.tlbi_vmid(vmid),
        }
    }

    /// As [`tlbi_ipa_range`](Self::tlbi_ipa_range), without waiting:
    /// translations of the range may be in use until [`finish`](Self::finish)
    /// returns. Several of these calls share one CMD_SYNC.
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
        // The fast path: one page, and no other command must follow.
        if !self.nested.contains(vmid)
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
        if !self.nested.contains(vmid) && self.features.range_tlbi() {
            let ranges = RangeCommands::new(vmid, range, granule, level, leaf);
            for command in ranges.ok_or(Error::BadRange)? {
                self.issue(command)?;
            }
            return Ok(());
        }
        let after = self.after_stage2_change(vmid);
        let Some(commands) = self.stage2_commands(vmid, range, granule, level, leaf)? else {
            self.issue(Command::tlbi_s12_vmall(vmid))?;
            return self
                .config_after_stage2_change(vmid)
                .map_or(Ok(()), |command| self.issue(command));
        };
        for command in commands.chain(after) {
            // This list already contains the CMD_SYNC that must come between
            // the invalidations of stage 2 and stage 1.
            self.issue(command)?;
        }
        Ok(())
    }

    /// As [`address_commands`](Self::address_commands), for stage 2 of `vmid`.
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

    /// The commands that drop `range`, made from `template`; `None` if there
    /// would be so many that all entries with the same tag are dropped instead.
    pub(crate) fn address_commands<A: Address>(
        &self,
        template: Command,
        range: Range<A>,
        granule: Granule,
        level: Option<u8>,
    ) -> Result<Option<impl Iterator<Item = Command> + use<A, R, M, C>>, Error> {
        let ranges =
            RangeCommands::from_template(template, range, granule, level).ok_or(Error::BadRange)?;
        // A command with an address drops the whole entry that maps the
        // address. So without range commands, one command for each leaf is
        // enough.
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

    /// The commands that must follow a stage 2 invalidation by address, see
    /// [`tlbi_ipa_range`](Self::tlbi_ipa_range).
    fn after_stage2_change(&self, vmid: Vmid) -> impl Iterator<Item = Command> + use<R, M, C> {
        // Until the stage 2 invalidation is complete, a walk may combine a
        // stage 1 entry with the old stage 2 entry. The stage 1 invalidation
        // must come after that, so the CMD_SYNC between them is needed.
        let stage1 = (self.nested.contains(vmid) && self.features.stage1())
            .then(|| [Command::sync(SIG_NONE), Command::tlbi_nh_all(vmid)]);
        let config = self.config_after_stage2_change(vmid);
        stage1.into_iter().flatten().chain(config)
    }

    /// The command that must follow every stage 2 invalidation where there is
    /// [`Quirks::CFGI_AFTER_STAGE2`].
    fn config_after_stage2_change(&self, vmid: Vmid) -> Option<Command> {
        // Without a stage 1, cached configuration holds no physical address
        // that could be stale.
        (self.nested.contains(vmid) && self.features.quirks.contains(Quirks::CFGI_AFTER_STAGE2))
            .then(Command::cfgi_all)
    }
}

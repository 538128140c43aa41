//! Walks of tables that another owner wrote and may be changing.
//!
//! Nothing in the tables is trusted. Every address goes to the caller's
//! [`Fetch`], which decides whether it may be read; each descriptor is read
//! once; and the walk takes as many steps as there are levels, whatever the
//! tables contain.

use crate::descriptor::{AF, Layout, TABLE, VALID};
use crate::format::{Format, Stage1El1, Stage1El2, Stage2};
use crate::geometry::{Geometry, LAST};
use crate::walk::Fault;
use portcullis_addr::Address;

/// How descriptors of an untrusted table are read. Closures of the same shape
/// implement it.
///
/// The address is in the space that the tables live in: an intermediate physical
/// address where a stage 2 lies below (D8.2.3, R PNHHK), a physical one
/// otherwise. The implementation checks it, translates it, and reads it once.
pub trait Fetch<O> {
    /// Why a descriptor could not be read.
    type Error;

    /// The 64 bits at `at`, a multiple of 8.
    ///
    /// # Errors
    /// Why the descriptor could not be read. The walk ends.
    fn fetch(&mut self, at: O) -> Result<u64, Self::Error>;
}

impl<O, E, T: FnMut(O) -> Result<u64, E>> Fetch<O> for T {
    type Error = E;

    fn fetch(&mut self, at: O) -> Result<u64, E> {
        self(at)
    }
}

/// The access that a walk checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessRequest {
    /// A read.
    pub read: bool,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub execute: bool,
    /// Whether the access is privileged. Without meaning at EL2.
    pub privileged: bool,
}

/// The accesses that a leaf and the tables above it allow together, for one
/// privilege.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

/// Result of a walk of untrusted tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<O> {
    /// Output for exactly the address that was walked.
    pub output: O,
    /// Bytes that the one descriptor maps.
    pub size: u64,
    /// Level of the descriptor.
    pub level: u8,
    /// The permissions of a privileged access.
    pub privileged: Permissions,
    /// The permissions of an unprivileged access.
    pub unprivileged: Permissions,
    /// The descriptor, for its memory attributes.
    pub descriptor: u64,
}

/// Why a walk of untrusted tables ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UntrustedFault<E> {
    /// The tables contain a fault.
    Fault(Fault),
    /// A descriptor could not be read.
    Fetch {
        /// Level of the lookup.
        level: u8,
        /// The error of [`Fetch::fetch`].
        error: E,
    },
}

impl<E> From<Fault> for UntrustedFault<E> {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<E: core::fmt::Display> core::fmt::Display for UntrustedFault<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Fetch { level, error } => {
                write!(
                    f,
                    "the descriptor at level {level} could not be read: {error}"
                )
            }
        }
    }
}

impl<E: core::error::Error> core::error::Error for UntrustedFault<E> {}

/// Limits of the tables above a leaf (stage 1 only; D8.4.1.1, D8.4.3.1).
#[derive(Clone, Copy, Default)]
struct TableLimits {
    read_only: bool,
    no_unprivileged: bool,
    never: bool,
    privileged_never: bool,
}

/// Formats that [`walk_untrusted`] can read.
pub trait UntrustedFormat: Format {
    /// The permissions of the leaf, privileged and unprivileged.
    #[doc(hidden)]
    fn permissions(descriptor: u64, level: u8, above: u64) -> Option<[Permissions; 2]>;
}

impl TableLimits {
    /// Table descriptor bits 62:59, collected with "or" (Table D8-50).
    const fn of(bits: u64) -> Self {
        Self {
            read_only: bits >> 62 & 1 != 0,
            no_unprivileged: bits >> 61 & 1 != 0,
            never: bits >> 60 & 1 != 0,
            privileged_never: bits >> 59 & 1 != 0,
        }
    }
}

impl UntrustedFormat for Stage1El2 {
    fn permissions(descriptor: u64, _level: u8, above: u64) -> Option<[Permissions; 2]> {
        let above = TableLimits::of(above);
        // One privilege level: AP[1] is RES1, APTable[0] RES0, XN is bit 54.
        let all = Permissions {
            read: true,
            write: descriptor >> 7 & 1 == 0 && !above.read_only,
            execute: descriptor >> 54 & 1 == 0 && !above.never,
        };
        Some([all, all])
    }
}

impl UntrustedFormat for Stage1El1 {
    fn permissions(descriptor: u64, _level: u8, above: u64) -> Option<[Permissions; 2]> {
        let above = TableLimits::of(above);
        let write = descriptor >> 7 & 1 == 0 && !above.read_only;
        let user = descriptor >> 6 & 1 != 0 && !above.no_unprivileged;
        // EL1 cannot execute pages that EL0 can write (D8.4.1.2.3).
        let execute = descriptor >> 53 & 1 == 0 && !above.privileged_never && !(user && write);
        Some([
            Permissions {
                read: true,
                write,
                execute,
            },
            Permissions {
                read: user,
                write: user && write,
                execute: descriptor >> 54 & 1 == 0 && !above.never,
            },
        ])
    }
}

impl UntrustedFormat for Stage2 {
    fn permissions(descriptor: u64, _level: u8, _above: u64) -> Option<[Permissions; 2]> {
        // Reserved MemAttr encodings (Table D8-96).
        if matches!(descriptor >> 2 & 0xf, 0b0100 | 0b1000 | 0b1100) {
            return None;
        }
        let (read, write) = (descriptor >> 6 & 1 != 0, descriptor >> 7 & 1 != 0);
        let both = |execute| Permissions {
            read,
            write,
            execute,
        };
        // XN[1:0], with FEAT_XNX (Table D8-78).
        let (privileged, unprivileged) = match descriptor >> 53 & 0b11 {
            0b00 => (true, true),
            0b01 => (false, true),
            0b10 => (false, false),
            _ => (true, false),
        };
        Some([both(privileged), both(unprivileged)])
    }
}

/// Walks tables of the given geometry at `root`, for the access `requested`, or
/// for the translation alone.
///
/// What the architecture treats as an address size fault, a translation fault,
/// an access flag fault (hardware management of the flag is taken to be off) or
/// a permission fault is returned as that, in its order of priority for one
/// level (D8.15). Encodings that are reserved or CONSTRAINED UNPREDICTABLE are
/// refused: block descriptors at levels without blocks, a set contiguous bit is
/// ignored, reserved stage-2 memory types. A reserved descriptor at the last
/// level is invalid, as Table D8-48 has it.
///
/// # Errors
/// [`UntrustedFault::Fault`] for what the tables say,
/// [`UntrustedFault::Fetch`] for what `fetch` refused.
pub fn walk_untrusted<F: UntrustedFormat, T: Fetch<F::Output>>(
    geometry: &Geometry,
    root: F::Output,
    address: F::Input,
    request: Option<AccessRequest>,
    fetch: &mut T,
) -> Result<Translation<F::Output>, UntrustedFault<T::Error>> {
    let raw = address.raw();
    let mut level = geometry.start_level();
    let align = geometry.root_bytes();
    if raw >= geometry.input_end()
        || root.raw() >= geometry.output_end()
        || root.raw() & (align - 1) != 0
        || geometry.is_stage2() != F::STAGE2
    {
        return Err(Fault::AddressSize { level }.into());
    }
    // The address field is read at its full width: a bit above the output size
    // is a fault, not something to cut off (R XFDVL).
    let layout = Layout::of(geometry);
    let mut table = root.raw();
    let mut rest = raw;
    let mut above = 0u64;
    loop {
        let shift = geometry.level_shift(level);
        let at = F::Output::new(table + (rest >> shift) * 8);
        let descriptor = fetch
            .fetch(at)
            .map_err(|error| UntrustedFault::Fetch { level, error })?;
        rest &= (1 << shift) - 1;
        if descriptor & VALID == 0 || level == LAST && descriptor & TABLE == 0 {
            return Err(Fault::Translation { level }.into());
        }
        let leaf = level == LAST || descriptor & TABLE == 0;
        // Bit 16 of a block is nT, no address bit (Table D8-52).
        let nt = if leaf && level < LAST { 1 << 16 } else { 0 };
        let next = layout.decode(descriptor & !nt);
        if leaf && level < geometry.granule().first_block_level() {
            return Err(Fault::Translation { level }.into());
        }
        if next >= geometry.output_end() {
            return Err(Fault::AddressSize { level }.into());
        }
        if !leaf {
            above |= descriptor;
            table = next;
            level += 1;
            continue;
        }
        if next & ((1 << shift) - 1) != 0 {
            // Address bits below the block are RES0.
            return Err(Fault::Reserved { level }.into());
        }
        if descriptor & AF == 0 {
            return Err(Fault::AccessFlag { level }.into());
        }
        let Some([privileged, unprivileged]) = F::permissions(descriptor, level, above) else {
            return Err(Fault::Reserved { level }.into());
        };
        if let Some(request) = request {
            let allowed = if request.privileged {
                privileged
            } else {
                unprivileged
            };
            if request.read && !allowed.read
                || request.write && !allowed.write
                || request.execute && !allowed.execute
            {
                return Err(Fault::Permission { level }.into());
            }
        }
        return Ok(Translation {
            output: F::Output::new(next | rest),
            size: 1 << shift,
            level,
            privileged,
            unprivileged,
            descriptor,
        });
    }
}

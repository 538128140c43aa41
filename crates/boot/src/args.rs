//! The hypervisor's command line: `bootargs` of `/chosen` (Devicetree
//! Specification v0.4, section 3.6).
//!
//! | key | values | default |
//! |---|---|---|
//! | `host-iommu` | `identity`, `nested`, `paravirt` | `identity` |
//! | `dma-tables` | a size with `K` or `M`, from `256K` to `1024M` | `8M` |
//! | `gic-its` | `on`, `off` | `on` |
//! | `its-tables` | a size with `K` or `M`, from `64K` to `256M` | `1M` |
//! | `viommus` | a number from 1 to 8 | 4 |
//! | `trace` | a size as above, from `64K` to `64M`, in `paravirt`, logged as `info` | nothing is traced |
//! | `bhb` | `on`, `off` | `on` |
//! | `mpam` | `on`, `off` | `on` |
//! | `log` | `error`, `warn`, `info`, `debug` | `info` |
//! | `mmio-allow` | `BASE,SIZE` in bytes, whole pages of 4 KiB; may be repeated | registers that the tree does not name are nobody's |
//! | `memory-allow` | `BASE,SIZE` in bytes, whole pages of 4 KiB; may be repeated | the host has no memory that the tree does not name |
//! | `allow-unconfined` | the path of a node; may be repeated | devices that may do DMA past every SMMU are withheld |
//! | `trust-power` | `yes`, `no` | `no` |
//! | `console` | an alias such as `serial1`, the absolute path of a node, `stdout` | `stdout` |

use crate::error::BootError;
use crate::fdt::Fdt;
use crate::list::List;
use crate::machine::VIOMMU_LIMIT;
use crate::text::Word;
use portcullis_addr::{PAGE_SIZE, PhysAddr, Range};

/// The valid keys, for messages.
pub(crate) const KEYS: &str = "use host-iommu=identity|nested|paravirt, dma-tables=<size>, gic-its=on|off, its-tables=<size>, viommus=<number>, trace=<size>, bhb=on|off, mpam=on|off, log=error|warn|info|debug, mmio-allow=<base>,<size>, memory-allow=<base>,<size>, allow-unconfined=<node path>, trust-power=yes|no or console=<alias, node path or stdout>";

/// Most values of `mmio-allow`, of `memory-allow` and of `allow-unconfined`.
pub const ALLOW_LIMIT: usize = 32;

/// Bytes of `dma-tables` when the command line says nothing: tables for 4 GiB in
/// single pages.
const DMA_TABLES: u64 = 8 << 20;

/// The least and the most of it. Less would not hold the tables of a few domains.
const DMA_TABLES_LIMITS: core::ops::RangeInclusive<u64> = (256 << 10)..=(1024 << 20);

/// Bytes of `its-tables` when the command line says nothing: 250 devices of up to
/// 128 interrupts each.
const ITS_TABLES: u64 = 1 << 20;

/// The least and the most of it.
const ITS_TABLES_LIMITS: core::ops::RangeInclusive<u64> = (64 << 10)..=(256 << 20);

/// Most virtio-iommus when the command line says nothing.
const VIOMMUS: usize = 4;

/// The least and the most of `trace`: from 2,048 requests to two million.
const TRACE_LIMITS: core::ops::RangeInclusive<u64> = (64 << 10)..=(64 << 20);

/// What the host sees of the SMMUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostIommu {
    /// Nothing: a machine without IOMMU, where devices reach what the host
    /// may reach, at the same addresses.
    #[default]
    Identity,
    /// An SMMUv3 of its own in the place of each, whose stage 1 it programs
    /// with its own driver. Whatever it writes there, its devices reach what
    /// the host may reach and no more.
    Nested,
    /// A virtio-iommu: the host says what is to be mapped, and has no table of
    /// its own. Until it does, its devices reach nothing.
    Paravirt,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Only what stops the hypervisor or breaks a promise.
    Error,
    /// Also what is suspicious.
    Warn,
    /// Also what happens once: boot, power-off.
    #[default]
    Info,
    /// Everything.
    Debug,
}

/// Where the hypervisor's log goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsoleChoice<'a> {
    /// To the UART of `stdout-path`, shared with the host.
    #[default]
    Stdout,
    /// To the UART that an alias or an absolute path names.
    Named(&'a str),
}

/// The hypervisor's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootArgs<'a> {
    /// `host-iommu=`
    pub host_iommu: HostIommu,
    /// `dma-tables=`: bytes of memory for the tables that the host's mappings
    /// need in paravirt mode, a multiple of 4 KiB; the other modes need none.
    pub dma_tables: u64,
    /// `gic-its=`: whether the host has the interrupt translation services of the
    /// machine, emulated ones in their place.
    pub gic_its: bool,
    /// `its-tables=`: bytes of memory for what the host's devices need of
    /// interrupt translation tables, a multiple of 4 KiB.
    pub its_tables: u64,
    /// `viommus=`: most virtio-iommus that the host gets in paravirt mode, 1 to
    /// [`VIOMMU_LIMIT`].
    pub viommus: usize,
    /// `trace=`: bytes of memory for a record of what the host maps in paravirt
    /// mode, a multiple of 4 KiB; 0 when there is to be none.
    pub trace: u64,
    /// `bhb=`: whether EL2 forgets the host's branch history on every entry, on
    /// parts on which it could be led astray by it.
    pub bhb: bool,
    /// `mpam=`: whether EL2 sets the registers of MPAM. Firmware that does not know
    /// them may have left a trap to EL3 on.
    pub mpam: bool,
    /// `log=`
    pub log: LogLevel,
    /// `mmio-allow=`: addresses outside of RAM that the host's CPUs reach beside
    /// what the tree names; whole pages.
    pub mmio_allow: List<Range<PhysAddr>, ALLOW_LIMIT>,
    /// `memory-allow=`: where memory of the host's may come that the tree does not
    /// name, such as a virtio-mem device's.
    pub memory_allow: List<Range<PhysAddr>, ALLOW_LIMIT>,
    /// `allow-unconfined=`: paths of devices that the host gets although nothing
    /// keeps them from reaching all memory.
    pub allow_unconfined: List<&'a str, ALLOW_LIMIT>,
    /// `trust-power=`: the host is trusted not to switch off what the hypervisor
    /// uses.
    pub trust_power: bool,
    /// `console=`
    pub console: ConsoleChoice<'a>,
}

impl Default for BootArgs<'_> {
    fn default() -> Self {
        Self {
            host_iommu: HostIommu::default(),
            dma_tables: DMA_TABLES,
            gic_its: true,
            its_tables: ITS_TABLES,
            viommus: VIOMMUS,
            trace: 0,
            bhb: true,
            mpam: true,
            log: LogLevel::default(),
            mmio_allow: List::new(),
            memory_allow: List::new(),
            allow_unconfined: List::new(),
            trust_power: false,
            console: ConsoleChoice::default(),
        }
    }
}

impl<'a> BootArgs<'a> {
    /// Reads a command line: words `key=value` with white space between them,
    /// without the NUL at its end.
    ///
    /// # Errors
    /// - [`BootError::ArgumentText`]: not printable ASCII
    /// - [`BootError::ArgumentForm`]: a word without `=`
    /// - [`BootError::ArgumentKey`]: an unknown key
    /// - [`BootError::ArgumentTwice`]: a key given twice
    /// - [`BootError::ArgumentValue`]: a value that the key does not have, or not
    ///   in that mode
    pub fn parse(line: &'a [u8]) -> Result<Self, BootError> {
        let line = core::str::from_utf8(line)
            .ok()
            .filter(|line| line.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')))
            .ok_or(BootError::ArgumentText)?;
        let (mut host_iommu, mut dma_tables, mut trace) = (None, None, None);
        let (mut gic_its, mut its_tables, mut viommus) = (None, None, None);
        let (mut bhb, mut mpam) = (None, None);
        let (mut log, mut console, mut trust_power) = (None, None, None);
        let (mut mmio_allow, mut allow_unconfined) = (List::new(), List::new());
        let mut memory_allow = List::new();
        for word in line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(BootError::ArgumentForm {
                word: Word::start_of(word.as_bytes()),
            })?;
            match key {
                "host-iommu" => once("host-iommu", &mut host_iommu, mode(value)?)?,
                "dma-tables" => once("dma-tables", &mut dma_tables, tables(value)?)?,
                "gic-its" => once("gic-its", &mut gic_its, switch("gic-its", value)?)?,
                "its-tables" => once("its-tables", &mut its_tables, itts(value)?)?,
                "viommus" => once("viommus", &mut viommus, instances(value)?)?,
                "trace" => once("trace", &mut trace, (record(value)?, value))?,
                "bhb" => once("bhb", &mut bhb, switch("bhb", value)?)?,
                "mpam" => once("mpam", &mut mpam, switch("mpam", value)?)?,
                "log" => once("log", &mut log, level(value)?)?,
                "mmio-allow" => push("mmio-allow", &mut mmio_allow, registers(value)?)?,
                "memory-allow" => push("memory-allow", &mut memory_allow, memory(value)?)?,
                "allow-unconfined" => {
                    push("allow-unconfined", &mut allow_unconfined, path(value)?)?;
                }
                "trust-power" => once("trust-power", &mut trust_power, yes(value)?)?,
                "console" => once("console", &mut console, choice(value)?)?,
                _ => {
                    return Err(BootError::ArgumentKey {
                        key: Word::start_of(key.as_bytes()),
                    });
                }
            }
        }
        let host_iommu = host_iommu.unwrap_or_default();
        if let Some((_, value)) = trace
            && host_iommu != HostIommu::Paravirt
        {
            let right = "use trace= with host-iommu=paravirt, where every mapping is asked for";
            return Err(wrong("trace", value, right));
        }
        let log = log.unwrap_or_default();
        if let Some((_, value)) = trace
            && log < LogLevel::Info
        {
            let right = "use trace= with log=info or log=debug, at which it is printed";
            return Err(wrong("trace", value, right));
        }
        Ok(Self {
            host_iommu,
            dma_tables: dma_tables.unwrap_or(DMA_TABLES),
            gic_its: gic_its.unwrap_or(true),
            its_tables: its_tables.unwrap_or(ITS_TABLES),
            viommus: viommus.unwrap_or(VIOMMUS),
            trace: trace.map_or(0, |(bytes, _)| bytes),
            bhb: bhb.unwrap_or(true),
            mpam: mpam.unwrap_or(true),
            log,
            mmio_allow,
            memory_allow,
            allow_unconfined,
            trust_power: trust_power.unwrap_or(false),
            console: console.unwrap_or_default(),
        })
    }

    /// Reads `bootargs` of `/chosen`; the defaults when there is none.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn from_fdt(fdt: &Fdt<'a>) -> Result<Self, BootError> {
        let line = fdt
            .find(b"/chosen")
            .and_then(|chosen| chosen.property(b"bootargs"))
            .unwrap_or_default();
        Self::parse(line.strip_suffix(b"\0").unwrap_or(line))
    }
}

fn once<T>(key: &'static str, slot: &mut Option<T>, value: T) -> Result<(), BootError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(BootError::ArgumentTwice { key }),
    }
}

fn push<T: Copy>(
    key: &'static str,
    list: &mut List<T, ALLOW_LIMIT>,
    value: T,
) -> Result<(), BootError> {
    list.push(value).map_err(|_| BootError::ArgumentTooOften {
        key,
        limit: ALLOW_LIMIT,
    })
}

fn wrong(key: &'static str, value: &str, right: &'static str) -> BootError {
    BootError::ArgumentValue {
        key,
        value: Word::start_of(value.as_bytes()),
        right,
    }
}

fn mode(value: &str) -> Result<HostIommu, BootError> {
    match value {
        "identity" => Ok(HostIommu::Identity),
        "nested" => Ok(HostIommu::Nested),
        "paravirt" => Ok(HostIommu::Paravirt),
        _ => Err(wrong(
            "host-iommu",
            value,
            "use host-iommu=identity, nested or paravirt",
        )),
    }
}

fn switch(key: &'static str, value: &str) -> Result<bool, BootError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(wrong(key, value, "use on or off")),
    }
}

fn tables(value: &str) -> Result<u64, BootError> {
    size(value, DMA_TABLES_LIMITS).ok_or_else(|| {
        let right = "use whole pages of 4 KiB from dma-tables=256K to 1024M, such as 8M";
        wrong("dma-tables", value, right)
    })
}

fn itts(value: &str) -> Result<u64, BootError> {
    size(value, ITS_TABLES_LIMITS).ok_or_else(|| {
        let right = "use whole pages of 4 KiB from its-tables=64K to 256M, such as 1M";
        wrong("its-tables", value, right)
    })
}

fn instances(value: &str) -> Result<usize, BootError> {
    let number = value.parse::<usize>().ok();
    // What `parse` takes beyond digits is a sign.
    let number = number.filter(|number| (1..=VIOMMU_LIMIT).contains(number));
    number
        .filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()))
        .ok_or_else(|| wrong("viommus", value, "use a number from viommus=1 to 8"))
}

fn record(value: &str) -> Result<u64, BootError> {
    size(value, TRACE_LIMITS).ok_or_else(|| {
        let right = "use whole pages of 4 KiB from trace=64K to 64M, such as 1M";
        wrong("trace", value, right)
    })
}

/// Whole pages within `limits`.
fn size(value: &str, limits: core::ops::RangeInclusive<u64>) -> Option<u64> {
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let unit = match unit {
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        _ => return None,
    };
    // What `parse` takes beyond digits is a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (limits.contains(&bytes) && bytes.is_multiple_of(PAGE_SIZE)).then_some(bytes)
}

/// `BASE,SIZE` in bytes, decimal or hexadecimal with `0x`.
fn registers(value: &str) -> Result<Range<PhysAddr>, BootError> {
    pages(value).ok_or_else(|| {
        let right = "use whole pages of 4 KiB, as in mmio-allow=0x9100000,0x1000";
        wrong("mmio-allow", value, right)
    })
}

fn memory(value: &str) -> Result<Range<PhysAddr>, BootError> {
    pages(value).ok_or_else(|| {
        let right = "use whole pages of 4 KiB, as in memory-allow=0x80000000,0x40000000";
        wrong("memory-allow", value, right)
    })
}

/// `BASE,SIZE`, in whole pages.
fn pages(value: &str) -> Option<Range<PhysAddr>> {
    let number = |text: &str| {
        let (digits, radix) = match text.strip_prefix("0x") {
            Some(digits) => (digits, 16),
            None => (text, 10),
        };
        // What the conversion takes beyond digits is a sign.
        let digits = Some(digits).filter(|digits| !digits.starts_with('+'))?;
        u64::from_str_radix(digits, radix).ok()
    };
    value
        .split_once(',')
        .and_then(|(base, size)| Range::from_size(PhysAddr::new(number(base)?), number(size)?).ok())
        .filter(|range| range.is_aligned(PAGE_SIZE))
}

fn path(value: &str) -> Result<&str, BootError> {
    if value.starts_with('/') {
        Ok(value)
    } else {
        let right = "use the absolute path of a node, as in allow-unconfined=/soc/dma@9100000";
        Err(wrong("allow-unconfined", value, right))
    }
}

fn yes(value: &str) -> Result<bool, BootError> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(wrong("trust-power", value, "use trust-power=yes or no")),
    }
}

fn level(value: &str) -> Result<LogLevel, BootError> {
    Ok(match value {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        _ => return Err(wrong("log", value, "use log=error, warn, info or debug")),
    })
}

fn choice(value: &str) -> Result<ConsoleChoice<'_>, BootError> {
    match value {
        "stdout" => Ok(ConsoleChoice::Stdout),
        "" => Err(wrong(
            "console",
            value,
            "use console=stdout, an alias or a node path",
        )),
        _ => Ok(ConsoleChoice::Named(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults() {
        let args = BootArgs::parse(b" \t ").unwrap();
        assert_eq!(args, BootArgs::default());
        assert_eq!(args.log, LogLevel::Info);
        assert_eq!(args.console, ConsoleChoice::Stdout);
    }

    #[test]
    fn every_key() {
        let args = BootArgs::parse(b"console=/pl011@9040000  log=debug host-iommu=identity");
        assert_eq!(
            args,
            Ok(BootArgs {
                host_iommu: HostIommu::Identity,
                log: LogLevel::Debug,
                console: ConsoleChoice::Named("/pl011@9040000"),
                ..BootArgs::default()
            })
        );
    }

    #[test]
    fn what_can_be_turned_off() {
        let parse = |text: &str| {
            let parsed = BootArgs::parse(text.as_bytes());
            parsed
                .map(|args| (args.bhb, args.mpam))
                .map_err(|e| e.fix().to_string())
        };
        assert_eq!(parse("bhb=off"), Ok((false, true)));
        assert_eq!(parse("mpam=off bhb=on"), Ok((true, false)));
        for wrong in ["bhb=", "mpam=no", "bhb=OFF"] {
            assert_eq!(parse(wrong), Err("use on or off".to_owned()), "{wrong}");
        }
        assert_eq!(
            parse("mpam=off mpam=off"),
            Err("give each key once".to_owned())
        );
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        let line = |text: &[u8]| {
            let error = BootArgs::parse(text).unwrap_err();
            format!("{} | {}", error.reason(), error.fix())
        };
        assert_eq!(
            line(b"quiet"),
            format!("the command line has quiet, which is not key=value | {KEYS}")
        );
        assert_eq!(
            line(b"root=/dev/sda"),
            format!("the command line has the unknown key root | {KEYS}")
        );
        assert_eq!(
            line(b"log=info log=info"),
            "the command line has log= twice | give each key once"
        );
        assert_eq!(
            line(b"log=loud"),
            "the command line has log=loud | use log=error, warn, info or debug"
        );
        assert_eq!(
            line(b"console="),
            "the command line has console= | use console=stdout, an alias or a node path"
        );
        assert_eq!(
            BootArgs::parse(b"host-iommu=nested").map(|args| args.host_iommu),
            Ok(HostIommu::Nested)
        );
        assert_eq!(
            BootArgs::parse(b"host-iommu=paravirt").map(|args| args.host_iommu),
            Ok(HostIommu::Paravirt)
        );
        assert_eq!(
            line(b"host-iommu=none"),
            "the command line has host-iommu=none | use host-iommu=identity, nested or paravirt"
        );
        assert_eq!(BootArgs::parse(b"log=\xff"), Err(BootError::ArgumentText));
    }

    #[test]
    fn a_trace_is_of_paravirt_mode_and_has_bounds() {
        let parse = |text: &str| {
            let parsed = BootArgs::parse(text.as_bytes());
            parsed
                .map(|args| args.trace)
                .map_err(|e| e.fix().to_string())
        };
        assert_eq!(parse("host-iommu=paravirt"), Ok(0));
        assert_eq!(parse("trace=64K host-iommu=paravirt"), Ok(64 << 10));
        assert_eq!(parse("host-iommu=paravirt trace=64M"), Ok(64 << 20));
        for wrong in ["", "60K", "65M", "1", "66K1"] {
            let right = "use whole pages of 4 KiB from trace=64K to 64M, such as 1M";
            let line = format!("host-iommu=paravirt trace={wrong}");
            assert_eq!(parse(&line), Err(right.to_owned()), "{wrong}");
        }
        for mode in ["", "host-iommu=nested", "host-iommu=identity"] {
            let right = "use trace= with host-iommu=paravirt, where every mapping is asked for";
            assert_eq!(parse(&format!("trace=1M {mode}")), Err(right.to_owned()));
        }
        for log in ["error", "warn"] {
            let right = "use trace= with log=info or log=debug, at which it is printed";
            let line = format!("trace=1M host-iommu=paravirt log={log}");
            assert_eq!(parse(&line), Err(right.to_owned()));
        }
    }

    #[test]
    fn the_its_can_be_switched_off_and_its_tables_have_bounds() {
        let args = BootArgs::parse(b"gic-its=off its-tables=64K").unwrap();
        assert_eq!((args.gic_its, args.its_tables), (false, 64 << 10));
        let fix = |line: &[u8]| BootArgs::parse(line).unwrap_err().fix().to_string();
        assert_eq!(fix(b"gic-its=no"), "use on or off");
        let right = "use whole pages of 4 KiB from its-tables=64K to 256M, such as 1M";
        for wrong in [b"its-tables=60K".as_slice(), b"its-tables=257M"] {
            assert_eq!(fix(wrong), right);
        }
    }

    #[test]
    fn what_is_allowed_may_be_repeated() {
        let line = "mmio-allow=0x9100000,0x2000 allow-unconfined=/a mmio-allow=4096,4096 allow-unconfined=/b@1/c";
        let args = BootArgs::parse(line.as_bytes()).unwrap();
        let ranges: Vec<_> = args.mmio_allow.iter().copied().collect();
        let range = |at, size| Range::from_size(PhysAddr::new(at), size).unwrap();
        assert_eq!(ranges, [range(0x910_0000, 0x2000), range(0x1000, 0x1000)]);
        assert!(args.allow_unconfined.iter().eq(&["/a", "/b@1/c"]));
        let fix = |line: &str| {
            BootArgs::parse(line.as_bytes())
                .unwrap_err()
                .fix()
                .to_string()
        };
        for wrong in [
            "",
            "0x1000",
            "0x1000,",
            ",0x1000",
            "0x1000,0",
            "0x1001,0x1000",
            "0x1000,1",
            "+0x1000,0x1000",
            "0x+1000,0x1000",
            "0x1000,-0x1000",
            "0x1000,0x1000,0x1000",
            "0xfffffffffffff000,0x2000",
            "1000h,0x1000",
        ] {
            let right = "use whole pages of 4 KiB, as in mmio-allow=0x9100000,0x1000";
            assert_eq!(fix(&format!("mmio-allow={wrong}")), right, "{wrong}");
        }
        assert!(fix("allow-unconfined=serial0").contains("absolute path"));
        let often = "allow-unconfined=/a ".repeat(ALLOW_LIMIT);
        assert!(BootArgs::parse(often.as_bytes()).is_ok());
        let often = often + "allow-unconfined=/a";
        assert_eq!(
            BootArgs::parse(often.as_bytes()),
            Err(BootError::ArgumentTooOften {
                key: "allow-unconfined",
                limit: ALLOW_LIMIT
            })
        );
    }

    #[test]
    fn the_size_of_the_tables_has_bounds() {
        let size = |text: &str| {
            let line = format!("dma-tables={text}");
            BootArgs::parse(line.as_bytes()).map(|args| args.dma_tables)
        };
        assert_eq!(size("256K"), Ok(256 << 10));
        assert_eq!(size("260k"), Ok(260 << 10));
        assert_eq!(size("1024M"), Ok(1 << 30));
        for wrong in [
            "",
            "M",
            "8",
            "8G",
            "252K",
            "257K",
            "1025M",
            "+8M",
            "-8M",
            "0x8M",
            "99999999999999999999M",
            "17592186044416M",
        ] {
            let error = size(wrong).unwrap_err();
            let right = "use whole pages of 4 KiB from dma-tables=256K to 1024M, such as 8M";
            assert_eq!(error.fix().to_string(), right, "{wrong}");
        }
        assert_eq!(
            BootArgs::parse(b"dma-tables=1M dma-tables=1M"),
            Err(BootError::ArgumentTwice { key: "dma-tables" })
        );
    }
}

//! Virtio devices (virtio 1.2, 4.1).

use crate::{ConfigSpace, Function};
use core::fmt;

/// What a virtio device is (virtio 1.2, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    const MEMORY: Self = Self(24);
    const PERSISTENT_MEMORY: Self = Self(27);

    /// By the device number of a virtio function: that of virtio 1.0 and later
    /// is 0x1040 and the kind, transitional ones have a list (4.1.2.1).
    fn of_device(device: u16) -> Option<Self> {
        const TRANSITIONAL: [(u16, u16); 7] = [
            (0x1000, 1),
            (0x1001, 2),
            (0x1002, 5),
            (0x1003, 3),
            (0x1004, 8),
            (0x1005, 4),
            (0x1009, 9),
        ];
        match device {
            0x1040..=0x107f => Some(Self(device - 0x1040)),
            0x1000..=0x103f => {
                let known = TRANSITIONAL.iter().find(|(id, _)| *id == device);
                Some(Self(known.map_or(0, |(_, kind)| *kind)))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "virtio-net",
            2 => "virtio-blk",
            3 => "virtio-console",
            4 => "virtio-rng",
            5 => "virtio-balloon",
            8 => "virtio-scsi",
            9 => "virtio-9p",
            16 => "virtio-gpu",
            18 => "virtio-input",
            19 => "virtio-vsock",
            20 => "virtio-crypto",
            23 => "virtio-iommu",
            24 => "virtio-mem",
            25 => "virtio-sound",
            26 => "virtio-fs",
            27 => "virtio-pmem",
            other => return write!(f, "virtio device {other}"),
        })
    }
}

/// What is wrong with a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It reads and writes memory past every SMMU.
    PastSmmu(Kind),
    /// It makes memory appear that the device tree does not speak of: its address
    /// and its size in bytes, as the device says, or 0 where it does not say.
    BringsMemory(Kind, u64, u64),
    /// It is a virtio device, and its features cannot be read.
    Unreadable(Kind),
}

const VENDOR: u32 = 0x1af4;

/// Status in bits 31:16, of which bit 4 says that there are capabilities.
const STATUS: u8 = 0x04;
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Where the first capability is.
const CAPABILITIES: u8 = 0x34;
/// The first offset of a capability, and how many of 4 bytes there can be.
const FIRST: u8 = 0x40;
const CAPABILITY_LIMIT: usize = 48;
/// A vendor's own capability (PCI 3.0, appendix H).
const VENDOR_SPECIFIC: u32 = 0x09;

/// `cfg_type` of a capability (virtio 1.2, 4.1.4): where the common configuration
/// is, that of the kind of device, and the window.
const COMMON: u32 = 1;
const OWN: u32 = 4;
const WINDOW: u32 = 5;

/// Fields of `struct virtio_pci_cap` (4.1.4), and of the window behind it.
const BAR: u8 = 4;
const OFFSET: u8 = 8;
const LENGTH: u8 = 12;
const DATA: u8 = 16;
const FIELDS: [u8; 3] = [BAR, OFFSET, LENGTH];

/// Fields of the common configuration (4.1.4.3).
const DEVICE_FEATURE_SELECT: u32 = 0;
const DEVICE_FEATURE: u32 = 4;

/// `VIRTIO_F_ACCESS_PLATFORM` (6): bit 33, which is bit 1 of the second word.
const ACCESS_PLATFORM: u32 = 1 << 1;

/// Where the configuration of a device that brings memory says where that is
/// (virtio 1.2, 5.15.4 and 5.19.4): the address, then the size.
const MEMORY_FIELDS: [u32; 2] = [16, 24];
const PERSISTENT_FIELDS: [u32; 2] = [0, 8];

/// What is wrong with the function whose vendor and device are `id`.
pub(crate) fn judge(space: &dyn ConfigSpace, function: Function, id: u32) -> Option<Finding> {
    if id & 0xffff != VENDOR {
        return None;
    }
    let device = u16::try_from(id >> 16).unwrap_or(u16::MAX);
    let kind = Kind::of_device(device)?;
    let capabilities = Capabilities::find(space, function);
    let Some(common) = capabilities.common else {
        // A device of before virtio 1.0 has 32 feature bits and knows physical
        // addresses alone (2.2.3, 4.1.4.10).
        return Some(Finding::PastSmmu(kind));
    };
    let features = capabilities
        .window
        .and_then(|window| Window::new(space, function, window, common).upper_features());
    match features {
        Some(upper) if upper & ACCESS_PLATFORM != 0 => {
            let fields = match kind {
                Kind::MEMORY => MEMORY_FIELDS,
                Kind::PERSISTENT_MEMORY => PERSISTENT_FIELDS,
                _ => return None,
            };
            let (Some(own), Some(window)) = (capabilities.own, capabilities.window) else {
                return Some(Finding::BringsMemory(kind, 0, 0));
            };
            let window = Window::new(space, function, window, own);
            let [address, size] = window.numbers(fields);
            Some(Finding::BringsMemory(kind, address, size))
        }
        Some(_) => Some(Finding::PastSmmu(kind)),
        // Memory that the host's CPUs and devices do not reach is of no use to it.
        None if kind == Kind::MEMORY || kind == Kind::PERSISTENT_MEMORY => {
            Some(Finding::BringsMemory(kind, 0, 0))
        }
        None => Some(Finding::Unreadable(kind)),
    }
}

/// Where the capabilities are.
#[derive(Default)]
struct Capabilities {
    common: Option<u8>,
    own: Option<u8>,
    window: Option<u8>,
}

impl Capabilities {
    fn find(space: &dyn ConfigSpace, function: Function) -> Self {
        let mut found = Self::default();
        if space.read(function, STATUS) & HAS_CAPABILITIES == 0 {
            return found;
        }
        let pointer = |word: u32| u8::try_from(word & 0xfc).unwrap_or(0);
        let mut at = pointer(space.read(function, CAPABILITIES));
        // A list may lead around in a circle.
        for _ in 0..CAPABILITY_LIMIT {
            if at < FIRST {
                break;
            }
            let word = space.read(function, at);
            let (id, kind) = (word & 0xff, word >> 24);
            let fits = |last: u8| at.checked_add(last).is_some();
            if id == VENDOR_SPECIFIC && kind == COMMON && fits(LENGTH + 3) {
                // The first is the one to use (4.1.4).
                found.common = found.common.or(Some(at));
            }
            if id == VENDOR_SPECIFIC && kind == OWN && fits(LENGTH + 3) {
                found.own = found.own.or(Some(at));
            }
            if id == VENDOR_SPECIFIC && kind == WINDOW && fits(DATA + 3) {
                found.window = found.window.or(Some(at));
            }
            at = pointer(word >> 8);
        }
        found
    }
}

/// The window in configuration space to what is in a BAR.
struct Window<'s> {
    space: &'s dyn ConfigSpace,
    function: Function,
    at: u8,
    /// BAR and offset of the configuration that is looked at.
    bar: u32,
    base: u32,
}

impl<'s> Window<'s> {
    fn new(space: &'s dyn ConfigSpace, function: Function, window: u8, capability: u8) -> Self {
        Self {
            space,
            function,
            at: window,
            bar: space.read(function, capability + BAR) & 0xff,
            base: space.read(function, capability + OFFSET),
        }
    }

    /// Bits 32 to 63 of what the device offers; `None` when the window does not
    /// work.
    fn upper_features(&self) -> Option<u32> {
        let before = self.place();
        let select = self.look(DEVICE_FEATURE_SELECT);
        self.put(DEVICE_FEATURE_SELECT, 1);
        // A window that leads nowhere reads as anything, but not as what was
        // written, both times.
        let first = self.look(DEVICE_FEATURE_SELECT) == 1;
        let upper = self.look(DEVICE_FEATURE);
        self.put(DEVICE_FEATURE_SELECT, 0);
        let second = self.look(DEVICE_FEATURE_SELECT) == 0;
        self.put(DEVICE_FEATURE_SELECT, select);
        self.put_back(before);
        (first && second).then_some(upper)
    }

    /// Two numbers of 64 bits, each at an offset.
    fn numbers(&self, at: [u32; 2]) -> [u64; 2] {
        let before = self.place();
        let numbers = at.map(|at| {
            let (low, high) = (self.look(at), self.look(at + 4));
            u64::from(high) << 32 | u64::from(low)
        });
        self.put_back(before);
        numbers
    }

    /// Where the window leads.
    fn place(&self) -> [u32; 3] {
        FIELDS.map(|field| self.space.read(self.function, self.at + field))
    }

    fn put_back(&self, place: [u32; 3]) {
        for (field, value) in FIELDS.into_iter().zip(place) {
            self.space.write(self.function, self.at + field, value);
        }
    }

    /// Points the window at 32 bits of the configuration.
    fn point(&self, field: u32) {
        let keep = self.space.read(self.function, self.at + BAR) & !0xff;
        let to = [
            (BAR, keep | self.bar),
            (OFFSET, self.base.wrapping_add(field)),
            (LENGTH, 4),
        ];
        for (field, value) in to {
            self.space.write(self.function, self.at + field, value);
        }
    }

    fn look(&self, field: u32) -> u32 {
        self.point(field);
        self.space.read(self.function, self.at + DATA)
    }

    fn put(&self, field: u32, value: u32) {
        self.point(field);
        self.space.write(self.function, self.at + DATA, value);
    }
}

//! The survey against a machine of bridges and functions that answers as PCI
//! says.

use portcullis_pci_survey::{
    ConfigSpace, DEPTH_LIMIT, Finding, Function, Kind, SAVED_LIMIT, Slot, Survey, root_slots,
    survey,
};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// One function.
#[derive(Clone, Default)]
struct Device {
    words: Vec<u32>,
    /// Upper feature bits, where the window works.
    upper: Option<u32>,
    select: u32,
    /// What is behind a bridge.
    behind: BTreeMap<u8, Device>,
    bridge: bool,
}

const COMMON: usize = 0x40;
const OWN: usize = 0x78;
const WINDOW: usize = 0x60;

impl Device {
    fn plain(vendor: u32, device: u32) -> Self {
        let mut this = Self {
            words: vec![0; 64],
            ..Self::default()
        };
        this.words[0] = vendor | device << 16;
        this
    }

    /// A virtio device with `upper` as bits 32 to 63 of its features.
    fn virtio(device: u32, upper: Option<u32>) -> Self {
        let mut this = Self::plain(0x1af4, device);
        this.upper = upper;
        this.words[1] = 1 << 20;
        this.words[0x34 / 4] = COMMON as u32;
        this.words[COMMON / 4] = 1 << 24 | 16 << 16 | (WINDOW as u32) << 8 | 9;
        this.words[COMMON / 4 + 1] = 4;
        this.words[COMMON / 4 + 2] = 0x3000;
        this.words[COMMON / 4 + 3] = 0x1000;
        this.words[WINDOW / 4] = 5 << 24 | 20 << 16 | (OWN as u32) << 8 | 9;
        this.words[OWN / 4] = 4 << 24 | 16 << 16 | 9;
        this.words[OWN / 4 + 1] = 4;
        this.words[OWN / 4 + 2] = 0x5000;
        this.words[OWN / 4 + 3] = 0x1000;
        // Somebody has used the window before.
        this.words[WINDOW / 4 + 1] = 0xabcd_ef02;
        this.words[WINDOW / 4 + 2] = 0x77;
        this.words[WINDOW / 4 + 3] = 2;
        this.select = 7;
        this
    }

    fn bridge(numbers: u32, behind: impl IntoIterator<Item = (u8, Device)>) -> Self {
        let mut this = Self::plain(0x1b36, 0x000c);
        this.words[3] = 1 << 16;
        this.words[6] = numbers;
        this.bridge = true;
        this.behind = behind.into_iter().collect();
        this
    }

    fn window(&self) -> Option<u32> {
        let at = WINDOW / 4;
        let common = self.words[at + 1] & 0xff == 4 && self.words[at + 3] == 4;
        common.then(|| self.words[at + 2].wrapping_sub(0x3000))
    }

    /// What the device's own configuration has at the window: each word says where
    /// it is.
    fn own(&self) -> Option<u32> {
        let at = WINDOW / 4;
        let leads = self.words[at + 1] & 0xff == 4 && self.words[at + 3] == 4;
        let offset = self.words[at + 2].wrapping_sub(0x5000);
        (leads && offset < 0x1000).then_some(0x1_0000 + offset)
    }

    fn read(&self, offset: u8) -> u32 {
        if usize::from(offset) == WINDOW + 16 && self.words[0] & 0xffff == 0x1af4 {
            return match (self.upper, self.window()) {
                (Some(_), Some(0)) => self.select,
                (Some(upper), Some(4)) if self.select == 1 => upper,
                (Some(_), Some(4)) => 0x3000_0000,
                (Some(_), _) if self.own().is_some() => self.own().expect("a word"),
                _ => u32::MAX,
            };
        }
        self.words[usize::from(offset) / 4]
    }

    fn write(&mut self, offset: u8, value: u32) {
        let at = usize::from(offset);
        if at == WINDOW + 16 {
            if self.upper.is_some() && self.window() == Some(0) {
                self.select = value;
            }
        } else if (self.bridge && at == 0x18) || (WINDOW + 4..WINDOW + 16).contains(&at) {
            self.words[at / 4] = value;
        } else {
            panic!("a write at {at:#x}");
        }
    }
}

/// A root bus, whose number is `first`.
struct Machine {
    first: u8,
    root: RefCell<BTreeMap<u8, Device>>,
}

impl Machine {
    fn new(first: u8, root: impl IntoIterator<Item = (u8, Device)>) -> Self {
        Self {
            first,
            root: RefCell::new(root.into_iter().collect()),
        }
    }

    /// What answers on `bus`: the root's functions, or those behind bridges that
    /// lead there. Two that lead there are a mistake.
    fn find(
        devices: &mut BTreeMap<u8, Device>,
        own: u8,
        bus: u8,
    ) -> Option<&mut BTreeMap<u8, Device>> {
        if own == bus {
            return Some(devices);
        }
        let leads = |device: &&mut Device| {
            let (secondary, subordinate) = (device.words[6] >> 8, device.words[6] >> 16);
            let (secondary, subordinate) = (secondary as u8, subordinate as u8);
            device.bridge && secondary != 0 && (secondary..=subordinate).contains(&bus)
        };
        let mut all: Vec<_> = devices.values_mut().filter(leads).collect();
        assert!(all.len() <= 1, "two bridges lead to bus {bus}");
        let bridge = all.pop()?;
        let secondary = (bridge.words[6] >> 8) as u8;
        assert_eq!(bridge.words[6] as u8, own, "the primary bus number");
        Self::find(&mut bridge.behind, secondary, bus)
    }

    fn survey(&self, last: u8) -> (Survey, Vec<(String, Finding)>) {
        let mut found = Vec::new();
        let seen = survey(self, self.first..=last, &mut |function, finding| {
            found.push((function.to_string(), finding));
        });
        (seen, found)
    }

    /// All words of all functions, and what they selected.
    fn state(&self) -> Vec<(Vec<u32>, u32)> {
        fn add(devices: &BTreeMap<u8, Device>, out: &mut Vec<(Vec<u32>, u32)>) {
            for device in devices.values() {
                out.push((device.words.clone(), device.select));
                add(&device.behind, out);
            }
        }
        let mut out = Vec::new();
        add(&self.root.borrow(), &mut out);
        out
    }
}

impl ConfigSpace for Machine {
    fn read(&self, function: Function, offset: u8) -> u32 {
        assert!(offset.is_multiple_of(4));
        let mut root = self.root.borrow_mut();
        let bus = Self::find(&mut root, self.first, function.bus);
        let device = bus.and_then(|devices| devices.get(&function.devfn));
        device.map_or(u32::MAX, |device| device.read(offset))
    }
    fn write(&self, function: Function, offset: u8, value: u32) {
        let mut root = self.root.borrow_mut();
        let bus = Self::find(&mut root, self.first, function.bus);
        let device = bus.and_then(|devices| devices.get_mut(&function.devfn));
        device.expect("a function").write(offset, value);
    }
}

const SAFE: Option<u32> = Some(0b11);
const PAST: Option<u32> = Some(0b01);

#[test]
fn bit_33_decides() {
    let devices = [
        (8, Device::virtio(0x1041, PAST)),
        (16, Device::virtio(0x1041, SAFE)),
        // Transitional ones have both interfaces.
        (24, Device::virtio(0x1001, PAST)),
        (32, Device::virtio(0x1001, SAFE)),
        // Somebody else's, with the same numbers.
        (40, Device::plain(0x8086, 0x1041)),
        // Red Hat's, and no virtio: ivshmem.
        (48, Device::plain(0x1af4, 0x1110)),
    ];
    let machine = Machine::new(0, devices);
    let before = machine.state();
    let (seen, found) = machine.survey(255);
    assert_eq!(
        seen,
        Survey {
            functions: 6,
            unseen: 0
        }
    );
    assert_eq!(
        found,
        [
            ("00:01.0".into(), Finding::PastSmmu(Kind(1))),
            ("00:03.0".into(), Finding::PastSmmu(Kind(2))),
        ]
    );
    assert_eq!(machine.state(), before);
}

#[test]
fn a_device_of_before_virtio_1_has_no_bit_33() {
    let machine = Machine::new(0, [(0, Device::plain(0x1af4, 0x1000))]);
    let (_, found) = machine.survey(255);
    assert_eq!(found, [("00:00.0".into(), Finding::PastSmmu(Kind(1)))]);
    assert_eq!(Kind(1).to_string(), "virtio-net");
}

#[test]
fn memory_that_appears_is_found_and_where() {
    let mut silent = Device::virtio(0x1058, SAFE);
    silent.words[WINDOW / 4] &= !0xff00;
    let devices = [
        (0, Device::virtio(0x1058, SAFE)),
        (1, Device::virtio(0x105b, SAFE)),
        // One whose DMA goes past the SMMU, and two that do not say where.
        (2, Device::virtio(0x1058, PAST)),
        (3, Device::virtio(0x105b, None)),
        (4, silent),
    ];
    let (_, found) = Machine::new(0, devices).survey(255);
    let kinds: Vec<_> = found.into_iter().map(|(_, finding)| finding).collect();
    assert_eq!(
        kinds,
        [
            Finding::BringsMemory(Kind(24), 0x1_0014_0001_0010, 0x1_001c_0001_0018),
            Finding::BringsMemory(Kind(27), 0x1_0004_0001_0000, 0x1_000c_0001_0008),
            Finding::PastSmmu(Kind(24)),
            Finding::BringsMemory(Kind(27), 0, 0),
            Finding::BringsMemory(Kind(24), 0, 0),
        ]
    );
    assert_eq!(Kind(27).to_string(), "virtio-pmem");
}

#[test]
fn what_cannot_be_read_is_said() {
    // A window that leads nowhere, and none at all.
    let mut without = Device::virtio(0x1041, SAFE);
    without.words[COMMON / 4] &= !0xff00;
    let mut circle = Device::virtio(0x1041, SAFE);
    circle.words[COMMON / 4] = circle.words[COMMON / 4] & !0xff00 | (COMMON as u32) << 8;
    let devices = [
        (0, Device::virtio(0x1041, None)),
        (8, without),
        (16, circle),
    ];
    let machine = Machine::new(0, devices);
    let before = machine.state();
    let (_, found) = machine.survey(255);
    assert!(
        found
            .iter()
            .all(|(_, f)| *f == Finding::Unreadable(Kind(1)))
    );
    assert_eq!(found.len(), 3);
    assert_eq!(machine.state(), before);
}

/// Without firmware no bridge has a bus number; with it they have some, which
/// are put back.
#[test]
fn functions_behind_bridges_are_found() {
    for numbers in [0, 0x4009_0800, 0x0003_0201, 0x40ff_0504] {
        let inner = || Device::bridge(numbers, [(0, Device::virtio(0x1041, PAST))]);
        let outer = Device::bridge(numbers, [(0, inner()), (8, inner()), (255, inner())]);
        let root = [
            (8, outer.clone()),
            (9, Device::bridge(numbers, [])),
            (10, outer),
            (16, Device::virtio(0x1041, SAFE)),
        ];
        let machine = Machine::new(4, root);
        let before = machine.state();
        let (seen, found) = machine.survey(255);
        assert_eq!(
            seen,
            Survey {
                functions: 16,
                unseen: 0
            }
        );
        assert_eq!(found.len(), 6);
        assert!(
            found
                .iter()
                .all(|(at, f)| at == "06:00.0" && *f == Finding::PastSmmu(Kind(1)))
        );
        assert_eq!(machine.state(), before, "{numbers:#x}");
    }
}

#[test]
fn what_is_too_deep_or_has_no_number_is_counted() {
    let mut chain = Device::virtio(0x1041, PAST);
    for _ in 0..DEPTH_LIMIT + 3 {
        chain = Device::bridge(0, [(0, chain)]);
    }
    let machine = Machine::new(0, [(0, chain.clone())]);
    let before = machine.state();
    let (seen, found) = machine.survey(255);
    assert_eq!((seen.unseen, found.len()), (1, 0));
    assert_eq!(machine.state(), before);
    // A host bridge with two buses.
    let machine = Machine::new(8, [(0, chain)]);
    assert_eq!(
        machine.survey(9).0,
        Survey {
            functions: 2,
            unseen: 1
        }
    );
    assert_eq!(machine.state(), before);
}

#[test]
fn more_bridges_than_can_be_put_back_are_left_alone() {
    let many = |behind: Vec<(u8, Device)>| {
        let all = (1..=255).map(|devfn| (devfn, Device::bridge(0, [])));
        Device::bridge(0, all.chain(behind))
    };
    let root = [
        (0, many(vec![(0, Device::bridge(0, []))])),
        (1, many(vec![])),
    ];
    let machine = Machine::new(0, root);
    let before = machine.state();
    let (seen, _) = machine.survey(255);
    assert!(SAVED_LIMIT == 256 && seen.unseen == 3, "{seen:?}");
    assert_eq!(machine.state(), before);
}

/// A function that answers with anything keeps the survey from nothing.
#[test]
fn garbage_ends() {
    struct Noise(std::cell::Cell<u64>);
    impl ConfigSpace for Noise {
        fn read(&self, _: Function, offset: u8) -> u32 {
            let x = self
                .0
                .get()
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1);
            self.0.set(x);
            if offset == 0 {
                0x1041_1af4
            } else {
                (x >> 32) as u32 & !(1 << 16)
            }
        }
        fn write(&self, _: Function, _: u8, _: u32) {}
    }
    for seed in 0..64 {
        let noise = Noise(std::cell::Cell::new(seed));
        assert_eq!(survey(&noise, 0..=255, &mut |_, _| {}).functions, 256);
    }
    // Bridges on every bus, so many that the paths are without number.
    struct Bridges(u8, std::cell::Cell<u64>);
    impl ConfigSpace for Bridges {
        fn read(&self, function: Function, _: u8) -> u32 {
            self.1.set(self.1.get() + 1);
            if function.devfn < self.0 {
                1 << 16 | 1
            } else {
                u32::MAX
            }
        }
        fn write(&self, _: Function, _: u8, _: u32) {}
    }
    for each in [1, 2, 16, 255] {
        let bridges = Bridges(each, std::cell::Cell::new(0));
        let seen = survey(&bridges, 0..=255, &mut |_, _| {});
        assert!(
            seen.unseen > 0 && bridges.1.get() <= 256 * 256 * 3,
            "{each}"
        );
    }
}

#[test]
fn the_slots_of_a_root_bus_are_told_apart() {
    let class = |mut device: Device, class: u32| {
        device.words[2] = class << 24;
        device
    };
    let header = |mut device: Device, kind: u32| {
        device.words[3] = kind << 16;
        device
    };
    let nvme = || class(Device::plain(0x1b36, 0x10), 1);
    let host = || class(Device::plain(0x1b36, 0x8), 6);
    let bridge = |numbers| class(Device::bridge(numbers, []), 6);
    let machine = Machine::new(
        4,
        [
            (0x00, host()),
            (0x09, nvme()),
            // Some functions of a slot.
            (0x10, host()),
            (0x17, nvme()),
            // With and without numbers, a multifunction one, and together.
            (0x18, bridge(0xff07_0504)),
            (0x20, bridge(0)),
            (0x28, header(bridge(0x0008_0804), 0x81)),
            (0x2f, bridge(0x000a_0904)),
            (0x30, bridge(0x000b_0b04)),
            (0x31, bridge(0)),
            (0x32, nvme()),
            (0x38, nvme()),
            (0x39, bridge(0x000c_0c04)),
            // Numbers that make no sense: of another bus, its own, upside down.
            (0x40, bridge(0x000d_0d03)),
            (0x48, bridge(0x000d_0404)),
            (0x50, bridge(0x000d_0e04)),
            // CardBus, and one that has no header that is known.
            (0x58, header(bridge(0x000d_0d04), 2)),
            (0x60, header(nvme(), 3)),
            (0xff, nvme()),
        ],
    );
    let mut right = [Slot::Empty; 32];
    for (slot, has) in [
        (1, Slot::Functions),
        (2, Slot::Functions),
        (3, Slot::Bridge(Some((5, 7)))),
        (4, Slot::Bridge(None)),
        (5, Slot::Bridge(Some((8, 10)))),
        (6, Slot::Bridge(None)),
        (7, Slot::Bridge(Some((12, 12)))),
        (8, Slot::Bridge(None)),
        (9, Slot::Bridge(None)),
        (10, Slot::Bridge(None)),
        (11, Slot::Bridge(None)),
        (12, Slot::Bridge(None)),
        (31, Slot::Functions),
    ] {
        right[slot] = has;
    }
    assert_eq!(root_slots(&machine, 4), right);
}

//! Sequences of requests to a virtio-iommu device, from a seed.

use crate::random::Random;

/// The endpoints that QEMU has for us: functions of its PCI bus.
pub const ENDPOINTS: [u32; 3] = [0x08, 0x10, 0x13];

/// What both sides can translate: QEMU is told 48 bits.
pub const LAST: u64 = (1 << 48) - 1;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// ATTACH.
    Attach {
        /// Where to.
        domain: u32,
        /// Whom.
        endpoint: u32,
        /// `flags`.
        flags: u32,
        /// `reserved`.
        reserved: u32,
    },
    /// DETACH.
    Detach {
        /// Where from.
        domain: u32,
        /// Whom.
        endpoint: u32,
    },
    /// MAP.
    Map {
        /// Where.
        domain: u32,
        /// `virt_start`.
        first: u64,
        /// `virt_end`.
        last: u64,
        /// `phys_start`.
        to: u64,
        /// `flags`.
        flags: u32,
    },
    /// UNMAP.
    Unmap {
        /// Where.
        domain: u32,
        /// `virt_start`.
        first: u64,
        /// `virt_end`.
        last: u64,
    },
    /// PROBE.
    Probe {
        /// Whom.
        endpoint: u32,
    },
    /// A type that there is not.
    Unknown(u8),
    /// Another request, of which the driver gives only so many bytes.
    Short {
        /// Its type.
        kind: u8,
        /// Its bytes, from 4.
        len: usize,
    },
}

impl Ask {
    /// The readable part.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let words = |kind: u8, words: &[u32]| {
            let mut body = vec![kind, 0, 0, 0];
            body.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            body
        };
        match *self {
            Self::Attach {
                domain,
                endpoint,
                flags,
                reserved,
            } => words(1, &[domain, endpoint, flags, reserved]),
            Self::Detach { domain, endpoint } => words(2, &[domain, endpoint, 0, 0]),
            Self::Map {
                domain,
                first,
                last,
                to,
                flags,
            } => {
                let mut body = words(3, &[domain]);
                body.extend([first, last, to].iter().flat_map(|word| word.to_le_bytes()));
                body.extend(flags.to_le_bytes());
                body
            }
            Self::Unmap {
                domain,
                first,
                last,
            } => {
                let mut body = words(4, &[domain]);
                body.extend([first, last].iter().flat_map(|word| word.to_le_bytes()));
                body.extend([0; 4]);
                body
            }
            Self::Probe { endpoint } => {
                let mut body = words(5, &[endpoint]);
                body.extend([0; 64]);
                body
            }
            Self::Unknown(kind) => words(kind, &[0; 8]),
            Self::Short { kind, len } => {
                let mut body = words(kind, &[0; 17]);
                body.truncate(len);
                body
            }
        }
    }

    /// Whether the answer has properties before the status.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        matches!(self, Self::Probe { .. } | Self::Short { kind: 5, .. })
    }
}

/// How the chain of a request is cut: the sizes of its readable pieces but for
/// the last, and of its writable ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// What is asked.
    pub ask: Ask,
    /// Readable pieces.
    pub body: Vec<usize>,
    /// Writable pieces.
    pub tail: Vec<usize>,
    /// The descriptors lie in a table of their own.
    pub table: bool,
    /// The driver notifies after this one.
    pub notify: bool,
}

/// A sequence, with the features of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// VIRTIO_F_EVENT_IDX is agreed on.
    pub event_idx: bool,
    /// The requests.
    pub sent: Vec<Sent>,
}

fn domain(random: &mut Random) -> u32 {
    match random.below(30) {
        0 => u32::MAX,
        1 => 0,
        _ => 1 + random.below(3) as u32,
    }
}

/// What a case draws from.
struct Draw {
    random: Random,
    /// What QEMU is known to do otherwise is drawn, too.
    strange: bool,
    /// Endpoints, and the domains that they are in if all goes as it should.
    attached: Vec<(u32, u32)>,
}

impl Draw {
    fn rarely(&mut self, one_in: u64) -> bool {
        self.strange && self.random.below(one_in) == 0
    }

    fn endpoint(&mut self) -> u32 {
        if self.random.chance(4) {
            // Not on any bus. QEMU looks at 16 bits only, and then has an
            // endpoint of that number for good: no others.
            self.random.pick(&[0xff00, 0x7f08, u32::MAX])
        } else {
            self.random.pick(&ENDPOINTS)
        }
    }

    fn range(&mut self) -> (u64, u64) {
        let first = match self.random.below(40) {
            0 => LAST - 0xfff,
            _ if self.rarely(30) => LAST + 1,
            _ if self.rarely(30) => self.random.word() & !0xfff,
            _ if self.rarely(30) => 0x1_0000 + self.random.below(0x1000),
            _ => 0x1_0000 + 0x1000 * self.random.below(24),
        };
        let size = match () {
            () if self.rarely(40) => 0,
            () if self.rarely(40) => self.random.word(),
            () if self.rarely(40) => 0x1000 * self.random.below(1 << 40),
            () if self.rarely(40) => 0x800,
            () => 0x1000 * (1 + self.random.below(5)),
        };
        let last = first.wrapping_add(size).wrapping_sub(1);
        (first, if self.strange { last } else { last.min(LAST) })
    }

    /// What an UNMAP is about, which may begin and end within a page, cover no
    /// mapping, or lie where none can be.
    fn any_range(&mut self) -> (u64, u64) {
        let (first, last) = self.range();
        let (first, last) = (self.nudge(first), self.nudge(last));
        let last = if self.random.chance(4) {
            u64::MAX
        } else {
            last
        };
        if self.strange {
            (first, last)
        } else {
            (first.min(last), first.max(last))
        }
    }

    fn nudge(&mut self, at: u64) -> u64 {
        match self.random.below(40) {
            0..4 => at
                .wrapping_add(self.random.below(0x2000))
                .wrapping_sub(0x1000),
            4 => self.random.word(),
            _ => at,
        }
    }

    fn ask(&mut self) -> Ask {
        let domain = domain(&mut self.random);
        match self.random.below(40) {
            0..9 => self.attach(domain),
            9..12 => self.detach(domain),
            12..25 => self.map(domain),
            25..35 => {
                let (first, last) = self.any_range();
                Ask::Unmap {
                    domain,
                    first,
                    last,
                }
            }
            35..37 => Ask::Probe {
                endpoint: self.endpoint(),
            },
            37 if self.strange => Ask::Unknown(self.random.pick(&[0, 6, 7, 0x80, 0xff])),
            _ => {
                let kind = 1 + self.random.below(5) as u8;
                let whole = [20, 20, 36, 28, 72][usize::from(kind) - 1];
                let len = 4 + self.random.below(whole - 4) as usize;
                Ask::Short { kind, len }
            }
        }
    }

    fn attach(&mut self, mut domain: u32) -> Ask {
        let endpoint = self.endpoint();
        if !self.strange && self.attached.contains(&(endpoint, domain)) {
            domain = domain % 3 + 1;
        }
        let flags = match () {
            () if self.rarely(30) => 1,
            // Unknown flags beside it, or not.
            () if self.random.chance(3) => 2 | self.random.bits(32) as u32,
            () => 0,
        };
        let reserved = if self.rarely(30) {
            self.random.bits(32) as u32
        } else {
            0
        };
        if flags == 0 && reserved == 0 && ENDPOINTS.contains(&endpoint) {
            self.attached.retain(|(other, _)| *other != endpoint);
            self.attached.push((endpoint, domain));
        }
        Ask::Attach {
            domain,
            endpoint,
            flags,
            reserved,
        }
    }

    fn detach(&mut self, domain: u32) -> Ask {
        let mut endpoint = self.endpoint();
        if !self.strange {
            let Some((attached, from)) = self.attached.pop() else {
                return self.attach(domain);
            };
            endpoint = attached;
            if from != domain {
                self.attached.push((attached, from));
            }
        }
        Ask::Detach { domain, endpoint }
    }

    fn map(&mut self, domain: u32) -> Ask {
        let (first, last) = self.range();
        let to = match () {
            () if self.rarely(40) => !0xfff,
            () if self.rarely(40) => self.random.word(),
            () => self.random.bits(30) << 12,
        };
        let flags = if self.random.chance(5) {
            self.random.bits(32) as u32
        } else {
            self.random.bits(3) as u32
        };
        Ask::Map {
            domain,
            first,
            last,
            to,
            flags,
        }
    }
}

/// Sizes of pieces, some of them none.
fn cuts(random: &mut Random) -> Vec<usize> {
    if random.chance(60) {
        return Vec::new();
    }
    (0..random.below(4))
        // QEMU takes no empty piece.
        .map(|_| 1 + random.below(9) as usize)
        .collect()
}

/// A domain that no case has.
const NOWHERE: u32 = 0xdead;

/// What empties a device: QEMU's keeps its domains when it is reset (5.13.5).
fn prologue() -> impl Iterator<Item = Sent> {
    ENDPOINTS.into_iter().flat_map(|endpoint| {
        let attach = Ask::Attach {
            domain: NOWHERE,
            endpoint,
            flags: 0,
            reserved: 0,
        };
        let detach = Ask::Detach {
            domain: NOWHERE,
            endpoint,
        };
        [attach, detach].map(|ask| Sent {
            ask,
            body: Vec::new(),
            tail: Vec::new(),
            table: false,
            notify: false,
        })
    })
}

/// Case `number` of a seed.
#[must_use]
pub fn case(seed: u64, number: u64) -> Case {
    let mut random = Random::new(seed, number);
    let count = 8 + random.below(40);
    let event_idx = random.chance(50);
    let mut draw = Draw {
        strange: random.chance(40),
        random,
        attached: Vec::new(),
    };
    let sent = (0..count).map(|_| Sent {
        ask: draw.ask(),
        body: cuts(&mut draw.random),
        tail: cuts(&mut draw.random),
        table: draw.random.chance(20),
        notify: draw.random.chance(70),
    });
    Case {
        event_idx,
        sent: prologue().chain(sent).collect(),
    }
}

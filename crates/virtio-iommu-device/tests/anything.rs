//! Random requests in random shapes, bursts and shares of work, beside a
//! reference that knows nothing of rings: the same statuses, each chain back
//! once and in order, and not a byte of memory changed but answers and used
//! rings.
#![allow(missing_docs)]

mod common;

use common::{
    Driver, EVENT_IDX, INDIRECT, NEXT, PLAIN, Pace, RAM, REQUESTS, TABLE, WRITE, attach,
    descriptor, detach, map, probe, unmap,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use virtio_iommu_device::Config;

/// A request as its fields.
#[derive(Clone, Debug)]
enum Ask {
    Attach(u32, u32, u32, u32),
    Detach(u32, u32),
    Map(u32, u64, u64, u64, u32),
    Unmap(u32, u64, u64),
    Probe(u32),
    Unknown(u8),
}

/// What a driver may be told, by the text of 5.13.6.
#[derive(Default)]
struct Reference {
    attached: BTreeMap<u32, u32>,
    /// Domain, first and last address.
    mappings: Vec<(u32, u64, u64)>,
}

const FIRST: u64 = 0x1_0000;
const LAST: u64 = (1 << 40) - 1;
const ENDPOINTS: [u32; 3] = [0, 8, 0x1234];

impl Reference {
    fn exists(&self, domain: u32) -> bool {
        self.attached.values().any(|other| *other == domain)
    }

    fn leave(&mut self, endpoint: u32) {
        if let Some(domain) = self.attached.remove(&endpoint)
            && !self.exists(domain)
        {
            self.mappings.retain(|(other, ..)| *other != domain);
        }
    }

    fn overlapping(&self, domain: u32, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mappings = self.mappings.iter();
        let ours =
            mappings.filter(|(other, from, to)| *other == domain && *from <= last && first <= *to);
        ours.map(|(_, from, to)| (*from, *to)).collect()
    }

    /// The status, or `None` for no answer.
    fn ask(&mut self, ask: &Ask) -> Option<u8> {
        let aligned = |at: u64| at.is_multiple_of(0x1000);
        Some(match *ask {
            Ask::Attach(_, _, flags, reserved) if flags != 0 || reserved != 0 => 4,
            Ask::Attach(_, endpoint, ..) | Ask::Detach(_, endpoint) | Ask::Probe(endpoint)
                if !ENDPOINTS.contains(&endpoint) =>
            {
                6
            }
            Ask::Attach(domain, ..) if !(1..=100).contains(&domain) => 5,
            Ask::Attach(domain, endpoint, ..) => {
                if self.attached.get(&endpoint) != Some(&domain) {
                    self.leave(endpoint);
                    self.attached.insert(endpoint, domain);
                }
                0
            }
            Ask::Detach(domain, endpoint) => {
                if self.attached.get(&endpoint) != Some(&domain) {
                    return Some(4);
                }
                self.leave(endpoint);
                0
            }
            Ask::Map(_, _, _, _, flags) if flags > 7 => 4,
            Ask::Map(domain, first, last, to, _) => {
                if !aligned(first)
                    || !aligned(last.wrapping_add(1))
                    || !aligned(to)
                    || first < FIRST
                    || last > LAST
                    || first > last
                {
                    5
                } else if (u128::from(to) + u128::from(last - first)) >> 64 != 0 {
                    7
                } else if !self.exists(domain) {
                    6
                } else if !self.overlapping(domain, first, last).is_empty() {
                    4
                } else {
                    self.mappings.push((domain, first, last));
                    0
                }
            }
            Ask::Unmap(domain, first, last) => {
                if first > last {
                    return Some(5);
                }
                if !self.exists(domain) {
                    return Some(6);
                }
                let hit = self.overlapping(domain, first, last);
                if hit.iter().any(|(from, to)| *from < first || *to > last) {
                    return Some(5);
                }
                let gone = |from: u64| hit.iter().any(|(other, _)| *other == from);
                self.mappings
                    .retain(|(other, from, _)| *other != domain || !gone(*from));
                0
            }
            Ask::Probe(_) => 0,
            Ask::Unknown(_) => return None,
        })
    }
}

impl Ask {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Attach(domain, endpoint, flags, reserved) => {
                let mut body = attach(domain, endpoint);
                body[12..16].copy_from_slice(&flags.to_le_bytes());
                body[16..].copy_from_slice(&reserved.to_le_bytes());
                body
            }
            Self::Detach(domain, endpoint) => detach(domain, endpoint),
            Self::Map(domain, first, last, to, flags) => map(domain, first, last, to, flags),
            Self::Unmap(domain, first, last) => unmap(domain, first, last),
            Self::Probe(endpoint) => probe(endpoint),
            Self::Unknown(kind) => vec![kind; 40],
        }
    }
}

fn rarely<T: Clone + std::fmt::Debug + 'static>(
    usual: impl Strategy<Value = T> + 'static,
    rare: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![12 => usual, 1 => rare]
}

fn domain() -> impl Strategy<Value = u32> {
    rarely(
        1..4u32,
        prop_oneof![Just(0), Just(100), Just(101), any::<u32>()],
    )
}

fn endpoint() -> impl Strategy<Value = u32> {
    rarely(proptest::sample::select(&ENDPOINTS[..]), any::<u32>())
}

fn first() -> impl Strategy<Value = u64> {
    let pages = (0..24u64).prop_map(|page| FIRST + 0x1000 * page);
    let edges = prop_oneof![
        Just(0),
        Just(LAST - 0xfff),
        Just(LAST + 1),
        Just(!0xfffu64),
        any::<u64>(),
        any::<u64>().prop_map(|at| at & !0xfff),
    ];
    rarely(pages, edges)
}

fn range() -> impl Strategy<Value = (u64, u64)> {
    let size = rarely(1..6u64, prop_oneof![Just(0), Just(1 << 28), Just(1 << 52)]);
    let odd = rarely(Just(0), 1..0x1000u64);
    (first(), size, odd).prop_map(|(first, pages, odd)| {
        let last = first
            .wrapping_add(pages.wrapping_mul(0x1000))
            .wrapping_add(odd);
        (first, last.wrapping_sub(1))
    })
}

fn to() -> impl Strategy<Value = u64> {
    let page = any::<u32>().prop_map(|page| u64::from(page) << 12);
    rarely(page, prop_oneof![any::<u64>(), Just(!0xfffu64)])
}

fn ask() -> impl Strategy<Value = Ask> {
    let zero = || rarely(Just(0u32), any::<u32>());
    prop_oneof![
        3 => (domain(), endpoint(), zero(), zero()).prop_map(|(d, e, f, r)| Ask::Attach(d, e, f, r)),
        1 => (domain(), endpoint()).prop_map(|(d, e)| Ask::Detach(d, e)),
        6 => (domain(), range(), to(), rarely(0..8u32, any::<u32>()))
            .prop_map(|(d, (first, last), to, flags)| Ask::Map(d, first, last, to, flags)),
        4 => (domain(), range()).prop_map(|(d, (first, last))| Ask::Unmap(d, first, last)),
        1 => endpoint().prop_map(Ask::Probe),
        1 => (6u8..).prop_map(Ask::Unknown),
    ]
}

/// How a chain is cut: sizes of the readable and the writable pieces, how many
/// of all lie in a table, and the odd byte where each buffer begins.
#[derive(Clone, Debug)]
struct Shape {
    body: Vec<usize>,
    tail: Vec<usize>,
    table: Option<usize>,
    odd: u64,
}

fn shape() -> impl Strategy<Value = Option<Shape>> {
    let cuts = || proptest::collection::vec(0..20usize, 0..4);
    let shape = (cuts(), cuts(), proptest::option::of(0..6usize), 0..9u64).prop_map(
        |(body, tail, table, odd)| Shape {
            body,
            tail,
            table,
            odd,
        },
    );
    proptest::option::of(shape)
}

fn cut(len: usize, cuts: &[usize]) -> Vec<usize> {
    let mut left = len;
    let mut pieces: Vec<_> = cuts
        .iter()
        .map(|cut| {
            let now = left.min(*cut);
            left -= now;
            now
        })
        .collect();
    pieces.push(left);
    pieces
}

/// Makes a request of that shape available: its head, and where each byte of
/// the answer is to be.
fn offer(driver: &mut Driver, body: &[u8], shape: &Shape) -> (u16, Vec<u64>) {
    let mut pieces = Vec::new();
    let mut rest = body;
    for len in cut(body.len(), &shape.body) {
        let (now, later) = rest.split_at(len);
        let at = driver.room(len as u64 + shape.odd) + shape.odd;
        driver.world.machine.put(at, now);
        pieces.push((at, len as u32, false));
        rest = later;
    }
    let mut answer = Vec::new();
    for len in cut(common::answer_size(body) as usize, &shape.tail) {
        let at = driver.room(len as u64 + shape.odd) + shape.odd;
        answer.extend(at..at + len as u64);
        pieces.push((at, len as u32, true));
    }
    let Some(direct) = shape.table.map(|direct| direct.min(pieces.len() - 1)) else {
        let head = driver.chain(&pieces);
        driver.offer(head);
        return (head, answer);
    };
    // The table's entries in reverse, so that `next` means something.
    let inside = &pieces[direct..];
    let count = inside.len() as u16;
    let entry = |n: u16| if n == 0 { 0 } else { count - n };
    let mut table = vec![[0; 16]; inside.len()];
    for (n, (at, len, writable)) in (0..).zip(inside) {
        let last = n + 1 == count;
        let flags = if last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
        let next = if last { 0xffff } else { entry(n + 1) };
        table[usize::from(entry(n))] = descriptor(*at, *len, flags, next);
    }
    let at = driver.room(16 * u64::from(count) + shape.odd) + shape.odd;
    driver.world.machine.put(at, &table.concat());
    let head = driver.descriptor;
    for (from, len, writable) in &pieces[..direct] {
        let index = driver.descriptor;
        let flags = NEXT | if *writable { WRITE } else { 0 };
        let next = (index + 1) % REQUESTS.size as u16;
        driver.describe(index, descriptor(*from, *len, flags, next));
        driver.descriptor = next;
    }
    let bytes = 16 * u32::from(count);
    driver.describe(driver.descriptor, descriptor(at, bytes, TABLE, 0));
    driver.descriptor = (driver.descriptor + 1) % REQUESTS.size as u16;
    driver.offer(head);
    (head, answer)
}

type Program = Vec<(Ask, Option<Shape>, u32, bool)>;

fn program() -> impl Strategy<Value = Program> {
    let turns = rarely(Just(0), 1..40u32);
    let step = (ask(), shape(), turns, proptest::bool::weighted(0.4));
    proptest::collection::vec(step, 1..60)
}

/// A chain on its way.
struct Sent {
    head: u16,
    answer: Vec<u64>,
    status: Option<u8>,
}

fn complete(driver: &mut Driver, sent: &mut Vec<Sent>, expected: &mut [u8]) {
    driver.notify();
    let back = driver.used();
    assert_eq!(back.len(), sent.len(), "each chain comes back once");
    for ((head, len), sent) in back.into_iter().zip(sent.drain(..)) {
        assert_eq!(head, u32::from(sent.head), "in order");
        let Some(status) = sent.status else {
            assert_eq!(len, 0);
            continue;
        };
        assert_eq!(len as usize, sent.answer.len());
        let bytes: Vec<_> = sent
            .answer
            .iter()
            .map(|at| driver.world.machine.get(*at, 1)[0])
            .collect();
        let tail = bytes.len() - 4;
        assert_eq!(bytes[tail..], [status, 0, 0, 0]);
        for (at, byte) in sent.answer.iter().zip(bytes) {
            expected[(at - RAM.start) as usize] = byte;
        }
    }
    // All else is as the driver wrote it.
    let size = RAM.end - RAM.start;
    let used = (REQUESTS.used - RAM.start) as usize;
    let mut memory = driver.world.machine.get(RAM.start, size);
    let ring = 6 + 8 * REQUESTS.size as usize;
    memory[used..used + ring].copy_from_slice(&expected[used..used + ring]);
    assert!(memory == expected, "memory was written");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn requests_of_any_shape(
        program in program(),
        work in 1..70u32,
        event_idx in any::<bool>(),
    ) {
        let config = Config { work, ..Config::default() };
        let features = PLAIN | INDIRECT | if event_idx { EVENT_IDX } else { 0 };
        let mut driver = Driver::with(features, &config);
        let mut reference = Reference::default();
        let mut sent: Vec<Sent> = Vec::new();
        // Descriptors on their way must not be used for something else.
        let mut descriptors = 0;
        for (ask, shape, turns, now) in program {
            let body = ask.bytes();
            let shape = shape.unwrap_or(Shape { body: vec![], tail: vec![], table: None, odd: 0 });
            let pieces = shape.body.len() + shape.tail.len() + 2;
            if descriptors + pieces > REQUESTS.size as usize {
                let mut memory = driver.world.machine.get(RAM.start, RAM.end - RAM.start);
                complete(&mut driver, &mut sent, &mut memory);
                descriptors = 0;
            }
            descriptors += pieces;
            let status = reference.ask(&ask);
            let plain = shape.body.is_empty() && shape.tail.is_empty() && shape.table.is_none();
            let (head, answer) = if plain && shape.odd == 0 {
                let (head, tail) = driver.queue(&body);
                let end = tail + u64::from(common::answer_size(&body));
                (head, (tail..end).collect())
            } else {
                offer(&mut driver, &body, &shape)
            };
            driver.world.book.pace.push_back(Pace::Turns(turns));
            sent.push(Sent { head, answer, status });
            if now {
                let mut memory = driver.world.machine.get(RAM.start, RAM.end - RAM.start);
                complete(&mut driver, &mut sent, &mut memory);
                descriptors = 0;
            }
        }
        let mut memory = driver.world.machine.get(RAM.start, RAM.end - RAM.start);
        complete(&mut driver, &mut sent, &mut memory);
        prop_assert_eq!(driver.world.device.broken(), None);
        // The back end came to the same.
        prop_assert_eq!(&driver.world.book.attached, &reference.attached);
        let mapped: usize = driver.world.book.domains.values().map(BTreeMap::len).sum();
        prop_assert_eq!(mapped, reference.mappings.len());
    }
}

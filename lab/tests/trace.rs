//! What is read of a trace, and what is refused.
#![allow(missing_docs)]

use portcullis_addr::{Iova, Range};
use portcullis_lab::input::InputError;
use portcullis_lab::machine::Mode;
use portcullis_lab::measured::Measured;
use portcullis_lab::platform::Platform;
use portcullis_lab::replay::{self, Options};
use portcullis_lab::trace::{MOST_RECORDS, Trace, What};
use proptest::prelude::*;
use std::fmt::Write as _;

/// A disk's queues and transfers, and a network card that comes and goes.
const LOG: &str = "\
portcullis: event=smmu_ready smmu=0x9050000 version=3.1 t=0.057341
portcullis: event=domain_counts attaches=1 maps=50 t=3.252755
portcullis: trace=2.900000000,attach,0,0x8 t=3.253116
portcullis: trace=2.954468544,map,0,0xfffff000,0x1000 t=3.253338
portcullis: trace=2.955128976,map,0,0xffffe000,0x1000 t=3.253425
portcullis: trace=2.963159504,map,0,0xffff8000,0x4000 t=3.253515
portcullis: trace=2.963160504,map,0,0xffffc000,0x1000 t=3.253516
portcullis: trace=2.965514736,unmap,0,0xffff8000,0x5000 t=3.253595
portcullis: trace=2.968733760,attach,7,0x10 t=3.255123
portcullis: trace=2.968733760,map,7,0xfffff000,0x1000 t=3.255205
portcullis: trace=2.970028992,map,0,0xffff8000,0x3000 t=3.255320
portcullis: trace=2.971773728,detach,7,0x10 t=3.255397
portcullis: trace=2.972068448,unmap,0,0xffff8000,0x3000 t=3.255503
portcullis: trace=3.900000000,attach,7,0x10 t=3.255578
portcullis: trace=3.900000000,map,7,0xfffff000,0x2000 t=3.255668
portcullis: event=trace_end records=13 dropped=0 t=3.261689
portcullis: event=power_off t=3.261700
";

fn parse(text: &str) -> Trace {
    Trace::parse(text, "log").unwrap()
}

/// What is wrong with a trace.
fn wrong(text: &str) -> String {
    let error = Trace::parse(text, "log").err();
    error.map(|error| error.to_string()).unwrap_or_default()
}

/// Only the lines of the trace, without what is around them.
fn bare() -> String {
    let lines = LOG.lines().filter_map(|line| {
        let line = line.strip_prefix("portcullis: ")?;
        let line = line.split_once(" t=")?.0;
        let mine = line.starts_with("trace=") || line.starts_with("event=trace_end");
        mine.then_some(line)
    });
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_reset_takes_everything_away() {
    let text = "trace=1.0,attach,0,0x8\n\
        trace=1.0,attach,3,0x10\n\
        trace=1.1,map,0,0x1000,0x1000\n\
        trace=1.2,reset\n\
        trace=1.3,attach,0,0x8\n\
        trace=1.4,map,0,0x1000,0x1000\n\
        event=trace_end records=6 dropped=0\n";
    let trace = parse(text);
    let detached = trace.records().iter().filter(|r| r.what == What::Detach);
    assert_eq!(detached.count(), 2);
    assert!(matches!(
        trace.records()[2].what,
        What::Map { until: Some(3), .. }
    ));
    assert_eq!(trace.summary().peak_mappings, 1);
    for mode in Mode::ALL {
        let (platform, measured) = (Platform::named("mmu700"), Measured::built_in());
        let (platform, measured) = (platform.unwrap(), measured.unwrap());
        let report = replay::run(&platform, &trace, &Options::default(), &measured, mode);
        assert_eq!(report.unwrap().counted.maps.count(), 2);
    }
    let without = text
        .replace("trace=1.2,reset\n", "")
        .replace("records=6", "records=5");
    assert!(wrong(&without).contains("overlaps"), "{}", wrong(&without));
    let more = text.replace("reset", "reset,1");
    assert!(wrong(&more).starts_with("log:4: `1` is one field too many"));
}

/// Those that are shipped.
#[test]
fn what_was_recorded_can_be_replayed() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/traces");
    let (platform, measured) = (Platform::named("mmu700"), Measured::built_in());
    let (platform, measured) = (platform.unwrap(), measured.unwrap());
    let mut seen = Vec::new();
    for file in std::fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let trace = Trace::load(&path).unwrap();
        assert_eq!(trace.dropped(), Some(0));
        let summary = trace.summary();
        for mode in [Mode::Nested, Mode::Paravirt] {
            let report = replay::run(&platform, &trace, &Options::default(), &measured, mode);
            let counted = report.unwrap().counted;
            assert_eq!(counted.maps.count(), summary.maps);
            assert_eq!(counted.unmaps.count(), summary.unmaps);
        }
        seen.push(path.file_stem().unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["e1000e", "nvme"]);
}

#[test]
fn a_log_and_its_bare_lines_say_the_same() {
    let (log, bare) = (parse(LOG), parse(&bare()));
    assert_eq!(log.records().len(), 13);
    let all = |trace: &Trace| -> Vec<_> {
        let records = trace.records().iter();
        records.map(|r| (r.nanos, r.domain, r.what)).collect()
    };
    assert_eq!(all(&log), all(&bare));
    assert_eq!(all(&log), all(&parse(&LOG.replace('\n', "\r\n"))));
    assert_eq!((log.domains(), log.endpoints()), (2, 2));
    assert_eq!(log.dropped(), Some(0));
    // The end may be missing, and only then nobody knows what else is.
    let open = bare.records().len();
    let text = self::bare().replace("event=trace_end records=13 dropped=0\n", "");
    assert_eq!(
        (parse(&text).records().len(), parse(&text).dropped()),
        (open, None)
    );
}

#[test]
fn each_mapping_knows_what_ended_it() {
    let trace = parse(LOG);
    let page = |at, bytes| Range::from_size(Iova::new(at), bytes).unwrap();
    let (first, last) = (&trace.records()[1], &trace.records()[12]);
    assert_eq!(
        (first.line, first.nanos, first.domain),
        (4, 2_954_468_544, 0)
    );
    assert_eq!(
        (last.what, last.domain),
        (
            What::Map {
                iova: page(0xffff_f000, 0x2000),
                until: None
            },
            1
        )
    );
    let ends: Vec<_> = trace
        .records()
        .iter()
        .filter_map(|record| match record.what {
            What::Map { until, .. } => Some(until),
            _ => None,
        })
        .collect();
    // Two by one unmapping, one by the last endpoint of its domain leaving.
    let right = [None, None, Some(5), Some(5), Some(9), Some(10), None];
    assert_eq!(ends, right);
}

#[test]
fn bytes_that_are_no_text_do_not_matter_outside_of_the_trace() {
    let path = std::env::temp_dir().join(format!("lab-trace-{}", std::process::id()));
    let mut bytes = b"\xff\xfe noise \x00\n".to_vec();
    bytes.extend_from_slice(LOG.as_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let found = Trace::load(&path);
    bytes.extend_from_slice(b"portcullis: trace=4.0,map,\xff,0,0\n");
    std::fs::write(&path, &bytes).unwrap();
    let refused = Trace::load(&path).unwrap_err().to_string();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found.unwrap().records().len(), 13);
    assert!(refused.contains(":19: "), "{refused}");
    let gone = Trace::load(&path).unwrap_err();
    assert!(matches!(gone, InputError::Unreadable { .. }));
}

#[test]
fn a_log_without_a_trace_says_how_to_make_one() {
    for text in ["", "portcullis: event=power_off t=1.0\n", "map,1\n"] {
        let found = Trace::parse(text, "log").unwrap_err();
        assert!(matches!(found, InputError::Missing { .. }));
        let found = found.to_string();
        assert!(found.starts_with("log: there is no trace in it: boot with"));
        assert!(found.contains("host-iommu=paravirt trace=4M"), "{found}");
    }
    let empty = wrong("event=trace_end records=0 dropped=0\n");
    assert_eq!(
        empty,
        "log: the trace is empty: the host asked its virtio-iommu for nothing"
    );
}

#[test]
fn a_trace_that_was_cut_is_a_trace() {
    let text = LOG.replace("dropped=0", "dropped=1021");
    let trace = parse(&text);
    assert_eq!(trace.dropped(), Some(1021));
    let text = trace.summary().text();
    assert!(
        text.contains("it was cut when its memory was full"),
        "{text}"
    );
    assert!(
        text.contains("\ndropped    1021 later requests\n"),
        "{text}"
    );
}

/// Malformed lines: what is said of each.
#[test]
fn what_is_malformed_is_told_with_its_line_and_what_is_right() {
    let shape = "a line is `trace=SECONDS,map,DOMAIN,IOVA,BYTES`";
    for (line, right) in [
        ("trace=", "`` is no time: seconds like 1.250000417"),
        ("trace=4M", "`4M` is no time: seconds like 1.250000417"),
        ("trace=4.0", shape),
        ("trace=4.0,map", shape),
        ("trace=4.0,map,0", shape),
        ("trace=4.0,map,0,0x1000", shape),
        (
            "trace=4.0,map,0,0x1000,0x1000,1",
            "`1` is one field too many",
        ),
        (
            "trace=4.0,map,0,0x1000,0x1000 u=1",
            "`u=1` is behind the record",
        ),
        (
            "trace=4.0,remap,0,0x1000,0x1000",
            "attach, detach, map, unmap or reset",
        ),
        ("trace=4.0,attach,0", shape),
        ("trace=4.0,attach,0,8,9", "`9` is one field too many"),
        ("trace=4.0000000001,map,0,0x1000,0x1000", "is no time"),
        ("trace=-4.0,map,0,0x1000,0x1000", "is no time"),
        ("trace=4.0,map,zero,0x1000,0x1000", "`zero` is not a domain"),
        ("trace=4.0,map,0x100000000,0,0x1000", "0xffffffff at most"),
        ("trace=4.0,map,0,page,0x1000", "`page` is not an address"),
        ("trace=4.0,map,0,0x1000,-1", "`-1` is not a number of bytes"),
        ("trace=4.0,attach,0,+1", "`+1` is not an endpoint"),
        (
            "trace=4.0,map,0,0x1001,0x1000",
            "both are multiples of 0x1000",
        ),
        (
            "trace=4.0,map,0,0x1000,0x10",
            "both are multiples of 0x1000",
        ),
        ("trace=4.0,map,0,0x1000,0", "the second is not 0"),
        ("trace=4.0,map,0,0xfffffffffffff000,0x1000", "past the end"),
        ("event=trace_end", "`records=` is missing"),
        ("event=trace_end records=1", "`dropped=` is missing"),
        (
            "event=trace_end records=x dropped=0",
            "`x` is not a number of requests",
        ),
    ] {
        for line in [line.to_owned(), format!("portcullis: {line} t=1.0")] {
            if line.ends_with("u=1 t=1.0") {
                continue;
            }
            let found = wrong(&format!("noise\ntrace=1.0,attach,0,8\n{line}\n"));
            assert!(found.starts_with("log:3: "), "{line}: {found}");
            assert!(found.contains(right), "{line}: {found}");
        }
    }
}

/// Requests that cannot be where they are.
#[test]
fn what_cannot_follow_is_told_with_its_line() {
    let start = "trace=1.0,attach,0,8\ntrace=1.0,map,0,0x10000,0x4000\n";
    for (lines, right) in [
        (
            "trace=0.9,unmap,0,0x10000,0x4000",
            "3: 0.900000000 s is before 1.000000000 s",
        ),
        (
            "trace=1.0,map,0,0x13000,0x1000",
            "3: 0x13000 to 0x14000 overlaps 0x10000 to 0x14000, which line 2 mapped",
        ),
        (
            "trace=1.0,map,0,0xf000,0x2000",
            "3: 0xf000 to 0x11000 overlaps",
        ),
        ("trace=1.0,map,0,0,0x100000", "3: 0x0 to 0x100000 overlaps"),
        (
            "trace=1.0,unmap,0,0x10000,0x1000",
            "3: 0x11000 is within 0x10000 to 0x14000: an `unmap` takes whole mappings",
        ),
        ("trace=1.0,unmap,0,0x11000,0x9000", "3: 0x11000 is within"),
        (
            "trace=1.0,unmap,0,0x14000,0x1000",
            "3: nothing is mapped from 0x14000 to 0x15000 of domain 0",
        ),
        (
            "trace=1.0,unmap,0,0x10000,0x4000\ntrace=1.0,unmap,0,0x10000,0x4000",
            "4: nothing is mapped",
        ),
        (
            "trace=1.0,map,1,0x20000,0x1000",
            "3: no endpoint is in domain 1: an `attach` must be before",
        ),
        ("trace=1.0,detach,0,9", "3: endpoint 0x9 is not in domain 0"),
        ("trace=1.0,detach,1,8", "3: endpoint 0x8 is not in domain 1"),
        (
            "trace=1.0,detach,0,8\ntrace=1.0,unmap,0,0x10000,0x4000",
            "4: no endpoint is in domain 0",
        ),
        (
            "trace=1.0,attach,1,8\ntrace=1.0,map,0,0x20000,0x1000",
            "4: no endpoint is in domain 0",
        ),
        (
            "trace=1.0,map,0,0x100000,0x1000000000",
            "3: 68719493120 bytes are mapped now, at most 68719476736",
        ),
        (
            "event=trace_end records=3 dropped=0",
            "3: the trace had 3 records, 2 are here",
        ),
        (
            "event=trace_end records=2 dropped=0\ntrace=2.0,attach,0,9",
            "4: the trace ended in line 3",
        ),
    ] {
        let found = wrong(&format!("{start}{lines}\n"));
        assert!(
            found.starts_with(&format!("log:{right}")),
            "{lines}: {found}"
        );
    }
    // An endpoint that moves takes its old domain's mappings away with it, and one
    // that stays does not.
    parse(&format!(
        "{start}trace=1.0,attach,1,8\ntrace=1.0,attach,0,8\ntrace=1.0,map,0,0x10000,0x1000\n"
    ));
    parse(&format!(
        "{start}trace=1.0,attach,0,8\ntrace=1.0,unmap,0,0x10000,0x4000\n"
    ));
    parse(&format!(
        "{start}trace=1.0,attach,0,9\ntrace=1.0,detach,0,8\ntrace=1.0,unmap,0,0x10000,0x4000\n"
    ));
}

#[test]
fn there_are_limits_on_domains_and_records() {
    let mut text = String::new();
    for domain in 0..=4096 {
        writeln!(text, "trace=1.0,attach,{domain},{domain}").unwrap();
    }
    assert_eq!(wrong(&text), "log:4097: more than 4096 domains");
    let mut text = "trace=1.0,attach,0,0\n".repeat(MOST_RECORDS);
    assert_eq!(parse(&text).records().len(), MOST_RECORDS);
    text.push_str("trace=1.0,attach,0,0\n");
    assert_eq!(wrong(&text), "log:4000001: more than 4000000 records");
}

#[test]
fn a_summary_counts_what_is_there() {
    let summary = parse(LOG).summary();
    assert_eq!((summary.records, summary.dropped), (13, Some(0)));
    assert_eq!((summary.domains, summary.endpoints), (2, 2));
    assert_eq!((summary.maps, summary.unmaps), (7, 2));
    assert_eq!(summary.seconds, 1.0);
    assert_eq!(summary.maps_per_second(), 7.0);
    let sizes = &summary.sizes;
    assert_eq!((sizes.p50, sizes.p90, sizes.max), (0x1000, 0x4000, 0x4000));
    assert_eq!(sizes.histogram, [(0x1000, 4), (0x2000, 2), (0x4000, 1)]);
    // Three were unmapped: one saw another mapping of its domain, two saw none.
    assert_eq!(summary.lives, Some((0, 1)));
    // Two for ever, one for its domain's life, and one of the new domain.
    assert_eq!(summary.stay, 4);
    assert_eq!((summary.peak_bytes, summary.peak_mappings), (0x7000, 4));
    // 0xffff8000 and the network card's.
    assert_eq!(summary.reused, 2);
    let text = summary.text();
    for line in [
        "records    13 in 1.000000 s; nothing is missing\n",
        "maps       7, 7 a second\n",
        "stay       4 (57.1 %), to the end\n",
        "4 KiB      4  57.1 %\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// A trace in which one thing is otherwise.
#[derive(Clone, Debug)]
enum Change {
    /// A byte.
    Byte(usize, u8),
    /// A field of a line is this.
    Field(usize, usize, String),
    /// A line is gone.
    Gone(usize),
    /// A line is there twice.
    Twice(usize),
    /// Two lines are each in the other's place.
    Swap(usize, usize),
    /// It stops there.
    Cut(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let word = prop_oneof![
        Just("0xfffffffffffff000".to_owned()),
        Just("18446744073709551615".to_owned()),
        Just("0xffffff000000".to_owned()),
        Just("unmap".to_owned()),
        Just("attach".to_owned()),
        Just("detach".to_owned()),
        Just("0x1000000000".to_owned()),
        (0..64_u64).prop_map(|page| format!("{:#x}", 0xffff_0000 + page * 0x1000)),
        (0..9_u64).prop_map(|page| format!("{:#x}", page * 0x1000)),
        "[0-9a-fx.,-]{0,12}",
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (any::<usize>(), 0..6_usize, word).prop_map(|(l, f, word)| Change::Field(l, f, word)),
        any::<usize>().prop_map(Change::Gone),
        any::<usize>().prop_map(Change::Twice),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Change::Swap(a, b)),
        any::<usize>().prop_map(Change::Cut),
    ]
}

fn apply(text: &str, change: &Change) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if lines.is_empty() {
        return text.to_owned();
    }
    let count = lines.len();
    match change {
        Change::Byte(at, byte) => {
            let mut bytes = text.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = *byte;
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        Change::Field(line, field, word) => {
            let line = &mut lines[line % count];
            let mut fields: Vec<&str> = line.split(',').collect();
            let at = field % fields.len();
            fields[at] = word;
            *line = fields.join(",");
        }
        Change::Gone(line) => {
            lines.remove(line % count);
        }
        Change::Twice(line) => {
            let line = line % count;
            lines.insert(line, lines[line].clone());
        }
        Change::Swap(a, b) => lines.swap(a % count, b % count),
        Change::Cut(at) => {
            let at = at % text.len();
            return String::from_utf8_lossy(&text.as_bytes()[..at]).into_owned();
        }
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the text, there is a trace or an error, and what is a trace can be
    /// summed up, and replayed as far as the platform has its addresses.
    #[test]
    fn no_text_does_harm(changes in proptest::collection::vec(change(), 1..5), log in any::<bool>()) {
        let text = if log { LOG.to_owned() } else { bare() };
        let text = changes.iter().fold(text, |text, change| apply(&text, change));
        if let Ok(trace) = Trace::parse(&text, "log") {
            let summary = trace.summary();
            prop_assert!(!summary.text().is_empty());
            prop_assert!(summary.stay <= summary.maps);
            let options = Options::default();
            if options.accesses(&trace) < 10_000 {
                let platform = Platform::named("mmu700").unwrap();
                let measured = Measured::built_in().unwrap();
                let found = replay::run(&platform, &trace, &options, &measured, Mode::Paravirt);
                if let Ok(report) = found {
                    prop_assert_eq!(report.counted.maps.count(), summary.maps);
                    prop_assert_eq!(report.accesses(), options.accesses(&trace));
                } else {
                    let message = found.unwrap_err().to_string();
                    prop_assert!(message.contains("maps up to"), "{}", message);
                }
            }
        }
    }

    /// Any bytes at all.
    #[test]
    fn no_bytes_do_harm(text in "(portcullis: )?(trace=|event=trace_end )?\\PC{0,60}") {
        let _ = Trace::parse(&text, "log");
    }
}

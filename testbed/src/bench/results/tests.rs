use super::*;

fn row(column: &str, operation: &str, size: u64, value: f64) -> Row {
    Row {
        column: column.to_owned(),
        setting: "strict".to_owned(),
        operation: operation.to_owned(),
        size,
        cpus: 1,
        statistic: Statistic::Average,
        value,
        median: Some(value),
        p99: None,
        el2_entries: (column == "paravirt").then_some(1.0),
        el2_instructions: (column == "paravirt").then_some(700.0),
        el2_difference: (column == "paravirt").then_some(430.0),
        commands: None,
        walker_reads: None,
        traffic: (column != "device free").then_some(Traffic {
            tlbi: 1.0,
            sync: 1.0,
            walker_reads: 8.0,
            ..Traffic::default()
        }),
    }
}

/// A run with a little of everything.
pub(crate) fn sample() -> Results {
    let columns = [
        "native",
        "no translation",
        "identity",
        "nested",
        "device free",
        "paravirt",
    ];
    let mut rows = Vec::new();
    for column in columns {
        for (operation, size) in [
            ("map", 4096),
            ("map", 1 << 20),
            ("unmap", 4096),
            ("unmap", 1 << 20),
            ("nvme_read", 4096),
            ("vfio_map", 1 << 20),
            ("vfio_unmap", 1 << 20),
            ("e1000e_echo", 1000),
        ] {
            rows.push(row(column, operation, size, 1000.0 + size as f64 / 100.0));
        }
        let mut crowd = row(column, "map_unmap", 4096, 3000.0);
        crowd.cpus = 4;
        rows.push(crowd);
    }
    let breakdown = |column: &str| Breakdown {
        column: column.to_owned(),
        setting: "strict".to_owned(),
        operation: "map_unmap".to_owned(),
        size: 4096,
        host: 4000.0,
        el2: BTreeMap::from([(Purpose::Trap, 200.0), (Purpose::Ledger, 50.0)]),
        el2_traced: 250.0,
        el2_counted: 251.0,
    };
    Results {
        schema: SCHEMA,
        command: "bench".to_owned(),
        facts: Facts {
            qemu: "10.0".to_owned(),
            kernel: "linux-image".to_owned(),
            commit: Some("c0ffee".to_owned()),
            modified: false,
            cpu: "cortex-a76".to_owned(),
            memory: "1G".to_owned(),
            recipe: "-icount".to_owned(),
        },
        rows,
        goals: vec![Goal {
            name: "map 4 KiB, strict".to_owned(),
            column: "paravirt".to_owned(),
            goal: "<= 3.00".to_owned(),
            ratio: Some(2.9),
            reached: true,
        }],
        breakdown: vec![breakdown("nested"), breakdown("paravirt")],
        memory: vec![Memory {
            column: "paravirt".to_owned(),
            what: "pool".to_owned(),
            bytes: 2 << 20,
        }],
        scale: Vec::new(),
        interrupts: vec![Interrupts {
            name: "interrupt masked".to_owned(),
            commands: "1 INV, 1 SYNC".to_owned(),
            native: 969.0,
            with: 1_766.0,
            by_default: 1_844.0,
            el2_entries: 1.0,
            el2_instructions: 798.0,
            el2_most: 803.0,
            el2_by_default: 876.0,
            goal: "entries 1".to_owned(),
            reached: true,
        }],
        branch_history: BranchHistory {
            each: Some(78.0),
            goal: "<= 80".to_owned(),
            reached: true,
            rows: vec![Forgotten {
                name: "paravirt: map".to_owned(),
                all: [2_000.0, 2_078.0],
                el2: [700.0, 778.0],
                el2_entries: 1.0,
                each: Some(78.0),
                reached: true,
            }],
        },
        guest: Vec::new(),
        pagetable: Vec::new(),
    }
}

#[test]
fn what_is_written_is_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("bench.json");
    sample().save(&path).expect("a file");
    let text = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(Results::load(&path).expect("the format"), sample());
    let later = text.replace("\"schema\": 1", "\"schema\": 2");
    std::fs::write(&path, later).expect("a file");
    assert!(Results::load(&path).is_err());
    // What programs look for by name.
    for key in [
        "\"schema\": 1",
        "\"el2_instructions\"",
        "\"walker_reads\"",
        "\"statistic\": \"average\"",
    ] {
        assert!(text.contains(key), "no {key}");
    }
}

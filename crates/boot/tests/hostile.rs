//! Trees and command lines that nobody wrote on purpose: whatever the bytes,
//! the answer is a value or a typed error.

mod support;

use portcullis_boot::{BootArgs, BootError, Console, Fdt, HostTreePlan, Machine};
use proptest::prelude::*;
use support::{cells, range};

const REAL: &[u8] = include_bytes!("trees/gicv3-smmu-modules.dtb");

/// A change to a byte string.
#[derive(Clone, Debug)]
enum Damage {
    Flip(prop::sample::Index, u8),
    /// A whole word, aligned: what a length, an offset or a phandle is.
    Word(prop::sample::Index, u32),
    Cut(prop::sample::Index),
    Copy(prop::sample::Index, prop::sample::Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let interesting = prop_oneof![
        Just(0),
        Just(1),
        Just(2),
        Just(3),
        Just(4),
        Just(9),
        Just(0x8000_0000),
        Just(u32::MAX),
        Just(0xffff_fffc),
        any::<u32>()
    ];
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(i, b)| Damage::Flip(i, b)),
        8 => (any::<prop::sample::Index>(), interesting).prop_map(|(i, w)| Damage::Word(i, w)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        2 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..64usize)
            .prop_map(|(a, b, n)| Damage::Copy(a, b, n)),
    ]
}

fn apply(blob: &mut Vec<u8>, damage: &Damage) {
    if blob.len() < 4 {
        return;
    }
    match damage {
        Damage::Flip(at, byte) => {
            let at = at.index(blob.len());
            blob[at] ^= byte;
        }
        Damage::Word(at, word) => {
            let at = at.index(blob.len() / 4) * 4;
            blob[at..at + 4].copy_from_slice(&word.to_be_bytes());
        }
        Damage::Cut(at) => blob.truncate(at.index(blob.len())),
        Damage::Copy(from, to, len) => {
            let (from, to) = (from.index(blob.len()), to.index(blob.len()));
            let len = *len.min(&(blob.len() - from.max(to)));
            blob.copy_within(from..from + len, to);
        }
    }
}

/// The two parts of an error go between quotes in one line of the log.
fn check_text(error: &BootError) {
    for text in [error.reason().to_string(), error.fix().to_string()] {
        assert!(!text.is_empty());
        assert!(
            text.bytes()
                .all(|b| (b' '..=b'~').contains(&b) && b != b'"'),
            "{text}"
        );
    }
}

fn read(blob: &[u8]) {
    let _ = Console::for_errors(blob);
    let fdt = match Fdt::new(blob) {
        Ok(fdt) => fdt,
        Err(error) => return check_text(&error),
    };
    let machine = match Machine::from_tree(&fdt) {
        Ok(machine) => machine,
        Err(error) => return check_text(&error),
    };
    let protected = [range(0x7fe0_0000, 0x20_0000)];
    for (plan, smmus) in [
        (HostTreePlan::identity(&machine, &protected), 0),
        (
            HostTreePlan::new(&machine, &protected, true),
            machine.host_lines.len(),
        ),
    ] {
        let mut out = vec![0; plan.bytes_needed(&fdt)];
        match plan.write(&fdt, &mut out) {
            Ok(size) => {
                let host = Fdt::new(&out[..size]).unwrap();
                let smmu = |node: &portcullis_boot::Node<'_>| node.is_compatible(b"arm,smmu-v3");
                let left = host.nodes().filter(|(_, node)| smmu(node)).count();
                assert!(left <= smmus);
            }
            Err(error) => {
                assert!(
                    !matches!(error, BootError::OutputTooSmall { .. }),
                    "{error}"
                );
                check_text(&error);
            }
        }
    }
}

/// What the fuzzer found interesting once stays harmless, also where there is
/// no fuzzer.
#[test]
fn the_fuzz_corpus() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/device_tree");
    let mut files = 0;
    for file in std::fs::read_dir(corpus).unwrap() {
        read(&std::fs::read(file.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files > 4);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn damaged_real_tree(changes in prop::collection::vec(damage(), 1..6)) {
        let mut blob = REAL.to_vec();
        for change in &changes {
            apply(&mut blob, change);
        }
        read(&blob);
    }

    #[test]
    fn damaged_small_tree(changes in prop::collection::vec(damage(), 1..4)) {
        let mut blob = support::machine().flatten();
        for change in &changes {
            apply(&mut blob, change);
        }
        read(&blob);
    }

    #[test]
    fn any_value_of_any_property(
        node in any::<prop::sample::Index>(),
        property in any::<prop::sample::Index>(),
        value in prop::collection::vec(prop_oneof![0..12u32, any::<u32>()], 0..9),
    ) {
        let mut tree = support::machine();
        let paths: Vec<String> = support::listing(&tree.flatten())
            .into_iter()
            .filter(|line| !line.contains(' '))
            .collect();
        let chosen = tree.at(&paths[node.index(paths.len())]);
        if !chosen.properties.is_empty() {
            let at = property.index(chosen.properties.len());
            chosen.properties[at].1 = cells(&value);
        }
        read(&tree.flatten());
    }

    #[test]
    fn any_command_line(line in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Err(error) = BootArgs::parse(&line) {
            check_text(&error);
        }
    }

    #[test]
    fn any_words(line in "((host-iommu|log|console|x)=?(identity|nested|info|stdout|[ -~]{0,9})[ \t]){0,4}") {
        if let Err(error) = BootArgs::parse(line.as_bytes()) {
            check_text(&error);
        }
    }
}

//! Several virtio-iommus: CPUs that map for different devices do not wait for each other.
#![allow(missing_docs)]

mod common;

use common::platform;
use portcullis_lab::input;
use portcullis_lab::measured::Measured;
use portcullis_lab::scenario::Scenario;
use portcullis_lab::sim;

#[test]
fn two_cpus_do_twice_as_much_with_two() {
    let text = include_str!("../scenarios/two-devices.toml");
    let scenario: Scenario = input::parse(text, "two-devices").unwrap();
    let measured = Measured::built_in().unwrap();
    for name in ["mmu600", "mmu700", "grace"] {
        let platform = platform(name, &[]);
        let [one, shared, each] = sim::several(&platform, &scenario, &measured).unwrap();
        println!("{name}: {one:.0}, {shared:.0} and {each:.0} a second");
        // With one lock the second CPU is of less use.
        assert!(each / one >= 1.8, "{name}: {}", each / one);
        assert!(each / shared >= 1.25, "{name}: {}", each / shared);
        assert!(shared / one < 1.6, "{name}: {}", shared / one);
    }
}

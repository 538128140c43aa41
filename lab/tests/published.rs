//! The published benchmark beside the lab's prediction.
#![allow(missing_docs)]

use portcullis_lab::machine::Mode;
use portcullis_lab::measured::{Measured, Operation};
use portcullis_lab::platform::Platform;
use portcullis_lab::published::{NOTABLE, Reason, deviation, predict, text};
use portcullis_lab::scenario::Invalidation;

#[test]
fn whatever_is_off_by_much_is_explained() {
    let platform = Platform::named("morello").unwrap();
    let measured = Measured::built_in().unwrap();
    let predictions = predict(&platform, &measured).unwrap();
    assert_eq!(predictions.len(), 4);
    for prediction in &predictions {
        for (paravirt, map, published, modelled) in prediction.cells() {
            assert!(modelled > 0.0);
            let off = deviation(modelled, published).abs() > NOTABLE;
            let reason = Reason::of(&prediction.row, paravirt, map);
            assert!(
                !off || reason.is_some(),
                "{:?} {paravirt} {map}",
                prediction.row
            );
        }
    }
    let text = text(&predictions, &measured);
    assert!(!text.contains("nobody knows"), "{text}");
    assert!(!text.contains(['{', '}']), "{text}");
    // What the lab says of the simplest cell is the sum of its parts: instructions,
    // two commands, and the wait.
    let unmap = predictions[0].stock.unmap;
    let (strict, operation) = (Invalidation::Strict, Operation::Unmap);
    let cost = measured.cost(Mode::Native, strict, operation, (4096, 1));
    let parts = cost.host.0 * 0.2e-3 + 2.0 * 0.040 + 0.240;
    assert!((unmap - parts).abs() < 1e-3, "{unmap} {parts}");
}

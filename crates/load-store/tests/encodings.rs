//! Instructions as DDI 0487 encodes them, worked out by hand from the diagrams in C6.2
//! and C7.2.

use portcullis_load_store::{Access, Direction, Extend, File, Indexing, Offset, Refused, Width};

const W: File = File::General {
    signed: false,
    wide: false,
};
const X: File = File::General {
    signed: false,
    wide: true,
};
const V: File = File::Vector;

/// Data between X0 or V0 and what X1 points to.
fn one(direction: Direction, file: File, width: Width) -> Access {
    Access {
        direction,
        file,
        width,
        first: 0,
        second: None,
        base: 1,
        offset: Offset::Immediate(0),
        indexing: Indexing::Offset,
    }
}

fn load(file: File, width: Width) -> Access {
    one(Direction::Load, file, width)
}

fn store(file: File, width: Width) -> Access {
    one(Direction::Store, file, width)
}

/// With the offset `bytes`.
fn at(access: Access, bytes: i64, indexing: Indexing) -> Access {
    Access {
        offset: Offset::Immediate(bytes),
        indexing,
        ..access
    }
}

/// With X2 or V2 behind it.
fn two(access: Access) -> Access {
    Access {
        second: Some(2),
        ..access
    }
}

#[test]
fn what_is_carried_out() {
    use Indexing::{Post, Pre};
    use Width::{Byte, Double, Half, Quad, Word};
    let signed = |wide| File::General { signed: true, wide };
    let by_register = |extend, shift| Access {
        offset: Offset::Register {
            number: 3,
            extend,
            shift,
        },
        ..load(X, Double)
    };
    for (instruction, access) in [
        (0xf940_0020, load(X, Double)), // LDR X0, [X1]
        (0xf97f_fc20, at(load(X, Double), 32760, Indexing::Offset)),
        (0x3900_0420, at(store(W, Byte), 1, Indexing::Offset)), // STRB W0, [X1, #1]
        (0x7980_0020, load(signed(true), Half)),                // LDRSH X0, [X1]
        (0x39c0_0020, load(signed(false), Byte)),               // LDRSB W0, [X1]
        (0xb980_0020, load(signed(true), Word)),                // LDRSW X0, [X1]
        (0xf840_8420, at(load(X, Double), 8, Post)),            // LDR X0, [X1], #8
        (0xf800_8c20, at(store(X, Double), 8, Pre)),            // STR X0, [X1, #8]!
        (0xb840_4420, at(load(W, Word), 4, Post)),              // LDR W0, [X1], #4
        (0xf850_0020, at(load(X, Double), -256, Indexing::Offset)), // LDUR
        (0xf840_0820, load(X, Double)),                         // LDTR X0, [X1]
        (0xf863_6820, by_register(Extend::Double, 0)),          // LDR X0, [X1, X3]
        (0xf863_7820, by_register(Extend::Double, 3)),          // …, X3, LSL #3]
        (0xf863_5820, by_register(Extend::UnsignedWord, 3)),    // …, W3, UXTW #3]
        (0xf863_c820, by_register(Extend::SignedWord, 0)),      // …, W3, SXTW]
        (0x3dc0_0420, at(load(V, Quad), 16, Indexing::Offset)), // LDR Q0, [X1, #16]
        (0x3c81_0420, at(store(V, Quad), 16, Post)),            // STR Q0, [X1], #16
        (0xfd40_0020, load(V, Double)),                         // LDR D0, [X1]
        (0x3d00_0020, store(V, Byte)),                          // STR B0, [X1]
        (0xa940_0820, two(load(X, Double))),                    // LDP X0, X2, [X1]
        (0xa8c1_0820, at(two(load(X, Double)), 16, Post)),      // …, [X1], #16
        (0xa9bf_0820, at(two(store(X, Double)), -16, Pre)),     // STP …, [X1, #-16]!
        (0x6940_0820, two(load(signed(true), Word))),           // LDPSW X0, X2, [X1]
        (0x2840_0820, two(load(W, Word))),                      // LDNP W0, W2, [X1]
        (0xad40_0820, two(load(V, Quad))),                      // LDP Q0, Q2, [X1]
        (0x08df_fc20, load(W, Byte)),                           // LDARB W0, [X1]
        (0xc89f_fc20, store(X, Double)),                        // STLR X0, [X1]
        (0xc89f_7c20, store(X, Double)),                        // STLLR X0, [X1]
        (0xb8bf_c020, load(W, Word)),                           // LDAPR W0, [X1]
        (0x9940_0020, load(W, Word)),                           // LDAPUR W0, [X1]
    ] {
        assert_eq!(
            Access::decode(instruction),
            Ok(access),
            "{instruction:#010x}"
        );
    }
}

#[test]
fn what_is_refused() {
    for (instruction, refused) in [
        (0xc85f_7c20, Refused::Exclusive),     // LDXR X0, [X1]
        (0xc802_7c20, Refused::Exclusive),     // STXR W2, X0, [X1]
        (0xc87f_0820, Refused::Exclusive),     // LDXP X0, X2, [X1]
        (0xb820_0020, Refused::Atomic),        // LDADD W0, W0, [X1]
        (0xc8a0_7c20, Refused::Atomic),        // CAS X0, X0, [X1]
        (0x0820_7c20, Refused::Atomic),        // CASP W0, W1, W0, W1, [X1]
        (0x0c40_7020, Refused::Structure),     // LD1 { V0.8B }, [X1]
        (0x0d40_0020, Refused::Structure),     // LD1 { V0.B }[0], [X1]
        (0x8580_4020, Refused::Scalable),      // LDR Z0, [X1]
        (0xf820_0420, Refused::Authenticated), // LDRAA X0, [X1]
        (0xd920_0820, Refused::Tag),           // STG X0, [X1]
        (0x6900_0820, Refused::Tag),           // STGP X0, X2, [X1]
        (0x1901_0440, Refused::CopyOrSet),     // CPYFP [X0]!, [X1]!, X2!
        (0x5800_0000, Refused::Literal),       // LDR X0, .
        (0xd50b_7420, Refused::Cache),         // DC ZVA, X0
        (0xf980_0020, Refused::Prefetch),      // PRFM PLDL1KEEP, [X1]
        (0xd503_201f, Refused::NotAnAccess),   // NOP
        (0xd420_0000, Refused::NotAnAccess),   // BRK #0
        (0x0000_0000, Refused::NotAnAccess),   // UDF #0
        (0xf8c0_0420, Refused::Unknown),       // size 11, opc 11, post-indexed
        (0xe940_0820, Refused::Unknown),       // a pair with opc 11
        (0xf840_8421, Refused::Unpredictable), // LDR X1, [X1], #8
        (0xf800_8c21, Refused::Unpredictable), // STR X1, [X1, #8]!
        (0xa940_0020, Refused::Unpredictable), // LDP X0, X0, [X1]
        (0xad40_0020, Refused::Unpredictable), // LDP Q0, Q0, [X1]
        (0xa8c1_0821, Refused::Unpredictable), // LDP X1, X2, [X1], #16
        (0xa881_0420, Refused::Unpredictable), // STP X0, X1, [X1], #16
        (0x08c0_fc20, Refused::Unpredictable), // LDARB with Rs of 0
    ] {
        assert_eq!(
            Access::decode(instruction),
            Err(refused),
            "{instruction:#010x}"
        );
    }
}

/// A base of 31 is the stack pointer, which no data register is.
#[test]
fn the_stack_pointer_is_no_target() {
    for instruction in [0xf840_87ff, 0xa8c1_7fe0, 0x3c81_07ff] {
        assert!(Access::decode(instruction).is_ok(), "{instruction:#010x}");
    }
}

/// What cannot have caused an abort may be there only since, and is worth another try;
/// what can have is what was executed.
#[test]
fn only_what_never_aborts_may_be_new() {
    for (instruction, may_be_new) in [
        (0xd503_201f, true),  // NOP
        (0xd420_0000, true),  // BRK #0
        (0xf980_0020, true),  // PRFM
        (0xe940_0820, true),  // nothing that is known
        (0xc85f_7c20, false), // LDXR
        (0xb820_0020, false), // LDADD
        (0x0c40_7020, false), // LD1
        (0xd50b_7420, false), // DC ZVA
        (0xf840_8421, false), // LDR X1, [X1], #8
    ] {
        let refused = Access::decode(instruction).expect_err("refused");
        assert_eq!(refused.may_be_new(), may_be_new, "{instruction:#010x}");
    }
    assert!(Refused::Another.may_be_new() && !Refused::CrossesPage.may_be_new());
}

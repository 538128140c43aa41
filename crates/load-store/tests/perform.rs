//! What is done is what the CPU would have done.
//!
//! Where others stop: see the sources in `testbed/tests/hostile_host.rs`.

use portcullis_load_store::{
    Abort, Access, Answer, Direction, Extend, File, Indexing, Offset, Outcome, Placed, Refused,
    Registers, Single, Width,
};
use portcullis_owner_memory::Size;
use proptest::prelude::*;

/// Registers of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cpu {
    x: [u64; 31],
    sp: u64,
    v: [[u64; 2]; 32],
}

impl Registers for Cpu {
    fn general(&self, number: u8) -> u64 {
        self.x.get(usize::from(number)).copied().unwrap_or(0)
    }
    fn set_general(&mut self, number: u8, value: u64) {
        if let Some(x) = self.x.get_mut(usize::from(number)) {
            *x = value;
        }
    }
    fn stack_pointer(&self) -> u64 {
        self.sp
    }
    fn set_stack_pointer(&mut self, value: u64) {
        self.sp = value;
    }
    fn vector(&self, number: u8) -> [u64; 2] {
        self.v[usize::from(number)]
    }
    fn set_vector(&mut self, number: u8, value: [u64; 2]) {
        self.v[usize::from(number)] = value;
    }
}

fn cpu() -> Cpu {
    Cpu {
        x: core::array::from_fn(|n| 0x1111_1111_1111_1111u64.wrapping_mul(n as u64)),
        sp: 0xffff_0000_0000_1000,
        v: core::array::from_fn(|n| [0x0101_0101_0101_0101 * n as u64, !(n as u64)]),
    }
}

/// An abort at `address`.
fn abort(direction: Direction, address: u64) -> Abort {
    Abort { direction, address }
}

fn decode(instruction: u32) -> Access {
    Access::decode(instruction).expect("a load or store")
}

/// What `instruction` does where X1 is `pointer` and the byte at offset n of the page
/// is n, and the accesses.
fn run(instruction: u32, pointer: u64, far: u64) -> (Cpu, Vec<Single>) {
    let access = decode(instruction);
    let mut cpu = cpu();
    cpu.x[1] = pointer;
    let placed = access.place(&cpu, abort(access.direction, far));
    let mut singles = Vec::new();
    let outcome = placed.expect("a place").perform(&mut cpu, |single| {
        singles.push(single);
        Answer::Done(bytes(single.offset))
    });
    assert_eq!(outcome, Outcome::Done);
    (cpu, singles)
}

/// The eight bytes from `offset` on.
fn bytes(offset: u16) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|n| {
        (offset as u8).wrapping_add(n as u8)
    }))
}

fn loads(offset: u16, size: Size) -> Single {
    Single {
        offset,
        size,
        store: None,
    }
}

fn stores(offset: u16, size: Size, value: u64) -> Single {
    Single {
        offset,
        size,
        store: Some(value),
    }
}

#[test]
fn a_post_indexed_load_reads_at_the_base_and_then_moves_it() {
    // LDR W0, [X1], #4
    let (cpu, singles) = run(0xb840_4420, 0x5_0080, 0x5_0080);
    assert_eq!(singles, [loads(0x80, Size::Word)]);
    assert_eq!((cpu.x[0], cpu.x[1]), (0x8382_8180, 0x5_0084));
}

#[test]
fn a_pre_indexed_store_moves_the_base_first() {
    // STR X0, [X1, #8]!
    let access = decode(0xf800_8c20);
    let mut cpu = cpu();
    (cpu.x[0], cpu.x[1]) = (0x1234, 0x5_0080);
    let placed = access
        .place(&cpu, abort(Direction::Store, 0x5_0088))
        .expect("a place");
    let mut seen = Vec::new();
    let outcome = placed.perform(&mut cpu, |single| {
        seen.push(single);
        Answer::Done(0)
    });
    assert_eq!(outcome, Outcome::Done);
    assert_eq!(seen, [stores(0x88, Size::Double, 0x1234)]);
    assert_eq!((cpu.x[0], cpu.x[1]), (0x1234, 0x5_0088));
}

#[test]
fn a_pair_is_two_accesses_in_the_order_of_addresses() {
    // LDP X0, X2, [X1], #16
    let (cpu, singles) = run(0xa8c1_0820, 0x5_0100, 0x5_0108);
    assert_eq!(
        singles,
        [loads(0x100, Size::Double), loads(0x108, Size::Double)]
    );
    assert_eq!(
        [cpu.x[0], cpu.x[2], cpu.x[1]],
        [bytes(0), bytes(8), 0x5_0110]
    );
    // LDPSW X0, X2, [X1]
    let (cpu, singles) = run(0x6940_0820, 0x5_017c, 0x5_017c);
    assert_eq!(
        singles,
        [loads(0x17c, Size::Word), loads(0x180, Size::Word)]
    );
    assert_eq!((cpu.x[0], cpu.x[2]), (0x7f7e_7d7c, 0xffff_ffff_8382_8180));
}

#[test]
fn sixteen_bytes_are_two_accesses_of_eight() {
    // LDP Q0, Q2, [X1]
    let (cpu, singles) = run(0xad40_0820, 0x5_0040, 0x5_0040);
    let wanted = [0x40, 0x48, 0x50, 0x58].map(|offset| loads(offset, Size::Double));
    assert_eq!(singles, wanted);
    assert_eq!(cpu.v[0], [bytes(0x40), bytes(0x48)]);
    assert_eq!(cpu.v[2], [bytes(0x50), bytes(0x58)]);
}

#[test]
fn a_narrow_load_clears_the_rest_of_a_vector_register() {
    // LDR S0, [X1]
    let (cpu, singles) = run(0xbd40_0020, 0x5_0040, 0x5_0040);
    assert_eq!(singles, [loads(0x40, Size::Word)]);
    assert_eq!(cpu.v[0], [0x4342_4140, 0]);
}

#[test]
fn loads_extend_as_they_say() {
    for (instruction, loaded) in [
        (0x3980_0020, 0xffff_ffff_ffff_ffc0), // LDRSB X0, [X1]
        (0x39c0_0020, 0xffff_ffc0),           // LDRSB W0, [X1]
        (0x3940_0020, 0xc0),                  // LDRB W0, [X1]
        (0x7980_0020, 0xffff_ffff_ffff_c1c0), // LDRSH X0, [X1]
        (0xb980_0020, 0xffff_ffff_c3c2_c1c0), // LDRSW X0, [X1]
        (0xb940_0020, 0xc3c2_c1c0),           // LDR W0, [X1]
    ] {
        let (cpu, _) = run(instruction, 0x5_00c0, 0x5_00c0);
        assert_eq!(cpu.x[0], loaded, "{instruction:#010x}");
    }
}

/// Register 31 is the stack pointer as a base, and zero as data.
#[test]
fn register_31_is_two_things() {
    // STR XZR, [SP], #8; LDR XZR, [SP], #8
    for (instruction, direction) in [
        (0xf800_87ff, Direction::Store),
        (0xf840_87ff, Direction::Load),
    ] {
        let mut cpu = cpu();
        let before = cpu.clone();
        let placed = decode(instruction)
            .place(&cpu, abort(direction, cpu.sp))
            .expect("a place");
        let outcome = placed.perform(&mut cpu, |single| {
            assert_eq!(single.store.unwrap_or(0), 0);
            Answer::Done(7)
        });
        assert_eq!(outcome, Outcome::Done);
        let sp = before.sp + 8;
        assert_eq!(cpu, Cpu { sp, ..before });
    }
}

#[test]
fn an_offset_in_a_register_is_widened_and_shifted() {
    // LDR X0, [X1, W3, SXTW #3]; …, UXTW #3]; …, X3, LSL #3]
    for (instruction, offset, start) in [
        (0xf863_d820, 0xffff_ffff, 0x4_fff8),
        (0xf863_5820, 0xabcd_0000_0000_0002, 0x5_0010),
        (0xf863_7820, u64::MAX, 0x4_fff8),
    ] {
        let mut cpu = cpu();
        (cpu.x[1], cpu.x[3]) = (0x5_0000, offset);
        let access = decode(instruction);
        assert!(access.place(&cpu, abort(Direction::Load, start)).is_ok());
        let other = abort(Direction::Load, start + 8);
        assert_eq!(access.place(&cpu, other), Err(Refused::Another));
    }
}

/// FAR_EL2 has to be an address of what is accessed, whichever.
#[test]
fn only_what_agrees_with_the_abort_is_carried_out() {
    let mut cpu = cpu();
    cpu.x[1] = 0x5_0080;
    // LDP X0, X2, [X1]
    let access = decode(0xa940_0820);
    for far in 0x5_0080..0x5_0090 {
        assert!(
            access.place(&cpu, abort(Direction::Load, far)).is_ok(),
            "{far:#x}"
        );
    }
    for far in [0x5_007f, 0x5_0090, 0x80, 0x15_0080, 0x80_0000_0005_0080, 0] {
        let placed = access.place(&cpu, abort(Direction::Load, far));
        assert_eq!(placed, Err(Refused::Another), "{far:#x}");
    }
    let placed = access.place(&cpu, abort(Direction::Store, 0x5_0080));
    assert_eq!(placed, Err(Refused::Another));
    // Bits 63:56 may be a tag, on either side.
    cpu.x[1] |= 0xab << 56;
    assert!(access.place(&cpu, abort(Direction::Load, 0x5_0080)).is_ok());
    assert!(
        access
            .place(&cpu, abort(Direction::Load, 0x0f << 56 | 0x5_0088))
            .is_ok()
    );
}

#[test]
fn nothing_crosses_a_page() {
    let mut cpu = cpu();
    // LDP X0, X2, [X1]
    let access = decode(0xa940_0820);
    for (start, far, wanted) in [
        (0x5_0ff0, 0x5_0ff8, None),
        (0x5_0ff1, 0x5_0ff1, Some(Refused::CrossesPage)),
        (0x5_0ff8, 0x5_0ff8, Some(Refused::CrossesPage)),
        // The first part was permitted.
        (0x5_0ff8, 0x5_1000, Some(Refused::CrossesPage)),
        (0x5_0fff, 0x5_1007, Some(Refused::CrossesPage)),
        (0x5_1000, 0x5_1000, None),
    ] {
        cpu.x[1] = start;
        let placed = access.place(&cpu, abort(Direction::Load, far));
        assert_eq!(placed.err(), wanted, "{start:#x} {far:#x}");
    }
}

/// A device that is busy, or absent, at any access of a sequence: no register has
/// changed, so that the instruction can be done again, and then does all of it.
#[test]
fn what_is_not_done_changes_no_register() {
    // STP Q0, Q2, [X1], #32; LDP Q0, Q2, [X1], #32; LDP X0, X2, [X1], #16
    for instruction in [0xac81_0820, 0xacc1_0820, 0xa8c1_0820] {
        let access = decode(instruction);
        for (answer, outcome) in [
            (Answer::Again, Outcome::Again),
            (Answer::Absent, Outcome::Absent),
        ] {
            let count = access.length() / 8;
            for busy in 0..count {
                let mut cpu = cpu();
                cpu.x[1] = 0x5_0080;
                let before = cpu.clone();
                let place = |cpu: &Cpu| -> Placed {
                    let placed = access.place(cpu, abort(access.direction, 0x5_0080));
                    placed.expect("a place")
                };
                let mut done = Vec::new();
                let first = place(&cpu).perform(&mut cpu, |single| {
                    if done.len() as u64 == busy {
                        return answer;
                    }
                    done.push(single);
                    Answer::Done(bytes(single.offset))
                });
                assert_eq!((first, done.len() as u64), (outcome, busy));
                assert_eq!(cpu, before);
                let mut all = Vec::new();
                let then = place(&cpu).perform(&mut cpu, |single| {
                    all.push(single);
                    Answer::Done(bytes(single.offset))
                });
                assert_eq!((then, all.len() as u64), (Outcome::Done, count));
                // From the start, with the same values.
                assert!(all.starts_with(&done));
                assert_eq!(cpu.x[1], 0x5_0080 + access.length());
            }
        }
    }
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![
        Just(Width::Byte),
        Just(Width::Half),
        Just(Width::Word),
        Just(Width::Double),
        Just(Width::Quad),
    ]
}

prop_compose! {
    /// Any access, also ones that no instruction does.
    fn any_access()(
        store: bool,
        file in prop_oneof![
            any::<(bool, bool)>().prop_map(|(signed, wide)| File::General { signed, wide }),
            Just(File::Vector),
        ],
        width in width(),
        first in 0u8..32,
        second in proptest::option::of(0u8..32),
        base in 0u8..32,
        offset in prop_oneof![
            any::<i64>().prop_map(Offset::Immediate),
            (0u8..32, 0u8..255).prop_map(|(number, shift)| Offset::Register {
                number,
                extend: Extend::SignedWord,
                shift,
            }),
        ],
        indexing in prop_oneof![
            Just(Indexing::Offset), Just(Indexing::Pre), Just(Indexing::Post)
        ],
    ) -> Access {
        let direction = if store { Direction::Store } else { Direction::Load };
        Access { direction, file, width, first, second, base, offset, indexing }
    }
}

proptest! {
    /// No instruction makes this code fail, nor leave the page, nor make another access
    /// than those in order.
    #[test]
    fn no_instruction_goes_beyond_the_page(
        word: u32, pointer: u64, far: u64, near in 0u64..64, close: bool,
    ) {
        let Ok(access) = Access::decode(word) else { return Ok(()) };
        inside(&access, pointer, if close { pointer.wrapping_add(near) } else { far })?;
    }

    /// The same for whatever an access may be.
    #[test]
    fn no_access_goes_beyond_the_page(access in any_access(), pointer: u64, near in 0u64..64) {
        inside(&access, pointer, pointer.wrapping_add(near))?;
    }

    /// Loads and stores of a piece of memory are those of the bytes in it.
    #[test]
    fn what_was_stored_is_loaded(
        load in prop_oneof![
            Just(0xa940_0820u32), // LDP X0, X2, [X1]
            Just(0xad40_0820),    // LDP Q0, Q2, [X1]
            Just(0x3dc0_0020),    // LDR Q0, [X1]
            Just(0xf940_0020),    // LDR X0, [X1]
            Just(0x6d40_0820),    // LDP D0, D2, [X1]
        ],
        at in 0u16..4000,
        values: [u64; 4],
    ) {
        const IS_LOAD: u32 = 1 << 22;
        let store = decode(load & !IS_LOAD);
        let load = decode(load);
        let mut memory = [0u8; 4096];
        let mut device = |single: Single| {
            let (from, count) = (usize::from(single.offset), single.size.bytes() as usize);
            let here = &mut memory[from..from + count];
            if let Some(value) = single.store {
                here.copy_from_slice(&value.to_le_bytes()[..count]);
            }
            let mut bytes = [0; 8];
            bytes[..count].copy_from_slice(here);
            Answer::Done(u64::from_le_bytes(bytes))
        };
        let pointer = 0x5_0000 + u64::from(at);
        let mut source = cpu();
        source.x[1] = pointer;
        (source.x[0], source.x[2]) = (values[0], values[1]);
        (source.v[0], source.v[2]) = ([values[0], values[1]], [values[2], values[3]]);
        let mut target = cpu();
        target.x[1] = pointer;
        let stored = store.place(&source, abort(Direction::Store, pointer));
        prop_assert_eq!(stored.expect("a place").perform(&mut source, &mut device), Outcome::Done);
        let loaded = load.place(&target, abort(Direction::Load, pointer));
        prop_assert_eq!(loaded.expect("a place").perform(&mut target, &mut device), Outcome::Done);
        let pair = load.second.is_some();
        match (load.file, load.width) {
            (File::Vector, Width::Quad) => {
                prop_assert_eq!(target.v[0], source.v[0]);
                prop_assert!(!pair || target.v[2] == source.v[2]);
            }
            (File::Vector, _) => {
                prop_assert_eq!(target.v[0], [source.v[0][0], 0]);
                prop_assert!(!pair || target.v[2] == [source.v[2][0], 0]);
            }
            _ => {
                prop_assert_eq!(target.x[0], source.x[0]);
                prop_assert!(!pair || target.x[2] == source.x[2]);
            }
        }
    }
}

fn inside(access: &Access, pointer: u64, far: u64) -> Result<(), TestCaseError> {
    let mut cpu = cpu();
    cpu.x = [pointer; 31];
    cpu.sp = pointer;
    let Ok(placed) = access.place(&cpu, abort(access.direction, far)) else {
        return Ok(());
    };
    let mut next = None;
    let mut length = 0;
    let outcome = placed.perform(&mut cpu, |single| {
        let end = u64::from(single.offset) + u64::from(single.size.bytes());
        assert!(end <= 4096, "{single:?}");
        assert!(next.is_none_or(|next| next == u64::from(single.offset)));
        let bits = 8 * single.size.bytes();
        assert!(
            single
                .store
                .is_none_or(|value| bits == 64 || value >> bits == 0)
        );
        next = Some(end);
        length += u64::from(single.size.bytes());
        Answer::Done(u64::MAX)
    });
    prop_assert_eq!(outcome, Outcome::Done);
    prop_assert_eq!(length, access.length());
    let start = next.unwrap_or(0) - length;
    // What FAR_EL2 says is in it.
    prop_assert!((start..start + length).contains(&(far % 4096)));
    Ok(())
}

/// One of a thousand instructions, over all of them.
#[test]
fn every_pattern_is_decoded_or_refused() {
    // A prime, so that every field takes every value.
    for word in (0..=u32::MAX).step_by(1009) {
        if let Ok(access) = Access::decode(word) {
            assert!(access.first < 32 && access.base < 32 && access.second.unwrap_or(0) < 32);
            let vector = access.file == File::Vector;
            assert!(vector || access.width != Width::Quad, "{word:#010x}");
        }
    }
}

//! The decoder against an assembler that knows nothing of it: that of the compiler
//! which builds the image. What a text means is said here beside it.

use object::{Object, ObjectSection};
use portcullis_load_store::{Access, Direction, Extend, File, Indexing, Offset, Refused, Width};
use std::fmt::Write;
use std::process::Command;

/// The target of the image, which is installed where it is built.
const TARGET: &str = "aarch64-unknown-none-softfloat";
const EXTENSIONS: [&str; 12] = [
    "fp", "simd", "lse", "rcpc", "rcpc3", "lor", "memtag", "mops", "pauth", "sve", "sme", "ls64",
];

/// The instructions that `texts` stand for.
fn assemble<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<u32> {
    let directory = tempfile::tempdir().expect("a directory");
    let source = directory.path().join("texts.rs");
    let object = directory.path().join("texts.o");
    let mut asm = String::from(".section .texts, \"ax\"\n.arch armv8.9-a\n");
    for extension in EXTENSIONS {
        writeln!(asm, ".arch_extension {extension}").expect("a string");
    }
    let mut count = 0;
    for text in texts {
        writeln!(asm, "{text}").expect("a string");
        count += 1;
    }
    let program = format!("#![no_std]\ncore::arch::global_asm!(r#\"{asm}\"#, options(raw));\n");
    std::fs::write(&source, program).expect("a file");
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .args([
            "--crate-type=lib",
            "--edition=2024",
            "--emit=obj",
            "-Cpanic=abort",
        ])
        .arg(format!("--target={TARGET}"))
        .arg("-o")
        .arg(&object)
        .arg(&source)
        .output()
        .expect("rustc runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let bytes = std::fs::read(&object).expect("an object");
    let file = object::File::parse(&*bytes).expect("an object");
    let section = file.section_by_name(".texts").expect("the section");
    let data = section.data().expect("its bytes");
    let (words, rest) = data.as_chunks::<4>();
    assert!(rest.is_empty());
    assert_eq!(words.len(), count, "one instruction for each text");
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

const LOAD: Direction = Direction::Load;
const STORE: Direction = Direction::Store;

/// A way to load or store one register: what is before and after the letter `u` of the
/// unscaled form or `t` of the unprivileged one, the name of the register, and what it
/// means.
type Form = (&'static str, &'static str, char, Direction, File, Width);

const fn general(signed: bool, wide: bool) -> File {
    File::General { signed, wide }
}

const GENERAL: [Form; 13] = [
    ("st", "rb", 'w', STORE, general(false, false), Width::Byte),
    ("ld", "rb", 'w', LOAD, general(false, false), Width::Byte),
    ("ld", "rsb", 'x', LOAD, general(true, true), Width::Byte),
    ("ld", "rsb", 'w', LOAD, general(true, false), Width::Byte),
    ("st", "rh", 'w', STORE, general(false, false), Width::Half),
    ("ld", "rh", 'w', LOAD, general(false, false), Width::Half),
    ("ld", "rsh", 'x', LOAD, general(true, true), Width::Half),
    ("ld", "rsh", 'w', LOAD, general(true, false), Width::Half),
    ("st", "r", 'w', STORE, general(false, false), Width::Word),
    ("ld", "r", 'w', LOAD, general(false, false), Width::Word),
    ("ld", "rsw", 'x', LOAD, general(true, true), Width::Word),
    ("st", "r", 'x', STORE, general(false, true), Width::Double),
    ("ld", "r", 'x', LOAD, general(false, true), Width::Double),
];

const VECTOR: [Form; 10] = [
    ("st", "r", 'b', STORE, File::Vector, Width::Byte),
    ("ld", "r", 'b', LOAD, File::Vector, Width::Byte),
    ("st", "r", 'h', STORE, File::Vector, Width::Half),
    ("ld", "r", 'h', LOAD, File::Vector, Width::Half),
    ("st", "r", 's', STORE, File::Vector, Width::Word),
    ("ld", "r", 's', LOAD, File::Vector, Width::Word),
    ("st", "r", 'd', STORE, File::Vector, Width::Double),
    ("ld", "r", 'd', LOAD, File::Vector, Width::Double),
    ("st", "r", 'q', STORE, File::Vector, Width::Quad),
    ("ld", "r", 'q', LOAD, File::Vector, Width::Quad),
];

/// How a register is written.
fn name(letter: char, number: u8) -> String {
    match (letter, number) {
        ('w' | 'x', 31) => format!("{letter}zr"),
        _ => format!("{letter}{number}"),
    }
}

fn base(number: u8) -> String {
    if number == 31 {
        "sp".to_owned()
    } else {
        name('x', number)
    }
}

/// Texts, and what they mean.
#[derive(Default)]
struct Texts(Vec<(String, Result<Access, Refused>)>);

impl Texts {
    fn means(&mut self, text: String, access: Access) {
        self.0.push((text, Ok(access)));
    }

    fn check(self) {
        let words = assemble(self.0.iter().map(|(text, _)| &**text));
        for ((text, meaning), word) in self.0.iter().zip(words) {
            assert_eq!(Access::decode(word), *meaning, "{text}: {word:#010x}");
        }
    }
}

fn access(form: &Form, target: u8, base: u8, offset: Offset, indexing: Indexing) -> Access {
    let &(_, _, _, direction, file, width) = form;
    Access {
        direction,
        file,
        width,
        first: target,
        second: None,
        base,
        offset,
        indexing,
    }
}

/// Numbers of registers, with both ends.
const NUMBERS: [u8; 5] = [0, 1, 17, 30, 31];

#[test]
fn one_register_with_a_number_for_offset() {
    let mut texts = Texts::default();
    for form in GENERAL.iter().chain(&VECTOR) {
        let &(before, after, letter, _, file, width) = form;
        for (t, n) in NUMBERS.into_iter().flat_map(|t| NUMBERS.map(|n| (t, n))) {
            let (register, pointer) = (name(letter, t), base(n));
            let mut add = |text: String, offset: i64, indexing| {
                let offset = Offset::Immediate(offset);
                texts.means(text, access(form, t, n, offset, indexing));
            };
            // Truncation: at most 16.
            for units in [0, 1, 2048, 4095] {
                let bytes = units * width.bytes() as i64;
                let text = format!("{before}{after} {register}, [{pointer}, #{bytes}]");
                add(text, bytes, Indexing::Offset);
            }
            for bytes in [-256, -1, 0, 3, 255] {
                let text = format!("{before}u{after} {register}, [{pointer}, #{bytes}]");
                add(text, bytes, Indexing::Offset);
                if file != File::Vector {
                    let text = format!("{before}t{after} {register}, [{pointer}, #{bytes}]");
                    add(text, bytes, Indexing::Offset);
                }
                if file != File::Vector && t == n && n != 31 {
                    continue;
                }
                let text = format!("{before}{after} {register}, [{pointer}], #{bytes}");
                add(text, bytes, Indexing::Post);
                let text = format!("{before}{after} {register}, [{pointer}, #{bytes}]!");
                add(text, bytes, Indexing::Pre);
            }
        }
    }
    texts.check();
}

#[test]
fn one_register_with_a_register_for_offset() {
    let mut texts = Texts::default();
    for form in GENERAL.iter().chain(&VECTOR) {
        let &(before, after, letter, _, _, width) = form;
        for (t, m) in NUMBERS.into_iter().flat_map(|t| NUMBERS.map(|m| (t, m))) {
            for (letter_of_offset, extension, extend) in [
                ('x', "lsl", Extend::Double),
                ('x', "sxtx", Extend::Double),
                ('w', "uxtw", Extend::UnsignedWord),
                ('w', "sxtw", Extend::SignedWord),
            ] {
                for shift in [0, width.log2()] {
                    let text = format!(
                        "{before}{after} {}, [x9, {}, {extension} #{shift}]",
                        name(letter, t),
                        name(letter_of_offset, m)
                    );
                    let offset = Offset::Register {
                        number: m,
                        extend,
                        shift: shift as u8,
                    };
                    texts.means(text, access(form, t, 9, offset, Indexing::Offset));
                }
            }
        }
    }
    texts.check();
}

#[test]
fn pairs() {
    let mut texts = Texts::default();
    for (load, store, letter, file, width) in [
        ("ldp", "stp", 'w', general(false, false), Width::Word),
        ("ldp", "stp", 'x', general(false, true), Width::Double),
        ("ldpsw", "", 'x', general(true, true), Width::Word),
        ("ldnp", "stnp", 'w', general(false, false), Width::Word),
        ("ldnp", "stnp", 'x', general(false, true), Width::Double),
        ("ldp", "stp", 's', File::Vector, Width::Word),
        ("ldp", "stp", 'd', File::Vector, Width::Double),
        ("ldp", "stp", 'q', File::Vector, Width::Quad),
        ("ldnp", "stnp", 's', File::Vector, Width::Word),
        ("ldnp", "stnp", 'd', File::Vector, Width::Double),
        ("ldnp", "stnp", 'q', File::Vector, Width::Quad),
    ] {
        for (first, second, n) in [(0, 1, 2), (31, 30, 31), (30, 0, 29), (5, 5, 6), (7, 31, 0)] {
            for (mnemonic, direction) in [(load, LOAD), (store, STORE)] {
                if mnemonic.is_empty() || direction == LOAD && first == second {
                    continue;
                }
                let registers = format!("{}, {}", name(letter, first), name(letter, second));
                let pointer = base(n);
                for units in [-64, -1, 0, 2, 63] {
                    let bytes = units * width.bytes() as i64;
                    let mut add = |text, indexing| {
                        let access = Access {
                            direction,
                            file,
                            width,
                            first,
                            second: Some(second),
                            base: n,
                            offset: Offset::Immediate(bytes),
                            indexing,
                        };
                        texts.means(text, access);
                    };
                    let plain = format!("{mnemonic} {registers}, [{pointer}, #{bytes}]");
                    add(plain.clone(), Indexing::Offset);
                    if !mnemonic.contains('n') {
                        add(format!("{plain}!"), Indexing::Pre);
                        let post = format!("{mnemonic} {registers}, [{pointer}], #{bytes}");
                        add(post, Indexing::Post);
                    }
                }
            }
        }
    }
    texts.check();
}

#[test]
fn acquiring_and_releasing() {
    let mut texts = Texts::default();
    for (t, n) in NUMBERS.into_iter().flat_map(|t| NUMBERS.map(|n| (t, n))) {
        for (suffix, letter, wide, width) in [
            ("b", 'w', false, Width::Byte),
            ("h", 'w', false, Width::Half),
            ("", 'w', false, Width::Word),
            ("", 'x', true, Width::Double),
        ] {
            for (mnemonic, direction) in [
                ("ldar", LOAD),
                ("ldlar", LOAD),
                ("ldapr", LOAD),
                ("stlr", STORE),
                ("stllr", STORE),
            ] {
                let form = ("", "", letter, direction, general(false, wide), width);
                let text = format!("{mnemonic}{suffix} {}, [{}]", name(letter, t), base(n));
                let zero = Offset::Immediate(0);
                texts.means(text, access(&form, t, n, zero, Indexing::Offset));
            }
        }
        // LDAPUR and STLUR are LDUR and STUR in all but the order they keep.
        for form in GENERAL.iter().chain(&VECTOR) {
            let &(before, after, letter, ..) = form;
            let mnemonic = if before == "ld" { "ldapu" } else { "stlu" };
            for bytes in [-256, 0, 255] {
                let operands = format!("{}, [{}, #{bytes}]", name(letter, t), base(n));
                let offset = Offset::Immediate(bytes);
                let text = format!("{mnemonic}{after} {operands}");
                texts.means(text, access(form, t, n, offset, Indexing::Offset));
            }
        }
    }
    texts.check();
}

#[test]
fn what_is_refused_is_so_for_its_reason() {
    let mut texts = Texts::default();
    for (reason, list) in [
        (
            Refused::Exclusive,
            &[
                "ldxr x0, [x1]",
                "ldxrb w0, [x1]",
                "ldaxr w0, [sp]",
                "ldxp x0, x2, [x1]",
                "stxr w3, x0, [x1]",
                "stlxrh w3, w0, [x1]",
                "stlxp w3, w0, w2, [x1]",
            ][..],
        ),
        (
            Refused::Atomic,
            &[
                "ldadd x0, x2, [x1]",
                "ldclralb w0, w2, [x1]",
                "stset w0, [x1]",
                "swp w0, w2, [x1]",
                "ldumaxh w0, w2, [x1]",
                "cas x0, x2, [x1]",
                "casalb w0, w2, [x1]",
                "casp x0, x1, x2, x3, [x4]",
                "casp w0, w1, w2, w3, [x4]",
                "ld64b x0, [x10]",
                "st64b x0, [x10]",
            ],
        ),
        (
            Refused::Structure,
            &[
                "ld1 {v0.16b}, [x1]",
                "st1 {v0.2d}, [x1], #16",
                "ld4 {v0.4s-v3.4s}, [x1]",
                "st1 {v0.s}[1], [x1]",
                "ld1r {v0.2d}, [x1]",
                "st2 {v0.b, v1.b}[3], [x1], x2",
            ],
        ),
        (
            Refused::Scalable,
            &[
                "ldr z0, [x1]",
                "str p0, [x1]",
                "ld1b {z0.b}, p0/z, [x1]",
                "st1d {z0.d}, p0, [x1, x2, lsl #3]",
                "ldr za[w12, #0], [x1]",
            ],
        ),
        (
            Refused::Authenticated,
            &["ldraa x0, [x1]", "ldrab x0, [x1, #8]!"],
        ),
        (
            Refused::Tag,
            &[
                "stg x0, [x1]",
                "stz2g x0, [x1], #16",
                "ldg x0, [x1]",
                "stgp x0, x2, [x1, #16]!",
            ],
        ),
        (
            Refused::CopyOrSet,
            &[
                "cpyfp [x0]!, [x1]!, x2!",
                "cpye [x0]!, [x1]!, x2!",
                "setm [x0]!, x1!, x2",
            ],
        ),
        (
            Refused::Literal,
            &["ldr x0, .", "ldrsw x0, .", "ldr q0, .", "prfm pldl1keep, ."],
        ),
        (
            Refused::Cache,
            &["dc zva, x0", "dc ivac, x0", "dc civac, x0", "ic ivau, x0"],
        ),
        (
            Refused::Prefetch,
            &[
                "prfm pldl1keep, [x1]",
                "prfum pldl1keep, [x1, #1]",
                "prfm pstl1strm, [x1, x2]",
            ],
        ),
        (
            Refused::NotAnAccess,
            &[
                "nop",
                "brk #0",
                "b .",
                "ret",
                "add x0, x1, x2",
                "mrs x0, midr_el1",
                "dsb sy",
                "fmov d0, x0",
                "movz x0, #1",
                "hvc #0",
                "csel x0, x1, x2, eq",
                "tlbi vmalle1",
            ],
        ),
    ] {
        for text in list {
            texts.0.push(((*text).to_owned(), Err(reason)));
        }
    }
    texts.check();
}

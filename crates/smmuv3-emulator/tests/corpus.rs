//! The corpus of the fuzz target `emulator`, also where there is no fuzzer.
//!
//! Its files are made here; after a change
//! `BLESS=1 cargo test -p smmuv3-emulator --test corpus` writes them anew. What
//! a fuzzer found lies beside them and stays.
#![allow(missing_docs)]

mod bytes;
mod machine;

use bytes::{COMMANDS, MESSAGES, REGISTERS, SET_UP, STREAM_TABLE, run};
use smmuv3_spec::command::Command;
use smmuv3_spec::{Asid, StreamId, Vmid, reg};
use std::fs;
use std::path::PathBuf;

/// A context descriptor and a table of level 1.
const CONTEXT: u64 = machine::RAM.start + 0x7000;
const TABLE: u64 = machine::RAM.start + 0x8000;

fn corpus() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/emulator"
    ))
}

/// Writes what `bytes` reads.
struct Program(Vec<u8>);

impl Program {
    fn new(profile: u8, mode: u8) -> Self {
        Self(vec![profile, mode])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn write(self, offset: u32, size: u8, value: u64) -> Self {
        let number = REGISTERS.iter().position(|known| *known == offset);
        self.raw(&[0, number.unwrap() as u8, size])
            .raw(&value.to_le_bytes())
    }

    fn store(self, at: u64, value: u64) -> Self {
        let index = ((at - machine::RAM.start) / 8) as u16;
        self.raw(&[2])
            .raw(&index.to_le_bytes())
            .raw(&value.to_le_bytes())
    }

    fn command(self, command: Command) -> Self {
        self.raw(&[4])
            .raw(&command.0[0].to_le_bytes())
            .raw(&command.0[1].to_le_bytes())
    }

    fn dma(self, stream: u8, address: u64) -> Self {
        self.raw(&[5, stream]).raw(&address.to_le_bytes())
    }

    fn then(self, step: u8) -> Self {
        self.raw(&[step])
    }

    /// Stream 1 gets a stage 1 that maps the second GiB to the host's memory.
    fn stage1(self) -> Self {
        let entry = STREAM_TABLE + 64;
        self.store(TABLE + 8, 0x8000_0000 | 1 << 10 | 1 << 6 | 0b01)
            .store(CONTEXT + 8, TABLE)
            .store(
                CONTEXT,
                25 | 1 << 30 | 1 << 31 | 2 << 32 | 1 << 41 | 3 << 45 | 1 << 48,
            )
            .store(entry, CONTEXT | 0b1011)
            .store(STREAM_TABLE + 64 * 64, 0b1001)
            .command(Command::cfgi_ste(StreamId(1), true))
            .command(Command::cfgi_ste(StreamId(64), true))
            .command(Command::sync(0))
    }
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for profile in 0..4 {
        for mode in [0, 1, 2, 1 | MESSAGES] {
            let program = Program::new(profile, mode | SET_UP)
                .stage1()
                .dma(1, 0x4000_0000)
                .dma(1, 0x4123_4560)
                .dma(0, 0x8010_0000)
                .then(6)
                .then(9)
                .command(Command::tlbi_nh_asid(Vmid(9), Asid(1)))
                .command(Command::tlbi_nsnh_all())
                .command(Command::sync(1).with_msi_address(COMMANDS + 8))
                .then(10)
                .write(reg::CR0, 0, 0)
                .write(reg::GBPA, 0, 1 << 31 | 1 << 20)
                .write(reg::CMDQ_CONS, 0, 0)
                .write(reg::CMDQ_PROD, 0, 0)
                .write(reg::CR0, 0, 0b1001)
                .command(Command::cfgi_all())
                .command(Command([0x28, 0]))
                .then(10);
            files.push((format!("bring-up-{profile}-{mode}"), program.0));
        }
    }
    files
}

#[test]
fn the_corpus_is_as_made_here() {
    for (name, bytes) in files() {
        let path = corpus().join(&name);
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(corpus()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert_eq!(fs::read(&path).ok(), Some(bytes), "{name}");
    }
}

#[test]
fn every_file_of_the_corpus_runs() {
    let mut commands = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        commands += run(&fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(commands > 100, "{commands} commands");
}

/// Bytes from a generator, which no fuzzer chose: as many as a test may take.
#[test]
fn any_bytes_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..300 {
        let mut bytes = vec![round as u8, SET_UP | (round / 4 % 3) as u8];
        for _ in 0..600 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Steps and known registers are small numbers.
            let byte = (state >> 32) as u8;
            bytes.push(if state & 3 == 0 { byte } else { byte % 24 });
        }
        run(&bytes);
    }
}

//! The corpus of the fuzz target `virtio_iommu`, also where there is no fuzzer.
//!
//! Its files are made here; after a change
//! `BLESS=1 cargo test -p virtio-iommu-device --test corpus` writes them anew.
//! What a fuzzer found lies beside them and stays.
#![allow(missing_docs)]

mod bytes;
mod world;

use bytes::{
    BRING_UP, CALL, DESCRIPTOR, FAULT, FINISH, OFFER, PACE, READ, REFUSE, REGISTERS, REQUEST,
    SET_UP, STORE, TAKE, WITH_EVENT_IDX, WITH_INDIRECT, WRITE, run,
};
use std::fs;
use std::path::PathBuf;
use virtio_iommu_device::reg;

fn corpus() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../fuzz/corpus/virtio_iommu"
    ))
}

/// Writes what `bytes` reads.
struct Program(Vec<u8>);

impl Program {
    fn new(config: u8) -> Self {
        Self(vec![config, SET_UP])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn write(self, offset: u32, value: u32) -> Self {
        let number = REGISTERS.iter().position(|known| *known == offset);
        self.raw(&[WRITE, number.unwrap() as u8, 0])
            .raw(&value.to_le_bytes())
    }

    fn request(self, kind: u8, first: u8, count: u8) -> Self {
        self.raw(&[REQUEST, kind, 1, first, count, 3, 0xff])
    }

    /// A descriptor of a queue, in the buffers.
    fn descriptor(self, queue: u8, index: u8, at: u16, len: u8, flags: u8, next: u8) -> Self {
        self.raw(&[DESCRIPTOR, queue, index, len, flags, next])
            .raw(&at.to_le_bytes())
            .raw(&[0])
    }
}

fn usual(config: u8) -> Program {
    Program::new(config)
        .request(5, 1, 0)
        .request(1, 1, 0)
        .raw(&[FINISH])
        .request(3, 1, 0)
        .raw(&[CALL])
        .request(3, 2, 3)
        .request(3, 2, 3)
        .request(9, 2, 3)
        .raw(&[FINISH])
        .request(4, 1, 0)
        .raw(&[PACE, 5])
        .request(4, 2, 3)
        .request(4, 3, 0)
        .raw(&[FINISH])
        .request(2, 1, 0)
        .raw(&[FINISH])
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for features in [
        0,
        WITH_INDIRECT,
        WITH_EVENT_IDX,
        WITH_INDIRECT | WITH_EVENT_IDX,
    ] {
        for work in [0, 2, 63] {
            let config = features | work;
            files.push((format!("usual-{features:02x}-{work}"), usual(config).0));
        }
        let events = Program::new(features | 63)
            .descriptor(1, 0, 0x100, 24, 2, 0)
            .descriptor(1, 1, 0x200, 10, 3, 2)
            .descriptor(1, 2, 0x300, 14, 2, 0)
            .raw(&[OFFER, 1, 0, OFFER, 1, 1])
            .raw(&[FAULT, 2, 2, 1, 2, 3, 4, 5, 6, 7, 8])
            .raw(&[FAULT, 1, 5, 1, 2, 3, 4, 5, 6, 7, 8])
            .raw(&[FAULT, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
            .write(reg::QUEUE_NOTIFY, 1)
            .write(reg::INTERRUPT_ACK, 1);
        files.push((format!("events-{features:02x}"), events.0));
        let resets = usual(features)
            .raw(&[PACE, 9])
            .request(1, 1, 0)
            .raw(&[CALL, CALL, PACE, 7])
            .write(reg::STATUS, 0)
            .write(reg::QUEUE_SEL, 1)
            .write(reg::STATUS, 0)
            .raw(&[BRING_UP])
            .request(1, 1, 0)
            .raw(&[REFUSE, 3])
            .request(2, 1, 0)
            .raw(&[FINISH, REFUSE, 1, READ, 0x70, 0, TAKE, 0x10, FINISH])
            .write(reg::QUEUE_READY, 0);
        files.push((format!("resets-{features:02x}"), resets.0));
        // A table of descriptors at the start of the buffers, and chains that
        // go round.
        let table = (world::BUFFERS - world::RAM.start) / 8;
        let half = |n: u64| ((table + n) as u16).to_le_bytes();
        let tables = Program::new(features | 63)
            .raw(&[STORE])
            .raw(&half(0))
            .raw(&(world::BUFFERS + 0x400).to_le_bytes())
            .raw(&[STORE])
            .raw(&half(1))
            .raw(&(20u64 | 1 << 32 | 1 << 48).to_le_bytes())
            .raw(&[STORE])
            .raw(&half(2))
            .raw(&(world::BUFFERS + 0x500).to_le_bytes())
            .raw(&[STORE])
            .raw(&half(3))
            .raw(&(4u64 | 2 << 32).to_le_bytes())
            .descriptor(0, 5, 0, 32, 4, 0)
            .raw(&[OFFER, 0, 5, FINISH])
            .descriptor(0, 6, 0x400, 20, 1, 7)
            .descriptor(0, 7, 0x600, 1, 3, 6)
            .raw(&[OFFER, 0, 6, FINISH]);
        files.push((format!("tables-{features:02x}"), tables.0));
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
    let mut requests = 0;
    for entry in fs::read_dir(corpus()).unwrap() {
        requests += run(&fs::read(entry.unwrap().path()).unwrap());
    }
    assert!(requests > 150, "{requests} requests");
}

/// Bytes from a generator, which no fuzzer chose: as many as a test may take.
#[test]
fn any_bytes_do_no_harm() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut requests = 0;
    for round in 0..200u32 {
        let mut bytes = vec![(round * 37) as u8, SET_UP | (round & 2) as u8];
        for _ in 0..600 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Steps and known registers are small numbers.
            let byte = (state >> 32) as u8;
            bytes.push(if state & 3 == 0 { byte } else { byte % 13 });
        }
        requests += run(&bytes);
    }
    assert!(requests > 500, "{requests} requests");
}

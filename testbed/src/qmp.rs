//! QEMU's control connection (QMP): JSON, one object a line.

use crate::{Error, Result};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that has been greeted.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Qmp {
    /// Greets QEMU on a fresh connection.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when QEMU does not answer as it should.
    pub fn new(stream: UnixStream) -> Result<Self> {
        let broken = |error: std::io::Error| failure(format!("QEMU's control connection: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        let writer = stream.try_clone().map_err(broken)?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
            writer,
        };
        let greeting = qmp.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(failure(format!("QEMU greeted with {greeting}")));
        }
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Carries out one command and returns its result.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when QEMU refuses it or has gone.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        self.writer
            .write_all(line.as_bytes())
            .map_err(|error| failure(format!("QEMU's control connection: {error}")))?;
        loop {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(failure(format!("QEMU refused {name}: {error}")));
            }
            // Anything else is an event nobody waits for.
        }
    }

    /// Reads `length` bytes of physical memory at `address`, through `file`.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when QEMU refuses, [`Error::Io`] for the file.
    pub fn memory(&mut self, address: u64, length: u64, file: &Path) -> Result<Vec<u8>> {
        let arguments = json!({ "val": address, "size": length, "filename": file });
        self.command("pmemsave", arguments)?;
        let bytes = std::fs::read(file).map_err(Error::io("cannot read", file))?;
        std::fs::remove_file(file).map_err(Error::io("cannot remove", file))?;
        Ok(bytes)
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => Err(failure("QEMU closed its control connection".to_owned())),
            Ok(_) => serde_json::from_str(&line)
                .map_err(|error| failure(format!("QEMU said {line:?}: {error}"))),
            Err(error) => Err(failure(format!("QEMU's control connection: {error}"))),
        }
    }
}

fn failure(what: String) -> Error {
    Error::Machine {
        what,
        tail: String::new(),
    }
}

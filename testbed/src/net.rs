//! The lab's end of a verified transfer over the machine's network.

use crate::{Error, Result};
use portcullis_payloads::pattern;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest time between two steps of a transfer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A listener that takes one transfer: it receives a pattern, checks it and
/// sends another one back.
#[derive(Debug)]
pub struct Exchange {
    port: u16,
    thread: JoinHandle<std::result::Result<(), String>>,
}

impl Exchange {
    /// Listens for `length` bytes of pattern `up`, to be answered with as many
    /// of pattern `down`.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when this machine's own network refuses.
    pub fn listen(length: u64, up: u64, down: u64) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(network)?;
        listener.set_nonblocking(true).map_err(network)?;
        let port = listener.local_addr().map_err(network)?.port();
        let thread = std::thread::spawn(move || serve(&listener, length, up, down));
        Ok(Self { port, thread })
    }

    /// The port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Waits for the end of the transfer.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] that says what was wrong with the data or when the
    /// connection broke.
    pub fn finish(self) -> Result<()> {
        let result = self
            .thread
            .join()
            .unwrap_or_else(|_| Err("the listener died".to_owned()));
        result.map_err(|what| Error::Machine {
            what,
            tail: String::new(),
        })
    }
}

fn network(error: std::io::Error) -> Error {
    Error::Machine {
        what: format!("this machine's network: {error}"),
        tail: String::new(),
    }
}

fn serve(
    listener: &TcpListener,
    length: u64,
    up: u64,
    down: u64,
) -> std::result::Result<(), String> {
    let end = Instant::now() + PATIENCE;
    let mut stream = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Err(_) => return Err("the host never connected".to_owned()),
        }
    };
    let broken = |error: std::io::Error| format!("the connection to the host broke: {error}");
    stream.set_nonblocking(false).map_err(broken)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(broken)?;
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes).map_err(broken)?;
    if let Some(at) = pattern::first_difference(&bytes, up, 0) {
        return Err(format!("what the host sent differs at byte {at}"));
    }
    pattern::fill(&mut bytes, down, 0);
    stream.write_all(&bytes).map_err(broken)
}

/// A port that swallows datagrams.
///
/// # Errors
///
/// [`Error::Machine`] when this machine's own network refuses.
pub fn sink() -> Result<(UdpSocket, u16)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(network)?;
    let port = socket.local_addr().map_err(network)?.port();
    Ok((socket, port))
}

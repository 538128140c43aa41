//! Verified and counted transfers over the network.

use crate::sys::{self, Socket};
use crate::text::{Context, Failure};
use portcullis_payloads::pattern;

/// The lab, as QEMU's user network shows it to the machine.
const LAB: [u8; 4] = [10, 0, 2, 2];
const CHUNK: usize = 8192;
const TIMEOUT_S: u64 = 60;

/// Sends `length` bytes of pattern `up` over TCP, then receives as many and
/// compares them with pattern `down`.
pub fn exchange(port: u16, length: u64, up: u64, down: u64) -> Result<(), Failure> {
    let socket = sys::connect(Socket::Stream, LAB, port, TIMEOUT_S).context("connect")?;
    let mut buffer = [0; CHUNK];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut buffer[..part], up, at);
        let mut sent = 0;
        while sent < part {
            sent += sys::write(socket, &buffer[sent..part]).context("send")?;
        }
        at += part as u64;
    }
    let mut at = 0;
    while at < length {
        let part = (length - at).min(CHUNK as u64) as usize;
        let mut got = 0;
        while got < part {
            match sys::read(socket, &mut buffer[got..part]).context("receive")? {
                0 => return Err(Failure::Said("the lab closed the connection early")),
                more => got += more,
            }
        }
        if let Some(position) = pattern::first_difference(&buffer[..part], down, at) {
            return Err(Failure::Differs(at + position as u64));
        }
        at += part as u64;
    }
    sys::close(socket);
    Ok(())
}

/// Sends `count` UDP datagrams of `size` bytes without waiting for anybody;
/// returns the counter ticks it took.
pub fn datagrams(port: u16, count: u64, size: usize) -> Result<u64, Failure> {
    let socket = sys::connect(Socket::Datagram, LAB, port, TIMEOUT_S).context("connect")?;
    let mut buffer = [0; CHUNK];
    let data = buffer
        .get_mut(..size)
        .ok_or(Failure::Said("datagram too long"))?;
    pattern::fill(data, count, 0);
    let start = sys::counter();
    for _ in 0..count {
        sys::write(socket, data).context("send")?;
    }
    let ticks = sys::counter().wrapping_sub(start);
    sys::close(socket);
    Ok(ticks)
}

/// Sends `count` UDP datagrams of `size` bytes, each after the answer to the
/// one before; returns the counter ticks it took.
pub fn ping_pong(port: u16, count: u64, size: usize) -> Result<u64, Failure> {
    let socket = sys::connect(Socket::Datagram, LAB, port, TIMEOUT_S).context("connect")?;
    let mut out = [0; CHUNK];
    let mut back = [0; CHUNK];
    let data = out
        .get_mut(..size)
        .ok_or(Failure::Said("datagram too long"))?;
    let start = sys::counter();
    for i in 0..count {
        pattern::fill(data, i, 0);
        sys::write(socket, data).context("send")?;
        let got = sys::read(socket, &mut back).context("receive")?;
        if let Some(position) = pattern::first_difference(&back[..got], i, 0) {
            return Err(Failure::Differs(position as u64));
        }
        if got != data.len() {
            return Err(Failure::Said("a datagram came back shorter"));
        }
    }
    let ticks = sys::counter().wrapping_sub(start);
    sys::close(socket);
    Ok(ticks)
}

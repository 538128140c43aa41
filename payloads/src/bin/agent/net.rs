//! Verified and counted transfers over the network.

use crate::meter::{Cost, Meter, Rounds};
use crate::sys::{self, Errno, Fd, Socket};
use crate::text::{Context, Failure};
use portcullis_payloads::pattern;

/// The lab, as QEMU's user network shows it to the machine.
const LAB: [u8; 4] = [10, 0, 2, 2];
const CHUNK: usize = 8192;
const TIMEOUT_S: u64 = 60;
/// EHOSTUNREACH: for three seconds nobody said what the lab's MAC address is.
const NOBODY_ANSWERS: Errno = Errno(113);
/// How often the lab is asked again: as long as any other wait may take.
const ATTEMPTS: usize = 20;

/// Sends `length` bytes of pattern `up` over TCP, then receives as many and
/// compares them with pattern `down`.
pub fn exchange(port: u16, length: u64, up: u64, down: u64) -> Result<(), Failure> {
    let socket = stream(port).context("connect")?;
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

/// Connects, also when CPUs are so short that the lab's answers come late.
fn stream(port: u16) -> Result<Fd, Errno> {
    for _ in 1..ATTEMPTS {
        match sys::connect(Socket::Stream, LAB, port, TIMEOUT_S) {
            Err(NOBODY_ANSWERS) => continue,
            other => return other,
        }
    }
    sys::connect(Socket::Stream, LAB, port, TIMEOUT_S)
}

/// Sends `count` UDP datagrams of `size` bytes without waiting for anybody;
/// returns what that cost.
pub fn datagrams(port: u16, count: u64, size: usize) -> Result<Cost, Failure> {
    let socket = sys::connect(Socket::Datagram, LAB, port, TIMEOUT_S).context("connect")?;
    let mut buffer = [0; CHUNK];
    let data = buffer
        .get_mut(..size)
        .ok_or(Failure::Said("datagram too long"))?;
    pattern::fill(data, count, 0);
    let meter = Meter::start();
    for _ in 0..count {
        sys::write(socket, data).context("send")?;
    }
    let cost = meter.stop();
    sys::close(socket);
    Ok(cost)
}

/// Sends ICMP echo requests with `size` bytes of data, each after the answer to
/// the one before, which QEMU's user network gives by itself; compares the data
/// and returns what `rounds` rounds of `each` cost. Now and then two interrupts
/// happen to be one, which makes the cheapest a matter of luck.
pub fn echo(rounds: u64, each: u64, size: usize) -> Result<Rounds, Failure> {
    const HEADER: usize = 8;
    const IP_HEADER: usize = 20;
    let socket = sys::connect_icmp(LAB, TIMEOUT_S).context("connect")?;
    let mut out = [0; CHUNK];
    let mut back = [0; CHUNK];
    let packet = out
        .get_mut(..HEADER + size)
        .ok_or(Failure::Said("packet too long"))?;
    let mut costs = Rounds::new();
    for round in 0..rounds {
        let meter = Meter::start();
        for number in 0..each {
            let i = round.wrapping_mul(each).wrapping_add(number);
            let [_, _, _, _, _, _, high, low] = i.to_be_bytes();
            // Type 8 (echo request), code 0, checksum, identifier, number.
            packet[..HEADER].copy_from_slice(&[8, 0, 0, 0, 0x50, 0x43, high, low]);
            pattern::fill(&mut packet[HEADER..], i, 0);
            let sum = checksum(packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
            sys::write(socket, packet).context("send")?;
            let got = sys::read(socket, &mut back).context("receive")?;
            let answer = back[..got].get(IP_HEADER + HEADER..).unwrap_or_default();
            if answer.len() != size {
                return Err(Failure::Said("an echo came back with another size"));
            }
            if let Some(position) = pattern::first_difference(answer, i, 0) {
                return Err(Failure::Differs(position as u64));
            }
        }
        costs.add(meter.stop());
    }
    sys::close(socket);
    Ok(costs)
}

/// The Internet checksum.
fn checksum(data: &[u8]) -> u16 {
    let mut sum = 0;
    for pair in data.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

//! Verified and counted transfers over the network.

use crate::meter::{Cost, Meter, Rounds};
use anyhow::{Context, Result, ensure};
use portcullis_payloads::pattern;
use rustix::fd::OwnedFd;
use rustix::io::{read, write};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, ipproto};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

/// The lab, as QEMU's user network shows it to the machine.
const LAB: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const CHUNK: usize = 8192;
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the lab is asked again: as long as any other wait may take.
const ATTEMPTS: usize = 20;

/// Sends `length` bytes of pattern `up` over TCP, then receives as many and
/// compares them with pattern `down`.
pub fn exchange(port: u16, length: u64, up: u64, down: u64) -> Result<()> {
    let mut stream = connect(port).context("connect")?;
    let mut buffer = [0; CHUNK];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(CHUNK as u64) as usize;
        pattern::fill(&mut buffer[..part], up, at);
        stream.write_all(&buffer[..part]).context("send")?;
        at += part as u64;
    }
    let mut at = 0;
    while at < length {
        let part = (length - at).min(CHUNK as u64) as usize;
        stream.read_exact(&mut buffer[..part]).context("receive")?;
        pattern::check(&buffer[..part], down, at)?;
        at += part as u64;
    }
    Ok(())
}

/// Connects, also when CPUs are so short that the lab's answers come late.
fn connect(port: u16) -> io::Result<TcpStream> {
    let to = SocketAddrV4::new(LAB, port).into();
    let mut attempts = 1..ATTEMPTS;
    let stream = loop {
        match TcpStream::connect_timeout(&to, PATIENCE) {
            // For three seconds the lab's MAC address was asked for in vain.
            Err(error) if error.kind() == ErrorKind::HostUnreachable => {
                if attempts.next().is_none() {
                    return Err(error);
                }
            }
            other => break other?,
        }
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends `count` UDP datagrams of `size` bytes without waiting for an answer;
/// returns what that cost.
pub fn datagrams(port: u16, count: u64, size: usize) -> Result<Cost> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("bind")?;
    socket.connect((LAB, port)).context("connect")?;
    socket.set_write_timeout(Some(PATIENCE))?;
    ensure!(size <= CHUNK, "a datagram has {CHUNK} bytes at most");
    let mut data = vec![0; size];
    pattern::fill(&mut data, count, 0);
    let meter = Meter::start();
    for _ in 0..count {
        write(&socket, &data).context("send")?;
    }
    Ok(meter.stop())
}

/// A raw socket for ICMP with the lab.
fn icmp() -> io::Result<OwnedFd> {
    let protocol = Some(ipproto::ICMP);
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(LAB, 0))?;
    Ok(socket)
}

/// Sends ICMP echo requests with `size` bytes of data, each after the answer to
/// the one before, which QEMU's user network gives by itself; compares the data
/// and returns what `rounds` rounds of `each` cost. Now and then two interrupts
/// happen to be one, which makes the cheapest a matter of luck.
pub fn echo(rounds: u64, each: u64, size: usize) -> Result<Rounds> {
    const HEADER: usize = 8;
    const IP_HEADER: usize = 20;
    let socket = icmp().context("connect")?;
    ensure!(
        size <= CHUNK / 2,
        "a packet has {} bytes at most",
        CHUNK / 2
    );
    let mut packet = vec![0; HEADER + size];
    let mut back = [0; CHUNK];
    let mut costs = Rounds::new();
    for round in 0..rounds {
        let meter = Meter::start();
        for number in 0..each {
            let i = round.wrapping_mul(each).wrapping_add(number);
            let [_, _, _, _, _, _, high, low] = i.to_be_bytes();
            // Type 8 (echo request), code 0, checksum, identifier, number.
            packet[..HEADER].copy_from_slice(&[8, 0, 0, 0, 0x50, 0x43, high, low]);
            pattern::fill(&mut packet[HEADER..], i, 0);
            let sum = checksum(&packet).to_be_bytes();
            packet[2..4].copy_from_slice(&sum);
            write(&socket, &packet).context("send")?;
            let got = read(&socket, &mut back).context("receive")?;
            let answer = back[..got].get(IP_HEADER + HEADER..).unwrap_or_default();
            ensure!(answer.len() == size, "an echo came back with another size");
            pattern::check(answer, i, 0)?;
        }
        costs.add(meter.stop());
    }
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

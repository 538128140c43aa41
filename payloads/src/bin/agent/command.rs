//! Reading commands and answering them.

use crate::arguments::Arguments;
use crate::edu::Edu;
use crate::memory::PAGE;
use crate::meter::Rounds;
use crate::{disk, machine, net, poke};
use anyhow::{Context, Result, bail, ensure};
use portcullis_payloads::counter;
use portcullis_payloads::edu::Direction;
use portcullis_payloads::instructions::{Instructions, Levels};
use rustix::system::RebootCommand;
use std::fmt::Write as _;
use std::io::{self, BufRead, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

/// Most bytes of a file or of memory that an answer holds.
const DATA: usize = 1024;

/// What one command may leave for the next.
#[derive(Default)]
struct State {
    edu: Option<Edu>,
    /// Counts what is executed at EL2.
    el2: Option<Instructions>,
}

/// Answers commands until the console's other end is gone.
pub fn serve() -> io::Result<()> {
    // On something that is no terminal there is nothing to set.
    let _ = machine::raw_console();
    let mut state = State::default();
    let mut input = io::stdin().lock();
    answer("0", Ok(time()))?;
    while let Some(line) = next_line(&mut input)? {
        let Some((number, command)) = line.trim().split_once(' ') else {
            continue;
        };
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        answer(number, run(&mut state, verb, rest.trim_start()))?;
    }
    Ok(())
}

/// The next line of the stream; `None` when it has ended. What is no text is passed
/// over.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    for byte in input.bytes() {
        match byte? {
            b'\n' | b'\r' => match String::from_utf8(line) {
                Ok(line) => return Ok(Some(line)),
                Err(_) => line = Vec::new(),
            },
            byte => line.push(byte),
        }
    }
    Ok(None)
}

/// Writes the answer to command `number` in one piece.
fn answer(number: &str, answer: Result<String>) -> io::Result<()> {
    // The newline in front ends whatever the kernel was printing.
    let line = match answer {
        Ok(fields) => format!("\n@{number} ok{fields}\n"),
        Err(error) => format!("\n@{number} err {error:#}\n"),
    };
    io::stdout().write_all(line.as_bytes())
}

/// Carries a command out; returns the fields of the answer, each with a space before
/// it.
fn run(state: &mut State, verb: &str, rest: &str) -> Result<String> {
    let mut arguments = Arguments::new(rest);
    match verb {
        "time" => return Ok(time()),
        "spin" => {
            machine::spin(arguments.number()?);
            return Ok(time());
        }
        "sleep" => {
            std::thread::sleep(Duration::from_millis(arguments.number()?));
            return Ok(time());
        }
        "cpu" => {
            let number = arguments.number()?;
            machine::cpu(number, arguments.word()? == "on")?;
        }
        "cat" => return data(&machine::file(arguments.word()?, DATA)?),
        "sh" => {
            let status = machine::shell(rest)?;
            return Ok(match status.signal() {
                Some(signal) => format!(" signal={signal}"),
                None => format!(" status={}", status.code().unwrap_or(0)),
            });
        }
        "off" => machine::power(RebootCommand::PowerOff)?,
        "reboot" => machine::power(RebootCommand::Restart)?,
        "kexec" if rest.is_empty() => machine::power(RebootCommand::Kexec)?,
        "kexec" => {
            let kernel = (arguments.word()?, arguments.number()?);
            let initrd = (arguments.word()?, arguments.number()?);
            machine::load_kernel(kernel, initrd, arguments.number()?)?;
        }
        "poke" => return poke::run(rest),
        "edu" => return edu(state, arguments),
        "el2" => return el2(state),
        "seed" => machine::seed()?,
        "nvme" => return nvme(arguments),
        "net" => return network(arguments),
        _ => bail!("no such command"),
    }
    Ok(String::new())
}

fn time() -> String {
    format!(" cntvct={} cntfrq={}", counter::now(), counter::frequency())
}

/// Bytes as hexadecimal.
fn data(bytes: &[u8]) -> Result<String> {
    let mut text = " data=".to_owned();
    for byte in bytes {
        write!(text, "{byte:02x}")?;
    }
    Ok(text)
}

fn edu(state: &mut State, mut arguments: Arguments<'_>) -> Result<String> {
    let verb = arguments.word()?;
    if verb == "init" {
        let edu = state.edu.insert(Edu::new(arguments.number_or(0)?)?);
        return Ok(format!(
            " device={} target=0x{:x} scratch=0x{:x}",
            edu.name(),
            edu.target(),
            edu.scratch()
        ));
    }
    let edu = state.edu.as_mut().context("edu init comes first")?;
    match verb {
        "fill" => edu.fill_target(arguments.number()?),
        "check" => {
            let seed = arguments.number()?;
            edu.check_target(seed, arguments.number_or(PAGE as u64)? as usize)?;
        }
        "read" => {
            let address = arguments.number()?;
            let length = arguments.number_or(64)? as usize;
            ensure!(length <= DATA, "an answer holds {DATA} bytes");
            return data(&edu.read(address, length)?);
        }
        "write" => {
            let address = arguments.number()?;
            let seed = arguments.number()?;
            edu.write(address, seed, arguments.number_or(64)? as usize)?;
        }
        "start" => {
            let way = match arguments.word()? {
                "read" => Direction::Read,
                "write" => Direction::Write,
                _ => bail!("edu start read|write"),
            };
            let address = arguments.number()?;
            edu.start(way, address, arguments.number_or(64)? as usize)?;
            return Ok(time());
        }
        "finish" => {
            edu.finish()?;
            return Ok(time());
        }
        _ => bail!("edu init|fill|check|read|write|start|finish"),
    }
    Ok(String::new())
}

fn nvme(mut arguments: Arguments<'_>) -> Result<String> {
    let verb = arguments.word()?;
    let first = arguments.number()?;
    let second = arguments.number()?;
    let third = arguments.number()?;
    match verb {
        "verify" => disk::verify(first, second, third)?,
        "fill" => disk::fill(first, second, third)?,
        "random" => {
            let each = arguments.number_or(1)?;
            let block = arguments.number_or(disk::BLOCK)?;
            return rounds(disk::random_reads(first, each, second, third, block)?);
        }
        _ => bail!("nvme verify|fill|random"),
    }
    Ok(String::new())
}

fn network(mut arguments: Arguments<'_>) -> Result<String> {
    let verb = arguments.word()?;
    if verb == "echo" {
        let count = arguments.number()?;
        let size = arguments.number()? as usize;
        return rounds(net::echo(count, arguments.number_or(10)?, size)?);
    }
    let port = u16::try_from(arguments.number()?).context("not a port")?;
    let amount = arguments.number()?;
    match verb {
        "exchange" => {
            let up = arguments.number()?;
            net::exchange(port, amount, up, arguments.number()?)?;
        }
        "flood" => {
            let cost = net::datagrams(port, amount, arguments.number()? as usize)?;
            return Ok(cost.to_string());
        }
        _ => bail!("net exchange|flood|echo"),
    }
    Ok(String::new())
}

fn rounds(costs: Rounds) -> Result<String> {
    costs.summary().context("there is nothing to measure")
}

/// How many instructions CPU 0 has executed at EL2 since this was first asked.
fn el2(state: &mut State) -> Result<String> {
    let counter = match &mut state.el2 {
        Some(counter) => counter,
        none => none.insert(Instructions::open(Levels::El2).context("open a counter")?),
    };
    let count = counter.read().context("read the counter")?;
    Ok(format!(" instructions={count}"))
}

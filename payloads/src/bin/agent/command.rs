//! Reading commands and answering them.

use crate::bar::Direction;
use crate::edu::Edu;
use crate::memory::{self, PAGE, Poke, Width};
use crate::meter::Rounds;
use crate::sys::{self, End, Fd, Levels, Power};
use crate::text::{Arguments, Context, Failure, Hex, Line};
use crate::{disk, machine, net};
use core::fmt::Write;

/// Longest command line.
const COMMAND: usize = 1024;

/// What one command may leave for the next.
struct State {
    edu: Option<Edu>,
    /// Counts what is executed at EL2.
    el2: Option<Fd>,
}

/// Answers commands for ever.
pub fn serve() -> ! {
    // On something that is no terminal there is nothing to set.
    let _ = sys::raw_console();
    let mut state = State {
        edu: None,
        el2: None,
    };
    let mut input = Input {
        buffer: [0; COMMAND],
        length: 0,
    };
    answer("0", time);
    loop {
        let mut command = [0; COMMAND];
        let Some(length) = input.line(&mut command) else {
            // Nobody will ever talk to us again.
            sys::exit(0)
        };
        let Ok(text) = core::str::from_utf8(&command[..length]) else {
            continue;
        };
        let mut arguments = Arguments::new(text);
        let (Ok(number), Ok(verb)) = (arguments.word(), arguments.word()) else {
            continue;
        };
        let rest = text
            .split_once(verb)
            .map_or("", |(_, rest)| rest.trim_start());
        answer(number, |line| run(&mut state, verb, rest, arguments, line));
    }
}

/// Writes the answer to command `number` in one piece.
fn answer(number: &str, work: impl FnOnce(&mut Line) -> Result<(), Failure>) {
    let mut line = Line::new();
    // The newline in front ends whatever the kernel was printing.
    let started = write!(line, "\n@{number} ok");
    let done = started
        .map_err(Failure::from)
        .and_then(|()| work(&mut line));
    if let Err(failure) = done {
        line = Line::new();
        // A number too long to be repeated was none of the lab's.
        let _ = write!(line, "\n@{number} err {failure}");
    }
    let mut rest = line.bytes();
    while let Ok(written @ 1..) = sys::write(sys::CONSOLE, rest) {
        rest = &rest[written..];
    }
    let _ = sys::write(sys::CONSOLE, b"\n");
}

fn run(
    state: &mut State,
    verb: &str,
    rest: &str,
    mut arguments: Arguments<'_>,
    line: &mut Line,
) -> Result<(), Failure> {
    match verb {
        "time" => time(line),
        "spin" => {
            machine::spin(arguments.number()?);
            time(line)
        }
        "sleep" => {
            sys::sleep(arguments.number()?);
            time(line)
        }
        "cpu" => {
            let number = arguments.number()?;
            machine::cpu(number, arguments.word()? == "on")
        }
        "cat" => {
            let mut buffer = [0; 1024];
            let content = machine::file(arguments.word()?, &mut buffer)?;
            Ok(write!(line, " data={}", Hex(content))?)
        }
        "sh" => match machine::shell(rest)? {
            End::Exited(status) => Ok(write!(line, " status={status}")?),
            End::Killed(signal) => Ok(write!(line, " signal={signal}")?),
        },
        "off" => Err(machine::power(Power::Off)),
        "reboot" => Err(machine::power(Power::Restart)),
        "kexec" if rest.is_empty() => Err(machine::power(Power::NextKernel)),
        "kexec" => kexec(arguments),
        "poke" => poke(arguments, line),
        "edu" => edu(state, arguments, line),
        "el2" => el2(state, line),
        "seed" => machine::seed(),
        "nvme" => nvme(arguments, line),
        "net" => network(arguments, line),
        _ => Err(Failure::Said("no such command")),
    }
}

/// `kexec KERNEL ADDRESS INITRD ADDRESS TREE-ADDRESS` loads a kernel; `kexec` starts
/// it.
fn kexec(mut arguments: Arguments<'_>) -> Result<(), Failure> {
    let kernel = (arguments.word()?, arguments.number()?);
    let initrd = (arguments.word()?, arguments.number()?);
    machine::load_kernel(kernel, initrd, arguments.number()?)
}

fn time(line: &mut Line) -> Result<(), Failure> {
    Ok(write!(
        line,
        " cntvct={} cntfrq={}",
        sys::counter(),
        sys::counter_frequency()
    )?)
}

fn poke(mut arguments: Arguments<'_>, line: &mut Line) -> Result<(), Failure> {
    let writes = match arguments.word()? {
        "read" => false,
        "write" => true,
        _ => return Err(Failure::Said("poke read|write")),
    };
    let address = arguments.number()?;
    let value = if writes {
        Some(arguments.number()?)
    } else {
        None
    };
    let width = match arguments.number_or(4)? {
        4 => Width::Word,
        8 => Width::Double,
        _ => return Err(Failure::Said("an access has 4 or 8 bytes")),
    };
    let size = match width {
        Width::Word => 4,
        Width::Double => 8,
    };
    if !address.is_multiple_of(size) {
        return Err(Failure::Said("the address is not aligned"));
    }
    match memory::poke(address, value, width)? {
        Poke::Done(value) => write!(line, " outcome=done value=0x{value:x}")?,
        Poke::Signal(sys::SIGBUS) => write!(line, " outcome=blocked signal=SIGBUS")?,
        Poke::Signal(signal) => write!(line, " outcome=killed signal={signal}")?,
        Poke::Refused(errno) => write!(line, " outcome=refused errno={errno}")?,
    }
    Ok(())
}

fn edu(state: &mut State, mut arguments: Arguments<'_>, line: &mut Line) -> Result<(), Failure> {
    let verb = arguments.word()?;
    if verb == "init" {
        let edu = Edu::new(arguments.number_or(0)?)?;
        write!(
            line,
            " device={} target=0x{:x} scratch=0x{:x}",
            edu.name(),
            edu.target(),
            edu.scratch()
        )?;
        state.edu = Some(edu);
        return Ok(());
    }
    let edu = state
        .edu
        .as_mut()
        .ok_or(Failure::Said("edu init comes first"))?;
    match verb {
        "fill" => {
            edu.fill_target(arguments.number()?);
            Ok(())
        }
        "check" => {
            let seed = arguments.number()?;
            edu.check_target(seed, arguments.number_or(PAGE as u64)? as usize)
        }
        "read" => {
            let address = arguments.number()?;
            let mut data = [0; 1024];
            let length = arguments.number_or(64)? as usize;
            let data = data.get_mut(..length).ok_or(Failure::TooLong)?;
            edu.read(address, data)?;
            Ok(write!(line, " data={}", Hex(data))?)
        }
        "write" => {
            let address = arguments.number()?;
            let seed = arguments.number()?;
            edu.write(address, seed, arguments.number_or(64)? as usize)
        }
        "start" => {
            let way = match arguments.word()? {
                "read" => Direction::Read,
                "write" => Direction::Write,
                _ => return Err(Failure::Said("edu start read|write")),
            };
            let address = arguments.number()?;
            edu.start(way, address, arguments.number_or(64)? as usize)?;
            time(line)
        }
        "finish" => {
            edu.finish()?;
            time(line)
        }
        _ => Err(Failure::Said("edu init|fill|check|read|write|start|finish")),
    }
}

fn nvme(mut arguments: Arguments<'_>, line: &mut Line) -> Result<(), Failure> {
    let verb = arguments.word()?;
    let first = arguments.number()?;
    let second = arguments.number()?;
    let third = arguments.number()?;
    match verb {
        "verify" => disk::verify(first, second, third),
        "fill" => disk::fill(first, second, third),
        "random" => {
            let each = arguments.number_or(1)?;
            let block = arguments.number_or(disk::BLOCK)?;
            let mut costs = disk::random_reads(first, each, second, third, block)?;
            rounds(&mut costs, line)
        }
        _ => Err(Failure::Said("nvme verify|fill|random")),
    }
}

fn network(mut arguments: Arguments<'_>, line: &mut Line) -> Result<(), Failure> {
    let verb = arguments.word()?;
    if verb == "echo" {
        let count = arguments.number()?;
        let size = arguments.number()? as usize;
        let mut costs = net::echo(count, arguments.number_or(10)?, size)?;
        return rounds(&mut costs, line);
    }
    let port = u16::try_from(arguments.number()?).map_err(|_| Failure::Said("not a port"))?;
    let amount = arguments.number()?;
    match verb {
        "exchange" => {
            let up = arguments.number()?;
            net::exchange(port, amount, up, arguments.number()?)
        }
        "flood" => {
            let cost = net::datagrams(port, amount, arguments.number()? as usize)?;
            Ok(write!(line, "{cost}")?)
        }
        _ => Err(Failure::Said("net exchange|flood|echo")),
    }
}

fn rounds(costs: &mut Rounds, line: &mut Line) -> Result<(), Failure> {
    if costs.write(line)? {
        return Ok(());
    }
    Err(Failure::Said("there is nothing to measure"))
}

/// How many instructions CPU 0 has executed at EL2 since this was first asked.
fn el2(state: &mut State, line: &mut Line) -> Result<(), Failure> {
    let counter = match state.el2 {
        Some(counter) => counter,
        None => *state
            .el2
            .insert(sys::instruction_counter(Levels::El2).context("open a counter")?),
    };
    let mut value = [0; 8];
    sys::read(counter, &mut value).context("read the counter")?;
    Ok(write!(line, " instructions={}", u64::from_le_bytes(value))?)
}

/// The command stream, cut into lines.
struct Input {
    buffer: [u8; COMMAND],
    length: usize,
}

impl Input {
    /// Copies the next line to `line` and returns its length; `None` when the
    /// stream has ended. A line longer than the buffer is dropped.
    fn line(&mut self, line: &mut [u8; COMMAND]) -> Option<usize> {
        loop {
            let end = self.buffer[..self.length]
                .iter()
                .position(|b| matches!(b, b'\n' | b'\r'));
            if let Some(end) = end {
                line[..end].copy_from_slice(&self.buffer[..end]);
                self.buffer.copy_within(end + 1..self.length, 0);
                self.length -= end + 1;
                return Some(end);
            }
            if self.length == COMMAND {
                self.length = 0;
            }
            match sys::read(sys::INPUT, &mut self.buffer[self.length..]) {
                Ok(more @ 1..) => self.length += more,
                _ => return None,
            }
        }
    }
}

//! A running QEMU with its consoles; it ends when the value is dropped.

use crate::console::Console;
use crate::logfmt::Event;
use crate::machine::{Boot, Machine};
use crate::qmp::Qmp;
use crate::setup::Lab;
use crate::workspace;
use crate::{Error, Result, tree};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest time QEMU may take to connect its sockets.
const PATIENCE: Duration = Duration::from_secs(60);

/// Longest time until something that the hypervisor refused is in its log.
pub const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a machine is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Name of the log files.
    pub name: String,
    /// Whether the consoles also go to standard output.
    pub echo: bool,
}

impl Watch {
    /// Logs to files named after `name` only.
    #[must_use]
    pub fn quietly(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            echo: false,
        }
    }
}

/// A running machine.
pub struct Vm {
    child: Child,
    status: Option<ExitStatus>,
    /// The host's console.
    pub host: Console,
    /// The hypervisor's log; with firmware, the console of the secure world.
    pub log: Console,
    /// Whether the hypervisor's log goes to the host's console.
    one_console: bool,
    /// QEMU's control connection.
    qmp: Mutex<Qmp>,
    directory: TempDir,
    errors: PathBuf,
}

impl Vm {
    /// Starts QEMU and connects to it before the machine's first instruction.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] with QEMU's own words when it does not start.
    pub fn start(lab: &Lab, machine: &Machine, watch: &Watch) -> Result<Self> {
        Self::start_after(lab, machine, watch, || Ok(()))
    }

    /// As [`Vm::start`]; `before` runs when everything is loaded to memory and
    /// no instruction has been executed.
    ///
    /// # Errors
    ///
    /// Those of [`Vm::start`] and of `before`.
    pub fn start_after(
        lab: &Lab,
        machine: &Machine,
        watch: &Watch,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let logs = lab.workspace.output().join("logs");
        workspace::create_dir(&logs)?;
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let stem = format!("{}-{}-{run}", watch.name, std::process::id());
        let errors = logs.join(format!("{stem}-qemu.log"));
        let error_file = File::create(&errors).map_err(Error::io("cannot write", &errors))?;

        // Socket paths must be short, which paths below target/ may not be.
        let directory = TempDir::with_prefix("portcullis-").map_err(Error::io(
            "cannot make a directory in",
            std::env::temp_dir(),
        ))?;
        let mut command = machine.command(&lab.qemu);
        let mut listeners = Vec::new();
        for name in ["host", "log", "qmp"] {
            let path = directory.path().join(name);
            let listener =
                UnixListener::bind(&path).map_err(Error::io("cannot listen at", &path))?;
            listener
                .set_nonblocking(true)
                .map_err(Error::io("cannot listen at", &path))?;
            listeners.push(listener);
            command
                .arg("-chardev")
                .arg(format!("socket,id={name},path={}", path.display()));
        }
        command.args(["-serial", "chardev:host", "-serial", "chardev:log"]);
        command.args(["-mon", "chardev=qmp,mode=control", "-S"]);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(error_file)
            .spawn()
            .map_err(|source| Error::Start {
                program,
                source,
                fix: "delete target/portcullis-cache and try again",
            })?;
        let mut guard = Guard(Some(child));
        let mut streams = Vec::new();
        for listener in &listeners {
            streams.push(accept(listener, &mut guard, &errors)?);
        }
        let [host, log, qmp] =
            <[UnixStream; 3]>::try_from(streams).map_err(|_| Error::Machine {
                what: "QEMU is short of a socket".to_owned(),
                tail: String::new(),
            })?;
        let host_log = logs.join(format!("{stem}-host.log"));
        let hypervisor_log = logs.join(format!("{stem}-hypervisor.log"));
        let host = Console::start("host", host, &host_log, watch.echo)?;
        let log = Console::start("hypervisor", log, &hypervisor_log, watch.echo)?;
        let mut qmp = Qmp::new(qmp).map_err(|error| with_errors(&error, &errors))?;
        if let (Some(_), Some(ram), Boot::Portcullis { arguments, .. }) =
            (&machine.firmware, &machine.ram_file, &machine.boot)
        {
            tree::set_bootargs(ram, arguments)?;
        }
        before()?;
        qmp.command("cont", json!({}))?;
        let child = guard.0.take().ok_or_else(|| Error::Machine {
            what: "QEMU is gone".to_owned(),
            tail: String::new(),
        })?;
        Ok(Self {
            child,
            status: None,
            host,
            log,
            one_console: machine.firmware.is_some(),
            qmp: Mutex::new(qmp),
            directory,
            errors,
        })
    }

    /// The hypervisor's events from line `mark` of its log on.
    #[must_use]
    pub fn events_since(&self, mark: usize) -> Vec<Event> {
        self.events_console()
            .lines_since(mark)
            .iter()
            .filter_map(|line| Event::parse(&line.text))
            .collect()
    }

    /// The console that the hypervisor's events come from.
    fn events_console(&self) -> &Console {
        if self.one_console {
            &self.host
        } else {
            &self.log
        }
    }

    /// Waits for an event from line `mark` of the log on that `pick` takes.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when none comes.
    pub fn wait_event(
        &self,
        mark: usize,
        what: &str,
        timeout: Duration,
        mut pick: impl FnMut(&Event) -> bool,
    ) -> Result<Event> {
        self.events_console()
            .wait(mark, timeout, |line| {
                Event::parse(&line.text).filter(&mut pick)
            })
            .ok_or_else(|| self.timeout(what, timeout))
    }

    /// Waits until QEMU has ended by itself.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] when it does not.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                self.status = Some(status);
                self.host.wait_closed(PATIENCE);
                self.log.wait_closed(PATIENCE);
                return Ok(status);
            }
            if Instant::now() >= end {
                return Err(self.timeout("the machine to power off", timeout));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Has QEMU carry out one command of its control connection.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when QEMU refuses it or has gone.
    pub fn command(&self, name: &str, arguments: Value) -> Result<Value> {
        self.control().command(name, arguments)
    }

    fn control(&self) -> MutexGuard<'_, Qmp> {
        // A command that panicked has left the connection between two commands,
        // or a later one will be told that it makes no sense.
        self.qmp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Physical memory of the machine, seen from outside.
    ///
    /// # Errors
    ///
    /// Any [`Error`] of the control connection.
    pub fn memory(&mut self, address: u64, length: u64) -> Result<Vec<u8>> {
        let file = self.directory.path().join("memory");
        self.control().memory(address, length, &file)
    }

    /// An error about something that did not happen in time.
    #[must_use]
    pub fn timeout(&self, what: &str, timeout: Duration) -> Error {
        Error::Timeout {
            what: what.to_owned(),
            seconds: timeout.as_secs(),
            tail: self.tails(),
        }
    }

    /// The ends of both consoles and what QEMU complained about.
    #[must_use]
    pub fn tails(&self) -> String {
        let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let mut text = format!("{}{}", self.log.tail(), self.host.tail());
        if !errors.trim().is_empty() {
            text.push_str("--- QEMU ---\n");
            text.push_str(&errors);
        }
        text
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if self.status.is_none() {
            stop(&mut self.child);
        }
    }
}

/// Ends QEMU when its start does not come to an end.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            stop(child);
        }
    }
}

fn stop(child: &mut Child) {
    // Either may fail because it has ended already, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn accept(listener: &UnixListener, guard: &mut Guard, errors: &Path) -> Result<UnixStream> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream
                .set_nonblocking(false)
                .map_err(Error::io("cannot use the socket of", errors))?;
            return Ok(stream);
        }
        let ended = guard
            .0
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended || Instant::now() >= end {
            let what = if ended {
                "QEMU did not start"
            } else {
                "QEMU does not connect"
            };
            let tail = std::fs::read_to_string(errors).unwrap_or_default();
            return Err(Error::Machine {
                what: what.to_owned(),
                tail,
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn with_errors(error: &Error, errors: &Path) -> Error {
    let tail = std::fs::read_to_string(errors).unwrap_or_default();
    Error::Machine {
        what: error.to_string(),
        tail,
    }
}

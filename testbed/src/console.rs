//! The text a machine sends over one of its serial lines.

use crate::{Error, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of lines shown when something failed.
const TAIL: usize = 25;

/// One line and when its end arrived.
#[derive(Clone, Debug)]
pub struct Line {
    /// The text without the end of line.
    pub text: String,
    /// When it was complete.
    pub at: Instant,
}

#[derive(Default)]
struct Received {
    lines: Vec<Line>,
    partial: Vec<u8>,
    closed: bool,
}

struct Shared {
    received: Mutex<Received>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        // A reader that panicked has left whole lines behind all the same.
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One serial line, read by a thread of its own from the first byte on.
pub struct Console {
    name: &'static str,
    shared: Arc<Shared>,
    writer: UnixStream,
}

impl Console {
    /// Reads `stream`, copies it to the file `log` and, with `echo`, each line
    /// to standard output.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the log file cannot be made.
    pub fn start(name: &'static str, stream: UnixStream, log: &Path, echo: bool) -> Result<Self> {
        let file = File::create(log).map_err(Error::io("cannot write", log))?;
        let reader = stream
            .try_clone()
            .map_err(Error::io("cannot share the socket for", log))?;
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            changed: Condvar::new(),
        });
        let for_thread = Arc::clone(&shared);
        std::thread::spawn(move || pump(name, reader, file, echo, &for_thread));
        Ok(Self {
            name,
            shared,
            writer: stream,
        })
    }

    /// Number of lines received so far: where to go on looking from.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.shared.lock().lines.len()
    }

    /// The lines from `mark` on.
    #[must_use]
    pub fn lines_since(&self, mark: usize) -> Vec<Line> {
        self.shared
            .lock()
            .lines
            .get(mark..)
            .map(<[Line]>::to_vec)
            .unwrap_or_default()
    }

    /// Waits for a line from `mark` on that `pick` takes; `None` when none has
    /// come within `timeout` or the line was closed.
    pub fn wait<T>(
        &self,
        mark: usize,
        timeout: Duration,
        mut pick: impl FnMut(&Line) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + timeout;
        let mut next = mark;
        let mut received = self.shared.lock();
        loop {
            while let Some(line) = received.lines.get(next) {
                next += 1;
                if let Some(found) = pick(line) {
                    return Some(found);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if received.closed || left.is_zero() {
                return None;
            }
            received = self
                .shared
                .changed
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether the machine has closed the line.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.shared.lock().closed
    }

    /// Waits until the machine has closed the line, so that all it ever said
    /// is here.
    pub fn wait_closed(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let mut received = self.shared.lock();
        while !received.closed {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            received = self
                .shared
                .changed
                .wait_timeout(received, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Sends text to the machine.
    ///
    /// # Errors
    ///
    /// [`Error::Machine`] when the machine is gone.
    pub fn send(&self, text: &str) -> Result<()> {
        (&self.writer)
            .write_all(text.as_bytes())
            .map_err(|source| Error::Machine {
                what: format!("cannot send to the {}: {source}", self.name),
                tail: self.tail(),
            })
    }

    /// The last lines, headed by the name of the console.
    #[must_use]
    pub fn tail(&self) -> String {
        let received = self.shared.lock();
        let skipped = received.lines.len().saturating_sub(TAIL);
        let mut text = format!("--- end of the {} ---\n", self.name);
        for line in &received.lines[skipped..] {
            text.push_str(&line.text);
            text.push('\n');
        }
        if !received.partial.is_empty() {
            text.push_str(&String::from_utf8_lossy(&received.partial));
            text.push('\n');
        }
        text
    }
}

fn pump(name: &str, mut stream: UnixStream, mut log: File, echo: bool, shared: &Shared) {
    let mut buffer = [0; 4096];
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        // A log that cannot be written must not stop the machine.
        let _ = log.write_all(&buffer[..length]);
        let mut received = shared.lock();
        for &byte in &buffer[..length] {
            match byte {
                b'\n' => {
                    let bytes = std::mem::take(&mut received.partial);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if echo {
                        println!("{name} | {text}");
                    }
                    received.lines.push(Line {
                        text,
                        at: Instant::now(),
                    });
                }
                b'\r' => {}
                byte => received.partial.push(byte),
            }
        }
        shared.changed.notify_all();
    }
    let mut received = shared.lock();
    if !received.partial.is_empty() {
        let bytes = std::mem::take(&mut received.partial);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        received.lines.push(Line {
            text,
            at: Instant::now(),
        });
    }
    received.closed = true;
    shared.changed.notify_all();
}

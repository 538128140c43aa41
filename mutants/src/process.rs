//! Running a command for a bounded time.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a command did.
pub(crate) struct Done {
    /// `None` when it ran out of time and was stopped.
    pub(crate) status: Option<ExitStatus>,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) errors: String,
    pub(crate) took: Duration,
}

/// Runs `command` to its end, or stops it after `patience`.
pub(crate) fn run(command: &mut Command, patience: Duration) -> io::Result<Done> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Both are read all the time: a full pipe would stop the child.
    let output = child.stdout.take().map(collect);
    let errors = child.stderr.take().map(collect);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader
            .and_then(|reader| reader.join().ok())
            .unwrap_or_default()
    };
    Ok(Done {
        status,
        output: text(output),
        errors: text(errors),
        took: start.elapsed(),
    })
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What could be read is all that there is to say.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

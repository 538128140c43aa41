//! Running a command for a bounded time.

use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
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

/// Runs `command` to its end, or stops it after `patience`, with all that it has
/// started: cargo's tests hold its pipes and would go on without it.
pub(crate) fn run(command: &mut Command, patience: Duration) -> io::Result<Done> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    // Both are read all the time: a full pipe would stop the child.
    let output = child.stdout.take().map(collect);
    let errors = child.stderr.take().map(collect);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if start.elapsed() > patience {
            // It is not waited for yet, so that no other process has its number.
            kill_process_group(Pid::from_child(&child), Signal::KILL)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The shell's child has the pipe, and would have it for a minute.
    #[test]
    fn what_a_command_started_is_stopped_with_it() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & wait"]);
        let done = run(&mut command, Duration::from_millis(200)).unwrap();
        assert!(done.status.is_none());
        assert!(done.took < Duration::from_secs(30), "{:?}", done.took);
    }
}

//! Running a program of apt: its lines as they come, and an end on request.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::PackageError;
use super::cancel::{Cancel, TICK};

/// How long a child may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A line of the child.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// From its standard output.
    Out(String),
    /// From its standard error.
    Err(String),
}

/// Why a child did not run to its end.
#[derive(Debug)]
pub(super) enum ChildError {
    /// It could not be started.
    Start(io::Error),
    /// It could not be waited for.
    Wait(io::Error),
    /// Somebody asked to stop; the child has been ended.
    Cancelled(PackageError),
    /// It said nothing new for too long; the child has been ended.
    Stalled,
}

/// Runs a command to its end, handing each line to `on_line`. It may repeat
/// itself for `patience`: apt has been seen to wait for ever on a full disk.
pub(super) fn run(
    command: &mut Command,
    cancel: &Cancel,
    patience: Duration,
    on_line: &mut dyn FnMut(Line),
) -> Result<ExitStatus, ChildError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ChildError::Start)?;
    let (sender, lines) = mpsc::channel();
    if let Some(out) = child.stdout.take() {
        forward(out, sender.clone(), Line::Out);
    }
    if let Some(err) = child.stderr.take() {
        forward(err, sender.clone(), Line::Err);
    }
    drop(sender);
    if let Err(error) = listen(&lines, cancel, patience, on_line) {
        end(&mut child);
        return Err(error);
    }
    let status = child.wait().map_err(ChildError::Wait)?;
    // A signal from the terminal reaches the child too, and may end it first.
    cancel.check().map_err(ChildError::Cancelled)?;
    Ok(status)
}

/// Hands on the lines until the child closes its pipes.
fn listen(
    lines: &Receiver<Line>,
    cancel: &Cancel,
    patience: Duration,
    on_line: &mut dyn FnMut(Line),
) -> Result<(), ChildError> {
    let mut news = Instant::now();
    let mut last = String::new();
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                let (Line::Out(text) | Line::Err(text)) = &line;
                if *text != last {
                    last.clone_from(text);
                    news = Instant::now();
                }
                on_line(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        cancel.check().map_err(ChildError::Cancelled)?;
        if news.elapsed() > patience {
            return Err(ChildError::Stalled);
        }
    }
}

/// The threads end when the pipe does.
fn forward(
    pipe: impl Read + Send + 'static,
    sender: Sender<Line>,
    line: impl Fn(String) -> Line + Send + 'static,
) {
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            if sender.send(line(text)).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

/// SIGINT lets apt end its own children. A child of a process that ignores it,
/// as a shell's background jobs do, ignores it too, and is killed.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::INT);
    }
    let start = Instant::now();
    while start.elapsed() < GRACE {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(TICK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_child_that_only_repeats_itself_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do echo same; sleep 0.01; done"]);
        let patience = Duration::from_millis(300);
        let result = run(&mut command, &Cancel::default(), patience, &mut |_| {});
        assert!(matches!(result, Err(ChildError::Stalled)));
    }

    #[test]
    fn lines_come_from_both_pipes() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut lines = Vec::new();
        let mut collect = |line| {
            lines.push(match line {
                Line::Out(text) => format!("out {text}"),
                Line::Err(text) => format!("err {text}"),
            });
        };
        let status = run(&mut command, &Cancel::default(), LONG, &mut collect).unwrap();
        lines.sort();
        assert_eq!(lines, ["err two", "out one"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_child_that_ignores_sigint_is_ended() {
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' INT; exec sleep 600"]);
        let result = run(&mut command, &Cancel::default(), Duration::from_millis(300), &mut |_| {});
        assert!(matches!(result, Err(ChildError::Stalled)));
    }

    #[test]
    fn a_cancelled_child_is_ended() {
        let cancel = Cancel::default();
        cancel.raise(2);
        let mut command = Command::new("sleep");
        command.arg("600");
        let result = run(&mut command, &cancel, LONG, &mut |_| {});
        assert!(matches!(result, Err(ChildError::Cancelled(_))));
    }
}

//! Running a program of apt: its lines as they come, and an end on request.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::PackageError;
use super::cancel::{Cancel, TICK};

/// A line of the child.
#[derive(Debug)]
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
}

/// Runs a command to its end, handing each line to `on_line`.
pub(super) fn run(
    command: &mut Command,
    cancel: &Cancel,
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
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => on_line(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Err(error) = cancel.check() {
            end(&mut child);
            return Err(ChildError::Cancelled(error));
        }
    }
    let status = child.wait().map_err(ChildError::Wait)?;
    // A signal from the terminal reaches the child too, and may end it first.
    cancel.check().map_err(ChildError::Cancelled)?;
    Ok(status)
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

/// SIGINT lets apt end its own children.
fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::INT);
    }
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let status = run(&mut command, &Cancel::default(), &mut collect).unwrap();
        lines.sort();
        assert_eq!(lines, ["err two", "out one"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_cancelled_child_is_ended() {
        let cancel = Cancel::default();
        cancel.raise(2);
        let mut command = Command::new("sleep");
        command.arg("600");
        let result = run(&mut command, &cancel, &mut |_| {});
        assert!(matches!(result, Err(ChildError::Cancelled(_))));
    }
}

//! Running one contender once, and reading what the workload says.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ringmaster::demo::initramfs;
use ringmaster::exit::Failure;

/// What one row took once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// Nanoseconds for each of what the row counts.
    pub nanoseconds: f64,
    /// What the row has computed.
    pub check: u64,
}

/// What one run of one contender gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Run {
    /// Each row by its name.
    pub rows: BTreeMap<String, Measured>,
    /// From the start of the process to user space, of guests.
    pub boot: Option<Duration>,
    /// From the start of the process to its end.
    pub whole: Duration,
    /// How long the workload took by its own clock and by ours.
    pub clocks: Option<(Duration, Duration)>,
}

/// No run takes longer, even on a busy machine; a guest that hangs does.
const LIMIT: Duration = Duration::from_secs(300);

/// Starts the process and listens until it ends.
pub(crate) fn watch(name: &str, mut command: Command) -> Result<Run, Failure> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Killed)
        .map_err(|error| Failure::internal(format!("cannot start {name}")).because(error))?;
    let errors = child.0.stderr.take().map(|errors| thread::spawn(move || text_of(errors)));
    let lines = child.0.stdout.take().map(|output| lines_of(output, start));
    let mut listener = Listener::default();
    while let Some(lines) = &lines {
        match lines.recv_timeout(LIMIT.saturating_sub(start.elapsed())) {
            Ok((line, when)) => listener.hear(&line, when),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let seconds = LIMIT.as_secs();
                return Err(Failure::internal(format!("{name} was stopped after {seconds} s")));
            }
        }
    }
    let status = child.0.wait().map_err(|error| Failure::internal("cannot wait").because(error))?;
    let said = errors.map(thread::JoinHandle::join).and_then(Result::ok).unwrap_or_default();
    listener.run.whole = start.elapsed();
    match listener.trouble {
        None if listener.ended && status.success() => Ok(listener.run),
        None => Err(Failure::internal(format!("{name} did not finish ({status}): {}", last(&said)))),
        Some(trouble) => Err(Failure::internal(format!("{name}: {trouble}"))),
    }
}

/// Lines as they come, with the time since `start` at which they did.
fn lines_of(output: impl Read + Send + 'static, start: Instant) -> Receiver<(String, Duration)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let _ = sender.send((String::from_utf8_lossy(&line).into_owned(), start.elapsed()));
            line.clear();
        }
    });
    receiver
}

fn text_of(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last(text: &str) -> &str {
    text.lines().last().unwrap_or("it said nothing")
}

/// A process that does not outlive us.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a [`Run`] of lines and the times at which they came.
#[derive(Debug, Default)]
struct Listener {
    run: Run,
    /// The workload's clock and ours, when it began.
    began: Option<(Duration, Duration)>,
    ended: bool,
    trouble: Option<String>,
}

impl Listener {
    fn hear(&mut self, line: &str, now: Duration) {
        if line.contains(initramfs::MARKER) {
            self.run.boot = Some(now);
        }
        // The kernel may have said something on the same line.
        let Some((_, said)) = line.split_once("bench: ") else {
            return;
        };
        if self.understand(said, now).is_none() {
            self.trouble.get_or_insert_with(|| said.trim().to_owned());
        }
    }

    fn understand(&mut self, said: &str, now: Duration) -> Option<()> {
        let mut words = said.split_whitespace();
        match words.next()? {
            "begin" => self.began = Some((clock(words.next()?)?, now)),
            "row" => {
                let name = words.next()?.to_owned();
                let units: u64 = words.next()?.parse().ok()?;
                let nanoseconds: u64 = words.next()?.parse().ok()?;
                let check = u64::from_str_radix(words.next()?, 16).ok()?;
                let nanoseconds = nanoseconds as f64 / units.max(1) as f64;
                self.run.rows.insert(name, Measured { nanoseconds, check });
            }
            "end" => {
                let (theirs, ours) = self.began?;
                let took = clock(words.next()?)?.saturating_sub(theirs);
                self.run.clocks = Some((took, now.saturating_sub(ours)));
                self.ended = true;
            }
            _ => return None,
        }
        Some(())
    }
}

fn clock(word: &str) -> Option<Duration> {
    word.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Run, Failure> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        watch("sh", command)
    }

    #[test]
    fn rows_boot_and_clocks_are_read() {
        let mut listener = Listener::default();
        let at = Duration::from_millis;
        listener.hear("ringmaster: user space reached, Linux 6.1\r\n", at(700));
        listener.hear("bench: begin 1000000000\r\n", at(800));
        listener.hear("[1.0] noise bench: row sieve 4 2000 00000000000000ff 1500000000\r\n", at(900));
        listener.hear("bench: end 3000000000\r\n", at(2900));
        assert!(listener.ended && listener.trouble.is_none());
        assert_eq!(listener.run.boot, Some(at(700)));
        assert_eq!(listener.run.rows["sieve"], Measured { nanoseconds: 500.0, check: 255 });
        assert_eq!(listener.run.clocks, Some((at(2000), at(2100))));
    }

    #[test]
    fn a_run_that_says_nothing_or_fails_is_an_error() {
        let report = |script| shell(script).unwrap_err().report();
        assert!(report("true").contains("did not finish"));
        assert!(report("echo 'bench: fail open: no'").contains("fail open: no"));
        assert!(report("echo why >&2; exit 3").ends_with(": why"));
    }

    #[test]
    fn a_whole_run_is_taken() {
        let run = shell("echo bench: begin 5; echo bench: row x 1 7 0 6; echo bench: end 7").unwrap();
        assert_eq!(run.rows["x"].nanoseconds, 7.0);
        assert!(run.boot.is_none());
    }
}

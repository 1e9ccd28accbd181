//! Running the program and watching what it says.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

/// No boot takes longer, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(400);

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_ringmaster");

/// A run of `ringmaster`.
pub(crate) struct Run {
    child: Child,
    input: ChildStdin,
    chunks: Receiver<Vec<u8>>,
    /// Everything that it has said on both outputs.
    pub(crate) said: String,
}

impl Run {
    /// Starts `ringmaster` with `args`.
    pub(crate) fn start<I: AsRef<std::ffi::OsStr>>(
        args: impl IntoIterator<Item = I>,
    ) -> Result<Self, Failed> {
        let mut command = Command::new(PROGRAM);
        command.args(args);
        Self::of(command)
    }

    /// Starts `command`, which starts `ringmaster`.
    pub(crate) fn of(mut command: Command) -> Result<Self, Failed> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (sender, chunks) = mpsc::channel();
        let pump = |mut from: Box<dyn Read + Send>| {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    let _ = sender.send(buffer[..read].to_vec());
                }
            });
        };
        pump(Box::new(child.stdout.take().ok_or("no standard output")?));
        pump(Box::new(child.stderr.take().ok_or("no standard error")?));
        let input = child.stdin.take().ok_or("no standard input")?;
        Ok(Self { child, input, chunks, said: String::new() })
    }

    /// Kills it without a word of warning, and reads what it still has said.
    pub(crate) fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        while let Ok(chunk) = self.chunks.recv_timeout(Duration::from_secs(1)) {
            self.said.push_str(&String::from_utf8_lossy(&chunk));
        }
        Ok(())
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types on the guest's console.
    pub(crate) fn type_in(&mut self, text: &str) -> Result<(), Failed> {
        Ok(self.input.write_all(text.as_bytes())?)
    }

    /// Waits until it has said `marker`.
    pub(crate) fn wait_for(&mut self, marker: &str) -> Result<(), Failed> {
        self.wait_within(marker, LIMIT)
    }

    /// Waits for `limit` until it has said `marker`.
    pub(crate) fn wait_within(&mut self, marker: &str, limit: Duration) -> Result<(), Failed> {
        let end = Instant::now() + limit;
        while !self.said.contains(marker) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(chunk) = self.chunks.recv_timeout(left) else {
                return Err(self.complaint(&format!("never said {marker:?}")));
            };
            self.said.push_str(&String::from_utf8_lossy(&chunk));
        }
        Ok(())
    }

    /// Waits for its end.
    pub(crate) fn finish(&mut self) -> Result<ExitStatus, Failed> {
        let end = Instant::now() + LIMIT;
        loop {
            while let Ok(chunk) = self.chunks.try_recv() {
                self.said.push_str(&String::from_utf8_lossy(&chunk));
            }
            if let Some(status) = self.child.try_wait()? {
                while let Ok(chunk) = self.chunks.recv_timeout(Duration::from_secs(1)) {
                    self.said.push_str(&String::from_utf8_lossy(&chunk));
                }
                return Ok(status);
            }
            if Instant::now() > end {
                return Err(self.complaint("did not end"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for its end, which must be with `status`.
    pub(crate) fn finish_with(&mut self, status: i32) -> Result<(), Failed> {
        let found = self.finish()?;
        if found.code() == Some(status) {
            return Ok(());
        }
        Err(self.complaint(&format!("ended with {found} instead of {status}")))
    }

    /// `what` went wrong, with all that was said.
    pub(crate) fn complaint(&self, what: &str) -> Failed {
        let said = &self.said;
        Failed::from(format!("it {what}; it said:\n{said}"))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

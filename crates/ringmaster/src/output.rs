//! Writing to standard output and standard error without ever panicking.
//!
//! Rust ignores SIGPIPE, so a closed reader shows up as an error on write.

use std::fmt::Display;
use std::io::{self, Write};

use crate::exit::Failure;

/// Writes text to standard output and flushes it.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(stdout_failure)
}

/// The failure that a write error on standard output amounts to.
pub fn stdout_failure(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Failure::internal("standard output was closed before everything was written")
    } else {
        Failure::internal("cannot write to standard output").because(error)
    }
}

/// Says one line on standard error, in the program's name.
///
/// Notes are worth nothing to a reader who has gone, so errors are dropped.
/// The line ends with CR LF: the terminal may be in raw mode.
pub fn note(message: impl Display) {
    record(format_args!("ringmaster: {message}"));
}

/// Writes one line for programs on standard error, as it is.
pub fn record(line: impl Display) {
    let end = if crate::terminal::raw::is_raw() { "\r\n" } else { "\n" };
    let _ = write!(io::stderr().lock(), "{line}{end}");
}

//! Where the bytes go that a guest prints: its serial port to the console of
//! the user's choice, the debug consoles to standard error.

use std::io::{self, Write};
use std::sync::Arc;

use machine::{Consoles, no_sink};

use super::ending::{Ending, Reason};
use super::ends::{End, Source};
use crate::cli::console::Console;
use crate::exit::Failure;

/// Opens the consoles, and what input of the serial port comes from; a write
/// that fails ends the run.
pub(super) fn open(console: &Console, ending: &Arc<Ending>) -> Result<(Consoles, Option<Source>), Failure> {
    if *console == Console::None {
        return Ok((debug_consoles(), None));
    }
    let End { mut output, source } = End::open(console, "the serial port", ending)?;
    let ending = Arc::clone(ending);
    let write = move |byte: u8| {
        if let Err(error) = output.write_all(&[byte]).and_then(|()| output.flush()) {
            ending.end(Reason::Console(error));
        }
    };
    Ok((Consoles { serial: Box::new(write), ..debug_consoles() }, source))
}

/// Lines of the debug consoles go to standard error whole, so that they stay
/// readable beside the serial port's output.
fn debug_consoles() -> Consoles {
    let to_stderr = || {
        let mut lines = Lines::default();
        Box::new(move |byte: u8| lines.push(byte))
    };
    Consoles { serial: no_sink(), debug: to_stderr(), firmware: to_stderr() }
}

/// The longest line that is kept back.
const LONGEST: usize = 4096;

/// Collects bytes into lines. Lost debug output is nobody's failure.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn push(&mut self, byte: u8) {
        self.0.push(byte);
        if byte == b'\n' || self.0.len() >= LONGEST {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let _ = io::stderr().lock().write_all(&self.0);
        self.0.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

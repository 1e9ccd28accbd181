//! Where the bytes go that a guest prints: its serial port to the console of
//! the user's choice, the debug consoles to standard error.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use machine::{Consoles, no_sink};

use super::ending::{Ending, Reason};
use crate::cli::console::Console;
use crate::exit::Failure;

/// Opens the consoles; a write that fails ends the run.
pub(super) fn open(console: &Console, ending: &Arc<Ending>) -> Result<Consoles, Failure> {
    let serial: Box<dyn Write + Send> = match console {
        Console::Stdio => Box::new(io::stdout()),
        Console::File(path) => Box::new(File::create(path).map_err(|error| {
            Failure::internal(format!("cannot write the console to {}", path.display())).because(error)
        })?),
        Console::None | Console::Socket(_) => return Ok(Consoles { serial: no_sink(), ..debug_consoles() }),
    };
    let mut serial = serial;
    let ending = Arc::clone(ending);
    let write = move |byte: u8| {
        if let Err(error) = serial.write_all(&[byte]).and_then(|()| serial.flush()) {
            ending.end(Reason::Console(error));
        }
    };
    Ok(Consoles { serial: Box::new(write), ..debug_consoles() })
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

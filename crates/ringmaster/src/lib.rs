//! The command line of Ringmaster: what the user types, sees and gets back.
//!
//! ```text
//! main ── cli ──┬── demo ── packages (the host's apt)   ┐
//!               ├── run ────────────────────────────────┴─ vm ── machine
//!               ├── check
//!               └── inspect
//! terminal: raw mode, escape keys, signals      exit: statuses and failures
//! ```
//!
//! No module below `vm` knows the command line, and no module here knows how a
//! guest runs: everything that starts a machine goes through [`vm::launch`].

pub mod began;
pub mod check;
pub mod cli;
pub mod demo;
pub mod engines;
pub mod exit;
pub mod fetch;
pub mod image;
pub mod inspect;
pub mod output;
pub mod packages;
pub mod run;
pub mod terminal;
pub mod vm;

use std::ffi::OsString;
use std::panic;

use exit::{ExitStatus, Failure};

/// Runs the process: parses the command line, does what it says, prints the
/// failure if there is one, and gives the status to exit with.
pub fn main() -> ExitStatus {
    began::now();
    terminal::restore_on_panic();
    let outcome = panic::catch_unwind(|| dispatch(std::env::args_os()));
    terminal::raw::restore();
    match outcome {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => {
            output::note(failure.report());
            failure.status()
        }
        // The panic hook has already said what happened.
        Err(_) => ExitStatus::Internal,
    }
}

fn dispatch(args: impl IntoIterator<Item = OsString>) -> Result<ExitStatus, Failure> {
    match cli::parse(args)? {
        cli::Parsed::Print(text) => output::print(&text).map(|()| ExitStatus::Success),
        cli::Parsed::Do(command) => cli::perform(command),
    }
}

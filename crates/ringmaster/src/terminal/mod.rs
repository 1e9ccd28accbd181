//! The user's terminal while a guest owns it.
//!
//! [`Terminal::start`] takes the terminal (raw mode, if standard input is one),
//! reads what the user types, watches the signals that ask the process to end,
//! and hands everything to one callback. Dropping it gives all of it back.
//!
//! The terminal is restored on every way out: return, error, panic (the hook),
//! SIGTERM, SIGINT, SIGHUP and SIGQUIT, and around a stop with SIGTSTP. What no
//! process can catch (SIGKILL) or must not outlive (SIGSEGV) is left to the
//! shell and `stty sane`.

pub mod escape;
mod input;
mod keys;
pub mod monitor;
pub mod raw;
pub mod signals;
mod typist;

use std::ops::ControlFlow;
use std::panic;
use std::sync::Arc;

use rustix::stdio::stdout;
use rustix::termios::tcgetwinsize;

use crate::exit::Failure;
use crate::output;

/// What the user, or another process, wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Bytes for the guest's serial port.
    Input(Vec<u8>),
    /// Ctrl-A x: leave with status 0.
    Leave,
    /// A command of the monitor, which is neither `quit` nor about the monitor
    /// itself.
    Command(monitor::Command),
    /// A signal asks the process to end; leave with its status.
    Signal(u8),
}

/// Takes events on the terminal's threads.
///
/// It may block while the guest's serial port is full, but must then return
/// soon after the guest has stopped: [`Terminal`]'s drop waits for it. It
/// returns `Break` when nothing more is wanted.
pub type Sink = Arc<dyn Fn(Event) -> ControlFlow<()> + Send + Sync>;

/// The terminal, taken; given back on drop.
#[derive(Debug)]
pub struct Terminal {
    // Dropped in this order: nobody re-enters raw mode once the mode is left.
    _input: Option<input::Reader>,
    _signals: signals::Watcher,
    _raw: Option<raw::RawMode>,
}

impl Terminal {
    /// Takes the terminal. With `interactive`, standard input belongs to the
    /// guest; otherwise only signals are watched.
    pub fn start(interactive: bool, sink: Sink) -> Result<Self, Failure> {
        let raw = interactive.then(raw::RawMode::enter).flatten();
        let for_signals = Arc::clone(&sink);
        let signals = signals::Watcher::start(move |signal| {
            let _ = for_signals(Event::Signal(signal));
        })
        .map_err(|error| Failure::internal("cannot watch for signals").because(error))?;
        let input = interactive
            .then(|| input::Reader::start(raw.is_some(), sink))
            .transpose()
            .map_err(|error| Failure::internal("cannot read standard input").because(error))?;
        Ok(Self { _input: input, _signals: signals, _raw: raw })
    }
}

/// Rows and columns of the terminal on standard output, if it is one.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Installs the panic hook: terminal first, then one sentence.
pub fn restore_on_panic() {
    panic::set_hook(Box::new(|info| {
        raw::restore();
        let what = info.payload_as_str().unwrap_or("a panic without a message");
        let place =
            info.location().map(|place| format!(" at {}:{}", place.file(), place.line())).unwrap_or_default();
        output::note(format_args!("internal error{place}, which is a bug worth reporting: {what}"));
    }));
}

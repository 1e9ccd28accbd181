//! Raw mode of the terminal on standard input.
//!
//! The mode found at the start is kept in one place, so that whoever ends the
//! process can put it back: [`restore`] is idempotent and takes no arguments.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// The terminal's own mode, while we have changed it.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Set while a [`RawMode`] lives: a continued process takes the terminal again.
static TAKEN: AtomicBool = AtomicBool::new(false);

// A panic elsewhere must not keep the terminal from being restored.
fn saved() -> MutexGuard<'static, Option<Termios>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raw mode, left on drop.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Enters raw mode if standard input is a terminal. In the background the
    /// terminal is not ours to change; raw mode then waits for SIGCONT.
    pub fn enter() -> Option<Self> {
        if !isatty(stdin()) {
            return None;
        }
        TAKEN.store(true, Ordering::SeqCst);
        apply();
        Some(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::SeqCst);
        restore();
    }
}

/// Enters raw mode again after the process was stopped and continued.
pub(super) fn resume_if_taken() {
    if TAKEN.load(Ordering::SeqCst) {
        apply();
    }
}

fn apply() {
    if !in_foreground() {
        return;
    }
    let mut saved = saved();
    if let Ok(mode) = tcgetattr(stdin()) {
        let own = saved.get_or_insert(mode);
        let mut raw = own.clone();
        raw.make_raw();
        // Output of the host's own messages stays readable: only input is raw.
        raw.output_modes |= own.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
    }
}

/// Puts the terminal back as it was found. Does nothing the second time, and
/// nothing in the background, where the terminal belongs to another job.
pub fn restore() {
    if let Some(mode) = saved().take().filter(|_| in_foreground()) {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &mode);
    }
}

/// True while the terminal is in raw mode.
pub fn is_raw() -> bool {
    saved().is_some()
}

/// True if this process may read the terminal without being stopped for it.
pub(super) fn in_foreground() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group == getpgrp())
}

//! Why a run ends, and with which status.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{io, thread};

use machine::{Outcome, WeakMachineHandle};

use crate::exit::{ExitStatus, Failure};
use crate::output;

/// Why the run was stopped from outside the guest.
#[derive(Debug)]
pub(super) enum Reason {
    /// Ctrl-A x.
    Left,
    /// A signal.
    Signal(u8),
    /// `--timeout` passed.
    TimedOut,
    /// The console cannot be written.
    Console(io::Error),
}

/// The end of one run; the first reason counts.
#[derive(Default)]
pub(super) struct Ending {
    machine: OnceLock<WeakMachineHandle>,
    reason: Mutex<Option<Reason>>,
}

impl Ending {
    /// The machine that is to be stopped.
    pub(super) fn belongs_to(&self, machine: WeakMachineHandle) {
        let _ = self.machine.set(machine);
    }

    /// Whether the run was stopped from outside.
    pub(super) fn is_decided(&self) -> bool {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Stops the machine because of `reason`. Always false: nothing goes on.
    pub(super) fn end(&self, reason: Reason) -> bool {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        if let Some(machine) = self.machine.get() {
            machine.stop();
        }
        false
    }

    /// Runs `body`, for at most `limit`.
    pub(super) fn with_timeout(&self, limit: Option<Duration>, body: impl FnOnce() -> Outcome) -> Outcome {
        let Some(limit) = limit else { return body() };
        let (done, wait) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    self.end(Reason::TimedOut);
                }
            });
            // Dropped when the body ends, which wakes the thread.
            let _done = done;
            body()
        })
    }

    /// The status of the whole run.
    pub(super) fn status(&self, outcome: Outcome) -> Result<ExitStatus, Failure> {
        match outcome {
            Outcome::PoweredOff | Outcome::Reset => Ok(ExitStatus::Success),
            Outcome::GuestPanicked => Err(guest_failed("the guest reported a panic")),
            Outcome::TripleFault => Err(guest_failed("the guest ended in a triple fault")),
            Outcome::GuestFailed(why) => Err(guest_failed(&why)),
            Outcome::Failed(why) => Err(Failure::internal(why)),
            Outcome::Stopped => match self.reason.lock().unwrap_or_else(PoisonError::into_inner).take() {
                None | Some(Reason::Left) => Ok(ExitStatus::Success),
                Some(Reason::Signal(number)) => Err(Failure::signal(number)),
                Some(Reason::Console(error)) => Err(output::stdout_failure(error)),
                Some(Reason::TimedOut) => {
                    Err(Failure::new(ExitStatus::TimedOut, "the guest was stopped because --timeout passed"))
                }
            },
        }
    }
}

fn guest_failed(sentence: &str) -> Failure {
    Failure::new(ExitStatus::GuestFailed, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(ending: &Ending, outcome: Outcome) -> u8 {
        ending.status(outcome).map_or_else(|failure| failure.status().code(), ExitStatus::code)
    }

    #[test]
    fn outcomes_have_their_statuses() {
        let ending = Ending::default();
        assert_eq!(code(&ending, Outcome::PoweredOff), 0);
        assert_eq!(code(&ending, Outcome::Reset), 0);
        assert_eq!(code(&ending, Outcome::TripleFault), 4);
        assert_eq!(code(&ending, Outcome::GuestPanicked), 4);
        assert_eq!(code(&ending, Outcome::GuestFailed("so".to_owned())), 4);
        assert_eq!(code(&ending, Outcome::Failed("so".to_owned())), 1);
    }

    #[test]
    fn the_first_reason_counts() {
        let ending = Ending::default();
        ending.end(Reason::Signal(15));
        ending.end(Reason::Left);
        assert_eq!(code(&ending, Outcome::Stopped), 143);
    }

    #[test]
    fn a_timeout_ends_only_what_is_too_long() {
        let ending = Ending::default();
        let outcome = ending.with_timeout(Some(Duration::from_millis(1)), || {
            thread::sleep(Duration::from_millis(50));
            Outcome::Stopped
        });
        assert_eq!(code(&ending, outcome), 124);
        let ending = Ending::default();
        let outcome = ending.with_timeout(Some(Duration::from_secs(60)), || Outcome::PoweredOff);
        assert_eq!(code(&ending, outcome), 0);
    }
}

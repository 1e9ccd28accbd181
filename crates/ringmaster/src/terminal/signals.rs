//! Signals that ask the process to end, stop or continue.

use std::io;
use std::process;
use std::thread::{self, JoinHandle};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::low_level::emulate_default_handler;

use super::raw;
use crate::exit::ExitStatus;

/// A thread that waits for signals; ends on drop.
#[derive(Debug)]
pub struct Watcher {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Starts watching; `on_end` is called for the first signal that asks the
    /// process to end. A second one does not wait: it restores the terminal
    /// and ends the process at once.
    pub fn start(on_end: impl Fn(u8) + Send + 'static) -> io::Result<Self> {
        let signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT])?;
        let handle = signals.handle();
        let thread =
            thread::Builder::new().name("signals".to_owned()).spawn(move || watch(signals, &on_end))?;
        Ok(Self { handle, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(mut signals: Signals, on_end: &dyn Fn(u8)) {
    let mut asked = false;
    for signal in signals.forever() {
        match signal {
            SIGTSTP => {
                raw::restore();
                let _ = emulate_default_handler(SIGTSTP);
            }
            SIGCONT => raw::resume_if_taken(),
            _ => {
                let number = u8::try_from(signal).unwrap_or(0);
                if asked {
                    raw::restore();
                    process::exit(i32::from(ExitStatus::Signal(number).code()));
                }
                asked = true;
                on_end(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_signal_reaches_the_callback_and_the_watcher_ends() {
        let (sender, receiver) = mpsc::channel();
        let watcher = Watcher::start(move |number| sender.send(number).unwrap()).unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        let number = receiver.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(i32::from(number), SIGHUP);
        drop(watcher);
        assert!(receiver.recv().is_err(), "the thread has ended");
    }
}

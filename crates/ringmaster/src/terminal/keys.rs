//! What is typed on a terminal: bytes for the guest, Ctrl-A and a key, lines
//! for the monitor.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use super::escape::{self, Action, CTRL_A, Escape};
use super::monitor::{self, Command, Line, PROMPT, Typed};
use super::typist::Typist;
use super::{Event, Sink};
use crate::output;

/// What was typed before the user leaves may still arrive.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// The keyboard of a terminal.
pub(super) struct Keys {
    escape: Escape,
    /// The monitor's line, while the monitor has the keyboard.
    monitor: Option<Line>,
    typist: Typist,
    sink: Sink,
}

impl Keys {
    pub(super) fn new(sink: Sink) -> io::Result<Self> {
        let typist = Typist::start(sink.clone())?;
        Ok(Self { escape: Escape::default(), monitor: None, typist, sink })
    }

    /// Takes what was typed; `Break` when nothing more is wanted.
    pub(super) fn take(&mut self, bytes: &[u8]) -> ControlFlow<()> {
        let mut typed = Vec::with_capacity(bytes.len());
        for byte in bytes {
            match self.escape.feed(*byte) {
                Action::Wait => {}
                Action::Send(byte) => self.key(byte, &mut typed)?,
                Action::SendPair(byte) => {
                    self.key(CTRL_A, &mut typed)?;
                    self.key(byte, &mut typed)?;
                }
                Action::Help => escape::HELP.iter().for_each(output::note),
                Action::Monitor => self.switch(),
                Action::Leave => {
                    self.pass_on(&mut typed)?;
                    return self.leave();
                }
            }
        }
        self.pass_on(&mut typed)
    }

    fn pass_on(&self, typed: &mut Vec<u8>) -> ControlFlow<()> {
        if !typed.is_empty() && !self.typist.take(typed)? {
            show("\x07");
        }
        typed.clear();
        ControlFlow::Continue(())
    }

    fn leave(&self) -> ControlFlow<()> {
        self.typist.settle(LAST_WORDS);
        (self.sink)(Event::Leave)
    }

    /// Gives the keyboard to the monitor, or back to the guest.
    fn switch(&mut self) {
        if self.monitor.take().is_some() {
            show("\r\n");
            return output::note("this is the guest's console again");
        }
        self.monitor = Some(Line::default());
        show("\r\n");
        output::note("this is the monitor; 'help' lists its commands, Ctrl-A c returns to the console");
        show(PROMPT);
    }

    fn key(&mut self, byte: u8, typed: &mut Vec<u8>) -> ControlFlow<()> {
        let Some(line) = &mut self.monitor else {
            typed.push(byte);
            return ControlFlow::Continue(());
        };
        match line.feed(byte) {
            Typed::Echo(text) => show(&text),
            Typed::End => self.switch(),
            Typed::Line(text) => {
                show("\r\n");
                self.perform(&text)?;
                if self.monitor.is_some() {
                    show(PROMPT);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn perform(&mut self, text: &str) -> ControlFlow<()> {
        if text.trim().is_empty() {
            return ControlFlow::Continue(());
        }
        match text.parse() {
            Err(error) => output::note(error),
            Ok(Command::Help) => monitor::HELP.iter().for_each(output::note),
            Ok(Command::Console) => self.switch(),
            Ok(Command::Quit) => return self.leave(),
            Ok(command) => return (self.sink)(Event::Command(command)),
        }
        ControlFlow::Continue(())
    }
}

/// The line that was being typed is over.
impl Drop for Keys {
    fn drop(&mut self) {
        if self.monitor.is_some() {
            show("\r\n");
        }
    }
}

/// Shows a piece of a line on standard error.
fn show(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What the sink gets; input as one piece before each other event.
    fn delivered(chunks: &[&[u8]]) -> Vec<Event> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        let sink: Sink = Arc::new(move |event| {
            log.lock().unwrap().push(event);
            ControlFlow::Continue(())
        });
        let mut keys = Keys::new(sink).unwrap();
        for chunk in chunks {
            let _ = keys.take(chunk);
            keys.typist.settle(Duration::from_secs(60));
        }
        drop(keys);
        std::mem::take(&mut *events.lock().unwrap())
    }

    fn input(text: &str) -> Event {
        Event::Input(text.as_bytes().to_vec())
    }

    #[test]
    fn an_escape_may_be_split_between_reads() {
        assert_eq!(delivered(&[b"ls\x01", b"x"]), [input("ls"), Event::Leave]);
    }

    #[test]
    fn the_monitor_has_the_keyboard_until_it_is_given_back() {
        let events =
            delivered(&[b"ls\r", b"\x01c", b"sto", b"p\r", b"\r", b"nonsense\rpower\r", b"\x01c", b"go"]);
        let commands = [Event::Command(Command::Stop), Event::Command(Command::Power)];
        let [stop, power] = commands;
        assert_eq!(events, [input("ls\r"), stop, power, input("go")]);
        assert_eq!(delivered(&[b"\x01cconsole\rx"]), [input("x")]);
        assert_eq!(delivered(&[b"\x01c\x04x"]), [input("x")]);
    }

    #[test]
    fn one_can_leave_from_the_monitor() {
        assert_eq!(delivered(&[b"\x01cquit\r"]), [Event::Leave]);
        assert_eq!(delivered(&[b"\x01cst\x01x"]), [Event::Leave]);
    }
}

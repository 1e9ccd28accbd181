//! The thread that reads standard input.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::ops::ControlFlow;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;

use super::escape::{Action, CTRL_A, Escape, HELP};
use super::{Event, Sink, raw};
use crate::output;

/// How long a background job waits before it looks whether it may read again.
const BACKGROUND_PAUSE: Duration = Duration::from_millis(200);

/// Reads standard input until its end, a `Break` of the sink, or drop.
#[derive(Debug)]
pub(super) struct Reader {
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Starts reading. Escape keys exist only on a terminal: what comes from a
    /// file or a pipe reaches the guest byte for byte.
    pub(super) fn start(is_terminal: bool, sink: Sink) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || read_all(&woken, is_terminal, &sink))?;
        Ok(Self { wake, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.wake.write_all(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_all(woken: &PipeReader, is_terminal: bool, sink: &Sink) {
    let mut escape = is_terminal.then(Escape::default);
    let mut buffer = [0; 1024];
    while wait_for_input(woken) {
        // A background job that reads its terminal would be stopped for it.
        if is_terminal && !raw::in_foreground() {
            thread::sleep(BACKGROUND_PAUSE);
            continue;
        }
        let count = match rustix::io::read(stdin(), &mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if deliver(bytes, escape.as_mut(), sink).is_break() {
            return;
        }
    }
}

/// Waits for standard input; false means that the reader is to end.
fn wait_for_input(woken: &PipeReader) -> bool {
    loop {
        let mut fds = [PollFd::new(woken, PollFlags::IN), PollFd::from_borrowed_fd(stdin(), PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return false,
            Ok(_) => return fds[0].revents().is_empty(),
        }
    }
}

fn deliver(bytes: &[u8], escape: Option<&mut Escape>, sink: &Sink) -> ControlFlow<()> {
    let Some(escape) = escape else {
        return sink(Event::Input(bytes.to_vec()));
    };
    let mut typed = Vec::with_capacity(bytes.len());
    for byte in bytes {
        match escape.feed(*byte) {
            Action::Wait => {}
            Action::Send(byte) => typed.push(byte),
            Action::SendPair(byte) => typed.extend([CTRL_A, byte]),
            Action::Help => HELP.iter().for_each(output::note),
            Action::Leave => {
                pass_on(typed, sink)?;
                return sink(Event::Leave);
            }
        }
    }
    pass_on(typed, sink)
}

fn pass_on(typed: Vec<u8>, sink: &Sink) -> ControlFlow<()> {
    if typed.is_empty() { ControlFlow::Continue(()) } else { sink(Event::Input(typed)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    fn delivered(chunks: &[&[u8]], mut escape: Option<Escape>) -> Vec<Event> {
        let events = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&events);
        let sink: Sink = Arc::new(move |event| {
            log.lock().unwrap().push(event);
            ControlFlow::Continue(())
        });
        for chunk in chunks {
            let _ = deliver(chunk, escape.as_mut(), &sink);
        }
        std::mem::take(&mut *events.lock().unwrap())
    }

    #[test]
    fn a_pipe_reaches_the_guest_byte_for_byte() {
        assert_eq!(delivered(&[b"\x01x"], None), [Event::Input(b"\x01x".to_vec())]);
    }

    #[test]
    fn an_escape_may_be_split_between_reads() {
        assert_eq!(
            delivered(&[b"ls\x01", b"x"], Some(Escape::default())),
            [Event::Input(b"ls".to_vec()), Event::Leave]
        );
    }
}

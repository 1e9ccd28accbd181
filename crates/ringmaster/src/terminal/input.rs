//! The thread that reads standard input.

use std::io::{self, PipeReader, PipeWriter, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdin;

use super::keys::Keys;
use super::{Event, Sink, raw};

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
        let keys = is_terminal.then(|| Keys::new(sink.clone())).transpose()?;
        let thread =
            thread::Builder::new().name("input".to_owned()).spawn(move || read_all(&woken, keys, &sink))?;
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

fn read_all(woken: &PipeReader, mut keys: Option<Keys>, sink: &Sink) {
    let mut buffer = [0; 1024];
    while wait_for_input(woken) {
        // A background job that reads its terminal would be stopped for it.
        if keys.is_some() && !raw::in_foreground() {
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
        let goes_on = match &mut keys {
            Some(keys) => keys.take(bytes),
            None => sink(Event::Input(bytes.to_vec())),
        };
        if goes_on.is_break() {
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

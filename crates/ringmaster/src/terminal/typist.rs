//! Brings what is typed to the guest, on a thread of its own: a guest that does
//! not read must not keep the user from Ctrl-A.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Event, Sink};

/// What a guest that does not read can have waiting.
const CAPACITY: usize = 1 << 20;

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes are on their way.
    busy: bool,
    /// Nobody types any more, or nobody takes it.
    ended: bool,
}

#[derive(Default)]
struct Desk {
    state: Mutex<State>,
    changed: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while(&self, condition: impl FnMut(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.lock(), condition).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever types for the user.
pub(super) struct Typist {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Typist {
    pub(super) fn start(sink: Sink) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let own = Arc::clone(&desk);
        let thread = thread::Builder::new().name("typist".to_owned()).spawn(move || work(&own, &sink))?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Takes what is typed; `Break` when nobody wants it any more. What a guest
    /// that does not read has no room for is lost: false then.
    pub(super) fn take(&self, bytes: &[u8]) -> ControlFlow<(), bool> {
        let mut state = self.desk.lock();
        if state.ended {
            return ControlFlow::Break(());
        }
        let fits = state.waiting.len() + bytes.len() <= CAPACITY;
        if fits {
            state.waiting.extend(bytes);
            self.desk.changed.notify_all();
        }
        ControlFlow::Continue(fits)
    }

    /// Waits until all has arrived, for at most `limit`.
    pub(super) fn settle(&self, limit: Duration) {
        let on_its_way = |state: &mut State| !state.ended && (state.busy || !state.waiting.is_empty());
        drop(self.desk.changed.wait_timeout_while(self.desk.lock(), limit, on_its_way));
    }
}

impl Drop for Typist {
    fn drop(&mut self) {
        self.desk.lock().ended = true;
        self.desk.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn work(desk: &Desk, sink: &Sink) {
    loop {
        let mut state = desk.wait_while(|state| state.waiting.is_empty() && !state.ended);
        if state.ended {
            return;
        }
        let bytes = std::mem::take(&mut state.waiting);
        state.busy = true;
        drop(state);
        let goes_on = sink(Event::Input(bytes)).is_continue();
        let mut state = desk.lock();
        state.busy = false;
        state.ended |= !goes_on;
        desk.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_guest_that_does_not_read_holds_nobody_up() {
        let (release, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let sink: Sink = Arc::new(move |_| {
            let _ = wait.lock().unwrap().recv();
            ControlFlow::Continue(())
        });
        let typist = Typist::start(sink).unwrap();
        assert_eq!(typist.take(b"x"), ControlFlow::Continue(true));
        typist.settle(Duration::from_millis(10));
        assert_eq!(typist.take(&vec![0; CAPACITY]), ControlFlow::Continue(true));
        assert_eq!(typist.take(b"x"), ControlFlow::Continue(false), "there is a bound");
        drop(release);
        typist.settle(Duration::from_secs(60));
        assert_eq!(typist.take(&vec![0; CAPACITY]), ControlFlow::Continue(true));
    }

    #[test]
    fn it_ends_when_nobody_wants_more() {
        let typist = Typist::start(Arc::new(|_| ControlFlow::Break(()))).unwrap();
        let _ = typist.take(b"x");
        typist.settle(Duration::from_secs(60));
        assert_eq!(typist.take(b"x"), ControlFlow::Break(()));
    }
}

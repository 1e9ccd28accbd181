//! A device's thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Doorbell;

/// Tells a worker's thread to end.
#[derive(Clone, Debug)]
pub struct Stop {
    bell: Doorbell,
    told: Arc<AtomicBool>,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { bell: Doorbell::new()?, told: Arc::default() })
    }

    fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.bell.ring();
    }

    /// Whether the thread is to end.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Waits until `duration` has passed; false if the thread is to end.
    pub fn sleep(&self, duration: Duration) -> bool {
        let end = Instant::now().checked_add(duration);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            match left {
                Some(Duration::ZERO) => return !self.is_told(),
                _ if self.wait(&[], left).is_none() => return false,
                _ => {}
            }
        }
    }

    /// Waits until one of `fds` can be read (or has failed), or `timeout` has
    /// passed; which of them it were. None if the thread is to end.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Option<Vec<bool>> {
        let interests = fds.iter().map(|fd| (*fd, PollFlags::IN)).collect::<Vec<_>>();
        let ready = self.poll(&interests, timeout)?;
        Some(ready.into_iter().map(|flags| !flags.is_empty()).collect())
    }

    /// Waits for any of the events of `fds`, or until `timeout` has passed;
    /// which have happened. None if the thread is to end.
    pub fn poll(
        &self,
        fds: &[(BorrowedFd<'_>, PollFlags)],
        timeout: Option<Duration>,
    ) -> Option<Vec<PollFlags>> {
        let mut set = vec![PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
        set.extend(fds.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        // A signal counts as a wake-up for nothing.
        if poll(&mut set, timeout.as_ref()).is_err() {
            return Some(vec![PollFlags::empty(); fds.len()]);
        }
        let stopped = set.first().is_some_and(|stop| !stop.revents().is_empty());
        (!stopped).then(|| set.iter().skip(1).map(PollFd::revents).collect())
    }
}

/// A device's thread, which ends when it is stopped or dropped.
#[derive(Debug)]
pub struct Worker<T> {
    stop: Stop,
    thread: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work` on a thread called `name`. It has to look after `Stop`.
    ///
    /// # Errors
    /// If the host refuses the thread.
    pub fn spawn(name: &str, work: impl FnOnce(Stop) -> T + Send + 'static) -> io::Result<Self> {
        let stop = Stop::new()?;
        let told = stop.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || work(told))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Ends the thread and waits for that; what it returned, None if it
    /// panicked.
    pub fn stop(mut self) -> Option<T> {
        self.stop.tell();
        self.thread.take()?.join().ok()
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.stop.tell();
            let _ = thread.join();
        }
    }
}

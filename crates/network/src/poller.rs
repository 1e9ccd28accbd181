//! Which descriptors are ready: a thin layer over epoll, edge-triggered.
//!
//! An edge is told once; whoever owns the descriptor remembers that it is ready
//! until an operation would block. So nobody is woken for data that the guest
//! has no room for.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

/// How many events are taken at once.
const BATCH: usize = 64;

/// What a descriptor is ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Readiness {
    /// Whose it is.
    pub(crate) token: u64,
    /// Reading would not block.
    pub(crate) readable: bool,
    /// Writing would not block.
    pub(crate) writable: bool,
    /// The other end has said that nothing follows, or is gone.
    pub(crate) hung_up: bool,
}

/// A set of descriptors.
pub(crate) struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `source` under `token` until it is closed.
    pub(crate) fn watch(&self, source: impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(token), flags)?)
    }

    /// Takes all edges since the last call, without waiting.
    pub(crate) fn take_all(&self, mut tell: impl FnMut(Readiness)) {
        // Whoever makes edges faster than this waits for the next call.
        for _ in 0..64 {
            if self.take(&mut tell) < BATCH {
                return;
            }
        }
    }

    fn take(&self, mut tell: impl FnMut(Readiness)) -> usize {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; BATCH];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Interrupted or failed: the descriptor stays readable, and the next
        // call tells.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, Some(&now)) else { return 0 };
        for event in events.iter() {
            let flags = event.flags;
            let broken = flags.intersects(EventFlags::HUP | EventFlags::ERR);
            tell(Readiness {
                token: event.data.u64(),
                readable: broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP),
                writable: broken || flags.contains(EventFlags::OUT),
                hung_up: broken || flags.contains(EventFlags::RDHUP),
            });
        }
        events.len()
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

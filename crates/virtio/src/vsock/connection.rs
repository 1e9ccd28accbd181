//! One connection: a Unix socket on this side, credit towards the guest.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use super::packet::{Header, NO_RECEIVE, NO_SEND};

/// How much from the guest waits for the host's program.
pub(super) const BUFFER: u32 = 256 << 10;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The guest has to accept.
    Requested,
    /// Data flow.
    Open,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    pub(super) stage: Stage,
    /// What the guest has sent and the host's program has not taken.
    out: VecDeque<u8>,
    /// Bytes that the host's program has taken.
    forwarded: u32,
    /// The same, as the guest has heard last.
    told: u32,
    /// Bytes that were sent to the guest, and the guest's side of its credit.
    sent: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
    /// The host's program sends no more.
    finished: bool,
    /// The guest sends no more, or receives no more.
    guest_done: u32,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, stage: Stage) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            stage,
            out: VecDeque::new(),
            forwarded: 0,
            told: 0,
            sent: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            finished: false,
            guest_done: 0,
        })
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Learns from a packet how much the guest can take.
    pub(super) fn learn(&mut self, header: &Header) {
        (self.peer_buffer, self.peer_forwarded) = (header.buf_alloc, header.fwd_cnt);
    }

    /// How much may be sent to the guest now.
    pub(super) fn credit(&self) -> u32 {
        let flying = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(flying)
    }

    /// Fills in what every packet tells of this side.
    pub(super) fn tell(&mut self, header: &mut Header) {
        (header.buf_alloc, header.fwd_cnt) = (BUFFER, self.forwarded);
        self.told = self.forwarded;
    }

    /// Whether the guest should hear that there is room again.
    pub(super) fn has_news(&self) -> bool {
        self.forwarded.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// Takes data of the guest; false if that is more than it was allowed, or
    /// than makes sense.
    #[must_use]
    pub(super) fn accept(&mut self, data: &[u8]) -> bool {
        let fits = self.out.len() + data.len() <= BUFFER as usize;
        if fits && self.guest_done & NO_SEND == 0 {
            self.out.extend(data);
        }
        fits && self.guest_done & NO_SEND == 0
    }

    /// Puts text of our own before any data.
    pub(super) fn greet(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).is_ok()
    }

    /// Hands on what waits; false if the host's program is gone.
    #[must_use]
    pub(super) fn push_out(&mut self) -> bool {
        while !self.out.is_empty() {
            let (first, _) = self.out.as_slices();
            match self.stream.write(first) {
                Ok(0) => return false,
                Ok(count) => {
                    self.out.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        if self.guest_done & NO_SEND != 0 {
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        true
    }

    /// The guest will send, or receive, no more.
    pub(super) fn guest_shuts(&mut self, flags: u32) {
        self.guest_done |= flags & (NO_RECEIVE | NO_SEND);
    }

    /// Whether the guest has done with it and nothing waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.guest_done == NO_RECEIVE | NO_SEND && self.out.is_empty()
    }

    /// What to wait for at the stream.
    pub(super) fn interest(&self, can_send: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        if can_send && self.wants_to_read() {
            flags |= PollFlags::IN;
        }
        flags
    }

    /// Whether what the host's program sends can go to the guest.
    pub(super) fn wants_to_read(&self) -> bool {
        let open = self.stage == Stage::Open && !self.finished && self.guest_done & NO_RECEIVE == 0;
        open && self.credit() > 0
    }

    /// Reads up to `most` bytes for the guest: none is the end, None is not
    /// now.
    pub(super) fn read(&mut self, most: usize) -> Option<Vec<u8>> {
        let mut data = vec![0; most.min(self.credit() as usize)];
        match self.stream.read(&mut data) {
            Ok(count) => {
                data.truncate(count);
                self.sent = self.sent.wrapping_add(count as u32);
                self.finished = count == 0;
                Some(data)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(_) => {
                self.finished = true;
                Some(Vec::new())
            }
        }
    }
}

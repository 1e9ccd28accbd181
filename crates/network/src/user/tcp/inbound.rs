//! What the guest sends, on its way to the host's socket.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};

use super::ring::{Budget, Ring};
use super::segment::Segment;
use super::seq::Seq;

/// How much the guest may send ahead of what the host's socket takes.
const BUFFER: usize = 256 << 10;
/// Our windows count 128 bytes, if the guest scales.
pub(super) const SCALE: u8 = 7;
/// More acknowledgements than this say nothing new.
const MOST_ACKS: u8 = 8;

/// One direction of a connection: from the guest.
pub(super) struct Inbound {
    /// What is expected next.
    pub(super) next: Seq,
    /// Up to where the guest knows that it may send.
    edge: Seq,
    /// Whether windows are scaled.
    pub(super) scaled: bool,
    ring: Ring,
    /// The guest has said that nothing follows.
    pub(super) finished: bool,
    /// The host's socket has been told so.
    pub(super) shut: bool,
    /// Acknowledgements that are due.
    pub(super) acks: u8,
    /// Writing to the host's socket would not block.
    pub(super) writable: bool,
}

impl Inbound {
    pub(super) fn new(budget: &Budget) -> Self {
        Self {
            next: Seq(0),
            edge: Seq(0),
            scaled: false,
            ring: Ring::new(BUFFER, budget),
            finished: false,
            shut: false,
            acks: 0,
            writable: false,
        }
    }

    /// The guest's first number is `first`, a SYN.
    pub(super) fn begin(&mut self, first: Seq, scaled: bool) {
        self.next = first + 1;
        self.edge = self.next;
        self.scaled = scaled;
    }

    /// The window to announce now, unscaled.
    pub(super) fn window(&self) -> usize {
        let most = if self.scaled { BUFFER } else { usize::from(u16::MAX) };
        self.ring.free().min(most)
    }

    /// A segment leaves with this window: as the header has it.
    pub(super) fn announce(&mut self, syn: bool) -> u16 {
        self.acks = self.acks.saturating_sub(1);
        let shift = if self.scaled && !syn { SCALE } else { 0 };
        let window = u16::try_from(self.window() >> shift).unwrap_or(u16::MAX);
        self.edge = self.edge.max(self.next + (usize::from(window) << shift));
        window
    }

    /// Whether a segment's number lies where a reset is to be believed
    /// (RFC 9293, 3.10.7.4).
    pub(super) fn expects(&self, seq: Seq) -> bool {
        seq >= self.next && (seq == self.next || seq < self.edge)
    }

    /// An acknowledgement is due at the next opportunity.
    pub(super) fn acknowledge(&mut self) {
        self.acks = self.acks.max(1);
    }

    /// Takes what is new in `segment`, straight to the host's socket as far as
    /// that takes it.
    pub(super) fn take(&mut self, segment: &Segment<'_>, host: &TcpStream) -> io::Result<()> {
        if segment.length() == 0 {
            // Below what is expected: a question whether we are still there.
            if segment.seq < self.next {
                self.acknowledge();
            }
            return Ok(());
        }
        let old = self.next - segment.seq;
        if segment.seq > self.next {
            // A hole: each such segment asks for what is missing.
            self.acks = self.acks.saturating_add(1).min(MOST_ACKS);
            return Ok(());
        }
        self.acknowledge();
        if self.finished || old > segment.payload.len() {
            return Ok(());
        }
        let payload = &segment.payload[old..];
        let taken = self.pass_on(payload, host)?;
        self.next += taken;
        if segment.fin && taken == payload.len() {
            self.next += 1;
            self.finished = true;
        }
        self.shut_if_done(host)
    }

    fn pass_on(&mut self, payload: &[u8], mut host: &TcpStream) -> io::Result<usize> {
        let mut written = 0;
        while self.ring.is_empty() && self.writable && written < payload.len() {
            match host.write(&payload[written..]) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written + self.ring.push(&payload[written..]))
    }

    /// Writes what waits, once the host's socket takes more.
    pub(super) fn pump(&mut self, host: &TcpStream) -> io::Result<()> {
        if !self.writable || self.ring.is_empty() {
            return Ok(());
        }
        match self.ring.drain(host) {
            Ok(_) => self.shut_if_done(host)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // Tell of the room that there is now, when it is worth a segment.
        if self.next + self.window() >= self.edge + BUFFER / 4 {
            self.acknowledge();
        }
        Ok(())
    }

    fn shut_if_done(&mut self, host: &TcpStream) -> io::Result<()> {
        if self.finished && !self.shut && self.ring.is_empty() {
            self.shut = true;
            match host.shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives its memory back.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
    }
}

//! What the host's socket sends, on its way to the guest.

use std::io;
use std::net::TcpStream;
use std::time::Instant;

use super::ring::{Budget, Ring};
use super::rtt::Rtt;
use super::segment::Segment;
use super::seq::Seq;

/// How much is read from the host ahead of the guest's acknowledgements.
const BUFFER: usize = 512 << 10;
/// What a guest that names no size takes (RFC 9293, 3.7.1).
const DEFAULT_MSS: u16 = 536;
/// What fits into our frames.
pub(super) const OUR_MSS: u16 = 1460;
/// The most payload that one IPv4 packet carries in unsegmented TCP.
const LARGEST: usize = 65535 - 20 - 20;
/// How often something is sent again before the guest is given up.
const RETRIES: u32 = 10;
/// How many duplicates mean a loss (RFC 5681, 3.2).
const DUPLICATES: u8 = 3;

/// A segment to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) seq: Seq,
    pub(super) syn: bool,
    pub(super) fin: bool,
    /// Where its payload is in the buffer.
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) push: bool,
}

/// One direction of a connection: to the guest.
pub(super) struct Outbound {
    first: Seq,
    /// Everything before it has been acknowledged. The ring begins here.
    pub(super) acknowledged: Seq,
    /// What is sent next for the first time.
    pub(super) next: Seq,
    /// What the guest has room for, from `acknowledged` on.
    window: usize,
    /// Number of the segment that told so.
    window_from: Seq,
    scale: u8,
    pub(super) mss: u16,
    ring: Ring,
    /// The host's socket has nothing more.
    pub(super) ended: bool,
    fin_sent: bool,
    /// Reading from the host's socket would not block.
    pub(super) readable: bool,
    /// The host's socket has been told of its end.
    pub(super) hung_up: bool,
    rtt: Rtt,
    timer: Option<Instant>,
    retries: u32,
    duplicates: u8,
    /// Repairing a loss, until this is acknowledged (RFC 6582).
    recover: Option<Seq>,
    resend: bool,
    probe: bool,
}

impl Outbound {
    pub(super) fn new(first: Seq, budget: &Budget) -> Self {
        Self {
            first,
            acknowledged: first,
            next: first,
            window: 0,
            window_from: Seq(0),
            scale: 0,
            mss: DEFAULT_MSS,
            ring: Ring::new(BUFFER, budget),
            ended: false,
            fin_sent: false,
            readable: false,
            hung_up: false,
            rtt: Rtt::default(),
            timer: None,
            retries: 0,
            duplicates: 0,
            recover: None,
            resend: false,
            probe: false,
        }
    }

    /// What the guest's SYN offers; whether windows are scaled.
    pub(super) fn negotiate(&mut self, syn: &Segment<'_>) -> bool {
        // Less than 64 would be all headers; more than ours does not fit.
        self.mss = syn.mss.unwrap_or(DEFAULT_MSS).clamp(64, OUR_MSS);
        self.scale = syn.scale.unwrap_or(0);
        self.window = usize::from(syn.window);
        self.window_from = syn.seq;
        syn.scale.is_some()
    }

    fn in_flight(&self) -> usize {
        self.next - self.acknowledged
    }

    fn unsent(&self) -> usize {
        self.ring.len().saturating_sub(self.in_flight())
    }

    /// Whether the guest has acknowledged everything up to the end.
    pub(super) fn is_done(&self) -> bool {
        self.fin_sent && self.in_flight() == 0
    }

    /// Whether the guest may have sent `ack`.
    pub(super) fn may_acknowledge(&self, ack: Seq) -> bool {
        ack <= self.next
    }

    /// Whether `ack` answers our SYN.
    pub(super) fn answers_syn(&self, ack: Option<Seq>) -> bool {
        ack == Some(self.first + 1) && self.next == self.first + 1
    }

    /// The SYN has been acknowledged.
    pub(super) fn opened(&mut self, now: Instant) {
        self.acknowledged = self.next;
        self.rtt.acknowledged(self.next, now);
        self.settle(now);
    }

    /// The guest acknowledges and tells its window.
    pub(super) fn acknowledge(&mut self, ack: Seq, segment: &Segment<'_>, now: Instant) {
        self.retries = 0;
        let window = usize::from(segment.window) << self.scale;
        if ack > self.acknowledged {
            self.advance(ack, now);
            self.take_window(window, segment.seq);
        } else if ack == self.acknowledged {
            if segment.length() == 0 && window == self.window && self.in_flight() > 0 {
                self.duplicate();
            }
            self.take_window(window, segment.seq);
            if self.timer.is_none() {
                self.settle(now);
            }
        }
    }

    fn advance(&mut self, ack: Seq, now: Instant) {
        let bytes = (ack - self.acknowledged).min(self.ring.len());
        self.ring.discard(bytes);
        self.acknowledged = ack;
        self.duplicates = 0;
        self.rtt.acknowledged(ack, now);
        match self.recover {
            Some(until) if ack < until => self.resend = true,
            _ => {
                self.recover = None;
                self.resend = false;
            }
        }
        self.settle(now);
    }

    fn take_window(&mut self, window: usize, seq: Seq) {
        if seq >= self.window_from {
            self.window_from = seq;
            self.window = window;
            if window > 0 {
                self.probe = false;
            }
        }
    }

    fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
        if self.duplicates == DUPLICATES && self.recover.is_none() {
            self.recover = Some(self.next);
            self.resend = true;
        }
    }

    /// Sets the timer to what is awaited: an acknowledgement, or room.
    fn settle(&mut self, now: Instant) {
        let shut_out = self.window == 0 && (self.unsent() > 0 || (self.ended && !self.fin_sent));
        let waiting = self.in_flight() > 0 || shut_out;
        self.timer = waiting.then(|| now + self.rtt.timeout());
    }

    /// When something is to be done.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timer
    }

    /// The deadline has passed; false if the guest is given up.
    pub(super) fn expire(&mut self) -> bool {
        self.timer = None;
        self.rtt.expired();
        self.retries += 1;
        if self.in_flight() > 0 {
            self.resend = true;
            self.recover = Some(self.next);
        } else {
            self.probe = true;
        }
        self.retries <= RETRIES
    }

    /// The SYN is to be sent again: the guest has repeated its own.
    pub(super) fn repeat_syn(&mut self) {
        self.resend = true;
    }

    /// Reads what the host's socket has, if the guest could take more than what
    /// is already here.
    pub(super) fn pump(&mut self, host: &TcpStream, largest: usize) -> io::Result<()> {
        while self.wants_data(largest) {
            match self.ring.fill(host) {
                // The budget is used up: go on when the guest has taken some.
                Ok(None) => return Ok(()),
                Ok(Some((0, _))) => {
                    self.ended = true;
                    self.readable = false;
                }
                // A short read tells that there is no more now, but for the end.
                Ok(Some((_, full))) => self.readable = full || self.hung_up,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn wants_data(&self, largest: usize) -> bool {
        self.readable && !self.ended && self.ring.free() > 0 && self.unsent() < largest
    }

    /// The SYN, if it is to be sent now.
    pub(super) fn plan_syn(&mut self, now: Instant) -> Option<Plan> {
        let first_time = self.next == self.first;
        if !first_time && !std::mem::take(&mut self.resend) {
            return None;
        }
        self.next = self.first + 1;
        if first_time {
            self.rtt.sent(self.next, now);
        } else {
            self.rtt.sent_again();
        }
        self.timer = Some(now + self.rtt.timeout());
        Some(Plan { seq: self.first, syn: true, fin: false, offset: 0, length: 0, push: false })
    }

    /// Whether the SYN is to be sent now.
    pub(super) fn is_syn_pending(&self) -> bool {
        self.next == self.first || self.resend
    }

    /// What is to be sent now, with up to `largest` bytes.
    pub(super) fn plan(&mut self, largest: usize, now: Instant) -> Option<Plan> {
        let plan = if self.resend { self.plan_again(largest) } else { self.plan_new(largest, now) };
        if self.timer.is_none() {
            self.settle(now);
        }
        plan
    }

    fn plan_again(&mut self, largest: usize) -> Option<Plan> {
        self.resend = false;
        if self.in_flight() == 0 {
            return None;
        }
        self.rtt.sent_again();
        let length = self.in_flight().min(self.ring.len()).min(largest);
        let fin = self.fin_sent && length == self.ring.len();
        Some(Plan { seq: self.acknowledged, syn: false, fin, offset: 0, length, push: true })
    }

    fn plan_new(&mut self, largest: usize, now: Instant) -> Option<Plan> {
        let (offset, unsent) = (self.in_flight(), self.unsent());
        let probe = std::mem::take(&mut self.probe);
        if self.fin_sent {
            return None;
        }
        let window = if probe { self.window.max(1) } else { self.window };
        let room = window.saturating_sub(offset);
        let length = unsent.min(room).min(largest);
        let fin = self.ended && length == unsent && room > length;
        if !self.is_worth_sending(unsent, room) && !fin {
            return None;
        }
        let seq = self.next;
        self.next += length + usize::from(fin);
        self.fin_sent = fin;
        self.rtt.sent(self.next, now);
        Some(Plan { seq, syn: false, fin, offset, length, push: length == unsent })
    }

    /// Whether data goes out: not in small pieces only because the window ends
    /// there, while there is anything to wait for (RFC 9293, 3.8.6.2.1).
    fn is_worth_sending(&self, unsent: usize, room: usize) -> bool {
        let possible = unsent.min(room);
        let silly = possible < unsent && possible < usize::from(self.mss) && self.in_flight() > 0;
        possible > 0 && !silly
    }

    /// Whether something is to be sent or read now.
    pub(super) fn is_pending(&self, largest: usize) -> bool {
        let room = self.window.saturating_sub(self.in_flight());
        let data = self.is_worth_sending(self.unsent(), room);
        let fin = self.ended && !self.fin_sent && self.unsent() == 0 && room > 0;
        self.resend || self.probe || data || fin || self.wants_data(largest)
    }

    /// Appends the payload of `plan` to a frame.
    pub(super) fn payload(&self, plan: &Plan, frame: &mut Vec<u8>) {
        self.ring.copy_out(plan.offset, plan.length, frame);
    }

    /// The most payload of one segment.
    pub(super) fn largest(&self, unsegmented: bool) -> usize {
        let mss = usize::from(self.mss);
        if unsegmented { LARGEST / mss * mss } else { mss }
    }

    /// Gives its memory back.
    pub(super) fn clear(&mut self) {
        self.ring.clear();
        self.timer = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

    const GUEST: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);

    fn segment(ack: Seq, window: u16) -> Segment<'static> {
        Segment {
            from: GUEST,
            to: GUEST,
            seq: Seq(1),
            ack: Some(ack),
            syn: false,
            fin: false,
            rst: false,
            window,
            mss: Some(1000),
            scale: None,
            payload: &[],
        }
    }

    /// One that has `bytes` from the host and a guest with `window`.
    fn with(bytes: usize, window: u16) -> Outbound {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut host = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        host.write_all(&vec![1; bytes]).unwrap();
        far.set_nonblocking(true).unwrap();
        let mut out = Outbound::new(Seq(100), &Budget::new(1 << 20));
        out.negotiate(&segment(Seq(0), window));
        let now = Instant::now();
        assert!(out.plan_syn(now).unwrap().syn);
        assert!(out.answers_syn(Some(Seq(101))));
        out.opened(now);
        out.readable = true;
        out.pump(&far, usize::MAX).unwrap();
        assert_eq!(out.unsent(), bytes);
        out
    }

    fn sent(out: &mut Outbound, largest: usize) -> Vec<(u32, usize)> {
        std::iter::from_fn(|| out.plan(largest, Instant::now())).map(|p| (p.seq.0, p.length)).collect()
    }

    #[test]
    fn the_window_is_respected() {
        let mut out = with(5000, 2500);
        assert_eq!(sent(&mut out, 1000), [(101, 1000), (1101, 1000)]);
        out.acknowledge(Seq(1101), &segment(Seq(1101), 3000), Instant::now());
        assert_eq!(sent(&mut out, 1000), [(2101, 1000), (3101, 1000)]);
    }

    #[test]
    fn three_duplicates_send_the_missing_segment_again() {
        let mut out = with(5000, 8000);
        assert_eq!(sent(&mut out, 1000).len(), 5);
        let now = Instant::now();
        for _ in 0..2 {
            out.acknowledge(Seq(101), &segment(Seq(101), 8000), now);
            assert!(sent(&mut out, 1000).is_empty());
        }
        out.acknowledge(Seq(101), &segment(Seq(101), 8000), now);
        assert_eq!(sent(&mut out, 1000), [(101, 1000)]);
        // A partial acknowledgement tells of the next hole.
        out.acknowledge(Seq(2101), &segment(Seq(2101), 8000), now);
        assert_eq!(sent(&mut out, 1000), [(2101, 1000)]);
        out.acknowledge(Seq(5101), &segment(Seq(5101), 8000), now);
        assert!(sent(&mut out, 1000).is_empty());
        assert_eq!(out.deadline(), None);
    }

    #[test]
    fn a_closed_window_is_probed_and_silence_gives_up() {
        let mut out = with(3000, 0);
        assert!(sent(&mut out, 1000).is_empty());
        out.acknowledge(Seq(101), &segment(Seq(101), 0), Instant::now());
        assert!(out.deadline().is_some());
        assert!(out.expire());
        assert_eq!(sent(&mut out, 1000), [(101, 1)]);
        for _ in 1..RETRIES {
            assert!(out.expire());
            assert_eq!(sent(&mut out, 1000), [(101, 1)]);
        }
        assert!(!out.expire());
    }
}

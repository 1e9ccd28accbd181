//! One TCP connection: the guest on one side, a socket of the host on the
//! other.

use std::io;
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::sockopt;

use super::inbound::Inbound;
use super::outbound::{Outbound, Plan};
use super::ring::Budget;
use super::segment::Segment;
use super::seq::Seq;
use crate::poller::Readiness;

/// How long the host may take to make a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// How long a guest is answered that has not seen our last acknowledgement.
const LINGER: Duration = Duration::from_secs(1);

/// Both ends, as the guest sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) guest: SocketAddrV4,
    pub(crate) remote: SocketAddrV4,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host's connection is being made; the guest's SYN has no answer yet.
    Connecting,
    /// The guest's SYN is answered, and not yet acknowledged.
    Accepting,
    /// Our SYN is on its way.
    Calling,
    /// Data passes.
    Open,
    /// Both sides are done; only late segments are answered.
    Lingering,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest knows.
    Drop,
    /// It is over, and the guest is to be told by a reset.
    Reset,
    /// It is over, and this SYN begins another one.
    Anew,
}

/// One TCP connection.
pub(super) struct Flow {
    pub(super) key: Key,
    phase: Phase,
    host: Option<TcpStream>,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    /// When the phase ends by itself.
    until: Option<Instant>,
    /// When the guest was last heard.
    pub(super) heard: Instant,
    /// It is in the queue of those with something to send.
    pub(super) queued: bool,
    /// The deadline that the timers know of.
    pub(super) armed: Option<Instant>,
}

impl Flow {
    /// The guest has sent `syn`, and `host` is being connected.
    pub(super) fn connecting(
        key: Key,
        syn: &Segment<'_>,
        host: TcpStream,
        first: Seq,
        budget: &Budget,
        now: Instant,
    ) -> Self {
        let mut flow = Self::new(key, Phase::Connecting, host, first, budget, now);
        flow.negotiate(syn);
        flow.until = Some(now + CONNECT);
        flow
    }

    /// `host` was accepted from a forwarded port.
    pub(super) fn calling(key: Key, host: TcpStream, first: Seq, budget: &Budget, now: Instant) -> Self {
        let mut flow = Self::new(key, Phase::Calling, host, first, budget, now);
        flow.inbound.scaled = true;
        flow
    }

    fn new(key: Key, phase: Phase, host: TcpStream, first: Seq, budget: &Budget, now: Instant) -> Self {
        // The guest has its own delays; ours would add to them.
        let _ = host.set_nodelay(true);
        Self {
            key,
            phase,
            host: Some(host),
            inbound: Inbound::new(budget),
            outbound: Outbound::new(first, budget),
            until: None,
            heard: now,
            queued: false,
            armed: None,
        }
    }

    /// The socket, for the poller.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        self.host.as_ref()
    }

    fn negotiate(&mut self, syn: &Segment<'_>) {
        let scaled = self.outbound.negotiate(syn);
        self.inbound.begin(syn.seq, scaled);
    }

    /// Whether it can go if there are too many.
    pub(super) fn is_lingering(&self) -> bool {
        self.phase == Phase::Lingering
    }

    /// Whether the guest has not answered our call yet.
    pub(super) fn is_calling(&self) -> bool {
        self.phase == Phase::Calling
    }

    /// Whether the host's connection is still being made.
    pub(super) fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// A segment has come from the guest.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        self.heard = now;
        match self.phase {
            Phase::Connecting if segment.rst => self.abandon(),
            Phase::Connecting => Verdict::Keep,
            Phase::Accepting => self.while_accepting(segment, now),
            Phase::Calling => self.while_calling(segment, now),
            Phase::Open => self.while_open(segment, now),
            Phase::Lingering => self.while_lingering(segment),
        }
    }

    fn while_accepting(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        if segment.rst {
            return if self.inbound.expects(segment.seq) { self.abandon() } else { Verdict::Keep };
        }
        if segment.syn {
            let same = segment.seq + 1 == self.inbound.next && segment.ack.is_none();
            self.outbound.repeat_syn();
            return if same { Verdict::Keep } else { self.fail() };
        }
        if segment.ack.is_none() {
            return Verdict::Keep;
        }
        if !self.outbound.answers_syn(segment.ack) {
            return self.fail();
        }
        self.phase = Phase::Open;
        self.outbound.opened(now);
        self.while_open(segment, now)
    }

    fn while_calling(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        let answers = self.outbound.answers_syn(segment.ack);
        match (segment.rst, segment.syn) {
            (true, _) if answers => self.abandon(),
            (false, true) if answers => {
                self.phase = Phase::Open;
                self.negotiate(segment);
                self.outbound.opened(now);
                self.inbound.acknowledge();
                Verdict::Keep
            }
            // Left over from another connection: the reset ends it there.
            (false, false) if segment.ack.is_some() && !answers => Verdict::Reset,
            _ => Verdict::Keep,
        }
    }

    fn while_open(&mut self, segment: &Segment<'_>, now: Instant) -> Verdict {
        if segment.rst {
            return if self.inbound.expects(segment.seq) { self.abandon() } else { Verdict::Keep };
        }
        if segment.syn {
            // RFC 5961, 4: a guest that has started anew answers with a reset.
            self.inbound.acknowledge();
            return Verdict::Keep;
        }
        let Some(ack) = segment.ack else { return Verdict::Keep };
        if !self.outbound.may_acknowledge(ack) {
            self.inbound.acknowledge();
            return Verdict::Keep;
        }
        self.outbound.acknowledge(ack, segment, now);
        let Some(host) = &self.host else { return Verdict::Drop };
        match self.inbound.take(segment, host) {
            Ok(()) => self.linger_if_done(now),
            Err(_) => self.fail(),
        }
    }

    fn while_lingering(&mut self, segment: &Segment<'_>) -> Verdict {
        if segment.rst {
            return Verdict::Drop;
        }
        if segment.syn && segment.ack.is_none() && segment.seq >= self.inbound.next {
            return Verdict::Anew;
        }
        if segment.length() > 0 {
            self.inbound.acknowledge();
        }
        Verdict::Keep
    }

    fn linger_if_done(&mut self, now: Instant) -> Verdict {
        if self.phase == Phase::Open && self.inbound.shut && self.outbound.is_done() {
            self.phase = Phase::Lingering;
            self.until = Some(now + LINGER);
            self.host = None;
            self.inbound.clear();
            self.outbound.clear();
        }
        Verdict::Keep
    }

    /// Ends the host's side as the guest ended its own: at once.
    pub(super) fn abandon(&mut self) -> Verdict {
        if let Some(host) = self.host.take() {
            // Closing with a reset: whoever is there learns that data is lost.
            let _ = sockopt::set_socket_linger(&host, Some(Duration::ZERO));
        }
        Verdict::Drop
    }

    fn fail(&mut self) -> Verdict {
        self.abandon();
        Verdict::Reset
    }

    /// The host's socket is ready for something.
    pub(super) fn ready(&mut self, readiness: Readiness, now: Instant) -> Verdict {
        self.inbound.writable |= readiness.writable;
        self.outbound.readable |= readiness.readable;
        self.outbound.hung_up |= readiness.hung_up;
        let Some(host) = &self.host else { return Verdict::Keep };
        if self.phase == Phase::Connecting {
            return match connected(host) {
                Ok(false) => Verdict::Keep,
                Ok(true) => {
                    self.phase = Phase::Accepting;
                    self.until = None;
                    Verdict::Keep
                }
                Err(_) => self.fail(),
            };
        }
        match self.inbound.pump(host) {
            Ok(()) => self.linger_if_done(now),
            Err(_) => self.fail(),
        }
    }

    /// When something is to be done by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outbound.deadline().into_iter().chain(self.until).min()
    }

    /// Time has passed.
    pub(super) fn expire(&mut self, now: Instant) -> Verdict {
        if self.until.is_some_and(|until| until <= now) {
            return if self.is_lingering() { Verdict::Drop } else { self.fail() };
        }
        if self.outbound.deadline().is_some_and(|deadline| deadline <= now) && !self.outbound.expire() {
            return self.fail();
        }
        Verdict::Keep
    }

    /// Whether there is something to send, or to look for.
    pub(super) fn is_pending(&self, unsegmented: bool) -> bool {
        match self.phase {
            Phase::Connecting => false,
            Phase::Accepting | Phase::Calling => self.outbound.is_syn_pending(),
            Phase::Open => self.inbound.acks > 0 || self.outbound.is_pending(self.largest(unsegmented)),
            Phase::Lingering => self.inbound.acks > 0,
        }
    }

    fn largest(&self, unsegmented: bool) -> usize {
        self.outbound.largest(unsegmented)
    }

    /// The next segment for the guest, if there is one.
    pub(super) fn plan(&mut self, unsegmented: bool, now: Instant) -> Result<Option<Plan>, io::Error> {
        let largest = self.largest(unsegmented);
        let plan = match self.phase {
            Phase::Connecting => None,
            Phase::Accepting | Phase::Calling => self.outbound.plan_syn(now),
            Phase::Open => {
                if let Some(host) = &self.host {
                    self.outbound.pump(host, largest)?;
                }
                self.outbound.plan(largest, now)
            }
            Phase::Lingering => None,
        };
        Ok(plan.or_else(|| self.plan_acknowledgement()))
    }

    fn plan_acknowledgement(&self) -> Option<Plan> {
        let due = self.inbound.acks > 0 && matches!(self.phase, Phase::Open | Phase::Lingering);
        let seq = self.outbound.next;
        due.then_some(Plan { seq, syn: false, fin: false, offset: 0, length: 0, push: false })
    }

    /// Whether segments acknowledge something: all but our own call.
    pub(super) fn acknowledges(&self) -> bool {
        self.phase != Phase::Calling
    }
}

/// Whether a connection in progress has been made.
fn connected(host: &TcpStream) -> io::Result<bool> {
    if let Some(error) = host.take_error()? {
        return Err(error);
    }
    match host.peer_addr() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

//! TCP: the guest's connections, each joined to a socket of the host.
//!
//! Towards the guest this is an endpoint of its own: it acknowledges, keeps
//! windows, repeats what is lost. Towards the host it is a user of sockets.
//! Data from the guest goes straight into the socket as far as that takes it;
//! data for the guest is read only when the guest has room for it, so that
//! what is too fast is slowed down by the host's own TCP.

mod flow;
mod inbound;
mod outbound;
mod ring;
mod rtt;
mod segment;
mod seq;
mod timers;
mod write;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use slab::Slab;

pub(super) use flow::Key;
pub(super) use segment::Segment;
pub(super) use write::refuse;

use self::flow::{Flow, Verdict};
use self::ring::Budget;
use self::seq::Seq;
use self::timers::Timers;
use super::link::Link;
use super::token::Token;
use crate::Frame;
use crate::poller::{Poller, Readiness};

/// A connection that was silent for so long makes way for a new one.
const SILENT: Duration = Duration::from_secs(60);
/// Connections from outside that the guest has not answered yet, for which it
/// may not even have started.
const MOST_CALLING: usize = 64;

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) source: Ipv4Addr,
    pub(super) destination: Ipv4Addr,
}

/// What is to be done about a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It has been dealt with.
    Handled,
    /// It begins a connection: make one on the host.
    Opens,
}

/// All connections.
pub(super) struct Tcp {
    flows: Slab<Flow>,
    by_key: HashMap<Key, usize>,
    /// Those that may have something to send.
    ready: VecDeque<usize>,
    timers: Timers,
    budget: Budget,
    most: usize,
    /// Makes first sequence numbers that nobody can guess (RFC 6528).
    secret: RandomState,
    start: Instant,
    calling: usize,
}

impl Tcp {
    pub(super) fn new(most: usize, bytes: usize, now: Instant) -> Self {
        Self {
            flows: Slab::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            budget: Budget::new(bytes),
            most,
            secret: RandomState::new(),
            start: now,
            calling: 0,
        }
    }

    /// A segment has come from the guest.
    pub(super) fn segment(&mut self, segment: &Segment<'_>, link: &mut Link, now: Instant) -> Arrival {
        let key = Key { guest: segment.from, remote: segment.to };
        let Some(&id) = self.by_key.get(&key) else {
            if segment.syn && segment.ack.is_none() && !segment.rst && !segment.fin {
                return Arrival::Opens;
            }
            write::refuse(segment, link);
            return Arrival::Handled;
        };
        let Some(flow) = self.flows.get_mut(id) else { return Arrival::Handled };
        let calling = flow.is_calling();
        let verdict = flow.segment(segment, now);
        if calling && !flow.is_calling() {
            self.calling = self.calling.saturating_sub(1);
        }
        match verdict {
            Verdict::Anew => {
                self.remove(id);
                Arrival::Opens
            }
            Verdict::Reset if self.flows.get(id).is_some_and(Flow::is_calling) => {
                write::refuse(segment, link);
                Arrival::Handled
            }
            verdict => {
                self.follow(id, verdict, link);
                Arrival::Handled
            }
        }
    }

    /// Whether another connection may be made.
    pub(super) fn has_room(&mut self, now: Instant) -> bool {
        if self.flows.len() < self.most {
            return true;
        }
        let lingering = self.flows.iter().find(|(_, flow)| flow.is_lingering());
        let oldest = || self.flows.iter().min_by_key(|(_, flow)| flow.heard);
        let Some((id, flow)) = lingering.or_else(oldest) else { return false };
        let goes = flow.is_lingering() || now.saturating_duration_since(flow.heard) > SILENT;
        if goes {
            self.abandon(id);
        }
        goes
    }

    /// Joins the connection that `syn` begins to `host`, which is being
    /// connected.
    pub(super) fn open(&mut self, syn: &Segment<'_>, host: TcpStream, poller: &Poller, now: Instant) -> bool {
        let key = Key { guest: syn.from, remote: syn.to };
        let first = self.first_number(key, now);
        let flow = Flow::connecting(key, syn, host, first, &self.budget, now);
        self.insert(flow, poller)
    }

    /// Calls the guest for a connection that the host has accepted.
    pub(super) fn call(&mut self, key: Key, host: TcpStream, poller: &Poller, now: Instant) -> bool {
        if self.by_key.contains_key(&key) || self.calling >= MOST_CALLING {
            return false;
        }
        let first = self.first_number(key, now);
        let flow = Flow::calling(key, host, first, &self.budget, now);
        let inserted = self.insert(flow, poller);
        self.calling += usize::from(inserted);
        inserted
    }

    fn insert(&mut self, flow: Flow, poller: &Poller) -> bool {
        let key = flow.key;
        let entry = self.flows.vacant_entry();
        let id = entry.key();
        let Some(host) = flow.socket() else { return false };
        if poller.watch(host, Token::Tcp(id).into()).is_err() {
            return false;
        }
        entry.insert(flow);
        self.by_key.insert(key, id);
        self.attend(id);
        true
    }

    fn first_number(&self, key: Key, now: Instant) -> Seq {
        let ticks = now.saturating_duration_since(self.start).as_micros() / 4;
        Seq((self.secret.hash_one(key) as u32).wrapping_add(ticks as u32))
    }

    /// The host's socket of connection `id` is ready for something.
    pub(super) fn ready(&mut self, id: usize, readiness: Readiness, link: &mut Link, now: Instant) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        let verdict = flow.ready(readiness, now);
        self.follow(id, verdict, link);
    }

    /// Does what is due.
    pub(super) fn expire(&mut self, link: &mut Link, now: Instant) {
        while let Some(id) = self.timers.due(now) {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.armed = None;
            let verdict = flow.expire(now);
            self.follow(id, verdict, link);
        }
    }

    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.timers.first()
    }

    fn follow(&mut self, id: usize, verdict: Verdict, link: &mut Link) {
        match verdict {
            Verdict::Keep | Verdict::Anew => self.attend(id),
            Verdict::Drop => self.remove(id),
            Verdict::Reset => {
                if let Some(flow) = self.flows.get(id) {
                    write::reset(flow, link);
                }
                self.remove(id);
            }
        }
    }

    /// Queues a connection that has something to send, and follows its
    /// deadline.
    fn attend(&mut self, id: usize) {
        let Some(flow) = self.flows.get_mut(id) else { return };
        // Whether segments are large makes no difference here: one byte does.
        if !flow.queued && flow.is_pending(false) {
            flow.queued = true;
            self.ready.push_back(id);
        }
        if let Some(deadline) = flow.deadline()
            && flow.armed.is_none_or(|armed| deadline < armed)
        {
            flow.armed = Some(deadline);
            self.timers.add(deadline, id);
        }
    }

    fn remove(&mut self, id: usize) {
        if let Some(flow) = self.flows.try_remove(id) {
            self.by_key.remove(&flow.key);
            self.calling = self.calling.saturating_sub(usize::from(flow.is_calling()));
        }
    }

    fn abandon(&mut self, id: usize) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.abandon();
        }
        self.remove(id);
    }

    /// Writes the next segment for the guest; false if there is none now.
    pub(super) fn produce(&mut self, frame: &mut Frame, link: &mut Link, now: Instant) -> bool {
        // Each connection gets one segment, then the next has its turn.
        while let Some(id) = self.ready.pop_front() {
            let Some(flow) = self.flows.get_mut(id) else { continue };
            flow.queued = false;
            match flow.plan(link.unsegmented(), now) {
                Ok(Some(plan)) => {
                    write::segment(flow, plan, frame, link);
                    self.attend(id);
                    return true;
                }
                Ok(None) => self.rearm(id),
                Err(_) => {
                    flow.abandon();
                    self.follow(id, Verdict::Reset, link);
                }
            }
        }
        false
    }

    /// Follows the deadline of a connection that has nothing to send now.
    fn rearm(&mut self, id: usize) {
        if let Some(flow) = self.flows.get_mut(id) {
            flow.queued = true;
            self.attend(id);
        }
        if let Some(flow) = self.flows.get_mut(id) {
            flow.queued = false;
        }
    }

    /// The guest has started anew: everything is over but what it has not
    /// answered yet.
    pub(super) fn reset(&mut self) {
        let open: Vec<usize> =
            self.flows.iter().filter(|(_, flow)| !flow.is_calling()).map(|(id, _)| id).collect();
        open.into_iter().for_each(|id| self.abandon(id));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// How many wait for the host.
    pub(super) fn connecting(&self) -> usize {
        self.flows.iter().filter(|(_, flow)| flow.is_connecting()).count()
    }
}

//! A network for a guest without any right on the host: address translation
//! between the guest's frames and ordinary sockets.
//!
//! The guest sees an Ethernet with a gateway, a name server and a DHCP server,
//! all of them this module. Its connections and datagrams leave as those of
//! this process. [`Gate`](gate::Gate) decides where an address leads,
//! [`Outside`] makes the sockets, and [`Limits`] bound what a guest can take
//! up. Frames come in by [`UserNet::send`](crate::NetBackend::send) and are
//! made when the guest has room for them, by
//! [`receive`](crate::NetBackend::receive).

mod arp;
mod config;
mod dhcp;
mod emit;
mod forwards;
mod fragments;
mod gate;
mod icmp;
mod ingress;
mod link;
mod names;
mod outside;
mod tcp;
mod token;
mod udp;

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

pub use config::{Forward, Limits, Protocol, Reach, Subnet, UserConfig};
pub use forwards::ForwardError;
pub use outside::{Host, Outside};

use self::dhcp::Dhcp;
use self::forwards::{Caller, Forwards};
use self::fragments::Fragments;
use self::gate::Gate;
use self::icmp::Ping;
use self::link::Link;
use self::names::Names;
use self::tcp::{Key, Tcp};
use self::token::Token;
use self::udp::Udp;
use crate::poller::{Poller, Readiness};
use crate::{Frame, NetBackend, Offloads, Sent};

/// How often what is unused is looked for.
const TICK: Duration = Duration::from_secs(1);
/// The longest datagram.
const DATAGRAM: usize = 65536;

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub enum UserNetError {
    /// The host has no more descriptors.
    #[error("the host refuses what a network waits with")]
    Poller(#[source] io::Error),
    /// A port cannot be forwarded.
    #[error(transparent)]
    Forward(#[from] ForwardError),
}

/// A user-mode network.
pub struct UserNet {
    gate: Gate,
    link: Link,
    poller: Poller,
    outside: Box<dyn Outside>,
    forwards: Forwards,
    dhcp: Dhcp,
    names: Names,
    ping: Ping,
    udp: Udp,
    tcp: Tcp,
    fragments: Fragments,
    /// For one datagram.
    buffer: Vec<u8>,
    /// What has become ready, for the time of one call.
    events: Vec<Readiness>,
    /// Whether datagrams have the next turn.
    datagrams_first: bool,
    tick: Option<Instant>,
}

impl UserNet {
    /// A network by the host's own sockets.
    ///
    /// # Errors
    /// If a port cannot be forwarded, or the host has no more descriptors.
    pub fn new(config: UserConfig) -> Result<Self, UserNetError> {
        Self::with_outside(config, Box::new(Host))
    }

    /// A network by the sockets of `outside`.
    ///
    /// # Errors
    /// As [`UserNet::new`].
    pub fn with_outside(config: UserConfig, outside: Box<dyn Outside>) -> Result<Self, UserNetError> {
        let poller = Poller::new().map_err(UserNetError::Poller)?;
        let forwards = Forwards::open(&config.forwards, &poller)?;
        let UserConfig { subnet, guest_mac, reach, limits, .. } = config;
        Ok(Self {
            gate: Gate { subnet, reach },
            link: Link::new(guest_mac),
            poller,
            outside,
            forwards,
            dhcp: Dhcp::new(subnet, guest_mac),
            names: Names::new(SocketAddrV4::new(subnet.name_server(), names::PORT)),
            ping: Ping::default(),
            udp: Udp::new(limits.udp),
            tcp: Tcp::new(limits.tcp, limits.bytes, Instant::now()),
            fragments: Fragments::default(),
            buffer: vec![0; DATAGRAM],
            events: Vec::new(),
            datagrams_first: true,
            tick: None,
        })
    }

    /// How many connections and associations there are.
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
    }

    fn dispatch(&mut self, readiness: Readiness, now: Instant) {
        let Self { names, ping, udp, tcp, link, outside, poller, buffer, .. } = self;
        match Token::of(readiness.token) {
            Some(Token::Tcp(id)) => tcp.ready(id, readiness, link, now),
            Some(Token::Udp(id)) => udp.ready(id),
            Some(Token::Name(id)) => names.ready(id, buffer, outside.as_mut(), poller, link, now),
            Some(Token::Ping(id)) => ping.ready(id, buffer, link),
            Some(Token::Forward(id)) => self.forwards.ready(id),
            None => {}
        }
    }

    /// Looks for what is unused, and asks to be called again if there can be
    /// anything.
    fn sweep(&mut self, now: Instant) {
        self.names.sweep(self.outside.as_mut(), &self.poller, &mut self.link, now);
        self.ping.sweep(now);
        self.udp.sweep(now);
        self.fragments.sweep(now);
        self.tick = None;
        self.expect_tick(now);
    }

    fn expect_tick(&mut self, now: Instant) {
        let idle =
            self.names.is_empty() && self.ping.is_empty() && self.udp.len() == 0 && self.fragments.is_empty();
        if !idle && self.tick.is_none() {
            self.tick = Some(now + TICK);
        }
    }

    /// Calls the guest for those who came by forwarded ports.
    fn admit(&mut self, now: Instant) {
        while let Some((Caller::Connection(stream, peer), port)) = self.forwards.connection() {
            let key = self.caller_key(peer, port);
            if self.tcp.has_room(now) {
                // Refused otherwise: the socket is closed.
                self.tcp.call(key, stream, &self.poller, now);
            }
        }
    }

    fn caller_key(&self, peer: SocketAddrV4, port: u16) -> Key {
        let guest = SocketAddrV4::new(self.gate.subnet.guest(0), port);
        Key { guest, remote: self.gate.inward(peer) }
    }

    /// Puts the next datagram from the world on the wire.
    fn next_datagram(&mut self, now: Instant) -> bool {
        if let Some((Caller::Datagram(length, socket, peer), port)) = self.forwards.datagram(&mut self.buffer)
        {
            let key = self.caller_key(peer, port);
            self.udp.answerable(key, &socket, peer.into(), now);
            udp::deliver(key, self.buffer.get(..length).unwrap_or_default(), &mut self.link);
            self.expect_tick(now);
            return true;
        }
        self.udp.produce(&mut self.buffer, self.gate.subnet, &mut self.link, now)
    }

    fn pop(&mut self, frame: &mut Frame) -> bool {
        let Some(next) = self.link.pop() else { return false };
        frame.bytes.clear();
        frame.bytes.extend_from_slice(&next.bytes);
        frame.offload = next.offload;
        true
    }
}

impl NetBackend for UserNet {
    fn offloads(&self) -> Offloads {
        Offloads::CSUM | Offloads::GUEST_CSUM | Offloads::GUEST_TSO4 | Offloads::HOST_TSO4
    }

    fn choose(&mut self, offloads: Offloads) {
        self.link.chosen = offloads;
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        self.take_frame(frame, Instant::now());
        Sent::Taken
    }

    fn receive(&mut self, frame: &mut Frame) -> bool {
        if self.pop(frame) {
            return true;
        }
        let now = Instant::now();
        self.admit(now);
        self.datagrams_first = !self.datagrams_first;
        if self.datagrams_first && self.next_datagram(now) && self.pop(frame) {
            return true;
        }
        if self.tcp.produce(frame, &mut self.link, now) {
            return true;
        }
        // Whatever is left: resets of connections that have just failed, and
        // datagrams.
        self.pop(frame) || self.next_datagram(now) && self.pop(frame)
    }

    fn service(&mut self) {
        let now = Instant::now();
        let mut events = std::mem::take(&mut self.events);
        self.poller.take_all(|readiness| events.push(readiness));
        events.drain(..).for_each(|readiness| self.dispatch(readiness, now));
        self.events = events;
        self.tcp.expire(&mut self.link, now);
        if self.tick.is_some_and(|tick| tick <= now) {
            self.sweep(now);
        }
    }

    fn descriptor(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    fn deadline(&self) -> Option<Instant> {
        self.tcp.deadline().into_iter().chain(self.tick).min()
    }

    fn reset(&mut self) {
        self.link.clear();
        self.link.chosen = Offloads::empty();
        self.tcp.reset();
        self.udp.reset();
        self.names.reset();
        self.ping.reset();
        self.fragments = Fragments::default();
    }
}

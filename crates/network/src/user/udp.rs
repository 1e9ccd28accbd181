//! UDP: the guest's datagrams, each pair of ends joined to a socket.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, SocketAddrV4, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::config::Subnet;
use super::emit::{PROTOCOL_UDP, Route, udp};
use super::icmp::port_unreachable;
use super::link::Link;
use super::tcp::Key;
use super::token::Token;
use crate::poller::Poller;

/// How long an association lives after its last datagram (RFC 4787, 4.3).
const IDLE: Duration = Duration::from_secs(120);

/// Errors of sockets that are passed over at a time.
const MOST_ERRORS: usize = 16;

/// How the world is reached.
enum Way {
    /// By a socket that is connected to it.
    Own(UdpSocket),
    /// By the socket of a forwarded port.
    Forwarded(Arc<UdpSocket>, SocketAddr),
}

impl Way {
    fn send(&self, payload: &[u8]) -> io::Result<usize> {
        match self {
            Self::Own(socket) => socket.send(payload),
            Self::Forwarded(socket, peer) => socket.send_to(payload, peer),
        }
    }
}

struct Association {
    key: Key,
    way: Way,
    last: Instant,
    queued: bool,
}

/// All associations.
pub(super) struct Udp {
    associations: Slab<Association>,
    by_key: HashMap<Key, usize>,
    ready: VecDeque<usize>,
    most: usize,
}

impl Udp {
    pub(super) fn new(most: usize) -> Self {
        Self { associations: Slab::new(), by_key: HashMap::new(), ready: VecDeque::new(), most }
    }

    /// Whether `key` has a way already.
    pub(super) fn has(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Sends on the way that `key` has.
    pub(super) fn send(&mut self, key: Key, payload: &[u8], subnet: Subnet, link: &mut Link, now: Instant) {
        let Some(association) = self.by_key.get(&key).and_then(|&id| self.associations.get_mut(id)) else {
            return;
        };
        association.last = now;
        // An error of an earlier datagram is told once, in place of sending.
        if association.way.send(payload).is_err_and(|error| refused(&error)) {
            port_unreachable(key.guest, key.remote, subnet, link);
            let _ = association.way.send(payload);
        }
    }

    /// Gives `key` a socket of its own.
    pub(super) fn open(
        &mut self,
        key: Key,
        socket: UdpSocket,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<()> {
        self.make_room();
        let entry = self.associations.vacant_entry();
        poller.watch(&socket, Token::Udp(entry.key()).into())?;
        self.by_key.insert(key, entry.key());
        entry.insert(Association { key, way: Way::Own(socket), last: now, queued: false });
        Ok(())
    }

    /// Lets the guest answer a datagram that came by a forwarded port.
    pub(super) fn answerable(&mut self, key: Key, socket: &Arc<UdpSocket>, peer: SocketAddr, now: Instant) {
        if let Some(association) = self.by_key.get(&key).and_then(|&id| self.associations.get_mut(id)) {
            association.last = now;
            return;
        }
        self.make_room();
        let way = Way::Forwarded(Arc::clone(socket), peer);
        let id = self.associations.insert(Association { key, way, last: now, queued: false });
        self.by_key.insert(key, id);
    }

    /// The longest unused association makes way.
    fn make_room(&mut self) {
        if self.associations.len() >= self.most
            && let Some(id) = self.associations.iter().min_by_key(|(_, a)| a.last).map(|(id, _)| id)
        {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: usize) {
        if let Some(association) = self.associations.try_remove(id) {
            self.by_key.remove(&association.key);
        }
    }

    /// The socket of association `id` has something.
    pub(super) fn ready(&mut self, id: usize) {
        if let Some(association) = self.associations.get_mut(id)
            && !association.queued
        {
            association.queued = true;
            self.ready.push_back(id);
        }
    }

    /// Puts the next datagram on the wire; false if there is none now.
    pub(super) fn produce(
        &mut self,
        buffer: &mut [u8],
        subnet: Subnet,
        link: &mut Link,
        now: Instant,
    ) -> bool {
        // An error is told once; no socket has more than a few to tell.
        let mut errors = 0;
        while let Some(&id) = self.ready.front() {
            let Some(association) = self.associations.get_mut(id) else {
                self.ready.pop_front();
                continue;
            };
            let Way::Own(socket) = &association.way else {
                self.ready.pop_front();
                continue;
            };
            match socket.recv(buffer) {
                Ok(length) => {
                    association.last = now;
                    deliver(association.key, buffer.get(..length).unwrap_or_default(), link);
                    self.ready.rotate_left(1);
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    association.queued = false;
                    self.ready.pop_front();
                }
                Err(error) if refused(&error) => {
                    port_unreachable(association.key.guest, association.key.remote, subnet, link);
                    self.ready.rotate_left(1);
                    return true;
                }
                Err(_) => {
                    self.ready.rotate_left(1);
                    errors += 1;
                    if errors > MOST_ERRORS {
                        return false;
                    }
                }
            }
        }
        false
    }

    /// Forgets those that have not been used for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        let idle = |a: &Association| now.saturating_duration_since(a.last) >= IDLE;
        let ids: Vec<usize> = self.associations.iter().filter(|(_, a)| idle(a)).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| self.remove(id));
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.associations.len()
    }

    pub(super) fn reset(&mut self) {
        self.associations.clear();
        self.by_key.clear();
        self.ready.clear();
    }
}

/// Puts a datagram for the guest on the wire.
pub(super) fn deliver(key: Key, payload: &[u8], link: &mut Link) {
    let (guest, remote): (SocketAddrV4, SocketAddrV4) = (key.guest, key.remote);
    let route =
        Route { to: link.guest, source: *remote.ip(), destination: *guest.ip(), protocol: PROTOCOL_UDP };
    link.push_packet(route, &udp(route, remote.port(), guest.port(), payload));
}

fn refused(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

//! ICMP: echo, and telling the guest what cannot be reached (RFC 792).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use slab::Slab;

use super::config::Subnet;
use super::emit::{IPV4, PROTOCOL_ICMP, PROTOCOL_UDP, Route, icmp};
use super::gate::Refusal;
use super::link::Link;
use super::outside::Outside;
use super::token::Token;
use crate::poller::Poller;

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO: u8 = 8;

/// Why something is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Host = 1,
    Port = 3,
    Prohibited = 13,
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Prohibited => Self::Prohibited,
            Refusal::Unreachable => Self::Host,
        }
    }
}

/// Tells the guest that a packet of its could not be delivered.
pub(super) fn unreachable(packet: &[u8], code: Code, subnet: Subnet, link: &mut Link) {
    let (Some(header), Some(&source)) = (packet.first(), packet.get(12..16).and_then(<[u8]>::as_array))
    else {
        return;
    };
    // The header and the first eight bytes behind it.
    let quoted = usize::from(header & 15) * 4 + 8;
    let mut rest = vec![0; 4];
    rest.extend_from_slice(packet.get(..quoted).unwrap_or(packet));
    let route = Route {
        to: link.guest,
        source: subnet.gateway(),
        destination: Ipv4Addr::from(source),
        protocol: PROTOCOL_ICMP,
    };
    link.push_packet(route, &icmp(UNREACHABLE, code as u8, &rest));
}

/// Tells the guest that nobody takes datagrams at `remote`; the packet that
/// met this is not at hand any more.
pub(super) fn port_unreachable(guest: SocketAddrV4, remote: SocketAddrV4, subnet: Subnet, link: &mut Link) {
    let mut packet = vec![0; IPV4];
    packet[0] = 0x45;
    packet[3] = 28;
    packet[8] = 64;
    packet[9] = PROTOCOL_UDP;
    packet[12..16].copy_from_slice(&guest.ip().octets());
    packet[16..20].copy_from_slice(&remote.ip().octets());
    for field in [guest.port(), remote.port(), 8, 0] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    unreachable(&packet, Code::Port, subnet, link);
}

/// How many echo sockets there may be.
const MOST: usize = 32;
/// How long one lives after the last request.
const IDLE: Duration = Duration::from_secs(30);

/// A process in the guest that asks somebody for echoes.
struct Pinger {
    guest: Ipv4Addr,
    ident: [u8; 2],
    to: Ipv4Addr,
    socket: UdpSocket,
    last: Instant,
}

/// Echo requests.
#[derive(Default)]
pub(super) struct Ping {
    pingers: Slab<Pinger>,
}

/// An echo request of the guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct EchoRequest<'a> {
    pub(super) guest: Ipv4Addr,
    pub(super) to: Ipv4Addr,
    /// The whole message, at least eight bytes.
    message: &'a [u8],
}

impl<'a> EchoRequest<'a> {
    /// Nothing if the message is something else.
    pub(super) fn parse(guest: Ipv4Addr, to: Ipv4Addr, message: &'a [u8]) -> Option<Self> {
        (message.len() >= 8 && message[0] == ECHO && message[1] == 0).then_some(Self { guest, to, message })
    }

    fn ident(&self) -> [u8; 2] {
        [self.message[4], self.message[5]]
    }

    /// Answers in the name of whom it asks.
    pub(super) fn answer(&self, link: &mut Link) {
        reply(self.guest, self.to, self.message.get(4..).unwrap_or_default(), link);
    }
}

fn reply(guest: Ipv4Addr, from: Ipv4Addr, rest: &[u8], link: &mut Link) {
    let route = Route { to: link.guest, source: from, destination: guest, protocol: PROTOCOL_ICMP };
    link.push_packet(route, &icmp(ECHO_REPLY, 0, rest));
}

impl Ping {
    /// Sends a request to the world.
    ///
    /// # Errors
    /// If this process may not, or nothing leads there.
    pub(super) fn send(
        &mut self,
        request: &EchoRequest<'_>,
        outside: &mut dyn Outside,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<()> {
        let id = match self.find(request) {
            Some(id) => id,
            None => self.open(request, outside, poller, now)?,
        };
        let Some(pinger) = self.pingers.get_mut(id) else { return Ok(()) };
        pinger.last = now;
        // The host fills in an identifier of its own, and the checksum.
        match pinger.socket.send(request.message) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    fn find(&self, request: &EchoRequest<'_>) -> Option<usize> {
        let wanted = (request.guest, request.ident(), request.to);
        self.pingers.iter().find(|(_, p)| (p.guest, p.ident, p.to) == wanted).map(|(id, _)| id)
    }

    fn open(
        &mut self,
        request: &EchoRequest<'_>,
        outside: &mut dyn Outside,
        poller: &Poller,
        now: Instant,
    ) -> io::Result<usize> {
        if self.pingers.len() >= MOST
            && let Some(oldest) = self.pingers.iter().min_by_key(|(_, p)| p.last).map(|(id, _)| id)
        {
            self.pingers.remove(oldest);
        }
        let socket = outside.ping(request.to)?;
        let entry = self.pingers.vacant_entry();
        let id = entry.key();
        poller.watch(&socket, Token::Ping(id).into())?;
        let EchoRequest { guest, to, .. } = *request;
        entry.insert(Pinger { guest, ident: request.ident(), to, socket, last: now });
        Ok(id)
    }

    /// Passes on the answers at socket `id`.
    pub(super) fn ready(&mut self, id: usize, buffer: &mut [u8], link: &mut Link) {
        let Some(pinger) = self.pingers.get(id) else { return };
        while let Ok(length) = pinger.socket.recv(buffer) {
            let Some(message) = buffer.get_mut(..length).filter(|m| m.len() >= 8 && m[0] == ECHO_REPLY)
            else {
                continue;
            };
            message[4..6].copy_from_slice(&pinger.ident);
            reply(pinger.guest, pinger.to, &message[4..], link);
        }
    }

    /// Forgets those that have not been used for long.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.pingers.retain(|_, pinger| now.saturating_duration_since(pinger.last) < IDLE);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pingers.is_empty()
    }

    pub(super) fn reset(&mut self) {
        self.pingers.clear();
    }
}

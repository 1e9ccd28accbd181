//! The way of a frame from the guest.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::Instant;

use smoltcp::wire::{Ipv4Packet, UdpPacket};

use super::config::GATEWAY_MAC;
use super::emit::{ETHERNET, PROTOCOL_ICMP, PROTOCOL_TCP, PROTOCOL_UDP};
use super::gate::Refusal;
use super::icmp::{Code, EchoRequest, unreachable};
use super::tcp::{Addresses, Arrival, Key, Segment, refuse};
use super::{UserNet, arp, dhcp, names};
use crate::checksum::{is_intact, pseudo_header};
use crate::{Frame, Mac};

const ETHERTYPE_IPV4: [u8; 2] = [8, 0];
const ETHERTYPE_ARP: [u8; 2] = [8, 6];
/// Connections that the host is still making. A guest that asks for more has
/// its requests dropped, and repeats them.
const MOST_CONNECTING: usize = 256;

/// An IPv4 packet that is whole.
struct Whole<'a> {
    addresses: Addresses,
    protocol: u8,
    payload: &'a [u8],
    /// Its checksum need not be looked at.
    trusted: bool,
    /// The packet, or its first fragment's like, for error messages.
    quoted: &'a [u8],
}

impl Whole<'_> {
    fn is_intact(&self) -> bool {
        let Addresses { source, destination } = self.addresses;
        let length = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
        self.trusted || is_intact(pseudo_header(source, destination, self.protocol, length), self.payload)
    }
}

impl UserNet {
    /// Takes a frame from the guest. What is malformed, or not meant for this
    /// network, is dropped.
    pub(super) fn take_frame(&mut self, frame: &Frame, now: Instant) {
        let Some((header, payload)) = frame.bytes.split_at_checked(ETHERNET) else { return };
        let (Some(to), Some(from)) = (mac(header, 0), mac(header, 6)) else { return };
        if to != GATEWAY_MAC && !is_group(to) || is_group(from) {
            return;
        }
        self.link.guest = from;
        let trusted = frame.offload.checksum.is_some() || frame.offload.verified;
        match header.get(12..14).and_then(<[u8]>::as_array) {
            Some(&ETHERTYPE_ARP) => arp::answer(payload, self.gate.subnet, &mut self.link),
            Some(&ETHERTYPE_IPV4) => self.take_packet(payload, trusted, now),
            _ => {}
        }
        self.expect_tick(now);
    }

    fn take_packet(&mut self, bytes: &[u8], trusted: bool, now: Instant) {
        let Ok(packet) = Ipv4Packet::new_checked(bytes) else { return };
        if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
            return;
        }
        let addresses = Addresses { source: packet.src_addr(), destination: packet.dst_addr() };
        let protocol = packet.next_header().into();
        let quoted = bytes;
        if packet.more_frags() || packet.frag_offset() != 0 {
            let Some(payload) = self.fragments.add(&packet, now) else { return };
            let whole = Whole { addresses, protocol, payload: &payload, trusted: false, quoted };
            return self.take_whole(&whole, now);
        }
        let payload = packet.payload();
        self.take_whole(&Whole { addresses, protocol, payload, trusted, quoted }, now);
    }

    fn take_whole(&mut self, packet: &Whole<'_>, now: Instant) {
        let Addresses { source, destination } = packet.addresses;
        if packet.protocol == PROTOCOL_UDP {
            self.take_udp(packet, now);
        } else if !self.gate.subnet.is_guest(source) || destination.is_broadcast() {
            // Forged, or for everybody.
        } else if packet.protocol == PROTOCOL_TCP {
            self.take_tcp(packet, now);
        } else if packet.protocol == PROTOCOL_ICMP {
            self.take_icmp(packet, now);
        }
    }

    fn take_icmp(&mut self, packet: &Whole<'_>, now: Instant) {
        let Addresses { source, destination } = packet.addresses;
        if !is_intact(0, packet.payload) {
            return;
        }
        let Some(request) = EchoRequest::parse(source, destination, packet.payload) else { return };
        let subnet = self.gate.subnet;
        if destination == subnet.gateway() || destination == subnet.name_server() {
            return request.answer(&mut self.link);
        }
        if let Err(refusal) = self.gate.outward(destination) {
            return unreachable(packet.quoted, refusal.into(), subnet, &mut self.link);
        }
        let sent = self.ping.send(&request, self.outside.as_mut(), &self.poller, now);
        if let Err(error) = sent {
            unreachable(packet.quoted, code_of(&error), subnet, &mut self.link);
        }
    }

    fn take_udp(&mut self, packet: &Whole<'_>, now: Instant) {
        let Ok(datagram) = UdpPacket::new_checked(packet.payload) else { return };
        if datagram.src_port() == 0 || datagram.checksum() != 0 && !packet.is_intact() {
            return;
        }
        let Addresses { source, destination } = packet.addresses;
        let subnet = self.gate.subnet;
        let to = SocketAddrV4::new(destination, datagram.dst_port());
        if to.port() == dhcp::SERVER_PORT && (destination.is_broadcast() || destination == subnet.gateway()) {
            return self.dhcp.answer(datagram.payload(), &mut self.link);
        }
        if !subnet.is_guest(source) || destination.is_broadcast() || destination == subnet.broadcast() {
            return;
        }
        let from = SocketAddrV4::new(source, datagram.src_port());
        if destination == subnet.name_server() && to.port() == names::PORT {
            return self.ask(from, datagram.payload(), now);
        }
        let key = Key { guest: from, remote: to };
        if !self.udp.has(key)
            && let Err(code) = self.open_udp(key, now)
        {
            return unreachable(packet.quoted, code, subnet, &mut self.link);
        }
        self.udp.send(key, datagram.payload(), subnet, &mut self.link, now);
    }

    fn ask(&mut self, guest: SocketAddrV4, query: &[u8], now: Instant) {
        let Self { names, outside, poller, link, .. } = self;
        match self.gate.may_ask() {
            true => names.ask(guest, query, outside.as_mut(), poller, link, now),
            false => names.refuse(guest, query, link),
        }
    }

    fn open_udp(&mut self, key: Key, now: Instant) -> Result<(), Code> {
        let address = self.gate.outward(*key.remote.ip())?;
        let to = SocketAddr::from((address, key.remote.port()));
        let socket = self.outside.udp(to).map_err(|error| code_of(&error))?;
        self.udp.open(key, socket, &self.poller, now).map_err(|error| code_of(&error))
    }

    fn take_tcp(&mut self, packet: &Whole<'_>, now: Instant) {
        if !packet.is_intact() {
            return;
        }
        let Some(segment) = Segment::parse(packet.payload, packet.addresses) else { return };
        if self.tcp.segment(&segment, &mut self.link, now) == Arrival::Opens {
            self.open_tcp(&segment, packet.quoted, now);
        }
    }

    fn open_tcp(&mut self, syn: &Segment<'_>, quoted: &[u8], now: Instant) {
        let to = match self.tcp_destination(syn.to) {
            Ok(to) => to,
            Err(Refusal::Prohibited) => return refuse(syn, &mut self.link),
            Err(Refusal::Unreachable) => {
                return unreachable(quoted, Code::Host, self.gate.subnet, &mut self.link);
            }
        };
        if self.tcp.connecting() >= MOST_CONNECTING {
            return;
        }
        if !self.tcp.has_room(now) {
            return refuse(syn, &mut self.link);
        }
        match self.outside.tcp(to) {
            Ok(host) => {
                if !self.tcp.open(syn, host, &self.poller, now) {
                    refuse(syn, &mut self.link);
                }
            }
            Err(error) if is_unreachable(&error) => {
                unreachable(quoted, Code::Host, self.gate.subnet, &mut self.link);
            }
            Err(_) => refuse(syn, &mut self.link),
        }
    }

    fn tcp_destination(&mut self, to: SocketAddrV4) -> Result<SocketAddr, Refusal> {
        if *to.ip() == self.gate.subnet.name_server() && to.port() == names::PORT {
            let may = self.gate.may_ask().then(|| self.outside.name_servers());
            return may.ok_or(Refusal::Prohibited)?.first().copied().ok_or(Refusal::Unreachable);
        }
        let address = self.gate.outward(*to.ip())?;
        Ok(SocketAddr::from((address, to.port())))
    }
}

fn mac(header: &[u8], at: usize) -> Option<Mac> {
    header.get(at..at + 6)?.try_into().ok()
}

/// Whether it is the address of several cards.
fn is_group(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

fn code_of(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Code::Prohibited,
        io::ErrorKind::ConnectionRefused => Code::Port,
        _ => Code::Host,
    }
}

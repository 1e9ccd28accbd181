//! The DHCP server (RFC 2131).

use std::net::Ipv4Addr;

use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

use super::config::Subnet;
use super::emit::{PROTOCOL_UDP, Route, udp};
use super::link::Link;
use crate::Mac;

pub(super) const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// A day.
const LEASE: u32 = 86400;
/// How many cards get an address: a guest may have machines in it.
const MOST_LEASES: usize = 64;
const BROADCAST: Mac = [0xff; 6];

/// Who has which address.
pub(super) struct Dhcp {
    subnet: Subnet,
    /// The `n`th has the `n`th address.
    leases: Vec<Mac>,
}

impl Dhcp {
    /// The guest's own card has the first address.
    pub(super) fn new(subnet: Subnet, guest: Mac) -> Self {
        Self { subnet, leases: vec![guest] }
    }

    fn lease(&mut self, client: Mac) -> Option<Ipv4Addr> {
        let known = self.leases.iter().position(|&mac| mac == client);
        let nth = match known {
            Some(nth) => nth,
            None if self.leases.len() < MOST_LEASES => {
                self.leases.push(client);
                self.leases.len() - 1
            }
            None => return None,
        };
        Some(self.subnet.guest(u8::try_from(nth).ok()?))
    }

    /// Answers a client's message.
    pub(super) fn answer(&mut self, message: &[u8], link: &mut Link) {
        let Ok(packet) = DhcpPacket::new_checked(message) else { return };
        let Ok(request) = DhcpRepr::parse(&packet) else { return };
        if request.relay_agent_ip != Ipv4Addr::UNSPECIFIED {
            return;
        }
        let server = self.subnet.gateway();
        if request.server_identifier.is_some_and(|chosen| chosen != server) {
            return;
        }
        let Some(lease) = self.lease(request.client_hardware_address.0) else { return };
        let Some((kind, address)) = self.decide(&request, lease) else { return };
        self.send(&request, kind, address, link);
    }

    /// The kind of answer, and the address in it.
    fn decide(&self, request: &DhcpRepr<'_>, lease: Ipv4Addr) -> Option<(DhcpMessageType, Ipv4Addr)> {
        match request.message_type {
            DhcpMessageType::Discover => Some((DhcpMessageType::Offer, lease)),
            DhcpMessageType::Request => {
                let wanted = request.requested_ip.unwrap_or(request.client_ip);
                let granted = wanted == lease;
                Some(match granted {
                    true => (DhcpMessageType::Ack, lease),
                    false => (DhcpMessageType::Nak, Ipv4Addr::UNSPECIFIED),
                })
            }
            DhcpMessageType::Inform => Some((DhcpMessageType::Ack, Ipv4Addr::UNSPECIFIED)),
            _ => None,
        }
    }

    fn send(&self, request: &DhcpRepr<'_>, kind: DhcpMessageType, address: Ipv4Addr, link: &mut Link) {
        let refused = kind == DhcpMessageType::Nak;
        let reply = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: if refused { Ipv4Addr::UNSPECIFIED } else { request.client_ip },
            your_ip: address,
            server_ip: if refused { Ipv4Addr::UNSPECIFIED } else { self.subnet.gateway() },
            router: (!refused).then(|| self.subnet.gateway()),
            subnet_mask: (!refused).then_some(Subnet::MASK),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: request.broadcast,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.subnet.gateway()),
            parameter_request_list: None,
            dns_servers: (!refused).then(|| [self.subnet.name_server()].into_iter().collect()),
            max_size: None,
            lease_duration: (!refused && address != Ipv4Addr::UNSPECIFIED).then_some(LEASE),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut message = vec![0; reply.buffer_len().max(300)];
        let mut packet = DhcpPacket::new_unchecked(&mut message);
        if reply.emit(&mut packet).is_err() {
            return;
        }
        let (mac, to) = destination(request, refused, address);
        let route = Route { to: mac, source: self.subnet.gateway(), destination: to, protocol: PROTOCOL_UDP };
        link.push_packet(route, &udp(route, SERVER_PORT, CLIENT_PORT, &message));
    }
}

/// Where an answer goes (RFC 2131, 4.1).
fn destination(request: &DhcpRepr<'_>, refused: bool, address: Ipv4Addr) -> (Mac, Ipv4Addr) {
    let EthernetAddress(client) = request.client_hardware_address;
    match request.client_ip {
        ip if ip != Ipv4Addr::UNSPECIFIED && !refused => (client, ip),
        _ if request.broadcast || refused || address == Ipv4Addr::UNSPECIFIED => {
            (BROADCAST, Ipv4Addr::BROADCAST)
        }
        _ => (client, address),
    }
}

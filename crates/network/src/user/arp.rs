//! ARP: the network's own addresses are at its own end (RFC 826).

use smoltcp::wire::{ArpHardware, ArpOperation, ArpPacket, EthernetProtocol};
use std::net::Ipv4Addr;

use super::config::{GATEWAY_MAC, Subnet};
use super::emit::ethernet;
use super::link::Link;
use crate::{Frame, Mac};

/// Answers a request for the gateway or the name server.
pub(super) fn answer(packet: &[u8], subnet: Subnet, link: &mut Link) {
    let Ok(packet) = ArpPacket::new_checked(packet) else { return };
    let ordinary = packet.hardware_type() == ArpHardware::Ethernet
        && packet.protocol_type() == EthernetProtocol::Ipv4
        && packet.hardware_len() == 6
        && packet.protocol_len() == 4;
    if !ordinary || packet.operation() != ArpOperation::Request {
        return;
    }
    let (Some(mac), Some(source), Some(target)) = (
        array::<6>(packet.source_hardware_addr()),
        array::<4>(packet.source_protocol_addr()),
        array::<4>(packet.target_protocol_addr()),
    ) else {
        return;
    };
    let target = Ipv4Addr::from(target);
    if target == subnet.gateway() || target == subnet.name_server() {
        link.push(reply(mac, Ipv4Addr::from(source), target));
    }
}

fn array<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn reply(to: Mac, address: Ipv4Addr, ours: Ipv4Addr) -> Frame {
    let mut bytes = Vec::with_capacity(42);
    ethernet(&mut bytes, to, 0x0806);
    bytes.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 2]);
    bytes.extend_from_slice(&GATEWAY_MAC);
    bytes.extend_from_slice(&ours.octets());
    bytes.extend_from_slice(&to);
    bytes.extend_from_slice(&address.octets());
    Frame::whole(bytes)
}

//! Writing frames for the guest.

use std::net::Ipv4Addr;

use super::config::GATEWAY_MAC;
use crate::checksum::{add, pseudo_header, sum};
use crate::{Frame, Mac};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const IPV4: usize = 20;
pub(crate) const UDP: usize = 8;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;

/// What a frame on this network carries.
pub(crate) const MTU: usize = 1500;

const TTL: u8 = 64;

/// From whom, to whom, and what an IPv4 packet carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: Mac,
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, Default)]
struct Fragment {
    ident: u16,
    offset: usize,
    more: bool,
}

/// Begins a frame: its Ethernet header.
pub(crate) fn ethernet(frame: &mut Vec<u8>, to: Mac, ethertype: u16) {
    frame.clear();
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&GATEWAY_MAC);
    frame.extend_from_slice(&ethertype.to_be_bytes());
}

/// Begins a frame: its headers up to IPv4, for `payload` bytes.
pub(crate) fn ipv4(frame: &mut Vec<u8>, route: Route, payload: usize) {
    let dont_fragment = 0x4000;
    headers(frame, route, payload, 0, dont_fragment);
}

fn headers(frame: &mut Vec<u8>, route: Route, payload: usize, ident: u16, fragment: u16) {
    ethernet(frame, route.to, 0x0800);
    let length = u16::try_from(IPV4 + payload).unwrap_or(u16::MAX);
    let mut header = [0; IPV4];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[4..6].copy_from_slice(&ident.to_be_bytes());
    header[6..8].copy_from_slice(&fragment.to_be_bytes());
    header[8] = TTL;
    header[9] = route.protocol;
    header[12..16].copy_from_slice(&route.source.octets());
    header[16..20].copy_from_slice(&route.destination.octets());
    let checksum = !sum(&header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend_from_slice(&header);
}

/// The frames of one IPv4 packet, fragments if it is longer than the MTU. A
/// packet that IPv4 cannot carry gives none.
pub(crate) fn packets(route: Route, payload: &[u8], ident: u16) -> Vec<Frame> {
    if IPV4 + payload.len() > usize::from(u16::MAX) {
        return Vec::new();
    }
    let room = (MTU - IPV4) & !7;
    if payload.len() <= MTU - IPV4 {
        let mut bytes = Vec::with_capacity(ETHERNET + IPV4 + payload.len());
        ipv4(&mut bytes, route, payload.len());
        bytes.extend_from_slice(payload);
        return vec![Frame::whole(bytes)];
    }
    let last = payload.len().div_ceil(room) - 1;
    let fragments = payload.chunks(room).enumerate().map(|(n, part)| {
        let fragment = Fragment { ident, offset: n * room, more: n < last };
        Frame::whole(one_fragment(route, part, fragment))
    });
    fragments.collect()
}

fn one_fragment(route: Route, part: &[u8], fragment: Fragment) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ETHERNET + IPV4 + part.len());
    let offset = u16::try_from(fragment.offset / 8).unwrap_or(0x1fff);
    let flags = if fragment.more { 0x2000 } else { 0 };
    headers(&mut bytes, route, part.len(), fragment.ident, flags | offset);
    bytes.extend_from_slice(part);
    bytes
}

/// A UDP datagram with its header.
pub(crate) fn udp(route: Route, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::with_capacity(UDP + payload.len());
    for field in [source, destination, length, 0] {
        datagram.extend_from_slice(&field.to_be_bytes());
    }
    datagram.extend_from_slice(payload);
    let pseudo = pseudo_header(route.source, route.destination, PROTOCOL_UDP, length);
    // Zero would mean that there is none (RFC 768).
    let checksum = match !add(pseudo, sum(&datagram)) {
        0 => 0xffff,
        checksum => checksum,
    };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    datagram
}

/// An ICMP message with its checksum; `rest` begins after it.
pub(crate) fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(4 + rest.len());
    message.extend_from_slice(&[kind, code, 0, 0]);
    message.extend_from_slice(rest);
    let checksum = !sum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};

    fn route() -> Route {
        Route {
            to: [2; 6],
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(10, 0, 2, 15),
            protocol: PROTOCOL_UDP,
        }
    }

    #[test]
    fn a_datagram_is_whole_and_intact() {
        let datagram = udp(route(), 53, 4096, b"odd");
        let frames = packets(route(), &datagram, 1);
        let [frame] = frames.as_slice() else { panic!("{} frames", frames.len()) };
        let ethernet = EthernetFrame::new_checked(&frame.bytes[..]).unwrap();
        let ip = Ipv4Packet::new_checked(ethernet.payload()).unwrap();
        assert!(ip.verify_checksum());
        let udp = UdpPacket::new_checked(ip.payload()).unwrap();
        assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
        assert_eq!((udp.src_port(), udp.dst_port(), udp.payload()), (53, 4096, &b"odd"[..]));
    }

    #[test]
    fn long_packets_are_cut_at_the_mtu() {
        let payload: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let frames = packets(route(), &payload, 77);
        assert_eq!(frames.len(), 4);
        let mut whole = vec![0; 5000];
        for (n, frame) in frames.iter().enumerate() {
            assert!(frame.bytes.len() <= ETHERNET + MTU);
            let ip = Ipv4Packet::new_checked(&frame.bytes[ETHERNET..]).unwrap();
            assert!(ip.verify_checksum());
            assert_eq!((ip.ident(), ip.more_frags()), (77, n < 3));
            let at = usize::from(ip.frag_offset());
            whole[at..at + ip.payload().len()].copy_from_slice(ip.payload());
        }
        assert_eq!(whole, payload);
        assert!(packets(route(), &[0; 65516], 1).is_empty());
    }
}

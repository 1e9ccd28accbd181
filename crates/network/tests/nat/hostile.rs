//! Guests that mean harm.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use network::{Frame, NetBackend, Offload};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpProtocol,
    Ipv4Packet, Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use crate::guest::{ADDRESS, GATEWAY, Guest, MAC};
use crate::wire::Chance;
use crate::world::{FAR, World, echo_server};

const ROUTER: EthernetAddress = EthernetAddress([0x52, 0x55, 10, 0, 2, 2]);

fn frame(to: Ipv4Addr, protocol: IpProtocol, length: usize, fill: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let ip = Ipv4Repr {
        src_addr: ADDRESS,
        dst_addr: to,
        next_header: protocol,
        payload_len: length,
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + 20 + length];
    let ethernet =
        EthernetRepr { src_addr: EthernetAddress(MAC), dst_addr: ROUTER, ethertype: EthernetProtocol::Ipv4 };
    let mut outer = EthernetFrame::new_unchecked(&mut bytes);
    ethernet.emit(&mut outer);
    let mut packet = Ipv4Packet::new_unchecked(outer.payload_mut());
    ip.emit(&mut packet, &ChecksumCapabilities::default());
    fill(packet.payload_mut());
    bytes
}

/// A datagram from the guest.
pub(crate) fn udp_frame(to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    udp_from(4444, to, port, payload)
}

fn udp_from(source: u16, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr { src_port: source, dst_port: port };
    frame(to, IpProtocol::Udp, 8 + payload.len(), |bytes| {
        let mut packet = UdpPacket::new_unchecked(bytes);
        let (from, to) = (ADDRESS.into(), to.into());
        let fill = |data: &mut [u8]| data.copy_from_slice(payload);
        repr.emit(&mut packet, &from, &to, payload.len(), fill, &ChecksumCapabilities::default());
    })
}

/// An echo request from the guest.
pub(crate) fn echo_frame(to: Ipv4Addr) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 1, data: b"echo" };
    frame(to, IpProtocol::Icmp, repr.buffer_len(), |bytes| {
        repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &ChecksumCapabilities::default());
    })
}

fn tcp_frame(to: Ipv4Addr, repr: &TcpRepr<'_>) -> Vec<u8> {
    frame(to, IpProtocol::Tcp, repr.buffer_len(), |bytes| {
        let mut packet = TcpPacket::new_unchecked(bytes);
        repr.emit(&mut packet, &ADDRESS.into(), &to.into(), &ChecksumCapabilities::default());
    })
}

fn segment(source: u16, port: u16, control: TcpControl) -> TcpRepr<'static> {
    TcpRepr {
        src_port: source,
        dst_port: port,
        control,
        seq_number: TcpSeqNumber(1000),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}

/// The beginning of a connection from the guest.
pub(crate) fn syn_frame(to: Ipv4Addr, port: u16) -> Vec<u8> {
    tcp_frame(to, &segment(4444, port, TcpControl::Syn))
}

/// Changes the source of a packet, and its checksum with it.
pub(crate) fn set_source(frame: &mut [u8], source: Ipv4Addr) {
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.set_src_addr(source);
    packet.fill_checksum();
    let destination = packet.dst_addr();
    TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&source.into(), &destination.into());
}

/// A connection made by hand.
pub(crate) struct Script {
    port: u16,
    seq: TcpSeqNumber,
    ack: Option<TcpSeqNumber>,
}

impl Script {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, seq: TcpSeqNumber(-5), ack: None }
    }

    fn next(&mut self, control: TcpControl, payload: &[u8]) -> Vec<u8> {
        let repr = segment(4444, self.port, control);
        let bytes = tcp_frame(FAR, &TcpRepr { seq_number: self.seq, ack_number: self.ack, payload, ..repr });
        self.seq = self.seq + payload.len() + usize::from(control != TcpControl::None);
        bytes
    }

    pub(crate) fn syn(&mut self) -> Vec<u8> {
        self.next(TcpControl::Syn, &[])
    }

    /// The network has answered with `frame`.
    pub(crate) fn answered(&mut self, frame: &[u8]) {
        let packet = TcpPacket::new_checked(&frame[34..]).unwrap();
        assert!(packet.syn() && packet.ack() && packet.ack_number() == self.seq);
        self.ack = Some(packet.seq_number() + 1);
    }

    pub(crate) fn data(&mut self, payload: &[u8]) -> Vec<u8> {
        self.next(TcpControl::None, payload)
    }

    pub(crate) fn fin(&mut self) -> Vec<u8> {
        self.next(TcpControl::Fin, &[])
    }
}

/// Takes all frames that there are for the guest.
fn drain(guest: &mut Guest) -> usize {
    let mut frame = Frame::default();
    guest.net.service();
    std::iter::from_fn(|| guest.net.receive(&mut frame).then_some(())).count()
}

#[test]
fn every_mutilation_of_good_frames_is_survived() {
    let port = echo_server();
    let mut guest = Guest::with(World::default(), |config| config.limits.tcp = 32);
    let good = [
        syn_frame(FAR, port),
        udp_frame(FAR, port, b"payload"),
        udp_frame(Ipv4Addr::new(10, 0, 2, 3), 53, &[0; 30]),
        udp_frame(Ipv4Addr::BROADCAST, 67, &[1; 300]),
        echo_frame(GATEWAY),
        vec![0; 60],
    ];
    let mut chance = Chance::new(42);
    for round in 0..60_000_usize {
        let mut bytes = good[round % good.len()].clone();
        for _ in 0..chance.next() % 4 {
            let at = chance.next() as usize % bytes.len();
            bytes[at] = chance.next() as u8;
        }
        if chance.one_in(3) {
            bytes.truncate(chance.next() as usize % bytes.len());
        }
        // Without checksums more of it is believed.
        let offload = Offload { verified: chance.one_in(2), ..Offload::default() };
        if let Some(ip) = bytes.get_mut(14..).filter(|ip| ip.len() >= 20 && chance.one_in(2)) {
            Ipv4Packet::new_unchecked(ip).fill_checksum_if_sane();
        }
        guest.net.send(&Frame { bytes, offload });
        if round % 64 == 0 {
            drain(&mut guest);
        }
    }
    drain(&mut guest);
    let (tcp, udp) = guest.net.flows();
    assert!(tcp <= 32 && udp <= 8192, "{tcp} {udp}");
    still_works(&mut guest);
}

trait Sane {
    fn fill_checksum_if_sane(&mut self);
}

impl Sane for Ipv4Packet<&mut [u8]> {
    fn fill_checksum_if_sane(&mut self) {
        if self.check_len().is_ok() && self.header_len() >= 20 {
            self.fill_checksum();
        }
    }
}

/// The network still serves an ordinary guest.
fn still_works(guest: &mut Guest) {
    let port = crate::udp::echo();
    let socket = guest.udp_socket(6000);
    guest.send_to(socket, (GATEWAY, port), b"still there?");
    assert_eq!(guest.receive_from(socket).0, b"still there?");
}

#[test]
fn a_flood_of_connections_is_bounded() {
    let port = echo_server();
    let mut guest = Guest::with(World::default(), |config| config.limits.tcp = 64);
    let start = Instant::now();
    for source in 1..20_000 {
        guest.inject(&tcp_frame(FAR, &segment(source, port, TcpControl::Syn)));
        if source % 100 == 0 {
            drain(&mut guest);
        }
    }
    assert!(guest.net.flows().0 <= 64);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    still_works(&mut guest);
}

#[test]
fn a_flood_of_datagrams_and_echoes_is_bounded_when_nobody_takes_the_answers() {
    let mut guest = Guest::with(World::default(), |config| config.limits.udp = 32);
    let closed = crate::world::closed_port();
    for source in 1..20_000 {
        guest.inject(&udp_from(source, FAR, closed, b"flood"));
        guest.inject(&echo_frame(GATEWAY));
        guest.inject(&udp_from(source, Ipv4Addr::new(10, 0, 2, 3), 53, &[0; 40]));
    }
    assert!(guest.net.flows().1 <= 32);
    assert!(drain(&mut guest) <= 1024);
    still_works(&mut guest);
}

#[test]
fn fragments_that_never_become_whole_are_forgotten() {
    let mut guest = Guest::new();
    for ident in 0..10_000_u16 {
        let mut bytes = udp_frame(FAR, 9, &[0; 1000]);
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[14..]);
        packet.set_ident(ident);
        packet.set_more_frags(true);
        packet.fill_checksum();
        guest.inject(&bytes);
    }
    still_works(&mut guest);
}

//! Datagrams from the guest.

use std::net::{Ipv4Addr, UdpSocket};
use std::thread;

use crate::guest::{GATEWAY, Guest, MAC};
use crate::world::{FAR, World, patterned};

/// Sends back what comes; its port.
pub(crate) fn echo() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    port
}

#[test]
fn datagrams_go_and_come() {
    let mut guest = Guest::new();
    let port = echo();
    let socket = guest.udp_socket(5000);
    for (to, text) in [(GATEWAY, "near"), (FAR, "far")] {
        guest.send_to(socket, (to, port), text.as_bytes());
        let (bytes, from) = guest.receive_from(socket);
        assert_eq!((bytes.as_slice(), from), (text.as_bytes(), (to, port).into()));
    }
    assert_eq!(guest.net.flows().1, 2);
}

#[test]
fn datagrams_longer_than_a_frame_are_cut_and_joined() {
    let mut guest = Guest::new();
    let port = echo();
    let socket = guest.udp_socket(5000);
    for length in [0, 1472, 1473, 9000, 40_000] {
        let bytes = patterned(length);
        guest.send_to(socket, (FAR, port), &bytes);
        assert!(guest.receive_from(socket).0 == bytes, "{length}");
    }
}

#[test]
fn a_closed_port_is_reported() {
    let mut guest = Guest::new();
    let port = crate::world::closed_port();
    let datagram = crate::hostile::udp_frame(GATEWAY, port, b"anybody?");
    guest.raw = true;
    guest.inject(&datagram);
    guest.until("the report", |guest| !guest.seen.is_empty());
    let seen = &guest.seen[0];
    // ICMP, destination unreachable, port; the datagram's header is in it.
    assert_eq!((seen[23], seen[34], seen[35]), (1, 3, 3));
    assert_eq!(seen[42 + 16..42 + 20], GATEWAY.octets());
    assert_eq!(seen[42 + 22..42 + 24], port.to_be_bytes());
}

#[test]
fn associations_are_bounded_and_the_oldest_goes() {
    let mut guest = Guest::with(World::default(), |config| config.limits.udp = 8);
    let port = echo();
    for source in 5000..5100 {
        let socket = guest.udp_socket(source);
        guest.send_to(socket, (FAR, port), b"x");
        guest.receive_from(socket);
        guest.sockets.remove(socket);
    }
    assert_eq!(guest.net.flows().1, 8);
    assert_eq!(guest.interface.hardware_addr(), smoltcp::wire::EthernetAddress(MAC).into());
}

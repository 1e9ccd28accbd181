//! Ports of the host that lead into the guest.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use network::user::{Forward, Protocol, Reach, UserConfig, UserNet};
use smoltcp::socket::tcp::State;

use crate::guest::{GATEWAY, Guest, MAC};
use crate::world::{World, closed_port, patterned};

/// A guest into which a port of the host leads, and that port.
fn guest(protocol: Protocol, port: u16) -> (Guest, SocketAddrV4) {
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, closed_port());
    let forward = Forward { protocol, host, guest: port };
    let guest = Guest::with(World::default(), |config| {
        config.forwards = vec![forward];
        config.reach = Reach::Nothing;
    });
    (guest, host)
}

#[test]
fn connections_reach_the_guest() {
    let (mut guest, host) = guest(Protocol::Tcp, 22);
    let bytes = patterned(500_000);
    let expected = bytes.clone();
    let client = thread::spawn(move || {
        let mut stream = TcpStream::connect(host).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let listener = guest.listen(22);
    assert!(guest.connected(listener));
    let peer = guest.tcp(listener).remote_endpoint().unwrap();
    assert_eq!(peer.addr, GATEWAY.into());
    assert_eq!(guest.receive(listener, usize::MAX), b"hello");
    guest.send_all(listener, &bytes);
    guest.tcp(listener).close();
    guest.until("the end", |guest| guest.tcp(listener).state() == State::Closed);
    assert!(client.join().unwrap() == expected);
}

#[test]
fn a_guest_that_does_not_listen_refuses() {
    let (mut guest, host) = guest(Protocol::Tcp, 22);
    let client = thread::spawn(move || TcpStream::connect(host).unwrap().read(&mut [0; 1]));
    guest.until("the refusal", |_| client.is_finished());
    assert_eq!(client.join().unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn callers_wait_for_a_guest_that_is_still_starting() {
    let (mut guest, host) = guest(Protocol::Tcp, 22);
    let client = thread::spawn(move || {
        let mut greeting = [0; 2];
        TcpStream::connect(host).unwrap().read_exact(&mut greeting).map(|()| greeting)
    });
    // Frames reach the card, but nobody takes them.
    guest.raw = true;
    guest.for_a_while(Duration::from_millis(300));
    assert!(!guest.seen.is_empty());
    guest.raw = false;
    let listener = guest.listen(22);
    assert!(guest.connected(listener));
    guest.send_all(listener, b"hi");
    guest.until("the greeting", |_| client.is_finished());
    assert_eq!(&client.join().unwrap().unwrap(), b"hi");
}

#[test]
fn datagrams_reach_the_guest_and_its_answers_the_caller() {
    let (mut guest, host) = guest(Protocol::Udp, 514);
    let socket = guest.udp_socket(514);
    let callers: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (n, caller) in callers.iter().enumerate() {
        caller.send_to(&[n as u8; 4], host).unwrap();
        let (bytes, from) = guest.receive_from(socket);
        assert_eq!((bytes, from.addr), (vec![n as u8; 4], GATEWAY.into()));
        guest.send_to(socket, (GATEWAY, from.port), &[n as u8; 3]);
    }
    for (n, caller) in callers.iter().enumerate() {
        let mut answer = [9; 8];
        caller.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(caller.recv_from(&mut answer).unwrap(), (3, host.into()));
        assert_eq!(answer[..3], [n as u8; 3]);
    }
}

#[test]
fn an_occupied_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, taken.local_addr().unwrap().port());
    let mut config = UserConfig::new(MAC);
    config.forwards = vec![Forward { protocol: Protocol::Tcp, host, guest: 22 }];
    let error = UserNet::new(config).err().unwrap().to_string();
    assert!(error.contains(&host.to_string()) && error.contains("tcp"), "{error}");
}

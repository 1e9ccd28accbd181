//! What the network itself answers: addresses, names, echoes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use network::NetBackend;
use network::user::{Host, Outside, Reach};
use smoltcp::socket::{dhcpv4, icmp};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr};

use crate::guest::{ADDRESS, GATEWAY, Guest, NAME_SERVER};
use crate::world::{FAR, World, server};

#[test]
fn dhcp_gives_an_address_a_gateway_and_a_name_server() {
    let mut guest = Guest::new();
    guest.interface.update_ip_addrs(|addresses| addresses.clear());
    let client = guest.sockets.add(dhcpv4::Socket::new());
    let mut config = None;
    guest.until("a lease", |guest| {
        if let Some(dhcpv4::Event::Configured(given)) = guest.sockets.get_mut::<dhcpv4::Socket>(client).poll()
        {
            config = Some((given.address, given.router, given.dns_servers.to_vec()));
        }
        config.is_some()
    });
    let (address, router, servers) = config.unwrap();
    assert_eq!(IpCidr::Ipv4(address), IpCidr::new(IpAddress::Ipv4(ADDRESS), 24));
    assert_eq!((router, servers), (Some(GATEWAY), vec![NAME_SERVER]));
}

/// A question for the address of "a.test".
fn question(id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(b"\x01a\x04test\x00\x00\x01\x00\x01");
    message
}

/// A name server that answers after `silent` questions.
fn name_server(silent: usize) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        let mut seen = 0;
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            seen += 1;
            if seen > silent {
                // One with another number first: it is not the answer.
                let mut answer = buffer[..length].to_vec();
                answer[2] |= 0x80;
                answer[0] ^= 0xff;
                let _ = socket.send_to(&answer, from);
                answer[0] ^= 0xff;
                answer.extend_from_slice(b"the address");
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    address
}

fn ask(servers: Vec<SocketAddr>, reach: Reach) -> Vec<u8> {
    let world = World { name_servers: servers, ..World::default() };
    let places = world.name_servers.iter().map(|&server| (server, server)).collect();
    let mut guest = Guest::with(World { places, ..world }, |config| config.reach = reach);
    let socket = guest.udp_socket(5300);
    guest.send_to(socket, (NAME_SERVER, 53), &question(0xabcd));
    let (answer, from) = guest.receive_from(socket);
    assert_eq!(from, (NAME_SERVER, 53).into());
    assert_eq!(answer[..2], [0xab, 0xcd]);
    answer
}

#[test]
fn questions_go_to_the_hosts_name_server() {
    assert!(ask(vec![name_server(0)], Reach::NotLoopback).ends_with(b"the address"));
}

#[test]
fn the_next_server_is_asked_when_one_is_silent_or_absent() {
    let absent = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let servers = vec![name_server(usize::MAX), absent, name_server(0)];
    assert!(ask(servers, Reach::Everything).ends_with(b"the address"));
}

#[test]
fn failure_is_answered_too() {
    assert_eq!(ask(vec![], Reach::Everything)[3] & 15, 2);
    assert_eq!(ask(vec![name_server(0)], Reach::Nothing)[3] & 15, 5);
}

#[test]
fn a_lost_question_is_asked_again() {
    let server = name_server(1);
    let places = [(server, server)].into();
    let mut guest = Guest::with(World { name_servers: vec![server], places, ..World::default() }, |_| {});
    let socket = guest.udp_socket(5300);
    guest.send_to(socket, (NAME_SERVER, 53), &question(7));
    guest.for_a_while(Duration::from_millis(50));
    guest.send_to(socket, (NAME_SERVER, 53), &question(7));
    assert!(guest.receive_from(socket).0.ends_with(b"the address"));
}

#[test]
fn questions_by_connection_pass_too() {
    let port = server(|mut stream| drop(std::io::Write::write_all(&mut stream, b"by tcp")));
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut guest = Guest::with(World { name_servers: vec![server], ..World::default() }, |_| {});
    let connection = guest.connect(NAME_SERVER, 53);
    assert!(guest.connected(connection));
    assert_eq!(guest.receive(connection, usize::MAX), b"by tcp");
}

/// Sends an echo request; the kind and code of the answer, and who sent it.
fn ping(guest: &mut Guest, to: Ipv4Addr) -> (u8, u8, IpAddress) {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 4096]);
    let handle = guest.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = guest.sockets.get_mut::<icmp::Socket>(handle);
    socket.bind(icmp::Endpoint::Ident(0x1234)).unwrap();
    let request = Icmpv4Repr::EchoRequest { ident: 0x1234, seq_no: 7, data: b"is anybody there?" };
    let bytes = socket.send(request.buffer_len(), to.into()).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(bytes), &Default::default());
    guest.until("an echo", |guest| guest.sockets.get_mut::<icmp::Socket>(handle).can_recv());
    let (bytes, from) = guest.sockets.get_mut::<icmp::Socket>(handle).recv().unwrap();
    let packet = Icmpv4Packet::new_checked(bytes).unwrap();
    let answer = (packet.msg_type().into(), packet.msg_code(), from);
    if answer.0 == 0 {
        assert_eq!((packet.echo_ident(), packet.echo_seq_no()), (0x1234, 7));
        assert_eq!(packet.data(), b"is anybody there?");
    }
    answer
}

#[test]
fn the_gateway_and_the_name_server_echo() {
    let mut guest = Guest::reaching(Reach::Nothing);
    assert_eq!(ping(&mut guest, GATEWAY), (0, 0, GATEWAY.into()));
    assert_eq!(ping(&mut guest, NAME_SERVER), (0, 0, NAME_SERVER.into()));
}

#[test]
fn others_echo_if_the_host_permits() {
    if let Err(error) = Host.ping(Ipv4Addr::LOCALHOST) {
        eprintln!("skipped: echo sockets are not permitted here ({error})");
        return;
    }
    assert_eq!(ping(&mut Guest::new(), FAR), (0, 0, FAR.into()));
}

#[test]
fn echoes_that_are_not_permitted_are_reported() {
    let world = World { no_ping: true, ..World::default() };
    let mut guest = Guest::with(world, |_| {});
    guest.raw = true;
    guest.inject(&crate::hostile::echo_frame(FAR));
    guest.until("the report", |guest| !guest.seen.is_empty());
    // Unreachable, administratively prohibited.
    assert_eq!(guest.seen[0][34..36], [3, 13]);
    assert!(guest.net.is_up());
}

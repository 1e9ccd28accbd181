//! Connections from the guest.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use network::{Checksum, Frame, NetBackend, SegmentKind, Segmentation};
use smoltcp::socket::tcp::State;

use crate::guest::{GATEWAY, Guest};
use crate::hostile::Script;
use crate::wire::{Weather, Wire};
use crate::world::{FAR, closed_port, echo_server, patterned, server, sink_server, source_server};

const MUCH: usize = 8 << 20;

#[test]
fn bulk_data_comes_from_the_host() {
    let mut guest = Guest::new();
    let port = source_server(MUCH);
    let connection = guest.connect(GATEWAY, port);
    assert!(guest.connected(connection));
    assert!(guest.receive(connection, usize::MAX) == patterned(MUCH));
}

#[test]
fn bulk_data_goes_to_the_host() {
    let mut guest = Guest::new();
    let (port, told) = sink_server();
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    guest.send_all(connection, &patterned(MUCH));
    guest.tcp(connection).close();
    guest.until("the end", |guest| guest.tcp(connection).state() == State::TimeWait);
    assert!(told.recv().unwrap().unwrap() == patterned(MUCH));
}

#[test]
fn unsegmented_data_comes_in_large_frames() {
    let mut guest = Guest::with_offloads();
    let port = source_server(MUCH);
    let connection = guest.connect(GATEWAY, port);
    assert!(guest.connected(connection));
    assert!(guest.receive(connection, usize::MAX) == patterned(MUCH));
    assert!(guest.large > 40, "{} large frames", guest.large);
}

#[test]
fn unsegmented_data_is_taken_from_the_guest_without_checksums() {
    let mut guest = Guest::with_offloads();
    let (port, told) = sink_server();
    let bytes = patterned(60_000);
    guest.raw = true;
    // By hand: a connection, one frame with all of the data, and the end.
    let mut script = Script::new(port);
    guest.inject(&script.syn());
    guest.until("the answer", |guest| !guest.seen.is_empty());
    script.answered(&guest.seen[0]);
    let mut frame = Frame::whole(script.data(&bytes));
    frame.bytes[50..52].fill(0);
    frame.offload.checksum = Some(Checksum { start: 34, offset: 16 });
    let kind = SegmentKind::TcpV4;
    frame.offload.segmentation = Some(Segmentation { kind, size: 1460, headers: 54, ecn: false });
    guest.net.send(&frame);
    guest.inject(&script.fin());
    guest.until("the end", |guest| guest.seen.iter().any(|frame| frame[47] & 1 != 0));
    assert!(told.recv().unwrap().unwrap() == bytes);
}

#[test]
fn loss_reordering_and_duplicates_towards_the_guest_lose_nothing() {
    let mut guest = Guest::new();
    guest.inward = Wire::new(Weather { loss: 30, reordering: 20, duplication: 30 }, 3);
    let port = source_server(MUCH / 4);
    let connection = guest.connect(FAR, port);
    assert!(guest.connected(connection));
    assert!(guest.receive(connection, usize::MAX) == patterned(MUCH / 4));
    guest.tcp(connection).close();
    guest.until("the end", |guest| guest.tcp(connection).state() == State::Closed);
}

#[test]
fn loss_reordering_and_duplicates_in_both_directions_lose_nothing() {
    let weather = Weather { loss: 60, reordering: 20, duplication: 30 };
    let mut guest = Guest::in_weather(weather);
    let bytes = patterned(60_000);
    let port = echo_server();
    let connection = guest.connect(FAR, port);
    assert!(guest.connected(connection));
    // In pieces: this guest repeats everything that follows a loss.
    for piece in bytes.chunks(5000) {
        assert!(guest.exchange(connection, piece) == piece);
    }
    guest.tcp(connection).close();
    guest.until("the end", |guest| matches!(guest.tcp(connection).state(), State::TimeWait | State::Closed));
}

#[test]
fn many_connections_at_once_do_not_mix() {
    let mut guest = Guest::new();
    let port = echo_server();
    let connections: Vec<_> = (0..200).map(|_| guest.connect(FAR, port)).collect();
    for (n, &connection) in connections.iter().enumerate() {
        assert!(guest.connected(connection));
        guest.send_all(connection, format!("I am {n}").as_bytes());
    }
    for (n, &connection) in connections.iter().enumerate() {
        let expected = format!("I am {n}");
        assert_eq!(guest.receive(connection, expected.len()), expected.as_bytes());
        guest.tcp(connection).close();
    }
    guest.until("all ends", |guest| guest.net.flows().0 == 0);
}

#[test]
fn the_guest_can_close_its_half_and_still_hear() {
    let mut guest = Guest::new();
    // Answers only when the question has ended.
    let port = server(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        question.reverse();
        stream.write_all(&question).unwrap();
    });
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    guest.send_all(connection, b"desrever");
    guest.tcp(connection).close();
    assert_eq!(guest.receive(connection, usize::MAX), b"reversed");
}

#[test]
fn the_host_can_close_its_half_and_still_hear() {
    let mut guest = Guest::new();
    let (tell, told) = mpsc::channel();
    let port = server(move |mut stream| {
        stream.write_all(b"greetings").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        tell.send(answer).unwrap();
    });
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    assert_eq!(guest.receive(connection, usize::MAX), b"greetings");
    assert_eq!(guest.tcp(connection).state(), State::CloseWait);
    guest.send_all(connection, b"thanks");
    guest.tcp(connection).close();
    guest.until("the end", |guest| guest.tcp(connection).state() == State::Closed);
    assert_eq!(told.recv().unwrap(), b"thanks");
}

#[test]
fn a_closed_port_refuses_at_once() {
    let mut guest = Guest::new();
    let connection = guest.connect(GATEWAY, closed_port());
    assert!(!guest.connected(connection));
    assert_eq!(guest.net.flows().0, 0);
}

#[test]
fn a_reset_of_the_guest_reaches_the_server() {
    let mut guest = Guest::new();
    let (port, told) = sink_server();
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    guest.send_all(connection, b"half a mess");
    guest.for_a_while(Duration::from_millis(20));
    guest.tcp(connection).abort();
    guest.step();
    assert!(told.recv().unwrap().is_err(), "a reset is no end");
}

#[test]
fn a_reset_of_the_server_reaches_the_guest() {
    let mut guest = Guest::new();
    let port = server(|stream| {
        // Closing with unread data resets.
        std::thread::sleep(Duration::from_millis(50));
        drop(stream);
    });
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    guest.send_all(connection, &patterned(1000));
    guest.until("the reset", |guest| guest.tcp(connection).state() == State::Closed);
    guest.until("the flow's end", |guest| guest.net.flows().0 == 0);
}

#[test]
fn a_server_that_does_not_read_slows_the_guest_down() {
    let mut guest = Guest::new();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let (tell, told) = mpsc::channel();
    let port = server(move |mut stream| {
        wait.lock().unwrap().recv().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        tell.send(all).unwrap();
    });
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    let bytes = patterned(32 << 20);
    let mut sent = 0;
    let mut stalled = 0;
    guest.until("the stall", |guest| {
        let taken = guest.tcp(connection).send_slice(&bytes[sent..]).unwrap();
        sent += taken;
        stalled = if taken == 0 { stalled + 1 } else { 0 };
        stalled > 500
    });
    assert!(sent < bytes.len(), "everything was taken for a server that reads nothing");
    go.send(()).unwrap();
    guest.send_all(connection, &bytes[sent..]);
    guest.tcp(connection).close();
    guest.until("the end", |guest| guest.tcp(connection).state() == State::TimeWait);
    assert!(told.recv().unwrap() == bytes);
}

#[test]
fn a_guest_that_does_not_read_slows_the_server_down() {
    let mut guest = Guest::new();
    let port = source_server(MUCH);
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    // Long enough for a window probe.
    guest.for_a_while(Duration::from_millis(1500));
    assert_eq!(guest.tcp(connection).recv_queue(), 256 << 10);
    assert!(guest.receive(connection, usize::MAX) == patterned(MUCH));
}

#[test]
fn a_guest_that_starts_anew_ends_its_connections() {
    let mut guest = Guest::new();
    let (port, told) = sink_server();
    let connection = guest.connect(GATEWAY, port);
    guest.connected(connection);
    guest.net.reset();
    assert!(told.recv().unwrap().is_err());
    assert_eq!(guest.net.flows(), (0, 0));
}

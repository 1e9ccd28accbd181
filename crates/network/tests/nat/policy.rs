//! What a guest may not reach.

use std::net::Ipv4Addr;
use std::time::Duration;

use network::user::Reach;
use smoltcp::socket::tcp::State;

use crate::guest::{GATEWAY, Guest};
use crate::hostile::{syn_frame, udp_frame};
use crate::world::{FAR, echo_server};

#[test]
fn a_guest_without_loopback_reaches_others_only() {
    let mut guest = Guest::reaching(Reach::NotLoopback);
    let port = echo_server();
    let refused = guest.connect(GATEWAY, port);
    assert!(!guest.connected(refused));
    let made = guest.connect(FAR, port);
    assert!(guest.connected(made));
}

#[test]
fn a_restricted_guest_reaches_nobody() {
    let mut guest = Guest::reaching(Reach::Nothing);
    let port = echo_server();
    for to in [GATEWAY, FAR] {
        let refused = guest.connect(to, port);
        assert!(!guest.connected(refused));
        assert_eq!(guest.tcp(refused).state(), State::Closed);
        guest.raw = true;
        guest.seen.clear();
        guest.inject(&udp_frame(to, port, b"psst"));
        guest.until("the report", |guest| !guest.seen.is_empty());
        assert_eq!(guest.seen[0][34..36], [3, 13], "administratively prohibited");
        guest.raw = false;
    }
    assert_eq!(guest.net.flows(), (0, 0));
}

#[test]
fn no_other_address_leads_to_the_loopback() {
    let mut guest = Guest::new();
    let port = echo_server();
    guest.raw = true;
    for to in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(127, 1, 2, 3)] {
        guest.inject(&syn_frame(to, port));
        guest.inject(&udp_frame(to, port, b"psst"));
    }
    guest.for_a_while(Duration::from_millis(20));
    assert_eq!(guest.net.flows(), (0, 0));
    assert!(guest.seen.iter().all(|frame| frame[23] == 1 && frame[34..36] == [3, 1]));
}

#[test]
fn a_forged_source_gets_nothing() {
    let mut guest = Guest::new();
    let port = echo_server();
    guest.raw = true;
    for source in [GATEWAY, FAR, Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 0, 2, 255)] {
        let mut frame = syn_frame(FAR, port);
        crate::hostile::set_source(&mut frame, source);
        guest.inject(&frame);
    }
    guest.for_a_while(Duration::from_millis(20));
    assert_eq!(guest.net.flows(), (0, 0));
    assert!(guest.seen.is_empty());
}

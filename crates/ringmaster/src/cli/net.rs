//! `--net` and `--pcap`: what the guest's network card is connected to.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use network::Mac;
use network::user::{Forward, Protocol, Reach};

use crate::exit::Failure;

/// How the option is written.
pub const SYNTAX: &str = "none, user[,forward=tcp|udp:[ADDRESS:]PORT:GUESTPORT]...[,loopback=on|off]\
    [,restrict[=on|off]], tap=NAME or stream=SOCKET; each but none with [,mac=ADDRESS]";

/// The address of a card that was given none. The second bit of the first byte
/// says that nobody has assigned it (IEEE 802, 8.2.2).
const DEFAULT_MAC: Mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];

/// The network options of a command.
#[derive(Debug, Clone, Default, Args)]
pub struct NetArgs {
    /// Network card: none, user[,forward=tcp|udp:[ADDRESS:]PORT:GUESTPORT]...[,loopback=on|off][,restrict[=on|off]], tap=NAME, stream=SOCKET; each with [,mac=ADDRESS]
    #[arg(long, value_name = "NET", default_value = "none")]
    pub net: Net,
    /// Keep all frames of the network card in this file, for tcpdump and Wireshark
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
}

impl NetArgs {
    /// Refuses what makes no sense together.
    pub fn check(&self) -> Result<(), Failure> {
        if self.pcap.is_some() && self.net == Net::None {
            return Err(Failure::usage("--pcap keeps the frames of a network card: give --net too"));
        }
        Ok(())
    }
}

/// The guest's network card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Net {
    /// None.
    #[default]
    None,
    /// One, and what it is connected to.
    Card(Card),
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its address.
    pub mac: Mac,
    /// What it is connected to.
    pub peer: Peer,
}

/// What a network card is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// User-mode address translation.
    User {
        /// Ports of the host that lead into the guest.
        forwards: Vec<Forward>,
        /// What the guest may reach.
        reach: Reach,
    },
    /// A tap device by name.
    Tap(String),
    /// A Unix socket that takes frames, such as passt's.
    Stream(PathBuf),
}

/// Why a network is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not one of the kinds.
    #[error("'{0}' is not a network: write {SYNTAX}")]
    Kind(String),
    /// A property that nobody knows.
    #[error("a network has no property '{0}': write {SYNTAX}")]
    Property(String),
    /// A property with a value that it cannot have.
    #[error("'{value}' is not possible for {property}: give {expected}")]
    Value {
        /// The property.
        property: &'static str,
        /// What was given.
        value: String,
        /// What it can be.
        expected: &'static str,
    },
    /// A port that is forwarded twice.
    #[error("port {0} of the host is forwarded twice")]
    Twice(u16),
    /// Linux names interfaces with 1 to 15 characters.
    #[error("'{0}' cannot be the name of a tap device")]
    TapName(String),
    /// No path.
    #[error("the socket's path is missing: write stream=SOCKET")]
    NoSocket,
}

impl FromStr for Net {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self::None);
        }
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let mut card = Card { mac: DEFAULT_MAC, peer: peer(kind)? };
        parts.try_for_each(|part| card.set(part))?;
        Ok(Self::Card(card))
    }
}

fn peer(kind: &str) -> Result<Peer, NetError> {
    match kind.split_once('=') {
        None if kind == "user" => Ok(Peer::User { forwards: Vec::new(), reach: Reach::Everything }),
        Some(("tap", name)) => tap(name),
        Some(("stream", "")) => Err(NetError::NoSocket),
        Some(("stream", path)) => Ok(Peer::Stream(path.into())),
        _ => Err(NetError::Kind(kind.to_owned())),
    }
}

fn tap(name: &str) -> Result<Peer, NetError> {
    let legal = |c: char| !c.is_whitespace() && c != '/' && c != ':' && c != '%';
    if name.is_empty() || name.len() > 15 || !name.chars().all(legal) {
        return Err(NetError::TapName(name.to_owned()));
    }
    Ok(Peer::Tap(name.to_owned()))
}

impl Card {
    fn set(&mut self, part: &str) -> Result<(), NetError> {
        let unknown = || NetError::Property(part.to_owned());
        let (name, value) = part.split_once('=').unwrap_or((part, "on"));
        match (name, &mut self.peer) {
            ("mac", _) => self.mac = mac(value)?,
            ("forward", Peer::User { forwards, .. }) => {
                let forward = forward(value)?;
                let same = |f: &Forward| f.protocol == forward.protocol && f.host == forward.host;
                if forwards.iter().any(same) {
                    return Err(NetError::Twice(forward.host.port()));
                }
                forwards.push(forward);
            }
            ("restrict", Peer::User { reach, .. }) => {
                if switch("restrict", value)? {
                    *reach = Reach::Nothing;
                }
            }
            ("loopback", Peer::User { reach, .. }) => {
                if !switch("loopback", value)? && *reach == Reach::Everything {
                    *reach = Reach::NotLoopback;
                }
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

fn switch(property: &'static str, value: &str) -> Result<bool, NetError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(NetError::Value { property, value: value.to_owned(), expected: "on or off" }),
    }
}

fn mac(value: &str) -> Result<Mac, NetError> {
    let expected = "six bytes such as 52:54:00:12:34:56, of which the first is even";
    let refused = || NetError::Value { property: "mac", value: value.to_owned(), expected };
    let byte = |text: &str| {
        let hex = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| hex)
    };
    let bytes: Vec<u8> = value.split(':').map_while(byte).collect();
    let mac: Mac = bytes.try_into().map_err(|_| refused())?;
    // An odd first byte names a group; all zeros nobody.
    let whole = value.len() == 17;
    if whole && mac[0] & 1 == 0 && mac != [0; 6] { Ok(mac) } else { Err(refused()) }
}

fn forward(value: &str) -> Result<Forward, NetError> {
    let expected = "tcp or udp, the host's port and the guest's, such as tcp:2222:22, or \
                    tcp:0.0.0.0:2222:22 to listen at another address than 127.0.0.1";
    let refused = || NetError::Value { property: "forward", value: value.to_owned(), expected };
    let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(refused);
    let parts: Vec<&str> = value.split(':').collect();
    let (protocol, address, host, guest) = match *parts {
        [protocol, host, guest] => (protocol, Ipv4Addr::LOCALHOST, host, guest),
        [protocol, address, host, guest] => (protocol, address.parse().map_err(|_| refused())?, host, guest),
        _ => return Err(refused()),
    };
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(refused()),
    };
    Ok(Forward { protocol, host: SocketAddrV4::new(address, port(host)?), guest: port(guest)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(text: &str) -> Card {
        match text.parse() {
            Ok(Net::Card(card)) => card,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn user(text: &str) -> (Vec<Forward>, Reach) {
        match card(text).peer {
            Peer::User { forwards, reach } => (forwards, reach),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_kind_parses() {
        assert_eq!("none".parse(), Ok(Net::None));
        assert_eq!(card("tap=tap0").peer, Peer::Tap("tap0".to_owned()));
        assert_eq!(card("stream=/run/a.sock").peer, Peer::Stream("/run/a.sock".into()));
        assert_eq!(user("user"), (vec![], Reach::Everything));
        assert_eq!(card("tap=tap0,mac=02:00:00:00:ab:CD").mac, [2, 0, 0, 0, 0xab, 0xcd]);
        assert_eq!(card("user").mac, DEFAULT_MAC);
    }

    #[test]
    fn forwards_have_a_protocol_an_address_and_two_ports() {
        let (forwards, _) = user("user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:5353");
        let shown = forwards.iter().map(|f| (f.protocol, f.host.to_string(), f.guest));
        let expected = [
            (Protocol::Tcp, "127.0.0.1:2222".to_owned(), 22),
            (Protocol::Udp, "0.0.0.0:53".to_owned(), 5353),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_is_cut_off_stays_cut_off() {
        assert_eq!(user("user,loopback=off").1, Reach::NotLoopback);
        assert_eq!(user("user,loopback=on,restrict=off").1, Reach::Everything);
        for text in ["user,restrict", "user,restrict=on,loopback=off", "user,loopback=off,restrict"] {
            assert_eq!(user(text).1, Reach::Nothing, "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["", "bridge", "user=1", "tap", "none,mac=02:00:00:00:00:00"] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::Kind(_))), "{bad}");
        }
        for bad in ["tap=", "tap=a/b", "tap=sixteen-letters-", "tap=tap%d"] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::TapName(_))), "{bad}");
        }
        for bad in ["user,x", "user,", "tap=tap0,forward=tcp:1:2", "stream=s,restrict"] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::Property(_))), "{bad}");
        }
        for bad in [
            "user,forward=tcp:1",
            "user,forward=tcp:0:22",
            "user,forward=tcp:1:70000",
            "user,forward=icmp:1:2",
            "user,forward=tcp:localhost:1:2",
            "user,restrict=maybe",
            "user,loopback=",
            "user,mac=01:00:00:00:00:00",
            "user,mac=02:00:00:00:00",
            "user,mac=02:00:00:00:00:00:00",
            "user,mac=00:00:00:00:00:00",
        ] {
            assert!(matches!(bad.parse::<Net>(), Err(NetError::Value { .. })), "{bad}");
        }
        let twice = "user,forward=tcp:1:2,forward=tcp:1:3".parse::<Net>();
        assert_eq!(twice, Err(NetError::Twice(1)));
        assert_eq!("stream=".parse::<Net>(), Err(NetError::NoSocket));
    }
}

//! The world beyond the network: the host's own sockets.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

/// How the network reaches the world. All sockets that it gives are
/// non-blocking.
pub trait Outside: Send {
    /// Begins a connection, which may be complete or still in progress.
    fn tcp(&mut self, to: SocketAddr) -> io::Result<TcpStream>;

    /// A socket for datagrams that is connected to `to`.
    fn udp(&mut self, to: SocketAddr) -> io::Result<UdpSocket>;

    /// A socket for echo requests that is connected to `to`.
    fn ping(&mut self, to: Ipv4Addr) -> io::Result<UdpSocket>;

    /// The name servers of the host.
    fn name_servers(&mut self) -> Vec<SocketAddr>;
}

/// The host, with the rights of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Host;

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Outside for Host {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket_with(family(to), SocketType::STREAM, FLAGS, None)?;
        match connect(&socket, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
            Err(error) => Err(error.into()),
        }
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = socket_with(family(to), SocketType::DGRAM, FLAGS, None)?;
        connect(&socket, &to)?;
        Ok(UdpSocket::from(socket))
    }

    fn ping(&mut self, to: Ipv4Addr) -> io::Result<UdpSocket> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, Some(ipproto::ICMP))?;
        connect(&socket, &SocketAddrV4::new(to, 0))?;
        Ok(UdpSocket::from(socket))
    }

    fn name_servers(&mut self) -> Vec<SocketAddr> {
        fs::read_to_string("/etc/resolv.conf").map(|text| parse_resolv_conf(&text)).unwrap_or_default()
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    }
}

/// The first three name servers (resolv.conf(5)). Addresses with a scope are
/// left out.
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            return None;
        }
        words.next()?.parse::<IpAddr>().ok()
    });
    servers.take(3).map(|address| SocketAddr::new(address, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found() {
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 192.0.2.1\nnameserver ::1\n\
                    nameserver fe80::1%eth0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let found: Vec<String> = parse_resolv_conf(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[::1]:53", "192.0.2.2:53"]);
    }
}

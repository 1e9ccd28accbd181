//! The world beyond the network, all of it on the host's loopback.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use network::user::{Host, Outside};

/// An address that is somewhere else, as far as the guest knows.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// Reaches nothing but the loopback: far addresses lead there too.
#[derive(Default)]
pub(crate) struct World {
    /// Name servers.
    pub(crate) name_servers: Vec<SocketAddr>,
    /// Where far addresses really are; otherwise at the same port here.
    pub(crate) places: HashMap<SocketAddr, SocketAddr>,
    /// Echo sockets are refused.
    pub(crate) no_ping: bool,
}

impl World {
    fn here(&self, to: SocketAddr) -> SocketAddr {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, to.port()));
        self.places.get(&to).copied().unwrap_or(here)
    }
}

impl Outside for World {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<TcpStream> {
        Host.tcp(self.here(to))
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<UdpSocket> {
        Host.udp(self.here(to))
    }

    fn ping(&mut self, _: Ipv4Addr) -> io::Result<UdpSocket> {
        if self.no_ping {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Host.ping(Ipv4Addr::LOCALHOST)
    }

    fn name_servers(&mut self) -> Vec<SocketAddr> {
        self.name_servers.clone()
    }
}

/// A byte of a stream that repeats only after a prime number.
pub(crate) fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

/// `length` bytes of the pattern.
pub(crate) fn patterned(length: usize) -> Vec<u8> {
    (0..length).map(pattern).collect()
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Serves each connection with `serve` on a thread; its port.
pub(crate) fn server(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> u16 {
    let (listener, port) = listen();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Sends back what comes until it ends, and ends then.
pub(crate) fn echo_server() -> u16 {
    server(|mut stream| {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// Sends `length` bytes of the pattern and closes.
pub(crate) fn source_server(length: usize) -> u16 {
    server(move |mut stream| {
        let _ = stream.write_all(&patterned(length));
    })
}

/// Takes everything; the port and what came, or the error that ended it.
pub(crate) fn sink_server() -> (u16, Receiver<io::Result<Vec<u8>>>) {
    let (tell, told) = mpsc::channel();
    let port = server(move |mut stream| {
        let mut all = Vec::new();
        let result = stream.read_to_end(&mut all).map(|_| all);
        let _ = tell.send(result);
    });
    (port, told)
}

/// A port at which nobody listens.
pub(crate) fn closed_port() -> u16 {
    listen().1
}

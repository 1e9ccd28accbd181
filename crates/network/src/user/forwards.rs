//! Forwarded ports: where the host listens for the guest.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;

use super::config::{Forward, Protocol};
use super::token::Token;
use crate::poller::Poller;

/// A port cannot be forwarded.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {} for --net user,forward={}", address, if *protocol == Protocol::Tcp { "tcp" } else { "udp" })]
pub struct ForwardError {
    /// Of which protocol.
    protocol: Protocol,
    /// Where.
    address: SocketAddrV4,
    /// Why not.
    source: io::Error,
}

enum Socket {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

struct Door {
    forward: Forward,
    socket: Socket,
    /// Somebody may be waiting.
    ready: bool,
}

/// What came in by a forwarded port.
pub(super) enum Caller {
    /// A connection.
    Connection(TcpStream, SocketAddrV4),
    /// This many bytes of a datagram, and how to answer it.
    Datagram(usize, Arc<UdpSocket>, SocketAddrV4),
}

/// All forwarded ports.
pub(super) struct Forwards {
    doors: Vec<Door>,
}

impl Forwards {
    /// Listens at all of them.
    pub(super) fn open(forwards: &[Forward], poller: &Poller) -> Result<Self, ForwardError> {
        let doors = forwards.iter().enumerate().map(|(id, &forward)| {
            let failed = |source| ForwardError { protocol: forward.protocol, address: forward.host, source };
            let socket = listen(forward, id, poller).map_err(failed)?;
            Ok(Door { forward, socket, ready: false })
        });
        Ok(Self { doors: doors.collect::<Result<_, _>>()? })
    }

    /// Somebody is at door `id`.
    pub(super) fn ready(&mut self, id: usize) {
        if let Some(door) = self.doors.get_mut(id) {
            door.ready = true;
        }
    }

    /// The next who came for connections, and the port in the guest.
    pub(super) fn connection(&mut self) -> Option<(Caller, u16)> {
        self.doors.iter_mut().filter(|door| door.ready).find_map(|door| {
            let Socket::Tcp(listener) = &door.socket else { return None };
            match accept(listener) {
                Ok(Some((stream, peer))) => Some((Caller::Connection(stream, peer), door.forward.guest)),
                Ok(None) => {
                    door.ready = false;
                    None
                }
                // Out of descriptors, or the caller has gone: again later.
                Err(_) => None,
            }
        })
    }

    /// The next datagram, and the port in the guest.
    pub(super) fn datagram(&mut self, buffer: &mut [u8]) -> Option<(Caller, u16)> {
        self.doors.iter_mut().filter(|door| door.ready).find_map(|door| {
            let Socket::Udp(socket) = &door.socket else { return None };
            match socket.recv_from(buffer) {
                Ok((length, SocketAddr::V4(peer))) => {
                    Some((Caller::Datagram(length, Arc::clone(socket), peer), door.forward.guest))
                }
                Ok(_) => None,
                Err(error) => {
                    // Errors of earlier answers are told here; they end nothing.
                    door.ready = error.kind() != io::ErrorKind::WouldBlock;
                    None
                }
            }
        })
    }
}

fn listen(forward: Forward, id: usize, poller: &Poller) -> io::Result<Socket> {
    let token = Token::Forward(id).into();
    Ok(match forward.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(forward.host)?;
            listener.set_nonblocking(true)?;
            poller.watch(&listener, token)?;
            Socket::Tcp(listener)
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(forward.host)?;
            socket.set_nonblocking(true)?;
            poller.watch(&socket, token)?;
            Socket::Udp(Arc::new(socket))
        }
    })
}

fn accept(listener: &TcpListener) -> io::Result<Option<(TcpStream, SocketAddrV4)>> {
    match listener.accept() {
        Ok((stream, SocketAddr::V4(peer))) => {
            stream.set_nonblocking(true)?;
            Ok(Some((stream, peer)))
        }
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

//! A user-mode network between bytes that play the guest and bytes that play
//! the world. No socket leads anywhere else.
//!
//! The fuzz target and a test of the crate share this file.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use network::user::{Limits, Outside, Reach, UserConfig, UserNet};
use network::{Checksum, Frame, NetBackend, Offload, Offloads};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const HEADERS: usize = 54;

/// The far ends of all sockets that the network has asked for.
#[derive(Default)]
struct FarEnds {
    tcp: Vec<TcpStream>,
    udp: Vec<UdpSocket>,
}

#[derive(Clone, Default)]
struct World(Arc<Mutex<FarEnds>>);

impl World {
    fn with<T>(&self, f: impl FnOnce(&mut FarEnds) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn datagrams(&self) -> io::Result<UdpSocket> {
        let (near, far) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        near.connect(far.local_addr()?)?;
        far.connect(near.local_addr()?)?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        self.with(|ends| ends.udp.push(far));
        Ok(near)
    }

    /// The world answers with `bytes`, listens, or leaves.
    fn act(&self, choice: u8, bytes: &[u8]) {
        self.with(|ends| {
            let at = usize::from(choice >> 2);
            match choice & 3 {
                0 => drop(ends.tcp.get_mut(at).map(|stream| stream.write(bytes))),
                1 => drop(ends.udp.get(at).map(|socket| socket.send(bytes))),
                2 => drop(ends.tcp.get_mut(at).map(|stream| stream.read(&mut [0; 4096]))),
                _ if at < ends.tcp.len() => drop(ends.tcp.swap_remove(at)),
                _ => {}
            }
        });
    }
}

impl Outside for World {
    fn tcp(&mut self, to: SocketAddr) -> io::Result<TcpStream> {
        if to.port().is_multiple_of(5) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, _) = listener.accept()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        self.with(|ends| ends.tcp.push(far));
        Ok(near)
    }

    fn udp(&mut self, _: SocketAddr) -> io::Result<UdpSocket> {
        self.datagrams()
    }

    fn ping(&mut self, _: Ipv4Addr) -> io::Result<UdpSocket> {
        self.datagrams()
    }

    fn name_servers(&mut self) -> Vec<SocketAddr> {
        vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53)); 2]
    }
}

/// What the guest knows of the connection that the network last answered.
#[derive(Default)]
struct Seen {
    seq: [u8; 4],
    ack: [u8; 4],
}

/// Plays guest and world by `data`.
pub(crate) fn drive(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let world = World::default();
    let mut config = UserConfig::new(MAC);
    config.limits = Limits { tcp: 6, udp: 6, bytes: 64 << 10 };
    config.reach = [Reach::Everything, Reach::NotLoopback, Reach::Nothing][usize::from(first % 3)];
    let Ok(mut net) = UserNet::with_outside(config, Box::new(world.clone())) else { return };
    net.choose(Offloads::from_bits_truncate(u32::from(first >> 2)) & net.offloads());
    let (mut frame, mut seen) = (Frame::default(), Seen::default());
    while let Some((&[kind, choice, length], more)) = rest.split_first_chunk() {
        let (bytes, after) = more.split_at(more.len().min(length.into()));
        rest = after;
        match kind % 8 {
            0 => drop(net.send(&raw_frame(bytes, choice))),
            1..=4 => drop(net.send(&dressed_frame(bytes, choice, &seen))),
            5 => world.act(choice, bytes),
            6 => net.service(),
            _ if choice == 255 => net.reset(),
            _ => {}
        }
        for _ in 0..choice % 8 {
            if net.receive(&mut frame) {
                look(&frame.bytes, &mut seen);
            }
        }
    }
    let (tcp, udp) = net.flows();
    assert!(tcp <= 6 && udp <= 6, "more than permitted: {tcp} and {udp}");
}

/// Remembers the numbers of a segment.
fn look(bytes: &[u8], seen: &mut Seen) {
    assert!(bytes.len() >= 14 && bytes.len() <= network::MAX_FRAME, "{} bytes", bytes.len());
    if let (Some(6), Some(numbers)) = (bytes.get(23), bytes.get(38..46)) {
        seen.seq.copy_from_slice(&numbers[..4]);
        seen.ack.copy_from_slice(&numbers[4..]);
    }
}

fn raw_frame(bytes: &[u8], choice: u8) -> Frame {
    let offload = Offload { verified: choice & 1 != 0, ..Offload::default() };
    Frame { bytes: bytes.to_vec(), offload }
}

/// A frame whose headers lead somewhere, so that its contents matter.
fn dressed_frame(bytes: &[u8], choice: u8, seen: &Seen) -> Frame {
    let mut frame = vec![0x52, 0x55, 10, 0, 2, 2];
    frame.extend_from_slice(&MAC);
    frame.extend_from_slice(&[8, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64]);
    frame.push([6, 6, 6, 17, 1][usize::from(choice % 5)]);
    frame.extend_from_slice(&[0, 0, 10, 0, 2, 15]);
    let places = [[10, 0, 2, 2], [10, 0, 2, 3], [192, 0, 2, 1], [255; 4]];
    frame.extend_from_slice(&places[usize::from(choice >> 6)]);
    if choice % 5 < 3 && bytes.len() > 2 {
        // A segment of one of few connections, with numbers that fit.
        let numbers = [0x10, bytes[0] & 3, 0, 81, seen.ack[0], seen.ack[1], seen.ack[2], seen.ack[3]];
        frame.extend_from_slice(&numbers);
        let next = u32::from_be_bytes(seen.seq).wrapping_add(u32::from(bytes[0] & 1));
        frame.extend_from_slice(&next.to_be_bytes());
        frame.extend_from_slice(&[0x50, bytes[1], 1, 0, 0, 0, 0, 0]);
    }
    frame.extend_from_slice(bytes);
    let length = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&length.to_be_bytes());
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    let checksum = (frame.len() >= HEADERS).then_some(Checksum { start: 34, offset: 16 });
    Frame { bytes: frame, offload: Offload { checksum, segmentation: None, verified: true } }
}

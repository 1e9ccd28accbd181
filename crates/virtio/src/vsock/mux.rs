//! All connections of a device, on one thread.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use memory::GuestMemory;
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::HOST_CID;
use super::connection::{Connection, Stage};
use super::packet::*;
use crate::{Chain, Stop, VirtQueue};

/// The most connections, and the most that have not said where they want to.
const MOST: usize = 1024;
const MOST_GREETINGS: usize = 64;
/// `CONNECT 4294967295\n` is shorter.
const GREETING: usize = 32;
/// Ports on the host for its own connections, away from those that are asked
/// for.
const FIRST_PORT: u32 = 1 << 30;
/// The most data in one packet to the guest.
const PIECE: usize = 64 << 10;
/// Packets without data that wait for the guest's buffers.
const MOST_WAITING: usize = 4 * MOST;

/// The host's port, then the guest's.
type Ports = (u32, u32);

pub(super) struct Mux<'a> {
    cid: u64,
    path: PathBuf,
    listener: &'a UnixListener,
    greetings: Vec<(UnixStream, Vec<u8>)>,
    connections: BTreeMap<Ports, Connection>,
    /// Packets without data for the guest.
    waiting: VecDeque<Header>,
    next_port: u32,
    /// The guest has given buffers that were not used yet.
    has_buffers: bool,
    /// The connection that sent last, so that each gets its turn.
    last: Ports,
}

impl<'a> Mux<'a> {
    pub(super) fn new(cid: u64, path: &Path, listener: &'a UnixListener) -> Self {
        Self {
            cid,
            path: path.to_owned(),
            listener,
            greetings: Vec::new(),
            connections: BTreeMap::new(),
            waiting: VecDeque::new(),
            next_port: FIRST_PORT,
            has_buffers: true,
            last: (0, 0),
        }
    }

    /// Serves the queues until the thread is to end.
    pub(super) fn serve(mut self, mut receive: VirtQueue, mut transmit: VirtQueue, stop: &Stop) {
        loop {
            transmit.drain(stop, |memory, chain| {
                self.take(memory, chain);
                Some(0)
            });
            self.fill(&mut receive);
            if !self.wait(&receive, &transmit, stop) {
                return;
            }
        }
    }

    /// Waits for anything to do, and does what concerns the sockets; false if
    /// the thread is to end.
    fn wait(&mut self, receive: &VirtQueue, transmit: &VirtQueue, stop: &Stop) -> bool {
        let mut fds =
            vec![(receive.doorbell().as_fd(), PollFlags::IN), (transmit.doorbell().as_fd(), PollFlags::IN)];
        let room = self.greetings.len() < MOST_GREETINGS && self.connections.len() < MOST;
        if room {
            fds.push((self.listener.as_fd(), PollFlags::IN));
        }
        fds.extend(self.greetings.iter().map(|(stream, _)| (stream.as_fd(), PollFlags::IN)));
        let streams = self.connections.iter().filter_map(|(ports, connection)| {
            let interest = connection.interest(self.has_buffers);
            (!interest.is_empty()).then_some((*ports, connection.stream(), interest))
        });
        let streams: Vec<_> = streams.collect();
        fds.extend(streams.iter().map(|(_, stream, interest)| (stream.as_fd(), *interest)));
        let Some(ready) = stop.poll(&fds, None) else { return false };
        let mut ready = ready.into_iter().map(|flags| !flags.is_empty());
        if ready.next() == Some(true) {
            receive.doorbell().take();
            self.has_buffers = true;
        }
        ready.next();
        let accept = room && ready.next() == Some(true);
        let greeted: Vec<bool> = ready.by_ref().take(self.greetings.len()).collect();
        let active: Vec<Ports> =
            streams.iter().zip(ready).filter(|(_, ready)| *ready).map(|((ports, _, _), _)| *ports).collect();
        active.into_iter().for_each(|ports| self.push_out(ports));
        self.read_greetings(&greeted);
        if accept
            && let Ok((stream, _)) = self.listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.greetings.push((stream, Vec::new()));
        }
        true
    }

    fn read_greetings(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        for (mut stream, mut text) in std::mem::take(&mut self.greetings) {
            if ready.next() != Some(&true) {
                self.greetings.push((stream, text));
                continue;
            }
            // Byte by byte: what follows the line belongs to the guest.
            let goes_on = loop {
                let mut byte = [0];
                match stream.read(&mut byte) {
                    Ok(1) if byte == *b"\n" => break Some(true),
                    Ok(1) if text.len() < GREETING => text.extend(byte),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break Some(false),
                    _ => break None,
                }
            };
            match goes_on {
                Some(true) => self.request(stream, &text),
                Some(false) => self.greetings.push((stream, text)),
                None => {}
            }
        }
    }

    /// A program on the host wants to reach a port of the guest.
    fn request(&mut self, stream: UnixStream, text: &[u8]) {
        let port = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix("CONNECT "));
        let Some(port) = port.and_then(|port| port.trim_end_matches('\r').parse().ok()) else { return };
        let Ok(connection) = Connection::new(stream, Stage::Requested) else { return };
        while self.connections.contains_key(&(self.next_port, port)) {
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
        }
        let ports = (self.next_port, port);
        self.next_port = self.next_port.wrapping_add(1).max(FIRST_PORT);
        self.connections.insert(ports, connection);
        self.send(ports, REQUEST, 0);
    }

    fn header(&mut self, ports: Ports, op: u16, flags: u32) -> Header {
        let mut header = Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: ports.0,
            dst_port: ports.1,
            kind: STREAM,
            op,
            flags,
            ..Header::default()
        };
        if let Some(connection) = self.connections.get_mut(&ports) {
            connection.tell(&mut header);
        }
        header
    }

    fn send(&mut self, ports: Ports, op: u16, flags: u32) {
        if self.waiting.len() < MOST_WAITING {
            let header = self.header(ports, op, flags);
            self.waiting.push_back(header);
        }
    }

    /// Ends a connection from this side.
    fn reset(&mut self, ports: Ports) {
        self.connections.remove(&ports);
        self.send(ports, RST, 0);
    }

    fn push_out(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        if !connection.push_out() || connection.is_over() {
            self.reset(ports);
        } else if connection.has_news() {
            self.send(ports, CREDIT_UPDATE, 0);
        }
    }

    /// Takes a packet of the guest.
    fn take(&mut self, memory: &GuestMemory, chain: &Chain) {
        let mut bytes = [0; LENGTH];
        if chain.read(memory, 0, &mut bytes) < LENGTH {
            return;
        }
        let header = Header::parse(&bytes);
        let ports = (header.dst_port, header.src_port);
        if header.src_cid != self.cid || header.dst_cid != HOST_CID {
            return;
        }
        if header.kind != STREAM {
            return self.send_unknown(ports, header);
        }
        if let Some(connection) = self.connections.get_mut(&ports) {
            connection.learn(&header);
        }
        match header.op {
            REQUEST => self.connect(ports, &header),
            RST => drop(self.connections.remove(&ports)),
            _ if !self.connections.contains_key(&ports) => self.send(ports, RST, 0),
            RESPONSE => self.accepted(ports),
            RW => self.data(ports, &header, memory, chain),
            SHUTDOWN => {
                if let Some(connection) = self.connections.get_mut(&ports) {
                    connection.guest_shuts(header.flags);
                }
                self.push_out(ports);
            }
            CREDIT_REQUEST => self.send(ports, CREDIT_UPDATE, 0),
            _ => {}
        }
    }

    /// A packet of a type that this device does not have.
    fn send_unknown(&mut self, ports: Ports, header: Header) {
        if header.op != RST && self.waiting.len() < MOST_WAITING {
            let reset = Header { kind: header.kind, ..self.header(ports, RST, 0) };
            self.waiting.push_back(reset);
        }
    }

    /// The guest wants to reach a program on the host.
    fn connect(&mut self, ports: Ports, header: &Header) {
        if self.connections.contains_key(&ports) || self.connections.len() >= MOST {
            return self.reset(ports);
        }
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{}", ports.0));
        match open(Path::new(&path)).and_then(|stream| Connection::new(stream, Stage::Open)) {
            Ok(mut connection) => {
                connection.learn(header);
                self.connections.insert(ports, connection);
                self.send(ports, RESPONSE, 0);
            }
            Err(_) => self.send(ports, RST, 0),
        }
    }

    fn accepted(&mut self, ports: Ports) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        let expected = connection.stage == Stage::Requested;
        connection.stage = Stage::Open;
        if !expected || !connection.greet(&format!("OK {}\n", ports.0)) {
            self.reset(ports);
        }
    }

    fn data(&mut self, ports: Ports, header: &Header, memory: &GuestMemory, chain: &Chain) {
        let Some(connection) = self.connections.get_mut(&ports) else { return };
        let there = chain.readable_len().saturating_sub(LENGTH as u64);
        let mut data = vec![0; u64::from(header.len).min(there).min(PIECE as u64 * 4) as usize];
        let read = chain.read(memory, LENGTH as u64, &mut data);
        let whole = read as u64 == u64::from(header.len) && connection.stage == Stage::Open;
        if whole && connection.accept(&data) {
            self.push_out(ports);
        } else {
            self.reset(ports);
        }
    }

    /// Sends to the guest as long as it has buffers and there is something.
    fn fill(&mut self, receive: &mut VirtQueue) {
        while self.has_buffers && (!self.waiting.is_empty() || self.reader().is_some()) {
            let Ok(Some(chain)) = receive.pop() else {
                self.has_buffers = receive.wait_for_doorbell();
                continue;
            };
            match self.packet(&chain) {
                Some((header, data)) => {
                    let mut written = chain.write(receive.memory(), 0, &header.bytes());
                    written += chain.write(receive.memory(), LENGTH as u64, &data);
                    receive.push(&chain, written as u64);
                }
                // Nothing after all: the buffer stays for the next.
                None => {
                    receive.unpop();
                    break;
                }
            }
        }
        receive.signal();
    }

    /// The next connection whose program may have something for the guest.
    fn reader(&self) -> Option<Ports> {
        let wants = |(ports, connection): (&Ports, &Connection)| {
            (connection.wants_to_read() && has_input(connection.stream())).then_some(*ports)
        };
        let last = self.last;
        let after = self.connections.range((last.0, last.1)..).skip_while(|(ports, _)| **ports == last);
        after.chain(self.connections.range(..=last)).find_map(wants)
    }

    /// What goes into the guest's next buffer.
    fn packet(&mut self, chain: &Chain) -> Option<(Header, Vec<u8>)> {
        if let Some(header) = self.waiting.pop_front() {
            return Some((header, Vec::new()));
        }
        let room = chain.writable_len().saturating_sub(LENGTH as u64).min(PIECE as u64) as usize;
        let ports = self.reader().filter(|_| room > 0)?;
        self.last = ports;
        let data = self.connections.get_mut(&ports)?.read(room)?;
        if data.is_empty() {
            return Some((self.header(ports, SHUTDOWN, NO_SEND), data));
        }
        let len = u32::try_from(data.len()).ok()?;
        Some((Header { len, ..self.header(ports, RW, 0) }, data))
    }
}

/// Whether reading would not wait.
fn has_input(stream: &UnixStream) -> bool {
    let mut fds = [rustix::event::PollFd::new(stream, PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

/// Connects to a Unix socket without waiting for a busy listener.
fn open(path: &Path) -> std::io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

//! A guest: smoltcp's whole stack behind a card.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant as HostInstant};

use network::user::{Reach, UserConfig, UserNet};
use network::{Frame, NetBackend, Offloads};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint};

use crate::wire::{Weather, Wire, complete, is_intact};
use crate::world::World;

pub(crate) const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Nothing in these tests takes as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames that the guest has room for.
const ROOM: usize = 256;

/// The guest's card.
#[derive(Default)]
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut bytes = vec![0; length];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        Some((Received(self.received.pop_front()?), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        (self.sent.len() < ROOM).then_some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest on a user-mode network.
pub(crate) struct Guest {
    pub(crate) net: UserNet,
    card: Card,
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    outward: Wire,
    pub(crate) inward: Wire,
    start: HostInstant,
    next_port: u16,
    /// Frames that the stack did not take as its own, all of them if it is to
    /// take none.
    pub(crate) seen: Vec<Vec<u8>>,
    /// The stack is bypassed: frames are only seen.
    pub(crate) raw: bool,
    /// How many frames passed to the guest that were still to be segmented.
    pub(crate) large: usize,
}

impl Guest {
    pub(crate) fn on(net: UserNet, weather: Weather) -> Self {
        let mut card = Card::default();
        let mut interface =
            Interface::new(Config::new(EthernetAddress(MAC).into()), &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), 24)).unwrap();
        });
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Self {
            net,
            card,
            interface,
            sockets: SocketSet::new(Vec::new()),
            outward: Wire::new(weather, 1),
            inward: Wire::new(weather, 2),
            start: HostInstant::now(),
            next_port: 40_000,
            seen: Vec::new(),
            raw: false,
            large: 0,
        }
    }

    /// One in `world` with what `change` makes of the usual configuration.
    pub(crate) fn with(world: World, change: impl FnOnce(&mut UserConfig)) -> Self {
        let mut config = UserConfig::new(MAC);
        change(&mut config);
        Self::on(UserNet::with_outside(config, Box::new(world)).unwrap(), Weather::default())
    }

    pub(crate) fn new() -> Self {
        Self::with(World::default(), |_| {})
    }

    pub(crate) fn reaching(reach: Reach) -> Self {
        Self::with(World::default(), |config| config.reach = reach)
    }

    pub(crate) fn in_weather(weather: Weather) -> Self {
        let config = UserConfig::new(MAC);
        Self::on(UserNet::with_outside(config, Box::new(World::default())).unwrap(), weather)
    }

    /// A guest that takes over what the network leaves undone.
    pub(crate) fn with_offloads() -> Self {
        let mut guest = Self::new();
        let all = guest.net.offloads();
        assert!(all.contains(Offloads::GUEST_TSO4 | Offloads::GUEST_CSUM));
        guest.net.choose(all);
        guest
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    /// Lets frames pass once in each direction; whether anything has moved.
    pub(crate) fn step(&mut self) -> bool {
        self.net.service();
        let mut moved = self.take_frames();
        let now = self.now();
        if !self.raw {
            moved |= self.interface.poll(now, &mut self.card, &mut self.sockets) != PollResult::None;
        }
        while let Some(bytes) = self.card.sent.pop_front() {
            moved = true;
            for bytes in self.outward.pass(bytes) {
                self.net.send(&Frame::whole(bytes));
            }
        }
        moved
    }

    fn take_frames(&mut self) -> bool {
        let mut frame = Frame::default();
        let mut moved = false;
        while self.card.received.len() < ROOM && self.net.receive(&mut frame) {
            moved = true;
            self.large += usize::from(frame.offload.segmentation.is_some());
            for bytes in complete(&frame).into_iter().flat_map(|bytes| self.inward.pass(bytes)) {
                assert!(is_intact(&bytes), "a damaged frame for the guest");
                assert_eq!(bytes[..6], MAC.map(|b| if bytes[0] == 0xff { 0xff } else { b }));
                if self.raw {
                    self.seen.push(bytes);
                } else {
                    self.card.received.push_back(bytes);
                }
            }
        }
        moved
    }

    /// Goes on until `done`.
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = HostInstant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "{what}: nothing for {PATIENCE:?}");
            if !self.step() {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Goes on for a while.
    pub(crate) fn for_a_while(&mut self, while_: Duration) {
        let start = HostInstant::now();
        self.until("a while", |_| start.elapsed() > while_);
    }

    /// A frame that the stack did not make.
    pub(crate) fn inject(&mut self, bytes: &[u8]) {
        self.net.send(&Frame::whole(bytes.to_vec()));
    }

    fn tcp_socket(&mut self, buffer: usize) -> SocketHandle {
        let buffers = || tcp::SocketBuffer::new(vec![0; buffer]);
        self.sockets.add(tcp::Socket::new(buffers(), buffers()))
    }

    /// Begins a connection.
    pub(crate) fn connect(&mut self, to: Ipv4Addr, port: u16) -> SocketHandle {
        let handle = self.tcp_socket(256 << 10);
        self.next_port += 1;
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (to, port), self.next_port).unwrap();
        handle
    }

    /// Waits for connections.
    pub(crate) fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.tcp_socket(64 << 10);
        self.tcp(handle).listen(port).unwrap();
        handle
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Goes on until the connection is made, or refused.
    pub(crate) fn connected(&mut self, handle: SocketHandle) -> bool {
        self.until("connecting", |guest| {
            !matches!(
                guest.tcp(handle).state(),
                tcp::State::SynSent | tcp::State::Listen | tcp::State::SynReceived
            )
        });
        self.tcp(handle).state() != tcp::State::Closed
    }

    /// Sends all of `bytes`.
    pub(crate) fn send_all(&mut self, handle: SocketHandle, bytes: &[u8]) {
        let mut sent = 0;
        self.until("sending", |guest| {
            let socket = guest.tcp(handle);
            assert!(socket.may_send(), "the connection has ended after {sent} bytes");
            sent += socket.send_slice(&bytes[sent..]).unwrap();
            sent == bytes.len()
        });
    }

    /// Receives until `length` bytes have come, or the end.
    pub(crate) fn receive(&mut self, handle: SocketHandle, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("receiving", |guest| {
            let socket = guest.tcp(handle);
            while socket.can_recv() {
                socket.recv(|data| (data.len(), all.extend_from_slice(data))).unwrap();
            }
            all.len() >= length || !socket.may_recv()
        });
        all
    }

    /// Sends `bytes` while receiving as many.
    pub(crate) fn exchange(&mut self, handle: SocketHandle, bytes: &[u8]) -> Vec<u8> {
        let (mut sent, mut all) = (0, Vec::new());
        self.until("exchanging", |guest| {
            let socket = guest.tcp(handle);
            if sent < bytes.len() && socket.can_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
            }
            while socket.can_recv() {
                socket.recv(|data| (data.len(), all.extend_from_slice(data))).unwrap();
            }
            all.len() >= bytes.len()
        });
        all
    }

    /// A socket for datagrams.
    pub(crate) fn udp_socket(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 256 << 10]);
        let handle = self.sockets.add(udp::Socket::new(buffer(), buffer()));
        self.sockets.get_mut::<udp::Socket>(handle).bind(port).unwrap();
        handle
    }

    pub(crate) fn udp(&mut self, handle: SocketHandle) -> &mut udp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub(crate) fn send_to(&mut self, handle: SocketHandle, to: (Ipv4Addr, u16), bytes: &[u8]) {
        let to = IpEndpoint::new(to.0.into(), to.1);
        self.until("a datagram's turn", |guest| guest.udp(handle).can_send());
        self.udp(handle).send_slice(bytes, to).unwrap();
        self.step();
    }

    pub(crate) fn receive_from(&mut self, handle: SocketHandle) -> (Vec<u8>, IpEndpoint) {
        self.until("a datagram", |guest| guest.udp(handle).can_recv());
        let (bytes, meta) = self.udp(handle).recv().unwrap();
        (bytes.to_vec(), meta.endpoint)
    }
}

//! What a user-mode network is made of and what it permits.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::Mac;

/// The address of the network's own end.
pub(crate) const GATEWAY_MAC: Mac = [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02];

/// The guest's network: 256 addresses, laid out as in QEMU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: Ipv4Addr,
}

impl Default for Subnet {
    /// 10.0.2.0/24.
    fn default() -> Self {
        Self { base: Ipv4Addr::new(10, 0, 2, 0) }
    }
}

impl Subnet {
    /// Its mask.
    pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);

    fn host(self, number: u8) -> Ipv4Addr {
        let [a, b, c, _] = self.base.octets();
        Ipv4Addr::new(a, b, c, number)
    }

    /// The gateway, .2: the host itself.
    pub fn gateway(self) -> Ipv4Addr {
        self.host(2)
    }

    /// The name server, .3: whatever resolves names for the host.
    pub fn name_server(self) -> Ipv4Addr {
        self.host(3)
    }

    /// The guest's `nth` card, .15 and up.
    pub fn guest(self, nth: u8) -> Ipv4Addr {
        self.host(15_u8.saturating_add(nth))
    }

    /// The address for all, .255.
    pub fn broadcast(self) -> Ipv4Addr {
        self.host(255)
    }

    /// Whether `address` is one of its.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & u32::from(Self::MASK) == u32::from(self.base)
    }

    /// Whether a guest may have `address`.
    pub fn is_guest(self, address: Ipv4Addr) -> bool {
        let own = [self.base, self.gateway(), self.name_server(), self.broadcast()];
        self.contains(address) && !own.contains(&address)
    }
}

/// A protocol that ports can be forwarded of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host that leads into the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Of which protocol.
    pub protocol: Protocol,
    /// Where the host listens.
    pub host: SocketAddrV4,
    /// The port in the guest.
    pub guest: u16,
}

/// What the guest may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything that the host reaches; its loopback is at the gateway.
    Everything,
    /// All but the host's loopback.
    NotLoopback,
    /// Nothing. Forwarded ports still lead in.
    Nothing,
}

/// How much of the host a guest may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections.
    pub tcp: usize,
    /// UDP associations.
    pub udp: usize,
    /// Bytes in buffers, beyond a few KiB that each connection is left with.
    pub bytes: usize,
}

impl Limits {
    /// What fits into the number of files that this process may have open; half
    /// of them are left to others.
    pub fn of_this_process() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let half = files.map_or(8192, |n| usize::try_from(n / 2).unwrap_or(usize::MAX)).clamp(16, 8192);
        Self { tcp: half / 2, udp: half / 4, bytes: 64 << 20 }
    }
}

/// The description of a user-mode network.
#[derive(Clone, Debug)]
pub struct UserConfig {
    /// Its addresses.
    pub subnet: Subnet,
    /// The guest's card, until it has sent something.
    pub guest_mac: Mac,
    /// What the guest may reach.
    pub reach: Reach,
    /// What leads in.
    pub forwards: Vec<Forward>,
    /// How much the guest may take up.
    pub limits: Limits,
}

impl UserConfig {
    /// A network that reaches everything and into which nothing leads.
    pub fn new(guest_mac: Mac) -> Self {
        Self {
            subnet: Subnet::default(),
            guest_mac,
            reach: Reach::Everything,
            forwards: Vec::new(),
            limits: Limits::of_this_process(),
        }
    }
}
